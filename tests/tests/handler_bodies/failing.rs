//! A handler that fails or refuses: before the answer's head was told the sandbox hears why, later the answer is cut.

use std::io::Write;

use h2::Reason;
use serde_json::Value;
use tests::{
    gateway::{ask, read_head},
    guests::example,
    http2::{Client, next, run, whole},
    origin::{Origin, respond},
};

use super::*;

fn problem(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("a problem body")
}

fn hello() -> Origin {
    Origin::tls(&["origin.test"], |_, out| respond(out, b"hello"))
}

#[test]
fn before_the_head_was_told_a_handler_refuses_answers_or_fails_by_name() {
    let origin = hello();
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = gateway.tls("origin.test", port);
    let (refused, body) = ask(&mut stream, &head("GET", "/deny-head", port, ""), b"");
    assert!(refused.starts_with("HTTP/1.1 451 "), "{refused}");
    assert_eq!(
        (&problem(&body)["code"], &problem(&body)["detail"]),
        (&"handler_refused".into(), &"no answers".into())
    );
    let (answered, body) = ask(&mut stream, &head("GET", "/answer-head", port, ""), b"");
    assert!(answered.starts_with("HTTP/1.1 201 ") && answered.contains("x-made: here\r\n"), "{answered}");
    assert_eq!(body, b"made here");
    let (failed, body) = ask(&mut stream, &head("GET", "/panic-head", port, ""), b"");
    assert!(failed.starts_with("HTTP/1.1 502 "), "{failed}");
    let told = problem(&body);
    assert_eq!(told["code"], "handler_panic");
    assert!(!told.to_string().contains("inner words"), "the sandbox is not told the guest's words: {told}");
    let records = gateway.records(3);
    assert_eq!(records[1]["verdict"], "answered");
    let panicked = &records[2];
    assert_eq!((&panicked["handler"], &panicked["handlerVersion"]), (&"h".into(), &7.into()));
    assert!(panicked["reason"].as_str().unwrap().contains("inner words"), "{panicked}");
}

#[test]
fn on_error_next_lets_an_answer_pass_as_the_upstream_sent_it() {
    let origin = hello();
    let (gateway, port) = gateway(&origin, &bodies(), r#","onError":"next""#);
    let mut stream = gateway.tls("origin.test", port);
    for path in ["/panic-head", "/half-head"] {
        let (told, body) = ask(&mut stream, &head("GET", path, port, ""), b"");
        assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("x-half"), "{told}");
        assert_eq!(body, b"hello");
    }
    let records = gateway.records(2);
    assert_eq!(records[0]["verdict"], "allowed");
    assert!(records[0]["handlerError"].as_str().unwrap().contains("inner words"), "{}", records[0]);
    assert!(records[1]["handlerError"].as_str().unwrap().contains("no idea"), "{}", records[1]);
}

/// An origin that sends `one`, and then what a handler does not bear.
fn hash() -> Origin {
    Origin::wire(&["origin.test"], |wire| {
        asked(wire);
        wire.write_all(CHUNKED.as_bytes())?;
        chunk(wire, "one")?;
        // The client has seen the first piece when it asks for the rest.
        let mut byte = [0];
        std::io::Read::read_exact(&mut &mut *wire, &mut byte)?;
        chunk(wire, "#two")?;
        wire.write_all(b"0\r\n\r\n")?;
        wire.flush()
    })
}

#[test]
fn a_failure_or_a_refusal_within_a_body_cuts_the_answer_even_where_errors_pass() {
    for (path, given, code, more) in [
        ("/shout-down", "ONE", "handler_panic", ""),
        ("/shout-down", "ONE", "handler_panic", r#","onError":"next""#),
        ("/judge-down", "one", "handler_refused", ""),
    ] {
        let origin = hash();
        let (gateway, port) = gateway(&origin, &bodies(), more);
        let mut stream = gateway.tls("origin.test", port);
        let request = head("POST", path, port, "Transfer-Encoding: chunked\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        assert_eq!(read(&mut stream, 8), format!("3\r\n{given}\r\n"));
        stream.write_all(b"1\r\nx\r\n").unwrap();
        let rest = until_cut(&mut stream);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        let record = gateway.records(1).remove(0);
        assert_eq!((&record["verdict"], &record["code"]), (&"broken".into(), &code.into()), "{record}");
        assert_eq!((&record["handler"], &record["handlerVersion"]), (&"h".into(), &7.into()));
        let reason = record["reason"].as_str().unwrap();
        assert!(reason.contains("inner words after 2") || reason.contains("no hashes"), "{reason}");
    }
}

#[test]
fn a_failure_within_a_body_breaks_a_stream_of_http_2_and_leaves_the_others() {
    let origin = Origin::tls(&["origin.test"], |seen, out| {
        let body = if seen.line().contains("shout") { "one#" } else { "hello" };
        respond(out, body.as_bytes())
    });
    let (gateway, port) = gateway(&origin, &bodies(), "");
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, _) = client.send(client.request("GET", "/shout-down"), true).await;
        let broken = match answer.await {
            Err(error) => error,
            Ok(answer) => {
                let mut body = answer.into_body();
                match next(&mut body).await {
                    Some(Err(error)) => error,
                    other => panic!("a part never looks whole: {other:?}"),
                }
            }
        };
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(client.get("/").await.text(), "hello");
    });
    let records = gateway.records(2);
    assert_eq!((&records[0]["verdict"], &records[0]["code"]), (&"broken".into(), &"handler_panic".into()));
}

#[test]
fn a_word_in_an_upload_ends_it_before_the_upstream_has_it_whole() {
    let origin = hello();
    let (gateway, port) =
        gateway(&origin, &example("guard_uploads"), r#","params":{"words":["project-falcon"]}"#);
    let mut stream = gateway.tls("origin.test", port);
    let request = head("POST", "/", port, "Transfer-Encoding: chunked\r\n");
    stream.write_all(format!("{request}8\r\nProject-\r\n").as_bytes()).unwrap();
    stream.flush().unwrap();
    let (told, body) = ask(&mut stream, "6\r\nFalcon\r\n0\r\n\r\n", b"");
    assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    assert_eq!(problem(&body)["code"], "handler_refused");
    // The same over HTTP/2, and one that may pass.
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let (answer, mut body) = client.send(client.request("POST", "/"), false).await;
        body.send_data("project-".into(), false).unwrap();
        body.send_data("falcon".into(), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), 403);
        let (answer, mut body) = client.send(client.request("POST", "/"), false).await;
        body.send_data("project-eagle".into(), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), 200);
    });
    let seen = origin.seen();
    assert_eq!(seen.len(), 1, "no upload that was ended looked whole: {seen:?}");
    assert_eq!(seen[0].body, b"project-eagle");
    let records = gateway.records(3);
    assert_eq!((&records[0]["verdict"], &records[0]["code"]), (&"refused".into(), &"handler_refused".into()));
    assert!(records[0]["log"][0]["text"].as_str().unwrap().contains("a restricted word"), "{}", records[0]);
}

#[test]
fn a_request_whose_body_a_handler_saw_is_not_sent_twice() {
    // The origin closes each connection behind its first answer, without a word about it.
    let origin = Origin::wire(&["origin.test"], |wire| {
        let head = asked(wire);
        let mut body = [0; 2];
        if head.starts_with("POST") {
            std::io::Read::read_exact(&mut &mut *wire, &mut body)?;
        }
        respond(&mut &mut *wire, b"hello")?;
        asked(wire);
        Ok(())
    });
    let (gateway, port) = gateway(&origin, &bodies(), "");
    let mut stream = gateway.tls("origin.test", port);
    let post = head("POST", "/judge-up", port, "Content-Length: 2\r\n");
    assert_eq!(ask(&mut stream, &post, b"ab").1, b"hello");
    let (told, body) = ask(&mut stream, &post, b"cd");
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    assert_eq!(problem(&body)["code"], "upstream_closed");
    assert_eq!(origin.connections(), 1);
    gateway.records(2);
}

/// Remembers 600 KiB while it waits for an answer.
const HOARD: &str = r#"
use handlers_sdk::prelude::*;

#[handler(hooks = ["response"])]
async fn hoard(request: Request, _: Context) -> Outcome {
    let much = vec![1_u8; 600 << 10];
    let mut response = request.send().await;
    let kept = much.iter().filter(|byte| **byte == 1).count();
    response.headers_mut().set("x-kept", kept.to_string());
    response.forward()
}
"#;

#[test]
fn what_handlers_remember_of_a_sandbox_is_bounded_and_given_back() {
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let origin = Origin::tls(&["origin.test"], move |_, out| {
        waits.lock().expect("no thread panicked").recv().map_err(io::Error::other)?;
        respond(out, b"hello")
    });
    let (gateway, port) = gateway(&origin, &built("hoard", HOARD), "");
    const STREAMS: usize = 60;
    run(async {
        let mut client = Client::connect(&gateway, "origin.test", port).await;
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            answers.push(client.send(client.request("GET", "/"), true).await.0);
        }
        let mut refused = 0;
        // Those that find no room are told at once, while nobody else is answered.
        for answer in answers.split_off(48) {
            let answer = whole(answer).await.unwrap();
            assert_eq!(answer.head.status().as_u16(), 503, "{}", answer.text());
            assert!(answer.text().contains("handler_kept"), "{}", answer.text());
            refused += 1;
        }
        assert_eq!(refused, STREAMS - 48);
        (0..STREAMS).for_each(|_| go.send(()).unwrap());
        let mut served = 0;
        for answer in answers {
            let answer = whole(answer).await.unwrap();
            if answer.head.status().as_u16() == 200 {
                assert_eq!(answer.head.headers()["x-kept"], (600 << 10).to_string().as_str());
                served += 1;
            }
        }
        assert!(served >= 30, "a sandbox has room for {served} alone");
        assert_eq!(client.get("/").await.head.status().as_u16(), 200, "the room is given back");
    });
    gateway.records(STREAMS + 1);
}
