//! The rules of a policy, compiled: which requests to a host each is for, and what it does to them.

use std::sync::Arc;

use control_wire::{
    pattern::{Glob, HostKind, HostPattern},
    policy::{self as wire, Proxy, Resolves, RuleAction, UpstreamWay},
    validate::DocumentError,
};

use super::{
    permit::{Injection, Place, Route, Shown, Via},
    rules::{Listed, RuleError},
};
use crate::http::Host;

/// One declarative rule.
#[derive(Debug)]
pub(super) struct HostRule {
    /// Any of these; `None`: every method.
    pub(super) methods: Option<Vec<Box<str>>>,
    pub(super) path: Option<Glob>,
    /// Reason of the first denial among its actions.
    pub(super) deny: Option<Arc<str>>,
    pub(super) injections: Vec<Arc<Injection>>,
    /// The client certificate that the host is shown.
    pub(super) certificate: Option<Arc<Shown>>,
    /// How connections to the host are made.
    pub(super) route: Option<Arc<Route>>,
    /// Answers are searched for credentials.
    pub(super) redacts: bool,
    /// Protocols that requests may change to.
    pub(super) upgrades: Vec<Box<str>>,
    /// TLS to the host is relayed unread.
    pub(super) passes: bool,
    /// Its host pattern speaks of names.
    pub(super) names: bool,
}

pub(super) fn compile_rules(rules: &[wire::Rule]) -> Result<Listed<HostRule>, RuleError> {
    let (mut rows, mut names) = (Vec::with_capacity(rules.len()), Vec::with_capacity(rules.len()));
    for (at, rule) in rules.iter().enumerate() {
        let pattern = HostPattern::parse(&rule.host)?;
        let name: Arc<str> = format!("rules[{at}]: {pattern}").into();
        rows.push((rule.host.as_str(), host_rule(rule, &pattern, &name)?));
        names.push(name);
    }
    let mut listed = Listed::new("rules", rows.into_iter())?;
    // Patterns repeat among rules, so their place in the document belongs to their name.
    for ((name, _), placed) in listed.rows.iter_mut().zip(names) {
        *name = placed;
    }
    Ok(listed)
}

fn host_rule(rule: &wire::Rule, pattern: &HostPattern, name: &Arc<str>) -> Result<HostRule, RuleError> {
    let matcher = rule.matcher.as_ref();
    let methods = matcher.and_then(|matcher| matcher.method.as_ref());
    let mut compiled = HostRule {
        methods: methods.map(|methods| methods.iter().map(|method| method.as_str().into()).collect()),
        path: matcher.and_then(|matcher| matcher.path.as_deref()).map(Glob::new),
        deny: None,
        injections: Vec::new(),
        certificate: None,
        route: None,
        redacts: rule.redact,
        upgrades: Vec::new(),
        passes: false,
        names: pattern.names(),
    };
    for action in &rule.actions {
        let (place, secret) = match action {
            RuleAction::Deny { reason } => {
                compiled.deny.get_or_insert_with(|| reason.as_str().into());
                continue;
            }
            RuleAction::Header { name, secret, prefix } => {
                (Place::Field { name: name.as_str().into(), prefix: prefix.as_str().into() }, secret)
            }
            RuleAction::Bearer { secret } => {
                (Place::Field { name: "authorization".into(), prefix: "Bearer ".into() }, secret)
            }
            RuleAction::Basic { secret, user } => {
                (Place::Basic { user: user.as_deref().map(Into::into) }, secret)
            }
            RuleAction::Query { name, secret } => (Place::Parameter { name: name.as_str().into() }, secret),
            RuleAction::ClientCertificate { secret } => {
                let shown = Shown { secret: secret.as_str().into(), rule: Arc::clone(name) };
                compiled.certificate = Some(Arc::new(shown));
                continue;
            }
            RuleAction::Passthrough {} => {
                compiled.passes = true;
                continue;
            }
            RuleAction::Upgrade(protocols) => {
                compiled.upgrades.extend(protocols.iter().map(|protocol| protocol.as_str().into()));
                continue;
            }
            RuleAction::Upstream(way) => {
                compiled.route = Some(Arc::new(route(way, name)?));
                continue;
            }
        };
        let (secret, rule) = (secret.as_str().into(), Arc::clone(name));
        compiled.injections.push(Arc::new(Injection { place, secret, rule }));
    }
    Ok(compiled)
}

fn route(way: &UpstreamWay, rule: &Arc<str>) -> Result<Route, RuleError> {
    let refused = |problem: String| DocumentError { field: format!("{rule}.upstream.via"), problem };
    let via = match &way.via {
        Some(text) => {
            let Proxy { kind, host, port } = Proxy::parse(text).map_err(refused)?;
            let host = match host {
                HostKind::Address(address) => Host::from(address),
                HostKind::Name(name) => Host::parse(&name).map_err(|error| refused(error.to_string()))?,
                _ => return Err(refused("is a pattern; name one proxy".into()).into()),
            };
            let secret = way.secret.as_deref().map(Arc::from);
            Some(Via { kind, host, port, secret, resolves: way.resolve == Resolves::Proxy })
        }
        None => None,
    };
    Ok(Route { via, source: way.source_address.map(|address| address.to_canonical()) })
}
