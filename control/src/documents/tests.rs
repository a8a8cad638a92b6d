//! Files of policies, in every format.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What the files of a folder want, or what is wrong, each with the file's name and place.
fn call(folder: &Path) -> Result<Value, Vec<String>> {
    let wanted = read(&[folder.to_owned()]).map_err(|fault| vec![fault.to_string()])?;
    let short = |fault: &Fault| {
        let file = fault.file.file_name().unwrap().to_string_lossy().into_owned();
        Fault { file: file.into(), ..fault.clone() }.to_string()
    };
    wanted.call().map_err(|faults| faults.iter().map(short).collect())
}

fn wrong(name: &str, text: &str) -> String {
    let folder = folder(&[(name, text)]);
    call(folder.path()).expect_err(text).join("\n")
}

const TOML: &str = r#"
[templates.agent]
allowedHosts = ["api.github.com", "*.pypi.org"]
denyStatus = 0x194

[[templates.agent.rules]]
host = "api.github.com"
match = { method = ["GET"], path = "/repos/*" }
actions = [{ bearer = { secret = "github" } }]
redact = true

[sandboxes.box]
template = "agent"
labels = { team = "blue" }
overrides = { deniedHosts = ["evil.example"], outbound = { handler = "h", params = { n = 1.5, on = true } } }
"#;

const YAML: &str = r#"
templates:
  agent: &agent
    allowedHosts: [api.github.com, "*.pypi.org"]
    denyStatus: 404
    rules:
    - host: api.github.com
      match: {method: [GET], path: /repos/*}
      actions:
      - bearer:
          secret: github
      redact: true
---
sandboxes:
  box:
    template: agent
    labels: {team: blue}
    overrides:
      deniedHosts:
      - evil.example
      outbound: {handler: h, params: {n: 1.5, on: true}}
"#;

const JSON: &str = r#"{
  "templates": {"agent": {"allowedHosts": ["api.github.com", "*.pypi.org"], "denyStatus": 404,
    "rules": [{"host": "api.github.com", "match": {"method": ["GET"], "path": "\/repos/*"},
               "actions": [{"bearer": {"secret": "github"}}], "redact": true}]}},
  "sandboxes": {"box": {"template": "agent", "labels": {"team": "blue"}, "overrides": {"deniedHosts": ["evil.example"],
    "outbound": {"handler": "h", "params": {"n": 1.5, "on": true}}}}}
}"#;

#[test]
fn the_three_formats_say_the_same_and_what_is_written_is_read_again() {
    let calls: Vec<Value> = [("p.toml", TOML), ("p.yaml", YAML), ("p.json", JSON)]
        .into_iter()
        .map(|file| call(folder(&[file]).path()).unwrap_or_else(|faults| panic!("{file:?}: {faults:?}")))
        .collect();
    assert_eq!(calls[0]["templates"]["agent"]["rules"][0]["match"]["path"], "/repos/*");
    assert_eq!(calls[0]["templates"]["agent"]["rules"][0]["redact"], true);
    assert!(calls.iter().all(|call| *call == calls[0]), "{calls:#?}");
    for (format, name) in [(Format::Toml, "p.toml"), (Format::Yaml, "p.yml"), (Format::Json, "p.json")] {
        let text = write(&calls[0], format).unwrap();
        let again =
            call(folder(&[(name, &text)]).path()).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        assert_eq!(again, calls[0], "{text}");
    }
}

#[test]
fn texts_that_look_like_something_else_survive_each_format() {
    let params = json!({ "a": "true", "b": "12", "c": "no", "d": "a: b", "e": "# x", "f": "", "g": "line\nbreak ü \"",
                         "h": "~", "i": "- x", "j": [[], {}, [1, [2]]], "k": -3, "true": "x", "l": "x ", "m": "0x1F" });
    let template = json!({ "outbound": { "handler": "h", "params": params } });
    let wanted = json!({ "templates": { "t": template }, "sandboxes": {}, "handlers": {}, "secrets": {} });
    for (format, name) in [(Format::Toml, "p.toml"), (Format::Yaml, "p.yaml"), (Format::Json, "p.json")] {
        let text = write(&wanted, format).unwrap();
        let again =
            call(folder(&[(name, &text)]).path()).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        assert_eq!(again["templates"]["t"]["outbound"]["params"], params, "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_by_file_line_and_column_with_the_fix() {
    let toml = |inside: &str| wrong("p.toml", &format!("[templates.t]\n{inside}\n"));
    for (said, start, fix) in [
        (toml("allowedHost = []"), "p.toml:2:1: template t: unknown field `allowedHost`", "`allowedHosts`?"),
        (
            toml("allowedHosts = [\n  \"a.b\",\n  \"https://a.b\",\n]"),
            "p.toml:4:3: template t",
            "allowedHosts[1]",
        ),
        (toml("denyStatus = 200"), "p.toml:2:1:", "400 to 599"),
        (toml("denyStatus = \"x\""), "p.toml:2:1:", "expected u16"),
        (
            toml("rules = [{ host = \"a.b\", actions = [{ deny = 5 }] }]"),
            "p.toml:2:39:",
            "{\"reason\": text}",
        ),
        (toml("[[templates.t.rules]]\nhost = \"a.b\"\nactions = []"), "p.toml:4:1:", "name an action"),
        (toml("allowedHosts = [1979-05-27]"), "p.toml:2:17:", "quotes"),
        (wrong("p.toml", "[templates.t\n"), "p.toml:1:13:", ""),
        (wrong("p.toml", "allowedHosts = []\n"), "p.toml:1:1:", "below templates.NAME"),
        (wrong("p.toml", "[template.t]\n"), "p.toml:1:2:", "did you mean `templates`?"),
        (wrong("p.yaml", "sandboxes:\n  s:\n    tmplate: t\n"), "p.yaml:3:5: sandbox s", "`template`?"),
        (wrong("p.yaml", "sandboxes:\n  s: {overrides: {}}\n"), "p.yaml:2:", "missing field `template`"),
        (
            wrong("p.yaml", "sandboxes:\n  s:\n    template: t\n    overrides:\n      leaseMs: 1\n"),
            "p.yaml:5:7: sandbox s",
            "500",
        ),
        (wrong("p.yaml", "templates:\n  t: {}\n  t: {}\n"), "p.yaml:3:3:", "twice"),
        (wrong("p.yaml", "templates:\n  t: !x {}\n"), "p.yaml:2:", "tags"),
        (wrong("p.yaml", "templates: [\n"), "p.yaml:", "no YAML"),
        (wrong("p.json", "{\"templates\":\n  {\"t\": {\"x\\\"y\": 1}}}"), "p.json:2:10:", "unknown field"),
        (wrong("p.json", "{\"templates\": {\"t\": {}, \"t\": {}}}"), "p.json:1:25:", "twice"),
        (wrong("p.json", "{\"templates\": }"), "p.json:1:15:", "no JSON"),
        (wrong("p.json", "[]"), "p.json:1:1:", "fields"),
    ] {
        assert!(
            said.starts_with(start) && said.contains(fix),
            "{said}\nshould start with {start} and hold {fix}"
        );
        assert!(!said.contains("struct") && !said.contains("enum "), "{said}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_in_order() {
    let folder = folder(&[
        ("a.toml", "[templates.t]\ndenyStatus = 1\n[sandboxes.s]\ntemplate = 5\n"),
        ("b.yaml", "templates:\n  u: {leaseMs: 1}\n  t: {}\n"),
        ("ignored.txt", "x"),
    ]);
    fs::create_dir(folder.path().join("inner")).unwrap();
    fs::write(folder.path().join("inner/Cargo.toml"), "[package]").unwrap();
    let said = call(folder.path()).unwrap_err();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(said[3].contains("stands in") && said[3].contains("a.toml, line 1 already"), "{said:#?}");
}

#[test]
fn a_secret_that_stands_in_the_file_is_refused_with_the_reason_and_not_quoted() {
    for text in [
        "[secrets.k]\nhosts = [\"a.b\"]\nvalue = \"ghp_hush\"\n",
        "[secrets.k]\nhosts = [\"a.b\"]\nvalue = [\"ghp_hush\"]\n",
        "[secrets.k]\nhosts = [\"a.b\"]\nvalue = { literal = \"ghp_hush\" }\n",
        "[secrets.k]\nhosts = [\"a.b\"]\nvalue = { env = [\"ghp_hush\"] }\n",
        "[secrets.k]\nhosts = \"ghp_hush\"\n",
        "[secrets.k]\nhosts = [{ x = \"ghp_hush\" }]\n",
        "[secrets.k]\nhosts = [\"a.b\"]\nallowPlaintext = \"ghp_hush\"\n",
        "[secrets.k]\nhosts = [\"a.b\"]\ntoken = \"ghp_hush\"\n",
        "secrets = { k = \"ghp_hush\" }\n",
    ] {
        let said = wrong("p.toml", text);
        assert!(said.starts_with("p.toml:") && !said.contains("ghp_hush"), "{said}");
    }
    let said = wrong("p.toml", "[secrets.k]\nhosts = [\"a.b\"]\nvalue = \"x\"\n");
    assert!(said.starts_with("p.toml:3:1: secret k") && said.contains("{ env = \"NAME\" }"), "{said}");
}

#[test]
fn a_secret_is_read_from_beside_its_file_and_modules_too() {
    let folder = folder(&[
        ("p.yaml", "secrets:\n  k: {value: {file: token}, hosts: [a.b]}\nhandlers:\n  h: {file: h.wasm}\n"),
        ("token", "from-a-file\n"),
        ("h.wasm", "\0asm"),
    ]);
    let wanted = call(folder.path()).unwrap();
    assert_eq!(wanted["secrets"]["k"]["value"], "from-a-file");
    assert_eq!(wanted["handlers"]["h"]["wasm"], "AGFzbQ==");
    fs::write(folder.path().join("h.wasm"), "text").unwrap();
    fs::remove_file(folder.path().join("token")).unwrap();
    let said = call(folder.path()).unwrap_err();
    assert!(said[0].starts_with("p.yaml:2:7:") && said[0].contains("token"), "{said:?}");
    assert!(said[1].contains("no WebAssembly module") && said[1].contains("handler build"), "{said:?}");
    let unset = wrong("p.toml", "[secrets.k]\nhosts = [\"a.b\"]\nvalue = { env = \"OUTGATE_TEST_UNSET\" }\n");
    assert!(unset.contains("OUTGATE_TEST_UNSET is not set"), "{unset}");
}

#[test]
fn anchors_that_multiply_and_depths_that_do_not_end_are_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let of = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", [of.as_str(); 10].join(", "));
    }
    assert!(wrong("p.yaml", &text).contains("more than 500000 values"));
    for (name, open, close) in [("p.yaml", "[", "]"), ("p.json", "[", "]")] {
        let deep = format!("{{\"templates\": {}1{}}}", open.repeat(100), close.repeat(100));
        assert!(wrong(name, &deep).contains("deep"), "{name}");
    }
    let deep = format!("templates = {}1{}", "[".repeat(1_000), "]".repeat(1_000));
    assert!(wrong("p.toml", &deep).starts_with("p.toml:1:"));
}

#[test]
fn a_comparison_shows_what_changes_with_what_stands_around_it() {
    let hosts = |extra: &[&str]| {
        let many: Vec<String> = (0..20).map(|n| format!("h{n:02}.example")).collect();
        let all: Vec<&str> = many.iter().map(String::as_str).chain(extra.iter().copied()).collect();
        json!({ "allowedHosts": all, "denyStatus": 404 })
    };
    let lines = compare(&hosts(&[]), &hosts(&["new.example"]));
    let text: Vec<String> = lines.iter().map(|(sign, line)| format!("{sign}{line}")).collect();
    assert_eq!(
        text,
        [" …", "   - h18.example", "   - h19.example", "+  - new.example", " denyStatus: 404"],
        "{text:#?}"
    );
    assert!(compare(&json!(null), &json!({ "a": 1 })).iter().all(|(sign, _)| *sign == '+'));
    assert!(compare(&json!({ "a": 1 }), &json!({ "a": 1 })).is_empty());
}
