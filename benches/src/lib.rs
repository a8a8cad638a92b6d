//! Criterion benches of each stage.
