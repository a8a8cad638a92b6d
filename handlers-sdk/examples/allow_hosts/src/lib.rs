//! Lets through what its parameters name, and nothing else.
//!
//! For: lists that change while a sandbox runs, one phase after the other. A template's `allowedHosts` does the same
//! without a handler and with patterns; this one shows how parameters are read.
//!
//! ```sh
//! outgate sandbox set-outbound box allowHosts --params '{"allowedHostnames": ["github.com", "pypi.org"]}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// What the operator gives with `params`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    allowed_hostnames: Vec<String>,
}

/// One function, another list per sandbox.
#[handler]
async fn allow_hosts(request: Request, context: Context<Params>) -> Outcome {
    if context.params().allowed_hostnames.iter().any(|allowed| allowed == request.host()) {
        return request.forward();
    }
    Outcome::refuse(403, format!("{} is not among the allowed hostnames", request.host()))
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Verdict};
    use serde_json::json;

    use super::allow_hosts;

    #[test]
    fn only_named_hosts_pass() {
        let host = Host::new().params(json!({"allowedHostnames": ["github.com"]}));
        assert_eq!(host.get::<allow_hosts>("https://github.com/").verdict, Verdict::Forwarded);
        let refused = host.get::<allow_hosts>("https://example.com/").verdict;
        let reason = "example.com is not among the allowed hostnames".to_owned();
        assert_eq!(refused, Verdict::Refused { status: Some(403), reason });
    }

    #[test]
    fn parameters_of_another_form_are_refused() {
        for params in [json!({}), json!({"allowedHostnames": "github.com"}), json!({"allowed": []})] {
            let error =
                Host::new().params(params).try_run::<allow_hosts>(&Request::get("https://a/")).unwrap_err();
            assert!(error.starts_with("params of allowHosts: "), "{error}");
        }
    }
}
