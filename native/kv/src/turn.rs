//! An exclusive turn: one caller reads and writes alone while the store's queue waits for it.
//!
//! Invariant: a turn ends once, by commit, abort, cancel, deadline or closing, under its lock; what
//! ends it first decides, and later calls answer with that. Its writes are in memory until commit;
//! what it reads from it holds until its end, whoever keeps it longer.

use crate::base::short_enough;
use crate::batch::{check_key, check_value, Batch, Committed, Op};
use crate::reply::Reply;
use crate::shared::Shared;
use crate::table::{Written, NEVER_MS};
use crate::view::{count, page, Counted, KeyRange, Page, PageLimits, View, Writes};
use crate::KvError;
use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{fence, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How a turn ended, for the writer.
pub(crate) enum End {
    Commit(Batch, Reply<Committed>),
    Abort,
}

/// Shared by the caller and the store.
pub(crate) struct Turn {
    state: Mutex<State>,
    store: Weak<Shared>,
    /// On the store's monotonic clock.
    pub until: Duration,
    bytes_max: usize,
    /// How it is to end, [`GOES_ON`] at first. Set before the lock is tried, looked at after it is given
    /// back: one of the two sees it.
    ending: AtomicU8,
}

const GOES_ON: u8 = 0;
const CANCELLED: u8 = 1;
const TIMED_OUT: u8 = 2;

fn why(ending: u8) -> Option<KvError> {
    match ending {
        GOES_ON => None,
        CANCELLED => Some(KvError::Cancelled),
        _ => Some(KvError::Timeout),
    }
}

struct State {
    /// Nobody else writes before its end, so that a newer view of the same content may take its place.
    view: Option<View>,
    /// Why no call is possible any more.
    over: Option<KvError>,
    writes: Writes,
    cleared: bool,
    bytes: usize,
}

impl Turn {
    pub fn new(view: View, store: Weak<Shared>, until: Duration, bytes_max: usize) -> Self {
        let state = State { view: Some(view), over: None, writes: Writes::new(), cleared: false, bytes: 0 };
        Self { state: Mutex::new(state), store, until, bytes_max, ending: AtomicU8::new(GOES_ON) }
    }

    /// End it with `why`, if it did not end before. The store is not told.
    pub fn stop(&self, why: KvError) -> bool {
        let stopped = self.state.lock().stop(why);
        self.let_go(stopped)
    }

    /// End it with `why`, if it did not end before; the next writer has its turn.
    fn abort(&self, why: KvError) {
        if self.stop(why) {
            self.tell(End::Abort);
        }
    }

    /// Free what it read from and wrote, where nobody waits. Whether it ended.
    fn let_go(&self, ended: Option<Ended>) -> bool {
        let Some(ended) = ended else { return false };
        match self.store.upgrade() {
            Some(store) => store.threads.dispose(Box::new(ended)),
            None => drop(ended),
        }
        true
    }

    fn tell(&self, end: End) {
        if let Some(store) = self.store.upgrade() {
            store.end_turn(self, end);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T, KvError>) -> Result<T, KvError> {
        let result = {
            let mut state = self.state.lock();
            match &state.over {
                Some(why) => Err(why.clone()),
                None => act(&mut state),
            }
        };
        fence(Ordering::SeqCst);
        if let Some(why) = why(self.ending.load(Ordering::SeqCst)) {
            self.abort(why);
        }
        result
    }

    /// As [`Turn::with`], for what is read, and as [`Shared::read`]: again when redb was opened anew.
    fn read<T>(&self, look: impl Fn(&State, &View) -> Result<T, KvError>) -> Result<T, KvError> {
        self.with(|state| loop {
            let view = state.view.as_ref().ok_or(KvError::Closed)?;
            let result = look(state, view);
            match (&result, self.store.upgrade()) {
                (Err(error), Some(store)) if store.is_passing(error, view) => {
                    std::thread::yield_now();
                    state.view = Some(store.view()?);
                }
                _ => return result,
            }
        })
    }

    /// As [`Turn::abort`], without waiting for a call that is reading.
    fn end_soon(&self, ending: u8) {
        let _ = self.ending.compare_exchange(GOES_ON, ending, Ordering::SeqCst, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let stopped = match (self.state.try_lock(), why(ending)) {
            (Some(mut state), Some(why)) => state.stop(why),
            _ => None,
        };
        if self.let_go(stopped) {
            self.tell(End::Abort);
        }
    }

    /// Its deadline passed.
    pub fn time_out(&self) {
        self.end_soon(TIMED_OUT);
    }
}

/// What a turn held until its end.
type Ended = (Option<View>, Writes);

impl State {
    fn finish(&mut self, why: KvError) -> Ended {
        self.over = Some(why);
        (self.view.take(), std::mem::take(&mut self.writes))
    }

    /// What it held, if this ended it.
    fn stop(&mut self, why: KvError) -> Option<Ended> {
        self.over.is_none().then(|| self.finish(why))
    }

    fn has(&self, view: &View, key: &[u8]) -> Result<bool, KvError> {
        match self.writes.get(key) {
            Some(written) => Ok(view.live(written).is_some()),
            None if self.cleared => Ok(false),
            None => view.has(key),
        }
    }

    fn expires_ms(&self, view: &View, key: &[u8]) -> Result<Option<u64>, KvError> {
        match self.writes.get(key) {
            Some(written) => Ok(view.live(written).map(|_| written.expires_ms)),
            None if self.cleared => Ok(None),
            None => view.expires_ms(key),
        }
    }

    fn len(&self, view: &View) -> Result<u64, KvError> {
        let mut len = if self.cleared { 0 } else { view.len()? };
        for (key, written) in &self.writes {
            let had = !self.cleared && view.expiry(key)?.is_some();
            len = len + u64::from(written.value.is_some()) - u64::from(had);
        }
        Ok(len)
    }

    fn write(&mut self, turn: &Turn, key: &[u8], value: Option<&[u8]>, expires_ms: u64) -> Result<(), KvError> {
        let old = self.writes.get(key).map_or(0, |old| weight(key, old.value.as_deref()));
        let bytes = self.bytes - old + weight(key, value);
        if bytes > turn.bytes_max {
            let (len, len_max) = (bytes as u64, turn.bytes_max as u64);
            return Err(KvError::TooLarge { what: "transaction", len, len_max });
        }
        self.bytes = bytes;
        self.writes.insert(key.to_vec(), Written { value: value.map(<[u8]>::to_vec), expires_ms });
        Ok(())
    }
}

fn weight(key: &[u8], value: Option<&[u8]>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len) + 64
}

/// The caller's side of an exclusive turn. Dropped without an end it is aborted. After its deadline
/// every call answers [`KvError::Timeout`], and the next writer has its turn.
pub struct Tx(Arc<Turn>);

impl Tx {
    pub(crate) fn new(turn: Arc<Turn>) -> Self {
        Self(turn)
    }

    /// The value of a key, own writes included.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.get_with(key, usize::MAX, <[u8]>::to_vec)
    }

    /// As [`crate::Store::get_with`], own writes included.
    pub fn get_with<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        // what is read again was not found before
        let f = Cell::new(Some(f));
        let once = |value: &[u8]| f.take().map(|f| f(value));
        let found = self.0.read(|state, view| match state.writes.get(key) {
            Some(written) => match view.live(written) {
                Some(value) => short_enough(value.len(), len_max).map(|()| Some(once(value))),
                None => Ok(None),
            },
            None if state.cleared => Ok(None),
            None => view.find(key, len_max, once),
        })?;
        Ok(found.flatten())
    }

    /// Whether a key is there, own writes included.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.0.read(|state, view| state.has(view, key))
    }

    /// As [`crate::Store::expires_ms`], own writes included.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        self.0.read(|state, view| state.expires_ms(view, key))
    }

    /// A part of a range, own writes included; see [`crate::Snapshot::page`].
    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        self.0.read(|state, view| page(view, &state.writes, state.cleared, range, reverse, limits))
    }

    /// Of a part of a range, own writes included; see [`crate::Snapshot::count`].
    pub fn count(&self, range: &KeyRange, entries_max: u64) -> Result<Counted, KvError> {
        self.0.read(|state, view| count(view, &state.writes, state.cleared, range, entries_max))
    }

    /// Entries, own writes included. Looks at each write, and at what [`crate::Store::len`] looks at.
    pub fn len(&self) -> Result<u64, KvError> {
        self.0.read(|state, view| state.len(view))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> Result<bool, KvError> {
        Ok(self.len()? == 0)
    }

    /// Set a key. [`KvError::TooLarge`] when key, value or all writes together are too long.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        check_key(key).and_then(|()| check_value(value))?;
        self.0.with(|state| state.write(&self.0, key, Some(value), NEVER_MS))
    }

    /// As [`Tx::put`], gone at `expires_ms` (wall clock, milliseconds since 1970).
    pub fn put_until(&self, key: &[u8], value: &[u8], expires_ms: u64) -> Result<(), KvError> {
        check_key(key).and_then(|()| check_value(value))?;
        self.0.with(|state| state.write(&self.0, key, Some(value), expires_ms))
    }

    /// Remove a key; nothing there is fine.
    pub fn delete(&self, key: &[u8]) -> Result<(), KvError> {
        check_key(key)?;
        self.0.with(|state| state.write(&self.0, key, None, NEVER_MS))
    }

    /// Remove everything.
    pub fn clear(&self) -> Result<(), KvError> {
        self.0.with(|state| {
            (state.writes, state.cleared, state.bytes) = (Writes::new(), true, 0);
            Ok(())
        })
    }

    /// Hand the writes to the store, which answers `reply` when they are durable. On an
    /// error here, `reply` is never called. Later calls answer [`KvError::Closed`].
    pub fn commit(&self, reply: Box<dyn FnOnce(Result<Committed, KvError>) + Send>) -> Result<(), KvError> {
        self.0.with(|state| {
            let (view, writes) = state.finish(KvError::Closed);
            self.0.let_go(Some((view, Writes::new())));
            let clear = state.cleared.then_some(Op::Clear);
            let changes = writes.into_iter().map(|(key, Written { value, expires_ms })| match value {
                Some(value) if expires_ms == NEVER_MS => Op::Put { key, value },
                Some(value) => Op::PutUntil { key, value, expires_ms },
                None => Op::Delete { key },
            });
            let batch = Batch { ops: clear.into_iter().chain(changes).collect(), ..Batch::default() };
            self.0.tell(End::Commit(batch, Reply::new(reply)));
            Ok(())
        })
    }

    /// As [`Tx::commit`], waiting.
    pub fn commit_wait(&self) -> Result<Committed, KvError> {
        crate::store::wait(|reply| self.commit(reply))
    }

    /// End it without a trace.
    pub fn abort(&self) {
        self.0.abort(KvError::Closed);
    }

    /// As [`Tx::abort`], from anywhere, when its owner is gone: never waits, and later calls answer
    /// [`KvError::Cancelled`].
    pub fn cancel(&self) {
        self.0.end_soon(CANCELLED);
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.abort();
    }
}
