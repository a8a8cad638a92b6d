//! What deciding about a request allocates: every allocation has a name here, and one more fails.

use benches::{
    fleet::SECRET,
    heads::{LIBRARY, request},
    policy::{TEMPLATE, rules},
};
use control_wire::row::{SecretRow, SecretValue};
use dataplane::{
    http::{ConnectionFacts, Host, OutgoingRequest, Scheme, authority_of},
    identity::SandboxId,
    inject::{self, Secret},
    policy::{Asked, Decision, Rules, decide},
};
use tests::allocations;

#[global_allocator]
static ALLOCATOR: allocations::Watched = allocations::Watched;

fn facts() -> ConnectionFacts {
    ConnectionFacts {
        scheme: Scheme::Https,
        connect_target: None,
        sni: Some(Host::parse("api.openai.com").expect("a host")),
        destination: Some("203.0.113.7:443".parse().expect("an address")),
        destination_name: None,
        explicit_proxy: false,
    }
}

fn secret() -> Secret {
    let hosts = vec!["api.openai.com".into()];
    let value = SecretValue::new(SECRET);
    let row = SecretRow { name: "openai".into(), version: 1, value, hosts, allow_plaintext: false };
    Secret::new(row).expect("a secret")
}

/// The fast path of a head, from the bytes that were received to those that are sent.
fn sent_on(facts: &ConnectionFacts, rules: &Rules, sandbox: &SandboxId, secret: &Secret) -> usize {
    let head = request(LIBRARY);
    let authority = authority_of(&head, facts).expect("one authority");
    let mut outgoing = OutgoingRequest::new(&head, &authority);
    let asked = Asked {
        method: outgoing.method(),
        scheme: authority.scheme,
        host: &authority.host,
        port: authority.port,
        path: outgoing.path().as_bytes(),
        upgrade: None,
        name_proven: true,
    };
    let Decision::Allow(permit) = decide(rules, sandbox, &asked) else { panic!("it is allowed") };
    for injection in permit.injections() {
        inject::put(&permit, injection, Some(secret), &mut outgoing).expect("bound to the host");
    }
    let mut bytes = Vec::with_capacity(1024);
    outgoing.write_to(&mut bytes).expect("short enough");
    bytes.len()
}

#[test]
fn reading_a_head_allocates_its_spans_alone() {
    let made = allocations::of(|| request(LIBRARY));
    assert_eq!(made.len(), 1, "{made:#?}");
}

#[test]
fn a_request_with_a_credential_allocates_seven_times() {
    let (facts, rules, secret) = (facts(), rules(TEMPLATE), secret());
    let sandbox = SandboxId::new("box-0").expect("an id");
    let made = allocations::of(|| sent_on(&facts, &rules, &sandbox, &secret));
    // The spans of the head; the list of outgoing fields; the places of the rules that match; the list of
    // credentials; the credential's field name and its value; the bytes of the head that is sent.
    assert_eq!(made.len(), 7, "{made:#?}");
}
