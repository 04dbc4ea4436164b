//! Brings what was applied into the table, durably, while more is applied.
//!
//! Invariant: a layer is frozen as of an entry, and nothing comes into it any more; the table takes it together with
//! the place of that entry, in one transaction. Readers see the layer until they see the table that has it.

use super::database::Database;
use super::overlay::Overlay;
use super::room::Written;
use super::rows::{Base, Reading, ROWS};
use super::snapshot::SnapshotData;
use super::store::{Position, State, POSITION};
use crate::entry::to_bytes;
use crate::machine::Layered;
use crate::types::{LeaderId, LogId, Member, Types};
use crate::RaftError;
use openraft::storage::{RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use redb::Durability;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// What is applied and not in the table yet, bytes: then it is time. With the layer before, which may be on its way,
/// what a node holds in memory is about twice as much.
const LAYER_BYTES: usize = 8 << 20;
/// So much, while the layer before is on its way: applying waits for that.
const LAYER_BYTES_MAX: usize = 4 * LAYER_BYTES;
/// So much let go of is given back to the system, less when nothing is going on.
const LET_GO_BYTES: usize = 32 << 20;
/// Rows between two looks whether somebody else wants the processor.
const ROWS_PER_TURN: usize = 256;
/// Above every key of the machine.
const END: &[u8] = &[0xff];

pub(super) type Snap = Snapshot<LeaderId, u64, Member, SnapshotData>;

/// What is to be brought into a table.
struct Frozen {
    db: Arc<Database>,
    /// The oldest first.
    layers: Vec<Arc<Overlay>>,
    at: Arc<Position>,
    rows: Arc<Reading>,
}

impl State {
    /// What is durable. Never what was applied since: openraft lets the log go up to a snapshot that it was shown, and
    /// a crash would leave a table and a log with a gap between them (seen: a member that was killed again right
    /// after it had started opened no more).
    pub(super) fn snap(&self) -> Result<Snap, RaftError> {
        let (at, base) = {
            let current = self.current.read();
            (current.base_at.clone(), current.base.clone())
        };
        let rows = Reading::new(base, Arc::new([]), at.version());
        snapshot(&at, Arc::new(rows))
    }

    /// Make what is applied durable; the log up to there may go afterwards. What it is of. Blocks.
    pub(crate) fn checkpoint(&self) -> Result<Snap, RaftError> {
        let _one = self.checkpointing.lock();
        let frozen = self.freeze();
        let done = frozen.write().and_then(|()| self.thaw(&frozen));
        self.owed.set_stuck(done.is_err());
        self.checkpointed.notify_waiters();
        let Frozen { db, layers, at, rows } = frozen;
        drop((db, layers));
        self.clear_away();
        done.and_then(|()| snapshot(&at, rows))
    }

    fn freeze(&self) -> Frozen {
        let _changing = self.changing.lock();
        let mut layers = Vec::new();
        self.show(|current| {
            layers.extend(current.layers.iter().rev().cloned());
            current.layers = std::iter::once(Arc::default()).chain(layers.iter().rev().cloned()).collect();
            let version = current.at.version();
            current.rows = Arc::new(Reading::new(current.base.clone(), current.layers.clone(), version));
        });
        self.owed.freeze_applied();
        let current = self.current.read();
        Frozen { db: current.db.clone(), layers, at: current.at.clone(), rows: current.rows.clone() }
    }

    /// The table has them: readers find them there.
    fn thaw(&self, frozen: &Frozen) -> Result<(), RaftError> {
        let base = Base::now(&frozen.db)?;
        let _changing = self.changing.lock();
        // a snapshot may have taken the table's place
        if !Arc::ptr_eq(&self.current.read().db, &frozen.db) {
            return Ok(());
        }
        self.show(|current| {
            let newest = current.layers[0].clone();
            (current.base, current.base_at) = (base.clone(), frozen.at.clone());
            current.layers = Arc::new([newest]);
            let version = current.at.version();
            current.rows = Arc::new(Reading::new(base, current.layers.clone(), version));
        });
        self.owed.thaw_applied();
        self.retired.lock().layers.extend(frozen.layers.iter().cloned());
        Ok(())
    }

    /// Let go of what nobody reads any more, here, where that may take its time.
    fn clear_away(&self) {
        let gone = {
            let mut retired = self.retired.lock();
            let databases: Vec<_> = retired.databases.extract_if(.., |db| Arc::strong_count(db) == 1).collect();
            let layers: Vec<_> = retired.layers.extract_if(.., |layer| Arc::strong_count(layer) == 1).collect();
            (databases, layers)
        };
        let bytes: usize = gone.1.iter().map(|layer| layer.bytes()).sum();
        drop(gone);
        if self.let_go.fetch_add(bytes, Ordering::Relaxed) + bytes > LET_GO_BYTES {
            self.trim();
        }
    }

    /// Give memory back to the system: the C library would keep it, three times what a node needs after a million
    /// writes. Blocks.
    pub(crate) fn trim(&self) {
        if self.let_go.swap(0, Ordering::Relaxed) > 0 {
            (self.trim)();
        }
    }

    /// Some were applied: is it time for a checkpoint?
    pub(super) fn applied(&self, written: Written, layer: &Overlay) {
        self.owed.add_applied(written);
        if layer.bytes() >= LAYER_BYTES {
            self.full.notify_one();
        }
    }

    /// Until a checkpoint would be good.
    pub(crate) async fn wait_until_full(&self) {
        self.full.notified().await;
    }

    /// The disk is slower than what is applied: wait for the checkpoint that is under way. Never for one that is
    /// not, because it may wait behind who waits here.
    pub(super) async fn wait_for_checkpoint(&self) {
        loop {
            let checkpointed = self.checkpointed.notified();
            {
                let current = self.current.read();
                let is_under_way = current.layers.len() > 1 && !self.owed.is_stuck();
                if !is_under_way || current.layers[0].bytes() < LAYER_BYTES_MAX {
                    return;
                }
            }
            checkpointed.await;
        }
    }
}

fn snapshot(at: &Position, rows: Arc<Reading>) -> Result<Snap, RaftError> {
    let meta = SnapshotMeta { last_log_id: at.applied.map(LogId::from), last_membership: at.membership()? };
    Ok(Snapshot { meta, snapshot: SnapshotData::Here(rows) })
}

impl Frozen {
    fn write(&self) -> Result<(), RaftError> {
        let (db, at) = (&self.db, to_bytes(&*self.at)?);
        db.write(Durability::Immediate, |txn| {
            let mut table = txn.open_table(ROWS).map_err(|error| db.said(error))?;
            for layer in &self.layers {
                for (nth, seen) in layer.range((&[], END), self.at.version(), false).enumerate() {
                    match seen.row() {
                        Some(row) => table.insert(seen.key(), row).map(drop),
                        None => table.remove(seen.key()).map(drop),
                    }
                    .map_err(|error| db.said(error))?;
                    if nth % ROWS_PER_TURN == 0 {
                        std::thread::yield_now();
                    }
                }
            }
            let mut places = txn.open_table(POSITION).map_err(|error| db.said(error))?;
            places.insert((), &at[..]).map_err(|error| db.said(error))?;
            Ok(())
        })
    }
}

/// Makes what is applied durable.
pub(crate) struct Builder(pub(super) Arc<State>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        Ok(self.0.checkpoint_when_it_can().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{read, Command, Op, Path};
    use crate::state::Machine;
    use crate::types::{Blob, Entry, Proposal};
    use macula_core::SystemChance;
    use macula_testkit::{CrashMode, FaultDisk};
    use openraft::entry::RaftEntry;
    use openraft::storage::RaftStateMachine;
    use openraft::EntryPayload;

    fn open(disk: &FaultDisk) -> Machine {
        let state = State::open(Arc::new(disk.clone()), Arc::new(SystemChance), || {}).expect("opens");
        Machine { state, listener: Box::new(|_| {}) }
    }

    fn path(n: u64) -> Path {
        Path::new(&[vec![131, 97, n as u8]]).expect("a path")
    }

    fn entry(index: u64) -> Entry {
        let op = Op::Put { path: path(index), value: vec![131, 97, 1], ttl_ms: None, lease: None, keep_while: vec![] };
        let command = Command::Txn { conditions: vec![], then: vec![op], otherwise: vec![] };
        let proposal = Proposal { time_ms: 1, command: Blob(command.encode().into()) };
        let id = LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        Entry::new(id, EntryPayload::Normal(proposal))
    }

    fn has(rows: &Reading, n: u64) -> bool {
        rows.look(|view| Ok(read::get(view, &path(n))?)).expect("reads").is_some()
    }

    /// Whatever is applied when openraft looks, before and behind checkpoints: a table that loses its
    /// power is not behind what was shown as a snapshot, and what is shown is what it says.
    #[tokio::test]
    async fn a_snapshot_is_of_what_is_durable() {
        let disk = FaultDisk::new();
        let mut machine = open(&disk);
        let mut last = 0;
        for round in 0..6 {
            for _ in 0..3 {
                last += 1;
                machine.apply_all(&[entry(last)]).expect("applies");
            }
            if round % 2 == 1 {
                machine.state.checkpoint().expect("is durable");
            }
            let shown = machine.get_current_snapshot().await.expect("tells");
            let upto = shown.as_ref().and_then(|snap| snap.meta.last_log_id).map_or(0, |id| id.index);
            assert_eq!(upto, last / 6 * 6, "applied up to {last}");
            if let Some(Snapshot { snapshot: SnapshotData::Here(rows), .. }) = &shown {
                assert!(has(rows, upto) && !has(rows, upto + 1), "rows up to {upto}");
            }
            let lost = open(&disk.after_crash(CrashMode::LoseAll));
            let found = lost.state.current.read().at.applied.map_or(0, |place| place.index);
            assert!(found >= upto, "shown up to {upto}, found up to {found}");
        }
    }
}
