//! Our half of a stream, on either leg: shared by who writes to it and by who may break it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use ::h2::{Reason, SendStream, server::SendResponse};
use ::http::{HeaderMap, Response};

use super::{
    Payload, Pump,
    head::{fields, response},
};
use crate::{
    http::{
        body::Trailers,
        exchange::{Gate, Leg},
        h1::Slice,
        serve::{Answer, OwnAnswer},
    },
    tls::Chunk,
};

/// Why payload does not go out on a stream.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The exchange is no longer allowed.
    #[error("the exchange is no longer allowed")]
    Revoked,
    /// The stream or its connection is broken.
    #[error("the stream is broken")]
    Broken(#[from] ::h2::Error),
}

/// What can be sent on a stream next.
enum Sender {
    /// Heads.
    Heads(SendResponse<Payload>),
    /// Payload and trailers.
    Body(SendStream<Payload>),
}

/// A leg of one exchange: a stream.
pub struct StreamLeg {
    sender: RefCell<Sender>,
    pump: Pump,
    broken: Cell<bool>,
    /// The turn in which our head was given to h2, which keeps it even where the stream is broken.
    asked_in: Option<u64>,
}

impl StreamLeg {
    /// Of a stream that a client opened.
    pub fn answering(sender: SendResponse<Payload>, pump: Pump) -> Self {
        Self { sender: RefCell::new(Sender::Heads(sender)), pump, broken: Cell::new(false), asked_in: None }
    }

    /// Of a stream that was opened to an upstream.
    pub fn asking(sender: SendStream<Payload>, pump: Pump) -> Self {
        let asked_in = Some(pump.turns());
        Self { sender: RefCell::new(Sender::Body(sender)), pump, broken: Cell::new(false), asked_in }
    }

    pub(super) fn inform(&self, head: Response<()>) -> Result<(), ::h2::Error> {
        match &mut *self.sender.borrow_mut() {
            Sender::Heads(sender) => sender.send_informational(head),
            Sender::Body(_) => Ok(()),
        }
    }

    /// Sends the head of the answer, with `ended` also its end.
    pub(super) fn answer(&self, head: Response<()>, ended: bool) -> Result<(), ::h2::Error> {
        let mut sender = self.sender.borrow_mut();
        if let Sender::Heads(heads) = &mut *sender {
            *sender = Sender::Body(heads.send_response(head, ended)?);
        }
        Ok(())
    }

    /// As many bytes as may be sent now, of so many that are wanted. Nothing is ready where the stream ended.
    fn poll_room(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, ::h2::Error>> {
        let Sender::Body(sender) = &mut *self.sender.borrow_mut() else { return Poll::Pending };
        sender.reserve_capacity(wanted);
        match sender.capacity() {
            0 => {}
            room => return Poll::Ready(Ok(room.min(wanted))),
        }
        match sender.poll_capacity(cx) {
            Poll::Ready(Some(Ok(0))) | Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room.min(wanted))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(None) => Poll::Ready(Err(Reason::CANCEL.into())),
        }
    }

    /// Hands payload over as it fits into the peer's windows, each part only while the gate is open. Counts it.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send_all(
        &self,
        mut data: Slice<Chunk>,
        gate: Option<&Rc<dyn Gate>>,
        sent: &Cell<u64>,
    ) -> Result<(), SendError> {
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx, data.len())).await?;
            if gate.is_some_and(|gate| !gate.is_open()) {
                return Err(SendError::Revoked);
            }
            let part = data.split_to(room);
            sent.set(sent.get() + part.len() as u64);
            let gate = gate.map(|gate| (Rc::clone(gate), self.pump.clone()));
            self.send(Payload::new(part, gate), false)?;
        }
        Ok(())
    }

    /// Ends our half.
    ///
    /// # Errors
    /// [`SendError::Broken`]; a trailer that cannot be said in HTTP/2 counts as that too.
    pub fn finish(&self, trailers: Option<&Trailers>) -> Result<(), SendError> {
        match trailers {
            None => Ok(self.send(Payload::default(), true)?),
            Some(trailers) => {
                let fields =
                    fields(trailers.fields()).map_err(|_| ::h2::Error::from(Reason::INTERNAL_ERROR))?;
                Ok(self.send_trailers(fields)?)
            }
        }
    }

    fn send(&self, data: Payload, ended: bool) -> Result<(), ::h2::Error> {
        match &mut *self.sender.borrow_mut() {
            Sender::Body(sender) => sender.send_data(data, ended),
            Sender::Heads(_) => Ok(()),
        }
    }

    fn send_trailers(&self, trailers: HeaderMap) -> Result<(), ::h2::Error> {
        match &mut *self.sender.borrow_mut() {
            Sender::Body(sender) => sender.send_trailers(trailers),
            Sender::Heads(_) => Ok(()),
        }
    }

    /// Gives an answer that is made here, where there is no exchange.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn tell(&self, head: OwnAnswer, body: Vec<u8>) -> Result<(), ::h2::Error> {
        let (head, _) = response(&Answer::Own(head), false).map_err(|_| Reason::INTERNAL_ERROR)?;
        self.answer(head, false)?;
        self.send(Payload::new(body.into(), None), true)
    }

    /// Ready when the peer broke the stream or the connection ended.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut *self.sender.borrow_mut() {
            Sender::Heads(sender) => sender.poll_reset(cx),
            Sender::Body(sender) => sender.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    /// Breaks the stream for this reason.
    pub fn break_off(&self, reason: Reason) {
        if self.broken.replace(true) {
            return;
        }
        match &mut *self.sender.borrow_mut() {
            Sender::Heads(sender) => sender.send_reset(reason),
            Sender::Body(sender) => sender.send_reset(reason),
        }
    }
}

impl Leg for StreamLeg {
    /// What h2 has queued of the stream is thrown away. Where the wire is blocked, frames of it may lie among those of
    /// others that are written and not sent, and a head that was given in this turn is written in any case: then the
    /// whole connection is broken.
    fn reset(&self) {
        self.break_off(Reason::CANCEL);
        if self.pump.is_blocked() || self.asked_in == Some(self.pump.turns()) {
            self.pump.wire().reset();
        }
    }

    fn is_left(&self) -> bool {
        self.pump.wire().is_left()
    }
}
