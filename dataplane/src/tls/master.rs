//! The pool's master key, from which every sandbox's authority is derived; sealed on disk, wiped from memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of the master key and of the key that seals it.
const KEY_BYTES: usize = 32;
/// Bytes of an AES-GCM nonce (RFC 5116 §5.1).
const NONCE_BYTES: usize = 12;
/// Bytes of an AES-GCM tag.
const TAG_BYTES: usize = 16;
/// First bytes of a sealed master: what it is, and the version of its form. Also the associated data of the seal.
const MAGIC: &[u8; 16] = b"outgate-master\x00\x01";
/// Bytes of the whole sealed file.
const SEALED_BYTES: usize = MAGIC.len() + NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Why the master key cannot be had.
#[derive(Debug, Error)]
pub enum MasterError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sealing key may be read by others than its owner.
    #[error("{path} has mode {mode:04o}: others can read it; set it to 0600")]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The sealing key has not the right length.
    #[error("{path} is not a key of {KEY_BYTES} bytes")]
    NotAKey {
        /// The key file.
        path: PathBuf,
    },
    /// There is a sealed master and no key for it: making another would silently change every sandbox's authority.
    #[error(
        "{sealed} is there but its key {key} is not; restore the key, or remove both to begin a new pool"
    )]
    KeyMissing {
        /// The sealed master.
        sealed: PathBuf,
        /// The missing key.
        key: PathBuf,
    },
    /// The sealed master was changed, cut short, or belongs to another key.
    #[error("{path} does not open with its key: it was damaged or belongs to another pool")]
    Damaged {
        /// The sealed master.
        path: PathBuf,
    },
    /// The machine gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The master key of a pool of planes. It has no `Debug` and no `Clone`, and is wiped when dropped.
pub struct PoolMaster(Zeroizing<[u8; KEY_BYTES]>);

impl PoolMaster {
    /// Opens the master sealed at `sealed` with the key at `key`; makes what is not there yet, both with mode 0600.
    ///
    /// # Errors
    /// [`MasterError`]; a damaged or half-present pair is refused, never replaced.
    pub fn open_or_create(sealed: &Path, key: &Path) -> Result<Self, MasterError> {
        let file = |path: &Path| {
            let path = path.to_path_buf();
            move |source| MasterError::File { path, source }
        };
        let sealed_is_there = sealed.try_exists().map_err(file(sealed))?;
        let key_is_there = key.try_exists().map_err(file(key))?;
        if sealed_is_there && !key_is_there {
            return Err(MasterError::KeyMissing { sealed: sealed.into(), key: key.into() });
        }
        if !key_is_there {
            write_once(key, &*random()?).map_err(file(key))?;
        }
        let sealing = read_key(key)?;
        if !sealed_is_there {
            let master = Self(random()?);
            write_once(sealed, &master.seal(&sealing)?).map_err(file(sealed))?;
            return Ok(master);
        }
        let bytes = read_bounded(sealed, SEALED_BYTES).map_err(file(sealed))?;
        Self::unseal(&bytes, &sealing).ok_or_else(|| MasterError::Damaged { path: sealed.into() })
    }

    /// A new master that is kept nowhere: planes of tests and of demonstrations.
    ///
    /// # Errors
    /// The machine gave no random bytes.
    pub fn ephemeral() -> Result<Self, MasterError> {
        random().map(Self)
    }

    /// The key itself, for derivation inside this module only.
    pub(super) fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn seal(&self, key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, MasterError> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| MasterError::Random)?;
        let mut body = Zeroizing::new(self.0.to_vec());
        let tag = opener(key)
            .and_then(|sealing| {
                sealing
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(MAGIC),
                        body.as_mut_slice(),
                    )
                    .ok()
            })
            .ok_or(MasterError::Random)?;
        Ok([MAGIC.as_slice(), &nonce, &body, tag.as_ref()].concat())
    }

    fn unseal(bytes: &[u8], key: &[u8; KEY_BYTES]) -> Option<Self> {
        if bytes.len() != SEALED_BYTES {
            return None;
        }
        let (magic, rest) = bytes.split_at(MAGIC.len());
        let (nonce, body) = rest.split_at(NONCE_BYTES);
        if magic != MAGIC {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = Zeroizing::new(body.to_vec());
        let open = opener(key)?.open_in_place(nonce, Aad::from(MAGIC), body.as_mut_slice()).ok()?;
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        master.copy_from_slice(open);
        Some(Self(master))
    }
}

/// The random value that, with the master, makes a sandbox's authority. When it is deleted the authority is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxSalt(pub [u8; 32]);

impl SandboxSalt {
    /// A new salt.
    ///
    /// # Errors
    /// The machine gave no random bytes.
    pub fn generate() -> Result<Self, MasterError> {
        let mut salt = [0; 32];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| MasterError::Random)?;
        Ok(Self(salt))
    }
}

fn opener(key: &[u8; KEY_BYTES]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn random() -> Result<Zeroizing<[u8; KEY_BYTES]>, MasterError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| MasterError::Random)?;
    Ok(bytes)
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, MasterError> {
    let file = |source| MasterError::File { path: path.into(), source };
    let mode = fs::metadata(path).map_err(file)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(MasterError::OpenToOthers { path: path.into(), mode });
    }
    let bytes = Zeroizing::new(read_bounded(path, KEY_BYTES).map_err(file)?);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if bytes.len() != KEY_BYTES {
        return Err(MasterError::NotAKey { path: path.into() });
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// Reads at most one byte more than `expected`, enough to see that a file is too long.
fn read_bounded(path: &Path, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected + 1);
    File::open(path)?.take(expected as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file of mode 0600 whole or not at all, and never over one that is there: a second plane that starts at
/// the same moment loses the race with an error instead of losing its pool.
fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    })();
    let removed = fs::remove_file(&draft);
    written?;
    removed?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_master_survives_a_reopen_and_refuses_every_flipped_bit() {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, key) = (folder.path().join("master.sealed"), folder.path().join("master.key"));
        let first = PoolMaster::open_or_create(&sealed, &key).unwrap();
        let second = PoolMaster::open_or_create(&sealed, &key).unwrap();
        assert_eq!(first.expose(), second.expose());
        for path in [&sealed, &key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }

        let whole = fs::read(&sealed).unwrap();
        assert!(!whole.windows(KEY_BYTES).any(|window| window == first.expose()));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&sealed, flipped).unwrap();
            let refused = PoolMaster::open_or_create(&sealed, &key);
            assert!(matches!(refused, Err(MasterError::Damaged { .. })), "bit {bit}");
        }
        for length in [0, whole.len() - 1] {
            fs::write(&sealed, &whole[..length]).unwrap();
            assert!(PoolMaster::open_or_create(&sealed, &key).is_err());
        }
    }

    #[test]
    fn a_master_without_its_key_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, key) = (folder.path().join("master.sealed"), folder.path().join("master.key"));
        PoolMaster::open_or_create(&sealed, &key).unwrap();
        fs::remove_file(&key).unwrap();
        assert!(matches!(PoolMaster::open_or_create(&sealed, &key), Err(MasterError::KeyMissing { .. })));
        assert!(!key.exists());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, key) = (folder.path().join("master.sealed"), folder.path().join("master.key"));
        PoolMaster::open_or_create(&sealed, &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            PoolMaster::open_or_create(&sealed, &key),
            Err(MasterError::OpenToOthers { mode: 0o640, .. })
        ));
    }
}
