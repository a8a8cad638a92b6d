//! Answers of people that are kept: they count where rules would ask, and nowhere else.

use control_wire::question::{KeptAnswer, Verdict};

use super::permit::{Asked, Decision, Question};
use crate::http::{Host, Scheme};

/// What was answered for one sandbox, each about one scheme, host and port.
#[derive(Debug, Default)]
pub struct Answers(Vec<(Host, KeptAnswer)>);

/// An answer is about something that is no host.
#[derive(Debug, thiserror::Error)]
#[error("a kept answer is about `{host}`, which is no host")]
pub struct AnswerError {
    /// As it was sent.
    pub host: String,
}

impl Answers {
    /// Those of a row.
    ///
    /// # Errors
    /// When one is about no host.
    pub fn new(rows: &[KeptAnswer]) -> Result<Self, AnswerError> {
        let parsed = rows.iter().map(|row| match Host::parse(&row.host) {
            Ok(host) => Ok((host, row.clone())),
            Err(_) => Err(AnswerError { host: row.host.clone() }),
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// What becomes of a question by what was answered before.
    pub fn settle(&self, question: Box<Question>, asked: &Asked<'_>, now_unix_ms: u64) -> Decision {
        match self.verdict(asked, now_unix_ms) {
            Some(Verdict::Allow) => Decision::Allow(question.allow()),
            Some(Verdict::Deny) => Decision::Deny(question.deny()),
            None => Decision::Ask(question),
        }
    }

    /// What was said of this, where it still counts.
    fn verdict(&self, asked: &Asked<'_>, now_unix_ms: u64) -> Option<Verdict> {
        let scheme = match asked.scheme {
            Scheme::Http => control_wire::question::Scheme::Http,
            Scheme::Https => control_wire::question::Scheme::Https,
        };
        let about = |(host, row): &&(Host, KeptAnswer)| {
            (row.scheme, row.port, host) == (scheme, asked.port, asked.host)
        };
        self.0.iter().find(about).filter(|(_, row)| row.holds(now_unix_ms)).map(|(_, row)| row.verdict)
    }
}
