//! Control's signature under compiled handlers, Ed25519 (RFC 8032).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use control_wire::envelope::{self, ArtefactKey, HASH_BYTES, SIGNATURE_BYTES};
use zeroize::Zeroizing;

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// No key could be made.
    #[error("no signing key can be made")]
    Generate,
    /// The stored bytes are not a key.
    #[error("the stored signing key is not Ed25519 in PKCS #8 form")]
    Stored,
}

/// Holds the key with which handlers are signed. Nothing prints or copies it.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// A new key, with its PKCS #8 form (RFC 8410) to be stored.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), SignerError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| SignerError::Generate)?;
        let stored = pair.to_pkcs8().map_err(|_| SignerError::Generate)?;
        let stored = Zeroizing::new(stored.as_ref().to_vec());
        Ok((Self(pair), stored))
    }

    /// The key that was stored.
    ///
    /// # Errors
    /// Where the bytes are something else.
    pub fn from_stored(pkcs8: &[u8]) -> Result<Self, SignerError> {
        Ed25519KeyPair::from_pkcs8(pkcs8).map(Self).map_err(|_| SignerError::Stored)
    }

    /// The public half, which planes are given when they join.
    pub fn public_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        key
    }

    /// Wraps an artefact: key, hash and length signed, then the artefact.
    pub fn seal(&self, key: &ArtefactKey, artefact: &[u8]) -> Vec<u8> {
        let signed = envelope::signed_part(key, &sha256(artefact), artefact.len());
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.0.sign(&signed).as_ref());
        envelope::seal(&signed, &signature, artefact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_key_is_the_same_key() {
        let (signer, stored) = Signer::generate().expect("a key");
        let again = Signer::from_stored(&stored).expect("the key");
        assert_eq!(signer.public_key(), again.public_key());
        assert!(Signer::from_stored(&stored[1..]).is_err());
    }
}
