//! The network through the real gateway: nothing leaves but by policy, by whatever name, address, protocol or setting.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use tests::yard::{SECRET, Yard, said};

use super::{NESTED, python, said as told};

/// A loopback server of the machine, of which nobody inside may hear.
struct Server(TcpListener);

impl Server {
    fn new(address: impl Into<IpAddr>) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(address.into(), 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> String {
        self.0.local_addr().unwrap().port().to_string()
    }

    /// Whether somebody has connected since the last time.
    fn was_reached(&self) -> bool {
        match self.0.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// A script's words as a program, as the caller's user and as root of a user namespace.
fn both(script: &str, arguments: &[&str]) -> [Vec<String>; 2] {
    let words: Vec<String> =
        python(script).into_iter().chain(arguments.iter().map(|&word| word.to_owned())).collect();
    [words.clone(), NESTED.iter().map(|&word| word.to_owned()).chain(words).collect()]
}

/// What a script says in a run, on standard output and in the summary.
fn run(yard: &Yard, options: &[&str], program: &[String]) -> (String, String) {
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    said(&yard.run(options, &program).output().unwrap())
}

/// Every spelling of the machine's own loopback, as a destination and as the authority of a request to elsewhere.
#[test]
fn loopback_of_the_machine_is_reached_by_no_spelling() {
    let yard = Yard::new();
    let (v4, v6) = (Server::new([127, 0, 0, 1]), Server::new(Ipv6Addr::LOCALHOST));
    let script = "
def ask(host, port, authority, target='/'):
    with socket.create_connection((host, int(port)), 10) as taken:
        taken.sendall(f'GET {target} HTTP/1.1\\r\\nHost: {authority}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
        return taken.recv(4096).split(b'\\r\\n')[0].decode()
names = ('127.0.0.1', '127.1', '2130706433', '0x7f000001', '0177.0.0.1', '127.9.9.9', '0.0.0.0', 'localhost',
    'localhost.', 'a.localhost', '::1', '::', '::ffff:127.0.0.1', '::ffff:7f00:1', '::127.0.0.1', '64:ff9b::7f00:1',
    '2002:7f00:1::', 'fe80::1', '::ffff:0:127.0.0.1', '169.254.169.254', '192.0.2.1', '198.18.0.1', '10.0.0.1',
    'fc00::1')
for port in sys.argv[1:]:
    for name in names:
        tried('connect', lambda: ask(name, port, name))
        authority = f'[{name}]' if ':' in name else name
        for authority in (f'{authority}:{port}', authority):
            tried('host', lambda: ask('93.184.216.34', port, authority))
            tried('target', lambda: ask('93.184.216.34', port, authority, f'http://{authority}/'))
print('tried')
";
    let ports = [v4.port(), v6.port()];
    let program = both(script, &[&ports[0], &ports[1]]);
    let outside = python(
        "for host, port in zip(('127.0.0.1', '::1'), sys.argv[1:]): socket.create_connection((host, port))",
    );
    told(&mut yard.ground.command("python3", &[&outside[1], &outside[2], &ports[0], &ports[1]]));
    assert!(v4.was_reached() && v6.was_reached());
    for program in &program {
        // Everything is allowed that is safe to dial; it is not.
        let mut observed =
            yard.ground.command(&yard.outgate, &["run", "--observe", "--plane-config", "plane.toml", "--"]);
        let (out, err) = said(&observed.args(program).output().unwrap());
        assert!(out.ends_with("tried\n") && !out.contains(" 200 "), "{out}{err}");
        assert!(out.contains("HTTP/1.1 403") && err.contains("localhost:"), "{out}{err}");
    }
    assert!(!v4.was_reached() && !v6.was_reached(), "somebody came");
}

/// A resolver that hears every name which leaves the machine.
#[test]
fn names_carry_nothing_out_and_are_asked_only_where_policy_allows() {
    let yard = Yard::new();
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    resolver.set_nonblocking(true).unwrap();
    let settings = std::fs::read_to_string(yard.ground.path("plane.toml")).unwrap();
    let own = format!("[dns]\nnameServers = [\"{}\"]\n", resolver.local_addr().unwrap());
    yard.ground.write("plane.toml", settings.replace("[dns]\n", &own));
    let script = "
def question(name, kind=1):
    labels = b''.join(bytes([len(label)]) + label for label in name.encode().split(b'.'))
    return struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + bytes(1) + struct.pack('>HH', kind, 1)
def over_udp(server, message):
    family = socket.AF_INET6 if ':' in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.settimeout(30)
        taken.sendto(message, (server, 53))
        return len(taken.recv(4096)) > 11
def over_tcp(server, message):
    with socket.create_connection((server, 53), 30) as taken:
        taken.sendall(struct.pack('>H', len(message)) + message)
        return len(taken.recv(4096)) > 11
name = 's3cr3t-data-in-a-name.denied.test'
tried('own', lambda: open('/etc/resolv.conf', 'w').write('nameserver 9.9.9.9'))
for server in ('127.0.0.1', '8.8.8.8', '9.9.9.9', '10.0.0.1', '2001:4860:4860::8888', '::1'):
    for kind in (1, 28, 16, 65, 255, 12, 252):
        for way in (over_udp, over_tcp):
            print(way(server, question(name, kind)))
tried('lookup', lambda: bool(socket.getaddrinfo(name, 443)))
if os.getuid() == 0:
    open('own.conf', 'w').write('nameserver 9.9.9.9')
    subprocess.check_call(['mount', '--bind', 'own.conf', '/etc/resolv.conf'])
    subprocess.check_call(['getent', 'ahosts', 'again.' + name], stdout=subprocess.DEVNULL)
# What is no name, and too much of it; then it still answers.
for junk in (bytes(1), bytes(11), bytes(12), bytes(4096), question(name) * 9, b'\\xff' * 512, question(name)[:-3], question('a' * 63 + '.' + 'b' * 63)):
    for server in ('127.0.0.1', '8.8.8.8'):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.sendto(junk, (server, 53))
        with socket.create_connection((server, 53), 30) as taken:
            taken.sendall(b'\\xff\\xff' + junk)
# The kernel takes them first, and the gateway lets go of those that are too many.
def last_of_many():
    held = []
    try:
        for each in range(1000):
            held.append(socket.create_connection(('127.0.0.1', 53), 30))
        return held[-1].recv(1) == b''
    except ConnectionError:
        return True
print('bounded', last_of_many())
print('after', over_udp('1.1.1.1', question('after.denied.test')))
";
    for program in both(script, &[]) {
        let (out, err) = run(&yard, &["--allow=origin.test"], &program);
        assert!(out.ends_with("after True\n") && !out.contains("False"), "{out}{err}");
        assert!(
            out.starts_with("own EACCES") || out.starts_with("own EPERM") || out.starts_with("own EROFS"),
            "{out}"
        );
    }
    let mut room = [0; 512];
    assert!(resolver.recv_from(&mut room).is_err(), "a name left: {:?}", String::from_utf8_lossy(&room));
    // A name that policy allows is asked, and no other.
    let script = "
tried('get', lambda: subprocess.run(['curl', '--silent', '--max-time', '5', 'https://allowed.test/']).returncode)
tried('get', lambda: subprocess.run(['curl', '--silent', 'https://s3cr3t.denied.test/'], stdout=subprocess.DEVNULL).returncode)
";
    let (_, err) = run(&yard, &["--allow=allowed.test"], &both(script, &[])[0]);
    let mut names = Vec::new();
    while let Ok((count, _)) = resolver.recv_from(&mut room) {
        names.push(String::from_utf8_lossy(&room[12..count]).into_owned());
    }
    assert!(!names.is_empty() && names.iter().all(|name| name.contains("allowed")), "{names:?}{err}");
}

/// Names asked by way of encrypted protocols, and QUIC: refused with a record, or at once so that clients fall back.
#[test]
fn names_over_tls_and_https_and_quic_are_refused() {
    let yard = Yard::new();
    let script = "
import ssl, time
trusting = ssl.create_default_context()
def over_tls(server, name, port):
    with socket.create_connection((server, port), 10) as plain, trusting.wrap_socket(plain, server_hostname=name) as taken:
        message = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\\x01a\\x04test\\x00\\x00\\x01\\x00\\x01'
        taken.sendall(struct.pack('>H', len(message)) + message)
        return f'answered {taken.recv(4096)[:12]}'
for server in ('1.1.1.1', '2606:4700:4700::1111'):
    tried('dot', lambda: over_tls(server, 'one.one.one.one', 853))
    tried('dot', lambda: over_tls(server, server, 853))
def over_https(url):
    done = subprocess.run(['curl', '--silent', '--max-time', '10', '--write-out', ' %{http_code}', '--resolve',
        'dns.google:443:8.8.8.8', '-H', 'accept: application/dns-json', url], capture_output=True, text=True)
    return done.stdout.replace('\\n', ' ')
for url in ('https://dns.google/resolve?name=a.test', 'https://1.1.1.1/dns-query?name=a.test', 'https://[2606:4700:4700::1111]/dns-query'):
    tried('doh', lambda: over_https(url))
for server in ('93.184.216.34', '2606:2800:220:1::1', '::ffff:93.184.216.34', '198.18.0.9'):
    def quic():
        with socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.settimeout(10)
            taken.connect((server, 443))
            taken.send(b'\\xc0' + bytes(1199))
            return taken.recv(4096)
    tried('quic', quic)
";
    for program in both(script, &[]) {
        let (out, err) = run(&yard, &["--allow=origin.test"], &program);
        let count = |mark: &str| out.lines().filter(|line| line.starts_with(mark)).count();
        assert_eq!((count("dot "), count("doh "), count("quic ")), (4, 3, 4), "{out}{err}");
        assert_eq!(out.matches("quic ECONNREFUSED").count(), 4, "{out}");
        assert_eq!(out.matches("\"code\":\"host_not_allowed\"").count(), 3, "{out}");
        assert_eq!(out.matches(" 403").count(), 3, "{out}");
        let why = told(&mut yard.ground.command(&yard.outgate, &["why", "-n", "20"]));
        for host in ["dns.google", "1.1.1.1", "2606:4700:4700::1111", "one.one.one.one"] {
            assert!(err.contains(host) && why.contains(host), "{host}: {err}{why}");
        }
        // What is no HTTP inside of TLS.
        assert_eq!(why.matches("head_malformed").count(), 4, "{why}");
        assert!(!out.contains("answered b'\\x00"), "{out}");
    }
}

/// Whatever a program makes of the variables, and whatever it calls itself: the way is the same.
#[test]
fn settings_of_the_program_change_nothing_of_what_is_allowed() {
    let yard = Yard::new();
    let elsewhere = Server::new([127, 0, 0, 1]);
    let script = "
port, other = sys.argv[1:3]
allowed, denied = f'https://origin.test:{port}/', f'https://denied.test:{port}/'
def get(what, url, *options, **variables):
    words = ['curl', '--silent', '--max-time', '10', '--output', '/dev/null', '--write-out', '%{http_code}', *options, url]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **variables})
    print(what, done.stdout, flush=True)
get('plain', allowed)
for name in [name for name in os.environ if 'proxy' in name.lower()]:
    print('set', name)
get('denied', denied)
for proxy in (f'http://127.0.0.1:{other}', 'http://93.184.216.34:3128', 'http://proxy.denied.test:8080', 'socks5h://93.184.216.34:1080',
        'http://origin.test:80', 'https://93.184.216.34:443'):
    get('denied', denied, ALL_PROXY=proxy, https_proxy=proxy, HTTPS_PROXY=proxy)
    get('denied', denied, '--proxytunnel', '--proxy', proxy)
get('denied', denied, '--resolve', f'denied.test:{port}:127.0.0.1')
get('denied', denied, '--connect-to', f'denied.test:{port}:origin.test:{port}')
get('denied', denied, '-H', f'Host: origin.test:{port}')
get('denied', allowed, '-H', f'Host: denied.test:{port}')
get('denied', allowed, '-H', 'X-Forwarded-Host: origin.test', '-H', f'Host: denied.test:{port}')
get('denied', f'http://93.184.216.34:{port}/', '-H', f'Host: 127.0.0.1:{port}')
get('denied', f'https://127.0.0.1:{port}/')
get('denied', f'https://[::ffff:127.0.0.1]:{port}/')
get('denied', f'https://93.184.216.34:{port}/')
get('denied', f'https://[2606:2800:220:1::1]:{port}/')
get('plain', allowed, '--resolve', f'origin.test:{port}:93.184.216.34')
";
    let ports = [yard.origin.address.port().to_string(), elsewhere.port()];
    for program in both(script, &[&ports[0], &ports[1]]) {
        let before = yard.origin.seen().len();
        let options = ["--allow=origin.test", "--secret=token=env:TOKEN@origin.test"];
        let (out, err) = run(&yard, &options, &program);
        let seen = &yard.origin.seen()[before..];
        assert!(
            seen.iter().all(|seen| seen.fields("host").all(|host| host.starts_with("origin.test:"))),
            "{seen:?}"
        );
        assert_eq!((seen.len(), out.matches("plain 200\n").count()), (2, 2), "{out}{err}");
        assert_eq!(out.matches("denied ").count(), 23, "{out}");
        assert!(!out.contains("denied 2") && !out.contains(SECRET) && !err.contains(SECRET), "{out}{err}");
    }
    assert!(!elsewhere.was_reached(), "somebody came");
}

/// The listeners of the gateway inside, by the ports where they stand, and with what they are not for.
#[test]
fn the_gateways_own_listeners_serve_what_any_port_does() {
    let yard = Yard::new();
    let script = "
def send(host, port, data):
    with socket.create_connection((host, port), 10) as taken:
        taken.sendall(data)
        taken.shutdown(socket.SHUT_WR)
        return taken.recv(4096)[:20]
port = int(sys.argv[1])
head = f'HTTP/1.1\\r\\nHost: denied.test:{port}\\r\\nConnection: close\\r\\n\\r\\n'.encode()
v2 = b'\\r\\n\\r\\n\\x00\\r\\nQUIT\\n\\x21\\x11\\x00\\x0c\\x7f\\x00\\x00\\x01\\x7f\\x00\\x00\\x01\\x00\\x01' + struct.pack('>H', port)
for host in ('127.0.0.1', '::1', '127.9.9.9', '192.0.2.1', '2001:db8::1', '93.184.216.34', '::ffff:127.0.0.1'):
    for own in (1, 53):
        for data in (b'GET / ' + head, b'CONNECT denied.test:%d ' % port + head, b'GET http://denied.test:%d/ ' % port + head,
                b'\\x05\\x01\\x00', b'\\x04\\x01\\x00\\x50\\x7f\\x00\\x00\\x01\\x00', v2 + b'GET / ' + head,
                b'PROXY TCP4 127.0.0.1 127.0.0.1 1 %d\\r\\nGET / ' % port + head, bytes(300), b'\\x16\\x03\\x01' + bytes(300)):
            tried('sent', lambda: send(host, own, data))
def multipath():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as taken:
        taken.settimeout(10)
        taken.connect(('93.184.216.34', port))
        taken.sendall(b'GET / ' + head)
        return taken.recv(4096)[:12]
tried('multipath', multipath)
print('tried')
";
    for program in both(script, &[&yard.origin.address.port().to_string()]) {
        let (out, err) = run(&yard, &["--allow=origin.test"], &program);
        assert!(out.ends_with("tried\n") && out.matches("sent ").count() == 126, "{out}{err}");
        assert!(!out.contains(" 200"), "{out}");
    }
    assert!(yard.origin.seen().is_empty(), "the origin was never dialled");
}
