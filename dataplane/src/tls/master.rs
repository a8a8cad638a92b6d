//! The pool's master key, from which every sandbox's authority is derived; sealed on disk, wiped from memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use control_wire::pool::{MASTER_BYTES, MasterId};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of the master key and of the key that seals it.
const KEY_BYTES: usize = MASTER_BYTES;
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
        "{sealed} is there but its key {key} is not; restore the key, or remove {sealed} and join again: \
         `outgate plane rm` and `outgate plane token`"
    )]
    KeyMissing {
        /// The sealed master.
        sealed: PathBuf,
        /// The missing key.
        key: PathBuf,
    },
    /// The sealed master was changed, cut short, or belongs to another key.
    #[error(
        "{path} does not open with its key: it was damaged or the key is another; restore both, or remove both and \
         join again: `outgate plane rm` and `outgate plane token`"
    )]
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
    /// Opens the master sealed at `sealed` with the key at `key`. `None` where there is no sealed master.
    ///
    /// # Errors
    /// [`MasterError`]; a damaged or half-present pair is refused.
    pub fn open(sealed: &Path, key: &Path) -> Result<Option<Self>, MasterError> {
        if !sealed.try_exists().map_err(file(sealed))? {
            return Ok(None);
        }
        if !key.try_exists().map_err(file(key))? {
            return Err(MasterError::KeyMissing { sealed: sealed.into(), key: key.into() });
        }
        let bytes = read_bounded(sealed, SEALED_BYTES).map_err(file(sealed))?;
        let sealing = read_key(key)?;
        let opened = Self::unseal(&bytes, &sealing);
        opened.map(Some).ok_or_else(|| MasterError::Damaged { path: sealed.into() })
    }

    /// A new master, kept nowhere yet.
    ///
    /// # Errors
    /// The machine gave no random bytes.
    pub fn ephemeral() -> Result<Self, MasterError> {
        random().map(Self)
    }

    /// Seals the master at `sealed`, in the place of one that may be there, with the key at `key`, which is made
    /// where there is none. Both have mode 0600.
    ///
    /// # Errors
    /// [`MasterError`]; what was at `sealed` is there unchanged then.
    pub fn store(&self, sealed: &Path, key: &Path) -> Result<(), MasterError> {
        if !key.try_exists().map_err(file(key))? {
            write_whole(key, &*random()?).map_err(file(key))?;
        }
        let sealing = read_key(key)?;
        write_whole(sealed, &self.seal(&sealing)?).map_err(file(sealed))
    }

    /// Which master it is. From this nothing of the key can be had: HKDF is one way (RFC 5869 §5).
    ///
    /// # Errors
    /// [`MasterError::Random`], never seen: the library could not derive.
    pub fn id(&self) -> Result<MasterId, MasterError> {
        let mut id = [0; 32];
        Salt::new(HKDF_SHA256, &[])
            .extract(self.expose())
            .expand(&[b"outgate pool master id, version 1"], HKDF_SHA256)
            .and_then(|output| output.fill(&mut id))
            .map_err(|_| MasterError::Random)?;
        Ok(MasterId(id))
    }

    /// From bytes that were opened for this plane.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        (bytes.len() == KEY_BYTES).then(|| {
            master.copy_from_slice(bytes);
            Self(master)
        })
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
        Self::from_bytes(open)
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

fn file(path: &Path) -> impl FnOnce(io::Error) -> MasterError {
    let path = path.to_path_buf();
    move |source| MasterError::File { path, source }
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

/// Writes a file of mode 0600 whole or not at all: a crash leaves what was there, or this.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        // What hinders this hinders no one else.
        let _removed = fs::remove_file(&draft);
    }
    written?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a master in it.
    fn kept() -> (tempfile::TempDir, PathBuf, PathBuf, PoolMaster) {
        let folder = tempfile::tempdir().unwrap();
        let (sealed, key) = (folder.path().join("master.sealed"), folder.path().join("master.key"));
        assert!(PoolMaster::open(&sealed, &key).unwrap().is_none());
        let master = PoolMaster::ephemeral().unwrap();
        master.store(&sealed, &key).unwrap();
        (folder, sealed, key, master)
    }

    #[test]
    fn sealed_master_survives_a_reopen_and_refuses_every_flipped_bit() {
        let (_folder, sealed, key, first) = kept();
        let second = PoolMaster::open(&sealed, &key).unwrap().unwrap();
        assert_eq!(first.expose(), second.expose());
        assert_eq!(first.id().unwrap(), second.id().unwrap());
        for path in [&sealed, &key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }

        let whole = fs::read(&sealed).unwrap();
        assert!(!whole.windows(KEY_BYTES).any(|window| window == first.expose()));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&sealed, flipped).unwrap();
            let refused = PoolMaster::open(&sealed, &key);
            assert!(matches!(refused, Err(MasterError::Damaged { .. })), "bit {bit}");
        }
        for length in [0, whole.len() - 1] {
            fs::write(&sealed, &whole[..length]).unwrap();
            assert!(PoolMaster::open(&sealed, &key).is_err());
        }
    }

    #[test]
    fn a_master_takes_the_place_of_another_under_the_same_key() {
        let (_folder, sealed, key, former) = kept();
        let sealing = fs::read(&key).unwrap();
        let next = PoolMaster::ephemeral().unwrap();
        next.store(&sealed, &key).unwrap();
        let opened = PoolMaster::open(&sealed, &key).unwrap().unwrap();
        assert_eq!(opened.expose(), next.expose());
        assert_ne!(opened.id().unwrap(), former.id().unwrap());
        assert_eq!(fs::read(&key).unwrap(), sealing);
    }

    #[test]
    fn a_master_without_its_key_is_refused_and_no_key_is_made() {
        let (_folder, sealed, key, _) = kept();
        fs::remove_file(&key).unwrap();
        assert!(matches!(PoolMaster::open(&sealed, &key), Err(MasterError::KeyMissing { .. })));
        assert!(!key.exists());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_folder, sealed, key, _) = kept();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            PoolMaster::open(&sealed, &key),
            Err(MasterError::OpenToOthers { mode: 0o640, .. })
        ));
    }
}
