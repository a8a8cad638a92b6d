//! Removes fields from answers, and from requests if wanted: `set-cookie`, `server`, `x-powered-by`.
//!
//! For: sessions that must not begin, and servers that tell more about themselves than an agent needs. Bodies are not
//! looked at, so this costs no more than the head.
//!
//! ```sh
//! outgate sandbox set-outbound box stripFields --params '{"answers": ["set-cookie"], "requests": ["cookie"]}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// Names of fields, in any case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    answers: Vec<String>,
    #[serde(default)]
    requests: Vec<String>,
}

/// Sends the request, and lets the answer go on without the fields.
#[handler(hooks = ["response"])]
async fn strip_fields(mut request: Request, context: Context<Params>) -> Outcome {
    let Params { answers, requests } = context.params();
    requests.iter().for_each(|name| request.headers_mut().remove(name));
    let mut response = request.send().await;
    answers.iter().for_each(|name| response.headers_mut().remove(name));
    response.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Response, Verdict};
    use serde_json::json;

    use super::strip_fields;

    #[test]
    fn named_fields_go_and_the_rest_passes() {
        let host = Host::new().params(json!({"answers": ["Set-Cookie"], "requests": ["cookie"]}));
        let request = Request::get("https://shop.example/").header("Cookie", "a=b").header("Accept", "*/*");
        let answer = Response::new(200).header("set-cookie", "a=c").header("etag", "x").piece("hello");
        let done = host.exchange::<strip_fields>(&request, &answer);
        assert_eq!((done.request.header("cookie"), done.request.header("accept")), (None, Some("*/*")));
        assert_eq!((done.header("set-cookie"), done.header("etag")), (None, Some("x")));
        assert_eq!(
            (done.verdict, done.status, &done.body[..]),
            (Verdict::Forwarded, Some(200), &b"hello"[..])
        );
    }
}
