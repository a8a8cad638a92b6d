//! Errors as an operator reads them.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

/// Says one line to the operator on standard error. Who has closed it hears nothing, and nothing else happens:
/// `eprintln!` would end the thread.
pub fn tell(text: impl Display) {
    let _unheard = writeln!(std::io::stderr(), "outgate-dataplane: {text}");
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_in_one_line() {
        assert_eq!(chain(&Outer(std::io::Error::other("no room"))), "cannot start: no room");
    }
}
