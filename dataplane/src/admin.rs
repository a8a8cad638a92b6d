//! What the plane answers by itself at `http://outgate.internal/`, for every sandbox, before policy.
//!
//! Nothing here leaves the node, and nothing here is secret: the sandbox learns its own name and the certificate that
//! it must trust.

use std::fmt::Write as _;

use data_encoding::BASE64;
use serde_json::json;

/// The host that is answered here, whatever policy says.
pub const HOST: &str = "outgate.internal";

/// Variables by which clients *replace* their trust store: they want the system's roots and ours in one file.
const REPLACING: [&str; 7] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
];

/// Variables by which clients *add* to their trust store: they want our certificate alone.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// What is known about the sandbox that asks.
pub struct Caller<'a> {
    /// Its id.
    pub sandbox: &'a str,
    /// Its template.
    pub class_name: &'a str,
    /// Certificate of its authority in DER form.
    pub authority: &'a [u8],
    /// The system's roots in PEM form.
    pub system_roots: &'a str,
}

/// An answer of the plane itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Media type.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

/// Answers a request to [`HOST`].
pub fn answer(method: &str, path: &str, caller: &Caller<'_>) -> Answer {
    if method != "GET" && method != "HEAD" {
        return problem(405, "only GET and HEAD are answered here");
    }
    let ok = |content_type, body| Answer { status: 200, content_type, body };
    match path {
        "/whoami" => {
            let who = json!({ "containerId": caller.sandbox, "className": caller.class_name });
            ok("application/json", format!("{who}\n"))
        }
        "/ca.pem" => ok("application/x-pem-file", to_pem(caller.authority)),
        "/bundle.pem" => {
            ok("application/x-pem-file", format!("{}{}", caller.system_roots, to_pem(caller.authority)))
        }
        "/env" => ok("text/x-shellscript", environment(caller.sandbox)),
        "/" => ok("text/plain", "GET /whoami, /ca.pem, /bundle.pem or /env\n".to_owned()),
        _ => problem(404, "here are only /whoami, /ca.pem, /bundle.pem and /env"),
    }
}

/// A shell script for `eval`: fetches both files and exports the variables that name them.
fn environment(sandbox: &str) -> String {
    let mut script = String::from(
        "outgate_dir=\"${XDG_RUNTIME_DIR:-/tmp}/outgate-$(id -u)\"\n\
         mkdir -p -m 700 \"$outgate_dir\"\n\
         curl -fsS -o \"$outgate_dir/ca.pem\" http://outgate.internal/ca.pem\n\
         curl -fsS -o \"$outgate_dir/bundle.pem\" http://outgate.internal/bundle.pem\n",
    );
    for name in REPLACING {
        let _ = writeln!(script, "export {name}=\"$outgate_dir/bundle.pem\"");
    }
    for name in ADDING {
        let _ = writeln!(script, "export {name}=\"$outgate_dir/ca.pem\"");
    }
    let quoted = sandbox.replace('\'', "'\\''");
    let _ = writeln!(script, "export OUTGATE_CONTAINER_ID='{quoted}'");
    script
}

fn problem(status: u16, detail: &str) -> Answer {
    let body = json!({ "status": status, "code": "internal_page", "detail": detail });
    Answer { status, content_type: "application/problem+json", body: format!("{body}\n") }
}

/// A certificate in PEM form (RFC 7468 §5.1).
pub fn to_pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: Caller<'_> =
        Caller { sandbox: "it's", class_name: "python", authority: &[7; 100], system_roots: "roots\n" };

    #[test]
    fn whoami_names_sandbox_and_template() {
        let answer = answer("GET", "/whoami", &CALLER);
        let who: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (answer.status, &who["containerId"], &who["className"]),
            (200, &"it's".into(), &"python".into())
        );
    }

    #[test]
    fn bundle_holds_system_roots_and_the_sandboxs_own() {
        let bundle = answer("GET", "/bundle.pem", &CALLER).body;
        let own = answer("GET", "/ca.pem", &CALLER).body;
        assert!(bundle.starts_with("roots\n") && bundle.ends_with(&own));
        assert!(own.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn environment_survives_quotes_in_a_name() {
        assert!(answer("GET", "/env", &CALLER).body.contains(r"export OUTGATE_CONTAINER_ID='it'\''s'"));
    }

    #[test]
    fn unknown_page_and_method_are_told_what_exists() {
        assert_eq!(answer("GET", "/x", &CALLER).status, 404);
        assert_eq!(answer("POST", "/env", &CALLER).status, 405);
    }
}
