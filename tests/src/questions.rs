//! What a plane under test asks of people: the place of control, which the test answers from.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use control_wire::question::{Answer, Question, Scope, Verdict};
use dataplane::approval::AskControl;

use crate::gateway::PATIENCE;

/// What the plane says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Asked(Question),
    Withdrawn(u64),
}

/// Control's ear for questions.
pub struct Questions {
    said: mpsc::Receiver<Said>,
    linked: Arc<AtomicBool>,
}

impl Questions {
    /// The ear, and the mouth that a plane is given.
    pub fn channel() -> (Self, AskControl) {
        let (mouth, said) = mpsc::channel();
        let linked = Arc::new(AtomicBool::new(true));
        let is_linked = Arc::clone(&linked);
        let ask: AskControl = Box::new(move |question| {
            if !is_linked.load(Ordering::SeqCst) {
                return None;
            }
            let (id, mouth) = (question.id, mouth.clone());
            mouth.send(Said::Asked(question)).ok()?;
            // Nobody hears it when the test has ended.
            Some(Box::new(move || mouth.send(Said::Withdrawn(id)).unwrap_or_default()))
        });
        (Self { said, linked }, ask)
    }

    /// The next question; nothing else may be said before it.
    ///
    /// # Panics
    /// When none comes.
    pub fn asked(&self) -> Question {
        match self.said.recv_timeout(PATIENCE) {
            Ok(Said::Asked(question)) => question,
            other => panic!("no question: {other:?}"),
        }
    }

    /// The number of the question that is withdrawn next; nothing else may be said before.
    ///
    /// # Panics
    /// When none is.
    pub fn withdrawn(&self) -> u64 {
        match self.said.recv_timeout(PATIENCE) {
            Ok(Said::Withdrawn(id)) => id,
            other => panic!("nothing was withdrawn: {other:?}"),
        }
    }

    /// The plane has said nothing more.
    pub fn is_silent(&self) -> bool {
        self.said.try_recv().is_err()
    }

    /// Opens or cuts the way to control.
    pub fn link(&self, is_open: bool) {
        self.linked.store(is_open, Ordering::SeqCst);
    }
}

/// What a person says for this once.
pub fn once(id: u64, verdict: Verdict) -> Answer {
    Answer { id, verdict, scope: Scope::Once, until_unix_ms: 0, by: "somebody".into() }
}
