//! The command line of the plane.
