//! Requests that wait for a person: a bounded table per shard, in which equal questions of a sandbox are one.
//!
//! A question lives while a request waits for it. When the last one leaves, control is told, unless control itself has
//! ended it. Questions belong to the link on which they were asked: when it is lost, every request is told at once.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use control_wire::question::{self, Answer, Question, Scope};

use crate::{
    http::{Host, Scheme},
    identity::SandboxId,
    limits::{PARKED_SANDBOX_MAX, PARKED_SHARD_MAX, QUESTIONS_SANDBOX_MAX},
};

/// Hands a question to control. `None` when it cannot be said now.
pub type AskControl = Box<dyn Fn(Question) -> Option<Withdrawal> + Send + Sync>;

/// Says to control that nobody waits for the answer any more. Dropped without a call, it says nothing.
pub type Withdrawal = Box<dyn FnOnce() + Send>;

/// What a question is about; equal ones of a sandbox are one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// How the upstream would be spoken to.
    pub scheme: Scheme,
    /// Whom it would reach.
    pub host: Host,
    /// At which port.
    pub port: u16,
}

/// What a person is shown of the request that comes first.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Milliseconds that it waits.
    pub timeout_ms: u64,
}

/// Why a request does not even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The sandbox has too many requests that wait.
    #[error(
        "a person must be asked, and {PARKED_SANDBOX_MAX} requests of the sandbox wait for answers already"
    )]
    ParkedOfSandbox,
    /// The sandbox has too many questions open.
    #[error("a person must be asked, and {QUESTIONS_SANDBOX_MAX} questions of the sandbox are open already")]
    QuestionsOfSandbox,
    /// The shard has too many requests that wait.
    #[error("a person must be asked, and the gateway holds {PARKED_SHARD_MAX} requests that wait already")]
    ParkedOfShard,
    /// There is no link, or it takes no more.
    #[error("a person must be asked, and control is out of reach")]
    Unreachable,
}

/// What a request that waits is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A person has answered, for this once.
    Answered(Answer),
    /// The sandbox's policy may have changed: judge again.
    Changed,
    /// The link on which it was asked is lost: no answer can come.
    LinkLost,
    /// The sandbox has left this plane.
    Detached,
}

/// What other threads tell a shard's desk, gathered until the shard takes it.
#[derive(Debug, Default)]
pub struct Heard {
    answers: Vec<Answer>,
    link_lost: bool,
}

impl Heard {
    /// One answer.
    pub fn answer(answer: Answer) -> Self {
        Self { answers: vec![answer], link_lost: false }
    }

    /// That the link is lost.
    pub fn link_lost() -> Self {
        Self { answers: Vec::new(), link_lost: true }
    }

    /// Adds what came after. Beyond the bound no answer can be to a question of the shard.
    pub fn merge(&mut self, later: Self) {
        let room = PARKED_SHARD_MAX.saturating_sub(self.answers.len());
        self.answers.extend(later.answers.into_iter().take(room));
        self.link_lost |= later.link_lost;
    }
}

/// One question and who waits for it.
struct Open {
    id: u64,
    about: About,
    /// What ended it.
    end: RefCell<Option<News>>,
    /// The answer that will stand in the sandbox's row.
    kept: RefCell<Option<Answer>>,
    changes: Cell<u64>,
    seats: RefCell<HashMap<u64, Option<Waker>>>,
    withdrawal: RefCell<Option<Withdrawal>>,
}

impl Open {
    fn wake(&self) {
        let waiting: Vec<Waker> = self.seats.borrow_mut().values_mut().filter_map(Option::take).collect();
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[derive(Default)]
struct OfSandbox {
    open: Vec<Rc<Open>>,
    parked: usize,
}

#[derive(Default)]
struct Table {
    sandboxes: HashMap<SandboxId, OfSandbox>,
    questions: HashMap<u64, SandboxId>,
    parked: usize,
    /// Counts questions and seats up.
    number: u64,
}

/// The table of one shard.
pub struct Desk {
    index: u64,
    shards: u64,
    table: RefCell<Table>,
}

impl Desk {
    /// An empty one, of a shard among so many.
    pub fn new(index: usize, shards: usize) -> Rc<Self> {
        Rc::new(Self { index: index as u64, shards: shards.max(1) as u64, table: RefCell::default() })
    }

    /// The shard at whose desk a question was asked.
    pub fn shard_of(question: u64, shards: usize) -> usize {
        usize::try_from(question % shards.max(1) as u64).unwrap_or(0)
    }

    /// Parks a request: asks, or joins those that wait for the same answer.
    ///
    /// # Errors
    /// [`AskError`]; then nobody was asked for it.
    pub fn park(
        self: &Rc<Self>,
        sandbox: &SandboxId,
        about: About,
        shown: Shown<'_>,
        ask: &AskControl,
    ) -> Result<Parked, AskError> {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        if table.parked >= PARKED_SHARD_MAX {
            return Err(AskError::ParkedOfShard);
        }
        let known = table.sandboxes.get(sandbox);
        if known.is_some_and(|of| of.parked >= PARKED_SANDBOX_MAX) {
            return Err(AskError::ParkedOfSandbox);
        }
        let same = known.and_then(|of| of.open.iter().find(|open| open.about == about)).cloned();
        table.number += 1;
        let open = match same {
            Some(open) => open,
            None if known.is_some_and(|of| of.open.len() >= QUESTIONS_SANDBOX_MAX) => {
                return Err(AskError::QuestionsOfSandbox);
            }
            None => {
                let id = table.number * self.shards + self.index;
                let withdrawal = ask(asked(id, sandbox, &about, shown)).ok_or(AskError::Unreachable)?;
                let open = Rc::new(Open {
                    id,
                    about,
                    end: RefCell::new(None),
                    kept: RefCell::new(None),
                    changes: Cell::new(0),
                    seats: RefCell::default(),
                    withdrawal: RefCell::new(Some(withdrawal)),
                });
                table.questions.insert(id, sandbox.clone());
                table.sandboxes.entry(sandbox.clone()).or_default().open.push(Rc::clone(&open));
                open
            }
        };
        table.parked += 1;
        table.sandboxes.entry(sandbox.clone()).or_default().parked += 1;
        let (seat, seen) = (table.number, Cell::new(open.changes.get()));
        open.seats.borrow_mut().insert(seat, None);
        Ok(Parked { desk: Rc::clone(self), sandbox: sandbox.clone(), open, seat, seen })
    }

    /// Takes in what other threads said.
    pub fn hear(&self, heard: Heard) {
        for answer in heard.answers {
            let sandbox = self.table.borrow().questions.get(&answer.id).cloned();
            match sandbox {
                Some(sandbox) if answer.scope == Scope::Once => {
                    let id = answer.id;
                    self.end(&sandbox, |open| open.id == id, &News::Answered(answer));
                }
                Some(sandbox) => self.keep(&sandbox, answer),
                None => {}
            }
        }
        if heard.link_lost {
            let sandboxes: Vec<SandboxId> = self.table.borrow().sandboxes.keys().cloned().collect();
            for sandbox in sandboxes {
                self.end(&sandbox, |_| true, &News::LinkLost);
            }
        }
    }

    /// What is kept acts by the sandbox's row, which comes behind it: until then the requests wait on, and none that
    /// comes meanwhile asks again.
    fn keep(&self, sandbox: &SandboxId, answer: Answer) {
        let table = self.table.borrow();
        let open =
            table.sandboxes.get(sandbox).and_then(|of| of.open.iter().find(|open| open.id == answer.id));
        if let Some(open) = open {
            *open.kept.borrow_mut() = Some(answer);
        }
    }

    /// A revision that concerns the sandbox is in force.
    pub fn reconsider(&self, sandbox: &SandboxId) {
        let open = self.table.borrow().sandboxes.get(sandbox).map(|of| of.open.clone());
        for open in open.unwrap_or_default() {
            open.changes.set(open.changes.get() + 1);
            open.wake();
        }
    }

    /// The sandbox leaves this plane; control is told that its questions are void.
    pub fn detach(&self, sandbox: &SandboxId) {
        for open in self.end(sandbox, |_| true, &News::Detached) {
            withdraw(&open);
        }
    }

    /// Requests that wait.
    pub fn parked(&self) -> usize {
        self.table.borrow().parked
    }

    /// Ends questions of a sandbox for all who wait, and gives them.
    fn end(&self, sandbox: &SandboxId, which: impl Fn(&Open) -> bool, news: &News) -> Vec<Rc<Open>> {
        let ended: Vec<Rc<Open>> = {
            let table = &mut *self.table.borrow_mut();
            let Some(of) = table.sandboxes.get_mut(sandbox) else { return Vec::new() };
            let ended: Vec<_> = of.open.extract_if(.., |open| which(open)).collect();
            for open in &ended {
                table.questions.remove(&open.id);
            }
            ended
        };
        for open in &ended {
            *open.end.borrow_mut() = Some(news.clone());
            if !matches!(news, News::Detached) {
                // Control has ended it, or has forgotten it with the link.
                drop(open.withdrawal.borrow_mut().take());
            }
            open.wake();
        }
        ended
    }

    /// One who waited has left.
    fn leave(&self, sandbox: &SandboxId, open: &Rc<Open>, seat: u64) {
        open.seats.borrow_mut().remove(&seat);
        let deserted = open.seats.borrow().is_empty();
        {
            let table = &mut *self.table.borrow_mut();
            table.parked -= 1;
            if let Some(of) = table.sandboxes.get_mut(sandbox) {
                of.parked -= 1;
                if deserted {
                    of.open.retain(|other| !Rc::ptr_eq(other, open));
                    table.questions.remove(&open.id);
                }
                if of.parked == 0 && of.open.is_empty() {
                    table.sandboxes.remove(sandbox);
                }
            }
        }
        if deserted {
            withdraw(open);
        }
    }
}

fn withdraw(open: &Open) {
    let withdrawal = open.withdrawal.borrow_mut().take();
    if let Some(withdrawal) = withdrawal {
        withdrawal();
    }
}

fn asked(id: u64, sandbox: &SandboxId, about: &About, shown: Shown<'_>) -> Question {
    Question {
        id,
        sandbox: sandbox.to_string(),
        method: shown.method.to_owned(),
        scheme: match about.scheme {
            Scheme::Http => question::Scheme::Http,
            Scheme::Https => question::Scheme::Https,
        },
        host: about.host.to_string(),
        port: about.port,
        path: shown.path.to_owned(),
        timeout_ms: shown.timeout_ms,
    }
}

/// A request that waits; dropped, it waits no longer.
pub struct Parked {
    desk: Rc<Desk>,
    sandbox: SandboxId,
    open: Rc<Open>,
    seat: u64,
    /// Changes of policy that it was told.
    seen: Cell<u64>,
}

impl Parked {
    /// The next news. Dropping the future loses none.
    pub async fn news(&self) -> News {
        poll_fn(|cx| self.poll_news(cx)).await
    }

    /// The answer by which the sandbox's row decides, once it has come.
    pub fn kept(&self) -> Option<Answer> {
        self.open.kept.borrow().clone()
    }

    fn poll_news(&self, cx: &Context<'_>) -> Poll<News> {
        if let Some(end) = &*self.open.end.borrow() {
            return Poll::Ready(end.clone());
        }
        if self.seen.replace(self.open.changes.get()) != self.open.changes.get() {
            return Poll::Ready(News::Changed);
        }
        self.open.seats.borrow_mut().insert(self.seat, Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.desk.leave(&self.sandbox, &self.open, self.seat);
    }
}

#[cfg(test)]
#[path = "approval_tests.rs"]
mod tests;
