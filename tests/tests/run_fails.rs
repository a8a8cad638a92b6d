//! `outgate run` where something is missing, forbidden or full: one sentence with cause and fix, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use tests::no_ring::without_ring;
use tests::yard::{Yard, said};

/// Status of a run that did not come to start its program.
const FAILED: i32 = 125;

/// A run that fails: its last line holds these, the program was not started, and nothing is left.
fn fails(yard: &Yard, command: &mut Command, told: &[&str]) {
    let output = command.output().expect("it runs");
    failed(yard, &output, told);
    assert_eq!(yard.left(), [""; 0]);
}

fn failed(yard: &Yard, output: &Output, told: &[&str]) {
    let (out, err) = said(output);
    assert_eq!((output.status.code(), &*out), (Some(FAILED), ""), "{err}");
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with("outgate run: ") && !err.contains("panicked"), "{err}");
    for word in told {
        assert!(last.contains(word), "{word}: {err}");
    }
    assert_eq!(yard.processes(), 0);
}

/// The same run below another program, which takes it as its last arguments.
fn below(yard: &Yard, before: &[&str], run: &Command) -> Command {
    let mut command = yard.ground.command(before[0], &before[1..]);
    command.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A run whose folder for temporary files is a small disk of its own, in a mount namespace that ends with it.
fn on_a_disk(yard: &Yard, bytes: &str, run: &Command) -> Command {
    let mount = format!("mount -t tmpfs -o size={bytes} none tmp && exec \"$@\"");
    let words =
        ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", &mount, "sh"];
    below(yard, &words, run)
}

const STARTED: [&str; 2] = ["echo", "started"];

#[test]
fn where_io_uring_is_refused_the_planes_sentence_is_told() {
    let yard = Yard::new();
    for (errno, told) in [(libc::EPERM, "io_uring is refused"), (libc::ENOSYS, "has no io_uring")] {
        let run = yard.run(&[], &STARTED);
        let without = without_ring(errno, &run);
        let mut command = below(&yard, &["env"], &without);
        fails(&yard, &mut command, &[told, "seccomp profile", "docker run --security-opt seccomp=FILE"]);
    }
}

#[test]
fn where_locked_memory_is_short_its_bound_is_named() {
    let yard = Yard::new();
    let run = yard.run(&[], &STARTED);
    let mut command = below(&yard, &["prlimit", "--memlock=65536"], &run);
    fails(&yard, &mut command, &["locked memory", "LimitMEMLOCK", "ulimit -l"]);
}

#[test]
fn a_full_disk_is_told_with_its_place() {
    let yard = Yard::new();
    // None for a folder, none for a file, none for the store, none for what the store keeps.
    for bytes in ["4k", "8k", "16k", "64k"] {
        let run = yard.run(&[], &STARTED);
        fails(&yard, &mut on_a_disk(&yard, bytes, &run), &["set TMPDIR to another place"]);
    }
}

#[test]
fn a_disk_that_the_program_fills_lets_nothing_pass_unrecorded() {
    let yard = Yard::new();
    let script = "head -c 100000000 /dev/zero > $TMPDIR/filled; for each in 1 2 3 4 5 6 7 8 9; do
        curl --silent --max-time 10 --output /dev/null --write-out '%{http_code} ' \"$1\"; done; exit 6";
    let run = yard.run(&["--allow=origin.test"], &["sh", "-c", script, "sh", &yard.url("origin.test")]);
    let output = on_a_disk(&yard, "2m", &run).output().expect("it runs");
    let (out, err) = said(&output);
    let passed = yard.origin.seen().len();
    assert!(output.status.code() == Some(6) && !err.contains("panicked"), "{out}{err}");
    // Those that were under way when the disk first took none.
    assert!(passed <= 2 && out.matches("200 ").count() == passed, "{out}{err}");
    assert_eq!(out.matches("503 ").count(), 9 - passed, "{out}{err}");
    assert!(err.contains("the disk of the records is full"), "{err}");
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn records_go_to_a_file_or_the_run_says_so_before_it_starts() {
    let yard = Yard::new();
    assert!(yard.ground.command("mkfifo", &["pipe"]).status().expect("mkfifo").success());
    fs::create_dir(yard.ground.path("closed")).expect("folder");
    fs::set_permissions(yard.ground.path("closed"), fs::Permissions::from_mode(0o555)).expect("mode");
    for (place, told) in [
        ("/dev/full", "it is no file"),
        ("/dev/zero", "it is no file"),
        ("pipe", "pipe"),
        (".", "Is a directory"),
        ("closed/records", "Permission denied"),
        ("no-folder/records", "No such file"),
    ] {
        let option = format!("--record={place}");
        fails(&yard, &mut yard.run(&[&option], &STARTED), &["cannot write the records to", told]);
    }
}

#[test]
fn no_program_of_the_machine_is_looked_for_in_path() {
    let yard = Yard::new();
    for path in [Some(""), None, Some("/nonexistent:.")] {
        let mut command = yard.run(&["--no-tty-summary"], &["/bin/echo", "started"]);
        match path {
            Some(path) => command.env("PATH", path),
            None => command.env_remove("PATH"),
        };
        let (out, err) = said(&command.output().expect("it runs"));
        assert_eq!((&*out, &*err), ("started\n", ""), "{path:?}");
    }
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn a_plane_that_is_none_is_told_with_the_command_that_builds_it() {
    let yard = Yard::new();
    let program = |name: &str, text: &str| {
        let path = yard.ground.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        path.to_str().expect("text").to_owned()
    };
    let build = "cargo build --profile plane -p dataplane";
    let text = yard.ground.write("text", "no program").to_str().expect("text").to_owned();
    for (plane, told) in [
        ("/nonexistent/plane".to_owned(), &["was not found", "/nonexistent/plane", build][..]),
        (text, &["cannot start", "text", build]),
        (program("silent", "#!/bin/sh\nexit 0\n"), &["said nothing", "silent", build]),
        (program("failing", "#!/bin/sh\nexit 3\n"), &["exit status: 3"]),
        (
            program(
                "older",
                "#!/bin/sh\necho 'outgate-dataplane: unknown field `records`; upgrade it' >&2\nexit 1\n",
            ),
            &["unknown field `records`; upgrade it"],
        ),
    ] {
        fails(&yard, &mut yard.run(&["--dataplane", &plane], &STARTED), told);
    }
}

#[test]
fn a_folder_for_temporary_files_that_cannot_be_used_is_named() {
    let yard = Yard::new();
    fs::create_dir(yard.ground.path("closed")).expect("folder");
    fs::set_permissions(yard.ground.path("closed"), fs::Permissions::from_mode(0o555)).expect("mode");
    for (place, told) in
        [("none", "No such file"), ("closed", "Permission denied"), ("policy.toml", "Not a directory")]
    {
        let place = yard.ground.path(place);
        let mut command = yard.run(&[], &STARTED);
        command.env("TMPDIR", &place);
        fails(&yard, &mut command, &[place.to_str().expect("text"), told, "set TMPDIR to another place"]);
    }
}

#[test]
fn a_home_that_is_missing_or_cannot_be_written_costs_only_why() {
    let yard = Yard::new();
    fs::create_dir(yard.ground.path("closed")).expect("folder");
    fs::set_permissions(yard.ground.path("closed"), fs::Permissions::from_mode(0o555)).expect("mode");
    let nowhere = yard.ground.path("none/at/all");
    fs::create_dir(yard.ground.path("none")).expect("folder");
    fs::set_permissions(yard.ground.path("none"), fs::Permissions::from_mode(0o555)).expect("mode");
    let url = yard.url("denied.test");
    for (home, told) in [
        (Some(yard.ground.path("closed")), "closed/.local/state/outgate"),
        (Some(nowhere), "none/at/all/.local/state/outgate"),
        (None, "XDG_STATE_HOME"),
    ] {
        let mut command = yard.run(&["--no-tty-summary"], &["curl", "--silent", &url]);
        match &home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        };
        let output = command.output().expect("it runs");
        let (out, err) = said(&output);
        assert!(output.status.success() && out.contains("host_not_allowed"), "{out}{err}");
        let own_home = home.is_none() && !err.contains("why");
        // Without the variable it is the home of the user, where there is one.
        assert!(own_home || (err.contains("`outgate why`") && err.contains(told)), "{err}");
        assert_eq!((yard.left(), yard.processes()), (vec![], 0));
    }
}

#[test]
fn a_current_folder_that_is_gone_is_told() {
    let yard = Yard::new();
    let words = ["sh", "-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"", "sh"];
    let mut run = yard.ground.command(&yard.outgate, &["run", "--", "echo", "started"]);
    run.envs(yard.run(&[], &[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    fails(&yard, &mut below(&yard, &words, &run), &["the current folder is gone", "cd to another"]);
}

#[test]
fn where_no_process_may_be_started_that_is_told() {
    let yard = Yard::new();
    let run = yard.run(&[], &STARTED);
    fails(&yard, &mut below(&yard, &["prlimit", "--nproc=0"], &run), &["Resource temporarily unavailable"]);
}
