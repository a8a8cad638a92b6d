//! Puts credentials on requests; the only place of the plane that reads a secret's value.

mod connection;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use control_wire::{
    client_certificate::holds_key,
    pattern::{HostPattern, PatternError},
    row::SecretRow,
};
use data_encoding::BASE64;
use zeroize::Zeroizing;

pub use connection::{Certificate, CertificateFlaw, Login, Mark, Means, means};

use crate::{
    http::{EditError, FieldName, FieldValue, OutgoingRequest, Scheme, parse::same_field},
    policy::{HostTable, Injection, Permit, Place},
    redact::{Finder, TooShort},
};

/// A secret with the hosts to which it is bound. Its value is wiped when dropped; it cannot be copied or printed.
pub struct Secret {
    row: SecretRow,
    serial: u64,
    hosts: HostTable,
    /// A private key is among it, which never leaves.
    is_key: bool,
    /// As a client certificate, read when it is first needed.
    certificate: OnceLock<Result<Arc<Certificate>, CertificateFlaw>>,
    /// As the credentials of a proxy, likewise.
    login: OnceLock<Option<Arc<Login>>>,
    /// Find its value in answers, and its value as `user:password`; made at first use, and gone with this version.
    finders: [OnceLock<Result<Arc<Finder>, TooShort>>; 2],
}

impl Secret {
    /// Takes a row.
    ///
    /// # Errors
    /// When one of its host patterns does not hold.
    pub fn new(row: SecretRow) -> Result<Self, PatternError> {
        let hosts: Vec<HostPattern> =
            row.hosts.iter().map(|text| HostPattern::parse(text)).collect::<Result<_, _>>()?;
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        let (certificate, login) = (OnceLock::new(), OnceLock::new());
        let (hosts, serial) = (HostTable::new(&hosts), TAKEN.fetch_add(1, Ordering::Relaxed));
        let is_key = holds_key(row.value.expose());
        Ok(Self { row, serial, hosts, is_key, certificate, login, finders: Default::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.row.version
    }

    /// A number that no other row has which this process took: a secret that was written anew has another.
    pub fn serial(&self) -> u64 {
        self.serial
    }
}

/// Why a credential was not put on a request; the request is refused then, never sent without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// No such secret, or it was withdrawn.
    #[error("the secret `{secret}` does not exist; write it, or remove the rule that names it")]
    Missing {
        /// Its name.
        secret: String,
    },
    /// The secret is not bound to the host.
    #[error("the secret `{secret}` is not bound to {host}; add the host to the secret's hosts")]
    NotBound {
        /// Its name.
        secret: String,
        /// Where it would have gone.
        host: String,
    },
    /// The request would go out without TLS.
    #[error("the secret `{secret}` goes over TLS only; use https, or set allowPlaintext on the secret")]
    Plaintext {
        /// Its name.
        secret: String,
    },
    /// A client certificate is wanted where there is no TLS to show it in.
    #[error("the client certificate in the secret `{secret}` is shown in TLS only; use https")]
    NoTls {
        /// Its name.
        secret: String,
    },
    /// It is to be shown as a client certificate and is none.
    #[error("the secret `{secret}` cannot be shown as a client certificate: {flaw}")]
    NotCertificate {
        /// Its name.
        secret: String,
        /// Why.
        flaw: CertificateFlaw,
    },
    /// It is a private key, which never leaves the plane.
    #[error("the secret `{secret}` holds a private key, which is never sent; name it in `clientCertificate`")]
    Key {
        /// Its name.
        secret: String,
    },
    /// It is to log in at a proxy and is no login.
    #[error(
        "the secret `{secret}` is not `user:password` with 1 to 255 plain bytes each, as a proxy takes them"
    )]
    NotLogin {
        /// Its name.
        secret: String,
    },
    /// The field's name or the value does not fit a field.
    #[error("the secret `{secret}` does not fit the field `{field}`")]
    Field {
        /// Its name.
        secret: String,
        /// Name of the field.
        field: String,
        /// Why.
        #[source]
        source: EditError,
    },
    /// The value does not fit the query of this request.
    #[error("the secret `{secret}` does not fit the query parameter `{parameter}`")]
    Parameter {
        /// Its name.
        secret: String,
        /// Name of the parameter.
        parameter: String,
        /// Why.
        #[source]
        source: EditError,
    },
    /// Its answer is to be searched for a credential that cannot be told from ordinary text.
    #[error(
        "the secret `{secret}` cannot be searched for in answers; use a longer one, or a rule without `redact`"
    )]
    TooShort {
        /// Its name.
        secret: String,
        /// Why.
        #[source]
        source: TooShort,
    },
    /// The rule names no user and the value holds none.
    #[error("the secret `{secret}` is not `user:password`; write it so, or name the user in the rule")]
    NoUser {
        /// Its name.
        secret: String,
    },
}

/// The field of bearer tokens and of users' passwords.
const AUTHORIZATION: &str = "authorization";

/// Puts one credential on a request.
///
/// # Errors
/// When the secret is missing, not bound to the host of the permit, would go out in plain text, or does not fit.
pub fn put(
    permit: &Permit,
    injection: &Injection,
    secret: Option<&Secret>,
    head: &mut OutgoingRequest<'_>,
) -> Result<(), InjectError> {
    let own = || injection.secret.as_ref().to_owned();
    let secret = secret.ok_or_else(|| InjectError::Missing { secret: own() })?;
    if secret.hosts.find(permit.host(), permit.port()).is_none() {
        return Err(InjectError::NotBound { secret: own(), host: permit.host().to_string() });
    }
    if permit.scheme() != Scheme::Https && !secret.row.allow_plaintext {
        return Err(InjectError::Plaintext { secret: own() });
    }
    if secret.is_key {
        return Err(InjectError::Key { secret: own() });
    }
    let value = secret.row.value.expose();
    let misfit = |field: &str, source| InjectError::Field { secret: own(), field: field.to_owned(), source };
    match &injection.place {
        Place::Field { name, prefix } => {
            field(name, [prefix.as_bytes(), value], head).map_err(|source| misfit(name, source))
        }
        Place::Basic { user: None } if !value.contains(&b':') => Err(InjectError::NoUser { secret: own() }),
        Place::Basic { user } => {
            basic(user.as_deref(), value, head).map_err(|source| misfit(AUTHORIZATION, source))
        }
        Place::Parameter { name } => head.set_parameter(name, value).map_err(|source| {
            InjectError::Parameter { secret: own(), parameter: name.as_ref().to_owned(), source }
        }),
    }
}

/// What finds a credential in the answer to a request that it was put on.
///
/// # Errors
/// When there is none, or it is too short to be found.
pub fn finder(injection: &Injection, secret: Option<&Secret>) -> Result<Arc<Finder>, InjectError> {
    let own = || injection.secret.as_ref().to_owned();
    let secret = secret.ok_or_else(|| InjectError::Missing { secret: own() })?;
    let (value, pair) = (secret.row.value.expose(), injection.place == Place::Basic { user: None });
    let colon = value.iter().position(|byte| *byte == b':').filter(|_| pair);
    let made = secret.finders[usize::from(colon.is_some())].get_or_init(|| {
        let made = match colon.map(|at| value.split_at(at)) {
            None => Finder::new(&[value]),
            // Services exist that take a key for the user, and no password.
            Some((user, b":")) => Finder::new(&[value, user]),
            Some((_, password)) => Finder::new(&[value, &password[1..]]),
        };
        made.map(Arc::new)
    });
    made.clone().map_err(|source| InjectError::TooShort { secret: own(), source })
}

/// Names of the secrets that a request carries once all of these were put there in this order, each once. A secret
/// whose place a later one took is not among them.
pub fn carried<'i>(injections: impl Iterator<Item = &'i Injection> + Clone) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    let mut rest = injections;
    while let Some(injection) = rest.next() {
        let replaced = rest.clone().any(|later| same_place(&later.place, &injection.place));
        if !replaced && !names.contains(&injection.secret) {
            names.push(Arc::clone(&injection.secret));
        }
    }
    names
}

fn same_place(one: &Place, other: &Place) -> bool {
    fn field(place: &Place) -> Option<&str> {
        match place {
            Place::Field { name, .. } => Some(name),
            Place::Basic { .. } => Some(AUTHORIZATION),
            Place::Parameter { .. } => None,
        }
    }
    match (one, other) {
        (Place::Parameter { name: one }, Place::Parameter { name: other }) => one.eq_ignore_ascii_case(other),
        _ => field(one)
            .zip(field(other))
            .is_some_and(|(one, other)| same_field(one.as_bytes(), other.as_bytes())),
    }
}

/// Sets a field to these parts, one behind the other.
fn field(name: &str, parts: [&[u8]; 2], head: &mut OutgoingRequest<'_>) -> Result<(), EditError> {
    let name = FieldName::new(name.as_bytes())?;
    head.set(name, FieldValue::from_zeroizing(joined(parts))?);
    Ok(())
}

/// RFC 7617 §2. The value is judged before it is encoded: behind base64 a line end would not be seen.
fn basic(user: Option<&str>, value: &[u8], head: &mut OutgoingRequest<'_>) -> Result<(), EditError> {
    FieldValue::check(value)?;
    let pair = user.map(|user| joined([user.as_bytes(), b":", value]));
    let pair: &[u8] = pair.as_ref().map_or(value, |pair| pair);
    let mut encoded = Zeroizing::new(vec![0; BASE64.encode_len(pair.len())]);
    BASE64.encode_mut(pair, &mut encoded);
    field(AUTHORIZATION, [b"Basic ", &encoded], head)
}

/// Parts one behind the other, sized once: a growing buffer would leave copies of the value behind unwiped.
fn joined<const N: usize>(parts: [&[u8]; N]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

#[cfg(test)]
mod tests;
