//! `handler test`: compiles and signs as publishing does, and lets the plane's program run it on one exchange.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use control_wire::policy::Labels;
use control_wire::trial::{Became, Outcome, TRIAL_COMMAND, Trial, TrialAnswer, Tried};
use data_encoding::{BASE64, HEXLOWER};
use handlers_sdk_abi::limits::BODY_CHUNK_BYTES_MAX;
use serde_json::Value;

use super::page::page;
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
    /// A URL, or a file that begins with a line like `GET /path HTTP/1.1`; what follows its head is its body.
    #[arg(short, long, value_name = "FILE|URL")]
    request: String,
    /// The request's body; with a URL the method is then POST.
    #[arg(long, value_name = "FILE")]
    body: Option<String>,
    /// What the upstream answers, head and body, for handlers that see answers: `curl -si URL` writes such a file.
    #[arg(long, value_name = "FILE")]
    answer: Option<String>,
    /// Bytes of each piece in which bodies come; a plane gives pieces as they arrive.
    #[arg(long, value_name = "BYTES", default_value_t = BODY_CHUNK_BYTES_MAX, value_parser = piece)]
    piece: usize,
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

fn piece(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| (1..=BODY_CHUNK_BYTES_MAX).contains(bytes));
    bytes.ok_or_else(|| format!("write a number from 1 to {BODY_CHUNK_BYTES_MAX}"))
}

/// Tries it and prints what came of it.
pub(in crate::cli) fn try_out(test: &Test) -> Result<(), Fault> {
    let plane = find(test.dataplane.clone())?;
    let trial = trial(test)?;
    let tried = run(&plane, &trial)?;
    if test.json {
        println!("{}", serde_json::to_string_pretty(&tried)?);
    } else {
        print!("{}", page(&tried, trial.answer.is_some()));
    }
    let mut became = tried.events.iter().map(|event| &event.became);
    if became.any(|became| matches!(became, Became::Ended(Outcome::Failed { .. }))) {
        return Err("the handler failed, and the exchange with it".into());
    }
    match tried.outcome {
        Outcome::Failed { .. } => {
            Err("the handler failed; its requests are refused, or go on as they were where the \
                                       policy says onError: next"
                .into())
        }
        _ => Ok(()),
    }
}

fn trial(test: &Test) -> Result<Trial, Fault> {
    let Test { method, host, headers, plain, body, .. } = test;
    let (method, host, body) = (method.as_deref(), host.as_deref(), body.as_deref());
    let beside = Beside { method, host, headers, plain: *plain, body };
    let answer = test.answer.as_deref().map(request::read_answer).transpose()?;
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
        body: BASE64.encode(&arriving.body),
        answer: answer.map(|(head, body)| TrialAnswer { head, body: BASE64.encode(&body) }),
        piece_bytes: test.piece,
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
