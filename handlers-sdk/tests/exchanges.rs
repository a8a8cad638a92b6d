//! Handlers that go on after the request's head run natively: answers, bodies, and what they may not do.

use handlers_sdk::prelude::*;
use handlers_sdk::testing::{Host, Request as Asked, Response as Answered, Verdict};
use handlers_sdk::{HeaderError, OperationError};

fn post() -> Asked {
    Asked::new("POST", "https://a.example/x?y").header("content-type", "text/plain").piece("ab").piece("cd")
}

fn answer() -> Answered {
    Answered::new(200).header("server", "inner").header("x-a", "1").piece("one ").piece("two")
}

#[handler(hooks = ["requestBody", "response", "responseBody"])]
async fn everything(mut request: Request, context: Context) -> Result<Outcome, OperationError> {
    context.sleep(1).await?;
    request.headers_mut().set("x-sent", "yes");
    let mut count = 0;
    request.change_body(move |chunk, out| {
        count += chunk.bytes.len();
        out.extend(chunk.bytes.iter().map(u8::to_ascii_uppercase));
        if chunk.last {
            out.extend_from_slice(format!("[{count}]").as_bytes());
        }
        Ok(())
    });
    // Lives on from event to event.
    let before = request.url();
    let mut response = request.send().await;
    assert_eq!((response.status(), response.header("server")), (200, Some("inner")));
    assert!(response.body_bytes() >= Some(7));
    assert_eq!(response.headers_mut().try_set("a", secret("s")), Err(HeaderError::Secret("a".to_owned())));
    response.headers_mut().remove("server");
    response.headers_mut().set("x-url", before);
    response.set_status(203);
    let mut seen = Vec::new();
    response.look_at_body(move |chunk| {
        seen.extend_from_slice(chunk.bytes);
        if chunk.last {
            info!("{}", String::from_utf8_lossy(&seen));
        }
        Ok(())
    });
    Ok(response.forward())
}

#[test]
fn a_handler_sees_both_bodies_and_the_answer_in_one_go() {
    let done = Host::new().exchange::<everything>(&post(), &answer());
    assert_eq!((&done.verdict, done.status), (&Verdict::Forwarded, Some(203)));
    assert_eq!((done.request.header("x-sent"), done.request.suspensions), (Some("yes"), 1));
    assert_eq!((&done.sent[..], &done.body[..]), (&b"ABCD[4]"[..], &b"one two"[..]));
    assert_eq!((done.header("server"), done.header("x-a")), (None, Some("1")));
    assert_eq!(done.header("x-url"), Some("https://a.example/x?y"));
    assert_eq!(done.logs.iter().map(|line| line.1.as_str()).collect::<Vec<_>>(), ["one two"]);
}

#[handler(hooks = ["response"])]
async fn instead(request: Request, _: Context) -> Outcome {
    let response = request.send().await;
    match response.status() {
        500.. => Outcome::respond(200, "all is well").header("x-made", "here"),
        404 => Outcome::deny("nothing to see"),
        _ => response.forward(),
    }
}

#[test]
fn an_answer_can_be_replaced_before_anything_of_it_was_told() {
    let exchange = |status| Host::new().exchange::<instead>(&post(), &Answered::new(status).piece("inner"));
    let replaced = exchange(503);
    assert_eq!(replaced.verdict, Verdict::Responded { status: 200, body: b"all is well".to_vec() });
    assert!(replaced.status.is_none() && replaced.body.is_empty());
    let refused = Verdict::Refused { status: None, reason: "nothing to see".to_owned() };
    assert_eq!(exchange(404).verdict, refused);
    assert_eq!(exchange(200).body, b"inner");
}

#[handler(hooks = ["requestBody"])]
async fn early(request: Request, _: Context) -> Outcome {
    request.forward()
}

#[test]
fn a_body_that_nobody_asked_for_passes() {
    let done = Host::new().exchange::<early>(&post(), &answer());
    assert_eq!((&done.sent[..], &done.body[..]), (&b"abcd"[..], &b"one two"[..]));
}

#[handler]
async fn without_hook(mut request: Request, _: Context) -> Outcome {
    request.look_at_body(|_| Ok(()));
    request.forward()
}

#[test]
fn a_body_is_asked_for_only_with_its_hook() {
    let error = Host::new().try_exchange::<without_hook>(&post(), &answer()).expect_err("refused");
    assert!(error.contains("requestBody"), "{error}");
}

#[handler]
async fn waits_without_hook(request: Request, _: Context) -> Outcome {
    request.send().await.forward()
}

#[test]
#[should_panic(expected = "names the hook")]
fn the_answer_is_awaited_only_with_its_hook() {
    let _never = Host::new().exchange::<waits_without_hook>(&post(), &answer());
}

#[handler(hooks = ["responseBody"])]
async fn flood(request: Request, _: Context) -> Outcome {
    let mut response = request.send().await;
    response.change_body(|_, out| {
        out.resize(61 * 1024, b'x');
        Ok(())
    });
    response.forward()
}

#[test]
#[should_panic(expected = "at most 61440 fit")]
fn a_piece_grows_within_its_bound() {
    let _never = Host::new().exchange::<flood>(&post(), &answer());
}

#[test]
fn long_pieces_come_in_chunks_of_the_contract() {
    let long = vec![b'a'; 40 * 1024];
    let done = Host::new().exchange::<everything>(&post().piece(&long), &answer().piece(&long));
    assert!(done.sent.ends_with(b"AA[40964]") && done.body.len() == long.len() + 7);
}
