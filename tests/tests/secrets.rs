//! The credential is searched for everywhere that a sandbox, an operator or a log could see it.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use tests::{
    gateway::SECRET,
    origin::{Origin, respond},
    process::{records, run},
    stage::Stage,
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
fn search(folder: &Path, planted: &str) -> String {
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
    let mut needles = child.stdin.take().unwrap();
    for needle in [planted, SECRET] {
        let digits: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(needles, "{digits}").unwrap();
    }
    drop(needles);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the search ran");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn credential_is_nowhere_that_the_sandbox_can_look() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"ok"));
    let stage = Stage::set(&origin, 2);
    let url = format!("https://origin.test:{}/?secret=none", origin.address.port());
    let mut answers = run(stage.curl().args(["--include", &url])).1;
    answers += &run(stage.curl().args(["--include", "https://denied.test/"])).1;
    answers += &run(stage.curl().arg("http://outgate.internal/env")).1;
    assert_eq!(origin.wait_for(1)[0].fields("authorization").next(), Some(&*format!("Bearer {SECRET}")));
    records(&stage.plane.folder, 3);
    fs::write(stage.folder.path().join("answers"), &answers).unwrap();
    let planted = "a-planted-copy-that-must-be-found";
    fs::write(stage.folder.path().join("planted"), planted).unwrap();
    let report = search(stage.folder.path(), planted);
    let mut lines = report.lines();
    let first = lines.next().unwrap();
    for place in ["/proc/environ", "/proc/mem", "file planted"] {
        assert!(first.contains(place), "the planted copy was not found in {place}: {first}");
    }
    // The folder holds control's store, the plane's state, its records and everything that was answered.
    assert_eq!(lines.next(), Some("1 []"));
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
