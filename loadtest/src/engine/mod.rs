//! The engine: many connections on one thread, in a closed loop (each answer brings the next request) or an open one
//! (requests are due at a rate).

mod connection;
mod exchange;
mod finish;
pub mod outcome;
mod schedule;

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use rustls::ClientConfig;

use crate::{
    limits::{DRAIN, EVENTS, READ_BYTES, READY_TIME, STALL, TICK},
    names,
    plan::{Connect, Load},
    target::Target,
};
use connection::Connection;
use exchange::Job;
use outcome::Outcome;
use schedule::Schedule;

const TIMER: Token = Token(usize::MAX);
/// Connections that may be on their way to their first answer at once. Larger: the target's backlog overflows, and each
/// loss waits a second for its repetition. Smaller: filling takes longer.
const OPENING_MAX: usize = 256;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Connections are made, caches are filled.
    WarmUp,
    /// What is reported.
    Measured,
    /// System calls are counted.
    Counted,
    /// Nothing new is asked; what is under way may end.
    Drain,
}

/// Who looks on while a load runs.
pub trait Watch {
    /// A part begins.
    ///
    /// # Errors
    /// End the run.
    fn begins(&mut self, part: Part, outcome: &Outcome) -> io::Result<()>;

    /// Time passes. Answers whether the run goes on.
    fn tick(&mut self, outcome: &Outcome) -> bool;
}

/// One load on one target.
pub struct Engine<'a> {
    load: &'a Load,
    target: &'a Target,
    hosts: Vec<String>,
    /// Faults are what is hoped for: the load is an attack.
    is_attack: bool,
    poll: Poll,
    timer: OwnedFd,
    connections: Vec<Connection>,
    /// Connections with room for a request, for an open loop.
    ready: VecDeque<usize>,
    /// Connections that are to be opened, each with the request that it is opened for.
    to_open: VecDeque<(usize, Option<Instant>)>,
    opening: usize,
    schedule: Option<Schedule>,
    configs: HashMap<usize, Option<Arc<ClientConfig>>>,
    next_host: usize,
    next_tag: u32,
    /// The first of the sandboxes that speak now, and how many changes are owed.
    first_seat: usize,
    moves_owed: f64,
    part: Part,
    measured: (Instant, Instant),
    last_answer: Instant,
    began: Instant,
    outcome: Outcome,
}

impl<'a> Engine<'a> {
    /// Prepares a load.
    ///
    /// # Errors
    /// When the kernel gives no readiness or no timer.
    pub fn new(load: &'a Load, target: &'a Target, is_attack: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let now = Instant::now();
        Ok(Self {
            load,
            target,
            hosts: match load.past {
                // Nobody puts credentials on.
                true => vec![names::BARE.to_owned()],
                false => (0..load.hosts).map(|number| names::host(number, load.hosts)).collect(),
            },
            is_attack,
            poll,
            timer,
            connections: (0..load.connections)
                .map(|index| Connection::closed(index % load.active()))
                .collect(),
            ready: VecDeque::new(),
            to_open: VecDeque::new(),
            opening: 0,
            schedule: None,
            configs: HashMap::new(),
            next_host: 0,
            next_tag: 0,
            first_seat: 0,
            moves_owed: 0.0,
            part: Part::WarmUp,
            measured: (now, now + Duration::from_secs(u32::MAX.into())),
            last_answer: now,
            began: now,
            outcome: Outcome::default(),
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// In words for whoever started it: the target cannot be reached, is silent, or breaks too many connections.
    pub fn run(mut self, watch: &mut impl Watch) -> io::Result<Outcome> {
        let mut now = Instant::now();
        let is_open_loop = self.load.rate.is_some();
        let waits = is_open_loop && self.load.connect != Connect::Keep;
        for index in 0..self.connections.len() {
            match waits {
                true => self.make_ready(index),
                false => self.to_open.push_back((index, (!is_open_loop).then_some(now))),
            }
        }
        self.schedule = self.load.rate.map(|rate| Schedule::new(now, rate));
        watch.begins(Part::WarmUp, &self.outcome)?;
        let (mut events, mut scratch) = (Events::with_capacity(EVENTS), vec![0; READ_BYTES]);
        let (mut part_ends, mut next_tick) = (now + Duration::from_secs_f64(self.load.warm_up), now);
        loop {
            self.dispatch(now)?;
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            for event in &events {
                match event.token() {
                    TIMER => _ = rustix::io::read(&self.timer, &mut [0; 8]),
                    Token(index) => self.turn(index, event.is_writable(), &mut scratch)?,
                }
            }
            now = Instant::now();
            if now >= next_tick {
                self.tick(now)?;
                if !watch.tick(&self.outcome) {
                    part_ends = now;
                }
                next_tick = now + TICK;
            }
            if now >= part_ends || self.is_part_over() {
                let before = self.part;
                match self.next_part(now) {
                    Some(ends) => part_ends = ends,
                    None => return Ok(self.end(now)),
                }
                if self.part != before {
                    watch.begins(self.part, &self.outcome)?;
                }
            }
        }
    }

    fn is_part_over(&self) -> bool {
        let limit = self.load.requests.unwrap_or(u64::MAX);
        match self.part {
            // Silence begins when every connection has had its answer.
            Part::WarmUp => self.load.idle && self.outcome.all_answers >= self.connections.len() as u64,
            Part::Measured => self.outcome.answers >= limit,
            Part::Counted => false,
            Part::Drain => {
                let waits =
                    self.schedule.as_ref().is_some_and(|schedule| schedule.waiting().next().is_some())
                        || self.to_open.iter().any(|(_, due)| due.is_some());
                !waits && self.connections.iter().all(|connection| connection.jobs().is_empty())
            }
        }
    }

    /// Whether every connection that is kept has been made, and in a closed loop has had an answer.
    fn are_all_there(&self) -> bool {
        let all = self.connections.len() as u64;
        match (self.load.connect, &self.schedule) {
            (Connect::Full | Connect::Resumed, _) => true,
            (Connect::Keep, None) => self.is_attack || self.outcome.all_answers >= all,
            (Connect::Keep, Some(_)) => self.outcome.connected >= all && self.opening == 0,
        }
    }

    /// Goes to the next part; answers when it ends.
    fn next_part(&mut self, now: Instant) -> Option<Instant> {
        let after = |seconds: f64| now + Duration::from_secs_f64(seconds);
        self.part = match self.part {
            // Where silence is measured, it does not begin before all are silent.
            Part::WarmUp if self.load.idle && !self.is_part_over() => return Some(now + TICK),
            // Handshakes of connections that are kept are no part of what is measured.
            Part::WarmUp if !self.are_all_there() && now < self.began + READY_TIME => {
                return Some(after(self.load.warm_up.max(TICK.as_secs_f64())));
            }
            Part::WarmUp => {
                self.measured.0 = now;
                Part::Measured
            }
            Part::Measured => {
                self.measured.1 = now;
                self.outcome.elapsed = now - self.measured.0;
                if self.load.counted > 0.0 { Part::Counted } else { Part::Drain }
            }
            Part::Counted => Part::Drain,
            Part::Drain => return None,
        };
        match self.part {
            Part::Measured => Some(after(self.load.seconds)),
            Part::Counted => Some(after(self.load.counted)),
            Part::WarmUp => Some(after(self.load.warm_up)),
            // A closed loop has nothing that is owed.
            Part::Drain if self.schedule.is_none() => Some(now),
            Part::Drain => Some(now + DRAIN),
        }
    }

    /// What is left is counted: requests that were due in the measured part.
    fn end(mut self, now: Instant) -> Outcome {
        let (from, to) = self.measured;
        if let Some(schedule) = self.schedule.take() {
            let under_way = self.connections.iter().flat_map(Connection::jobs).map(|job| job.due);
            let unopened = self.to_open.iter().filter_map(|(_, due)| *due);
            let left: Vec<Instant> = under_way.chain(unopened).chain(schedule.waiting()).collect();
            for due in left.into_iter().filter(|due| (from..to).contains(due)) {
                self.outcome.unanswer(due, now);
            }
        }
        self.connections.iter_mut().for_each(Connection::close);
        self.outcome
    }

    /// Gives requests that are due to connections that have room, and opens connections.
    fn dispatch(&mut self, now: Instant) -> io::Result<()> {
        while self.opening < OPENING_MAX
            && let Some((index, due)) = self.to_open.pop_front()
        {
            self.open(index, due)?;
        }
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        if self.part != Part::Drain {
            schedule.advance(now);
        }
        while !self.ready.is_empty()
            && let Some(due) = self.schedule.as_mut().and_then(Schedule::take)
        {
            if !self.give(due)? {
                break;
            }
        }
        let next = self.schedule.as_ref().map_or(now, Schedule::next).saturating_duration_since(now);
        let first =
            Timespec { tv_sec: next.as_secs() as i64, tv_nsec: i64::from(next.subsec_nanos()).max(1) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: first };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Gives a request to the first connection that can take it. Answers whether one could.
    fn give(&mut self, due: Instant) -> io::Result<bool> {
        while let Some(index) = self.ready.pop_front() {
            self.connections[index].is_ready = false;
            match self.connections[index].room() {
                Some(0) => {}
                Some(_) => {
                    self.ask(index, due)?;
                    return Ok(true);
                }
                None if self.load.connect != Connect::Keep => {
                    self.to_open.push_back((index, Some(due)));
                    return Ok(true);
                }
                None => {}
            }
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.put_back(due);
        }
        Ok(false)
    }

    fn make_ready(&mut self, index: usize) {
        if !std::mem::replace(&mut self.connections[index].is_ready, true) {
            self.ready.push_back(index);
        }
    }

    fn job(&mut self, due: Instant) -> Job {
        self.next_tag = self.next_tag.wrapping_add(1);
        Job { due, tag: self.next_tag }
    }

    fn tick(&mut self, now: Instant) -> io::Result<()> {
        if self.load.drips {
            for index in 0..self.connections.len() {
                if let Err(error) = self.connections[index].drip() {
                    self.fail(index, &error)?;
                }
            }
        }
        self.moves_owed += self.load.moves * TICK.as_secs_f64();
        while self.moves_owed >= 1.0 {
            self.moves_owed -= 1.0;
            self.move_set(now)?;
        }
        let is_waited_for = self.connections.iter().any(|connection| !connection.jobs().is_empty());
        if !self.is_attack && is_waited_for && now.saturating_duration_since(self.last_answer) > STALL {
            let why = self.outcome.worst().unwrap_or("the target is silent");
            return Err(io::Error::other(format!("no answer for {} s: {why}", STALL.as_secs())));
        }
        Ok(())
    }

    /// The sandbox that has spoken longest leaves, another enters.
    fn move_set(&mut self, now: Instant) -> io::Result<()> {
        let seats = self.target.seats.len();
        let (leaves, enters) = (self.first_seat % seats, (self.first_seat + self.load.active()) % seats);
        self.first_seat += 1;
        self.configs.remove(&leaves);
        for index in 0..self.connections.len() {
            if self.connections[index].seat == leaves {
                self.connections[index].moves_to = Some(enters);
                let connection = &self.connections[index];
                if connection.room().is_some() && !connection.is_opening() && connection.jobs().is_empty() {
                    self.go_on(index, false, now)?;
                }
            }
        }
        Ok(())
    }
}
