//! What a database can tell of itself while it runs.
//!
//! Invariant: telling costs no I/O but two `stat` calls, and waits for nobody who works.

use crate::database::Shared;
use crate::request::Who;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Requests that took at least so long are remembered, so many of them.
pub(crate) const SLOW_MIN: Duration = Duration::from_millis(100);
const SLOW_KEPT: usize = 20;
const SQL_KEPT: usize = 200;

/// Who has the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Requests that share a transaction.
    Requests,
    /// An interactive transaction.
    Transaction,
    /// A low-level connection that borrowed the turn.
    Connection,
    /// `VACUUM`.
    Vacuum,
}

/// Who has the writer, since when.
#[derive(Debug, Clone)]
pub struct Held {
    /// By what.
    pub holder: Holder,
    /// For how long already.
    pub held: Duration,
    /// By whom, when it is one and known.
    pub who: Option<Who>,
}

/// A request that took long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slow {
    /// The beginning of its SQL.
    pub sql: String,
    /// How long it ran, its waiting not counted.
    pub took: Duration,
    /// When it ended, wall clock.
    pub ended_ms: u64,
}

/// Counters since the database was opened, and what is the case now.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Who has the writer.
    pub held: Option<Held>,
    /// Requests that wait for the writer.
    pub writes_waiting: usize,
    /// Requests that wait for a reader.
    pub reads_waiting: usize,
    /// Requests that were committed; several share a commit.
    pub requests_committed: u64,
    /// Commits, each with one sync under `synchronous=FULL`.
    pub commits: u64,
    /// Time that commits took in all, and the longest.
    pub committed: (Duration, Duration),
    /// The most requests that shared a commit.
    pub batch_len_max: u64,
    /// Reads that were answered from memory at once, and those that were tried so in vain.
    pub hot_reads: (u64, u64),
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes in use of the write-ahead log.
    pub log_bytes: u64,
    /// Bytes of the database file and of those beside it.
    pub file_bytes: u64,
    /// The last requests that took long.
    pub slow: Vec<Slow>,
}

#[derive(Default)]
pub(crate) struct Counters {
    /// With the time since when.
    held: Mutex<Option<(Holder, Duration, Option<Who>)>>,
    requests_committed: AtomicU64,
    commits: AtomicU64,
    committed_ns: AtomicU64,
    committed_ns_max: AtomicU64,
    batch_len_max: AtomicU64,
    hot: AtomicU64,
    hot_declined: AtomicU64,
    checkpoints: AtomicU64,
    slow: Mutex<VecDeque<Slow>>,
}

impl Counters {
    pub(crate) fn hold(&self, holder: Holder, now: Duration, who: Option<Who>) {
        *self.held.lock() = Some((holder, now, who));
    }

    pub(crate) fn let_go(&self) {
        *self.held.lock() = None;
    }

    pub(crate) fn commit(&self, requests: usize, took: Duration) {
        let (requests, took) = (requests as u64, took.as_nanos() as u64);
        self.requests_committed.fetch_add(requests, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.committed_ns.fetch_add(took, Ordering::Relaxed);
        self.committed_ns_max.fetch_max(took, Ordering::Relaxed);
        self.batch_len_max.fetch_max(requests, Ordering::Relaxed);
    }

    pub(crate) fn hot(&self, answered: bool) {
        let counter = if answered { &self.hot } else { &self.hot_declined };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn checkpoint(&self) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ran for `took`.
    pub(crate) fn ran(&self, sql: &str, took: Duration, now_ms: u64) {
        if took < SLOW_MIN {
            return;
        }
        let end = (0..=SQL_KEPT.min(sql.len())).rev().find(|end| sql.is_char_boundary(*end)).unwrap_or(0);
        let mut slow = self.slow.lock();
        if slow.len() == SLOW_KEPT {
            slow.pop_front();
        }
        slow.push_back(Slow { sql: sql[..end].to_owned(), took, ended_ms: now_ms });
    }
}

impl Shared {
    pub(crate) fn stats(&self, file_bytes: u64) -> Stats {
        let counters = &self.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let now = self.clock.monotonic();
        let held = |(holder, since, who)| Held { holder, held: now.saturating_sub(since), who };
        Stats {
            held: counters.held.lock().clone().map(held),
            writes_waiting: self.writes.len(),
            reads_waiting: self.reads.len(),
            requests_committed: of(&counters.requests_committed),
            commits: of(&counters.commits),
            committed: (
                Duration::from_nanos(of(&counters.committed_ns)),
                Duration::from_nanos(of(&counters.committed_ns_max)),
            ),
            batch_len_max: of(&counters.batch_len_max),
            hot_reads: (of(&counters.hot), of(&counters.hot_declined)),
            checkpoints: of(&counters.checkpoints),
            log_bytes: self.wal_bytes.load(Ordering::Relaxed),
            file_bytes,
            slow: counters.slow.lock().iter().cloned().collect(),
        }
    }
}
