//! What may be reached: pure decisions over a compiled policy.
