//! What the sandbox is told where there is no connection to an upstream, and who can mend it.

use rustls::AlertDescription;

use super::{Blame, Refusal};
use crate::{
    http::Host,
    tls::{CertificateFault, TlsError},
    upstream::{GuardError, ProxyError, ResolveError, dial::DialError, resolve::Failure},
};

impl From<&ResolveError> for Refusal {
    fn from(error: &ResolveError) -> Self {
        use ResolveError as E;
        let (status, code, blame, remedy) = match error {
            E::NoSuchName { .. } => (502, "name_unknown", Blame::Upstream, "check the name"),
            E::NoAddress { .. } => (502, "name_without_address", Blame::Upstream, "check the name"),
            E::Unanswered { last: Failure::TimedOut, .. } => {
                (504, "resolver_time", Blame::Gateway, "try later")
            }
            E::Unanswered { .. } => (502, "resolver_failed", Blame::Gateway, "try later"),
            E::NoServers { .. } => {
                (502, "resolver_unset", Blame::Gateway, "ask the operator to set dns.nameServers")
            }
            E::Busy { .. } => (503, "resolver_busy", Blame::Gateway, "try later"),
        };
        Self::new(status, code, blame, &error.to_string(), remedy).because(error)
    }
}

impl From<&GuardError> for Refusal {
    /// The address is for the record: to a sandbox it would draw a map of the network behind the gateway.
    fn from(error: &GuardError) -> Self {
        let (code, host, what, remedy) = match error {
            GuardError::Special { host, .. } => (
                "address_special",
                host,
                "has an address of a special-purpose range",
                "ask the operator to name the range in allowedAddresses for this host",
            ),
            GuardError::Denied { host, .. } => (
                "address_denied",
                host,
                "has an address that is denied",
                "ask the operator to change deniedHosts",
            ),
            GuardError::Unchecked { host } => (
                "address_unchecked",
                host,
                "would be resolved by a proxy, while the policy denies ranges of addresses",
                "ask the operator to let the plane resolve it, or to remove the ranges from deniedHosts",
            ),
            GuardError::Other { host, .. } => (
                "address_other",
                host,
                "is not the address that would be dialled",
                "name the host by the address that is meant",
            ),
        };
        Self::new(403, code, Blame::Policy, &format!("{host} {what}"), remedy).because(error)
    }
}

impl From<&DialError> for Refusal {
    /// Addresses are for the record, as with [`GuardError`].
    fn from(error: &DialError) -> Self {
        use Blame::{Gateway, Policy, Upstream};
        use DialError as E;
        use ProxyError as P;
        let (status, code, blame, host, what) = match error {
            E::Guard(error) => return Self::from(error),
            E::ToProxy { host, .. } => {
                return Self::proxy(
                    "proxy_unreachable",
                    host,
                    "is reached through a proxy that cannot be connected to",
                )
                .because(error);
            }
            E::Proxy { host, source, .. } => {
                let (code, what) = match source {
                    P::Credentials => {
                        ("proxy_login", "is reached through a proxy that does not accept the gateway")
                    }
                    P::Refused(_) => {
                        ("proxy_refused", "is reached through a proxy that refuses to connect to it")
                    }
                    P::Unreached(_) => {
                        ("proxy_unreached", "cannot be reached by the proxy through which it is reached")
                    }
                    P::Io(_) | P::Ended | P::TimedOut => {
                        ("proxy_broken", "is reached through a proxy that broke off")
                    }
                    P::Protocol(_) => (
                        "proxy_protocol",
                        "is reached through a proxy that does not speak as the policy says",
                    ),
                };
                return Self::proxy(code, host, what).because(error);
            }
            E::Source { host, .. } => {
                let detail = format!("{host} cannot be connected to from the address that the policy names");
                let remedy = "ask the operator to look at sourceAddress in the rule, and at the addresses of the machine";
                return Self::new(502, "source_address", Policy, &detail, remedy).because(error);
            }
            E::Tls { source, .. } => return Self::from(&**source).because(error),
            E::NoAddress { host } => (502, "host_without_address", Upstream, host, "has no address"),
            E::Refused { host, .. } => (502, "upstream_refused", Upstream, host, "refuses connections"),
            E::Unreachable { host, .. } => (502, "upstream_unreachable", Upstream, host, "cannot be reached"),
            E::ConnectTimedOut { host, .. } | E::TimedOut { host } => {
                (504, "upstream_connect_timeout", Upstream, host, "does not answer")
            }
            E::HandshakeTimedOut { host, .. } => {
                (504, "upstream_tls_timeout", Upstream, host, "does not end its TLS handshake")
            }
            E::Exhausted { host, .. } | E::Connect { host, .. } => {
                (503, "gateway_exhausted", Gateway, host, "cannot be connected to by the gateway now")
            }
            E::Name { host } => (502, "upstream_settings", Policy, host, "is no name for a certificate"),
            E::Roots { host, .. } => {
                (502, "upstream_settings", Policy, host, "has roots that cannot be used")
            }
        };
        let remedy = match blame {
            Policy => "ask the operator to look at upstreamRoots for this host",
            _ => "try again later, or ask the operator of the upstream",
        };
        Self::new(status, code, blame, &format!("{host} {what}"), remedy).because(error)
    }
}

impl Refusal {
    /// Where a proxy that the policy names does not lead to the host. Nothing goes around it, and which one it is the
    /// record knows.
    fn proxy(code: &'static str, host: &Host, what: &str) -> Self {
        let remedy = "ask the operator to look at the proxy, and at upstream.via in the rule for this host";
        Self::new(502, code, Blame::Policy, &format!("{host} {what}"), remedy)
    }

    /// Where nobody knows the address of such a proxy.
    pub fn proxy_unresolved(host: &Host, error: &ResolveError) -> Self {
        Self::proxy("proxy_unresolved", host, "is reached through a proxy whose name leads nowhere")
            .because(error)
    }
}

impl From<&TlsError> for Refusal {
    /// For the connection to the upstream; a sandbox whose own TLS fails cannot be told anything.
    fn from(error: &TlsError) -> Self {
        use TlsError as E;
        let (code, blame, remedy) = match error {
            E::Certificate(fault) => return certificate(fault),
            E::Io(_) => ("upstream_connection", Blame::Upstream, "try later"),
            E::Truncated => ("upstream_tls_cut", Blame::Upstream, "try later"),
            E::Alert(alert) => alert_of_upstream(*alert),
            E::Legacy => (
                "upstream_tls_legacy",
                Blame::Upstream,
                "the upstream has to serve TLS 1.2 or 1.3; older is broken",
            ),
            E::NotTls | E::NotHello(_) => {
                ("upstream_not_tls", Blame::Upstream, "use http, or the port that speaks TLS")
            }
            E::NothingInCommon(_) => (
                "upstream_tls_old",
                Blame::Upstream,
                "the upstream has to serve a suite with ECDHE and AES-GCM or ChaCha20",
            ),
            E::Protocol(_) | E::HelloTooLong { .. } => {
                ("upstream_tls_protocol", Blame::Upstream, "the upstream has to keep to TLS")
            }
            E::Mint(_) | E::Setup(_) => {
                ("tls_setup", Blame::Gateway, "ask the operator to look at the gateway's log")
            }
        };
        Self::new(502, code, blame, &error.to_string(), remedy).because(error)
    }
}

/// What an alert of an upstream's says (RFC 8446 §6.2, RFC 5246 §7.2.2). A server judges no certificate but ours.
fn alert_of_upstream(alert: AlertDescription) -> (&'static str, Blame, &'static str) {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => (
            "upstream_wants_certificate",
            Blame::Policy,
            "ask the operator for a rule with clientCertificate for this host",
        ),
        // Some servers say these also where they were shown none.
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => (
            "upstream_refuses_certificate",
            Blame::Policy,
            "ask the operator for a rule with clientCertificate for this host, whose secret holds one that the \
             upstream accepts",
        ),
        A::ProtocolVersion => (
            "upstream_tls_legacy",
            Blame::Upstream,
            "the upstream has to serve TLS 1.2 or 1.3; older is broken",
        ),
        A::UnrecognisedName => {
            ("upstream_name_unserved", Blame::Upstream, "use a name that the upstream serves")
        }
        // Servers of TLS 1.2 that miss a client certificate say no more than that.
        A::HandshakeFailure => (
            "upstream_tls_alert",
            Blame::Upstream,
            "the upstream has to serve TLS 1.2 or 1.3 with ECDHE; where it wants a client certificate, ask the operator \
             for a rule with clientCertificate",
        ),
        _ => ("upstream_tls_alert", Blame::Upstream, "the upstream has to accept the connection"),
    }
}

fn certificate(fault: &CertificateFault) -> Refusal {
    use CertificateFault as F;
    let renew = "the upstream has to renew its certificate";
    let (code, remedy) = match fault {
        F::Expired => ("upstream_certificate_expired", renew),
        F::NotValidYet => ("upstream_certificate_early", "check the clocks of the upstream and the gateway"),
        F::WrongName { .. } => ("upstream_certificate_name", "use a name that the certificate holds"),
        F::UnknownIssuer => (
            "upstream_certificate_issuer",
            "ask the operator to name its root in upstreamRoots for this host",
        ),
        F::Authority => (
            "upstream_certificate_authority",
            "the upstream needs a certificate that an authority issued for its name; name that one's root in upstreamRoots",
        ),
        F::Revoked => ("upstream_certificate_revoked", renew),
        F::BadSignature => ("upstream_certificate_signature", renew),
        F::WrongPurpose => ("upstream_certificate_purpose", renew),
        F::Other(_) => ("upstream_certificate", renew),
    };
    Refusal::new(502, code, Blame::Upstream, &fault.to_string(), remedy).because(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_behind_the_gateway_reaches_the_sandbox() {
        let host = Host::parse("db.example").expect("a host");
        let address = "10.1.2.3:5432".parse().expect("an address");
        let source = || std::io::Error::from_raw_os_error(101);
        for error in [
            DialError::Refused { host: host.clone(), address },
            DialError::Unreachable { host: host.clone(), address, source: source() },
            DialError::ConnectTimedOut { host: host.clone(), address },
            DialError::Connect { host: host.clone(), address, source: source() },
            DialError::HandshakeTimedOut { host: host.clone(), address },
            DialError::Tls { host, address, source: Box::new(TlsError::Truncated) },
        ] {
            let refusal = Refusal::from(&error);
            assert!(refusal.reason().contains("10.1.2.3"), "{}", refusal.reason());
            let told = String::from_utf8(refusal.to_http(true, false)).unwrap();
            assert!(!told.contains("10.1.2.3"), "{told}");
        }
    }

    #[test]
    fn a_fault_of_tls_is_blamed_on_who_can_mend_it() {
        let told = |error: TlsError| {
            let refusal = Refusal::from(&error);
            (refusal.code, refusal.blame)
        };
        let expired = TlsError::Certificate(CertificateFault::Expired);
        assert_eq!(told(expired), ("upstream_certificate_expired", Blame::Upstream));
        let wanted = TlsError::Alert(AlertDescription::CertificateRequired);
        assert_eq!(told(wanted), ("upstream_wants_certificate", Blame::Policy));
        assert_eq!(told(TlsError::Legacy), ("upstream_tls_legacy", Blame::Upstream));
    }
}
