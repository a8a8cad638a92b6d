//! A handler that takes the shard's time takes it from its own sandbox: requests are refused by name, others are served.

use tests::{
    gateway::{Gateway, Tls, ask, template},
    guests::guest,
    origin::{Origin, respond},
};

const ENDLESS: &str = "(loop $l br $l) unreachable";

fn get(stream: &mut Tls, host: &str, path: &str) -> (String, serde_json::Value) {
    let (head, body) = ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"), b"");
    (head, serde_json::from_slice(&body).unwrap_or_default())
}

/// One shard, whose sandbox `box` has an endless handler before `origin.test` and none before `second.test`, and whose
/// `neighbour` has none.
fn shared_shard(origin: &Origin, more: &str) -> Gateway {
    let mut gateway = Gateway::start(1, origin);
    let allowed = r#""allowedHosts":["origin.test","second.test"],
        "allowedAddresses":[{"host":"*.test","cidrs":["127.0.0.0/8"]}]"#;
    let handled = format!(r#"{{{allowed},"outboundByHost":[{{"host":"origin.test","handler":"h"{more}}}]}}"#);
    let publish = gateway.handler("h", 7, &guest("", ENDLESS));
    gateway.apply(vec![publish, template("t", &handled), template("quiet", &format!("{{{allowed}}}"))]);
    gateway.add_sandbox("neighbour", "other", "quiet");
    gateway
}

#[test]
fn endless_handler_is_refused_for_its_sandbox_alone() {
    let origin = Origin::tls(&["origin.test", "second.test"], |seen, out| respond(out, &seen.body));
    let gateway = shared_shard(&origin, "");
    let port = origin.address.port();
    let (handled, bare) = (format!("origin.test:{port}"), format!("second.test:{port}"));
    let mut hostile = gateway.tls("origin.test", port);
    let mut stopped = 0;
    let (head, problem) = loop {
        let (head, problem) = get(&mut hostile, &handled, "/hostile");
        if problem["code"] == "handler_budget" {
            break (head, problem);
        }
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(["handler_fuel", "handler_time"].contains(&problem["code"].as_str().unwrap_or_default()));
        stopped += 1;
        assert!(stopped < 100, "nothing holds it back");
    };
    assert!(stopped > 0 && head.starts_with("HTTP/1.1 429 "), "{head}");
    assert_eq!((&problem["code"], &problem["blame"]), (&"handler_budget".into(), &"sandbox".into()));
    let after = head.lines().find_map(|line| line.strip_prefix("Retry-After: "));
    assert!(after.is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|seconds| seconds > 0)), "{head}");

    let mut neighbour = gateway.tls_as("neighbour", "other", "origin.test", port);
    assert!(get(&mut neighbour, &handled, "/neighbour").0.starts_with("HTTP/1.1 200 "));
    // What no handler is to see goes on, for the hostile one too.
    let mut without = gateway.tls("second.test", port);
    assert!(get(&mut without, &bare, "/without").0.starts_with("HTTP/1.1 200 "));

    let lines: Vec<String> = origin.wait_for(2).iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(lines, ["GET /neighbour HTTP/1.1", "GET /without HTTP/1.1"]);
    let records = gateway.records(stopped + 3);
    let budget = &records[stopped];
    assert_eq!((&budget["code"], &budget["verdict"]), (&"handler_budget".into(), &"refused".into()));
    assert_eq!((&budget["handler"], &budget["status"]), (&"h".into(), &429.into()));
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn who_asks_too_much_of_a_handler_does_not_get_past_it() {
    let origin = Origin::tls(&["origin.test", "second.test"], |seen, out| respond(out, &seen.body));
    let gateway = shared_shard(&origin, r#","onError":"next""#);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let mut failed = 0;
    let (head, problem) = loop {
        let (head, problem) = get(&mut stream, &format!("origin.test:{port}"), "/");
        // The operator lets pass what the handler fails at.
        if !head.starts_with("HTTP/1.1 200 ") {
            break (head, problem);
        }
        failed += 1;
        assert!(failed < 100, "nothing holds it back");
    };
    assert!(failed > 0 && head.starts_with("HTTP/1.1 429 "), "{head}");
    assert_eq!(problem["code"], "handler_budget");
    assert_eq!(origin.seen().len(), failed);
    gateway.records(failed + 1);
}
