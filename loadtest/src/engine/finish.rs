//! What an answer or a broken connection leads to.

use std::{io, time::Instant};

use super::{
    Engine, Part,
    connection::in_words,
    exchange::{Done, Verdict},
    outcome::record,
};
use crate::{limits::ERRORS_MAX, plan::Connect};

/// Errors without a single good answer after which nothing better is expected.
const HOPELESS: u64 = 20;

impl Engine<'_> {
    /// What a request came to, and what its connection does next.
    pub(super) fn finish(&mut self, index: usize, done: &Done, closes: bool, now: Instant) -> io::Result<()> {
        let outcome = &mut self.outcome;
        self.last_answer = now;
        let is_first = self.connections[index].first_answer(&mut outcome.resumed);
        if is_first {
            self.opening -= 1;
        }
        let seat = &self.target.seats[self.connections[index].seat];
        match &done.verdict {
            Verdict::Good => outcome.good += 1,
            Verdict::Corrupted(what) => outcome.corrupt(what),
            Verdict::Status(..) if self.is_attack || seat.is_refusable => outcome.refused += 1,
            Verdict::Status(status, text) => outcome.error(&format!("{status} answered: {text}")),
        }
        outcome.all_answers += 1;
        if outcome.good == 0 && outcome.errors > HOPELESS {
            return Err(io::Error::other(format!(
                "nothing but errors: {}",
                outcome.worst().unwrap_or_default()
            )));
        }
        let is_measured = match self.schedule {
            Some(_) => {
                (self.measured.0..self.measured.1).contains(&done.job.due) && self.part != Part::WarmUp
            }
            None => self.part == Part::Measured,
        };
        if is_measured {
            record(&mut outcome.latency, now.saturating_duration_since(done.job.due));
        }
        match self.part {
            Part::Measured => outcome.answers += 1,
            Part::Counted => outcome.counted_answers += 1,
            Part::WarmUp | Part::Drain => {}
        }
        self.go_on(index, closes, now)
    }

    /// After an answer: the next request, another connection, or waiting for what is due.
    pub(super) fn go_on(&mut self, index: usize, closes: bool, now: Instant) -> io::Result<()> {
        let is_open_loop = self.schedule.is_some();
        let connection = &mut self.connections[index];
        let moves = connection.jobs().is_empty().then(|| connection.moves_to.take()).flatten();
        if let Some(seat) = moves {
            connection.seat = seat;
        }
        if closes || moves.is_some() || self.load.connect != Connect::Keep {
            for _ in connection.jobs() {
                self.outcome.error("the connection was closed before its answer");
            }
            connection.close();
            match (is_open_loop, self.load.connect) {
                (true, Connect::Full | Connect::Resumed) => self.make_ready(index),
                (true, Connect::Keep) => self.to_open.push_back((index, None)),
                (false, _) => self.to_open.push_back((index, Some(now))),
            }
            Ok(())
        } else if self.load.idle {
            Ok(())
        } else if is_open_loop {
            self.make_ready(index);
            Ok(())
        } else {
            self.ask(index, now)
        }
    }

    /// A connection broke. In words, and another takes its place.
    pub(super) fn fail(&mut self, index: usize, error: &io::Error) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let (jobs, is_first) = (connection.jobs(), connection.is_opening());
        connection.close();
        if is_first {
            self.opening -= 1;
        }
        let seat = &self.target.seats[connection.seat];
        // An idle connection may end at any time (RFC 9112 §9.5), but none that was to stay silent.
        let is_fault = is_first || !jobs.is_empty() || self.load.idle;
        if is_fault && !self.is_attack && !seat.is_refusable {
            self.outcome.error(&in_words(error));
            let hopeless = self.outcome.good == 0 && self.outcome.errors > HOPELESS;
            if hopeless || self.outcome.errors > ERRORS_MAX {
                let worst = self.outcome.worst().unwrap_or_default();
                return Err(io::Error::other(format!(
                    "given up after {} errors: {worst}",
                    self.outcome.errors
                )));
            }
        } else if is_fault {
            self.outcome.refused += 1;
        }
        match (&self.schedule, self.load.connect) {
            (Some(_), Connect::Full | Connect::Resumed) => self.make_ready(index),
            (Some(_), Connect::Keep) => self.to_open.push_back((index, None)),
            (None, _) => self.to_open.push_back((index, Some(Instant::now()))),
        }
        Ok(())
    }
}
