//! Compaction: a new file from a version of the old one, caught up from the log, put in its place
//! while reads and writes go on.
//!
//! Invariant: the old file is the store until the new one, whole and durable, has its name; whichever
//! a crash leaves there, the log has everything that came after what it holds. Readers of the old
//! file keep it, without its name, until the last of them is gone.

use crate::base::Base;
use crate::drain;
use crate::engine::Engine;
use crate::record;
use crate::shared::Shared;
use crate::table::Table;
use crate::threads::Courtesy;
use crate::value::Loaded;
use crate::view::{Stack, View};
use crate::writer::{lay_over, SEQUENCE_MAX};
use crate::{KvError, Store};
use macula_blocks::BLOCK;
use macula_core::{Cancel, Progress, Task};
use macula_wal::{History, Replayed};
use parking_lot::{Condvar, Mutex};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Entries are given to the new file in pieces of as many bytes.
const PIECE_BYTES: usize = 4 << 20;
/// Files below this are left as they are, bytes.
const FILE_BYTES_MIN: u64 = 8 << 20;
/// Drains wait for a compaction when the file is so many times as large as a packed one.
const HOLD_FACTOR: u64 = 2;
/// What the last step of catching up may take, about.
const MOMENT: Duration = Duration::from_millis(250);
const CATCH_UP_ROUNDS_MAX: usize = 20;
/// Of each page that drains copy again and again the file has so many: the one that is read, the one
/// before it and the next, none of them packed.
const VERSIONS: u64 = 4;
/// The new file is caught up in pieces of as much memory, bytes: it copies a page for each key.
const CATCH_UP_BYTES: usize = 1 << 20;
/// A packed file is larger than what lives in it: keys and values, and so much for each entry, bytes.
const ENTRY_BYTES: u64 = 24;

/// When a store compacts by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AutoCompact {
    /// Changes since the last compaction, at least.
    pub writes_min: u64,
    /// The part of the file that a compaction would give back, at least; 0 to 1.
    pub dirt_min: f64,
}

impl Default for AutoCompact {
    /// A tree that is written at random stands at a dirt of a third: that is no reason.
    fn default() -> Self {
        Self { writes_min: 1000, dirt_min: 0.4 }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Of the old file, bytes.
    pub bytes_before: u64,
    /// Of the new one, bytes.
    pub bytes_after: u64,
}

/// The state of compaction of one store.
#[derive(Default)]
pub(crate) struct Compaction {
    /// Set while one runs, to end it.
    pub running: Mutex<Option<Cancel>>,
    /// Told when none runs any more.
    ended: Condvar,
    pub is_asked: AtomicBool,
    is_catching_up: AtomicBool,
    /// Changes that were drained since the last one.
    pub writes: AtomicU64,
    /// Bytes of the file and of what a packed one would have, at the last drain.
    pub file_bytes: AtomicU64,
    /// Of all keys and values, at the last drain.
    pub live_bytes: AtomicU64,
    pub packed_bytes: AtomicU64,
}

impl Compaction {
    /// End the one that runs, and wait for its end: it has files in the store's directory.
    pub fn stop(&self) {
        let mut running = self.running.lock();
        while let Some(halt) = &*running {
            halt.cancel();
            self.ended.wait(&mut running);
        }
    }

    /// Look at the file, which has `len` entries.
    pub fn measure(&self, engine: &Engine, len: u64) -> Result<(), KvError> {
        self.live_bytes.store(engine.live_bytes()?, Ordering::Relaxed);
        self.file_bytes.store(engine.blocks.file_bytes(), Ordering::Relaxed);
        self.packed_bytes.store(engine.stored_bytes()? + len * ENTRY_BYTES, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the old file has grown so much that drains of `memory_bytes` wait for the new one, also for
    /// one that is about to begin: as long as memory has room, of which half is for the time when the new
    /// one is caught up.
    pub fn holds_drains(&self, memory_bytes: usize, overlay_bytes_max: usize) -> bool {
        let (file, packed) = (self.file_bytes.load(Ordering::Relaxed), self.packed_bytes.load(Ordering::Relaxed));
        let memory_max = match self.is_catching_up.load(Ordering::Acquire) {
            true => overlay_bytes_max / 2 * 3,
            false => overlay_bytes_max / 2,
        };
        let is_large = file > FILE_BYTES_MIN && file > packed * HOLD_FACTOR;
        let comes = || self.is_asked.load(Ordering::Acquire) || self.running.lock().is_some();
        is_large && memory_bytes < memory_max && comes()
    }

    /// The part of the file that a compaction would give back.
    pub fn dirt(&self) -> f64 {
        let (file, packed) = (self.file_bytes.load(Ordering::Relaxed), self.packed_bytes.load(Ordering::Relaxed));
        match file > FILE_BYTES_MIN {
            true => (1.0 - packed as f64 / file as f64).max(0.0),
            false => 0.0,
        }
    }
}

/// A compaction that panics has ended too.
struct Running<'s>(&'s Arc<Shared>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.log_pin.store(u64::MAX, Ordering::Release);
        self.0.compaction.is_catching_up.store(false, Ordering::Release);
        *self.0.compaction.running.lock() = None;
        self.0.compaction.ended.notify_all();
        drain::ask(self.0);
    }
}

/// A compaction that was asked for, until it ended, however.
struct Asked(Arc<Shared>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.compaction.is_asked.store(false, Ordering::Release);
    }
}

impl Asked {
    /// It ended: drains that were held for it go on.
    fn end(self) {
        let shared = self.0.clone();
        drop(self);
        drain::ask(&shared);
    }
}

impl Store {
    /// Rewrite the file, as small as it can be. Takes as long as reading and writing all of it; reads and
    /// writes go on.
    ///
    /// # Errors
    /// `Conflict` when a compaction runs already; `Cancelled`; `Closed`; `DiskFull`, `Io`: the store is as
    /// before.
    pub fn compact(&self, task: &Task) -> Result<Compacted, KvError> {
        self.checkpoint()?;
        self.shared().compact(task)
    }

    /// As [`Store::compact`], on a thread of ours, without being told how it ended. False: one runs
    /// already, or is about to.
    pub fn compact_later(&self) -> bool {
        let shared = self.shared().clone();
        if self.is_compacting() || shared.compaction.is_asked.swap(true, Ordering::AcqRel) {
            return false;
        }
        let inner = self.clone();
        let asked = Asked(shared.clone());
        // dropped without a run, it is asked for no more
        shared.threads.compact(move || {
            let _ = inner.compact(&Task::quiet());
            asked.end();
        })
    }

    /// Whether a compaction runs.
    pub fn is_compacting(&self) -> bool {
        self.shared().compaction.running.lock().is_some()
    }

    /// End the compaction that runs; false: none does.
    pub fn halt_compaction(&self) -> bool {
        let running = self.shared().compaction.running.lock();
        running.as_ref().map(Cancel::cancel).is_some()
    }

    /// The part of the file that a compaction would give back, as of the last drain; 0 to 1.
    pub fn dirt(&self) -> f64 {
        self.shared().compaction.dirt()
    }

    /// When to compact without being asked; `None`: never.
    pub fn set_auto_compact(&self, auto: Option<AutoCompact>) {
        *self.shared().auto_compact.lock() = auto;
    }
}

impl Shared {
    /// After a drain: look at the file, and let it be compacted when it is time.
    pub fn compact_if_due(self: &Arc<Self>, engine: &Engine, writes: u64) -> Result<(), KvError> {
        let compaction = &self.compaction;
        let len = self.view().map_or(0, |view| view.stack.base.len);
        compaction.measure(engine, len)?;
        let packed = compaction.packed_bytes.load(Ordering::Relaxed);
        // what the next drains would take again; while somebody reads the old, they take more each time
        let churn = match engine.is_held() {
            true => 0,
            false => VERSIONS * (writes * BLOCK as u64).min(packed),
        };
        let dirt = compaction.dirt();
        let writes = compaction.writes.fetch_add(writes, Ordering::Relaxed) + writes;
        let Some(auto) = *self.auto_compact.lock() else { return Ok(()) };
        let gain = engine.blocks.file_bytes().saturating_sub(packed);
        let due = writes >= auto.writes_min.max(len / 8) && dirt > 0.0 && dirt >= auto.dirt_min && gain > churn;
        if due && !compaction.is_asked.swap(true, Ordering::AcqRel) {
            let asked = Asked(self.clone());
            self.threads.compact(move || {
                if asked.0.compact(&Task::quiet()).is_err() {
                    // tried again after as many writes
                    asked.0.compaction.writes.store(0, Ordering::Relaxed);
                }
                asked.end();
            });
        }
        Ok(())
    }

    fn compact(self: &Arc<Self>, task: &Task) -> Result<Compacted, KvError> {
        let halt = Cancel::new();
        {
            let mut running = self.compaction.running.lock();
            if running.is_some() {
                return Err(KvError::Conflict);
            }
            *running = Some(halt.clone());
        }
        let stopped = || match task.cancel.is_cancelled() || halt.is_cancelled() {
            true => Err(KvError::Cancelled),
            false => self.writable(),
        };
        let running = Running(self);
        let compacted = self.rewrite(task, &stopped);
        drop(running);
        compacted
    }

    fn rewrite(self: &Arc<Self>, task: &Task, stopped: &dyn Fn() -> Result<(), KvError>) -> Result<Compacted, KvError> {
        let (base, mut copy) = {
            let engine = self.engine.lock();
            stopped()?;
            if !self.has_room(self.compaction.packed_bytes.load(Ordering::Relaxed)) {
                return Err(KvError::DiskFull);
            }
            // no drain comes between, so the log still has everything behind this
            self.log_pin.store(engine.revision, Ordering::Release);
            (engine.base()?, engine.begin_copy(&*self.disk, &*self.chance)?)
        };
        let result = self.fill(&mut copy, &base, task, stopped).and_then(|()| {
            drop(base);
            self.compaction.is_catching_up.store(true, Ordering::Release);
            self.come_near(&mut copy, stopped)
        });
        match result {
            Ok(()) => self.swap(copy),
            Err(error) => {
                copy.discard(&*self.disk);
                Err(error)
            }
        }
    }

    /// Everything that `base` has.
    fn fill(
        &self,
        copy: &mut Engine,
        base: &Base,
        task: &Task,
        stopped: &dyn Fn() -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        let mut scan = base.scan(Bound::Unbounded, Bound::Unbounded, false)?;
        let (mut piece, mut bytes, mut progress) = (Vec::new(), 0, Progress::default());
        let mut courtesy = Courtesy::default();
        while let Some((key, stored)) = scan.step()? {
            let value = base.value(&stored, usize::MAX, <[u8]>::to_vec)?;
            courtesy.step();
            bytes += key.len() + value.len();
            progress.entries_done += 1;
            piece.push(Loaded { key, value, expires_ms: stored.expires_ms() });
            if bytes >= PIECE_BYTES {
                stopped()?;
                // what drains and the log need is not taken for this
                if !self.has_room(bytes as u64 * 2) {
                    return Err(KvError::DiskFull);
                }
                copy.load(&piece)?;
                progress.bytes_done += bytes as u64;
                task.report(progress);
                piece.clear();
                bytes = 0;
            }
        }
        copy.load(&piece)?;
        copy.write_revision(base.revision)
    }

    /// Catch up until what is left takes a moment only: drains wait for that, and memory fills.
    fn come_near(&self, copy: &mut Engine, stopped: &dyn Fn() -> Result<(), KvError>) -> Result<(), KvError> {
        for _ in 0..CATCH_UP_ROUNDS_MAX {
            stopped()?;
            copy.blocks.sync_early()?;
            let begun = self.clock.monotonic();
            self.catch_up(copy)?;
            if self.clock.monotonic().saturating_sub(begun) <= MOMENT {
                return stopped();
            }
        }
        // more is written than it can take: later
        Err(KvError::Busy)
    }

    /// Bring what is in the log beyond it.
    fn catch_up(&self, copy: &mut Engine) -> Result<(), KvError> {
        let from = (copy.revision & SEQUENCE_MAX) + 1;
        let history = self.writer.lock().log.history(from)?;
        self.bring_history(copy, &history)
    }

    fn bring_history(&self, copy: &mut Engine, history: &History) -> Result<(), KvError> {
        let mut view = self.nothing(copy)?;
        history.read(&mut |replayed| {
            let Replayed::Record(record) = replayed else { return Ok(()) };
            let (revision, ops) = record::decode(&record)?;
            if revision > view.revision {
                lay_over(&mut view.stack, ops, revision);
                view.revision = revision;
            }
            if view.stack.bytes() >= CATCH_UP_BYTES {
                copy.bring(&view).map_err(KvError::from)?;
                view = self.nothing(copy)?;
            }
            Ok::<_, KvError>(())
        })?;
        match view.revision > copy.revision {
            true => copy.bring(&view).map_err(KvError::from),
            false => Ok(()),
        }
    }

    /// A view that has nothing yet beyond what the copy has.
    fn nothing(&self, copy: &Engine) -> Result<View, KvError> {
        let tables = vec![Arc::new(Table::new(&self.threads))];
        let stack = Arc::new(Stack { tables, base: copy.base()?, now: self.now.clone() });
        Ok(View { stack, revision: copy.revision })
    }

    /// The last step, with drains held up: catch up, take the name, let readers see it.
    fn swap(self: &Arc<Self>, mut copy: Engine) -> Result<Compacted, KvError> {
        let mut engine = self.engine.lock();
        let ready = self.writable().and_then(|()| self.catch_up(&mut copy)).and_then(|()| copy.base());
        let base = match ready {
            Ok(base) if copy.revision >= engine.revision => base,
            Ok(_) => {
                copy.discard(&*self.disk);
                return Err(KvError::Internal("a compaction that did not catch up".into()));
            }
            Err(error) => {
                copy.discard(&*self.disk);
                return Err(error);
            }
        };
        if let Err(error) = copy.replace(&*self.disk) {
            // which of the two files has the name after a crash is not known: opening decides
            self.poison(&error);
            return Err(error);
        }
        let (bytes_before, bytes_after) = (engine.blocks.file_bytes(), copy.blocks.file_bytes());
        self.rebase(base);
        std::mem::replace(&mut *engine, copy).retire(&self.threads);
        self.log_pin.store(u64::MAX, Ordering::Release);
        self.release_log(engine.revision);
        self.compaction.writes.store(0, Ordering::Relaxed);
        self.compaction.file_bytes.store(bytes_after, Ordering::Relaxed);
        Ok(Compacted { bytes_before, bytes_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Job;
    use crate::reply::Reply;
    use crate::store::{wait, Options, Seams};
    use crate::{Batch, Threads};
    use macula_core::{Disk, Gate, SystemChance, SystemClock};
    use macula_testkit::FaultDisk;
    use std::sync::mpsc;

    fn open(disk: &FaultDisk, threads: &Threads) -> Store {
        let log = macula_wal::Options { segment_bytes_min: 4096, segment_bytes_max: 4096, ..Default::default() };
        let (disk, gate, threads) = (Arc::new(disk.clone()), Arc::new(Gate::new()), threads.clone());
        let seams = Seams { disk, gate, clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), threads };
        Store::open(seams, Options { reserve_bytes: 0, log, ..Options::default() }).expect("opens")
    }

    /// The new file has what came after the tables that wait to be drained, and the log behind it was let
    /// go. A drain of those tables set its revision back: after a kill, records were missing.
    #[test]
    fn a_drain_behind_a_compaction_never_goes_back() {
        let threads = Threads::start(2, 1, Arc::new(SystemClock)).expect("threads");
        let disk = FaultDisk::new();
        let store = open(&disk, &threads);
        let (go_on, blocked) = mpsc::channel::<()>();
        threads.drain(move || assert!(blocked.recv().is_err(), "nobody sends"));
        store.write(Batch::put("key", "old")).expect("written");
        wait(|reply| store.shared().submit(Job::Sync { freeze: true, reply: Some(Reply::new(reply)) }, 0))
            .expect("frozen");
        store.write(Batch::put("key", "new")).expect("written");
        for n in 0..50_u8 {
            store.write(Batch::put([n], vec![n; 1000])).expect("written");
        }
        store.shared().compact(&Task::quiet()).expect("compacted");
        drop(go_on);
        while store.shared().frozen(usize::MAX).is_some() {
            std::thread::yield_now();
        }
        let found = open(&disk.kill(), &threads);
        assert_eq!(found.get(b"key").expect("reads"), Some(b"new".to_vec()));
        assert_eq!(found.len().expect("counts"), 51);
        assert_eq!(found.revision().expect("reads"), store.revision().expect("reads"));
        found.close();
        store.close();
        threads.stop();
    }

    /// It went on in the directory of a store that was closed, and perhaps opened by another.
    #[test]
    fn closing_waits_for_the_end_of_a_compaction() {
        let threads = Threads::start(2, 1, Arc::new(SystemClock)).expect("threads");
        let disk = FaultDisk::new();
        let store = open(&disk, &threads);
        for n in 0..6_u8 {
            store.write(Batch::put([n], vec![n; 1 << 20])).expect("written");
        }
        let (begun, begins) = mpsc::channel();
        let own = store.clone();
        let compaction = std::thread::spawn(move || {
            let closed = own.clone();
            let task = Task::new(Cancel::new(), move |_| {
                let _ = begun.send(());
                while !closed.is_closed() {
                    std::thread::yield_now();
                }
            });
            own.compact(&task)
        });
        begins.recv().expect("begins");
        store.close();
        assert!(!store.is_compacting(), "it has ended");
        let names = disk.list(&macula_core::RelPath::root()).expect("lists");
        assert!(!names.iter().any(|entry| entry.name == "kv.redb.new"), "{names:?}");
        compaction.join().expect("no panic").expect_err("it was stopped");
        let found = open(&disk, &threads);
        assert_eq!(found.len().expect("counts"), 6);
        found.close();
        threads.stop();
    }
}
