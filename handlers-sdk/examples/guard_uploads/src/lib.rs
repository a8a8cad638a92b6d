//! Refuses requests whose body holds a restricted word, as it passes: nothing is gathered, a word that spans two pieces
//! is found.
//!
//! For: names of projects and prefixes of keys that must not leave in a prompt, a paste or an upload. The upstream has
//! the pieces before the word by then, and never a request that looks whole. A body that is compressed or encrypted
//! cannot be read, so it is refused where it says so; a program that means to hide a word can: this catches mistakes,
//! not enemies.
//!
//! ```sh
//! outgate sandbox set-outbound box guardUploads --params '{"words": ["project-falcon", "AKIA"]}'
//! ```

use handlers_sdk::prelude::*;
use handlers_sdk::search::{Search, ignoring_case};
use serde::Deserialize;

/// Words, compared without regard to ASCII case. The search is built with the parameters, not for each request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(deserialize_with = "ignoring_case")]
    words: Search,
}

/// Looks at every piece before it goes on.
#[handler(hooks = ["requestBody"])]
async fn guard_uploads(mut request: Request, context: Context<Params>) -> Outcome {
    if request.is_upgrade() || request.headers().contains("content-encoding") {
        return Outcome::refuse(403, "what is sent here must be readable");
    }
    let mut scan = context.params().words.scan();
    request.look_at_body(move |chunk| match scan.finds(chunk.bytes) {
        None => Ok(()),
        Some(found) => {
            // Where it was is for the record; which word the sandbox need not learn.
            warn!("a restricted word before byte {} of a body", found.end);
            Err(Outcome::refuse(403, "the request holds a restricted word"))
        }
    });
    request.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Exchanged, Host, Request, Response, Verdict};
    use serde_json::json;

    use super::guard_uploads;

    fn exchange(request: &Request) -> Exchanged {
        let host = Host::new().params(json!({"words": ["project-falcon"]}));
        host.exchange::<guard_uploads>(request, &Response::new(200).piece("ok"))
    }

    fn post() -> Request {
        Request::new("POST", "https://models.example/v1/messages")
    }

    #[test]
    fn bodies_without_the_word_pass_as_they_are() {
        let done = exchange(&post().piece("project-").piece("eagle"));
        assert_eq!((&done.verdict, &done.sent[..]), (&Verdict::Forwarded, &b"project-eagle"[..]));
        assert_eq!((done.status, &done.body[..]), (Some(200), &b"ok"[..]));
        assert_eq!(exchange(&Request::get("https://models.example/")).verdict, Verdict::Forwarded);
    }

    #[test]
    fn a_word_that_spans_two_pieces_ends_the_request_before_its_second_half_left() {
        let done = exchange(&post().piece("about Project-").piece("Falcon, then").piece("more"));
        assert!(matches!(done.verdict, Verdict::Refused { status: Some(403), .. }), "{:?}", done.verdict);
        assert_eq!((&done.sent[..], done.status), (&b"about Project-"[..], None));
        assert!(!format!("{:?}", done.logs).to_lowercase().contains("falcon"), "the word is not told");
    }

    #[test]
    fn what_cannot_be_read_does_not_leave() {
        let done = exchange(&post().header("Content-Encoding", "gzip").piece("\x1f"));
        assert!(matches!(done.verdict, Verdict::Refused { .. }) && done.sent.is_empty(), "{done:?}");
    }
}
