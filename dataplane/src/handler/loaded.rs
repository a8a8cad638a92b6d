//! From a signed envelope to a version that shards can instantiate: every check stands before the code is read.
#![allow(
    unsafe_code,
    reason = "Wasmer's deserialisation trusts its input, so it is unsafe; the checks here are its proof"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use control_wire::envelope::{self, ArtefactKey, CompileTarget, FLAG_EXPORT, FUEL_EXPORT, HASH_BYTES};
use handlers_sdk_abi::ABI_VERSION;
use handlers_sdk_abi::manifest::{Hook, Manifest};
use handlers_sdk_abi::names::{EXPORT_MEMORY, IMPORT_MODULE, IMPORT_PANIC, MANIFEST_SECTION};
use wasmer::sys::{CpuFeature, NativeEngineExt, Triple};
use wasmer::{Engine, ExportIndex, Module, Type};

use super::error::LoadError;
use super::instance::Instance;
use super::memory::Slots;
use super::tunables::SlotTunables;
use crate::limits::HANDLER_MEMORY_BYTES;

/// Public half of the key with which control signs handlers, Ed25519 (RFC 8032).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(pub [u8; 32]);

/// One version of a handler, checked and ready. Shared by all shards; its code goes with its last reference.
#[derive(Debug)]
pub struct Loaded {
    id: u64,
    key: ArtefactKey,
    hash: [u8; HASH_BYTES],
    hooks: Vec<Hook>,
    pub(super) module: Module,
    pub(super) engine: Engine,
    /// Index of the global that holds the fuel, among the module's own.
    pub(super) fuel: usize,
    /// Index of the global that stops a call.
    pub(super) flag: usize,
}

impl Loaded {
    /// Distinct for every version loaded in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it was compiled for and from.
    pub fn key(&self) -> &ArtefactKey {
        &self.key
    }

    /// SHA-256 of the compiled code.
    pub fn hash(&self) -> &[u8; HASH_BYTES] {
        &self.hash
    }

    /// Whether its manifest names this hook.
    pub fn wants(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    /// Whether it is called again after the request's head, so that what it remembers must be kept until then.
    pub fn goes_on(&self) -> bool {
        self.hooks.iter().any(|hook| *hook != Hook::Request)
    }
}

/// What this plane can run; announced to control, which compiles for it.
pub fn target() -> CompileTarget {
    let features = CpuFeature::for_host().iter().map(|feature| feature.to_string()).collect();
    CompileTarget::new(Triple::host().to_string(), features)
}

/// Checks an envelope and loads what is in it: length, signature, hash and key first, then the code from a copy that
/// nobody else can write, then a trial instance.
///
/// # Errors
/// Named by the first check that failed. Nothing of a refused envelope has been run.
pub fn load(bytes: &[u8], trust: &VerifyingKey, target: &CompileTarget) -> Result<Arc<Loaded>, LoadError> {
    let sealed = envelope::open(bytes)?;
    UnparsedPublicKey::new(&ED25519, trust.0)
        .verify(sealed.signed, &sealed.signature)
        .map_err(|_| LoadError::Signature)?;
    // Hashed and loaded from one copy: the caller's bytes could change between the two.
    let artefact = sealed.artefact.to_vec();
    if digest(&SHA256, &artefact).as_ref() != sealed.hash {
        return Err(LoadError::Hash);
    }
    let wanted = ArtefactKey::current(target.clone(), ABI_VERSION, sealed.key.wasm);
    if let Some(field) = wanted.difference(&sealed.key) {
        return Err(LoadError::Key { field });
    }
    // An engine gives no code memory back before it is dropped, so each version has its own.
    let mut engine = Engine::headless();
    engine.set_tunables(SlotTunables::new());
    // SAFETY: the bytes are the ones that control signed, compiled by the pinned Wasmer for this machine: signature,
    // hash and key were checked above, and `artefact` is owned here. Wasmer has no safe way to load code.
    let module = unsafe { Module::deserialize(&engine, artefact) }.map_err(LoadError::Deserialize)?;
    let (fuel, flag) = check_contract(&module)?;
    static IDS: AtomicU64 = AtomicU64::new(1);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let hooks = hooks(&module)?;
    let loaded = Loaded { id, key: sealed.key, hash: sealed.hash, hooks, module, engine, fuel, flag };
    try_out(&loaded)?;
    Ok(Arc::new(loaded))
}

/// What the host relies on, though control has checked the same: a signature says who, not that they were right.
fn check_contract(module: &Module) -> Result<(usize, usize), LoadError> {
    let info = module.info();
    if info.start_function.is_some() {
        return Err(LoadError::Contract("has a start function"));
    }
    let foreign =
        module.imports().any(|import| import.module() != IMPORT_MODULE || import.name() != IMPORT_PANIC);
    if foreign || info.num_imported_globals + info.num_imported_memories + info.num_imported_tables > 0 {
        return Err(LoadError::Contract("imports something that is not given"));
    }
    if info.memories.len() != 1 || !matches!(info.exports.get(EXPORT_MEMORY), Some(ExportIndex::Memory(_))) {
        return Err(LoadError::Contract("does not export exactly one memory"));
    }
    let globals: HashMap<&str, usize> = info
        .exports
        .iter()
        .filter_map(|(name, index)| match index {
            ExportIndex::Global(index) => Some((name.as_str(), index.as_u32() as usize)),
            _ => None,
        })
        .collect();
    let find = |name: &str, kind: Type| {
        let index = *globals.get(name)?;
        let global = info.globals.values().nth(index)?;
        (global.ty == kind && global.mutability.is_mutable()).then_some(index)
    };
    let fuel = find(FUEL_EXPORT, Type::I64).ok_or(LoadError::Contract("counts no fuel"))?;
    let flag = find(FLAG_EXPORT, Type::I32).ok_or(LoadError::Contract("has no flag to stop it"))?;
    Ok((fuel, flag))
}

/// What the module's manifest names. Control publishes none without one.
fn hooks(module: &Module) -> Result<Vec<Hook>, LoadError> {
    let section = module.custom_sections(MANIFEST_SECTION).next();
    let section = section.ok_or(LoadError::Contract("has no manifest"))?;
    Ok(Manifest::parse(&section).map_err(|_| LoadError::Contract("has a manifest that is none"))?.hooks)
}

/// Makes one instance and drops it. No code of the guest runs, since there is no start function.
fn try_out(loaded: &Loaded) -> Result<(), LoadError> {
    let made = Slots::reserve(1, HANDLER_MEMORY_BYTES)
        .map_err(|error| super::error::HandlerError::Instantiate { reason: error.to_string() })
        .and_then(|slots| {
            slots.take().ok_or(super::error::HandlerError::Instantiate { reason: "no slot".into() })
        })
        .and_then(|slot| Instance::make(loaded, slot));
    made.map(drop).map_err(|error| LoadError::Instance(Box::new(error)))
}
