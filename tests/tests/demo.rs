//! `outgate demo` as its reader runs it: it holds what it says, with and without namespaces, and leaves nothing.

use std::{fs, path::Path, process::Command};

use tests::{
    guests::example,
    process::{Process, outgate, shipped_plane},
};

const STEPS: [&str; 7] =
    ["started", "1 allowed", "2 denied", "3 credential", "4 swap", "5 lock-down", "6 records"];

/// The demo, with its temporary files in a folder of the test.
fn demo(program: &str, arguments: &[&str], folder: &Path) -> Command {
    // Built here, so that the demo does not spend the test's patience on it.
    assert!(!example("get_only").is_empty());
    let mut command = Command::new(program);
    command.args(arguments).env("OUTGATE_DATAPLANE", shipped_plane()).env("TMPDIR", folder);
    command
}

/// Runs it to its end and answers what it said.
fn held(mut command: Command, folder: &Path) -> String {
    let output = command.output().expect("the demo can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for step in STEPS {
        assert!(said.contains(&format!("✓ {step} ")), "no step {step} in:\n{said}");
    }
    assert!(said.contains("Everything held, in "), "{said}");
    assert_eq!(left_in(folder), [""; 0]);
    said
}

fn left_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Processes whose command line names the folder.
fn processes_of(folder: &Path) -> usize {
    let wanted = folder.to_str().expect("a test's folder is text");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(wanted)).count()
}

#[test]
fn the_demo_holds_every_step_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let said = held(demo(outgate().to_str().expect("text"), &["demo"], folder.path()), folder.path());
    assert!(said.contains("100 of 100 connections reset"), "{said}");
}

#[test]
fn where_namespaces_are_refused_the_demo_says_so_and_goes_by_the_proxy() {
    let folder = tempfile::tempdir().expect("folder");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" demo";
    let program = outgate();
    let arguments = ["-Ur", "sh", "-c", script, program.to_str().expect("text")];
    let said = held(demo("unshare", &arguments, folder.path()), folder.path());
    assert!(said.contains("no namespaces for the sandbox") && said.contains("explicit proxy"), "{said}");
    assert!(!said.contains("network namespace of its own"), "{said}");
}

#[test]
fn an_interrupted_demo_fails_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let mut command = demo(outgate().to_str().expect("text"), &["demo"], folder.path());
    let mut running = Process::start(&mut command);
    running.told("✓ 3 credential");
    assert!(!left_in(folder.path()).is_empty() && processes_of(folder.path()) > 1);
    assert!(!running.end(), "an interrupted demo does not pass");
    assert_eq!(left_in(folder.path()), [""; 0]);
    assert_eq!(processes_of(folder.path()), 0);
    assert!(!running.said().contains("Everything held"));
}

#[test]
fn a_missing_plane_is_told_with_the_command_that_builds_it() {
    let mut command = Command::new(outgate());
    let output = command.arg("demo").env("OUTGATE_DATAPLANE", "/nonexistent").output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cargo build --profile plane -p dataplane --bin outgate-dataplane"), "{said}");
}
