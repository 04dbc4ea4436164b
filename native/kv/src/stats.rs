//! What a store tells about itself. Counters are since it was opened.

use crate::shared::Shared;
use crate::{KvError, Store};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counted by those who work on a store.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    groups: AtomicU64,
    batches: AtomicU64,
    syncs: AtomicU64,
    synced_ns: AtomicU64,
    synced_ns_max: AtomicU64,
    drains: AtomicU64,
    drained_ns_max: AtomicU64,
    hot: AtomicU64,
    cold: AtomicU64,
}

impl Counters {
    pub fn group(&self, batches: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
    }

    pub fn sync(&self, span: Duration) {
        let ns = span.as_nanos() as u64;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.synced_ns.fetch_add(ns, Ordering::Relaxed);
        self.synced_ns_max.fetch_max(ns, Ordering::Relaxed);
    }

    pub fn drain(&self, span: Duration) {
        self.drains.fetch_add(1, Ordering::Relaxed);
        self.drained_ns_max.fetch_max(span.as_nanos() as u64, Ordering::Relaxed);
    }

    pub fn hot<T>(&self, found: &Result<T, KvError>) {
        let counter = if matches!(found, Err(KvError::Cold)) { &self.cold } else { &self.hot };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// See [`Store::stats`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// The newest batch.
    pub revision: u64,
    /// Of all keys and values in the file, bytes; as of the last drain.
    pub live_bytes: u64,
    /// Of the file, bytes.
    pub file_bytes: u64,
    /// Of the log's segments and spares, bytes.
    pub log_bytes: u64,
    /// Of what was written and is not drained, bytes of memory, about.
    pub memory_bytes: u64,
    /// Memory that pages of the file may take, bytes.
    pub cache_bytes: u64,
    /// Groups of batches that were made durable together.
    pub groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// All of them together, nanoseconds.
    pub synced_ns: u64,
    /// The longest, nanoseconds.
    pub synced_ns_max: u64,
    /// Commits into the file.
    pub drains: u64,
    /// The longest, nanoseconds.
    pub drained_ns_max: u64,
    /// Gets that memory could answer.
    pub cache_hits: u64,
    /// Gets that had to ask the disk.
    pub cache_misses: u64,
    /// Blocks of 4,096 bytes that were read from the file.
    pub blocks_read: u64,
    /// Changes since the last compaction.
    pub writes_since_compaction: u64,
    /// The part of the file that a compaction would give back; 0 to 1.
    pub dirt: f64,
}

impl Store {
    /// Figures about the store. O(1), waits for nobody.
    ///
    /// # Errors
    /// `Closed`.
    pub fn stats(&self) -> Result<Stats, KvError> {
        self.shared().stats()
    }
}

impl Shared {
    fn stats(&self) -> Result<Stats, KvError> {
        let view = self.view()?;
        let (counters, compaction) = (&self.counters, &self.compaction);
        let told = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Stats {
            revision: view.revision,
            live_bytes: told(&compaction.live_bytes),
            file_bytes: view.stack.base.blocks().file_bytes(),
            log_bytes: told(&self.log_bytes) + self.spares.bytes(),
            memory_bytes: view.stack.bytes() as u64,
            cache_bytes: self.options.cache_bytes as u64,
            groups: told(&counters.groups),
            batches: told(&counters.batches),
            syncs: told(&counters.syncs),
            synced_ns: told(&counters.synced_ns),
            synced_ns_max: told(&counters.synced_ns_max),
            drains: told(&counters.drains),
            drained_ns_max: told(&counters.drained_ns_max),
            cache_hits: told(&counters.hot),
            cache_misses: told(&counters.cold),
            blocks_read: view.stack.base.blocks().blocks_read(),
            writes_since_compaction: told(&compaction.writes),
            dirt: compaction.dirt(),
        })
    }
}
