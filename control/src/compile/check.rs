//! What a module must be before it is compiled: one exported memory, one import at most, no state that a restore of
//! memory and globals would miss, and nothing larger than its bound.

use handlers_sdk_abi::manifest::{Manifest, ManifestError};
use handlers_sdk_abi::names::{
    EXPORT_ALLOC, EXPORT_EVENT, EXPORT_INIT, EXPORT_MEMORY, IMPORT_MODULE, IMPORT_PANIC, MANIFEST_SECTION,
};
use wasmparser::{
    BinaryReaderError, DataKind, ElementKind, ExternalKind, FunctionBody, Imports, Operator, Parser, Payload,
    TypeRef, ValType, Validator, WasmFeatures,
};

use super::limits::{
    FUNCTION_BYTES_MAX, FUNCTION_LOCALS_MAX, FUNCTIONS_MAX, GLOBALS_MAX, MEMORY_PAGES_MAX, TABLE_ENTRIES_MAX,
    TABLES_MAX, WASM_BYTES_MAX,
};

/// Why a module is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nothing like WebAssembly.
    #[error("it is no WebAssembly module; `outgate handler build DIR` makes one of a handler's crate")]
    NoModule,
    /// Not WebAssembly, or WebAssembly with a feature that handlers may not use; the source names it.
    #[error("the module is not valid WebAssembly within the features that handlers may use")]
    Invalid(#[from] BinaryReaderError),
    /// Too many bytes.
    #[error("the module has {bytes} bytes, at most {WASM_BYTES_MAX} are taken")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// It would run code before its first event.
    #[error("the module has a start function, which no budget would bound")]
    StartFunction,
    /// An import that the host does not give.
    #[error("the module imports {module}.{name}; the host gives {IMPORT_MODULE}.{IMPORT_PANIC} alone")]
    ForeignImport {
        /// Its module.
        module: String,
        /// Its name.
        name: String,
    },
    /// Not exactly one memory, or not exported under its name.
    #[error("the module must have exactly one memory and export it as {EXPORT_MEMORY:?}")]
    Memory,
    /// Its memory begins too large.
    #[error("the memory begins with {pages} pages of 64 KiB, at most {MEMORY_PAGES_MAX} are given")]
    MemoryTooLarge {
        /// How many.
        pages: u64,
    },
    /// An export of the contract is missing or has another type.
    #[error("the module must export {name:?} as {signature}")]
    Export {
        /// Its name.
        name: &'static str,
        /// The type it must have.
        signature: &'static str,
    },
    /// An export with a name that the host keeps for itself.
    #[error("the module exports {name:?}; names that begin with \"outgate:\" are the host's")]
    ReservedExport {
        /// The name.
        name: String,
    },
    /// An instruction whose effect would outlive a request.
    #[error("function {function} uses {operator}, whose effect would outlive a request")]
    Operator {
        /// The function's index.
        function: u32,
        /// The instruction.
        operator: &'static str,
    },
    /// Segments that instructions apply later.
    #[error("the module has a passive segment, whose state would outlive a request")]
    PassiveSegment,
    /// A global that cannot be put back as bits.
    #[error("a global holds a reference, which cannot be put back after a request")]
    ReferenceGlobal,
    /// One of its parts is above its bound.
    #[error("the module has {what} of {found}, at most {max} is taken")]
    Bound {
        /// Which part.
        what: &'static str,
        /// What is there.
        found: u64,
        /// The bound.
        max: u64,
    },
    /// No manifest.
    #[error("the module has no section {MANIFEST_SECTION:?}; build it with the handlers SDK")]
    NoManifest,
    /// A manifest that is none.
    #[error("the module's manifest is refused")]
    Manifest(#[from] ManifestError),
}

/// Names that begin so are the host's: fuel and flag.
const RESERVED_PREFIX: &str = "outgate:";

/// The exports of the contract, with their types.
const EXPORTS: [(&str, &[ValType], &[ValType], &str); 3] = [
    (EXPORT_ALLOC, &[ValType::I32], &[ValType::I32], "(i32) -> i32"),
    (EXPORT_INIT, &[ValType::I32, ValType::I32], &[ValType::I64], "(i32, i32) -> i64"),
    (EXPORT_EVENT, &[ValType::I32, ValType::I32, ValType::I32], &[ValType::I64], "(i32, i32, i32) -> i64"),
];

/// Judges a module and reads its manifest.
///
/// # Errors
/// With the first rule that it breaks.
pub fn check(wasm: &[u8]) -> Result<Manifest, CheckError> {
    if wasm.len() > WASM_BYTES_MAX {
        return Err(CheckError::TooLarge { bytes: wasm.len() });
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(CheckError::NoModule);
    }
    let types = Validator::new_with_features(features()).validate_all(wasm)?;
    let mut found = Found::default();
    for payload in Parser::new(0).parse_all(wasm) {
        found.admit(payload?)?;
    }
    if found.memories != 1 || !found.exports_memory {
        return Err(CheckError::Memory);
    }
    for (name, params, results, signature) in EXPORTS {
        let wrong = CheckError::Export { name, signature };
        let Some((_, index)) = found.functions.iter().find(|(exported, _)| exported == name) else {
            return Err(wrong);
        };
        let id = types.as_ref().core_function_at(*index);
        let function = types[id].unwrap_func();
        if function.params() != params || function.results() != results {
            return Err(wrong);
        }
    }
    Ok(Manifest::parse(found.manifest.ok_or(CheckError::NoManifest)?)?)
}

/// What handlers may use. Threads, 64-bit and several memories, exceptions, tail calls, relaxed SIMD and garbage
/// collection are not in it: each adds state or a way out of the budget.
fn features() -> WasmFeatures {
    WasmFeatures::MVP
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
}

/// What the walk has seen.
#[derive(Default)]
struct Found<'a> {
    memories: u32,
    exports_memory: bool,
    functions: Vec<(String, u32)>,
    imported_functions: u32,
    bodies: u32,
    manifest: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn admit(&mut self, payload: Payload<'a>) -> Result<(), CheckError> {
        match payload {
            Payload::StartSection { .. } => return Err(CheckError::StartFunction),
            Payload::ImportSection(section) => {
                for imports in section {
                    self.admit_import(imports?)?;
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let pages = memory?.initial;
                    self.memories += 1;
                    if pages > MEMORY_PAGES_MAX {
                        return Err(CheckError::MemoryTooLarge { pages });
                    }
                }
            }
            Payload::TableSection(section) => {
                bound("tables", section.count().into(), TABLES_MAX.into())?;
                for table in section {
                    bound("a table", table?.ty.initial, TABLE_ENTRIES_MAX)?;
                }
            }
            Payload::GlobalSection(section) => {
                bound("globals", section.count().into(), GLOBALS_MAX.into())?;
                for global in section {
                    if matches!(global?.ty.content_type, ValType::Ref(_)) {
                        return Err(CheckError::ReferenceGlobal);
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.admit_export(export.name, export.kind, export.index)?;
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    if matches!(element?.kind, ElementKind::Passive) {
                        return Err(CheckError::PassiveSegment);
                    }
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    if matches!(data?.kind, DataKind::Passive) {
                        return Err(CheckError::PassiveSegment);
                    }
                }
            }
            Payload::CodeSectionStart { count, .. } => {
                bound("functions", count.into(), FUNCTIONS_MAX.into())?
            }
            Payload::CodeSectionEntry(body) => self.admit_body(&body)?,
            Payload::CustomSection(section) if section.name() == MANIFEST_SECTION => {
                self.manifest = Some(section.data());
            }
            _ => {}
        }
        Ok(())
    }

    fn admit_import(&mut self, imports: Imports<'_>) -> Result<(), CheckError> {
        let Imports::Single(_, import) = imports else {
            return Err(CheckError::ForeignImport { module: "a group".into(), name: "of imports".into() });
        };
        let given = import.module == IMPORT_MODULE && import.name == IMPORT_PANIC;
        if !given || !matches!(import.ty, TypeRef::Func(_)) {
            return Err(CheckError::ForeignImport { module: import.module.into(), name: import.name.into() });
        }
        self.imported_functions += 1;
        Ok(())
    }

    fn admit_export(&mut self, name: &str, kind: ExternalKind, index: u32) -> Result<(), CheckError> {
        if name.starts_with(RESERVED_PREFIX) {
            return Err(CheckError::ReservedExport { name: name.into() });
        }
        match kind {
            ExternalKind::Memory if name == EXPORT_MEMORY => self.exports_memory = true,
            ExternalKind::Func => self.functions.push((name.to_owned(), index)),
            _ => {}
        }
        Ok(())
    }

    fn admit_body(&mut self, body: &FunctionBody<'_>) -> Result<(), CheckError> {
        let function = self.imported_functions + self.bodies;
        self.bodies += 1;
        let range = body.range();
        bound("a function", range.end - range.start, FUNCTION_BYTES_MAX as u64)?;
        let mut locals = 0;
        for group in body.get_locals_reader()? {
            locals += u64::from(group?.0);
        }
        bound("locals", locals, FUNCTION_LOCALS_MAX)?;
        for operator in body.get_operators_reader()? {
            if let Some(operator) = lasting(&operator?) {
                return Err(CheckError::Operator { function, operator });
            }
        }
        Ok(())
    }
}

fn bound(what: &'static str, found: u64, max: u64) -> Result<(), CheckError> {
    if found > max { Err(CheckError::Bound { what, found, max }) } else { Ok(()) }
}

/// The name of an instruction that changes tables or segments, which no restore puts back.
fn lasting(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::TableSet { .. } => "table.set",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableFill { .. } => "table.fill",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableInit { .. } => "table.init",
        Operator::ElemDrop { .. } => "elem.drop",
        Operator::DataDrop { .. } => "data.drop",
        Operator::MemoryInit { .. } => "memory.init",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use handlers_sdk_abi::manifest::Hook;

    use super::*;

    /// A module that passes, with `more` in it and `hooks` in its manifest.
    fn module(more: &str, hooks: &str) -> Vec<u8> {
        let text = format!(
            r#"(module (memory (export "memory") 1) {more}
            (func (export "og_alloc") (param i32) (result i32) i32.const 64)
            (func (export "og_init") (param i32 i32) (result i64) i64.const 0)
            (func (export "og_event") (param i32 i32 i32) (result i64) i64.const 0)
            (@custom "outgate" "{{\22abi\22:1,\22name\22:\22h\22,\22hooks\22:[{hooks}]}}"))"#
        );
        wat::parse_str(text).expect("text of a module")
    }

    fn refusal(more: &str) -> CheckError {
        check(&module(more, r"\22request\22")).expect_err("refused")
    }

    #[test]
    fn a_module_that_keeps_the_contract_passes() {
        let import = r#"(func)"#;
        assert_eq!(check(&module(import, r"\22request\22")).expect("passes").name, "h");
    }

    #[test]
    fn what_outlives_a_request_is_refused_by_name() {
        assert!(matches!(refusal("(func $s) (start $s)"), CheckError::StartFunction));
        assert!(matches!(refusal(r#"(data "x")"#), CheckError::PassiveSegment));
        assert!(matches!(refusal("(table 1 funcref) (elem func)"), CheckError::PassiveSegment));
        assert!(matches!(refusal("(global (mut externref) (ref.null extern))"), CheckError::ReferenceGlobal));
        let set = "(table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))";
        assert!(matches!(refusal(set), CheckError::Operator { operator: "table.set", .. }));
    }

    #[test]
    fn what_is_above_its_bound_is_refused_by_name() {
        assert!(matches!(refusal("(table 20000 funcref)"), CheckError::Bound { what: "a table", .. }));
        let long = format!("(func {})", "i32.const 1 drop ".repeat(50_000));
        assert!(matches!(refusal(&long), CheckError::Bound { what: "a function", .. }));
        let locals = format!("(func (local {}))", "i64 ".repeat(9_000));
        assert!(matches!(refusal(&locals), CheckError::Bound { what: "locals", .. }));
    }

    #[test]
    fn names_of_the_host_are_refused() {
        let fuel = r#"(global (export "outgate:fuel") (mut i64) (i64.const 0))"#;
        assert!(matches!(refusal(fuel), CheckError::ReservedExport { .. }));
    }

    #[test]
    fn features_outside_the_contract_are_refused() {
        assert!(matches!(refusal("(memory 1)"), CheckError::Invalid(_)));
        assert!(matches!(refusal("(func $f return_call $f)"), CheckError::Invalid(_)));
    }

    #[test]
    fn every_hook_of_the_contract_is_served_and_others_are_refused() {
        let named = Hook::ALL.map(|hook| format!(r"\22{}\22", hook.name())).join(",");
        assert_eq!(check(&module("", &named)).expect("passes").hooks, Hook::ALL);
        let other = module("", r"\22request\22,\22dream\22");
        assert!(matches!(check(&other), Err(CheckError::Manifest(ManifestError::Json(_)))));
    }

    #[test]
    fn contract_is_asked_for_export_by_export() {
        let empty = wat::parse_str("(module)").expect("text");
        assert!(matches!(check(&empty), Err(CheckError::Memory)));
        let bare = wat::parse_str(r#"(module (memory (export "memory") 1))"#).expect("text");
        assert!(matches!(check(&bare), Err(CheckError::Export { name: "og_alloc", .. })));
    }
}
