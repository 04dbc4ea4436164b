//! The writer: takes what waits as one group, appends it to the log, syncs once, lets everybody see
//! it, answers each.
//!
//! Invariant: a batch is in the log before it is in a table, and durable before it is seen, unless it
//! asked for less. After a failed write or sync of the log nothing is written any more, and what was
//! not yet seen is never seen.

use crate::batch::{Batch, Committed, Condition, Durability, Expired, Op};
use crate::drain;
use crate::queue::Job;
use crate::record;
use crate::reply::Reply;
use crate::shared::Shared;
use crate::subscribe::Heard;
use crate::table::{Written, NEVER_MS};
use crate::turn::{End, Turn, Tx};
use crate::view::{Stack, View};
use crate::KvError;
use macula_core::Kinded;
use macula_wal::Log;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Batches in one group at most.
pub(crate) const GROUP_LEN_MAX: usize = 1 << 16;
/// Between two groups, when memory is full of what is not drained.
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// A revision is a number of openings after a crash, then the sequence in the log: so that what an
/// unknown outcome may have used is never used again.
pub(crate) const SEQUENCE_BITS: u32 = 40;
pub(crate) const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

/// What only one thread at a time has.
pub(crate) struct Writer {
    pub log: Log,
    /// The upper part of revisions.
    pub epoch: u64,
    /// Something is in the log that no sync covers.
    pub is_dirty: bool,
}

pub(crate) type Group = Vec<(Batch, Reply<Committed>)>;

impl Shared {
    /// Do what was taken from the queue. False: nobody works on it for now.
    pub fn perform(self: &Arc<Self>, group: Group, job: Option<Job>) -> bool {
        match job {
            None => self.commit(group),
            Some(Job::Begin { deadline, reply }) => return !self.begin_turn(deadline, reply),
            Some(Job::End(End::Commit(batch, reply))) => self.commit(vec![(batch, reply)]),
            Some(Job::End(End::Abort)) => {}
            Some(Job::Sync { freeze, reply }) => {
                let synced = self.sync(freeze);
                if freeze {
                    drain::ask(self);
                }
                if freeze && reply.is_none() {
                    self.slim();
                }
                reply.into_iter().for_each(|reply| reply.give(synced.clone()));
            }
            // taken as groups
            Some(Job::Batch { batch, reply, .. }) => self.commit(vec![(batch, reply)]),
        }
        self.keep_up()
    }

    fn commit(self: &Arc<Self>, group: Group) {
        if let Err(error) = self.may_write() {
            return answer_all(group, &error);
        }
        let group = self.that_fit(group);
        if group.is_empty() {
            return;
        }
        let mut writer = self.writer.lock();
        let pass = self.gate.pass();
        let Ok(mut staged) = self.view() else { return answer_all(group, &KvError::Closed) };
        let (before, mut stack_before) = (staged.revision, staged.stack.clone());
        let own = *self.durability.lock();
        let (mut done, mut broken, mut durability) = (Vec::with_capacity(group.len()), None, Durability::None);
        let (mut heard, mut unserved) = (Vec::new(), Vec::new());
        for (mut batch, reply) in group {
            let wanted = batch.durability.unwrap_or(own);
            match self.stage(&mut writer, &mut staged, &mut stack_before, &mut batch, &mut heard) {
                Ok(committed) => {
                    durability = durability.max(wanted);
                    done.push((reply, Ok(committed)));
                }
                Err(error) => {
                    if !is_outcome(&error) {
                        broken = Some(error.clone());
                    }
                    done.push((reply, Err(error)));
                }
            }
        }
        if staged.revision != before {
            let begun = self.clock.monotonic();
            if let Err(error) = writer.make(durability) {
                self.poison(&error);
                let unknown = KvError::UnknownResult(error.to_string());
                done.iter_mut()
                    .filter(|(_, result)| result.is_ok())
                    .for_each(|(_, result)| *result = Err(unknown.clone()));
            } else {
                self.counters.group(done.len());
                if durability == Durability::Sync {
                    self.counters.sync(self.clock.monotonic().saturating_sub(begun));
                }
                self.publish(&stack_before, staged);
                unserved = self.hand_out(heard);
            }
        }
        drop(pass);
        self.log_bytes.store(writer.log.begun_bytes(), Ordering::Relaxed);
        let is_dirty = writer.is_dirty;
        drop(writer);
        self.serve(unserved);
        if let Some(error) = broken {
            self.poison(&error);
        }
        done.into_iter().for_each(|(reply, result)| reply.give(result));
        if is_dirty && durability == Durability::Async {
            self.sync_later();
        }
    }

    /// Check one batch against what is staged, append it, and lay it over.
    fn stage(
        &self,
        writer: &mut Writer,
        staged: &mut View,
        before: &mut Arc<Stack>,
        batch: &mut Batch,
        heard: &mut Vec<Heard>,
    ) -> Result<Committed, KvError> {
        if batch.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
            return Err(KvError::Cancelled);
        }
        self.look_at_staged(staged, before, |view| meets(view, &batch.conditions))?;
        if matches!(batch.ops.first(), Some(Op::Expire(_))) {
            let mut due = self.look_at_staged(staged, before, |view| still_due(view, &batch.ops))?.into_iter();
            batch.ops.retain(|_| due.next().unwrap_or(false));
            if batch.ops.is_empty() {
                return Ok(Committed { revision: staged.revision });
            }
        }
        let revision = writer.epoch | writer.log.next_sequence();
        record::append(&mut writer.log, revision, &batch.ops)?;
        heard.extend(self.subscribers.lock().hear(revision, &batch.ops));
        lay_over(&mut staged.stack, std::mem::take(&mut batch.ops), revision);
        staged.revision = revision;
        Ok(Committed { revision })
    }

    /// As [`Shared::read`], of what is staged: while redb is opened anew, the tables get its newer base.
    fn look_at_staged<T>(
        &self,
        staged: &mut View,
        before: &mut Arc<Stack>,
        look: impl Fn(&View) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        loop {
            match look(staged) {
                // nothing was cleared in this group: then the base would not be looked at
                Err(error) if self.is_passing(&error, staged) => {
                    std::thread::yield_now();
                    *before = self.view()?.stack;
                    staged.stack = before.clone();
                }
                result => return result,
            }
        }
    }

    fn may_write(&self) -> Result<(), KvError> {
        self.writable()?;
        match self.blocks().latched().map(KvError::from) {
            Some(error) => {
                // what was acknowledged now could never be drained
                self.poison(&error);
                Err(error)
            }
            None if self.is_drain_full.load(Ordering::Acquire) && self.is_over_full() => Err(KvError::DiskFull),
            None => Ok(()),
        }
    }

    /// Make everything durable that was written; with `freeze`, fit to be drained too.
    pub fn sync(self: &Arc<Self>, freeze: bool) -> Result<(), KvError> {
        self.sound()?;
        let mut writer = self.writer.lock();
        let (was_dirty, begun) = (writer.is_dirty, self.clock.monotonic());
        if let Err(error) = writer.make(Durability::Sync) {
            self.poison(&error);
            return Err(error);
        }
        if was_dirty {
            self.counters.sync(self.clock.monotonic().saturating_sub(begun));
        }
        if freeze {
            self.begin_table();
        }
        Ok(())
    }

    /// Little was written for a while: what is kept for speed goes.
    fn slim(&self) {
        let mut writer = self.writer.lock();
        // what fails here, the next writer hears
        let _ = writer.log.slim();
        self.log_bytes.store(writer.log.begun_bytes(), Ordering::Relaxed);
    }

    fn sync_later(self: &Arc<Self>) {
        if !self.is_sync_due.swap(true, Ordering::AcqRel) {
            let shared = Arc::downgrade(self);
            self.threads.after(self.options.sync_interval, move || {
                let Some(shared) = shared.upgrade() else { return };
                shared.is_sync_due.store(false, Ordering::Release);
                // not in the queue, where an exclusive turn may hold it up; who fails says so to all
                let threads = shared.threads.clone();
                threads.write(move || drop(shared.sync(false)));
            });
        }
    }

    /// Twice what memory may hold, and a drain is on its way.
    pub fn is_far_too_full(&self) -> bool {
        !self.is_drain_full.load(Ordering::Acquire)
            && self.sound().is_ok()
            && self.state.read().stack.bytes() >= 2 * self.options.overlay_bytes_max
    }

    fn is_over_full(&self) -> bool {
        self.state.read().stack.bytes() >= self.options.overlay_bytes_max
    }

    /// After each group: let full tables be drained, room be made, and do not run ahead of either.
    /// False: the queue is paused.
    fn keep_up(self: &Arc<Self>) -> bool {
        let (active, waiting) = {
            let stack = &self.state.read().stack;
            (stack.tables.first().map_or(0, |table| table.bytes()), stack.bytes())
        };
        if active >= self.options.table_bytes_max {
            // a failure here is the next writer's to hear
            let _ = self.sync(true);
            drain::ask_if_due(self);
        }
        if waiting > 0 {
            self.drain_later();
        }
        drain::refill(self);
        match self.pause_for(waiting) {
            Some(span) => {
                self.pause(span);
                false
            }
            None => true,
        }
    }

    /// What is in memory is drained after a while, though it is little.
    fn drain_later(self: &Arc<Self>) {
        if self.is_freeze_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let (shared, table) = (Arc::downgrade(self), self.active());
        self.threads.after(self.options.drain_interval, move || {
            let Some(shared) = shared.upgrade() else { return };
            shared.is_freeze_due.store(false, Ordering::Release);
            let active = shared.active();
            if Weak::ptr_eq(&active, &table) {
                return shared.submit_own(Job::Sync { freeze: true, reply: None });
            }
            // it was full before: what came later gets its time
            drain::ask(&shared);
            if active.upgrade().is_some_and(|active| !active.is_blank()) {
                shared.drain_later();
            }
        });
    }

    /// How long writers wait for the drain, the more the fuller the memory is: in many small steps, so
    /// that no caller waits for a whole drain. Only what is twice too much is waited for to the end.
    fn pause_for(&self, waiting: usize) -> Option<Duration> {
        let (half, full) = (self.options.overlay_bytes_max / 2, self.options.overlay_bytes_max);
        if waiting <= half || self.is_drain_full.load(Ordering::Acquire) {
            return None;
        }
        let over = (waiting - half) as f64 / (full - half).max(1) as f64;
        Some(PAUSE_MAX.mul_f64(over.min(1.0).powi(2)))
    }

    /// Whether a turn began.
    fn begin_turn(self: &Arc<Self>, deadline: Duration, reply: Reply<Tx>) -> bool {
        let view = match self.writable().and_then(|()| self.view()) {
            Ok(view) => view,
            Err(error) => {
                reply.give(Err(error));
                return false;
            }
        };
        let until = self.clock.monotonic().saturating_add(deadline);
        let turn = Arc::new(Turn::new(view, Arc::downgrade(self), until, self.options.tx_bytes_max));
        if !self.hold(&turn) {
            reply.give(Err(KvError::Closed));
            return false;
        }
        reply.give(Ok(Tx::new(turn)));
        true
    }
}

impl Writer {
    /// Make what was appended as durable as asked for.
    fn make(&mut self, durability: Durability) -> Result<(), KvError> {
        if durability == Durability::Sync {
            self.log.sync()?;
            self.is_dirty = false;
        } else {
            self.log.flush()?;
            self.is_dirty = true;
        }
        Ok(())
    }
}

/// Errors that say what became of one batch; any other ends the store.
fn is_outcome(error: &KvError) -> bool {
    use macula_core::Kind;
    matches!(error.kind(), Kind::Exists | Kind::Conflict | Kind::Cancelled | Kind::DiskFull | Kind::TooLarge)
}

fn meets(view: &View, conditions: &[Condition]) -> Result<(), KvError> {
    for condition in conditions {
        match condition {
            Condition::Absent(key) if view.has(key)? => return Err(KvError::Exists),
            Condition::Absent(_) => {}
            Condition::Is { key, value } if !view.is(key, value.as_deref())? => return Err(KvError::Conflict),
            Condition::Is { .. } => {}
        }
    }
    Ok(())
}

/// Of a sweep, what is still so. Decided before the log has it, so that the log
/// tells what was done, whatever the clock says when it is read.
fn still_due(view: &View, ops: &[Op]) -> Result<Vec<bool>, KvError> {
    let due = |op: &Op| match op {
        Op::Expire(expired) => view.is_due(expired),
        _ => Ok(true),
    };
    ops.iter().map(due).collect()
}

/// Lay changes over what is there. A clear begins a new table, below which nothing counts.
pub(crate) fn lay_over(stack: &mut Arc<Stack>, ops: Vec<Op>, revision: u64) {
    for op in ops {
        let (key, value, expires_ms) = match op {
            Op::Put { key, value } => (key, Some(value), NEVER_MS),
            Op::PutUntil { key, value, expires_ms } => (key, Some(value), expires_ms),
            Op::Delete { key } | Op::Expire(Expired { key, .. }) => (key, None, NEVER_MS),
            Op::Clear => {
                let Some(table) = stack.tables.first().map(|table| table.cleared_at(revision)) else { continue };
                let (base, now) = (stack.base.clone(), stack.now.clone());
                *stack = Arc::new(Stack { tables: vec![Arc::new(table)], base, now });
                continue;
            }
        };
        if let Some(table) = stack.tables.first() {
            table.insert(key, revision, Written { value, expires_ms });
        }
    }
}

fn answer_all(group: Group, error: &KvError) {
    for (_, reply) in group {
        reply.give(Err(error.clone()));
    }
}
