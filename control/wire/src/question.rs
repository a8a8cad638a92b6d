//! Questions: what a plane asks a person about, what that person answers, and answers that are kept.

use serde::{Deserialize, Serialize};

use crate::codec::{Reader, WireError, Writer};
use crate::limits::{ANSWERS_MAX, NAME_BYTES_MAX, QUESTION_PATH_BYTES_MAX};

/// How the upstream would be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// A request that no rule allows, and that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number, which the plane uses once in its life.
    pub id: u64,
    /// Who asks.
    pub sandbox: String,
    /// Method of the first request that waits.
    pub method: String,
    /// How the upstream would be spoken to.
    pub scheme: Scheme,
    /// Whom it would reach.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// Path of the first request that waits, without its query; cut at [`QUESTION_PATH_BYTES_MAX`].
    pub path: String,
    /// Milliseconds that each request waits.
    pub timeout_ms: u64,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "\"allow\" or \"deny\"")]
pub enum Verdict {
    /// The request may go.
    Allow,
    /// It may not.
    Deny,
}

/// What an answer covers beside the requests that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "\"once\", \"host\" or \"time\"")]
pub enum Scope {
    /// Nothing.
    #[default]
    Once,
    /// All that the sandbox asks of this scheme, host and port, until somebody takes the answer back.
    Host,
    /// The same, for a time.
    Time,
}

/// The answer to a question of a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question's number.
    pub id: u64,
    /// What was said.
    pub verdict: Verdict,
    /// What it covers; what is kept of it comes in the sandbox's row.
    pub scope: Scope,
    /// Until when, for [`Scope::Time`], in milliseconds of Unix time; else 0.
    pub until_unix_ms: u64,
    /// Who answered, where that was said; for the record.
    pub by: String,
}

/// An answer that stands in the sandbox's row. Rules come first: it counts only where they would ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptAnswer {
    /// What was said.
    pub verdict: Verdict,
    /// Of which scheme.
    pub scheme: Scheme,
    /// Of which host, exactly.
    pub host: String,
    /// Of which port.
    pub port: u16,
    /// When it ends, in milliseconds of Unix time. Absent: when somebody takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
}

impl KeptAnswer {
    /// Whether another answer is about the same.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        (self.scheme, self.port, &self.host) == (other.scheme, other.port, &other.host)
    }

    /// Whether it still counts.
    pub fn holds(&self, now_unix_ms: u64) -> bool {
        self.until_unix_ms.is_none_or(|until| now_unix_ms < until)
    }
}

impl Scheme {
    /// As it stands in an address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(if body.flag("scheme")? { Self::Https } else { Self::Http })
    }

    fn write(self, out: &mut Writer) {
        out.byte((self == Self::Https).into());
    }
}

impl Verdict {
    fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(if body.flag("verdict")? { Self::Allow } else { Self::Deny })
    }

    fn write(self, out: &mut Writer) {
        out.byte((self == Self::Allow).into());
    }
}

impl Scope {
    /// As it stands in records and calls.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Host => "host",
            Self::Time => "time",
        }
    }

    fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        match body.byte("scope")? {
            0 => Ok(Self::Once),
            1 => Ok(Self::Host),
            2 => Ok(Self::Time),
            value => Err(WireError::Impossible { field: "scope", value: value.into() }),
        }
    }
}

impl Question {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.id);
        out.text(&self.sandbox);
        out.text(cut(&self.method, NAME_BYTES_MAX));
        self.scheme.write(out);
        out.text(&self.host);
        out.u16(self.port);
        out.text(cut(&self.path, QUESTION_PATH_BYTES_MAX));
        out.u64(self.timeout_ms);
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            id: body.u64("question")?,
            sandbox: body.text(NAME_BYTES_MAX, "sandbox")?,
            method: body.text(NAME_BYTES_MAX, "method")?,
            scheme: Scheme::read(body)?,
            host: body.text(NAME_BYTES_MAX, "host")?,
            port: body.u16("port")?,
            path: body.text(QUESTION_PATH_BYTES_MAX, "path")?,
            timeout_ms: body.u64("time of the question")?,
        })
    }
}

impl Answer {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.id);
        self.verdict.write(out);
        out.byte(match self.scope {
            Scope::Once => 0,
            Scope::Host => 1,
            Scope::Time => 2,
        });
        out.u64(self.until_unix_ms);
        out.text(cut(&self.by, NAME_BYTES_MAX));
    }

    pub(crate) fn read(body: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            id: body.u64("question")?,
            verdict: Verdict::read(body)?,
            scope: Scope::read(body)?,
            until_unix_ms: body.u64("end of the answer")?,
            by: body.text(NAME_BYTES_MAX, "who answered")?,
        })
    }
}

/// Writes the answers that stand in a row, behind their number. Zero is written for the end of one that has none.
pub(crate) fn write_kept(out: &mut Writer, answers: &[KeptAnswer]) {
    out.length(answers.len());
    for answer in answers {
        answer.verdict.write(out);
        answer.scheme.write(out);
        out.text(&answer.host);
        out.u16(answer.port);
        out.u64(answer.until_unix_ms.unwrap_or_default());
    }
}

/// Reads what [`write_kept`] wrote. Rows of an older control end before it: they keep no answers.
pub(crate) fn read_kept(body: &mut Reader<'_>) -> Result<Vec<KeptAnswer>, WireError> {
    let mut answers = Vec::new();
    if body.is_empty() {
        return Ok(answers);
    }
    for _ in 0..body.length(ANSWERS_MAX, "answers")? {
        answers.push(KeptAnswer {
            verdict: Verdict::read(body)?,
            scheme: Scheme::read(body)?,
            host: body.text(NAME_BYTES_MAX, "host")?,
            port: body.u16("port")?,
            until_unix_ms: Some(body.u64("end of the answer")?).filter(|until| *until != 0),
        });
    }
    Ok(answers)
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
