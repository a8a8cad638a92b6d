//! The library cases of Cloudflare's outbound handlers by their numbers, each with the result that Outgate takes:
//! theirs, or a safer one where theirs is unsafe.

use control_wire::policy::{OnError, PolicyDocument};

use super::{Asked, Decision, Rules, decide};
use crate::{
    http::{Host, Scheme},
    identity::SandboxId,
};
use Expect::{AtLoad, Handler, Internet, NoHost, Refused};

#[derive(Debug, PartialEq, Eq)]
enum Expect {
    Internet,
    Refused,
    /// By name, with its parameters as JSON.
    Handler(&'static str, &'static str),
    /// The document is refused when it is written.
    AtLoad,
    /// The request names no valid host, so it is refused before policy sees it.
    NoHost,
}

/// What is published; a name outside is refused by the flow, which finds no such handler.
const PUBLISHED: [&str; 4] = ["O", "S", "T", "h"];

/// Number, `enableInternet`, the rest of the template, the overrides, the request, the result.
type Case = (&'static str, bool, &'static str, &'static str, &'static str, Expect);

const O: &str = r#""outbound":{"handler":"O"}"#;
const BY_A: &str = r#""outboundByHost":[{"host":"a.com","handler":"S"}]"#;
const RUN_TIME_A: &str = r#""outboundByHost":[{"host":"a.com","handler":"h"}]"#;

const LISTS: &[Case] = &[
    ("L01", true, "", "", "http://a.com/x", Internet),
    ("L02", false, "", "", "http://a.com/x", Refused),
    ("L03", true, r#""deniedHosts":["evil.com"]"#, "", "http://evil.com/", Refused),
    ("L04", true, r#""deniedHosts":["evil.com"]"#, "", "http://sub.evil.com/", Internet),
    ("L05", true, r#""deniedHosts":["*.evil.com"]"#, "", "http://evil.com/", Internet),
    ("L06", true, r#""deniedHosts":["*.evil.com"]"#, "", "http://a.b.evil.com/", Refused),
    ("L07", true, r#""deniedHosts":["*evil.com"]"#, "", "http://notevil.com/", Refused),
    ("L08", true, r#""deniedHosts":["evil.com"]"#, "", "http://evil.com./", Refused),
    ("L10", true, r#""deniedHosts":["evil.com."]"#, "", "http://evil.com/", Refused),
    ("L11", true, r#""deniedHosts":["EVIL.com"]"#, "", "http://evil.com/", Refused),
    ("L12", true, r#""deniedHosts":["evil.com"]"#, "", "http://EVIL.COM/", Refused),
    ("L13", true, r#""deniedHosts":["evil.com:80"]"#, "", "http://evil.com/", Refused),
    ("L14", true, r#""deniedHosts":["evil.com"]"#, "", "http://evil.com:8080/", Refused),
    ("L15", true, r#""deniedHosts":["141.101.64.0/18"]"#, "", "http://141.101.64.5/", Refused),
    ("L16", true, r#""deniedHosts":["141.101.64.5"]"#, "", "http://141.101.64.5/", Refused),
    ("L17", true, r#""deniedHosts":["141.101.*"]"#, "", "http://141.101.64.5/", Refused),
    ("L18", true, r#""deniedHosts":["127.0.0.1"]"#, "", "http://2130706433/", Refused),
    ("L20", true, r#""deniedHosts":["::1"]"#, "", "http://[::1]/", Refused),
    ("L21", true, r#""deniedHosts":["[::1]"]"#, "", "http://[::1]/", Refused),
    ("L23", true, r#""deniedHosts":["bücher.de"]"#, "", "http://bücher.de/", Refused),
    ("L25", true, r#""deniedHosts":["*"]"#, "", "http://a.com/", Refused),
    ("L26", true, r#""deniedHosts":[""]"#, "", "http://a.com/", AtLoad),
    ("L27", true, r#""deniedHosts":[]"#, "", "http://a.com/", Internet),
    ("L28", true, r#""deniedHosts":["a.com"],"allowedHosts":["a.com"]"#, "", "http://a.com/", Refused),
    (
        "L29",
        true,
        r#""deniedHosts":["a.com"],"outboundByHost":[{"host":"a.com","handler":"S"}]"#,
        "",
        "http://a.com/",
        Refused,
    ),
    ("L31", false, r#""allowedHosts":["a.com"]"#, "", "http://a.com/", Internet),
    ("L32", true, r#""allowedHosts":["a.com"]"#, "", "http://a.com/", Internet),
    ("L33", true, r#""allowedHosts":["a.com"]"#, "", "http://b.com/", Refused),
    ("L34", true, r#""allowedHosts":[]"#, "", "http://a.com/", Refused),
    ("L35", true, r#""allowedHosts":[],"outbound":{"handler":"O"}"#, "", "http://a.com/", Refused),
    (
        "L36",
        true,
        r#""allowedHosts":["a.com"],"outboundByHost":[{"host":"b.com","handler":"S"}]"#,
        "",
        "http://b.com/",
        Refused,
    ),
    (
        "L38",
        true,
        r#""allowedHosts":["a.com"],"outboundByHost":[{"host":"a.com","handler":"S"}]"#,
        "",
        "http://a.com/",
        Handler("S", "null"),
    ),
];

/// These have a catch-all beside the list.
const GLOBS: &[Case] = &[
    ("L39", false, r#""allowedHosts":["a.com"]"#, "", "http://a.com/", Handler("O", "null")),
    ("L40", true, r#""allowedHosts":["a.com"]"#, "", "http://b.com/", Refused),
    ("L41", true, r#""allowedHosts":["*.x.com"]"#, "", "http://x.com/", Refused),
    ("L42", true, r#""allowedHosts":["google.*"]"#, "", "http://google.co.uk/", Handler("O", "null")),
    ("L44", true, r#""allowedHosts":["google.*"]"#, "", "http://google.evil.com/", Handler("O", "null")),
    ("L45", true, r#""allowedHosts":["api.*.com"]"#, "", "http://api.stripe.com/", Handler("O", "null")),
    ("L47", true, r#""allowedHosts":["api.*.com"]"#, "", "http://api.com/", Refused),
    ("L48", true, r#""allowedHosts":["a*a"]"#, "", "http://a/", Refused),
    ("L49", true, r#""allowedHosts":["**"]"#, "", "http://a.com/", Handler("O", "null")),
    // No host holds a `?`: what could never match is refused when it is written.
    ("L50", true, r#""allowedHosts":["?.com"]"#, "", "http://a.com/", AtLoad),
];

const HANDLERS: &[Case] = &[
    (
        "L51",
        true,
        r#""outboundByHost":[{"host":"*.com","handler":"T"},{"host":"a.com","handler":"S"}]"#,
        "",
        "http://a.com/",
        Handler("S", "null"),
    ),
    (
        "L52",
        true,
        r#""outboundByHost":[{"host":"*.com","handler":"T"},{"host":"a*.com","handler":"S"}]"#,
        "",
        "http://abc.com/",
        Handler("T", "null"),
    ),
    // The key is another way to write 0.0.0.7, which is what requests are compared as.
    (
        "L53",
        true,
        r#""outboundByHost":[{"host":"7","handler":"S"},{"host":"*","handler":"T"}]"#,
        "",
        "http://0.0.0.7/",
        AtLoad,
    ),
    (
        "L53 without the key",
        true,
        r#""outboundByHost":[{"host":"*","handler":"T"}]"#,
        "",
        "http://0.0.0.7/",
        Handler("T", "null"),
    ),
    (
        "L54",
        true,
        BY_A,
        r#""outboundByHost":[{"host":"a.com","handler":"h","params":{"k":1}}]"#,
        "http://a.com/",
        Handler("h", r#"{"k":1}"#),
    ),
    (
        "L56",
        true,
        "",
        r#""outboundByHost":[{"host":"a.com:80","handler":"h"}]"#,
        "http://a.com/",
        Handler("h", "null"),
    ),
    ("L57", true, BY_A, r#""outboundByHost":[{"host":"a.com","handler":"gone"}]"#, "http://a.com/", Refused),
    (
        "L59",
        true,
        O,
        r#""outbound":{"handler":"h","params":{"p":2}}"#,
        "http://a.com/",
        Handler("h", r#"{"p":2}"#),
    ),
    ("L60", true, O, "", "http://a.com/", Handler("O", "null")),
    ("L62", false, "", r#""outbound":{"handler":"gone"}"#, "http://a.com/", Refused),
    ("L63", false, O, "", "http://a.com/", Handler("O", "null")),
    ("L64", true, BY_A, "", "http://b.com/", Internet),
    ("L65", false, BY_A, "", "http://b.com/", Refused),
    // What a handler does once it is chosen is the handler host's: a failure ends in 502 by its `onError`.
    ("L66", true, O, "", "http://a.com/", Handler("O", "null")),
    ("L68", true, O, "", "http://a.com/", Handler("O", "null")),
    ("L69", true, O, "", "http://a.com/p?q=1", Handler("O", "null")),
    ("L70", true, BY_A, "", "http://constructor/", Internet),
    ("L71", true, BY_A, "", "http://__proto__/", Internet),
    ("L72", true, "", RUN_TIME_A, "http://constructor/", Internet),
    ("L73", true, "", r#""outbound":{"handler":"toString"}"#, "http://a.com/", Refused),
    ("L74", true, r#""deniedHosts":["evil.com"]"#, "", "http://a.com@evil.com/", NoHost),
    ("L75", true, r#""deniedHosts":["evil.com"]"#, "", "https://evil.com/", Refused),
];

/// Scheme, host and port of a test's URL; `None` where it names no host.
fn read_url(url: &str) -> Option<(Scheme, Host, u16)> {
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let authority = rest.split('/').next().unwrap();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap()),
        _ => (authority, scheme.default_port()),
    };
    Some((scheme, Host::parse(host).ok()?, port))
}

/// Members of a JSON object, those that are there.
fn document(members: &[&str]) -> PolicyDocument {
    let members: Vec<&str> = members.iter().copied().filter(|member| !member.is_empty()).collect();
    // Not `from_json`, which would validate before `Rules::compile` does.
    serde_json::from_str(&format!("{{{}}}", members.join(","))).unwrap()
}

fn result(internet: bool, template: &[&str], overrides: &str, url: &str) -> Expect {
    let switch = format!(r#""enableInternet":{internet}"#);
    let template: Vec<&str> = [switch.as_str()].into_iter().chain(template.iter().copied()).collect();
    let Ok(rules) = Rules::compile(&document(&template), &document(&[overrides])) else { return AtLoad };
    let Some((scheme, host, port)) = read_url(url) else { return NoHost };
    let asked =
        Asked { method: "GET", scheme, host: &host, port, path: b"/", upgrade: None, name_proven: true };
    let Decision::Allow(permit) = decide(&rules, &SandboxId::new("s").unwrap(), &asked) else {
        return Refused;
    };
    assert_eq!((permit.host(), permit.port(), permit.scheme()), (&host, port, scheme));
    let Some(used) = permit.handler() else { return Internet };
    assert_eq!(used.on_error, OnError::Refuse);
    let params = match &*used.params {
        b"null" => "null",
        br#"{"k":1}"# => r#"{"k":1}"#,
        br#"{"p":2}"# => r#"{"p":2}"#,
        other => panic!("unknown parameters {}", String::from_utf8_lossy(other)),
    };
    PUBLISHED.iter().find(|name| ***name == *used.name).map_or(Refused, |name| Handler(name, params))
}

#[test]
fn library_cases_end_as_listed() {
    let listed = LISTS.iter().chain(HANDLERS).map(|case| (case, ""));
    let cases = listed.chain(GLOBS.iter().map(|case| (case, O)));
    let mut wrong = Vec::new();
    for ((id, internet, template, overrides, url, expected), more) in cases {
        let found = result(*internet, &[template, more], overrides, url);
        if found != *expected {
            wrong.push(format!("{id}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_star_before_the_end_of_a_name_is_warned_about() {
    let document = document(&[r#""allowedHosts":["google.*"]"#]);
    assert_eq!(document.warnings().len(), 1, "L44: {:?}", document.warnings());
}
