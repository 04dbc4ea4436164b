//! An exclusive turn: one caller reads and writes alone while the store's queue waits for it.
//!
//! Invariant: a turn ends once, by commit, abort, cancel, deadline or closing, under its lock; what
//! ends it first decides, and later calls answer with that. Its writes are in memory until commit.

use crate::base::short_enough;
use crate::batch::{check_key, check_value, Batch, Committed, Op};
use crate::reply::Reply;
use crate::shared::Shared;
use crate::table::{Written, NEVER_MS};
use crate::view::{page, KeyRange, Page, PageLimits, View, Writes};
use crate::KvError;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How a turn ended, for the writer.
pub(crate) enum End {
    Commit(Batch, Reply<Committed>),
    Abort,
}

/// Shared by the caller and the store.
pub(crate) struct Turn {
    view: View,
    state: Mutex<State>,
    store: Weak<Shared>,
    /// On the store's monotonic clock.
    pub until: Duration,
    bytes_max: usize,
    /// Set before the lock is tried, looked at after it is given back: one of the two sees it.
    cancelled: AtomicBool,
}

struct State {
    /// Why no call is possible any more.
    over: Option<KvError>,
    writes: Writes,
    cleared: bool,
    bytes: usize,
}

impl Turn {
    pub fn new(view: View, store: Weak<Shared>, until: Duration, bytes_max: usize) -> Self {
        let state = State { over: None, writes: Writes::new(), cleared: false, bytes: 0 };
        Self { view, state: Mutex::new(state), store, until, bytes_max, cancelled: AtomicBool::new(false) }
    }

    /// End it with `why`, if it did not end before. The store is not told.
    pub fn stop(&self, why: KvError) -> bool {
        self.state.lock().stop(why)
    }

    /// End it with `why`, if it did not end before; the next writer has its turn.
    pub fn abort(&self, why: KvError) {
        if self.stop(why) {
            self.tell(End::Abort);
        }
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
        if self.cancelled.load(Ordering::SeqCst) {
            self.abort(KvError::Cancelled);
        }
        result
    }

    /// As [`Turn::abort`], without waiting for a call that is reading.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let free = self.state.try_lock();
        let ended = free.is_some_and(|mut state| state.stop(KvError::Cancelled));
        if ended {
            self.tell(End::Abort);
        }
    }
}

impl State {
    fn finish(&mut self, why: KvError) -> (Writes, bool) {
        self.over = Some(why);
        (std::mem::take(&mut self.writes), self.cleared)
    }

    /// Whether this ended it.
    fn stop(&mut self, why: KvError) -> bool {
        let open = self.over.is_none();
        if open {
            self.finish(why);
        }
        open
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
        self.0.with(|state| match state.writes.get(key) {
            Some(written) => match self.0.view.live(written) {
                Some(value) => short_enough(value.len(), len_max).map(|()| Some(f(value))),
                None => Ok(None),
            },
            None if state.cleared => Ok(None),
            None => self.0.view.find(key, len_max, f),
        })
    }

    /// Whether a key is there, own writes included.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.0.with(|state| state.has(&self.0.view, key))
    }

    /// As [`crate::Store::expires_ms`], own writes included.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        self.0.with(|state| state.expires_ms(&self.0.view, key))
    }

    /// A part of a range, own writes included; see [`crate::Snapshot::page`].
    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        self.0.with(|state| page(&self.0.view, &state.writes, state.cleared, range, reverse, limits))
    }

    /// Entries, own writes included. Looks at each write, and at what [`crate::Store::len`] looks at.
    pub fn len(&self) -> Result<u64, KvError> {
        self.0.with(|state| state.len(&self.0.view))
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
            *state = State { over: None, writes: Writes::new(), cleared: true, bytes: 0 };
            Ok(())
        })
    }

    /// Hand the writes to the store, which answers `reply` when they are durable. On an
    /// error here, `reply` is never called. Later calls answer [`KvError::Closed`].
    pub fn commit(&self, reply: Box<dyn FnOnce(Result<Committed, KvError>) + Send>) -> Result<(), KvError> {
        self.0.with(|state| {
            let (writes, cleared) = state.finish(KvError::Closed);
            let clear = cleared.then_some(Op::Clear);
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
        self.0.cancel();
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
