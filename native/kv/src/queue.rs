//! What waits to be written, and who works on it: nobody, one thread, or nobody because an exclusive
//! turn or a pause has to end first.
//!
//! Invariant: at most one thread works on a store; whoever adds a job to a store on which nobody
//! works, and nothing is awaited, sends a thread there. Every job is answered exactly once.

use crate::batch::{Batch, Committed};
use crate::reply::Reply;
use crate::shared::Shared;
use crate::turn::{End, Turn, Tx};
use crate::KvError;
use parking_lot::MutexGuard;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What waits.
pub(crate) enum Job {
    Batch {
        batch: Batch,
        bytes: usize,
        reply: Reply<Committed>,
    },
    Begin {
        deadline: Duration,
        reply: Reply<Tx>,
    },
    /// A turn ended.
    End(End),
    /// Make everything durable; with `freeze`, fit to be drained too.
    Sync {
        freeze: bool,
        reply: Option<Reply<()>>,
    },
}

impl Job {
    /// The caller learns it in another way.
    pub fn disarm(self) {
        match self {
            Job::Batch { reply, .. } => reply.disarm(),
            Job::Begin { reply, .. } => reply.disarm(),
            Job::End(_) => {}
            Job::Sync { reply, .. } => reply.into_iter().for_each(Reply::disarm),
        }
    }
}

/// Who works on the queue.
#[derive(Default)]
pub(crate) enum Work {
    #[default]
    Nobody,
    Running,
    /// An exclusive turn has to end first.
    Held(Arc<Turn>),
    /// Draining has to catch up first.
    Paused,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub jobs: VecDeque<Job>,
    /// Of the batches.
    pub bytes: usize,
    pub work: Work,
    /// When the turn of then is looked at.
    pub alarm_at: Option<Duration>,
    /// Nothing is taken any more.
    pub is_closed: bool,
}

impl Shared {
    /// Add a caller's job, or hand back why not.
    pub fn submit(self: &Arc<Self>, job: Job, bytes: usize) -> Result<(), KvError> {
        let refused = |job: Job, error| {
            job.disarm();
            Err(error)
        };
        if let Err(error) = self.writable() {
            return refused(job, error);
        }
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return refused(job, KvError::Closed);
        }
        let too_many = queue.jobs.len() >= self.options.queue_len_max.max(1);
        let too_much = bytes > 0 && queue.bytes > 0 && queue.bytes + bytes > self.options.queue_bytes_max;
        if too_many || too_much {
            return refused(job, KvError::Busy);
        }
        queue.bytes += bytes;
        queue.jobs.push_back(job);
        self.send_thread(queue);
        Ok(())
    }

    /// Add a job of our own, at the end; a closed store drops it.
    pub fn submit_own(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue.lock();
        if !queue.is_closed {
            queue.jobs.push_back(job);
            self.send_thread(queue);
        }
    }

    fn send_thread(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if matches!(queue.work, Work::Nobody) && !queue.jobs.is_empty() {
            queue.work = Work::Running;
            drop(queue);
            self.work_later();
        }
    }

    fn work_later(self: &Arc<Self>) {
        let shared = self.clone();
        self.threads.write(move || shared.work());
    }

    /// Begin an exclusive turn, unless the store was closed.
    pub fn hold(self: &Arc<Self>, turn: &Arc<Turn>) -> bool {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return false;
        }
        queue.work = Work::Held(turn.clone());
        if queue.alarm_at.is_none_or(|at| turn.until < at) {
            self.watch(&mut queue, turn.until);
        }
        true
    }

    /// Look at `at` whether the turn of then is over its time. One alarm serves many short turns.
    fn watch(self: &Arc<Self>, queue: &mut Queue, at: Duration) {
        queue.alarm_at = Some(at);
        let shared = Arc::downgrade(self);
        self.threads.after(at.saturating_sub(self.clock.monotonic()), move || {
            let Some(shared) = shared.upgrade() else { return };
            let mut queue = shared.queue.lock();
            if queue.alarm_at != Some(at) {
                return;
            }
            queue.alarm_at = None;
            let Work::Held(turn) = &queue.work else { return };
            let turn = turn.clone();
            if turn.until > shared.clock.monotonic() {
                return shared.watch(&mut queue, turn.until);
            }
            drop(queue);
            // this thread keeps the time of all stores: it does not wait for a turn's reader
            turn.time_out();
        });
    }

    /// The turn ended: its writes are next.
    pub fn end_turn(self: &Arc<Self>, turn: &Turn, end: End) {
        let mut queue = self.queue.lock();
        let is_its = matches!(&queue.work, Work::Held(held) if std::ptr::eq(&**held, turn));
        if !is_its {
            // the store was closed; a commit answers `Closed` as it is dropped
            drop(queue);
            drop(end);
            return;
        }
        let held = std::mem::take(&mut queue.work);
        queue.jobs.push_front(Job::End(end));
        self.send_thread(queue);
        drop(held);
    }

    /// Let nobody work on it for a while.
    pub fn pause(self: &Arc<Self>, span: Duration) {
        let mut queue = self.queue.lock();
        queue.work = Work::Paused;
        if queue.is_closed {
            // whoever closes it waits for that
            queue.work = Work::Nobody;
            self.idle.notify_all();
            return;
        }
        drop(queue);
        self.resume_after(span);
    }

    /// Memory that is full stays closed until a drain made room: then it is looked at again.
    fn resume_after(self: &Arc<Self>, span: Duration) {
        let shared = Arc::downgrade(self);
        self.threads.after(span, move || {
            let Some(shared) = shared.upgrade() else { return };
            let mut queue = shared.queue.lock();
            if !matches!(queue.work, Work::Paused) {
                return;
            }
            if shared.is_far_too_full() {
                drop(queue);
                return shared.resume_after(span);
            }
            queue.work = Work::Nobody;
            shared.send_thread(queue);
        });
    }

    /// Work until nothing waits, another store waits for this thread, or something has to end first.
    fn work(self: Arc<Self>) {
        let mut guard = Unwound { shared: &self, is_armed: true };
        loop {
            let mut queue = self.queue.lock();
            if queue.is_closed || queue.jobs.is_empty() {
                queue.work = Work::Nobody;
                self.idle.notify_all();
                break;
            }
            let group = self.take_group(&mut queue);
            let job = if group.is_empty() { queue.jobs.pop_front() } else { None };
            drop(queue);
            if !self.perform(group, job) {
                break;
            }
            if self.threads.has_waiting_writers() {
                self.work_later();
                break;
            }
        }
        guard.is_armed = false;
    }

    /// The batches that wait in front of the queue.
    fn take_group(&self, queue: &mut Queue) -> Vec<(Batch, Reply<Committed>)> {
        let mut group = Vec::new();
        let mut bytes_taken = 0;
        while bytes_taken < self.options.batch_bytes_max && group.len() < crate::writer::GROUP_LEN_MAX {
            match queue.jobs.pop_front() {
                Some(Job::Batch { batch, bytes, reply }) => {
                    queue.bytes -= bytes;
                    bytes_taken += bytes;
                    group.push((batch, reply));
                }
                Some(other) => {
                    queue.jobs.push_front(other);
                    break;
                }
                None => break,
            }
        }
        group
    }

    /// Answer everything with `Closed`; returns when nobody works on the queue.
    pub fn close_queue(&self) {
        let (jobs, held) = {
            let mut queue = self.queue.lock();
            queue.is_closed = true;
            queue.bytes = 0;
            let held = match std::mem::take(&mut queue.work) {
                Work::Running => {
                    queue.work = Work::Running;
                    None
                }
                Work::Held(turn) => Some(turn),
                Work::Nobody | Work::Paused => None,
            };
            (std::mem::take(&mut queue.jobs), held)
        };
        if let Some(turn) = held {
            turn.stop(KvError::Closed);
        }
        drop(jobs);
        let mut queue = self.queue.lock();
        while matches!(queue.work, Work::Running) {
            self.idle.wait(&mut queue);
        }
    }
}

/// A defect of ours on a writing thread must not leave a store on which nobody works for ever.
struct Unwound<'s> {
    shared: &'s Arc<Shared>,
    is_armed: bool,
}

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.shared.poison(&KvError::Internal("the writer panicked".into()));
            self.shared.queue.lock().work = Work::Nobody;
            self.shared.idle.notify_all();
            let jobs = std::mem::take(&mut self.shared.queue.lock().jobs);
            drop(jobs);
        }
    }
}
