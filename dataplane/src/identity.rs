//! Who is asking: from the place of the connection or a checked credential, never from anything that a request says.

mod segments;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use ipnet::IpNet;

use segments::Segments;

use crate::limits::{ATTACHMENTS_MAX, PROXY_CREDENTIALS_BYTES_MAX, SANDBOX_ID_BYTES_MAX};

/// Identifier of a sandbox: printable ASCII without `:` and `/`, so that it fits credentials, paths and certificates.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(Arc<str>);

impl SandboxId {
    /// Reads an identifier.
    ///
    /// # Errors
    /// When it is empty, longer than [`SANDBOX_ID_BYTES_MAX`] or holds other characters.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        let fits = (1..=SANDBOX_ID_BYTES_MAX).contains(&text.len());
        let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'/');
        if fits && clean { Ok(Self(text.into())) } else { Err(IdentityError::Id) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A listener of this plane that belongs to one sandbox, transparent or a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u64);

/// Why a connection belongs to nobody, or an attachment was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an identifier.
    #[error("a sandbox id has 1 to {SANDBOX_ID_BYTES_MAX} printable ASCII characters, without `:` and `/`")]
    Id,
    /// No sandbox is attached to the listener.
    #[error("no sandbox is attached to this listener")]
    UnknownListener,
    /// No sandbox is attached to the source address.
    #[error("no sandbox is attached to the address {source_address}")]
    UnknownSource {
        /// Where the connection came from.
        source_address: IpAddr,
    },
    /// `Proxy-Authorization` is missing.
    #[error("proxy credentials are required")]
    NoCredentials,
    /// `Proxy-Authorization` is not `Basic` with `id:password`, or names no sandbox, or the password is wrong: one
    /// error, so that nobody learns which sandboxes exist.
    #[error("the proxy credentials are not accepted")]
    BadCredentials,
    /// Another sandbox is attached there.
    #[error("{place} is attached to sandbox {holder}; detach it first")]
    Taken {
        /// Listener or range.
        place: String,
        /// Who holds it.
        holder: SandboxId,
    },
    /// [`ATTACHMENTS_MAX`] is reached.
    #[error("the plane holds {ATTACHMENTS_MAX} attachments already")]
    Full,
}

/// SHA-256 of a proxy password. Passwords are long random tokens that the attaching orchestrator makes, so a slow hash
/// would only slow the plane.
#[derive(Clone)]
pub struct CredentialHash([u8; 32]);

impl CredentialHash {
    /// Hashes a password.
    pub fn of(password: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, password).as_ref());
        Self(hash)
    }

    /// Takes a hash that was made elsewhere.
    pub fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash, for whoever keeps it.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    fn accepts(&self, password: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &Self::of(password).0).is_ok()
    }
}

/// Which sandbox is at which place of this plane. Built by `attach`, handed to the shards as a value: a copy shares
/// everything, and a change afterwards copies one segment of a table, however many sandboxes there are.
#[derive(Clone, Default)]
pub struct Attachments {
    listeners: Segments<ListenerId, SandboxId>,
    sources: Segments<IpNet, SandboxId>,
    /// Prefix lengths in use, with how many ranges have them; the flag says IPv6.
    lengths: BTreeMap<(bool, u8), usize>,
    credentials: Segments<SandboxId, CredentialHash>,
}

impl Attachments {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of places.
    pub fn len(&self) -> usize {
        self.listeners.len() + self.sources.len() + self.credentials.len()
    }

    /// No place is attached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attaches a listener: transparent in the sandbox's namespace, or its Unix socket.
    ///
    /// # Errors
    /// When another sandbox holds it, or the table is full.
    pub fn attach_listener(&mut self, listener: ListenerId, sandbox: SandboxId) -> Result<(), IdentityError> {
        self.room()?;
        free(self.listeners.get(&listener), &sandbox, || format!("listener {}", listener.0))?;
        self.listeners.insert(listener, sandbox);
        Ok(())
    }

    /// Attaches a source address or range. The caller vouches that the network binds it to the sandbox.
    ///
    /// # Errors
    /// When another sandbox holds the same range, or the table is full.
    pub fn attach_source(&mut self, range: IpNet, sandbox: SandboxId) -> Result<(), IdentityError> {
        self.room()?;
        let range = control_wire::pattern::unmapped_range(range);
        free(self.sources.get(&range), &sandbox, || range.to_string())?;
        if self.sources.insert(range, sandbox).is_none() {
            *self.lengths.entry(length(&range)).or_default() += 1;
        }
        Ok(())
    }

    /// Sets the proxy password of a sandbox, in place of an earlier one.
    ///
    /// # Errors
    /// When the table is full.
    pub fn attach_credentials(
        &mut self,
        sandbox: SandboxId,
        hash: CredentialHash,
    ) -> Result<(), IdentityError> {
        self.room()?;
        self.credentials.insert(sandbox, hash);
        Ok(())
    }

    /// Forgets a listener, whose ever it is.
    pub fn detach_listener(&mut self, listener: ListenerId) {
        self.listeners.remove(&listener);
    }

    /// Forgets a source address or range, whose ever it is.
    pub fn detach_source(&mut self, range: IpNet) {
        let range = control_wire::pattern::unmapped_range(range);
        if self.sources.remove(&range).is_some()
            && let Entry::Occupied(mut count) = self.lengths.entry(length(&range))
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Forgets the proxy password of a sandbox.
    pub fn detach_credentials(&mut self, sandbox: &SandboxId) {
        self.credentials.remove(sandbox);
    }

    /// The sandbox of a listener.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_listener(&self, listener: ListenerId) -> Result<&SandboxId, IdentityError> {
        self.listeners.get(&listener).ok_or(IdentityError::UnknownListener)
    }

    /// The sandbox of a source address, by the longest prefix.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_source(&self, source: IpAddr) -> Result<&SandboxId, IdentityError> {
        let address = source.to_canonical();
        self.lengths
            .keys()
            .rev()
            .filter(|(six, _)| *six == address.is_ipv6())
            .filter_map(|(_, bits)| IpNet::new(address, *bits).ok())
            .find_map(|range| self.sources.get(&range.trunc()))
            .ok_or(IdentityError::UnknownSource { source_address: address })
    }

    /// The sandbox of the value of a `Proxy-Authorization` field: `Basic`, the sandbox's id as user (RFC 7617 §2).
    ///
    /// # Errors
    /// [`IdentityError::NoCredentials`] without a value, [`IdentityError::BadCredentials`] for any other reason.
    pub fn by_credentials(&self, value: Option<&[u8]>) -> Result<&SandboxId, IdentityError> {
        let value = value.ok_or(IdentityError::NoCredentials)?;
        let pair = basic(value).ok_or(IdentityError::BadCredentials)?;
        let colon = pair.iter().position(|byte| *byte == b':').ok_or(IdentityError::BadCredentials)?;
        let (user, password) = (&pair[..colon], &pair[colon + 1..]);
        let user = std::str::from_utf8(user).ok().and_then(|user| SandboxId::new(user).ok());
        let row = user.and_then(|user| self.credentials.get_key_value(&user));
        // An unknown user costs the same hash and compare, so time tells nothing about who exists.
        let nobody = CredentialHash([0; 32]);
        let accepted = row.map_or(&nobody, |(_, hash)| hash).accepts(password);
        row.filter(|_| accepted).map(|(sandbox, _)| sandbox).ok_or(IdentityError::BadCredentials)
    }

    fn room(&self) -> Result<(), IdentityError> {
        if self.len() < ATTACHMENTS_MAX { Ok(()) } else { Err(IdentityError::Full) }
    }
}

/// Family and prefix length of a range.
fn length(range: &IpNet) -> (bool, u8) {
    (range.addr().is_ipv6(), range.prefix_len())
}

fn free(
    holder: Option<&SandboxId>,
    sandbox: &SandboxId,
    place: impl FnOnce() -> String,
) -> Result<(), IdentityError> {
    match holder {
        Some(holder) if holder != sandbox => {
            Err(IdentityError::Taken { place: place(), holder: holder.clone() })
        }
        _ => Ok(()),
    }
}

/// Undoes `Basic`; the scheme's name has no case (RFC 9110 §11.1).
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > PROXY_CREDENTIALS_BYTES_MAX {
        return None;
    }
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let token = rest.trim_ascii();
    // Some clients leave the padding out.
    data_encoding::BASE64.decode(token).or_else(|_| data_encoding::BASE64_NOPAD.decode(token)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SandboxId {
        SandboxId::new(text).unwrap()
    }

    fn authorization(pair: &str) -> Vec<u8> {
        format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())).into_bytes()
    }

    #[test]
    fn an_identifier_cannot_break_a_credential_a_path_or_a_line() {
        for bad in ["", "a:b", "a/b", "a b", "a\nb", "ä", &"x".repeat(SANDBOX_ID_BYTES_MAX + 1)] {
            assert_eq!(SandboxId::new(bad), Err(IdentityError::Id), "{bad:?}");
        }
        assert_eq!(id("sb-1_x.y@z").as_str(), "sb-1_x.y@z");
    }

    #[test]
    fn the_longest_prefix_says_who_it_is_and_mapped_addresses_are_their_ipv4() {
        let mut attachments = Attachments::new();
        attachments.attach_source("10.0.0.0/8".parse().unwrap(), id("wide")).unwrap();
        attachments.attach_source("10.1.0.0/16".parse().unwrap(), id("narrow")).unwrap();
        attachments.attach_source("2001:db8:7::/64".parse().unwrap(), id("six")).unwrap();
        let who = |text: &str| attachments.by_source(text.parse().unwrap()).map(SandboxId::as_str);
        assert_eq!(who("10.1.2.3"), Ok("narrow"));
        assert_eq!(who("10.2.2.3"), Ok("wide"));
        assert_eq!(who("::ffff:10.1.0.9"), Ok("narrow"));
        assert_eq!(who("2001:db8:7::99"), Ok("six"));
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(
            attachments.by_source(stranger),
            Err(IdentityError::UnknownSource { source_address: stranger })
        );
    }

    #[test]
    fn proxy_credentials_are_checked_and_failures_look_alike() {
        let mut attachments = Attachments::new();
        attachments.attach_credentials(id("one"), CredentialHash::of(b"pass:word")).unwrap();
        assert_eq!(attachments.by_credentials(Some(&authorization("one:pass:word"))), Ok(&id("one")));
        let lower = String::from_utf8(authorization("one:pass:word")).unwrap().replace("Basic", "bAsIc");
        assert_eq!(attachments.by_credentials(Some(lower.as_bytes())), Ok(&id("one")));
        assert_eq!(attachments.by_credentials(None), Err(IdentityError::NoCredentials));
        for bad in ["one:wrong", "two:pass:word", "one", ":", "", "one:"] {
            assert_eq!(
                attachments.by_credentials(Some(&authorization(bad))),
                Err(IdentityError::BadCredentials),
                "{bad}"
            );
        }
        for bad in [&b"Bearer x"[..], b"Basic", b"Basic !!", &[b'a'; 100_000]] {
            assert_eq!(attachments.by_credentials(Some(bad)), Err(IdentityError::BadCredentials));
        }
    }

    #[test]
    fn a_place_has_one_holder_until_it_is_detached() {
        let mut attachments = Attachments::new();
        attachments.attach_listener(ListenerId(1), id("one")).unwrap();
        attachments.attach_listener(ListenerId(1), id("one")).unwrap();
        let error = attachments.attach_listener(ListenerId(1), id("two")).unwrap_err();
        assert!(error.to_string().contains("attached to sandbox one"), "{error}");
        assert_eq!(attachments.by_listener(ListenerId(1)), Ok(&id("one")));
        attachments.detach_listener(ListenerId(1));
        assert_eq!(attachments.by_listener(ListenerId(1)), Err(IdentityError::UnknownListener));
        assert!(attachments.is_empty());
    }

    #[test]
    fn a_range_that_was_detached_means_nobody_and_the_next_longest_counts() {
        let mut attachments = Attachments::new();
        let ranges = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"].map(|range| range.parse().unwrap());
        for (range, sandbox) in ranges.into_iter().zip(["wide", "one", "two"]) {
            attachments.attach_source(range, id(sandbox)).unwrap();
            attachments.attach_source(range, id(sandbox)).unwrap();
        }
        let before = attachments.clone();
        attachments.detach_source(ranges[1]);
        attachments.detach_source(ranges[1]);
        let address = "10.1.0.9".parse().unwrap();
        assert_eq!(attachments.by_source(address), Ok(&id("wide")));
        assert_eq!(before.by_source(address), Ok(&id("one")), "a copy stays as it was");
        attachments.detach_source(ranges[0]);
        assert!(attachments.by_source(address).is_err());
        assert_eq!(attachments.by_source("10.2.0.9".parse().unwrap()), Ok(&id("two")));
        attachments.detach_source(ranges[2]);
        assert!(attachments.is_empty() && attachments.lengths.is_empty());
    }
}
