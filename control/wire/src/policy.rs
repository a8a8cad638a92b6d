//! The policy document: what an operator writes, control checks and a plane compiles.
//!
//! Names are Cloudflare's where the thing is theirs. A document is carried as JSON bytes and shared by its hash;
//! unknown fields are refused on both sides, so a plane never enforces half a document.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::action::{Proxy, ProxyKind, Resolves, RuleAction, UpstreamWay, is_of_the_gateway};

/// What a sandbox may reach, and what happens to its requests.
///
/// A template holds a whole document. A sandbox holds one of the same shape as its overrides: a field that it sets
/// replaces the template's field, it never merges with it. `outboundByHost` alone is kept in two layers: the sandbox's
/// hosts are asked first, then the template's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    default,
    expecting = "a policy: an object of its fields"
)]
pub struct PolicyDocument {
    /// Hosts outside every list may be reached. Unset means false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_internet: Option<bool>,
    /// TLS is opened. Unset means true. Where it is false, planes relay TLS unread, judged by the name that it asks
    /// for; a rule does so for single hosts by its action `passthrough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intercept_https: Option<bool>,
    /// Hosts that may be reached. Set, even empty, it is a gate; unset, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Hosts that may not be reached, whatever else is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_hosts: Option<Vec<String>>,
    /// What is a question to a person instead of a denial, where nothing allows it. Unset: nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask: Option<Ask>,
    /// Special-purpose ranges that a host may resolve to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_addresses: Option<Vec<AllowedAddresses>>,
    /// Roots by which a host's certificate is verified, in the place of the system's: a private host that some public
    /// authority also vouches for is not the one that was meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_roots: Option<Vec<UpstreamRoots>>,
    /// Host → match → actions, in the order written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
    /// The handler of every request that no host names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<HandlerUse>,
    /// Handlers by host pattern: exact before glob, among globs the one written first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_by_host: Option<Vec<HostHandler>>,
    /// What happens when the policy lease ends without a renewal. Unset means keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_control_loss: Option<OnControlLoss>,
    /// Length of the policy lease in milliseconds. Unset means 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Status of a refusal by policy. Unset means 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_status: Option<u16>,
}

/// When a person is asked: for requests that neither a list nor a handler nor `enableInternet` allows. What
/// `deniedHosts` or a rule denies is denied, and nobody is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "{\"hosts\": [pattern, …]}, optionally \"timeoutMs\""
)]
pub struct Ask {
    /// About these hosts; `*` is every one. Empty, about none: so a sandbox switches off what its template asks.
    pub hosts: Vec<String>,
    /// Milliseconds that a request waits before it is denied. Absent: 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Addresses that hosts of one pattern may resolve to although they are special-purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"host\": pattern, \"cidrs\": [range, …]}")]
pub struct AllowedAddresses {
    /// Host pattern.
    pub host: String,
    /// Ranges in CIDR form.
    pub cidrs: Vec<IpNet>,
}

/// Private roots for the hosts of one pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "{\"host\": pattern, \"pem\": certificates}")]
pub struct UpstreamRoots {
    /// Host pattern.
    pub host: String,
    /// One or more certificates in PEM form.
    pub pem: String,
}

/// One rule: for requests to a host that match, do these things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a rule: {\"host\": pattern, \"actions\": [action, …]}, optionally \"match\" and \"redact\""
)]
pub struct Rule {
    /// Host pattern.
    pub host: String,
    /// Which requests. Absent: all of them.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matcher: Option<RuleMatch>,
    /// What happens to them, in order. None: only what the rule says otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<RuleAction>,
    /// Their answers are searched for the credentials that they were given, whichever rule or handler gave them, and
    /// what is found is masked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redact: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What a request must look like for a rule to hold; every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = "{\"method\": [method, …], \"path\": glob}, either or both"
)]
pub struct RuleMatch {
    /// Any of these methods, compared byte by byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Vec<String>>,
    /// A glob over the path, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A handler by name, with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "{\"handler\": name}, optionally \"params\" and \"onError\""
)]
pub struct HandlerUse {
    /// Name under which the handler was published.
    pub handler: String,
    /// Handed to the handler as JSON. Absent: `null`.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub params: serde_json::Value,
    /// What happens when the handler fails.
    #[serde(default, skip_serializing_if = "OnError::is_refuse")]
    pub on_error: OnError,
}

/// A handler for the hosts of one pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "HostHandlerFields")]
pub struct HostHandler {
    /// Host pattern.
    pub host: String,
    /// The handler.
    #[serde(flatten)]
    pub outbound: HandlerUse,
}

/// [`HostHandler`] as it is read: a flattened struct would let unknown fields pass.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "{\"host\": pattern, \"handler\": name}, optionally \"params\" and \"onError\""
)]
struct HostHandlerFields {
    host: String,
    handler: String,
    #[serde(default)]
    params: serde_json::Value,
    #[serde(default)]
    on_error: OnError,
}

impl From<HostHandlerFields> for HostHandler {
    fn from(fields: HostHandlerFields) -> Self {
        let HostHandlerFields { host, handler, params, on_error } = fields;
        Self { host, outbound: HandlerUse { handler, params, on_error } }
    }
}

/// What follows a handler that trapped, ran out of budget or answered nonsense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "\"refuse\" or \"next\"")]
pub enum OnError {
    /// The request is refused.
    #[default]
    Refuse,
    /// The request goes on as if no handler were set.
    Next,
}

impl OnError {
    fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

/// What a plane does for a sandbox when it has lost control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "\"keep\" or \"deny\"")]
pub enum OnControlLoss {
    /// Traffic goes on with the last snapshot.
    #[default]
    Keep,
    /// Traffic is refused when the lease ends.
    Deny,
}

/// Labels of a sandbox.
pub type Labels = BTreeMap<String, String>;
