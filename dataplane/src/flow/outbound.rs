//! A request that may be sent, and what its upstream must speak.

use std::{rc::Rc, sync::Arc};

use zeroize::Zeroizing;

use super::{edits::Edits, fence::Credentials, open::Judged};
use crate::{http::Framing, inject::Means, policy::Permit, tls::Protocol};

/// A request that was allowed, rewritten and given its credentials.
pub struct Outbound {
    /// Leave to send it.
    pub permit: Permit,
    /// Its head, credentials included; wiped when dropped.
    pub head: Zeroizing<Vec<u8>>,
    /// Names of the secrets in its head.
    pub secrets: Vec<Arc<str>>,
    /// The same, until they have left.
    pub credentials: Option<Rc<Credentials>>,
    /// How its body is framed, arriving and leaving.
    pub framing: Framing,
    /// What its upstream must speak.
    pub speaks: Speaks,
    /// What its connection shows.
    pub means: Means,
    /// What policy judged, its method too, to be judged again when the tables change.
    pub judged: Rc<Judged>,
    /// What edits its body and its answer, where anything does.
    pub edits: Option<Box<Edits>>,
}

impl Outbound {
    /// Only what a server may be asked twice is asked twice, and only over a connection that was used before.
    pub fn is_repeatable(&self) -> bool {
        matches!(self.framing, Framing::None | Framing::Tunnel)
            && matches!(&*self.judged.method, "GET" | "HEAD" | "OPTIONS")
    }
}

/// What an upstream must speak for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Either version; HTTP/2 where the upstream has it.
    Either,
    /// HTTP/2: gRPC has no other form.
    Http2,
    /// HTTP/1.1.
    Http11,
}

impl Speaks {
    /// What is offered to the upstream, the best first.
    pub fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Either => &[Protocol::Http2, Protocol::Http11],
            Self::Http2 => &[Protocol::Http2],
            Self::Http11 => &[Protocol::Http11],
        }
    }
}
