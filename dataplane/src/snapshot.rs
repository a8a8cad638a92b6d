//! All tables of one revision, shared by structure.
