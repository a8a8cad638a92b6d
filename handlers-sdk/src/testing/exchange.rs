//! Whole exchanges: the request's body, the answer and its body, as the gateway would show them.

use handlers_sdk_abi::code::{BodyUse, Level};
use handlers_sdk_abi::limits::BODY_CHUNK_BYTES_MAX;
use handlers_sdk_abi::{Chunk, EventKind};

use super::{Host, Ran, Request, Verdict};
use crate::runtime::{self, Handler};

/// An answer of the upstream.
#[derive(Clone, Debug)]
pub struct Response {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<Vec<u8>>,
}

impl Response {
    /// An answer with a status.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new() }
    }

    /// Adds a header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a piece of its body.
    pub fn piece(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body.push(bytes.as_ref().to_vec());
        self
    }
}

/// What became of an exchange.
#[derive(Clone, Debug)]
pub struct Exchanged {
    /// What the handler made of the request's head.
    pub request: Ran,
    /// The request's body as far as the upstream got it.
    pub sent: Vec<u8>,
    /// How the handler ended: forwarded where the answer passed whole.
    pub verdict: Verdict,
    /// The status that the sandbox was told, where it was the upstream's or the handler's change of it.
    pub status: Option<u16>,
    /// The answer's body as far as the sandbox got it.
    pub body: Vec<u8>,
    /// All of the handler's log.
    pub logs: Vec<(Level, String)>,
    answer: Option<Ran>,
}

impl Exchanged {
    /// The first value of a header of the answer, as the sandbox was told it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.as_ref()?.header(name)
    }

    /// Whether the sandbox has a part of an answer that was cut.
    pub fn is_cut(&self) -> bool {
        self.status.is_some() && self.verdict != Verdict::Forwarded
    }

    /// Takes over what an event came to, and whether the exchange goes on.
    fn goes_on(&mut self, ran: &mut Ran) -> bool {
        self.logs.append(&mut ran.logs);
        self.verdict = ran.verdict.clone();
        self.verdict == Verdict::Forwarded
    }
}

impl Host {
    /// Runs a handler on a request and on the answer to it. The request's body is over before the answer comes.
    ///
    /// # Panics
    /// Where the handler panics, its parameters do not fit, or the gateway would refuse what it answered.
    #[track_caller]
    pub fn exchange<H: Handler>(&self, request: &Request, answer: &Response) -> Exchanged {
        match self.try_exchange::<H>(request, answer) {
            Ok(exchanged) => exchanged,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same.
    ///
    /// # Errors
    /// With a sentence, where its parameters do not fit or the gateway would refuse what it answered.
    ///
    /// # Panics
    /// Where the handler panics.
    pub fn try_exchange<H: Handler>(
        &self,
        request: &Request,
        answer: &Response,
    ) -> Result<Exchanged, String> {
        runtime::init::<H>(self.params.as_bytes())?;
        let mut ran = Ran::new(&request.fields);
        self.tell::<H>(&mut ran, EventKind::Request, self.view::<H>(request, None)?)?;
        let mut done = Exchanged {
            request: ran.clone(),
            sent: Vec::new(),
            verdict: Verdict::Forwarded,
            status: None,
            body: Vec::new(),
            logs: Vec::new(),
            answer: None,
        };
        if !done.goes_on(&mut ran) {
            return Ok(done);
        }
        // A request without a body has no pieces.
        let wants = ran.wants.filter(|_| !request.body.is_empty());
        needs::<H>(ran.wants.is_some(), "requestBody")?;
        let (sent, over) = self.pass::<H>(&mut done, (EventKind::RequestChunk, wants), &request.body)?;
        done.sent = sent;
        if over {
            return Ok(done);
        }
        let mut ran = Ran::new(&answer.fields);
        if H::MANIFEST.contains("\"response") {
            self.tell::<H>(&mut ran, EventKind::Response, self.view::<H>(request, Some(answer))?)?;
            if !done.goes_on(&mut ran) {
                return Ok(done);
            }
        }
        needs::<H>(ran.wants.is_some(), "responseBody")?;
        done.status = Some(ran.status.unwrap_or(answer.status));
        let wants = ran.wants;
        done.answer = Some(ran);
        (done.body, _) = self.pass::<H>(&mut done, (EventKind::ResponseChunk, wants), &answer.body)?;
        Ok(done)
    }

    /// Passes a body on: what went on of it, and whether the handler ended the exchange.
    fn pass<H: Handler>(
        &self,
        done: &mut Exchanged,
        (kind, wants): (EventKind, Option<BodyUse>),
        body: &[Vec<u8>],
    ) -> Result<(Vec<u8>, bool), String> {
        let mut passed = Vec::new();
        let Some(wants) = wants else { return Ok((body.concat(), false)) };
        let pieces = body.iter().flat_map(|piece| piece.chunks(BODY_CHUNK_BYTES_MAX));
        let chunks = pieces.map(|bytes| Chunk { last: false, bytes });
        for chunk in chunks.chain([Chunk { last: true, bytes: &[] }]) {
            let (mut ran, mut payload) = (Ran::new(&[]), Vec::new());
            chunk.encode(&mut payload);
            self.tell::<H>(&mut ran, kind, payload)?;
            if !done.goes_on(&mut ran) {
                return Ok((passed, true));
            }
            match wants {
                BodyUse::Look => passed.extend_from_slice(chunk.bytes),
                BodyUse::Change => passed.append(&mut ran.given),
            }
        }
        Ok((passed, false))
    }
}

fn needs<H: Handler>(asked: bool, hook: &str) -> Result<(), String> {
    match asked && !H::MANIFEST.contains(&format!("\"{hook}\"")) {
        true => Err(format!("the handler asked for a body without the hook {hook:?} in its manifest")),
        false => Ok(()),
    }
}
