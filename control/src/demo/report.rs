//! What the demo says: one line per fact, in columns, with figures.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use crate::fold::fold;

/// Column at which facts begin. Wide enough for the longest heading.
const FACT_COLUMN: usize = 17;
/// Columns of a line, as terminals have them.
const WIDTH: usize = 110;

/// Prints as things happen.
pub struct Report {
    styled: bool,
}

impl Report {
    /// To standard output; with bold type where that is a terminal that wants it.
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { styled: wanted && std::io::stdout().is_terminal() }
    }

    /// A step that held: its heading with its first fact.
    pub fn step(&self, heading: &str, fact: &str) {
        self.say(&format!("\n{}", lines(&format!("✓ {heading}"), fact)), heading);
    }

    /// Another fact of the step.
    pub fn fact(&self, fact: &str) {
        self.say(&lines("", fact), "");
    }

    /// Another fact, whose spaces are columns.
    pub fn verbatim(&self, fact: &str) {
        self.say(&format!("{:FACT_COLUMN$}{fact}\n", ""), "");
    }

    /// A line of its own.
    pub fn line(&self, text: &str) {
        self.say(&format!("{text}\n"), "");
    }

    fn say(&self, text: &str, heading: &str) {
        let text = match heading {
            heading if self.styled && !heading.is_empty() => {
                text.replacen(heading, &format!("\x1b[1m{heading}\x1b[0m"), 1)
            }
            _ => text.to_owned(),
        };
        // Who closed the pipe does not want to read on.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }
}

/// A heading and a fact, broken at spaces, each line ended.
fn lines(heading: &str, fact: &str) -> String {
    let mut text = String::new();
    let mut first = heading;
    for line in fold(fact, WIDTH - FACT_COLUMN) {
        let _ = writeln!(text, "{first:FACT_COLUMN$}{line}");
        first = "";
    }
    text
}

/// A time, with as many digits as it has meaning: `840 µs`, `4.3 ms`, `38 ms`, `1.2 s`.
pub fn time(micros: u64) -> String {
    let tenths = |value: u64, unit: u64| format!("{}.{}", value / unit, value % unit * 10 / unit);
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{} ms", tenths(micros, 1_000)),
        10_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", tenths(micros, 1_000_000)),
    }
}

/// A number with its thousands apart: `1,234,567`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, in the plural where that is right: `1 process`, `2 processes`.
pub fn count(value: u64, noun: &str) -> String {
    let plural = match noun {
        _ if value == 1 => noun.to_owned(),
        _ if noun.ends_with('s') => format!("{noun}es"),
        _ => format!("{noun}s"),
    };
    format!("{} {plural}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_mean_something() {
        let told: Vec<_> = [7, 999, 1_000, 4_360, 9_999, 10_000, 38_700, 999_999, 1_260_000].map(time).into();
        let wanted = ["7 µs", "999 µs", "1.0 ms", "4.3 ms", "9.9 ms", "10 ms", "38 ms", "999 ms", "1.2 s"];
        assert_eq!(told, wanted);
    }

    #[test]
    fn numbers_have_their_thousands_apart_and_nouns_their_plural() {
        assert_eq!([0, 12, 999, 1_000, 1_234_567].map(number), ["0", "12", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [count(1, "process"), count(2, "process"), count(0, "file")],
            ["1 process", "2 processes", "0 files"]
        );
    }

    #[test]
    fn a_long_fact_is_broken_at_spaces_under_its_column() {
        let text = lines("step", &"word ".repeat(30));
        assert!(text.lines().count() > 1);
        assert!(text.starts_with("step             word"));
        for line in text.lines().skip(1) {
            assert!(line.starts_with("                 word"), "{line:?}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
    }
}
