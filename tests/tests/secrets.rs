//! The credential, put on requests in every way, is searched for everywhere that a sandbox, an operator or a log could
//! see it.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use control_wire::row::{Op, SecretRow, SecretValue};
use data_encoding::BASE64;
use handlers_sdk_abi::action::op;
use serde_json::json;
use tests::{
    gateway::{Gateway, SECRET, ask, both_ways, template},
    guests::{answering, entry},
    origin::{Origin, respond},
    process::{records, run},
    stage::{self, Stage},
};

/// Run where the sandbox runs: reads its environment, the memory of every process that it may open, and every file
/// below the given folder, and counts where each of the needles lies. The needles come by standard input, as digits,
/// so that the search does not find itself.
const SEARCH: &str = r#"
import os, sys
needles = [bytes.fromhex(line.strip()) for line in sys.stdin]
found = {n: set() for n in range(len(needles))}
def look(place, data):
    for n, needle in enumerate(needles):
        if needle in data:
            found[n].add(place)
def pieces(handle, size=1 << 20):
    kept = b''
    while True:
        piece = handle.read(size)
        if not piece: return
        yield kept + piece
        kept = piece[-200:]
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline'):
        try: look(f'/proc/{name}', open(f'/proc/{pid}/{name}', 'rb').read())
        except OSError: pass
    if int(pid) == os.getpid(): continue
    try:
        maps = open(f'/proc/{pid}/maps').read().splitlines()
        memory = open(f'/proc/{pid}/mem', 'rb', 0)
    except OSError: continue
    for line in maps:
        span, rights = line.split()[:2]
        if 'r' not in rights or line.endswith(('[vvar]', '[vsyscall]')): continue
        start, end = (int(part, 16) for part in span.split('-'))
        try:
            memory.seek(start)
            look('/proc/mem', memory.read(end - start))
        except (OSError, ValueError, OverflowError): pass
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.isfile(path): continue
        try:
            for piece in pieces(open(path, 'rb')): look('file ' + name, piece)
        except OSError: pass
for n in range(len(needles)):
    print(n, sorted(found[n]))
"#;

/// Searches from inside namespaces of its own, where nothing of the gateway is but what a sandbox is given.
fn search(folder: &Path, planted: &str, needles: &[&str]) -> String {
    let mut command = Command::new("unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount",
            "--mount-proc",
            "--net",
            "sh",
            "-c",
        ])
        .arg("python3 -c 'import time; time.sleep(60)' & exec python3 -c \"$SEARCH\" \"$0\"")
        .arg(folder)
        .env("SEARCH", SEARCH)
        .env("PLANTED", planted)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for needle in [&[planted], needles].concat() {
        let digits: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(input, "{digits}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the search ran");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn credential_is_nowhere_that_the_sandbox_can_look() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let stage = Stage::set(&origin, 2);
    let actions = json!([
        { "basic": { "secret": "token", "user": "x-access-token" } },
        { "header": { "name": "x-key", "secret": "token" } },
        { "query": { "name": "api_key", "secret": "token" } },
    ]);
    let mut policy = stage::policy(&["origin.test"]);
    policy["rules"] = json!([{ "host": "origin.test", "actions": actions }]);
    stage.control.put("templates/t", &policy);
    let url = format!("https://origin.test:{}/?secret=none&%61pi_key=own", origin.address.port());
    let mut answers = run(stage.curl().args(["--include", &url])).1;
    answers += &run(stage.curl().args(["--include", "https://denied.test/"])).1;
    answers += &run(stage.curl().arg("http://outgate.internal/env")).1;
    let encoded = BASE64.encode(format!("x-access-token:{SECRET}").as_bytes());
    let seen = origin.wait_for(1).remove(0);
    assert_eq!(seen.line(), format!("GET /?secret=none&api_key={SECRET} HTTP/1.1"));
    assert_eq!(seen.fields("authorization").collect::<Vec<_>>(), [format!("Basic {encoded}")]);
    assert_eq!(seen.fields("x-key").collect::<Vec<_>>(), [SECRET]);
    records(&stage.plane.folder, 3);
    fs::write(stage.folder.path().join("answers"), &answers).unwrap();
    let planted = "a-planted-copy-that-must-be-found";
    fs::write(stage.folder.path().join("planted"), planted).unwrap();
    let report = search(stage.folder.path(), planted, &[SECRET, &encoded]);
    let mut lines = report.lines();
    let first = lines.next().unwrap();
    for place in ["/proc/environ", "/proc/mem", "file planted"] {
        assert!(first.contains(place), "the planted copy was not found in {place}: {first}");
    }
    // The folder holds control's store, the plane's state, its records and everything that was answered.
    assert_eq!(lines.collect::<Vec<_>>(), ["1 []", "2 []"]);
}

#[test]
fn credential_is_in_no_answer_of_the_api_and_in_nothing_that_a_process_says() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let stage = Stage::set(&origin, 2);
    assert!(run(stage.curl().arg(format!("https://origin.test:{}/", origin.address.port()))).0);
    let mut told = String::new();
    for path in
        ["secrets", "secrets/token", "sandboxes", "sandboxes/box", "templates/t", "planes", "handlers"]
    {
        told += &stage.control.call("GET", &format!("/v1/{path}"), b"").1;
    }
    // What is refused is not told back either.
    let wrong = json!({ "value": SECRET, "hosts": ["origin.test"], "host": 1 });
    told += &stage.control.call("PUT", "/v1/secrets/other", wrong.to_string().as_bytes()).1;
    told += &stage.control.call("PUT", "/v1/secrets/other", format!("{{\"value\":\"{SECRET}").as_bytes()).1;
    assert!(told.contains("token") && told.contains("origin.test"), "{told}");
    told += &stage.control.process.said();
    told += &stage.plane.process.said();
    assert!(!told.contains(SECRET), "{told}");
}

/// The template `t`: its rules put these on requests to `origin.test`, and `more` is what else it says.
fn giving(actions: &str, more: &str) -> Op {
    template(
        "t",
        &format!(
            r#"{{"allowedHosts":["origin.test"],"allowedAddresses":[{{"host":"*.test","cidrs":["127.0.0.0/8"]}}],
            "rules":[{{"host":"origin.test","actions":[{actions}]}}]{more}}}"#
        ),
    )
}

fn secret(name: &str, value: &str, host: &str) -> Op {
    Op::UpsertSecret(SecretRow {
        name: name.into(),
        version: 1,
        value: SecretValue::new(value.as_bytes()),
        hosts: vec![host.into()],
        allow_plaintext: false,
    })
}

#[test]
fn record_names_the_secrets_that_went_out_and_where_to() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
        let mut gateway = Gateway::start(shards, &origin);
        let handler =
            gateway.handler("h", 1, &answering(&entry(op::SET_SECRET, b"authorization", b"Bearer \0other")));
        gateway.apply(vec![
            handler,
            secret("login", &format!("user:{SECRET}"), "origin.test"),
            secret("other", SECRET, "origin.test"),
            giving(r#"{"basic":{"secret":"login"}},{"query":{"name":"key","secret":"token"}}"#, ""),
        ]);
        let port = origin.address.port();
        let mut stream = gateway.tls("origin.test", port);
        let request = format!("GET /p?a=1&key=own HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
        let mut told = String::new();
        let mut answered = |gateway: &Gateway, count| {
            let (head, body) = ask(&mut stream, &request, b"");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head} {}", String::from_utf8_lossy(&body));
            let record = gateway.recorded(count).remove(count - 1);
            told += &format!("{head}{}{record}", String::from_utf8_lossy(&body));
            record
        };
        for count in [1, 2] {
            let record = answered(&gateway, count);
            assert_eq!(record["secrets"], json!(["login", "token"]), "{record}");
            assert_eq!(record["address"], json!(origin.address), "{record}");
        }
        assert_eq!(origin.connections(), 1, "the second was told of a connection that was there already");
        // The handler's takes the place of the rule's, which does not leave.
        gateway.apply(vec![giving(r#"{"basic":{"secret":"login"}}"#, r#","outbound":{"handler":"h"}"#)]);
        assert_eq!(answered(&gateway, 3)["secrets"], json!(["other"]));
        gateway.apply(vec![template(
            "t",
            r#"{"enableInternet":true,"allowedAddresses":[{"host":"*.test","cidrs":["127.0.0.0/8"]}]}"#,
        )]);
        assert_eq!(answered(&gateway, 4).get("secrets"), None);
        let seen = origin.wait_for(4);
        let line = format!("GET /p?a=1&key={SECRET} HTTP/1.1");
        assert_eq!([seen[0].line(), seen[1].line()], [&line; 2]);
        let encoded = BASE64.encode(format!("user:{SECRET}").as_bytes());
        assert_eq!(seen[0].fields("authorization").collect::<Vec<_>>(), [format!("Basic {encoded}")]);
        assert_eq!(seen[2].fields("authorization").collect::<Vec<_>>(), [format!("Bearer {SECRET}")]);
        assert_eq!(seen[3].line(), "GET /p?a=1&key=own HTTP/1.1");
        drop(stream);
        gateway.records(4);
        assert!(!told.contains(SECRET) && !told.contains(&encoded), "{told}");
    });
}

#[test]
fn credential_that_cannot_be_put_in_is_refused_by_its_rule_and_nothing_is_dialled() {
    both_ways(|shards| {
        let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
        let mut gateway = Gateway::start(shards, &origin);
        let port = origin.address.port();
        gateway.apply(vec![secret("far", SECRET, "far.test"), secret("torn", &format!("{SECRET}\n"), "*")]);
        let mut stream = gateway.tls("origin.test", port);
        let mut told = String::new();
        let cases = [
            (r#"{"basic":{"secret":"gone"}}"#, "secret_missing"),
            (r#"{"query":{"name":"key","secret":"gone"}}"#, "secret_missing"),
            (r#"{"basic":{"secret":"far","user":"u"}}"#, "secret_not_bound"),
            (r#"{"query":{"name":"key","secret":"far"}}"#, "secret_not_bound"),
            (r#"{"basic":{"secret":"token"}}"#, "secret_without_user"),
            (r#"{"basic":{"secret":"torn","user":"u"}}"#, "secret_field"),
            (r#"{"query":{"name":"key","secret":"torn"}}"#, "secret_parameter"),
        ];
        for (action, code) in cases {
            gateway.apply(vec![giving(&format!(r#"{{"bearer":{{"secret":"token"}}}},{action}"#), "")]);
            let request = format!("GET /?a=1 HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
            let (head, body) = ask(&mut stream, &request, b"");
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            assert_eq!(
                (&problem["code"], &problem["rule"]),
                (&json!(code), &json!("rules[0]: origin.test")),
                "{problem}"
            );
            told += &format!("{head}{problem}");
        }
        assert_eq!(origin.connections(), 0);
        drop(stream);
        let records = json!(gateway.records(cases.len()));
        for record in records.as_array().unwrap() {
            assert!(record.get("secrets").is_none() && record.get("address").is_none(), "{record}");
        }
        told += &records.to_string();
        assert!(!told.contains(SECRET), "{told}");
    });
}

#[test]
fn record_of_an_upstream_that_cannot_be_reached_says_where_and_that_no_secret_left() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"never"));
    let gateway = Gateway::start(1, &origin);
    // Bound and not listening, so that it refuses and nobody else takes it.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = closed.local_addr().unwrap().as_socket().unwrap();
    let mut stream = gateway.tls("origin.test", address.port());
    let request = format!("GET / HTTP/1.1\r\nHost: origin.test:{}\r\n\r\n", address.port());
    assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 502 "));
    drop(stream);
    let record = gateway.records(1).remove(0);
    assert_eq!((&record["code"], &record["address"]), (&json!("upstream_refused"), &json!(address)));
    assert_eq!(record.get("secrets"), None, "{record}");
}
