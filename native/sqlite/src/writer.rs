//! The one thread of a database that writes. It takes whatever waits as one batch, or gives the
//! whole connection to one interactive transaction, and checkpoints when the log grew or nobody asks.
//!
//! Invariant: between two turns of the loop no transaction is open. A panic or a commit of unknown
//! outcome poisons the database; the thread then only answers that.

use crate::checkpoint::{checkpoint, Depth};
use crate::connection::Connection;
use crate::database::Shared;
use crate::error::code_of;
use crate::feed::Collector;
use crate::queue::{Pop, Waiting};
use crate::request::{Patience, Reply, Who, Work};
use crate::rewrite::rewrite_log;
use crate::rival::{Rival, LOG_GONE};
use crate::sqlite3::Lend;
use crate::stats::Holder;
use crate::transaction::Transaction;
use crate::SqliteError;
use rusqlite::ffi;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// A clean, idle database does not wake a small machine; the wait only has some end.
const NOTHING_TO_DO: Duration = Duration::from_secs(3600);

/// What waits for the writer.
pub(crate) enum Job {
    Run(Work),
    Begin(Begin),
    Lend(Lend),
    Vacuum(Vacuum),
}

/// A `VACUUM` that waits for its turn.
pub(crate) struct Vacuum {
    pub(crate) patience: Patience,
    pub(crate) reply: Reply<()>,
}

/// An interactive transaction that waits for its turn.
pub(crate) struct Begin {
    pub(crate) patience: Patience,
    pub(crate) who: Option<Who>,
    pub(crate) reply: Reply<Transaction>,
}

impl Waiting for Job {
    fn patience(&self) -> &Patience {
        match self {
            Self::Run(work) => &work.patience,
            Self::Begin(begin) => &begin.patience,
            Self::Lend(lend) => lend.patience(),
            Self::Vacuum(vacuum) => &vacuum.patience,
        }
    }

    fn answer(self, error: SqliteError) {
        match self {
            Self::Run(work) => work.answer(error),
            Self::Begin(begin) => begin.reply.send(Err(error)),
            Self::Lend(lend) => lend.answer(error),
            Self::Vacuum(vacuum) => vacuum.reply.send(Err(error)),
        }
    }

    fn forget(self) {
        match self {
            Self::Run(work) => work.forget(),
            Self::Begin(begin) => begin.reply.forget(),
            Self::Lend(lend) => lend.forget(),
            Self::Vacuum(vacuum) => vacuum.reply.forget(),
        }
    }
}

pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rival: Rival,
    /// Whether something was committed since the log was last cut.
    pub(crate) committed: bool,
    /// Bytes in the log at its last checkpoint.
    pub(crate) log_checkpointed: u64,
    /// Whether what was found in the log is known to be on the disk.
    pub(crate) log_is_durable: bool,
    // after the connection, which has its address
    pub(crate) collector: Collector,
}

impl Writer {
    /// Serve until the queue is closed, then leave the files tidy.
    pub(crate) fn run(mut self) {
        self.guarded(Self::settle_log);
        loop {
            let wait = if self.committed { self.shared.options.checkpoint_after_idle } else { NOTHING_TO_DO };
            match self.shared.writes.pop(wait) {
                Pop::Closed => break,
                Pop::Idle if self.committed => self.guarded(|writer| {
                    writer.checkpoint(Depth::Truncate);
                    // what it holds besides is what the next write reads again from the system's cache
                    let _ = writer.connection.sql.release_memory();
                }),
                Pop::Idle => {}
                Pop::Job(job) => self.guarded(|writer| writer.turn(job)),
            }
        }
        self.finish();
    }

    /// Whatever happens in `work`, the thread goes on to answer.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.shared.poison("a panic in the writer".to_owned());
            self.connection.rollback();
        }
    }

    /// What an earlier crash left in the log is decided now, once, and durably; while another process
    /// writes, with our first transaction.
    fn settle_log(&mut self) {
        if self.begin_immediate().is_ok() {
            self.connection.rollback();
        }
        self.checkpoint(Depth::Truncate);
        // the log is there since; whether it stays is seen from now on
        self.rival.log.was_taken();
    }

    fn turn(&mut self, job: Job) {
        if let Some(error) = self.shared.closing_error().or_else(|| self.refusal()) {
            return job.answer(error);
        }
        let (holder, who) = match &job {
            Job::Run(_) => (Holder::Requests, None),
            Job::Begin(begin) => (Holder::Transaction, begin.who.clone()),
            Job::Lend(lend) => (Holder::Connection, lend.borrower.upgrade().and_then(|borrower| borrower.who())),
            Job::Vacuum(_) => (Holder::Vacuum, None),
        };
        self.shared.counters.hold(holder, self.now(), who);
        self.run_job(job);
        self.bound_log();
        self.shared.counters.let_go();
    }

    fn run_job(&mut self, job: Job) {
        match job {
            Job::Begin(begin) => self.transaction(begin),
            Job::Lend(lend) => self.lend(lend),
            Job::Vacuum(vacuum) => self.vacuum(vacuum),
            Job::Run(work) => {
                let mut works = vec![work];
                self.take_requests(&mut works);
                self.batch(works);
            }
        }
    }

    /// Add the requests that wait, from the front, to `works`.
    pub(crate) fn take_requests(&self, works: &mut Vec<Work>) {
        let len_max = self.shared.options.batch_len_max.max(1).saturating_sub(works.len());
        let mut jobs = Vec::new();
        self.shared.writes.take_while(&mut jobs, len_max, |job| matches!(job, Job::Run(_)));
        let work = |job| match job {
            Job::Run(work) => Some(work),
            Job::Begin(_) | Job::Lend(_) | Job::Vacuum(_) => None,
        };
        works.extend(jobs.into_iter().filter_map(work));
    }

    fn vacuum(&mut self, vacuum: Vacuum) {
        // it commits by itself, which must be no earlier than the log of an earlier run is durable
        let result = self.begin_one(&vacuum.patience).and_then(|()| {
            self.connection.rollback();
            self.connection.watch.begin(vacuum.patience.clone(), self.shared.options.busy_timeout);
            let pass = self.shared.gate.pass();
            let result = self.connection.control("VACUUM").map_err(|error| self.connection.explain(error));
            drop(pass);
            self.connection.watch.end();
            result
        });
        self.committed = true;
        vacuum.reply.send(result);
    }

    /// `BEGIN IMMEDIATE`. The first one makes durable what the log holds.
    pub(crate) fn begin_immediate(&mut self) -> rusqlite::Result<()> {
        self.connection.control("BEGIN IMMEDIATE")?;
        self.collector.begin(&self.shared.feed, &self.connection.sql);
        if self.log_is_durable {
            return Ok(());
        }
        let rewritten = rewrite_log(&self.connection).and_then(|()| self.sync_name());
        match &rewritten {
            Ok(()) => self.log_is_durable = true,
            // a file system that writes elsewhere needs room for it: the next one tries again
            Err(error) if code_of(error) & 0xff == ffi::SQLITE_FULL => self.connection.rollback(),
            Err(error) => {
                self.shared.poison(format!("the log of an earlier run cannot be made durable: {error}"));
                self.connection.rollback();
            }
        }
        rewritten
    }

    /// The log is there now. SQLite syncs its directory with the first sync of the log, but does not look
    /// at how that ended.
    fn sync_name(&self) -> rusqlite::Result<()> {
        let synced = crate::backup::sync_dir_of(&self.shared.path);
        let failed = |error: SqliteError| {
            let code = ffi::Error::new(ffi::SQLITE_IOERR_DIR_FSYNC);
            rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
        };
        synced.map_err(failed)
    }

    /// Checkpoint each time the log grew by its bound; when readers kept it from starting again for
    /// several times, wait for them a moment. One held back for long costs one attempt per bound.
    fn bound_log(&mut self) {
        let wal_bytes = self.shared.wal_bytes.load(Ordering::Relaxed);
        let bound = self.shared.options.wal_bytes_max;
        if wal_bytes < self.log_checkpointed {
            // the log started again
            self.log_checkpointed = 0;
        }
        if wal_bytes > self.log_checkpointed.saturating_add(bound) {
            self.log_checkpointed = wal_bytes;
            self.checkpoint(if wal_bytes > bound.saturating_mul(4) { Depth::Restart } else { Depth::Passive });
        }
    }

    /// The log's length by its file, where another connection wrote it: never less than it holds.
    pub(crate) fn count_log(&self) {
        let [log, ..] = crate::guard::companions(&self.shared.path);
        // stat opens nothing: the locks are safe
        let bytes = std::fs::symlink_metadata(log).map_or(0, |meta| meta.len());
        self.shared.wal_bytes.store(bytes, Ordering::Relaxed);
    }

    fn checkpoint(&mut self, depth: Depth) {
        if self.refusal().is_some() || !self.log_is_durable {
            return;
        }
        let [log, ..] = crate::guard::companions(&self.shared.path);
        if self.shared.options.before_checkpoint.as_ref().is_some_and(|hook| hook.0(&log).is_err()) {
            return;
        }
        self.shared.counters.checkpoint();
        match checkpoint(&self.connection, depth) {
            Ok(left) => self.committed = depth != Depth::Truncate || left.is_none(),
            Err(error) => self.shared.poison(format!("a checkpoint failed: {error}")),
        }
    }

    /// Why nothing may be written now.
    pub(crate) fn refusal(&mut self) -> Option<SqliteError> {
        let now = self.now();
        if let Some(error) = self.shared.poisoned().or_else(|| self.rival.refusal(now)) {
            return Some(error);
        }
        if self.rival.log.was_taken() {
            self.shared.poison(LOG_GONE.to_owned());
        }
        self.shared.poisoned()
    }

    /// Cut the log and let SQLite remove its files, unless the database file may not be trusted or is
    /// another's too.
    fn finish(&mut self) {
        self.connection.rollback();
        let now = self.now();
        self.rival.look(now);
        self.checkpoint(Depth::Truncate);
        // what is still in the log must stay there: its frames were not given to the hook
        if self.refusal().is_none() && self.log_is_durable && !self.committed {
            let config = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            // without it the two files stay behind, which is untidy and harmless
            let _ = self.connection.sql.set_db_config(config, false);
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    pub(crate) fn locked_by_other(&self, since: Duration) -> SqliteError {
        let waited_ms = self.now().saturating_sub(since).as_millis() as u64;
        let pids = crate::guard::other_processes(&self.shared.path).unwrap_or_default();
        let mut holders = if pids.is_empty() { String::new() } else { format!(" pids={pids:?}") };
        if crate::bridge::is_beneath(self.shared.options.vfs) {
            holders.push_str(" or=the bridged copy of SQLite in this process");
        }
        SqliteError::LockedByOther { waited_ms, holders }
    }

    /// Between two tries for a lock that another process holds: short at first, never past the next deadline.
    pub(crate) fn pause_for_lock(&self, tries: u32, deadline: Option<Duration>) {
        let pause = Duration::from_millis(1 << tries.min(4));
        let left = deadline.map_or(pause, |deadline| deadline.saturating_sub(self.now()));
        self.shared.clock.sleep(pause.min(left.max(Duration::from_millis(1))));
    }
}
