//! The order of judgement, and what a rule needs to see before it allows, gives or denies.

use control_wire::policy::PolicyDocument;

use super::{Asked, Decision, Denial, DenyReason, Permit, Rules, decide, decide_opaque};
use crate::{
    http::{Host, Scheme},
    identity::SandboxId,
};

fn rules(template: &str, overrides: &str) -> Rules {
    let document = |text: &str| PolicyDocument::from_json(text).unwrap();
    Rules::compile(&document(template), &document(overrides)).unwrap()
}

fn ask(rules: &Rules, method: &str, host: &str, path: &str) -> Decision {
    let host = Host::parse(host).unwrap();
    let asked = Asked {
        method,
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        path: path.as_bytes(),
        name_proven: true,
    };
    decide(rules, &SandboxId::new("s").unwrap(), &asked)
}

fn ask_unproven(rules: &Rules, address: &str) -> Decision {
    let host = Host::parse(address).unwrap();
    let asked = Asked {
        method: "GET",
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        path: b"/",
        name_proven: false,
    };
    decide(rules, &SandboxId::new("s").unwrap(), &asked)
}

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("denied: {denial:?}"),
    }
}

fn denial(decision: Decision) -> Denial {
    match decision {
        Decision::Allow(permit) => panic!("allowed: {permit:?}"),
        Decision::Deny(denial) => denial,
    }
}

#[test]
fn deny_wins_over_lists_handlers_and_rules_that_give() {
    let rules = rules(
        r#"{"enableInternet":true,"allowedHosts":["*.a.com"],"deniedHosts":["x.a.com"],
            "outbound":{"handler":"O"},"denyStatus":451,
            "rules":[{"host":"*.a.com","actions":[{"bearer":{"secret":"k"}}]},
                     {"host":"y.a.com","actions":[{"deny":{"reason":"not y"}}]}]}"#,
        "{}",
    );
    let listed = denial(ask(&rules, "GET", "x.a.com", "/"));
    assert_eq!((listed.reason, &*listed.rule), (DenyReason::DeniedHost, "deniedHosts: x.a.com"));
    let ruled = denial(ask(&rules, "GET", "y.a.com", "/"));
    assert_eq!(
        (ruled.reason, &*ruled.rule, ruled.status),
        (DenyReason::Rule("not y".into()), "rules[1]: y.a.com", 451)
    );
    assert_eq!(denial(ask(&rules, "GET", "b.com", "/")).reason, DenyReason::NotAllowed);
    let allowed = permit(ask(&rules, "GET", "z.a.com", "/"));
    assert_eq!(&**allowed.rule(), "allowedHosts: *.a.com");
    assert_eq!(&*allowed.handler().unwrap().name, "O");
    assert_eq!(allowed.injections().len(), 1);
}

#[test]
fn a_denying_rule_needs_one_form_of_the_path_and_a_giving_one_all_of_them() {
    let rules = rules(
        r#"{"enableInternet":true,"rules":[
            {"host":"a.com","match":{"path":"/admin*"},"actions":[{"deny":{"reason":"no"}}]},
            {"host":"a.com","match":{"path":"/public/*"},"actions":[{"bearer":{"secret":"k"}}]}]}"#,
        "{}",
    );
    for path in ["/admin", "/%61dmin", "/public/../admin", "/public/%2e%2e/admin", "/public/..;/admin"] {
        assert_eq!(denial(ask(&rules, "GET", "a.com", path)).reason, DenyReason::Rule("no".into()), "{path}");
    }
    assert_eq!(permit(ask(&rules, "GET", "a.com", "/public/a%20b")).injections().len(), 1);
    for path in ["/public/../secret", "/%70ublic/a", "/public/%252e%252e/secret", "/x/../public/a"] {
        assert!(permit(ask(&rules, "GET", "a.com", path)).injections().is_empty(), "{path}");
    }
    assert!(permit(ask(&rules, "GET", "b.com", "/admin")).injections().is_empty());
}

#[test]
fn a_rule_with_methods_holds_for_these_byte_by_byte() {
    let rules = rules(
        r#"{"enableInternet":true,"rules":[
            {"host":"a.com","match":{"method":["DELETE","PUT"]},"actions":[{"deny":{"reason":"read only"}}]}]}"#,
        "{}",
    );
    assert_eq!(denial(ask(&rules, "PUT", "a.com", "/")).reason, DenyReason::Rule("read only".into()));
    for method in ["GET", "put", "PUTS"] {
        permit(ask(&rules, method, "a.com", "/"));
    }
    assert_eq!(denial(ask(&rules, "TRACE", "a.com", "/")).reason, DenyReason::Trace);
}

#[test]
fn the_sandboxes_own_host_is_asked_before_the_templates_and_any_host_before_a_catch_all() {
    let rules = rules(
        r#"{"outbound":{"handler":"all"},"outboundByHost":[
            {"host":"a.com","handler":"exact"},{"host":"*.com","handler":"glob"}]}"#,
        r#"{"outbound":{"handler":"own all"},"outboundByHost":[{"host":"a*","handler":"own glob"}]}"#,
    );
    let chosen = |host: &str| permit(ask(&rules, "GET", host, "/")).handler().unwrap().name.to_string();
    // A glob of the sandbox's comes before an exact host of the template's: layers before precision.
    assert_eq!(chosen("a.com"), "own glob");
    assert_eq!(chosen("b.com"), "glob");
    assert_eq!(chosen("b.org"), "own all");
}

#[test]
fn an_address_without_a_name_is_denied_where_names_are_listed() {
    let open = rules(r#"{"enableInternet":true}"#, "{}");
    permit(ask_unproven(&open, "192.0.2.1"));
    let denies = rules(r#"{"enableInternet":true,"deniedHosts":["evil.com"]}"#, "{}");
    assert_eq!(denial(ask_unproven(&denies, "192.0.2.1")).reason, DenyReason::NameNotProven);
    let by_rule = rules(
        r#"{"enableInternet":true,"rules":[{"host":"a.com","actions":[{"deny":{"reason":"no"}}]}]}"#,
        "{}",
    );
    assert_eq!(denial(ask_unproven(&by_rule, "192.0.2.1")).reason, DenyReason::NameNotProven);
    let allows = rules(r#"{"allowedHosts":["a.com","192.0.2.0/24","*"]}"#, "{}");
    permit(ask_unproven(&allows, "192.0.2.1"));
    assert_eq!(denial(ask_unproven(&allows, "198.51.100.1")).reason, DenyReason::NameNotProven);
}

#[test]
fn what_is_relayed_unread_is_judged_by_its_worst() {
    let rules = rules(
        r#"{"enableInternet":true,"interceptHttps":false,
            "outboundByHost":[{"host":"h.com","handler":"h"}],
            "rules":[{"host":"a.com","match":{"method":["PUT"]},"actions":[{"deny":{"reason":"no"}}]},
                     {"host":"b.com","actions":[{"bearer":{"secret":"k"}}]}]}"#,
        "{}",
    );
    assert!(!rules.intercepts());
    let sandbox = SandboxId::new("s").unwrap();
    let judge = |host: &str| decide_opaque(&rules, &sandbox, &Host::parse(host).unwrap(), 443, true);
    assert_eq!(denial(judge("a.com")).reason, DenyReason::Rule("no".into()));
    assert_eq!(denial(judge("b.com")).reason, DenyReason::NeedsInterception);
    assert_eq!(denial(judge("h.com")).reason, DenyReason::NeedsInterception);
    assert!(permit(judge("c.com")).injections().is_empty());
}
