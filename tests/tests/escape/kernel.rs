//! What of the kernel belongs to no namespace: keys, control groups, rings, counters, and what comes with a descriptor.

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use super::{Cell, HIDDEN, NESTED, python, said};
use tests::sandboxed::text;

/// Keys of a user are found by number from every namespace, `/proc/keys` lists the numbers, and a keyring of the user
/// may be linked by each of the user's processes; so a program inside had every key that lies in one.
#[test]
fn keys_of_the_user_are_read_by_nobody_inside() {
    let cell = Cell::new();
    // `add_key`, `keyctl`: x86-64 and aarch64.
    let numbers = if cfg!(target_arch = "x86_64") { ["248", "250"] } else { ["217", "219"] };
    let put = "print(call(int(sys.argv[1]), b'user', b'outgate-escape', sys.argv[2].encode(), len(sys.argv[2]), -4) > 0)";
    let script = python(put);
    let put = [&script[1], &script[2], numbers[0], HIDDEN].map(|word: &str| word);
    assert_eq!(text(&cell.0.command("python3", &put).output().unwrap()), "True", "a user may keep keys here");
    let look = "
keyctl, room = int(sys.argv[2]), ctypes.create_string_buffer(100)
for line in open('/proc/keys'):
    serial = int(line.split()[0], 16)
    call(keyctl, 8, serial, -2)
    if call(keyctl, 11, serial, room, 100) > 0:
        print(room.value)
for ring in (-1, -2, -3, -4, -5):
    found = call(keyctl, 10, ring, b'user', b'outgate-escape', 0)
    if found > 0 and call(keyctl, 11, found, room, 100) > 0:
        print(room.value)
print('looked')
";
    let [outside, inside, nested] = cell.tell(&[], look, &numbers);
    assert!(outside.contains(HIDDEN), "{outside}");
    for inside in [inside, nested] {
        assert!(!inside.contains(HIDDEN) && inside.contains("looked"), "{inside}");
    }
}

/// A user namespace with a view of its own on control groups may mount the group in which it is: that of `run`, of the
/// gateway and of the caller's shell, which were then ended by writing one byte.
#[test]
fn control_groups_are_not_mounted_by_a_namespace_of_its_own() {
    let cell = Cell::new();
    let folder = cell.0.path("groups");
    let mount = "mkdir -p groups && mount -t cgroup2 none groups && ls groups | grep cgroup.procs";
    for leave in [&["--cgroup"][..], &[]] {
        let words = [&NESTED[..4], leave, &["sh", "-c", mount]].concat();
        if !leave.is_empty() {
            assert_eq!(said(&mut cell.0.command(words[0], &words[1..])), "cgroup.procs", "possible outside");
        }
        let inside = said(&mut cell.0.inside(&[], &words));
        assert!(!inside.contains("cgroup.procs"), "{leave:?}: {inside}");
    }
    assert!(!folder.join("cgroup.procs").exists());
    // Threads and processes are made as ever, though `clone3` is not there.
    let [_, inside, nested] = cell.tell(
        &[],
        "import threading\nthread = threading.Thread(target=lambda: print(subprocess.check_output(['echo', 'ran'])))\n\
         thread.start()\nthread.join()",
        &[],
    );
    assert_eq!((&*inside, &*nested), ("b'ran\\n'", "b'ran\\n'"));
}

#[test]
fn rings_and_counters_of_events_do_not_exist_inside() {
    let cell = Cell::new();
    // `io_uring_setup`; `perf_event_open` of this process with a counter of software; struct perf_event_attr.
    let perf = if cfg!(target_arch = "x86_64") { "298" } else { "241" };
    let script = "
def counter():
    attribute = struct.pack('IIQQQQQ', 1, 112, 0, 0, 0, 0, 1 | 1 << 5 | 1 << 6) + bytes(72)
    return call(int(sys.argv[1]), attribute, 0, -1, -1, 0)
tried('ring', lambda: call(425, 4, bytes(120)) if len(sys.argv) else 0)
tried('counter', counter)
";
    let [outside, inside, nested] = cell.tell(&[], script, &[perf]);
    // An administrator may have switched off either; then they are out of reach in any case.
    assert!(!outside.contains("ENOSYS"), "{outside}");
    for inside in [inside, nested] {
        assert_eq!(inside, "ring ENOSYS\ncounter ENOSYS");
    }
}

#[test]
fn nothing_is_typed_into_the_terminal_of_the_caller() {
    let cell = Cell::new();
    let script = "
for request in (0x5412, 0x5412 | 1 << 32):
    tried('type', lambda: call(int(sys.argv[1]), 0, ctypes.c_ulong(request), b'x'))
tried('select', lambda: call(int(sys.argv[1]), 0, ctypes.c_ulong(0x541c), bytes([2]) + bytes(15)))
";
    let ioctl = if cfg!(target_arch = "x86_64") { "16" } else { "29" };
    let [_, script_flag, code] = python(script);
    cell.0.write("type.py", &code);
    let _ = script_flag;
    let program = cell.0.program();
    for nested in ["", "unshare -Ur "] {
        let run = format!("{} -- {nested}python3 type.py {ioctl}", program.display());
        let shown = said(&mut cell.0.command("script", &["-qec", &run, "/dev/null"])).replace('\r', "");
        assert_eq!(shown, "type EPERM\ntype EPERM\nselect EPERM");
    }
}

/// A socket belongs to the network namespace in which it was made. One that came as standard input was connected from
/// inside to the machine's loopback.
#[test]
fn no_socket_of_the_machines_network_comes_in_as_a_standard_stream() {
    let cell = Cell::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let script = "
taken = socket.socket(fileno=0)
taken.connect(('127.0.0.1', int(sys.argv[1])))
taken.sendall(b'out')
";
    let words = python(script);
    let words: Vec<&str> = words.iter().map(String::as_str).chain([&*port]).collect();
    let fresh =
        || OwnedFd::from(socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
    assert_eq!(said(cell.0.command(words[0], &words[1..]).stdin(fresh())), "");
    let mut came = String::new();
    listener.accept().unwrap().0.read_to_string(&mut came).unwrap();
    assert_eq!(came, "out");
    let listening = UnixListener::bind(cell.0.path("s")).unwrap();
    for stream in [fresh(), listening.into(), UnixDatagram::unbound().unwrap().into()] {
        let refused = said(cell.0.inside(&[], &words).stdin(stream));
        assert!(
            refused.contains("standard input is a network socket") && refused.contains("| cat"),
            "{refused}"
        );
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody came");
}

/// Descriptors beside the standard streams stay outside: a folder, a socket, a secret that the caller has open.
#[test]
fn descriptors_of_the_caller_do_not_come_in() {
    let cell = Cell::new();
    cell.0.write("token", HIDDEN);
    let program = cell.0.program();
    let look = "ls /proc/self/fd | wc -l; cat <&7; cat /proc/self/fd/7; cat /proc/self/fd/8/token";
    let script = format!("exec 7<token 8</proc/self/cwd; {look}");
    let outside = said(&mut cell.0.command("bash", &["-c", &script]));
    assert_eq!(outside.matches(HIDDEN).count(), 3, "{outside}");
    let script = format!(
        "exec 7<token 8</proc/self/cwd; exec {} --hide-file token -- sh -c '{look}'",
        program.display()
    );
    let inside = said(&mut cell.0.command("bash", &["-c", &script]));
    // The three streams, and what `ls` itself opens.
    assert!(inside.starts_with("4\n") && !inside.contains(HIDDEN), "{inside}");
}
