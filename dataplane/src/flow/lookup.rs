//! Names of a permit to addresses.

use std::{net::IpAddr, rc::Rc};

use glommio::channels::local_channel;

use super::core::Core;
use crate::{
    http::Host,
    policy::Permit,
    respond::Refusal,
    upstream::{Found, ResolveError},
};

/// The addresses of a permit's host, and of the proxy through which it is reached.
pub(super) async fn lookup(core: &Rc<Core>, permit: &Permit) -> Result<Found, Refusal> {
    let via = permit.way().and_then(|way| way.route().via.as_ref());
    let proxy = match via {
        Some(via) => resolve(core, &via.host)
            .await
            .map_err(|error| Refusal::proxy_unresolved(permit.host(), &error))?,
        None => Rc::from([]),
    };
    let host = match via {
        Some(via) if via.resolves => Rc::from([]),
        _ => resolve(core, permit.host()).await.map_err(|error| Refusal::from(&error))?,
    };
    Ok(Found { host, proxy })
}

/// The addresses of a host. Other sandboxes may wait for the same answer, so it does not come in the turns of the one
/// that asked first.
async fn resolve(core: &Rc<Core>, host: &Host) -> Result<Rc<[IpAddr]>, ResolveError> {
    let name = match host {
        Host::Ip(address) => return Ok(Rc::from([*address])),
        Host::Name(name) => name,
    };
    if let Some(known) = core.resolver.known(name.as_str()) {
        return known;
    }
    let (tell, told) = local_channel::new_bounded(1);
    let (on, asked) = (Rc::clone(core), name.clone());
    core.drivers.spawn(async move {
        // Who asked may have left; the answer is remembered all the same.
        let _heard = tell.try_send(on.resolver.resolve(asked.as_str()).await);
    });
    told.recv().await.unwrap_or_else(|| Err(ResolveError::Busy { host: name.as_str().into() }))
}
