//! Refuses requests whose URL or header fields hold a restricted word, plain or escaped.
//!
//! For: project names and prefixes of tokens that must not leave in a query string. It sees heads, not bodies, and a
//! program that means to hide a word can: this catches mistakes, not enemies.
//!
//! ```sh
//! outgate sandbox set-outbound box noKeywords --params '{"keywords": ["project-falcon", "AKIA"]}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// Words, compared without regard to ASCII case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    keywords: Vec<String>,
}

/// Looks at path, query and every field.
#[handler]
async fn no_keywords(request: Request, context: Context<Params>) -> Outcome {
    let keywords = &context.params().keywords;
    let holds = |bytes: &[u8]| {
        let plain = unescape(bytes);
        keywords.iter().any(|word| {
            plain.windows(word.len().max(1)).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    let url = [request.path().as_bytes(), request.query().unwrap_or_default().as_bytes()];
    let found = url.into_iter().any(holds) || request.headers().received().any(|(_, value)| holds(value));
    if found {
        // Which word is for the record: the sandbox need not learn the list.
        warn!("a restricted word in a request to {}", request.host());
        return Outcome::refuse(403, "the request holds a restricted word");
    }
    request.forward()
}

/// Bytes with `%41` as `A`; `+` is left, since a word may hold one.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, beyond @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    plain.push((high * 16 + low) as u8);
                    rest = beyond;
                }
                _ => plain.push(b'%'),
            },
            _ => plain.push(*first),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Verdict};
    use serde_json::json;

    use super::no_keywords;

    fn passes(request: &Request) -> bool {
        let ran =
            Host::new().params(json!({"keywords": ["project-falcon", "AKIA"]})).run::<no_keywords>(request);
        let told = format!("{:?} {:?}", ran.verdict, ran.logs);
        assert!(
            !told.to_lowercase().contains("falcon") && !told.contains("AKIA"),
            "the word is not told: {told}"
        );
        ran.verdict == Verdict::Forwarded
    }

    #[test]
    fn words_are_found_in_path_query_and_fields_escaped_or_not() {
        for url in ["/Project-Falcon", "/x?q=project-falcon&y", "/x?q=%70roject%2dfalcon", "/x?k=akiaABC"] {
            assert!(!passes(&Request::get(&format!("https://a.example{url}"))), "{url}");
        }
        assert!(!passes(&Request::get("https://a.example/").header("X-Key", "AKIA1234")));
    }

    #[test]
    fn everything_else_passes_stray_percent_signs_too() {
        for url in ["/", "/project/falcon?q=100%", "/%zz%4", "/AK%49"] {
            assert!(passes(&Request::get(&format!("https://a.example{url}"))), "{url}");
        }
    }
}
