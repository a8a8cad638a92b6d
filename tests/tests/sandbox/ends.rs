//! How a command in a sandbox ends, by itself or by others, and that nothing of it lives on.

use super::*;

#[test]
fn an_end_is_told_as_a_shell_tells_it() {
    let ground = ground();
    ground.write("no-program", "x");
    for (program, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["a-program-that-is-not-there"], 127),
        (&["./no-program"], 126),
    ] {
        let output = ground.inside(&[], program).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{program:?}: {}", text(&output));
    }
}

#[test]
fn an_end_is_told_where_the_caller_ignores_the_ends_of_children() {
    let ground = ground();
    let program = ground.program();
    let run = ["--ignore-signal=CHLD", program.to_str().unwrap(), "--", "sh", "-c", "true | true; exit 7"];
    assert_eq!(ground.command("env", &run).status().unwrap().code(), Some(7));
}

#[test]
fn what_the_caller_ignores_the_program_ignores() {
    let ground = ground();
    let script = format!("trap '' HUP; exec {} -- grep SigIgn /proc/self/status", ground.program().display());
    let told = text(&ground.command("sh", &["-c", &script]).output().unwrap());
    let ignored = told.strip_prefix("SigIgn:\t").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    // The named signals; SIGHUP is the first.
    assert_eq!(ignored.map(|mask| mask & 0x7fff_ffff), Some(1), "{told}");
}

#[test]
fn nothing_that_the_program_leaves_behind_lives_on() {
    let ground = ground();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mark = format!("1000000.{}", std::process::id());
    let leave =
        format!("setsid sleep {mark} >/dev/null 2>&1 & (trap '' TERM HUP; exec sleep {mark}) & echo left");
    let output = ground.inside(&[], &["sh", "-c", &leave]).output().unwrap();
    assert_eq!(text(&output), "left");
    assert_eq!(processes_with(&mark), 0);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    assert!(!std::path::Path::new("/dev/shm/outgate").exists());
}

#[test]
fn a_killed_run_leaves_nothing() {
    let ground = ground();
    let mark = format!("2000000.{}", std::process::id());
    let mut run = long_one(&ground, "setsid sleep MARK & echo runs; sleep MARK", &mark);
    until("both sleep", || processes_with(&mark) >= 2);
    run.kill().unwrap();
    run.wait().unwrap();
    let program = ground.program();
    until("all are gone", || processes_with(&mark) == 0 && processes_with(program.to_str().unwrap()) == 0);
}

#[test]
fn a_signal_for_run_is_one_for_the_program() {
    let ground = ground();
    for (signal, script, status) in [
        (Signal::TERM, "trap 'exit 9' TERM; echo runs; while :; do sleep 0.01; done", Some(9)),
        (Signal::INT, "trap 'exit 8' INT; echo runs; while :; do sleep 0.01; done", Some(8)),
        (Signal::TERM, "echo runs; exec sleep 100000", Some(143)),
        (Signal::HUP, "echo runs; exec sleep 100000", Some(129)),
    ] {
        let mut run = long_one(&ground, script, "");
        kill_process(pid(&run), signal).unwrap();
        assert_eq!(run.wait().unwrap().code(), status, "{script}");
    }
}

#[test]
fn it_can_be_ended_from_another_thread() {
    let ground = ground();
    let mark = format!("3000000.{}", std::process::id());
    let output = ground.inside(&["--end-after-start"], &["sleep", &mark]).output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{}", text(&output));
    until("it is gone", || processes_with(&mark) == 0);
}
