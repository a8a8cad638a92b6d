//! The handler host: precompiled WebAssembly, isolated, bounded.
