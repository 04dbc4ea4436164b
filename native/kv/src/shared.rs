//! What the handles of a store and the threads that work on it share.
//!
//! Invariant: readers take `state` for a moment and wait for nobody. Locks are taken in the order
//! `closing`, `engine`, `writer`, `subscribers`, `sweeper`, `queue`, `state`; the writer's is held over a sync,
//! the engine's over a drain.

use crate::base::Base;
use crate::batch::Durability;
use crate::compact::{AutoCompact, Compaction};
use crate::drain;
use crate::engine::Engine;
use crate::queue::Queue;
use crate::stats::Counters;
use crate::store::Options;
use crate::subscribe::Subscribers;
use crate::sweep::Sweeper;
use crate::table::Table;
use crate::threads::Threads;
use crate::view::{Now, Stack, View};
use crate::writer::Writer;
use crate::KvError;
use macula_blocks::BlockFile;
use macula_core::{Chance, Clock, Disk, Gate};
use macula_wal::Spares;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// One opened store.
pub(crate) struct Shared {
    pub state: RwLock<State>,
    pub queue: Mutex<Queue>,
    /// Told when nobody works on the queue any more.
    pub idle: Condvar,
    pub writer: Mutex<Writer>,
    pub engine: Mutex<Engine>,
    /// Whether it was closed; held while it is being closed, and while room for the log is made.
    pub closing: Mutex<bool>,
    pub spares: Arc<Spares>,
    pub threads: Threads,
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
    pub clock: Arc<dyn Clock>,
    pub chance: Arc<dyn Chance>,
    pub options: Options,
    pub now: Arc<Now>,
    pub drain_asked: drain::Asked,
    /// The last drain found no room; overlay and log keep what was acknowledged.
    pub is_drain_full: AtomicBool,
    /// Room for a later segment is being made.
    pub is_refilling: AtomicBool,
    /// The table in use will be frozen by the clock.
    pub is_freeze_due: AtomicBool,
    /// A sync of what was written without is due.
    pub is_sync_due: AtomicBool,
    /// Without the spares.
    pub log_bytes: AtomicU64,
    /// A compaction needs the log behind this revision.
    pub log_pin: AtomicU64,
    pub compaction: Compaction,
    pub auto_compact: Mutex<Option<AutoCompact>>,
    /// Of writes that do not say.
    pub durability: Mutex<Durability>,
    pub counters: Counters,
    /// Entries, and the revision at which they were counted.
    pub counted: Mutex<Option<(u64, u64)>>,
    pub sweeper: Mutex<Sweeper>,
    /// Told what is published.
    pub subscribers: Mutex<Subscribers>,
}

/// What readers see.
pub(crate) struct State {
    pub stack: Arc<Stack>,
    /// The newest batch that may be seen.
    pub revision: u64,
    pub poisoned: Option<String>,
    pub is_closed: bool,
}

impl Shared {
    /// The newest view; a poisoned store still has its last.
    pub fn view(&self) -> Result<View, KvError> {
        let state = self.state.read();
        match state.is_closed {
            true => Err(KvError::Closed),
            false => Ok(View { stack: state.stack.clone(), revision: state.revision }),
        }
    }

    /// As [`Shared::view`], for who must not wait, not even for one who is replacing it.
    pub fn view_now(&self) -> Result<View, KvError> {
        match self.state.try_read() {
            None => Err(KvError::Cold),
            Some(state) if state.is_closed => Err(KvError::Closed),
            Some(state) => Ok(View { stack: state.stack.clone(), revision: state.revision }),
        }
    }

    /// Read from the newest view; again while redb is being opened anew.
    pub fn read<T>(&self, read: impl Fn(&View) -> Result<T, KvError>) -> Result<T, KvError> {
        loop {
            let view = self.view()?;
            match read(&view) {
                Err(error) if self.is_passing(&error, &view) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Whether `view` failed to be read because redb met a full disk: then it answers nothing more, its
    /// bases are closed as it is opened anew (see `Engine::revive`), and there is a newer base, or will
    /// be in a moment.
    pub fn is_passing(&self, error: &KvError, view: &View) -> bool {
        let state = self.state.read();
        let is_sound = state.poisoned.is_none() && !state.is_closed;
        let is_renewed = || state.stack.base.blocks().is_full() || !Arc::ptr_eq(&state.stack.base, &view.stack.base);
        match error {
            KvError::Closed => is_sound,
            KvError::Poisoned(_) => is_sound && is_renewed(),
            _ => false,
        }
    }

    /// What readers see from now on, after a group that was staged over `before`.
    pub fn publish(&self, before: &Arc<Stack>, staged: View) {
        let mut state = self.state.write();
        state.revision = staged.revision;
        if Arc::ptr_eq(before, &staged.stack) {
            return;
        }
        // a clear began a table of its own; the base may be newer by now
        let (tables, base) = (staged.stack.tables.clone(), state.stack.base.clone());
        let old = std::mem::replace(&mut state.stack, Arc::new(Stack { tables, base, now: self.now.clone() }));
        drop(state);
        drop(old);
    }

    /// A new table for what comes; those before it can be drained.
    pub fn begin_table(&self) {
        let mut state = self.state.write();
        let Some(active) = state.stack.tables.first().filter(|active| !active.is_blank()) else { return };
        active.freeze(state.revision);
        let fresh = Arc::new(Table::new(&self.threads));
        let tables = [fresh].into_iter().chain(state.stack.tables.iter().cloned()).collect();
        let stack = Stack { tables, base: state.stack.base.clone(), now: self.now.clone() };
        state.stack = Arc::new(stack);
    }

    /// The table that writers write into.
    pub fn active(&self) -> Weak<Table> {
        self.state.read().stack.tables.first().map(Arc::downgrade).unwrap_or_default()
    }

    /// The same, over another base with the same content.
    pub fn rebase(&self, base: Arc<Base>) {
        let mut state = self.state.write();
        let stack = Stack { tables: state.stack.tables.clone(), base, now: self.now.clone() };
        let old = std::mem::replace(&mut state.stack, Arc::new(stack));
        drop(state);
        drop(old);
    }

    /// Memory of the tables that wait to be drained, bytes.
    pub fn frozen_bytes(&self) -> usize {
        self.state.read().stack.tables.iter().skip(1).map(|table| table.bytes()).sum()
    }

    /// The oldest of the tables that wait to be drained, as a view of nothing else.
    pub fn frozen(&self, bytes_max: usize) -> Option<View> {
        let state = self.state.read();
        let waiting = state.stack.tables.get(1..).unwrap_or_default();
        let mut bytes = 0;
        let fits = |table: &&Arc<Table>| {
            bytes += table.bytes();
            bytes <= bytes_max
        };
        let count = waiting.iter().rev().take_while(fits).count().max(1);
        let tables = waiting[waiting.len().saturating_sub(count)..].to_vec();
        let revision = tables.first()?.last_revision();
        let stack = Stack { tables, base: state.stack.base.clone(), now: self.now.clone() };
        Some(View { stack: Arc::new(stack), revision })
    }

    /// `base` has what was in those tables.
    pub fn drained(&self, frozen: &View, base: Arc<Base>) {
        let mut state = self.state.write();
        let is_drained = |table: &Arc<Table>| frozen.stack.tables.iter().any(|drained| Arc::ptr_eq(drained, table));
        let tables = state.stack.tables.iter().filter(|table| !is_drained(table)).cloned().collect();
        let stack = Stack { tables, base, now: self.now.clone() };
        let old = std::mem::replace(&mut state.stack, Arc::new(stack));
        drop(state);
        // may take a lock of redb's
        drop(old);
    }

    /// Nothing is written any more.
    pub fn poison(&self, why: &KvError) {
        self.state.write().poisoned.get_or_insert_with(|| why.to_string());
    }

    /// Whether it is not poisoned.
    pub fn sound(&self) -> Result<(), KvError> {
        match &self.state.read().poisoned {
            Some(why) => Err(KvError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    pub fn writable(&self) -> Result<(), KvError> {
        self.sound()?;
        match self.is_closed() {
            true => Err(KvError::Closed),
            false => Ok(()),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state.read().is_closed
    }

    /// Entries of the newest view; counted again only when something was written.
    pub fn len(&self) -> Result<u64, KvError> {
        self.read(|view| {
            if let Some((revision, len)) = *self.counted.lock() {
                if revision == view.revision {
                    return Ok(len);
                }
            }
            let len = view.len()?;
            *self.counted.lock() = Some((view.revision, len));
            Ok(len)
        })
    }

    /// The file that readers read now.
    pub fn blocks(&self) -> Arc<BlockFile> {
        self.state.read().stack.base.blocks().clone()
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.blocks().file_bytes() + self.log_bytes.load(Ordering::Relaxed) + self.spares.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Seams, Store};
    use crate::{Batch, Threads};
    use macula_core::{SystemChance, SystemClock};
    use macula_testkit::FaultDisk;
    use std::time::Duration;

    fn open(threads: &Threads, overlay_bytes_max: usize) -> Store {
        let (disk, gate, threads) = (Arc::new(FaultDisk::new()), Arc::new(Gate::new()), threads.clone());
        let seams = Seams { disk, gate, clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), threads };
        let options = Options {
            table_bytes_max: 4_000,
            drain_bytes: 0,
            reserve_bytes: 0,
            overlay_bytes_max,
            ..Options::default()
        };
        Store::open(seams, options).expect("opens")
    }

    /// What lies in memory now.
    fn parts(store: &Store, tables: &mut Vec<Weak<Table>>, bases: &mut Vec<Weak<Base>>) {
        let stack = store.shared().view().expect("open").stack;
        tables.extend(stack.tables.iter().map(Arc::downgrade));
        bases.push(Arc::downgrade(&stack.base));
    }

    /// Tables and bases that are still there, beside those of the newest view.
    fn left(store: &Store, tables: &[Weak<Table>], bases: &[Weak<Base>]) -> usize {
        let stack = store.shared().view().expect("open").stack;
        let old = |table: &Arc<Table>| !stack.tables.iter().any(|newest| Arc::ptr_eq(newest, table));
        let mut found: Vec<_> = tables.iter().filter_map(Weak::upgrade).filter(old).collect();
        found.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let mut bases: Vec<_> = bases.iter().filter_map(Weak::upgrade).collect();
        bases.retain(|base| !Arc::ptr_eq(base, &stack.base));
        bases.dedup_by(|one, other| Arc::ptr_eq(one, other));
        found.len() + bases.len()
    }

    /// A turn whose owner kept its handle held its base, and with it pages of the file, for as long.
    #[test]
    fn what_snapshots_and_turns_hold_is_freed_with_them() {
        let threads = Threads::start(2, 1, Arc::new(SystemClock)).expect("threads");
        let store = open(&threads, 1 << 20);
        let (mut tables, mut bases, mut held, mut turns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..20_u8 {
            for n in 0..10_u8 {
                store.write(Batch::put([n, round], vec![round; 200])).expect("written");
                parts(&store, &mut tables, &mut bases);
            }
            held.push(store.snapshot().expect("snapshot"));
            let turn = store.begin_wait(Duration::from_secs(60)).expect("turn");
            match round % 3 {
                0 => drop(turn.commit_wait().expect("commits")),
                1 => turn.abort(),
                _ => turn.cancel(),
            }
            turns.push(turn);
            store.checkpoint().expect("drains");
        }
        assert!(left(&store, &tables, &bases) >= 20, "held");
        held.clear();
        // a drain lets go of its own view a moment after the others
        while left(&store, &tables, &bases) > 0 {
            std::thread::yield_now();
        }
        assert!(turns.iter().all(|turn| turn.get(b"x").is_err()), "ended long ago");
        assert_eq!(store.shared().view().expect("open").stack.bytes(), 0);
        store.close();
        threads.stop();
    }
    /// Each group was let in after 20 ms, however full memory was: at 8 MB a group.
    #[test]
    fn memory_stays_bounded_while_a_drain_takes_long() {
        const LEN: usize = 50_000;
        const MAX: usize = 400_000;
        let threads = Threads::start(1, 1, Arc::new(SystemClock)).expect("threads");
        let store = open(&threads, MAX);
        let (answer, answers) = std::sync::mpsc::channel();
        let engine = store.shared().engine.lock();
        for n in 0..100_u8 {
            let answer = answer.clone();
            let reply = move |result: Result<_, KvError>| answer.send(result).expect("waits");
            let batch = Batch::put([n], vec![n; LEN]);
            while store.submit(batch.clone(), Box::new(reply.clone())).is_err() {}
            // one by one, while it goes on
            if answers.recv_timeout(Duration::from_millis(500)).is_err() {
                break;
            }
        }
        let bytes = store.shared().view().expect("open").stack.bytes();
        assert!((2 * MAX..2 * MAX + 2 * LEN).contains(&bytes), "bytes={bytes}");
        drop(engine);
        answers.recv_timeout(Duration::from_secs(60)).expect("answered when there is room").expect("written");
        store.write(Batch::put("more", vec![0; LEN])).expect("goes on");
        store.close();
        threads.stop();
    }

    /// The one who closed it waited for the end of the pause, on a clock that stands for ever.
    #[test]
    fn a_paused_store_closes_at_once() {
        let clock = Arc::new(macula_testkit::SimClock::default());
        let threads = Threads::start(1, 1, clock).expect("threads");
        for _ in 0..50 {
            let store = open(&threads, 10_000);
            let engine = store.shared().engine.lock();
            for n in 0..5_u8 {
                let reply = |result: Result<_, KvError>| drop(result);
                store.submit(Batch::put([n], vec![n; 9_000]), Box::new(reply)).expect("queued");
            }
            drop(engine);
            store.close();
        }
        threads.stop();
    }
}
