//! Puts credentials on requests; the only place of the plane that reads a secret's value.

use std::sync::Arc;

use control_wire::{
    pattern::{HostPattern, PatternError},
    row::SecretRow,
};
use zeroize::Zeroizing;

use crate::{
    http::{EditError, FieldName, FieldValue, OutgoingRequest, Scheme},
    policy::{HostTable, Injection, Permit},
};

/// A secret with the hosts to which it is bound. Its value is wiped when dropped; it cannot be copied or printed.
pub struct Secret {
    row: SecretRow,
    hosts: HostTable,
}

impl Secret {
    /// Takes a row.
    ///
    /// # Errors
    /// When one of its host patterns does not hold.
    pub fn new(row: SecretRow) -> Result<Self, PatternError> {
        let hosts: Vec<HostPattern> =
            row.hosts.iter().map(|text| HostPattern::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { hosts: HostTable::new(&hosts), row })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.row.version
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
}

/// Puts the credentials of all rules that the permit carries on the request.
///
/// # Errors
/// The first that could not be put there.
pub fn by_rules<'s>(
    permit: &Permit,
    find: impl Fn(&str) -> Option<&'s Secret>,
    head: &mut OutgoingRequest<'_>,
) -> Result<(), InjectError> {
    permit.injections().iter().try_for_each(|injection: &Arc<Injection>| {
        let secret = find(&injection.secret);
        header(permit, &injection.field, &injection.prefix, (&injection.secret, secret), head)
    })
}

/// Puts one secret into a header, in place of every field of that name.
///
/// # Errors
/// When the secret is missing, not bound to the host of the permit, would go out in plain text, or does not fit.
pub fn header(
    permit: &Permit,
    field: &str,
    prefix: &str,
    (name, secret): (&str, Option<&Secret>),
    head: &mut OutgoingRequest<'_>,
) -> Result<(), InjectError> {
    let secret = secret.ok_or_else(|| InjectError::Missing { secret: name.to_owned() })?;
    if secret.hosts.find(permit.host(), permit.port()).is_none() {
        let host = permit.host().to_string();
        return Err(InjectError::NotBound { secret: name.to_owned(), host });
    }
    if permit.scheme() != Scheme::Https && !secret.row.allow_plaintext {
        return Err(InjectError::Plaintext { secret: name.to_owned() });
    }
    let misfit = |source| InjectError::Field { secret: name.to_owned(), field: field.to_owned(), source };
    let field_name = FieldName::new(field.as_bytes()).map_err(misfit)?;
    let exposed = secret.row.value.expose();
    // Sized once: a growing buffer would leave copies of the value behind unwiped.
    let mut value = Zeroizing::new(Vec::with_capacity(prefix.len() + exposed.len()));
    value.extend_from_slice(prefix.as_bytes());
    value.extend_from_slice(exposed);
    head.set(field_name, FieldValue::from_zeroizing(value).map_err(misfit)?);
    Ok(())
}

/// `Authorization: Bearer` from a secret.
///
/// # Errors
/// As [`header`].
pub fn bearer(
    permit: &Permit,
    secret: (&str, Option<&Secret>),
    head: &mut OutgoingRequest<'_>,
) -> Result<(), InjectError> {
    header(permit, "authorization", "Bearer ", secret, head)
}
