//! The signed wrapper in which a compiled handler travels and is kept: what it was compiled for, its hash, its length.
//!
//! Layout, little-endian: magic, version, length and bytes of the key, SHA-256 of the artefact, length of the
//! artefact, Ed25519 signature, artefact. The signature is over everything that stands before it, so a change of any
//! bit of key, hash or length breaks it, and a change of any bit of the artefact breaks the hash.
//!
//! This is bytes only: hashing and signing belong to control, verifying to the plane. Both happen before the
//! artefact is deserialised, because Wasmer accepts most flipped bits and dies of some.

use crate::codec::{Reader, WireError, Writer};
use crate::limits::{ENVELOPE_BYTES_MAX, FEATURES_MAX, NAME_BYTES_MAX};

/// First bytes of every envelope.
pub const MAGIC: [u8; 8] = *b"OUTGATEh";
/// Layout of the envelope.
pub const VERSION: u16 = 1;
/// Bytes of an Ed25519 signature (RFC 8032 §5.1.6).
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a SHA-256 hash.
pub const HASH_BYTES: usize = 32;

/// Wasmer's version in control and plane; both pin it exactly, and an artefact of another is refused.
pub const WASMER_VERSION: &str = "7.4.2";
/// Format number of Wasmer's serialised modules in that version.
pub const WASMER_FORMAT: u32 = 24;
/// The one style of the fleet: bounds checked by the code itself, no guard behind a memory. Mixed styles let a guest
/// read its neighbour.
pub const MEMORY_STYLE: &str = "dynamic,guard=0";
/// How execution is bounded: fuel and flag at function entry, loop head and before bulk operations, first version.
pub const BUDGET: &str = "fuel+flag/1";
/// Compiler and the flags that change its code.
pub const COMPILER: &str = "cranelift,speed,nan=canonical";

/// Global that holds the fuel of a call, exported by the compiled module. Guests may not export this name.
pub const FUEL_EXPORT: &str = "outgate:fuel";
/// Global that stops a call as soon as it is not zero, exported by the compiled module. Guests may not export this
/// name.
pub const FLAG_EXPORT: &str = "outgate:flag";

/// What a plane can run: announced when it dials, compiled for by control.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CompileTarget {
    /// Target triple.
    pub triple: String,
    /// Names of CPU features, sorted, without repetition.
    pub cpu_features: Vec<String>,
}

impl CompileTarget {
    /// A target with its features put in order.
    pub fn new(triple: impl Into<String>, mut cpu_features: Vec<String>) -> Self {
        cpu_features.sort_unstable();
        cpu_features.dedup();
        Self { triple: triple.into(), cpu_features }
    }
}

/// Everything that must be equal for an artefact to be safe to load. A plane refuses any other key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactKey {
    /// Wasmer's version.
    pub wasmer: String,
    /// Format number of its serialised modules.
    pub format: u32,
    /// Machine for which the code was made.
    pub target: CompileTarget,
    /// How memory accesses are kept in bounds.
    pub memory_style: String,
    /// How execution is bounded.
    pub budget: String,
    /// Version of the contract between host and guest.
    pub abi: u16,
    /// Compiler and its flags.
    pub compiler: String,
    /// SHA-256 of the Wasm module.
    pub wasm: [u8; HASH_BYTES],
}

impl ArtefactKey {
    /// The key of a module with this hash as this build compiles and loads it.
    pub fn current(target: CompileTarget, abi: u16, wasm: [u8; HASH_BYTES]) -> Self {
        Self {
            wasmer: WASMER_VERSION.to_owned(),
            format: WASMER_FORMAT,
            target,
            memory_style: MEMORY_STYLE.to_owned(),
            budget: BUDGET.to_owned(),
            abi,
            compiler: COMPILER.to_owned(),
            wasm,
        }
    }

    /// The first field in which `other` differs, for an error that names it.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("wasmer version", self.wasmer == other.wasmer),
            ("artefact format", self.format == other.format),
            ("target triple", self.target.triple == other.target.triple),
            ("CPU features", self.target.cpu_features == other.target.cpu_features),
            ("memory style", self.memory_style == other.memory_style),
            ("budget kind", self.budget == other.budget),
            ("ABI version", self.abi == other.abi),
            ("compiler", self.compiler == other.compiler),
            ("module hash", self.wasm == other.wasm),
        ];
        fields.into_iter().find(|(_, equal)| !equal).map(|(name, _)| name)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.text(&self.wasmer);
        out.u32(self.format);
        out.text(&self.target.triple);
        out.length(self.target.cpu_features.len());
        for feature in &self.target.cpu_features {
            out.text(feature);
        }
        out.text(&self.memory_style);
        out.text(&self.budget);
        out.u16(self.abi);
        out.text(&self.compiler);
        out.raw(&self.wasm);
        out.finish().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut body = Reader::new(bytes);
        let wasmer = body.text(NAME_BYTES_MAX, "wasmer version")?;
        let format = body.u32("artefact format")?;
        let triple = body.text(NAME_BYTES_MAX, "target triple")?;
        let count = body.length(FEATURES_MAX, "CPU features")?;
        let mut cpu_features = Vec::with_capacity(count);
        for _ in 0..count {
            cpu_features.push(body.text(NAME_BYTES_MAX, "CPU feature")?);
        }
        Ok(Self {
            wasmer,
            format,
            target: CompileTarget { triple, cpu_features },
            memory_style: body.text(NAME_BYTES_MAX, "memory style")?,
            budget: body.text(NAME_BYTES_MAX, "budget kind")?,
            abi: body.u16("ABI version")?,
            compiler: body.text(NAME_BYTES_MAX, "compiler")?,
            wasm: body.array("module hash")?,
        })
    }
}

/// Bytes of a key that are taken. Larger: a bad envelope allocates more. Smaller: many CPU features do not fit.
const KEY_BYTES_MAX: usize = 16 << 10;

/// Why bytes are not an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Something else.
    #[error("the bytes do not begin as an envelope")]
    Magic,
    /// A layout that this build does not know.
    #[error("the envelope has layout {found}, this build reads {VERSION}")]
    Version {
        /// The layout's number.
        found: u16,
    },
    /// A field is cut off or out of bounds.
    #[error("the envelope's header is malformed")]
    Header(#[from] WireError),
    /// The artefact is shorter or longer than the header says.
    #[error("the artefact has {found} bytes, the header says {stated}")]
    Length {
        /// What the header says.
        stated: u64,
        /// What is there.
        found: usize,
    },
}

/// An envelope taken apart, nothing of it checked but its lengths.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// What the signature is over.
    pub signed: &'a [u8],
    /// The signature.
    pub signature: [u8; SIGNATURE_BYTES],
    /// What the artefact was made for.
    pub key: ArtefactKey,
    /// What the artefact must hash to.
    pub hash: [u8; HASH_BYTES],
    /// The artefact.
    pub artefact: &'a [u8],
}

/// The bytes over which control signs: everything before the signature.
pub fn signed_part(key: &ArtefactKey, hash: &[u8; HASH_BYTES], artefact_bytes: usize) -> Vec<u8> {
    let key = key.encode();
    let mut out = Writer::new();
    out.raw(&MAGIC);
    out.u16(VERSION);
    out.bytes(&key);
    out.raw(hash);
    out.u64(artefact_bytes as u64);
    out.finish().to_vec()
}

/// Puts an envelope together from its signed part, the signature over it, and the artefact.
pub fn seal(signed: &[u8], signature: &[u8; SIGNATURE_BYTES], artefact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(signed.len() + SIGNATURE_BYTES + artefact.len());
    out.extend_from_slice(signed);
    out.extend_from_slice(signature);
    out.extend_from_slice(artefact);
    out
}

/// Takes an envelope apart. Every length is checked against what is there before it is believed.
pub fn open(bytes: &[u8]) -> Result<Sealed<'_>, EnvelopeError> {
    let mut body = Reader::new(bytes);
    if body.array::<8>("magic").map_err(|_| EnvelopeError::Magic)? != MAGIC {
        return Err(EnvelopeError::Magic);
    }
    let found = body.u16("layout")?;
    if found != VERSION {
        return Err(EnvelopeError::Version { found });
    }
    let key = body.bytes(KEY_BYTES_MAX, "key")?;
    let key_bytes = key.len();
    let key = ArtefactKey::decode(key)?;
    let hash = body.array("artefact hash")?;
    let stated = body.u64("artefact length")?;
    let signature = body.array("signature")?;
    let signed_bytes = MAGIC.len() + 2 + 4 + key_bytes + HASH_BYTES + 8;
    let artefact = &bytes[signed_bytes + SIGNATURE_BYTES..];
    if stated != artefact.len() as u64 || artefact.len() > ENVELOPE_BYTES_MAX {
        return Err(EnvelopeError::Length { stated, found: artefact.len() });
    }
    Ok(Sealed { signed: &bytes[..signed_bytes], signature, key, hash, artefact })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ArtefactKey {
        ArtefactKey {
            wasmer: "7".into(),
            format: 24,
            target: CompileTarget::new("t", vec!["b".into(), "a".into(), "a".into()]),
            memory_style: "m".into(),
            budget: "f".into(),
            abi: 1,
            compiler: "c".into(),
            wasm: [7; HASH_BYTES],
        }
    }

    fn envelope() -> Vec<u8> {
        seal(&signed_part(&key(), &[8; HASH_BYTES], 3), &[9; SIGNATURE_BYTES], b"abc")
    }

    #[test]
    fn first_layout_has_these_bytes() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"OUTGATEh\x01\x00");
        let mut fields = Vec::new();
        fields.extend_from_slice(b"\x01\0\0\x007\x18\0\0\0\x01\0\0\0t\x02\0\0\0\x01\0\0\0a\x01\0\0\0b");
        fields.extend_from_slice(b"\x01\0\0\0m\x01\0\0\0f\x01\0\x01\0\0\0c");
        fields.extend_from_slice(&[7; 32]);
        golden.extend_from_slice(&(fields.len() as u32).to_le_bytes());
        golden.extend_from_slice(&fields);
        golden.extend_from_slice(&[8; 32]);
        golden.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[9; 64]);
        golden.extend_from_slice(b"abc");
        assert_eq!(envelope(), golden);
    }

    #[test]
    fn what_was_sealed_is_what_is_opened() {
        let bytes = envelope();
        let sealed = open(&bytes).expect("an envelope");
        assert_eq!(sealed.key, key());
        assert_eq!(sealed.signed, signed_part(&key(), &[8; HASH_BYTES], 3));
        assert_eq!((sealed.hash, sealed.signature, sealed.artefact), ([8; 32], [9; 64], &b"abc"[..]));
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        let bytes = envelope();
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end]).is_err(), "{end} bytes passed");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(open(&longer), Err(EnvelopeError::Length { stated: 3, found: 4 }));
    }

    #[test]
    fn a_difference_of_keys_is_named() {
        let mut other = key();
        assert_eq!(key().difference(&other), None);
        other.abi = 2;
        assert_eq!(key().difference(&other), Some("ABI version"));
    }
}
