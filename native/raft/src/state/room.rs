//! Room on the disk for the table: taken before a command is let in, and again before it is applied.
//!
//! Invariant: redb does not meet a full disk as long as commands take what is thought here, because after one it
//! refuses everything. A command without room is refused before it is in the log; what is in the log waits.

use super::checkpoint::Snap;
use super::store::State;
use crate::machine::{self, Command, Op};
use crate::types::{Entry, Proposal};
use crate::RaftError;
use macula_blocks::BlockError;
use openraft::EntryPayload;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// What a command that is not applied yet may take beside its bytes: pages of its rows and those above them.
const PAGES_BYTES: u64 = 64 << 10;
/// What a row that is applied may take in the table beside its bytes: a page of its own, one above it, and a new one
/// where one of them is split.
const ROW_PAGES_BYTES: u64 = 12 << 10;
/// A row so long may have a page of its own.
const SHORT_BYTES: u64 = 1 << 10;
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
    /// Up to where the log was when the node opened: those had their room before.
    opened_at: AtomicU64,
    is_closing: AtomicBool,
    /// A checkpoint failed: there may be none any more.
    is_stuck: AtomicBool,
}

/// What is to be brought into the table: of the newest layer, and in all.
#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    newest: Written,
    all: Written,
}

/// What a batch wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Those that may each be on a page of their own.
    scattered: u64,
    /// Keys and values of all, as redb lays them out.
    bytes: u64,
}

impl Written {
    pub fn of<'a>(written: impl Iterator<Item = (&'a [u8], usize)>) -> Self {
        written.fold(Self::default(), |rows, (key, len)| Self {
            scattered: rows.scattered + u64::from(machine::is_scattered(key)),
            bytes: rows.bytes + laid_out((key.len() + len) as u64),
        })
    }

    fn add(&mut self, other: Self) {
        self.scattered += other.scattered;
        self.bytes += other.bytes;
    }
}

/// Short rows share pages, which may be half full; a long one has some of its own, a power of two of them.
fn laid_out(len: u64) -> u64 {
    match len < SHORT_BYTES {
        true => len * 2,
        false => (len + SHORT_BYTES).next_power_of_two(),
    }
}

impl Owed {
    pub fn add_applied(&self, rows: Written) {
        let mut applied = self.applied.lock();
        applied.newest.add(rows);
        applied.all.add(rows);
    }

    /// What was applied so far is on its way into the table.
    pub fn freeze_applied(&self) {
        let mut applied = self.applied.lock();
        applied.newest = Written::default();
    }

    /// And has arrived there.
    pub fn thaw_applied(&self) {
        let mut applied = self.applied.lock();
        applied.all = applied.newest;
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

/// Bytes of a command; what is none takes no row.
fn command_bytes(entry: &Entry) -> Option<u64> {
    match &entry.payload {
        EntryPayload::Normal(proposal) => Some(proposal.command.0.len() as u64),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// Commands that were let in, until it is dropped.
pub(crate) struct LetIn {
    state: Arc<State>,
    commands: u64,
    bytes: u64,
}

impl LetIn {
    fn add(&mut self, commands: u64, bytes: u64) {
        (self.commands, self.bytes) = (self.commands + commands, self.bytes + bytes);
        self.state.owed.commands.fetch_add(commands, Ordering::AcqRel);
        self.state.owed.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove(&mut self, commands: u64, bytes: u64) {
        (self.commands, self.bytes) = (self.commands - commands, self.bytes - bytes);
        self.state.owed.commands.fetch_sub(commands, Ordering::AcqRel);
        self.state.owed.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.remove(self.commands, self.bytes);
    }
}

/// What the table has to take.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Commands that are not applied yet, and their bytes.
    commands: u64,
    bytes: u64,
    applied: Written,
}

impl Load {
    /// Room for it; in a table so large, no page of which is copied twice between two checkpoints.
    fn room(self, used: u64) -> u64 {
        let pages = self.commands * PAGES_BYTES + self.applied.scattered * ROW_PAGES_BYTES;
        // keys and values of commands stand in the history too
        self.bytes * 2 + self.applied.bytes + pages.min(used + used / 2) + OWN_BYTES
    }
}

impl State {
    /// Let those commands in for which there is room: for what they and those before them may need, and for what the
    /// log may take at a time. Why not, of each that is not.
    pub(crate) fn let_in(self: &Arc<Self>, proposals: &[Proposal], log_bytes: u64) -> (LetIn, Vec<Option<RaftError>>) {
        let bytes_of = |proposal: &Proposal| proposal.command.0.len() as u64;
        let (commands, bytes) = (proposals.len() as u64, proposals.iter().map(bytes_of).sum());
        let mut let_in = LetIn { state: self.clone(), commands: 0, bytes: 0 };
        let_in.add(commands, bytes);
        // without a look at what the commands are, and more than enough for them
        let enough = (self.load().room(u64::MAX / 4) + LEFT_BYTES + log_bytes) * 2 + MUCH_BYTES;
        if self.disk.space().map_or(true, |space| space.free > enough) {
            return (let_in, proposals.iter().map(|_| None).collect());
        }
        let_in.remove(commands, bytes);
        let mut enter = |proposal: &Proposal| {
            let bytes = bytes_of(proposal);
            let_in.add(1, bytes);
            self.find_room(proposal, log_bytes).inspect_err(|_| let_in.remove(1, bytes)).err()
        };
        let refused = proposals.iter().map(&mut enter).collect();
        (let_in, refused)
    }

    /// What was let in, and what is applied, which needs its room in the table still; the log has it.
    fn load(&self) -> Load {
        let owed = &self.owed;
        let (commands, bytes) = (owed.commands.load(Ordering::Acquire), owed.bytes.load(Ordering::Acquire));
        Load { commands, bytes, applied: owed.applied.lock().all }
    }

    /// For a command that was just let in.
    fn find_room(&self, proposal: &Proposal, log_bytes: u64) -> Result<(), RaftError> {
        let load = self.load();
        let removes = machine::Command::decode(&proposal.command.0).is_ok_and(|command| only_removes(&command));
        let made = self.make_room(load, if removes { 0 } else { LEFT_BYTES });
        if made.is_err() && load.applied != Written::default() {
            // thought to need more than it does: afterwards it is known
            self.full.notify_one();
        }
        made?;
        let left = if removes { 0 } else { log_bytes * 2 };
        match self.disk.space() {
            Ok(space) if space.free < load.bytes + left => Err(BlockError::DiskFull.into()),
            _ => Ok(()),
        }
    }

    fn make_room(&self, load: Load, left: u64) -> Result<(), BlockError> {
        let db = self.db();
        let needed = load.room(db.blocks().used_bytes()) + left;
        match self.disk.space() {
            Ok(space) if space.free <= needed * 2 + MUCH_BYTES => db.blocks().reserve(needed),
            // what it is that fails here, the write meets and names
            _ => Ok(()),
        }
    }

    /// An entry of the log must be applied: wait until it can be. Not those that the log had when the node opened: it
    /// comes up with what it has, also on a full disk.
    pub(super) async fn wait_for_room(self: &Arc<Self>, entries: &[Entry]) -> Result<(), RaftError> {
        let opened_at = self.owed.opened_at.load(Ordering::Acquire);
        let of_commands = || entries.iter().filter(|entry| entry.log_id.index > opened_at).filter_map(command_bytes);
        let (commands, bytes) = (of_commands().count() as u64, of_commands().sum::<u64>());
        if commands == 0 {
            return Ok(());
        }
        loop {
            let applied = self.owed.applied.lock().all;
            match self.make_room(Load { commands, bytes, applied }, 0) {
                // room for that was made before; what is left may be enough then
                Err(BlockError::DiskFull) if applied != Written::default() && self.has_room() => {
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
    fn has_room(&self) -> bool {
        !matches!(self.make_room(self.applied_load(), 0), Err(BlockError::DiskFull))
    }

    fn applied_load(&self) -> Load {
        Load { applied: self.owed.applied.lock().all, ..Load::default() }
    }

    /// Make what is applied durable, once there is room for it.
    pub(super) async fn checkpoint_when_it_can(self: &Arc<Self>) -> Result<Snap, RaftError> {
        loop {
            if self.has_room() {
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
        if self.make_room(self.applied_load(), 0).is_ok() {
            // the log has it all
            let _ = self.checkpoint();
        }
    }

    /// The log has entries up to there; what comes later waits for room.
    pub(crate) fn open_at(&self, index: u64) {
        self.owed.opened_at.store(index, Ordering::Release);
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
