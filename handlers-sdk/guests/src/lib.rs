//! Builds handlers to WebAssembly with whatever toolchain the machine has.
