//! A real handler, built from the SDK's example and compiled as control does it.

use std::sync::Arc;

use control::compile::{Signer, compile, sha256};
use control_wire::envelope::ArtefactKey;
use dataplane::handler::{Loaded, VerifyingKey, load, target};
use handlers_sdk_abi::ABI_VERSION;

/// The module of the example `inject_token`, as the SDK's build makes it: one page of memory.
pub fn module() -> Vec<u8> {
    let examples = handlers_sdk_guests::build_examples(&handlers_sdk_guests::default_target_dir());
    let examples = examples.expect("the examples are built");
    let (_, path) = examples.iter().find(|(name, _)| name == "inject_token").expect("the example");
    std::fs::read(path).expect("a module")
}

/// Compiles, signs and loads a module.
pub fn loaded(wasm: &[u8]) -> Arc<Loaded> {
    let (signer, _) = Signer::generate().expect("a key");
    let artefact = compile(wasm, &target()).expect("code");
    let key = ArtefactKey::current(target(), ABI_VERSION, sha256(wasm));
    load(&signer.seal(&key, &artefact), &VerifyingKey(signer.public_key()), &target()).expect("a version")
}
