//! Answers that stand in sandboxes' rows: how one is added, and how those that have ended leave.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use control_wire::limits::ANSWERS_MAX;
use control_wire::question::KeptAnswer;

use crate::causes::chain;
use crate::limits::{ANSWERS_LOOK_PAUSE, ENDED_PER_COMMIT};
use crate::link::Core;
use crate::questions::unix_millis;
use crate::store::{ChangeError, StoreError};
use crate::tables::{Change, Tables};
use crate::tell::tell;

/// Why an answer was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// The row is full.
    #[error(
        "{ANSWERS_MAX} answers are kept for the sandbox already; remove some, or allow the hosts by policy"
    )]
    TooMany,
}

/// Adds an answer, in the place of one about the same. Those that have ended leave.
///
/// # Errors
/// When there are too many.
pub fn keep(answers: &mut Vec<KeptAnswer>, answer: KeptAnswer, now_unix_ms: u64) -> Result<(), KeepError> {
    answers.retain(|known| known.holds(now_unix_ms) && !known.is_about_the_same(&answer));
    if answers.len() >= ANSWERS_MAX {
        return Err(KeepError::TooMany);
    }
    answers.push(answer);
    Ok(())
}

/// The rows without the answers that have ended.
fn without_ended(tables: &Tables, now_unix_ms: u64) -> Vec<Change> {
    let changed = tables.answers_ended(now_unix_ms, ENDED_PER_COMMIT).into_iter().filter_map(|id| {
        let mut row = (*tables.sandboxes.get(&id)?.value).clone();
        row.answers.retain(|answer| answer.holds(now_unix_ms));
        Some(Change::Sandbox(id, Some(row)))
    });
    changed.collect()
}

/// Removes answers when they end, for as long as control lives. Planes ask again from that moment by their own clocks;
/// this ends what was begun before, since planes then judge it again.
pub async fn forget_ended(core: Arc<Core>) {
    let mut revisions = core.store.revisions();
    loop {
        revisions.mark_unchanged();
        let end = core.store.tables().first_answer_end();
        let wait = end.map_or(ANSWERS_LOOK_PAUSE, |end| {
            // The wall clock may be set meanwhile, so it is looked at now and then.
            Duration::from_millis(end.saturating_sub(unix_millis())).min(ANSWERS_LOOK_PAUSE)
        });
        tokio::select! {
            changed = revisions.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(wait) => {
                if let Err(error) = remove_ended(&core).await {
                    tell(format_args!("answers that have ended stay for now: {}", chain(&error)));
                    tokio::time::sleep(ANSWERS_LOOK_PAUSE).await;
                }
            }
        }
    }
}

async fn remove_ended(core: &Core) -> Result<(), StoreError> {
    let decide = |tables: &Tables| Ok::<_, Infallible>(without_ended(tables, unix_millis()));
    match core.store.change(decide).await {
        Ok(_) => Ok(()),
        Err(ChangeError::Store(error)) => Err(error),
        Err(ChangeError::Refused(never)) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use control_wire::question::{Scheme, Verdict};

    use super::*;

    fn answer(host: &str, verdict: Verdict, until_unix_ms: Option<u64>) -> KeptAnswer {
        KeptAnswer { verdict, scheme: Scheme::Https, host: host.into(), port: 443, until_unix_ms }
    }

    #[test]
    fn an_answer_takes_the_place_of_one_about_the_same_and_ended_ones_leave() {
        let mut answers = vec![answer("a", Verdict::Allow, None), answer("b", Verdict::Allow, Some(5))];
        keep(&mut answers, answer("a", Verdict::Deny, None), 6).unwrap();
        assert_eq!(answers, [answer("a", Verdict::Deny, None)]);
        let more = (1..ANSWERS_MAX).map(|at| answer(&at.to_string(), Verdict::Allow, None));
        answers.extend(more);
        assert_eq!(keep(&mut answers, answer("c", Verdict::Allow, None), 6), Err(KeepError::TooMany));
        keep(&mut answers, answer("a", Verdict::Allow, None), 6).unwrap();
    }
}
