//! One core: its executor, its tables, its connections.
