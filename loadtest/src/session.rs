//! Plans on targets: rows one after the other, in rounds, each beside a fresh count of what the origin saw.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    churn::{self, Churn},
    counters::Counters,
    engine::{Engine, Part, Watch, outcome::Outcome},
    gateway::{Gateway, direct},
    limits::{READY_TIME, TICK},
    origin::Origin,
    plan::{Connect, Load, Plan},
    report::{Cost, Row},
    target::Target,
    usage::{Pid, Ticks, Usage},
};

/// Sandboxes of which the memory can be told from what a plane needs anyway.
const MANY: usize = 10_000;

/// What plans run on.
pub enum Subject<'a> {
    /// A gateway, which is made ready for each row.
    Gateway(&'a mut Gateway),
    /// Anything else.
    Other(&'a Target),
}

/// Runs plans.
pub struct Session<'a> {
    /// Where requests end.
    pub origin: &'a Origin,
    /// Targets on other machines are allowed.
    pub allow_remote: bool,
}

impl Session<'_> {
    /// One row in one round.
    ///
    /// # Errors
    /// When the target cannot be loaded, in words that say what to do.
    pub fn row(&self, subject: &mut Subject<'_>, plan: &Plan, load: &Load) -> io::Result<Row> {
        let about =
            |error: io::Error| io::Error::other(format!("plan {}, row `{}`: {error}", plan.name, load.name));
        let told = |count: usize| progress(&format!("{}: {count} sandboxes registered", plan.name));
        self.origin.judge.handshake_millis.store(load.handshake_millis, Ordering::Relaxed);
        let before = self.faults();
        let connections = || self.origin.judge.counts.connections.load(Ordering::Relaxed);
        let connected = connections();
        let mut registered = None;
        let mut row = match subject {
            Subject::Other(target) => {
                target.check(self.allow_remote).map_err(io::Error::other)?;
                self.load(target, load, &plan.name).map_err(about)?
            }
            Subject::Gateway(gateway) => {
                let held = Usage::of(&[gateway.plane])?.anonymous_kib;
                let new = load.sandboxes - gateway.registered(load).min(load.sandboxes);
                let mut target = match load.past {
                    true => direct(self.origin.doors(), self.origin.ports, Vec::new(), &self.origin.roots),
                    false => gateway.target(load, self.origin, &told).map_err(about)?,
                };
                if new >= MANY {
                    let grown = Usage::of(&target.pids)?.anonymous_kib.saturating_sub(held);
                    registered = Some(grown as f64 / new as f64);
                }
                target.check(self.allow_remote).map_err(io::Error::other)?;
                let attack = match &load.attack {
                    Some(attack) => {
                        let mut attack = (**attack).clone();
                        // A sandbox of its own kind, so that it is none of those that are measured.
                        attack.seconds = f64::from(u16::MAX);
                        attack.way = crate::plan::Way::Listener;
                        let target = gateway.target(&attack, self.origin, &told).map_err(about)?;
                        Some((attack, target))
                    }
                    None => None,
                };
                let churn = (load.changes > 0.0)
                    .then(|| churn::prepare(gateway, load, &mut target))
                    .transpose()
                    .map_err(about)?;
                self.beside(attack, churn, load, || self.load(&target, load, &plan.name)).map_err(about)?
            }
        };
        for ((name, now), (_, was)) in self.faults().into_iter().zip(before) {
            row.fault(name, now - was);
        }
        row.figures.extend(registered.map(|each| ("registeredKiBEach".to_owned(), each)));
        row.figures.insert("upstreamConnections".into(), (connections() - connected) as f64);
        if load.connect == Connect::Resumed && !row.figures.contains_key("resumedHandshakes") {
            row.fault("noHandshakeWasResumed", 1);
        }
        (row.plan, row.row) = (plan.name.clone(), load.name.clone());
        Ok(row)
    }

    fn faults(&self) -> [(&'static str, u64); 7] {
        self.origin.judge.counts.faults()
    }

    /// Measures while others attack, and while policies change.
    fn beside(
        &self,
        attack: Option<(Load, Target)>,
        churn: Option<Churn>,
        load: &Load,
        measure: impl FnOnce() -> io::Result<Row>,
    ) -> io::Result<Row> {
        let (stop, settled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        thread::scope(|scope| {
            let attacker = attack.as_ref().map(|(load, target)| {
                let mut watch = Until { stop: stop.clone(), settled: settled.clone() };
                scope.spawn(move || {
                    // Who measures is not to wait for who attacks, where they share a core: on Linux that is of a thread.
                    rustix::process::nice(ATTACK_NICE)?;
                    Engine::new(load, target, true)?.run(&mut watch)
                })
            });
            let patience = Instant::now() + READY_TIME;
            while attack.is_some() && !settled.load(Ordering::Relaxed) && Instant::now() < patience {
                thread::park_timeout(TICK);
            }
            let changes = churn.map(|churn| {
                let (judge, stop) = (self.origin.judge.clone(), stop.clone());
                scope.spawn(move || churn.run(load.changes, &judge, &stop))
            });
            let row = measure();
            stop.store(true, Ordering::Relaxed);
            let mut row = row?;
            let ended = |_| io::Error::other("a thread of the load test ended early");
            if let Some(attacker) = attacker {
                let outcome = attacker.join().map_err(ended)??;
                row.figures.insert("attackAnswers".into(), outcome.all_answers as f64);
            }
            if let Some(changes) = changes {
                changes.join().map_err(ended)??.into_row(&mut row);
            }
            Ok(row)
        })
    }

    fn load(&self, target: &Target, load: &Load, plan: &str) -> io::Result<Row> {
        let mut watch = Meter::new(target, load, plan);
        let outcome = Engine::new(load, target, false)?.run(&mut watch)?;
        let (cost, idle) = watch.end()?;
        let mut row = Row::of(load, &outcome, &cost, !target.pids.is_empty());
        (row.target, row.version) = (target.name.clone(), target.version.clone());
        if load.idle {
            // Nothing is asked in the measured part.
            row.figures.retain(|name, _| {
                ["connections", "seconds", "residentKiB", "stolenPercent"].contains(&name.as_str())
            });
        }
        for (name, value) in idle {
            row.figures.insert(name.to_owned(), value);
        }
        if load.idle && outcome.all_answers < load.connections as u64 {
            row.fault("connectionsWithoutAnswer", load.connections as u64 - outcome.all_answers);
        }
        let nothing = outcome.all_answers == 0;
        row.fault("nothingAnswered", u64::from(nothing));
        Ok(row)
    }
}

/// By how much the thread of an attack is nicer than that of the load that is measured. Larger: it attacks less where they
/// share a core. Smaller: the measured load waits for it.
const ATTACK_NICE: i32 = 10;

/// Stops a load from another thread.
struct Until {
    stop: Arc<AtomicBool>,
    /// It is warm; where it is silent afterwards, all its connections are there.
    settled: Arc<AtomicBool>,
}

impl Watch for Until {
    fn begins(&mut self, part: Part, _: &Outcome) -> io::Result<()> {
        self.settled.fetch_or(part != Part::WarmUp, Ordering::Relaxed);
        Ok(())
    }

    fn tick(&mut self, _: &Outcome) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Seconds after which it is told whether memory stays.
const LONG: f64 = 60.0;

/// Reads what a target uses at the ends of each part, and shows that time passes.
struct Meter<'a> {
    pids: &'a [Pid],
    load: &'a Load,
    name: String,
    first: Option<Usage>,
    before: Usage,
    began_at: Ticks,
    after: Option<Usage>,
    counters: Option<Counters>,
    cost: Cost,
    began: Instant,
    shown: Instant,
}

impl<'a> Meter<'a> {
    fn new(target: &'a Target, load: &'a Load, plan: &str) -> Self {
        let now = Instant::now();
        Self {
            pids: &target.pids,
            load,
            name: format!("{plan}: {} ({})", load.name, target.name),
            first: None,
            before: Usage::default(),
            began_at: Ticks::default(),
            after: None,
            counters: None,
            cost: Cost::default(),
            began: now,
            shown: now,
        }
    }

    /// What it all cost; of idle connections also what each holds and what comes back.
    fn end(self) -> io::Result<(Cost, Vec<(&'static str, f64)>)> {
        let mut more = Vec::new();
        if let (true, Some(after)) = (self.load.seconds >= LONG && !self.pids.is_empty(), self.after) {
            more.push(("grownKiB", after.anonymous_kib as f64 - self.before.anonymous_kib as f64));
        }
        if let (true, Some(first), Some(after)) =
            (self.load.idle && !self.pids.is_empty(), self.first, self.after)
        {
            let each =
                |kib: u64| kib.saturating_sub(first.anonymous_kib) as f64 / self.load.connections as f64;
            more.push(("idleKiBPerConnection", each(after.anonymous_kib)));
            let seconds = self.load.seconds.max(0.001);
            more.push(("idleCpuMillisPerSecond", self.cost.used.run_time.as_secs_f64() * 1e3 / seconds));
            thread::park_timeout(Duration::from_secs_f64(self.load.silence));
            more.push(("keptKiBPerConnection", each(Usage::of(self.pids)?.anonymous_kib)));
        }
        progress("");
        Ok((self.cost, more))
    }
}

impl Watch for Meter<'_> {
    fn begins(&mut self, part: Part, _: &Outcome) -> io::Result<()> {
        match part {
            Part::WarmUp => self.first = Some(Usage::of(self.pids)?),
            Part::Measured => (self.before, self.began_at) = (Usage::of(self.pids)?, Ticks::now()),
            Part::Counted | Part::Drain => {
                if self.after.is_none() {
                    let now = Usage::of(self.pids)?;
                    self.after = Some(now);
                    self.cost.used = now - self.before;
                    self.cost.stolen = Ticks::now().stolen_since(self.began_at);
                }
                match (part, &mut self.counters) {
                    (Part::Counted, none) => *none = Some(Counters::start(self.pids)),
                    (_, Some(counters)) => self.cost.counted = counters.read(),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self, outcome: &Outcome) -> bool {
        if self.shown.elapsed() > Duration::from_millis(250) {
            self.shown = Instant::now();
            progress(&format!(
                "{} {:.0} s: {} answers, p99 {} µs, {} errors",
                self.name,
                self.began.elapsed().as_secs_f64(),
                outcome.all_answers,
                outcome.latency.value_at_quantile(0.99),
                outcome.errors + outcome.corrupted
            ));
        }
        true
    }
}

/// Shows a line in place of the one before, where somebody looks.
pub fn progress(line: &str) {
    let mut out = io::stderr();
    if out.is_terminal() {
        let _nobody_looks = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
    }
}
