//! A connection for a request: one that is at hand, or a new one.

use std::{io, net::SocketAddr, rc::Rc};

use super::{arrived::Arrived, core::Core, exchange::ExchangeError, lookup::lookup, outbound::Speaks};
use crate::{
    audit::Record,
    http::Scheme,
    inject::Means,
    limits::H2_WINDOW_FIRST,
    policy::Permit,
    respond::{Blame, Refusal},
    tls::Wire,
    upstream::{Place, Shared, Turn, dial_any, pool::Key},
};

/// What carries a request.
pub(super) enum Upstream {
    /// A connection that carries one request at a time.
    Own { wire: Rc<Wire>, address: SocketAddr, reused: bool },
    /// A place on one that carries many.
    Shared { place: Place, reused: bool },
}

impl Upstream {
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Own { address, .. } => *address,
            Self::Shared { place, .. } => place.address(),
        }
    }

    /// Whether it carried a request before: the upstream may have closed it at this moment.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Own { reused, .. } | Self::Shared { reused, .. } => *reused,
        }
    }
}

/// Which connections that were idle a request may take.
#[derive(Clone, Copy)]
pub(super) enum Idle {
    /// Any: where its upstream has ended one at this moment, the request is sent again.
    Any,
    /// Those of which the kernel says that their upstream has not ended them: the request must not be sent twice.
    Proven,
    /// None: one has failed.
    None,
}

/// A connection that is there already.
pub(super) fn at_hand(core: &Core, key: &Key, speaks: Speaks, idle: Idle) -> Option<Upstream> {
    let shared = (speaks != Speaks::Http11).then(|| core.shared.find(key)).flatten();
    if let Some(place) = shared {
        return Some(Upstream::Shared { place, reused: true });
    }
    let own = match idle {
        Idle::Any if speaks != Speaks::Http2 => core.pool.take(key),
        Idle::Proven if speaks != Speaks::Http2 => core.pool.take_proven(key),
        _ => None,
    };
    own.map(|(wire, address)| Upstream::Own { wire, address, reused: true })
}

/// A new connection, or one that somebody else has opened meanwhile.
pub(super) async fn search(
    arrived: &Arrived<'_>,
    (permit, means): (&Permit, &Means),
    (key, speaks, idle): (&Key, Speaks, Idle),
    record: &mut Record,
) -> Result<Upstream, Refusal> {
    let core = arrived.core;
    let could_share = permit.scheme() == Scheme::Https && speaks != Speaks::Http11;
    let _dialling = loop {
        let turn = match could_share {
            true => core.shared.dial_or_wait(key, (permit.host(), permit.port())).await,
            false => break None,
        };
        if let Turn::Dial(dialling) = turn {
            break Some(dialling);
        }
        if let Some(found) = at_hand(core, key, speaks, idle) {
            return Ok(found);
        }
        if matches!(turn, Turn::Own) {
            break None;
        }
    };
    let (wire, address) = connect(arrived, (permit, means), speaks, record).await?;
    let shares = wire.speaks_http2() || (speaks == Speaks::Http2 && permit.scheme() == Scheme::Http);
    if !shares {
        if could_share {
            core.shared.speaks_http11(permit.host(), permit.port());
        }
        if speaks == Speaks::Http2 {
            return Err(only_http11());
        }
        return Ok(Upstream::Own { wire, address, reused: false });
    }
    let windows = &arrived.resident.upstream_windows;
    if windows.left() < H2_WINDOW_FIRST {
        core.shared.forget_idle(&arrived.resident.id);
    }
    let begun = Shared::begin(wire, address, windows).await.map_err(|error| {
        let error = ExchangeError::Unanswered(Some(io::Error::other(error)));
        Refusal::new(502, "upstream_closed", Blame::Upstream, &error.to_string(), "try again").because(&error)
    });
    let (shared, driving) = begun?;
    core.drivers.spawn(arrived.resident.share.run(driving));
    let place = core.shared.share(key.clone(), shared).ok_or_else(|| {
        let detail = "the upstream takes no request on a new connection";
        Refusal::new(502, "upstream_closed", Blame::Upstream, detail, "try again")
    })?;
    Ok(Upstream::Shared { place, reused: false })
}

fn only_http11() -> Refusal {
    let detail = "the request needs HTTP/2 to its upstream, which speaks only HTTP/1.1";
    Refusal::new(502, "upstream_without_h2", Blame::Upstream, detail, "ask an upstream that speaks HTTP/2")
}

/// Resolves, checks and dials what a permit allows. Where that fails, the record says at which address.
async fn connect(
    arrived: &Arrived<'_>,
    (permit, means): (&Permit, &Means),
    speaks: Speaks,
    record: &mut Record,
) -> Result<(Rc<Wire>, SocketAddr), Refusal> {
    let core = arrived.core;
    let found = lookup(core, permit).await?;
    let dialled = dial_any(permit, means, &found, &core.upstream_tls, Some(speaks.protocols())).await;
    let (wire, address) = dialled.map_err(|error| {
        record.address = error.address().or(record.address);
        Refusal::from(&error)
    })?;
    Ok((Rc::new(wire), address))
}
