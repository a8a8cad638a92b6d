//! What is asked for on the local socket, checked as far as that needs no shard, and how a refusal is told.

use std::os::fd::{AsFd, OwnedFd};

use control_wire::attach::{Attach, KeptPlaces, ListenerKind, ListenerSpec, Password, Problem, Share};
use data_encoding::BASE64URL_NOPAD;
use ipnet::IpNet;

use crate::{
    identity::{CredentialHash, IdentityError, SandboxId},
    limits::{ATTACH_SOURCES_MAX, PROXY_PASSWORD_BYTES_MAX, PROXY_PASSWORD_BYTES_MIN},
    listen::socket::check_passed,
    shard::PlaceError,
};

/// Random bytes of a password that the plane makes.
const PASSWORD_RANDOM_BYTES: usize = 32;

/// Passed sockets, each with what it is.
pub(super) type Passed = Vec<(ListenerSpec, OwnedFd)>;

/// Places that a sandbox is to have.
pub(super) struct Wanted {
    pub sandbox: SandboxId,
    pub listeners: Passed,
    pub sources: Vec<IpNet>,
    pub credential: Option<CredentialHash>,
}

impl Wanted {
    /// What an orchestrator asks for.
    pub(super) fn asked(attach: Attach, descriptors: Vec<OwnedFd>) -> Result<Self, Problem> {
        if attach.listeners.is_empty() && attach.sources.is_empty() && attach.proxy_password.is_none() {
            let remedy = "name listeners, sources or a proxy password; to take a sandbox away, use `detach`";
            return Err(Problem::new("no_place", "the request names no place", remedy));
        }
        let credential = attach.proxy_password.as_ref().map(check_password).transpose()?;
        Self::checked(&attach.sandbox, pair_up(attach.listeners, descriptors)?, attach.sources, credential)
    }

    /// What a keeper holds.
    pub(super) fn kept(kept: KeptPlaces, descriptors: Vec<OwnedFd>) -> Result<Self, Problem> {
        let credential = kept.password_hash.map(CredentialHash::from_bytes);
        Self::checked(&kept.sandbox, pair_up(kept.listeners, descriptors)?, kept.sources, credential)
    }

    fn checked(
        sandbox: &str,
        listeners: Passed,
        mut sources: Vec<IpNet>,
        credential: Option<CredentialHash>,
    ) -> Result<Self, Problem> {
        let sandbox = SandboxId::new(sandbox).map_err(|error| identity(&error))?;
        if sources.len() > ATTACH_SOURCES_MAX {
            let detail = format!(
                "{} source ranges are named; a sandbox has at most {ATTACH_SOURCES_MAX}",
                sources.len()
            );
            return Err(Problem::new("too_many_sources", detail, "join ranges"));
        }
        // 10.0.0.2/24 means all of 10.0.0.0/24, and twice the same means it once.
        sources.iter_mut().for_each(|source| *source = source.trunc());
        sources.sort_unstable();
        sources.dedup();
        Ok(Self { sandbox, listeners, sources, credential })
    }
}

/// Listeners of many, of which none can be for names: each sandbox has its own.
pub(super) fn shared(share: Share, descriptors: Vec<OwnedFd>) -> Result<(String, Passed), Problem> {
    // The same letters as an identifier's, for the same reasons.
    SandboxId::new(&share.name).map_err(|_| {
        Problem::new(
            "name",
            "the name is empty, too long or odd",
            "use 1 to 128 letters, digits, `-`, `_` or `.`",
        )
    })?;
    if share.listeners.is_empty() {
        return Err(Problem::new("no_place", "no listener is named", "pass one, or use `unshare`"));
    }
    let of_one = |spec: &ListenerSpec| matches!(spec.kind, ListenerKind::DnsUdp | ListenerKind::DnsTcp);
    if share.listeners.iter().any(of_one) {
        let remedy = "attach a socket for names to each sandbox";
        return Err(Problem::new("listener", "names are answered for one sandbox alone", remedy));
    }
    Ok((share.name, pair_up(share.listeners, descriptors)?))
}

/// Each descriptor with what it is said to be, and is.
fn pair_up(specs: Vec<ListenerSpec>, descriptors: Vec<OwnedFd>) -> Result<Passed, Problem> {
    if specs.len() != descriptors.len() {
        let detail =
            format!("{} listeners are named and {} descriptors came", specs.len(), descriptors.len());
        let remedy =
            "attach one descriptor per listener, in their order, to the line's first byte (SCM_RIGHTS)";
        return Err(Problem::new("descriptors", detail, remedy));
    }
    for (place, (spec, descriptor)) in specs.iter().zip(&descriptors).enumerate() {
        check_passed(spec.kind, descriptor.as_fd()).map_err(|error| {
            let detail = format!("listener {place}: {error}");
            Problem::new("listener", detail, "pass a socket of the named kind")
        })?;
    }
    Ok(specs.into_iter().zip(descriptors).collect())
}

/// Makes the password that the request leaves to the plane.
pub(super) fn make_password(attach: &mut Attach) -> Result<Password, Problem> {
    if attach.proxy_password.is_some() {
        let detail = "`proxy` asks for a password and `proxyPassword` brings one";
        return Err(Problem::new("two_passwords", detail, "leave one of them out"));
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

/// Tells why a place is not free or not one.
pub(super) fn identity(error: &IdentityError) -> Problem {
    let (code, remedy) = match error {
        IdentityError::Taken { .. } => ("taken", "detach the other sandbox, or attach this one elsewhere"),
        IdentityError::Full => ("full", "detach sandboxes that have ended, or use another plane"),
        _ => ("sandbox", "use the identifier that control knows"),
    };
    Problem::new(code, error.to_string(), remedy)
}

/// Tells why a shard did not do it.
pub(super) fn place(error: &PlaceError) -> Problem {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let detail = format!("{error}{cause}");
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
