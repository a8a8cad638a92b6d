//! Codes that guests see. A number is never reused.

/// How an operation that a guest asked for ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// There is no such thing: a key without a value.
    None = 0,
    /// Done; the bytes are its value.
    Value = 1,
    /// Policy or the operator's grants do not allow it.
    Denied = 2,
    /// It did not end in its time.
    Timeout = 3,
    /// Whoever had to do it could not be reached.
    Unavailable = 4,
    /// The value does not fit the guest's bounds.
    TooLarge = 5,
}

impl Status {
    /// The status of a number, or nothing where this version knows none.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Value,
            2 => Self::Denied,
            3 => Self::Timeout,
            4 => Self::Unavailable,
            5 => Self::TooLarge,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// How grave a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is odd.
    Warn = 2,
    /// Something worth knowing happened.
    Info = 3,
    /// For the author while developing.
    Debug = 4,
}

impl Level {
    /// The level of a number, or nothing where this version knows none.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Error,
            2 => Self::Warn,
            3 => Self::Info,
            4 => Self::Debug,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Lower-case word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// What a handler wants to do with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyUse {
    /// See its chunks; they go on unchanged.
    Look = 1,
    /// Replace its chunks.
    Change = 2,
}

impl BodyUse {
    /// The use of a number, or nothing where this version knows none.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Look),
            2 => Some(Self::Change),
            _ => None,
        }
    }
}
