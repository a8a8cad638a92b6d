//! Every bound of the plane, each with what breaks when it is larger and when it is smaller.
