//! The drain: brings what lies in memory into redb, in sorted order and with one durable commit, and
//! lets go of the log up to there.
//!
//! Invariant: nobody who writes waits for it. What is drained was durable in the log before; a log
//! record goes only when redb holds it durably.

use crate::engine::{Engine, Failed};
use crate::room::MUCH_BYTES;
use crate::shared::Shared;
use crate::sweep;
use crate::writer::SEQUENCE_MAX;
use crate::KvError;
use parking_lot::MutexGuard;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How long after a full disk it is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// In a store of up to so many bytes, keys that wait share pages: see [`Shared::drain_bytes`].
const SMALL_STORE_BYTES: u64 = 32 << 20;
/// Memory of all stores that waits to be drained, bytes: above it, every full table is drained at once.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Whether somebody drains a store.
#[derive(Default)]
pub(crate) struct Asked(AtomicU8);

const NOBODY: u8 = 0;
const SOMEBODY: u8 = 1;
/// Somebody, who looks once more at the end.
const AGAIN: u8 = 2;

/// Let a thread drain what is frozen. Never waits.
pub(crate) fn ask(shared: &Arc<Shared>) {
    if shared.drain_asked.0.swap(AGAIN, Ordering::AcqRel) == NOBODY {
        work_later(shared.clone());
    }
}

fn work_later(shared: Arc<Shared>) {
    let threads = shared.threads.clone();
    threads.drain(move || work(shared));
}

/// Drain until nothing is frozen, or others wait for this thread: another store, or memory that is to be
/// freed. One thread works on a store, however long that takes.
fn work(shared: Arc<Shared>) {
    let asked = &shared.drain_asked.0;
    loop {
        asked.swap(SOMEBODY, Ordering::AcqRel);
        let is_more = catch_unwind(AssertUnwindSafe(|| shared.drain_unless_held())).unwrap_or_else(|_| {
            // or writers would wait for it for ever
            shared.poison(&KvError::Internal("the drain panicked".into()));
            false
        });
        if is_more && shared.threads.has_waiting_drains() {
            return work_later(shared.clone());
        }
        if !is_more && asked.compare_exchange(SOMEBODY, NOBODY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}

/// Let a thread drain what is frozen, when that is enough for a drain, or waiting is not affordable.
pub(crate) fn ask_if_due(shared: &Arc<Shared>) {
    // writers slow down at half of what memory may hold
    let enough = shared.drain_bytes().min(shared.options.overlay_bytes_max / 2);
    let is_enough = shared.frozen_bytes() >= enough;
    if is_enough || shared.threads.waiting_bytes() > WAITING_BYTES_MAX || !shared.has_room(MUCH_BYTES) {
        ask(shared);
    }
}

/// Let a thread make room for the log's next segment, if there is none.
pub(crate) fn refill(shared: &Arc<Shared>) {
    if shared.spares.bytes() == 0
        && shared.has_room(shared.spares.next_bytes())
        && !shared.is_refilling.swap(true, Ordering::AcqRel)
    {
        let (shared, threads) = (shared.clone(), shared.threads.clone());
        threads.drain(move || {
            // closing waits for this, and whoever opens the store then has its files for itself
            let held_open = shared.closing.try_lock().filter(|is_closed| !**is_closed);
            if held_open.is_some() {
                // without room, the writer says so when it needs it
                let _ = shared.spares.refill();
            }
            drop(held_open);
            shared.is_refilling.store(false, Ordering::Release);
        });
    }
}

impl Shared {
    /// Drain the oldest of what is frozen, unless a compaction comes first. Whether there may be more.
    fn drain_unless_held(self: &Arc<Self>) -> bool {
        let memory_bytes = self.state.read().stack.bytes();
        if self.compaction.holds_drains(memory_bytes, self.options.overlay_bytes_max) {
            return false;
        }
        let mut engine = self.engine.lock();
        // what failed was said to readers and writers through the store's state
        let is_more = self.drain_some(&mut engine).unwrap_or(false);
        // a compaction may wait for the engine
        MutexGuard::unlock_fair(engine);
        is_more
    }

    /// Drain everything that is frozen.
    pub fn drain(self: &Arc<Self>, engine: &mut Engine) -> Result<(), KvError> {
        while self.drain_some(engine)? {}
        Ok(())
    }

    /// What one drain brings, bytes of memory. It copies each page that it changes: of a small store about
    /// all, once for all keys that it brings. In a large one hardly two keys share a page, and more at
    /// once would be more room and a longer burst between the syncs of writers, for nothing.
    fn drain_bytes(&self) -> usize {
        match self.compaction.packed_bytes.load(Ordering::Relaxed) <= SMALL_STORE_BYTES {
            true => self.options.drain_bytes,
            false => self.options.drain_bytes.min(self.options.table_bytes_max),
        }
    }

    /// Drain the oldest of what is frozen; false: nothing is.
    fn drain_some(self: &Arc<Self>, engine: &mut Engine) -> Result<bool, KvError> {
        let Some(frozen) = self.frozen(self.drain_bytes()) else { return Ok(false) };
        self.sound()?;
        let begun = self.clock.monotonic();
        if !self.has_room_for(&frozen, engine) {
            self.try_again_later();
            return Err(KvError::DiskFull);
        }
        let brought = match frozen.revision > engine.revision {
            true => engine.bring(&frozen),
            // a compaction brought all of it, and more: from the log, which may be gone up to there
            false => Ok(()),
        };
        match brought.and_then(|()| engine.base().map_err(Failed::Broken)) {
            Ok(base) => self.drained(&frozen, base),
            Err(Failed::Full) => return self.drain_full(engine),
            Err(Failed::Broken(error)) => {
                self.poison(&error);
                return Err(error);
            }
        }
        engine.blocks.give_room_back();
        self.is_drain_full.store(false, Ordering::Release);
        self.counters.drain(self.clock.monotonic().saturating_sub(begun));
        self.release_log(engine.revision);
        let writes = frozen.stack.len();
        drop(frozen);
        sweep::ask(self, writes);
        // a file that cannot be looked at is named by who reads it
        let _ = self.compact_if_due(engine, writes as u64);
        Ok(true)
    }

    /// Nothing is lost, and it is tried again when there may be room.
    fn try_again_later(self: &Arc<Self>) {
        self.is_drain_full.store(true, Ordering::Release);
        let shared = Arc::downgrade(self);
        self.threads.after(FULL_PAUSE, move || {
            if let Some(shared) = shared.upgrade() {
                ask(&shared);
            }
        });
    }

    /// redb met a full disk all the same.
    fn drain_full(self: &Arc<Self>, engine: &mut Engine) -> Result<bool, KvError> {
        let revived = engine.revive().and_then(|()| engine.base());
        match revived {
            Ok(base) => {
                self.rebase(base);
                // for who reads meanwhile, it was full until there is the new base
                engine.blocks.forget_full();
            }
            Err(error) => {
                self.poison(&error);
                return Err(error);
            }
        }
        self.try_again_later();
        Err(KvError::DiskFull)
    }

    /// The log up to `revision` is no longer needed.
    pub fn release_log(&self, revision: u64) {
        let sequence = revision.min(self.log_pin.load(Ordering::Acquire)) & SEQUENCE_MAX;
        let released = {
            let mut writer = self.writer.lock();
            let released = writer.log.release_prefix(sequence + 1);
            self.log_bytes.store(writer.log.begun_bytes(), Ordering::Relaxed);
            released
        };
        // what cannot be taken over goes when the log is opened
        let _ = self.spares.recycle(released);
    }
}
