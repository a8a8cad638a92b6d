//! The person at the terminal is asked by us, answers us, and sees nothing but the question meanwhile.

use std::process::Command;

use tests::yard::{Yard, said};

use super::python;

/// Runs a command at a terminal of its own. For each two further words: waits for the first, then types the second.
/// Says all that was shown.
const AT_A_TERMINAL: &str = r"
import os, pty, sys
steps = [word.encode().decode('unicode_escape').encode() for word in sys.argv[1].split(',')]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown, read = b'', b''
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown, read = shown + piece, read + piece
    while steps and steps[0] in read:
        read = read.split(steps.pop(0), 1)[1]
        os.write(terminal, steps.pop(0))
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn asked(yard: &Yard, steps: &str, script: &str) -> String {
    let url = yard.url("origin.test");
    let words = python(script);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([&*url]).collect();
    let run = yard.run(&["--ask"], &words);
    let mut command: Command = yard.ground.command("python3", &["-c", AT_A_TERMINAL, steps]);
    command.arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (out, err) = said(&command.output().unwrap());
    assert!(err.is_empty(), "{err}");
    assert_eq!((yard.left(), yard.processes()), (vec![], 0), "{out}");
    out
}

/// What lay in the terminal's input when the question came was read as the answer.
#[test]
fn what_was_typed_before_the_question_is_no_answer() {
    let yard = Yard::new();
    let script = "
import select
print('rea' + 'dy', flush=True)
select.select([0], [], [])
subprocess.run(['curl', '--silent', sys.argv[1]])
";
    let out = asked(&yard, "ready,once\\n,[d]eny: ,deny\\n", script);
    assert!(out.contains("\"code\":\"ask_denied\""), "{out}");
    assert!(yard.origin.seen().is_empty(), "the origin was never dialled");
}

/// A process beside the one that is asked about drew over the question, and took the foreground for the answer.
#[test]
fn nothing_inside_draws_on_the_question_or_takes_the_answer() {
    let yard = Yard::new();
    let script = "
import signal, termios
def draw():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    os.setpgid(0, 0)
    print('dra' + 'wing', flush=True)
    while True:
        os.write(1, b'OVER')
        try:
            os.tcsetpgrp(1, os.getpgrp())
            termios.tcflush(0, termios.TCIFLUSH)
        except OSError:
            pass
artist = os.fork()
if artist == 0:
    draw()
print(subprocess.run(['curl', '--silent', sys.argv[1]], capture_output=True).stdout)
os.kill(artist, 9)
";
    let prompt = "[d]eny: ";
    let nonsense = format!("{prompt},nonsense\\n,").repeat(20);
    let steps = format!("{nonsense}{prompt},once\\n");
    let out = asked(&yard, &steps, script);
    let first = out.find("outgate: may the program").expect("a question");
    let last = out.rfind(prompt).expect("a question");
    assert!(out[..first].contains("OVER"), "it draws before: {out}");
    assert!(!out[first..last].contains("OVER"), "{out}");
    assert_eq!(out.matches("may the program send GET").count(), 21, "{out}");
    assert_eq!(yard.origin.seen().len(), 1, "{out}");
}
