//! The API over its socket, as a caller meets it.

mod apply;

use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::client::{Client, Reply, segment};
use crate::pki::Authority;
use crate::planes::Planes;
use crate::seal::Sealer;
use crate::store::Store;

struct Api {
    folder: TempDir,
    core: Arc<Core>,
    client: Client,
}

/// An API with a publisher that takes the module `good` only.
fn start() -> Api {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let artefacts = path.join("artefacts");
    crate::files::make_folder(&artefacts).unwrap();
    let core = Arc::new(Core {
        store: Store::open(&path.join("store.sqlite")).unwrap(),
        planes: Planes::default(),
        questions: Default::default(),
        handover: Default::default(),
        authority: Authority::open_or_create(&path.join("pki")).unwrap(),
        sealer: Sealer::open_or_create(&path.join("seal.key")).unwrap(),
        artefacts,
        handler_key: [0; 32],
        publisher: Arc::new(|module| match module {
            b"good" => Ok(b"envelope".to_vec()),
            _ => Err("the module is refused: it imports `env.now`".into()),
        }),
        here: Default::default(),
    });
    let socket = path.join("api.sock");
    let listener = OwnUserListener::new(UnixListener::bind(&socket).unwrap());
    let router = router(core.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Api { client: Client::new(&socket), folder, core }
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

impl Api {
    async fn send(&self, method: &str, path: &str, body: Value) -> Reply {
        self.client.send(method, path, &[], body.to_string()).await.unwrap()
    }

    async fn must(&self, method: &str, path: &str, value: Value) -> Value {
        let reply = self.send(method, path, value).await;
        assert!(reply.status.is_success(), "{method} {path}: {} {:?}", reply.status, reply.body);
        body(&reply)
    }

    /// The refusal's words; its form is checked.
    async fn refusal(&self, method: &str, path: &str, value: Value, status: u16) -> String {
        let reply = self.send(method, path, value).await;
        assert_eq!(reply.status, status, "{method} {path}: {:?}", reply.body);
        assert_eq!(reply.content_type, "application/problem+json");
        let problem = body(&reply);
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap().to_owned()
    }

    /// A template, a handler and a sandbox.
    async fn furnished() -> Self {
        let api = start();
        let put = api.client.send("PUT", "/v1/handlers/h", &[], "good").await.unwrap();
        assert_eq!(put.status, 200, "{:?}", put.body);
        api.must("PUT", "/v1/templates/t", json!({ "allowedHosts": ["a.example"] })).await;
        api.must("PUT", "/v1/sandboxes/s", json!({ "template": "t" })).await;
        api
    }

    fn overrides(&self) -> PolicyDocument {
        self.core.store.tables().sandboxes["s"].value.overrides.clone()
    }
}

#[tokio::test]
async fn an_unknown_field_is_refused_with_the_fields_that_exist() {
    let api = start();
    let detail = api.refusal("PUT", "/v1/templates/t", json!({ "allowedHost": ["a.example"] }), 422).await;
    assert!(detail.contains("allowedHost") && detail.contains("`allowedHosts`"), "{detail}");
    let detail = api.refusal("PUT", "/v1/sandboxes/s", json!({ "template": "t", "lables": {} }), 422).await;
    assert!(detail.contains("lables") && detail.contains("`labels`"), "{detail}");
    assert_eq!(api.core.store.tables().revision, 0);
}

#[tokio::test]
async fn a_pattern_that_can_never_match_is_refused() {
    let api = Api::furnished().await;
    for pattern in ["https://a.example", "a.example/path", ""] {
        let detail = api.refusal("PUT", "/v1/templates/u", json!({ "deniedHosts": [pattern] }), 422).await;
        assert!(detail.contains("deniedHosts[0]"), "{detail}");
        let detail = api.refusal("PUT", "/v1/sandboxes/s/deniedHosts", json!([pattern]), 422).await;
        assert!(detail.contains("deniedHosts[0]"), "{detail}");
        api.refusal("PUT", "/v1/secrets/k", json!({ "value": "v", "hosts": [pattern] }), 422).await;
    }
    assert_eq!(api.overrides().denied_hosts, None);
    assert!(api.core.store.tables().secrets.is_empty());
}

/// Whether a text, or a usual encoding of it, stands in bytes.
fn holds(bytes: &[u8], text: &str) -> bool {
    let forms = [text.to_owned(), BASE64.encode(text.as_bytes()), HEXLOWER.encode(text.as_bytes())];
    forms.iter().any(|form| bytes.windows(form.len()).any(|window| window == form.as_bytes()))
}

fn any_file_holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        (kind.is_dir() && any_file_holds(&path, text))
            || (kind.is_file() && holds(&std::fs::read(&path).unwrap(), text))
    })
}

#[tokio::test]
async fn a_secret_is_in_no_answer_and_in_no_file() {
    let api = Api::furnished().await;
    // The search works: what is planted is found, in a file and in an answer.
    let planted = "planted-4b1c9e";
    let rule = json!({ "host": "a.example", "actions": [{ "deny": { "reason": planted } }] });
    api.must("PUT", "/v1/templates/p", json!({ "rules": [rule] })).await;
    assert!(any_file_holds(api.folder.path(), planted));
    assert!(holds(&api.send("GET", "/v1/templates/p", json!(null)).await.body, planted));

    let secret = "hush-9f3a61d7";
    let write = json!({ "value": secret, "hosts": ["a.example"] });
    let mut answers = vec![api.send("PUT", "/v1/secrets/k", write).await];
    assert_eq!(answers[0].status, 200);
    // Refusals must not quote it either.
    for wrong in [
        json!({ "value": [secret], "hosts": ["a.example"] }),
        json!({ "value": secret, "host": "a.example" }),
        json!({ "value": secret, "hosts": [] }),
        json!(secret),
    ] {
        let reply = api.send("PUT", "/v1/secrets/k", wrong).await;
        assert_eq!(reply.status, 422);
        answers.push(reply);
    }
    for path in ["/v1/secrets", "/v1/secrets/k", "/v1/planes", "/v1/sandboxes/s"] {
        answers.push(api.send("GET", path, json!(null)).await);
    }
    assert_eq!(body(&answers[6])["hosts"], json!(["a.example"]));
    assert!(answers.iter().all(|reply| !holds(&reply.body, secret)), "{answers:?}");
    assert!(!any_file_holds(api.folder.path(), secret));
    let row = api.core.store.tables().secrets["k"].value.clone();
    let sealed = BASE64.decode(row.sealed.as_bytes()).unwrap();
    assert_eq!(api.core.sealer.open("k", row.version, &sealed).unwrap().expose(), secret.as_bytes());
}

#[tokio::test]
async fn setters_change_the_stored_row_and_deletes_give_it_back() {
    let api = Api::furnished().await;
    let at = |field: &str| format!("/v1/sandboxes/s/{field}");
    api.must("PUT", &at("allowedHosts"), json!(["b.example"])).await;
    api.must("PUT", &at("deniedHosts"), json!(["c.example", "*.d.example"])).await;
    api.must("PUT", &at("outbound"), json!({ "handler": "h", "params": { "n": 1 } })).await;
    let host = at(&format!("outboundByHost/{}", segment("*.e.example")));
    api.must("PUT", &host, json!({ "handler": "h" })).await;
    api.must("PUT", &host, json!({ "handler": "h", "onError": "next" })).await;
    let stored = serde_json::to_value(api.overrides()).unwrap();
    let expected = json!({
        "allowedHosts": ["b.example"], "deniedHosts": ["c.example", "*.d.example"],
        "outbound": { "handler": "h", "params": { "n": 1 } },
        "outboundByHost": [{ "host": "*.e.example", "handler": "h", "onError": "next" }],
    });
    assert_eq!(stored, expected);
    assert_eq!(api.must("GET", "/v1/sandboxes/s", json!(null)).await["overrides"], expected);
    for path in [at("allowedHosts"), at("deniedHosts"), at("outbound"), host.clone()] {
        api.must("DELETE", &path, json!(null)).await;
    }
    assert_eq!(api.overrides(), PolicyDocument::default());
    api.refusal("DELETE", &host, json!(null), 404).await;
}

#[tokio::test]
async fn a_write_of_what_is_there_makes_no_revision() {
    let api = Api::furnished().await;
    let first = api.must("PUT", "/v1/sandboxes/s/allowedHosts", json!(["b.example"])).await;
    let again = api.must("PUT", "/v1/sandboxes/s/allowedHosts", json!(["b.example"])).await;
    assert_eq!(first, again);
    assert_eq!(api.must("PUT", "/v1/sandboxes/s/allowedHosts", json!([])).await["revision"], 5);
    let salt = api.core.store.tables().sandboxes["s"].value.salt;
    api.must("PUT", "/v1/sandboxes/s", json!({ "template": "t", "labels": { "team": "x" } })).await;
    assert_eq!(api.core.store.tables().sandboxes["s"].value.salt, salt);
}

#[tokio::test]
async fn a_write_with_the_revision_of_another_is_refused() {
    let api = Api::furnished().await;
    for path in ["/v1/templates/t", "/v1/sandboxes/s"] {
        let value = match path {
            "/v1/templates/t" => json!({ "deniedHosts": ["x.example"] }),
            _ => json!({ "template": "t", "labels": { "a": "b" } }),
        };
        let etag = api.send("GET", path, json!(null)).await.etag.unwrap();
        let put = async |etag: &str| {
            let headers = [("if-match", etag)];
            api.client.send("PUT", path, &headers, value.to_string()).await.unwrap()
        };
        let reply = put("\"1\"").await;
        assert_eq!(reply.status, 412);
        let detail = body(&reply)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&etag), "{detail} {etag}");
        let reply = put(&etag).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        assert_ne!(reply.etag.as_deref(), Some(&*etag));
        assert_eq!(api.send("GET", path, json!(null)).await.etag, reply.etag);
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_with_its_name() {
    let api = start();
    for (method, path) in [
        ("GET", "/v1/templates/nobody"),
        ("DELETE", "/v1/templates/nobody"),
        ("GET", "/v1/sandboxes/nobody"),
        ("DELETE", "/v1/sandboxes/nobody"),
        ("GET", "/v1/sandboxes/nobody/ca.pem"),
        ("DELETE", "/v1/sandboxes/nobody/allowedHosts"),
        ("GET", "/v1/handlers/nobody"),
        ("DELETE", "/v1/handlers/nobody"),
        ("GET", "/v1/secrets/nobody"),
        ("DELETE", "/v1/secrets/nobody"),
        ("DELETE", "/v1/planes/nobody"),
        ("GET", "/v1/nobody"),
    ] {
        let detail = api.refusal(method, path, json!(null), 404).await;
        assert!(detail.contains("nobody"), "{detail}");
    }
    let detail = api.refusal("PUT", "/v1/sandboxes/s", json!({ "template": "nobody" }), 409).await;
    assert!(detail.contains("PUT /v1/templates/nobody"), "{detail}");
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let api = Api::furnished().await;
    api.must("PUT", "/v1/sandboxes/s/outbound", json!({ "handler": "h" })).await;
    assert!(api.refusal("DELETE", "/v1/handlers/h", json!(null), 409).await.contains("sandbox s"));
    assert!(api.refusal("DELETE", "/v1/templates/t", json!(null), 409).await.contains("sandbox s"));
    let use_of_none = json!({ "handler": "none" });
    assert!(api.refusal("PUT", "/v1/sandboxes/s/outbound", use_of_none, 409).await.contains("none"));
    api.must("DELETE", "/v1/sandboxes/s", json!(null)).await;
    api.must("DELETE", "/v1/handlers/h", json!(null)).await;
    api.must("DELETE", "/v1/templates/t", json!(null)).await;
}

#[tokio::test]
async fn a_module_that_is_refused_publishes_nothing() {
    let api = start();
    let put =
        async |module: &'static str| api.client.send("PUT", "/v1/handlers/h", &[], module).await.unwrap();
    let reply = put("bad").await;
    assert_eq!(reply.status, 422);
    assert!(body(&reply)["detail"].as_str().unwrap().contains("env.now"));
    assert!(api.core.store.tables().handlers.is_empty());
    assert_eq!(put("good").await.status, 200);
    let row = api.must("GET", "/v1/handlers/h", json!(null)).await;
    assert_eq!(row["version"], 1);
    let file = api.core.artefacts.join(row["hash"].as_str().unwrap());
    assert_eq!(std::fs::read(file).unwrap(), b"envelope");
}

#[tokio::test]
async fn a_misspelt_query_is_refused_before_anything_is_written() {
    let api = start();
    for query in ["wait=aplied", "wait=applied&timeout=soon"] {
        let path = format!("/v1/templates/t?{query}");
        let detail = api.refusal("PUT", &path, json!({}), 422).await;
        assert!(detail.contains("write"), "{detail}");
    }
    let detail = api.refusal("PUT", "/v1/templates/t?wiat=applied", json!({}), 422).await;
    assert!(detail.contains("wiat") && detail.contains("`wait`"), "{detail}");
    assert_eq!(api.core.store.tables().revision, 0);
}

#[tokio::test]
async fn a_lockdown_denies_all_for_the_selected() {
    let api = Api::furnished().await;
    api.must("PUT", "/v1/sandboxes/x", json!({ "template": "t", "labels": { "team": "x" } })).await;
    let done = api.must("POST", "/v1/lockdown", json!({ "selector": { "team": "x" } })).await;
    assert_eq!(done["applied"], true);
    let tables = api.core.store.tables();
    assert_eq!(tables.sandboxes["x"].value.overrides.denied_hosts.as_deref(), Some(&["*".to_owned()][..]));
    assert_eq!(tables.sandboxes["s"].value.overrides.denied_hosts, None);
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_named_by_its_place() {
    let api = start();
    let cases = [
        (json!({ "allowedHosts": "a.example" }), "`allowedHosts`"),
        (json!({ "rules": [{ "host": "a.example", "actions": [{ "deny": 5 }] }] }), "`rules[0].actions[0]"),
        (json!([true]), "an object of fields"),
    ];
    for (document, place) in cases {
        let detail = api.refusal("PUT", "/v1/templates/t", document, 422).await;
        assert!(detail.contains(place), "{detail}");
    }
    for (text, words) in [("", "the body is empty"), ("nonsense", "no JSON"), ("{} {}", "goes on after")] {
        let reply = api.client.send("PUT", "/v1/templates/t", &[], text).await.unwrap();
        assert_eq!(reply.status, 422);
        assert!(body(&reply)["detail"].as_str().unwrap().contains(words), "{:?}", reply.body);
    }
    assert_eq!(api.core.store.tables().revision, 0);
}

#[tokio::test]
async fn what_no_call_takes_is_a_problem_too() {
    let api = start();
    let detail = api.refusal("POST", "/v1/templates/t", json!({}), 405).await;
    assert!(detail.contains("Allow"), "{detail}");
    let detail = api.refusal("PUT", "/v1/templates/%ff", json!({}), 400).await;
    assert!(detail.contains("UTF-8"), "{detail}");
    let large = vec![b' '; BODY_BYTES_MAX + 1];
    let reply = api.client.send("PUT", "/v1/templates/t", &[], large).await.unwrap();
    assert_eq!(reply.status, 413);
    assert!(body(&reply)["detail"].as_str().unwrap().contains("16777216"));
}

#[tokio::test]
async fn the_store_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let api = Api::furnished().await;
    for file in ["store.sqlite", "store.sqlite-wal"] {
        let mode = std::fs::metadata(api.folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_judged_when_it_is_written_and_never_quoted() {
    let api = start();
    let key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let own =
        rcgen::CertificateParams::new(vec!["agent".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let put = |value: String| json!({ "value": value, "hosts": ["db.example"] });
    api.must("PUT", "/v1/secrets/db", put(own.clone() + &key.serialize_pem())).await;
    for (value, fix) in [
        (own.clone() + &other.serialize_pem(), "not that of its key"),
        (key.serialize_pem(), "write the chain"),
    ] {
        let said = api.refusal("PUT", "/v1/secrets/db", put(value), 422).await;
        assert!(said.contains(fix) && !said.contains("BEGIN"), "{said}");
    }
}

#[tokio::test]
async fn a_lease_takes_its_own_rows_along_and_nobody_else_s() {
    let api = start();
    let held = api.client.hold("POST", "/v1/leases/run-1").await.unwrap();
    let put = async |path: &str, body: &str| api.client.call("PUT", path, body.to_owned()).await.unwrap();
    for name in ["run-1", "run-10"] {
        put(&format!("/v1/templates/{name}"), "{}").await;
        put(&format!("/v1/sandboxes/{name}"), &json!({ "template": name }).to_string()).await;
        put(&format!("/v1/secrets/{name}.token"), r#"{"value":"v","hosts":["a.example"]}"#).await;
    }
    // The name of a lease, and one that an operator has given.
    for taken in ["run-1", "run-10"] {
        let refused = api.client.send("POST", &format!("/v1/leases/{taken}"), &[], "").await.unwrap();
        assert_eq!(refused.status, 409);
        assert!(body(&refused)["detail"].as_str().unwrap().contains("is taken"));
    }
    let rows = async || body(&api.client.call("GET", "/v1/state", "").await.unwrap());
    assert_eq!(rows().await["sandboxes"].as_object().unwrap().len(), 2);
    drop(held);
    let mut revisions = api.core.store.revisions();
    while rows().await["sandboxes"].as_object().unwrap().contains_key("run-1") {
        let changed = tokio::time::timeout(std::time::Duration::from_secs(20), revisions.changed());
        changed.await.expect("the lease ends with its connection").unwrap();
    }
    let left = rows().await;
    for kind in ["templates", "sandboxes", "secrets"] {
        let names: Vec<_> = left[kind].as_object().unwrap().keys().collect();
        assert!(names.len() == 1 && names[0].starts_with("run-10"), "{kind}: {names:?}");
    }
    // The lease itself goes after its rows, so that a control which is killed between them ends it at its next start.
    let ended = async {
        while api.client.send("DELETE", "/v1/leases/run-1", &[], "").await.unwrap().status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.expect("the lease is gone");
}

#[tokio::test]
async fn a_lease_whose_control_was_killed_ends_at_the_next_start() {
    let api = start();
    let held = api.client.hold("POST", "/v1/leases/run-1").await.unwrap();
    api.client.call("PUT", "/v1/templates/run-1", "{}").await.unwrap();
    crate::leases::sweep(&api.core).await.unwrap();
    assert!(api.core.store.tables().templates.is_empty());
    drop(held);
}
