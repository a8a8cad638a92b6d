//! A refusal and its form, `application/problem+json` (RFC 9457); the table of reasons is in `reasons`.

use std::error::Error;

use serde::Serialize;

use crate::{
    causes::chain,
    http::{FieldName, FieldValue},
    limits::REFUSAL_TEXT_BYTES_MAX,
    policy::{Denial, DenyReason},
};

/// Code of what a person has denied.
pub const ASK_DENIED: &str = "ask_denied";

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Blame {
    /// The request itself.
    Sandbox,
    /// The operator's policy.
    Policy,
    /// The other end.
    Upstream,
    /// The gateway.
    Gateway,
}

impl Blame {
    /// Its name in problems and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: &'static str,
    /// Who can mend it.
    pub blame: Blame,
    /// Which part of the policy, where it was one.
    pub rule: Option<String>,
    /// What was refused, in a sentence.
    pub detail: Box<str>,
    /// What would allow it.
    pub remedy: Box<str>,
    /// Fields beside those of every refusal.
    pub fields: Box<[(FieldName, FieldValue)]>,
    /// Why, with every cause: for the record alone.
    cause: Option<Box<str>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    blame: Blame,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    detail: &'a str,
    remedy: &'a str,
}

impl Refusal {
    /// Any refusal; texts are cut to [`REFUSAL_TEXT_BYTES_MAX`].
    pub fn new(status: u16, code: &'static str, blame: Blame, detail: &str, remedy: &str) -> Self {
        let (detail, remedy) = (cut(detail).into(), cut(remedy).into());
        Self { status, code, blame, rule: None, detail, remedy, fields: Box::default(), cause: None }
    }

    /// Keeps an error with all its causes for the record; the sandbox is not told.
    pub fn because(mut self, error: &dyn Error) -> Self {
        self.cause = Some(chain(error).into());
        self
    }

    /// Why, as the record has it.
    pub fn reason(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.detail)
    }

    /// Names the part of the policy that led here.
    pub fn by_rule(mut self, rule: &str) -> Self {
        self.rule = Some(cut(rule).to_owned());
        self
    }

    /// What policy refused.
    pub fn denied(denial: &Denial, host: &str) -> Self {
        let (code, why, remedy) = match &denial.reason {
            DenyReason::DeniedHost => ("host_denied", "is denied", "ask the operator to change deniedHosts"),
            DenyReason::NotAllowed => {
                ("host_not_allowed", "is not on the allow list", "ask the operator to add it to allowedHosts")
            }
            DenyReason::Rule(reason) => ("rule_denied", &**reason, "ask the operator to change the rule"),
            DenyReason::Answered => (
                ASK_DENIED,
                "was asked about, and a person denied it",
                "ask the person who answers, or the operator to change ask",
            ),
            DenyReason::NoInternet => (
                "internet_disabled",
                "is not listed and the internet is off",
                "ask the operator to add it to allowedHosts",
            ),
            DenyReason::NameNotProven => {
                ("name_not_proven", "was reached by TLS without a server name", "send a server name (SNI)")
            }
            DenyReason::NeedsInterception => (
                "needs_interception",
                "has rules that need TLS to be opened",
                "ask the operator to set interceptHttps",
            ),
            DenyReason::Trace => ("method_refused", "was asked with TRACE", "use another method"),
            DenyReason::Upgrade => (
                "upgrade_denied",
                "was asked to change to another protocol",
                "ask the operator for a rule with `upgrade`",
            ),
        };
        let mut refusal = Self::new(denial.status, code, Blame::Policy, &format!("{host}: {why}"), remedy);
        refusal.rule = Some(denial.rule.to_string());
        refusal
    }

    /// The body; never markup, never more than one line.
    pub fn body(&self) -> Vec<u8> {
        let problem = Problem {
            title: self.title(),
            status: self.status,
            code: self.code,
            blame: self.blame,
            rule: self.rule.as_deref(),
            detail: &self.detail,
            remedy: &self.remedy,
        };
        // Numbers and text always serialise.
        serde_json::to_vec(&problem).unwrap_or_default()
    }

    /// The same in lines for a person, which move no cursor of a terminal.
    pub(super) fn words(&self) -> String {
        let rule = self.rule.as_ref().map(|rule| format!(", by {rule}")).unwrap_or_default();
        let lines = [
            format!("{}: {}", self.title(), self.detail),
            format!("{}{rule}", self.code),
            format!("To mend it: {}", self.remedy),
        ];
        lines.map(|line| line.replace(char::is_control, " ") + "\n").concat()
    }

    fn title(&self) -> &'static str {
        match self.blame {
            Blame::Sandbox => "The request was refused",
            Blame::Policy => "Refused by policy",
            Blame::Upstream => "The other end failed",
            Blame::Gateway => "The gateway failed",
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_TEXT_BYTES_MAX)]
}
