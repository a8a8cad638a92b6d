//! The way of questions to control. It belongs to one connection: nothing that was asked on it outlives it, so people
//! are never shown what nobody waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_wire::message::ToControl;
use control_wire::question::Question;
use tokio::sync::mpsc;

use crate::approval::Withdrawal;
use crate::limits::LINK_QUESTIONS_MAX;

/// Where shards put questions, while a connection is open. A shard holds the lock for the time of a queue's push, and
/// only when a person is asked.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Option<mpsc::Sender<ToControl>>>>);

impl Questions {
    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<ToControl>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is open, until what is given is dropped.
    pub(super) fn open(&self) -> Asked {
        let (way, queue) = mpsc::channel(LINK_QUESTIONS_MAX);
        *self.lock() = Some(way);
        Asked { questions: self.clone(), queue }
    }

    /// Queues a question, and keeps the place of its withdrawal: that can always be said.
    pub(super) fn ask(&self, question: Question) -> Option<Withdrawal> {
        let way = self.lock().clone()?;
        let id = question.id;
        let withdrawal = way.clone().try_reserve_owned().ok()?;
        way.try_send(ToControl::Question(question)).ok()?;
        // The connection may have ended: then control has forgotten the question with it.
        Some(Box::new(move || drop(withdrawal.send(ToControl::Withdrawn(id)))))
    }
}

/// What is asked on one connection.
pub(super) struct Asked {
    questions: Questions,
    queue: mpsc::Receiver<ToControl>,
}

impl Asked {
    /// The next message.
    pub(super) async fn next(&mut self) -> Option<ToControl> {
        self.queue.recv().await
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.questions.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use control_wire::question::Scheme;
    use futures_lite::future::{block_on, poll_once};

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
            timeout_ms: 1,
        }
    }

    #[test]
    fn nothing_is_asked_without_a_connection_and_nothing_asked_outlives_it() {
        let questions = Questions::default();
        assert!(questions.ask(question(1)).is_none());
        let asked = questions.open();
        let withdrawal = questions.ask(question(2)).unwrap();
        drop(asked);
        assert!(questions.ask(question(3)).is_none());
        let mut asked = questions.open();
        withdrawal();
        assert!(block_on(poll_once(asked.next())).is_none());
    }

    #[test]
    fn every_question_that_was_taken_can_be_withdrawn_whatever_else_waits() {
        let questions = Questions::default();
        let mut asked = questions.open();
        let mut withdrawals = Vec::new();
        for id in 0.. {
            match questions.ask(question(id)) {
                Some(withdrawal) => withdrawals.push((id, withdrawal)),
                None => break,
            }
        }
        assert_eq!(withdrawals.len(), LINK_QUESTIONS_MAX / 2);
        for (id, withdrawal) in withdrawals {
            withdrawal();
            assert_eq!(block_on(asked.next()), Some(ToControl::Question(question(id))));
        }
        assert_eq!(block_on(asked.next()), Some(ToControl::Withdrawn(0)));
    }
}
