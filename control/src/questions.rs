//! Questions that planes ask and people answer: in memory, each for as long as the link lives on which it was asked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use control_wire::message::ToPlane;
use control_wire::question::{Answer, Question, Scheme};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::limits::{QUESTIONS_CLOSED_KEPT, QUESTIONS_PER_PLANE_MAX};

/// Milliseconds of Unix time.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A question, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuestionView {
    /// Names it in calls.
    pub id: String,
    /// Which plane asks.
    pub plane: String,
    /// For which sandbox.
    pub sandbox: String,
    /// Method of the first request that waits.
    pub method: String,
    /// How the upstream would be spoken to.
    pub scheme: Scheme,
    /// Whom it would reach.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// Path of the first request that waits.
    pub path: String,
    /// When control heard it.
    pub asked_unix_ms: u64,
    /// Milliseconds that each request waits.
    pub timeout_ms: u64,
}

/// Why a question cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpen {
    /// There never was one of that name, as far as is remembered.
    #[error("there is no such question; `outgate question list` shows those that are open")]
    Unknown,
    /// Somebody was quicker.
    #[error("it was answered already")]
    Answered,
    /// Nobody waits.
    #[error(
        "nobody waits for the answer any more: the program left, time was up, or a change of policy settled it"
    )]
    Withdrawn,
    /// The link on which it was asked has ended, and with it the wait.
    #[error("the plane that asked is no longer connected, and has denied what waited")]
    LinkEnded,
}

/// A plane has more questions open than any plane of ours asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// All questions that are open.
pub struct Questions {
    desk: Mutex<Desk>,
    version: watch::Sender<u64>,
}

impl Default for Questions {
    fn default() -> Self {
        let mut first = [0; 4];
        // Names begin elsewhere in each process, so that an answer meant for one before is none here. Should the
        // system give no random bytes, the clock tells processes apart.
        let drawn = aws_lc_rs::rand::fill(&mut first);
        let first = drawn.map_or_else(|_| unix_millis(), |()| u32::from_le_bytes(first).into());
        Self { desk: Mutex::new(Desk { next: first, ..Desk::default() }), version: watch::channel(0).0 }
    }
}

#[derive(Default)]
struct Desk {
    /// By link.
    ways: HashMap<u64, Way>,
    /// By our number, which counts up: the oldest first.
    open: BTreeMap<u64, Open>,
    /// What became of the last that were closed.
    closed: VecDeque<(u64, NotOpen)>,
    next: u64,
}

struct Way {
    plane: String,
    outgoing: mpsc::Sender<ToPlane>,
    /// From the plane's numbers to ours.
    numbers: HashMap<u64, u64>,
}

struct Open {
    link: u64,
    question: Question,
    asked_unix_ms: u64,
    /// Somebody is answering it.
    claimed: bool,
    /// The plane has been told an answer that is kept.
    told: bool,
}

impl Desk {
    fn close(&mut self, number: u64, why: NotOpen) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(way) = self.ways.get_mut(&open.link) {
            way.numbers.remove(&open.question.id);
        }
        self.closed.push_back((number, why));
        if self.closed.len() > QUESTIONS_CLOSED_KEPT {
            self.closed.pop_front();
        }
        Some(open)
    }
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// A link has opened on which a plane may ask, until what is given is dropped.
    pub fn open(&self, plane: &str, link: u64, outgoing: mpsc::Sender<ToPlane>) -> Asking<'_> {
        let way = Way { plane: plane.to_owned(), outgoing, numbers: HashMap::new() };
        self.lock().ways.insert(link, way);
        Asking { questions: self, link }
    }

    /// What is open, the oldest first, and the version of that list.
    pub fn list(&self) -> (u64, Vec<QuestionView>) {
        // Before the list: a change between the two makes the list newer than its version, never older.
        let version = *self.version.borrow();
        let desk = self.lock();
        let view = |(number, open): (&u64, &Open)| {
            let Question { sandbox, method, scheme, host, port, path, timeout_ms, .. } =
                open.question.clone();
            let (id, asked_unix_ms) = (name(*number), open.asked_unix_ms);
            let plane = desk.ways.get(&open.link)?.plane.clone();
            Some(QuestionView {
                id,
                plane,
                sandbox,
                method,
                scheme,
                host,
                port,
                path,
                asked_unix_ms,
                timeout_ms,
            })
        };
        (version, desk.open.iter().filter_map(view).collect())
    }

    /// Tells when the list has another version.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Takes a question to answer it; until the claim is dropped or answers, nobody else can.
    ///
    /// # Errors
    /// When it is not open.
    pub fn claim(&self, id: &str) -> Result<Claim<'_>, NotOpen> {
        let number = u64::from_str_radix(id, 16).map_err(|_| NotOpen::Unknown)?;
        let mut desk = self.lock();
        let closed = desk.closed.iter().find(|(closed, _)| *closed == number).map(|(_, why)| *why);
        let open = desk.open.get_mut(&number).ok_or(closed.unwrap_or(NotOpen::Unknown))?;
        if std::mem::replace(&mut open.claimed, true) {
            return Err(NotOpen::Answered);
        }
        let question = open.question.clone();
        Ok(Claim { questions: self, number, question })
    }
}

fn name(number: u64) -> String {
    format!("{number:08x}")
}

/// While it lives, the plane on a link may ask.
pub struct Asking<'a> {
    questions: &'a Questions,
    link: u64,
}

impl Asking<'_> {
    /// The plane asks.
    ///
    /// # Errors
    /// When it asks more than any plane of ours.
    pub fn asked(&self, question: Question) -> Result<(), TooMany> {
        {
            let mut desk = self.questions.lock();
            let number = desk.next;
            let way = desk.ways.get_mut(&self.link).ok_or(TooMany)?;
            if way.numbers.len() >= QUESTIONS_PER_PLANE_MAX || way.numbers.contains_key(&question.id) {
                return Err(TooMany);
            }
            way.numbers.insert(question.id, number);
            desk.next += 1;
            let asked_unix_ms = unix_millis();
            desk.open.insert(
                number,
                Open { link: self.link, question, asked_unix_ms, claimed: false, told: false },
            );
        }
        self.questions.changed();
        Ok(())
    }

    /// Nothing waits any more for the answer to the plane's question of this number.
    pub fn withdrawn(&self, id: u64) {
        let known = {
            let mut desk = self.questions.lock();
            let number = desk.ways.get(&self.link).and_then(|way| way.numbers.get(&id).copied());
            // Where an answer was announced, the row has let the request go before these words end it.
            let told = number.and_then(|number| desk.open.get(&number)).is_some_and(|open| open.told);
            let why = if told { NotOpen::Answered } else { NotOpen::Withdrawn };
            number.and_then(|number| desk.close(number, why)).is_some()
        };
        if known {
            self.questions.changed();
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let closed = {
            let mut desk = self.questions.lock();
            let numbers: Vec<u64> = desk
                .open
                .iter()
                .filter(|(_, open)| open.link == self.link)
                .map(|(number, _)| *number)
                .collect();
            for number in &numbers {
                desk.close(*number, NotOpen::LinkEnded);
            }
            desk.ways.remove(&self.link);
            !numbers.is_empty()
        };
        if closed {
            self.questions.changed();
        }
    }
}

/// A question that somebody is answering.
pub struct Claim<'a> {
    questions: &'a Questions,
    number: u64,
    question: Question,
}

impl Claim<'_> {
    /// The question.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// Closes it and sends the answer to the plane that asked.
    ///
    /// # Errors
    /// When it was closed meanwhile, or the plane is gone.
    pub async fn answer(self, answer: Answer) -> Result<(), NotOpen> {
        let outgoing = self.way(|_| {})?;
        self.close();
        outgoing.send(ToPlane::Answer(answer)).await.map_err(|_| NotOpen::LinkEnded)
    }

    /// Tells the plane what is about to stand in the sandbox's row, for its records. The row ends the wait.
    ///
    /// # Errors
    /// When it was closed meanwhile, or the plane is gone.
    pub async fn announce(&self, answer: Answer) -> Result<(), NotOpen> {
        let outgoing = self.way(|open| open.told = true)?;
        outgoing.send(ToPlane::Answer(answer)).await.map_err(|_| NotOpen::LinkEnded)
    }

    /// Closes it as answered, where the plane has not been quicker.
    pub fn close(&self) {
        if self.questions.lock().close(self.number, NotOpen::Answered).is_some() {
            self.questions.changed();
        }
    }

    /// The way to the plane that asked, for as long as the question is open.
    fn way(&self, note: impl FnOnce(&mut Open)) -> Result<mpsc::Sender<ToPlane>, NotOpen> {
        let desk = &mut *self.questions.lock();
        let Some(open) = desk.open.get_mut(&self.number) else {
            let closed = desk.closed.iter().find(|(closed, _)| *closed == self.number);
            return Err(closed.map_or(NotOpen::Withdrawn, |(_, why)| *why));
        };
        note(open);
        desk.ways.get(&open.link).map(|way| way.outgoing.clone()).ok_or(NotOpen::LinkEnded)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.questions.lock().open.get_mut(&self.number) {
            open.claimed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use control_wire::question::{Scope, Verdict};

    use super::*;

    fn question(id: u64) -> Question {
        Question {
            id,
            sandbox: "s".into(),
            method: "GET".into(),
            scheme: Scheme::Https,
            host: "a.test".into(),
            port: 443,
            path: "/".into(),
            timeout_ms: 1_000,
        }
    }

    fn answer(id: u64) -> Answer {
        Answer { id, verdict: Verdict::Allow, scope: Scope::Once, until_unix_ms: 0, by: String::new() }
    }

    fn names(questions: &Questions) -> Vec<String> {
        questions.list().1.into_iter().map(|view| view.id).collect()
    }

    #[tokio::test]
    async fn a_question_is_answered_once_and_the_second_is_told_so() {
        let questions = Questions::default();
        let (way, mut heard) = mpsc::channel(4);
        let asking = questions.open("p", 1, way);
        asking.asked(question(7)).unwrap();
        let [id] = &names(&questions)[..] else { panic!("one question") };
        let claim = questions.claim(id).unwrap();
        assert_eq!(questions.claim(id).err(), Some(NotOpen::Answered), "somebody is at it");
        drop(claim);
        questions.claim(id).unwrap().answer(answer(7)).await.unwrap();
        assert_eq!(heard.recv().await, Some(ToPlane::Answer(answer(7))));
        assert_eq!(questions.claim(id).err(), Some(NotOpen::Answered));
        assert_eq!(questions.claim("zz").err(), Some(NotOpen::Unknown));
        assert!(names(&questions).is_empty());
    }

    #[tokio::test]
    async fn what_is_withdrawn_or_loses_its_link_says_which() {
        let questions = Questions::default();
        let (way, _heard) = mpsc::channel(4);
        let asking = questions.open("p", 1, way);
        asking.asked(question(7)).unwrap();
        asking.asked(question(8)).unwrap();
        let ids = names(&questions);
        let claim = questions.claim(&ids[0]).unwrap();
        asking.withdrawn(7);
        assert_eq!(claim.answer(answer(7)).await, Err(NotOpen::Withdrawn));
        assert_eq!(questions.claim(&ids[0]).err(), Some(NotOpen::Withdrawn));
        drop(asking);
        assert_eq!(questions.claim(&ids[1]).err(), Some(NotOpen::LinkEnded));
        assert!(names(&questions).is_empty());
    }

    #[test]
    fn every_change_of_the_list_has_its_version_and_a_planes_questions_are_bounded() {
        let questions = Questions::default();
        let asking = questions.open("p", 1, mpsc::channel(1).0);
        let before = questions.list().0;
        for id in 0..QUESTIONS_PER_PLANE_MAX as u64 {
            asking.asked(question(id)).unwrap();
        }
        assert_eq!(asking.asked(question(u64::MAX)), Err(TooMany));
        assert_eq!(questions.list().0, before + QUESTIONS_PER_PLANE_MAX as u64);
        asking.withdrawn(3);
        assert_eq!(asking.asked(question(4)), Err(TooMany), "a number is used once");
        asking.withdrawn(99_999);
        assert_eq!(questions.list().0, before + QUESTIONS_PER_PLANE_MAX as u64 + 1);
    }
}
