//! The library of handler authors.
