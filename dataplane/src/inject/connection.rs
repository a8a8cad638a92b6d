//! Credentials of connections instead of requests: client certificates, and what a proxy is told.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
pub use control_wire::client_certificate::CertificateFlaw;
use control_wire::client_certificate::{ClientCertificate, KeyKind};
use data_encoding::BASE64;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use zeroize::Zeroizing;

use super::{InjectError, Secret, joined};
use crate::http::Scheme;
use crate::policy::{Permit, Shown, Via};

/// Which value of which secret a connection was made with, so that it serves no request that has another. Prints nothing
/// of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mark {
    secret: Arc<str>,
    digest: [u8; 32],
}

impl Mark {
    fn of(secret: &Arc<str>, value: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, value).as_ref());
        Self { secret: Arc::clone(secret), digest: bytes }
    }

    /// Name of the secret.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// A client certificate with its key, which is in the TLS library alone.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    mark: Mark,
}

impl Certificate {
    /// What the TLS library shows and signs with.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Which one it is.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }
}

/// User and password for a proxy, wiped when dropped.
pub struct Login {
    value: Zeroizing<Box<[u8]>>,
    colon: usize,
    mark: Mark,
}

impl Login {
    /// Which one it is.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The value of `Proxy-Authorization` (RFC 7617 §2).
    pub fn basic(&self) -> Zeroizing<Vec<u8>> {
        let mut encoded = Zeroizing::new(vec![0; BASE64.encode_len(self.value.len())]);
        BASE64.encode_mut(&self.value, &mut encoded);
        joined([b"Basic ", &encoded])
    }

    /// The request of the sub-negotiation of SOCKS 5 (RFC 1929 §2).
    pub fn socks5(&self) -> Zeroizing<Vec<u8>> {
        let (user, password) = (&self.value[..self.colon], &self.value[self.colon + 1..]);
        // Both were bounded when it was made.
        let length = |part: &[u8]| [u8::try_from(part.len()).unwrap_or(u8::MAX)];
        joined([&[1], &length(user), user, &length(password), password])
    }
}

/// What a connection shows beside what its permit says.
#[derive(Clone, Default)]
pub struct Means {
    certificate: Option<Arc<Certificate>>,
    login: Option<Arc<Login>>,
}

impl Means {
    /// What the host is shown.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// What the proxy is told.
    pub fn login(&self) -> Option<&Arc<Login>> {
        self.login.as_ref()
    }

    /// Names of the secrets that go out with it.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        let shown = self.certificate.iter().map(|certificate| &certificate.mark.secret);
        shown.chain(self.login.iter().map(|login| &login.mark.secret))
    }
}

/// Finds the credentials of a permit's connection.
///
/// # Errors
/// With the part of the policy that names it: a secret that is missing, is not bound to where it would go, may not go
/// out in plain text, or is not what is needed. The request is refused then, never sent without.
pub fn means<'t>(
    permit: &Permit,
    find: impl Fn(&str) -> Option<&'t Secret>,
) -> Result<Means, (InjectError, Arc<str>)> {
    let mut means = Means::default();
    if let Some(shown) = permit.certificate() {
        let found = certificate(permit, shown, find(&shown.secret));
        means.certificate = Some(found.map_err(|error| (error, Arc::clone(&shown.rule)))?);
    }
    if let Some(way) = permit.way()
        && let Some(via @ Via { secret: Some(name), .. }) = &way.route().via
    {
        let found = login(via, name, find(name));
        means.login = Some(found.map_err(|error| (error, Arc::clone(way.rule())))?);
    }
    Ok(means)
}

fn certificate(
    permit: &Permit,
    shown: &Shown,
    secret: Option<&Secret>,
) -> Result<Arc<Certificate>, InjectError> {
    let own = || shown.secret.as_ref().to_owned();
    let secret = secret.ok_or_else(|| InjectError::Missing { secret: own() })?;
    if secret.hosts.find(permit.host(), permit.port()).is_none() {
        return Err(InjectError::NotBound { secret: own(), host: permit.host().to_string() });
    }
    if permit.scheme() != Scheme::Https {
        return Err(InjectError::NoTls { secret: own() });
    }
    let read = secret.certificate.get_or_init(|| {
        let value = secret.row.value.expose();
        let key = Arc::new(certified(value)?);
        Ok(Arc::new(Certificate { key, mark: Mark::of(&shown.secret, value) }))
    });
    read.clone().map_err(|flaw| InjectError::NotCertificate { secret: own(), flaw })
}

fn login(via: &Via, name: &Arc<str>, secret: Option<&Secret>) -> Result<Arc<Login>, InjectError> {
    let own = || name.as_ref().to_owned();
    let secret = secret.ok_or_else(|| InjectError::Missing { secret: own() })?;
    if secret.hosts.find(&via.host, via.port).is_none() {
        return Err(InjectError::NotBound { secret: own(), host: via.host.to_string() });
    }
    // Nothing hides what a proxy of either kind is told.
    if !secret.row.allow_plaintext {
        return Err(InjectError::Plaintext { secret: own() });
    }
    let made = secret.login.get_or_init(|| {
        let value = secret.row.value.expose();
        let colon = value.iter().position(|byte| *byte == b':')?;
        let fits = |part: &[u8]| (1..=usize::from(u8::MAX)).contains(&part.len());
        let plain = value.iter().all(|byte| !byte.is_ascii_control());
        (plain && fits(&value[..colon]) && fits(&value[colon + 1..])).then(|| {
            let mark = Mark::of(name, value);
            Arc::new(Login { value: Zeroizing::new(value.into()), colon, mark })
        })
    });
    made.clone().ok_or_else(|| InjectError::NotLogin { secret: own() })
}

impl Secret {
    /// Whether connections with this mark were made with the value that there is now.
    pub fn is(&self, mark: &Mark) -> bool {
        Mark::of(&mark.secret, self.row.value.expose()) == *mark
    }
}

fn certified(value: &[u8]) -> Result<CertifiedKey, CertificateFlaw> {
    let ClientCertificate { chain, kind, key } = ClientCertificate::read(value)?;
    let der = match kind {
        KeyKind::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.as_slice())),
        KeyKind::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key.as_slice())),
        KeyKind::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice())),
    };
    let key = any_supported_type(&der).map_err(|_| CertificateFlaw::Kind)?;
    let certified = CertifiedKey::new(chain.into_iter().map(CertificateDer::from).collect(), key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(_) => Err(CertificateFlaw::Mismatch),
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
