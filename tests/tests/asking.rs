//! The whole way of a question: a program waits, a person answers by the API or the command, the program goes on.

use std::{io::Write, process::Command};

use serde_json::{Value, json};
use tests::{
    gateway::{Tls, read_answer},
    origin::{Origin, respond},
    process::{attach_proxy, outgate, records, run},
    stage::{Stage, policy},
};

/// The policy of the stage, but that people are asked about what it allows.
fn asking() -> Value {
    let mut policy = policy(&[]);
    policy["ask"] = json!({ "hosts": ["origin.test"] });
    policy
}

fn get(stage: &Stage, port: u16) -> Tls {
    let mut stream = stage.tls("origin.test", port);
    write!(stream, "GET /p HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n").unwrap();
    stream
}

/// The one question that is open, once there is one.
fn question(stage: &Stage) -> Value {
    let list = |path: &str| -> Value {
        let (status, body) = stage.control.call("GET", path, b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let mut now = list("/v1/questions");
    while now["questions"] == json!([]) {
        now = list(&format!("/v1/questions?after={}&timeout=60s", now["version"]));
    }
    now["questions"][0].clone()
}

fn answer(stage: &Stage, id: &Value, words: &[&str]) {
    let id = id.as_str().unwrap();
    let mut command = Command::new(outgate());
    command.arg("--state").arg(&stage.control.state).args(["--wait", "question", "answer", id]).args(words);
    let (done, said) = run(&mut command);
    assert!(done, "{said}");
}

#[test]
fn a_program_waits_for_a_person_who_answers_by_the_command_and_the_answer_survives_restarts() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"hello"));
    let mut stage = Stage::set(&origin, 4);
    let port = origin.address.port();
    stage.control.put("templates/t", &asking());
    let mut stream = get(&stage, port);
    let asked = question(&stage);
    assert_eq!(
        (&asked["sandbox"], &asked["host"], &asked["plane"]),
        (&json!("box"), &json!("origin.test"), &json!("one"))
    );
    assert_eq!(origin.connections(), 0);
    answer(&stage, &asked["id"], &["allow"]);
    assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
    let mut stream = get(&stage, port);
    answer(&stage, &question(&stage)["id"], &["allow", "--host", "--by", "somebody"]);
    assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "));
    let record = records(&stage.plane.folder, 2)[1].clone();
    let asked = &record["asked"];
    assert_eq!(
        (&asked["outcome"], &asked["scope"], &asked["by"]),
        (&"allowed".into(), &"host".into(), &"somebody".into())
    );
    stage.plane.restart();
    stage.password = attach_proxy(&stage.plane.folder, "box");
    let mut stream = get(&stage, port);
    assert!(read_answer(&mut stream, false).0.starts_with("HTTP/1.1 200 "), "nobody is asked again");
    assert_eq!(origin.wait_for(3).len(), 3);
}

#[test]
fn a_control_that_is_killed_denies_what_waits() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let mut stage = Stage::set(&origin, 4);
    stage.control.put("templates/t", &asking());
    let mut stream = get(&stage, origin.address.port());
    question(&stage);
    stage.control.restart();
    let (head, body) = read_answer(&mut stream, false);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["code"], "ask_link_lost");
    assert_eq!(origin.connections(), 0);
}
