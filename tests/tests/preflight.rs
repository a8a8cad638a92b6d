//! `outgate preflight` on machines that lack something: each lack is named, with the command that mends it.

use std::process::{Command, Output};

use tests::{
    no_ring::without_ring,
    process::{outgate, shipped_plane},
};

/// What was printed, with every run of spaces and line breaks as one space, so that folding does not matter.
fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    ended(command.args(arguments).arg(outgate()).arg("preflight"))
}

fn ended(command: &mut Command) -> (bool, String) {
    let ran = command.env("OUTGATE_DATAPLANE", shipped_plane()).output();
    let output = ran.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    (output.status.success(), words(&output))
}

#[test]
fn every_thing_is_looked_at_and_the_status_says_whether_one_must_be_mended() {
    let (well, text) = run("env", &[]);
    for thing in [
        "kernel",
        "io_uring",
        "plane",
        "user namespaces",
        "locked memory",
        "descriptors",
        "tcp_migrate_req",
        "clock",
        "certificates",
    ] {
        assert!(text.contains(thing), "{thing} is missing: {text}");
    }
    assert_eq!(well, !text.contains("fix:"), "{text}");
    assert!(text.contains("µs to mint"), "{text}");
}

#[test]
fn user_namespaces_that_are_switched_off_are_named_with_the_sysctl() {
    let off = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let (well, text) = run("unshare", &["--user", "--map-root-user", "sh", "-c", off, "sh"]);
    assert!(!well && text.contains("fix: user namespaces switched off"), "{text}");
    assert!(text.contains("$ sudo sysctl -w user.max_user_namespaces=65536"), "{text}");
}

#[test]
fn locked_memory_that_is_too_small_is_named_with_the_limit_and_the_command() {
    let small = ["--user", "--map-root-user", "prlimit", "--memlock=65536:65536"];
    let (well, text) = run("unshare", &small);
    assert!(!well && text.contains("fix: locked memory 64 KiB"), "{text}");
    assert!(text.contains("--memlock=unlimited") && text.contains("LimitMEMLOCK=infinity"), "{text}");
}

#[test]
fn a_ring_that_a_seccomp_filter_denies_is_told_in_the_words_of_the_plane() {
    let mut preflight = Command::new(outgate());
    let (well, text) = ended(&mut without_ring(libc::EPERM, preflight.arg("preflight")));
    assert!(!well && text.contains("fix: io_uring io_uring is refused to this process"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("plane.toml");
    let text_of_settings =
        format!("name = \"p\"\nstateDir = {:?}\n[control]\naddress = \"127.0.0.1:9\"\n", folder.path());
    std::fs::write(&settings, text_of_settings).unwrap();
    let mut plane = Command::new(shipped_plane());
    plane.args(["--check", "--config"]).arg(&settings);
    let (well, said) = ended(&mut without_ring(libc::EPERM, &plane));
    let sentence = said.split_once("outgate-dataplane: ").map_or("", |(_, sentence)| sentence);
    assert!(!well && sentence.contains("seccomp"), "{said}");
    assert!(text.contains(sentence), "{text}\n{sentence}");
}
