//! A program in a network namespace of its own, without privileges: everything that it dials is captured by sockets
//! that were made in there and passed out, and a stand-in address means the name that it was given for.

use tests::{
    gateway::{Gateway, SECRET, both_ways},
    netns::said_inside,
    origin::{Origin, respond},
};

/// What runs in there: it listens, passes its sockets out, and is then an ordinary client. Another language than the
/// plane's, so that nothing of the plane's own speaks for it.
const PROGRAM: &str = r#"
import array, json, socket, ssl, sys, http.client
attach, authority, port = sys.argv[1], sys.argv[2], int(sys.argv[3])

def bound(kind, port):
    found = socket.socket(socket.AF_INET, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        found.listen(64)
    return found

stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
sockets = [bound(stream, port), bound(datagram, 53), bound(stream, 53)]
plane = socket.socket(socket.AF_UNIX, stream)
plane.connect(attach)
kinds = ["transparent", "dns-udp", "dns-tcp"]
request = {"op": "attach", "sandbox": "box", "listeners": [{"kind": kind} for kind in kinds]}
passed = array.array("i", [one.fileno() for one in sockets])
plane.sendmsg([(json.dumps(request) + "\n").encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
said = {"attached": json.loads(plane.makefile().readline())}
for one in sockets:
    one.close()

trust = ssl.create_default_context(cafile=authority)
for host in ["origin.test", "other.test"]:
    calls = http.client.HTTPSConnection(host, port, context=trust, timeout=20)
    calls.request("GET", "/")
    answer = calls.getresponse()
    said[host] = [answer.status, answer.read().decode(), calls.sock.getpeername()[0]]

def plain(address, head):
    with socket.create_connection((address, port), timeout=20) as speaks:
        speaks.sendall(head.encode())
        speaks.shutdown(socket.SHUT_WR)
        return speaks.makefile("rb").read().decode()

stand_in = said["other.test"][2]
said["no host"] = plain(stand_in, "GET / HTTP/1.0\r\n\r\n")
said["lying host"] = plain(stand_in, f"GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n")
try:
    socket.create_connection((stand_in, port + 1), timeout=20)
    said["other port"] = "connected"
except OSError as error:
    said["other port"] = error.strerror
print(json.dumps(said))
"#;

/// How its network is made.
const SET_UP: &str = "ip route add local 0.0.0.0/0 dev lo";

#[test]
fn program_in_a_namespace_reaches_what_is_allowed_and_learns_why_the_rest_is_not() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"from outside"));
        let gateway = Gateway::start(shards, &origin);
        let said = said_inside(&gateway, &origin, SET_UP, PROGRAM);
        assert_eq!(said["attached"]["ok"], true, "{said:#}");
        assert_eq!((&said["origin.test"][0], &said["origin.test"][1]), (&200.into(), &"from outside".into()));
        assert_eq!(said["other.test"][0], 403, "{said:#}");
        assert!(said["other.test"][1].as_str().unwrap().contains("host_not_allowed"), "{said:#}");
        // Nothing but the stand-in says which host is meant: it is judged by its name.
        let named = said["no host"].as_str().unwrap();
        assert!(named.starts_with("HTTP/1.1 403 ") && named.contains("other.test"), "{said:#}");
        let lying = said["lying host"].as_str().unwrap();
        assert!(lying.starts_with("HTTP/1.1 421 "), "{said:#}");
        assert_eq!(said["other port"], "Connection refused", "{said:#}");
        let seen = origin.seen();
        assert_eq!(seen.len(), 1, "only the allowed request left");
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
        assert!(!said.to_string().contains(SECRET));
        gateway.records(4);
    });
}
