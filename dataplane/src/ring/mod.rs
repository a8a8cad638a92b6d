//! Sockets, buffers, timers and mailbox on an io_uring of our own inside the executor.
