//! Locks a sandbox: nothing leaves.
//!
//! For: the phase after the dependencies are there. `outgate sandbox lockdown` is stronger: it cuts what is open, too.
//!
//! ```sh
//! outgate --wait sandbox set-outbound box noHttp
//! ```

use handlers_sdk::prelude::*;

/// Refuses every request.
#[handler]
async fn no_http(_: Request, _: Context) -> Outcome {
    Outcome::refuse(403, "this sandbox is locked")
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Verdict};

    use super::no_http;

    #[test]
    fn every_request_is_refused() {
        for url in ["http://example.com/", "https://github.com/"] {
            let refused = Verdict::Refused { status: Some(403), reason: "this sandbox is locked".to_owned() };
            assert_eq!(Host::new().get::<no_http>(url).verdict, refused);
        }
    }
}
