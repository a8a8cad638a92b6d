//! Every plane is sent everything once, then what changes, in the order in which it changed.

use std::time::{Duration, SystemTime};

use control::link::PLANE_KEYS;
use control_wire::limits::ENVELOPE_INLINE_BYTES_MAX;
use control_wire::row::{Op, TemplateRow};
use dataplane::link::LinkError;
use dataplane::tls::{Authority, PoolMaster, SandboxSalt};
use serde_json::{Value, json};

use crate::control::{Control, anywhere, envelope};
use crate::plane::{News, Plane};

fn changed(revision: u64, names: &[&str]) -> News {
    News::Delta(revision, names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn a_plane_is_sent_all_rows_and_then_each_change() {
    let control = Control::start();
    control.must("PUT", "/v1/templates/t", json!({ "allowedHosts": ["a.example"] }));
    control.must("PUT", "/v1/secrets/k", json!({ "value": "hush", "hosts": ["a.example"] }));
    control.must("PUT", "/v1/sandboxes/s", json!({ "template": "t" }));
    assert_eq!(control.call("PUT", "/v1/handlers/h", "module").status, 200);
    let mut plane = Plane::joined(&control, "a");
    assert!(plane.rows["template t"].contains("a.example"), "{}", plane.rows["template t"]);
    assert!(plane.rows["secret k"].ends_with("hush"));
    assert!(plane.rows["sandbox s"].contains("\"t\""));
    assert_eq!(plane.envelope("h"), b"module");

    control.must("PUT", "/v1/sandboxes/s/allowedHosts", json!(["b.example"]));
    assert_eq!(plane.news(), changed(5, &["sandbox s"]));
    assert!(plane.rows["sandbox s"].contains("b.example"));
    control.must("PUT", "/v1/secrets/k", json!({ "value": "whisper", "hosts": ["a.example"] }));
    assert_eq!(plane.news(), changed(6, &["secret k"]));
    assert!(plane.rows["secret k"].ends_with("whisper"));
    assert_eq!(control.call("PUT", "/v1/handlers/h", "newer").status, 200);
    assert_eq!(plane.news(), changed(7, &["handler h"]));
    assert_eq!(plane.envelope("h"), b"newer");
    for (revision, row) in [(8, "sandboxes/s"), (9, "templates/t"), (10, "secrets/k"), (11, "handlers/h")] {
        control.must("DELETE", &format!("/v1/{row}"), Value::Null);
        plane.follow(revision);
    }
    assert!(plane.rows.is_empty() && plane.handlers.is_empty());
}

#[test]
fn what_changes_nothing_is_no_revision() {
    let control = Control::start();
    for _ in 0..3 {
        let done = control.must("PUT", "/v1/templates/t", json!({ "allowedHosts": ["a.example"] }));
        assert_eq!(done["revision"], 1);
    }
}

#[test]
fn two_planes_are_both_sent_everything() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    let (mut a, mut b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    for round in 0..20 {
        control.must("PUT", "/v1/templates/t", json!({ "allowedHosts": [format!("{round}.example")] }));
    }
    a.follow(21);
    b.follow(21);
    assert!(a.rows["template t"].contains("19.example"));
    assert_eq!(a.rows, b.rows);
}

/// Rows and the revision that they belong to were read in two steps. A change that came between was told to have been
/// sent and never was.
#[test]
fn nothing_is_lost_when_changes_come_faster_than_they_are_sent() {
    let control = Control::start();
    let mut plane = Plane::joined(&control, "a");
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = control.core.store.clone();
            control.runtime.spawn(async move {
                for round in 0..150 {
                    let id = format!("t{}", (round * 7 + writer * 3) % 23);
                    let document = serde_json::from_value(
                        json!({ "allowedHosts": [format!("{writer}-{round}.example")] }),
                    );
                    let change = control::tables::Change::Template(id, Some(document.unwrap()));
                    store.change(move |_| Ok::<_, std::convert::Infallible>(vec![change])).await.unwrap();
                }
            })
        })
        .collect();
    plane.follow(600);
    for writer in writers {
        control.runtime.block_on(writer).unwrap();
    }
    assert_eq!(control.revision(), 600);
    let tables = control.core.store.tables();
    assert_eq!(plane.rows.len(), tables.templates.len());
    for (name, row) in &tables.templates {
        let wanted = serde_json::to_string(&*row.value).unwrap();
        assert_eq!(plane.rows[&format!("template {name}")], wanted, "{name}");
    }
}

#[test]
fn a_change_of_thousands_of_rows_takes_effect_as_one() {
    let control = Control::start();
    let mut plane = Plane::joined(&control, "a");
    control.put_sandboxes((0..3_000).map(|number| format!("s{number:04}")));
    match plane.news() {
        News::Delta(1, names) => assert_eq!(names.len(), 3_000),
        other => panic!("{other:?}"),
    }
    assert_eq!(plane.rows.len(), 3_000);
}

#[test]
fn after_a_loss_only_what_changed_is_sent() {
    let mut control = Control::start();
    control.put_templates(["t".into(), "u".into()]);
    let mut plane = Plane::joined(&control, "a");
    control.cut();
    let error = plane.loss();
    assert!(error.to_string().contains("cut by the test"), "{error}");
    control.must("PUT", "/v1/templates/t", json!({ "allowedHosts": ["a.example"] }));
    control.must("PUT", "/v1/templates/v", json!({}));
    control.mend();
    assert_eq!(plane.news(), changed(3, &["template t", "template v"]));
    assert_eq!(plane.rows.len(), 3);
}

/// A hundred thousand rows: more than control remembers changes.
#[test]
fn a_plane_that_was_away_for_too_long_is_sent_the_whole_fleet() {
    let mut control = Control::start();
    control.put_templates(["t".into()]);
    let mut plane = Plane::joined(&control, "a");
    control.cut();
    plane.loss();
    control.put_sandboxes((0..100_000).map(|number| format!("s{number:05}")));
    control.mend();
    assert_eq!(plane.news(), News::Snapshot(2));
    assert_eq!(plane.rows.len(), 100_001);
    assert!(plane.rows["sandbox s99999"].contains("s99999"));
}

/// A restart takes no revision away and adds none; the plane comes back by itself, at once, and is sent what is new.
#[test]
fn control_that_is_killed_and_started_again_goes_on_where_it_was() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    let mut plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(1);
    control.until_acknowledged("a", 1);
    let (state, address) = control.kill();
    let control = Control::resume(state, address);
    assert_eq!(control.revision(), 1);
    // Told by a reset, not found out by silence: the key by which resets are signed outlives the process.
    let error = plane.until_lost(|error| matches!(error, LinkError::Ended { .. }));
    assert!(control::causes::chain(&error).contains("reset by peer"), "{}", control::causes::chain(&error));
    plane.until_connected();
    control.until_acknowledged("a", 1);
    control.put_templates(["u".into()]);
    assert_eq!(plane.news(), changed(2, &["template u"]));
}

#[test]
fn a_plane_that_starts_again_holds_nothing_and_is_sent_everything() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    let plane = Plane::joined(&control, "a");
    let folder = plane.end();
    let settings = Plane::settings(control.address, "a", folder.path(), None);
    let mut plane = Plane::begin(settings, folder);
    assert_eq!(plane.news(), News::Snapshot(1));
}

/// Revisions of different stores say nothing about each other. The plane's own numbers go on, so that what the shards
/// enforce of the former store is never taken for the new one's.
#[test]
fn another_store_replaces_everything_and_is_acknowledged_in_its_own_numbers() {
    let control = Control::start();
    for name in ["t", "u", "v"] {
        control.put_templates([name.into()]);
    }
    let mut plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(3);
    control.until_acknowledged("a", 3);
    let certificate = control.runtime.block_on(control.core.store.local(format!("{PLANE_KEYS}a"))).unwrap();
    let (former, address) = control.kill();

    let state = tempfile::tempdir().unwrap();
    let pki = state.path().join("pki");
    std::fs::create_dir(&pki).unwrap();
    for file in ["authority.key", "authority.der"] {
        std::fs::copy(former.path().join("pki").join(file), pki.join(file)).unwrap();
    }
    let control = Control::resume(state, anywhere());
    let key = format!("{PLANE_KEYS}a");
    control.runtime.block_on(control.core.store.put_local(key, certificate.unwrap())).unwrap();
    control.put_templates(["w".into()]);
    let (state, _) = control.kill();
    let control = Control::resume(state, address);

    assert_eq!(plane.news(), News::Snapshot(4), "three of the former store, and the first of this one");
    assert_eq!(plane.rows.keys().collect::<Vec<_>>(), ["template w"]);
    let applied = control.call_later("PUT", "/v1/templates/x?wait=applied&timeout=60s", json!({}));
    assert_eq!(plane.news(), changed(5, &["template x"]));
    // A slow shard, still with the former store.
    plane.handle().acknowledge(3);
    plane.handle().acknowledge(4);
    control.until_acknowledged("a", 1);
    assert!(!applied.is_there());
    plane.handle().acknowledge(5);
    assert_eq!(control.answer(applied).status, 200);
}

/// Envelopes travelled before the rows that name them. A plane that held back more than eight waited for rows, control
/// for the plane, and neither ever went on.
#[test]
fn many_large_handlers_arrive_whole() {
    let control = Control::start();
    let sizes: Vec<usize> = (0..24).map(|number| ENVELOPE_INLINE_BYTES_MAX + 1 + number * 1_000).collect();
    let modules: Vec<String> =
        sizes.iter().enumerate().map(|(number, bytes)| format!("m{number}:{bytes}:")).collect();
    for (number, module) in modules.iter().enumerate().take(20) {
        let path = format!("/v1/handlers/h{number}");
        assert_eq!(control.call("PUT", &path, module.as_bytes()).status, 200);
    }
    let mut plane = Plane::joined(&control, "a");
    assert_eq!(plane.handlers.len(), 20);
    for (number, module) in modules.iter().enumerate().skip(20) {
        let path = format!("/v1/handlers/h{number}");
        assert_eq!(control.call("PUT", &path, module.as_bytes()).status, 200);
    }
    plane.follow(24);
    for (number, module) in modules.iter().enumerate() {
        assert_eq!(plane.envelope(&format!("h{number}")), envelope(module.as_bytes()), "h{number}");
    }
}

#[test]
fn a_handler_of_the_largest_size_arrives_whole() {
    let control = Control::start();
    let mut plane = Plane::joined(&control, "a");
    let module = format!("large:{}:", control_wire::limits::ENVELOPE_BYTES_MAX);
    assert_eq!(control.call("PUT", "/v1/handlers/h", module.as_bytes()).status, 200);
    assert_eq!(plane.news(), changed(1, &["handler h"]));
    assert!(plane.envelope("h") == envelope(module.as_bytes()));
    // What comes after it was not held up for good.
    control.put_templates(["t".into()]);
    assert_eq!(plane.news(), changed(2, &["template t"]));
}

#[test]
fn a_revision_that_a_plane_cannot_apply_is_told_and_everything_is_asked_for_again() {
    let control = Control::start();
    let mut plane = Plane::joined(&control, "a");
    plane.refuse_next();
    control.put_templates(["t".into()]);
    let error = plane.loss();
    assert!(matches!(error, LinkError::Apply(_)), "{error:?}");
    assert_eq!(plane.news(), News::Snapshot(1));
    assert!(plane.rows.contains_key("template t"));
    control.put_templates(["u".into()]);
    assert_eq!(plane.news(), changed(2, &["template u"]));
}

#[test]
fn a_mistake_in_the_plane_does_not_leave_it_deaf() {
    let control = Control::start();
    let mut plane = Plane::joined(&control, "a");
    plane.fail_next();
    control.put_templates(["t".into()]);
    assert_eq!(plane.news(), News::Snapshot(1));
    assert!(plane.rows.contains_key("template t"));
}

#[test]
fn the_first_certificate_of_an_authority_is_the_one_that_every_plane_gets() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    control.put_sandboxes(["s".into(), "r".into()]);
    let (mut a, mut b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    assert_eq!(control.call("GET", "/v1/sandboxes/s/ca.pem", "").status, 409);
    // Both at once, one of them twice, and one for a sandbox that is gone.
    assert!(a.handle().offer_certificate("gone".into(), vec![9]));
    assert!(a.handle().offer_certificate("s".into(), vec![1]));
    assert!(b.handle().offer_certificate("s".into(), vec![2]));
    assert!(b.handle().offer_certificate("r".into(), vec![3]));
    while control.core.store.tables().sandboxes.values().any(|row| row.value.ca_certificate.is_none()) {
        std::thread::yield_now();
    }
    let stored = control.core.store.tables().sandboxes["s"].value.ca_certificate.clone().unwrap();
    assert!(stored == [1] || stored == [2], "{stored:?}");
    // Nothing that is offered later changes it.
    assert!(a.handle().offer_certificate("s".into(), vec![4]));
    assert!(b.handle().offer_certificate("s".into(), vec![5]));
    control.put_templates(["end".into()]);
    let end = control.revision();
    a.follow(end);
    b.follow(end);
    let shown = format!("ca_certificate: Some({stored:?})");
    assert!(a.rows["sandbox s"].contains(&shown), "{}", a.rows["sandbox s"]);
    assert_eq!(a.rows, b.rows);
    let pem = control.call("GET", "/v1/sandboxes/s/ca.pem", "");
    assert_eq!(pem.status, 200);
    let body = data_encoding::BASE64.encode(&stored);
    assert!(String::from_utf8_lossy(&pem.body).contains(&body));
}

/// A certificate by a key that was made of this salt, of so many days ago.
fn authority(master: &PoolMaster, salt: u8, days_ago: u64) -> Vec<u8> {
    let authority = Authority::derive(master, &SandboxSalt([salt; 32])).unwrap();
    authority.issue_certificate("s", SystemTime::now() - Duration::from_secs(days_ago * 86_400), 30).unwrap()
}

#[test]
fn a_certificate_in_its_last_third_is_renewed_once_by_its_own_key_and_every_plane_gets_it() {
    let control = Control::start();
    control.put_templates(["t".into()]);
    control.put_sandboxes(["old".into(), "young".into(), "mark".into()]);
    let (mut a, mut b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    let master = PoolMaster::ephemeral().unwrap();
    let stored = |id: &str| control.core.store.tables().sandboxes[id].value.ca_certificate.clone();
    let offer = |plane: &Plane, id: &str, der: &[u8]| {
        assert!(plane.handle().offer_certificate(id.into(), der.into()));
    };
    let until_stored = |id: &str, der: &[u8]| {
        crate::until("the certificate", || stored(id).as_deref() == Some(der));
    };
    let (old, young) = (authority(&master, 7, 21), authority(&master, 7, 19));
    for (id, der) in [("old", &old), ("young", &young)] {
        offer(&a, id, der);
        until_stored(id, der);
    }
    // One that is not due, then one of another key: both are heard before the first that renews.
    offer(&a, "young", &authority(&master, 7, 0));
    offer(&a, "old", &authority(&master, 8, 0));
    let renewed = authority(&master, 7, 0);
    offer(&a, "old", &renewed);
    until_stored("old", &renewed);
    assert_eq!(stored("young"), Some(young));
    // Those that come later are other certificates of the same authority. What each plane says is heard in order.
    for (plane, mark) in [(&a, 1), (&b, 2)] {
        offer(plane, "old", &authority(&master, 7, 0));
        control.put_sandboxes(["mark".into()]);
        offer(plane, "mark", &[mark]);
        until_stored("mark", &[mark]);
    }
    let end = control.revision();
    a.follow(end);
    b.follow(end);
    assert_eq!(stored("old"), Some(renewed.clone()));
    let shown = format!("ca_certificate: Some({renewed:?})");
    assert!(a.rows["sandbox old"].contains(&shown), "{}", a.rows["sandbox old"]);
    assert_eq!(a.rows, b.rows);
}

#[test]
fn what_is_removed_while_a_plane_is_away_is_removed_there() {
    let mut control = Control::start();
    control.put_templates(["t".into(), "u".into()]);
    let mut plane = Plane::joined(&control, "a");
    control.cut();
    plane.loss();
    control.must("DELETE", "/v1/templates/u", Value::Null);
    control.mend();
    assert_eq!(plane.news(), changed(2, &["template u"]));
    assert_eq!(plane.rows.keys().collect::<Vec<_>>(), ["template t"]);
}

#[test]
fn a_row_of_the_largest_size_fits_beside_others_like_it() {
    // One frame holds as many as are put into it: secrets with the longest value and the most hosts.
    let hosts: Vec<String> = (0..256).map(|number| format!("{number:03}{}", "h".repeat(252))).collect();
    let row = |number: usize| {
        Op::UpsertSecret(control_wire::row::SecretRow {
            name: format!("{number:0255}"),
            version: 1,
            value: control_wire::row::SecretValue::new(&[7; control_wire::limits::SECRET_BYTES_MAX]),
            hosts: hosts.clone(),
            allow_plaintext: false,
        })
    };
    let ops = (0..control::limits::ROWS_PER_FRAME).map(row).collect();
    let frame = control_wire::message::ToPlane::SnapshotRows { ops }.encode();
    assert!(frame.len() <= control_wire::limits::FRAME_BYTES_MAX, "{}", frame.len());
    // A template has one document, a sandbox one and its labels: both stay below that.
    let template = Op::UpsertTemplate(TemplateRow {
        name: "t".repeat(255),
        document: "d".repeat(control_wire::limits::DOCUMENT_BYTES_MAX),
    });
    let one = control_wire::message::ToPlane::SnapshotRows { ops: vec![template] }.encode().len();
    assert!(one * control::limits::ROWS_PER_FRAME <= control_wire::limits::FRAME_BYTES_MAX);
}
