//! The plane's local socket: attach, detach.
