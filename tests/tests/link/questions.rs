//! Questions on their way from a plane to the people who call the API, and answers on their way back.

use control_wire::message::ToControl;
use control_wire::question::{Answer, Question, Scheme, Scope, Verdict};
use dataplane::approval::Withdrawal;
use dataplane::link::LinkEvent;
use serde_json::{Value, json};

use crate::control::{Control, json_of};
use crate::peer::{Identity, Peer};
use crate::plane::{News, Plane};

fn question(id: u64, host: &str) -> Question {
    Question {
        id,
        sandbox: "s".into(),
        method: "GET".into(),
        scheme: Scheme::Https,
        host: host.into(),
        port: 443,
        path: "/p".into(),
        timeout_ms: 60_000,
    }
}

/// Control with a sandbox `s`, and a plane that holds it.
fn start() -> (Control, Plane) {
    let control = Control::start();
    control.must("PUT", "/v1/templates/t", json!({ "ask": { "hosts": ["*"] } }));
    control.must("PUT", "/v1/sandboxes/s", json!({ "template": "t" }));
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(plane.revision);
    control.until_acknowledged("a", control.revision());
    (control, plane)
}

/// Asks, and waits until control shows it; gives its name there.
fn ask(control: &Control, plane: &Plane, question: Question) -> (String, Withdrawal) {
    let before = list(control)["version"].as_u64().unwrap();
    let host = question.host.clone();
    let withdrawal = plane.handle().ask(question).expect("the link is open");
    let now = list_after(control, before);
    let shown = now["questions"].as_array().unwrap().iter().rfind(|shown| shown["host"] == *host);
    (shown.unwrap()["id"].as_str().unwrap().to_owned(), withdrawal)
}

fn list(control: &Control) -> Value {
    control.must("GET", "/v1/questions", Value::Null)
}

fn list_after(control: &Control, version: u64) -> Value {
    control.must("GET", &format!("/v1/questions?after={version}&timeout=60s"), Value::Null)
}

fn answer(control: &Control, id: &str, body: Value) -> (u16, Value) {
    let reply = control.call("POST", &format!("/v1/questions/{id}"), body.to_string());
    (reply.status.as_u16(), json_of(&reply))
}

fn heard(plane: &Plane) -> Answer {
    loop {
        if let LinkEvent::Answer(answer) = plane.event() {
            return answer;
        }
    }
}

#[test]
fn a_question_is_shown_answered_once_and_heard_by_the_plane() {
    let (control, plane) = start();
    let (id, _withdrawal) = ask(&control, &plane, question(9, "x.test"));
    let shown = list(&control)["questions"][0].clone();
    for (field, value) in [
        ("plane", json!("a")),
        ("sandbox", json!("s")),
        ("method", json!("GET")),
        ("scheme", json!("https")),
        ("host", json!("x.test")),
        ("port", json!(443)),
        ("path", json!("/p")),
        ("timeoutMs", json!(60_000)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let said = answer(&control, &id, json!({ "verdict": "allow", "by": "somebody" }));
    assert_eq!(said, (200, json!({ "id": id, "verdict": "allow", "scope": "once" })));
    let by = "somebody".to_owned();
    let expected = Answer { id: 9, verdict: Verdict::Allow, scope: Scope::Once, until_unix_ms: 0, by };
    assert_eq!(heard(&plane), expected);
    assert_eq!(list(&control)["questions"], json!([]));
    let (status, problem) = answer(&control, &id, json!({ "verdict": "deny" }));
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("answered already"), "{problem}");
    let (status, problem) = answer(&control, "none", json!({ "verdict": "deny" }));
    assert!(status == 404 && problem["detail"].as_str().unwrap().contains("question list"), "{problem}");
}

#[test]
fn an_answer_that_says_what_it_cannot_mean_is_refused_and_the_question_stays() {
    let (control, plane) = start();
    let (id, _withdrawal) = ask(&control, &plane, question(9, "x.test"));
    for (body, fix) in [
        (json!({}), "verdict"),
        (json!({ "verdict": "maybe" }), "`allow`"),
        (json!({ "verdict": "allow", "scope": "ever" }), "`host`"),
        (json!({ "verdict": "allow", "scope": "time" }), "1 to 2592000"),
        (json!({ "verdict": "allow", "scope": "time", "seconds": 0 }), "1 to 2592000"),
        (json!({ "verdict": "allow", "seconds": 5 }), "scope \"time\""),
        (json!({ "verdict": "allow", "by": "a\nb" }), "printable"),
        (json!({ "verdict": "allow", "secs": 5 }), "secs"),
    ] {
        let (status, problem) = answer(&control, &id, body.clone());
        assert_eq!(status, 422, "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(fix), "{body}: {problem}");
    }
    assert_eq!(list(&control)["questions"].as_array().unwrap().len(), 1);
    assert_eq!(control.call("GET", "/v1/questions?after=x", "").status.as_u16(), 422);
}

#[test]
fn an_answer_for_the_host_is_applied_like_any_change_and_can_be_taken_back() {
    let (control, mut plane) = start();
    let (id, _withdrawal) = ask(&control, &plane, question(9, "x.test"));
    let path = format!("/v1/questions/{id}?wait=applied&timeout=60s");
    let later = control.call_later("POST", &path, json!({ "verdict": "allow", "scope": "host" }));
    let revision = control.revision();
    assert_eq!(plane.news(), News::Delta(revision + 1, vec!["sandbox s".into()]));
    assert!(plane.rows["sandbox s"].contains("x.test"), "{}", plane.rows["sandbox s"]);
    assert!(!later.is_there(), "it is not enforced yet");
    let (status, problem) = answer(&control, &id, json!({ "verdict": "deny" }));
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("answered already"), "{problem}");
    plane.handle().acknowledge(plane.revision);
    let applied = json_of(&control.answer(later));
    assert_eq!((&applied["applied"], &applied["scope"]), (&json!(true), &json!("host")));
    let kept = json!([{ "verdict": "allow", "scheme": "https", "host": "x.test", "port": 443 }]);
    assert_eq!(control.must("GET", "/v1/sandboxes/s", Value::Null)["answers"], kept);
    // Whoever writes the sandbox again does not take people's answers back by it.
    control.must("PUT", "/v1/sandboxes/s", json!({ "template": "t", "labels": { "a": "b" } }));
    assert_eq!(control.must("GET", "/v1/sandboxes/s", Value::Null)["answers"], kept);
    assert_eq!(control.call("DELETE", "/v1/sandboxes/s/answers/y.test", "").status.as_u16(), 404);
    control.must("DELETE", "/v1/sandboxes/s/answers/x.test", Value::Null);
    assert_eq!(control.must("GET", "/v1/sandboxes/s", Value::Null)["answers"], json!([]));
    plane.follow(control.revision());
    assert!(!plane.rows["sandbox s"].contains("x.test"));
}

#[test]
fn an_answer_for_a_time_ends_and_outlives_control() {
    let (control, mut plane) = start();
    let (id, _withdrawal) = ask(&control, &plane, question(9, "x.test"));
    let (status, _) = answer(&control, &id, json!({ "verdict": "deny", "scope": "time", "seconds": 2 }));
    assert_eq!(status, 200);
    plane.follow(control.revision());
    assert!(plane.rows["sandbox s"].contains("until_unix_ms: Some"));
    let (state, address) = control.kill();
    let control = Control::resume(state, address);
    // What control held came back from its store, and leaves when its time is over.
    crate::until("the end of the answer", || {
        control.must("GET", "/v1/sandboxes/s", Value::Null)["answers"] == json!([])
    });
    plane.follow(control.revision());
    assert!(!plane.rows["sandbox s"].contains("until_unix_ms: Some"));
}

#[test]
fn a_withdrawn_question_leaves_the_list_and_who_answers_late_is_told() {
    let (control, plane) = start();
    let (id, withdrawal) = ask(&control, &plane, question(9, "x.test"));
    let version = list(&control)["version"].as_u64().unwrap();
    withdrawal();
    assert_eq!(list_after(&control, version)["questions"], json!([]));
    let (status, problem) = answer(&control, &id, json!({ "verdict": "allow" }));
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("nobody waits"), "{problem}");
}

#[test]
fn a_lost_link_takes_its_questions_with_it_on_both_sides() {
    let (mut control, plane) = start();
    let (id, withdrawal) = ask(&control, &plane, question(9, "x.test"));
    control.cut();
    plane.until_lost(|_| true);
    assert!(plane.handle().ask(question(10, "y.test")).is_none(), "there is nobody to ask");
    assert_eq!(list(&control)["questions"], json!([]));
    let (status, problem) = answer(&control, &id, json!({ "verdict": "allow" }));
    assert!(
        status == 409 && problem["detail"].as_str().unwrap().contains("no longer connected"),
        "{problem}"
    );
    control.mend();
    plane.until_connected();
    withdrawal();
    // The first that is shown on the new link is the first that was asked on it.
    let (_, _withdrawal) = ask(&control, &plane, question(11, "z.test"));
    assert_eq!(list(&control)["questions"].as_array().unwrap().len(), 1);
}

#[test]
fn who_follows_the_list_hears_of_a_change_when_it_comes() {
    let (control, plane) = start();
    let version = list(&control)["version"].as_u64().unwrap();
    let path = format!("/v1/questions?after={version}&timeout=60s");
    let later = control.call_later("GET", &path, Value::Null);
    control.must("PUT", "/v1/templates/other", json!({}));
    assert!(!later.is_there(), "nothing was asked");
    let _withdrawal = plane.handle().ask(question(9, "x.test")).unwrap();
    let heard = json_of(&control.answer(later));
    assert_eq!(heard["questions"][0]["host"], "x.test");
    let same = list_after_for(&control, heard["version"].as_u64().unwrap(), "1ms");
    assert_eq!(same, heard, "at the end of the time the same again");
}

fn list_after_for(control: &Control, version: u64, time: &str) -> Value {
    control.must("GET", &format!("/v1/questions?after={version}&timeout={time}"), Value::Null)
}

#[test]
fn a_plane_that_asks_one_question_twice_loses_its_link() {
    let control = Control::start();
    let identity = Identity::join(&control, "a");
    let mut peer = Peer::plane(&control, &identity, "a", ([0; 16], 0));
    peer.say(&ToControl::Question(question(1, "x.test")));
    peer.say(&ToControl::Question(question(1, "x.test")));
    let said = peer.farewell();
    assert!(said.contains("more questions than it may"), "{said}");
    assert_eq!(list(&control)["questions"], json!([]));
}
