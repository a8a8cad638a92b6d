//! Where a container refuses io_uring, the operator is told once which setting to change, and nothing serves.

use std::{fs, process::Command};

use tests::{
    no_ring::without_ring,
    process::{Control, Process, shipped_plane},
};

/// What containers answer, and how the sentence begins that the operator is told then.
const REFUSALS: [(i32, &str); 2] = [
    (libc::EPERM, "io_uring is refused to this process, though kernel.io_uring_disabled allows it: "),
    (
        libc::ENOSYS,
        "this kernel answers that it has no io_uring: Linux 6.1 or later is needed; in a container, ",
    ),
];
/// The flag that changes it.
const FLAG: &str = "docker run --security-opt seccomp=FILE";

#[test]
fn plane_says_which_setting_to_change_and_has_touched_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (state, settings) = (folder.path().join("state"), folder.path().join("plane.toml"));
    let socket = folder.path().join("attach.sock");
    let text = format!(
        "name = \"one\"\nstateDir = {state:?}\nattachSocket = {socket:?}\n[control]\naddress = \"127.0.0.1:9\"\n"
    );
    fs::write(&settings, text).unwrap();
    let mut command = Command::new(shipped_plane());
    command.arg("--config").arg(&settings);
    for (errno, sentence) in REFUSALS {
        let mut plane = Process::start(&mut without_ring(errno, &command));
        assert!(!plane.ended(), "{}", plane.said());
        let told = plane.told(&format!("outgate-dataplane: {sentence}"));
        assert!(told.contains("seccomp profile") && told.contains(FLAG), "{told}");
        assert_eq!(plane.said().lines().count(), 1, "{}", plane.said());
    }
    assert!(!state.exists() && !socket.exists());
}

#[test]
fn serve_ends_with_the_sentence_of_its_plane() {
    for (errno, sentence) in REFUSALS {
        let folder = tempfile::tempdir().unwrap();
        let command = Control::with_plane_command(folder.path(), "shards = 1\n");
        let mut serve = Process::start(&mut without_ring(errno, &command));
        assert!(!serve.ended(), "{}", serve.said());
        assert!(serve.told(sentence).contains(FLAG), "{}", serve.said());
        serve.told("outgate: the plane did not start");
        assert_eq!(serve.said().matches(sentence).count(), 1, "{}", serve.said());
    }
}
