//! Many rows in one call: what it changes, refuses and warns of.

use super::*;

fn everything() -> Value {
    json!({
        "handlers": { "h": { "wasm": BASE64.encode(b"good") } },
        "secrets": { "k": { "value": "hush-77aa", "hosts": ["a.example"] } },
        "templates": { "t": { "allowedHosts": ["a.example"], "outbound": { "handler": "h" } } },
        "sandboxes": { "s": { "template": "t", "labels": { "team": "x" } } },
    })
}

#[tokio::test]
async fn one_call_sets_rows_that_need_each_other_and_the_second_changes_nothing() {
    let api = start();
    let done = api.must("POST", "/v1/apply", everything()).await;
    assert_eq!((&done["revision"], done["changes"].as_array().unwrap().len()), (&json!(1), 4));
    let salt = api.core.store.tables().sandboxes["s"].value.salt;
    let again = api.must("POST", "/v1/apply?wait=applied", everything()).await;
    assert_eq!(
        (&again["revision"], &again["changes"], &again["applied"]),
        (&json!(1), &json!([]), &json!(true))
    );
    assert_eq!(api.core.store.tables().sandboxes["s"].value.salt, salt);
    let state = api.must("GET", "/v1/state", json!(null)).await;
    assert_eq!(api.must("POST", "/v1/apply", state).await["revision"], 1, "what is shown can be applied");
}

#[tokio::test]
async fn one_row_that_is_refused_keeps_all_others_out_and_is_named() {
    let api = start();
    let wrong = [
        ("sandboxes", "s", json!({ "template": "none" }), "sandbox", "template"),
        ("sandboxes", "s", json!({ "template": "t", "labels": { "a b": "x" } }), "sandbox", "labels.a b"),
        (
            "sandboxes",
            "s",
            json!({ "template": "t", "overrides": { "outboundByHost": [{ "host": "a.b", "handler": "no" }] } }),
            "sandbox",
            "overrides.outboundByHost[0].handler",
        ),
        ("templates", "t", json!({ "allowedHosts": ["a.b", "https://a.b"] }), "template", "allowedHosts[1]"),
        ("secrets", "k", json!({ "value": "v", "hosts": ["a.b", ""] }), "secret", "hosts[1]"),
        ("handlers", "h", json!({ "wasm": BASE64.encode(b"bad") }), "handler", "file"),
        ("handlers", "h", json!({ "module": "00" }), "handler", "module"),
    ];
    for (rows, name, row, kind, field) in wrong {
        let mut call = everything();
        call[rows][name] = row;
        let reply = api.send("POST", "/v1/apply", call).await;
        assert!(reply.status.is_client_error(), "{rows} {name}");
        let problem = body(&reply);
        let about = (&problem["kind"], &problem["name"], &problem["field"]);
        assert_eq!(about, (&json!(kind), &json!(name), &json!(field)), "{problem}");
        assert_eq!(api.core.store.tables().revision, 0);
    }
}

#[tokio::test]
async fn a_diff_tells_what_would_change_and_of_a_value_only_that_it_does() {
    let api = start();
    api.must("POST", "/v1/diff", everything()).await;
    assert_eq!(std::fs::read_dir(&api.core.artefacts).unwrap().count(), 0, "a diff leaves no file");
    api.must("POST", "/v1/apply", everything()).await;
    assert_eq!(std::fs::read_dir(&api.core.artefacts).unwrap().count(), 1);
    let mut call = everything();
    call["secrets"]["k"]["value"] = json!("other-5c3e");
    call["templates"]["t"]["denyStatus"] = json!(404);
    let reply = api.send("POST", "/v1/diff", call.clone()).await;
    let changes = body(&reply)["changes"].clone();
    assert_eq!(changes.as_array().unwrap().len(), 2, "{changes}");
    assert_eq!((&changes[0]["kind"], &changes[0]["valueChanges"]), (&json!("secret"), &json!(true)));
    assert_eq!(
        (&changes[1]["before"]["denyStatus"], &changes[1]["after"]["denyStatus"]),
        (&json!(null), &json!(404))
    );
    for value in ["other-5c3e", "hush-77aa"] {
        assert!(!holds(&reply.body, value), "{reply:?}");
    }
    assert_eq!(api.core.store.tables().revision, 1, "a diff changes nothing");
    call["secrets"]["k"] = json!({ "hosts": ["b.example"] });
    let kept = api.must("POST", "/v1/apply", call).await;
    assert_eq!(kept["changes"][0]["valueChanges"], false, "hosts change and the value stays");
    let row = api.core.store.tables().secrets["k"].value.clone();
    let sealed = BASE64.decode(row.sealed.as_bytes()).unwrap();
    assert_eq!(api.core.sealer.open("k", row.version, &sealed).unwrap().expose(), b"hush-77aa");
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_of_a_call_is_not_quoted() {
    let api = start();
    for secrets in [
        json!({ "k": "hush-77aa" }),
        json!({ "k": { "value": "v", "hosts": "hush-77aa" } }),
        json!({ "k": { "value": ["hush-77aa"], "hosts": ["a.example"] } }),
    ] {
        let reply = api.send("POST", "/v1/apply", json!({ "secrets": secrets })).await;
        assert!(reply.status == 422 && !holds(&reply.body, "hush-77aa"), "{reply:?}");
    }
}

#[tokio::test]
async fn a_rule_that_names_no_secret_is_warned_of() {
    let api = start();
    let rule = json!({ "host": "a.example", "actions": [{ "bearer": { "secret": "typo" } }] });
    let done = api.must("POST", "/v1/apply", json!({ "templates": { "t": { "rules": [rule] } } })).await;
    assert!(done["warnings"][0].as_str().unwrap().contains("secret typo"), "{done}");
}

#[tokio::test]
async fn a_rule_that_shows_a_secret_without_certificate_and_key_is_warned_of() {
    let api = start();
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["agent".to_owned()]).unwrap().self_signed(&key).unwrap();
    let rule = json!({ "host": "a.example", "actions": [{ "clientCertificate": { "secret": "k" } }] });
    let call = |value: String| {
        json!({ "secrets": { "k": { "value": value, "hosts": ["a.example"] } },
                "templates": { "t": { "rules": [rule] } } })
    };
    for (value, fix) in [("hush-77aa".to_owned(), "no certificate"), (own.pem(), "0 keys")] {
        for path in ["/v1/diff", "/v1/apply"] {
            let reply = api.send("POST", path, call(value.clone())).await;
            let told = body(&reply);
            let warning = told["warnings"][0].as_str().unwrap();
            assert!(warning.starts_with("template t: ") && warning.contains(fix), "{told}");
            assert!(warning.contains("secret k") && !holds(&reply.body, "hush-77aa"), "{told}");
        }
    }
    // The value that is there counts where a call names no other.
    let rules = json!({ "templates": { "u": { "rules": [rule] } } });
    let told = api.must("POST", "/v1/diff", rules.clone()).await;
    assert!(told["warnings"][0].as_str().unwrap().contains("0 keys"), "{told}");
    let done = api.must("POST", "/v1/apply", call(own.pem() + &key.serialize_pem())).await;
    assert_eq!(done["warnings"], json!([]));
    assert_eq!(api.must("POST", "/v1/diff", rules).await["warnings"], json!([]));
}
