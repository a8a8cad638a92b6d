//! Processes: none of the machine's is seen, and the one inside that is not the program's own is closed to it.

use super::Cell;

/// The first process inside is the sandbox's. It has heard what was hidden, and held every capability.
#[test]
fn the_first_process_inside_is_closed_to_its_own_user() {
    let cell = Cell::new();
    // `ptrace`, `process_vm_readv`, `pidfd_open`, `pidfd_getfd`, `setns`, `kcmp`: x86-64, then aarch64.
    let numbers = ["101 310 434 438 308 312", "117 270 434 438 268 272"];
    let script = "
ptrace, read_memory, open_process, take_descriptor, set_namespace, compare = map(int, sys.argv[1].split())
target = int(sys.argv[2]) or os.getpid()
for name in ('environ', 'maps', 'auxv', 'syscall', 'io'):
    tried(name, lambda: len(open(f'/proc/{target}/{name}', 'rb').read(1)))
for name in ('fd', 'map_files', 'root/etc', 'cwd/'):
    tried(name, lambda: len(os.listdir(f'/proc/{target}/{name}')))
for name in ('exe', 'ns/user', 'ns/mnt', 'ns/net'):
    tried(name, lambda: len(os.readlink(f'/proc/{target}/{name}')))
tried('write', lambda: open(f'/proc/{target}/mem', 'r+b').close())
room = ctypes.create_string_buffer(8)
vector = struct.pack('PN', ctypes.addressof(room), 8)
tried('vm', lambda: call(read_memory, target, vector, 1, vector, 1, ctypes.c_ulong(0)))
process = call(open_process, target, 0)
tried('pidfd', lambda: process)
tried('getfd', lambda: call(take_descriptor, process, 0, 0))
for kind in (0x40000000, 0x20000, 0x10000000):
    tried('setns', lambda: call(set_namespace, process, kind))
if target == 1:
    for request in (16, 0x4206):
        tried('trace', lambda: call(ptrace, request, target, 0, 0))
    os.kill(1, 19)
    os.kill(1, 15)
";
    let numbers = numbers[usize::from(!cfg!(target_arch = "x86_64"))];
    let [itself, ..] = cell.tell(&[], script, &[numbers, "0"]);
    // All but to enter its own namespaces anew.
    assert_eq!(itself.matches(" E").count(), 3, "each can be done to an own process: {itself}");
    let [_, inside, nested] = cell.tell(&[], script, &[numbers, "1"]);
    for tried in [inside, nested] {
        let lines: Vec<&str> = tried.lines().collect();
        assert!(lines.len() == 22, "{tried}");
        let open: Vec<_> = lines.iter().filter(|line| !line.contains(" E")).collect();
        assert!(matches!(open[..], [pidfd] if pidfd.starts_with("pidfd ")), "{tried}");
    }
}

/// Namespaces of the machine, by every descriptor and call that leads from one namespace to another.
#[test]
fn no_way_leads_to_the_namespaces_of_the_machine() {
    let cell = Cell::new();
    let script = "
set_namespace = int(sys.argv[1])
NS_GET_USERNS, NS_GET_PARENT, SIOCGSKNS = 0xb701, 0xb702, 0x894c
for name in ('user', 'net', 'mnt', 'pid', 'ipc', 'uts', 'cgroup', 'time'):
    with open(f'/proc/self/ns/{name}') as own:
        def leave():
            above = fcntl.ioctl(own, NS_GET_PARENT if name in ('user', 'pid') else NS_GET_USERNS)
            found = os.readlink(f'/proc/self/fd/{above}')
            entered = call(set_namespace, above, 0)
            return f'{found} {entered}'
        tried(name, leave)
with socket.socket() as taken:
    tried('network of a socket', lambda: call(set_namespace, fcntl.ioctl(taken, SIOCGSKNS), 0))
for target in ('-t 1 -U -n -m', '-t 1 -a', '-t 2 -a'):
    words = ['nsenter', *target.split(), '--', 'echo', 'entered']
    print(subprocess.run(words, capture_output=True, text=True).stdout)
";
    let number = if cfg!(target_arch = "x86_64") { "308" } else { "268" };
    let machine = std::fs::read_link("/proc/self/ns/user").unwrap();
    let machine = machine.to_str().unwrap();
    let [outside, inside, nested] = cell.tell(&[], script, &[number]);
    assert!(outside.contains(machine), "{outside}");
    for tried in [inside, nested] {
        assert!(!tried.contains(machine) && !tried.contains("entered") && tried.contains("user "), "{tried}");
        assert!(!tried.lines().any(|line| line.ends_with(" 0")), "{tried}");
    }
}

/// Packets past the sockets that are captured: sockets that make their own, routes, addresses, rules, interfaces.
#[test]
fn the_network_inside_is_changed_by_nobody() {
    let cell = Cell::new();
    let script = "
for family, kind, protocol in (
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    (socket.AF_PACKET, socket.SOCK_RAW, 0),
    (socket.AF_PACKET, socket.SOCK_DGRAM, 0),
):
    tried('socket', lambda: bool(socket.socket(family, kind, protocol)))
def transparent():
    with socket.socket() as taken:
        taken.setsockopt(socket.IPPROTO_IP, 19, 1)
def mark():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, 36, 1)
def low(port, host='0.0.0.0'):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((host, port))
tried('transparent', transparent)
tried('mark', mark)
for port in (1, 53, 443):
    tried('bind', lambda: low(port))
def netlink(protocol, kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as taken:
        taken.sendall(struct.pack('IHHII', 16 + len(body), kind, flags | 5, 0, 0) + body)
        return struct.unpack_from('i', taken.recv(4096), 16)[0]
route = bytes([2, 0, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0])
tried('remove route', lambda: netlink(0, 25, 0, route))
tried('add route', lambda: netlink(0, 24, 0x400, route + struct.pack('HHI', 8, 4, 1)))
tried('loopback down', lambda: netlink(0, 16, 0, struct.pack('BBHiII', 0, 0, 0, 1, 0, 1)))
tried('add address', lambda: netlink(0, 20, 0x400, struct.pack('BBBBI', 2, 32, 0, 0, 1) + struct.pack('HH4s', 8, 2, bytes([10, 0, 0, 1]))))
tried('new interface', lambda: netlink(0, 16, 0x600, bytes(16) + struct.pack('HH4s', 8, 3, b'esc0')))
tried('remove rules', lambda: netlink(12, 10 << 8 | 2, 0, bytes(4)))
def tunnel():
    with open('/dev/net/tun', 'r+b', buffering=0) as device:
        fcntl.ioctl(device, 0x400454ca, struct.pack('16sH22x', b'esc0', 0x1001))
tried('tunnel', tunnel)
tried('setting', lambda: open('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'w').write('0'))
";
    let [_, inside, nested] = cell.tell(&[], script, &[]);
    for tried in [inside, nested] {
        assert_eq!(tried.lines().count(), 19, "{tried}");
        for line in tried.lines() {
            let refused =
                [" EPERM", " EACCES", " ENOENT", " EADDRINUSE"].iter().any(|error| line.ends_with(error));
            assert!(refused, "{line}");
        }
    }
    // Root of a namespace with a network of its own may do all that, and is then where nothing is.
    let own = "unshare -Urn sh -c 'ip link set lo up; ip route add local default dev lo; exec \"$@\"' sh";
    let connect = format!("{own} {} probe connect 93.184.216.34 443", cell.0.program().display());
    let alone = super::said(&mut cell.0.inside(&[], &["sh", "-c", &connect]));
    assert!(alone.starts_with("error: "), "{alone}");
}
