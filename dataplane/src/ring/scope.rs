//! Tasks of a shard that end together.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Tasks that end together.
///
/// A task that has not ended when its executor does is leaked by glommio, with all that it holds: sockets, and the
/// last sender of a queue for whose end another thread waits.
#[derive(Clone, Default)]
pub struct Scope(Rc<State>);

#[derive(Default)]
struct State {
    ending: Cell<bool>,
    places: RefCell<Places>,
    ended: RefCell<Option<Waker>>,
}

/// The wakers of the tasks. A task has one for its whole life.
#[derive(Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Scope {
    /// Runs a task until it ends, or is dropped where it waits because the scope ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut places = self.0.places.borrow_mut();
        let index = places.free.pop().unwrap_or_else(|| {
            places.wakers.push(None);
            places.wakers.len() - 1
        });
        drop(places);
        let place = Place { state: Rc::clone(&self.0), index, known: false };
        glommio::spawn_local(Member { task: Some(task), place }).detach();
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        let places = self.0.places.borrow();
        places.wakers.len() - places.free.len()
    }

    /// Whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all tasks, those that are spawned from now on too, and waits until none is left. Not from one of them.
    pub async fn end(&self) {
        self.0.ending.set(true);
        let wakers: Vec<Waker> =
            self.0.places.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
        poll_fn(|cx| {
            if self.is_empty() {
                return Poll::Ready(());
            }
            self.0.ended.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// A task's place in its scope.
struct Place {
    state: Rc<State>,
    index: usize,
    known: bool,
}

impl Place {
    fn know(&mut self, waker: &Waker) {
        if !std::mem::replace(&mut self.known, true) {
            self.state.places.borrow_mut().wakers[self.index] = Some(waker.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.state.places.borrow_mut();
        let waker = places.wakers[self.index].take();
        places.free.push(self.index);
        let ended = if places.free.len() == places.wakers.len() { self.state.ended.take() } else { None };
        drop(places);
        drop(waker);
        if let Some(ended) = ended {
            ended.wake();
        }
    }
}

pin_project_lite::pin_project! {
    struct Member<F> {
        #[pin]
        task: Option<F>,
        place: Place,
    }
}

impl<F: Future<Output = ()>> Future for Member<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        this.place.know(cx.waker());
        if !this.place.state.ending.get()
            && let Some(task) = this.task.as_mut().as_pin_mut()
            && task.poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.task.set(None);
        Poll::Ready(())
    }
}
