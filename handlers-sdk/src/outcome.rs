//! What a handler decided.

use core::fmt::Display;

use handlers_sdk_abi::ActionWriter;
use handlers_sdk_abi::limits::REASON_BYTES_MAX;

use crate::headers::{check_name, check_value};
use crate::request::Request;
use crate::response::Response;

/// What becomes of a request.
#[derive(Debug)]
#[must_use = "an outcome does something only when the handler returns it"]
pub struct Outcome(Kind);

#[derive(Debug)]
enum Kind {
    Forward(Box<Request>),
    Answer(Box<Response>),
    Refuse { status: Option<u16>, fields: Vec<(String, String)>, reason: String },
    Respond { status: u16, fields: Vec<(String, String)>, body: Vec<u8> },
    Error(String),
}

impl Outcome {
    /// The request goes on, with the changes made to it.
    pub fn forward(request: Request) -> Self {
        Self(Kind::Forward(Box::new(request)))
    }

    pub(crate) fn answer(response: Response) -> Self {
        Self(Kind::Answer(Box::new(response)))
    }

    /// The request is refused with a status; the reason is shown to the sandbox.
    ///
    /// # Panics
    /// Where the status is not between 400 and 599.
    #[track_caller]
    pub fn refuse(status: u16, reason: impl Into<String>) -> Self {
        assert!((400..=599).contains(&status), "a refusal has a status from 400 to 599, not {status}");
        Self(Kind::Refuse { status: Some(status), fields: Vec::new(), reason: reason.into() })
    }

    /// The request is refused with the status that policy gives; the reason is shown to the sandbox.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self(Kind::Refuse { status: None, fields: Vec::new(), reason: reason.into() })
    }

    /// The handler answers in the upstream's place. Where the upstream has answered already, but nothing of it was told,
    /// this is told instead.
    ///
    /// # Panics
    /// Where the status is not between 200 and 599.
    #[track_caller]
    pub fn respond(status: u16, body: impl Into<Vec<u8>>) -> Self {
        assert!((200..=599).contains(&status), "an answer has a status from 200 to 599, not {status}");
        Self(Kind::Respond { status, fields: Vec::new(), body: body.into() })
    }

    /// Adds a header to the handler's own answer or refusal.
    ///
    /// # Panics
    /// Where this is neither, or the header cannot be sent.
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Err(error) = check_name(name).and_then(|()| check_value(name, value)) {
            panic!("{error}");
        }
        match &mut self.0 {
            Kind::Respond { fields, .. } | Kind::Refuse { fields, .. } => {
                fields.push((name.to_owned(), value.to_owned()));
            }
            _ => panic!("only an answer or a refusal of the handler's own has headers"),
        }
        self
    }

    /// The handler failed; the template's `onError` says what becomes of the request.
    pub fn error(message: impl Display) -> Self {
        Self(Kind::Error(message.to_string()))
    }

    pub(crate) fn write(&self, list: &mut ActionWriter) {
        match &self.0 {
            Kind::Forward(request) => request.write(list),
            Kind::Answer(response) => response.write(list),
            Kind::Refuse { status, fields, reason } => {
                append(fields, list);
                list.deny(*status, clip(reason, REASON_BYTES_MAX));
            }
            Kind::Respond { status, fields, body } => {
                append(fields, list);
                list.respond(*status, body);
            }
            Kind::Error(message) => list.error(clip(message, REASON_BYTES_MAX)),
        }
    }
}

fn append(fields: &[(String, String)], list: &mut ActionWriter) {
    fields.iter().for_each(|(name, value)| list.append(name.as_bytes(), value.as_bytes()));
}

/// The front of a text that fits a bound, cut between characters.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// What a handler may return.
pub trait IntoOutcome {
    /// The outcome that it means.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<E: Display> IntoOutcome for Result<Outcome, E> {
    fn into_outcome(self) -> Outcome {
        self.unwrap_or_else(Outcome::error)
    }
}
