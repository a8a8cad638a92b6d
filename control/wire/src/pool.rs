//! How a pool's master key goes from a plane that holds it to one that joins: sealed to the joining plane's key, so
//! that control carries it and cannot read it.
//!
//! HPKE in its base mode (RFC 9180 §5.1.1), X25519, HKDF-SHA-256, AES-256-GCM. Who reads what control stores, logs or
//! carries learns nothing of the master. Who commands control itself can let a plane of their own join, and no
//! protocol in which control alone says who belongs to the pool could keep them out.

use crate::codec::{Reader, WireError, Writer};
use crate::limits::NAME_BYTES_MAX;

/// What the sealing is for: the `info` of HPKE.
pub const SEAL_INFO: &[u8] = b"outgate pool master, version 1";

/// Bytes of a master key.
pub const MASTER_BYTES: usize = 32;

/// Bytes of an X25519 key and of an encapsulated secret (RFC 9180 §7.1).
pub const POINT_BYTES: usize = 32;

/// Bytes of a sealed master: the key and an AES-GCM tag.
pub const SEALED_MASTER_BYTES: usize = MASTER_BYTES + 16;

/// Which master it is; derived from it one way, so it may be known to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterId(pub [u8; 32]);

/// For whom a master is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Name of the plane that joins.
    pub plane: String,
    /// Its X25519 key, made for this one join.
    pub public_key: [u8; POINT_BYTES],
}

impl Recipient {
    /// What the seal is bound to beside the key, the associated data of HPKE: this master and this plane.
    pub fn binding(&self, master: &MasterId) -> Vec<u8> {
        [&master.0[..], self.plane.as_bytes()].concat()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.text(&self.plane);
        out.raw(&self.public_key);
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { plane: body.text(NAME_BYTES_MAX, "plane")?, public_key: body.array("public key")? })
    }
}

/// Asks a plane to seal the master that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealRequest {
    /// Counts up; the answer carries it.
    pub number: u64,
    /// Which master.
    pub master: MasterId,
    /// For whom.
    pub recipient: Recipient,
}

impl SealRequest {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.number);
        out.raw(&self.master.0);
        self.recipient.write(out);
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        let (number, master) = (body.u64("request")?, MasterId(body.array("id of the master")?));
        Ok(Self { number, master, recipient: Recipient::read(body)? })
    }
}

/// A master that only its recipient can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMaster {
    /// The encapsulated secret.
    pub encapsulated: [u8; POINT_BYTES],
    /// The sealed key.
    pub ciphertext: [u8; SEALED_MASTER_BYTES],
}

impl SealedMaster {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.raw(&self.encapsulated);
        out.raw(&self.ciphertext);
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            encapsulated: body.array("encapsulated secret")?,
            ciphertext: body.array("sealed master")?,
        })
    }
}

/// With which master a plane joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// With the one that it named in its request: it is the pool's, or becomes it.
    Own,
    /// With the pool's.
    Pool {
        /// Which that is.
        id: MasterId,
        /// From a plane that holds it.
        sealed: SealedMaster,
    },
}

impl Grant {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Self::Own => out.byte(0),
            Self::Pool { id, sealed } => {
                out.byte(1);
                out.raw(&id.0);
                sealed.write(out);
            }
        }
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        if !body.flag("grant of the master")? {
            return Ok(Self::Own);
        }
        Ok(Self::Pool { id: MasterId(body.array("id of the master")?), sealed: SealedMaster::read(body)? })
    }
}
