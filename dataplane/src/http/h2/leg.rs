//! Our half of a stream, on either leg: shared by who writes to it and by who may break it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use ::h2::{Reason, SendStream, server::SendResponse};
use ::http::{HeaderMap, Response};

use super::{
    Payload, Pump, Stalled, Windows,
    head::{fields, response},
};
use crate::{
    http::{
        body::Trailers,
        exchange::{Gate, Leg},
        h1::Slice,
        serve::{Answer, OwnAnswer},
    },
    limits::BODY_SILENCE,
    ring::timeout,
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
    /// The peer lets nothing more come.
    #[error("the peer opened its window no more")]
    Stalled,
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
    windows: Rc<Windows>,
    stream: u32,
    broken: Cell<bool>,
    /// We opened it: h2 keeps our head even where the stream is broken.
    asks: bool,
    /// How long payload may wait for the peer's windows.
    patience: Duration,
}

impl StreamLeg {
    /// Of a stream that a client opened.
    pub fn answering(sender: SendResponse<Payload>, pump: Pump, windows: Rc<Windows>) -> Self {
        let stream = sender.stream_id().as_u32();
        pump.accepted(stream);
        Self::new(Sender::Heads(sender), pump, windows, (stream, false))
    }

    /// Of a stream that was opened to an upstream.
    pub fn asking(sender: SendStream<Payload>, pump: Pump, windows: Rc<Windows>) -> Self {
        let stream = sender.stream_id().as_u32();
        Self::new(Sender::Body(sender), pump, windows, (stream, true))
    }

    fn new(sender: Sender, pump: Pump, windows: Rc<Windows>, (stream, asks): (u32, bool)) -> Self {
        let (sender, broken) = (RefCell::new(sender), Cell::new(false));
        Self { sender, pump, windows, stream, broken, asks, patience: BODY_SILENCE }
    }

    /// The other leg has taken so many bytes of what came on this stream.
    pub fn took(&self, bytes: usize) {
        self.windows.took(bytes);
    }

    /// What came on this stream lies there, until the guard is dropped.
    pub fn stall(&self) -> Stalled {
        self.windows.stall()
    }

    pub(super) fn inform(&self, head: Response<()>) -> Result<(), ::h2::Error> {
        match &mut *self.sender.borrow_mut() {
            Sender::Heads(sender) => sender.send_informational(head),
            Sender::Body(_) => Ok(()),
        }
    }

    /// Sends the head of the answer, with `ended` also its end.
    pub(super) fn answer(
        &self,
        head: Response<()>,
        ended: bool,
        gate: Option<Rc<dyn Gate>>,
    ) -> Result<(), ::h2::Error> {
        let mut sender = self.sender.borrow_mut();
        if let Sender::Heads(heads) = &mut *sender {
            *sender = Sender::Body(heads.send_response(head, ended)?);
            if ended {
                self.hold(gate);
            }
        }
        Ok(())
    }

    /// What ends a stream without payload holds the gate too: a change of policy meets the exchange until it was sent.
    fn hold(&self, gate: Option<Rc<dyn Gate>>) {
        if let Some(gate) = gate {
            self.pump.hold_to_end(self.stream, gate);
        }
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
            let room = timeout(self.patience, poll_fn(|cx| self.poll_room(cx, data.len()))).await;
            let room = room.map_err(|_| SendError::Stalled)??;
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
    pub fn finish(&self, trailers: Option<&Trailers>, gate: Option<Rc<dyn Gate>>) -> Result<(), SendError> {
        match trailers {
            None => self.send(Payload::default(), true)?,
            Some(trailers) => {
                let fields =
                    fields(trailers.fields()).map_err(|_| ::h2::Error::from(Reason::INTERNAL_ERROR))?;
                self.send_trailers(fields)?;
            }
        }
        self.hold(gate);
        Ok(())
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
        self.answer(head, false, None)?;
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
        self.pump.forget(self.stream);
    }
}

impl Leg for StreamLeg {
    /// What h2 has queued of the stream is thrown away. Where the wire is blocked, frames of it may lie among those of
    /// others that are written and not sent, and a head that we gave is written in any case, also where the peer's
    /// bound of streams holds it back: then the whole connection is broken.
    fn reset(&self) {
        self.break_off(Reason::CANCEL);
        if self.pump.is_blocked() || (self.asks && !self.pump.has_opened(self.stream)) {
            self.pump.wire().reset();
        }
    }

    fn is_left(&self) -> bool {
        self.pump.wire().is_left()
    }
}

#[cfg(test)]
#[path = "leg_tests.rs"]
mod tests;
