//! The one table from each stage's error to what the sandbox is told.

use super::{Blame, Refusal};
use crate::{
    approval::AskError,
    handler::HandlerError,
    http::{AuthorityError, EditError, HeadError},
    identity::IdentityError,
    inject::InjectError,
    listen::socket::DestinationError,
    redact::{CodingError, Refused},
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
            InjectError::NoTls { .. } => "secret_plaintext",
            InjectError::NotCertificate { .. } => "secret_not_certificate",
            InjectError::Key { .. } => "secret_is_key",
            InjectError::NotLogin { .. } => "secret_not_login",
            InjectError::TooShort { .. } => "secret_short",
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

impl From<&Refused> for Refusal {
    fn from(error: &Refused) -> Self {
        let (status, code, blame, remedy) = match error {
            Refused::Protocol => (
                403,
                "redact_protocol",
                Blame::Policy,
                "ask the operator for a rule without `redact` for this path",
            ),
            Refused::Part => (502, "redact_part", Blame::Upstream, "the upstream has to give the whole"),
            Refused::Coding(_) | Refused::Codings => {
                let remedy = "the upstream has to keep to the Accept-Encoding that it is sent";
                (502, "redact_coding", Blame::Upstream, remedy)
            }
            Refused::Busy => (503, "redact_busy", Blame::Gateway, "try again later"),
        };
        Self::new(status, code, blame, &error.to_string(), remedy).because(error)
    }
}

impl From<&CodingError> for Refusal {
    fn from(error: &CodingError) -> Self {
        let (code, remedy) = match error {
            CodingError::Malformed(_) | CodingError::Truncated(_) => {
                ("answer_coding", "the upstream has to code what it says it codes")
            }
            CodingError::Expands => {
                ("answer_expands", "ask for the answer uncoded: Accept-Encoding: identity")
            }
        };
        Self::new(502, code, Blame::Upstream, &error.to_string(), remedy).because(error)
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
            E::TooMuchKept { .. } => ("handler_kept", Blame::Sandbox),
        };
        let detail = "the handler of this host gave no usable outcome";
        Self::new(502, code, blame, detail, "ask the operator to look at the handler's records")
            .because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
