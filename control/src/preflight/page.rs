//! What a person reads: a word, a thing, a sentence, and below it the command.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use crate::fold::fold;

/// Columns of a line, as terminals have them.
const WIDTH: usize = 100;
/// Column at which things begin.
const NAME_COLUMN: usize = 10;
/// Column at which sentences begin.
const SAYS_COLUMN: usize = 28;

/// How good one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works, and could work better.
    Slower,
    /// It does not work.
    Fix,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Slower => "slower",
            Self::Fix => "fix:",
        }
    }

    /// Green, yellow, bold red.
    fn style(self) -> &'static str {
        match self {
            Self::Fine => "\x1b[32m",
            Self::Slower => "\x1b[33m",
            Self::Fix => "\x1b[1;31m",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Line {
    /// How good it is.
    pub verdict: Verdict,
    /// What it is.
    pub name: &'static str,
    /// What was found.
    pub says: String,
    /// The command that mends it, to be pasted.
    pub command: Option<String>,
}

impl Line {
    /// As it should be.
    pub fn fine(name: &'static str, says: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fine, name, says: says.into(), command: None }
    }

    /// It works; the command makes it better.
    pub fn slower(name: &'static str, says: impl Into<String>, command: impl Into<String>) -> Self {
        Self { verdict: Verdict::Slower, name, says: says.into(), command: Some(command.into()) }
    }

    /// It does not work until the command was given.
    pub fn fix(name: &'static str, says: impl Into<String>, command: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fix, name, says: says.into(), command: Some(command.into()) }
    }
}

/// Prints all lines and the sum; with colours where that is a terminal that wants them.
pub fn print(lines: &[Line]) {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let styled = wanted && std::io::stdout().is_terminal();
    // Who closed the pipe does not want to read on; the exit status still tells.
    let _unread = std::io::stdout().write_all(page(lines, styled).as_bytes());
}

fn page(lines: &[Line], styled: bool) -> String {
    let mut text = String::from("\n");
    for line in lines {
        let word = line.verdict.word();
        let (on, off) = if styled { (line.verdict.style(), "\x1b[0m") } else { ("", "") };
        let gap = " ".repeat(NAME_COLUMN - 2 - word.len());
        let width = SAYS_COLUMN - NAME_COLUMN;
        let mut heading = format!("  {on}{word}{off}{gap}{:width$}", line.name);
        for part in fold(&line.says, WIDTH - SAYS_COLUMN) {
            let _ = writeln!(text, "{heading}{part}");
            heading = " ".repeat(SAYS_COLUMN);
        }
        // A command stands whole on its line, so that it can be pasted.
        for command in line.command.iter().flat_map(|command| command.lines()) {
            let _ = writeln!(text, "{:SAYS_COLUMN$}$ {command}", "");
        }
    }
    let _ = writeln!(text, "\n{}", sum(lines));
    text
}

fn sum(lines: &[Line]) -> String {
    let count = |verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let things = |count: usize| if count == 1 { "one thing".to_owned() } else { format!("{count} things") };
    let are = |count: usize| if count == 1 { "is" } else { "are" };
    match (count(Verdict::Fix), count(Verdict::Slower)) {
        (0, 0) => "This machine will do. Try it: outgate demo".to_owned(),
        (0, slower) => {
            format!("This machine will do, and {} could be better. Try it: outgate demo", things(slower))
        }
        (fix, _) => {
            format!("This machine will do when {} above {} mended; then look again.", things(fix), are(fix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stands_whole_on_a_line_of_its_own() {
        let command = "sudo sysctl -w user.max_user_namespaces=65536";
        let lines = [Line::fine("kernel", "6.12"), Line::fix("user namespaces", "none ".repeat(40), command)];
        let text = page(&lines, false);
        assert!(text.lines().any(|line| line.trim() == format!("$ {command}")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\x1b') && page(&lines, true).contains("\x1b[1;31mfix:"), "{text}");
    }

    #[test]
    fn the_last_line_says_whether_the_machine_will_do() {
        let [fine, slower, fix] =
            [Line::fine("a", "x"), Line::slower("b", "x", "y"), Line::fix("c", "x", "y")];
        assert!(sum(std::slice::from_ref(&fine)).starts_with("This machine will do."));
        assert!(sum(&[fine.clone(), slower.clone()]).contains("one thing could be better"));
        assert!(sum(&[fine, slower, fix.clone(), fix]).contains("when 2 things above are mended"));
    }
}
