//! What an author of handlers does at the desk: a project, a module, a request, and what came of it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use handlers_sdk_abi::action::op;
use serde_json::Value;
use tests::{
    checkout,
    guests::{answering, entry, example, guest},
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
fn what_cannot_be_tried_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = guest("", "i64.const 0");
    let good = module(folder.path(), &wasm);
    for (arguments, why) in [
        (&["--request", "https://a.test/", "--params", "{"][..], "--params takes JSON"),
        (&["--request", "/nonexistent"], "takes a URL"),
        (&["--request", "https://a.test/", "-H", "a b: c"], "before any handler sees it"),
        (&["--request", "https://a.test/", "--label", "x"], "NAME=VALUE"),
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
