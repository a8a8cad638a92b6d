//! Secrets at rest: each value under a data key of its own, the data key under the key of a file (AES-256-GCM).

use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use control_wire::row::SecretValue;
use zeroize::Zeroizing;

use crate::files;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file.
    #[error("cannot use the key of secrets, {path}")]
    KeyFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file has another length.
    #[error("{path} does not hold a key of 32 bytes")]
    KeyLength {
        /// The file.
        path: String,
    },
    /// The bytes were changed, or sealed with another key, or belong to another name or version.
    #[error("secret {name} version {version} cannot be opened: other key, other name, or changed bytes")]
    Open {
        /// The secret.
        name: String,
        /// Its version.
        version: u64,
    },
    /// The library refused, which has no cause of ours.
    #[error("sealing failed")]
    Seal,
}

/// Name of the file of the key in the state folder.
pub const KEY_FILE: &str = "seal.key";

/// Holds the key of the key file.
pub struct Sealer {
    key: RandomizedNonceKey,
}

impl Sealer {
    /// Reads the key file, or makes it with mode 0600.
    ///
    /// # Errors
    /// When it cannot be read or made, or does not hold a key.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        let fault = |source| SealError::KeyFile { path: path.display().to_string(), source };
        let key = match files::read_private(path).map_err(fault)? {
            Some(key) => key,
            None => {
                let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
                aws_lc_rs::rand::fill(&mut key).map_err(|_| SealError::Seal)?;
                files::write_private(path, &key).map_err(fault)?;
                key
            }
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key)
            .map_err(|_| SealError::KeyLength { path: path.display().to_string() })?;
        Ok(Self { key })
    }

    /// Seals a value for this name and version.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal(&self, name: &str, version: u64, value: &SecretValue) -> Result<Vec<u8>, SealError> {
        let mut data_key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut data_key[..]).map_err(|_| SealError::Seal)?;
        let of_value = RandomizedNonceKey::new(&AES_256_GCM, &data_key[..]).map_err(|_| SealError::Seal)?;
        let mut sealed = encrypt(&self.key, name, version, &data_key[..])?;
        sealed.extend(encrypt(&of_value, name, version, value.expose())?);
        Ok(sealed)
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`SealError::Open`] when anything differs.
    pub fn open(&self, name: &str, version: u64, sealed: &[u8]) -> Result<SecretValue, SealError> {
        let fault = || SealError::Open { name: name.to_owned(), version };
        let (wrapped, sealed) = sealed.split_at_checked(WRAPPED_BYTES).ok_or_else(fault)?;
        let data_key = decrypt(&self.key, name, version, wrapped).ok_or_else(fault)?;
        let of_value = RandomizedNonceKey::new(&AES_256_GCM, &data_key).map_err(|_| fault())?;
        let value = decrypt(&of_value, name, version, sealed).ok_or_else(fault)?;
        Ok(SecretValue::new(&value))
    }
}

/// The version stands first and has a fixed length, so no other pair gives the same bytes.
fn bound_to(name: &str, version: u64) -> Aad<Vec<u8>> {
    Aad::from([&version.to_le_bytes()[..], name.as_bytes()].concat())
}

fn encrypt(key: &RandomizedNonceKey, name: &str, version: u64, value: &[u8]) -> Result<Vec<u8>, SealError> {
    // Room for the tag, so that the plain bytes are overwritten where they are and never moved.
    let mut bytes = Vec::with_capacity(value.len() + TAG_BYTES);
    bytes.extend_from_slice(value);
    let nonce =
        key.seal_in_place_append_tag(bound_to(name, version), &mut bytes).map_err(|_| SealError::Seal)?;
    Ok([&nonce.as_ref()[..], &bytes].concat())
}

fn decrypt(key: &RandomizedNonceKey, name: &str, version: u64, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let length = key.open_in_place(nonce, bound_to(name, version), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_sealed_value_opens_only_as_what_it_was_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        let sealed = Sealer::open_or_create(&path).unwrap().seal("a", 1, &SecretValue::new(b"hush")).unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        let sealer = Sealer::open_or_create(&path).unwrap();
        assert_eq!(sealer.open("a", 1, &sealed).unwrap().expose(), b"hush");
        assert!(sealer.open("b", 1, &sealed).is_err());
        assert!(sealer.open("a", 2, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open("a", 1, &changed).is_err(), "byte {at}");
            assert!(sealer.open("a", 1, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        Sealer::open_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Sealer::open_or_create(&path).is_err());
    }
}
