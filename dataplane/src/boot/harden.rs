//! What the process asks of the kernel for itself, before it holds a secret.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

/// Keeps other processes of the same user out of this one's memory, and its memory out of core files.
///
/// # Errors
/// What the kernel says.
pub fn hide_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum })?;
    Ok(())
}

/// No huge pages for what is allocated while this lives: the executors register 64 KiB with each of their rings, and the
/// kernel counts a huge page that these lie in as a whole. A shard then took 6 MiB of locked memory, of which a user has
/// 8 for all processes.
pub struct SmallPages {
    before: bool,
}

impl SmallPages {
    /// From now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ask() -> io::Result<Self> {
        let before = transparent_huge_pages_are_disabled()?;
        disable_transparent_huge_pages(true)?;
        Ok(Self { before })
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        // What could be set can be set back.
        let _done = disable_transparent_huge_pages(self.before);
    }
}

/// Raises the number of descriptors to what the process may have: two per exchange, one per idle connection.
/// Returns the limit that is in force; `None` is no limit.
///
/// # Errors
/// What the kernel says.
pub fn raise_descriptors() -> io::Result<Option<u64>> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_raised_to_what_is_allowed() {
        let raised = raise_descriptors().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }
}
