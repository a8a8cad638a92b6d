//! The gateway behind which a program runs: one of its own, or one that runs already.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use control_wire::attach::{Done, ListenerKind};
use serde_json::Value;

use super::via::Running;
use crate::client::{Client, ClientError, Reply};
use crate::gateway::Gateway;
use crate::serve::Fault;

/// How the rows of a run are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    sandbox: String,
    /// Stands before the names of secrets and handlers.
    prefix: String,
}

/// In a gateway that has nothing else.
static ALONE: LazyLock<Naming> = LazyLock::new(|| Naming { sandbox: "run".into(), prefix: String::new() });

impl Naming {
    /// Where others have rows too: all begin with the sandbox's name.
    pub fn among_others(sandbox: String) -> Self {
        Self { prefix: format!("{sandbox}."), sandbox }
    }

    /// The sandbox, and its template.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// A secret or handler that the caller calls so.
    pub fn row(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A text in which names are as the caller wrote them.
    pub fn plain(&self, text: &str) -> String {
        if self.prefix.is_empty() {
            return text.to_owned();
        }
        text.replace(&format!("\"{}", self.prefix), "\"")
    }

    /// Calls secrets and handlers in a policy as their rows are called, where the run brings them.
    pub fn rename(&self, policy: &mut Value, brought: &[String]) {
        match policy {
            Value::Array(list) => list.iter_mut().for_each(|value| self.rename(value, brought)),
            Value::Object(fields) => {
                for (field, value) in fields {
                    match value {
                        Value::String(name)
                            if matches!(field.as_str(), "secret" | "handler") && brought.contains(name) =>
                        {
                            *name = self.row(name);
                        }
                        value => self.rename(value, brought),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The gateway, and the ways to speak to it.
pub(super) enum Gate {
    /// Of this run alone.
    Own(Box<Gateway>),
    /// Others use it too.
    Running(Box<Running>),
}

impl Gate {
    /// How the rows of this run are called.
    pub fn naming(&self) -> &Naming {
        match self {
            Self::Own(_) => &ALONE,
            Self::Running(running) => running.naming(),
        }
    }

    /// What speaks to its API, for another thread.
    pub fn client(&self) -> Client {
        match self {
            Self::Own(gateway) => gateway.client(),
            Self::Running(running) => running.client(),
        }
    }

    /// One call of the API whose refusal is an error.
    pub fn call(&mut self, method: &str, path: &str, body: impl Into<Vec<u8>>) -> Result<Reply, Fault> {
        match self {
            Self::Own(gateway) => gateway.call(method, path, body),
            Self::Running(running) => running.call(method, path, body.into()),
        }
    }

    /// The same, where a refusal is an answer too.
    pub fn ask(&self, method: &str, path: &str) -> Result<Reply, ClientError> {
        match self {
            Self::Own(gateway) => gateway.ask(method, path),
            Self::Running(running) => running.ask(method, path),
        }
    }

    /// Puts the run's sandbox behind its listeners; its policy is enforced then.
    pub fn attach<D: AsFd>(&mut self, listeners: &[(ListenerKind, D)]) -> Result<Done, Fault> {
        let sandbox = self.naming().sandbox().to_owned();
        match self {
            Self::Own(gateway) => gateway.attach(&sandbox, listeners),
            Self::Running(running) => running.attach(&sandbox, listeners),
        }
    }

    /// A folder that must be hidden, and stay where it is.
    pub fn kept(&self) -> &Path {
        match self {
            Self::Own(gateway) => gateway.shared_folder(),
            Self::Running(running) => running.state(),
        }
    }

    /// What else must be hidden.
    pub fn hidden(&self) -> Vec<PathBuf> {
        match self {
            Self::Own(_) => Vec::new(),
            Self::Running(running) => running.hidden(),
        }
    }

    /// Ends it, or what this run has there.
    pub fn end(self) {
        match self {
            Self::Own(gateway) => drop(gateway),
            Self::Running(running) => running.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_names_what_the_run_brings_by_its_rows_and_all_else_as_it_is() {
        let mut policy = json!({
            "rules": [{ "host": "token", "actions": [{ "bearer": { "secret": "token" } }, { "basic": { "secret": "theirs" } }] }],
            "outbound": { "handler": "get_only", "params": { "secret": "token", "note": "token" } },
        });
        let renamed = json!({
            "rules": [{ "host": "token", "actions": [{ "bearer": { "secret": "run-1.token" } }, { "basic": { "secret": "theirs" } }] }],
            "outbound": { "handler": "run-1.get_only", "params": { "secret": "run-1.token", "note": "token" } },
        });
        let brought = ["token".to_owned(), "get_only".to_owned()];
        Naming::among_others("run-1".into()).rename(&mut policy, &brought);
        assert_eq!(policy, renamed);
    }
}
