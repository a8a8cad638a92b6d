//! What a client is told that gets no answer of an upstream's, and what is recorded of it.

use super::exchange::ReplyTo;
use crate::{
    audit::Record,
    http::{Answer, BodyError, OwnAnswer, ReplyPiece},
    respond::Refusal,
};

/// Tells a refusal and records it.
pub(super) async fn refuse(reply: &ReplyTo, refusal: &Refusal, record: &mut Record) {
    note(refusal, record);
    reply.unguard();
    let (head, body) = match reply.is_grpc() {
        true => refusal.grpc_answer(),
        false => refusal.answer_to(record.path.as_deref().unwrap_or_default()),
    };
    // The client may be gone; the record says what it would have been told.
    let _told = answer(reply, head, body).await;
}

/// Writes a refusal into the record.
pub(super) fn note(refusal: &Refusal, record: &mut Record) {
    record.verdict = "refused";
    record.code = Some(refusal.code);
    record.blame = Some(refusal.blame);
    record.status = Some(refusal.status);
    record.rule = refusal.rule.clone().or(record.rule.take());
    record.reason = Some(refusal.reason().to_owned());
}

/// Hands over an answer that is made here.
pub(super) async fn answer(reply: &ReplyTo, head: OwnAnswer, body: Vec<u8>) -> Result<(), BodyError> {
    reply.send(ReplyPiece::Head(Answer::Own(head))).await?;
    if !body.is_empty() {
        reply.send(ReplyPiece::Data(body.into())).await?;
    }
    reply.send(ReplyPiece::End(None)).await
}
