//! Request methods.

use core::fmt;

/// A method as received; methods are case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub(crate) &'static str);

#[allow(missing_docs, reason = "each constant is the method that it names")]
impl Method {
    pub const GET: Self = Self("GET");
    pub const HEAD: Self = Self("HEAD");
    pub const POST: Self = Self("POST");
    pub const PUT: Self = Self("PUT");
    pub const DELETE: Self = Self("DELETE");
    pub const PATCH: Self = Self("PATCH");
    pub const OPTIONS: Self = Self("OPTIONS");
    pub const CONNECT: Self = Self("CONNECT");
    pub const TRACE: Self = Self("TRACE");

    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PartialEq<&str> for Method {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}
