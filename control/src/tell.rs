//! What control says to its operator while it runs.

use std::fmt::Display;
use std::io::Write;

/// Says one line on standard error. Who has closed it hears nothing, and nothing else happens: `eprintln!` would end
/// the task.
pub fn tell(text: impl Display) {
    let _unheard = writeln!(std::io::stderr(), "{text}");
}
