//! What is attached to this plane, and the only way to change it: wholly or not at all.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control_wire::attach::{
    Attach, Attached, Detach, Done, Kept, KeptPlaces, ListenerSpec, Password, Problem,
};
use data_encoding::BASE64URL_NOPAD;
use ipnet::IpNet;

use super::keeper::Keeper;
use crate::{
    identity::{Attachments, CredentialHash, IdentityError, ListenerId, SandboxId},
    limits::{
        ATTACH_LIST_MAX, ATTACH_POLICY_TIME, ATTACH_SOURCES_MAX, PROXY_PASSWORD_BYTES_MAX,
        PROXY_PASSWORD_BYTES_MIN,
    },
    listen::socket::check_passed,
    shard::{PlaceError, Shards},
};

/// Random bytes of a password that the plane makes.
const PASSWORD_RANDOM_BYTES: usize = 32;

/// What is attached.
pub(super) struct Book {
    shards: Arc<Shards>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<SandboxId, Places>,
    /// As the shards know it.
    attachments: Arc<Attachments>,
    next_listener: u64,
    keeper: Option<Keeper>,
}

/// Where one sandbox is.
struct Places {
    listeners: Vec<(ListenerId, ListenerSpec)>,
    sources: Vec<IpNet>,
    credential: Option<CredentialHash>,
}

/// Places that were asked for, checked as far as that needs no shard.
struct Wanted {
    sandbox: SandboxId,
    listeners: Vec<(ListenerSpec, OwnedFd)>,
    sources: Vec<IpNet>,
    credential: Option<CredentialHash>,
}

impl Book {
    /// Begins with what the keeper holds. What of it cannot be served any more is told and left out.
    pub(super) fn open(shards: Arc<Shards>, keeper: Option<Keeper>) -> io::Result<Self> {
        let mut state = State::default();
        if let Some(keeper) = keeper {
            keeper.take_over(|kept, descriptors| {
                let sandbox = kept.sandbox.clone();
                let taken = Wanted::kept(kept, descriptors).and_then(|wanted| state.put(&shards, wanted));
                if let Err(problem) = taken {
                    eprintln!("outgate-dataplane: sandbox {sandbox} was not taken over: {problem}");
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
        if state.sandboxes.remove(&sandbox).is_some() {
            state.tell_keeper(&Kept::Detach(Detach { sandbox: sandbox.to_string() }), &[]);
        }
        let mut next = (*state.attachments).clone();
        next.detach(&sandbox);
        state.publish(&self.shards, next).map_err(|error| place(&error))?;
        let ended = self.shards.detach(&sandbox).map_err(|error| place(&error))?;
        Ok(Done { ended: Some(ended), ..Done::default() })
    }

    /// One page of what is attached, behind `after`.
    pub(super) fn list(&self, after: Option<&str>) -> Result<Done, Problem> {
        let after = after.map(SandboxId::new).transpose().map_err(|error| identity(&error))?;
        let state = self.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = state.sandboxes.range((start, Bound::Unbounded));
        let page = behind.by_ref().take(ATTACH_LIST_MAX).map(|(sandbox, places)| Attached {
            sandbox: sandbox.to_string(),
            listeners: places.listeners.iter().map(|(_, spec)| *spec).collect(),
            sources: places.sources.clone(),
            proxy: places.credential.is_some(),
        });
        let attached = Some(page.collect());
        Ok(Done { attached, more: behind.next().is_some(), ..Done::default() })
    }

    /// A thread that panicked left a state that is whole: it changes by single assignments, after all that may fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts a sandbox where it is wanted. When this fails, everything is as it was.
    fn put(&mut self, shards: &Shards, wanted: Wanted) -> Result<(), Problem> {
        let Wanted { sandbox, listeners, sources, credential } = wanted;
        let before = self.sandboxes.get(&sandbox).map_or_else(Vec::new, |places| places.listeners.clone());
        let opened: Vec<_> = (self.next_listener..).map(ListenerId).zip(&listeners).collect();
        self.next_listener += opened.len() as u64;
        let numbers: Vec<_> = opened.iter().map(|(listener, (spec, _))| (*listener, *spec)).collect();

        let mut without = (*self.attachments).clone();
        without.detach(&sandbox);
        let next = entered(without.clone(), &sandbox, &numbers, &sources, credential.as_ref())?;
        // Listeners from before take connections until the new ones do.
        let meanwhile = before.iter().map(|(listener, _)| *listener);
        let both = meanwhile.clone().try_fold(next.clone(), |mut both, listener| {
            both.attach_listener(listener, sandbox.clone()).map(|()| both)
        });
        let former = Arc::clone(&self.attachments);
        let changed =
            self.publish(shards, both.map_err(|error| identity(&error))?).map_err(|error| place(&error));
        if let Err(problem) = changed.and_then(|()| open_all(shards, &sandbox, &opened)) {
            let closed = shards.close(&sandbox, numbers.iter().map(|(listener, _)| *listener).collect());
            // A shard that does not answer here did not answer before; what it holds of this is not attached.
            let _undone = closed.and(self.publish(shards, (*former).clone()));
            return Err(problem);
        }
        let kept = Kept::Attach(KeptPlaces {
            sandbox: sandbox.to_string(),
            listeners: listeners.iter().map(|(spec, _)| *spec).collect(),
            sources: sources.clone(),
            password_hash: credential.as_ref().map(CredentialHash::to_bytes),
        });
        let descriptors: Vec<_> = listeners.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        self.tell_keeper(&kept, &descriptors);
        self.sandboxes.insert(sandbox.clone(), Places { listeners: numbers, sources, credential });
        if before.is_empty() {
            return Ok(());
        }
        let closed = shards.close(&sandbox, meanwhile.collect());
        closed.and(self.publish(shards, next)).map_err(|error| place(&error))
    }

    /// Tells the shards.
    fn publish(&mut self, shards: &Shards, next: Attachments) -> Result<(), PlaceError> {
        self.attachments = Arc::new(next);
        shards.attach(&self.attachments)
    }

    /// Without a keeper that takes it, the plane goes on: only its successor would have needed it.
    fn tell_keeper(&mut self, kept: &Kept, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
        let Some(keeper) = &self.keeper else { return };
        if let Err(error) = keeper.tell(kept, descriptors) {
            eprintln!(
                "outgate-dataplane: the keeper is gone ({error}); a restarted plane must be attached to anew"
            );
            self.keeper = None;
        }
    }
}

/// The attachments with these places of a sandbox.
fn entered(
    mut next: Attachments,
    sandbox: &SandboxId,
    listeners: &[(ListenerId, ListenerSpec)],
    sources: &[IpNet],
    credential: Option<&CredentialHash>,
) -> Result<Attachments, Problem> {
    let mut enter = || {
        for (listener, _) in listeners {
            next.attach_listener(*listener, sandbox.clone())?;
        }
        for source in sources {
            next.attach_source(*source, sandbox.clone())?;
        }
        credential.map_or(Ok(()), |hash| next.attach_credentials(sandbox.clone(), hash.clone()))
    };
    enter().map_err(|error: IdentityError| identity(&error))?;
    Ok(next)
}

fn open_all(
    shards: &Shards,
    sandbox: &SandboxId,
    listeners: &[(ListenerId, &(ListenerSpec, OwnedFd))],
) -> Result<(), Problem> {
    for (listener, (spec, descriptor)) in listeners {
        let served = descriptor.try_clone().map_err(PlaceError::Socket);
        served
            .and_then(|served| shards.listen_captured(*listener, spec.kind, served, sandbox))
            .map_err(|error| place(&error))?;
    }
    Ok(())
}

impl Wanted {
    /// What an orchestrator asks for.
    fn asked(attach: Attach, descriptors: Vec<OwnedFd>) -> Result<Self, Problem> {
        if attach.listeners.is_empty() && attach.sources.is_empty() && attach.proxy_password.is_none() {
            let remedy = "name listeners, sources or a proxy password; to take a sandbox away, use `detach`";
            return Err(Problem::new("no_place", "the request names no place", remedy));
        }
        let credential = attach.proxy_password.as_ref().map(check_password).transpose()?;
        Self::checked(&attach.sandbox, (attach.listeners, descriptors), attach.sources, credential)
    }

    /// What a keeper holds.
    fn kept(kept: KeptPlaces, descriptors: Vec<OwnedFd>) -> Result<Self, Problem> {
        let credential = kept.password_hash.map(CredentialHash::from_bytes);
        Self::checked(&kept.sandbox, (kept.listeners, descriptors), kept.sources, credential)
    }

    fn checked(
        sandbox: &str,
        (specs, descriptors): (Vec<ListenerSpec>, Vec<OwnedFd>),
        sources: Vec<IpNet>,
        credential: Option<CredentialHash>,
    ) -> Result<Self, Problem> {
        let sandbox = SandboxId::new(sandbox).map_err(|error| identity(&error))?;
        if specs.len() != descriptors.len() {
            let detail =
                format!("{} listeners are named and {} descriptors came", specs.len(), descriptors.len());
            let remedy =
                "attach one descriptor per listener, in their order, to the line's first byte (SCM_RIGHTS)";
            return Err(Problem::new("descriptors", detail, remedy));
        }
        if sources.len() > ATTACH_SOURCES_MAX {
            let detail = format!(
                "{} source ranges are named; a sandbox has at most {ATTACH_SOURCES_MAX}",
                sources.len()
            );
            return Err(Problem::new("too_many_sources", detail, "join ranges"));
        }
        for (place, (spec, descriptor)) in specs.iter().zip(&descriptors).enumerate() {
            check_passed(spec.kind, descriptor.as_fd()).map_err(|error| {
                let detail = format!("listener {place}: {error}");
                Problem::new("listener", detail, "pass a socket of the named kind")
            })?;
        }
        Ok(Self { sandbox, listeners: specs.into_iter().zip(descriptors).collect(), sources, credential })
    }
}

/// Makes the password that the request leaves to the plane.
fn make_password(attach: &mut Attach) -> Result<Password, Problem> {
    if attach.proxy_password.is_some() {
        let remedy = "leave one of them out";
        return Err(Problem::new(
            "two_passwords",
            "`proxy` asks for a password and `proxyPassword` brings one",
            remedy,
        ));
    }
    let mut random = [0; PASSWORD_RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| {
        Problem::new("no_randomness", "the system gave no random bytes", "look at the machine")
    })?;
    let password = Password::new(BASE64URL_NOPAD.encode(&random));
    attach.proxy_password = Some(password.clone());
    Ok(password)
}

fn check_password(password: &Password) -> Result<CredentialHash, Problem> {
    let text = password.expose();
    let fits = (PROXY_PASSWORD_BYTES_MIN..=PROXY_PASSWORD_BYTES_MAX).contains(&text.len());
    // Others cannot be written into the URL of a proxy, where most clients take it from.
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(CredentialHash::of(text.as_bytes()));
    }
    let detail = format!(
        "a proxy password has {PROXY_PASSWORD_BYTES_MIN} to {PROXY_PASSWORD_BYTES_MAX} printable ASCII characters without spaces"
    );
    Err(Problem::new(
        "proxy_password",
        detail,
        "send a long random token, or `\"proxy\": true` to have one made",
    ))
}

fn identity(error: &IdentityError) -> Problem {
    let (code, remedy) = match error {
        IdentityError::Taken { .. } => ("taken", "detach the other sandbox, or attach this one elsewhere"),
        IdentityError::Full => ("full", "detach sandboxes that have ended, or use another plane"),
        _ => ("sandbox", "use the identifier that control knows"),
    };
    Problem::new(code, error.to_string(), remedy)
}

fn place(error: &PlaceError) -> Problem {
    let detail = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    match error {
        PlaceError::Passed(_) => Problem::new("listener", detail, "pass a socket of the named kind"),
        PlaceError::Socket(_) => {
            Problem::new("listener", detail, "look at the plane's limit of descriptors (ulimit -n)")
        }
        PlaceError::Gone | PlaceError::Silent => {
            Problem::new("shard", detail, "attach again when the plane serves")
        }
    }
}
