//! Handlers on the path of a request: what they may do, what becomes of it, and what a failing one costs others.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use control_wire::row::{Op, SecretRow, SecretValue};
use handlers_sdk_abi::action::op;
use serde_json::Value;
use tests::{
    gateway::{Gateway, SECRET, Tls, ask, both_ways, template},
    guests::{answering, entry, example, guest},
    origin::{Origin, respond},
};

/// The template `t` with this handler, and what else is to be in it, as JSON members behind a comma.
fn handled(handler: &str, more: &str) -> Op {
    template(
        "t",
        &format!(
            r#"{{"allowedHosts":["origin.test","second.test"],
            "allowedAddresses":[{{"host":"*.test","cidrs":["127.0.0.0/8"]}}],
            "outbound":{{"handler":"{handler}"{more}}},
            "rules":[{{"host":"*","match":{{"path":"/private/*"}},"actions":[{{"deny":{{"reason":"not there"}}}}]}}]}}"#
        ),
    )
}

fn echo() -> Origin {
    Origin::tls(&["origin.test", "second.test"], |seen, out| respond(out, &seen.body))
}

/// A plane where every request of `box` goes through this handler.
fn gateway(shards: usize, origin: &Origin, wasm: &[u8], more: &str) -> Gateway {
    let mut gateway = Gateway::start(shards, origin);
    let publish = gateway.handler("h", 7, wasm);
    gateway.apply(vec![publish, handled("h", more)]);
    gateway
}

fn get(stream: &mut Tls, host: &str, path: &str) -> (String, Vec<u8>) {
    ask(stream, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"), b"")
}

fn problem(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("a problem body")
}

fn log(text: &[u8]) -> Vec<u8> {
    let mut line = entry(op::LOG, b"", text);
    line[1] = 3;
    line
}

#[test]
fn handler_names_a_credential_that_the_sandbox_never_sees() {
    let wasm = answering(&entry(op::SET_SECRET, b"authorization", b"Bearer \0token"));
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &wasm, "");
        let host = format!("origin.test:{}", origin.address.port());
        let mut stream = gateway.tls("origin.test", origin.address.port());
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer own\r\n\r\n");
        let (head, body) = ask(&mut stream, &request, b"");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let seen = origin.wait_for(1);
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
        let record = gateway.records(1).remove(0);
        let shown = format!("{head}{}{record}", String::from_utf8_lossy(&body));
        assert!(!shown.contains(SECRET), "{shown}");
        assert_eq!((&record["handler"], &record["handlerVersion"]), (&"h".into(), &7.into()));
    });
}

#[test]
fn secret_that_is_not_bound_to_the_host_is_refused_and_nothing_is_sent() {
    both_ways(|shards| {
        let origin = echo();
        let mut gateway = gateway(shards, &origin, &example("inject_token"), "");
        gateway.apply(vec![
            Op::UpsertSecret(SecretRow {
                name: "github".into(),
                version: 1,
                value: SecretValue::new(SECRET.as_bytes()),
                hosts: vec!["github.example".into()],
                allow_plaintext: false,
            }),
            template(
                "t",
                r#"{"allowedHosts":["api.github.com"],"outboundByHost":[{"host":"api.github.com","handler":"h"}]}"#,
            ),
        ]);
        let mut stream = gateway.tls("api.github.com", 443);
        let (head, body) = get(&mut stream, "api.github.com", "/user");
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert_eq!(problem(&body)["code"], "secret_not_bound");
        assert_eq!(origin.connections(), 0);
        let record = gateway.records(1).remove(0);
        assert_eq!(record["code"], "secret_not_bound");
        assert!(!format!("{head}{}{record}", problem(&body)).contains(SECRET));
    });
}

#[test]
fn allow_hosts_judges_by_its_parameters() {
    let wasm = example("allow_hosts");
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &wasm, r#","params":{"allowedHostnames":["origin.test"]}"#);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        assert!(get(&mut stream, &format!("origin.test:{port}"), "/").0.starts_with("HTTP/1.1 200 "));
        let mut other = gateway.tls("second.test", port);
        let (head, body) = get(&mut other, &format!("second.test:{port}"), "/");
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(problem(&body)["detail"], "second.test is not among the allowed hostnames");
        assert_eq!(origin.seen().len(), 1);
        let records = gateway.records(2);
        assert_eq!(records[1]["reason"], "second.test is not among the allowed hostnames");
    });
}

#[test]
fn parameters_of_another_form_refuse_every_request_by_name() {
    let origin = echo();
    let gateway = gateway(1, &origin, &example("allow_hosts"), r#","params":{"allowed":[]}"#);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(problem(&body)["code"], "handler_params");
    assert_eq!(origin.connections(), 0);
    let reason = gateway.records(1)[0]["reason"].to_string();
    assert!(reason.contains("params of allowHosts"), "the operator is told the words of the guest: {reason}");
}

#[test]
fn no_http_lets_nothing_leave() {
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &example("no_http"), "");
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        let problem = problem(&body);
        assert_eq!(
            (&problem["code"], &problem["detail"]),
            (&"handler_refused".into(), &"this sandbox is locked".into())
        );
        assert_eq!(origin.connections(), 0);
        let record = gateway.records(1).remove(0);
        assert_eq!(record["reason"], "this sandbox is locked");
        assert_eq!(record["verdict"], "refused");
    });
}

#[test]
fn get_only_refuses_with_the_allowed_methods_and_its_log_is_recorded() {
    let wasm = example("get_only");
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &wasm, "");
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        assert!(get(&mut stream, &format!("origin.test:{port}"), "/a").0.starts_with("HTTP/1.1 200 "));
        let request = format!("DELETE /b HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        let (head, _) = ask(&mut stream, &request, b"");
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nAllow: GET\r\n"), "{head}");
        assert_eq!(origin.seen().len(), 1);
        let records = gateway.records(2);
        let lines: Vec<_> = records.iter().map(|record| record["log"][0]["text"].to_string()).collect();
        assert!(lines[0].contains("GET https://origin.test") && lines[1].contains("DELETE"), "{lines:?}");
        assert_eq!(records[1]["log"][0]["level"], "info");
    });
}

#[test]
fn another_path_is_judged_again() {
    both_ways(|shards| {
        let origin = echo();
        let mut gateway = gateway(shards, &origin, &answering(&entry(op::PATH, b"", b"/open/x?y=1")), "");
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        assert!(get(&mut stream, &format!("origin.test:{port}"), "/a").0.starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.wait_for(1)[0].line(), "GET /open/x?y=1 HTTP/1.1");
        let publish = gateway.handler("h", 8, &answering(&entry(op::PATH, b"", b"/private/x")));
        gateway.apply(vec![publish]);
        let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/a");
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(problem(&body)["code"], "rule_denied");
        assert_eq!(origin.seen().len(), 1, "what policy denies is not sent, whoever asks for it");
        let records = gateway.records(2);
        assert!(records[0]["sentTo"].as_str().unwrap().ends_with("/open/x"), "{}", records[0]);
        assert_eq!((&records[1]["path"], &records[1]["code"]), (&"/a".into(), &"rule_denied".into()));
    });
}

#[test]
fn another_host_is_judged_again_and_gets_its_own_connection() {
    both_ways(|shards| {
        let origin = echo();
        let port = origin.address.port();
        let to = |host: &str| answering(&entry(op::HOST, b"", format!("{host}:{port}").as_bytes()));
        let mut gateway = gateway(shards, &origin, &to("second.test"), "");
        let mut stream = gateway.tls("origin.test", port);
        assert!(get(&mut stream, &format!("origin.test:{port}"), "/").0.starts_with("HTTP/1.1 200 "));
        let host = origin.wait_for(1)[0].fields("host").next().map(str::to_owned);
        assert_eq!(host, Some(format!("second.test:{port}")));
        for (version, elsewhere) in [(8, "third.test"), (9, "127.0.0.1")] {
            let publish = gateway.handler("h", version, &to(elsewhere));
            gateway.apply(vec![publish]);
            let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
            assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
            assert_eq!(problem(&body)["code"], "host_not_allowed");
        }
        assert_eq!(origin.seen().len(), 1);
        gateway.records(3);
    });
}

#[test]
fn handler_answers_in_the_upstreams_place() {
    let list = [
        entry(op::APPEND, b"x-made-by", b"handler"),
        entry(op::RESPOND, &201u16.to_le_bytes(), b"made here"),
    ];
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &answering(&list.concat()), "");
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        for _ in 0..2 {
            let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
            assert!(
                head.starts_with("HTTP/1.1 201 ") && head.contains("\r\nx-made-by: handler\r\n"),
                "{head}"
            );
            assert_eq!(body, b"made here");
        }
        assert_eq!(origin.connections(), 0);
        let record = gateway.records(2).remove(0);
        assert_eq!((&record["verdict"], &record["status"]), (&"answered".into(), &201.into()));
    });
}

#[test]
fn failing_handler_refuses_by_name_and_tells_the_sandbox_nothing_of_its_inside() {
    let gave_up = [log(b"before the end"), entry(op::ERROR, b"", b"inner words")].concat();
    let panicking = guest(
        r#"(data (i32.const 64) "inner words at lib.rs:7")"#,
        "(call $panic (i32.const 64) (i32.const 23)) unreachable",
    );
    let cases: [(Vec<u8>, &str, &str); 6] = [
        (guest("", "unreachable"), "handler_trap", "the handler trapped: unreachable"),
        (panicking, "handler_panic", "inner words at lib.rs:7"),
        (answering(&gave_up), "handler_gave_up", "inner words"),
        (answering(&entry(op::SET, b"x", b"a\r\nb: c")), "handler_action", "an action that is refused"),
        (answering(&entry(op::SET, b"a", b"b").repeat(300)), "handler_actions", "too many actions"),
        (guest("", "i64.const 0x80000000"), "handler_pending", "waits for an operation"),
    ];
    both_ways(|shards| {
        let origin = echo();
        let mut gateway = gateway(shards, &origin, &example("no_http"), "");
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let mut version = 7;
        for (wasm, code, _) in &cases {
            version += 1;
            let publish = gateway.handler("h", version, wasm);
            gateway.apply(vec![publish]);
            let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            let problem = problem(&body);
            assert_eq!(problem["code"], *code);
            assert!(problem["detail"].as_str().unwrap().contains("`h`"), "{problem}");
            assert!(!problem.to_string().contains("inner words"), "{problem}");
        }
        assert_eq!(origin.connections(), 0, "nothing is sent for a handler that failed");
        let records = gateway.records(cases.len());
        for ((record, (_, code, reason)), version) in records.iter().zip(&cases).zip(8..) {
            assert_eq!((&record["handler"], &record["handlerVersion"]), (&"h".into(), &version.into()));
            assert_eq!(record["code"], *code);
            assert!(record["reason"].as_str().unwrap().contains(reason), "{record}");
        }
        assert_eq!(records[2]["log"][0]["text"], "before the end", "what it wrote before it gave up");
    });
}

#[test]
fn on_error_next_sends_the_request_as_the_sandbox_wrote_it() {
    let half = [entry(op::SET, b"x-half", b"1"), entry(op::ERROR, b"", b"no idea")].concat();
    both_ways(|shards| {
        let origin = echo();
        let gateway = gateway(shards, &origin, &answering(&half), r#","onError":"next""#);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        assert!(get(&mut stream, &format!("origin.test:{port}"), "/").0.starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.wait_for(1)[0].fields("x-half").count(), 0, "half of an edit is none");
        let record = gateway.records(1).remove(0);
        assert_eq!(record["verdict"], "allowed");
        assert!(record["handlerError"].as_str().unwrap().contains("no idea"), "{record}");
    });
}

#[test]
fn handler_that_is_not_published_refuses_even_where_failures_pass() {
    let origin = echo();
    let mut gateway = Gateway::start(1, &origin);
    gateway.apply(vec![handled("nobody", r#","onError":"next""#)]);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(problem(&body)["code"], "handler_missing");
    assert_eq!(origin.connections(), 0);
    gateway.records(1);
}

#[test]
fn swap_takes_effect_for_the_next_request_of_an_open_connection() {
    both_ways(|shards| {
        let origin = echo();
        let marked = |mark: &[u8]| answering(&entry(op::SET, b"x-version", mark));
        let mut gateway = gateway(shards, &origin, &marked(b"7"), "");
        let port = origin.address.port();
        let mut streams: Vec<_> = (0..4).map(|_| gateway.tls("origin.test", port)).collect();
        for version in 7..12u64 {
            for stream in &mut streams {
                assert!(get(stream, &format!("origin.test:{port}"), "/").0.starts_with("HTTP/1.1 200 "));
            }
            let publish = gateway.handler("h", version + 1, &marked((version + 1).to_string().as_bytes()));
            gateway.apply(vec![publish]);
        }
        let versions: Vec<_> =
            origin.wait_for(20).iter().map(|seen| seen.fields("x-version").collect::<String>()).collect();
        let expected: Vec<_> = (7..12).flat_map(|version| vec![version.to_string(); 4]).collect();
        assert_eq!(versions, expected);
        gateway.records(20);
    });
}

#[test]
fn hostile_guests_of_one_sandbox_never_fail_another_on_the_same_shard() {
    let fill = "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) br $l) unreachable";
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    let recurse = "(func $f (param i64) (result i64) (i64.add (local.get 0) (call $f (i64.add (local.get 0) (i64.const 1)))))";
    let hostile = [
        (guest("", "(loop $l br $l) unreachable"), "handler_fuel"),
        (guest("", fill), "handler_time"),
        (guest("", grow), "handler_memory"),
        (guest(recurse, "(call $f (i64.const 0))"), "handler_stack"),
    ];
    let origin = echo();
    let mut gateway = gateway(1, &origin, &example("no_http"), "");
    let port = origin.address.port();
    let quiet =
        r#"{"allowedHosts":["origin.test"],"allowedAddresses":[{"host":"*","cidrs":["127.0.0.0/8"]}]}"#;
    gateway.apply(vec![template("quiet", quiet)]);
    gateway.add_sandbox("neighbour", "other", "quiet");
    let over = Arc::new(AtomicBool::new(false));
    let neighbour = {
        let (over, mut stream) =
            (Arc::clone(&over), gateway.tls_as("neighbour", "other", "origin.test", port));
        std::thread::spawn(move || {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) || served < 20 {
                let (head, _) = get(&mut stream, &format!("origin.test:{port}"), "/neighbour");
                assert!(head.starts_with("HTTP/1.1 200 "), "request {served}: {head}");
                served += 1;
            }
            served
        })
    };
    for (number, (wasm, code)) in hostile.iter().enumerate() {
        let publish = gateway.handler("h", 8 + number as u64, wasm);
        gateway.apply(vec![publish]);
        // Each another one: who makes a handler run to its bounds is refused for a while.
        let sandbox = format!("hostile-{number}");
        gateway.add_sandbox(&sandbox, "hostile", "t");
        let mut stream = gateway.tls_as(&sandbox, "hostile", "origin.test", port);
        for asked in 0..5 {
            let (head, body) = get(&mut stream, &format!("origin.test:{port}"), "/hostile");
            let found = problem(&body)["code"].clone();
            if asked > 0 && found == "handler_budget" {
                assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            // A slow machine may reach the time before the other bound.
            assert!(found == *code || found == "handler_time", "{found} instead of {code}");
        }
    }
    over.store(true, Ordering::Relaxed);
    let served = neighbour.join().expect("every request of the neighbour was served");
    let seen = origin.seen();
    assert!(
        seen.iter().all(|seen| seen.line().contains("/neighbour")),
        "a refused request reached the upstream"
    );
    let records = gateway.records(20 + served);
    let hostile = |record: &&Value| record["sandbox"].as_str().is_some_and(|id| id.starts_with("hostile-"));
    assert_eq!(records.iter().filter(hostile).count(), 20);
}
