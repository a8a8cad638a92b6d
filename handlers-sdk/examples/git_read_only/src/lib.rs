//! Lets a sandbox clone and fetch named repositories over HTTPS, and nothing else of the host: no push, no API.
//!
//! For: agents that read code. `git push` asks for `git-receive-pack`, which no repository here has.
//!
//! ```sh
//! outgate sandbox set-outbound-by-host box github.com gitReadOnly --params '{"repositories": ["acme/private"]}'
//! ```

use handlers_sdk::prelude::*;
use serde::Deserialize;

/// `repositories` are paths without their first slash and without `.git`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    repositories: Vec<String>,
}

/// The two requests of a fetch pass (gitprotocol-http(5)): the list of references, and the pack.
#[handler]
async fn git_read_only(request: Request, context: Context<Params>) -> Outcome {
    let named = context.params().repositories.iter().find_map(|repository| {
        let rest = request.path().strip_prefix('/')?.strip_prefix(repository.as_str())?;
        Some(rest.strip_prefix(".git").unwrap_or(rest))
    });
    let reads = match named {
        Some("/info/refs") => {
            request.method() == Method::GET && request.query() == Some("service=git-upload-pack")
        }
        Some("/git-upload-pack") => request.method() == Method::POST,
        _ => false,
    };
    if reads {
        return request.forward();
    }
    Outcome::refuse(403, "only clone and fetch of the repositories that the operator named are allowed")
}

#[cfg(test)]
mod tests {
    use handlers_sdk::testing::{Host, Request, Verdict};
    use serde_json::json;

    use super::git_read_only;

    fn passes(method: &str, path: &str) -> bool {
        let host = Host::new().params(json!({"repositories": ["acme/private"]}));
        let request = Request::new(method, &format!("https://github.com/{path}"));
        host.run::<git_read_only>(&request).verdict == Verdict::Forwarded
    }

    #[test]
    fn clone_and_fetch_pass_with_and_without_the_ending() {
        for repository in ["acme/private", "acme/private.git"] {
            assert!(passes("GET", &format!("{repository}/info/refs?service=git-upload-pack")));
            assert!(passes("POST", &format!("{repository}/git-upload-pack")));
        }
    }

    #[test]
    fn push_other_repositories_and_everything_else_are_refused() {
        for (method, path) in [
            ("GET", "acme/private.git/info/refs?service=git-receive-pack"),
            ("POST", "acme/private.git/git-receive-pack"),
            ("GET", "acme/private.git/info/refs"),
            ("GET", "acme/private2/info/refs?service=git-upload-pack"),
            ("GET", "acme/private/../other/info/refs?service=git-upload-pack"),
            ("POST", "acme/other/git-upload-pack"),
            ("GET", "acme/private"),
            ("DELETE", "acme/private/git-upload-pack"),
        ] {
            assert!(!passes(method, path), "{method} {path}");
        }
    }
}
