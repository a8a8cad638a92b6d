//! What passes a hop, what edits may do, and that nothing accepted is read differently by the next reader.

use super::*;
use crate::http::{HeadReader, Host, Parsed, Scheme, parse_request, parse_response};

fn authority() -> Authority {
    Authority { scheme: Scheme::Https, host: Host::parse("a.example").expect("host"), port: 443 }
}

fn sent_on(text: &str, edit: impl FnOnce(&mut OutgoingRequest<'_>)) -> String {
    let Ok(Parsed::Complete { head, .. }) = parse_request(text.as_bytes()) else { panic!("{text:?}") };
    let mut outgoing = OutgoingRequest::new(&head, &authority());
    edit(&mut outgoing);
    let mut out = Vec::new();
    outgoing.write_to(&mut out).expect("short");
    String::from_utf8(out).expect("text")
}

fn answered(text: &str, method: &str, to: Version) -> String {
    let Ok(Parsed::Complete { head, .. }) = parse_response(text.as_bytes(), method) else {
        panic!("{text:?}")
    };
    let mut out = Vec::new();
    OutgoingResponse::new(&head, to, true).write_to(&mut out).expect("short");
    String::from_utf8(out).expect("text")
}

fn name(text: &str) -> FieldName {
    FieldName::new(text.as_bytes()).expect("name")
}

fn value(text: &str) -> FieldValue {
    FieldValue::new(text.as_bytes()).expect("value")
}

#[test]
fn order_case_and_duplicates_are_kept() {
    let text =
        "GET /x?y HTTP/1.1\r\nB: 1\r\nhOST: A.example.\r\na: 2\r\nb: 3\r\nContent-length: 4\r\nZ:\r\n\r\n";
    assert_eq!(
        sent_on(text, |_| {}),
        "GET /x?y HTTP/1.1\r\nB: 1\r\nHost: a.example\r\na: 2\r\nb: 3\r\nContent-length: 4\r\nZ: \r\n\r\n"
    );
}

#[test]
fn fields_of_one_hop_end_here() {
    let text = "GET http://a.example HTTP/1.1\r\nHost: a.example\r\nConnection: x-hop, Host , close\r\nX-Hop: 1\r\n\
                x_hop: 2\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: s\r\nProxy_Connection: k\r\n\
                Upgrade: h2c\r\nHTTP2-Settings: x\r\nA: b\r\n\r\n";
    assert_eq!(sent_on(text, |_| {}), "GET / HTTP/1.1\r\nHost: a.example\r\nA: b\r\n\r\n");
}

#[test]
fn set_replaces_every_variant_and_append_adds() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX_Key: 1\r\nA: b\r\nx-key: 2\r\n\r\n";
    let edited = sent_on(text, |outgoing| {
        outgoing.set(name("X-Key"), value("secret"));
        outgoing.append(name("C"), value("d"));
        outgoing.remove(&name("a"));
        outgoing.set_method("PUT").expect("method");
        outgoing.set_target("/z", Some("q")).expect("target");
    });
    assert_eq!(edited, "PUT /z?q HTTP/1.1\r\nHost: a.example\r\nX-Key: secret\r\nC: d\r\n\r\n");
}

#[test]
fn edits_cannot_split_a_head() {
    for text in ["a\r\nb", "a\nb", "a\rb", "a\0b", "\x7f", " a", "a\t"] {
        assert!(FieldValue::new(text.as_bytes()).is_err(), "{text:?}");
    }
    for text in ["", "a b", "a:", "a\r\n", "\u{e4}"] {
        assert_eq!(FieldName::new(text.as_bytes()), Err(EditError::Name), "{text:?}");
    }
    for text in ["Host", "content_length", "Transfer-Encoding", "Connection", "Proxy-Authorization", "TE"] {
        assert_eq!(FieldName::new(text.as_bytes()), Err(EditError::Reserved), "{text:?}");
    }
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let Ok(Parsed::Complete { head, .. }) = parse_request(head) else { panic!("head") };
    let mut outgoing = OutgoingRequest::new(&head, &authority());
    for method in ["", "GET ", "CONNECT", "trace", "G\r\n"] {
        assert!(outgoing.set_method(method).is_err(), "{method:?}");
    }
    for (path, query) in
        [("x", None), ("/a b", None), ("/a?b", None), ("/%0", None), ("/", Some("a\r\n")), ("/", Some("#"))]
    {
        assert!(outgoing.set_target(path, query).is_err(), "{path:?} {query:?}");
    }
    outgoing.append(name("A"), value(&"a".repeat(HEAD_BYTES_MAX)));
    let mut out = b"before".to_vec();
    assert_eq!((outgoing.write_to(&mut out), out.as_slice()), (Err(EditError::TooLong), &b"before"[..]));
}

#[test]
fn answers_lose_what_leads_round_the_gateway() {
    let text = "HTTP/1.1 200 Fine\r\nAlt-Svc: h3\r\nContent-Length: 3\r\nSet-Cookie: a\r\nset-cookie: b\r\n\
                content-length: 3\r\nConnection: close\r\n\r\n";
    let expected = "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n";
    assert_eq!(answered(text, "GET", Version::Http11), expected);
}

#[test]
fn framing_of_an_answer_is_one_that_the_client_knows() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answered(chunked, "GET", Version::Http10), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    let endless = "HTTP/1.0 200 OK\r\n\r\n";
    assert_eq!(answered(endless, "GET", Version::Http11), chunked);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9, 9\r\n\r\n";
    assert_eq!(answered(head, "HEAD", Version::Http11), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    let empty = "HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(answered(empty, "GET", Version::Http11), "HTTP/1.1 204 No\r\n\r\n");
}

/// xorshift64*: the seed is printed by the failing assertion's message.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const SEEDS: [&[u8]; 5] = [
    b"GET /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\nCookie: a=b\r\n\r\n",
    b"POST http://a.example:8080/ HTTP/1.1\r\nHost: a.example:8080\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
    b"PUT /%41 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nConnection: x, close\r\nX: y\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic x\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nX_Y: z\r\nX-Y: z\r\n\r\n",
];

const BITS: [&[u8]; 22] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: Host\r\n",
    b"HTTP/1.0",
    b"\x80",
    b"%2e%2e/",
    b"%00",
    b"#",
    b"@",
    b"\\",
    b"Upgrade: h2c\r\n",
    b"content_length: 1\r\n",
];

fn mutate(random: &mut Random) -> Vec<u8> {
    let mut bytes = SEEDS[random.below(SEEDS.len())].to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.below(256) as u8,
            1 => drop(bytes.remove(at)),
            2 => drop(bytes.splice(at..at, BITS[random.below(BITS.len())].iter().copied())),
            _ => {
                let other = SEEDS[random.below(SEEDS.len())];
                bytes.splice(at..at, other[random.below(other.len())..].iter().copied().take(30));
            }
        }
    }
    bytes
}

#[test]
fn whatever_is_accepted_is_read_alike_by_the_next_reader() {
    let (seed, mut accepted) = (0x0D15_EA5E_u64, 0);
    let mut random = Random(seed);
    for round in 0..10_000 {
        let bytes = mutate(&mut random);
        let context = || format!("seed {seed:#x} round {round}: {:?}", String::from_utf8_lossy(&bytes));
        // In pieces or at once: the same verdict.
        let cut = random.below(bytes.len());
        let mut reader = HeadReader::new();
        let whole = parse_request(&bytes);
        let cut_verdict = reader.push(&bytes[..cut]).map(|_| ()).is_err() || cut == 0;
        if let Ok(Parsed::Partial) = whole {
            assert!(cut == 0 || !cut_verdict, "{}", context());
        }
        let Ok(Parsed::Complete { head, consumed }) = whole else { continue };
        assert!(consumed <= bytes.len() && (cut == 0 || !cut_verdict), "{}", context());
        if head.method() == "CONNECT" {
            continue;
        }
        accepted += 1;
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        let outgoing = OutgoingRequest::new(&head, &authority());
        outgoing.write_to(&mut once).unwrap_or_else(|error| panic!("{error} {}", context()));
        let Ok(Parsed::Complete { head: again, consumed }) = parse_request(&once) else {
            panic!("{}", context())
        };
        assert_eq!(consumed, once.len(), "{}", context());
        assert_eq!((again.method(), again.path(), again.query()), (head.method(), head.path(), head.query()));
        assert_eq!(again.framing(), head.framing(), "{}", context());
        assert_eq!(again.host(), Some(&b"a.example"[..]), "{}", context());
        OutgoingRequest::new(&again, &authority()).write_to(&mut twice).expect("short");
        assert_eq!(once, twice, "{}", context());
    }
    assert!(accepted > 500, "the mutations let too little through to prove anything: {accepted}");
}

#[test]
fn mutated_answers_never_panic_and_are_read_alike() {
    let seeds: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: a\r\n\r\n",
        b"HTTP/1.1 404\r\nTransfer-Encoding: chunked\r\nAlt-Svc: h3\r\n\r\n",
        b"HTTP/1.0 304 Nope \xfc\r\nContent-Length: 5, 5\r\nConnection: keep-alive\r\n\r\n",
    ];
    let (seed, mut accepted) = (0xFEED_u64, 0);
    let mut random = Random(seed);
    for round in 0..10_000 {
        let mut bytes = seeds[random.below(seeds.len())].to_vec();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            if random.below(2) == 0 {
                bytes[at] = random.below(256) as u8;
            } else {
                bytes.splice(at..at, BITS[random.below(BITS.len())].iter().copied());
            }
        }
        let method = ["GET", "HEAD"][random.below(2)];
        let Ok(Parsed::Complete { head, .. }) = parse_response(&bytes, method) else { continue };
        accepted += 1;
        let mut out = Vec::new();
        let outgoing = OutgoingResponse::new(&head, Version::Http11, true);
        outgoing.write_to(&mut out).expect("short");
        let context = || format!("seed {seed:#x} round {round}: {:?}", String::from_utf8_lossy(&bytes));
        let Ok(Parsed::Complete { head: again, consumed }) = parse_response(&out, method) else {
            panic!("{}", context())
        };
        assert_eq!(
            (consumed, again.status(), again.framing()),
            (out.len(), head.status(), outgoing.framing())
        );
    }
    assert!(accepted > 500, "the mutations let too little through to prove anything: {accepted}");
}
