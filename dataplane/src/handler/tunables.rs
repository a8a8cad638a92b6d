//! What Wasmer may create for a guest: one memory in a slot, small tables, a bounded stack, nothing of the host's.
#![allow(unsafe_code, reason = "Wasmer's trait for memories and tables of its own is unsafe")]

use std::ptr::NonNull;

use wasmer::sys::{BaseTunables, Tunables};
use wasmer_types::{MemoryError, MemoryStyle, MemoryType, TableType};
use wasmer_vm::{TableStyle, VMConfig, VMMemory, VMMemoryDefinition, VMTable, VMTableDefinition};

use super::memory::SlotMemory;
use crate::limits::{HANDLER_STACK_BYTES, HANDLER_TABLE_ENTRIES_MAX};

/// The one style of the fleet.
pub(super) const STYLE: MemoryStyle = MemoryStyle::Dynamic { offset_guard_size: 0 };

/// Our rules for what instances are made of.
pub(super) struct SlotTunables {
    base: BaseTunables,
    config: VMConfig,
}

impl SlotTunables {
    pub(super) fn new() -> Self {
        // Wasmer keeps a pool of stacks without looking at their size, so the process has one size.
        Self { base: BaseTunables::new(), config: VMConfig { wasm_stack_size: Some(HANDLER_STACK_BYTES) } }
    }
}

impl Tunables for SlotTunables {
    fn memory_style(&self, _memory: &MemoryType) -> MemoryStyle {
        STYLE
    }

    fn table_style(&self, table: &TableType) -> TableStyle {
        self.base.table_style(table)
    }

    fn create_host_memory(&self, _kind: &MemoryType, _style: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        Err(MemoryError::Generic("handlers bring their own memory".into()))
    }

    unsafe fn create_vm_memory(
        &self,
        kind: &MemoryType,
        style: &MemoryStyle,
        definition: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        // The style is the one the code was compiled for. Code of style Static has no bounds checks and would read
        // into the next slot.
        if *style != STYLE {
            return Err(MemoryError::Generic(format!(
                "code of memory style {style:?}, only {STYLE:?} is run"
            )));
        }
        if kind.shared {
            return Err(MemoryError::Generic("shared memory is not run".into()));
        }
        // SAFETY: Wasmer passes space for the definition inside the instance that owns the memory.
        let memory = unsafe { SlotMemory::create(kind, definition) }?;
        Ok(VMMemory(Box::new(memory)))
    }

    fn create_host_table(&self, _kind: &TableType, _style: &TableStyle) -> Result<VMTable, String> {
        Err("handlers bring their own tables".into())
    }

    unsafe fn create_vm_table(
        &self,
        kind: &TableType,
        style: &TableStyle,
        definition: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        if kind.minimum > HANDLER_TABLE_ENTRIES_MAX {
            return Err(format!(
                "a table of {} entries, at most {HANDLER_TABLE_ENTRIES_MAX} are run",
                kind.minimum
            ));
        }
        // SAFETY: the caller's promise about the definition is passed on unchanged.
        unsafe { self.base.create_vm_table(kind, style, definition) }
    }

    fn vmconfig(&self) -> &VMConfig {
        &self.config
    }
}
