//! Attaches a credential that the sandbox never sees: which one, and in which field, is the operator's word.
//!
//! For: private repositories, model providers, any API with a key in a header. One module serves them all.
//!
//! ```sh
//! outgate secret put anthropic --value-file key --host api.anthropic.com
//! outgate sandbox set-outbound-by-host box api.anthropic.com auth --params '{"header": "x-api-key", "secret": "anthropic"}'
//! outgate sandbox set-outbound-by-host box api.github.com auth --params '{"secret": "github", "prefix": "token "}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// `secret` names what is sent; `header` is where, `authorization` unless given; `prefix` stands before it, `Bearer `
/// in `authorization` unless given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    secret: String,
    header: Option<String>,
    prefix: Option<String>,
}

/// Puts the secret in place of whatever the sandbox sent there.
#[handler]
async fn auth(mut request: Request, context: Context<Params>) -> Outcome {
    let Params { secret: name, header, prefix } = context.params();
    let header = header.as_deref().unwrap_or("authorization");
    let usual = if header.eq_ignore_ascii_case("authorization") { "Bearer " } else { "" };
    request.headers_mut().set(header, secret(name).prefixed(prefix.as_deref().unwrap_or(usual)));
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request};
    use serde_json::json;

    use super::auth;

    #[test]
    fn the_secret_stands_in_the_field_and_what_was_sent_there_is_gone() {
        let request = Request::get("https://api.anthropic.com/").header("X-Api-Key", "guess");
        let ran =
            Host::new().params(json!({"header": "x-api-key", "secret": "anthropic"})).run::<auth>(&request);
        assert_eq!((ran.secret("x-api-key"), ran.header("x-api-key")), (Some(("", "anthropic")), None));
    }

    #[test]
    fn a_bearer_token_is_what_is_usual_and_another_prefix_can_be_given() {
        let with = |params| Host::new().params(params).get::<auth>("https://api.github.com/");
        assert_eq!(with(json!({"secret": "github"})).secret("authorization"), Some(("Bearer ", "github")));
        let token = with(json!({"secret": "github", "prefix": "token "}));
        assert_eq!(token.secret("authorization"), Some(("token ", "github")));
    }
}
