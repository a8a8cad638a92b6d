//! `outgate preflight` on machines that lack something: each lack is named, with the command that mends it.

use std::process::{Command, Output};

use tests::process::{outgate, shipped_plane};

/// Denies `io_uring_setup` with EPERM to itself, as the default profiles of container engines do, and becomes the
/// program that its arguments name. The filter: load the call's number, compare, refuse or allow (seccomp(2)).
const DENY_RING: &str = "
import ctypes, os, struct, sys
def step(code, yes, no, k): return struct.pack('HBBI', code, yes, no, k)
steps = step(0x20, 0, 0, 0) + step(0x15, 0, 1, 425) + step(0x06, 0, 0, 0x00050001) + step(0x06, 0, 0, 0x7fff0000)
filter = ctypes.create_string_buffer(steps, len(steps))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 4, ctypes.addressof(filter)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
";

/// What was printed, with every run of spaces and line breaks as one space, so that folding does not matter.
fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .arg(outgate())
        .arg("preflight")
        .env("OUTGATE_DATAPLANE", shipped_plane())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
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
    let (well, text) = run("python3", &["-c", DENY_RING]);
    assert!(!well && text.contains("fix: io_uring io_uring is refused to this process"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("plane.toml");
    let text_of_settings =
        format!("name = \"p\"\nstateDir = {:?}\n[control]\naddress = \"127.0.0.1:9\"\n", folder.path());
    std::fs::write(&settings, text_of_settings).unwrap();
    let plane = Command::new("python3")
        .args(["-c", DENY_RING])
        .arg(shipped_plane())
        .args(["--check", "--config"])
        .arg(&settings)
        .output()
        .unwrap();
    let said = words(&plane);
    let sentence = said.split_once("outgate-dataplane: ").map_or("", |(_, sentence)| sentence);
    assert!(!plane.status.success() && sentence.contains("seccomp"), "{said}");
    assert!(text.contains(sentence), "{text}\n{sentence}");
}
