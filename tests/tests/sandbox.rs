//! The sandbox of `outgate run` by itself: what goes in, what cannot get out, and how it ends. Each way out is first
//! taken outside, as the same user, so that a refusal inside is the sandbox's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::sandboxed::{Ground, processes_with, text};

/// Time for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn ground() -> Ground {
    Ground::new(env!("CARGO_BIN_EXE_in-sandbox"))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::yield_now();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap()).unwrap()
}

#[test]
fn every_tcp_port_of_both_versions_is_captured_with_its_destination() {
    let ground = ground();
    for (host, port) in [
        ("93.184.216.34", "443"),
        ("93.184.216.34", "2"),
        ("93.184.216.34", "65535"),
        ("10.0.0.1", "22"),
        ("169.254.169.254", "80"),
        ("255.255.255.254", "8080"),
        ("2606:2800:220:1::1", "8443"),
        ("fd00::5", "5432"),
    ] {
        assert_eq!(ground.probe_inside(&["connect", host, port]), format!("to {host} {port}"));
    }
    assert_eq!(ground.probe_inside(&["connect", "::ffff:192.0.2.77", "25"]), "to 192.0.2.77 25");
}

#[test]
fn the_programs_own_servers_keep_working() {
    let ground = ground();
    for address in ["127.0.0.1", "127.9.9.9", "::1", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(ground.probe_inside(&["own-server", address]), "hello", "{address}");
    }
    // Nobody listens there: refused by the kernel as on any machine, and not captured.
    let refused = ground.probe_inside(&["connect", "127.0.0.1", "81"]);
    assert!(refused.contains("Connection refused"), "{refused}");
}

#[test]
fn datagrams_are_refused_at_once_so_that_clients_fall_back() {
    let ground = ground();
    for (address, port) in [("93.184.216.34", "443"), ("2606:2800:220:1::1", "443"), ("8.8.8.8", "123")] {
        assert_eq!(ground.probe_inside(&["udp", address, port]), "refused at once", "{address}");
    }
}

#[test]
fn names_are_asked_of_the_gateway() {
    let ground = ground();
    for name in ["example.com", "a-name-that-nobody-has.invalid", "single"] {
        assert_eq!(ground.probe_inside(&["lookup", name]), "198.18.0.7", "{name}");
    }
    let settings = text(&ground.inside(&[], &["cat", "/etc/resolv.conf"]).output().unwrap());
    assert!(settings.contains("nameserver 127.0.0.1\n"), "{settings}");
}

#[test]
fn the_program_is_the_caller_without_any_capability() {
    let ground = ground();
    let status = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let outside = text(&ground.command("cat", &["/proc/self/status"]).output().unwrap());
    let inside = text(&ground.inside(&[], &["cat", "/proc/self/status"]).output().unwrap());
    for name in ["Uid:", "Gid:"] {
        assert_eq!(status(&inside, name), status(&outside, name), "{inside}");
    }
    assert_ne!(status(&outside, "CapBnd:"), ["0000000000000000"], "{outside}");
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status(&inside, name), ["0000000000000000"], "{name}");
    }
    assert_eq!(
        (status(&inside, "NoNewPrivs:"), status(&inside, "Seccomp:")),
        (vec!["1".into()], vec!["2".into()])
    );
}

#[test]
fn a_secret_is_neither_in_the_variables_nor_in_its_file_nor_in_other_variables() {
    let ground = ground();
    let secret = "ghp_0123456789abcdef";
    let file = ground.write("token", secret);
    let file = file.to_str().unwrap();
    std::os::unix::fs::symlink(file, ground.path("link")).unwrap();
    let look = "env; cat token link; cat /proc/1/environ /proc/self/environ; cat /proc/1/cmdline";
    let variables = [("TOKEN", secret.to_owned()), ("OTHER", format!("x{secret}y"))];
    let outside = text(&ground.command("sh", &["-c", look]).envs(variables.clone()).output().unwrap());
    assert!(outside.matches(secret).count() >= 4, "{outside}");
    let mut inside = ground.inside(&["--hide-variable", "TOKEN", "--hide-file", "link"], &["sh", "-c", look]);
    let inside = text(&inside.envs(variables).output().unwrap());
    assert!(!inside.contains(secret) && inside.contains("SSL_CERT_FILE="), "{inside}");
    assert_eq!(fs::read_to_string(file).unwrap(), secret, "the machine's file is as it was");
}

#[test]
fn what_is_covered_cannot_be_uncovered_by_root_of_a_nested_user_namespace() {
    let ground = ground();
    ground.write("token", "ghp_0123456789abcdef");
    let attempts = "umount token 2>&1; umount -l token 2>&1; mkdir -p m; mount --bind . m && cat m/token; \
                    umount -R / ; mount -t proc proc /proc && cat token; nsenter -t 1 -m -U cat token; cat token";
    let nested = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c"];
    let control =
        text(&ground.command(nested[0], &[&nested[1..], &["cat token"]].concat()).output().unwrap());
    assert_eq!(control, "ghp_0123456789abcdef", "a nested namespace can be made here");
    let inside =
        ground.inside(&["--hide-file", "token"], &[&nested[..], &[attempts]].concat()).output().unwrap();
    let inside = text(&inside);
    assert!(!inside.contains("ghp_"), "{inside}");
}

#[test]
fn a_file_with_a_second_name_or_none_cannot_be_hidden() {
    let ground = ground();
    ground.write("token", "secret-secret");
    fs::hard_link(ground.path("token"), ground.path("second")).unwrap();
    for (name, said) in [("token", "hard links"), ("missing", "No such file")] {
        let output = ground.inside(&["--hide-file", name], &["echo", "started"]).output().unwrap();
        let told = text(&output);
        assert!(told.contains(said) && !told.contains("started"), "{told}");
        assert_eq!(output.status.code(), Some(125));
    }
}

#[test]
fn sockets_of_the_machine_are_out_of_reach() {
    let ground = ground();
    let path = ground.path("agent.sock");
    let by_path = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let name = format!("outgate-test-{}", std::process::id());
    let abstract_one = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    for (way, listener) in [(["unix", path], &by_path), (["abstract", &name], &abstract_one)] {
        assert_eq!(ground.probe_outside(&way), "connected", "{way:?}");
        listener.accept().unwrap();
        let inside = ground.probe_inside(&way);
        assert!(inside.starts_with("error: "), "{way:?}: {inside}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "{way:?}: somebody came");
    }
}

#[test]
fn the_machines_loopback_and_its_processes_are_out_of_reach() {
    let ground = ground();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"machine").map(|()| listener));
    assert_eq!(ground.probe_outside(&["connect", "127.0.0.1", &port]), "machine");
    let listener = server.join().unwrap().unwrap();
    assert!(ground.probe_inside(&["connect", "127.0.0.1", &port]).contains("Connection refused"));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody came");

    let mut other = ground.command("sleep", &["10000"]).spawn().unwrap();
    let number = other.id().to_string();
    let signal = ["kill", "-0", &number];
    assert!(ground.command(signal[0], &signal[1..]).status().unwrap().success());
    assert!(!ground.inside(&[], &signal).stderr(Stdio::null()).status().unwrap().success());
    let seen = text(&ground.inside(&[], &["sh", "-c", "cat /proc/[0-9]*/comm"]).output().unwrap());
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(seen, "outgate\nsh");
}

#[test]
fn run_is_closed_to_its_own_user() {
    let ground = ground();
    let run = long_one(&ground, "echo runs; exec sleep 100000", "");
    let open = ground.command("sleep", &["100000"]).spawn().unwrap();
    let look = |child: &Child| {
        let environment = format!("/proc/{}/environ", child.id());
        ground
            .command("cat", &[&environment])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert_eq!((look(&open), look(&run)), (true, false));
    for mut child in [run, open] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn control_groups_and_other_settings_below_sys_cannot_be_written() {
    let ground = ground();
    let flags = "grep ' /sys' /proc/self/mountinfo | cut -d' ' -f6 | cut -c1-2 | sort -u";
    let outside = text(&ground.command("sh", &["-c", flags]).output().unwrap());
    let inside = text(&ground.inside(&[], &["sh", "-c", flags]).output().unwrap());
    assert!(outside.contains("rw") && inside == "ro", "{outside} {inside}");
}

#[test]
fn sockets_past_the_network_namespace_cannot_be_made() {
    let ground = ground();
    // A kernel without that family would refuse it in the same words.
    assert_eq!(ground.probe_outside(&["socket", "vsock"]), "made");
    assert!(ground.probe_inside(&["socket", "vsock"]).contains("Address family not supported"));
    assert!(ground.probe_inside(&["socket", "raw"]).contains("not permitted"));
}

#[test]
fn trust_lies_over_the_systems_file_and_in_the_variables() {
    let ground = ground();
    let look = "cat /etc/ssl/certs/ca-certificates.crt > all; cmp all $SSL_CERT_FILE && grep -c BEGIN $SSL_CERT_FILE; \
                grep -c BEGIN $NODE_EXTRA_CA_CERTS; touch $SSL_CERT_FILE 2>&1; echo $JAVA_TOOL_OPTIONS";
    let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap().matches("BEGIN").count();
    let told = text(&ground.inside(&[], &["sh", "-c", look]).output().unwrap());
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[..2], [(system + 1).to_string(), "1".into()], "{told}");
    assert!(lines[2].contains("Read-only file system"), "{told}");
    assert!(lines[3].contains("-Djavax.net.ssl.trustStore="), "{told}");
}

#[test]
fn chromium_has_a_database_of_its_own_that_trusts_and_the_machines_is_as_it_was() {
    let ground = ground();
    let make = "mkdir -p .pki/nssdb && echo machine > .pki/nssdb/cert9.db";
    assert!(ground.command("sh", &["-c", make]).status().unwrap().success());
    let look = "cd .pki/nssdb && ls && head -c 15 cert9.db && touch new && stat -c ' %U %a' cert9.db";
    let told = text(&ground.inside(&[], &["sh", "-c", look]).output().unwrap());
    assert!(told.starts_with("cert9.db\nkey4.db\nSQLite format 3") && told.ends_with(" 600"), "{told}");
    assert_eq!(fs::read_to_string(ground.path(".pki/nssdb/cert9.db")).unwrap(), "machine\n");
    assert!(!ground.path(".pki/nssdb/new").exists());
}

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
fn it_needs_no_program_of_the_machine_but_the_one_to_run() {
    let ground = ground();
    let output = ground.inside(&[], &["/bin/echo", "ran"]).env_clear().output().unwrap();
    assert_eq!(text(&output), "ran");
}

#[test]
fn standard_streams_pass_through() {
    let ground = ground();
    let mut child = ground
        .inside(&[], &["sh", "-c", "cat; echo e >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"in").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"in"[..], &b"e\n"[..]));
    let folder = fs::File::open("/").unwrap();
    let output = ground.inside(&[], &["echo", "started"]).stdin(folder).output().unwrap();
    assert!(text(&output).contains("standard input is a folder"), "{}", text(&output));
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

/// A program inside that says when it runs, and its mark.
fn long_one(ground: &Ground, script: &str, mark: &str) -> Child {
    let script = script.replace("MARK", mark);
    let mut child = ground.inside(&[], &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    child
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

#[test]
fn where_user_namespaces_are_refused_the_cause_and_the_fix_are_told() {
    let ground = ground();
    let program = ground.program();
    let script =
        format!("echo 0 > /proc/sys/user/max_user_namespaces; exec {} -- echo started", program.display());
    let output =
        ground.command("unshare", &["--user", "--map-root-user", "sh", "-c", &script]).output().unwrap();
    let told = text(&output);
    assert!(told.contains("user.max_user_namespaces is 0") && told.contains("sudo sysctl -w"), "{told}");
    assert!(!told.contains("started") && output.status.code() == Some(125), "{told}");
}

#[test]
fn a_sandbox_stands_within_a_sandbox() {
    let ground = ground();
    let program = ground.program();
    let program = program.to_str().unwrap();
    let output =
        ground.inside(&[], &[program, "--", program, "probe", "connect", "93.184.216.34", "443"]).output();
    assert_eq!(text(&output.unwrap()), "to 93.184.216.34 443");
}

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

#[test]
fn a_program_of_roots_can_change_neither_the_kernel_nor_devices() {
    let ground = Ground::of_root(env!("CARGO_BIN_EXE_in-sandbox"));
    let write = "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern";
    assert!(ground.command("sh", &["-c", write]).status().unwrap().success());
    let output = ground.inside(&[], &["sh", "-c", write]).output().unwrap();
    assert!(text(&output).contains("Read-only file system"), "{}", text(&output));
    let devices = text(&ground.inside(&[], &["ls", "/dev"]).output().unwrap());
    let devices: Vec<_> = devices.lines().collect();
    let all = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(devices, all);
    assert_eq!(ground.probe_inside(&["connect", "93.184.216.34", "443"]), "to 93.184.216.34 443");
}
