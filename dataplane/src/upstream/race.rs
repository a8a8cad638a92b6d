//! Tries that begin one after the other and go on beside each other, until one comes about (RFC 8305 §5).

use std::future::{Future, poll_fn};
use std::iter::Peekable;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::ring;

/// How tries follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a try is alone before the next begins beside it. One that fails makes room at once.
    pub(super) stagger: Duration,
    /// How many go on at once.
    pub(super) at_once: usize,
}

/// The first that comes about; the others that are under way are dropped, and those that have not begun stay in `next`.
/// A failure that `ends` says no other try can mend ends all.
///
/// # Errors
/// The last failure, or the one that ended all; `None` where there was nothing to try.
pub(super) async fn race<A, T, E, F: Future<Output = Result<T, E>>>(
    next: &mut Peekable<impl Iterator<Item = A>>,
    begin: impl Fn(A) -> F,
    ends: impl Fn(&E) -> bool,
    pace: Pace,
) -> Result<T, Option<E>> {
    let mut under_way: Vec<Pin<Box<F>>> = Vec::new();
    let mut failed = None;
    loop {
        if under_way.len() < pace.at_once
            && let Some(of) = next.next()
        {
            under_way.push(Box::pin(begin(of)));
        }
        if under_way.is_empty() {
            return Err(failed);
        }
        let another = next.peek().is_some() && under_way.len() < pace.at_once;
        let ended = poll_fn(|cx| {
            for (at, attempt) in under_way.iter_mut().enumerate() {
                if let Poll::Ready(outcome) = attempt.as_mut().poll(cx) {
                    return Poll::Ready((at, outcome));
                }
            }
            Poll::Pending
        });
        let ended = match another {
            true => ring::timeout(pace.stagger, ended).await.ok(),
            false => Some(ended.await),
        };
        match ended {
            None => {}
            Some((_, Ok(done))) => return Ok(done),
            Some((_, Err(failure))) if ends(&failure) => return Err(Some(failure)),
            Some((at, Err(failure))) => {
                drop(under_way.swap_remove(at));
                failed = Some(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;
    use std::rc::Rc;

    use super::*;
    use crate::ring::testing::on_shard;

    const HURRIED: Pace = Pace { stagger: Duration::from_millis(1), at_once: 2 };

    /// Counts one that ends, however it ends.
    struct Leaves(Rc<Cell<u32>>);

    impl Drop for Leaves {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn one_that_is_slow_does_not_hold_back_the_next_and_is_dropped_when_that_wins() {
        on_shard(|| async {
            let left = Rc::new(Cell::new(0));
            let begin = |at: u32| {
                let leaves = Leaves(Rc::clone(&left));
                async move {
                    let _leaves = leaves;
                    match at {
                        0 => pending().await,
                        at => Ok::<u32, ()>(at),
                    }
                }
            };
            let mut next = (0..4).peekable();
            assert_eq!(race(&mut next, begin, |_| false, HURRIED).await, Ok(1));
            assert_eq!(left.get(), 2, "the slow one too");
            assert_eq!(next.collect::<Vec<_>>(), [2, 3]);
        });
    }

    #[test]
    fn failures_make_room_at_once_and_the_last_is_told() {
        on_shard(|| async {
            let patient = Pace { stagger: Duration::from_secs(3_600), at_once: 1 };
            let mut next = (0..3).peekable();
            let all_fail = race(&mut next, |at| async move { Err::<(), u32>(at) }, |_| false, patient);
            assert_eq!(all_fail.await, Err(Some(2)));
            let mut none = std::iter::empty::<u32>().peekable();
            assert_eq!(
                race(&mut none, |at| async move { Err::<(), u32>(at) }, |_| false, patient).await,
                Err(None)
            );
            let mut next = (0..3).peekable();
            let ended = race(&mut next, |at| async move { Err::<(), u32>(at) }, |at| *at == 1, patient).await;
            assert_eq!((ended, next.next()), (Err(Some(1)), Some(2)));
        });
    }

    #[test]
    fn no_more_go_on_at_once_than_the_bound() {
        on_shard(|| async {
            let begun = RefCell::new(Vec::new());
            let begin = |at: u32| {
                begun.borrow_mut().push(at);
                pending::<Result<(), ()>>()
            };
            let mut next = (0..9).peekable();
            let racing = race(&mut next, begin, |_| false, HURRIED);
            assert!(ring::timeout(Duration::from_millis(50), racing).await.is_err(), "it waits");
            assert_eq!(*begun.borrow(), [0, 1]);
        });
    }
}
