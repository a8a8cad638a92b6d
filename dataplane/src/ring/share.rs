//! Who shares a shard has turns of it: who has had much waits until the others were served.
//!
//! Tasks of a shard run in the order in which they are woken, and each to its next wait. Where one sharer wakes hundreds
//! of tasks at once, everybody else's would wait behind all of them. So where much is woken and several share the shard,
//! what tasks take is measured: who has had its slice in this round waits in a line, and one after the other gets a slice
//! of the shard, between two looks at the ring. Who had less runs at once. Nothing is ever idle for it. Slices are short
//! only while somebody asks for little, since looks at the ring cost.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future::yield_now;

use crate::limits::{
    SHARE_CHARGE_MAX, SHARE_LITTLE, SHARE_MEMORY, SHARE_PARTS, SHARE_QUICK, SHARE_SLICE, SHARE_SLICE_LONG,
    SHARE_WINDOW,
};

/// The number of no sharer.
const NOBODY: u64 = 0;

/// Who shares a shard, and whose turn it is.
pub(super) struct Shares {
    /// When the driver looked last.
    now: Cell<Instant>,
    /// What tasks take is measured, and who had too much waits.
    measures: Cell<bool>,
    /// Tasks run as they are woken, because the ring ends.
    over: Cell<bool>,
    /// Whose task ran last, and when that changed.
    last: Cell<u64>,
    changed: Cell<Option<Instant>>,
    /// When the task began that runs, and how many of its parts went on unmeasured.
    began: Cell<Instant>,
    parts: Cell<u32>,
    /// When somebody ran at once who asks for little, while others waited.
    quick: Cell<Option<Instant>>,
    /// Each sharer gets a slice in a round.
    slice: Cell<Duration>,
    round: Cell<u64>,
    line: RefCell<VecDeque<Rc<Sharer>>>,
    sharers: Cell<u64>,
}

impl Shares {
    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(now),
            measures: Cell::new(false),
            over: Cell::new(false),
            last: Cell::new(NOBODY),
            changed: Cell::new(None),
            began: Cell::new(now),
            parts: Cell::new(0),
            quick: Cell::new(None),
            slice: Cell::new(SHARE_SLICE),
            round: Cell::new(0),
            line: RefCell::default(),
            sharers: Cell::new(0),
        })
    }

    /// The driver has woken so many.
    pub fn begin(&self, woken: usize, now: Instant) {
        self.now.set(now);
        let waits = !self.line.borrow().is_empty();
        if !waits {
            self.round.set(self.round.get() + 1);
        }
        self.measures.set(waits || (woken > 1 && self.is_shared()));
        if waits {
            let near = self.quick.get().is_some_and(|quick| now < quick + SHARE_QUICK);
            self.slice.set(if near { SHARE_SLICE } else { SHARE_SLICE_LONG });
        }
    }

    /// The shard has slept so long: what nobody wanted everybody might have had.
    pub fn rested(&self, slept: Duration) {
        let slices = slept.div_duration_f64(self.slice.get()) as u64;
        self.round.set(self.round.get() + slices);
    }

    /// Whether more than one had something to do of late.
    fn is_shared(&self) -> bool {
        let changed = self.changed.get();
        !self.over.get() && changed.is_some_and(|changed| self.now.get() < changed + SHARE_MEMORY)
    }

    /// Whether nobody waits for a turn.
    pub fn is_line_empty(&self) -> bool {
        self.line.borrow().is_empty()
    }

    /// Wakes the next who waits. False when nobody does.
    pub fn grant(&self) -> bool {
        let (mut line, mut passed) = (self.line.borrow_mut(), 0);
        while let Some(first) = line.front() {
            if first.waiting.borrow().is_empty() {
                first.in_line.set(false);
                line.pop_front();
                continue;
            }
            if first.had(self) < self.slice.get() {
                let waker = first.admit();
                drop(line);
                waker.into_iter().for_each(Waker::wake);
                return true;
            }
            passed += 1;
            line.rotate_left(1);
            if passed >= line.len() {
                // Everybody in the line has had a slice; who took far more than one lets the others go first.
                let rounds = line.iter().map(|sharer| sharer.rounds_ahead(self)).min();
                self.round.set(self.round.get() + rounds.unwrap_or(1).max(1));
                passed = 0;
            }
        }
        false
    }

    /// Lets everybody run, from now on.
    pub fn open(&self) {
        self.over.set(true);
        self.measures.set(false);
        for sharer in self.line.take() {
            sharer.in_line.set(false);
            while let Some(waker) = sharer.admit() {
                waker.wake();
            }
        }
    }
}

/// What is known of one sharer.
struct Sharer {
    number: u64,
    /// What it had by the end of a round, beyond its slices.
    had: Cell<Duration>,
    round: Cell<u64>,
    /// Its tasks that wait, and the ticket of the first.
    waiting: RefCell<VecDeque<Waker>>,
    first: Cell<u64>,
    in_line: Cell<bool>,
    /// What it had in this window of [`SHARE_WINDOW`] and in the one before, and when this one began.
    windows: Cell<[Duration; 2]>,
    since: Cell<Instant>,
}

impl Sharer {
    /// What it had in this round.
    fn had(&self, shares: &Shares) -> Duration {
        let passed = shares.round.get() - self.round.replace(shares.round.get());
        if passed > 0 {
            let slices = shares.slice.get().saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
            self.had.set(self.had.get().saturating_sub(slices));
        }
        self.had.get()
    }

    /// The most that it had in one of the last two windows, with `more` that it had now.
    fn lately(&self, now: Instant, more: Duration) -> Duration {
        let ([this, before], since) = (self.windows.get(), self.since.get());
        let windows = if now < since + SHARE_WINDOW {
            [this + more, before]
        } else {
            self.since.set(now);
            [more, if now < since + SHARE_WINDOW * 2 { this } else { Duration::ZERO }]
        };
        self.windows.set(windows);
        windows[0].max(windows[1])
    }

    /// Rounds after which it has less than a slice.
    fn rounds_ahead(&self, shares: &Shares) -> u64 {
        u64::try_from(self.had(shares).as_nanos() / shares.slice.get().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets the first of its tasks go; gives whom to wake.
    fn admit(&self) -> Option<Waker> {
        let waker = self.waiting.borrow_mut().pop_front()?;
        self.first.set(self.first.get() + 1);
        Some(waker)
    }
}

/// A part in a shard. Clones are the same part.
#[derive(Clone)]
pub struct Share {
    shares: Rc<Shares>,
    sharer: Rc<Sharer>,
}

impl Share {
    pub(super) fn of(shares: &Rc<Shares>) -> Self {
        shares.sharers.set(shares.sharers.get() + 1);
        let sharer = Sharer {
            number: shares.sharers.get(),
            had: Cell::default(),
            round: Cell::new(shares.round.get()),
            waiting: RefCell::default(),
            first: Cell::new(0),
            in_line: Cell::new(false),
            windows: Cell::default(),
            since: Cell::new(shares.now.get()),
        };
        Self { shares: Rc::clone(shares), sharer: Rc::new(sharer) }
    }

    /// Runs a future in the turns of this share.
    pub fn run<F: Future>(&self, future: F) -> InTurn<F> {
        InTurn { share: self.clone(), ticket: None, future }
    }

    /// Runs one of many futures of a task that is run in this share: none goes on in a turn that is spent.
    pub fn part<F: Future>(&self, future: F) -> Part<F> {
        Part { share: self.clone(), future }
    }

    /// Lets others run, where the task that runs in this share has had enough for now.
    pub async fn pause(&self) {
        if self.is_spent() {
            yield_now().await;
        }
    }

    fn is_spent(&self) -> bool {
        let shares = &self.shares;
        if shares.measures.get() {
            return shares.began.get().elapsed() >= shares.slice.get();
        }
        // One wake-up of a task may be for many parts, so few are let go on unmeasured.
        shares.parts.set(shares.parts.get() + 1);
        if shares.parts.get() < SHARE_PARTS || !shares.is_shared() {
            return false;
        }
        if shares.parts.get() == SHARE_PARTS {
            shares.began.set(Instant::now());
            return false;
        }
        let took = shares.began.get().elapsed();
        if took >= shares.slice.get() {
            shares.measures.set(true);
            self.charge(took, false);
        }
        took >= shares.slice.get()
    }

    /// Ready when one of its tasks may run: true where it had to wait for that. Else who waits is woken when it may.
    fn poll_turn(&self, ticket: &mut Option<u64>, cx: &Context<'_>) -> Poll<bool> {
        let Self { shares, sharer } = self;
        if let Some(number) = *ticket {
            let Some(place) = number.checked_sub(sharer.first.get()) else {
                *ticket = None;
                return Poll::Ready(true);
            };
            let mut waiting = sharer.waiting.borrow_mut();
            if let Some(waker) = usize::try_from(place).ok().and_then(|place| waiting.get_mut(place)) {
                waker.clone_from(cx.waker());
            }
            return Poll::Pending;
        }
        let last = shares.last.replace(sharer.number);
        if last != sharer.number && last != NOBODY {
            shares.changed.set(Some(shares.now.get()));
        }
        if !shares.measures.get() {
            return Poll::Ready(false);
        }
        let (mut waiting, now) = (sharer.waiting.borrow_mut(), shares.now.get());
        if waiting.is_empty() && sharer.had(shares) < shares.slice.get() {
            if !shares.line.borrow().is_empty() && sharer.lately(now, Duration::ZERO) < SHARE_LITTLE {
                shares.quick.set(Some(now));
            }
            return Poll::Ready(false);
        }
        *ticket = Some(sharer.first.get() + waiting.len() as u64);
        waiting.push_back(cx.waker().clone());
        if !sharer.in_line.replace(true) {
            shares.line.borrow_mut().push_back(Rc::clone(sharer));
        }
        Poll::Pending
    }

    /// Counts what a task took. Where it had waited for its turn and the slice is not over, the next goes on.
    fn charge(&self, took: Duration, waited: bool) {
        let took = took.min(SHARE_CHARGE_MAX);
        let _most = self.sharer.lately(self.shares.now.get(), took);
        let had = self.sharer.had(&self.shares) + took;
        self.sharer.had.set(had);
        if waited && had < self.shares.slice.get() {
            self.sharer.admit().into_iter().for_each(Waker::wake);
        }
    }
}

pin_project_lite::pin_project! {
    /// A future that runs in the shares of a share. Made by [`Share::run`].
    pub struct InTurn<F> {
        share: Share,
        ticket: Option<u64>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(waited) = this.share.poll_turn(this.ticket, cx) else { return Poll::Pending };
        let shares = &this.share.shares;
        if !shares.measures.get() {
            shares.parts.set(0);
            return this.future.poll(cx);
        }
        let began = Instant::now();
        shares.began.set(began);
        let outcome = this.future.poll(cx);
        this.share.charge(began.elapsed(), waited);
        outcome
    }
}

pin_project_lite::pin_project! {
    /// One of many futures of a task. Made by [`Share::part`].
    pub struct Part<F> {
        share: Share,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Part<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.share.is_spent() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.project().future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Wake,
    };

    use super::*;
    use crate::ring::{Ring, sleep, testing::on_shard};

    /// More than this wakes in one turn, so what runs is measured.
    const MANY: usize = 100;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A task of a share that takes so long each time, and goes on for ever.
    struct Task {
        share: Share,
        ticket: Option<u64>,
        time: Duration,
        woken: Arc<Woken>,
    }

    impl Task {
        fn of(share: &Share, time: Duration) -> Self {
            Self { share: share.clone(), ticket: None, time, woken: Arc::default() }
        }

        /// Polls it as [`InTurn`] does, with a clock of its own; says whether it ran.
        fn poll(&mut self) -> bool {
            self.woken.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&self.woken));
            let ready = self.share.poll_turn(&mut self.ticket, &Context::from_waker(&waker));
            if let (Poll::Ready(waited), true) = (ready, self.share.shares.measures.get()) {
                self.share.charge(self.time, waited);
            }
            ready.is_ready()
        }

        fn is_woken(&self) -> bool {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    /// Two who share a shard, of which both had something to do; slices are short.
    fn shared() -> (Rc<Shares>, Share, Share) {
        let shares = Shares::new(Instant::now());
        let (one, other) = (Share::of(&shares), Share::of(&shares));
        for share in [&one, &other] {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(pin!(share.run(ready(()))).poll(&mut cx).is_ready());
        }
        shares.quick.set(Some(Instant::now()));
        (shares, one, other)
    }

    /// The next turn, of which all are polled that were woken by it; says which ran.
    fn turn(shares: &Shares, tasks: &mut [Task]) -> Vec<usize> {
        shares.begin(0, Instant::now());
        assert!(shares.grant(), "somebody waits");
        let mut ran = Vec::new();
        while let Some(next) = tasks.iter().position(Task::is_woken) {
            if tasks[next].poll() {
                ran.push(next);
            }
        }
        ran
    }

    #[test]
    fn who_had_a_slice_waits_and_who_had_none_runs_at_once() {
        let (shares, loud, quiet) = shared();
        shares.begin(MANY, Instant::now());
        let mut flood: Vec<Task> = (0..3).map(|_| Task::of(&loud, SHARE_SLICE)).collect();
        let ran: Vec<bool> = flood.iter_mut().map(Task::poll).collect();
        assert_eq!(ran, [true, false, false]);
        assert!(Task::of(&quiet, SHARE_SLICE).poll());
        // One slice at a time, between two looks at the ring.
        assert_eq!(turn(&shares, &mut flood), [1]);
        assert_eq!(turn(&shares, &mut flood), [2]);
        assert!(!shares.grant());
        shares.begin(0, Instant::now());
        assert!(!shares.measures.get());
    }

    #[test]
    fn time_in_which_the_shard_slept_pays_what_was_taken_before() {
        for (slept, runs) in [(SHARE_SLICE * 2, false), (SHARE_SLICE * 30, true)] {
            let (shares, loud, _) = shared();
            shares.begin(MANY, Instant::now());
            assert!(Task::of(&loud, SHARE_SLICE * 20).poll());
            shares.rested(slept);
            shares.begin(MANY, Instant::now());
            assert_eq!(Task::of(&loud, SHARE_SLICE).poll(), runs, "{slept:?}");
        }
    }

    #[test]
    fn who_is_alone_never_waits() {
        let shares = Shares::new(Instant::now());
        let share = Share::of(&shares);
        shares.begin(MANY, Instant::now());
        assert!((0..10).all(|_| Task::of(&share, SHARE_SLICE).poll()));
        assert!(!shares.grant());
        // The other was there long ago.
        let (shares, one, _) = shared();
        shares.begin(MANY, Instant::now() + SHARE_MEMORY);
        assert!((0..10).all(|_| Task::of(&one, SHARE_SLICE).poll()));
    }

    #[test]
    fn nothing_is_measured_while_little_happens() {
        let (shares, one, _) = shared();
        shares.begin(1, Instant::now());
        assert!((0..10).all(|_| Task::of(&one, SHARE_SLICE).poll()));
        assert_eq!(one.sharer.had.get(), Duration::ZERO);
    }

    #[test]
    fn several_that_have_much_to_do_take_turns() {
        let (shares, one, other) = shared();
        shares.begin(MANY, Instant::now());
        let mut tasks: Vec<Task> =
            [&one, &one, &one, &other, &other, &other].map(|share| Task::of(share, SHARE_SLICE)).into();
        tasks.iter_mut().for_each(|task| _ = task.poll());
        let order: Vec<usize> = (0..4).flat_map(|_| turn(&shares, &mut tasks)).collect();
        // Each once in a round.
        assert_eq!(order, [1, 4, 5, 2]);
    }

    #[test]
    fn slices_are_long_until_somebody_asks_for_little() {
        let (shares, one, other) = shared();
        shares.quick.set(None);
        shares.begin(MANY, Instant::now());
        let mut tasks: Vec<Task> = (0..8).map(|_| Task::of(&one, SHARE_SLICE_LONG / 4)).collect();
        tasks.iter_mut().for_each(|task| _ = task.poll());
        // The first of them ran at once.
        assert_eq!(turn(&shares, &mut tasks), [1, 2, 3]);
        // One that had much a moment ago asks for much, though none of its tasks wait now.
        other.charge(SHARE_LITTLE, false);
        shares.begin(0, Instant::now());
        shares.round.set(shares.round.get() + 100);
        assert!(Task::of(&other, Duration::ZERO).poll());
        assert_eq!(shares.quick.get(), None);
        let third = Share::of(&shares);
        assert!(Task::of(&third, Duration::ZERO).poll());
        assert!(shares.quick.get().is_some());
        assert_eq!(turn(&shares, &mut tasks), [4]);
    }

    #[test]
    fn who_took_more_than_a_slice_lets_others_have_as_much() {
        let (shares, one, other) = shared();
        shares.begin(MANY, Instant::now());
        let mut tasks = vec![Task::of(&one, SHARE_SLICE * 10), Task::of(&one, SHARE_SLICE)];
        tasks.extend((0..8).map(|_| Task::of(&other, SHARE_SLICE)));
        // Ten slices of the one stand against nine of the other: the first that ran at once, and eight that wait.
        tasks.iter_mut().for_each(|task| _ = task.poll());
        let order: Vec<usize> = (0..8).flat_map(|_| turn(&shares, &mut tasks)).collect();
        assert_eq!(order, [3, 4, 5, 6, 7, 8, 9, 1]);
    }

    #[test]
    fn short_tasks_share_a_slice() {
        let (shares, one, other) = shared();
        shares.begin(MANY, Instant::now());
        let mut tasks = vec![Task::of(&one, SHARE_SLICE)];
        tasks.extend((0..3).map(|_| Task::of(&one, SHARE_SLICE / 2)));
        tasks.iter_mut().for_each(|task| _ = task.poll());
        assert!(Task::of(&other, SHARE_SLICE).poll());
        assert_eq!(turn(&shares, &mut tasks), [1, 2]);
        assert_eq!(turn(&shares, &mut tasks), [3]);
    }

    #[test]
    fn who_waits_is_woken_once_and_a_dropped_one_holds_up_nobody() {
        let (shares, one, _) = shared();
        shares.begin(MANY, Instant::now());
        let mut tasks: Vec<Task> = (0..3).map(|_| Task::of(&one, SHARE_SLICE)).collect();
        tasks.iter_mut().for_each(|task| _ = task.poll());
        assert!(!tasks[1].poll() && !tasks[1].poll(), "it keeps its one place");
        tasks.remove(1);
        assert!(turn(&shares, &mut tasks).is_empty());
        assert_eq!(turn(&shares, &mut tasks), [1]);
        assert!(!shares.grant());
    }

    #[test]
    fn everybody_goes_on_when_the_ring_ends() {
        let (shares, one, _) = shared();
        shares.begin(MANY, Instant::now());
        let mut tasks: Vec<Task> = (0..3).map(|_| Task::of(&one, SHARE_SLICE)).collect();
        tasks.iter_mut().for_each(|task| _ = task.poll());
        shares.open();
        assert!(tasks[1..].iter_mut().all(|task| task.is_woken() && task.poll() && task.poll()));
        shares.begin(MANY, Instant::now());
        assert!(tasks.iter_mut().all(|task| task.poll() && task.poll()));
    }

    #[test]
    fn a_task_of_many_parts_is_measured_although_nothing_else_was_woken() {
        let (shares, one, other) = shared();
        shares.begin(1, Instant::now());
        let done = Cell::new(0);
        let mut parts = pin!(one.run(async {
            loop {
                one.part(async {
                    let began = Instant::now();
                    while began.elapsed() < SHARE_SLICE {}
                    done.set(done.get() + 1);
                })
                .await;
            }
        }));
        assert!(parts.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(done.get(), SHARE_PARTS);
        assert!(!Task::of(&one, SHARE_SLICE).poll() && Task::of(&other, SHARE_SLICE).poll());
    }

    #[test]
    fn on_a_shard_who_is_woken_behind_a_flood_runs_before_it() {
        const PAUSE: Duration = Duration::from_millis(40);
        let order = on_shard(|| async {
            let (loud, quiet) = (Ring::current().share(), Ring::current().share());
            let (order, start) = (Rc::new(RefCell::new(String::new())), Instant::now());
            let task = |share: &Share, name: char, time: Duration| {
                let order = Rc::clone(&order);
                glommio::spawn_local(share.run(async move {
                    // All in one turn, twice.
                    for due in [start + PAUSE, start + PAUSE * 2] {
                        sleep(due.saturating_duration_since(Instant::now())).await;
                        let began = Instant::now();
                        while began.elapsed() < time {}
                        order.borrow_mut().push(name);
                    }
                }))
                .detach()
            };
            let mut tasks = vec![task(&quiet, 'q', Duration::ZERO)];
            tasks.extend((0..40).map(|_| task(&loud, 'l', SHARE_SLICE * 2)));
            tasks.push(task(&quiet, 'q', Duration::ZERO));
            for task in tasks {
                task.await;
            }
            order.take()
        });
        // In the first of both shares nobody knows yet that the shard is shared, or that much is to be done.
        let second = &order[42..];
        assert!(second.rfind('q').is_some_and(|place| place < 4), "{order}");
    }

    #[test]
    fn a_task_of_many_parts_stops_where_its_slice_is_over() {
        let (shares, one, _) = shared();
        shares.begin(MANY, Instant::now());
        let (share, done) = (one.clone(), Cell::new(0));
        let mut parts = pin!(one.run(async {
            loop {
                share.pause().await;
                let began = Instant::now();
                while began.elapsed() < SHARE_SLICE {}
                done.set(done.get() + 1);
            }
        }));
        let mut poll = || {
            let _pending = parts.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            done.get()
        };
        assert_eq!((poll(), poll()), (1, 1), "it waits for its turn");
        shares.begin(0, Instant::now());
        assert!(shares.grant());
        assert_eq!((poll(), poll()), (2, 2));
    }
}
