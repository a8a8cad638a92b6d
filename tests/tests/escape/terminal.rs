//! The person at the terminal is asked by us, answers us, and sees nothing but the question meanwhile.

use tests::yard::{Yard, said};

use super::python;

fn asked(yard: &Yard, steps: &str, script: &str) -> String {
    let url = yard.url("origin.test");
    let words = python(script);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([&*url]).collect();
    let run = yard.run(&["--ask"], &words);
    let (out, err) = said(&yard.at_a_terminal(steps, &run).output().unwrap());
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
