//! The table of parked requests: sharing, bounds, and every way in which a wait ends.

use std::sync::{Arc, Mutex};

use control_wire::question::{Scope, Verdict};
use futures_lite::future::{block_on, poll_once};

use super::*;

/// What control was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Asked(u64),
    Withdrawn(u64),
}

/// A desk with the ear of a control.
struct Place {
    desk: Rc<Desk>,
    told: Arc<Mutex<Vec<Told>>>,
    ask: AskControl,
}

impl Place {
    fn new() -> Self {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let ear = Arc::clone(&told);
        let ask: AskControl = Box::new(move |question| {
            ear.lock().unwrap().push(Told::Asked(question.id));
            let ear = Arc::clone(&ear);
            Some(Box::new(move || ear.lock().unwrap().push(Told::Withdrawn(question.id))))
        });
        Self { desk: Desk::new(2, 4), told, ask }
    }

    fn park(&self, sandbox: &str, host: &str) -> Result<Parked, AskError> {
        let shown = Shown { method: "GET", path: "/p", timeout_ms: 1_000 };
        self.desk.park(&SandboxId::new(sandbox).unwrap(), about(host), shown, &self.ask)
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn say(&self, id: u64, verdict: Verdict) {
        self.desk.hear(Heard::answer(answer(id, verdict)));
    }
}

fn about(host: &str) -> About {
    About { scheme: Scheme::Https, host: Host::parse(host).unwrap(), port: 443 }
}

fn answer(id: u64, verdict: Verdict) -> Answer {
    Answer { id, verdict, scope: Scope::Once, until_unix_ms: 0, by: String::new() }
}

fn is_waiting(parked: &Parked) -> bool {
    block_on(poll_once(parked.news())).is_none()
}

#[test]
fn equal_questions_are_asked_once_and_one_answer_ends_all_waits() {
    let place = Place::new();
    let (first, second) = (place.park("a", "x.com").unwrap(), place.park("a", "x.com").unwrap());
    let (other_host, other_sandbox) = (place.park("a", "y.com").unwrap(), place.park("b", "x.com").unwrap());
    let [Told::Asked(id), Told::Asked(_), Told::Asked(_)] = place.told()[..] else {
        panic!("{:?}", place.told())
    };
    assert_eq!(Desk::shard_of(id, 4), 2);
    assert!(is_waiting(&first) && is_waiting(&second));
    place.say(id, Verdict::Allow);
    for parked in [first, second] {
        assert_eq!(block_on(parked.news()), News::Answered(answer(id, Verdict::Allow)));
    }
    assert!(is_waiting(&other_host) && is_waiting(&other_sandbox));
    assert_eq!(place.told().len(), 3, "what was answered is not withdrawn");
    // What is asked later is a new question, and the old answer is none to it.
    let later = place.park("a", "x.com").unwrap();
    place.say(id, Verdict::Allow);
    assert!(is_waiting(&later));
    assert_eq!(place.told().len(), 4);
}

#[test]
fn an_answer_that_is_kept_ends_no_wait_before_the_row_is_here() {
    let place = Place::new();
    let parked = place.park("a", "x.com").unwrap();
    let [Told::Asked(id)] = place.told()[..] else { panic!("{:?}", place.told()) };
    let kept = Answer { scope: Scope::Host, ..answer(id, Verdict::Allow) };
    place.desk.hear(Heard::answer(kept.clone()));
    assert!(is_waiting(&parked));
    let late = place.park("a", "x.com").unwrap();
    assert_eq!((parked.kept(), late.kept(), place.told().len()), (Some(kept.clone()), Some(kept), 1));
    place.desk.reconsider(&SandboxId::new("a").unwrap());
    assert_eq!(block_on(parked.news()), News::Changed);
}

#[test]
fn the_last_who_leaves_withdraws_the_question() {
    let place = Place::new();
    let (first, second) = (place.park("a", "x.com").unwrap(), place.park("a", "x.com").unwrap());
    drop(first);
    assert_eq!(place.told().len(), 1);
    drop(second);
    let [Told::Asked(asked), Told::Withdrawn(withdrawn)] = place.told()[..] else {
        panic!("{:?}", place.told())
    };
    assert_eq!((asked, place.desk.parked()), (withdrawn, 0));
    assert!(place.desk.table.borrow().sandboxes.is_empty() && place.desk.table.borrow().questions.is_empty());
}

#[test]
fn bounds_of_the_sandbox_and_of_the_shard_are_refused_by_name_and_leave_room_again() {
    let place = Place::new();
    let same: Vec<_> = (0..PARKED_SANDBOX_MAX).map(|_| place.park("a", "x.com").unwrap()).collect();
    assert_eq!(place.park("a", "x.com").err(), Some(AskError::ParkedOfSandbox));
    drop(same);
    let hosts: Vec<_> =
        (0..QUESTIONS_SANDBOX_MAX).map(|at| place.park("a", &format!("x{at}.com")).unwrap()).collect();
    assert_eq!(place.park("a", "more.com").err(), Some(AskError::QuestionsOfSandbox));
    let _joined = place.park("a", "x0.com").unwrap();
    let room = PARKED_SHARD_MAX - place.desk.parked();
    let others: Vec<_> =
        (0..room).map(|at| place.park(&format!("b{}", at / PARKED_SANDBOX_MAX), "x.com").unwrap()).collect();
    assert_eq!(place.park("c", "x.com").err(), Some(AskError::ParkedOfShard));
    drop((hosts, others));
    place.park("c", "x.com").unwrap();
}

#[test]
fn a_change_of_policy_wakes_those_of_its_sandbox_once() {
    let place = Place::new();
    let (mine, other) = (place.park("a", "x.com").unwrap(), place.park("b", "x.com").unwrap());
    let mut waiting = Box::pin(mine.news());
    assert!(block_on(poll_once(&mut waiting)).is_none());
    place.desk.reconsider(&SandboxId::new("a").unwrap());
    assert_eq!(block_on(waiting), News::Changed);
    assert!(is_waiting(&mine) && is_waiting(&other));
}

#[test]
fn a_lost_link_ends_every_wait_and_a_detachment_those_of_its_sandbox() {
    let place = Place::new();
    let (mine, other) = (place.park("a", "x.com").unwrap(), place.park("b", "x.com").unwrap());
    place.desk.detach(&SandboxId::new("a").unwrap());
    assert_eq!(block_on(mine.news()), News::Detached);
    assert!(matches!(place.told()[..], [Told::Asked(_), Told::Asked(_), Told::Withdrawn(_)]));
    assert!(is_waiting(&other));
    let mut heard = Heard::default();
    heard.merge(Heard::link_lost());
    place.desk.hear(heard);
    assert_eq!(block_on(other.news()), News::LinkLost);
    drop((mine, other));
    assert_eq!((place.told().len(), place.desk.parked()), (3, 0), "the link took the question with it");
}

#[test]
fn where_control_cannot_be_asked_nothing_is_parked() {
    let place = Place { ask: Box::new(|_| None), ..Place::new() };
    assert_eq!(place.park("a", "x.com").err(), Some(AskError::Unreachable));
    assert_eq!(place.desk.parked(), 0);
    assert!(place.desk.table.borrow().sandboxes.is_empty());
}

#[test]
fn what_waits_for_a_shard_is_bounded() {
    let mut heard = Heard::default();
    for id in 0..PARKED_SHARD_MAX as u64 + 9 {
        heard.merge(Heard::answer(answer(id, Verdict::Deny)));
    }
    assert_eq!(heard.answers.len(), PARKED_SHARD_MAX);
}
