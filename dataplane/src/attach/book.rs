//! What is attached to this plane, and the only way to change it: wholly or not at all.

use std::{
    collections::BTreeMap,
    io, iter,
    ops::Bound,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control_wire::attach::{
    Attach, Attached, Detach, Done, Kept, KeptPlaces, ListenerKind, ListenerSpec, Problem, Share, Unshare,
};
use ipnet::IpNet;

use super::{
    keeper::Keeper,
    wanted::{Passed, Wanted, identity, make_password, place, shared},
};
use crate::{
    causes::tell,
    identity::{Attachments, CredentialHash, IdentityError, ListenerId, SandboxId},
    limits::{ATTACH_LIST_MAX, ATTACH_POLICY_TIME, SHARED_NAMES_MAX},
    shard::{PlaceError, Shards},
};

/// What is attached.
pub(super) struct Book {
    shards: Arc<Shards>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, Places>,
    shared: BTreeMap<String, Numbered>,
    /// As the shards know it.
    attachments: Arc<Attachments>,
    next_listener: u64,
    keeper: Option<Keeper>,
}

/// Listeners by the numbers that the shards know them by.
type Numbered = Vec<(ListenerId, ListenerSpec)>;

/// Where one sandbox is.
#[derive(Default)]
struct Places {
    listeners: Numbered,
    sources: Vec<IpNet>,
    credential: Option<CredentialHash>,
}

impl Book {
    /// Begins with what the keeper holds. What of it cannot be served any more is told and left out.
    pub(super) fn open(shards: Arc<Shards>, keeper: Option<Keeper>) -> io::Result<Self> {
        let mut state = State::default();
        if let Some(keeper) = keeper {
            keeper.take_over(|kept, descriptors| {
                if let Err(problem) = state.take_over(&shards, kept, descriptors) {
                    tell(format_args!("not taken over from the plane before: {problem}"));
                }
            })?;
            state.keeper = Some(keeper);
        }
        Ok(Self { shards, state: Mutex::new(state) })
    }

    /// Puts a sandbox at the places that the request names, instead of those before; answers when every shard enforces
    /// its policy.
    pub(super) fn attach(&self, mut attach: Attach, descriptors: Vec<OwnedFd>) -> Result<Done, Problem> {
        let made = if attach.proxy { Some(make_password(&mut attach)?) } else { None };
        let wanted = Wanted::asked(attach, descriptors)?;
        let revision = self.shards.wait_for(&wanted.sandbox, ATTACH_POLICY_TIME).ok_or_else(|| {
            let detail = format!("no policy for sandbox `{}` has reached every shard", wanted.sandbox);
            let remedy =
                "create the sandbox in control and see that the plane is linked to it, then attach again";
            Problem::new("policy_missing", detail, remedy)
        })?;
        let sandbox = wanted.sandbox.clone();
        self.state().put(&self.shards, wanted)?;
        // Attached it is either way; without control the certificate comes later.
        let _late = self.shards.certify(&sandbox);
        Ok(Done { revision: Some(revision), proxy_password: made, ..Done::default() })
    }

    /// Forgets a sandbox and ends its connections. One that is not attached is so afterwards too.
    pub(super) fn detach(&self, sandbox: &str) -> Result<Done, Problem> {
        let sandbox = SandboxId::new(sandbox).map_err(|error| identity(&error))?;
        let mut state = self.state();
        if let Some(places) = state.sandboxes.remove(&sandbox) {
            state.tell_keeper(&Kept::Detach(Detach { sandbox: sandbox.to_string() }), &[]);
            let mut next = (*state.attachments).clone();
            leave(&mut next, &sandbox, &places);
            state.publish(&self.shards, next).map_err(|error| place(&error))?;
        }
        // Also where nothing is known of it: an earlier call may have got no further than here.
        let ended = self.shards.detach(&sandbox).map_err(|error| place(&error))?;
        Ok(Done { ended: Some(ended), ..Done::default() })
    }

    /// Serves listeners of many sandboxes, in place of those of the same name.
    pub(super) fn share(&self, share: Share, descriptors: Vec<OwnedFd>) -> Result<Done, Problem> {
        let (name, listeners) = shared(share, descriptors)?;
        self.state().share(&self.shards, name, &listeners)?;
        Ok(Done::default())
    }

    /// Closes the listeners of a name; there need be none.
    pub(super) fn unshare(&self, unshare: Unshare) -> Result<Done, Problem> {
        let mut state = self.state();
        if let Some(listeners) = state.shared.remove(&unshare.name) {
            state.tell_keeper(&Kept::Unshare(unshare.clone()), &[]);
            let closed = self.shards.listen_shared(&unshare.name, Vec::new(), numbers(&listeners));
            closed.map_err(|error| place(&error))?;
        }
        Ok(Done::default())
    }

    /// One page of what is attached, behind `after`.
    pub(super) fn list(&self, after: Option<&str>) -> Result<Done, Problem> {
        let after = after.map(SandboxId::new).transpose().map_err(|error| identity(&error))?;
        let state = self.state();
        let specs = |numbered: &Numbered| numbered.iter().map(|(_, spec)| *spec).collect();
        let shares = state.shared.iter();
        let shared =
            shares.map(|(name, listeners)| Share { name: name.clone(), listeners: specs(listeners) });
        let shared = if after.is_none() { Some(shared.collect()) } else { None };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = state.sandboxes.range((start, Bound::Unbounded));
        let page = behind.by_ref().take(ATTACH_LIST_MAX).map(|(sandbox, places)| Attached {
            sandbox: sandbox.to_string(),
            listeners: specs(&places.listeners),
            sources: places.sources.clone(),
            proxy: places.credential.is_some(),
        });
        let attached = Some(page.collect());
        Ok(Done { attached, shared, more: behind.next().is_some(), ..Done::default() })
    }

    /// Tells the keeper that this plane serves.
    pub(super) fn tell_serving(&self) {
        self.state().tell_keeper(&Kept::Serves, &[]);
    }

    /// A thread that panicked left a state that is whole: it changes by single assignments, after all that may fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_over(&mut self, shards: &Shards, kept: Kept, descriptors: Vec<OwnedFd>) -> Result<(), Problem> {
        match kept {
            Kept::Attach(places) => self.put(shards, Wanted::kept(places, descriptors)?),
            Kept::Share(share) => {
                let (name, listeners) = shared(share, descriptors)?;
                self.share(shards, name, &listeners)
            }
            Kept::Detach(_) | Kept::Unshare(_) | Kept::Whole | Kept::Serves => Ok(()),
        }
    }

    /// Puts a sandbox where it is wanted. When this fails, everything is as it was.
    fn put(&mut self, shards: &Shards, wanted: Wanted) -> Result<(), Problem> {
        let Wanted { sandbox, listeners: passed, sources, credential } = wanted;
        let listeners = self.number(&passed);
        let places = Places { listeners, sources, credential };
        let none = Places::default();
        let before = self.sandboxes.get(&sandbox).unwrap_or(&none);
        let mut next = (*self.attachments).clone();
        leave(&mut next, &sandbox, before);
        enter(&mut next, &sandbox, &places).map_err(|error| identity(&error))?;
        // What listeners from before have accepted is still the sandbox's.
        let mut meanwhile = next.clone();
        for (listener, _) in &before.listeners {
            meanwhile.attach_listener(*listener, sandbox.clone()).map_err(|error| identity(&error))?;
        }
        let replaced = numbers(&before.listeners);
        let former = Arc::clone(&self.attachments);
        let opened = served(&places.listeners, &passed)
            .map_err(PlaceError::from)
            .and_then(|sockets| self.publish(shards, meanwhile).map(|()| sockets))
            .and_then(|sockets| shards.listen_captured(&sandbox, sockets, replaced.clone()));
        if let Err(error) = opened {
            // A shard that does not answer here did not answer before; what it holds of this is not attached.
            let _undone = self.publish(shards, (*former).clone());
            return Err(place(&error));
        }
        let kept = Kept::Attach(KeptPlaces {
            sandbox: sandbox.to_string(),
            listeners: passed.iter().map(|(spec, _)| *spec).collect(),
            sources: places.sources.clone(),
            password_hash: places.credential.as_ref().map(CredentialHash::to_bytes),
        });
        self.tell_keeper(&kept, &passed);
        self.sandboxes.insert(sandbox.clone(), places);
        if replaced.is_empty() {
            return Ok(());
        }
        self.publish(shards, next).map_err(|error| place(&error))
    }

    /// Serves listeners of many. When this fails, those before go on.
    fn share(&mut self, shards: &Shards, name: String, passed: &Passed) -> Result<(), Problem> {
        if self.shared.len() >= SHARED_NAMES_MAX && !self.shared.contains_key(&name) {
            let detail = format!("{SHARED_NAMES_MAX} names of shared listeners are taken already");
            return Err(Problem::new("full", detail, "close some with `unshare`"));
        }
        let listeners = self.number(passed);
        let replaced = self.shared.get(&name).map_or_else(Vec::new, numbers);
        served(&listeners, passed)
            .map_err(PlaceError::from)
            .and_then(|sockets| shards.listen_shared(&name, sockets, replaced))
            .map_err(|error| place(&error))?;
        let specs = passed.iter().map(|(spec, _)| *spec).collect();
        self.tell_keeper(&Kept::Share(Share { name: name.clone(), listeners: specs }), passed);
        self.shared.insert(name, listeners);
        Ok(())
    }

    /// Gives each listener a number that none had before.
    fn number(&mut self, passed: &Passed) -> Numbered {
        let first = self.next_listener;
        self.next_listener += passed.len() as u64;
        (first..).map(ListenerId).zip(passed).map(|(listener, (spec, _))| (listener, *spec)).collect()
    }

    /// Tells the shards.
    fn publish(&mut self, shards: &Shards, next: Attachments) -> Result<(), PlaceError> {
        self.attachments = Arc::new(next);
        shards.attach(&self.attachments)
    }

    /// Without a keeper that takes it, the plane goes on: only its successor would have needed it.
    fn tell_keeper(&mut self, kept: &Kept, passed: &[(ListenerSpec, OwnedFd)]) {
        let Some(keeper) = &self.keeper else { return };
        let descriptors: Vec<_> = passed.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        if let Err(error) = keeper.tell(kept, &descriptors) {
            tell(format_args!("the keeper is gone ({error}); a restarted plane must be attached to anew"));
            self.keeper = None;
        }
    }
}

/// Takes a sandbox's places out.
fn leave(attachments: &mut Attachments, sandbox: &SandboxId, places: &Places) {
    places.listeners.iter().for_each(|(listener, _)| attachments.detach_listener(*listener));
    places.sources.iter().for_each(|source| attachments.detach_source(*source));
    attachments.detach_credentials(sandbox);
}

/// Enters a sandbox's places.
fn enter(attachments: &mut Attachments, sandbox: &SandboxId, places: &Places) -> Result<(), IdentityError> {
    for (listener, _) in &places.listeners {
        attachments.attach_listener(*listener, sandbox.clone())?;
    }
    for source in &places.sources {
        attachments.attach_source(*source, sandbox.clone())?;
    }
    let credential = places.credential.clone();
    credential.map_or(Ok(()), |hash| attachments.attach_credentials(sandbox.clone(), hash))
}

/// Each listener with a duplicate of its socket for the shard; the original is for the keeper.
fn served(listeners: &Numbered, passed: &Passed) -> io::Result<Vec<(ListenerId, ListenerKind, OwnedFd)>> {
    iter::zip(listeners, passed)
        .map(|((listener, spec), (_, socket))| Ok((*listener, spec.kind, socket.try_clone()?)))
        .collect()
}

fn numbers(listeners: &Numbered) -> Vec<ListenerId> {
    listeners.iter().map(|(listener, _)| *listener).collect()
}

#[cfg(test)]
mod tests {
    use control_wire::{
        attach::Answer,
        limits::{ATTACH_BYTES_MAX, PASSED_DESCRIPTORS_MAX},
    };

    use super::*;
    use crate::limits::{ATTACH_SOURCES_MAX, SANDBOX_ID_BYTES_MAX};

    #[test]
    fn largest_page_of_a_list_fits_one_line() {
        // A byte that takes two in JSON, the longest kind, the longest range.
        let name = "\"".repeat(SANDBOX_ID_BYTES_MAX);
        let listeners = vec![ListenerSpec { kind: ListenerKind::Transparent }; PASSED_DESCRIPTORS_MAX];
        let source: IpNet = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
        let attached = Attached {
            sandbox: name.clone(),
            listeners: listeners.clone(),
            sources: vec![source; ATTACH_SOURCES_MAX],
            proxy: true,
        };
        let page = Done {
            attached: Some(vec![attached; ATTACH_LIST_MAX]),
            shared: Some(vec![Share { name, listeners }; SHARED_NAMES_MAX]),
            more: true,
            ..Done::default()
        };
        let line = serde_json::to_vec(&Answer::Done(page)).unwrap();
        assert!(line.len() < ATTACH_BYTES_MAX, "{} bytes", line.len());
    }
}
