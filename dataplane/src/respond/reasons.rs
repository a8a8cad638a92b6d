//! The one table from each stage's error to what the sandbox is told.

use super::{Blame, Refusal};
use crate::{
    approval::AskError,
    handler::HandlerError,
    http::{AuthorityError, EditError, HeadError},
    identity::IdentityError,
    inject::InjectError,
    listen::socket::DestinationError,
    tls::{CertificateFault, TlsError},
    upstream::{GuardError, ResolveError, dial::DialError, resolve::Failure},
};

impl From<&AskError> for Refusal {
    fn from(error: &AskError) -> Self {
        let (status, code, blame, remedy) = match error {
            AskError::ParkedOfSandbox | AskError::QuestionsOfSandbox => {
                (429, "ask_too_many", Blame::Sandbox, "wait until some of them are answered")
            }
            AskError::ParkedOfShard => (503, "ask_busy", Blame::Gateway, "try again later"),
            AskError::Unreachable => {
                (503, "ask_unreachable", Blame::Gateway, "try again when control is reachable")
            }
        };
        Self::new(status, code, blame, &error.to_string(), remedy).because(error)
    }
}

impl From<&InjectError> for Refusal {
    fn from(error: &InjectError) -> Self {
        let code = match error {
            InjectError::Missing { .. } => "secret_missing",
            InjectError::NotBound { .. } => "secret_not_bound",
            InjectError::Plaintext { .. } => "secret_plaintext",
            InjectError::Field { .. } => "secret_field",
            InjectError::Parameter { .. } => "secret_parameter",
            InjectError::NoUser { .. } => "secret_without_user",
        };
        Self::new(
            502,
            code,
            Blame::Policy,
            &error.to_string(),
            "ask the operator to mend the secret or the rule",
        )
        .because(error)
    }
}

impl From<&IdentityError> for Refusal {
    fn from(error: &IdentityError) -> Self {
        let (status, code) = match error {
            IdentityError::NoCredentials | IdentityError::BadCredentials => (407, "proxy_credentials"),
            _ => (403, "sandbox_unknown"),
        };
        Self::new(status, code, Blame::Sandbox, &error.to_string(), "connect as an attached sandbox")
            .because(error)
    }
}

impl From<&DestinationError> for Refusal {
    fn from(error: &DestinationError) -> Self {
        let (code, blame, remedy) = match error {
            DestinationError::Listener(_) => (
                "destination_own",
                Blame::Sandbox,
                "connect to the address that is meant, not to the gateway",
            ),
            DestinationError::NotRedirected(_) | DestinationError::NamedByClient => {
                let remedy =
                    "ask the operator to look at the rules that redirect, and at the listener's kind";
                ("destination_unknown", Blame::Gateway, remedy)
            }
            DestinationError::Ended(_) => ("client_gone", Blame::Sandbox, "keep the connection open"),
        };
        Self::new(400, code, blame, &error.to_string(), remedy).because(error)
    }
}

impl From<&HeadError> for Refusal {
    /// For requests; an answer's head is [`Refusal::upstream_head`].
    fn from(error: &HeadError) -> Self {
        use HeadError as E;
        let (status, code) = match error {
            E::TooLong | E::TooManyFields => (431, "head_too_long"),
            E::TargetTooLong => (414, "target_too_long"),
            E::Version | E::Http2Preface => (505, "version_not_served"),
            E::Trace => (405, "method_refused"),
            E::Method => (501, "method_unknown"),
            E::Upgrade => (501, "upgrade_not_served"),
            E::Expectation => (417, "expectation_unknown"),
            E::Target | E::UserInfo | E::Fragment | E::Scheme => (400, "target_malformed"),
            E::HostMissing | E::HostRepeated => (400, "host_field"),
            E::ContentLength | E::TransferEncoding | E::Framing => (400, "framing_ambiguous"),
            E::Nul | E::BareCr | E::BareLf | E::Folded | E::SpaceBeforeColon | E::Field | E::RequestLine => {
                (400, "head_malformed")
            }
            // Only answers end so.
            E::StatusLine | E::SwitchedProtocols => (502, "upstream_head"),
        };
        Self::new(status, code, Blame::Sandbox, &error.to_string(), "send a request that keeps to RFC 9112")
            .because(error)
    }
}

impl Refusal {
    /// An upstream whose answer cannot be understood.
    pub fn upstream_head(error: &HeadError) -> Self {
        let remedy = "the upstream has to keep to RFC 9112";
        Self::new(502, "upstream_head", Blame::Upstream, &error.to_string(), remedy).because(error)
    }
}

impl From<&AuthorityError> for Refusal {
    fn from(error: &AuthorityError) -> Self {
        use AuthorityError as E;
        let (status, code, remedy) = match error {
            E::Host(_) => (400, "host_malformed", "name a valid host"),
            E::TargetAgainstHost => (400, "host_contradiction", "name the same host in target and Host"),
            E::Scheme { .. } => (400, "scheme_contradiction", "use the scheme of the connection"),
            E::FormForProxy => (400, "proxy_form", "use the absolute form or CONNECT"),
            E::Nothing => (400, "host_missing", "name a host"),
            E::Misdirected { .. } => (421, "misdirected_host", "open a connection to that host"),
            E::MisdirectedPort { .. } => (421, "misdirected_port", "open a connection to that port"),
        };
        Self::new(status, code, Blame::Sandbox, &error.to_string(), remedy).because(error)
    }
}

impl From<&EditError> for Refusal {
    /// The change was a handler's or a rule's, so the request is not to blame.
    fn from(error: &EditError) -> Self {
        let code = match error {
            EditError::Name => "edit_field_name",
            EditError::Value => "edit_field_value",
            EditError::Reserved => "edit_field_reserved",
            EditError::Method => "edit_method",
            EditError::Target => "edit_target",
            EditError::Status => "edit_status",
            EditError::TooLong => "edit_too_long",
        };
        Self::new(
            502,
            code,
            Blame::Policy,
            &error.to_string(),
            "ask the operator to mend the handler or rule",
        )
        .because(error)
    }
}

impl From<&HandlerError> for Refusal {
    /// A guest's words, traps and offsets are for the record, never for the sandbox.
    fn from(error: &HandlerError) -> Self {
        use HandlerError as E;
        let (code, blame) = match error {
            E::FuelExhausted => ("handler_fuel", Blame::Policy),
            E::TimeExceeded => ("handler_time", Blame::Policy),
            E::StackOverflow => ("handler_stack", Blame::Policy),
            E::OutOfMemory => ("handler_memory", Blame::Policy),
            E::Trap { .. } => ("handler_trap", Blame::Policy),
            E::Panic { .. } => ("handler_panic", Blame::Policy),
            E::Protocol(_) => ("handler_protocol", Blame::Policy),
            E::TooManyActions => ("handler_actions", Blame::Policy),
            E::Action(_) => ("handler_action", Blame::Policy),
            E::Pending => ("handler_pending", Blame::Policy),
            E::Params { .. } => ("handler_params", Blame::Policy),
            E::View(_) => ("handler_view", Blame::Policy),
            E::Instantiate { .. } => ("handler_instance", Blame::Gateway),
        };
        let detail = "the handler of this host gave no usable outcome";
        Self::new(502, code, blame, detail, "ask the operator to look at the handler's records")
            .because(error)
    }
}

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
        let (status, code, blame, host, what) = match error {
            E::Guard(error) => return Self::from(error),
            E::Tls { source, .. } => return Self::from(source).because(error),
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

impl From<&TlsError> for Refusal {
    /// For the connection to the upstream; a sandbox whose own TLS fails cannot be told anything.
    fn from(error: &TlsError) -> Self {
        use TlsError as E;
        let (code, blame, remedy) = match error {
            E::Certificate(fault) => return certificate(fault),
            E::Io(_) => ("upstream_connection", Blame::Upstream, "try later"),
            E::Truncated => ("upstream_tls_cut", Blame::Upstream, "try later"),
            E::Alert(_) => {
                ("upstream_tls_alert", Blame::Upstream, "the upstream has to accept the connection")
            }
            E::NotTls | E::NotHello(_) => {
                ("upstream_not_tls", Blame::Upstream, "use http, or the port that speaks TLS")
            }
            E::NothingInCommon(_) => {
                ("upstream_tls_old", Blame::Upstream, "the upstream has to serve TLS 1.2 or 1.3")
            }
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

fn certificate(fault: &CertificateFault) -> Refusal {
    use CertificateFault as F;
    let renew = "the upstream has to renew its certificate";
    let (code, remedy) = match fault {
        F::Expired => ("upstream_certificate_expired", renew),
        F::NotValidYet => ("upstream_certificate_early", "check the clocks of the upstream and the gateway"),
        F::WrongName => ("upstream_certificate_name", "use a name that the certificate holds"),
        F::UnknownIssuer => (
            "upstream_certificate_issuer",
            "ask the operator to name its root in upstreamRoots for this host",
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
    use crate::http::Host;

    #[test]
    fn a_handlers_words_never_reach_the_sandbox() {
        let secret = "password hunter2 at src/lib.rs:7";
        for error in [
            HandlerError::Panic { message: secret.into() },
            HandlerError::Trap { reason: secret.into() },
            HandlerError::Params { message: secret.into() },
        ] {
            let refusal = Refusal::from(&error);
            assert_eq!(refusal.status, 502);
            assert!(refusal.code.starts_with("handler_"));
            assert!(!String::from_utf8(refusal.to_http(true, false)).unwrap().contains("hunter2"));
        }
    }

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
            DialError::Tls { host, address, source: TlsError::Truncated },
        ] {
            let refusal = Refusal::from(&error);
            assert!(refusal.reason().contains("10.1.2.3"), "{}", refusal.reason());
            let told = String::from_utf8(refusal.to_http(true, false)).unwrap();
            assert!(!told.contains("10.1.2.3"), "{told}");
        }
    }

    #[test]
    fn statuses_are_those_that_the_stages_promise() {
        let status = |error: HeadError| Refusal::from(&error).status;
        assert_eq!(status(HeadError::TooManyFields), 431);
        assert_eq!(status(HeadError::TargetTooLong), 414);
        assert_eq!(status(HeadError::Http2Preface), 505);
        assert_eq!(status(HeadError::Trace), 405);
        assert_eq!(status(HeadError::Upgrade), 501);
        assert_eq!(status(HeadError::Expectation), 417);
        assert_eq!(status(HeadError::Framing), 400);
        assert_eq!(Refusal::upstream_head(&HeadError::Framing).status, 502);
        assert_eq!(Refusal::from(&AuthorityError::TargetAgainstHost).status, 400);
        assert_eq!(Refusal::from(&AuthorityError::MisdirectedPort { request: 1, connection: 2 }).status, 421);
        assert_eq!(Refusal::from(&IdentityError::NoCredentials).status, 407);
        let expired = Refusal::from(&TlsError::Certificate(CertificateFault::Expired));
        assert_eq!((expired.code, expired.blame), ("upstream_certificate_expired", Blame::Upstream));
    }
}
