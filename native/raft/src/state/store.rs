//! What openraft asks of a state machine.
//!
//! Invariant: entries are applied in order, each once; readers see all of a batch of them, or nothing.

use super::checkpoint::{Builder, Snap};
use super::database::{remove, Database, NAME_ARRIVED};
use super::overlay::{Overlay, Row};
use super::room::{Owed, Written};
use super::rows::{Base, Batch, Reading};
use super::snapshot::{piece, Arrival, SnapshotData};
use crate::entry::{from_bytes, to_bytes, Members, Place};
use crate::machine::{self, Event, Stamp};
use crate::types::{Answer, Blob, Entry, LogId, Proposal, StoredMembership, Types};
use crate::RaftError;
use futures_util::{Stream, StreamExt};
use macula_core::{Chance, Disk};
use openraft::storage::{EntryResponder, RaftStateMachine, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;
use tokio::sync::Notify;

/// One row, [`Position`].
pub(super) const POSITION: TableDefinition<(), &[u8]> = TableDefinition::new("position");
/// Of rows copied in one transaction, bytes.
const PIECE_BYTES: usize = 1 << 20;

type Meta = SnapshotMeta<crate::types::LeaderId, u64, crate::types::Member>;

/// Up to where the log is in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) applied: Option<Place>,
    /// Since which entry who is a member.
    pub(super) members: Option<(Option<Place>, Members)>,
}

impl Position {
    /// Of the rows up to there; what comes later has a greater one.
    pub(super) fn version(&self) -> u64 {
        self.applied.map_or(0, |place| place.index + 1)
    }

    pub(super) fn membership(&self) -> Result<StoredMembership, RaftError> {
        match self.members.clone() {
            None => Ok(StoredMembership::default()),
            Some((since, members)) => Ok(StoredMembership::new(since.map(LogId::from), members.try_into()?)),
        }
    }
}

/// The table in use, shared with those who read it.
pub(crate) struct State {
    pub(super) disk: Arc<dyn Disk>,
    chance: Arc<dyn Chance>,
    pub(super) current: RwLock<Current>,
    /// Held by who changes what is current: who applies, and a checkpoint where it begins and ends.
    pub(super) changing: Mutex<()>,
    /// One at a time.
    pub(super) checkpointing: Mutex<()>,
    pub(super) retired: Mutex<Retired>,
    pub(super) owed: Owed,
    /// What was let go of since memory was given back, bytes, and who gives it back.
    pub(super) let_go: AtomicUsize,
    pub(super) trim: fn(),
    /// Called when a checkpoint would be good; set once Raft runs.
    pub(super) full: Notify,
    /// Tells who waits that a checkpoint has ended.
    pub(super) checkpointed: Notify,
    /// Told when members were changed, or may have been.
    pub(crate) members_changed: Notify,
}

/// What was in use, until nobody reads it: letting go of one takes its time, or waits for the disk.
#[derive(Default)]
pub(super) struct Retired {
    pub databases: Vec<Arc<Database>>,
    pub layers: Vec<Arc<Overlay>>,
}

pub(super) struct Current {
    pub db: Arc<Database>,
    pub base: Arc<Base>,
    /// Up to where `base` is, durably.
    pub base_at: Arc<Position>,
    /// Above it, the newest first. Applied goes into the first; the others are on their way into the table.
    pub layers: Arc<[Arc<Overlay>]>,
    /// As of the last batch, so that a read begins without redb.
    pub rows: Arc<Reading>,
    /// Up to where `rows` are.
    pub at: Arc<Position>,
}

impl Current {
    /// What a table holds.
    pub fn of(db: Arc<Database>) -> Result<Self, RaftError> {
        let at = Arc::new(stored_position(&db)?);
        let base = Base::now(&db)?;
        let layers: Arc<[Arc<Overlay>]> = Arc::new([Arc::default()]);
        let rows = Arc::new(Reading::new(base.clone(), layers.clone(), at.version()));
        Ok(Self { db, base, base_at: at.clone(), layers, rows, at })
    }
}

impl State {
    pub(crate) fn open(disk: Arc<dyn Disk>, chance: Arc<dyn Chance>, trim: fn()) -> Result<Arc<Self>, RaftError> {
        remove(&*disk, NAME_ARRIVED)?;
        let current = RwLock::new(Current::of(Database::open(&*disk, &*chance)?)?);
        let (changing, checkpointing, retired, owed, let_go) = Default::default();
        let (full, checkpointed, members_changed) = Default::default();
        Ok(Arc::new(Self {
            disk,
            chance,
            current,
            changing,
            checkpointing,
            retired,
            owed,
            let_go,
            trim,
            full,
            checkpointed,
            members_changed,
        }))
    }

    /// As of the last batch that was applied.
    pub(crate) fn read(&self) -> Arc<Reading> {
        self.current.read().rows.clone()
    }

    /// The same for who must not wait.
    pub(crate) fn read_now(&self) -> Option<Arc<Reading>> {
        Some(self.current.try_read()?.rows.clone())
    }

    pub(super) fn db(&self) -> Arc<Database> {
        self.current.read().db.clone()
    }

    /// The first block that did not match its tag.
    pub(crate) fn damage(&self) -> Option<RaftError> {
        self.db().blocks().corruption().map(RaftError::from)
    }

    /// Let readers see it.
    pub(super) fn show(&self, change: impl FnOnce(&mut Current)) {
        let before = {
            let mut current = self.current.write();
            let before = (current.rows.clone(), current.base.clone());
            change(&mut current);
            before
        };
        // behind the lock
        drop(before);
    }

    /// A table for a snapshot that is arriving; an earlier one that did not arrive wholly is gone.
    pub(crate) fn begin_arrival(&self) -> Result<Arrival, RaftError> {
        Database::create(&*self.disk, &*self.chance, NAME_ARRIVED).map(Arrival::new)
    }

    /// A snapshot of another machine in this process.
    fn copy(&self, rows: &Reading) -> Result<SnapshotData, RaftError> {
        let (mut arrival, mut behind) = (self.begin_arrival()?, Vec::new());
        while let Some((bytes, last)) = piece(rows, &behind, PIECE_BYTES)? {
            arrival.take(&bytes)?;
            behind = last;
        }
        arrival.end()
    }

    /// Make a table that arrived the one in use.
    fn adopt(&self, arrived: Arc<Database>) -> Result<(), RaftError> {
        arrived.give_name(&*self.disk, NAME_ARRIVED)?;
        let _changing = self.changing.lock();
        let mut next = Current::of(arrived)?;
        self.show(|current| std::mem::swap(current, &mut next));
        self.owed.forget_applied();
        let mut retired = self.retired.lock();
        retired.databases.push(next.db.clone());
        retired.layers.extend(next.layers.iter().cloned());
        Ok(())
    }
}

fn position(db: &Database, table: &impl ReadableTable<(), &'static [u8]>) -> Result<Position, RaftError> {
    match table.get(()).map_err(|error| db.said(error))? {
        None => Ok(Position::default()),
        Some(bytes) => from_bytes("position of the state", bytes.value()),
    }
}

fn stored_position(db: &Database) -> Result<Position, RaftError> {
    db.run(|redb| {
        let txn = redb.begin_read().map_err(|error| db.said(error))?;
        position(db, &txn.open_table(POSITION).map_err(|error| db.said(error))?)
    })
}

/// What is told of each batch that was applied; nothing: of a snapshot that took the table's place.
pub(crate) type Listener = Box<dyn Fn(&[Event]) + Send + Sync>;

/// The machine that entries are applied to.
pub(crate) struct Machine {
    pub(crate) state: Arc<State>,
    pub(crate) listener: Listener,
}

impl Machine {
    pub(super) fn apply_all(&self, entries: &[Entry]) -> Result<Vec<Answer>, RaftError> {
        let _changing = self.state.changing.lock();
        let (before, layer, mut at) = {
            let current = self.state.current.read();
            if let Some(damage) = current.db.blocks().latched() {
                // nothing could be brought into it any more
                return Err(damage.into());
            }
            (current.rows.clone(), current.layers[0].clone(), Position::clone(&current.at))
        };
        let (mut answers, mut events) = (Vec::with_capacity(entries.len()), Vec::new());
        let written = before.look(|rows| {
            let mut batch = Batch::over(rows);
            for entry in entries {
                at.applied = Some((&entry.log_id).into());
                answers.push(match &entry.payload {
                    EntryPayload::Blank => Answer(Blob(Arc::new([]))),
                    EntryPayload::Membership(membership) => {
                        at.members = Some((at.applied, membership.into()));
                        Answer(Blob(Arc::new([])))
                    }
                    EntryPayload::Normal(proposal) => apply(&mut batch, entry.log_id.index, proposal, &mut events)?,
                });
            }
            Ok(batch.written)
        })?;
        let version = at.version();
        let len = |row: &Row| row.as_ref().map_or(0, Vec::len);
        let owed = Written::of(written.iter().map(|(key, row)| (&key[..], len(row))));
        for (key, row) in written {
            layer.insert(key, version, row);
        }
        let (rows, at) = (Arc::new(before.at(version)), Arc::new(at));
        self.state.show(|current| (current.rows, current.at) = (rows, at));
        self.state.applied(owed, &layer);
        if entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Membership(_))) {
            self.state.members_changed.notify_one();
        }
        if !events.is_empty() {
            (self.listener)(&events);
        }
        Ok(answers)
    }
}

fn apply(rows: &mut Batch<'_>, index: u64, proposal: &Proposal, events: &mut Vec<Event>) -> Result<Answer, RaftError> {
    let stamp = Stamp { revision: index, time_ms: proposal.time_ms };
    // every member refuses the same bytes alike; a command of a newer version stops those that do not know it
    let command = machine::Command::decode(&proposal.command.0)
        .map_err(|error| RaftError::corrupt("command", error.to_string()))?;
    let applied = machine::apply(rows, stamp, &command)?;
    events.extend(applied.events);
    Ok(Answer(Blob(applied.response.encode().into())))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.state.current.read().at.clone();
        Ok((position.applied.map(LogId::from), position.membership()?))
    }

    async fn apply<S>(&mut self, mut stream: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let (mut entries, mut responders) = (Vec::new(), Vec::new());
        while let Some(item) = stream.next().await {
            let (entry, responder) = item?;
            entries.push(entry);
            responders.push(responder);
        }
        self.state.wait_for_room(&entries).await?;
        self.state.wait_for_checkpoint().await;
        let answers = self.apply_all(&entries)?;
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.state.clone())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let snapshot = match snapshot {
            SnapshotData::Here(rows) => self.state.copy(&rows)?,
            arrived @ SnapshotData::Arrived(_) => arrived,
        };
        let SnapshotData::Arrived(db) = snapshot else { return Err(io::Error::other("no snapshot arrived")) };
        write_position(&db, meta)?;
        self.state.adopt(db)?;
        self.state.members_changed.notify_one();
        // the history came along: who watches finds there what it missed
        (self.listener)(&[]);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        let snapshot = self.state.snap()?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

/// With the rows that arrived, what they are.
fn write_position(db: &Database, meta: &Meta) -> Result<(), RaftError> {
    let since = meta.last_membership.log_id().as_ref().map(Place::from);
    let members = Some((since, meta.last_membership.membership().into()));
    let at = to_bytes(&Position { applied: meta.last_log_id.as_ref().map(Place::from), members })?;
    db.write(Durability::Immediate, |txn| {
        let mut places = txn.open_table(POSITION).map_err(|error| db.said(error))?;
        places.insert((), &at[..]).map_err(|error| db.said(error))?;
        Ok(())
    })
}
