//! What may stop a connection while it works or waits for another process's lock.
//!
//! Invariant: the first reason that stopped a work is the one its caller is told. SQLite asks us
//! every [`STEPS`] steps of its machine and before each retry of a lock; nothing else interrupts it.

use crate::request::Patience;
use crate::SqliteError;
use macula_core::{Cancel, Clock};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Steps of SQLite's virtual machine between two questions: some ten microseconds.
pub(crate) const STEPS: i32 = 1000;
/// What a hot work may take of them: some 50 us.
const HOT_QUESTIONS: u8 = 2;
const TICK: Duration = Duration::from_millis(5);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(16);

/// Called now and then while the connection is busy, to look after who waits behind it.
pub(crate) type Tick = Box<dyn Fn(Duration) + Send + Sync>;

pub(crate) struct Watch {
    clock: Arc<dyn Clock>,
    closing: Arc<AtomicBool>,
    tick: Tick,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    patience: Option<Patience>,
    lock_wait: Duration,
    lock_since: Option<Duration>,
    stopped: Option<SqliteError>,
    ticked: Duration,
    /// On a scheduler of the VM: no lock is waited for, and SQLite asks so many times at most.
    hot: Option<u8>,
    interrupted: bool,
    /// What the work waits for is waited for until then.
    wait: Option<Cancel>,
}

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>, closing: Arc<AtomicBool>, tick: Tick) -> Arc<Self> {
        Arc::new(Self { clock, closing, tick, state: Mutex::default() })
    }

    /// Begin a work: until `patience` ends, waiting for a foreign lock at most `lock_wait` if it has no deadline.
    pub(crate) fn begin(&self, patience: Patience, lock_wait: Duration) {
        let mut state = self.state.lock();
        *state = State { patience: Some(patience), lock_wait, ticked: state.ticked, ..State::default() };
    }

    /// Begin a work that may neither wait nor take long.
    pub(crate) fn begin_hot(&self) {
        let mut state = self.state.lock();
        *state = State { hot: Some(HOT_QUESTIONS), ticked: state.ticked, ..State::default() };
    }

    /// As [`Watch::end`]; whether the work took too long.
    pub(crate) fn end_hot(&self) -> bool {
        let was_long = self.state.lock().hot == Some(u8::MAX);
        self.end();
        was_long
    }

    /// Stop the work that is under way; whether there is one.
    pub(crate) fn interrupt(&self) -> bool {
        let mut state = self.state.lock();
        state.interrupted = state.patience.is_some();
        state.wait.iter().for_each(Cancel::cancel);
        state.interrupted
    }

    /// The work is going to wait for something until `stop`, which an interrupt and a closing cancel.
    pub(crate) fn wait_with(&self, stop: Cancel) {
        let mut state = self.state.lock();
        if state.interrupted || self.closing.load(Ordering::Acquire) {
            stop.cancel();
        }
        state.wait = Some(stop);
    }

    /// The work is over: nothing stops what follows (a commit, a rollback), and no lock is waited for. Whether
    /// it was interrupted, perhaps too late to notice.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        let interrupted = state.interrupted;
        *state = State { stopped: state.stopped.take(), ticked: state.ticked, ..State::default() };
        interrupted
    }

    /// Why the last work was stopped, once.
    pub(crate) fn take_stopped(&self) -> Option<SqliteError> {
        self.state.lock().stopped.take()
    }

    /// Whether SQLite must stop now.
    pub(crate) fn must_stop(&self) -> bool {
        let mut state = self.state.lock();
        if let Some(left) = state.hot {
            // below nothing: it was stopped
            state.hot = Some(left.wrapping_sub(1));
            return left == 0 || left == u8::MAX;
        }
        let now = self.clock.monotonic();
        let stop = self.verdict(&state, now);
        let stops = stop.is_some();
        if stops && state.stopped.is_none() {
            state.stopped = stop;
        }
        self.tick_when_due(state, now);
        stops
    }

    /// Whether SQLite shall try a lock again; pauses before it says so.
    pub(crate) fn must_retry_lock(&self, tries: i32) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        if state.hot.is_some() {
            return false;
        }
        if tries == 0 {
            // of another lock than the last
            state.lock_since = None;
        }
        let since = *state.lock_since.get_or_insert(now);
        let waited = now.saturating_sub(since);
        let patient = match state.patience.as_ref().and_then(|patience| patience.deadline) {
            Some(deadline) => now < deadline,
            None => waited < state.lock_wait,
        };
        let stop = self.verdict(&state, now).filter(|stop| !matches!(stop, SqliteError::Timeout(_)));
        if let Some(stop) = stop {
            state.stopped.get_or_insert(stop);
            return false;
        }
        if !patient {
            let waited_ms = waited.as_millis() as u64;
            state.stopped.get_or_insert(SqliteError::LockedByOther { waited_ms, holders: String::new() });
            return false;
        }
        self.tick_when_due(state, now);
        self.clock.sleep(Duration::from_millis(1 << tries.clamp(0, 4)).min(LOCK_PAUSE_MAX));
        true
    }

    fn verdict(&self, state: &State, now: Duration) -> Option<SqliteError> {
        let patience = state.patience.as_ref()?;
        if self.closing.load(Ordering::Acquire) {
            return Some(SqliteError::Closed("the database was closed"));
        }
        if state.interrupted {
            return Some(SqliteError::Cancelled);
        }
        patience.verdict(now, "running")
    }

    fn tick_when_due(&self, mut state: parking_lot::MutexGuard<'_, State>, now: Duration) {
        if now.saturating_sub(state.ticked) >= TICK {
            state.ticked = now;
            drop(state);
            (self.tick)(now);
        }
    }
}
