//! The writer thread: takes what waits in the queue as one group, commits it once, answers each.
//!
//! Invariant: every job taken is answered exactly once (see `reply.rs`), and nothing is written
//! after a failed sync. The thread ends when every handle of the store is gone or one closed it;
//! it alone closes the engine, so that dropping a handle never waits.

use crate::batch::{Batch, Committed};
use crate::engine::{Engine, Failed, GROUP_LEN_MAX};
use crate::reply::Reply;
use crate::store::{Options, Shared};
use crate::turn::{End, Turn, Tx};
use crate::verify::Frozen;
use crate::KvError;
use crossbeam_channel::{bounded, select, Receiver, TryRecvError};
use macula_core::{Clock, Disk, Gate};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// What waits in the queue.
pub(crate) enum Job {
    Batch { batch: Batch, bytes: usize, reply: Reply<Committed> },
    Begin { deadline: Duration, reply: Reply<Tx> },
    Freeze(Reply<Frozen>),
}

/// The thread's own things.
pub(crate) struct Writer {
    pub engine: Engine,
    pub shared: Arc<Shared>,
    pub jobs: Receiver<Job>,
    /// Says nothing; disconnected when the store is to close.
    pub open: Receiver<()>,
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
    pub clock: Arc<dyn Clock>,
    pub options: Options,
    /// Taken from the queue, not done yet.
    pub next: Option<Job>,
}

type Member = (Batch, Reply<Committed>);

impl Writer {
    pub fn run(mut self) {
        while let Some(job) = self.take() {
            match job {
                Job::Batch { batch, bytes, reply } => {
                    let group = self.gather(batch, bytes, reply);
                    self.commit(group);
                }
                Job::Begin { deadline, reply } => self.turn(deadline, reply),
                Job::Freeze(reply) => {
                    let frozen = self.shared.writable().and_then(|()| Frozen::now(&self.engine));
                    reply.give(frozen);
                }
            }
        }
        self.close();
    }

    fn take(&mut self) -> Option<Job> {
        if self.open.try_recv() == Err(TryRecvError::Disconnected) {
            return None;
        }
        if let Some(job) = self.next.take() {
            return Some(job);
        }
        select! {
            recv(self.open) -> _ => None,
            recv(self.jobs) -> job => job.ok(),
        }
    }

    /// The group that begins with this batch: what else waits, up to the next job of another kind.
    fn gather(&mut self, batch: Batch, bytes: usize, reply: Reply<Committed>) -> Vec<Member> {
        let mut bytes_taken = 0;
        let mut group = Vec::new();
        let mut next = Some(Job::Batch { batch, bytes, reply });
        loop {
            match next {
                Some(Job::Batch { batch, bytes, reply }) => {
                    self.shared.bytes_queued.fetch_sub(bytes, Ordering::AcqRel);
                    bytes_taken += bytes;
                    match batch.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                        true => reply.give(Err(KvError::Cancelled)),
                        false => group.push((batch, reply)),
                    }
                }
                other => {
                    self.next = other;
                    return group;
                }
            }
            if bytes_taken >= self.options.batch_bytes_max || group.len() >= GROUP_LEN_MAX {
                return group;
            }
            next = self.jobs.try_recv().ok();
        }
    }

    fn commit(&mut self, group: Vec<Member>) {
        if let Err(error) = self.shared.writable() {
            return answer_all(group, &error);
        }
        let group = self.that_fit(group);
        if group.is_empty() {
            return;
        }
        let batches: Vec<&Batch> = group.iter().map(|(batch, _)| batch).collect();
        let shared = &self.shared;
        match self.engine.commit(&batches, &self.gate, |view| shared.publish(view)) {
            Ok(outcomes) => {
                for ((_, reply), outcome) in group.into_iter().zip(outcomes) {
                    reply.give(outcome);
                }
            }
            Err(Failed::Full) => {
                let view = self.engine.revive().and_then(|()| self.engine.view());
                if let Err(error) = &view {
                    self.shared.poison(error);
                }
                self.shared.publish(view);
                answer_all(group, &KvError::DiskFull);
            }
            Err(Failed::Before(error)) => {
                self.shared.poison(&error);
                answer_all(group, &error);
            }
            Err(Failed::Unknown(error)) => {
                self.shared.poison(&error);
                answer_all(group, &KvError::UnknownResult(error.to_string()));
            }
        }
    }

    /// Refuses what the disk has no room for, before redb meets it.
    fn that_fit(&self, group: Vec<Member>) -> Vec<Member> {
        let Ok(space) = self.disk.space() else { return group };
        let mut free = space.free.saturating_sub(self.options.reserve_bytes);
        let mut fitting = Vec::with_capacity(group.len());
        for (batch, reply) in group {
            match free.checked_sub(batch.disk_bytes()) {
                Some(left) => {
                    free = left;
                    fitting.push((batch, reply));
                }
                None => reply.give(Err(KvError::DiskFull)),
            }
        }
        fitting
    }

    fn turn(&mut self, deadline: Duration, reply: Reply<Tx>) {
        let view = match self.shared.writable().and_then(|()| self.shared.view()) {
            Ok(view) => view,
            Err(error) => return reply.give(Err(error)),
        };
        let (end, ended) = bounded(1);
        let turn = Arc::new(Turn::new(view, end, self.options.tx_bytes_max));
        let until = self.clock.monotonic() + deadline;
        reply.give(Ok(Tx::new(turn.clone())));
        let left = until.saturating_sub(self.clock.monotonic());
        let why = select! {
            recv(ended) -> end => return self.end(end.ok()),
            recv(self.open) -> _ => KvError::Closed,
            default(left) => KvError::Timeout,
        };
        if !turn.stop(why) {
            // it ended by itself at the same moment, and its message is on the way
            self.end(ended.recv().ok());
        }
    }

    fn end(&mut self, end: Option<End>) {
        if let Some(End::Commit(batch, reply)) = end {
            self.commit(vec![(batch, reply)]);
        }
    }

    fn close(mut self) {
        self.shared.close();
        drop(self.next.take());
        // their replies answer `Closed` as they are dropped
        while self.jobs.try_recv().is_ok() {}
        self.engine.blocks.detach();
        match self.shared.writable() {
            // failing here, it is opened like after a crash
            Err(KvError::Closed) => drop(self.engine.close()),
            _ => self.engine.drop_db(),
        }
    }
}

fn answer_all(group: Vec<Member>, error: &KvError) {
    for (_, reply) in group {
        reply.give(Err(error.clone()));
    }
}
