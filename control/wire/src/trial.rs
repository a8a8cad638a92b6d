//! What `outgate handler test` asks of the plane's program, and what that answers: one JSON value each, over pipes.
//!
//! The plane runs the module as it runs every other: the same checks of the same envelope, the same host and budgets.

use serde::{Deserialize, Serialize};

use crate::policy::Labels;

/// The hidden command of the plane's program.
pub const TRIAL_COMMAND: &str = "try-handler";

/// One request for one handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trial {
    /// The signed envelope, in base64.
    pub envelope: String,
    /// Public half of the key that signed it, in hex.
    pub key: String,
    /// Name under which the handler is published.
    pub handler: String,
    /// Its parameters.
    pub params: serde_json::Value,
    /// Head of the request in HTTP/1.1, as it would arrive.
    pub head: String,
    /// It arrives over TLS.
    pub tls: bool,
    /// Who asks.
    pub sandbox: String,
    /// The template of who asks.
    pub template: String,
    /// The labels of who asks.
    pub labels: Labels,
    /// How often it is run, for the usual time.
    pub calls: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tried {
    /// What became of the request.
    pub outcome: Outcome,
    /// What the handler wrote: level and text.
    pub log: Vec<(String, String)>,
    /// Turns that the call took.
    pub fuel: u64,
    /// Turns that a call may take.
    pub fuel_max: u64,
    /// Microseconds of the first call: instance, parameters and all.
    pub first_micros: u64,
    /// Nanoseconds of a usual call, the median of all others.
    pub usual_nanos: u64,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Outcome {
    /// It goes on.
    #[serde(rename_all = "camelCase")]
    Forwarded {
        /// Scheme, host and port to which it goes.
        to: String,
        /// Its head as it goes on, without the secrets.
        head: String,
        /// Fields that carry a secret: name, what stands before the value, name of the secret.
        secrets: Vec<(String, String, String)>,
        /// Host, method or path are other ones, so policy is asked again.
        judged_again: bool,
    },
    /// The sandbox is refused.
    Refused {
        /// The status, where the handler chose one.
        status: Option<u16>,
        /// Fields of the refusal.
        fields: Vec<(String, String)>,
        /// Told to the sandbox.
        reason: String,
    },
    /// The handler answered itself.
    Answered {
        /// The status.
        status: u16,
        /// Fields of the answer.
        fields: Vec<(String, String)>,
        /// The body; bytes that are no UTF-8 are replaced.
        body: String,
    },
    /// The handler failed; `onError` decides.
    Failed {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_survive_their_own_text() {
        let trial = Trial {
            envelope: "AA==".into(),
            key: "00".into(),
            handler: "h".into(),
            params: serde_json::json!({ "a": [1, null] }),
            head: "GET / HTTP/1.1\r\n\r\n".into(),
            tls: true,
            sandbox: "s".into(),
            template: "t".into(),
            labels: Labels::from([("a".into(), "b".into())]),
            calls: 3,
        };
        let text = serde_json::to_string(&trial).unwrap();
        assert_eq!(serde_json::from_str::<Trial>(&text).unwrap(), trial);
        let outcome = Outcome::Refused {
            status: Some(405),
            fields: vec![("a".into(), "b".into())],
            reason: "no".into(),
        };
        let tried = Tried { outcome, log: Vec::new(), fuel: 1, fuel_max: 2, first_micros: 3, usual_nanos: 4 };
        let text = serde_json::to_string(&tried).unwrap();
        assert_eq!(serde_json::from_str::<Tried>(&text).unwrap(), tried);
    }
}
