//! `outgate run --via`: programs behind a gateway that runs already, and that others use too.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Instant;

use control_wire::attach::{List, Request};
use tests::{
    gateway::PATIENCE,
    process::{Process, local},
    yard::{SECRET, Yard, said},
};

/// `outgate serve` of the yard's user, in the yard's folder.
fn serve(yard: &Yard) -> Process {
    let settings = ["serve", "--listen", "127.0.0.1:0", "--plane-config", "plane.toml"];
    let serve = Process::start(&mut yard.ground.command(&yard.outgate, &settings));
    serve.told(" serves");
    serve.told("connected to control");
    serve
}

fn via(yard: &Yard, options: &[&str], program: &[&str]) -> Command {
    let mut command = yard.ground.command(&yard.outgate, &["run", "--via", "--policy", "policy.toml"]);
    command.args(options).arg("--").args(program).env("TOKEN", SECRET);
    command
}

/// Sandboxes of runs that the gateway has, and how many sandboxes are attached to its plane.
fn held(yard: &Yard) -> (usize, usize) {
    let output = yard.ground.command(&yard.outgate, &["get"]).output().expect("it runs");
    let (out, err) = said(&output);
    assert!(output.status.success(), "{err}");
    let attached = local(&yard.ground.path("outgate-state/plane"), &Request::List(List::default()), &[]);
    (out.matches("[sandboxes.run-").count(), attached.attached.expect("a list").len())
}

fn until_held(yard: &Yard, runs: usize) {
    let begun = Instant::now();
    while held(yard) != (runs, runs) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", held(yard));
    }
}

/// A pipe in the yard: programs wait until it is written to.
fn gate(yard: &Yard) -> std::path::PathBuf {
    let path = yard.ground.path("gate");
    let made = Command::new("mkfifo").arg("--mode=666").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    path
}

#[test]
fn what_is_allowed_refused_and_attached_is_as_behind_a_gateway_of_ones_own() {
    let yard = Yard::new();
    let _serve = serve(&yard);
    let script = "curl --silent --show-error \"$1\"; echo; curl --silent --show-error \"$2\"; echo; env; \
                  ls outgate-state 2>&1";
    let (allowed, refused) = (yard.url("origin.test"), yard.url("denied.test"));
    let options = ["--allow=origin.test", "--secret=token=env:TOKEN@origin.test", "--record=records.jsonl"];
    let output =
        via(&yard, &options, &["sh", "-c", script, "sh", &allowed, &refused]).output().expect("it runs");
    let (out, err) = said(&output);
    let seen = yard.origin.seen();
    assert_eq!(seen.len(), 1, "{out}{err}");
    assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
    assert_eq!(out.matches(SECRET).count(), 1, "{out}");
    assert!(out.contains("\"code\":\"host_not_allowed\"") && !out.contains("store.sqlite"), "{out}");
    let port = yard.origin.address.port();
    assert!(err.contains(&format!("origin.test:{port}")) && err.contains(", secret token\n"), "{err}");
    assert!(err.contains(&format!("To allow what was refused:  --allow denied.test:{port}")), "{err}");
    assert_eq!(held(&yard), (0, 0));
    let get = yard.ground.command(&yard.outgate, &["get"]).output().expect("it runs");
    assert!(!said(&get).0.contains("run-"), "{}", said(&get).0);

    let records = fs::read_to_string(yard.ground.path("records.jsonl")).expect("records");
    assert_eq!(records.lines().count(), 2, "{records}");
    let why = yard.ground.command(&yard.outgate, &["why"]).output().expect("it runs");
    assert!(said(&why).0.contains(&format!("GET https://denied.test:{port}/path")), "{}", said(&why).0);
}

#[test]
fn two_runs_on_one_gateway_have_nothing_of_each_other() {
    let yard = Yard::new();
    let _serve = serve(&yard);
    let gate = gate(&yard);
    let url = yard.url("origin.test");
    let script = "echo inside; read _ < gate; curl --silent \"$1\"";
    let options = ["--allow=origin.test", "--secret=token=env:TOKEN@origin.test"];
    let mut first = Process::start(&mut via(&yard, &options, &["sh", "-c", script, "sh", &url]));
    first.told("inside");
    assert_eq!(held(&yard), (1, 1));

    // The same names, another policy.
    let second = via(&yard, &[], &["curl", "--silent", &url]).output().expect("it runs");
    let (out, err) = said(&second);
    assert!(out.contains("\"code\":\"host_not_allowed\""), "{out}{err}");
    assert!(err.contains("1 request to 1 host") && yard.origin.seen().is_empty(), "{err}");
    assert_eq!(held(&yard), (1, 1));
    let other = via(&yard, &["--allow=origin.test"], &["curl", "--silent", &url]).output().expect("it runs");
    let (out, err) = said(&other);
    assert_eq!(yard.origin.seen().len(), 1, "{out}{err}");
    assert!(!out.contains(SECRET), "{out}");

    fs::write(gate, "go\n").expect("the program waits");
    assert!(first.ended(), "{}", first.said());
    let said = first.said();
    assert!(said.contains(SECRET), "{said}");
    assert!(said.contains("1 request to 1 host") && !said.contains("To allow"), "{said}");
    assert_eq!(held(&yard), (0, 0));
}

#[test]
fn who_runs_it_is_asked_about_its_own_requests() {
    let yard = Yard::new();
    let _serve = serve(&yard);
    let url = yard.url("origin.test");
    let program = ["curl", "--silent", "--max-time", "20", &url];
    // Asked first, and never by the other: it waits until that one is answered and has ended.
    let gate = gate(&yard);
    let script = "read _ < gate; exec \"$@\"";
    let waiting = via(&yard, &["--ask"], &[&["sh", "-c", script, "sh"][..], &program].concat());
    let mut waiting = Process::start(&mut yard.at_a_terminal("[d]eny: ,deny\\n", &waiting));
    until_held(&yard, 1);
    let mut asked = yard.at_a_terminal("[d]eny: ,once\\n", &via(&yard, &["--ask"], &program));
    let (out, err) = said(&asked.output().expect("it runs"));
    assert_eq!((out.matches("may the program send").count(), yard.origin.seen().len()), (1, 1), "{out}{err}");
    fs::write(gate, "go\n").expect("the program waits");
    assert!(waiting.ended(), "{}", waiting.said());
    assert_eq!(waiting.said().matches("may the program send").count(), 1, "{}", waiting.said());
    assert_eq!(yard.origin.seen().len(), 1);
}

#[test]
fn a_killed_run_leaves_nothing_in_the_gateway() {
    let yard = Yard::new();
    let _serve = serve(&yard);
    let options = ["--secret=token=env:TOKEN@origin.test"];
    let mut run = Process::start(&mut via(&yard, &options, &["sh", "-c", "echo inside; exec sleep 1000"]));
    run.told("inside");
    assert_eq!(held(&yard), (1, 1));
    run.kill();
    until_held(&yard, 0);
    let get = yard.ground.command(&yard.outgate, &["get"]).output().expect("it runs");
    assert!(!said(&get).0.contains("run-"), "{}", said(&get).0);
}

#[test]
fn where_the_gateway_goes_away_nothing_is_let_through_and_its_next_start_removes_the_rest() {
    let yard = Yard::new();
    let mut gateway = serve(&yard);
    let gate = gate(&yard);
    let url = yard.url("origin.test");
    let script = "echo inside; read _ < gate; curl --silent --max-time 20 \"$1\"; echo $?; exit 7";
    let mut run =
        Process::start(&mut via(&yard, &["--allow=origin.test"], &["sh", "-c", script, "sh", &url]));
    run.told("inside");
    gateway.kill();
    run.told("outgate run: the gateway has ended; nothing is let through any more");
    fs::write(gate, "go\n").expect("the program waits");
    assert!(!run.ended(), "the program's own status is not 0");
    assert!(yard.origin.seen().is_empty());
    let _next = serve(&yard);
    assert_eq!(held(&yard), (0, 0));
    let get = yard.ground.command(&yard.outgate, &["get"]).output().expect("it runs");
    assert!(!said(&get).0.contains("run-"), "{}", said(&get).0);
}

#[test]
fn where_the_gateway_writes_its_records_elsewhere_the_program_s_status_still_counts() {
    let yard = Yard::new();
    let settings = fs::read_to_string(yard.ground.path("plane.toml")).expect("settings");
    yard.ground.write("plane.toml", format!("records = \"-\"\n{settings}"));
    let _serve = serve(&yard);
    let script = "curl --silent \"$1\" && exit 3";
    let url = yard.url("origin.test");
    let output = via(&yard, &["--allow=origin.test"], &["sh", "-c", script, "sh", &url]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).1.contains("records cannot be read"), "{}", said(&output).1);
}

#[test]
fn a_gateway_that_cannot_be_used_is_told_with_what_to_do() {
    let yard = Yard::new();
    let tried = |options: &[&str]| {
        let mut command = yard.ground.command(&yard.outgate, &["run"]);
        let output = command.args(options).args(["--", "true"]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(125));
        said(&output).1
    };
    let err = tried(&["--via=none.sock"]);
    assert!(err.contains("no gateway answers at none.sock") && err.contains("outgate serve"), "{err}");

    let path = yard.ground.path("old.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("permissions");
    let old = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().expect("a caller");
        let mut asked = [0; 1_024];
        let count = caller.read(&mut asked).expect("a request");
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        caller.write_all(answer).expect("it listens");
        String::from_utf8_lossy(&asked[..count]).into_owned()
    });
    let err = tried(&["--via", "old.sock"]);
    assert!(err.contains("another version") && err.contains("start it anew"), "{err}");
    assert!(old.join().expect("it answered").starts_with("GET /v1/here "));

    let gateway = serve(&yard);
    let remove = yard.ground.command(&yard.outgate, &["plane", "rm", "local"]).output().expect("it runs");
    assert!(remove.status.success(), "{}", said(&remove).1);
    let err = tried(&["--via"]);
    assert!(err.contains("is not connected to it"), "{err}");
    drop(gateway);

    let settings = ["serve", "--listen", "127.0.0.1:0", "--no-plane"];
    let alone = Process::start(&mut yard.ground.command(&yard.outgate, &settings));
    alone.told("link");
    let err = tried(&["--via"]);
    assert!(err.contains("has no plane on this machine"), "{err}");
    for option in ["--weak", "--plane-config=plane.toml"] {
        let mut command = yard.ground.command(&yard.outgate, &["run", "--via", option, "--", "true"]);
        let (_, err) = said(&command.output().expect("it runs"));
        assert!(err.contains("cannot be used with"), "{err}");
    }
}
