//! `question`: what programs in sandboxes wait for, and what a person says to it.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::api::{Api, at};
use crate::serve::Fault;

/// What is done with questions.
#[derive(Subcommand)]
pub(super) enum Question {
    /// Prints those that are open
    List {
        /// Prints the list again whenever it has changed, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Answers one: for this once unless said otherwise
    Answer {
        /// Its name in the list.
        id: String,
        /// What is said.
        verdict: Verdict,
        /// Keeps the answer for this scheme, host and port, until `question forget`.
        #[arg(long, conflicts_with = "seconds")]
        host: bool,
        /// Keeps it for so many seconds.
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
        /// Who answers, for the record.
        #[arg(long)]
        by: Option<String>,
    },
    /// Takes back what was answered for a sandbox: about one host, or everything
    Forget {
        /// Id of the sandbox.
        sandbox: String,
        /// The host; every one unless given.
        host: Option<String>,
    },
}

/// What a person says.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// Does it.
pub(super) async fn obey(api: &Api, command: Question) -> Result<(), Fault> {
    match command {
        Question::List { follow: false } => api.get("/v1/questions").await,
        Question::List { follow: true } => follow(api).await,
        Question::Answer { id, verdict, host, seconds, by } => {
            let verdict = match verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
            };
            let scope = match (host, seconds) {
                (true, _) => "host",
                (false, Some(_)) => "time",
                (false, None) => "once",
            };
            let answer = json!({ "verdict": verdict, "scope": scope, "seconds": seconds,
                                 "by": by.unwrap_or_default() });
            api.show("POST", &at("questions", &id), answer.to_string().into_bytes()).await
        }
        Question::Forget { sandbox, host } => {
            let answers = format!("{}/answers", at("sandboxes", &sandbox));
            let path = host.map_or_else(
                || answers.clone(),
                |host| format!("{answers}/{}", crate::client::segment(&host)),
            );
            api.remove(&path).await
        }
    }
}

/// One line of JSON for each list.
async fn follow(api: &Api) -> Result<(), Fault> {
    let mut path = "/v1/questions".to_owned();
    let mut shown = None;
    loop {
        let reply = api.client.call("GET", &path, Vec::new()).await?;
        let list: Value = serde_json::from_slice(&reply.body)?;
        path = format!("/v1/questions?after={}&timeout=60s", list["version"]);
        if shown.as_ref() != Some(&list) {
            println!("{list}");
            shown = Some(list);
        }
    }
}
