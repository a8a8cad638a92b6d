//! What policy answers: a permit, which only this module can make, or a denial.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use control_wire::policy::{OnError, ProxyKind};
use ipnet::IpNet;

use crate::{
    http::{Host, Scheme},
    identity::SandboxId,
};

/// What is judged: one request, in the normal forms of `http`.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Method, byte by byte as it was sent.
    pub method: &'a str,
    /// How the upstream would be spoken to.
    pub scheme: Scheme,
    /// The decided host.
    pub host: &'a Host,
    /// The decided port.
    pub port: u16,
    /// Path as it was sent, without the query.
    pub path: &'a [u8],
    /// The protocol that the request would change to (RFC 9110 §7.8), where that is not a WebSocket.
    pub upgrade: Option<&'a str>,
    /// The sandbox named the host, by server name, `Host` or CONNECT. False for TLS that came to an address without
    /// a server name: nothing proves then that the address is not one of a listed name.
    pub name_proven: bool,
}

/// The answer of policy.
#[derive(Debug)]
pub enum Decision {
    /// It may be sent, as the permit says.
    Allow(Permit),
    /// Nothing allows it, and a person is to be asked.
    Ask(Box<Question>),
    /// It may not.
    Deny(Denial),
}

/// What a person is asked: the permit that there would be, and the denial.
#[derive(Debug)]
pub struct Question {
    pub(super) permit: Permit,
    pub(super) denial: Denial,
    pub(super) time: Duration,
}

impl Question {
    /// How long a request waits for the answer.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Which part of the policy asks, for records and refusals.
    pub fn rule(&self) -> &Arc<str> {
        &self.permit.rule
    }

    /// Status of the refusal where nobody allows it.
    pub fn deny_status(&self) -> u16 {
        self.denial.status
    }

    /// A person has allowed it.
    pub fn allow(self) -> Permit {
        self.permit
    }

    /// A person has denied it.
    pub fn deny(self) -> Denial {
        Denial { reason: DenyReason::Answered, rule: self.permit.rule, status: self.denial.status }
    }

    /// Nobody can be asked.
    pub(super) fn unasked(self) -> Denial {
        self.denial
    }
}

/// Leave for one sandbox to speak to one host; the only way to a target. Only policy makes one.
#[derive(Debug)]
pub struct Permit {
    pub(super) sandbox: SandboxId,
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) addresses: AddressPolicy,
    pub(super) roots: Option<Arc<Roots>>,
    pub(super) rule: Arc<str>,
    pub(super) handler: Option<Arc<HandlerUse>>,
    pub(super) injections: Vec<Arc<Injection>>,
    pub(super) way: Option<Box<Way>>,
    pub(super) certificate: Option<Arc<Shown>>,
    pub(super) redacts: bool,
}

impl Permit {
    /// For whom.
    pub fn sandbox(&self) -> &SandboxId {
        &self.sandbox
    }

    /// How to speak.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// To which host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// On which port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Which addresses the host may have.
    pub fn addresses(&self) -> &AddressPolicy {
        &self.addresses
    }

    /// Roots by which the host is verified, in the place of the system's.
    pub fn roots(&self) -> Option<&Arc<Roots>> {
        self.roots.as_ref()
    }

    /// Which part of the policy allowed it, for the record: `allowedHosts: *.example.com`.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// The handler that has to be asked first. Where the tables do not hold it, the request is refused.
    pub fn handler(&self) -> Option<&Arc<HandlerUse>> {
        self.handler.as_ref()
    }

    /// Credentials that rules put on the request, in the order written.
    pub fn injections(&self) -> &[Arc<Injection>] {
        &self.injections
    }

    /// How the connection is made, where a rule says more than "directly".
    pub fn way(&self) -> Option<&Way> {
        self.way.as_deref()
    }

    /// The client certificate that the host is shown.
    pub fn certificate(&self) -> Option<&Arc<Shown>> {
        self.certificate.as_ref()
    }

    /// The answer is to be searched for the credentials that the request is given.
    pub fn redacts(&self) -> bool {
        self.redacts
    }
}

/// What the guard needs to judge an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressPolicy {
    pub(super) allowed: Arc<[IpNet]>,
    pub(super) denied: Arc<[IpNet]>,
}

impl AddressPolicy {
    /// Special-purpose ranges that this host may resolve to.
    pub fn allowed(&self) -> &[IpNet] {
        &self.allowed
    }

    /// Ranges that may never be dialled, whatever name led there. Denied ports are already left out.
    pub fn denied(&self) -> &[IpNet] {
        &self.denied
    }
}

/// How a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    pub(super) route: Arc<Route>,
    pub(super) addresses: AddressPolicy,
    pub(super) rule: Arc<str>,
}

impl Way {
    /// What the rule says of it.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Which addresses the proxy may have.
    pub fn addresses(&self) -> &AddressPolicy {
        &self.addresses
    }

    /// Which part of the policy says so, for refusals.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }
}

impl fmt::Display for Via {
    /// As the policy names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        match self.host.ip() {
            Some(address) => write!(f, "{kind}://{}", SocketAddr::new(address, self.port)),
            None => write!(f, "{kind}://{}:{}", self.host, self.port),
        }
    }
}

/// What a rule says of how connections are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The proxy through which they are made.
    pub via: Option<Via>,
    /// The address from which they are made.
    pub source: Option<IpAddr>,
}

/// A proxy towards upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Name of the secret that holds its credentials.
    pub secret: Option<Arc<str>>,
    /// It is given the name, not an address.
    pub resolves: bool,
}

/// A client certificate that a rule shows to a host.
#[derive(Debug)]
pub struct Shown {
    /// Name of the secret.
    pub secret: Arc<str>,
    /// Which part of the policy says so, for refusals.
    pub rule: Arc<str>,
}

/// Private roots for some hosts.
#[derive(Debug)]
pub struct Roots {
    pub(super) pem: String,
    pub(super) key: [u8; 32],
}

impl Roots {
    /// Certificates in PEM form.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the PEM text, by which connections and configurations are shared.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }
}

/// A handler as policy chose it.
#[derive(Debug)]
pub struct HandlerUse {
    /// Name under which it was published.
    pub name: Arc<str>,
    /// Parameters as JSON.
    pub params: Box<[u8]>,
    /// What happens when it fails.
    pub on_error: OnError,
    /// Which part of the policy chose it, for the record.
    pub rule: Arc<str>,
}

/// A credential that a rule, or the handler that policy chose, puts on a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Injection {
    /// Where its value goes.
    pub place: Place,
    /// Name of the secret.
    pub secret: Arc<str>,
    /// Which part of the policy says so, for refusals.
    pub rule: Arc<str>,
}

/// Where a credential goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a field, in place of every field of that name.
    Field {
        /// Name of the field.
        name: Box<str>,
        /// Put before the value.
        prefix: Box<str>,
    },
    /// Into `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user; where there is none the value is `user:password`.
        user: Option<Box<str>>,
    },
    /// Into the query, in place of every parameter of that name.
    Parameter {
        /// Name of the parameter, decoded.
        name: Box<str>,
    },
}

/// Why policy said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The kind of reason.
    pub reason: DenyReason,
    /// Which part of the policy said so.
    pub rule: Arc<str>,
    /// Status of the refusal, as the policy wants it.
    pub status: u16,
}

/// Kinds of reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// A pattern of `deniedHosts` matched.
    DeniedHost,
    /// `allowedHosts` is set and no pattern matched.
    NotAllowed,
    /// A rule denied it, with this text of the operator's.
    Rule(Arc<str>),
    /// A person was asked and said no.
    Answered,
    /// No list, no handler, and `enableInternet` is off.
    NoInternet,
    /// TLS without a server name, where names are listed.
    NameNotProven,
    /// The connection is relayed unread, and a rule or handler for the host would need to read it.
    NeedsInterception,
    /// TRACE echoes what was injected (RFC 9110 §9.3.8).
    Trace,
    /// It would change to a protocol that no rule lets it change to.
    Upgrade,
}
