//! State of the request that is being handled: the list so far, slots, completions.
//!
//! One handler runs at a time, so one cell per thread is enough. It is borrowed inside [`with`] alone, never while the
//! author's code runs.

use std::cell::{Cell, RefCell};

use handlers_sdk_abi::View;
use handlers_sdk_abi::code::{Level, Status};
use handlers_sdk_abi::limits::{LOG_BYTES_MAX, LOG_LINES_MAX, SLOTS_MAX};
use handlers_sdk_abi::{ActionWriter, Operation, Slots};

use crate::body::Watch;
use crate::outcome::clip;

#[derive(Default)]
pub(crate) struct Call {
    pub(crate) list: ActionWriter,
    pub(crate) busy: Slots,
    /// The request was sent, and the handler waits for its answer.
    pub(crate) sent: bool,
    /// The answer that has come.
    pub(crate) answer: Option<View<'static>>,
    done: [Option<(Status, Vec<u8>)>; SLOTS_MAX as usize],
    lines: usize,
    line_bytes: usize,
}

const DROPPED: &str = "further lines of this event were dropped";

impl Call {
    pub(crate) fn log(&mut self, level: Level, text: &str) {
        // The last line, and its bytes, are kept for saying that there were more.
        if self.lines >= LOG_LINES_MAX {
            return;
        }
        let room = LOG_BYTES_MAX - DROPPED.len() - self.line_bytes;
        if self.lines + 1 == LOG_LINES_MAX || room == 0 {
            self.list.log(Level::Warn, DROPPED);
            self.lines = LOG_LINES_MAX;
            return;
        }
        let text = clip(text, room);
        self.list.log(level, text);
        self.lines += 1;
        self.line_bytes += text.len();
    }

    /// Starts an operation, or answers nothing where every slot is busy.
    pub(crate) fn start(&mut self, operation: &Operation<'_>) -> Option<u8> {
        let slot = self.busy.free()?;
        self.busy = self.busy.take(slot)?;
        self.list.start(slot, operation);
        Some(slot)
    }

    pub(crate) fn complete(&mut self, slot: u8, status: Status, bytes: &[u8]) {
        self.busy = self.busy.release(slot);
        if let Some(done) = self.done.get_mut(usize::from(slot)) {
            *done = Some((status, bytes.to_vec()));
        }
    }

    pub(crate) fn take(&mut self, slot: u8) -> Option<(Status, Vec<u8>)> {
        self.done.get_mut(usize::from(slot))?.take()
    }

    /// The list of this event; slots stay as they are.
    pub(crate) fn take_list(&mut self) -> ActionWriter {
        (self.lines, self.line_bytes) = (0, 0);
        core::mem::take(&mut self.list)
    }
}

thread_local! {
    static CALL: RefCell<Call> = RefCell::default();
    // Cells that are emptied while the author's code runs, so nothing is borrowed meanwhile.
    static UP: Cell<Option<Watch>> = const { Cell::new(None) };
    static DOWN: Cell<Option<Watch>> = const { Cell::new(None) };
}

/// Forgets the request before.
pub(crate) fn begin() {
    with(|call| *call = Call { list: core::mem::take(&mut call.list), ..Call::default() });
    with(|call| call.list.clear());
    UP.set(None);
    DOWN.set(None);
}

/// What watches the request's body from now on.
pub(crate) fn watch_up(watch: Watch) {
    UP.set(Some(watch));
}

/// What watches the answer's body from now on.
pub(crate) fn watch_down(watch: Watch) {
    DOWN.set(Some(watch));
}

/// What watches a body, taken out while it runs.
pub(crate) fn take_watch(up: bool) -> Option<Watch> {
    if up { UP.take() } else { DOWN.take() }
}

/// Works on the state of the current request. The closure must not run the author's code.
pub(crate) fn with<T>(work: impl FnOnce(&mut Call) -> T) -> T {
    CALL.with(|call| work(&mut call.borrow_mut()))
}
