//! One question to a name server, and the judgement of what claims to be its answer.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use crate::limits::{ADDRESSES_MAX, ALIASES_MAX};

/// Bytes that a server may send in one datagram: what passes every path unfragmented (RFC 9715 §3).
pub const PAYLOAD_BYTES: u16 = 1_232;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `A` records.
    V4,
    /// `AAAA` records.
    V6,
}

/// A question with an identifier that was drawn for it alone.
#[derive(Debug)]
pub struct Question {
    id: u16,
    query: Query,
}

/// What a server said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The name has these addresses.
    Addresses(Vec<IpAddr>, Duration),
    /// The name has no address of this family.
    NoAddress(Duration),
    /// There is no such name.
    NoSuchName(Duration),
    /// The answer did not fit; it has to be asked for over TCP.
    Truncated,
    /// The server could not or would not say.
    Failed(ResponseCode),
}

/// Why bytes are no answer to the question: they are passed over as if they had not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

impl Question {
    /// A question for the addresses of a host name; `None` where the text is no name that DNS can carry.
    #[must_use]
    pub fn new(host: &str, family: Family, id: u16) -> Option<Self> {
        let mut name = Name::from_ascii(host).ok()?;
        name.set_fqdn(true);
        let kind = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        Some(Self { id, query: Query::query(name, kind) })
    }

    /// The question as it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES);
        message.set_edns(edns);
        message.to_vec().unwrap_or_default()
    }

    /// Reads an answer. It must be a response with our identifier that repeats our question (RFC 5452 §9.1).
    ///
    /// # Errors
    /// `Unfit` for anything else.
    pub fn read(&self, bytes: &[u8]) -> Result<Said, Unfit> {
        let message = Message::from_vec(bytes).map_err(|_| Unfit)?;
        let header = &message.metadata;
        let fits = header.id == self.id
            && header.message_type == MessageType::Response
            && header.op_code == OpCode::Query
            && message.queries.len() == 1
            && message.queries[0] == self.query
            && self.query.query_class == DNSClass::IN;
        if !fits {
            return Err(Unfit);
        }
        if header.truncation {
            return Ok(Said::Truncated);
        }
        Ok(match header.response_code {
            ResponseCode::NoError => self.addresses(&message),
            ResponseCode::NXDomain => Said::NoSuchName(negative_ttl(&message)),
            code => Said::Failed(code),
        })
    }

    /// Follows aliases from the name that was asked and takes the addresses at their end; records of other names, or
    /// of names that the chain does not reach, count for nothing.
    fn addresses(&self, message: &Message) -> Said {
        let mut name = &self.query.name;
        let mut ttl = u32::MAX;
        for _ in 0..=ALIASES_MAX {
            let mut found = Vec::new();
            let mut alias = None;
            let here = message
                .answers
                .iter()
                .filter(|record| record.name == *name && record.dns_class == DNSClass::IN);
            for record in here {
                match (&record.data, self.query.query_type) {
                    (RData::A(_), RecordType::A) | (RData::AAAA(_), RecordType::AAAA) => {
                        found.extend(record.data.ip_addr());
                        ttl = ttl.min(record.ttl);
                    }
                    (RData::CNAME(target), _) if alias.is_none() => {
                        alias = Some(&target.0);
                        ttl = ttl.min(record.ttl);
                    }
                    _ => {}
                }
            }
            match (found.is_empty(), alias) {
                (false, _) => {
                    found.truncate(ADDRESSES_MAX);
                    return Said::Addresses(found, Duration::from_secs(ttl.into()));
                }
                (true, Some(target)) => name = target,
                (true, None) => return Said::NoAddress(negative_ttl(message)),
            }
        }
        Said::Failed(ResponseCode::ServFail)
    }
}

/// How long a negative answer holds: the lesser of the authority's record and what it says (RFC 2308 §5); without
/// one, not at all.
fn negative_ttl(message: &Message) -> Duration {
    let seconds = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    Duration::from_secs(seconds.unwrap_or(0).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn answer_to(question: &Question) -> Message {
        let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
        message.add_query(question.query.clone());
        message
    }

    fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(address.into())))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn question() -> Question {
        Question::new("www.example", Family::V4, 7).unwrap()
    }

    fn read(message: &Message) -> Result<Said, Unfit> {
        question().read(&message.to_vec().unwrap())
    }

    #[test]
    fn aliases_are_followed_and_the_least_time_holds() {
        let mut message = answer_to(&question());
        message.add_answer(a("end.example", 300, [1, 1, 1, 1]));
        message.add_answer(cname("WWW.example", 60, "mid.example"));
        message.add_answer(cname("mid.example", 20, "end.example"));
        message.add_answer(a("stranger.example", 5, [6, 6, 6, 6]));
        assert_eq!(
            read(&message),
            Ok(Said::Addresses(vec!["1.1.1.1".parse().unwrap()], Duration::from_secs(20)))
        );
    }

    #[test]
    fn endless_aliases_end_in_a_failure() {
        let mut message = answer_to(&question());
        message.add_answer(cname("www.example", 60, "b.example"));
        message.add_answer(cname("b.example", 60, "www.example"));
        assert!(matches!(read(&message), Ok(Said::Failed(_))));
        let mut message = answer_to(&question());
        message.add_answer(cname("www.example", 60, "n0.example"));
        for number in 0..=ALIASES_MAX {
            message.add_answer(cname(&format!("n{number}.example"), 60, &format!("n{}.example", number + 1)));
        }
        assert!(matches!(read(&message), Ok(Said::Failed(_))));
    }

    #[test]
    fn answers_to_others_are_unfit() {
        let mut wrong_id = answer_to(&question());
        wrong_id.metadata.id = 8;
        let mut wrong_name = answer_to(&question());
        wrong_name.queries[0].name = name("evil.example");
        let mut wrong_kind = answer_to(&question());
        wrong_kind.queries[0].query_type = RecordType::AAAA;
        let mut no_question = answer_to(&question());
        no_question.queries.clear();
        let mut a_query = answer_to(&question());
        a_query.metadata.message_type = MessageType::Query;
        for message in [wrong_id, wrong_name, wrong_kind, no_question, a_query] {
            assert_eq!(read(&message), Err(Unfit));
        }
        assert_eq!(question().read(b"nonsense"), Err(Unfit));
    }

    #[test]
    fn negative_answers_hold_as_long_as_their_authority_says() {
        let mut message = answer_to(&question());
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(read(&message), Ok(Said::NoSuchName(Duration::ZERO)));
        let soa = SOA::new(name("ns"), name("admin"), 1, 1, 1, 1, 40);
        message.add_authority(Record::from_rdata(name("example"), 90, RData::SOA(soa)));
        assert_eq!(read(&message), Ok(Said::NoSuchName(Duration::from_secs(40))));
        message.metadata.response_code = ResponseCode::NoError;
        assert_eq!(read(&message), Ok(Said::NoAddress(Duration::from_secs(40))));
    }

    #[test]
    fn a_cut_answer_and_a_failure_are_told_apart() {
        let mut message = answer_to(&question());
        message.metadata.truncation = true;
        assert_eq!(read(&message), Ok(Said::Truncated));
        let mut message = answer_to(&question());
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&message), Ok(Said::Failed(ResponseCode::ServFail)));
    }

    #[test]
    fn no_more_addresses_are_taken_than_the_bound() {
        let mut message = answer_to(&question());
        for last in 0..100 {
            message.add_answer(a("www.example", 60, [9, 9, 9, last]));
        }
        assert!(matches!(read(&message), Ok(Said::Addresses(found, _)) if found.len() == ADDRESSES_MAX));
    }
}
