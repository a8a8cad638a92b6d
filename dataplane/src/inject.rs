//! Credentials by reference: the one place that exposes a secret.
