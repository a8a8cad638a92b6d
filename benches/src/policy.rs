//! Policies and host lists in the sizes that fleets have.

use control_wire::{pattern::HostPattern, policy::PolicyDocument};
use dataplane::{
    http::{Host, Scheme},
    identity::SandboxId,
    policy::{Asked, Decision, HostTable, Permit, Rules, decide},
};

use crate::seeded::Seeded;

/// A template as an operator of coding agents writes it: a list of hosts, a credential by rule, a denial by path.
pub const TEMPLATE: &str = r#"{
    "allowedHosts": ["api.openai.com", "api.github.com", "*.githubusercontent.com", "pypi.org",
        "files.pythonhosted.org", "registry.npmjs.org", "*.crates.io", "deb.debian.org"],
    "deniedHosts": ["169.254.0.0/16", "*.internal"],
    "rules": [
        {"host": "api.github.com", "match": {"method": ["DELETE"]}, "actions": [{"deny": {"reason": "no deletions"}}]},
        {"host": "api.openai.com", "match": {"path": "/v1/*"}, "actions": [{"bearer": {"secret": "openai"}}]}
    ]
}"#;

/// Host patterns, every other one exact, the others suffixes.
pub fn patterns(count: usize, seeded: &mut Seeded) -> Vec<String> {
    let pattern = |at: usize| {
        let name =
            format!("{}{}.s{:x}.example.com", ["api", "cdn", "eu-west"][at % 3], at, seeded.below(4096));
        if at.is_multiple_of(2) { name } else { format!("*.{name}") }
    };
    (0..count).map(pattern).collect()
}

/// The table of some patterns.
///
/// # Panics
/// When one is no pattern.
pub fn table(patterns: &[String]) -> HostTable {
    let parsed: Vec<HostPattern> =
        patterns.iter().map(|text| HostPattern::parse(text).expect("a pattern")).collect();
    HostTable::new(&parsed)
}

/// A host that a pattern of [`patterns`] matches.
///
/// # Panics
/// When the pattern is none of them.
pub fn host_of(pattern: &str) -> Host {
    let name = pattern.replace("*.", "a.b.");
    Host::parse(&name).expect("a name")
}

/// A document compiled, without overrides.
///
/// # Panics
/// When it does not hold.
pub fn rules(document: &str) -> Rules {
    let document = PolicyDocument::from_json(document).expect("a document");
    Rules::compile(&document, &PolicyDocument::default()).expect("rules")
}

/// A call of a model.
pub fn asked(host: &Host) -> Asked<'_> {
    Asked {
        method: "POST",
        scheme: Scheme::Https,
        host,
        port: 443,
        path: b"/v1/chat/completions",
        upgrade: None,
        name_proven: true,
    }
}

/// Leave for a call of a model, with the credential of [`TEMPLATE`].
///
/// # Panics
/// When the policy denies it.
pub fn permit(rules: &Rules) -> Permit {
    let host = Host::parse("api.openai.com").expect("a name");
    match decide(rules, &SandboxId::new("box-0").expect("an id"), &asked(&host)) {
        Decision::Allow(permit) => permit,
        refused => panic!("not allowed: {refused:?}"),
    }
}
