//! The TLS settings of a connection to an upstream: the name that is verified, by which roots, and what is offered.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};

use super::fault::DialError;
use crate::http::{Host, Scheme};
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
        tls: &UpstreamTls,
        protocols: Option<&'a [Protocol]>,
    ) -> Result<Option<Self>, DialError> {
        let Some(protocols) = protocols.filter(|_| permit.scheme() == Scheme::Https) else { return Ok(None) };
        let host = || permit.host().clone();
        let name = server_name(permit.host()).ok_or_else(|| DialError::Name { host: host() })?;
        let config =
            config_for(tls, permit.roots()).map_err(|source| DialError::Roots { host: host(), source })?;
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

/// TLS settings that were made for private roots, the one used last at the end.
type Kept = Vec<([u8; 32], Arc<ClientConfig>)>;

thread_local! {
    /// Of this shard: sessions are resumed where they were begun.
    static KEPT: RefCell<Kept> = const { RefCell::new(Vec::new()) };
}

/// The settings for these roots; the one used longest ago goes when there are too many.
fn config_for(tls: &UpstreamTls, roots: Option<&Arc<Roots>>) -> Result<Arc<ClientConfig>, RootsError> {
    let Some(roots) = roots else { return Ok(tls.system().clone()) };
    KEPT.with_borrow_mut(|kept| {
        let same = |(key, config): &([u8; 32], Arc<ClientConfig>)| {
            // Settings of another `UpstreamTls` offer other groups.
            key == roots.key() && Arc::ptr_eq(config.crypto_provider(), tls.system().crypto_provider())
        };
        let found = kept.iter().position(same).map(|at| kept.remove(at));
        let entry = match found {
            Some(entry) => entry,
            None => (*roots.key(), tls.with_roots(roots.pem().as_bytes())?),
        };
        if kept.len() >= ROOTS_KEPT_MAX {
            kept.remove(0);
        }
        let config = entry.1.clone();
        kept.push(entry);
        Ok(config)
    })
}
