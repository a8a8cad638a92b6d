//! Answers to the queries of a sandbox: every name gets a stand-in address, and nothing leaves the node.
//!
//! Whether a name may be reached is decided when it is dialled, where a refusal can say why. So a query tells nobody
//! anything, and a name that is too long for one look-up cannot carry data out.

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::synthetic::SyntheticMap;
use crate::limits::{DNS_QUERIES_PER_S, SYNTHETIC_TTL_S};

/// Bytes of a message's header (RFC 1035 §4.1.1); what is shorter has no identifier to answer to.
const HEADER_BYTES: usize = 12;
/// The bit of the third byte that tells an answer from a query.
const RESPONSE: u8 = 0x80;
/// Bytes of a name in text without its final dot (RFC 1035 §2.3.4 bounds the encoded form to 255).
const NAME_BYTES_MAX: usize = 253;
/// Payload that we say we take over UDP: what passes every path unfragmented (RFC 9715 §3).
const PAYLOAD_BYTES: u16 = 1_232;

/// Answers for one sandbox.
#[derive(Debug)]
pub struct Responder {
    names: Rc<RefCell<SyntheticMap>>,
    allowance: Allowance,
}

/// What a name is answered with.
enum Answered {
    Synthetic,
    Loopback,
    NoSuchName,
}

impl Responder {
    /// A responder that gives out stand-ins from `names`.
    #[must_use]
    pub fn new(names: Rc<RefCell<SyntheticMap>>, now: Instant) -> Self {
        Self { names, allowance: Allowance { left: DNS_QUERIES_PER_S, refilled: now } }
    }

    /// The answer to one message; `None` where none may be given: to what is no query, or beyond the allowance.
    ///
    /// A response is never answered, so two responders cannot keep each other busy. An answer fits 512 bytes: one
    /// question, at most one record.
    pub fn answer(&mut self, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        const FORMAT_ERROR: u8 = 1;
        if message.len() < HEADER_BYTES || message[2] & RESPONSE != 0 || !self.allowance.take(now) {
            return None;
        }
        match Message::from_vec(message) {
            Ok(query) => self.answer_query(&query).to_vec().ok(),
            Err(_) => Some(bare_answer(message, FORMAT_ERROR)),
        }
    }

    fn answer_query(&mut self, query: &Message) -> Message {
        let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.queries = query.queries.iter().take(1).cloned().collect();
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD_BYTES);
            if asked.version() > 0 {
                // RFC 6891 §6.1.3; the high bits of the code travel in the option record.
                edns.set_rcode_high(ResponseCode::BADVERS.high());
                answer.metadata.response_code = ResponseCode::BADVERS;
            }
            answer.set_edns(edns);
            if asked.version() > 0 {
                return answer;
            }
        }
        if query.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer;
        }
        // More than one question has no meaning (RFC 9619 §4).
        let [question] = query.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer;
        };
        self.fill(&mut answer, question);
        answer
    }

    fn fill(&mut self, answer: &mut Message, question: &Query) {
        if question.query_class != DNSClass::IN {
            answer.metadata.response_code = ResponseCode::NotImp;
            return;
        }
        let Some(name) = host_name(&question.name) else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(start_of_authority());
            return;
        };
        let (v4, v6) = match judge(&name) {
            Answered::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(start_of_authority());
                return;
            }
            Answered::Loopback => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            // Only a query for an address takes a place in the map.
            Answered::Synthetic if matches!(question.query_type, RecordType::A | RecordType::AAAA) => {
                let stand_in = self.names.borrow_mut().stand_in(&name);
                (stand_in.v4(), stand_in.v6())
            }
            Answered::Synthetic => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        };
        let data = match question.query_type {
            RecordType::A => RData::A(A(v4)),
            RecordType::AAAA => RData::AAAA(AAAA(v6)),
            // The name exists and has no such record (RFC 2308 §2.2). So no HTTPS record (RFC 9460) brings keys for
            // an encrypted ClientHello or a hint at HTTP/3, and no TXT answer carries data in.
            _ => {
                answer.add_authority(start_of_authority());
                return;
            }
        };
        answer.add_answer(Record::from_rdata(question.name.clone(), SYNTHETIC_TTL_S, data));
    }
}

/// What a sandbox is told that the gateway does not serve: refused (RFC 1035 §4.1.1). `None` where no answer may be
/// given.
pub fn refuse(message: &[u8]) -> Option<Vec<u8>> {
    const REFUSED: u8 = 5;
    (message.len() >= HEADER_BYTES && message[2] & RESPONSE == 0).then(|| bare_answer(message, REFUSED))
}

/// Judges names that are special whoever asks (RFC 6761, RFC 7686).
fn judge(name: &str) -> Answered {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last {
        "localhost" => Answered::Loopback,
        "invalid" | "onion" => Answered::NoSuchName,
        // A name that ends in a number is read as an address by clients (URL Standard §3.5), never as a name.
        _ if last.bytes().all(|byte| byte.is_ascii_digit()) => Answered::NoSuchName,
        _ => Answered::Synthetic,
    }
}

/// The text of a host name: lower case, without the final dot. `None` for what cannot be a host: the root, an empty
/// or long label, a byte outside letters, digits, hyphen and underscore.
fn host_name(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            if !byte.is_ascii_alphanumeric() && byte != b'-' && byte != b'_' {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    (!text.is_empty() && text.len() <= NAME_BYTES_MAX).then_some(text)
}

/// What lets a cache keep a negative answer, and for how long (RFC 2308 §3).
fn start_of_authority() -> Record {
    let ttl = i32::try_from(SYNTHETIC_TTL_S).unwrap_or(60);
    let soa = SOA::new(Name::root(), Name::root(), 1, ttl, ttl, ttl, SYNTHETIC_TTL_S);
    Record::from_rdata(Name::root(), SYNTHETIC_TTL_S, RData::SOA(soa))
}

/// A header that answers to the identifier with a code (RFC 1035 §4.1.1) and carries nothing else.
fn bare_answer(message: &[u8], code: u8) -> Vec<u8> {
    const OPCODE_AND_RECURSION: u8 = 0x79;
    let mut answer = vec![0; HEADER_BYTES];
    answer[..2].copy_from_slice(&message[..2]);
    answer[2] = RESPONSE | (message[2] & OPCODE_AND_RECURSION);
    answer[3] = 0x80 | code;
    answer
}

/// Queries that may still be answered within this second.
#[derive(Debug)]
struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.refilled) >= Duration::from_secs(1) {
            *self = Self { left: DNS_QUERIES_PER_S, refilled: now };
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::synthetic::{SELF_NAME, SELF_V4, is_synthetic};
    use std::net::IpAddr;

    fn responder() -> (Responder, Instant) {
        let now = Instant::now();
        (Responder::new(Rc::new(RefCell::new(SyntheticMap::new())), now), now)
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(responder: &mut Responder, now: Instant, query: &Message) -> Message {
        let bytes = responder.answer(&query.to_vec().unwrap(), now).expect("an answer");
        assert!(bytes.len() <= 512);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, 0x1234);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        answer
    }

    fn address(answer: &Message) -> IpAddr {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        match answer.answers.as_slice() {
            [record] => record.data.ip_addr().expect("an address"),
            other => panic!("{} records", other.len()),
        }
    }

    #[test]
    fn any_host_name_gets_one_stand_in_whatever_its_case() {
        let (mut responder, now) = responder();
        let v4 = address(&ask(&mut responder, now, &query("API.example.com.", RecordType::A)));
        let again = address(&ask(&mut responder, now, &query("api.example.COM.", RecordType::A)));
        let v6 = address(&ask(&mut responder, now, &query("api.example.com.", RecordType::AAAA)));
        assert!(v4.is_ipv4() && v6.is_ipv6() && is_synthetic(v4) && is_synthetic(v6));
        assert_eq!(v4, again);
        let mut names = responder.names.borrow_mut();
        assert_eq!(names.name_of(v4).as_deref(), Some("api.example.com"));
        assert_eq!(names.name_of(v6).as_deref(), Some("api.example.com"));
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn the_question_comes_back_as_it_was_spelt() {
        let (mut responder, now) = responder();
        let answer = ask(&mut responder, now, &query("aPi.ExAmPlE.com.", RecordType::A));
        assert!(answer.queries[0].name.eq_case(&Name::from_ascii("aPi.ExAmPlE.com.").unwrap()));
        assert_eq!(answer.answers[0].ttl, SYNTHETIC_TTL_S);
    }

    #[test]
    fn the_plane_and_the_loopback_have_fixed_addresses() {
        let (mut responder, now) = responder();
        assert_eq!(address(&ask(&mut responder, now, &query("outgate.internal.", RecordType::A))), SELF_V4);
        for name in ["localhost.", "db.localhost."] {
            assert_eq!(address(&ask(&mut responder, now, &query(name, RecordType::A))), Ipv4Addr::LOCALHOST);
            assert_eq!(
                address(&ask(&mut responder, now, &query(name, RecordType::AAAA))),
                Ipv6Addr::LOCALHOST
            );
        }
        assert_eq!(SELF_NAME, "outgate.internal");
        assert!(responder.names.borrow().is_empty());
    }

    #[test]
    fn other_types_have_no_data_and_take_no_place() {
        let (mut responder, now) = responder();
        for kind in [
            RecordType::HTTPS,
            RecordType::SVCB,
            RecordType::TXT,
            RecordType::MX,
            RecordType::ANY,
            RecordType::NULL,
            RecordType::PTR,
            RecordType::Unknown(65_280),
        ] {
            let answer = ask(&mut responder, now, &query("example.com.", kind));
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(answer.answers.is_empty());
            assert_eq!(answer.authorities.len(), 1, "negative answers can be kept");
        }
        assert!(responder.names.borrow().is_empty());
    }

    #[test]
    fn names_that_are_no_hosts_do_not_exist() {
        let (mut responder, now) = responder();
        for name in ["10.0.0.1.", "x.onion.", "a.invalid.", "*.example.com.", "."] {
            let answer = ask(&mut responder, now, &query(name, RecordType::A));
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
        let mut spaced = query("example.com.", RecordType::A);
        spaced.queries[0].name = Name::from_labels([&b"a b"[..], b"com"]).unwrap();
        assert_eq!(ask(&mut responder, now, &spaced).metadata.response_code, ResponseCode::NXDomain);
        assert!(responder.names.borrow().is_empty());
    }

    #[test]
    fn malformed_messages_are_format_errors_with_their_identifier() {
        let (mut responder, now) = responder();
        let whole = query("example.com.", RecordType::A).to_vec().unwrap();
        for cut in HEADER_BYTES..whole.len() {
            let answer = responder.answer(&whole[..cut], now).expect("an answer");
            assert_eq!(answer[..2], [0x12, 0x34]);
            assert_eq!(answer[3] & 0x0f, 1, "format error");
        }
        let mut two = query("example.com.", RecordType::A);
        two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
        assert_eq!(ask(&mut responder, now, &two).metadata.response_code, ResponseCode::FormErr);
        let none = Message::new(0x1234, MessageType::Query, OpCode::Query);
        let answer = responder.answer(&none.to_vec().unwrap(), now).unwrap();
        assert_eq!(answer[3] & 0x0f, 1);
    }

    #[test]
    fn what_is_no_query_gets_silence() {
        let (mut responder, now) = responder();
        let mut response = query("example.com.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(responder.answer(&response.to_vec().unwrap(), now), None);
        assert_eq!(responder.answer(b"short", now), None);
    }

    #[test]
    fn operations_classes_and_option_versions_of_others_are_refused() {
        let (mut responder, now) = responder();
        let mut update = query("example.com.", RecordType::A);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(ask(&mut responder, now, &update).metadata.response_code, ResponseCode::NotImp);
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert_eq!(ask(&mut responder, now, &chaos).metadata.response_code, ResponseCode::NotImp);
        let mut future = query("example.com.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        future.set_edns(edns);
        // 16 has two names (RFC 6895 §2.3), so the number is compared.
        let code = ask(&mut responder, now, &future).metadata.response_code;
        assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
    }

    #[test]
    fn a_flood_is_answered_up_to_its_allowance_and_again_a_second_later() {
        let (mut responder, now) = responder();
        let bytes = query("example.com.", RecordType::A).to_vec().unwrap();
        let answered = (0..DNS_QUERIES_PER_S * 2).filter(|_| responder.answer(&bytes, now).is_some()).count();
        assert_eq!(answered, DNS_QUERIES_PER_S as usize);
        assert!(responder.answer(&bytes, now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn random_bytes_never_panic() {
        let (mut responder, mut now) = responder();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            now += Duration::from_millis(1);
            let bytes: Vec<u8> = (0..seed as usize % 80)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            seed = seed.wrapping_add(1);
            let _ = responder.answer(&bytes, now);
        }
    }
}
