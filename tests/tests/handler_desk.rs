//! What an author of handlers does at the desk: a project, a module, a request, and what came of it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use handlers_sdk_abi::{action::op, manifest::Hook};
use serde_json::Value;
use tests::{
    checkout,
    guests::{answering, entry, example, guest, guest_for},
    process::{outgate, shipped_plane},
};

fn handler(arguments: &[&str]) -> Output {
    let mut command = Command::new(outgate());
    command.current_dir(checkout()).env("OUTGATE_DATAPLANE", shipped_plane());
    command.arg("handler").args(arguments).output().expect("outgate runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a module; whether it went well, and what was said.
fn tried(module: &Path, arguments: &[&str]) -> (bool, String) {
    let module = module.display().to_string();
    let output = handler(&[&["test", &module], arguments].concat());
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

fn module(folder: &Path, wasm: &[u8]) -> std::path::PathBuf {
    let path = folder.join("h.wasm");
    fs::write(&path, wasm).expect("a temporary folder takes files");
    path
}

#[test]
fn a_new_project_builds_and_its_module_does_what_its_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, project) = (folder.path().display().to_string(), folder.path().join("read-only"));
    let made = handler(&["new", "read-only", "--dir", &dir]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let source = fs::read_to_string(project.join("src/lib.rs")).unwrap();
    let lines = source.split("#[cfg(test)]").next().unwrap().lines().count();
    assert!(source.contains("async fn read_only(") && lines <= 16, "{lines} lines:\n{source}");

    let target = handlers_sdk_guests::default_target_dir().display().to_string();
    let built = handler(&["build", &project.display().to_string(), "--target-dir", &target]);
    let path = text(&built.stdout);
    assert!(built.status.success() && path.lines().count() == 1, "{path}{}", text(&built.stderr));
    assert!(text(&built.stderr).contains("outgate handler put readOnly"), "{}", text(&built.stderr));

    let module = Path::new(path.trim());
    let (well, said) = tried(module, &["--request", "https://api.test/x?y=1", "--sandbox", "box"]);
    assert!(well && said.starts_with("forwarded to https://api.test\n"), "{said}");
    for part in
        ["GET /x?y=1 HTTP/1.1", "x-sandbox: box", "log info: GET https://api.test/x?y=1", " of 2000000, "]
    {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    let file = folder.path().join("request.http");
    fs::write(&file, "POST /x HTTP/1.1\nHost: api.test\nContent-Length: 2\n\nhi").unwrap();
    let (well, said) = tried(module, &["--request", &file.display().to_string()]);
    assert!(
        well && said.starts_with("refused with 405: only GET is allowed") && said.contains("Allow: GET"),
        "{said}"
    );

    let again = handler(&["new", "read-only", "--dir", &dir]);
    assert!(!again.status.success() && text(&again.stderr).contains("is there already"));
}

#[test]
fn every_seed_handler_says_how_it_is_used_and_does_it_in_the_real_host() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("allow_hosts", r#"{"allowedHostnames": ["a.test"]}"#, "forwarded to https://a.test\n"),
        ("auth", r#"{"secret": "k", "header": "x-key"}"#, "x-key: ‹secret k›"),
        ("canned_answer", r#"{"status": 203, "body": "hello"}"#, "answered with 203"),
        ("get_only", "null", "log info: GET https://a.test/acme/x/info/refs"),
        ("git_read_only", r#"{"repositories": ["acme/x"]}"#, "forwarded to"),
        ("guard_answers", r#"{"words": ["x"]}"#, "forwarded to https://a.test\n"),
        ("guard_uploads", r#"{"words": ["x"]}"#, "forwarded to https://a.test\n"),
        ("identity", "null", "x-sandbox-id: sandbox-1"),
        ("inject_token", "null", "forwarded to"),
        ("mask_answers", r#"{"words": ["x"]}"#, "forwarded to https://a.test\n"),
        (
            "mirror",
            r#"{"host": "b.test", "prefix": "/p"}"#,
            "forwarded to https://b.test, after policy was asked again",
        ),
        ("no_http", "null", "refused with 403: this sandbox is locked"),
        (
            "no_keywords",
            r#"{"keywords": ["UPLOAD"]}"#,
            "refused with 403: the request holds a restricted word",
        ),
        ("office_hours", r#"{"from": 0, "to": 24, "weekend": true}"#, "forwarded to"),
        ("per_sandbox_token", "null", "authorization: Bearer ‹secret tenant-7›"),
        ("strip_fields", r#"{"answers": ["server"]}"#, "forwarded to https://a.test\n"),
    ];
    assert_eq!(cases.map(|(name, ..)| name), handlers_sdk_guests::EXAMPLES);
    for (name, params, came) in cases {
        let source = handlers_sdk_guests::examples_dir().join(name).join("src/lib.rs");
        let source = fs::read_to_string(source).unwrap();
        assert!(
            source.contains("//! ```sh\n//! outgate ") || source.contains("//! outgate secret put"),
            "{name}"
        );
        let module = module(folder.path(), &example(name));
        let url = "https://a.test/acme/x/info/refs?service=git-upload-pack";
        let (well, said) =
            tried(&module, &["--request", url, "--params", params, "--label", "secret=tenant-7"]);
        assert!(well && said.contains(came), "{name}: {said}");
    }
}

#[test]
fn a_handler_that_never_ends_is_stopped_by_its_budget_and_the_reason_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let endless = module(folder.path(), &guest("", "(loop $l br $l) i64.const 0"));
    let (well, said) = tried(&endless, &["--request", "https://a.test/"]);
    assert!(!well && said.contains("failed: the handler failed: the handler used up its fuel"), "{said}");
    assert!(said.contains("onError: next"), "{said}");
}

#[test]
fn what_came_of_it_can_be_read_by_a_program_and_holds_secrets_by_name_only() {
    let folder = tempfile::tempdir().unwrap();
    let inject =
        module(folder.path(), &answering(&entry(op::SET_SECRET, b"authorization", b"Bearer \0token")));
    let output = handler(&[
        "test",
        &inject.display().to_string(),
        "--request",
        "http://a.test/",
        "--host",
        "b.test:81",
        "-H",
        "Authorization: Bearer guess",
        "--json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tried: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let forwarded = &tried["outcome"]["forwarded"];
    assert_eq!(
        (&forwarded["to"], &forwarded["secrets"][0][2]),
        (&"http://b.test:81".into(), &"token".into())
    );
    assert!(tried["fuel"].as_u64() > Some(0) && tried["usualNanos"].as_u64() > Some(0), "{tried}");
}

#[test]
fn bodies_and_the_answer_are_shown_piece_by_piece_and_what_becomes_of_each_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // As curl saves an answer that came in HTTP/2.
    let answer =
        file("answer", "HTTP/2 200 \r\nserver: x\r\ncontent-length: 27\r\n\r\nabout Project Falcon, today");
    let upload = file("upload", "bring me the project-falcon papers");
    let url = ["--request", "https://a.test/", "--piece", "17"];
    let try_with = |name: &str, params: &str, more: &[&str]| {
        let module = module(folder.path(), &example(name));
        tried(&module, &[&url[..], &["--params", params], more].concat())
    };
    let words = r#"{"words": ["project falcon"], "mask": "(a project)"}"#;
    let (well, said) = try_with("mask_answers", words, &["--answer", &answer]);
    let parts = [
        "the answer's head: the sandbox gets\n  HTTP/1.1 200",
        "\n  Transfer-Encoding: chunked\n",
        "17 bytes of the answer's body: 6 bytes go on\n  about \n",
        "10 bytes of the answer's body: 18 bytes go on\n  (a project), today\n",
        "the answer's body ends: on as it is\n\n  log info: hid 1 words",
    ];
    assert!(well && parts.iter().all(|part| said.contains(part)) && !said.contains("Falcon"), "{said}");
    let (_, said) = try_with("mask_answers", words, &[]);
    assert!(said.contains("give one with --answer FILE"), "{said}");

    let words = r#"{"words": ["project-falcon"]}"#;
    let (well, said) = try_with("guard_uploads", words, &["--body", &upload, "--answer", &answer]);
    let parts = [
        "POST / HTTP/1.1",
        "Content-Length: 34",
        "17 bytes of the request's body: on as it is\n",
        "17 bytes of the request's body: refused with 403: the request holds a restricted word",
        "log warn: a restricted word before byte 27 of a body",
    ];
    assert!(well && parts.iter().all(|part| said.contains(part)) && !said.contains("body ends"), "{said}");
    let (_, said) = try_with("guard_answers", r#"{"words": ["falcon"]}"#, &["--answer", &answer]);
    assert!(said.contains("the answer is cut: refused with 403: the answer holds"), "{said}");
    let (_, said) = try_with("get_only", "null", &["--answer", &answer]);
    assert!(said.contains("it is not shown the answer"), "{said}");

    let module = module(folder.path(), &example("strip_fields"));
    let module = module.display().to_string();
    let request = file("request", "PUT /x HTTP/1.1\nHost: a.test\n\nhello");
    let params = ["--params", r#"{"answers": ["server"]}"#];
    let output = handler(
        &[&["test", &module, "--request", &request, "--answer", &answer, "--json"], &params[..]].concat(),
    );
    let tried: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let head = tried["events"][0]["became"]["head"].as_str().expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("server"), "{tried}");
    let asked = tried["outcome"]["forwarded"]["head"].as_str().expect("a head");
    assert!(asked.contains("Content-Length: 5\r\n"), "{tried}");
}

#[test]
fn an_answer_that_a_handler_refuses_or_fails_at_is_told_by_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let answer = folder.path().join("answer");
    fs::write(&answer, "HTTP/1.1 200 OK\nContent-Encoding: gzip\n\nnothing").unwrap();
    let answer = answer.display().to_string();
    let arguments =
        ["--request", "https://a.test/", "--params", r#"{"words": ["x"]}"#, "--answer", answer.as_str()];
    let refuses = module(folder.path(), &example("mask_answers"));
    let (well, said) = tried(&refuses, &arguments);
    assert!(well && said.contains("the answer's head: refused with 502: the answer is compressed"), "{said}");
    let endless = "(if (i32.eq (local.get $kind) (i32.const 2)) (then (loop $l br $l))) i64.const 0";
    let fails = module(folder.path(), &guest_for(&[Hook::Request, Hook::Response], "", endless));
    let (well, said) = tried(&fails, &arguments);
    assert!(!well && said.contains("the answer's head: failed: the handler failed: "), "{said}");
    assert!(said.contains("used up its fuel"), "{said}");
}

#[test]
fn what_cannot_be_tried_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = guest("", "i64.const 0");
    let good = module(folder.path(), &wasm);
    for (arguments, why) in [
        (&["--request", "https://a.test/", "--params", "{"][..], "--params takes JSON"),
        (&["--request", "/nonexistent"], "takes a URL"),
        (&["--request", "https://a.test/", "-H", "a b: c"], "before any handler sees it"),
        (&["--request", "https://a.test/", "--label", "x"], "NAME=VALUE"),
        (&["--request", "https://a.test/", "--body", "/nonexistent"], "cannot read --body"),
        (&["--request", "https://a.test/", "--answer", "Cargo.toml"], "a line like `HTTP/1.1 200 OK`"),
        (&["--request", "https://a.test/", "--piece", "0"], "a number from 1 to 16384"),
    ] {
        let (well, said) = tried(&good, arguments);
        assert!(!well && said.contains(why), "{arguments:?}: {said}");
    }
    let foreign = wat::parse_str("(module (import \"env\" \"now\" (func)))").unwrap();
    let (well, said) = tried(&module(folder.path(), &foreign), &["--request", "https://a.test/"]);
    assert!(!well && said.contains("cannot be published") && said.contains("env"), "{said}");
    let nothing = handler(&["build", &folder.path().display().to_string()]);
    assert!(text(&nothing.stderr).contains("outgate handler new"), "{}", text(&nothing.stderr));
}
