//! Gives up everything that the sandbox was made with: from here on, nothing inside can become more than it is.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

use super::{filter, system};

/// Drops every capability from every set for ever, forbids new privileges, leaves the caller's keys, and installs the
/// filter of system calls. For this thread and all that it starts.
///
/// # Errors
/// The step that the kernel refused.
pub(super) fn drop_all() -> Result<(), (&'static str, io::Error)> {
    let step = |what: &'static str| move |error: Errno| (what, io::Error::from(error));
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            // Behind the last that the kernel knows.
            Err(Errno::INVAL) => break,
            done => done.map_err(step("drop capabilities from the bounding set"))?,
        }
    }
    clear_ambient_capability_set().map_err(step("drop the ambient capabilities"))?;
    // Root, too, gains none by starting a program (capabilities(7)).
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits).map_err(step("lock the secure bits"))?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(step("drop all capabilities"))?;
    set_no_new_privs(true).map_err(step("set no_new_privs"))?;
    match system::leave_session_keyring() {
        // A kernel without keyrings, or a container that forbids them: then there is none to be left.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {}
        done => done.map_err(|error| ("leave the session keyring", error))?,
    }
    filter::install().map_err(|error| ("filter system calls", error))
}
