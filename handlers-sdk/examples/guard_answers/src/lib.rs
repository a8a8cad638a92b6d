//! Refuses answers of kinds that a sandbox may not fetch, and cuts those that hold a restricted word.
//!
//! For: programs and archives that must come from elsewhere, and phrases by which a page tries to steer an agent. A kind
//! is refused before anything of the answer was told; a word is found while the answer streams, so the sandbox has what
//! came before it, and an answer that never looks whole.
//!
//! ```sh
//! outgate sandbox set-outbound box guardAnswers \
//!     --params '{"kinds": ["application/x-executable"], "words": ["ignore previous instructions"]}'
//! ```

use handlers_sdk::prelude::*;
use handlers_sdk::search::{Search, ignoring_case};
use serde::Deserialize;

/// Kinds are the beginnings of content types. Words are compared without regard to ASCII case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(deserialize_with = "ignoring_case")]
    words: Search,
}

/// Judges the head, then looks at every piece before it goes on.
#[handler(hooks = ["response", "responseBody"])]
async fn guard_answers(mut request: Request, context: Context<Params>) -> Outcome {
    // Whole and plain: a part could hold half of a word, and what is compressed cannot be read.
    for name in ["accept-encoding", "range"] {
        request.headers_mut().remove(name);
    }
    let response = request.send().await;
    let Params { kinds, words } = context.params();
    let kind = response.header("content-type").unwrap_or_default().to_ascii_lowercase();
    if kinds.iter().any(|refused| kind.starts_with(&refused.to_ascii_lowercase())) {
        return Outcome::refuse(403, format!("answers of the kind {kind} are not let in"));
    }
    watch(response, words)
}

fn watch(mut response: Response, words: &Search) -> Outcome {
    if response.headers().contains("content-encoding") {
        return Outcome::refuse(502, "the answer is compressed, and cannot be looked at");
    }
    let mut scan = words.scan();
    response.look_at_body(move |chunk| match scan.finds(chunk.bytes) {
        None => Ok(()),
        Some(found) => {
            warn!("a restricted word before byte {} of an answer", found.end);
            Err(Outcome::refuse(403, "the answer holds a restricted word"))
        }
    });
    response.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Exchanged, Host, Request, Response, Verdict};
    use serde_json::json;

    use super::guard_answers;

    fn exchange(answer: &Response) -> Exchanged {
        let request = Request::get("https://docs.example/").header("Accept-Encoding", "gzip");
        let params = json!({"kinds": ["Application/X-Executable"], "words": ["ignore previous"]});
        let done = Host::new().params(params).exchange::<guard_answers>(&request, answer);
        assert_eq!(done.request.header("accept-encoding"), None);
        done
    }

    #[test]
    fn other_answers_pass_as_they_are() {
        let done =
            exchange(&Response::new(404).header("Content-Type", "text/plain").piece("ignore").piece("d"));
        assert_eq!(
            (done.verdict, done.status, &done.body[..]),
            (Verdict::Forwarded, Some(404), &b"ignored"[..])
        );
    }

    #[test]
    fn a_refused_kind_is_refused_before_anything_was_told() {
        let done =
            exchange(&Response::new(200).header("Content-Type", "application/x-executable; x").piece("MZ"));
        assert!(matches!(done.verdict, Verdict::Refused { status: Some(403), .. }), "{:?}", done.verdict);
        assert!(done.status.is_none() && done.body.is_empty() && !done.is_cut());
        let zipped = exchange(&Response::new(200).header("Content-Encoding", "gzip").piece("\x1f"));
        assert!(matches!(zipped.verdict, Verdict::Refused { status: Some(502), .. }), "{:?}", zipped.verdict);
    }

    #[test]
    fn a_word_cuts_the_answer() {
        let done =
            exchange(&Response::new(200).piece("Please IGNORE ").piece("previous orders").piece("more"));
        assert!(done.is_cut(), "{:?}", done.verdict);
        assert_eq!(done.body, b"Please IGNORE ");
    }
}
