//! The rows that control keeps and planes hold, and the operations that change them.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::codec::{Reader, WireError, Writer};
use crate::limits::{
    CERTIFICATE_BYTES_MAX, DOCUMENT_BYTES_MAX, ENVELOPE_BYTES_MAX, ENVELOPE_INLINE_BYTES_MAX,
    FRAME_BYTES_MAX, LABELS_MAX, NAME_BYTES_MAX, OPS_MAX, SECRET_BYTES_MAX, SECRET_HOSTS_MAX,
};
use crate::policy::Labels;
use crate::question::{KeptAnswer, read_kept, write_kept};

/// Bytes of a sandbox's salt.
pub const SALT_BYTES: usize = 32;

/// A policy that many sandboxes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRow {
    /// Its name.
    pub name: String,
    /// [`crate::policy::PolicyDocument`] as JSON.
    pub document: String,
}

/// One sandbox of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRow {
    /// Its identifier.
    pub id: String,
    /// Name of its template.
    pub template: String,
    /// [`crate::policy::PolicyDocument`] as JSON; a field that it sets replaces the template's.
    pub overrides: String,
    /// Labels by which selectors find it.
    pub labels: Labels,
    /// What its certificate authority's key is derived from, together with the pool's master.
    pub salt: [u8; SALT_BYTES],
    /// Its authority's certificate in DER form, once a plane has made it.
    pub ca_certificate: Option<Vec<u8>>,
    /// What people have answered for it, and said to keep.
    pub answers: Vec<KeptAnswer>,
}

/// One version of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerRow {
    /// Name under which it was published.
    pub name: String,
    /// Counts up with each publish of that name.
    pub version: u64,
    /// SHA-256 of the envelope.
    pub hash: [u8; 32],
    /// The signed, compiled module.
    pub envelope: Envelope,
}

/// The bytes of a handler, or where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// Here.
    Here(Arc<[u8]>),
    /// On a stream of their own, found by the row's hash. A plane's link replaces this before anything is applied.
    Apart {
        /// Their number.
        bytes: usize,
    },
}

/// A value that is wiped when dropped and that nothing prints, copies or serialises.
pub struct SecretValue(Zeroizing<Box<[u8]>>);

impl SecretValue {
    /// Takes the value. The caller wipes what it was made from.
    pub fn new(value: &[u8]) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. In a plane only `inject` may call this.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretValue {
    /// For tests; not constant in time.
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// One version of a secret.
#[derive(PartialEq)]
pub struct SecretRow {
    /// Its name, by which rules and handlers speak of it.
    pub name: String,
    /// Counts up with each write of that name.
    pub version: u64,
    /// The value.
    pub value: SecretValue,
    /// Host patterns to which it may be sent. Empty: to none.
    pub hosts: Vec<String>,
    /// It may be sent over a connection without verified TLS.
    pub allow_plaintext: bool,
}

impl std::fmt::Debug for SecretRow {
    /// Everything but the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretRow")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// One change of the tables. All changes of a revision take effect together.
#[derive(Debug, PartialEq)]
pub enum Op {
    /// A template is new or replaced.
    UpsertTemplate(TemplateRow),
    /// A template is gone.
    RemoveTemplate(String),
    /// A sandbox is new or replaced.
    UpsertSandbox(SandboxRow),
    /// A sandbox is gone, and with its salt its certificate authority.
    RemoveSandbox(String),
    /// A handler is new or has a new version.
    UpsertHandler(HandlerRow),
    /// A handler is gone.
    RemoveHandler(String),
    /// A secret is new or has a new version.
    UpsertSecret(SecretRow),
    /// A secret is gone.
    RemoveSecret(String),
}

const UPSERT_TEMPLATE: u16 = 1;
const REMOVE_TEMPLATE: u16 = 2;
const UPSERT_SANDBOX: u16 = 3;
const REMOVE_SANDBOX: u16 = 4;
const UPSERT_HANDLER: u16 = 5;
const REMOVE_HANDLER: u16 = 6;
const UPSERT_SECRET: u16 = 7;
const REMOVE_SECRET: u16 = 8;

/// Writes operations one after the other, each as tag, length, body, behind their count.
pub(crate) fn write_ops(out: &mut Writer, ops: &[Op]) {
    out.length(ops.len());
    for op in ops {
        write_op(out, op);
    }
}

/// Reads what [`write_ops`] wrote. An operation that is unknown is refused whatever its tag: to skip a change would
/// enforce a policy that nobody wrote.
pub(crate) fn read_ops(body: &mut Reader<'_>) -> Result<Vec<Op>, WireError> {
    let count = body.length(OPS_MAX, "operations")?;
    let mut ops = Vec::new();
    for _ in 0..count {
        let tag = body.u16("operation tag")?;
        let bytes = body.bytes(FRAME_BYTES_MAX, "operation")?;
        ops.push(read_op(tag, &mut Reader::new(bytes))?);
    }
    Ok(ops)
}

fn write_op(out: &mut Writer, op: &Op) {
    match op {
        Op::UpsertTemplate(row) => out.frame(UPSERT_TEMPLATE, |out| {
            out.text(&row.name);
            out.text(&row.document);
        }),
        Op::RemoveTemplate(name) => out.frame(REMOVE_TEMPLATE, |out| out.text(name)),
        Op::UpsertSandbox(row) => out.frame(UPSERT_SANDBOX, |out| write_sandbox(out, row)),
        Op::RemoveSandbox(id) => out.frame(REMOVE_SANDBOX, |out| out.text(id)),
        Op::UpsertHandler(row) => out.frame(UPSERT_HANDLER, |out| write_handler(out, row)),
        Op::RemoveHandler(name) => out.frame(REMOVE_HANDLER, |out| out.text(name)),
        Op::UpsertSecret(row) => out.frame(UPSERT_SECRET, |out| {
            out.text(&row.name);
            out.u64(row.version);
            out.bytes(row.value.expose());
            out.length(row.hosts.len());
            for host in &row.hosts {
                out.text(host);
            }
            out.byte(row.allow_plaintext.into());
        }),
        Op::RemoveSecret(name) => out.frame(REMOVE_SECRET, |out| out.text(name)),
    }
}

fn write_sandbox(out: &mut Writer, row: &SandboxRow) {
    out.text(&row.id);
    out.text(&row.template);
    out.text(&row.overrides);
    out.length(row.labels.len());
    for (key, value) in &row.labels {
        out.text(key);
        out.text(value);
    }
    out.raw(&row.salt);
    // An authority's certificate is never empty, so an empty one says that there is none.
    out.bytes(row.ca_certificate.as_deref().unwrap_or_default());
    write_kept(out, &row.answers);
}

fn write_handler(out: &mut Writer, row: &HandlerRow) {
    out.text(&row.name);
    out.u64(row.version);
    out.raw(&row.hash);
    match &row.envelope {
        Envelope::Here(bytes) if bytes.len() <= ENVELOPE_INLINE_BYTES_MAX => {
            out.byte(0);
            out.bytes(bytes);
        }
        Envelope::Here(bytes) => {
            out.byte(1);
            out.length(bytes.len());
        }
        Envelope::Apart { bytes } => {
            out.byte(1);
            out.length(*bytes);
        }
    }
}

fn read_op(tag: u16, body: &mut Reader<'_>) -> Result<Op, WireError> {
    Ok(match tag {
        UPSERT_TEMPLATE => Op::UpsertTemplate(TemplateRow {
            name: body.text(NAME_BYTES_MAX, "template name")?,
            document: body.text(DOCUMENT_BYTES_MAX, "template document")?,
        }),
        REMOVE_TEMPLATE => Op::RemoveTemplate(body.text(NAME_BYTES_MAX, "template name")?),
        UPSERT_SANDBOX => Op::UpsertSandbox(read_sandbox(body)?),
        REMOVE_SANDBOX => Op::RemoveSandbox(body.text(NAME_BYTES_MAX, "sandbox")?),
        UPSERT_HANDLER => Op::UpsertHandler(read_handler(body)?),
        REMOVE_HANDLER => Op::RemoveHandler(body.text(NAME_BYTES_MAX, "handler name")?),
        UPSERT_SECRET => Op::UpsertSecret(read_secret(body)?),
        REMOVE_SECRET => Op::RemoveSecret(body.text(NAME_BYTES_MAX, "secret name")?),
        tag => return Err(WireError::UnknownTag { tag }),
    })
}

fn read_sandbox(body: &mut Reader<'_>) -> Result<SandboxRow, WireError> {
    let id = body.text(NAME_BYTES_MAX, "sandbox")?;
    let template = body.text(NAME_BYTES_MAX, "template name")?;
    let overrides = body.text(DOCUMENT_BYTES_MAX, "overrides")?;
    let mut labels = Labels::new();
    for _ in 0..body.length(LABELS_MAX, "labels")? {
        let key = body.text(NAME_BYTES_MAX, "label name")?;
        labels.insert(key, body.text(NAME_BYTES_MAX, "label value")?);
    }
    let salt = body.array("salt")?;
    let certificate = body.bytes(CERTIFICATE_BYTES_MAX, "authority certificate")?;
    let ca_certificate = (!certificate.is_empty()).then(|| certificate.to_vec());
    let answers = read_kept(body)?;
    Ok(SandboxRow { id, template, overrides, labels, salt, ca_certificate, answers })
}

fn read_handler(body: &mut Reader<'_>) -> Result<HandlerRow, WireError> {
    let name = body.text(NAME_BYTES_MAX, "handler name")?;
    let version = body.u64("handler version")?;
    let hash = body.array("handler hash")?;
    let envelope = if body.flag("envelope place")? {
        Envelope::Apart { bytes: body.length(ENVELOPE_BYTES_MAX, "envelope")? }
    } else {
        Envelope::Here(body.bytes(ENVELOPE_INLINE_BYTES_MAX, "envelope")?.into())
    };
    Ok(HandlerRow { name, version, hash, envelope })
}

fn read_secret(body: &mut Reader<'_>) -> Result<SecretRow, WireError> {
    let name = body.text(NAME_BYTES_MAX, "secret name")?;
    let version = body.u64("secret version")?;
    let value = SecretValue::new(body.bytes(SECRET_BYTES_MAX, "secret value")?);
    let mut hosts = Vec::new();
    for _ in 0..body.length(SECRET_HOSTS_MAX, "secret hosts")? {
        hosts.push(body.text(NAME_BYTES_MAX, "secret host")?);
    }
    let allow_plaintext = body.flag("allow plaintext")?;
    Ok(SecretRow { name, version, value, hosts, allow_plaintext })
}
