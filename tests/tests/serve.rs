//! `outgate serve` and the plane that it runs: neither outlives the other unnoticed, and what keeps the plane from
//! starting is told once.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use control_wire::attach::{Client, List, Request, pair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::{
    gateway::PATIENCE,
    process::{Control, Process, attach_proxy, child_of, local, shipped_plane},
};

/// A process that has not ended: one that nobody waits for yet has.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Looks again and again until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn killed_serve_takes_its_plane_along_and_the_next_serve_begins_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut control = Control::with_plane(&state, "shards = 2\nproxy = [\"127.0.0.1:0\"]\n");
    control.put("templates/t", &json!({}));
    control.put("sandboxes/box", &json!({ "template": "t" }));
    // The next one gets the address of the one before.
    let proxy = control.process.told("explicit proxy on ");
    for _ in 0..3 {
        control.process.told(" serves");
        attach_proxy(&control.plane_folder(), "box");
        let plane = child_of(control.process.pid()).unwrap();
        control.process.kill();
        // At once: nobody waits for the plane of the one before.
        control = Control::with_plane(&state, &format!("shards = 2\nproxy = [\"{proxy}\"]\n"));
        control.process.told(" serves");
        control.process.told("connected to control");
        assert!(!lives(plane), "{}", control.process.said());
        let listed = local(&control.plane_folder(), &Request::List(List::default()), &[]);
        assert_eq!(listed.attached, Some(Vec::new()), "what was attached died with its keeper");
    }
    assert!(control.process.end(), "{}", control.process.said());
}

#[test]
fn plane_that_waits_to_be_let_in_ends_with_its_keeper() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and silent: a control that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let control = Control::start(&folder.path().join("control"));
    let (settings, token) = (folder.path().join("plane.toml"), folder.path().join("token"));
    fs::write(&token, control.join_token()).unwrap();
    let text = format!(
        "name = \"one\"\nstateDir = {:?}\n[control]\naddress = \"{}\"\njoinTokenFile = {token:?}\n",
        folder.path().join("plane"),
        silent.local_addr().unwrap(),
    );
    fs::write(&settings, text).unwrap();
    let (ours, theirs) = pair().unwrap();
    let mut command = Command::new(shipped_plane());
    command.arg("--config").arg(&settings).stdin(theirs).env("OUTGATE_KEEPER", "stdin");
    let mut plane = Process::spawn(&mut command);
    drop(command);
    plane.told("nothing is served yet");
    drop(ours);
    assert!(plane.ended(), "{}", plane.said());
    plane.told("what started this plane is gone");
}

#[test]
fn two_planes_in_one_folder_are_told_apart_by_the_second_s_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::with_plane(&folder.path().join("state"), "shards = 1\n");
    control.process.told(" serves");
    let settings = control.plane_folder().join("plane.toml");
    let mut second = Process::start(Command::new(shipped_plane()).arg("--config").arg(&settings));
    assert!(!second.ended());
    second.told("another plane runs in ");
    local(&control.plane_folder(), &Request::List(List::default()), &[]);
}

#[test]
fn settings_that_the_plane_refuses_end_serve_with_the_plane_s_sentence() {
    for (settings, sentence) in [
        ("shards = 0\n", "`shards` must be at least 1"),
        ("shard = 1\n", "unknown field `shard`"),
        ("proxy = [\"192.0.2.1:0\"]\n", "`proxy`: cannot listen on 192.0.2.1:0"),
        ("[upstream]\nrootsFile = \"/nonexistent\"\n", "`upstream.rootsFile`: cannot use /nonexistent"),
        ("shards = = 1\n", "own.toml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut serve = Process::start(&mut Control::with_plane_command(folder.path(), settings));
        assert!(!serve.ended(), "{settings}: {}", serve.said());
        let said = serve.told(sentence) + &serve.said();
        assert_eq!(said.matches(sentence).count(), 1, "{settings}: {said}");
        assert!(!said.contains("starting it again"), "{settings}: {said}");
        serve.told("outgate: ");
        assert!(!folder.path().join("api.sock").exists(), "{settings}");
    }
}

#[test]
fn plane_that_has_served_is_started_again_though_something_keeps_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let control = Control::with_plane(&state, "shards = 1\n");
    control.process.told(" serves");
    let kill = || {
        let plane = child_of(control.process.pid()).unwrap();
        kill_process(Pid::from_raw(plane.cast_signed()).unwrap(), Signal::KILL).unwrap();
    };
    fs::write(state.join("own.toml"), "shards = 0\n").unwrap();
    kill();
    control.process.told("the plane ended by signal: 9");
    control.process.told("the plane ended by exit status: 1");
    fs::write(state.join("own.toml"), "shards = 1\n").unwrap();
    until("the plane is back", || {
        Client::connect(&control.plane_folder().join("attach.sock"), PATIENCE).is_ok()
    });
}
