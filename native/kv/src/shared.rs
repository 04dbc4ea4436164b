//! What the handles of a store and the threads that work on it share.
//!
//! Invariant: readers take `state` for a moment and wait for nobody. Locks are taken in the order
//! `closing`, `engine`, `writer`, `subscribers`, `sweeper`, `queue`, `state`; the writer's is held over a sync,
//! the engine's over a drain.

use crate::base::Base;
use crate::batch::Durability;
use crate::blocks::BlockFile;
use crate::compact::{AutoCompact, Compaction};
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
use macula_core::{Chance, Clock, Disk, Gate};
use macula_wal::Spares;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

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
    /// A drain was asked for and did not begin.
    pub is_drain_asked: AtomicBool,
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

    /// Read from the newest view. redb closes the bases of a database that is opened anew (see
    /// `Engine::revive`): then there is a newer one, or will be in a moment.
    pub fn read<T>(&self, read: impl Fn(&View) -> Result<T, KvError>) -> Result<T, KvError> {
        loop {
            match read(&self.view()?) {
                Err(KvError::Closed) if self.writable().is_ok() => std::thread::yield_now(),
                result => return result,
            }
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

    /// The same, over another base with the same content.
    pub fn rebase(&self, base: Arc<Base>) {
        let mut state = self.state.write();
        let stack = Stack { tables: state.stack.tables.clone(), base, now: self.now.clone() };
        let old = std::mem::replace(&mut state.stack, Arc::new(stack));
        drop(state);
        drop(old);
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
