//! The `#[handler]` attribute of the handlers SDK.
