//! The budget inside compiled code: fuel and a flag, looked at wherever a guest could stay.
//!
//! Two globals are added behind the module's own, so no instruction of the guest can name them. Every function entry,
//! every loop turn and every bulk operation takes one unit of fuel and looks at the flag. Fuel is the repeatable bound;
//! the flag, which the plane's watchdog raises, bounds time, because a unit of fuel may be long. Bulk operations have a
//! look of their own: without it, one body of many fills would keep the flag waiting for a tenth of a second.

use std::sync::OnceLock;

use control_wire::envelope::{FLAG_EXPORT, FUEL_EXPORT};
use wasmer::sys::{FunctionMiddleware, MiddlewareError, MiddlewareReaderState, ModuleMiddleware};
use wasmer::{ExportIndex, GlobalInit, GlobalType, LocalFunctionIndex, Mutability, Type};
use wasmer_types::{GlobalIndex, ModuleInfo};
use wasmparser::{BlockType, Operator};

/// Adds the budget to a module while it is compiled. One for each compilation.
#[derive(Debug, Default)]
pub(super) struct Budget {
    globals: OnceLock<Globals>,
}

#[derive(Debug, Clone, Copy)]
struct Globals {
    fuel: GlobalIndex,
    flag: GlobalIndex,
}

impl ModuleMiddleware for Budget {
    fn generate_function_middleware<'a>(
        &self,
        _: LocalFunctionIndex,
    ) -> Box<dyn FunctionMiddleware<'a> + 'a> {
        // The module's info is always transformed before its functions.
        let globals = *self.globals.get().expect("Wasmer transforms the module before its functions");
        Box::new(Looks { globals, entered: false })
    }

    fn transform_module_info(&self, module: &mut ModuleInfo) -> Result<(), MiddlewareError> {
        let fuel = module.globals.push(GlobalType::new(Type::I64, Mutability::Var));
        // None until the host gives some.
        module.global_initializers.push(GlobalInit::I64Const(0));
        let flag = module.globals.push(GlobalType::new(Type::I32, Mutability::Var));
        module.global_initializers.push(GlobalInit::I32Const(0));
        for (name, global) in [(FUEL_EXPORT, fuel), (FLAG_EXPORT, flag)] {
            if module.exports.insert(name.to_owned(), ExportIndex::Global(global)).is_some() {
                return Err(MiddlewareError::new("budget", format!("the export {name:?} is the host's")));
            }
        }
        self.globals
            .set(Globals { fuel, flag })
            .map_err(|_| MiddlewareError::new("budget", "one budget was used for two modules".to_owned()))
    }
}

#[derive(Debug)]
struct Looks {
    globals: Globals,
    entered: bool,
}

impl Looks {
    fn push(&self, state: &mut MiddlewareReaderState<'_>) {
        let (fuel, flag) = (self.globals.fuel.as_u32(), self.globals.flag.as_u32());
        state.extend([
            Operator::GlobalGet { global_index: fuel },
            Operator::I64Const { value: 1 },
            Operator::I64Sub,
            Operator::GlobalSet { global_index: fuel },
            Operator::GlobalGet { global_index: fuel },
            Operator::I64Const { value: 0 },
            Operator::I64LtS,
            Operator::If { blockty: BlockType::Empty },
            Operator::Unreachable,
            Operator::End,
            Operator::GlobalGet { global_index: flag },
            Operator::If { blockty: BlockType::Empty },
            Operator::Unreachable,
            Operator::End,
        ]);
    }
}

impl<'a> FunctionMiddleware<'a> for Looks {
    fn feed(
        &mut self,
        operator: Operator<'a>,
        state: &mut MiddlewareReaderState<'a>,
    ) -> Result<(), MiddlewareError> {
        let bulk = matches!(
            operator,
            Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } | Operator::MemoryGrow { .. }
        );
        if !self.entered || bulk {
            self.entered = true;
            self.push(state);
        }
        let turns = matches!(operator, Operator::Loop { .. });
        state.push_operator(operator);
        if turns {
            self.push(state);
        }
        Ok(())
    }
}
