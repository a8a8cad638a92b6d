//! The messages between control and a plane: tag, length, body.
//!
//! A body may grow at its end: what a reader does not know there is skipped. A tag that a reader does not know closes
//! the link, unless the tag has [`IGNORABLE`] set. A plane opens one bidirectional stream for everything here; each
//! handler too large for its operation comes on a unidirectional stream that begins with [`ToPlane::Artefact`]. These
//! streams are opened after the message that names the handlers, in the order in which it names them, and before any
//! later message: the reader always knows which one is next and never holds one that it did not ask for.
//!
//! Leases: the plane sends [`ToControl::Renew`] and notes when. If [`ToPlane::Renewed`] with that number comes back,
//! the lease runs from the noted moment, so nothing that was delayed on the way can lengthen it.

use zeroize::Zeroizing;

pub use crate::codec::{FRAME_HEADER_BYTES, frame_header};
use crate::codec::{Reader, WireError, Writer};
use crate::limits::{
    CERTIFICATE_BYTES_MAX, ENVELOPE_BYTES_MAX, FEATURES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX,
};
use crate::pool::{Grant, MasterId, Recipient, SealRequest, SealedMaster};
use crate::question::{Answer, Question};
use crate::row::{Op, read_ops, write_ops};

/// The protocol that TLS negotiates for the link.
pub const ALPN: &[u8] = b"outgate-link/1";

/// The name in control's server certificate. Planes verify it whatever address they dialled: what they trust is
/// control's own authority, not DNS.
pub const CONTROL_NAME: &str = "control.outgate.internal";

/// Set in the tag of a message that a reader may skip when it does not know it.
pub const IGNORABLE: u16 = 0x8000;

/// Bytes of the secret in a join token.
pub const JOIN_SECRET_BYTES: usize = 32;

/// Code with which a side closes the link when it has nothing more to say.
pub const CLOSE_DONE: u32 = 0;

/// Code with which a side closes the link over a fault; the reason says which.
pub const CLOSE_FAULT: u32 = 1;

/// Code with which control closes the link of a plane that it does not know, or no longer. The plane enforces nothing
/// of what it holds any more: it refuses everything until it has joined again.
pub const CLOSE_REMOVED: u32 = 2;

/// Identity of a store. Revisions of different stores are not comparable.
pub type StoreId = [u8; 16];

/// What a plane says.
#[derive(Debug, PartialEq)]
pub enum ToControl {
    /// First message of a plane that has no certificate yet; the only one that control takes from it.
    Join {
        /// Secret half of the one-time token.
        secret: [u8; JOIN_SECRET_BYTES],
        /// The plane's name, and the key to which the pool's master may be sealed.
        recipient: Recipient,
        /// Signing request in DER form, PKCS #10.
        csr: Vec<u8>,
        /// The master that the plane holds, or has made in case that the pool has none.
        master: MasterId,
    },
    /// First message of a plane that has joined.
    Hello {
        /// The plane's name; must be the one in its certificate.
        plane: String,
        /// The store that `revision` belongs to; zeroes when the plane holds nothing.
        store: StoreId,
        /// Last revision that the plane has applied; 0 when it holds nothing.
        revision: u64,
        /// Target triple, for which handlers are compiled.
        triple: String,
        /// CPU features that compiled code may use.
        cpu_features: Vec<String>,
        /// Version of Wasmer; artefacts of another are refused.
        wasmer: String,
    },
    /// Every shard enforces this revision, on open connections too.
    Ack {
        /// The revision.
        revision: u64,
    },
    /// The plane made the certificate of a sandbox's authority.
    CaCertificate {
        /// The sandbox.
        sandbox: String,
        /// Certificate in DER form.
        der: Vec<u8>,
    },
    /// A handler version did not pass the plane's checks; what ran before runs on.
    HandlerRejected {
        /// Its name.
        name: String,
        /// Its version.
        version: u64,
        /// Why.
        reason: String,
    },
    /// Asks for the lease to be renewed from the moment of sending.
    Renew {
        /// Counts up on each connection.
        number: u64,
    },
    /// Answer to [`ToPlane::SealMaster`].
    MasterSealed {
        /// The number that was asked with.
        request: u64,
        /// The master, for the recipient.
        sealed: SealedMaster,
    },
    /// A request waits for a person.
    Question(Question),
    /// Nothing waits any more for the answer to the question of this number.
    Withdrawn(u64),
}

/// What control says.
#[derive(Debug, PartialEq)]
pub enum ToPlane {
    /// Answer to [`ToControl::Join`].
    Joined {
        /// The plane's client certificate in DER form.
        certificate: Vec<u8>,
        /// Control's authority in DER form.
        authority: Vec<u8>,
        /// Public half of the key that signs handlers, Ed25519.
        handler_key: [u8; 32],
        /// The pool's master.
        master: Grant,
    },
    /// The join was refused.
    JoinRefused {
        /// Why, for the operator.
        reason: String,
    },
    /// Answer to [`ToControl::Hello`].
    Welcome {
        /// The store whose revisions follow.
        store: StoreId,
        /// The newest revision.
        revision: u64,
        /// Milliseconds between two renewals of the lease.
        renew_ms: u64,
    },
    /// All tables follow; what the plane holds is replaced when [`ToPlane::SnapshotEnd`] has come.
    SnapshotBegin {
        /// Their revision.
        revision: u64,
    },
    /// Some of the rows.
    SnapshotRows {
        /// Upserts only.
        ops: Vec<Op>,
    },
    /// All rows have been sent.
    SnapshotEnd {
        /// Their revision.
        revision: u64,
        /// Number of rows, as a check.
        rows: u64,
    },
    /// Changes that do not fit the [`ToPlane::Delta`] which follows, and take effect with it.
    DeltaRows {
        /// The changes.
        ops: Vec<Op>,
    },
    /// One revision, or several at once.
    Delta {
        /// The revision.
        revision: u64,
        /// Its changes, or the last of them.
        ops: Vec<Op>,
    },
    /// Answer to [`ToControl::Renew`].
    Renewed {
        /// The number that was asked with.
        number: u64,
    },
    /// First message of a unidirectional stream; the envelope's bytes follow until its end.
    Artefact {
        /// SHA-256 of the bytes.
        hash: [u8; 32],
        /// Their number.
        bytes: usize,
    },
    /// A plane joins and needs the pool's master. One that holds another does not answer.
    SealMaster(SealRequest),
    /// What a person says to a question of this plane. One that it no longer asks is skipped.
    Answer(Answer),
}

const JOIN: u16 = 1;
const HELLO: u16 = 2;
const ACK: u16 = 3;
const CA_CERTIFICATE: u16 = 4;
const HANDLER_REJECTED: u16 = 5 | IGNORABLE;
const RENEW: u16 = 6;
const MASTER_SEALED: u16 = 7;
// A control that does not know them answers none: the requests wait in vain and are denied.
const QUESTION: u16 = 8 | IGNORABLE;
const WITHDRAWN: u16 = 9 | IGNORABLE;

const JOINED: u16 = 64;
const JOIN_REFUSED: u16 = 65;
const WELCOME: u16 = 66;
const SNAPSHOT_BEGIN: u16 = 67;
const SNAPSHOT_ROWS: u16 = 68;
const SNAPSHOT_END: u16 = 69;
const DELTA: u16 = 70;
const RENEWED: u16 = 71;
const ARTEFACT: u16 = 72;
const DELTA_ROWS: u16 = 73;
const SEAL_MASTER: u16 = 74;
const ANSWER: u16 = 75;

fn unknown<T>(tag: u16) -> Result<Option<T>, WireError> {
    if tag & IGNORABLE == 0 { Err(WireError::UnknownTag { tag }) } else { Ok(None) }
}

impl ToControl {
    /// The whole frame.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::new();
        match self {
            Self::Join { secret, recipient, csr, master } => out.frame(JOIN, |out| {
                out.raw(secret);
                recipient.write(out);
                out.bytes(csr);
                out.raw(&master.0);
            }),
            Self::Hello { plane, store, revision, triple, cpu_features, wasmer } => out.frame(HELLO, |out| {
                out.text(plane);
                out.raw(store);
                out.u64(*revision);
                out.text(triple);
                out.length(cpu_features.len());
                for feature in cpu_features {
                    out.text(feature);
                }
                out.text(wasmer);
            }),
            Self::Ack { revision } => out.frame(ACK, |out| out.u64(*revision)),
            Self::CaCertificate { sandbox, der } => out.frame(CA_CERTIFICATE, |out| {
                out.text(sandbox);
                out.bytes(der);
            }),
            Self::HandlerRejected { name, version, reason } => out.frame(HANDLER_REJECTED, |out| {
                out.text(name);
                out.u64(*version);
                out.text(&reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]);
            }),
            Self::Renew { number } => out.frame(RENEW, |out| out.u64(*number)),
            Self::MasterSealed { request, sealed } => out.frame(MASTER_SEALED, |out| {
                out.u64(*request);
                sealed.write(out);
            }),
            Self::Question(question) => out.frame(QUESTION, |out| question.write(out)),
            Self::Withdrawn(id) => out.frame(WITHDRAWN, |out| out.u64(*id)),
        }
        out.finish()
    }

    /// Reads a body. `None`: unknown, and marked so that it may be skipped.
    ///
    /// # Errors
    /// Any [`WireError`]; the link is to be closed.
    pub fn decode(tag: u16, body: &[u8]) -> Result<Option<Self>, WireError> {
        let body = &mut Reader::new(body);
        Ok(Some(match tag {
            JOIN => Self::Join {
                secret: body.array("join secret")?,
                recipient: Recipient::read(body)?,
                csr: body.bytes(CERTIFICATE_BYTES_MAX, "signing request")?.to_vec(),
                master: MasterId(body.array("id of the master")?),
            },
            HELLO => read_hello(body)?,
            ACK => Self::Ack { revision: body.u64("revision")? },
            CA_CERTIFICATE => Self::CaCertificate {
                sandbox: body.text(NAME_BYTES_MAX, "sandbox")?,
                der: body.bytes(CERTIFICATE_BYTES_MAX, "authority certificate")?.to_vec(),
            },
            HANDLER_REJECTED => Self::HandlerRejected {
                name: body.text(NAME_BYTES_MAX, "handler name")?,
                version: body.u64("handler version")?,
                reason: body.text(REASON_BYTES_MAX, "reason")?,
            },
            RENEW => Self::Renew { number: body.u64("renewal")? },
            MASTER_SEALED => {
                Self::MasterSealed { request: body.u64("request")?, sealed: SealedMaster::read(body)? }
            }
            QUESTION => Self::Question(Question::read(body)?),
            WITHDRAWN => Self::Withdrawn(body.u64("question")?),
            tag => return unknown(tag),
        }))
    }
}

fn read_hello(body: &mut Reader<'_>) -> Result<ToControl, WireError> {
    let plane = body.text(NAME_BYTES_MAX, "plane")?;
    let store = body.array("store")?;
    let revision = body.u64("revision")?;
    let triple = body.text(NAME_BYTES_MAX, "triple")?;
    let mut cpu_features = Vec::new();
    for _ in 0..body.length(FEATURES_MAX, "CPU features")? {
        cpu_features.push(body.text(NAME_BYTES_MAX, "CPU feature")?);
    }
    let wasmer = body.text(NAME_BYTES_MAX, "version of Wasmer")?;
    Ok(ToControl::Hello { plane, store, revision, triple, cpu_features, wasmer })
}

impl ToPlane {
    /// The whole frame. Wiped when dropped, because operations carry secrets.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::new();
        match self {
            Self::Joined { certificate, authority, handler_key, master } => out.frame(JOINED, |out| {
                out.bytes(certificate);
                out.bytes(authority);
                out.raw(handler_key);
                master.write(out);
            }),
            Self::JoinRefused { reason } => out.frame(JOIN_REFUSED, |out| {
                out.text(&reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]);
            }),
            Self::Welcome { store, revision, renew_ms } => out.frame(WELCOME, |out| {
                out.raw(store);
                out.u64(*revision);
                out.u64(*renew_ms);
            }),
            Self::SnapshotBegin { revision } => out.frame(SNAPSHOT_BEGIN, |out| out.u64(*revision)),
            Self::SnapshotRows { ops } => out.frame(SNAPSHOT_ROWS, |out| write_ops(out, ops)),
            Self::SnapshotEnd { revision, rows } => out.frame(SNAPSHOT_END, |out| {
                out.u64(*revision);
                out.u64(*rows);
            }),
            Self::DeltaRows { ops } => out.frame(DELTA_ROWS, |out| write_ops(out, ops)),
            Self::Delta { revision, ops } => out.frame(DELTA, |out| {
                out.u64(*revision);
                write_ops(out, ops);
            }),
            Self::Renewed { number } => out.frame(RENEWED, |out| out.u64(*number)),
            Self::Artefact { hash, bytes } => out.frame(ARTEFACT, |out| {
                out.raw(hash);
                out.length(*bytes);
            }),
            Self::SealMaster(request) => out.frame(SEAL_MASTER, |out| request.write(out)),
            Self::Answer(answer) => out.frame(ANSWER, |out| answer.write(out)),
        }
        out.finish()
    }

    /// Reads a body. `None`: unknown, and marked so that it may be skipped.
    ///
    /// # Errors
    /// Any [`WireError`]; the link is to be closed.
    pub fn decode(tag: u16, body: &[u8]) -> Result<Option<Self>, WireError> {
        let body = &mut Reader::new(body);
        Ok(Some(match tag {
            JOINED => Self::Joined {
                certificate: body.bytes(CERTIFICATE_BYTES_MAX, "certificate")?.to_vec(),
                authority: body.bytes(CERTIFICATE_BYTES_MAX, "authority")?.to_vec(),
                handler_key: body.array("handler key")?,
                master: Grant::read(body)?,
            },
            JOIN_REFUSED => Self::JoinRefused { reason: body.text(REASON_BYTES_MAX, "reason")? },
            WELCOME => Self::Welcome {
                store: body.array("store")?,
                revision: body.u64("revision")?,
                renew_ms: body.u64("renewal interval")?,
            },
            SNAPSHOT_BEGIN => Self::SnapshotBegin { revision: body.u64("revision")? },
            SNAPSHOT_ROWS => Self::SnapshotRows { ops: read_ops(body)? },
            SNAPSHOT_END => Self::SnapshotEnd { revision: body.u64("revision")?, rows: body.u64("rows")? },
            DELTA_ROWS => Self::DeltaRows { ops: read_ops(body)? },
            DELTA => Self::Delta { revision: body.u64("revision")?, ops: read_ops(body)? },
            RENEWED => Self::Renewed { number: body.u64("renewal")? },
            ARTEFACT => Self::Artefact {
                hash: body.array("artefact hash")?,
                bytes: body.length(ENVELOPE_BYTES_MAX, "artefact")?,
            },
            SEAL_MASTER => Self::SealMaster(SealRequest::read(body)?),
            ANSWER => Self::Answer(Answer::read(body)?),
            tag => return unknown(tag),
        }))
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
