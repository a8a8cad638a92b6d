//! Handlers run natively: waiting, edits, logs, failures.

use handlers_sdk::abi::code::Level;
use handlers_sdk::prelude::*;
use handlers_sdk::testing::{Host, Request as Asked, Verdict};
use handlers_sdk::{Handler, HeaderError, OperationError};

#[handler(name = "perSandbox", hooks = ["response"])]
async fn per_sandbox(mut request: Request, context: Context) -> Result<Outcome, OperationError> {
    let keys = context.kv("keys").scoped(context.container_id());
    context.sleep(5).await?;
    let Some(name) = keys.get("secret").await? else { return Ok(Outcome::deny("no key")) };
    keys.put("used", "1", 0).await?;
    let Ok(name) = String::from_utf8(name) else { return Ok(Outcome::deny("not a name")) };
    request.headers_mut().set("x-auth-token", secret(name));
    Ok(request.forward())
}

#[test]
fn a_handler_waits_and_goes_on_where_it_stopped() {
    let host = Host::new().container_id("c1").kv("keys", "c1/secret", "vcs");
    let ran = host.get::<per_sandbox>("https://vcs.example/");
    assert_eq!((ran.verdict.clone(), ran.suspensions), (Verdict::Forwarded, 3));
    assert_eq!(ran.secret("X-Auth-Token"), Some(("", "vcs")));
    let other = host.container_id("c2").get::<per_sandbox>("https://vcs.example/");
    assert_eq!(other.verdict, Verdict::Refused { status: None, reason: "no key".to_owned() });
}

#[test]
fn the_manifest_says_name_and_hooks() {
    assert_eq!(per_sandbox::MANIFEST, r#"{"abi":1,"name":"perSandbox","hooks":["request","response"]}"#);
    assert_eq!(edits::NAME, "edits");
}

#[handler]
async fn edits(mut request: Request, _: Context) -> Outcome {
    let headers = request.headers_mut();
    assert_eq!((headers.get("x-a"), headers.contains("X-B")), (Some("1"), true));
    headers.set("X_A", "2");
    headers.remove("x-b");
    headers.append("x-c", "3");
    headers.bearer("token");
    assert_eq!((headers.get("x-a"), headers.get("x-b"), headers.get("x-c")), (Some("2"), None, Some("3")));
    assert!(!headers.contains("x-b"));
    assert_eq!(headers.try_set("Host", "x"), Err(HeaderError::Reserved("Host".to_owned())));
    assert_eq!(headers.try_set("x", "a\r\nb"), Err(HeaderError::Value("x".to_owned())));
    assert_eq!(headers.try_set("x y", "a"), Err(HeaderError::Name("x y".to_owned())));
    request.set_path("/other?x=1");
    request.set_host("example.org:8443");
    request.forward()
}

#[test]
fn edits_are_seen_by_the_handler_and_reach_the_gateway() {
    let request = Asked::get("http://example.com/").header("x-a", "1").header("x-b", "1");
    let ran = Host::new().run::<edits>(&request);
    assert_eq!(ran.verdict, Verdict::Forwarded);
    assert_eq!((ran.header("x-a"), ran.header("x-b"), ran.header("x-c")), (Some("2"), None, Some("3")));
    assert_eq!(ran.header("authorization"), Some("Bearer token"));
    assert_eq!(ran.path.as_deref(), Some("/other?x=1"));
    assert_eq!(ran.host, Some(("example.org".to_owned(), Some(8443))));
}

#[handler]
async fn facts(request: Request, context: Context) -> Outcome {
    let labels: Vec<_> = context.labels().collect();
    assert_eq!(labels, [("team", "blue")]);
    assert_eq!((context.label("team"), context.label("none")), (Some("blue"), None));
    assert_eq!((context.container_id(), context.class_name()), ("c1", "agent"));
    assert_eq!((context.host(), context.port()), ("example.com", 8443));
    assert_eq!((context.handler(), context.revision()), ("published", 7));
    assert_eq!((request.path(), request.query(), request.scheme()), ("/a", Some("b=c"), "https"));
    Outcome::respond(200, request.url()).header("content-type", "text/plain")
}

#[test]
fn a_handler_knows_who_asks_and_what() {
    let host = Host::new().container_id("c1").class_name("agent").label("team", "blue");
    let ran = host.handler("published").revision(7).get::<facts>("https://example.com:8443/a?b=c");
    let body = b"https://example.com:8443/a?b=c".to_vec();
    assert_eq!(ran.verdict, Verdict::Responded { status: 200, body });
    assert_eq!(ran.header("content-type"), Some("text/plain"));
}

#[handler]
async fn chatty(request: Request, _: Context) -> Outcome {
    for line in 0..100 {
        debug!("line {line}");
    }
    request.forward()
}

#[test]
fn a_chatty_handler_loses_lines_and_not_the_request() {
    let ran = Host::new().get::<chatty>("http://example.com/");
    assert_eq!((ran.verdict, ran.logs.len()), (Verdict::Forwarded, 16));
    assert_eq!(ran.logs[0], (Level::Debug, "line 0".to_owned()));
    assert_eq!(ran.logs[15], (Level::Warn, "further lines of this event were dropped".to_owned()));
}

#[handler]
async fn long_line(request: Request, _: Context) -> Outcome {
    warn!("{}", "é".repeat(10_000));
    error!("more");
    request.forward()
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let ran = Host::new().get::<long_line>("http://example.com/");
    assert_eq!((ran.verdict, ran.logs.len()), (Verdict::Forwarded, 2));
}

#[handler]
async fn failing(_: Request, _: Context) -> Result<Outcome, &'static str> {
    Err("it broke")
}

#[test]
fn an_error_ends_in_an_error_action() {
    assert_eq!(Host::new().get::<failing>("http://a/").verdict, Verdict::Failed("it broke".to_owned()));
}

#[handler]
async fn patient(request: Request, context: Context) -> Result<Outcome, OperationError> {
    for _ in 0..20 {
        context.sleep(1).await?;
    }
    Ok(request.forward())
}

#[test]
fn endless_waiting_is_refused() {
    let error = Host::new().try_run::<patient>(&Asked::get("http://a/")).expect_err("too often");
    assert_eq!(error, "the handler waited more than 16 times");
}

#[test]
fn ten_thousand_sandboxes_are_tested_in_one_process() {
    for sandbox in 0..10_000 {
        let host = Host::new().container_id(&format!("c{sandbox}"));
        assert_eq!(host.get::<chatty>("http://a/").verdict, Verdict::Forwarded);
    }
}
