//! Where a request came from, and whether it speaks for the sandbox to which its connection belongs.

use std::{cell::RefCell, ops::Deref, rc::Rc};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::{core::Core, resident::Resident};
use crate::{
    http::{ConnectionFacts, RequestHead},
    identity::IdentityError,
    respond::Refusal,
};

/// Where a request came from.
pub struct Arrived<'a> {
    /// The shard.
    pub core: &'a Rc<Core>,
    /// The sandbox, at home on it.
    pub resident: &'a Rc<Resident>,
    /// What its connection says about whom it is for.
    pub facts: &'a ConnectionFacts,
    /// By what its sandbox is known.
    pub proof: Proof,
    /// The credentials of the request before.
    pub accepted: Accepted,
}

/// Credentials that were accepted on a connection, and under which attachments. Those of its next request are the same
/// as a rule, and need not be hashed again.
#[derive(Default)]
pub struct Accepted(RefCell<Option<Then>>);

/// The count of changes to attachments, and the field's value.
type Then = (u64, Zeroizing<Box<[u8]>>);

impl Accepted {
    fn has(&self, attached: u64, credentials: &[u8]) -> bool {
        self.0.borrow().as_ref().is_some_and(|(then, before)| {
            *then == attached && verify_slices_are_equal(before, credentials).is_ok()
        })
    }
}

/// By what the sandbox of a connection is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Where the connection came from, or the tunnel that it asked for: the same for all its requests.
    Connection,
    /// Credentials, which each request to a proxy brings along.
    Credentials,
}

impl Arrived<'_> {
    /// Whether the request is of the sandbox to which the connection belongs: whoever shares a proxy's connection
    /// among sandboxes must not have one speak for another.
    pub(super) fn check_speaker<B: Deref<Target = [u8]>>(
        &self,
        head: &RequestHead<B>,
    ) -> Result<(), Refusal> {
        if self.proof == Proof::Connection {
            return Ok(());
        }
        let (credentials, attached) = (head.field("proxy-authorization"), self.core.attached.get());
        if credentials.is_some_and(|credentials| self.accepted.has(attached, credentials)) {
            return Ok(());
        }
        match self.core.attachments().by_credentials(credentials) {
            Ok(sandbox) if *sandbox == self.resident.id => {
                let accepted = credentials.map(|credentials| (attached, Zeroizing::new(credentials.into())));
                self.accepted.0.replace(accepted);
                Ok(())
            }
            Ok(_) => Err(Refusal::from(&IdentityError::BadCredentials)),
            Err(error) => Err(Refusal::from(&error)),
        }
    }
}
