//! `outgate run` as its user types it, by an ordinary user: what is allowed, refused and attached, how it ends, and
//! what is left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tests::{
    gateway::PATIENCE,
    process::Process,
    yard::{SECRET, Yard, said},
};

#[test]
fn allowed_is_answered_refused_explains_itself_and_the_secret_is_attached_but_never_held() {
    let yard = Yard::new();
    let script = "curl --silent --show-error \"$1\"; echo; curl --silent --show-error \"$2\"; echo; env; \
                  cat /proc/self/environ; ls \"$TMPDIR\"/*";
    let (allowed, refused) = (yard.url("origin.test"), yard.url("denied.test"));
    let output = yard
        .run(
            &["--allow=origin.test", "--secret=token=env:TOKEN@origin.test"],
            &["sh", "-c", script, "sh", &allowed, &refused],
        )
        .output()
        .expect("it runs");
    let (out, err) = said(&output);
    let seen = yard.origin.seen();
    assert_eq!(seen.len(), 1, "{out}{err}");
    assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
    // The origin says it back; nothing else inside knows it.
    assert_eq!(out.matches(SECRET).count(), 1, "{out}");
    assert!(out.contains("\"code\":\"host_not_allowed\""), "{out}");
    assert!(!err.contains(SECRET), "{err}");
    let port = yard.origin.address.port();
    assert!(err.contains(&format!("origin.test:{port}")) && err.contains("secret token"), "{err}");
    assert!(err.contains(&format!("To allow what was refused:  --allow denied.test:{port}")), "{err}");
    assert_eq!(yard.left(), [""; 0]);

    let why = yard.ground.command(&yard.outgate, &["why"]).output().expect("it runs");
    let (out, _) = said(&why);
    assert!(out.contains(&format!("GET https://denied.test:{port}/path")), "{out}");
    assert!(out.contains(&format!("to allow it: --allow denied.test:{port}")), "{out}");
    assert!(!out.contains("in-the-query"), "{out}");
}

#[test]
fn what_is_neither_tls_nor_http_is_refused_at_once_and_named_by_why() {
    let yard = Yard::new();
    let script = "import socket\ns = socket.create_connection(('git.test', 22), 10)\n\
                  s.sendall(b'SSH-2.0-OpenSSH_9.2\\r\\n')\ntry: print(repr(s.recv(100)))\n\
                  except ConnectionResetError: print('reset')";
    let output = yard.run(&[], &["python3", "-c", script]).output().expect("it runs");
    let (out, err) = said(&output);
    assert!(out.contains("reset") || out.contains("b''"), "{out}{err}");
    let why = yard.ground.command(&yard.outgate, &["why"]).output().expect("it runs");
    let (out, _) = said(&why);
    assert!(out.contains("protocol_unknown") && out.contains("git.test:22"), "{out}");
}

#[test]
fn least_policy_of_what_was_observed_is_printed() {
    let yard = Yard::new();
    // Without a policy file loopback is not safe to dial, so that is what is observed.
    let mut command =
        yard.ground.command(&yard.outgate, &["run", "--observe", "--plane-config", "plane.toml"]);
    command.args(["--", "curl", "--silent", &yard.url("origin.test")]);
    let (out, err) = said(&command.output().expect("it runs"));
    assert!(out.contains("\"code\":\"address_"), "{out}{err}");
    assert!(err.contains("Nothing was reached, so no policy is needed."), "{err}");
    assert!(yard.origin.seen().is_empty(), "the origin was never dialled");
}

#[test]
fn a_request_that_nothing_allows_waits_until_the_terminal_has_said_yes_or_no() {
    let yard = Yard::new();
    let url = yard.url("origin.test");
    let script = "curl --silent \"$1\"; echo; curl --silent \"$1\"; echo; curl --silent \"$1\"";
    for (answers, allowed) in [(&["nonsense", "once", "host"][..], true), (&["deny"], false)] {
        let run = yard.run(&["--ask"], &["sh", "-c", script, "sh", &url]);
        let steps: Vec<String> = answers.iter().map(|answer| format!("[d]eny: ,{answer}\\n")).collect();
        let mut command = yard.at_a_terminal(&steps.join(","), &run);
        let before = yard.origin.seen().len();
        let (out, err) = said(&command.output().expect("it runs"));
        let question = format!("may the program send GET {}?", url.split('?').next().unwrap());
        assert!(out.contains(&question), "{out}{err}");
        // Nonsense is asked about again; the answer for the host covers what follows.
        let asked = out.matches(&question).count();
        let seen = yard.origin.seen().len() - before;
        assert_eq!((asked, seen), if allowed { (3, 3) } else { (1, 0) }, "{out}");
        assert_eq!(out.matches("\"code\":\"ask_denied\"").count(), if allowed { 0 } else { 3 }, "{out}");
    }
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn records_are_appended_to_a_file_that_the_program_does_not_see() {
    let yard = Yard::new();
    let records = yard.ground.write("records.jsonl", "{\"before\":true}\n");
    let script = "curl --silent \"$1\" >&2; cat records.jsonl; echo {} >> records.jsonl";
    let options = ["--allow=origin.test", "--record=records.jsonl", "--no-tty-summary"];
    let mut command = yard.run(&options, &["sh", "-c", script, "sh", &yard.url("origin.test")]);
    let (out, err) = said(&command.output().expect("it runs"));
    assert!(out.is_empty() && !err.contains("requests"), "{out}{err}");
    let text = fs::read_to_string(records).expect("records");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.len() == 2 && lines[0] == "{\"before\":true}" && lines[1].contains("origin.test"),
        "{text}"
    );
}

#[test]
fn exit_status_is_that_of_the_program() {
    let yard = Yard::new();
    for (script, status) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0)] {
        let done = yard.run(&["--no-tty-summary"], &["sh", "-c", script]).status().expect("it runs");
        assert_eq!(done.code(), Some(status), "{script}");
    }
    let output = yard.run(&[], &["no-such-program"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(127));
    assert!(said(&output).1.contains("cannot start no-such-program"), "{}", said(&output).1);
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn gateway_lies_where_all_of_its_user_lie_and_leaves_nothing_there() {
    let yard = Yard::new();
    let policy = ["--policy", "policy.toml", "--plane-config", "plane.toml", "--"];
    let mut command = yard.ground.command(&yard.outgate, &[&["run"], &policy[..]].concat());
    let script = "echo user $(id -u); ls -aR /dev/shm /tmp/outgate-$(id -u) 2>&1; echo seen; read _ < gate";
    let made = Command::new("mkfifo").arg("--mode=666").arg(yard.ground.path("gate")).status();
    assert!(made.expect("mkfifo runs").success());
    let mut run = Process::start(command.args(["sh", "-c", script]));
    run.told("seen");
    let name = format!("outgate-{}", run.told("user "));
    // In memory where the machine has enough, else on its disk; never in both, and the program sees no gateway.
    let places = ["/dev/shm", "/tmp"].map(|place| Path::new(place).join(&name));
    assert_eq!(places.iter().filter(|place| place.is_dir()).count(), 1);
    assert!(!run.said().contains("run-"), "{}", run.said());
    fs::write(yard.ground.path("gate"), "go\n").expect("the program waits");
    assert!(run.ended(), "{}", run.said());
    assert!(places.iter().all(|place| !place.exists()), "{places:?}");
}

#[test]
fn killed_run_leaves_no_process_and_no_file() {
    let yard = Yard::new();
    let mut run = Process::start(&mut yard.run(&[], &["sh", "-c", "echo inside; exec sleep 1000"]));
    run.told("inside");
    assert!(yard.processes() >= 3 && yard.left().len() == 1);
    run.kill();
    let gone = || yard.processes() == 0 && yard.left().is_empty();
    let begun = std::time::Instant::now();
    while !gone() {
        assert!(begun.elapsed() < PATIENCE, "{} {:?}", yard.processes(), yard.left());
        std::thread::yield_now();
    }
}

#[test]
fn interrupt_is_the_programs_and_its_daemons_end_with_it() {
    let yard = Yard::new();
    let script = "sleep 1000 & trap 'echo caught; exit 3' INT; echo inside; while :; do sleep 0.05; done";
    let mut command = yard.run(&["--no-tty-summary"], &["sh", "-c", script]);
    let mut run = Process::start(command.stdin(Stdio::null()));
    run.told("inside");
    run.signal(Signal::INT);
    run.told("caught");
    assert!(!run.ended(), "the program's own status is not 0");
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn where_namespaces_are_refused_secrets_are_too_unless_that_is_all_the_same() {
    let yard = Yard::new();
    let refused = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let within = |options: &[&str], program: &[&str]| {
        let run = yard.run(options, program);
        let mut command = yard.ground.command("unshare", &["-Ur", "sh", "-c", refused, "sh"]);
        command.arg(run.get_program()).args(run.get_args());
        let wanted = ["TMPDIR", "TOKEN"];
        command.envs(run.get_envs().filter_map(|(name, value)| {
            wanted.iter().any(|wanted| name == *wanted).then_some((name, value?))
        }));
        command.output().expect("it runs")
    };
    let secret = "--secret=token=env:TOKEN@origin.test";
    let (_, err) = said(&within(&[secret], &["true"]));
    assert!(err.contains("user namespaces") && err.contains("--weak"), "{err}");
    let url = yard.url("origin.test");
    let output = within(&["--allow=origin.test", secret, "--weak"], &["curl", "--silent", &url]);
    let (out, err) = said(&output);
    assert!(err.contains("NO SANDBOX"), "{err}");
    assert_eq!(out, format!("Bearer {SECRET}"), "{err}");
    assert_eq!(yard.left(), [""; 0]);
}

#[test]
fn wrong_options_are_refused_with_what_to_write() {
    let yard = Yard::new();
    for (option, fix) in [
        ("--allow=https://a.example", "scheme"),
        ("--secret=token", "NAME=env:VAR@HOST"),
        ("--secret=token=env:NO_SUCH_VARIABLE@a.example", "the variable NO_SUCH_VARIABLE is not set"),
        ("--handler=h.wat", "FILE.wasm"),
        ("--handler=none.wasm", "cannot read none.wasm"),
    ] {
        let (_, err) = said(&yard.run(&[option], &["true"]).output().expect("it runs"));
        assert!(err.contains(fix), "{option}: {err}");
    }
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
    yard.ground.write("faulty.toml", "allowedHosst = []\n");
    for (file, fix) in [("none.toml", "none.toml"), ("faulty.toml", "allowedHosst")] {
        let mut command = yard.ground.command(&yard.outgate, &["run", "--policy", file, "--", "true"]);
        let (_, err) = said(&command.output().expect("it runs"));
        assert!(err.contains(fix), "{err}");
    }
    assert_eq!(yard.processes(), 0);
}
