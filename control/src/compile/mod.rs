//! From a guest's Wasm to a signed envelope: checks, compilation in a bounded child process, signature.
//!
//! A module is refused by name before any of it is compiled. The compiler runs in a process of its own with bounds on
//! memory and time, because its input is hostile and its appetite is not ours to predict. What comes out is wrapped in
//! [`control_wire::envelope`], which a plane checks before it reads the code.

mod budget;
mod check;
mod child;
mod cranelift;
pub mod limits;
mod sign;

pub use check::{CheckError, check};
pub use child::{CHILD_COMMAND, ChildError, child_main, compile_in_child};
pub use cranelift::{CompileError, compile};
pub use sign::{Signer, SignerError, sha256};

use std::path::Path;

use control_wire::envelope::{ArtefactKey, CompileTarget};
use handlers_sdk_abi::ABI_VERSION;
use handlers_sdk_abi::manifest::Manifest;
use wasmer_types::target::{CpuFeature, Triple};

/// This machine as a target: a plane on another processor says that it does not take the handler.
pub fn this_machine() -> CompileTarget {
    let features = CpuFeature::for_host().iter().map(|feature| feature.to_string()).collect();
    CompileTarget::new(Triple::host().to_string(), features)
}

/// A version of a handler for one target.
#[derive(Debug)]
pub struct Published {
    /// What the module says about itself.
    pub manifest: Manifest,
    /// SHA-256 of the Wasm.
    pub wasm: [u8; 32],
    /// SHA-256 of the envelope.
    pub hash: [u8; 32],
    /// The signed envelope.
    pub envelope: Vec<u8>,
}

/// Why a module was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It was refused before it was compiled.
    #[error("the module is refused")]
    Check(#[from] CheckError),
    /// It was not compiled.
    #[error("the module was not compiled")]
    Compile(#[from] ChildError),
}

/// Checks, compiles in a child of `executable` (this binary, or one that answers [`CHILD_COMMAND`]) and signs. Blocks
/// for as long as the compiler takes, which is bounded.
///
/// # Errors
/// With the first check that failed, or what the child said.
pub fn publish(
    executable: &Path,
    wasm: &[u8],
    target: &CompileTarget,
    signer: &Signer,
) -> Result<Published, PublishError> {
    let manifest = check(wasm)?;
    let artefact = compile_in_child(executable, wasm, target)?;
    let key = ArtefactKey::current(target.clone(), ABI_VERSION, sha256(wasm));
    let envelope = signer.seal(&key, &artefact);
    Ok(Published { manifest, wasm: key.wasm, hash: sha256(&envelope), envelope })
}
