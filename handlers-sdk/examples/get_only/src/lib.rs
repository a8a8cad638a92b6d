//! Lets a sandbox read, not write, and logs what it asks for.
//!
//! For: research on the web. Mind that a GET can carry data out in its URL; `no_keywords` looks at that.
//!
//! ```sh
//! outgate sandbox set-outbound box getOnly
//! ```

use handlers_sdk::prelude::*;

/// GET passes; other methods are refused with 405.
#[handler]
async fn get_only(request: Request, _: Context) -> Outcome {
    info!("{} {}", request.method(), request.url());
    if request.method() != Method::GET {
        // RFC 9110 §15.5.6: 405 names the methods that are allowed.
        return Outcome::refuse(405, "only GET is allowed").header("Allow", "GET");
    }
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::abi::code::Level;
    use handlers_sdk::testing::{Host, Request, Verdict};

    use super::get_only;

    #[test]
    fn reading_passes_and_is_logged() {
        let ran = Host::new().get::<get_only>("https://example.com:8443/a?b");
        assert_eq!(ran.verdict, Verdict::Forwarded);
        assert_eq!(ran.logs, [(Level::Info, "GET https://example.com:8443/a?b".to_owned())]);
    }

    #[test]
    fn writing_is_refused_and_logged() {
        let ran = Host::new().run::<get_only>(&Request::new("POST", "http://example.com/"));
        let refused = Verdict::Refused { status: Some(405), reason: "only GET is allowed".to_owned() };
        assert_eq!((&ran.verdict, ran.logs.len(), ran.header("allow")), (&refused, 1, Some("GET")));
    }
}
