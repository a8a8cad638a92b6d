//! The load generator: a stranger on the network that counts and times.
