//! How `outgate run` ends: as a shell tells it, and with everything that it started.

use std::process::Command;

use rustix::process::Signal;
use tests::process::Process;
use tests::yard::{Yard, said};

fn nothing_is_left(yard: &Yard) {
    assert_eq!((yard.left(), yard.processes()), (vec![], 0));
}

#[test]
fn keys_that_interrupt_are_the_programs_and_tell_as_a_shell_does() {
    let yard = Yard::new();
    let quiet = ["--no-tty-summary"];
    for (key, script, status) in [
        ("\\x03", "echo ins''ide; exec sleep 100", 130),
        ("\\x1c", "ulimit -c 0; echo ins''ide; exec sleep 100", 131),
        ("\\x03", "trap 'exit 9' INT; echo ins''ide; while :; do sleep 0.01; done", 9),
        ("\\x04", "echo ins''ide; cat; exit 4", 4),
    ] {
        let run = yard.run(&quiet, &["sh", "-c", script]);
        let output = yard.at_a_terminal(&format!("inside,{key}"), &run).output().expect("it runs");
        assert_eq!(output.status.code(), Some(status), "{script}: {:?}", said(&output));
        nothing_is_left(&yard);
    }
    // Where nothing is typed.
    let output =
        yard.at_a_terminal("never,", &yard.run(&quiet, &["sh", "-c", "test -t 0 && exit 6"])).output();
    assert_eq!(output.expect("it runs").status.code(), Some(6));
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let yard = Yard::new();
    // The shell's own words are spelt otherwise where they are typed.
    let script = format!(
        "prompt>,{} run --policy policy.toml --plane-config plane.toml --no-tty-summary -- sh -c \
         'echo ins''ide; read line; echo got $line; exit 5'\\n,inside,\\x1a,Stopped,\\n,prompt>,fg\\n,no-tty,\
         word\\n,got word,echo status $?\\n,status 5,exit\\n",
        yard.outgate.display()
    );
    let mut shell = yard.ground.command("bash", &["--norc", "-i"]);
    shell
        .env("PS1", "prompt>")
        .envs(yard.run(&[], &[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (out, err) = said(&yard.at_a_terminal(&script, &shell).output().expect("it runs"));
    assert!(out.contains("status 5"), "{out}{err}");
    nothing_is_left(&yard);
}

#[test]
fn daemons_of_the_program_end_with_it() {
    let yard = Yard::new();
    let script = "
import os, sys, signal
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for number in (0, 1, 2):
            os.dup2(os.open('/dev/null', os.O_RDWR), number)
        os.write(write, b'x')
        os.execvp('sleep', ['sleep', sys.argv[1]])
    os._exit(0)
os.read(read, 1)
sys.exit(11)
";
    let mark = format!("4000000.{}", std::process::id());
    let mut run = yard.run(&["--no-tty-summary"], &["python3", "-c", script, &mark]);
    let output = run.output().expect("it runs");
    assert_eq!(output.status.code(), Some(11), "{:?}", said(&output));
    assert_eq!(tests::sandboxed::processes_with(&mark), 0);
    nothing_is_left(&yard);
}

#[test]
fn a_signal_for_run_is_the_programs_and_so_is_the_end() {
    let yard = Yard::new();
    for (signal, status) in
        [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131), (Signal::USR1, 138)]
    {
        let command =
            yard.run(&["--no-tty-summary"], &["sh", "-c", "ulimit -c 0; echo inside; exec sleep 100"]);
        let mut shell = yard.ground.command("sh", &["-c", "echo $$; \"$@\"; echo status $?", "sh"]);
        // Between the two stands a process that tells the whole status.
        shell.arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut shell = Process::start(&mut shell);
        shell.told("inside");
        let run = tests::process::child_of(shell.pid()).expect("the shell has one child");
        let run = rustix::process::Pid::from_raw(i32::try_from(run).expect("a pid")).expect("a pid");
        rustix::process::kill_process(run, signal).expect("it lives");
        assert_eq!(shell.told("status "), status.to_string());
        // The yard stands in its command line too.
        assert!(shell.ended());
        nothing_is_left(&yard);
    }
}

/// The table was written to standard error whoever had closed it, and the run ended by a panic.
#[test]
fn who_hears_no_summary_is_told_the_end_all_the_same() {
    let yard = Yard::new();
    let run = yard.run(&[], &["sh", "-c", "exit 3"]);
    let mut closed = run_of(&yard, "exec 2>&-; exec \"$@\"", &run);
    assert_eq!(closed.status().expect("it runs").code(), Some(3));
    let mut gone = run_of(&yard, "{ \"$@\"; echo $? >&3; } 2>&1 3>status | true", &run);
    assert!(gone.status().expect("it runs").success());
    assert_eq!(std::fs::read_to_string(yard.ground.path("status")).expect("status"), "3\n");
    nothing_is_left(&yard);
}

fn run_of(yard: &Yard, script: &str, run: &Command) -> Command {
    let mut command = yard.ground.command("sh", &["-c", script, "sh"]);
    command.arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// A program that stopped the terminal's output held up the end of the run, and one that claimed the terminal for
/// itself kept it from whatever came after.
#[test]
fn the_terminal_is_everybodys_again_after_the_program() {
    let yard = Yard::new();
    let script = "import fcntl, termios\nfcntl.ioctl(1, termios.TIOCEXCL)\ntermios.tcflow(1, termios.TCOOFF)";
    let run = yard.run(&[], &["python3", "-c", script]);
    let shell = run_of(&yard, "\"$@\"; echo open > /dev/tty && exit 8", &run);
    let output = yard.at_a_terminal("never,", &shell).output().expect("it runs");
    let (out, err) = said(&output);
    assert_eq!(output.status.code(), Some(8), "{out}{err}");
    assert!(out.contains("0 requests to 0 hosts") && out.contains("open"), "{out}");
    nothing_is_left(&yard);
}
