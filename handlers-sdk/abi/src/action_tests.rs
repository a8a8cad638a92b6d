//! Golden bytes, round trips, truncation and refusals of action lists.

use alloc::vec;
use alloc::vec::Vec;

use super::*;

const REQUEST: Context = Context { event: EventKind::Request, busy: Slots::NONE, pending: false };

fn fault(bytes: &[u8], context: Context) -> ActionFault {
    ActionList::decode(bytes, context).expect_err("a fault").fault
}

fn entry(op: u8, arg: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_entry(&mut out, op, arg, name, &[value]);
    out
}

fn every_action() -> ActionWriter {
    let mut list = ActionWriter::new();
    list.set(b"x-a", b"1");
    list.set_secret(b"authorization", b"Bearer ", "github");
    list.remove(b"cookie");
    list.append(b"x-b", b"2");
    list.path("/v1?q=1");
    list.host("example.com:8443");
    list.log(Level::Warn, "careful");
    list.body(BodyUse::Look);
    list.metric("hits", -2);
    list.deny(Some(451), "no");
    list
}

#[test]
fn version_one_has_golden_bytes() {
    let mut list = ActionWriter::new();
    list.set_secret(b"a", b"B ", "k");
    list.respond(405, b"x");
    let golden = b"\x02\0\x01\0\x04\0\0\0aB \0k\x09\0\x02\0\x01\0\0\0\x95\x01x";
    assert_eq!(list.as_bytes(), golden);
    let numbers =
        [op::SET, op::REMOVE, op::APPEND, op::PATH, op::HOST, op::LOG, op::DENY, op::ERROR, op::BODY];
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8, 10, 11]);
    let rest =
        [op::EMIT, op::METRIC, op::KV_GET, op::KV_PUT, op::KV_DELETE, op::KV_LIST, op::KV_SWAP, op::FETCH];
    assert_eq!(rest, [12, 13, 16, 17, 18, 19, 20, 21]);
    let last =
        [op::OBJECT_GET, op::OBJECT_PUT, op::OBJECT_LIST, op::OBJECT_DELETE, op::ASK, op::TIMER, op::MINT];
    assert_eq!(last, [22, 23, 24, 25, 26, 27, 28]);
}

#[test]
fn statuses_of_answers_have_golden_bytes_and_answer_their_event_alone() {
    let mut list = ActionWriter::new();
    list.status(204);
    assert_eq!(list.as_bytes(), b"\x0e\0\x02\0\0\0\0\0\xcc\0");
    let answer = Context { event: EventKind::Response, ..REQUEST };
    let read = ActionList::decode(list.as_bytes(), answer).expect("valid");
    assert_eq!(read.iter().next(), Some(Action::Status(204)));
    assert_eq!(fault(list.as_bytes(), REQUEST), ActionFault::WrongEvent(op::STATUS));
    let status = |status: u16| fault(&entry(op::STATUS, 0, &status.to_le_bytes(), b""), answer);
    assert_eq!((status(101), status(600)), (ActionFault::Status(101), ActionFault::Status(600)));
    assert_eq!(fault(&entry(op::STATUS, 0, &[204, 0], b"x"), answer), ActionFault::Form);
    assert_eq!(fault(&entry(op::STATUS, 1, &[204, 0], b""), answer), ActionFault::Argument(1));
}

#[test]
fn every_action_survives_a_round_trip() {
    let written = every_action();
    let list = ActionList::decode(written.as_bytes(), REQUEST).expect("valid");
    let read: Vec<Action<'_>> = list.iter().collect();
    assert_eq!(
        read,
        [
            Action::Set { name: b"x-a", value: b"1" },
            Action::SetSecret { name: b"authorization", prefix: b"Bearer ", secret: "github" },
            Action::Remove { name: b"cookie" },
            Action::Append { name: b"x-b", value: b"2" },
            Action::Path("/v1?q=1"),
            Action::Host { host: "example.com", port: Some(8443) },
            Action::Log { level: Level::Warn, text: "careful" },
            Action::Body(BodyUse::Look),
            Action::Metric { name: "hits", value: -2 },
            Action::Deny { status: Some(451), reason: "no" },
        ]
    );
    assert_eq!((list.len(), written.len()), (10, 10));
    assert_eq!(list.outcome(), Some(Action::Deny { status: Some(451), reason: "no" }));
}

#[test]
fn every_operation_survives_a_round_trip() {
    let mut fields = ActionWriter::new();
    fields.set_secret(b"authorization", b"", "k");
    let operations = [
        Operation::KvGet { store: "s", key: "k" },
        Operation::KvPut { store: "s", ttl_ms: 5, key: "k", value: b"v" },
        Operation::KvDelete { store: "s", key: "k" },
        Operation::KvList { store: "s", limit: 9, prefix: "" },
        Operation::KvSwap { store: "s", ttl_ms: 0, key: "k", old: None, new: b"n" },
        Operation::KvSwap { store: "s", ttl_ms: 0, key: "k", old: Some(b"o"), new: b"" },
        Operation::Fetch {
            method: "PUT",
            timeout_ms: 7,
            url: "https://a/",
            fields: fields.as_bytes(),
            body: b"b",
        },
        Operation::ObjectGet { store: "s", key: "k" },
        Operation::ObjectPut { store: "s", key: "k", value: b"v" },
        Operation::ObjectList { store: "s", limit: 1, prefix: "p" },
        Operation::ObjectDelete { store: "s", key: "k" },
        Operation::Ask { timeout_ms: 1, text: "may it?" },
        Operation::Timer { ms: 3 },
        Operation::Mint { key: "k", claims: "{}" },
    ];
    for operation in operations {
        let mut list = ActionWriter::new();
        list.start(7, &operation);
        let context = Context { pending: true, ..REQUEST };
        let read = ActionList::decode(list.as_bytes(), context).expect("valid");
        assert_eq!(read.iter().collect::<Vec<_>>(), [Action::Start { slot: 7, operation }]);
        assert!(!read.busy().is_empty());
        for len in 1..list.as_bytes().len() {
            assert_eq!(fault(&list.as_bytes()[..len], context), ActionFault::Truncated);
        }
        // Shorter values inside a well-formed entry must be refused or read as something shorter, never panic.
        let value_at = ENTRY_HEAD_BYTES + usize::from(list.as_bytes()[2]);
        for len in 0..list.as_bytes().len() - value_at {
            let mut cut = list.as_bytes()[..value_at + len].to_vec();
            cut[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            let _ = ActionList::decode(&cut[..], context);
        }
    }
}

#[test]
fn a_list_cut_anywhere_but_between_entries_is_truncated() {
    let written = every_action();
    let bytes = written.as_bytes();
    let mut ends = vec![0];
    while let Some((_, next)) = Entry::read(bytes, ends[ends.len() - 1]) {
        ends.push(next);
    }
    for len in 0..bytes.len() {
        let read = ActionList::decode(&bytes[..len], REQUEST);
        assert_eq!(read.is_ok(), ends.contains(&len), "cut at {len}");
    }
}

#[test]
fn line_breaks_in_headers_are_refused() {
    assert_eq!(fault(&entry(op::SET, 0, b"x", b"a\r\nb: c"), REQUEST), ActionFault::FieldValue);
    assert_eq!(fault(&entry(op::SET, 0, b"x\r\ny", b"a"), REQUEST), ActionFault::FieldName);
    assert_eq!(fault(&entry(op::SET_SECRET, 0, b"x", b"a\n\0k"), REQUEST), ActionFault::FieldValue);
    assert_eq!(fault(&entry(op::SET_SECRET, 0, b"x", b"a"), REQUEST), ActionFault::Form);
    assert_eq!(fault(&entry(op::SET_SECRET, 0, b"x", b"\0k\r\n"), REQUEST), ActionFault::Name);
}

#[test]
fn framing_headers_cannot_be_touched() {
    for op in [op::SET, op::APPEND, op::REMOVE, op::SET_SECRET] {
        let value: &[u8] = if op == op::REMOVE { b"" } else { b"\0k" };
        for name in [&b"Content-Length"[..], b"transfer_encoding", b"HOST", b"connection"] {
            assert_eq!(fault(&entry(op, 0, name, value), REQUEST), ActionFault::ReservedField);
        }
    }
}

#[test]
fn paths_and_hosts_are_strict() {
    for bad in ["", "x", "/a b", "/a#b", "/a\r\n", "/é"] {
        assert_eq!(fault(&entry(op::PATH, 0, b"", bad.as_bytes()), REQUEST), ActionFault::Path, "{bad:?}");
    }
    for bad in ["", ":80", "a:0", "a:70000", "a:+80", "a b", "a/b", "u@a", "[::1", "[x]:1", "a:"] {
        assert_eq!(fault(&entry(op::HOST, 0, b"", bad.as_bytes()), REQUEST), ActionFault::Host, "{bad:?}");
    }
    for (good, host, port) in [("a.b", "a.b", None), ("[::1]:8", "[::1]", Some(8)), ("[::1]", "[::1]", None)]
    {
        let bytes = entry(op::HOST, 0, b"", good.as_bytes());
        let list = ActionList::decode(&bytes[..], REQUEST).expect("a host");
        assert_eq!(list.iter().next(), Some(Action::Host { host, port }));
    }
}

#[test]
fn nothing_follows_a_final_action() {
    let mut list = ActionWriter::new();
    list.deny(None, "");
    list.respond(200, b"");
    let error = ActionList::decode(list.as_bytes(), REQUEST).expect_err("two finals");
    assert_eq!(error, ActionError { entry: 1, fault: ActionFault::AfterFinal });
}

#[test]
fn statuses_that_speak_for_the_connection_are_refused() {
    for status in [0_u16, 100, 101, 600] {
        let bytes = entry(op::RESPOND, 0, &status.to_le_bytes(), b"");
        assert_eq!(fault(&bytes, REQUEST), ActionFault::Status(status));
    }
    assert_eq!(fault(&entry(op::DENY, 0, &200_u16.to_le_bytes(), b""), REQUEST), ActionFault::Status(200));
    assert_eq!(fault(&entry(op::DENY, 0, b"x", b""), REQUEST), ActionFault::Form);
}

#[test]
fn a_pending_answer_needs_an_operation() {
    let pending = Context { pending: true, ..REQUEST };
    assert_eq!(fault(b"", pending), ActionFault::PendingWithoutOperation);
    let busy = Slots::NONE.take(0).expect("slot 0");
    assert!(ActionList::decode(&b""[..], Context { busy, ..pending }).is_ok());
    let mut list = ActionWriter::new();
    list.start(0, &Operation::Timer { ms: 1 });
    assert_eq!(fault(list.as_bytes(), REQUEST), ActionFault::OperationWithoutPending);
    assert_eq!(fault(list.as_bytes(), Context { busy, ..pending }), ActionFault::Slot(0));
    list.deny(None, "");
    assert_eq!(fault(list.as_bytes(), pending), ActionFault::PendingAndFinal);
    assert_eq!(fault(&entry(op::TIMER, 8, b"", &[0; 4]), pending), ActionFault::Slot(8));
}

#[test]
fn actions_answer_only_their_events() {
    let chunk = Context { event: EventKind::RequestChunk, ..REQUEST };
    assert_eq!(fault(&entry(op::SET, 0, b"x", b"y"), chunk), ActionFault::WrongEvent(op::SET));
    assert_eq!(fault(&entry(op::EMIT, 0, b"", b"y"), REQUEST), ActionFault::WrongEvent(op::EMIT));
    assert!(ActionList::decode(entry(op::EMIT, 0, b"", b"y"), chunk).is_ok());
    let response = Context { event: EventKind::Response, ..REQUEST };
    assert_eq!(
        fault(&entry(op::SET_SECRET, 0, b"x", b"\0k"), response),
        ActionFault::WrongEvent(op::SET_SECRET)
    );
    assert_eq!(fault(&entry(op::PATH, 0, b"", b"/"), response), ActionFault::WrongEvent(op::PATH));
}

#[test]
fn bounds_hold() {
    let mut list = ActionWriter::new();
    (0..=ACTIONS_MAX).for_each(|_| list.remove(b"x"));
    assert_eq!(fault(list.as_bytes(), REQUEST), ActionFault::TooMany);
    assert_eq!(fault(&vec![0; ACTION_LIST_BYTES_MAX + 1], REQUEST), ActionFault::TooLong);
    list.clear();
    (0..=LOG_LINES_MAX).for_each(|_| list.log(Level::Info, "x"));
    assert_eq!(fault(list.as_bytes(), REQUEST), ActionFault::Log);
    let long = vec![b'x'; LOG_BYTES_MAX + 1];
    assert_eq!(fault(&entry(op::LOG, 3, b"", &long), REQUEST), ActionFault::Size);
    assert_eq!(fault(&entry(op::LOG, 0, b"", b"x"), REQUEST), ActionFault::Argument(0));
    assert_eq!(fault(&entry(op::LOG, 3, b"", b"\xff"), REQUEST), ActionFault::NotText);
}

#[test]
fn unknown_operations_are_refused() {
    for op in [0, 15, 29, 255] {
        assert_eq!(fault(&entry(op, 0, b"", b""), REQUEST), ActionFault::UnknownOperation(op));
    }
}

#[test]
fn a_fetch_inside_a_fetch_is_refused() {
    let mut inner = Vec::new();
    Operation::Timer { ms: 1 }.encode(0, &mut inner);
    let mut list = ActionWriter::new();
    list.start(
        0,
        &Operation::Fetch { method: "GET", timeout_ms: 1, url: "https://a/", fields: &inner, body: b"" },
    );
    let context = Context { pending: true, ..REQUEST };
    assert_eq!(fault(list.as_bytes(), context), ActionFault::UnknownOperation(op::TIMER));
}
