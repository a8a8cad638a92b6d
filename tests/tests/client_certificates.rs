//! Client certificates as a credential: shown to the host that a rule names, and to nobody else.

use std::sync::{Arc, Mutex};

use control_wire::row::{Op, SecretRow, SecretValue};
use rustls::{HandshakeKind, ServerConnection, SupportedProtocolVersion, version};
use tests::{
    gateway::{Gateway, ask, both_ways, template},
    origin::Origin,
    secured::{self, Authority, settings},
};

/// Rules of a sandbox that may ask `origin.test`; below `/with` it shows its certificate.
fn policy(path: &str) -> Op {
    let document = format!(
        r#"{{"allowedHosts":["origin.test","second.test"],
            "allowedAddresses":[{{"host":"*","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"*","match":{{"path":"{path}"}},"actions":[{{"clientCertificate":{{"secret":"own"}}}}]}}]}}"#
    );
    template("t", &document)
}

fn secret(version: u64, value: &str) -> Op {
    Op::UpsertSecret(SecretRow {
        name: "own".into(),
        version,
        value: SecretValue::new(value.as_bytes()),
        hosts: vec!["origin.test".into()],
        allow_plaintext: false,
    })
}

/// What an origin met: which request, the number of its connection, whether that was resumed.
type Met = Arc<Mutex<Vec<(String, HandshakeKind, bool)>>>;

/// An origin that says whose certificate it was shown. It asks each client for one, of this authority, and serves also
/// those that have none where `demands` is false.
fn origin(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    demands: bool,
) -> (Origin, Met) {
    let met = Met::default();
    let log = Arc::clone(&met);
    let own = authority.server(&["origin.test", "second.test"], |_| {});
    let config = match demands {
        true => settings(&own, versions, Some(authority)),
        false => secured::asking(&own, versions, authority),
    };
    let origin = secured::origin(config, authority.pem(), move |connection, head| {
        let kind = connection.handshake_kind().expect("it is done");
        let shown = whose(connection);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push((path, kind, shown != "nobody"));
        shown
    });
    (origin, met)
}

fn whose(connection: &ServerConnection) -> String {
    let Some([shown, ..]) = connection.peer_certificates() else { return "nobody".into() };
    // The common name is the one text of the subject.
    let found = ["first-agent", "second-agent"]
        .into_iter()
        .find(|name| shown.windows(name.len()).any(|window| window == name.as_bytes()));
    found.expect("one of this test").into()
}

fn get(gateway: &Gateway, host: &str, port: u16, path: &str) -> (String, String) {
    let mut stream = gateway.tls(host, port);
    let (head, body) = ask(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"), b"");
    (head, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn a_host_that_demands_a_certificate_is_shown_it_and_nothing_of_the_key_is_seen_anywhere() {
    both_ways(|shards| {
        for version in [&version::TLS13, &version::TLS12] {
            let authority = Authority::new("known");
            let client = authority.client("first-agent");
            let (origin, _) = origin(&authority, &[version], true);
            let mut gateway = Gateway::start(shards, &origin);
            gateway.apply(vec![secret(1, &client.pem()), policy("*")]);
            let (head, body) = get(&gateway, "origin.test", origin.address.port(), "/");
            assert!(head.starts_with("HTTP/1.1 200 ") && body == "first-agent", "{head}{body}");
            let records = gateway.records(1);
            assert_eq!(records[0]["secrets"][0], "own", "{records:?}");
            let seen = format!("{head}{body}{records:?}");
            let key: Vec<&str> = client.key.lines().filter(|line| !line.starts_with('-')).collect();
            assert!(key.iter().all(|line| !seen.contains(line)), "{seen}");
        }
    });
}

#[test]
fn a_connection_with_a_certificate_is_never_used_without_it_and_sessions_are_not_shared() {
    let authority = Authority::new("known");
    let (origin, met) = origin(&authority, &[&version::TLS13], false);
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![secret(1, &authority.client("first-agent").pem()), policy("/with/*")]);
    let port = origin.address.port();
    for (path, whose) in
        [("/plain", "nobody"), ("/with/1", "first-agent"), ("/plain", "nobody"), ("/with/2", "first-agent")]
    {
        assert_eq!(get(&gateway, "origin.test", port, path).1, whose, "{path}");
    }
    assert_eq!(origin.connections(), 2, "one each, used again");
    let met = met.lock().unwrap().clone();
    assert!(met.iter().all(|(_, kind, _)| *kind == HandshakeKind::Full), "{met:?}");
}

#[test]
fn another_value_of_the_secret_counts_at_once_and_what_was_kept_with_the_old_one_is_closed() {
    let authority = Authority::new("known");
    let (origin, met) = origin(&authority, &[&version::TLS13], true);
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![secret(1, &authority.client("first-agent").pem()), policy("*")]);
    let port = origin.address.port();
    assert_eq!(get(&gateway, "origin.test", port, "/").1, "first-agent");
    gateway.apply(vec![secret(2, &authority.client("second-agent").pem())]);
    assert_eq!(get(&gateway, "origin.test", port, "/").1, "second-agent");
    let met = met.lock().unwrap().clone();
    assert_eq!(
        met.iter().map(|(_, kind, _)| *kind).collect::<Vec<_>>(),
        [HandshakeKind::Full; 2],
        "no old session"
    );
    gateway.apply(vec![Op::RemoveSecret("own".into())]);
    let (head, body) = get(&gateway, "origin.test", port, "/");
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("secret_missing"), "{head}{body}");
    origin.wait_for_ends(2);
}

#[test]
fn it_is_refused_where_it_is_not_bound_is_none_or_would_leave_as_text() {
    let authority = Authority::new("known");
    let (origin, _) = origin(&authority, &[&version::TLS13], false);
    let mut gateway = Gateway::start_where(1, &origin, "127.0.0.1 origin.test second.test\n");
    let port = origin.address.port();
    let client = authority.client("first-agent");
    gateway.apply(vec![secret(1, &client.pem()), policy("*")]);
    let (_, body) = get(&gateway, "second.test", port, "/");
    assert!(body.contains("secret_not_bound"), "{body}");
    for (value, says) in [
        (client.certificate.clone(), "write the chain, then its one key"),
        (format!("{}{}", client.certificate, authority.itself().key), "is not that of its key"),
    ] {
        gateway.apply(vec![secret(2, &value)]);
        let (head, body) = get(&gateway, "origin.test", port, "/");
        assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("secret_not_certificate"), "{head}{body}");
        assert!(body.contains(says), "{body}");
    }
    let places = r#"[{"bearer":{"secret":"own"}}],[{"basic":{"secret":"own"}}],[{"query":{"name":"k","secret":"own"}}]"#;
    gateway.apply(vec![secret(3, &client.pem())]);
    for actions in places.split("],[").map(|actions| actions.trim_matches(['[', ']'])) {
        let document = format!(
            r#"{{"allowedHosts":["origin.test"],"allowedAddresses":[{{"host":"*","cidrs":["127.0.0.0/8"]}}],
                "rules":[{{"host":"*","actions":[{actions}]}}]}}"#
        );
        gateway.apply(vec![template("t", &document)]);
        let (_, body) = get(&gateway, "origin.test", port, "/");
        assert!(body.contains("secret_is_key"), "{actions}: {body}");
    }
    assert_eq!(origin.connections(), 0);
}
