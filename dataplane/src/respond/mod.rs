//! What the sandbox is told when the answer is ours.
