//! `apply`, `diff` and `get`: policies in files, and what control has of them.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::api::Api;
use crate::client::Reply;
use crate::documents::{self, Fault as DocumentFault, Format, Wanted, compare};
use crate::serve::Fault;

/// Which files.
#[derive(Args)]
pub(super) struct Files {
    /// A file of policies (.toml, .yaml, .yml, .json), or a folder of such files; may stand several times.
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
}

/// What is shown.
#[derive(Args)]
pub(super) struct Shown {
    /// templates, sandboxes, handlers or secrets; everything unless given.
    kind: Option<String>,
    /// Only this one.
    name: Option<String>,
    /// Format of the answer.
    #[arg(short, long, value_enum, default_value_t = Format::Toml)]
    output: Format,
}

/// Makes it so. All of it, or nothing where anything is wrong.
pub(super) async fn apply(api: &Api, files: &Files) -> Result<ExitCode, Fault> {
    let path = if api.wait { "/v1/apply?wait=applied" } else { "/v1/apply" };
    let answer = call(api, path, files).await?;
    warn(&answer);
    let changes = answer["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    for change in changes {
        println!("{} {} {}", text(&change["change"]), text(&change["kind"]), text(&change["name"]));
    }
    let revision = &answer["revision"];
    match changes.len() {
        0 => println!("nothing changed; this is revision {revision}"),
        1 => println!("one change, now revision {revision}"),
        count => println!("{count} changes, now revision {revision}"),
    }
    for rejected in answer["rejected"].as_array().into_iter().flatten() {
        eprintln!(
            "plane {} does not take a handler: {}",
            text(&rejected["plane"]),
            text(&rejected["reason"])
        );
    }
    if answer["applied"] == false {
        return Err(super::api::NOT_APPLIED.into());
    }
    if answer["applied"] == true {
        println!("every plane enforces it");
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what would become of what; as `diff` does, 1 is the answer that something would.
pub(super) async fn diff(api: &Api, files: &Files) -> Result<ExitCode, Fault> {
    let answer = call(api, "/v1/diff", files).await?;
    warn(&answer);
    let changes = answer["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let styled = wanted && std::io::stdout().is_terminal();
    let page: String = changes.iter().map(|change| shown(change, styled)).collect();
    // Who closed the pipe does not want to read on; the exit status still tells.
    let _unread = std::io::stdout().write_all(page.as_bytes());
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One change, as a person reads it.
fn shown(change: &Value, styled: bool) -> String {
    let added = change["before"].is_null();
    let paint = |sign: char, line: &str| match sign {
        '+' if styled => format!("\x1b[32m{line}\x1b[0m"),
        '-' if styled => format!("\x1b[31m{line}\x1b[0m"),
        '~' if styled => format!("\x1b[1;33m{line}\x1b[0m"),
        _ => line.to_owned(),
    };
    let sign = if added { '+' } else { '~' };
    let mut out = String::new();
    let heading = format!("{sign} {} {}", text(&change["kind"]), text(&change["name"]));
    let _ = writeln!(out, "{}", paint(sign, &heading));
    if change["valueChanges"] == true && !added {
        let _ = writeln!(out, "  {}", paint('~', "~ value: another one than now"));
    }
    for (sign, line) in compare(&change["before"], &change["after"]) {
        let _ = writeln!(out, "  {}", paint(sign, &format!("{sign} {line}")).trim_end());
    }
    out
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn warn(answer: &Value) {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", text(warning));
    }
}

async fn call(api: &Api, path: &str, files: &Files) -> Result<Value, Fault> {
    let wanted = documents::read(&files.files).map_err(|fault| fault.to_string())?;
    let body = wanted.call().map_err(|faults| listed(&faults))?;
    if wanted.is_empty() {
        return Err("the files declare nothing; begin with [templates.NAME], for example".into());
    }
    let reply = api.client.send("POST", path, &[], body.to_string()).await?;
    if reply.status.is_success() {
        return Ok(serde_json::from_slice(&reply.body)?);
    }
    Err(refusal(&wanted, &reply).into())
}

/// Everything that is wrong, a line each.
fn listed(faults: &[DocumentFault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    format!("these files cannot be applied, so nothing is changed:\n{}", lines.join("\n"))
}

/// Control's refusal, by the line that it is about.
fn refusal(wanted: &Wanted, reply: &Reply) -> String {
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let detail = problem["detail"].as_str().map_or_else(|| reply.status.to_string(), str::to_owned);
    let fault =
        wanted.fault(text(&problem["kind"]), text(&problem["name"]), text(&problem["field"]), &detail);
    fault.map_or(detail, |fault| listed(&[fault]))
}

/// Prints what control has, in the shape in which it can be applied.
pub(super) async fn get(api: &Api, shown: &Shown) -> Result<ExitCode, Fault> {
    let reply = api.client.call("GET", "/v1/state", Vec::new()).await?;
    let state: Map<String, Value> = serde_json::from_slice(&reply.body)?;
    let state = select(state, shown.kind.as_deref(), shown.name.as_deref())?;
    print!("{}", documents::write(&state, shown.output)?);
    Ok(ExitCode::SUCCESS)
}

fn select(state: Map<String, Value>, kind: Option<&str>, name: Option<&str>) -> Result<Value, String> {
    let Some(kind) = kind else {
        // Kinds of which there are none would only be noise.
        let some =
            state.into_iter().filter(|(_, rows)| rows.as_object().is_some_and(|rows| !rows.is_empty()));
        return Ok(Value::Object(some.collect()));
    };
    // `sandbox` and `sandboxes` are both said.
    let named =
        state.iter().find(|(section, _)| section.starts_with(kind.trim_end_matches('s')) && kind.len() > 3);
    let Some((section, rows)) = named else {
        return Err(format!("{kind} is no kind; write templates, sandboxes, handlers or secrets"));
    };
    match name {
        None => Ok(json!({ section: rows })),
        Some(name) => match rows.get(name) {
            Some(row) => Ok(json!({ section: { name: row } })),
            None => Err(format!("there is no {} named {name}", kind.trim_end_matches('s'))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_one_and_by_many() {
        let state =
            json!({ "templates": { "t": 1 }, "sandboxes": { "s": 2 }, "handlers": {}, "secrets": {} });
        let select = |kind, name| select(state.as_object().unwrap().clone(), kind, name);
        assert_eq!(select(None, None).unwrap(), json!({ "templates": { "t": 1 }, "sandboxes": { "s": 2 } }));
        for kind in ["sandbox", "sandboxes"] {
            assert_eq!(select(Some(kind), Some("s")).unwrap(), json!({ "sandboxes": { "s": 2 } }));
        }
        assert_eq!(select(Some("template"), None).unwrap(), json!({ "templates": { "t": 1 } }));
        assert!(select(Some("sandbox"), Some("x")).unwrap_err().contains("no sandbox named x"));
        for kind in ["planes", "s", ""] {
            assert!(select(Some(kind), None).unwrap_err().contains("templates, sandboxes"));
        }
    }

    #[test]
    fn a_secret_shows_that_its_value_changes_and_nothing_of_it() {
        let face = json!({ "hosts": ["a.example"], "allowPlaintext": false });
        let change =
            json!({ "kind": "secret", "name": "k", "before": face, "after": face, "valueChanges": true });
        assert_eq!(shown(&change, false).lines().nth(1), Some("  ~ value: another one than now"));
    }
}
