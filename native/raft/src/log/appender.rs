//! Writes the log: takes all that waits, appends it, syncs once, and tells everyone.
//!
//! Invariant: jobs are done in the order in which they came. Whoever must know that a job is durable is
//! told after the sync that made it so, or that it failed.

use super::Meta;
use crate::types::Types;
use crate::{entry, RaftError};
use crossbeam_channel::{Receiver, Sender};
use macula_core::Clock;
use macula_wal::{Log, WalError};
use openraft::storage::IOFlushed;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A record that holds an entry.
pub(super) const KIND_ENTRY: u8 = 1;
/// A record that says up to where entries are committed. Nobody waits for it.
pub(super) const KIND_COMMITTED: u8 = 2;
/// Between two looks for room on a full disk.
pub(crate) const ROOM_PAUSE: Duration = Duration::from_millis(50);

pub(crate) type Done = oneshot::Sender<Result<(), io::Error>>;

pub(crate) enum Job {
    /// Entries from an index on, encoded.
    Append {
        first: u64,
        entries: Vec<Vec<u8>>,
        flushed: IOFlushed<Types>,
    },
    Committed(Vec<u8>),
    Meta {
        change: Box<dyn FnOnce(&mut Meta) + Send>,
        done: Done,
    },
    /// Take back entries from this index on.
    Truncate {
        from: u64,
        done: Done,
    },
    /// Entries up to this place are in a durable snapshot.
    Purge {
        upto: entry::Place,
        done: Done,
    },
}

/// Where jobs go: a thread, or a simulation's task. Dropped, it ends when its jobs are done.
pub(crate) trait Jobs: Send + Sync {
    /// Do it after all that were given before. A job that cannot be taken is dropped, which its waiters see.
    fn submit(&self, job: Job);
}

/// The thread that writes.
pub(super) struct LogThread {
    jobs: Option<Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

impl LogThread {
    pub(super) fn start(appender: Appender) -> io::Result<Self> {
        let (jobs, waiting) = crossbeam_channel::unbounded::<Job>();
        let closing = appender.closing.clone();
        let name = "macula-raft-log".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || serve(appender, &waiting))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), closing })
    }
}

impl Jobs for LogThread {
    fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // without a thread it is dropped, and says so
            let _ = jobs.send(job);
        }
    }
}

fn serve(mut appender: Appender, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        while let Some(first) = next {
            next = appender.run(std::iter::once(first).chain(waiting.try_iter()));
            if next.is_some() {
                appender.clock.sleep(ROOM_PAUSE);
            }
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // it panicked, or it is over
            let _ = thread.join();
        }
    }
}

/// The log and where each entry stands in it.
pub(crate) struct Appender {
    pub(super) log: Log,
    pub(crate) meta: Meta,
    pub(super) clock: Arc<dyn Clock>,
    /// The log's sequence of each entry, by index.
    pub(crate) sequences: BTreeMap<u64, u64>,
    /// There is no room for what waits.
    pub(super) is_full: Arc<AtomicBool>,
    pub(crate) closing: Arc<AtomicBool>,
}

impl Appender {
    /// Do these jobs with as few syncs as their order allows. What is left of one that waits for room; those behind
    /// it are not taken.
    pub(crate) fn run(&mut self, jobs: impl Iterator<Item = Job>) -> Option<Job> {
        let mut unsynced = Vec::new();
        for job in jobs {
            match job {
                Job::Append { first, mut entries, flushed } => match self.append(first, &mut entries) {
                    Ok(None) => unsynced.push(flushed),
                    Ok(Some(first)) => {
                        self.settle(&mut unsynced);
                        return Some(Job::Append { first, entries, flushed });
                    }
                    Err(error) => flushed.io_completed(Err(error)),
                },
                Job::Committed(bytes) => {
                    // written with the next entries; lost, it only makes the next opening know less
                    let _ = self.log.append(KIND_COMMITTED, entry::VERSION, &[&bytes]);
                }
                Job::Meta { change, done } => {
                    self.settle(&mut unsynced);
                    change(&mut self.meta);
                    answer(done, self.save_meta());
                }
                Job::Truncate { from, done } => {
                    self.settle(&mut unsynced);
                    answer(done, self.truncate(from));
                }
                Job::Purge { upto, done } => {
                    self.settle(&mut unsynced);
                    answer(done, self.purge(upto));
                }
            }
        }
        self.settle(&mut unsynced);
        None
    }

    /// Sync what was appended and tell who waits for it.
    fn settle(&mut self, unsynced: &mut Vec<IOFlushed<Types>>) {
        if unsynced.is_empty() {
            return;
        }
        let synced = self.log.sync();
        for flushed in unsynced.drain(..) {
            flushed.io_completed(synced.clone().map_err(|error| RaftError::from(error).into()));
        }
        // room for the segments to come, made when nobody waits for this sync
        let _ = self.log.spares().refill();
    }

    /// Where it goes on when there is room: an entry that was given to the log must get into it, nobody is told that
    /// it did before it did, and everything behind waits too. `entries` are those that are left.
    fn append(&mut self, first: u64, entries: &mut Vec<Vec<u8>>) -> io::Result<Option<u64>> {
        for (nth, index) in (first..).take(entries.len()).enumerate() {
            match self.log.append(KIND_ENTRY, entry::VERSION, &[&entries[nth]]) {
                Err(WalError::DiskFull) if !self.closing.load(Ordering::Acquire) => {
                    self.is_full.store(true, Ordering::Release);
                    entries.drain(..nth);
                    return Ok(Some(index));
                }
                appended => {
                    self.sequences.insert(index, appended.map_err(RaftError::from)?);
                    if self.is_full.load(Ordering::Acquire) {
                        self.is_full.store(false, Ordering::Release);
                    }
                }
            }
        }
        Ok(None)
    }

    fn save_meta(&mut self) -> Result<(), RaftError> {
        let bytes = self.meta.encode()?;
        Ok(self.log.set_meta(&bytes)?)
    }

    fn truncate(&mut self, from: u64) -> Result<(), RaftError> {
        if let Some((_, sequence)) = self.sequences.range(from..).next() {
            self.log.truncate_suffix(*sequence)?;
            self.sequences.split_off(&from);
        }
        Ok(())
    }

    fn purge(&mut self, upto: entry::Place) -> Result<(), RaftError> {
        let kept = self.sequences.split_off(&(upto.index + 1));
        let gone = std::mem::replace(&mut self.sequences, kept);
        if let Some((_, sequence)) = gone.last_key_value() {
            self.meta.purged_sequence = *sequence;
        }
        self.meta.purged = Some(upto);
        self.save_meta()?;
        // a segment that cannot go now goes with the next
        let _ = self.log.purge_prefix(self.meta.purged_sequence + 1);
        Ok(())
    }
}

fn answer(done: Done, result: Result<(), RaftError>) {
    // nobody waits any more
    let _ = done.send(result.map_err(io::Error::from));
}
