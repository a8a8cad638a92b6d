//! Connections to upstreams that go through a proxy or come from an address, as a rule says: so or not at all.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use control_wire::row::{Op, SecretRow, SecretValue};
use rustls::{
    StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use tests::{
    client,
    gateway::{Gateway, ask, template},
    origin::{Origin, respond},
    upstream_proxy::{Then, UpstreamProxy},
};

/// Whoever sees it sees the proxy's credentials.
const LOGIN: &str = "gateway:pr0xy-word-that-stays-here";

fn origin() -> Origin {
    Origin::tls(&["origin.test"], |_, out| respond(out, b"page"))
}

/// Rules of a sandbox whose connections to `origin.test` are made so.
fn policy(way: &str) -> Op {
    policy_with(way, "")
}

fn policy_with(way: &str, more: &str) -> Op {
    let document = format!(
        r#"{{"allowedHosts":["origin.test"],"allowedAddresses":[{{"host":"origin.test","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"origin.test","actions":[{{"upstream":{way}}}]}}]{more}}}"#
    );
    template("t", &document)
}

fn login(version: u64, hosts: &str, allow_plaintext: bool) -> Op {
    Op::UpsertSecret(SecretRow {
        name: "login".into(),
        version,
        value: SecretValue::new(format!("{LOGIN}{version}").as_bytes()),
        hosts: vec![hosts.into()],
        allow_plaintext,
    })
}

/// Head and body of the answer to one request on a connection of its own.
fn get(gateway: &Gateway, port: u16) -> (String, String) {
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = ask(&mut stream, &format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"), b"");
    (head, String::from_utf8_lossy(&body).into_owned())
}

/// Both kinds of proxies, with the scheme by which a rule names each.
fn proxies(origin: SocketAddr, then: [Then; 2]) -> [(&'static str, UpstreamProxy); 2] {
    [("http", UpstreamProxy::http(origin, then[0])), ("socks5", UpstreamProxy::socks5(origin, then[1]))]
}

#[test]
fn a_proxy_is_given_the_checked_address_and_its_connection_is_used_again() {
    let origin = origin();
    let port = origin.address.port();
    for (scheme, proxy) in proxies(origin.address, [Then::Relays; 2]) {
        let mut gateway = Gateway::start(1, &origin);
        gateway.apply(vec![policy(&format!(r#"{{"via":"{scheme}://{}"}}"#, proxy.address))]);
        for _ in 0..2 {
            let (head, body) = get(&gateway, port);
            assert!(head.starts_with("HTTP/1.1 200 ") && body == "page", "{head}{body}");
        }
        let told = proxy.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((&*told[0].whither, &told[0].login), (&*origin.address.to_string(), &None));
        let records = gateway.records(2);
        assert_eq!(records[0]["via"], format!("{scheme}://{}", proxy.address), "{records:?}");
        assert_eq!(records[0]["address"], origin.address.to_string());
    }
}

#[test]
fn a_proxy_that_resolves_is_given_the_name_unless_the_policy_denies_ranges() {
    let origin = origin();
    let port = origin.address.port();
    for (scheme, proxy) in proxies(origin.address, [Then::Relays; 2]) {
        // Nobody but the proxy knows the name.
        let mut gateway = Gateway::start_where(1, &origin, "");
        let way = format!(r#"{{"via":"{scheme}://{}","resolve":"proxy"}}"#, proxy.address);
        gateway.apply(vec![policy(&way)]);
        assert_eq!(get(&gateway, port).1, "page");
        assert_eq!(proxy.told()[0].whither, format!("origin.test:{port}"));
        gateway.apply(vec![policy_with(&way, r#","deniedHosts":["10.0.0.0/8"]"#)]);
        let (head, body) = get(&gateway, port);
        assert!(head.starts_with("HTTP/1.1 403 ") && body.contains("address_unchecked"), "{head}{body}");
        assert_eq!(proxy.told().len(), 1);
    }
}

#[test]
fn a_proxy_opens_no_address_that_the_guard_refuses() {
    let origin = origin();
    let proxy = UpstreamProxy::http(origin.address, Then::Relays);
    let mut gateway = Gateway::start_where(1, &origin, "10.0.0.1 origin.test\n");
    gateway.apply(vec![policy(&format!(r#"{{"via":"http://{}"}}"#, proxy.address))]);
    let (head, body) = get(&gateway, origin.address.port());
    assert!(head.starts_with("HTTP/1.1 403 ") && body.contains("address_special"), "{head}{body}");
    // Nor is a proxy dialled that is named by a name which leads into special-purpose space.
    let mut gateway = Gateway::start_where(1, &origin, "127.0.0.1 origin.test proxy.test\n");
    gateway.apply(vec![policy(&format!(r#"{{"via":"http://proxy.test:{}"}}"#, proxy.address.port()))]);
    let (head, body) = get(&gateway, origin.address.port());
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains("proxy_unreachable"), "{head}{body}");
    assert!(gateway.records(1)[0]["reason"].as_str().is_some_and(|reason| reason.contains("loopback")));
    assert_eq!((proxy.told().len(), origin.connections()), (0, 0));
}

#[test]
fn where_the_proxy_fails_the_request_fails_by_name_and_nothing_goes_directly() {
    let origin = origin();
    let port = origin.address.port();
    let http = |words| ("http", Then::Says(words));
    let socks = |words| ("socks5", Then::Says(words));
    for ((scheme, then), code) in [
        (http(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "proxy_login"),
        (http(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "proxy_refused"),
        (http(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), "proxy_unreached"),
        (http(b"220 mail.example ESMTP\r\n\r\n"), "proxy_protocol"),
        (http(b""), "proxy_broken"),
        (socks(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]), "proxy_refused"),
        (socks(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]), "proxy_unreached"),
        (socks(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "proxy_protocol"),
    ] {
        let proxy = match scheme {
            "http" => UpstreamProxy::http(origin.address, then),
            _ => UpstreamProxy::socks5(origin.address, then),
        };
        refused(&origin, &format!("{scheme}://{}", proxy.address), code);
        assert_eq!(proxy.told().len(), 1, "{code}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&origin, &format!("socks5://{gone}"), "proxy_unreachable");
    refused(&origin, "http://nowhere.invalid:3128", "proxy_unresolved");
    assert_eq!(origin.connections(), 0, "{port}");
}

fn refused(origin: &Origin, via: &str, code: &str) {
    let mut gateway = Gateway::start(1, origin);
    gateway.apply(vec![policy(&format!(r#"{{"via":"{via}"}}"#))]);
    let (head, body) = get(&gateway, origin.address.port());
    assert!(head.starts_with("HTTP/1.1 502 ") && body.contains(code), "{code}: {head}{body}");
    assert!(body.contains("upstream.via") && !body.contains("127.0.0.1"), "{body}");
    let record = &gateway.records(1)[0];
    assert_eq!((&record["code"], &record["via"]), (&code.into(), &via.into()), "{record}");
}

#[test]
fn credentials_of_a_proxy_come_from_a_secret_that_is_bound_to_it_and_may_go_in_the_clear() {
    let origin = origin();
    let port = origin.address.port();
    for (scheme, proxy) in proxies(origin.address, [Then::Relays; 2]) {
        let mut gateway = Gateway::start(1, &origin);
        let way = format!(r#"{{"via":"{scheme}://{}","secret":"login"}}"#, proxy.address);
        gateway.apply(vec![policy(&way)]);
        for (secret, code) in [
            (None, "secret_missing"),
            (Some(login(1, "origin.test", true)), "secret_not_bound"),
            (Some(login(2, "127.0.0.1", false)), "secret_plaintext"),
        ] {
            gateway.apply(secret.into_iter().collect());
            let (head, body) = get(&gateway, port);
            assert!(head.starts_with("HTTP/1.1 502 ") && body.contains(code), "{head}{body}");
        }
        assert_eq!(proxy.told(), []);
        // Another value makes another connection, at once.
        for version in [3, 4] {
            gateway.apply(vec![login(version, "127.0.0.1", true)]);
            assert_eq!(get(&gateway, port).1, "page");
            let told = proxy.told();
            assert_eq!(told.last().and_then(|told| told.login.clone()), Some(format!("{LOGIN}{version}")));
        }
        let records = gateway.records(5);
        assert_eq!(records[4]["secrets"][0], "login", "{records:?}");
        assert!(!format!("{records:?}").contains("pr0xy-word"));
    }
}

#[test]
fn connections_of_one_way_serve_no_request_of_another() {
    let origin = origin();
    let port = origin.address.port();
    let [(_, one), (_, two)] = proxies(origin.address, [Then::Relays; 2]);
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![template(
        "t",
        r#"{"allowedHosts":["origin.test"],"allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}]}"#,
    )]);
    assert_eq!(get(&gateway, port).1, "page");
    for (via, proxy) in
        [(format!("http://{}", one.address), &one), (format!("socks5://{}", two.address), &two)]
    {
        gateway.apply(vec![policy(&format!(r#"{{"via":"{via}"}}"#))]);
        assert_eq!(get(&gateway, port).1, "page");
        assert_eq!(proxy.told().len(), 1);
    }
    assert_eq!(origin.connections(), 3);
}

/// A plain origin that says which address its client has.
fn whence() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        while let Ok((socket, from)) = listener.accept() {
            let mut reader = BufReader::new(socket);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let _answered = respond(reader.get_mut(), from.ip().to_string().as_bytes());
        }
    });
    address
}

#[test]
fn connections_come_from_the_address_that_a_rule_names_or_not_at_all() {
    let (origin, plain) = (origin(), whence());
    let mut gateway = Gateway::start(1, &origin);
    let mut socket = gateway.socket();
    let mut from = |gateway: &mut Gateway, way: &str| {
        gateway.apply(vec![policy(way)]);
        let credentials = "Ym94OndvcmQ=";
        let url = format!("http://origin.test:{}/", plain.port());
        let head = format!(
            "GET {url} HTTP/1.1\r\nHost: origin.test:{}\r\nProxy-Authorization: Basic {credentials}\r\n\r\n",
            plain.port()
        );
        let (_, body) = ask(&mut socket, &head, b"");
        String::from_utf8_lossy(&body).into_owned()
    };
    assert_eq!(from(&mut gateway, r#"{"sourceAddress":"127.0.0.2"}"#), "127.0.0.2");
    assert_eq!(from(&mut gateway, r#"{"sourceAddress":"127.0.0.3"}"#), "127.0.0.3");
    for elsewhere in ["192.0.2.9", "::1"] {
        let body = from(&mut gateway, &format!(r#"{{"sourceAddress":"{elsewhere}"}}"#));
        assert!(body.contains("source_address") && body.contains("sourceAddress"), "{body}");
    }
    let proxy = UpstreamProxy::http(plain, Then::Relays);
    let way = format!(r#"{{"via":"http://{}","sourceAddress":"127.0.0.4"}}"#, proxy.address);
    assert_eq!(from(&mut gateway, &way), "127.0.0.1", "the proxy's own");
    assert_eq!(proxy.told()[0].from.to_string(), "127.0.0.4");
    drop(socket);
    let records = gateway.records(5);
    assert_eq!((&records[0]["from"], &records[4]["from"]), (&"127.0.0.2".into(), &"127.0.0.4".into()));
}

#[test]
fn tls_that_is_relayed_unread_goes_the_same_way() {
    let origin = origin();
    let port = origin.address.port();
    for (scheme, proxy) in proxies(origin.address, [Then::Relays; 2]) {
        let mut gateway = Gateway::start(1, &origin);
        let way = format!(r#"{{"via":"{scheme}://{}"}}}},{{"passthrough":{{}}"#, proxy.address);
        gateway.apply(vec![policy(&way)]);
        let root = CertificateDer::from_pem_slice(origin.root_pem.as_bytes()).expect("a certificate");
        let mut stream = StreamOwned::new(
            client::trusting(&root, "origin.test", &[]),
            gateway.tunnel("origin.test", port),
        );
        let head = format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        assert!(ask(&mut stream, &head, b"").0.starts_with("HTTP/1.1 200 "));
        assert_eq!(proxy.told()[0].whither, origin.address.to_string());
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        drop(stream);
        let record = &gateway.records(1)[0];
        assert_eq!(record["via"], format!("{scheme}://{}", proxy.address), "{record}");
        assert!(record["bytesDown"].as_u64() > Some(100), "{record}");
    }
}
