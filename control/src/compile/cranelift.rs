//! Compilation by Cranelift, the same code for the same input: one style of memory, our budget, no guessing of the CPU.

use std::num::NonZero;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::Arc;

use control_wire::envelope::CompileTarget;
use wasmer::sys::{
    BaseTunables, CompilerConfig, CpuFeature, Cranelift, CraneliftOptLevel, EngineBuilder, Features,
    NativeEngineExt, Target, Triple, Tunables,
};
use wasmer::{Engine, MemoryType, Module, TableType};
use wasmer_types::{MemoryError, MemoryStyle};
use wasmer_vm::{TableStyle, VMMemory, VMMemoryDefinition, VMTable, VMTableDefinition};

use super::budget::Budget;
use super::check::{CheckError, check};

/// Why a checked module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It does not pass the checks.
    #[error("the module is refused")]
    Check(#[from] CheckError),
    /// No such machine.
    #[error("{triple:?} is no target that handlers are compiled for; known are x86_64 and aarch64 Linux")]
    Triple {
        /// What was asked for.
        triple: String,
    },
    /// No such CPU feature.
    #[error("{feature:?} is no CPU feature that the compiler knows")]
    Feature {
        /// What was asked for.
        feature: String,
    },
    /// Every x86-64 machine has SSE2; a target without is a mistake.
    #[error("an x86_64 target without sse2 does not exist")]
    NoSse2,
    /// The compiler refused.
    #[error("the compiler refused the module")]
    Compiler(#[source] wasmer::CompileError),
    /// The code could not be written.
    #[error("the compiled code cannot be serialised")]
    Serialise(#[source] wasmer::SerializeError),
}

/// Checks a module and compiles it, in this process. [`super::compile_in_child`] is what control uses.
///
/// # Errors
/// With the first check that failed, or what the compiler said.
pub fn compile(wasm: &[u8], target: &CompileTarget) -> Result<Vec<u8>, CompileError> {
    check(wasm)?;
    let mut compiler = Cranelift::new();
    compiler.opt_level(CraneliftOptLevel::Speed);
    compiler.canonicalize_nans(true);
    compiler.num_threads(NonZero::<usize>::MIN);
    compiler.push_middleware(Arc::new(Budget::default()));
    let builder =
        EngineBuilder::new(compiler).set_target(Some(read_target(target)?)).set_features(Some(features()));
    let mut engine = Engine::from(builder.engine());
    engine.set_tunables(DynamicStyle(BaseTunables::new()));
    let module = Module::new(&engine, wasm).map_err(CompileError::Compiler)?;
    Ok(module.serialize().map_err(CompileError::Serialise)?.to_vec())
}

fn read_target(target: &CompileTarget) -> Result<Target, CompileError> {
    let unknown = || CompileError::Triple { triple: target.triple.clone() };
    // Cranelift panics for what it was not built for.
    let known = ["x86_64-unknown-linux-", "aarch64-unknown-linux-"];
    if !known.iter().any(|known| target.triple.starts_with(known)) {
        return Err(unknown());
    }
    let triple = Triple::from_str(&target.triple).map_err(|_| unknown())?;
    let mut features = CpuFeature::set();
    for name in &target.cpu_features {
        let feature =
            CpuFeature::from_str(name).map_err(|_| CompileError::Feature { feature: name.clone() })?;
        features.insert(feature);
    }
    if target.triple.starts_with("x86_64") && !features.contains(CpuFeature::SSE2) {
        return Err(CompileError::NoSse2);
    }
    Ok(Target::new(triple, features))
}

/// What the checks let through, and nothing else.
fn features() -> Features {
    let mut features = Features::none();
    features.reference_types = true;
    features.simd = true;
    features.bulk_memory = true;
    features.multi_value = true;
    features
}

/// Makes the compiler bound every access itself. Nothing is instantiated in control.
struct DynamicStyle(BaseTunables);

impl Tunables for DynamicStyle {
    fn memory_style(&self, _memory: &MemoryType) -> MemoryStyle {
        MemoryStyle::Dynamic { offset_guard_size: 0 }
    }

    fn table_style(&self, table: &TableType) -> TableStyle {
        self.0.table_style(table)
    }

    fn create_host_memory(&self, _: &MemoryType, _: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        Err(MemoryError::Generic("control runs no guests".into()))
    }

    #[allow(unsafe_code, reason = "Wasmer's trait asks for an unsafe function; this one does nothing")]
    unsafe fn create_vm_memory(
        &self,
        _: &MemoryType,
        _: &MemoryStyle,
        _: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        Err(MemoryError::Generic("control runs no guests".into()))
    }

    fn create_host_table(&self, _: &TableType, _: &TableStyle) -> Result<VMTable, String> {
        Err("control runs no guests".into())
    }

    #[allow(unsafe_code, reason = "Wasmer's trait asks for an unsafe function; this one does nothing")]
    unsafe fn create_vm_table(
        &self,
        _: &TableType,
        _: &TableStyle,
        _: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        Err("control runs no guests".into())
    }
}
