//! The policy lease runs from the sending of a renewal that control answered, and from nothing else.

use std::time::Duration;

use control_wire::message::{ToControl, ToPlane};
use dataplane::clock::BootTime;

use crate::control::Control;
use crate::peer::{Caller, FalseControl};
use crate::plane::Plane;

/// Longer than the pause between renewals, so that a renewal shows.
const LENGTH: Duration = Duration::from_secs(10);

#[test]
fn renewals_extend_the_lease_while_control_answers() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    for _ in 0..3 {
        let now = BootTime::now();
        // Renewed after this moment, so that it runs beyond what any renewal before could give.
        crate::until("a renewal", || plane.lease.runs(LENGTH, now + LENGTH));
    }
}

#[test]
fn a_lease_ends_when_control_is_gone() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    crate::until("a renewal", || plane.lease.runs(LENGTH, BootTime::now()));
    let (_state, _address) = control.kill();
    let gone = BootTime::now();
    // Two attempts later nothing has lengthened it.
    plane.until_lost(|_| true);
    plane.until_lost(|_| true);
    assert!(!plane.lease.runs(LENGTH, gone + LENGTH));
}

/// The plane's renewals, one after the other.
fn renewal(caller: &mut Caller<'_>) -> u64 {
    loop {
        if let ToControl::Renew { number } = caller.hear() {
            return number;
        }
    }
}

#[test]
fn a_lease_is_measured_from_the_sending_however_late_the_answer_comes() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    let control = FalseControl::instead_of(control);
    let (mut caller, _hello) = control.caller();
    // What the former control renewed ends before anything that this one says.
    let former = BootTime::now();
    caller.welcome([5; 16], 50);
    let first = renewal(&mut caller);
    let received = BootTime::now();
    // Control hangs: four more are asked for meanwhile, at least 50 ms from one to the next.
    let last = (0..4).map(|_| renewal(&mut caller)).last().unwrap();
    assert!(!plane.lease.runs(LENGTH, former + LENGTH), "what is not answered renews nothing");
    caller.say(&ToPlane::Renewed { number: first });
    crate::until("the renewal", || plane.lease.runs(LENGTH, former + LENGTH));
    assert!(!plane.lease.runs(LENGTH, received + LENGTH), "it ran from the answer");
    // The later one counts from its own sending.
    caller.say(&ToPlane::Renewed { number: last });
    crate::until("the later renewal", || plane.lease.runs(LENGTH, received + LENGTH));
    assert!(!plane.lease.runs(LENGTH, BootTime::now() + LENGTH));
}

/// A plane that is busy with a snapshot of control still asks, and an answer does not wait behind rows.
#[test]
fn a_lease_is_renewed_while_a_revision_is_on_its_way() {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    let control = FalseControl::instead_of(control);
    let (mut caller, _hello) = control.caller();
    caller.welcome([5; 16], 50);
    caller.say(&ToPlane::SnapshotBegin { revision: 1 });
    // The plane waits for this envelope, which does not come.
    let envelope = control_wire::row::Envelope::Apart { bytes: 100_000 };
    let row = control_wire::row::HandlerRow { name: "h".into(), version: 1, hash: [1; 32], envelope };
    caller.say(&ToPlane::SnapshotRows { ops: vec![control_wire::row::Op::UpsertHandler(row)] });
    for _ in 0..3 {
        let before = BootTime::now();
        crate::until("a renewal", || {
            let number = renewal(&mut caller);
            caller.say(&ToPlane::Renewed { number });
            plane.lease.runs(LENGTH, before + LENGTH)
        });
    }
}
