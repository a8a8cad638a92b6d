//! What is asked of an upstream so that its answer can be searched, and which answers cannot be.

use super::{CodingError, Decoding, Found, Searcher, codings};
use crate::http::{Field, FieldName, FieldValue, Framing, OutgoingRequest};

/// Why an answer, or a request, is refused: it could not be searched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another protocol is asked for.
    #[error("the policy wants the answer searched for credentials, and another protocol cannot be")]
    Protocol,
    /// The answer is a part, which nobody asked for.
    #[error("the answer is a part of something, in which a credential may be cut in two")]
    Part,
    /// A coding that cannot be undone.
    #[error("the answer is coded with `{0}`, which cannot be searched for credentials")]
    Coding(String),
    /// Too many of them.
    #[error("the answer is coded too often to be searched for credentials")]
    Codings,
    /// The gateway undoes too many codings with large windows now.
    #[error("too many coded answers are searched for credentials at once")]
    Busy,
}

/// Fields by which a client asks for parts, or for codings of what lies inside a body. A server may ignore each of them
/// (RFC 9110 §14.2, RFC 3229 §10.5.3): without them it gives the whole, uncoded.
const PARTS: [&str; 5] = ["range", "if-range", "a-im", "grpc-accept-encoding", "connect-accept-encoding"];

/// Changes a request so that its answer can be searched.
///
/// # Errors
/// [`Refused::Protocol`] where it asks for another protocol.
pub fn prepare(request: &mut OutgoingRequest<'_>) -> Result<(), Refused> {
    if request.framing() == Framing::Tunnel {
        return Err(Refused::Protocol);
    }
    for name in PARTS {
        request.remove(&FieldName::own(name));
    }
    const ACCEPTED: &str = "accept-encoding";
    let accepted: Vec<&[u8]> =
        request.fields().filter(|field| field.is(ACCEPTED)).map(|field| field.value).collect();
    if !accepted.is_empty() {
        let accepted = String::from_utf8_lossy(&accepted.join(&b","[..])).into_owned();
        request.set(FieldName::own("Accept-Encoding"), FieldValue::own(&codings::narrowed(&accepted)));
    }
    Ok(())
}

/// An answer while it is searched.
pub struct Search {
    searcher: Searcher,
    decoding: Option<Decoding>,
}

impl Search {
    /// With this searcher.
    pub fn new(searcher: Searcher) -> Self {
        Self { searcher, decoding: None }
    }

    /// Looks at status and fields of the answer. Gives whether its body will be decoded: the coding and all that says
    /// how long the coded body is must go from the head then.
    ///
    /// # Errors
    /// [`Refused`], where the body could not be searched.
    pub fn begin<'a>(
        &mut self,
        status: u16,
        fields: impl Iterator<Item = Field<'a>>,
    ) -> Result<bool, Refused> {
        // RFC 9110 §15.3.7, RFC 3229 §10.4.1.
        if matches!(status, 206 | 226) {
            return Err(Refused::Part);
        }
        let codings = codings::of(fields)?;
        if codings.is_empty() {
            return Ok(false);
        }
        self.decoding = Some(Decoding::new(&codings).map_err(|_| Refused::Busy)?);
        Ok(true)
    }

    /// The value in which credentials are masked, where it holds any.
    pub fn value(&mut self, value: &[u8]) -> Option<Vec<u8>> {
        let before = self.searcher.count();
        let mut masked = value.to_vec();
        self.searcher.whole(&mut masked);
        (self.searcher.count() > before).then_some(masked)
    }

    /// Takes the next piece of the body, and appends what goes on in its place. Gives false where it goes on as it is;
    /// then nothing was appended. Behind it, [`Search::more`].
    ///
    /// # Errors
    /// [`CodingError`].
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<bool, CodingError> {
        if let Some(decoding) = &mut self.decoding {
            decoding.feed(piece);
            self.more(out)?;
            return Ok(true);
        }
        Ok(!self.search(piece, out))
    }

    /// Appends more of what the last piece became, and nothing where that was all.
    ///
    /// # Errors
    /// [`CodingError`].
    pub fn more(&mut self, out: &mut Vec<u8>) -> Result<(), CodingError> {
        while out.is_empty() {
            let Some(decoding) = &mut self.decoding else { return Ok(()) };
            let Some(said) = decoding.more()? else { return Ok(()) };
            if self.search(&said, out) {
                out.extend_from_slice(&said);
            }
        }
        Ok(())
    }

    /// Appends what was held back. The body is whole.
    ///
    /// # Errors
    /// [`CodingError`], where it is not by its coding.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), CodingError> {
        if let Some(decoding) = &self.decoding {
            decoding.end()?;
        }
        out.append(&mut self.searcher.end());
        Ok(())
    }

    /// Credentials that were masked.
    pub fn count(&self) -> u64 {
        self.searcher.count()
    }

    /// Whether the text goes on as it is; else what goes on was appended.
    fn search(&mut self, text: &[u8], out: &mut Vec<u8>) -> bool {
        match self.searcher.next(text) {
            Found::Nothing(until) if until == text.len() => return true,
            Found::Nothing(until) => out.extend_from_slice(&text[..until]),
            Found::Instead(mut masked) => out.append(&mut masked),
        }
        false
    }
}
