//! What a peer says beyond what it may closes its link, with a sentence, and nothing else.

use control_wire::limits::{FRAME_BYTES_MAX, PLANE_FRAME_BYTES_MAX};
use control_wire::message::{IGNORABLE, ToControl, ToPlane};
use control_wire::row::{Op, TemplateRow};
use dataplane::link::{LinkError, LinkEvent};

use crate::control::Control;
use crate::peer::{FalseControl, Identity, Peer, hello, join};
use crate::plane::{News, Plane};

const NOTHING: ([u8; 16], u64) = ([0; 16], 0);

/// A header alone: tag and claimed length.
fn header(tag: u16, length: usize) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &u32::try_from(length).unwrap().to_le_bytes()].concat()
}

/// Each of these closes the link of the plane that said it; another plane goes on meanwhile.
#[test]
fn what_a_plane_may_not_say_closes_its_link_with_a_sentence() {
    let control = Control::start();
    let mut good = Plane::joined(&control, "good");
    let identity = Identity::join(&control, "bad");
    let again = hello("bad", NOTHING);
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("a tag that nobody knows", header(0x1234, 0), "unknown tag 0x1234"),
        ("a length beyond the bound", header(3, PLANE_FRAME_BYTES_MAX + 1), "frame is 131073 long"),
        ("the longest length that there is", header(3, u32::MAX as usize), "frame is 4294967295 long"),
        ("a body that ends too early", [header(3, 4), vec![0; 4]].concat(), "ends inside revision"),
        ("a second hello", again.encode().to_vec(), "introduced itself twice"),
        (
            "an acknowledgement of what was never sent",
            ToControl::Ack { revision: 99 }.encode().to_vec(),
            "acknowledged what it was never sent",
        ),
        (
            "text that is none",
            [header(4, 13), vec![1, 0, 0, 0, 0xff, 4, 0, 0, 0, 1, 2, 3, 4]].concat(),
            "sandbox is not UTF-8",
        ),
    ];
    for (number, (what, bytes, reason)) in cases.into_iter().enumerate() {
        let mut peer = Peer::plane(&control, &identity, "bad", NOTHING);
        peer.say_bytes(&bytes);
        let said = peer.farewell();
        assert!(said.contains(reason), "{what}: {said}");
        control.put_templates([format!("t{number}")]);
        assert_eq!(good.news(), News::Delta(number as u64 + 1, vec![format!("template t{number}")]));
    }
}

#[test]
fn a_plane_that_floods_control_with_renewals_is_cut_off() {
    let control = Control::start();
    let mut good = Plane::joined(&control, "good");
    let identity = Identity::join(&control, "bad");
    let mut peer = Peer::plane(&control, &identity, "bad", NOTHING);
    let renewals: Vec<u8> =
        (1..2_000).flat_map(|number| ToControl::Renew { number }.encode().to_vec()).collect();
    // The link may be closed before all of it is taken.
    let _ = control.runtime.block_on(peer.send_all(&renewals));
    assert!(peer.farewell().contains("far more often"));
    let revision = control.put_templates(["t".into()]);
    good.follow(revision);
}

#[test]
fn a_message_that_may_be_skipped_is_skipped() {
    let control = Control::start();
    let identity = Identity::join(&control, "newer");
    let mut peer = Peer::plane(&control, &identity, "newer", NOTHING);
    peer.say_bytes(&[header(0x1234 | IGNORABLE, 3), vec![1, 2, 3]].concat());
    peer.say(&ToControl::Renew { number: 1 });
    while peer.hear() != (ToPlane::Renewed { number: 1 }) {}
}

#[test]
fn the_first_message_must_fit_the_certificate() {
    let control = Control::start();
    let identity = Identity::join(&control, "a");
    let join = join([0; 32], "b", Vec::new());
    for (what, certificate, first) in [
        ("a hello without certificate", None, hello("a", NOTHING)),
        ("a join with one", Some(&identity), join),
        ("an acknowledgement at first", Some(&identity), ToControl::Ack { revision: 0 }),
    ] {
        let mut peer = Peer::connect(&control, certificate);
        peer.say(&first);
        let said = peer.farewell();
        assert!(said.contains("does not fit the certificate"), "{what}: {said}");
    }
    // Another's name, or one that nobody has.
    let _other = Identity::join(&control, "b");
    for name in ["b", "nobody", "%"] {
        let mut peer = Peer::connect(&control, Some(&identity));
        peer.say(&hello(name, NOTHING));
        assert!(peer.farewell().contains("removed, or has joined anew"));
    }
    let planes = control.core.planes.view(&control.core.store.tables());
    assert!(planes.iter().all(|plane| !plane.connected));
}

#[test]
fn a_newer_link_of_the_same_plane_closes_the_older() {
    let control = Control::start();
    let identity = Identity::join(&control, "a");
    let mut first = Peer::plane(&control, &identity, "a", NOTHING);
    let mut second = Peer::plane(&control, &identity, "a", NOTHING);
    assert!(first.farewell().contains("two processes with one identity?"));
    second.say(&ToControl::Renew { number: 1 });
    while second.hear() != (ToPlane::Renewed { number: 1 }) {}
}

#[test]
fn a_name_that_cannot_stand_in_a_command_is_refused() {
    let control = Control::start();
    for name in ["", "a b", "a/b", "ä", &"a".repeat(254), "a\n"] {
        let mut peer = Peer::connect(&control, None);
        let secret = crate::peer::secret(&control.token());
        peer.say(&join(secret, name, Vec::new()));
        match peer.hear() {
            ToPlane::JoinRefused { .. } => {}
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

/// A plane that joined, whose control was replaced by one that says what no control says.
fn misled() -> (Plane, FalseControl) {
    let control = Control::start();
    let plane = Plane::joined(&control, "a");
    (plane, FalseControl::instead_of(control))
}

fn template(name: &str) -> Op {
    Op::UpsertTemplate(TemplateRow { name: name.into(), document: "{}".into() })
}

#[test]
fn what_control_may_not_say_closes_the_link_and_changes_nothing() {
    let (plane, control) = misled();
    let rows = |ops| ToPlane::SnapshotRows { ops }.encode().to_vec();
    let begin = ToPlane::SnapshotBegin { revision: 1 }.encode().to_vec();
    let end = |rows| ToPlane::SnapshotEnd { revision: 1, rows }.encode().to_vec();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("a tag that nobody knows", header(0x1234, 0), "unknown tag 0x1234"),
        ("a length beyond the bound", header(68, FRAME_BYTES_MAX + 1), "frame is 8388609 long"),
        ("rows outside a snapshot", rows(vec![template("t")]), "out of turn"),
        ("an end without beginning", end(0), "out of turn"),
        (
            "fewer rows than announced",
            [begin.clone(), rows(vec![template("t")]), end(2)].concat(),
            "out of turn",
        ),
        (
            "a change that follows nothing",
            ToPlane::Delta { revision: 2, ops: vec![template("t")] }.encode().to_vec(),
            "out of turn",
        ),
        (
            "a change inside a snapshot",
            [begin.clone(), ToPlane::DeltaRows { ops: vec![template("t")] }.encode().to_vec()].concat(),
            "out of turn",
        ),
        ("two beginnings", [begin.clone(), begin.clone()].concat(), "out of turn"),
        ("an answer to no renewal", ToPlane::Renewed { number: 77 }.encode().to_vec(), "never asked for"),
    ];
    for (what, bytes, reason) in cases {
        let (mut caller, _hello) = control.caller();
        caller.welcome([5; 16], 50);
        caller.say_bytes(&bytes);
        let error = plane.until_lost(|error| matches!(error, LinkError::Protocol(_) | LinkError::Wire(_)));
        let said = control::causes::chain(&error);
        assert!(said.contains(reason), "{what}: {said}");
        // The one who can mend it is told.
        assert!(caller.farewell().contains(reason), "{what}");
    }
    // Not one of these rows came through; what control says well afterwards does.
    let (mut caller, _hello) = control.caller();
    caller.welcome([5; 16], 50);
    caller.say(&ToPlane::SnapshotBegin { revision: 1 });
    caller.say(&ToPlane::SnapshotRows { ops: vec![template("only")] });
    caller.say(&ToPlane::SnapshotEnd { revision: 1, rows: 1 });
    let mut plane = plane;
    assert!(matches!(plane.news(), News::Snapshot(_)));
    assert_eq!(plane.rows.keys().collect::<Vec<_>>(), ["template only"]);
}

#[test]
fn an_envelope_that_is_not_the_one_of_its_row_is_not_taken() {
    let (plane, control) = misled();
    let row = |envelope| {
        let row = control_wire::row::HandlerRow { name: "h".into(), version: 1, hash: [1; 32], envelope };
        vec![Op::UpsertHandler(row)]
    };
    let here = row(control_wire::row::Envelope::Here([1, 2, 3].as_slice().into()));
    let apart = row(control_wire::row::Envelope::Apart { bytes: 3 });
    let streams: [Option<(ToPlane, &[u8])>; 4] = [
        None,
        Some((ToPlane::Artefact { hash: [1; 32], bytes: 3 }, &[1, 2, 3])),
        Some((ToPlane::Artefact { hash: [2; 32], bytes: 3 }, &[1, 2, 3])),
        Some((ToPlane::Artefact { hash: [1; 32], bytes: 4 }, &[1, 2, 3, 4])),
    ];
    for stream in streams {
        let (mut caller, _hello) = control.caller();
        caller.welcome([5; 16], 50);
        caller.say(&ToPlane::SnapshotBegin { revision: 1 });
        let ops = if stream.is_some() { apart.clone_ops() } else { here.clone_ops() };
        caller.say(&ToPlane::SnapshotRows { ops });
        if let Some((head, bytes)) = &stream {
            caller.stream(&[&head.encode(), *bytes].concat());
        }
        let error = plane.until_lost(|error| matches!(error, LinkError::Protocol(_)));
        assert!(error.to_string().contains("envelope"), "{stream:?}: {error}");
    }
}

/// Operations hold secrets and are not `Clone`; those of these tests hold none.
trait CloneOps {
    fn clone_ops(&self) -> Vec<Op>;
}

impl CloneOps for Vec<Op> {
    fn clone_ops(&self) -> Vec<Op> {
        let handler = |op: &Op| match op {
            Op::UpsertHandler(row) => Op::UpsertHandler(row.clone()),
            other => panic!("{other:?}"),
        };
        self.iter().map(handler).collect()
    }
}

#[test]
fn a_plane_skips_what_control_marked_so_and_goes_on() {
    let (mut plane, control) = misled();
    let (mut caller, _hello) = control.caller();
    caller.welcome([5; 16], 50);
    caller.say_bytes(&[header(0x1234 | IGNORABLE, 2), vec![1, 2]].concat());
    caller.say(&ToPlane::SnapshotBegin { revision: 1 });
    caller.say(&ToPlane::SnapshotEnd { revision: 1, rows: 0 });
    while !matches!(plane.event(), LinkEvent::Snapshot { .. }) {}
    plane.rows.clear();
}
