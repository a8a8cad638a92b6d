//! The whole product as real processes: control, the shipped plane, and clients that other people wrote.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tests::{
    descriptors,
    gateway::{PATIENCE, SECRET, Tls, ask},
    origin::{Origin, respond},
    process::{Process, attach_proxy, detach, records, run, shipped_plane},
    stage::{SANDBOX, Stage, authority_pem, policy, proxy_url},
};

fn echo() -> Origin {
    Origin::tls(&["origin.test"], |seen, out| respond(out, &seen.body))
}

#[test]
fn curl_gets_and_posts_and_its_requests_carry_the_credential() {
    for shards in [1, 4] {
        let origin = echo();
        let stage = Stage::set(&origin, shards);
        let url = format!("https://origin.test:{}/p?q=1", origin.address.port());
        let (went, text) = run(stage.curl().args(["--include", &url]));
        assert!(went && text.contains("HTTP/2 200"), "{text}");
        let (went, body) = run(stage.curl().args(["--data", "hello", &url]));
        assert!(went && body == "hello", "{body}");
        for seen in origin.wait_for(2) {
            let values: Vec<_> = seen.fields("authorization").collect();
            assert_eq!(values, [format!("Bearer {SECRET}")]);
        }
        let written = serde_json::to_string(&records(&stage.plane.folder, 2)).unwrap();
        assert!(
            !written.contains(SECRET)
                && !text.contains(SECRET)
                && !stage.plane.process.said().contains(SECRET)
        );
    }
}

#[test]
fn refused_host_is_told_inside_tls_by_which_rule_and_what_would_allow_it() {
    let origin = echo();
    let stage = Stage::set(&origin, 2);
    let url = format!("https://other.test:{}/", origin.address.port());
    let (went, text) = run(stage.curl().args(["--include", &url]));
    assert!(went && text.contains("HTTP/2 403") && text.contains("host_not_allowed"), "{text}");
    assert!(text.contains("allowedHosts"), "{text}");
    assert_eq!(origin.connections(), 0);
    assert_eq!(records(&stage.plane.folder, 1)[0]["verdict"], "refused");
}

#[test]
fn openssl_accepts_the_certificates_at_its_strictest() {
    let origin = echo();
    let stage = Stage::set(&origin, 1);
    let target = format!("origin.test:{}", origin.address.port());
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-x509_strict", "-verify_return_error", "-verify_hostname", "origin.test"])
        .args(["-servername", "origin.test", "-connect", &target, "-proxy", &stage.plane.proxy.to_string()])
        .args(["-proxy_user", SANDBOX, "-proxy_pass", &format!("pass:{}", stage.password), "-CAfile"])
        .arg(&stage.authority)
        .stdin(Stdio::null());
    let (went, text) = run(&mut command);
    assert!(went && text.contains("Verify return code: 0 (ok)"), "{text}");
}

#[test]
fn python_accepts_the_certificate_and_reads_the_answer() {
    let origin = Origin::tls(&["origin.test"], |_, out| respond(out, b"from the origin"));
    let stage = Stage::set(&origin, 1);
    let script = "import os, ssl, urllib.request as r\n\
        context = ssl.create_default_context(cafile=os.environ['CA'])\n\
        context.verify_flags |= ssl.VERIFY_X509_STRICT\n\
        opener = r.build_opener(r.ProxyHandler({'https': os.environ['PROXY']}), r.HTTPSHandler(context=context))\n\
        print(opener.open(os.environ['URL'], timeout=20).read().decode())\n";
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .env("CA", &stage.authority)
        .env("PROXY", stage.proxy_url())
        .env("URL", format!("https://origin.test:{}/", origin.address.port()));
    let (went, text) = run(&mut command);
    assert!(went && text.trim() == "from the origin", "{text}");
}

#[test]
fn authority_is_the_same_after_plane_and_control_were_restarted() {
    let origin = echo();
    let mut stage = Stage::set(&origin, 2);
    let url = format!("https://origin.test:{}/", origin.address.port());
    let before = fs::read_to_string(&stage.authority).unwrap();
    stage.plane.restart();
    stage.password = attach_proxy(&stage.plane.folder, SANDBOX);
    assert!(
        run(stage.curl().arg(&url)).0,
        "a client that trusts the authority goes on after the plane's restart"
    );
    stage.control.restart();
    assert_eq!(authority_pem(&stage.control, SANDBOX), before);
    let own = run(stage.curl().arg("http://outgate.internal/ca.pem")).1;
    assert_eq!(own.trim(), before.trim());
    assert!(run(stage.curl().arg(&url)).0);
}

#[test]
fn detached_sandbox_is_refused_and_its_password_is_worth_nothing() {
    let origin = echo();
    let stage = Stage::set(&origin, 4);
    let url = format!("https://origin.test:{}/", origin.address.port());
    assert!(run(stage.curl().arg(&url)).0);
    detach(&stage.plane.folder, SANDBOX);
    let (went, text) = run(stage.curl().arg(&url));
    assert!(!went && text.contains("407"), "{text}");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn list_change_and_rotated_secret_hold_for_the_next_request_after_applied() {
    let origin = echo();
    let stage = Stage::set(&origin, 4);
    let url = format!("https://origin.test:{}/", origin.address.port());
    let ask = |expected: &str| {
        let (_, text) = run(stage.curl().args(["--include", &url]));
        assert!(text.contains(expected), "{text}");
    };
    ask("HTTP/2 200");
    stage
        .control
        .put("secrets/token", &serde_json::json!({ "value": "rotated-value", "hosts": ["origin.test"] }));
    ask("HTTP/2 200");
    let seen = origin.wait_for(2);
    assert_eq!(seen[1].fields("authorization").collect::<Vec<_>>(), ["Bearer rotated-value"]);
    stage.control.put("sandboxes/box/deniedHosts", &serde_json::json!(["origin.test"]));
    ask("HTTP/2 403");
    stage.control.put("sandboxes/box/deniedHosts", &serde_json::json!([]));
    ask("HTTP/2 200");
    stage.control.put("templates/t", &policy(&[]));
    ask("HTTP/2 403");
    assert_eq!(origin.seen().len(), 3, "nothing that was refused reached the upstream");
}

#[test]
fn two_planes_of_one_pool_present_the_same_authority() {
    let origin = echo();
    let stage = Stage::set(&origin, 1);
    let url = format!("https://origin.test:{}/", origin.address.port());
    // The first plane has made the certificate of the sandbox's authority before the second is there.
    assert!(run(stage.curl().arg(&url)).0);
    let before = authority_pem(&stage.control, SANDBOX);
    let second = Stage::plane(stage.folder.path(), &stage.control, &origin, "two", 2);
    let password = attach_proxy(&second.folder, SANDBOX);
    let proxy = proxy_url(second.proxy, SANDBOX, &password);
    let (went, text) = run(stage.curl().args(["--include", "--proxy", &proxy, &url]));
    assert!(went && text.contains("HTTP/2 200"), "{text}");
    let own = run(stage.curl().args(["--proxy", &proxy, "http://outgate.internal/ca.pem"])).1;
    assert_eq!(own.trim(), before.trim());
    assert_eq!(authority_pem(&stage.control, SANDBOX), before);
}

#[test]
fn plane_that_cannot_be_let_in_yet_says_why_listens_to_nothing_and_ends_when_asked() {
    let origin = echo();
    let mut stage = Stage::set(&origin, 1);
    stage.plane.process.kill();
    let folder = stage.folder.path().join("two");
    let (socket, settings) = (folder.join("attach.sock"), folder.join("plane.toml"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("token"), stage.control.join_token()).unwrap();
    let text = format!(
        "name = \"two\"\nstateDir = {folder:?}\nattachSocket = {socket:?}\nproxy = [\"127.0.0.1:0\"]\nshards = 1\n\
         [control]\naddress = \"{}\"\njoinTokenFile = {:?}\n",
        stage.control.link,
        folder.join("token"),
    );
    fs::write(&settings, text).unwrap();
    let start = || Process::start(Command::new(shipped_plane()).arg("--config").arg(&settings));
    let mut second = start();
    let why = second.told("nothing is served yet, trying again: ");
    assert!(why.contains("start one of one") && why.contains("outgate plane rm"), "{why}");
    assert!(!socket.exists() && !second.said().contains("explicit proxy"), "{}", second.said());
    assert!(second.end(), "{}", second.said());
    // The token was not used up, and the pool's master comes when the first plane is back.
    let second = start();
    second.told("nothing is served yet, trying again: ");
    stage.plane.restart();
    second.told("connected to control");
}

/// The executor of a shard registers 64 KiB with each of its three rings. They lay in a huge page, which the kernel
/// counts as a whole: 6 MiB of the 8 MiB that a user may lock, and the fourth `outgate run` did not start. So there are
/// no huge pages until the shards are up.
#[test]
fn a_shard_locks_little_memory() {
    let origin = echo();
    let stage = Stage::set(&origin, 2);
    let status = fs::read_to_string(format!("/proc/{}/status", stage.plane.process.pid())).unwrap();
    let pinned = status.lines().find_map(|line| line.strip_prefix("VmPin:")?.strip_suffix("kB"));
    let pinned: u64 = pinned.expect("the kernel tells").trim().parse().unwrap();
    assert!(pinned <= 2 * 256, "{pinned} KiB");
    let huge = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
    assert_eq!(huge.map(str::trim), Some("1"), "what comes later may lie in huge pages");
}

/// Nothing is done after they ended: what the allocator kept of them would stay.
#[test]
fn memory_of_connections_that_ended_comes_back_in_silence() {
    const CONNECTIONS: u64 = 2_500;
    descriptors::raise(CONNECTIONS + 1_000);
    let origin = echo();
    let stage = Stage::set(&origin, 1);
    let rollup = format!("/proc/{}/smaps_rollup", stage.plane.process.pid());
    let held = || -> u64 {
        let text = fs::read_to_string(&rollup).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")?.strip_suffix("kB"));
        line.expect("the kernel tells").trim().parse().unwrap()
    };
    let open = || {
        let mut stream = stage.tls("other.test", 443);
        let request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
        assert!(ask(&mut stream, request, b"").0.starts_with("HTTP/1.1 403 "));
        stream
    };
    // What is made once is there before.
    drop(open());
    let before = held();
    let all: Vec<Tls> = (0..CONNECTIONS).map(|_| open()).collect();
    let most = held();
    assert!(most - before >= 3 * CONNECTIONS, "{before} KiB became {most}");
    drop(all);
    // The rest is tables that have grown, and pages on which something lives on.
    let (enough, deadline) = (before + (most - before) / 2, Instant::now() + PATIENCE);
    while held() > enough && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(20));
    }
    assert!(held() <= enough, "{before} KiB became {most}, and {} remained", held());
}
