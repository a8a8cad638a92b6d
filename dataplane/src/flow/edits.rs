//! What changes an exchange on its way: the seam between the legs for whatever edits heads and bodies while they
//! stream.
//!
//! All of an upstream's answer reaches the client through [`ToClient`], and all of a request's body its upstream
//! through [`FromClient`]. An exchange without [`Edits`], the usual one, pays a test of an option for each piece. With
//! them, each [`AnswerEdit`] sees the head, then, where it asked for the body, each piece and the end, in the order in
//! which the edits were added; what one gives is what the next sees. An edit is never asked for a piece before the one
//! before was taken by the other leg, so back-pressure stays what it is, and it answers at once: nothing waits here.
//!
//! To plug in: implement [`BodyEdit`] and [`AnswerEdit`], and add it to the [`Edits`] of the `Outbound` while the
//! request is prepared. What a credential must not be seen by comes first.

mod pieces;

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use super::exchange::{AnswerHead, Body, ExchangeError, ReplyTo, upload_error};
use crate::{
    audit::Record,
    http::{
        Answer, AnswerParts, BodyError, BodyPiece, FieldName, FieldValue, Framing, HeadError, ReplyPiece,
        Trailers, h1::Slice,
    },
    respond::Refusal,
    tls::Chunk,
};

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// It goes on as it is, and is not copied.
    AsItIs,
    /// What was appended goes on in its place, and may be nothing.
    Changed,
}

/// What an edit wants of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Nothing: it is not asked again.
    Nothing,
    /// Every piece, and the length stays: what is changed becomes as many bytes.
    Look,
    /// Every piece, and they may be changed: the length is not known before the end.
    Change,
}

/// What ends an exchange that is being edited. Where the client has the head of the answer already, the answer is cut,
/// so that a part never looks whole, and the record says why.
#[derive(Debug)]
pub enum Instead {
    /// The client is refused.
    Refuse(Refusal),
    /// The client gets this answer.
    Answer {
        /// Status.
        status: u16,
        /// Fields beside the framing.
        fields: Vec<(FieldName, FieldValue)>,
        /// Body.
        body: Vec<u8>,
    },
}

impl From<Refusal> for Box<Instead> {
    fn from(refusal: Refusal) -> Self {
        Box::new(Instead::Refuse(refusal))
    }
}

/// Edits a body as it passes.
pub trait BodyEdit {
    /// Sees the next piece, never empty, and appends to `out`, which is empty, what goes on in its place.
    ///
    /// # Errors
    /// What ends the exchange.
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passing, Box<Instead>>;

    /// Appends to `out`, which is empty, the next part of what the last piece became, where that is too much for one.
    /// Asked behind each piece until it appends nothing.
    ///
    /// # Errors
    /// What ends the exchange.
    fn more(&mut self, _out: &mut Vec<u8>) -> Result<(), Box<Instead>> {
        Ok(())
    }

    /// The body is whole: appends to `out` what was held back. Called once, and never for a body that was cut.
    ///
    /// # Errors
    /// What ends the exchange.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Box<Instead>>;

    /// For how long no further piece is to come, because those before have cost the others on the shard too much.
    fn debt(&self) -> Option<Duration> {
        None
    }

    /// The exchange is over, however it ended: tells the record what was learnt.
    fn report(&mut self, _record: &mut Record) {}
}

/// Edits an answer.
pub trait AnswerEdit: BodyEdit {
    /// Sees an interim head, which has no body.
    ///
    /// # Errors
    /// What ends the exchange.
    fn interim(&mut self, _parts: &mut AnswerParts) -> Result<(), Box<Instead>> {
        Ok(())
    }

    /// Sees the head before anything of it was told, and says what it wants of the body. That a body is changed it says
    /// by [`Interest::Change`] alone.
    ///
    /// # Errors
    /// What is said in the answer's place.
    fn head(&mut self, parts: &mut AnswerParts) -> Result<Interest, Box<Instead>>;

    /// Sees the trailers, after the end.
    ///
    /// # Errors
    /// What ends the exchange.
    fn trailers(&mut self, trailers: Trailers) -> Result<Trailers, Box<Instead>> {
        Ok(trailers)
    }
}

/// The edits of one exchange.
#[derive(Default)]
pub struct Edits {
    up: RefCell<Vec<Box<dyn BodyEdit>>>,
    down: RefCell<Vec<(Box<dyn AnswerEdit>, Interest)>>,
    /// An edit has seen something, so the request must not be sent again.
    begun: Cell<bool>,
}

impl Edits {
    /// Adds what edits the request's body, behind those that are there. Who changes its length has set the framing of
    /// the request before.
    pub fn add_up(&self, edit: Box<dyn BodyEdit>) {
        self.up.borrow_mut().push(edit);
    }

    /// Adds what edits the answer, behind those that are there.
    pub fn add_down(&self, edit: Box<dyn AnswerEdit>) {
        self.down.borrow_mut().push((edit, Interest::Nothing));
    }

    /// Whether an edit has seen anything.
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Tells the record what the edits have learnt.
    pub fn report(&self, record: &mut Record) {
        self.up.borrow_mut().iter_mut().for_each(|edit| edit.report(record));
        self.down.borrow_mut().iter_mut().for_each(|(edit, _)| edit.report(record));
    }

    fn interim(&self, head: AnswerHead) -> Result<Answer<Chunk>, ExchangeError> {
        let mut parts = parts(&head)?;
        self.down.borrow_mut().iter_mut().try_for_each(|(edit, _)| edit.interim(&mut parts))?;
        Ok(chosen(head, parts))
    }

    fn head(&self, head: AnswerHead) -> Result<Answer<Chunk>, ExchangeError> {
        self.begun.set(true);
        let mut parts = parts(&head)?;
        for (edit, interest) in &mut *self.down.borrow_mut() {
            *interest = edit.head(&mut parts)?;
            if *interest == Interest::Change {
                parts.change_body();
            }
            // What follows is bytes of another protocol, which end and begin elsewhere.
            if parts.framing() == Framing::Tunnel {
                *interest = Interest::Nothing;
            }
        }
        Ok(chosen(head, parts))
    }

    fn down(&self, data: Slice<Chunk>) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        let mut edits = self.down.borrow_mut();
        let wanting = edits.iter_mut().filter(|(_, interest)| *interest != Interest::Nothing);
        pieces::pass(data, wanting.map(|(edit, _)| &mut **edit as &mut dyn BodyEdit))
    }

    fn more_down(&self) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        let mut edits = self.down.borrow_mut();
        let wanting = edits.iter_mut().filter(|(_, interest)| *interest != Interest::Nothing);
        pieces::more(wanting.map(|(edit, _)| &mut **edit as &mut dyn BodyEdit).collect())
    }

    fn end_down(&self) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        let mut edits = self.down.borrow_mut();
        let wanting = edits.iter_mut().filter(|(_, interest)| *interest != Interest::Nothing);
        pieces::finish(wanting.map(|(edit, _)| &mut **edit as &mut dyn BodyEdit))
    }

    fn trailers(&self, trailers: Trailers) -> Result<Trailers, ExchangeError> {
        let mut edits = self.down.borrow_mut();
        Ok(edits.iter_mut().try_fold(trailers, |trailers, (edit, _)| edit.trailers(trailers))?)
    }

    fn up(&self, data: Slice<Chunk>) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        self.begun.set(true);
        pieces::pass(data, self.up.borrow_mut().iter_mut().map(|edit| &mut **edit as &mut dyn BodyEdit))
    }

    fn more_up(&self) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        pieces::more(self.up.borrow_mut().iter_mut().map(|edit| &mut **edit as &mut dyn BodyEdit).collect())
    }

    fn end_up(&self) -> Result<Option<Slice<Chunk>>, ExchangeError> {
        self.begun.set(true);
        pieces::finish(self.up.borrow_mut().iter_mut().map(|edit| &mut **edit as &mut dyn BodyEdit))
    }
}

fn parts(head: &AnswerHead) -> Result<AnswerParts, ExchangeError> {
    AnswerParts::of(head).map_err(|_| HeadError::Field.into())
}

/// A head that nothing changed goes on where it lies.
fn chosen(head: AnswerHead, parts: AnswerParts) -> Answer<Chunk> {
    if parts.is_changed() { Answer::Edited(Box::new(parts)) } else { Answer::Upstream(head) }
}

impl From<Box<Instead>> for ExchangeError {
    fn from(instead: Box<Instead>) -> Self {
        Self::Instead(instead)
    }
}

/// The body of a request on its way up.
pub struct FromClient<'a> {
    body: &'a mut Body,
    edits: Option<&'a Edits>,
    /// The end, while what was held back goes first. Rare, so it takes no room in the future of every request.
    end: Option<Box<Option<Trailers>>>,
}

impl<'a> FromClient<'a> {
    /// A body, and what edits it.
    pub fn new(body: &'a mut Body, edits: Option<&'a Edits>) -> Self {
        Self { body, edits: edits.filter(|edits| !edits.up.borrow().is_empty()), end: None }
    }

    /// The next piece, as [`Body::next`] gives it. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ExchangeError`] where the client's body ends badly, or an edit ends the exchange.
    pub async fn next(&mut self) -> Result<BodyPiece<Slice<Chunk>>, ExchangeError> {
        if let Some(end) = self.end.take() {
            return Ok(BodyPiece::End(*end));
        }
        loop {
            if let Some(edits) = self.edits
                && let Some(more) = edits.more_up()?
            {
                return Ok(BodyPiece::Data(more));
            }
            if let Some(edits) = self.edits {
                edits.rest().await;
            }
            let piece = self.body.next().await.map_err(upload_error)?;
            let Some(edits) = self.edits else { return Ok(piece) };
            match piece {
                BodyPiece::Data(data) => {
                    if let Some(data) = edits.up(data)? {
                        return Ok(BodyPiece::Data(data));
                    }
                }
                BodyPiece::End(trailers) => {
                    let Some(held) = edits.end_up()? else { return Ok(BodyPiece::End(trailers)) };
                    self.end = Some(Box::new(trailers));
                    return Ok(BodyPiece::Data(held));
                }
            }
        }
    }
}

/// A piece of an answer that every edit has seen. Only [`ToClient`] makes one.
pub struct Passed(ReplyPiece<Slice<Chunk>, Answer<Chunk>>);

/// The way of an answer to the client.
#[derive(Clone, Copy)]
pub struct ToClient<'a> {
    reply: &'a ReplyTo,
    edits: Option<&'a Edits>,
}

impl<'a> ToClient<'a> {
    /// Where an answer goes, and what edits it.
    pub fn new(reply: &'a ReplyTo, edits: Option<&'a Edits>) -> Self {
        Self { reply, edits: edits.filter(|edits| !edits.down.borrow().is_empty()) }
    }

    /// Waits until a further piece of the body may come.
    pub async fn rest(&self) {
        if let Some(edits) = self.edits {
            edits.rest().await;
        }
    }

    /// An interim head.
    ///
    /// # Errors
    /// [`ExchangeError::Instead`], or where the head cannot be edited.
    pub fn interim(&self, head: AnswerHead) -> Result<Passed, ExchangeError> {
        let answer = match self.edits {
            None => Answer::Upstream(head),
            Some(edits) => edits.interim(head)?,
        };
        Ok(Passed(ReplyPiece::Interim(answer)))
    }

    /// The head of the answer.
    ///
    /// # Errors
    /// [`ExchangeError::Instead`], or where the head cannot be edited.
    pub fn head(&self, head: AnswerHead) -> Result<Passed, ExchangeError> {
        let answer = match self.edits {
            None => Answer::Upstream(head),
            Some(edits) => edits.head(head)?,
        };
        Ok(Passed(ReplyPiece::Head(answer)))
    }

    /// A piece of the body; nothing where an edit holds it back or drops it. Behind it, [`ToClient::more`].
    ///
    /// # Errors
    /// [`ExchangeError::Instead`].
    pub fn data(&self, data: Slice<Chunk>) -> Result<Option<Passed>, ExchangeError> {
        let data = match self.edits {
            None => Some(data),
            Some(edits) => edits.down(data)?,
        };
        Ok(data.map(|data| Passed(ReplyPiece::Data(data))))
    }

    /// More of what the last piece became; to be asked until there is nothing.
    ///
    /// # Errors
    /// [`ExchangeError::Instead`].
    pub fn more(&self) -> Result<Option<Passed>, ExchangeError> {
        let Some(edits) = self.edits else { return Ok(None) };
        Ok(edits.more_down()?.map(|data| Passed(ReplyPiece::Data(data))))
    }

    /// What edits held back of a body that is whole, if anything. Asked once, before its end.
    ///
    /// # Errors
    /// [`ExchangeError::Instead`].
    pub fn held(&self) -> Result<Option<Passed>, ExchangeError> {
        let held = self.edits.map_or(Ok(None), Edits::end_down)?;
        Ok(held.map(|held| Passed(ReplyPiece::Data(held))))
    }

    /// Lets the client's side go on before: what it has at hand is there afterwards.
    pub async fn pass(&self) {
        self.reply.pass().await;
    }

    /// The end.
    ///
    /// # Errors
    /// [`ExchangeError::Instead`].
    pub fn end(&self, trailers: Option<Trailers>) -> Result<Passed, ExchangeError> {
        let trailers = match (self.edits, trailers) {
            (Some(edits), Some(trailers)) => Some(edits.trailers(trailers)?),
            (_, trailers) => trailers,
        };
        Ok(Passed(ReplyPiece::End(trailers)))
    }

    /// As [`Reply::send`](crate::http::Reply::send).
    pub fn send(&self, piece: Passed) -> impl Future<Output = Result<(), BodyError>> + use<'a> {
        self.reply.send(piece.0)
    }

    /// As [`Reply::taken`](crate::http::Reply::taken).
    pub fn taken(&self) -> impl Future<Output = Result<(), BodyError>> + use<'a> {
        self.reply.taken()
    }

    /// As [`Reply::cancelled`](crate::http::Reply::cancelled).
    pub fn cancelled(&self) -> impl Future<Output = ()> + use<'a> {
        self.reply.cancelled()
    }
}
