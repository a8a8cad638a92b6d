//! The order of judgement: denials first, then the gate, then who handles it, then whether the internet is open.

use std::sync::Arc;

use super::{
    host_rule::HostRule,
    permit::{Asked, Decision, Denial, DenyReason, HandlerUse, Injection, Permit, Question, Route, Shown},
    rules::Rules,
};
use crate::{
    http::{Host, PathForms, Scheme},
    identity::SandboxId,
};

/// Judges one request.
///
/// Deny wins: `deniedHosts`, then a set `allowedHosts` without a match, then denying rules. What is left goes to the
/// sandbox's handler for that host, else the template's, else the catch-all; without one it is allowed by
/// `allowedHosts` or `enableInternet`, else denied; where `ask` names the host, what would be denied for want of
/// anything that allows it is a question.
pub fn decide(rules: &Rules, sandbox: &SandboxId, asked: &Asked<'_>) -> Decision {
    // RFC 9110 §9.3.8: TRACE sends back what was sent, credentials that were put in included.
    if asked.method == "TRACE" {
        return deny(rules, DenyReason::Trace, "method: TRACE".into());
    }
    let gate = match judge_host(rules, asked.host, asked.port, asked.name_proven) {
        Ok(gate) => gate,
        Err(denial) => return Decision::Deny(denial),
    };
    let forms = PathForms::new(asked.path);
    let mut given = Given::default();
    for (name, rule) in rules.rules.all(asked.host, asked.port) {
        if let Some(reason) = &rule.deny
            && rule.possibly(asked.method, &forms)
        {
            return deny(rules, DenyReason::Rule(Arc::clone(reason)), Arc::clone(name));
        }
        if rule.gives() && rule.surely(asked.method, &forms) {
            given.injections.extend(rule.injections.iter().cloned());
            given.certificate = rule.certificate.clone().or(given.certificate);
        }
        if let Some(protocol) = asked.upgrade
            && rule.upgrades.iter().any(|own| own.eq_ignore_ascii_case(protocol))
        {
            given.upgrades |= rule.surely(asked.method, &forms);
        }
        // In doubt not directly.
        if let Some(route) = rule.route.as_ref().filter(|_| rule.possibly(asked.method, &forms)) {
            given.route = Some((name, route));
        }
        // It protects, as a denial does.
        given.redacts |= rule.redacts && rule.possibly(asked.method, &forms);
    }
    if let Some(protocol) = asked.upgrade.filter(|_| !given.upgrades) {
        let name = format!("upgrade: {protocol}");
        return deny(rules, DenyReason::Upgrade, name.into());
    }
    let handler = chosen_handler(rules, asked.host, asked.port);
    let target = (asked.scheme, asked.host, asked.port);
    permit(rules, sandbox, target, (gate, handler), given)
}

/// What rules give to a request.
#[derive(Default)]
struct Given<'a> {
    injections: Vec<Arc<Injection>>,
    certificate: Option<Arc<Shown>>,
    route: Option<(&'a Arc<str>, &'a Arc<Route>)>,
    redacts: bool,
    upgrades: bool,
}

/// Judges a connection that is relayed unread, where `interceptHttps` is off or a rule leaves it closed: what only a
/// request could show is taken as its worst, so a denying rule for the host denies whatever it says of method and path,
/// and a handler or a credential, which could not act, denies too. A rule that leaves it closed names the host, so
/// `outbound`, which is for those that nothing names, is passed over. Nobody is asked about what cannot be shown.
pub fn decide_opaque(
    rules: &Rules,
    sandbox: &SandboxId,
    host: &Host,
    port: u16,
    name_proven: bool,
) -> Result<Permit, Denial> {
    if let Ok(Some(denial)) | Err(denial) = judge_host(rules, host, port, name_proven) {
        return Err(denial);
    }
    let denial =
        |reason, rule: &Arc<str>| Denial { reason, rule: Arc::clone(rule), status: rules.deny_status };
    let mut given = Given::default();
    for (name, rule) in rules.rules.all(host, port) {
        if let Some(reason) = &rule.deny {
            return Err(denial(DenyReason::Rule(Arc::clone(reason)), name));
        }
        if rule.gives() || rule.redacts {
            return Err(denial(DenyReason::NeedsInterception, name));
        }
        given.route = rule.route.as_ref().map(|route| (name, route)).or(given.route);
    }
    let handler = match rules.passing(host, port) {
        Some(_) => named_handler(rules, host, port),
        None => chosen_handler(rules, host, port),
    };
    if let Some(used) = handler {
        return Err(denial(DenyReason::NeedsInterception, &used.rule));
    }
    match permit(rules, sandbox, (Scheme::Https, host, port), (None, None), given) {
        Decision::Allow(permit) => Ok(permit),
        Decision::Ask(question) => Err(question.unasked()),
        Decision::Deny(denial) => Err(denial),
    }
}

impl HostRule {
    /// It gives credentials.
    fn gives(&self) -> bool {
        !self.injections.is_empty() || self.certificate.is_some()
    }

    fn method_holds(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|own| **own == *method))
    }

    /// For what denies.
    fn possibly(&self, method: &str, forms: &PathForms<'_>) -> bool {
        self.method_holds(method)
            && self.path.as_ref().is_none_or(|path| forms.denied_by(|form| path.matches(form)))
    }

    /// For what allows or gives.
    fn surely(&self, method: &str, forms: &PathForms<'_>) -> bool {
        self.method_holds(method)
            && self.path.as_ref().is_none_or(|path| forms.allowed_by(|form| path.matches(form)))
    }
}

/// The lists. Answers the denial of a gate that a person may open.
fn judge_host(rules: &Rules, host: &Host, port: u16, name_proven: bool) -> Result<Option<Denial>, Denial> {
    let denial = |reason, rule: Arc<str>| Denial { reason, rule, status: rules.deny_status };
    if let Some((rule, ())) = rules.denied.table.find(host, port).and_then(|place| rules.denied.row(place)) {
        return Err(denial(DenyReason::DeniedHost, Arc::clone(rule)));
    }
    let closed = rules.allowed.as_ref().is_some_and(|allowed| allowed.table.find(host, port).is_none());
    let gate = closed.then(|| denial(DenyReason::NotAllowed, "allowedHosts".into()));
    if let Some(denial) = &gate
        && rules.asks(host, port).is_none()
    {
        return Err(denial.clone());
    }
    if name_proven {
        return Ok(gate);
    }
    // Nothing proves that the address is not one of a denied name.
    if rules.names_denied() {
        return Err(denial(DenyReason::NameNotProven, "deniedHosts".into()));
    }
    // An address that is listed as such was meant; one that a star let in beside names was not.
    let listed =
        |table: &super::HostTable| host.ip().is_some_and(|ip| table.find_address(ip, port).is_some());
    match &rules.allowed {
        // A person who is asked about an address sees that it is one.
        Some(allowed) if gate.is_none() && allowed.table.names_listed() && !listed(&allowed.table) => {
            Err(denial(DenyReason::NameNotProven, "allowedHosts".into()))
        }
        _ => Ok(gate),
    }
}

fn chosen_handler<'a>(rules: &'a Rules, host: &Host, port: u16) -> Option<&'a Arc<HandlerUse>> {
    named_handler(rules, host, port).or(rules.outbound.as_ref())
}

fn named_handler<'a>(rules: &'a Rules, host: &Host, port: u16) -> Option<&'a Arc<HandlerUse>> {
    rules.by_host.iter().find_map(|layer| layer.best(host, port)).map(|(_, used)| used)
}

fn permit(
    rules: &Rules,
    sandbox: &SandboxId,
    (scheme, host, port): (Scheme, &Host, u16),
    (gate, handler): (Option<Denial>, Option<&Arc<HandlerUse>>),
    given: Given<'_>,
) -> Decision {
    let allowed = rules.allowed.as_ref().and_then(|allowed| allowed.best(host, port));
    let rule = match (gate, allowed, handler) {
        (Some(denial), ..) => Err(denial),
        (None, Some((rule, ())), _) => Ok(Arc::clone(rule)),
        (None, None, Some(used)) => Ok(Arc::clone(&used.rule)),
        (None, None, None) if rules.internet => Ok(Arc::clone(&rules.internet_rule)),
        (None, None, None) => {
            let (rule, status) = (Arc::clone(&rules.internet_rule), rules.deny_status);
            Err(Denial { reason: DenyReason::NoInternet, rule, status })
        }
    };
    let permit = |rule| Permit {
        sandbox: sandbox.clone(),
        scheme,
        host: host.clone(),
        port,
        addresses: rules.address_policy(host, port),
        roots: rules.roots(host, port),
        rule,
        handler: handler.cloned(),
        way: given.route.map(|routed| rules.way(routed)),
        injections: given.injections,
        certificate: given.certificate,
        redacts: given.redacts,
    };
    match rule {
        Ok(rule) => Decision::Allow(permit(rule)),
        Err(denial) => match rules.asks(host, port) {
            Some((rule, time)) => {
                let permit = permit(Arc::clone(rule));
                Decision::Ask(Box::new(Question { permit, denial, time }))
            }
            None => Decision::Deny(denial),
        },
    }
}

fn deny(rules: &Rules, reason: DenyReason, rule: Arc<str>) -> Decision {
    Decision::Deny(Denial { reason, rule, status: rules.deny_status })
}
