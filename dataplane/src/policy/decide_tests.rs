//! The order of judgement, and what a rule needs to see before it allows, gives or denies.

use control_wire::policy::PolicyDocument;

use control_wire::question::{self, KeptAnswer, Verdict};

use super::{Answers, Asked, Decision, Denial, DenyReason, Permit, Question, Rules, decide, decide_opaque};
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
        upgrade: None,
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
        upgrade: None,
        name_proven: false,
    };
    decide(rules, &SandboxId::new("s").unwrap(), &asked)
}

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Allow(permit) => permit,
        Decision::Ask(question) => panic!("asked: {question:?}"),
        Decision::Deny(denial) => panic!("denied: {denial:?}"),
    }
}

fn denial(decision: Decision) -> Denial {
    match decision {
        Decision::Allow(permit) => panic!("allowed: {permit:?}"),
        Decision::Ask(question) => panic!("asked: {question:?}"),
        Decision::Deny(denial) => denial,
    }
}

fn question(decision: Decision) -> Question {
    match decision {
        Decision::Ask(question) => *question,
        other => panic!("not asked: {other:?}"),
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
fn a_rule_that_redacts_holds_as_one_that_denies_and_gives_nothing_by_itself() {
    let rules = rules(
        r#"{"enableInternet":true,"rules":[
            {"host":"a.com","actions":[{"bearer":{"secret":"k"}}]},
            {"host":"a.com","match":{"path":"/private/*","method":["GET"]},"redact":true},
            {"host":"b.com","match":{"path":"/x"},"actions":[{"bearer":{"secret":"k"}}],"redact":true}]}"#,
        "{}",
    );
    for path in ["/private/x", "/%70rivate/x", "/public/../private/x", "/private/../public"] {
        let permit = permit(ask(&rules, "GET", "a.com", path));
        assert!(permit.redacts() && permit.injections().len() == 1, "{path}");
    }
    assert!(!permit(ask(&rules, "POST", "a.com", "/private/x")).redacts());
    assert!(!permit(ask(&rules, "GET", "a.com", "/public")).redacts());
    assert!(permit(ask(&rules, "GET", "b.com", "/x")).redacts());
    assert!(!permit(ask(&rules, "GET", "c.com", "/x")).redacts());
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
fn what_nothing_allows_is_a_question_and_what_is_denied_is_not() {
    let rules = rules(
        r#"{"allowedHosts":["a.com"],"deniedHosts":["evil.com"],"ask":{"hosts":["*.com"],"timeoutMs":5000},
            "outbound":{"handler":"O"},"denyStatus":451,
            "rules":[{"host":"b.com","match":{"method":["PUT"]},"actions":[{"deny":{"reason":"no"}}]},
                     {"host":"b.com","actions":[{"bearer":{"secret":"k"}}]}]}"#,
        "{}",
    );
    permit(ask(&rules, "GET", "a.com", "/"));
    assert_eq!(denial(ask(&rules, "GET", "evil.com", "/")).reason, DenyReason::DeniedHost);
    assert_eq!(denial(ask(&rules, "PUT", "b.com", "/")).reason, DenyReason::Rule("no".into()));
    assert_eq!(denial(ask(&rules, "TRACE", "b.com", "/")).reason, DenyReason::Trace);
    assert_eq!(denial(ask(&rules, "GET", "b.org", "/")).reason, DenyReason::NotAllowed);
    let asked = question(ask(&rules, "GET", "b.com", "/"));
    assert_eq!((&**asked.rule(), asked.time().as_millis()), ("ask.hosts: *.com", 5_000));
    let denied = question(ask(&rules, "GET", "b.com", "/")).deny();
    assert_eq!((denied.reason, denied.status), (DenyReason::Answered, 451));
    // What a person allows is handled and given its credentials like anything else.
    let allowed = asked.allow();
    assert_eq!(&*allowed.handler().unwrap().name, "O");
    assert_eq!(allowed.injections().len(), 1);
}

#[test]
fn without_a_list_a_closed_internet_asks_and_an_open_one_does_not() {
    let closed = rules(r#"{"ask":{"hosts":["*"]}}"#, "{}");
    assert_eq!(question(ask(&closed, "GET", "a.com", "/")).time(), crate::limits::ASK_TIME);
    permit(ask(&rules(r#"{"enableInternet":true,"ask":{"hosts":["*"]}}"#, "{}"), "GET", "a.com", "/"));
    let silenced = rules(r#"{"ask":{"hosts":["*"]}}"#, r#"{"ask":{"hosts":[]}}"#);
    assert_eq!(denial(ask(&silenced, "GET", "a.com", "/")).reason, DenyReason::NoInternet);
}

#[test]
fn an_address_without_a_name_is_asked_about_unless_a_denied_name_could_hide_there() {
    let asks = rules(r#"{"allowedHosts":["a.com"],"ask":{"hosts":["*"]}}"#, "{}");
    question(ask_unproven(&asks, "192.0.2.1"));
    let denies =
        rules(r#"{"allowedHosts":["a.com"],"deniedHosts":["evil.com"],"ask":{"hosts":["*"]}}"#, "{}");
    assert_eq!(denial(ask_unproven(&denies, "192.0.2.1")).reason, DenyReason::NameNotProven);
}

#[test]
fn nobody_is_asked_about_what_is_relayed_unread() {
    let rules = rules(r#"{"interceptHttps":false,"ask":{"hosts":["*"]}}"#, "{}");
    let gated = self::rules(r#"{"allowedHosts":["a.com"],"ask":{"hosts":["*"]}}"#, "{}");
    let (sandbox, host) = (SandboxId::new("s").unwrap(), Host::parse("b.com").unwrap());
    let judge = |rules: &Rules| decide_opaque(rules, &sandbox, &host, 443, true).unwrap_err().reason;
    assert_eq!((judge(&rules), judge(&gated)), (DenyReason::NoInternet, DenyReason::NotAllowed));
}

#[test]
fn a_kept_answer_counts_for_its_scheme_host_and_port_until_its_end_and_only_where_rules_ask() {
    let kept = |verdict, host: &str, until_unix_ms| KeptAnswer {
        verdict,
        scheme: question::Scheme::Https,
        host: host.into(),
        port: 443,
        until_unix_ms,
    };
    let answers = Answers::new(&[
        kept(Verdict::Allow, "a.com", None),
        kept(Verdict::Deny, "b.com", None),
        kept(Verdict::Allow, "c.com", Some(1_000)),
        kept(Verdict::Allow, "evil.com", None),
        kept(Verdict::Allow, "d.org", None),
    ])
    .unwrap();
    let rules = rules(r#"{"deniedHosts":["evil.com"],"ask":{"hosts":["*.com"]}}"#, "{}");
    let sandbox = SandboxId::new("s").unwrap();
    let judge = |scheme, host: &str, port, now| {
        let host = Host::parse(host).unwrap();
        let asked =
            Asked { method: "GET", scheme, host: &host, port, path: b"/", upgrade: None, name_proven: true };
        match decide(&rules, &sandbox, &asked) {
            Decision::Ask(question) => answers.settle(question, &asked, now),
            decided => decided,
        }
    };
    assert_eq!(&**permit(judge(Scheme::Https, "a.com", 443, 5)).rule(), "ask.hosts: *.com");
    question(judge(Scheme::Http, "a.com", 443, 5));
    question(judge(Scheme::Https, "a.com", 8443, 5));
    question(judge(Scheme::Https, "sub.a.com", 443, 5));
    assert_eq!(denial(judge(Scheme::Https, "b.com", 443, 5)).reason, DenyReason::Answered);
    permit(judge(Scheme::Https, "c.com", 443, 999));
    question(judge(Scheme::Https, "c.com", 443, 1_000));
    assert_eq!(denial(judge(Scheme::Https, "evil.com", 443, 5)).reason, DenyReason::DeniedHost);
    assert_eq!(denial(judge(Scheme::Https, "d.org", 443, 5)).reason, DenyReason::NoInternet);
    assert!(Answers::new(&[kept(Verdict::Allow, "a b", None)]).is_err());
}

#[test]
fn what_is_relayed_unread_is_judged_by_its_worst() {
    let rules = rules(
        r#"{"enableInternet":true,"interceptHttps":false,
            "outboundByHost":[{"host":"h.com","handler":"h"}],
            "rules":[{"host":"a.com","match":{"method":["PUT"]},"actions":[{"deny":{"reason":"no"}}]},
                     {"host":"b.com","actions":[{"bearer":{"secret":"k"}}]},
                     {"host":"d.com","match":{"path":"/x"},"redact":true}]}"#,
        "{}",
    );
    assert!(!rules.intercepts());
    let sandbox = SandboxId::new("s").unwrap();
    let judge = |host: &str| decide_opaque(&rules, &sandbox, &Host::parse(host).unwrap(), 443, true);
    assert_eq!(judge("a.com").unwrap_err().reason, DenyReason::Rule("no".into()));
    assert_eq!(judge("b.com").unwrap_err().reason, DenyReason::NeedsInterception);
    assert_eq!(judge("d.com").unwrap_err().reason, DenyReason::NeedsInterception);
    assert_eq!(judge("h.com").unwrap_err().reason, DenyReason::NeedsInterception);
    assert!(judge("c.com").unwrap().injections().is_empty());
}

#[test]
fn a_rule_leaves_single_hosts_closed_and_only_where_nothing_would_need_to_read() {
    let rules = rules(
        r#"{"enableInternet":true,"outbound":{"handler":"every"},
            "outboundByHost":[{"host":"h.com","handler":"h"}],
            "rules":[{"host":"*.pinned.com","actions":[{"passthrough":{}},{"upstream":{"sourceAddress":"10.0.0.7"}}]},
                     {"host":"h.com","actions":[{"passthrough":{}}]},
                     {"host":"k.pinned.com","actions":[{"bearer":{"secret":"k"}}]},
                     {"host":"c.pinned.com","actions":[{"clientCertificate":{"secret":"c"}}]},
                     {"host":"d.pinned.com","match":{"path":"/x"},"actions":[{"deny":{"reason":"no"}}]}]}"#,
        "{}",
    );
    let sandbox = SandboxId::new("s").unwrap();
    let host = |host: &str| Host::parse(host).unwrap();
    assert_eq!(rules.leaves_closed(&host("a.pinned.com"), 443), Some("rules[0]: *.pinned.com"));
    assert_eq!(rules.leaves_closed(&host("other.com"), 443), None);
    let judge = |name: &str| decide_opaque(&rules, &sandbox, &host(name), 443, true);
    let permit = judge("a.pinned.com").expect("the handler of hosts that nothing names is passed over");
    assert_eq!(permit.way().unwrap().route().source, Some([10, 0, 0, 7].into()));
    for name in ["h.com", "k.pinned.com", "c.pinned.com"] {
        assert_eq!(judge(name).unwrap_err().reason, DenyReason::NeedsInterception, "{name}");
    }
    assert_eq!(judge("d.pinned.com").unwrap_err().reason, DenyReason::Rule("no".into()));
}

#[test]
fn a_way_is_taken_also_in_doubt_and_a_certificate_is_shown_only_without() {
    let rules = rules(
        r#"{"enableInternet":true,"allowedAddresses":[{"host":"proxy.com","cidrs":["10.0.0.0/8"]}],
            "rules":[{"host":"*","actions":[{"upstream":{"via":"http://10.1.2.3:3128"}}]},
                     {"host":"a.com","match":{"path":"/private"},
                      "actions":[{"upstream":{"via":"socks5://proxy.com:1080","secret":"login"}},
                                 {"clientCertificate":{"secret":"c"}}]}]}"#,
        "{}",
    );
    let way = |path: &str| {
        let permit = permit(ask(&rules, "GET", "a.com", path));
        let way = permit.way().unwrap();
        (
            way.route().via.as_ref().unwrap().to_string(),
            way.addresses().allowed().to_vec(),
            permit.certificate().is_some(),
        )
    };
    let net = |text: &str| vec![text.parse::<ipnet::IpNet>().unwrap()];
    assert_eq!(way("/other"), ("http://10.1.2.3:3128".into(), net("10.1.2.3/32"), false));
    assert_eq!(way("/private"), ("socks5://proxy.com:1080".into(), net("10.0.0.0/8"), true));
    assert_eq!(way("/x/../private"), ("socks5://proxy.com:1080".into(), net("10.0.0.0/8"), false));
    let names: Vec<&str> = rules.secrets().map(|name| &**name).collect();
    assert_eq!(names, ["login", "c"]);
}
