//! Room on the disk for the table: taken before a command is let in, and again before it is applied.
//!
//! Invariant: redb does not meet a full disk as long as commands take what is thought here, because after one it
//! refuses everything. A command without room is refused before it is in the log; what is in the log waits.

use super::checkpoint::Snap;
use super::store::State;
use crate::machine::{self, Command, Op};
use crate::types::{Blob, Entry};
use crate::RaftError;
use macula_blocks::BlockError;
use openraft::EntryPayload;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// What a command may take beside its bytes: pages of its rows and those above them.
const PAGES_BYTES: u64 = 64 << 10;
/// For what redb writes of its own, at a checkpoint too.
pub(super) const OWN_BYTES: u64 = 512 << 10;
/// What commands leave that do more than remove, so that those which make room find some.
const LEFT_BYTES: u64 = 1 << 20;
/// With so much left on the disk nothing is reserved.
const MUCH_BYTES: u64 = 64 << 20;
/// Between two looks for room on a full disk.
const PAUSE: Duration = Duration::from_millis(50);

/// What was let in and not answered yet, and what is applied and not in the table yet.
#[derive(Default)]
pub(super) struct Owed {
    commands: AtomicU64,
    bytes: AtomicU64,
    applied: Mutex<Applied>,
    is_closing: AtomicBool,
    /// A checkpoint failed: there may be none any more.
    is_stuck: AtomicBool,
}

/// Since the newest layer began, and in all.
#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    commands_new: u64,
    bytes_new: u64,
    commands: u64,
    bytes: u64,
}

impl Owed {
    pub fn add_applied(&self, entries: &[Entry]) {
        let (count, len) = (entries.len() as u64, entries.iter().map(bytes_of).sum::<u64>());
        let mut applied = self.applied.lock();
        applied.commands_new += count;
        applied.bytes_new += len;
        applied.commands += count;
        applied.bytes += len;
    }

    /// What was applied so far is on its way into the table.
    pub fn freeze_applied(&self) {
        let mut applied = self.applied.lock();
        (applied.commands_new, applied.bytes_new) = (0, 0);
    }

    /// And has arrived there.
    pub fn thaw_applied(&self) {
        let mut applied = self.applied.lock();
        (applied.commands, applied.bytes) = (applied.commands_new, applied.bytes_new);
    }

    pub fn set_stuck(&self, is_stuck: bool) {
        self.is_stuck.store(is_stuck, Ordering::Release);
    }

    /// Nobody should wait for a checkpoint.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Acquire) || self.is_closing.load(Ordering::Acquire)
    }

    pub fn forget_applied(&self) {
        *self.applied.lock() = Applied::default();
    }
}

fn bytes_of(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.command.0.len() as u64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// A command that was let in.
pub(crate) struct LetIn {
    state: Arc<State>,
    bytes: u64,
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.state.owed.commands.fetch_sub(1, Ordering::AcqRel);
        self.state.owed.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl State {
    /// Let a command in, if there is room for what it and those before it may need, and for what the log may take
    /// at a time.
    pub(crate) fn let_in(self: &Arc<Self>, command: &Blob, log_bytes: u64) -> Result<LetIn, RaftError> {
        let bytes = command.0.len() as u64;
        let owed = &self.owed;
        let commands = owed.commands.fetch_add(1, Ordering::AcqRel) + 1;
        let all_bytes = owed.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let entered = LetIn { state: self.clone(), bytes };
        // what is applied needs its room in the table still; the log has it
        let applied = *self.owed.applied.lock();
        let (commands, table_bytes) = (commands + applied.commands, all_bytes + applied.bytes);
        // without a look at what the command is, and more than enough for it
        let enough = (table_bytes * 2 + commands * PAGES_BYTES + OWN_BYTES + LEFT_BYTES + log_bytes) * 2 + MUCH_BYTES;
        match self.disk.space() {
            Ok(space) if space.free <= enough => {}
            _ => return Ok(entered),
        }
        let removes = machine::Command::decode(&command.0).is_ok_and(|command| only_removes(&command));
        let made = self.make_room(commands, table_bytes, if removes { 0 } else { LEFT_BYTES });
        if made.is_err() && applied.commands > 0 {
            // thought to need more than it does: afterwards it is known
            self.full.notify_one();
        }
        made?;
        let left = if removes { 0 } else { log_bytes * 2 };
        match self.disk.space() {
            Ok(space) if space.free < all_bytes + left => Err(BlockError::DiskFull.into()),
            _ => Ok(entered),
        }
    }

    fn make_room(&self, commands: u64, bytes: u64, left: u64) -> Result<(), BlockError> {
        let db = self.db();
        // no page is copied twice between two checkpoints; by what was reserved before, each time would ask for more
        let used = db.blocks().used_bytes();
        let pages = (commands * PAGES_BYTES).min(used + used / 2);
        // keys and values stand in the history too
        let needed = bytes * 2 + pages + OWN_BYTES + left;
        match self.disk.space() {
            Ok(space) if space.free <= needed * 2 + MUCH_BYTES => db.blocks().reserve(needed),
            // what it is that fails here, the write meets and names
            _ => Ok(()),
        }
    }

    /// An entry of the log must be applied: wait until it can be.
    pub(super) async fn wait_for_room(self: &Arc<Self>, entries: &[Entry]) -> Result<(), RaftError> {
        let (count, bytes) = (entries.len() as u64, entries.iter().map(bytes_of).sum::<u64>());
        loop {
            let applied = *self.owed.applied.lock();
            match self.make_room(count + applied.commands, bytes + applied.bytes, 0) {
                // room for that was made before; what is left may be enough then
                Err(BlockError::DiskFull) if applied.commands > 0 && self.has_room(applied) => {
                    self.checkpoint_now().map(drop)?;
                }
                Err(BlockError::DiskFull) if !self.owed.is_closing.load(Ordering::Acquire) => {
                    tokio::time::sleep(PAUSE).await;
                }
                made => return Ok(made?),
            }
        }
    }

    /// For a checkpoint: a table that meets a full disk is of no use until it is opened again.
    fn has_room(&self, applied: Applied) -> bool {
        !matches!(self.make_room(applied.commands, applied.bytes, 0), Err(BlockError::DiskFull))
    }

    /// Make what is applied durable, once there is room for it.
    pub(super) async fn checkpoint_when_it_can(self: &Arc<Self>) -> Result<Snap, RaftError> {
        loop {
            let applied = *self.owed.applied.lock();
            if self.has_room(applied) {
                return self.checkpoint_now();
            }
            if self.owed.is_closing.load(Ordering::Acquire) {
                return Err(BlockError::DiskFull.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn checkpoint_now(self: &Arc<Self>) -> Result<Snap, RaftError> {
        crate::engine::blocking(|| self.checkpoint())
    }

    /// Make what is applied durable, if there is room for it: then the next opening has less to do. Blocks.
    pub(crate) fn checkpoint_at_close(&self) {
        let applied = *self.owed.applied.lock();
        if self.make_room(applied.commands, applied.bytes, 0).is_ok() {
            // the log has it all
            let _ = self.checkpoint();
        }
    }

    /// Nobody waits for room any more.
    pub(crate) fn begin_closing(&self) {
        self.owed.is_closing.store(true, Ordering::Release);
        self.checkpointed.notify_waiters();
    }
}

fn only_removes(command: &Command) -> bool {
    match command {
        Command::Tick | Command::LeaseRevoke { .. } => true,
        Command::Txn { then, otherwise, .. } => {
            then.iter().chain(otherwise).all(|op| matches!(op, Op::Delete { .. } | Op::DeleteMany { .. }))
        }
        Command::LeaseGrant { .. } | Command::LeaseKeepAlive { .. } | Command::Import { .. } => false,
    }
}
