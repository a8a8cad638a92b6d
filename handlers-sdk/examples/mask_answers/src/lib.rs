//! Hides words in answers while they stream: the sandbox sees stars in their place.
//!
//! For: names of customers, host names inside, anything in pages and logs that an agent need not know. A word that spans
//! two pieces is found; no more is held back than could be the beginning of one.
//!
//! ```sh
//! outgate sandbox set-outbound-by-host box wiki.internal.example maskAnswers \
//!     --params '{"words": ["Project Falcon"], "mask": "(a project)"}'
//! ```

use handlers_sdk::prelude::*;
use handlers_sdk::search::{Replace, Search, ignoring_case};
use serde::Deserialize;

/// Words, compared without regard to ASCII case, and what stands in their place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(deserialize_with = "ignoring_case")]
    words: Search,
    #[serde(default = "stars")]
    mask: String,
}

fn stars() -> String {
    "***".to_owned()
}

/// Changes the body piece by piece.
#[handler(hooks = ["response", "responseBody"])]
async fn mask_answers(mut request: Request, context: Context<Params>) -> Outcome {
    // Whole and plain: a part could hold half of a word, and what is compressed cannot be read.
    for name in ["accept-encoding", "range"] {
        request.headers_mut().remove(name);
    }
    let mut response = request.send().await;
    if response.headers().contains("content-encoding") {
        return Outcome::refuse(502, "the answer is compressed, and nothing can be hidden in it");
    }
    let Params { words, mask } = context.params();
    let mut replace = Replace::new(words, mask);
    response.change_body(move |chunk, out| {
        replace.feed(chunk.bytes, out);
        if chunk.last {
            replace.end(out);
            info!("hid {} words", replace.count());
        }
        Ok(())
    });
    response.forward()
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Response, Verdict};
    use serde_json::json;

    use super::mask_answers;

    #[test]
    fn words_are_hidden_across_pieces_and_everything_else_stays() {
        let host = Host::new().params(json!({"words": ["falcon", "eagle"]}));
        let answer = Response::new(200).piece("a Fal").piece("con, an eag").piece("er EAGLE");
        let done = host.exchange::<mask_answers>(&Request::get("https://wiki.example/"), &answer);
        assert_eq!((&done.verdict, done.status), (&Verdict::Forwarded, Some(200)));
        assert_eq!(String::from_utf8_lossy(&done.body), "a ***, an eager ***");
        assert_eq!(done.logs[0].1, "hid 2 words");
    }

    #[test]
    fn answers_are_asked_for_whole_and_plain() {
        let request =
            Request::get("https://wiki.example/").header("Accept-Encoding", "br").header("Range", "bytes=3-");
        let host = Host::new().params(json!({"words": ["falcon"], "mask": "x"}));
        let done = host.exchange::<mask_answers>(&request, &Response::new(200));
        assert_eq!((done.request.header("accept-encoding"), done.request.header("range")), (None, None));
        let zipped = Response::new(200).header("Content-Encoding", "br").piece("\x0b");
        let done = host.exchange::<mask_answers>(&request, &zipped);
        assert!(matches!(done.verdict, Verdict::Refused { status: Some(502), .. }), "{:?}", done.verdict);
    }
}
