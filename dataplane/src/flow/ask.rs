//! A request waits, for a person or for its handler's turn, and is decided about again under the tables that are in force
//! then.

use std::{rc::Rc, time::Instant};

use futures_lite::future::or;

use super::{
    arrived::Arrived,
    exchange::ReplyTo,
    open::Judged,
    pace::Pace,
    request::{Step, prepare},
    resident::Resident,
};
use crate::{
    approval::{About, AskError, News, Parked, Shown},
    audit::{self, Record},
    http::{Leg, RequestHead},
    limits::{ASK_LOOK_PAUSE, QUESTIONS_REQUEST_MAX},
    policy::Question,
    respond::{ASK_DENIED, Blame, Refusal},
    ring::{Elapsed, sleep, timeout},
};
use control_wire::question::{Answer, Verdict};

/// What a person is to be asked.
pub struct Asking {
    /// What was judged.
    pub judged: Judged,
    /// What policy asks.
    pub question: Question,
}

impl Asking {
    fn park(&self, arrived: &Arrived<'_>) -> Result<Parked, AskError> {
        let Resident { id, .. } = &**arrived.resident;
        let shown = Shown {
            method: &self.judged.method,
            path: &String::from_utf8_lossy(&self.judged.path),
            timeout_ms: u64::try_from(self.question.time().as_millis()).unwrap_or(u64::MAX),
        };
        arrived.core.desk.park(id, self.judged.about(), shown, &arrived.core.common.ask)
    }

    /// Refused after it was asked.
    fn refused(&self, code: &'static str, what: &str) -> Refusal {
        let detail = format!("{}: a person was asked, and {what}", self.judged.host);
        let remedy = "ask again when somebody can answer, or ask the operator to allow it";
        Refusal::new(self.question.deny_status(), code, Blame::Policy, &detail, remedy)
            .by_rule(self.question.rule())
    }
}

/// Waits for whatever a request has to wait for before it is decided; gives what is to be done then. The head holds no
/// receive buffer, and nothing of the body is read meanwhile.
///
/// # Errors
/// The refusal that the sandbox is told.
pub(super) async fn settle(
    arrived: &Arrived<'_>,
    head: RequestHead<Vec<u8>>,
    mut step: Step,
    ends: (&ReplyTo, &Rc<dyn Leg>),
    record: &mut Record,
) -> Result<Step, Refusal> {
    let (mut note, mut approved, mut until) = (None, Vec::new(), None);
    let settled = loop {
        let next = match step {
            Step::Ask(asking) => {
                let note = note.get_or_insert_default();
                ask((arrived, &head), asking, ends, (note, &mut approved), record).await
            }
            Step::Pace(pace) => {
                let until = *until.get_or_insert_with(Pace::until);
                match pace.wait(arrived.resident, until, ends.0).await {
                    Ok(()) => again((arrived, &head), &approved, record),
                    Err(refusal) => Err(refusal),
                }
            }
            Step::Again => again((arrived, &head), &approved, record),
            settled => break Ok(settled),
        };
        step = match next {
            Ok(next) => next,
            Err(refusal) => break Err(refusal),
        };
    };
    record.asked = note;
    settled
}

/// Asks a person, and waits for what is said or for whatever else settles it.
async fn ask(
    (arrived, head): (&Arrived<'_>, &RequestHead<Vec<u8>>),
    mut asking: Box<Asking>,
    ends: (&ReplyTo, &Rc<dyn Leg>),
    (note, approved): (&mut audit::Asked, &mut Vec<About>),
    record: &mut Record,
) -> Result<Step, Refusal> {
    if approved.len() == QUESTIONS_REQUEST_MAX {
        note.outcome = "tooMany";
        let what = "what the handler makes of the request would have to be asked about again and again";
        return Err(asking.refused("ask_too_many", what));
    }
    let parked = asking.park(arrived).map_err(|error| {
        note.outcome = "notAsked";
        Refusal::from(&error).by_rule(asking.question.rule())
    })?;
    let began = Instant::now();
    let waiting = Waiting { arrived, head, parked: &parked, note: &mut *note };
    let next = waiting.run(&mut asking, ends, approved, record).await;
    note.waited_ms += u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    next
}

/// Decides again. What the record learnt from the decision before is not of this one.
fn again(
    (arrived, head): (&Arrived<'_>, &RequestHead<Vec<u8>>),
    approved: &[About],
    record: &mut Record,
) -> Result<Step, Refusal> {
    record.log.clear();
    record.rule = None;
    record.handler = None;
    record.handler_version = None;
    record.handler_error = None;
    record.sent_to = None;
    record.via = None;
    record.address = None;
    prepare(arrived, head, approved, record)
}

/// One wait of one request.
struct Waiting<'a> {
    arrived: &'a Arrived<'a>,
    head: &'a RequestHead<Vec<u8>>,
    parked: &'a Parked,
    note: &'a mut audit::Asked,
}

impl Waiting<'_> {
    async fn run(
        mut self,
        asking: &mut Box<Asking>,
        (reply, leg): (&ReplyTo, &Rc<dyn Leg>),
        approved: &mut Vec<About>,
        record: &mut Record,
    ) -> Result<Step, Refusal> {
        let end = Instant::now() + asking.question.time();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let next = timeout(left, or(async { Some(self.parked.news().await) }, gone(reply, leg)));
            match next.await {
                Err(Elapsed) => {
                    self.note.outcome = "timedOut";
                    let what = format!("nobody answered in {} s", asking.question.time().as_secs_f32());
                    return Err(asking.refused("ask_timed_out", &what));
                }
                Ok(None) => {
                    self.note.outcome = "withdrawn";
                    let detail = "the client left while a person was asked";
                    return Err(Refusal::new(
                        499,
                        "client_gone",
                        Blame::Sandbox,
                        detail,
                        "wait for the answer",
                    ));
                }
                Ok(Some(News::LinkLost)) => {
                    self.note.outcome = "linkLost";
                    let detail = "a person was asked, and control was lost before the answer";
                    let remedy = "try again when control is reachable";
                    let refusal = Refusal::new(503, "ask_link_lost", Blame::Gateway, detail, remedy);
                    return Err(refusal.by_rule(asking.question.rule()));
                }
                Ok(Some(News::Detached)) => {
                    self.note.outcome = "detached";
                    return Err(super::requests::detached());
                }
                Ok(Some(News::Answered(answer))) => {
                    self.answered(&answer);
                    if answer.verdict == Verdict::Deny {
                        return Err(asking.refused(ASK_DENIED, "a person denied it"));
                    }
                    approved.push(asking.judged.about());
                    return again((self.arrived, self.head), approved, record);
                }
                Ok(Some(News::Changed)) => match again((self.arrived, self.head), approved, record) {
                    Ok(Step::Ask(again)) if again.judged.about() == asking.judged.about() => *asking = again,
                    Ok(step) => {
                        self.settled();
                        return Ok(step);
                    }
                    Err(refusal) if refusal.code == ASK_DENIED => {
                        self.settled();
                        return Err(asking.refused(ASK_DENIED, "a person denied it"));
                    }
                    Err(mut refusal) => {
                        self.note.outcome = "policyChanged";
                        let told = "a person was asked, and meanwhile the policy changed";
                        refusal.detail = format!("{}; {told}", refusal.detail).into();
                        return Err(refusal);
                    }
                },
            }
        }
    }

    fn answered(&mut self, answer: &Answer) {
        self.note.outcome = match answer.verdict {
            Verdict::Allow => "allowed",
            Verdict::Deny => "denied",
        };
        self.note.scope = Some(answer.scope.as_str());
        self.note.by = Some(answer.by.clone()).filter(|by| !by.is_empty());
    }

    /// The tables have settled it: by the answer that was announced, or without one.
    fn settled(&mut self) {
        match self.parked.kept() {
            Some(answer) => self.answered(&answer),
            None => self.note.outcome = "policyChanged",
        }
    }
}

/// Ends when the client has left. One whose body is not read is looked at now and then, since what it says is not.
async fn gone(reply: &ReplyTo, leg: &Rc<dyn Leg>) -> Option<News> {
    let looking = async {
        while !leg.is_left() {
            sleep(ASK_LOOK_PAUSE).await;
        }
    };
    or(reply.cancelled(), looking).await;
    None
}
