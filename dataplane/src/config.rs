//! The plane's settings: read once, checked whole.
