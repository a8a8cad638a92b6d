//! Who is speaking: attachments, and the sandbox that each stands for.
