//! Golden bytes, round trips and truncation of every message.

use std::sync::Arc;

use super::*;
use crate::limits::{OPS_MAX, QUESTION_PATH_BYTES_MAX, SECRET_BYTES_MAX};
use crate::policy::Labels;
use crate::question::{KeptAnswer, Scheme, Scope, Verdict};
use crate::row::{Envelope, HandlerRow, SandboxRow, SecretRow, SecretValue, TemplateRow};

fn ops() -> Vec<Op> {
    vec![
        Op::UpsertTemplate(TemplateRow { name: "t".into(), document: "{}".into() }),
        Op::RemoveTemplate("t".into()),
        Op::UpsertSandbox(SandboxRow {
            id: "s".into(),
            template: "t".into(),
            overrides: "{}".into(),
            labels: Labels::from([("k".into(), "v".into())]),
            salt: [7; 32],
            ca_certificate: Some(vec![1, 2]),
            answers: vec![KeptAnswer {
                verdict: Verdict::Allow,
                scheme: Scheme::Https,
                host: "a.test".into(),
                port: 443,
                until_unix_ms: Some(5),
            }],
        }),
        Op::RemoveSandbox("s".into()),
        Op::UpsertHandler(HandlerRow {
            name: "h".into(),
            version: 3,
            hash: [9; 32],
            envelope: Envelope::Here(Arc::from([5u8, 6])),
        }),
        Op::UpsertHandler(HandlerRow {
            name: "big".into(),
            version: 4,
            hash: [9; 32],
            envelope: Envelope::Apart { bytes: 1 << 20 },
        }),
        Op::RemoveHandler("h".into()),
        Op::UpsertSecret(SecretRow {
            name: "k".into(),
            version: 1,
            value: SecretValue::new(b"value"),
            hosts: vec!["a.test".into()],
            allow_plaintext: false,
        }),
        Op::RemoveSecret("k".into()),
    ]
}

fn recipient() -> Recipient {
    Recipient { plane: "p".into(), public_key: [6; 32] }
}

fn sealed() -> SealedMaster {
    SealedMaster { encapsulated: [7; 32], ciphertext: [8; 48] }
}

fn from_planes() -> Vec<ToControl> {
    vec![
        ToControl::Join {
            secret: [1; 32],
            recipient: recipient(),
            csr: vec![3, 4],
            master: MasterId([5; 32]),
        },
        ToControl::Hello {
            plane: "p".into(),
            store: [2; 16],
            revision: 5,
            triple: "x".into(),
            cpu_features: vec!["sse2".into()],
            wasmer: "7.4.2".into(),
        },
        ToControl::Ack { revision: 6 },
        ToControl::CaCertificate { sandbox: "s".into(), der: vec![9] },
        ToControl::HandlerRejected { name: "h".into(), version: 2, reason: "r".into() },
        ToControl::Renew { number: 8 },
        ToControl::MasterSealed { request: 9, sealed: sealed() },
        ToControl::Question(question()),
        ToControl::Withdrawn(7),
    ]
}

fn from_control() -> Vec<ToPlane> {
    vec![
        ToPlane::Joined {
            certificate: vec![1],
            authority: vec![2],
            handler_key: [3; 32],
            master: Grant::Pool { id: MasterId([5; 32]), sealed: sealed() },
        },
        ToPlane::JoinRefused { reason: "used".into() },
        ToPlane::Welcome { store: [2; 16], revision: 5, renew_ms: 1_000 },
        ToPlane::SnapshotBegin { revision: 5 },
        ToPlane::SnapshotRows { ops: ops() },
        ToPlane::SnapshotEnd { revision: 5, rows: 9 },
        ToPlane::Delta { revision: 6, ops: ops() },
        ToPlane::Renewed { number: 8 },
        ToPlane::Artefact { hash: [4; 32], bytes: 77 },
        ToPlane::DeltaRows { ops: ops() },
        ToPlane::SealMaster(SealRequest { number: 9, master: MasterId([5; 32]), recipient: recipient() }),
        ToPlane::Joined {
            certificate: vec![1],
            authority: vec![2],
            handler_key: [3; 32],
            master: Grant::Own,
        },
        ToPlane::Answer(Answer {
            id: 7,
            verdict: Verdict::Deny,
            scope: Scope::Time,
            until_unix_ms: 9,
            by: "somebody".into(),
        }),
    ]
}

fn question() -> Question {
    Question {
        id: 7,
        sandbox: "s".into(),
        method: "GET".into(),
        scheme: Scheme::Https,
        host: "a.test".into(),
        port: 443,
        path: "/p".into(),
        timeout_ms: 60_000,
    }
}

fn parts(frame: &[u8]) -> (u16, &[u8]) {
    let (header, body) = frame.split_at(FRAME_HEADER_BYTES);
    let (tag, length) = frame_header(header.try_into().unwrap()).unwrap();
    assert_eq!(length, body.len());
    (tag, body)
}

#[test]
fn every_message_comes_back_as_it_went_and_newer_fields_behind_it_are_skipped() {
    for message in from_planes() {
        let frame = message.encode();
        let (tag, body) = parts(&frame);
        assert_eq!(ToControl::decode(tag, body).unwrap().as_ref(), Some(&message));
        assert_eq!(ToControl::decode(tag, &[body, b"newer"].concat()).unwrap(), Some(message));
    }
    for message in from_control() {
        let frame = message.encode();
        let (tag, body) = parts(&frame);
        assert_eq!(ToPlane::decode(tag, body).unwrap().as_ref(), Some(&message));
        assert_eq!(ToPlane::decode(tag, &[body, b"newer"].concat()).unwrap(), Some(message));
    }
}

#[test]
fn every_message_cut_anywhere_is_refused() {
    for message in from_planes() {
        let frame = message.encode();
        let (tag, body) = parts(&frame);
        for end in 0..body.len() {
            assert!(ToControl::decode(tag, &body[..end]).is_err(), "{message:?} cut at {end}");
        }
    }
    for message in from_control() {
        let frame = message.encode();
        let (tag, body) = parts(&frame);
        for end in 0..body.len() {
            assert!(ToPlane::decode(tag, &body[..end]).is_err(), "{message:?} cut at {end}");
        }
    }
}

#[test]
fn golden_bytes_of_version_one_hold() {
    assert_eq!(ToControl::Ack { revision: 6 }.encode()[..], *b"\x03\0\x08\0\0\0\x06\0\0\0\0\0\0\0");
    assert_eq!(
        ToControl::CaCertificate { sandbox: "s".into(), der: vec![9] }.encode()[..],
        *b"\x04\0\x0a\0\0\0\x01\0\0\0s\x01\0\0\0\x09"
    );
    let rejected = ToControl::HandlerRejected { name: "h".into(), version: 2, reason: "r".into() };
    assert_eq!(rejected.encode()[..], *b"\x05\x80\x12\0\0\0\x01\0\0\0h\x02\0\0\0\0\0\0\0\x01\0\0\0r");
    let delta = ToPlane::Delta { revision: 6, ops: vec![Op::RemoveSecret("k".into())] };
    assert_eq!(
        delta.encode()[..],
        *b"\x46\0\x17\0\0\0\x06\0\0\0\0\0\0\0\x01\0\0\0\x08\0\x05\0\0\0\x01\0\0\0k"
    );
    // The rest is held by its digest-like sum: a change of layout moves at least one byte.
    let sum =
        |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let planes: Vec<u64> = from_planes().iter().map(|message| sum(&message.encode())).collect();
    let control: Vec<u64> = from_control().iter().map(|message| sum(&message.encode())).collect();
    assert_eq!(planes, PLANES);
    assert_eq!(control, CONTROL);
}

const PLANES: [u64; 9] = [
    4657712367010093052,
    5399669823601649546,
    18115674651453396239,
    8381936803686789064,
    4094282423082908085,
    17581337303975545770,
    1255370146862032344,
    16409574875541821730,
    7187371756636912680,
];
const CONTROL: [u64; 13] = [
    13009542537019262075,
    923786920131623824,
    6480828641453694996,
    12865391395111620592,
    15929720646384325083,
    667604918121307133,
    7286688419281296459,
    18301856298881875209,
    4901934188861380775,
    3227310086766268278,
    6912438111554689169,
    3993617840791843338,
    16694456550355330231,
];

#[test]
fn an_unknown_tag_closes_the_link_unless_it_is_marked_ignorable() {
    assert_eq!(ToPlane::decode(0x1234, b""), Err(WireError::UnknownTag { tag: 0x1234 }));
    assert_eq!(ToPlane::decode(0x1234 | IGNORABLE, b""), Ok(None));
    assert_eq!(ToControl::decode(0x1234, b""), Err(WireError::UnknownTag { tag: 0x1234 }));
}

#[test]
fn a_row_of_an_older_control_keeps_no_answers() {
    let row = |answers: usize| {
        let Op::UpsertSandbox(mut row) = ops().remove(2) else { panic!("it is the sandbox") };
        row.answers.truncate(answers);
        row
    };
    let frame = ToPlane::SnapshotRows { ops: vec![Op::UpsertSandbox(row(0))] }.encode();
    // The count of answers is what an older control does not write: the row's length is at the front of it.
    let (tag, body) = parts(&frame);
    let mut older = body[..body.len() - 4].to_vec();
    let length = u32::from_le_bytes(older[6..10].try_into().unwrap()) - 4;
    older[6..10].copy_from_slice(&length.to_le_bytes());
    let read = ToPlane::decode(tag, &older).unwrap();
    assert_eq!(read, Some(ToPlane::SnapshotRows { ops: vec![Op::UpsertSandbox(row(0))] }));
}

#[test]
fn what_a_sandbox_made_long_is_cut_before_it_travels() {
    let long = Question { path: "/ä".repeat(2_000), method: "M".repeat(300), ..question() };
    let frame = ToControl::Question(long).encode();
    let (tag, body) = parts(&frame);
    let Some(ToControl::Question(read)) = ToControl::decode(tag, body).unwrap() else { panic!("a question") };
    assert!(read.path.len() <= QUESTION_PATH_BYTES_MAX && read.method.len() == 255);
}

#[test]
fn an_unknown_operation_is_never_skipped() {
    let mut out = Writer::new();
    out.length(1);
    out.frame(99 | IGNORABLE, |_| {});
    let body = out.finish();
    assert_eq!(ToPlane::decode(SNAPSHOT_ROWS, &body), Err(WireError::UnknownTag { tag: 99 | IGNORABLE }));
}

#[test]
fn lengths_are_refused_before_anything_is_allocated_for_them() {
    assert!(matches!(frame_header([1, 0, 255, 255, 255, 255]), Err(WireError::TooLong { .. })));
    let count = u32::try_from(OPS_MAX + 1).unwrap().to_le_bytes();
    assert!(matches!(ToPlane::decode(SNAPSHOT_ROWS, &count), Err(WireError::TooLong { .. })));
    let op = Op::UpsertSecret(SecretRow {
        name: "k".into(),
        version: 1,
        value: SecretValue::new(&vec![0; SECRET_BYTES_MAX + 1]),
        hosts: Vec::new(),
        allow_plaintext: false,
    });
    let frame = ToPlane::SnapshotRows { ops: vec![op] }.encode();
    let (tag, body) = parts(&frame);
    assert!(matches!(ToPlane::decode(tag, body), Err(WireError::TooLong { field: "secret value", .. })));
}

#[test]
fn a_printed_message_does_not_show_a_secret() {
    assert!(!format!("{:?}", ops()).contains("value\""));
    assert!(!format!("{:?}", ops()).contains("118, 97"));
}
