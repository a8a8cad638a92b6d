//! What a handler is shown behind the request's head: bodies in pieces and the answer, until it ends the exchange.

use std::cell::RefCell;

use control_wire::trial::{Became, Event, Outcome, Shown, TrialAnswer};
use handlers_sdk_abi::limits::BODY_CHUNK_BYTES_MAX;

use super::{TrialError, decoded, fields, lines};
use crate::{
    causes::chain,
    flow::{
        edits::{Instead, Interest, Passing},
        hooked::{Hooked, Way},
    },
    handler::Host,
    http::{AnswerParts, Framing, OutgoingResponse, Parsed, Version, parse_response},
};

/// An exchange that is played for a handler.
pub(super) struct Exchange<'a> {
    hooked: Hooked,
    guests: &'a RefCell<Host>,
    piece_bytes: usize,
    events: Vec<Event>,
    ended: bool,
}

impl<'a> Exchange<'a> {
    /// For a handler that was shown the request's head, with bodies in pieces of so many bytes.
    pub(super) fn new(hooked: Hooked, guests: &'a RefCell<Host>, piece_bytes: usize) -> Self {
        let piece_bytes = match piece_bytes {
            1..=BODY_CHUNK_BYTES_MAX => piece_bytes,
            _ => BODY_CHUNK_BYTES_MAX,
        };
        Self { hooked, guests, piece_bytes, events: Vec::new(), ended: false }
    }

    /// What the handler was shown, and whether it is to be shown an answer that did not come.
    pub(super) fn told(self) -> (Vec<Event>, bool) {
        (self.events, !self.ended && self.hooked.awaits_answer())
    }

    /// Shows it a body, where it wants that.
    pub(super) fn body(&mut self, way: Way, bytes: &[u8]) {
        if self.ended || self.hooked.wanted(way).is_none() {
            return;
        }
        for piece in bytes.chunks(self.piece_bytes) {
            let mut out = Vec::new();
            let became = match self.hooked.piece(way, piece, &mut out) {
                Ok(Passing::AsItIs) => Became::AsItIs,
                Ok(Passing::Changed) => changed(&out),
                Err(instead) => self.over(*instead),
            };
            let shown = match way {
                Way::Up => Shown::RequestBody(piece.len()),
                Way::Down => Shown::AnswerBody(piece.len()),
            };
            self.note(shown, became);
            if self.ended {
                return;
            }
        }
        let mut out = Vec::new();
        let became = match self.hooked.end(way, &mut out) {
            Ok(()) if out.is_empty() => Became::AsItIs,
            Ok(()) => changed(&out),
            Err(instead) => self.over(*instead),
        };
        self.note(if way == Way::Up { Shown::RequestEnd } else { Shown::AnswerEnd }, became);
    }

    /// Shows it the answer to a request of this method, as far as it wants that.
    ///
    /// # Errors
    /// When a plane would not take this answer from an upstream.
    pub(super) fn answer(&mut self, answer: &TrialAnswer, method: &str) -> Result<(), TrialError> {
        let head = match parse_response(answer.head.as_bytes(), method) {
            Ok(Parsed::Complete { head, .. }) => head,
            Ok(Parsed::Partial) => return Err(TrialError::Answer("its head has no end".into())),
            Err(fault) => return Err(TrialError::Answer(chain(&fault))),
        };
        if head.is_interim() {
            return Err(TrialError::Answer("it is interim; leave it away".into()));
        }
        let mut parts = AnswerParts::of(&head).map_err(|fault| TrialError::Answer(chain(&fault)))?;
        if self.ended || !self.hooked.awaits_answer() {
            return Ok(());
        }
        let became = match self.hooked.head(&mut parts) {
            Ok(interest) => {
                if interest == Interest::Change {
                    parts.change_body();
                }
                let mut text = Vec::new();
                OutgoingResponse::edited(&parts, Version::Http11, true).write_to(&mut text)?;
                Became::Head(String::from_utf8_lossy(&text).into_owned())
            }
            Err(instead) => self.over(*instead),
        };
        self.note(Shown::AnswerHead, became);
        let body = if head.framing() == Framing::None { Vec::new() } else { decoded(&answer.body)? };
        self.body(Way::Down, &body);
        Ok(())
    }

    fn over(&mut self, instead: Instead) -> Became {
        self.ended = true;
        Became::Ended(match instead {
            Instead::Refuse(refusal) if refusal.code == "handler_refused" => Outcome::Refused {
                status: Some(refusal.status),
                fields: fields(&refusal.fields),
                reason: refusal.detail.into(),
            },
            Instead::Refuse(refusal) => Outcome::Failed { reason: refusal.reason().to_owned() },
            Instead::Answer { status, fields: sent, body } => {
                let body = String::from_utf8_lossy(&body).into_owned();
                Outcome::Answered { status, fields: fields(&sent), body }
            }
        })
    }

    fn note(&mut self, shown: Shown, became: Became) {
        let told: usize = self.events.iter().map(|event| event.log.len()).sum();
        let log = lines(&self.hooked.log()[told..]);
        self.events.push(Event { shown, became, log, fuel: self.guests.borrow().fuel_spent() });
    }
}

fn changed(out: &[u8]) -> Became {
    Became::Changed { bytes: out.len(), text: String::from_utf8_lossy(out).into_owned() }
}
