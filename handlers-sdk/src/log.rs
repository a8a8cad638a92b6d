//! Lines in the handler's log: `info!("{} {}", request.method(), request.url())`.

use core::fmt::Arguments;

use handlers_sdk_abi::code::Level;

use crate::call;

/// Writes a line. Beyond the bounds of one event, lines are dropped and the last one says so.
pub fn write(level: Level, line: Arguments<'_>) {
    // Formatted before the call's state is borrowed: a Display of the author's may log as well.
    let text = line.to_string();
    call::with(|call| call.log(level, &text));
}

/// Something failed.
#[macro_export]
macro_rules! error { ($($line:tt)+) => { $crate::log::write($crate::abi::code::Level::Error, format_args!($($line)+)) }; }

/// Something is odd.
#[macro_export]
macro_rules! warn { ($($line:tt)+) => { $crate::log::write($crate::abi::code::Level::Warn, format_args!($($line)+)) }; }

/// Something worth knowing happened.
#[macro_export]
macro_rules! info { ($($line:tt)+) => { $crate::log::write($crate::abi::code::Level::Info, format_args!($($line)+)) }; }

/// For the author while developing.
#[macro_export]
macro_rules! debug { ($($line:tt)+) => { $crate::log::write($crate::abi::code::Level::Debug, format_args!($($line)+)) }; }
