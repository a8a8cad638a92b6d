//! Listeners behind REDIRECT rules of netfilter, in a network namespace of an ordinary user: the destination from before
//! the rewrite counts, and the listener's own address is none.

use tests::{
    gateway::{Gateway, SECRET, both_ways},
    netns::said_inside,
    origin::{Origin, respond},
};

/// What runs in there: it makes a listener, has everything else that is dialled redirected to it, passes it out, and is
/// then an ordinary client. One listener for both families, so that its IPv4 connections have mapped addresses; and
/// one that is IPv4 alone.
const PROGRAM: &str = r#"
import array, http.client, json, socket, ssl, subprocess, sys
attach, authority, port = sys.argv[1], sys.argv[2], int(sys.argv[3])

both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
four = socket.create_server(("0.0.0.0", 0))
own, own_four = both.getsockname()[1], four.getsockname()[1]
rules = f"""table inet outgate {{
    chain leaving {{
        type nat hook output priority -100;
        ip daddr 192.0.2.0/24 meta l4proto tcp redirect to :{own}
        ip6 daddr 2001:db8::/32 meta l4proto tcp redirect to :{own}
        ip daddr 198.51.100.0/24 meta l4proto tcp redirect to :{own_four}
    }}
}}"""
subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)

plane = socket.socket(socket.AF_UNIX)
plane.connect(attach)
request = {"op": "attach", "sandbox": "box", "listeners": [{"kind": "redirect"}, {"kind": "redirect"}]}
passed = array.array("i", [both.fileno(), four.fileno()])
plane.sendmsg([(json.dumps(request) + "\n").encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
said = {"attached": json.loads(plane.makefile().readline())}
both.close()
four.close()

trust = ssl.create_default_context(cafile=authority)
for address in ["192.0.2.7", "2001:db8::7", "198.51.100.7"]:
    bare = socket.create_connection((address, port), timeout=20)
    with trust.wrap_socket(bare, server_hostname="origin.test") as speaks:
        speaks.sendall(f"GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\r\n".encode())
        said[address] = speaks.makefile("rb").read().decode()
    # Without a host field nothing but the original destination says where it goes.
    with socket.create_connection((address, 8080), timeout=20) as speaks:
        speaks.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said[address + " bare"] = speaks.makefile("rb").read().decode()

for address, port in [("127.0.0.1", own), ("::1", own), ("127.0.0.1", own_four)]:
    with socket.create_connection((address, port), timeout=20) as speaks:
        try:
            speaks.sendall(f"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
            said[f"{address} {port}"] = speaks.makefile("rb").read().decode()
        except ConnectionError:
            said[f"{address} {port}"] = ""
said["own"] = [f"127.0.0.1 {own}", f"::1 {own}", f"127.0.0.1 {own_four}"]
print(json.dumps(said))
"#;

/// How its network is made.
const SET_UP: &str = "ip route add local 192.0.2.0/24 dev lo && ip route add local 198.51.100.0/24 dev lo && ip route add local \
                      2001:db8::/32 dev lo";

#[test]
fn redirected_connections_go_where_they_were_dialled_and_direct_ones_nowhere() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"from outside"));
        let gateway = Gateway::start(shards, &origin);
        let said = said_inside(&gateway, &origin, SET_UP, PROGRAM);
        let answer =
            |what: &str| said[what].as_str().unwrap_or_else(|| panic!("{what}: {said:#}")).to_owned();
        assert_eq!(said["attached"]["ok"], true, "{said:#}");
        for (address, named) in
            [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "[2001:db8::7]"), ("198.51.100.7", "198.51.100.7")]
        {
            // The port of the origin stands nowhere in the gateway but in this connection's destination.
            let whole = answer(address);
            assert!(whole.starts_with("HTTP/1.1 200 ") && whole.ends_with("from outside"), "{whole}");
            let bare = answer(&format!("{address} bare"));
            assert!(bare.starts_with("HTTP/1.1 403 ") && bare.contains(named), "{bare}");
        }
        for own in said["own"].as_array().unwrap() {
            assert_eq!(answer(own.as_str().unwrap()), "", "the gateway's own address is no destination");
        }
        let seen = origin.seen();
        assert_eq!(seen.len(), 3, "only what was allowed left");
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
        let records = gateway.records(9);
        let own: Vec<_> = records.iter().filter(|record| record["code"] == "destination_own").collect();
        assert_eq!(own.len(), 3, "{records:#?}");
        assert!(own.iter().all(|record| record["sandbox"] == "box" && record["verdict"] == "refused"));
    });
}
