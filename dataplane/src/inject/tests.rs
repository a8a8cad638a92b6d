//! Each kind of credential on a request: what the upstream sees, when it is refused, and what is said about it.

use control_wire::{policy::PolicyDocument, row::SecretValue};

use super::*;
use crate::{
    http::{Authority, Host, Parsed, parse_request},
    identity::SandboxId,
    policy::{Asked, Decision, Rules, decide},
};

/// What no word about a credential may hold.
const VALUE: &str = "box-7:p+s w/rd=&%";

/// One action of each kind, and what the upstream sees of [`VALUE`].
const KINDS: [(&str, &str); 5] = [
    (r#"{"header":{"name":"X-Key","secret":"s","prefix":"k "}}"#, "\r\nX-Key: k box-7:p+s w/rd=&%\r\n"),
    (r#"{"bearer":{"secret":"s"}}"#, "\r\nauthorization: Bearer box-7:p+s w/rd=&%\r\n"),
    (r#"{"basic":{"secret":"s"}}"#, "\r\nauthorization: Basic Ym94LTc6cCtzIHcvcmQ9JiU=\r\n"),
    (
        r#"{"basic":{"secret":"s","user":"x-access-token"}}"#,
        "\r\nauthorization: Basic eC1hY2Nlc3MtdG9rZW46Ym94LTc6cCtzIHcvcmQ9JiU=\r\n",
    ),
    (
        r#"{"query":{"name":"key","secret":"s"}}"#,
        "GET /p?a=%7e&key=box-7%3Ap%2Bs%20w%2Frd%3D%26%25 HTTP/1.1\r\n",
    ),
];

fn permit(actions: &str, host: &str, scheme: Scheme) -> Permit {
    let document = format!(r#"{{"enableInternet":true,"rules":[{{"host":"*","actions":[{actions}]}}]}}"#);
    let document = PolicyDocument::from_json(&document).unwrap();
    let rules = Rules::compile(&document, &PolicyDocument::default()).unwrap();
    let host = Host::parse(host).unwrap();
    let asked = Asked {
        method: "GET",
        scheme,
        host: &host,
        port: 443,
        path: b"/p",
        upgrade: None,
        name_proven: true,
    };
    match decide(&rules, &SandboxId::new("box").unwrap(), &asked) {
        Decision::Allow(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn secret(value: &str, allow_plaintext: bool) -> Secret {
    let (value, hosts) = (SecretValue::new(value.as_bytes()), vec!["a.example".into()]);
    Secret::new(SecretRow { name: "s".into(), version: 1, value, hosts, allow_plaintext }).unwrap()
}

/// What is sent on of a request to `permit`'s host once all its credentials were put there.
fn sent(permit: &Permit, target: &str, secret: Option<&Secret>) -> Result<String, InjectError> {
    let method = if target == "*" { "OPTIONS" } else { "GET" };
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: a.example\r\nAuthorization: own\r\nX_KEY: own\r\nB: 1\r\n\r\n"
    );
    let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("{text}") };
    let host = Host::parse("a.example").unwrap();
    let authority = Authority { scheme: permit.scheme(), host, port: permit.port() };
    let mut outgoing = OutgoingRequest::new(&head, &authority);
    for injection in permit.injections() {
        put(permit, injection, secret, &mut outgoing)?;
    }
    assert!(!outgoing.query().unwrap_or_default().contains("p%2Bs"), "what is shown holds no credential");
    let mut bytes = Vec::new();
    outgoing.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len(), bytes.capacity(), "the buffer grew once, to the size that is needed");
    Ok(String::from_utf8(bytes).unwrap())
}

#[test]
fn upstream_sees_one_credential_in_its_place_and_the_rest_as_it_was() {
    for (action, expected) in KINDS {
        let head = sent(
            &permit(action, "a.example", Scheme::Https),
            "/p?%6bey=own&a=%7e",
            Some(&secret(VALUE, false)),
        );
        let head = head.unwrap();
        assert!(head.contains(expected) && head.contains("\r\nB: 1\r\n"), "{action}: {head}");
        let own = head.matches("own").count();
        assert_eq!(own, 2, "one of three places was replaced, in every spelling: {head}");
    }
}

#[test]
fn every_kind_needs_the_secret_its_host_and_tls() {
    for (action, expected) in KINDS {
        let (bound, other) =
            (permit(action, "a.example", Scheme::Https), permit(action, "b.example", Scheme::Https));
        let plain = permit(action, "a.example", Scheme::Http);
        let (tls_only, any) = (secret(VALUE, false), secret(VALUE, true));
        assert!(matches!(sent(&bound, "/p?a=%7e", None), Err(InjectError::Missing { .. })), "{action}");
        assert!(
            matches!(sent(&other, "/p?a=%7e", Some(&tls_only)), Err(InjectError::NotBound { .. })),
            "{action}"
        );
        assert!(
            matches!(sent(&plain, "/p?a=%7e", Some(&tls_only)), Err(InjectError::Plaintext { .. })),
            "{action}"
        );
        assert!(sent(&plain, "/p?a=%7e", Some(&any)).unwrap().contains(expected), "{action}");
    }
}

#[test]
fn value_that_no_field_could_hold_is_refused_by_every_kind_and_not_quoted() {
    for (action, _) in KINDS {
        for value in ["user:hush-77aa\n", "user:hush\0-77aa", "user:hush-77aa "] {
            let permit = permit(action, "a.example", Scheme::Https);
            let error = sent(&permit, "/p", Some(&secret(value, false))).unwrap_err();
            let said = format!("{error:?} {error} {}", crate::causes::chain(&error));
            assert!(said.contains("`s`") && !said.contains("hush"), "{action}: {said}");
        }
    }
}

#[test]
fn password_alone_is_refused_where_the_rule_names_no_user() {
    let alone = secret("hush-77aa", false);
    let without = permit(r#"{"basic":{"secret":"s"}}"#, "a.example", Scheme::Https);
    let error = sent(&without, "/", Some(&alone)).unwrap_err();
    assert_eq!(error, InjectError::NoUser { secret: "s".into() });
    let with = permit(r#"{"basic":{"secret":"s","user":""}}"#, "a.example", Scheme::Https);
    assert!(
        sent(&with, "/", Some(&alone)).unwrap().contains("\r\nauthorization: Basic Omh1c2gtNzdhYQ==\r\n")
    );
}

#[test]
fn query_that_cannot_be_written_is_refused() {
    let key = permit(r#"{"query":{"name":"key","secret":"s"}}"#, "a.example", Scheme::Https);
    for (target, value) in [("*", "v".to_owned()), ("/", "&".repeat(crate::limits::TARGET_BYTES_MAX / 3))] {
        let error = sent(&key, target, Some(&secret(&value, false))).unwrap_err();
        assert!(matches!(error, InjectError::Parameter { .. }), "{error:?}");
    }
}

#[test]
fn names_are_of_those_secrets_that_go_out() {
    let names = |actions: &str| {
        let permit = permit(actions, "a.example", Scheme::Https);
        carried(permit.injections().iter().map(AsRef::as_ref)).join(" ")
    };
    assert_eq!(
        names(
            r#"{"bearer":{"secret":"a"}},{"query":{"name":"k","secret":"b"}},{"header":{"name":"x","secret":"a"}},
               {"query":{"name":"l","secret":"c"}}"#
        ),
        "a b c"
    );
    assert_eq!(
        names(
            r#"{"bearer":{"secret":"a"}},{"basic":{"secret":"b"}},{"query":{"name":"k","secret":"c"}},
               {"header":{"name":"x-y","secret":"d"}},{"query":{"name":"K","secret":"e"}},
               {"header":{"name":"X_Y","secret":"f"}}"#
        ),
        "b e f"
    );
}

#[test]
fn what_finds_a_credential_is_made_once_for_each_way_of_giving_it() {
    let find = |action: &str, secret: &Secret| {
        let permit = permit(action, "a.example", Scheme::Https);
        finder(&permit.injections()[0], Some(secret))
    };
    let (bearer, basic) = (r#"{"bearer":{"secret":"s"}}"#, r#"{"basic":{"secret":"s"}}"#);
    let whole = secret("user-name:pass-word", false);
    let once = find(bearer, &whole).unwrap();
    assert!(Arc::ptr_eq(&once, &find(r#"{"query":{"name":"k","secret":"s"}}"#, &whole).unwrap()));
    assert!(!Arc::ptr_eq(&once, &find(basic, &whole).unwrap()));
    let hidden = |action: &str, value: &str, text: &str| {
        let mut text = text.as_bytes().to_vec();
        let mut searcher = crate::redact::Searcher::new(vec![find(action, &secret(value, false)).unwrap()]);
        searcher.whole(&mut text);
        String::from_utf8(text).unwrap()
    };
    let said = "user-name pass-word user-name:pass-word";
    assert_eq!(hidden(bearer, "user-name:pass-word", said), "user-name pass-word *******************");
    assert_eq!(hidden(basic, "user-name:pass-word", said), "user-name ********* *******************");
    assert_eq!(hidden(basic, "user-name:", said), "********* pass-word **********pass-word");
}

#[test]
fn a_credential_of_which_a_part_is_short_cannot_be_searched_for() {
    let basic = permit(r#"{"basic":{"secret":"s"}}"#, "a.example", Scheme::Https);
    let bearer = permit(r#"{"bearer":{"secret":"s"}}"#, "a.example", Scheme::Https);
    for (permit, value) in [(&bearer, "hush-77"), (&basic, "some-user:hush-77"), (&basic, "hush-77:")] {
        let error = finder(&permit.injections()[0], Some(&secret(value, false))).unwrap_err();
        let said = format!("{error:?} {}", crate::causes::chain(&error));
        assert!(matches!(error, InjectError::TooShort { .. }) && !said.contains("hush"), "{said}");
    }
    assert!(matches!(finder(&bearer.injections()[0], None), Err(InjectError::Missing { .. })));
}
