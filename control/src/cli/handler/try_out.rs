//! `handler test`: compiles and signs as publishing does, and lets the plane's program run it on one request.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use control_wire::policy::Labels;
use control_wire::trial::{Outcome, TRIAL_COMMAND, Trial, Tried};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;

use super::request::{self, Beside};
use crate::causes::chain;
use crate::cli::api::read;
use crate::compile::{Signer, publish, this_machine};
use crate::local_plane::find;
use crate::serve::Fault;

/// Calls whose median is the usual time.
const CALLS: u32 = 1_000;

/// What `handler test` is told.
#[derive(Args)]
pub(in crate::cli) struct Test {
    /// The module, as `outgate handler build` prints it.
    file: PathBuf,
    /// A URL, or a file that begins with a line like `GET /path HTTP/1.1`.
    #[arg(short, long, value_name = "FILE|URL")]
    request: String,
    /// Method in place of the request's.
    #[arg(short = 'X', long)]
    method: Option<String>,
    /// A header field, `Name: value`; may stand several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Host, and port, in place of the request's.
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// The request comes without TLS.
    #[arg(long)]
    plain: bool,
    /// What the operator tells the handler, as JSON.
    #[arg(long, default_value = "null")]
    params: String,
    /// Id of the sandbox that asks.
    #[arg(long, default_value = "sandbox-1")]
    sandbox: String,
    /// Template of the sandbox that asks.
    #[arg(long, default_value = "default")]
    template: String,
    /// A label of the sandbox that asks; may stand several times.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// The plane's program.
    #[arg(long, env = "OUTGATE_DATAPLANE")]
    dataplane: Option<PathBuf>,
}

/// Tries it and prints what came of it.
pub(in crate::cli) fn try_out(test: &Test) -> Result<(), Fault> {
    let plane = find(test.dataplane.clone())?;
    let trial = trial(test)?;
    let tried = run(&plane, &trial)?;
    if test.json {
        println!("{}", serde_json::to_string_pretty(&tried)?);
    } else {
        print!("{}", page(&tried));
    }
    match tried.outcome {
        Outcome::Failed { .. } => {
            Err("the handler failed; its requests are refused, or go on as they were where \
                                       the policy says onError: next"
                .into())
        }
        _ => Ok(()),
    }
}

fn trial(test: &Test) -> Result<Trial, Fault> {
    let Test { method, host, headers, plain, .. } = test;
    let beside = Beside { method: method.as_deref(), host: host.as_deref(), headers, plain: *plain };
    let arriving = request::read(&test.request, &beside)?;
    let params: Value = serde_json::from_str(&test.params)
        .map_err(|error| format!("--params takes JSON, not `{}`: {error}", test.params))?;
    let label = |text: &String| {
        let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| format!("--label takes NAME=VALUE, not `{text}`"))
    };
    let labels = test.labels.iter().map(label).collect::<Result<Labels, _>>()?;
    // A key of this moment: nothing else will ever trust what it signs.
    let (signer, _) = Signer::generate()?;
    let wasm = read(&test.file)?;
    let published = publish(&std::env::current_exe()?, &wasm, &this_machine(), &signer)
        .map_err(|error| format!("{} cannot be published: {}", test.file.display(), chain(&error)))?;
    Ok(Trial {
        envelope: BASE64.encode(&published.envelope),
        key: HEXLOWER.encode(&signer.public_key()),
        handler: published.manifest.name,
        params,
        head: arriving.head,
        tls: arriving.tls,
        sandbox: test.sandbox.clone(),
        template: test.template.clone(),
        labels,
        calls: CALLS,
    })
}

fn run(plane: &PathBuf, trial: &Trial) -> Result<Tried, Fault> {
    let mut child = Command::new(plane)
        .arg(TRIAL_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", plane.display()))?;
    // It reads everything before it writes anything, so neither waits for the other.
    if let Some(mut input) = child.stdin.take() {
        // One that refuses early closes its input; what it says is worth more than the broken pipe.
        let _ = input.write_all(serde_json::to_string(trial)?.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(if said.is_empty() {
            format!("the plane's program ended by {}", output.status)
        } else {
            said
        }
        .into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a person reads.
fn page(tried: &Tried) -> String {
    let mut out = String::new();
    let fields = |fields: &[(String, String)]| -> String {
        fields.iter().map(|(name, value)| format!("  {name}: {value}\n")).collect()
    };
    match &tried.outcome {
        Outcome::Forwarded { to, head, secrets, judged_again } => {
            let again = if *judged_again { ", after policy was asked again" } else { "" };
            let _ = writeln!(out, "forwarded to {to}{again}\n");
            for line in head.lines().filter(|line| !line.is_empty()) {
                // Its place is taken by the secret.
                let name = line.split(':').next().unwrap_or_default();
                let replaced = |(field, ..): &(String, String, String)| field.eq_ignore_ascii_case(name);
                if !secrets.iter().any(replaced) {
                    let _ = writeln!(out, "  {line}");
                }
            }
            for (field, prefix, secret) in secrets {
                let _ = writeln!(out, "  {field}: {prefix}‹secret {secret}›");
            }
        }
        Outcome::Refused { status, fields: sent, reason } => {
            let status = status.map_or("the policy's status".to_owned(), |status| status.to_string());
            let _ = write!(out, "refused with {status}: {reason}\n\n{}", fields(sent));
        }
        Outcome::Answered { status, fields: sent, body } => {
            let _ = write!(out, "answered with {status}, nothing is forwarded\n\n{}\n{body}\n", fields(sent));
        }
        Outcome::Failed { reason } => {
            let _ = writeln!(out, "failed: {reason}");
        }
    }
    for (level, text) in &tried.log {
        let _ = writeln!(out, "\n  log {level}: {text}");
    }
    let _ = writeln!(
        out,
        "\n  fuel {} of {}, {} µs a call; the first took {} µs with instance and parameters",
        tried.fuel,
        tried.fuel_max,
        micros(tried.usual_nanos),
        tried.first_micros
    );
    out
}

fn micros(nanos: u64) -> String {
    format!("{}.{}", nanos / 1000, nanos % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_its_name_in_the_place_of_what_the_sandbox_sent() {
        let outcome = Outcome::Forwarded {
            to: "https://a.test".into(),
            head: "GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer guess\r\n\r\n".into(),
            secrets: vec![("authorization".into(), "Bearer ".into(), "github".into())],
            judged_again: false,
        };
        let log = vec![("info".into(), "hello".into())];
        let page =
            page(&Tried { outcome, log, fuel: 12, fuel_max: 100, first_micros: 50, usual_nanos: 1_940 });
        assert!(
            page.contains("  authorization: Bearer ‹secret github›\n") && !page.contains("guess"),
            "{page}"
        );
        assert!(page.contains("log info: hello") && page.contains("fuel 12 of 100, 1.9 µs a call"), "{page}");
    }
}
