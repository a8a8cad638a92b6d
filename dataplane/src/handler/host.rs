//! A shard's handlers: instances ready per version, snapshots per parameter set, one call per request.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use handlers_sdk_abi::action::{Action, Context};
use handlers_sdk_abi::answer::Answer;
use handlers_sdk_abi::event::EventKind;
use handlers_sdk_abi::limits::INBOX_BYTES;
use handlers_sdk_abi::operation::Slots as Operations;
use handlers_sdk_abi::view::RequestView;

use super::Actions;
use super::error::{HandlerError, ProtocolError};
use super::instance::{Instance, Restore, Snapshot};
use super::loaded::Loaded;
use super::memory::{PAGE_BYTES, Slots};
use super::watchdog::{Seat, Watchdog};
use crate::limits::{HANDLER_FUEL, HANDLER_INSTANCES_MAX, HANDLER_MEMORY_BYTES, HANDLER_SNAPSHOT_BYTES_MAX};

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
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            memory_bytes: HANDLER_MEMORY_BYTES,
            instances_max: HANDLER_INSTANCES_MAX,
            fuel: HANDLER_FUEL,
            snapshot_bytes_max: HANDLER_SNAPSHOT_BYTES_MAX,
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
        })
    }

    /// A host that leaves out steps of restoring. For the test that must notice each; a plane never calls it.
    #[doc(hidden)]
    pub fn with_restore(mut self, restore: Restore) -> Self {
        self.restore = restore;
        self
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
        let bytes = view.encoded_len().map_err(HandlerError::View)?;
        // Taken out while it runs: whatever goes wrong below, it does not come back.
        let (mut live, inbox) = self.ready(loaded, params)?;
        let instance = &mut live.instance;
        let space = match u32::try_from(bytes) {
            Ok(bytes) if bytes <= INBOX_BYTES => inbox,
            Ok(bytes) => instance.allocate(&mut self.seat, self.config.fuel, bytes)?,
            Err(_) => return Err(ProtocolError::Space { bytes: u32::MAX }.into()),
        } as usize;
        let room = instance
            .memory_mut()
            .get_mut(space..space + bytes)
            .ok_or(ProtocolError::Space { bytes: bytes as u32 })?;
        view.encode_into(room).map_err(HandlerError::View)?;
        let kind = EventKind::Request;
        let answer =
            instance.event(&mut self.seat, self.config.fuel, kind.code(), space as u32, bytes as u32);
        self.fuel_spent = self.config.fuel.saturating_sub(instance.fuel_left()).unsigned_abs();
        let answer = answer?;
        let actions = read_actions(instance, kind, answer)?;
        live.instance.restore(&live.equals, self.restore);
        if let Some(version) = self.versions.get_mut(&loaded.id()) {
            version.live = Some(live);
        }
        Ok(actions)
    }

    /// Makes an instance with these parameters ready, so that the first request does not wait for it.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn warm(&mut self, loaded: &Arc<Loaded>, params: &[u8]) -> Result<(), HandlerError> {
        let (live, _) = self.ready(loaded, params)?;
        if let Some(version) = self.versions.get_mut(&loaded.id()) {
            version.live = Some(live);
        }
        Ok(())
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

    /// An instance that has taken these parameters and nothing else, and where its inbox is.
    fn ready(&mut self, loaded: &Arc<Loaded>, params: &[u8]) -> Result<(Live, u32), HandlerError> {
        self.turn += 1;
        if !self.versions.contains_key(&loaded.id()) {
            self.sweep();
            let version = Version {
                loaded: loaded.clone(),
                live: None,
                fresh: None,
                prepared: Map::default(),
                used: self.turn,
            };
            self.versions.insert(loaded.id(), version);
        }
        let (mut live, fresh) = self.alive(loaded)?;
        let snapshot =
            self.versions.get_mut(&loaded.id()).and_then(|version| version.prepared.get_mut(params));
        if let Some(prepared) = snapshot {
            prepared.used = self.turn;
            if !Rc::ptr_eq(&live.equals, &prepared.snapshot) {
                live.instance.restore(&prepared.snapshot, Restore::ALL);
                live.equals = prepared.snapshot.clone();
            }
            return Ok((live, fresh.inbox));
        }
        let snapshot = self.prepare(&mut live, &fresh, params)?;
        self.keep(loaded.id(), params, snapshot);
        Ok((live, fresh.inbox))
    }

    /// The version's instance, made where there is none.
    fn alive(&mut self, loaded: &Arc<Loaded>) -> Result<(Live, Fresh), HandlerError> {
        if let Some(version) = self.versions.get_mut(&loaded.id()) {
            version.used = self.turn;
            if let (Some(live), Some(fresh)) = (version.live.take(), version.fresh.clone()) {
                return Ok((live, fresh));
            }
        }
        let slot = match self.slots.take() {
            Some(slot) => slot,
            None => {
                self.evict();
                let full =
                    || HandlerError::Instantiate { reason: "every slot of this shard is taken".into() };
                self.slots.take().ok_or_else(full)?
            }
        };
        let mut instance = Instance::make(loaded, slot)?;
        let known = self.versions.get(&loaded.id()).and_then(|version| version.fresh.clone());
        let fresh = match known {
            // A snapshot of an earlier instance fits any later one of the version.
            Some(fresh) => {
                instance.restore(&fresh.snapshot, Restore::ALL);
                fresh
            }
            None => {
                let inbox = instance.allocate(&mut self.seat, self.config.fuel, INBOX_BYTES)?;
                let fresh = Fresh { snapshot: Rc::new(instance.snapshot()), inbox };
                if let Some(version) = self.versions.get_mut(&loaded.id()) {
                    version.fresh = Some(fresh.clone());
                }
                fresh
            }
        };
        let equals = fresh.snapshot.clone();
        Ok((Live { instance, equals }, fresh))
    }

    /// Hands parameters to an instance that has none, and remembers what it is then.
    fn prepare(
        &mut self,
        live: &mut Live,
        fresh: &Fresh,
        params: &[u8],
    ) -> Result<Rc<Snapshot>, HandlerError> {
        let instance = &mut live.instance;
        if !Rc::ptr_eq(&live.equals, &fresh.snapshot) {
            instance.restore(&fresh.snapshot, Restore::ALL);
        }
        let fuel = self.config.fuel;
        let bytes = u32::try_from(params.len()).map_err(|_| ProtocolError::Space { bytes: u32::MAX })?;
        let at = match bytes {
            0 => 0,
            bytes => instance.allocate(&mut self.seat, fuel, bytes)?,
        };
        let room = instance.memory_mut().get_mut(at as usize..at as usize + params.len());
        room.ok_or(ProtocolError::Space { bytes })?.copy_from_slice(params);
        let answer = instance.init(&mut self.seat, fuel, at, bytes)?;
        if answer != 0 {
            return Err(refusal_of_params(instance, answer)?);
        }
        let snapshot = Rc::new(instance.snapshot());
        live.equals = snapshot.clone();
        Ok(snapshot)
    }

    /// Keeps a snapshot for the next request with these parameters, and forgets the oldest ones beyond the bound.
    fn keep(&mut self, id: u64, params: &[u8], snapshot: Rc<Snapshot>) {
        self.snapshot_bytes += snapshot.len() + params.len();
        while self.snapshot_bytes > self.config.snapshot_bytes_max && self.forget_oldest() {}
        if let Some(version) = self.versions.get_mut(&id) {
            version.prepared.insert(params.into(), Prepared { snapshot, used: self.turn });
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let kept = self.versions.values_mut().filter_map(|version| {
            let (params, used) =
                version.prepared.iter().map(|(key, kept)| (key.clone(), kept.used)).min_by_key(|x| x.1)?;
            Some((used, version, params))
        });
        let Some((_, version, params)) = kept.min_by_key(|(used, ..)| *used) else { return false };
        if let Some(gone) = version.prepared.remove(&params) {
            self.snapshot_bytes = self.snapshot_bytes.saturating_sub(gone.snapshot.len() + params.len());
        }
        true
    }

    fn count_snapshots(&mut self) {
        let kept = self.versions.values().flat_map(|version| version.prepared.iter());
        self.snapshot_bytes = kept.map(|(params, kept)| params.len() + kept.snapshot.len()).sum();
    }

    /// Drops the instance that was not used for longest.
    fn evict(&mut self) {
        let oldest =
            self.versions.values_mut().filter(|version| version.live.is_some()).min_by_key(|v| v.used);
        if let Some(version) = oldest {
            version.live = None;
        }
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

/// What `og_init` said against its parameters.
fn refusal_of_params(instance: &Instance, answer: i64) -> Result<HandlerError, HandlerError> {
    let actions = read_actions(instance, EventKind::Request, answer)?;
    let message = match actions.outcome() {
        Some(Action::Error { message }) => message.to_owned(),
        _ => "it gave no reason".to_owned(),
    };
    Ok(HandlerError::Params { message })
}
