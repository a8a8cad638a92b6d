//! What a piece of a body becomes when several edits see it, one behind the other.

use super::{BodyEdit, Edits, Passing};
use crate::{flow::exchange::ExchangeError, http::h1::Slice, ring::sleep, tls::Chunk};

impl Edits {
    /// Waits until a further piece may come. It ends with the exchange: meanwhile nothing is read, and what ends the
    /// exchange is noticed as ever.
    pub(super) async fn rest(&self) {
        let debt = || {
            let up = self.up.borrow().iter().find_map(|edit| edit.debt());
            up.or_else(|| self.down.borrow().iter().find_map(|(edit, _)| edit.debt()))
        };
        // Others wait too, so it is looked at again. Rare and large: the future of every other request does not hold it.
        while let Some(debt) = debt() {
            Box::pin(sleep(debt)).await;
        }
    }
}

/// What a piece becomes, if anything.
pub(super) fn pass<'e>(
    data: Slice<Chunk>,
    edits: impl Iterator<Item = &'e mut dyn BodyEdit>,
) -> Result<Option<Slice<Chunk>>, ExchangeError> {
    let mut changed: Option<Vec<u8>> = None;
    for edit in edits {
        let bytes: &[u8] = changed.as_deref().unwrap_or(&data);
        if bytes.is_empty() {
            break;
        }
        let mut out = Vec::new();
        if edit.piece(bytes, &mut out)? == Passing::Changed {
            changed = Some(out);
        }
    }
    Ok(match changed {
        None => Some(data),
        Some(bytes) if bytes.is_empty() => None,
        Some(bytes) => Some(bytes.into()),
    })
}

/// The next part of what the last piece became, if there is more of it. Who comes last is asked first: what it has not
/// given yet came before what others have not.
pub(super) fn more(mut edits: Vec<&mut dyn BodyEdit>) -> Result<Option<Slice<Chunk>>, ExchangeError> {
    let mut at = edits.len();
    while at > 0 {
        let mut out = Vec::new();
        edits[at - 1].more(&mut out)?;
        if out.is_empty() {
            at -= 1;
            continue;
        }
        let behind = edits[at..].iter_mut().map(|edit| &mut **edit as &mut dyn BodyEdit);
        if let Some(part) = pass(out.into(), behind)? {
            return Ok(Some(part));
        }
        at = edits.len();
    }
    Ok(None)
}

/// What was held back, if anything. What one edit still gives, the next one sees before its own end.
pub(super) fn finish<'e>(
    edits: impl Iterator<Item = &'e mut dyn BodyEdit>,
) -> Result<Option<Slice<Chunk>>, ExchangeError> {
    let mut held: Vec<u8> = Vec::new();
    for edit in edits {
        let mut out = Vec::new();
        if !held.is_empty() && edit.piece(&held, &mut out)? == Passing::AsItIs {
            out = held;
        }
        loop {
            let mut part = Vec::new();
            edit.more(&mut part)?;
            if part.is_empty() {
                break;
            }
            out.append(&mut part);
        }
        edit.end(&mut out)?;
        held = out;
    }
    Ok((!held.is_empty()).then(|| held.into()))
}
