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
    /// What follows it, in base64.
    #[serde(default)]
    pub body: String,
    /// What the upstream answers, where the handler is to be shown that.
    #[serde(default)]
    pub answer: Option<TrialAnswer>,
    /// Bytes of each piece in which bodies come; 0 for as large ones as the contract allows.
    #[serde(default)]
    pub piece_bytes: usize,
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

/// What an upstream answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrialAnswer {
    /// Its head in HTTP/1.1, as it would arrive.
    pub head: String,
    /// What follows it, in base64.
    pub body: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tried {
    /// What became of the request.
    pub outcome: Outcome,
    /// What the handler wrote: level and text.
    pub log: Vec<(String, String)>,
    /// What it was shown behind the request's head, in order.
    #[serde(default)]
    pub events: Vec<Event>,
    /// It is to be shown an answer, and there is none.
    #[serde(default)]
    pub waits_for_answer: bool,
    /// Turns that the call took.
    pub fuel: u64,
    /// Turns that a call may take.
    pub fuel_max: u64,
    /// Microseconds of the first call: instance, parameters and all.
    pub first_micros: u64,
    /// Nanoseconds of a usual call, the median of all others.
    pub usual_nanos: u64,
}

/// Something behind the request's head that a handler was shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// What it was shown.
    pub shown: Shown,
    /// What it made of it.
    pub became: Became,
    /// What it wrote meanwhile: level and text.
    pub log: Vec<(String, String)>,
    /// Turns that the call took.
    pub fuel: u64,
}

/// What a handler is shown behind the request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Shown {
    /// So many bytes of the request's body.
    RequestBody(usize),
    /// That the request's body is whole.
    RequestEnd,
    /// The head of the answer.
    AnswerHead,
    /// So many bytes of the answer's body.
    AnswerBody(usize),
    /// That the answer's body is whole.
    AnswerEnd,
}

/// What a handler made of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Became {
    /// It goes on as it is.
    AsItIs,
    /// The answer has this head.
    Head(String),
    /// This goes on in its place.
    #[serde(rename_all = "camelCase")]
    Changed {
        /// How much.
        bytes: usize,
        /// As text; bytes that are no UTF-8 are replaced.
        text: String,
    },
    /// The exchange ends so; where the sandbox had the head of the answer, by a cut.
    Ended(Outcome),
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
            body: "AA==".into(),
            answer: Some(TrialAnswer { head: "HTTP/1.1 200 OK\r\n\r\n".into(), body: String::new() }),
            piece_bytes: 5,
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
        let event = |shown, became| Event { shown, became, log: vec![("info".into(), "x".into())], fuel: 5 };
        let tried = Tried {
            outcome: outcome.clone(),
            log: Vec::new(),
            events: vec![
                event(Shown::RequestBody(3), Became::Changed { bytes: 1, text: "a".into() }),
                event(Shown::RequestEnd, Became::AsItIs),
                event(Shown::AnswerHead, Became::Head("HTTP/1.1 200 OK\r\n\r\n".into())),
                event(Shown::AnswerBody(1), Became::Ended(outcome)),
            ],
            waits_for_answer: true,
            fuel: 1,
            fuel_max: 2,
            first_micros: 3,
            usual_nanos: 4,
        };
        let text = serde_json::to_string(&tried).unwrap();
        assert_eq!(serde_json::from_str::<Tried>(&text).unwrap(), tried);
    }
}
