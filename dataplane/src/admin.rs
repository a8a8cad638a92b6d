//! What the plane answers by itself at outgate.internal.
