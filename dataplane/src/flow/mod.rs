//! The path of one request, top to bottom. This module alone knows the order of the stages.

pub mod bell;
pub mod open;
pub mod tie;
pub mod exchange;
pub mod edits;
mod lookup;
mod search;
mod redaction;
mod multiplexed;
mod opaque;
mod fence;
pub mod outbound;
mod tunnel;
pub mod guest;
pub mod core;
pub mod hooked;
pub mod resident;
pub mod pace;
pub mod arrived;
pub mod request;
pub mod ask;
mod tell;
pub mod send;
mod requests;
mod streams;
pub mod connection;

use arrived::Arrived;
use ask::settle;
use request::{Step, prepare};
use send::{Stale, send};
use tell::{answer, refuse};

use crate::{
    audit::Record,
    http::{
        Answer, Exchange, OwnAnswer,
        h1::{Block, Slice},
    },
    tls::Chunk,
};

/// Takes one request along its path: it is judged, changed and given its credentials ([`prepare`]), then sent, answered
/// here or refused. What is learnt on the way goes into the record. Nothing here knows the connection, so several may
/// run at once for one.
async fn run(
    arrived: &Arrived<'_>,
    exchange: Exchange<Slice<Chunk>, Answer<Chunk>, Block<Chunk>>,
    record: &mut Record,
) {
    let Exchange { head, mut body, reply, leg } = exchange;
    let mut step = prepare(arrived, &head, &[], record);
    let (mut received, mut opened) = (Some(head), None);
    loop {
        match step {
            Ok(waits @ (Step::Ask(_) | Step::Pace(_) | Step::Again)) => {
                let kept = received.take().map(|head| head.to_owned());
                let kept = kept.expect("`settle` ends only when there is nothing more to wait for");
                // Rare and large: the future of every other request does not hold it.
                step = Box::pin(settle(arrived, kept, waits, (&reply, &leg), record)).await;
                continue;
            }
            Ok(Step::Send(mut outbound)) => {
                let (ends, from) = ((&mut body, &reply, &leg), (&mut received, opened.take()));
                if let Some(stale) = send(arrived, ends, &mut outbound, from, record).await {
                    let Stale { head, opened: found } = *stale;
                    step = Box::pin(settle(arrived, head, Step::Again, (&reply, &leg), record)).await;
                    opened = Some(found);
                    continue;
                }
                if let Some(edits) = outbound.edits {
                    edits.report(record);
                }
                if record.verdict != "refused" {
                    // What the client was told, whatever became of the answer.
                    record.status = reply.status().or(record.status);
                }
            }
            Ok(Step::Answer { status, fields, body }) => {
                record.verdict = "answered";
                record.status = Some(status);
                let head = OwnAnswer { status, reason: "".into(), fields, length: body.len() };
                // Where the client is gone, what serves it says so.
                let _told = answer(&reply, head, body).await;
            }
            Err(refusal) => refuse(&reply, &refusal, record).await,
        }
        return;
    }
}
