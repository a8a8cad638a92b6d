//! Answers in the upstream's place: a health check, a licence server, an API that tests must not reach.
//!
//! For: programs that ask for something at start and need any answer. Nothing is forwarded.
//!
//! ```sh
//! outgate sandbox set-outbound-by-host box telemetry.example cannedAnswer --params '{"status": 204}'
//! outgate sandbox set-outbound-by-host box licence.example cannedAnswer \
//!     --params '{"contentType": "application/json", "body": "{\"valid\": true}"}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// Status 200 and no body unless given.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    status: Option<u16>,
    content_type: Option<String>,
    #[serde(default)]
    body: String,
}

/// The same answer to every request.
#[handler]
async fn canned_answer(_: Request, context: Context<Params>) -> Outcome {
    let Params { status, content_type, body } = context.params();
    let answer = Outcome::respond(status.unwrap_or(200), body.as_str());
    match content_type {
        Some(kind) => answer.header("Content-Type", kind),
        None => answer,
    }
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Verdict};
    use serde_json::json;

    use super::canned_answer;

    #[test]
    fn the_answer_is_the_operators() {
        let params = json!({"contentType": "application/json", "body": "{}"});
        let ran = Host::new().params(params).get::<canned_answer>("https://licence.example/check");
        assert_eq!(ran.verdict, Verdict::Responded { status: 200, body: b"{}".to_vec() });
        assert_eq!(ran.header("content-type"), Some("application/json"));
        let empty =
            Host::new().params(json!({"status": 204})).get::<canned_answer>("https://telemetry.example/");
        assert_eq!(empty.verdict, Verdict::Responded { status: 204, body: Vec::new() });
    }
}
