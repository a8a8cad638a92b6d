//! The sandbox of `outgate run` by itself: what goes in, what cannot get out, and how it ends. Each way out is first
//! taken outside, as the same user, so that a refusal inside is the sandbox's.

mod ends;
mod terminal;

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
