//! Ties the connections of one sandbox together, so that all of them can be ended in one turn.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// All connections of one sandbox.
#[derive(Default)]
pub struct Ties {
    cuts: Cell<u64>,
    places: RefCell<Places>,
}

/// Who waits, by place; places are used again.
#[derive(Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Ties {
    /// Ties one more connection, until the tie is dropped.
    pub fn tie(self: &Rc<Self>) -> Tie {
        let mut places = self.places.borrow_mut();
        let place = places.free.pop().unwrap_or_else(|| {
            places.wakers.push(None);
            places.wakers.len() - 1
        });
        Tie { ties: Rc::clone(self), place, since: self.cuts.get() }
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        let places = self.places.borrow();
        places.wakers.len() - places.free.len()
    }

    /// There is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts every tie that exists now, and wakes who waits under one. Answers how many there were.
    pub fn cut(&self) -> usize {
        self.cuts.set(self.cuts.get() + 1);
        let waiting: Vec<Waker> =
            self.places.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        waiting.into_iter().for_each(Waker::wake);
        self.len()
    }
}

/// What one connection lives by.
pub struct Tie {
    ties: Rc<Ties>,
    place: usize,
    since: u64,
}

impl Tie {
    /// Whether the connection is to end.
    pub fn is_cut(&self) -> bool {
        self.ties.cuts.get() > self.since
    }

    /// What the future gives; nothing when the tie was cut before. One task waits at a time.
    pub fn hold<F: Future>(&self, future: F) -> Held<'_, F> {
        Held { tie: self, future }
    }

    fn wait_here(&self, waker: &Waker) {
        let place = &mut self.ties.places.borrow_mut().wakers[self.place];
        if !place.as_ref().is_some_and(|waiting| waiting.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }
}

pin_project_lite::pin_project! {
    /// A future under a tie. Made by [`Tie::hold`]; as an `async fn` it would have room for the future twice.
    pub struct Held<'a, F> {
        tie: &'a Tie,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Held<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.tie.is_cut() {
            return Poll::Ready(None);
        }
        this.tie.wait_here(cx.waker());
        this.future.poll(cx).map(Some)
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        let mut places = self.ties.places.borrow_mut();
        places.wakers[self.place] = None;
        places.free.push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn what_is_ready_is_given_until_the_cut() {
        let ties = Rc::new(Ties::default());
        let tie = ties.tie();
        assert_eq!(block_on(tie.hold(ready(7))), Some(7));
        assert_eq!(ties.cut(), 1);
        assert_eq!(block_on(tie.hold(ready(7))), None);
    }

    #[test]
    fn a_cut_ends_every_wait_and_no_later_connection() {
        let ties = Rc::new(Ties::default());
        let (first, second) = (ties.tie(), ties.tie());
        let mut waits = [Box::pin(first.hold(pending::<()>())), Box::pin(second.hold(pending::<()>()))];
        for wait in &mut waits {
            assert!(block_on(poll_once(wait)).is_none());
        }
        assert_eq!(ties.cut(), 2);
        let later = ties.tie();
        for wait in waits {
            assert_eq!(block_on(wait), None);
        }
        assert!(!later.is_cut() && first.is_cut() && second.is_cut());
    }

    #[test]
    fn a_place_is_used_again() {
        let ties = Rc::new(Ties::default());
        drop(ties.tie());
        let kept = ties.tie();
        assert_eq!((ties.len(), ties.places.borrow().wakers.len()), (1, 1));
        drop(kept);
        assert!(ties.is_empty());
    }
}
