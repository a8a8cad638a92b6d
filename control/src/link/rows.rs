//! Rows of the tables as the operations that a plane is sent.

use control_wire::limits::ENVELOPE_INLINE_BYTES_MAX;
use control_wire::row::{Envelope, HandlerRow, Op, SandboxRow, SecretRow, TemplateRow};
use data_encoding::{BASE64, HEXLOWER};

use super::{Core, LinkError};
use crate::tables::{Key, Kind, Tables};

pub(super) fn is_upsert(op: &Op) -> bool {
    matches!(op, Op::UpsertTemplate(_) | Op::UpsertSandbox(_) | Op::UpsertHandler(_) | Op::UpsertSecret(_))
}

pub(super) fn fault(what: &Key, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LinkError {
    LinkError::Row { what: format!("{} {}", what.kind.name(), what.name), source: source.into() }
}

/// An envelope that is too large for its operation.
pub(super) async fn read_artefact(core: &Core, hash: &str) -> Result<Vec<u8>, LinkError> {
    tokio::fs::read(core.artefacts.join(hash))
        .await
        .map_err(|source| LinkError::Row { what: format!("envelope {hash}"), source: source.into() })
}

/// The operation that brings one row to what it is.
pub(super) fn op(core: &Core, tables: &Tables, key: &Key) -> Result<Op, LinkError> {
    let name = key.name.clone();
    Ok(match key.kind {
        Kind::Template => match tables.templates.get(&name) {
            None => Op::RemoveTemplate(name),
            Some(entry) => {
                let document = serde_json::to_string(&*entry.value).map_err(|source| fault(key, source))?;
                Op::UpsertTemplate(TemplateRow { name, document })
            }
        },
        Kind::Sandbox => match tables.sandboxes.get(&name) {
            None => Op::RemoveSandbox(name),
            Some(entry) => Op::UpsertSandbox(SandboxRow {
                id: name,
                template: entry.value.template.clone(),
                overrides: serde_json::to_string(&entry.value.overrides)
                    .map_err(|source| fault(key, source))?,
                labels: entry.value.labels.clone(),
                salt: entry.value.salt,
                ca_certificate: entry.value.ca_certificate.clone(),
                answers: entry.value.answers.clone(),
            }),
        },
        Kind::Handler => match tables.handlers.get(&name) {
            None => Op::RemoveHandler(name),
            Some(entry) => {
                let decoded =
                    HEXLOWER.decode(entry.value.hash.as_bytes()).map_err(|source| fault(key, source))?;
                let hash = decoded.try_into().map_err(|_| fault(key, "its hash has another length"))?;
                let bytes = entry.value.bytes;
                let envelope = if bytes <= ENVELOPE_INLINE_BYTES_MAX {
                    let small = std::fs::read(core.artefacts.join(&entry.value.hash));
                    Envelope::Here(small.map_err(|source| fault(key, source))?.into())
                } else {
                    Envelope::Apart { bytes }
                };
                Op::UpsertHandler(HandlerRow { name, version: entry.value.version, hash, envelope })
            }
        },
        Kind::Secret => match tables.secrets.get(&name) {
            None => Op::RemoveSecret(name),
            Some(entry) => {
                let secret = &entry.value;
                let sealed = BASE64.decode(secret.sealed.as_bytes()).map_err(|source| fault(key, source))?;
                let value =
                    core.sealer.open(&name, secret.version, &sealed).map_err(|source| fault(key, source))?;
                let (version, hosts) = (secret.version, secret.hosts.clone());
                Op::UpsertSecret(SecretRow {
                    name,
                    version,
                    value,
                    hosts,
                    allow_plaintext: secret.allow_plaintext,
                })
            }
        },
    })
}
