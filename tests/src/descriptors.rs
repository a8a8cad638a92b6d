//! How many descriptors a process of a test may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have so many descriptors, or as many as it may.
///
/// # Panics
/// Never: the lower bound may be raised to the upper.
pub fn raise(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.unwrap_or(wanted).max(wanted);
    // Only who is privileged may raise the upper bound too.
    if setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum: Some(enough) }).is_err() {
        let own = Rlimit { current: limit.maximum, ..limit };
        setrlimit(Resource::Nofile, own).expect("what is allowed can be had");
    }
}
