//! The control process: API, compiler, store and link.
