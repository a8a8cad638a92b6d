//! One live instance of a handler on one shard: running an export within its budget, and putting everything back.
#![allow(unsafe_code, reason = "tells the watchdog where the flag of a running guest lies")]

use std::ptr::NonNull;

use handlers_sdk_abi::limits::PANIC_BYTES_MAX;
use handlers_sdk_abi::names::{
    EXPORT_ALLOC, EXPORT_EVENT, EXPORT_INIT, EXPORT_MEMORY, IMPORT_MODULE, IMPORT_PANIC,
};
use wasmer::{
    AsStoreMut, Function, FunctionEnv, FunctionEnvMut, Imports, Memory, RuntimeError, Store, TypedFunction,
};
use wasmer_types::TrapCode;

use super::error::{HandlerError, ProtocolError};
use super::loaded::Loaded;
use super::memory::{Placed, Slot};
use super::watchdog::Seat;

/// What is put back after a call. Everything, always; a test of isolation leaves out one step to see itself fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The contents of memory.
    pub memory: bool,
    /// Its size.
    pub size: bool,
    /// The globals.
    pub globals: bool,
}

impl Restore {
    /// What a plane does.
    pub const ALL: Self = Self { memory: true, size: true, globals: true };
}

/// Memory and globals of an instance at one moment, to be put into any instance of the same version.
pub(super) struct Snapshot {
    memory: Box<[u8]>,
    globals: Box<[u128]>,
}

impl Snapshot {
    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.memory.len() + self.globals.len() * size_of::<u128>()
    }
}

/// A panic as the guest told it.
#[derive(Debug)]
struct GuestPanic(String);

impl std::fmt::Display for GuestPanic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GuestPanic {}

/// An instance with its store. Fields are dropped in this order: the slot goes back after the instance is gone.
pub(super) struct Instance {
    alloc: TypedFunction<u32, u32>,
    init: TypedFunction<(u32, u32), i64>,
    event: TypedFunction<(u32, u32, u32), i64>,
    fuel: usize,
    flag: usize,
    flag_at: NonNull<i32>,
    store: Store,
    memory: Placed,
}

impl Instance {
    /// Instantiates a version in a slot. Runs no code of the guest.
    pub(super) fn make(loaded: &Loaded, slot: Slot) -> Result<Self, HandlerError> {
        let fail = |reason: String| HandlerError::Instantiate { reason };
        let mut store = Store::new(loaded.engine.clone());
        let env = FunctionEnv::new(&mut store, None::<Memory>);
        let mut imports = Imports::new();
        imports.define(IMPORT_MODULE, IMPORT_PANIC, Function::new_typed_with_env(&mut store, &env, panic));
        let made = Placed::instantiate(slot, || {
            wasmer::Instance::new(&mut store, &loaded.module, &imports)
                .map_err(|error| fail(error.to_string()))
        })?;
        let (instance, memory) = made.ok_or_else(|| fail("the module has no memory of its own".into()))?;
        let exports = &instance.exports;
        let seen = exports.get_memory(EXPORT_MEMORY).map_err(|error| fail(error.to_string()))?.clone();
        *env.as_mut(&mut store) = Some(seen);
        let alloc =
            exports.get_typed_function(&store, EXPORT_ALLOC).map_err(|error| fail(error.to_string()))?;
        let init =
            exports.get_typed_function(&store, EXPORT_INIT).map_err(|error| fail(error.to_string()))?;
        let event =
            exports.get_typed_function(&store, EXPORT_EVENT).map_err(|error| fail(error.to_string()))?;
        // The host makes no globals and the module imports none, so the store numbers them as the module does.
        let flag_at = store
            .as_store_mut()
            .objects_mut()
            .as_sys()
            .iter_globals()
            .nth(loaded.flag)
            .map(|global| global.vmglobal().cast::<i32>())
            .ok_or_else(|| fail("the flag is not where the module says".into()))?;
        Ok(Self { alloc, init, event, fuel: loaded.fuel, flag: loaded.flag, flag_at, store, memory })
    }

    /// Asks the guest for space of `bytes` bytes and answers where it is.
    pub(super) fn allocate(&mut self, seat: &mut Seat, fuel: i64, bytes: u32) -> Result<u32, HandlerError> {
        let alloc = self.alloc.clone();
        let pointer = self.run(seat, fuel, |store| alloc.call(store, bytes))?;
        let end = (pointer as usize).checked_add(bytes as usize);
        match end {
            Some(end) if pointer != 0 && end <= self.memory.len() => Ok(pointer),
            _ => Err(ProtocolError::Space { bytes }.into()),
        }
    }

    /// Hands parameters over, which lie in memory already. Zero is success.
    pub(super) fn init(
        &mut self,
        seat: &mut Seat,
        fuel: i64,
        at: u32,
        bytes: u32,
    ) -> Result<i64, HandlerError> {
        let init = self.init.clone();
        self.run(seat, fuel, |store| init.call(store, at, bytes))
    }

    /// Tells the guest of an event whose payload lies in memory already.
    pub(super) fn event(
        &mut self,
        seat: &mut Seat,
        fuel: i64,
        kind: u32,
        at: u32,
        bytes: u32,
    ) -> Result<i64, HandlerError> {
        let event = self.event.clone();
        self.run(seat, fuel, |store| event.call(store, kind, at, bytes))
    }

    /// The guest's memory.
    pub(super) fn memory(&self) -> &[u8] {
        self.memory.bytes()
    }

    /// The guest's memory, to be written by the host.
    pub(super) fn memory_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    fn run<T>(
        &mut self,
        seat: &mut Seat,
        fuel: i64,
        call: impl FnOnce(&mut Store) -> Result<T, RuntimeError>,
    ) -> Result<T, HandlerError> {
        self.set_global(self.fuel, fuel as u64 as u128);
        self.set_global(self.flag, 0);
        let store = &mut self.store;
        // SAFETY: the flag is a global of the instance in `store`, aligned to 16 bytes, and neither is dropped before
        // the call returns, because `self` is borrowed until then.
        let result = unsafe { seat.run(self.flag_at, || call(store)) };
        self.memory.note_growth();
        let refused = self.memory.take_refused();
        result.map_err(|error| self.classify(&error, refused))
    }

    /// Exhaustion, the flag and a guest's own `unreachable` are the same trap; the two globals tell them apart.
    fn classify(&mut self, error: &RuntimeError, refused: bool) -> HandlerError {
        if let Some(GuestPanic(message)) = error.downcast_ref() {
            return HandlerError::Panic { message: message.clone() };
        }
        match error.clone().to_trap() {
            Some(TrapCode::StackOverflow) => HandlerError::StackOverflow,
            Some(TrapCode::UnreachableCodeReached) => {
                let flag = self.store.as_store_mut().objects_mut().as_u128_globals()[self.flag];
                if self.fuel_left() < 0 {
                    HandlerError::FuelExhausted
                } else if flag as u32 != 0 {
                    HandlerError::TimeExceeded
                } else if refused {
                    HandlerError::OutOfMemory
                } else {
                    HandlerError::Trap { reason: TrapCode::UnreachableCodeReached.message().to_owned() }
                }
            }
            Some(code) => HandlerError::Trap { reason: code.message().to_owned() },
            None => HandlerError::Trap { reason: error.message() },
        }
    }

    /// What the last call left of its fuel; negative where that was not enough.
    pub(super) fn fuel_left(&mut self) -> i64 {
        let globals = self.store.as_store_mut().objects_mut().as_u128_globals();
        globals[self.fuel] as u64 as i64
    }

    fn set_global(&mut self, index: usize, value: u128) {
        self.store.as_store_mut().objects_mut().set_global_unchecked(index, value);
    }

    /// Bytes of its memory, which is what a copy of it takes but for a few globals.
    pub(super) fn size(&self) -> usize {
        self.memory.len()
    }

    /// Copies out what the instance is now.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let globals = self.store.as_store_mut().objects_mut().as_u128_globals();
        Snapshot { memory: self.memory.bytes().into(), globals: globals.into() }
    }

    /// Copies out what the instance is now, into the space of an older copy.
    pub(super) fn snapshot_into(&mut self, snapshot: &mut Snapshot) {
        if snapshot.memory.len() != self.memory.len() {
            *snapshot = self.snapshot();
            return;
        }
        snapshot.memory.copy_from_slice(self.memory.bytes());
        snapshot.globals = self.store.as_store_mut().objects_mut().as_u128_globals().into();
    }

    /// Makes the instance what the snapshot says: size first, so that what was grown is zero when it grows again.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, what: Restore) {
        if what.size {
            self.memory.resize(snapshot.memory.len());
        }
        if what.memory {
            let bytes = snapshot.memory.len().min(self.memory.len());
            self.memory.bytes_mut()[..bytes].copy_from_slice(&snapshot.memory[..bytes]);
        }
        if what.globals {
            for (index, value) in snapshot.globals.iter().enumerate() {
                self.set_global(index, *value);
            }
        }
        debug_assert!(
            what != Restore::ALL || self.equals(snapshot),
            "a restored instance equals its snapshot"
        );
    }

    /// Whether memory, size and globals are what the snapshot says.
    fn equals(&mut self, snapshot: &Snapshot) -> bool {
        let globals = self.store.as_store_mut().objects_mut().as_u128_globals();
        *self.memory.bytes() == *snapshot.memory && globals == *snapshot.globals
    }
}

/// The one import: a panic's words. It ends the call itself, so a guest cannot use it as a channel or a loop.
fn panic(env: FunctionEnvMut<'_, Option<Memory>>, pointer: u32, len: u32) -> Result<(), RuntimeError> {
    let len = (len as usize).min(PANIC_BYTES_MAX);
    let mut words = vec![0; len];
    let read = match env.data() {
        Some(memory) => memory.view(&env).read(u64::from(pointer), &mut words).is_ok(),
        None => false,
    };
    let message = if read {
        String::from_utf8_lossy(&words).into_owned()
    } else {
        "its message lies outside its memory".to_owned()
    };
    Err(RuntimeError::user(Box::new(GuestPanic(message))))
}
