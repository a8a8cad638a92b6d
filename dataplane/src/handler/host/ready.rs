//! Instances ready to be called: made at first use, given their parameters, and evicted when slots run out.

use std::rc::Rc;
use std::sync::Arc;

use handlers_sdk_abi::action::Action;
use handlers_sdk_abi::event::EventKind;
use handlers_sdk_abi::limits::INBOX_BYTES;

use super::super::error::{HandlerError, ProtocolError};
use super::super::instance::{Instance, Restore, Snapshot};
use super::super::loaded::Loaded;
use super::{Fresh, Host, Live, Map, Prepared, Version, read_actions};

impl Host {
    /// An instance that has taken these parameters and nothing else, and where its inbox is.
    pub(super) fn ready(&mut self, loaded: &Arc<Loaded>, params: &[u8]) -> Result<(Live, u32), HandlerError> {
        self.turn += 1;
        self.enter(loaded);
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

    /// Makes a place for a version.
    pub(super) fn enter(&mut self, loaded: &Arc<Loaded>) {
        if self.versions.contains_key(&loaded.id()) {
            return;
        }
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

    /// The version's instance, made where there is none.
    pub(super) fn alive(&mut self, loaded: &Arc<Loaded>) -> Result<(Live, Fresh), HandlerError> {
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

    pub(super) fn count_snapshots(&mut self) {
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

/// What `og_init` said against its parameters.
fn refusal_of_params(instance: &Instance, answer: i64) -> Result<HandlerError, HandlerError> {
    let actions = read_actions(instance, EventKind::Request, answer)?;
    let message = match actions.outcome() {
        Some(Action::Error { message }) => message.to_owned(),
        _ => "it gave no reason".to_owned(),
    };
    Ok(HandlerError::Params { message })
}
