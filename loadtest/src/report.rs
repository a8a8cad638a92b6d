//! What a run found, as a table for people and as JSON for programs.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::{counters::Counted, engine::outcome::Outcome, plan::Load, usage::Usage};

/// A run: plans on targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its kernel.
    pub kernel: String,
    /// Its processor.
    pub processor: String,
    /// Cores.
    pub cores: usize,
}

/// One row of a plan on one target, all rounds together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Row {
    /// The plan.
    pub plan: String,
    /// The row.
    pub row: String,
    /// Who was measured.
    pub target: String,
    /// Its version.
    pub version: String,
    /// Figures by name; units are in the names.
    pub figures: BTreeMap<String, f64>,
    /// What must be zero, by name.
    pub faults: BTreeMap<String, u64>,
    /// Faults in words.
    pub words: BTreeMap<String, u64>,
}

/// What of a row was read from the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Use in the measured part.
    pub used: Usage,
    /// System calls and instructions in the counted part.
    pub counted: Counted,
    /// Percent of the machine's time in the measured part that its host gave to others.
    pub stolen: f64,
}

/// The figure of what large bodies cost.
pub const PER_GIB: &str = "cpuSecondsPerGiB";
/// The figure of what a request costs.
const PER_REQUEST: &str = "cpuMicrosPerRequest";

/// Figures of which the least of several rounds counts: what disturbs a round only adds.
const LEAST: [&str; 6] = [
    PER_REQUEST,
    "systemCallsPerRequest",
    "instructionsPerRequest",
    "switchesPerRequest",
    PER_GIB,
    "idleCpuMillisPerSecond",
];
/// Those of which the most counts.
const MOST: [&str; 1] = ["requestsPerSecond"];

impl Row {
    /// Figures of one round.
    pub fn of(load: &Load, outcome: &Outcome, cost: &Cost, has_process: bool) -> Self {
        let mut row = Self::default();
        let mut figure = |name: &str, value: f64| _ = row.figures.insert(name.to_owned(), value);
        let answers = outcome.answers.max(1) as f64;
        figure("answers", outcome.answers as f64);
        figure("connections", outcome.connected as f64);
        figure("seconds", outcome.elapsed.as_secs_f64());
        figure("requestsPerSecond", outcome.rate());
        for (name, quantile) in
            [("p50Micros", 0.5), ("p90Micros", 0.9), ("p99Micros", 0.99), ("p999Micros", 0.999)]
        {
            figure(name, outcome.latency.value_at_quantile(quantile) as f64);
        }
        figure("maxMicros", outcome.latency.max() as f64);
        if cost.stolen > 0.0 {
            figure("stolenPercent", cost.stolen);
        }
        if outcome.resumed > 0 {
            figure("resumedHandshakes", outcome.resumed as f64);
        }
        // No fault by itself: it says that the rate is more than can be had, and its latencies are in the histogram.
        if outcome.unanswered > 0 {
            figure("unanswered", outcome.unanswered as f64);
        }
        if outcome.refused > 0 {
            figure("refused", outcome.refused as f64);
        }
        let gib = outcome.body_bytes as f64 / f64::from(1 << 30);
        if load.is_bulk() {
            figure("mibPerSecond", gib * 1024.0 / outcome.elapsed.as_secs_f64().max(1e-9));
        }
        if has_process {
            let cpu = cost.used.run_time.as_secs_f64();
            figure("residentKiB", cost.used.resident_kib as f64);
            // What was done of large bodies that began before or ended after is in no count of answers.
            if load.is_bulk() {
                // Where nothing moved there is nothing to divide by, and the row has its fault.
                if outcome.body_bytes > 0 {
                    figure(PER_GIB, cpu / gib);
                }
            } else {
                figure(PER_REQUEST, cpu * 1e6 / answers);
                figure("switchesPerRequest", cost.used.switches as f64 / answers);
                let counted = outcome.counted_answers.max(1) as f64;
                for (name, count) in [
                    ("systemCallsPerRequest", cost.counted.calls),
                    ("instructionsPerRequest", cost.counted.instructions),
                ] {
                    if let Some(count) = count {
                        figure(name, count as f64 / counted);
                    }
                }
            }
        }
        row.fault("errors", outcome.errors);
        row.fault("corruptedAnswers", outcome.corrupted);
        row.words = outcome.faults.clone();
        row
    }

    /// Processor time and its unit: of a GiB where bodies are large, of a request elsewhere.
    pub fn cost(&self) -> Option<(&'static str, f64)> {
        [PER_GIB, PER_REQUEST].into_iter().find_map(|name| self.figures.get(name).map(|value| (name, *value)))
    }

    /// Notes what must be zero.
    pub fn fault(&mut self, name: &str, count: u64) {
        *self.faults.entry(name.to_owned()).or_default() += count;
    }

    /// One row of several rounds: the least of a cost, the most of a rate, the median of the rest; faults add up.
    pub fn of_rounds(rounds: &[Self]) -> Self {
        let mut row = rounds.first().cloned().unwrap_or_default();
        for (name, value) in &mut row.figures {
            let mut all: Vec<f64> =
                rounds.iter().filter_map(|round| round.figures.get(name).copied()).collect();
            all.sort_by(f64::total_cmp);
            let place = match name.as_str() {
                name if LEAST.contains(&name) => 0,
                name if MOST.contains(&name) => all.len() - 1,
                _ => (all.len() - 1) / 2,
            };
            *value = all[place];
        }
        for other in rounds.iter().skip(1) {
            other.faults.iter().for_each(|(name, count)| row.fault(name, *count));
            other.words.iter().for_each(|(word, count)| *row.words.entry(word.clone()).or_default() += count);
        }
        row
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.values().all(|count| *count == 0)
    }

    fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }
}

/// Columns of the table: a figure, and what stands above it.
const COLUMNS: [(&str, &str); 10] = [
    ("requestsPerSecond", "req/s"),
    ("p50Micros", "p50 µs"),
    ("p99Micros", "p99 µs"),
    ("p999Micros", "p99.9"),
    (PER_REQUEST, "CPU-µs/req"),
    ("systemCallsPerRequest", "calls/req"),
    ("instructionsPerRequest", "instr/req"),
    (PER_GIB, "CPU-s/GiB"),
    ("residentKiB", "RSS KiB"),
    ("stolenPercent", "stolen %"),
];

impl Report {
    /// A table: a line for each row, columns that have a figure, then what else was found.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut plan = "";
        for row in &self.rows {
            if row.plan != plan {
                plan = &row.plan;
                self.headings(plan, &mut text);
            }
            let _ = write!(text, "{:<46} {:<10}", row.row, row.target);
            for (name, _) in self.columns(plan) {
                let _ = write!(text, " {:>10}", row.figure(name).map_or_else(|| "-".into(), shown));
            }
            text.push('\n');
            self.more(row, &mut text);
        }
        text
    }

    fn columns<'a>(&'a self, plan: &'a str) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
        let has =
            move |name: &str| self.rows.iter().any(|row| row.plan == plan && row.figures.contains_key(name));
        COLUMNS.into_iter().filter(move |(name, _)| has(name))
    }

    fn headings(&self, plan: &str, text: &mut String) {
        let _ = write!(text, "\n{plan:<46} {:<10}", "target");
        self.columns(plan).for_each(|(_, above)| _ = write!(text, " {above:>10}"));
        text.push('\n');
    }

    /// Figures of this kind of row, and faults.
    fn more(&self, row: &Row, text: &mut String) {
        let usual = ["answers", "connections", "seconds", "p90Micros", "maxMicros", "switchesPerRequest"];
        let is_column = |name: &str| COLUMNS.iter().any(|(column, _)| *column == name);
        for (name, value) in &row.figures {
            if !is_column(name) && !usual.contains(&name.as_str()) {
                let _ = writeln!(text, "    {name} {}", shown(*value));
            }
        }
        for (name, count) in row.faults.iter().filter(|(_, count)| **count > 0) {
            let _ = writeln!(text, "    {name} {count}  <-- must be 0");
        }
        for (word, count) in row.words.iter().take(4) {
            let _ = writeln!(text, "    {count} × {word}");
        }
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(Row::is_clean)
    }

    /// What two runs say of the same row and target: each figure before, after, and the ratio.
    pub fn compared(&self, after: &Self) -> String {
        let mut text = format!("{:<58} {:>12} {:>12} {:>8}\n", "figure", "before", "after", "ratio");
        for row in &self.rows {
            let same =
                |other: &&Row| (&other.plan, &other.row, &other.target) == (&row.plan, &row.row, &row.target);
            let Some(now) = after.rows.iter().find(same) else { continue };
            let _ = writeln!(text, "{}: {} ({})", row.plan, row.row, row.target);
            for (name, was) in &row.figures {
                if let Some(is) = now.figure(name)
                    && name != "seconds"
                {
                    let ratio = if *was == 0.0 { "-".into() } else { format!("{:.2}", is / was) };
                    let _ = writeln!(text, "    {name:<54} {:>12} {:>12} {ratio:>8}", shown(*was), shown(is));
                }
            }
        }
        text
    }

    /// Each row's cost beside that of each other target.
    pub fn ratios(&self, of: &str) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| row.target == of) {
            for peer in self.rows.iter().filter(|peer| (&peer.plan, &peer.row) == (&row.plan, &row.row)) {
                if let (Some((figure, ours)), Some((_, theirs)), true) =
                    (row.cost(), peer.cost(), peer.target != of)
                {
                    let name = format!("{}: {}", row.plan, row.row);
                    let _ = writeln!(
                        text,
                        "{name:<60} {figure} {:>9} / {:<10} {:>9}  = {:.2}",
                        shown(ours),
                        peer.target,
                        shown(theirs),
                        ours / theirs
                    );
                }
            }
        }
        text
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = line("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(str::to_owned));
        Self {
            kernel: line("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor.unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A figure with as many digits as it deserves.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cpu: f64, p50: f64, errors: u64) -> Row {
        let figures = [("cpuMicrosPerRequest", cpu), ("p50Micros", p50), ("requestsPerSecond", 1e6 / cpu)];
        Row {
            plan: "keepalive".into(),
            row: "plain".into(),
            target: "outgate".into(),
            figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
            faults: [("errors".to_owned(), errors)].into(),
            ..Row::default()
        }
    }

    #[test]
    fn rounds_become_the_least_cost_the_median_latency_and_every_fault() {
        let row = Row::of_rounds(&[row(10.0, 100.0, 0), row(8.0, 300.0, 1), row(9.0, 200.0, 2)]);
        assert_eq!(row.figures["cpuMicrosPerRequest"], 8.0);
        assert_eq!(row.figures["p50Micros"], 200.0);
        assert_eq!(row.figures["requestsPerSecond"], 125_000.0);
        assert_eq!(row.faults["errors"], 3);
        assert!(!row.is_clean());
    }

    #[test]
    fn reports_are_the_same_after_json_and_compare_row_by_row() {
        let report = |cpu| Report { rows: vec![row(cpu, 100.0, 0)], ..Report::default() };
        let text = serde_json::to_string(&report(10.0)).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report(10.0));
        let compared = report(10.0).compared(&report(8.0));
        assert!(compared.contains("cpuMicrosPerRequest"), "{compared}");
        assert!(
            compared.lines().any(|line| line.contains("cpuMicros") && line.ends_with("0.80")),
            "{compared}"
        );
        assert!(report(10.0).table().contains("plain"));
    }
}
