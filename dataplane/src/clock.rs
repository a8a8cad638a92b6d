//! Clocks: the coarse time of a shard's turn, and the boot clock by which leases run.
