//! The TLS settings of a connection to an upstream: the name that is verified, by which roots, and what is offered.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};

use super::fault::DialError;
use crate::http::{Host, Scheme};
use crate::inject::{Certificate, Mark, Means};
use crate::limits::ROOTS_KEPT_MAX;
use crate::policy::{Permit, Roots};
use crate::tls::{Protocol, RootsError, UpstreamTls};

/// What a handshake needs: all of it is known before anything is sent.
pub(super) struct Trust<'a> {
    pub(super) name: ServerName<'static>,
    pub(super) config: Arc<ClientConfig>,
    pub(super) protocols: &'a [Protocol],
}

impl<'a> Trust<'a> {
    /// For a permit; none where it speaks plainly, or where no protocols are offered because TLS is somebody else's.
    pub(super) fn of(
        permit: &Permit,
        means: &Means,
        tls: &UpstreamTls,
        protocols: Option<&'a [Protocol]>,
    ) -> Result<Option<Self>, DialError> {
        let Some(protocols) = protocols.filter(|_| permit.scheme() == Scheme::Https) else { return Ok(None) };
        let host = || permit.host().clone();
        let name = server_name(permit.host()).ok_or_else(|| DialError::Name { host: host() })?;
        let config = config_for(tls, permit.roots(), means.certificate())
            .map_err(|source| DialError::Roots { host: host(), source })?;
        Ok(Some(Self { name, config, protocols }))
    }
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Ip(address) => Some(ServerName::IpAddress((*address).into())),
        Host::Name(name) => {
            let name = DnsName::try_from(name.as_str()).ok()?;
            Some(ServerName::DnsName(name.to_owned()))
        }
    }
}

/// TLS settings that were made for private roots or a client certificate.
struct Kept {
    roots: Option<[u8; 32]>,
    certificate: Option<Mark>,
    config: Arc<ClientConfig>,
}

thread_local! {
    /// Of this shard, the one used last at the end: sessions are resumed where they were begun.
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// Lets go of settings with client certificates that are no longer in force, and of their keys and sessions.
pub fn forget_certificates(in_force: impl Fn(&Mark) -> bool) {
    KEPT.with_borrow_mut(|kept| kept.retain(|kept| kept.certificate.as_ref().is_none_or(&in_force)));
}

/// The settings for these roots and this certificate; those used longest ago go when there are too many.
fn config_for(
    tls: &UpstreamTls,
    roots: Option<&Arc<Roots>>,
    certificate: Option<&Arc<Certificate>>,
) -> Result<Arc<ClientConfig>, RootsError> {
    if roots.is_none() && certificate.is_none() {
        return Ok(tls.system().clone());
    }
    KEPT.with_borrow_mut(|kept| {
        let same = |kept: &Kept| {
            kept.roots.as_ref() == roots.map(|roots| roots.key())
                && kept.certificate.as_ref() == certificate.map(|certificate| certificate.mark())
                // Settings of another `UpstreamTls` offer other groups.
                && Arc::ptr_eq(kept.config.crypto_provider(), tls.system().crypto_provider())
        };
        let found = kept.iter().position(same).map(|at| kept.remove(at));
        let entry = match found {
            Some(entry) => entry,
            None => Kept {
                roots: roots.map(|roots| *roots.key()),
                certificate: certificate.map(|certificate| certificate.mark().clone()),
                config: tls.settings(
                    roots.map(|roots| roots.pem().as_bytes()),
                    certificate.map(|certificate| Arc::clone(certificate.key())),
                )?,
            },
        };
        if kept.len() >= ROOTS_KEPT_MAX {
            kept.remove(0);
        }
        let config = entry.config.clone();
        kept.push(entry);
        Ok(config)
    })
}
