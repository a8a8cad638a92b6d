//! From settings to running shards.
