//! The terminal of a command in a sandbox: whose it is, and to whom it is lent.

use super::*;

#[test]
fn the_program_has_the_terminal_and_gives_it_back() {
    let ground = ground();
    let program = ground.program();
    let script = format!(
        "{0} -- {0} probe terminal; {0} probe terminal; {0} -- true & wait; {0} probe terminal",
        program.display()
    );
    let output = ground.command("script", &["-qec", &script, "/dev/null"]).output().unwrap();
    let told = text(&output).replace('\r', "");
    assert_eq!(told, "foreground\nforeground\nforeground", "{told:?}");
}

#[test]
fn terminals_inside_are_the_sandboxs_own() {
    let ground = ground();
    let program = ground.program();
    let look = "tty; ls -1 /dev/pts; script -qec tty /dev/null";
    let outside = ground.command("script", &["-qec", "tty; ls -1 /dev/pts", "/dev/null"]).output().unwrap();
    let outside = text(&outside).replace('\r', "");
    assert!(outside.starts_with("/dev/pts/") && outside.lines().count() > 2, "{outside:?}");
    let script = format!("{} -- sh -c '{look}'", program.display());
    let inside = ground.command("script", &["-qec", &script, "/dev/null"]).output().unwrap();
    let inside = text(&inside).replace('\r', "");
    assert!(inside.starts_with("/dev/console\nptmx\n") && inside[18..].contains("/dev/pts/0"), "{inside:?}");
}

/// A terminal's program, which ends with the test however that ends, and so does what runs in the terminal.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What a program writes, as it comes.
struct Screen(Receiver<u8>);

impl Screen {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let (tell, told) = channel();
        thread::spawn(move || {
            let mut byte = [0];
            while from.read(&mut byte).is_ok_and(|count| count == 1) && tell.send(byte[0]).is_ok() {}
        });
        Self(told)
    }

    fn read_until(&self, wanted: &str) {
        let mut read = Vec::new();
        while !read.ends_with(wanted.as_bytes()) {
            match self.0.recv_timeout(PATIENCE) {
                Ok(byte) => read.push(byte),
                Err(_) => panic!("{wanted:?} did not come: {:?}", String::from_utf8_lossy(&read)),
            }
        }
    }
}

#[test]
fn a_stopped_program_gives_the_shell_its_terminal_and_goes_on_in_the_foreground() {
    let ground = ground();
    let script = ["-qec", "bash --norc -i", "/dev/null"];
    let mut shell = ground.command("script", &script);
    let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).env("PS1", "prompt>").spawn().unwrap();
    let mut shell = Ended(shell);
    let (mut keys, screen) = (shell.0.stdin.take().unwrap(), Screen::of(shell.0.stdout.take().unwrap()));
    let run = format!("{} -- sh -c 'echo rea''dy; exec cat'\n", ground.program().display());
    // What is typed is shown as well, so what must come is spelt otherwise there.
    for (typed, comes) in [
        ("", "prompt>"),
        (run.as_str(), "ready\r\n"),
        ("first\n", "first\r\nfirst\r\n"),
        // What is typed before the shell asks for it may be lost.
        ("\u{1a}", "Stopped"),
        ("", "prompt>"),
        ("echo bet''ween\n", "between\r\n"),
        ("", "prompt>"),
        ("fg\n", "in-sandbox"),
        ("second\n", "second\r\nsecond\r\n"),
        ("\u{3}", "prompt>"),
        ("echo status $?\n", "status 130\r\n"),
    ] {
        keys.write_all(typed.as_bytes()).unwrap();
        screen.read_until(comes);
    }
    keys.write_all(b"exit\n").unwrap();
    drop(keys);
    shell.0.wait().unwrap();
}

#[test]
fn the_terminal_is_lent_for_a_question_while_the_program_waits_for_it() {
    let ground = ground();
    let run = format!("{} --ask -- cat; echo status $?", ground.program().display());
    let mut shell = ground.command("script", &["-qec", &run, "/dev/null"]);
    let mut shell = Ended(shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let (mut keys, screen) = (shell.0.stdin.take().unwrap(), Screen::of(shell.0.stdout.take().unwrap()));
    for (typed, comes) in [
        ("", "may it?\r\n"),
        ("yes\n", "you said yes\r\n"),
        ("line\n", "line\r\nline\r\n"),
        ("\u{4}", "status 0\r\n"),
    ] {
        keys.write_all(typed.as_bytes()).unwrap();
        screen.read_until(comes);
    }
    drop(keys);
    shell.0.wait().unwrap();
}
