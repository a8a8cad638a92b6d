//! Names to addresses to connections: resolver, guard, pool.
