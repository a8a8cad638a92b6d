//! What the API calls *applied* is enforced by every plane, or refused there for sure.

use std::time::Duration;

use control_wire::message::{ToControl, ToPlane};
use dataplane::clock::BootTime;
use serde_json::{Value, json};

use crate::control::{Control, json_of};
use crate::peer::{Identity, Peer};
use crate::plane::{News, Plane};

/// A fleet of one sandbox, which does this without control.
fn furnished(on_control_loss: &str, lease_ms: u64) -> Control {
    let control = Control::start();
    let template = json!({ "onControlLoss": on_control_loss, "leaseMs": lease_ms });
    control.must("PUT", "/v1/templates/t", template);
    control.must("PUT", "/v1/sandboxes/s", json!({ "template": "t" }));
    control
}

#[test]
fn a_write_is_applied_when_the_last_plane_has_acknowledged_it() {
    let control = furnished("keep", 1_000);
    let (mut a, mut b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    let path = "/v1/sandboxes/s/deniedHosts?wait=applied&timeout=60s";
    let later = control.call_later("PUT", path, json!(["*"]));
    assert!(matches!(a.news(), News::Delta(3, _)));
    assert!(matches!(b.news(), News::Delta(3, _)));
    a.handle().acknowledge(3);
    control.until_acknowledged("a", 3);
    assert!(!later.is_there());
    b.handle().acknowledge(2);
    control.until_acknowledged("b", 2);
    assert!(!later.is_there());
    b.handle().acknowledge(3);
    let reply = control.answer(later);
    assert_eq!(reply.status, 200);
    assert_eq!(json_of(&reply), json!({ "revision": 3, "applied": true, "planes": 2 }));
}

#[test]
fn planes_that_are_behind_are_named_when_the_wait_ends() {
    let control = furnished("keep", 1_000);
    let (a, _b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    let _c = Plane::joined(&control, "c");
    a.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    // Written again it is what it was, and is waited for all the same.
    let body = json!({ "template": "t" }).to_string();
    let reply = control.call("PUT", "/v1/sandboxes/s?wait=applied&timeout=20ms", body);
    assert_eq!(reply.status, 202);
    let body = json_of(&reply);
    assert_eq!(body, json!({ "revision": 2, "applied": false, "planes": 3, "planesBehind": ["b", "c"] }));
}

#[test]
fn without_planes_everything_is_applied_and_the_answer_says_so() {
    let control = furnished("keep", 1_000);
    let done = control.must("PUT", "/v1/sandboxes/s/allowedHosts?wait=applied", json!(["a.example"]));
    assert_eq!(done, json!({ "revision": 3, "applied": true, "planes": 0 }));
}

#[test]
fn nobody_waits_for_a_plane_that_is_removed() {
    let control = furnished("keep", 1_000);
    let _plane = Plane::joined(&control, "a");
    let path = "/v1/sandboxes/s/deniedHosts?wait=applied&timeout=60s";
    let later = control.call_later("PUT", path, json!(["*"]));
    crate::until("the write", || control.revision() == 3);
    assert!(!later.is_there());
    control.must("DELETE", "/v1/planes/a", Value::Null);
    assert_eq!(control.answer(later).status, 200);
}

/// A plane that no longer hears control goes on by old policy where the sandbox says `keep`.
#[test]
fn a_lost_plane_is_named_where_it_keeps_traffic() {
    let control = furnished("keep", 500);
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    control.cut();
    let lost = BootTime::now();
    crate::until("the end of a lease", || BootTime::now() > lost + Duration::from_millis(1_500));
    let reply = control.call("PUT", "/v1/sandboxes/s/deniedHosts?wait=applied&timeout=10ms", "[\"*\"]");
    assert_eq!(reply.status, 202);
    assert_eq!(json_of(&reply)["planesBehind"], json!(["a"]));
}

/// The wait ends with 200 when the lease has surely ended, and no earlier.
#[test]
fn a_lost_plane_is_fenced_where_it_denies_and_only_when_its_lease_has_ended() {
    let control = furnished("deny", 700);
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    crate::until("a renewal", || plane.lease.runs(Duration::from_millis(700), BootTime::from_millis(0)));
    control.cut();
    let path = "/v1/lockdown?timeout=60s";
    let reply = control.call("POST", path, json!({ "ids": ["s"] }).to_string());
    assert_eq!(reply.status, 200, "{:?}", json_of(&reply));
    assert!(!plane.lease.runs(Duration::from_millis(700), BootTime::now()), "the plane may still forward");
    // The same call again is answered at once.
    let reply = control.call("POST", "/v1/lockdown?timeout=0s", json!({ "ids": ["s"] }).to_string());
    assert_eq!(reply.status, 200);
}

#[test]
fn a_lost_plane_is_named_before_its_lease_has_ended() {
    let control = furnished("deny", 3_600_000);
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    crate::until("a renewal", || plane.lease.runs(Duration::from_secs(3_600), BootTime::from_millis(0)));
    control.cut();
    let reply = control.call("POST", "/v1/lockdown?timeout=10ms", json!({ "ids": ["s"] }).to_string());
    assert_eq!(reply.status, 202);
    assert_eq!(json_of(&reply)["planesBehind"], json!(["a"]));
    assert!(plane.lease.runs(Duration::from_secs(3_600), BootTime::now()));
}

/// What the plane does without control is what the policy said that it knows, not what was written since.
#[test]
fn a_lease_that_a_lost_plane_never_heard_of_does_not_fence_it() {
    let control = furnished("keep", 500);
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    control.cut();
    control.must("PUT", "/v1/templates/t", json!({ "onControlLoss": "deny", "leaseMs": 500 }));
    let lost = BootTime::now();
    crate::until("the end of that lease", || BootTime::now() > lost + Duration::from_millis(1_500));
    let reply = control.call("POST", "/v1/lockdown?timeout=10ms", json!({ "ids": ["s"] }).to_string());
    assert_eq!(reply.status, 202);
}

#[test]
fn a_secret_is_applied_behind_a_fence_when_every_sandbox_denies() {
    let control = furnished("deny", 500);
    let plane = Plane::joined(&control, "a");
    plane.handle().acknowledge(2);
    control.until_acknowledged("a", 2);
    control.cut();
    let secret = json!({ "value": "v", "hosts": ["a.example"] }).to_string();
    assert_eq!(control.call("PUT", "/v1/secrets/k?wait=applied&timeout=60s", secret.clone()).status, 200);
    control.must(
        "PUT",
        "/v1/sandboxes/r",
        json!({ "template": "t", "overrides": { "onControlLoss": "keep" } }),
    );
    assert_eq!(control.call("PUT", "/v1/secrets/k?wait=applied&timeout=10ms", secret).status, 202);
}

fn renewed(number: u64) -> ToPlane {
    ToPlane::Renewed { number }
}

/// A caller was told that the sandbox is cut off. The plane comes back with the old policy: it is not renewed before it
/// enforces the new one.
#[test]
fn a_plane_that_was_fenced_is_renewed_only_when_it_has_caught_up() {
    let mut control = furnished("deny", 500);
    let store = control.core.store.tables().store;
    let identity = Identity::join(&control, "a");
    let mut peer = Peer::plane(&control, &identity, "a", (store, 2));
    peer.say(&ToControl::Ack { revision: 2 });
    control.until_acknowledged("a", 2);
    drop(peer);
    control.cut();
    let reply = control.call("POST", "/v1/lockdown?timeout=60s", json!({ "ids": ["s"] }).to_string());
    assert_eq!(reply.status, 200);
    control.mend();
    assert_not_renewed_before(&control, &identity, (2, 3));
}

/// What a former life of control told its callers is not known to this one, so anything may have been told.
#[test]
fn after_a_restart_of_control_no_plane_is_renewed_before_it_has_caught_up() {
    let control = furnished("deny", 500);
    let identity = Identity::join(&control, "a");
    control.must("PUT", "/v1/sandboxes/s/deniedHosts", json!(["*"]));
    let (state, address) = control.kill();
    let control = Control::resume(state, address);
    assert_not_renewed_before(&control, &identity, (2, 3));
}

/// A plane that holds one revision asks, acknowledges the other, and asks again: only that is answered.
fn assert_not_renewed_before(control: &Control, identity: &Identity, (held, newest): (u64, u64)) {
    let store = control.core.store.tables().store;
    let mut peer = Peer::plane(control, identity, "a", (store, held));
    peer.say(&ToControl::Renew { number: 1 });
    peer.say(&ToControl::Ack { revision: held });
    peer.say(&ToControl::Renew { number: 2 });
    let mut said = Vec::new();
    loop {
        match peer.hear() {
            ToPlane::Delta { revision, .. } | ToPlane::SnapshotEnd { revision, .. } => {
                assert_eq!(revision, newest);
                break;
            }
            other => said.push(other),
        }
    }
    peer.say(&ToControl::Ack { revision: newest });
    peer.say(&ToControl::Renew { number: 3 });
    said.push(peer.hear());
    assert_eq!(said.last(), Some(&renewed(3)));
    assert!(!said.contains(&renewed(1)) && !said.contains(&renewed(2)), "{said:?}");
}

/// A revision can be enforced although a handler in it is not: what ran before runs on. The caller sees that.
#[test]
fn a_handler_that_a_plane_does_not_take_is_not_applied_and_says_why() {
    let control = furnished("keep", 1_000);
    let (mut a, b) = (Plane::joined(&control, "a"), Plane::joined(&control, "b"));
    let later = control.call_later("PUT", "/v1/handlers/h?wait=applied&timeout=60s", json!("module"));
    assert!(matches!(a.news(), News::Delta(3, _)));
    b.handle().acknowledge(3);
    assert!(a.handle().reject_handler("h".into(), 1, "it was compiled for another processor".into()));
    a.handle().acknowledge(3);
    let reply = control.answer(later);
    assert_eq!(reply.status, 202);
    let rejected = json!([{ "plane": "a", "reason": "it was compiled for another processor" }]);
    assert_eq!(json_of(&reply)["rejected"], rejected);
    assert_eq!(json_of(&reply)["applied"], false);
    assert_eq!(control.must("GET", "/v1/handlers/h", Value::Null)["rejected"], rejected);
    let shown =
        |control: &Control| control.must("GET", "/v1/planes", Value::Null)["planes"][0]["rejected"].clone();
    let in_view =
        json!([{ "handler": "h", "version": 1, "reason": "it was compiled for another processor" }]);
    assert_eq!(shown(&control), in_view);

    // A control that is started again is told again.
    let (state, address) = control.kill();
    let control = Control::resume(state, address);
    crate::until("the rejection", || shown(&control) == in_view);

    // A version that is taken clears it.
    let later = control.call_later("PUT", "/v1/handlers/h?wait=applied&timeout=60s", json!("better"));
    assert!(matches!(a.news(), News::Delta(4, _)));
    a.handle().acknowledge(4);
    b.handle().acknowledge(4);
    assert_eq!(control.answer(later).status, 200);
    assert_eq!(shown(&control), json!([]));
}

#[test]
fn a_lockdown_of_nobody_is_an_error() {
    let control = furnished("keep", 1_000);
    for body in [json!({ "selector": { "team": "x" } }), json!({ "ids": [] }), json!({ "ids": ["nobody"] })] {
        assert_eq!(control.call("POST", "/v1/lockdown", body.to_string()).status, 404, "{body}");
    }
}
