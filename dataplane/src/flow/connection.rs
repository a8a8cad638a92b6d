//! One connection up to its first request: who speaks, and what is spoken.

use std::{net::SocketAddr, rc::Rc};

use super::{
    arrived::Proof,
    core::{Core, HandOver},
    opaque::relay,
    requests::{begin, client_error, detached, requests, slow},
    resident::Admission,
    streams::streams,
};
use crate::{
    http::{ConnectionFacts, Host, Parsed, Scheme, TargetForm, Version, connect_target, parse_request},
    identity::{IdentityError, ListenerId, SandboxId},
    limits::{HANDSHAKE_TIME, HEAD_BYTES_MAX, HEAD_TIME, LINGER_TIME},
    listen::sniff::{Opening, sniff},
    policy::Rules,
    respond::{Blame, Refusal},
    ring::{Stream, timeout},
    tls::{self, CertName, Wire},
};

/// How a connection came to this shard.
#[derive(Clone, Debug)]
pub enum Way {
    /// To an explicit proxy; its credentials say who speaks.
    Proxy,
    /// To an explicit proxy of one sandbox.
    OwnProxy {
        /// Says whose it is.
        listener: ListenerId,
    },
    /// Captured on its way to an address by a listener of one sandbox.
    Captured {
        /// Says whose it is.
        listener: ListenerId,
        /// Where it was going.
        destination: SocketAddr,
    },
    /// Captured by a listener of many sandboxes; its source address says whose it is.
    Shared {
        /// Where it was going.
        destination: SocketAddr,
    },
}

/// Serves a connection to its end. Where it carried no request, the connection itself leaves a record.
///
/// The task of an idle connection is as large as this: opening lies apart, and nothing that it needed is kept.
pub fn serve(core: Rc<Core>, stream: Stream, way: Way) -> impl Future<Output = ()> {
    let opening = Rc::clone(&core);
    let arriving = Box::pin(async move { arrive(&opening, stream, way).await });
    async move {
        let mut opened = match arriving.await {
            Ok(Some(opened)) => opened,
            Ok(None) => return,
            Err(Refused { sandbox, whither, refusal }) => {
                return record(&core, sandbox.as_ref(), whither, &refusal);
            }
        };
        let share = opened.admission.resident().share.clone();
        match (opened.unread.take(), opened.version) {
            (Some(hello), _) => share.run(Box::pin(relay(&core, opened, hello))).await,
            (None, Version::Http2) => share.run(Box::pin(streams(&core, opened))).await,
            (None, _) => share.run(requests(&core, opened)).await,
        }
    }
}

/// Records a connection that carried no request, and where it was going.
pub fn record(core: &Core, sandbox: Option<&SandboxId>, whither: Option<(Host, u16)>, refusal: &Refusal) {
    let mut record = begin(sandbox);
    record.going(whither);
    record.verdict = "refused";
    record.code = Some(refusal.code);
    record.blame = Some(refusal.blame);
    record.reason = Some(refusal.reason().to_owned());
    // The audit counts what it cannot take; the connection has ended either way.
    let _counted = core.common.audit.record(&record);
}

/// A connection of which it is known who speaks, and what.
pub(super) struct Opened {
    pub(super) admission: Admission,
    pub(super) wire: Rc<Wire>,
    pub(super) facts: ConnectionFacts,
    pub(super) proof: Proof,
    /// HTTP/2, or whichever version of HTTP/1 each head says.
    pub(super) version: Version,
    /// The hello of TLS that is relayed unread.
    pub(super) unread: Option<Vec<u8>>,
}

impl Opened {
    /// Out of its box, whose memory is free then; taken apart in place, it would stay to the end.
    #[expect(clippy::boxed_local, reason = "to free the box is what it is for")]
    pub(super) fn unboxed(self: Box<Self>) -> Self {
        *self
    }
}

/// Opens a connection; nothing where it went on to another shard.
async fn arrive(core: &Rc<Core>, stream: Stream, way: Way) -> Result<Option<Box<Opened>>, Refused> {
    match way {
        Way::Proxy => proxy(core, stream, None).await,
        Way::OwnProxy { listener } => proxy(core, stream, Some(listener)).await,
        Way::Captured { listener, destination } => match by_listener(core, listener) {
            Ok(sandbox) => captured(core, stream, sandbox, destination).await.map(Some),
            Err(refusal) => Err((None, refusal).into()),
        },
        Way::Shared { destination } => shared(core, stream, destination).await,
    }
}

/// Why a connection ended before its first request; whose it was and where it was going, as far as that is known.
struct Refused {
    sandbox: Option<SandboxId>,
    whither: Option<(Host, u16)>,
    refusal: Refusal,
}

impl From<(Option<SandboxId>, Refusal)> for Refused {
    fn from((sandbox, refusal): (Option<SandboxId>, Refusal)) -> Self {
        Self { sandbox, whither: None, refusal }
    }
}

/// Asked as late as can be: a listener may be gone by the time its connection has its turn.
fn by_listener(core: &Core, listener: ListenerId) -> Result<SandboxId, Refusal> {
    let attachments = core.attachments();
    attachments.by_listener(listener).cloned().map_err(|error| Refusal::from(&error))
}

/// Serves a connection that was captured on its way to an address, on its sandbox's home.
async fn captured(
    core: &Rc<Core>,
    stream: Stream,
    sandbox: SandboxId,
    destination: SocketAddr,
) -> Result<Box<Opened>, Refused> {
    let admission = core.admit(&sandbox).map_err(|refusal| (Some(sandbox), refusal))?;
    let name = admission.resident().names.borrow_mut().name_of(destination.ip());
    let facts = ConnectionFacts {
        scheme: Scheme::Http,
        connect_target: None,
        sni: None,
        destination: Some(destination),
        destination_name: name.and_then(|name| Host::parse(&name).ok()),
        explicit_proxy: false,
    };
    let share = admission.resident().share.clone();
    share.run(open(core, admission, stream, facts)).await
}

/// Finds out whose a captured connection is by where it came from, and goes on where that sandbox lives.
async fn shared(
    core: &Rc<Core>,
    stream: Stream,
    destination: SocketAddr,
) -> Result<Option<Box<Opened>>, Refused> {
    let peer = stream.peer_addr().map_err(|error| (None, client_error(&error)))?;
    let found = core.attachments().by_source(peer.ip()).cloned();
    let sandbox = found.map_err(|error| (None, Refusal::from(&error)))?;
    let home = core.home_of(&sandbox);
    if home == core.index {
        return captured(core, stream, sandbox, destination).await.map(Some);
    }
    let way = Way::Shared { destination };
    let moved = move_home(core, stream, Vec::new(), home, way).await;
    moved.map(|()| None).map_err(|refusal| (Some(sandbox), refusal).into())
}

/// Reads the first head of a proxy's client, finds out who it is, and goes on where that sandbox lives.
async fn proxy(
    core: &Rc<Core>,
    stream: Stream,
    own: Option<ListenerId>,
) -> Result<Option<Box<Opened>>, Refused> {
    let mut bytes = Vec::new();
    let first = timeout(HEAD_TIME, first_head(core, &stream, own, &mut bytes)).await;
    let (sandbox, target, consumed) = match first {
        Ok(Ok(known)) => known,
        Ok(Err(refusal)) => return Err((None, tell(&stream, refusal).await).into()),
        Err(_) => {
            return Err((None, tell(&stream, slow("the request head did not arrive in time")).await).into());
        }
    };
    let home = core.home_of(&sandbox);
    let (way, proof) = match own {
        Some(listener) => (Way::OwnProxy { listener }, Proof::Connection),
        None => (Way::Proxy, Proof::Credentials),
    };
    if home != core.index {
        let moved = move_home(core, stream, bytes, home, way).await;
        return moved.map(|()| None).map_err(|refusal| (Some(sandbox), refusal).into());
    }
    let admission = match core.admit(&sandbox) {
        Ok(admission) => admission,
        Err(refusal) => return Err((Some(sandbox), tell(&stream, refusal).await).into()),
    };
    let facts = ConnectionFacts {
        scheme: Scheme::Http,
        connect_target: target,
        sni: None,
        destination: None,
        destination_name: None,
        explicit_proxy: true,
    };
    if facts.connect_target.is_none() {
        stream.unread(bytes);
        let wire = Rc::new(Wire::Plain(stream));
        let version = Version::Http11;
        return Ok(Some(Box::new(Opened { admission, wire, facts, proof, version, unread: None })));
    }
    stream.unread(bytes.split_off(consumed));
    // A refused name gets its 200 too, and is refused inside: clients hide the body of a failed CONNECT.
    let established = b"HTTP/1.1 200 Connection established\r\n\r\n";
    stream.send(established).await.map_err(|error| (Some(sandbox), client_error(&error)))?;
    let share = admission.resident().share.clone();
    share.run(open(core, admission, stream, facts)).await.map(Some)
}

/// Sandbox, CONNECT target and length of the first head.
type FirstHead = (SandboxId, Option<(Host, u16)>, usize);

async fn first_head(
    core: &Core,
    stream: &Stream,
    own: Option<ListenerId>,
    bytes: &mut Vec<u8>,
) -> Result<FirstHead, Refusal> {
    loop {
        let chunk = stream.receive().await.map_err(|error| client_error(&error))?;
        let chunk = chunk.ok_or_else(|| client_error(&std::io::ErrorKind::UnexpectedEof.into()))?;
        bytes.extend_from_slice(&chunk);
        debug_assert!(
            bytes.len() <= HEAD_BYTES_MAX + chunk.len(),
            "the parser refuses a head that is too long"
        );
        let Parsed::Complete { head, consumed } =
            parse_request(bytes).map_err(|error| Refusal::from(&error))?
        else {
            continue;
        };
        let sandbox = match own {
            Some(listener) => by_listener(core, listener)?,
            None => {
                let credentials = head.field("proxy-authorization");
                let found = core.attachments().by_credentials(credentials).cloned();
                found.map_err(|error: IdentityError| Refusal::from(&error))?
            }
        };
        let target = match head.form() {
            TargetForm::Authority => Some(connect_target(&head).map_err(|error| Refusal::from(&error))?),
            _ => None,
        };
        return Ok((sandbox, target, consumed));
    }
}

async fn move_home(
    core: &Core,
    stream: Stream,
    mut bytes: Vec<u8>,
    home: usize,
    way: Way,
) -> Result<(), Refusal> {
    let (socket, rest) = stream.into_parts().await.map_err(|error| client_error(&error))?;
    bytes.extend_from_slice(&rest);
    (core.common.hand_over)(HandOver { home, socket, bytes, way }).map_err(|_| {
        let detail = "the sandbox's shard takes no more connections now";
        Refusal::new(503, "shard_busy", Blame::Gateway, detail, "try again")
    })
}

/// Tells a refusal in plain HTTP and ends the connection.
async fn tell(stream: &Stream, refusal: Refusal) -> Refusal {
    // The client may be gone; the record says what it would have been told.
    let _sent = stream.send(&refusal.to_http(false, false)).await;
    let _ended = stream.shutdown_write();
    // As with `end`: unread bytes would reset the connection, and the client could lose the answer.
    let drained = async { while let Ok(Some(_)) = stream.receive_body().await {} };
    let _in_time = timeout(LINGER_TIME, drained).await;
    refusal
}

/// Recognises what is spoken by its first bytes, opens TLS where it is that, and serves the requests.
async fn open(
    core: &Rc<Core>,
    admission: Admission,
    stream: Stream,
    mut facts: ConnectionFacts,
) -> Result<Box<Opened>, Refused> {
    let refused = |facts: &ConnectionFacts, refusal| {
        let sandbox = Some(admission.resident().id.clone());
        Refused { sandbox, whither: facts.whither(), refusal }
    };
    let (opening, first) = match admission.tie().hold(timeout(HEAD_TIME, first_bytes(&stream))).await {
        Some(Ok(Ok(found))) => found,
        Some(Ok(Err(error))) => return Err(refused(&facts, client_error(&error))),
        Some(Err(_)) => return Err(refused(&facts, slow("nothing was said in time"))),
        None => {
            stream.reset();
            return Err(refused(&facts, detached()));
        }
    };
    let (wire, version, unread) = match opening {
        Opening::Tls => match terminate(core, &admission, stream, &first, &mut facts).await {
            Ok(terminated) => terminated,
            Err(refusal) => return Err(refused(&facts, refusal)),
        },
        Opening::Http1 | Opening::Http2 => {
            stream.unread(first);
            let version = if opening == Opening::Http2 { Version::Http2 } else { Version::Http11 };
            (Wire::Plain(stream), version, None)
        }
        Opening::Other => {
            stream.reset();
            let detail = "the connection speaks neither TLS nor HTTP";
            let remedy = "use HTTP or HTTPS; other protocols are not relayed";
            let refusal = Refusal::new(400, "protocol_unknown", Blame::Sandbox, detail, remedy);
            return Err(refused(&facts, refusal));
        }
    };
    let (wire, proof) = (Rc::new(wire), Proof::Connection);
    Ok(Box::new(Opened { admission, wire, facts, proof, version, unread }))
}

async fn first_bytes(stream: &Stream) -> std::io::Result<(Opening, Vec<u8>)> {
    let mut first = Vec::new();
    loop {
        let chunk = stream.receive().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        first.extend_from_slice(&chunk);
        if let Some(opening) = sniff(&first) {
            return Ok((opening, first));
        }
    }
}

/// Whether the policy leaves a connection closed, whichever of the hosts that it names is meant: where they disagree it
/// is refused unopened.
fn leaves_closed(rules: &Rules, facts: &ConnectionFacts) -> bool {
    let connect = facts.connect_target.as_ref();
    let Some(port) = connect.map(|(_, port)| *port).or(facts.destination.map(|address| address.port()))
    else {
        return !rules.intercepts();
    };
    let names = [connect.map(|(host, _)| host), facts.sni.as_ref(), facts.destination_name.as_ref()];
    let closed = |host: &Host| rules.leaves_closed(host, port).is_some();
    let bare = facts.destination.filter(|_| !facts.names_a_host());
    names.into_iter().flatten().any(closed) || bare.is_some_and(|address| closed(&Host::from(address.ip())))
}

/// Opens the sandbox's TLS with a certificate for the name that it asked for. Where the policy leaves it closed, gives
/// the hello instead.
async fn terminate(
    core: &Core,
    admission: &Admission,
    stream: Stream,
    first: &[u8],
    facts: &mut ConnectionFacts,
) -> Result<(Wire, Version, Option<Vec<u8>>), Refusal> {
    let refused = |error: &tls::TlsError| {
        let remedy = "let the client trust http://outgate.internal/ca.pem and offer TLS 1.2 or 1.3";
        Refusal::new(400, "tls_failed", Blame::Sandbox, &error.to_string(), remedy).because(error)
    };
    let opened = async {
        let (hello, replay) = tls::read_hello(&stream, first).await.map_err(|error| refused(&error))?;
        facts.sni = hello.server_name.as_deref().and_then(|name| Host::parse(name).ok());
        facts.scheme = Scheme::Https;
        let rules = core.rules(admission.resident());
        if rules.is_some_and(|rules| leaves_closed(&rules, facts)) {
            return Ok((Wire::Plain(stream), Version::Http11, Some(replay)));
        }
        let terminator = core.terminator(admission.resident()).await?;
        let host = facts
            .sni
            .clone()
            .or_else(|| facts.connect_target.as_ref().map(|(host, _)| host.clone()))
            .or_else(|| facts.destination_name.clone())
            .or_else(|| facts.destination.map(|address| Host::from(address.ip())));
        let name = host.and_then(|host| CertName::parse(&host.text())).ok_or_else(|| {
            let detail = "nothing says which name the certificate is to be for";
            Refusal::new(421, "no_name", Blame::Sandbox, detail, "send a server name")
        })?;
        let stream =
            tls::accept(stream, &hello, replay, &name, &terminator).await.map_err(|error| refused(&error))?;
        let version = if stream.speaks_http2() { Version::Http2 } else { Version::Http11 };
        Ok((Wire::Tls(Box::new(stream)), version, None))
    };
    match admission.tie().hold(timeout(HANDSHAKE_TIME, opened)).await {
        Some(in_time) => in_time.unwrap_or_else(|_| Err(slow("the TLS handshake did not end in time"))),
        None => Err(detached()),
    }
}
