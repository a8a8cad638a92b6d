//! Attaches a GitHub token that the sandbox never sees: the smallest useful handler. `auth` does it for any host.
//!
//! ```sh
//! outgate secret put github --value-file token --host api.github.com
//! outgate handler put injectToken inject_token.wasm
//! outgate sandbox set-outbound box injectToken
//! ```

use handlers_sdk::prelude::*;

/// Requests to GitHub's API carry the secret `github`; others go on as they are.
#[handler]
async fn inject_token(mut request: Request, _: Context) -> Outcome {
    if request.host() == "api.github.com" {
        request.headers_mut().bearer(secret("github"));
    }
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Verdict};

    use super::inject_token;

    #[test]
    fn the_api_gets_the_secret_in_place_of_what_the_sandbox_sent() {
        let request = Request::get("https://api.github.com/user").header("Authorization", "Bearer guess");
        let ran = Host::new().run::<inject_token>(&request);
        assert_eq!(ran.verdict, Verdict::Forwarded);
        assert_eq!(ran.secret("authorization"), Some(("Bearer ", "github")));
    }

    #[test]
    fn other_hosts_get_nothing() {
        let ran = Host::new().get::<inject_token>("https://api.github.com.example/user");
        assert_eq!((&ran.verdict, ran.secret("authorization")), (&Verdict::Forwarded, None));
    }
}
