//! What a shard allocates for a whole request over connections that are open: every allocation has a name here, and
//! one more fails.

use std::collections::BTreeMap;

use tests::{
    allocations::{self, Watched},
    gateway::{Gateway, ask},
    origin::Origin,
};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// How often the lines of each file allocate, and what for.
const NAMED: [(&str, usize, &str); 17] = [
    ("flow/fence.rs", 2, "which secrets it took, in case that it must wait"),
    ("flow/open.rs", 1, "the exchange among those of its sandbox"),
    (
        "flow/request.rs",
        6,
        "host and path for the record, the path to be judged again; the head that is sent; what was judged; all of it together",
    ),
    ("flow/requests.rs", 1, "the work on the request, so that an idle connection is small"),
    ("flow/send.rs", 1, "what lets it go on"),
    ("http/between.rs", 1, "the places between the two sides of the exchange"),
    ("http/edit.rs", 1, "the name of the credential's field"),
    ("http/fields.rs", 2, "the fields of the head that is sent, and of the one that is answered"),
    ("http/h1.rs", 1, "one buffer with a head and a body, held by both"),
    ("http/host.rs", 1, "the host that was asked for"),
    ("http/outgoing.rs", 1, "the head that is sent grows"),
    ("http/parse.rs", 2, "where the fields of both heads lie"),
    ("http/serve.rs", 1, "the head that is answered"),
    ("inject.rs", 2, "the credential's value, and the names of secrets that left"),
    ("policy/decide.rs", 1, "the credentials to be put on"),
    ("policy/hosts.rs", 2, "places of the rules that match"),
    ("tls/session.rs", 6, "what rustls makes for four records, and the two plain texts"),
];

/// The file of ours that stands nearest to an allocation.
fn file(trace: &str) -> &str {
    let lines = trace.lines().map(str::trim).filter_map(|line| line.strip_prefix("at "));
    let ours = lines.filter_map(|line| line.split_once("/dataplane/src/")).next();
    ours.and_then(|(_, place)| place.split_once(':')).map_or(trace, |(file, _)| file)
}

#[test]
fn an_intercepted_request_with_a_credential_allocates_as_often_as_is_named_here() {
    // With one write, so that it comes as one record.
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
    let origin = Origin::tls(&["origin.test"], |_, out| out.write_all(answer));
    let gateway = Gateway::start(1, &origin);
    let port = origin.address.port();
    let mut stream = gateway.tls("origin.test", port);
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: origin.test:{port}\r\nAccept: */*\r\n\r\n");
    let mut count = 0;
    let mut once = || {
        assert!(ask(&mut stream, &request, b"").0.starts_with("HTTP/1.1 200 "));
        count += 1;
        gateway.recorded(count);
    };
    // What grows in steps or is made once is there before.
    (0..20).for_each(|_| once());
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for trace in allocations::on_shards(once) {
        *made.entry(file(&trace).to_owned()).or_default() += 1;
    }
    // The executor's own, when it has nothing to do.
    made.retain(|file, _| file != "shard.rs" && !file.starts_with("ring/"));
    let named: BTreeMap<String, usize> =
        NAMED.into_iter().map(|(file, count, _)| (file.to_owned(), count)).collect();
    assert_eq!(made, named);
}
