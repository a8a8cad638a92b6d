//! A shard's handlers: instances ready per version, snapshots per parameter set, one call per request.

mod ready;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use handlers_sdk_abi::action::Context;
use handlers_sdk_abi::answer::Answer;
use handlers_sdk_abi::event::EventKind;
use handlers_sdk_abi::limits::INBOX_BYTES;
use handlers_sdk_abi::operation::Slots as Operations;
use handlers_sdk_abi::view::RequestView;

use super::Actions;
use super::budget::{Budget, Call};
use super::error::{HandlerError, ProtocolError};
use super::instance::{Instance, Restore, Snapshot};
use super::kept::{CHUNK_SPACE_BYTES, Held, Kept, Next, Room, Space};
use super::loaded::Loaded;
use super::memory::{PAGE_BYTES, Slots};
use super::watchdog::{Seat, Watchdog};
use crate::limits::{
    HANDLER_EXCHANGE_EVENTS, HANDLER_FUEL, HANDLER_INSTANCES_MAX, HANDLER_KEPT_SHARD_BYTES_MAX,
    HANDLER_MEMORY_BYTES, HANDLER_SNAPSHOT_BYTES_MAX,
};

/// Bounds of one shard's handlers. `Default` is what a plane uses.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// Memory of an instance in bytes, a multiple of 64 KiB.
    pub memory_bytes: usize,
    /// Live instances.
    pub instances_max: usize,
    /// Turns per event.
    pub fuel: i64,
    /// Bytes of snapshots kept.
    pub snapshot_bytes_max: usize,
    /// Bytes of what handlers remember of open exchanges.
    pub kept_bytes_max: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            memory_bytes: HANDLER_MEMORY_BYTES,
            instances_max: HANDLER_INSTANCES_MAX,
            fuel: HANDLER_FUEL,
            snapshot_bytes_max: HANDLER_SNAPSHOT_BYTES_MAX,
            kept_bytes_max: HANDLER_KEPT_SHARD_BYTES_MAX,
        }
    }
}

/// Keys are numbers of ours and parameters that operators wrote; four look-ups per call make the hash count.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The handlers of one shard. Stays on its thread.
pub struct Host {
    config: HostConfig,
    restore: Restore,
    versions: Map<u64, Version>,
    slots: Rc<Slots>,
    seat: Seat,
    /// Counts calls, to find what was not used for longest.
    turn: u64,
    snapshot_bytes: usize,
    /// Turns of the last call.
    fuel_spent: u64,
    /// What handlers remember of open exchanges.
    room: Rc<Room>,
    /// Turns of all calls of one exchange, beside what its bytes add.
    exchange_fuel: i64,
}

/// What a shard keeps for one version. Calls do not overlap, so one instance serves them all.
struct Version {
    loaded: Arc<Loaded>,
    live: Option<Live>,
    /// After instantiation and the making of the inbox, before any parameters.
    fresh: Option<Fresh>,
    prepared: Map<Box<[u8]>, Prepared>,
    used: u64,
}

#[derive(Clone)]
struct Fresh {
    snapshot: Rc<Snapshot>,
    inbox: u32,
}

struct Prepared {
    snapshot: Rc<Snapshot>,
    used: u64,
}

/// An instance, and the snapshot that it equals.
struct Live {
    instance: Instance,
    equals: Rc<Snapshot>,
}

impl Host {
    /// Reserves the shard's memory and takes its seat at the watchdog. Call on the shard's thread.
    ///
    /// # Errors
    /// Where address space or a clock is refused, or a bound is not a multiple of 64 KiB.
    pub fn new(config: HostConfig, watchdog: &Watchdog) -> io::Result<Self> {
        let slots = Slots::reserve(config.instances_max, config.memory_bytes.next_multiple_of(PAGE_BYTES))?;
        let seat = watchdog.seat()?;
        Ok(Self {
            config,
            restore: Restore::ALL,
            versions: Map::default(),
            slots,
            seat,
            turn: 0,
            snapshot_bytes: 0,
            fuel_spent: 0,
            room: Room::new("the shard", config.kept_bytes_max),
            exchange_fuel: config.fuel.saturating_mul(HANDLER_EXCHANGE_EVENTS),
        })
    }

    /// A host that leaves out steps of restoring. For the test that must notice each; a plane never calls it.
    #[doc(hidden)]
    pub fn with_restore(mut self, restore: Restore) -> Self {
        self.restore = restore;
        self
    }

    /// Does what calls handlers for a sandbox, and charges its budget with the time that it took.
    ///
    /// # Errors
    /// As what is done.
    pub fn metered<T>(
        &mut self,
        budget: &Budget,
        calls: impl FnOnce(&mut Self) -> Result<T, HandlerError>,
    ) -> Result<T, HandlerError> {
        let (began, before) = (Instant::now(), self.seat.calls());
        let outcome = calls(self);
        let stopped = matches!(outcome, Err(HandlerError::FuelExhausted | HandlerError::TimeExceeded));
        let call = if stopped || self.seat.held_up_after(before) { Call::HeldUp } else { Call::Passed };
        let now = Instant::now();
        budget.charge(now - began, call, now);
        outcome
    }

    /// Runs the handler for one request's head and answers what it asked for, validated whole.
    ///
    /// `params` is JSON. The instance is afterwards what it was before, and is gone where the call failed.
    ///
    /// # Errors
    /// Every way in which a handler fails has its own name; no action of a failed call may be applied.
    pub fn call(
        &mut self,
        loaded: &Arc<Loaded>,
        params: &[u8],
        view: &RequestView<'_>,
    ) -> Result<Actions, HandlerError> {
        let (mut live, _, actions) = self.first(loaded, params, view)?;
        live.instance.restore(&live.equals, self.restore);
        self.park(loaded, live);
        Ok(actions)
    }

    /// As [`call`](Self::call), for a handler that is called again for the same exchange: what it remembers is kept,
    /// within the room of its sandbox and that of the shard.
    ///
    /// # Errors
    /// As `call`, and [`HandlerError::TooMuchKept`].
    pub fn begin(
        &mut self,
        loaded: &Arc<Loaded>,
        params: &[u8],
        view: &RequestView<'_>,
        room: &Rc<Room>,
    ) -> Result<(Actions, Kept), HandlerError> {
        let (mut live, space, actions) = self.first(loaded, params, view)?;
        let held = Held::take([room, &self.room], live.instance.size());
        let kept = held.map(|held| {
            let fuel = self.exchange_fuel.saturating_sub_unsigned(self.fuel_spent);
            let snapshot = Rc::new(live.instance.snapshot());
            live.equals = Rc::clone(&snapshot);
            Kept { loaded: Arc::clone(loaded), snapshot, space, fuel, held }
        });
        // Where it is not kept, the next call puts the instance back before anything else.
        if kept.is_err() {
            live.instance.restore(&live.equals, Restore::ALL);
        }
        self.park(loaded, live);
        Ok((actions, kept?))
    }

    /// Tells a handler of the next event of an exchange. It goes on where it stopped, in whichever instance of its
    /// version.
    ///
    /// # Errors
    /// As [`begin`](Self::begin). What was kept is of no use then, and must be dropped.
    pub fn resume(&mut self, kept: &mut Kept, next: &Next<'_>) -> Result<Actions, HandlerError> {
        let loaded = Arc::clone(&kept.loaded);
        let bytes = next.len().map_err(HandlerError::View)?;
        kept.fuel = kept.fuel.saturating_add(next.fuel());
        let fuel = kept.fuel.min(self.config.fuel);
        if fuel <= 0 {
            return Err(HandlerError::FuelExhausted);
        }
        self.turn += 1;
        self.enter(&loaded);
        let (mut live, fresh) = self.alive(&loaded)?;
        if !Rc::ptr_eq(&live.equals, &kept.snapshot) {
            live.instance.restore(&kept.snapshot, Restore::ALL);
        }
        // Held by nobody else then, so that its space is used again.
        live.equals = fresh.snapshot;
        let wanted = if bytes > kept.space.bytes as usize { bytes.max(CHUNK_SPACE_BYTES) } else { bytes };
        let at = self.space(&mut live.instance, &mut kept.space, wanted)?;
        let room = live.instance.memory_mut().get_mut(at..at + bytes);
        next.encode_into(room.ok_or(ProtocolError::Space { bytes: bytes as u32 })?);
        let kind = next.kind();
        let answer = live.instance.event(&mut self.seat, fuel, kind.code(), at as u32, bytes as u32);
        self.fuel_spent = fuel.saturating_sub(live.instance.fuel_left()).unsigned_abs();
        kept.fuel = kept.fuel.saturating_sub_unsigned(self.fuel_spent);
        let actions = read_actions(&live.instance, kind, answer?)?;
        kept.held.resize(live.instance.size())?;
        match Rc::get_mut(&mut kept.snapshot) {
            Some(snapshot) => live.instance.snapshot_into(snapshot),
            None => kept.snapshot = Rc::new(live.instance.snapshot()),
        }
        live.equals = Rc::clone(&kept.snapshot);
        self.park(&loaded, live);
        Ok(actions)
    }

    /// The first event of an exchange: the instance as it is then, where its inbox lies, and what it asked for.
    fn first(
        &mut self,
        loaded: &Arc<Loaded>,
        params: &[u8],
        view: &RequestView<'_>,
    ) -> Result<(Live, Space, Actions), HandlerError> {
        let bytes = view.encoded_len().map_err(HandlerError::View)?;
        // Taken out while it runs: whatever goes wrong below, it does not come back.
        let (mut live, inbox) = self.ready(loaded, params)?;
        let mut space = Space { at: inbox, bytes: INBOX_BYTES };
        let at = self.space(&mut live.instance, &mut space, bytes)?;
        let room = live.instance.memory_mut().get_mut(at..at + bytes);
        view.encode_into(room.ok_or(ProtocolError::Space { bytes: bytes as u32 })?)
            .map_err(HandlerError::View)?;
        let kind = EventKind::Request;
        let answer =
            live.instance.event(&mut self.seat, self.config.fuel, kind.code(), at as u32, bytes as u32);
        self.fuel_spent = self.config.fuel.saturating_sub(live.instance.fuel_left()).unsigned_abs();
        let actions = read_actions(&live.instance, kind, answer?)?;
        Ok((live, space, actions))
    }

    /// Where a payload goes: where the last one went, if it fits there.
    fn space(
        &mut self,
        instance: &mut Instance,
        space: &mut Space,
        bytes: usize,
    ) -> Result<usize, HandlerError> {
        let bytes = u32::try_from(bytes).map_err(|_| ProtocolError::Space { bytes: u32::MAX })?;
        if bytes > space.bytes {
            *space = Space { at: instance.allocate(&mut self.seat, self.config.fuel, bytes)?, bytes };
        }
        Ok(space.at as usize)
    }

    /// Puts an instance back to where the next call finds it.
    fn park(&mut self, loaded: &Loaded, live: Live) {
        if let Some(version) = self.versions.get_mut(&loaded.id()) {
            version.live = Some(live);
        }
    }

    /// Makes an instance with these parameters ready, so that the first request does not wait for it.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn warm(&mut self, loaded: &Arc<Loaded>, params: &[u8]) -> Result<(), HandlerError> {
        let (live, _) = self.ready(loaded, params)?;
        self.park(loaded, live);
        Ok(())
    }

    /// Bytes that handlers remember of open exchanges now.
    pub fn kept_bytes(&self) -> usize {
        self.room.used()
    }

    /// Drops everything of versions that nobody else holds any more.
    pub fn sweep(&mut self) {
        self.versions.retain(|_, version| Arc::strong_count(&version.loaded) > 1);
        self.count_snapshots();
    }

    /// Turns that the last call took, where it came as far as the request.
    pub fn fuel_spent(&self) -> u64 {
        self.fuel_spent
    }

    /// Instances alive now.
    pub fn instances(&self) -> usize {
        self.versions.values().filter(|version| version.live.is_some()).count()
    }
}

/// Reads the list that an answer names, out of the guest's memory into one of ours, and validates it.
fn read_actions(instance: &Instance, event: EventKind, answer: i64) -> Result<Actions, HandlerError> {
    let answer = Answer::decode(answer).map_err(ProtocolError::Answer)?;
    let start = answer.pointer as usize;
    let bounds = ProtocolError::ListBounds { pointer: answer.pointer, len: answer.len };
    let bytes = instance.memory().get(start..start + answer.len as usize).ok_or(bounds)?;
    if answer.pending {
        return Err(HandlerError::Pending);
    }
    let context = Context { event, busy: Operations::NONE, pending: false };
    Ok(Actions::decode(bytes.to_vec(), context)?)
}
