//! A template and a sandbox's overrides, compiled: nothing is parsed, and nothing can be wrong, when a request comes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use control_wire::{
    pattern::{Glob, HostKind, HostPattern, PatternError},
    policy::{self as wire, OnControlLoss, PolicyDocument},
    validate::DocumentError,
};
use ipnet::{IpNet, Ipv4Net};

use super::{
    host_rule::{HostRule, compile_rules},
    hosts::HostTable,
    permit::{AddressPolicy, HandlerUse, Roots, Route, Via, Way},
};
use crate::{
    http::Host,
    limits::{ASK_TIME, LEASE_TIME},
};

/// Status of refusals by policy that do not say another.
pub const DENY_STATUS: u16 = 403;

/// Why documents were not compiled. What was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A document does not hold.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A pattern does not hold.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Parameters cannot be written as JSON.
    #[error("the parameters of handler `{handler}` are no JSON")]
    Params {
        /// The handler.
        handler: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The compiled policy of one or many sandboxes.
#[derive(Debug)]
pub struct Rules {
    pub(super) internet: bool,
    /// How records name `internet`.
    pub(super) internet_rule: Arc<str>,
    /// What most hosts may have of special-purpose ranges.
    no_ranges: Arc<[IpNet]>,
    intercept: bool,
    /// Some rule leaves TLS closed.
    passes: bool,
    lease: Option<Duration>,
    pub(super) deny_status: u16,
    pub(super) allowed: Option<Listed<()>>,
    pub(super) denied: Listed<()>,
    ask: Option<(Listed<()>, Duration)>,
    denied_ranges: DeniedRanges,
    /// The sandbox's own hosts, then the template's.
    pub(super) by_host: [Listed<Arc<HandlerUse>>; 2],
    pub(super) outbound: Option<Arc<HandlerUse>>,
    pub(super) rules: Listed<HostRule>,
    addresses: Listed<Arc<[IpNet]>>,
    roots: Listed<Arc<Roots>>,
}

/// Rows found by host pattern, each with the words by which records and refusals name it.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) table: HostTable,
    pub(super) rows: Vec<(Arc<str>, T)>,
}

impl<T> Listed<T> {
    pub(super) fn new<'a>(field: &str, rows: impl Iterator<Item = (&'a str, T)>) -> Result<Self, RuleError> {
        let mut patterns = Vec::new();
        let mut named = Vec::new();
        for (text, row) in rows {
            let pattern = HostPattern::parse(text)?;
            named.push((format!("{field}: {pattern}").into(), row));
            patterns.push(pattern);
        }
        Ok(Self { table: HostTable::new(&patterns), rows: named })
    }

    /// The row at a place that the table gave.
    pub(super) fn row(&self, place: u32) -> Option<&(Arc<str>, T)> {
        self.rows.get(place as usize)
    }

    /// The row that counts for a host.
    pub(super) fn best(&self, host: &Host, port: u16) -> Option<&(Arc<str>, T)> {
        self.table.best(host, port).and_then(|place| self.row(place))
    }

    /// All rows for a host, in the order written.
    pub(super) fn all(&self, host: &Host, port: u16) -> impl Iterator<Item = &(Arc<str>, T)> {
        self.table.all(host, port).into_iter().filter_map(|place| self.row(place))
    }
}

/// CIDR denials by port, for the guard.
#[derive(Debug)]
struct DeniedRanges {
    /// At ports that no pattern names.
    everywhere: Arc<[IpNet]>,
    by_port: HashMap<u16, Arc<[IpNet]>>,
}

impl Rules {
    /// Compiles a template with a sandbox's overrides; a field that these set replaces the template's, and
    /// `outboundByHost` is asked before the template's.
    ///
    /// # Errors
    /// When one of the documents does not hold.
    pub fn compile(template: &PolicyDocument, overrides: &PolicyDocument) -> Result<Self, RuleError> {
        template.validate()?;
        overrides.validate()?;
        let denied_hosts = either(&overrides.denied_hosts, &template.denied_hosts);
        let allowed = overrides.allowed_hosts.as_ref().or(template.allowed_hosts.as_ref());
        let outbound = overrides.outbound.as_ref().or(template.outbound.as_ref());
        let rules = compile_rules(either(&overrides.rules, &template.rules))?;
        Ok(Self {
            passes: rules.rows.iter().any(|(_, rule)| rule.passes),
            rules,
            internet_rule: "enableInternet".into(),
            no_ranges: Arc::from([]),
            internet: overrides.enable_internet.or(template.enable_internet).unwrap_or(false),
            intercept: overrides.intercept_https.or(template.intercept_https).unwrap_or(true),
            lease: match overrides.on_control_loss.or(template.on_control_loss).unwrap_or_default() {
                OnControlLoss::Keep => None,
                OnControlLoss::Deny => {
                    Some(overrides.lease_ms.or(template.lease_ms).map_or(LEASE_TIME, Duration::from_millis))
                }
            },
            deny_status: overrides.deny_status.or(template.deny_status).unwrap_or(DENY_STATUS),
            allowed: allowed.map(|hosts| plain("allowedHosts", hosts)).transpose()?,
            denied: plain("deniedHosts", denied_hosts)?,
            ask: overrides.ask.as_ref().or(template.ask.as_ref()).map(asking).transpose()?,
            denied_ranges: DeniedRanges::new(denied_hosts)?,
            by_host: [layer(overrides)?, layer(template)?],
            outbound: outbound.map(|used| handler(used, "outbound".into())).transpose()?,
            addresses: addresses(either(&overrides.allowed_addresses, &template.allowed_addresses))?,
            roots: roots(either(&overrides.upstream_roots, &template.upstream_roots))?,
        })
    }

    /// TLS is opened unless a rule says otherwise. Where false, it is relayed unread as [`super::decide_opaque`] judges.
    pub fn intercepts(&self) -> bool {
        self.intercept
    }

    /// The part of the policy by which TLS to a host is relayed unread, as [`super::decide_opaque`] judges.
    pub fn leaves_closed(&self, host: &Host, port: u16) -> Option<&str> {
        if !self.intercept {
            return Some("interceptHttps: false");
        }
        self.passing(host, port).map(|name| &**name)
    }

    /// The first rule that leaves TLS to a host closed.
    pub fn passing(&self, host: &Host, port: u16) -> Option<&Arc<str>> {
        if !self.passes {
            return None;
        }
        self.rules.all(host, port).find_map(|(name, rule)| rule.passes.then_some(name))
    }

    /// Length of the lease from control without which traffic is refused; none where it goes on without control.
    pub fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// Status of refusals by policy.
    pub fn deny_status(&self) -> u16 {
        self.deny_status
    }

    /// Names of all handlers that these rules may choose.
    pub fn handlers(&self) -> impl Iterator<Item = &Arc<str>> {
        let layers = self.by_host.iter().flat_map(|layer| layer.rows.iter().map(|(_, used)| used));
        layers.chain(&self.outbound).map(|used| &used.name)
    }

    /// Names of all secrets that these rules put on requests.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.rows.iter().flat_map(|(_, rule)| {
            let login = rule.route.iter().filter_map(|route| route.via.as_ref()?.secret.as_ref());
            let shown = rule.certificate.iter().map(|shown| &shown.secret);
            rule.injections.iter().map(|injection| &injection.secret).chain(login).chain(shown)
        })
    }

    /// Some list or denying rule speaks of names.
    pub(super) fn names_denied(&self) -> bool {
        let by_rule = self.rules.rows.iter().any(|(_, rule)| rule.deny.is_some() && rule.names);
        by_rule || self.denied.table.names_listed()
    }

    /// What the guard may dial for a host.
    pub(super) fn address_policy(&self, host: &Host, port: u16) -> AddressPolicy {
        let mut rows = self.addresses.all(host, port).map(|(_, ranges)| ranges);
        let allowed = match (rows.next(), rows.next()) {
            (None, _) => Arc::clone(&self.no_ranges),
            (Some(one), None) => Arc::clone(one),
            (Some(one), Some(two)) => {
                one.iter().chain(two.iter()).chain(rows.flat_map(|more| more.iter())).copied().collect()
            }
        };
        AddressPolicy { allowed, denied: self.denied_ranges.at(port) }
    }

    /// How connections are made that a rule has routed.
    pub(super) fn way(&self, (rule, route): (&Arc<str>, &Arc<Route>)) -> Box<Way> {
        let addresses = match &route.via {
            Some(Via { host: Host::Ip(address), port, .. }) => {
                // Whoever writes an address means it.
                AddressPolicy {
                    allowed: [IpNet::from(*address)].into(),
                    denied: self.denied_ranges.at(*port),
                }
            }
            Some(Via { host, port, .. }) => self.address_policy(host, *port),
            None => {
                AddressPolicy { allowed: Arc::clone(&self.no_ranges), denied: Arc::clone(&self.no_ranges) }
            }
        };
        Box::new(Way { route: Arc::clone(route), addresses, rule: Arc::clone(rule) })
    }

    /// Which part of the policy asks a person about a host that nothing allows, and how long a request waits.
    pub(super) fn asks(&self, host: &Host, port: u16) -> Option<(&Arc<str>, Duration)> {
        let (hosts, time) = self.ask.as_ref()?;
        hosts.best(host, port).map(|(rule, ())| (rule, *time))
    }

    /// Private roots for a host.
    pub(super) fn roots(&self, host: &Host, port: u16) -> Option<Arc<Roots>> {
        self.roots.best(host, port).map(|(_, roots)| Arc::clone(roots))
    }
}

impl DeniedRanges {
    fn new(hosts: &[String]) -> Result<Self, RuleError> {
        let mut ranges: Vec<(IpNet, Option<u16>)> = Vec::new();
        for text in hosts {
            let pattern = HostPattern::parse(text)?;
            let range = match pattern.kind() {
                HostKind::Address(address) => Some(IpNet::from(*address)),
                HostKind::Range(range) => Some(*range),
                HostKind::Glob(glob) => octets(glob),
                _ => None,
            };
            ranges.extend(range.map(|range| (range, pattern.port())));
        }
        let at = |port: Option<u16>| -> Arc<[IpNet]> {
            let holds = |own: Option<u16>| own.is_none() || own == port;
            ranges.iter().filter(|(_, own)| holds(*own)).map(|(range, _)| *range).collect()
        };
        let ports = ranges.iter().filter_map(|(_, port)| *port);
        let by_port = ports.map(|port| (port, at(Some(port)))).collect();
        Ok(Self { everywhere: at(None), by_port })
    }

    fn at(&self, port: u16) -> Arc<[IpNet]> {
        Arc::clone(self.by_port.get(&port).unwrap_or(&self.everywhere))
    }
}

/// The range that a glob like `141.101.*` covers.
fn octets(glob: &Glob) -> Option<IpNet> {
    let text = glob.to_string();
    let front = text.strip_suffix(".*")?;
    let octets: Vec<u8> = front.split('.').map(|octet| octet.parse().ok()).collect::<Option<_>>()?;
    let mut address = [0; 4];
    address.get_mut(..octets.len())?.copy_from_slice(&octets);
    let bits = u8::try_from(8 * octets.len()).ok()?;
    Ipv4Net::new(address.into(), bits).ok().map(IpNet::V4)
}

fn either<'a, T>(first: &'a Option<Vec<T>>, second: &'a Option<Vec<T>>) -> &'a [T] {
    first.as_ref().or(second.as_ref()).map_or(&[], Vec::as_slice)
}

fn plain(field: &str, hosts: &[String]) -> Result<Listed<()>, RuleError> {
    Listed::new(field, hosts.iter().map(|host| (host.as_str(), ())))
}

fn asking(ask: &wire::Ask) -> Result<(Listed<()>, Duration), RuleError> {
    Ok((plain("ask.hosts", &ask.hosts)?, ask.timeout_ms.map_or(ASK_TIME, Duration::from_millis)))
}

fn handler(used: &wire::HandlerUse, rule: Arc<str>) -> Result<Arc<HandlerUse>, RuleError> {
    let params = serde_json::to_vec(&used.params)
        .map_err(|source| RuleError::Params { handler: used.handler.clone(), source })?;
    let name = used.handler.as_str().into();
    Ok(Arc::new(HandlerUse { name, params: params.into(), on_error: used.on_error, rule }))
}

fn layer(document: &PolicyDocument) -> Result<Listed<Arc<HandlerUse>>, RuleError> {
    let rows = document.outbound_by_host.as_deref().unwrap_or_default();
    let mut named = Vec::with_capacity(rows.len());
    for row in rows {
        let rule = format!("outboundByHost: {}", HostPattern::parse(&row.host)?);
        named.push((row.host.as_str(), handler(&row.outbound, rule.into())?));
    }
    Listed::new("outboundByHost", named.into_iter())
}

fn addresses(rows: &[wire::AllowedAddresses]) -> Result<Listed<Arc<[IpNet]>>, RuleError> {
    let ranges = |row: &wire::AllowedAddresses| -> Arc<[IpNet]> {
        row.cidrs.iter().map(|range| control_wire::pattern::unmapped_range(*range)).collect()
    };
    Listed::new("allowedAddresses", rows.iter().map(|row| (row.host.as_str(), ranges(row))))
}

fn roots(rows: &[wire::UpstreamRoots]) -> Result<Listed<Arc<Roots>>, RuleError> {
    let compiled = |row: &wire::UpstreamRoots| {
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, row.pem.as_bytes()).as_ref());
        Arc::new(Roots { pem: row.pem.clone(), key })
    };
    Listed::new("upstreamRoots", rows.iter().map(|row| (row.host.as_str(), compiled(row))))
}
