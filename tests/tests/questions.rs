//! A request that nothing allows waits for a person: what ends the wait, and that nothing leaves before.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use control_wire::{
    question::{Answer, KeptAnswer, Scheme, Scope, Verdict},
    row::Op,
};
use dataplane::limits::{PARKED_SANDBOX_MAX, QUESTIONS_SANDBOX_MAX};
use handlers_sdk_abi::action::op;
use serde_json::Value;
use tests::{
    gateway::{Gateway, Tls, ask, both_ways, read_answer, read_head, template},
    guests::{answering, entry},
    origin::{Origin, respond},
    questions::once,
};

/// A policy that allows nothing and asks about everything, and lets a loopback origin be reached.
fn asking(more: &str) -> Op {
    template(
        "t",
        &format!(
            r#"{{"allowedAddresses":[{{"host":"*.test","cidrs":["127.0.0.0/8"]}}],
                "ask":{{"hosts":["*.test"]{more}}}}}"#
        ),
    )
}

/// A plane whose sandbox is asked about.
fn start(shards: usize) -> (Origin, Gateway) {
    let origin = Origin::tls(&["origin.test", "second.test"], |seen, out| respond(out, &seen.body));
    let mut gateway = Gateway::start(shards, &origin);
    gateway.apply(vec![asking("")]);
    (origin, gateway)
}

fn get(port: u16) -> String {
    format!("GET /p?q=1 HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n")
}

/// A connection on which one request waits.
fn parked(gateway: &Gateway, port: u16) -> Tls {
    let mut stream = gateway.tls("origin.test", port);
    stream.write_all(get(port).as_bytes()).unwrap();
    stream
}

fn refused(stream: &mut Tls, status: u16) -> Value {
    let (head, body) = read_answer(stream, false);
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head} {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_request_that_is_allowed_once_goes_and_the_next_is_asked_about_again() {
    both_ways(|shards| {
        let (origin, gateway) = start(shards);
        let port = origin.address.port();
        let mut stream = parked(&gateway, port);
        for _ in 0..2 {
            let question = gateway.questions.asked();
            assert_eq!((&*question.sandbox, &*question.method, &*question.path), ("box", "GET", "/p"));
            assert_eq!(
                (question.scheme, &*question.host, question.port),
                (Scheme::Https, "origin.test", port)
            );
            assert_eq!(question.timeout_ms, 60_000);
            assert_eq!(origin.connections(), 0, "nothing leaves before the answer");
            gateway.shards.answer(once(question.id, Verdict::Deny));
            assert_eq!(refused(&mut stream, 403)["code"], "ask_denied");
            stream.write_all(get(port).as_bytes()).unwrap();
        }
        let question = gateway.questions.asked();
        gateway.shards.answer(once(question.id, Verdict::Allow));
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.wait_for(1).len(), 1);
        assert!(gateway.questions.is_silent(), "what was answered is not withdrawn");
        drop(stream);
        let records = gateway.records(3);
        let allowed = records.iter().find(|record| record["verdict"] == "allowed").unwrap();
        assert_eq!(allowed["rule"], "ask.hosts: *.test");
        assert_eq!(
            (&allowed["asked"]["outcome"], &allowed["asked"]["by"], &allowed["asked"]["scope"]),
            (&"allowed".into(), &"somebody".into(), &"once".into())
        );
        assert!(allowed["asked"]["waitedMs"].is_u64());
        let denied: Vec<_> = records.iter().filter(|record| record["asked"]["outcome"] == "denied").collect();
        assert_eq!((denied.len(), &denied[0]["code"]), (2, &"ask_denied".into()));
        assert!(!serde_json::to_string(&records).unwrap().contains("q=1"));
    });
}

#[test]
fn an_answer_for_the_host_stands_in_the_row_and_is_not_asked_again() {
    both_ways(|shards| {
        let (origin, mut gateway) = start(shards);
        let port = origin.address.port();
        let mut stream = parked(&gateway, port);
        let id = gateway.questions.asked().id;
        let kept = |verdict| KeptAnswer {
            verdict,
            scheme: Scheme::Https,
            host: "origin.test".into(),
            port,
            until_unix_ms: None,
        };
        // The row alone is enough: another plane of the sandbox is told no more.
        gateway.keep(vec![kept(Verdict::Allow)]);
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        assert_eq!(gateway.questions.withdrawn(), id);
        assert!(ask(&mut stream, &get(port), b"").0.starts_with("HTTP/1.1 200 "));
        assert!(gateway.questions.is_silent());
        gateway.keep(vec![kept(Verdict::Deny)]);
        let (head, body) = ask(&mut stream, &get(port), b"");
        assert!(head.starts_with("HTTP/1.1 403 ") && String::from_utf8_lossy(&body).contains("ask_denied"));
        gateway.keep(vec![KeptAnswer { until_unix_ms: Some(1), ..kept(Verdict::Allow) }]);
        stream.write_all(get(port).as_bytes()).unwrap();
        let again = gateway.questions.asked();
        let until_unix_ms = u64::MAX;
        let answer = Answer { scope: Scope::Time, until_unix_ms, ..once(again.id, Verdict::Allow) };
        gateway.shards.answer(answer);
        gateway.keep(vec![KeptAnswer { until_unix_ms: Some(until_unix_ms), ..kept(Verdict::Allow) }]);
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        drop(stream);
        let records = gateway.records(4);
        assert_eq!(records[0]["asked"]["outcome"], "policyChanged");
        let asked = &records[3]["asked"];
        assert_eq!(
            (&asked["outcome"], &asked["scope"], &asked["by"]),
            (&"allowed".into(), &"time".into(), &"somebody".into())
        );
    });
}

#[test]
fn where_nobody_answers_the_request_is_denied_in_time() {
    both_ways(|shards| {
        let (origin, mut gateway) = start(shards);
        gateway.apply(vec![asking(r#","timeoutMs":100"#)]);
        let mut stream = parked(&gateway, origin.address.port());
        let question = gateway.questions.asked();
        let problem = refused(&mut stream, 403);
        assert_eq!(
            (&problem["code"], &problem["rule"]),
            (&"ask_timed_out".into(), &"ask.hosts: *.test".into())
        );
        assert!(
            problem["detail"].as_str().unwrap().contains("a person was asked, and nobody answered in 0.1 s")
        );
        assert_eq!(gateway.questions.withdrawn(), question.id);
        assert_eq!(origin.connections(), 0);
        drop(stream);
        let asked = &gateway.records(1)[0]["asked"];
        assert_eq!(asked["outcome"], "timedOut");
        assert!(asked["waitedMs"].as_u64().unwrap() >= 100);
    });
}

#[test]
fn a_client_that_leaves_withdraws_its_question_with_and_without_a_body_unread() {
    both_ways(|shards| {
        let (origin, gateway) = start(shards);
        let port = origin.address.port();
        let body = "POST / HTTP/1.1\r\nContent-Length: 100000\r\nExpect: 100-continue\r\nHost: origin.test:";
        for request in [get(port), format!("{body}{port}\r\n\r\n"), format!("{body}{port}\r\n\r\nsome of it")]
        {
            let mut stream = gateway.tls("origin.test", port);
            stream.write_all(request.as_bytes()).unwrap();
            let question = gateway.questions.asked();
            stream.sock.shutdown(Shutdown::Both).unwrap();
            drop(stream);
            assert_eq!(gateway.questions.withdrawn(), question.id, "{request}");
        }
        assert_eq!(origin.connections(), 0);
        for record in gateway.records(3) {
            assert_eq!(
                (&record["asked"]["outcome"], &record["code"]),
                (&"withdrawn".into(), &"client_gone".into())
            );
        }
    });
}

#[test]
fn a_client_that_waits_for_100_continue_hears_nothing_before_the_answer() {
    let (origin, gateway) = start(4);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    write!(
        stream,
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\nHost: origin.test:{port}\r\n\r\n"
    )
    .unwrap();
    let question = gateway.questions.asked();
    stream.sock.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    stream.sock.set_nonblocking(false).unwrap();
    gateway.shards.answer(once(question.id, Verdict::Allow));
    stream.write_all(b"hello").unwrap();
    let mut head = read_head(&mut stream);
    if head.starts_with("HTTP/1.1 100 ") {
        head = read_head(&mut stream);
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(origin.wait_for(1)[0].body, b"hello");
    drop(stream);
    gateway.records(1);
}

/// A connection on which a request to this host waits, or is refused.
fn ask_about(gateway: &Gateway, host: &str, port: u16) -> Tls {
    let mut stream = gateway.tls(host, port);
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").unwrap();
    stream
}

#[test]
fn bounds_are_refused_by_name_and_equal_requests_share_one_question() {
    both_ways(|shards| {
        let (origin, mut gateway) = start(shards);
        let port = origin.address.port();
        let ask = |host: &str| ask_about(&gateway, host, port);
        let (mut waiting, mut questions) = (Vec::new(), Vec::new());
        for at in 0..QUESTIONS_SANDBOX_MAX {
            waiting.push(ask(&format!("h{at}.test")));
            questions.push(gateway.questions.asked().id);
        }
        let problem = refused(&mut ask("more.test"), 429);
        assert_eq!((&problem["code"], &problem["blame"]), (&"ask_too_many".into(), &"sandbox".into()));
        assert!(problem["detail"].as_str().unwrap().contains("16 questions of the sandbox are open already"));
        // They park in any order, and the one too many is told, whichever it is.
        let same: Vec<Tls> = (QUESTIONS_SANDBOX_MAX..=PARKED_SANDBOX_MAX).map(|_| ask("h0.test")).collect();
        let too_many = gateway.recorded(2);
        assert!(too_many[1]["reason"].as_str().unwrap().contains("32 requests of the sandbox wait"));
        assert!(gateway.questions.is_silent(), "they wait for the answer to the first");
        gateway.shards.answer(once(questions[0], Verdict::Deny));
        let code = |stream: &mut Tls| -> String {
            let problem: Value = serde_json::from_slice(&read_answer(stream, false).1).unwrap();
            problem["code"].as_str().unwrap().into()
        };
        let mut told: Vec<String> =
            same.into_iter().chain([waiting.remove(0)]).map(|mut one| code(&mut one)).collect();
        told.sort();
        assert_eq!(told.pop().as_deref(), Some("ask_too_many"));
        assert_eq!(told, vec!["ask_denied"; PARKED_SANDBOX_MAX - QUESTIONS_SANDBOX_MAX + 1]);
        gateway.apply(vec![template("t", r#"{"allowedHosts":[]}"#)]);
        assert!(waiting.iter_mut().all(|stream| code(stream) == "host_not_allowed"));
        assert_eq!(origin.connections(), 0);
        drop(waiting);
        gateway.stop();
    });
}

#[test]
fn a_lock_down_refuses_what_waits_and_an_allowance_lets_it_go() {
    both_ways(|shards| {
        let (origin, mut gateway) = start(shards);
        let port = origin.address.port();
        let mut stream = parked(&gateway, port);
        let id = gateway.questions.asked().id;
        gateway.apply(vec![template("t", r#"{"deniedHosts":["*"]}"#)]);
        let problem = refused(&mut stream, 403);
        assert_eq!(problem["code"], "host_denied");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("a person was asked, and meanwhile the policy changed")
        );
        assert_eq!(gateway.questions.withdrawn(), id);
        // An answer that comes too late allows nothing.
        gateway.shards.answer(once(id, Verdict::Allow));
        assert_eq!(origin.connections(), 0);
        gateway.apply(vec![asking("")]);
        stream.write_all(get(port).as_bytes()).unwrap();
        let id = gateway.questions.asked().id;
        gateway.apply(vec![tests::gateway::policy(r#"["origin.test"]"#)]);
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        assert_eq!(gateway.questions.withdrawn(), id);
        drop(stream);
        gateway.records(2);
    });
}

#[test]
fn a_change_that_still_asks_neither_asks_anew_nor_cuts_what_was_allowed_once() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nfirst")?;
            out.flush()
        });
        let mut gateway = Gateway::start(shards, &origin);
        gateway.apply(vec![asking("")]);
        let port = origin.address.port();
        let mut stream = parked(&gateway, port);
        let id = gateway.questions.asked().id;
        gateway.apply(vec![asking(r#","timeoutMs":50000"#)]);
        assert!(gateway.questions.is_silent());
        gateway.shards.answer(once(id, Verdict::Allow));
        read_head(&mut stream);
        stream.read_exact(&mut [0; 5]).unwrap();
        gateway.apply(vec![asking("")]);
        stream.sock.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        stream.sock.set_nonblocking(false).unwrap();
        gateway.apply(vec![template("t", r#"{"allowedHosts":[]}"#)]);
        assert!(stream.read(&mut [0]).is_err(), "where nobody would be asked, it is cut");
        drop(stream);
        assert_eq!(gateway.records(1)[0]["verdict"], "cut");
    });
}

#[test]
fn a_lost_link_and_an_absent_one_are_told_at_once() {
    both_ways(|shards| {
        let (origin, gateway) = start(shards);
        let port = origin.address.port();
        let mut stream = parked(&gateway, port);
        gateway.questions.asked();
        gateway.questions.link(false);
        gateway.shards.link_lost();
        assert_eq!(refused(&mut stream, 503)["code"], "ask_link_lost");
        stream.write_all(get(port).as_bytes()).unwrap();
        assert_eq!(refused(&mut stream, 503)["code"], "ask_unreachable");
        gateway.questions.link(true);
        stream.write_all(get(port).as_bytes()).unwrap();
        let id = gateway.questions.asked().id;
        gateway.shards.answer(once(id, Verdict::Allow));
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.seen().len(), 1);
        drop(stream);
        let records = gateway.records(3);
        assert_eq!(
            (&records[0]["asked"]["outcome"], &records[1]["asked"]["outcome"]),
            (&"linkLost".into(), &"notAsked".into())
        );
    });
}

#[test]
fn a_sandbox_that_leaves_the_plane_waits_for_nobody() {
    both_ways(|shards| {
        let (origin, gateway) = start(shards);
        let stream = parked(&gateway, origin.address.port());
        let id = gateway.questions.asked().id;
        gateway.shards.detach(&dataplane::identity::SandboxId::new("box").unwrap()).unwrap();
        assert_eq!(gateway.questions.withdrawn(), id);
        assert_eq!(origin.connections(), 0);
        let records = gateway.records(1);
        assert_eq!(
            (&records[0]["asked"]["outcome"], &records[0]["code"]),
            (&"detached".into(), &"detached".into())
        );
        drop(stream);
    });
}

#[test]
fn requests_that_wait_with_bodies_unread_take_no_neighbours_buffers() {
    let (origin, mut gateway) = start(1);
    let port = origin.address.port();
    gateway.apply(vec![template(
        "open",
        r#"{"allowedHosts":["origin.test"],"allowedAddresses":[{"host":"origin.test","cidrs":["127.0.0.0/8"]}]}"#,
    )]);
    gateway.add_sandbox("other", "word", "open");
    let credentials = data_encoding::BASE64.encode(b"box:word");
    let request = format!(
        "POST http://origin.test:{port}/ HTTP/1.1\r\nHost: origin.test:{port}\r\nContent-Length: 1000000\r\n\
         Proxy-Authorization: Basic {credentials}\r\n\r\n"
    );
    let mut waiting = Vec::new();
    for _ in 0..PARKED_SANDBOX_MAX {
        let mut socket = gateway.socket();
        socket.write_all(&[request.as_bytes(), &[b'x'; 64 << 10]].concat()).unwrap();
        waiting.push(socket);
    }
    let id = gateway.questions.asked().id;
    for _ in 0..20 {
        let mut stream = gateway.tls_as("other", "word", "origin.test", port);
        assert!(ask(&mut stream, &get(port), b"").0.starts_with("HTTP/1.1 200 "));
    }
    gateway.shards.answer(once(id, Verdict::Deny));
    for mut socket in waiting {
        assert!(read_head(&mut socket).starts_with("HTTP/1.1 403 "));
    }
    gateway.stop();
}

#[test]
fn where_a_handler_sends_a_request_is_asked_about_as_well_and_the_record_holds_its_last_word() {
    both_ways(|shards| {
        let (origin, mut gateway) = start(shards);
        let port = origin.address.port();
        let mut line = entry(op::LOG, b"", b"said");
        line[1] = 3;
        let elsewhere = entry(op::HOST, b"", format!("second.test:{port}").as_bytes());
        let publish = gateway.handler("h", 1, &answering(&[line, elsewhere].concat()));
        let policy = r#"{"outbound":{"handler":"h"},"allowedHosts":[],"ask":{"hosts":["*.test"]},
                         "allowedAddresses":[{"host":"*.test","cidrs":["127.0.0.0/8"]}]}"#;
        gateway.apply(vec![publish, template("t", policy)]);
        let mut stream = parked(&gateway, port);
        for host in ["origin.test", "second.test"] {
            let question = gateway.questions.asked();
            assert_eq!(question.host, host);
            assert_eq!(origin.connections(), 0);
            gateway.shards.answer(once(question.id, Verdict::Allow));
        }
        assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
        assert_eq!(origin.wait_for(1)[0].fields("host").next(), Some(&*format!("second.test:{port}")));
        drop(stream);
        let record = gateway.records(1).remove(0);
        assert_eq!((&record["verdict"], record["log"].as_array().unwrap().len()), (&"allowed".into(), 1));
        assert_eq!(record["asked"]["outcome"], "allowed");
    });
}
