//! Plain counters of a shard.
