//! What openraft asks of a state machine.
//!
//! Invariant: entries are applied in order, each once; a batch of them is one transaction.

use super::backend::Backend;
use super::rows::{Reading, Writing, ROWS};
use super::snapshot::{piece, Arrival, SnapshotData};
use crate::entry::{from_bytes, to_bytes, Members, Place};
use crate::machine::{self, Event, Stamp};
use crate::types::{Answer, Blob, Entry, LogId, Proposal, StoredMembership, Types};
use crate::RaftError;
use futures_util::{Stream, StreamExt};
use macula_core::{Disk, DiskFile, Open, RelPath};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::RwLock;
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

const NAME: &str = "state.redb";
const NAME_NEW: &str = "state-new.redb";
const NAME_ARRIVED: &str = "state-arrived.redb";
/// One row, [`Position`].
const POSITION: TableDefinition<(), &[u8]> = TableDefinition::new("position");
/// Pages that redb keeps in memory, bytes.
const CACHE_BYTES: usize = 32 << 20;
/// Of rows copied in one transaction, bytes.
const PIECE_BYTES: usize = 1 << 20;

type Meta = SnapshotMeta<crate::types::LeaderId, u64, crate::types::Member>;
type Snap = Snapshot<crate::types::LeaderId, u64, crate::types::Member, SnapshotData>;

/// Up to where the log is in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    applied: Option<Place>,
    /// Since which entry who is a member.
    members: Option<(Option<Place>, Members)>,
}

impl Position {
    fn membership(&self) -> Result<StoredMembership, RaftError> {
        match self.members.clone() {
            None => Ok(StoredMembership::default()),
            Some((since, members)) => Ok(StoredMembership::new(since.map(LogId::from), members.try_into()?)),
        }
    }
}

/// An open table.
pub(crate) type Database = Arc<redb::Database>;

/// The table in use, shared with those who read it.
pub(crate) struct State {
    disk: Arc<dyn Disk>,
    db: RwLock<Database>,
}

pub(super) fn table_error(error: impl std::fmt::Display) -> RaftError {
    RaftError::Table(error.to_string())
}

impl State {
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Arc<Self>, RaftError> {
        remove(&*disk, NAME_ARRIVED)?;
        let db = RwLock::new(open_table(&*disk, NAME)?);
        Ok(Arc::new(Self { disk, db }))
    }

    /// As of now.
    pub(crate) fn read(&self) -> Result<Reading, RaftError> {
        let txn = self.db.read().begin_read().map_err(table_error)?;
        Reading::of(&txn).map_err(|error| RaftError::Table(error.0))
    }

    fn position(&self) -> Result<Position, RaftError> {
        let txn = self.db.read().begin_read().map_err(table_error)?;
        position(&txn.open_table(POSITION).map_err(table_error)?)
    }

    /// A table for a snapshot that is arriving; an earlier one that did not arrive wholly is gone.
    pub(crate) fn begin_arrival(&self) -> Result<Arrival, RaftError> {
        create_table(&*self.disk, NAME_ARRIVED).map(Arrival::new)
    }

    /// A snapshot of another machine in this process.
    fn copy(&self, rows: &Reading) -> Result<SnapshotData, RaftError> {
        let (mut arrival, mut behind) = (self.begin_arrival()?, Vec::new());
        while let Some((bytes, last)) = piece(rows, &behind, PIECE_BYTES)? {
            arrival.take(&bytes)?;
            behind = last;
        }
        Ok(arrival.end())
    }

    fn begin_write(&self, durability: Durability) -> Result<(Database, WriteTransaction), RaftError> {
        let db = self.db.read().clone();
        let mut txn = db.begin_write().map_err(table_error)?;
        txn.set_durability(durability).map_err(table_error)?;
        // what a crash leaves is opened without a walk through all of it
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok((db, txn))
    }

    /// Make what is applied durable; the log up to there may go afterwards.
    fn checkpoint(&self) -> Result<(), RaftError> {
        let (_db, txn) = self.begin_write(Durability::Immediate)?;
        txn.commit().map_err(table_error)
    }

    /// Make a table that arrived the one in use.
    fn adopt(&self, arrived: Database) -> Result<(), RaftError> {
        let io = |error: io::Error| RaftError::Table(error.to_string());
        let (from, to) = (RelPath::literal(NAME_ARRIVED), RelPath::literal(NAME));
        self.disk.rename(&from, &to).and_then(|()| self.disk.sync_dir(&RelPath::root())).map_err(io)?;
        *self.db.write() = arrived;
        Ok(())
    }
}

fn remove(disk: &dyn Disk, name: &'static str) -> Result<(), RaftError> {
    match disk.remove_file(&RelPath::literal(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(table_error(error)),
        _ => Ok(()),
    }
}

/// A table that is not there is made under another name first: under its own it is always whole.
fn open_table(disk: &dyn Disk, name: &'static str) -> Result<Database, RaftError> {
    match disk.open(&RelPath::literal(name), Open::ReadWrite) {
        Ok(file) => start(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let db = create_table(disk, NAME_NEW)?;
            disk.rename(&RelPath::literal(NAME_NEW), &RelPath::literal(name)).map_err(table_error)?;
            disk.sync_dir(&RelPath::root()).map_err(table_error)?;
            Ok(db)
        }
        Err(error) => Err(table_error(error)),
    }
}

fn create_table(disk: &dyn Disk, name: &'static str) -> Result<Database, RaftError> {
    remove(disk, name)?;
    let db = start(disk.open(&RelPath::literal(name), Open::CreateNew).map_err(table_error)?)?;
    let txn = db.begin_write().map_err(table_error)?;
    txn.open_table(ROWS).map_err(table_error)?;
    txn.open_table(POSITION).map_err(table_error)?;
    txn.commit().map_err(table_error)?;
    Ok(db)
}

fn start(file: Arc<dyn DiskFile>) -> Result<Database, RaftError> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder.create_with_backend(Backend(file)).map(Arc::new).map_err(table_error)
}

fn position(table: &impl ReadableTable<(), &'static [u8]>) -> Result<Position, RaftError> {
    match table.get(()).map_err(table_error)? {
        None => Ok(Position::default()),
        Some(bytes) => from_bytes("position of the state", bytes.value()),
    }
}

/// What is told of each batch that was applied; nothing: of a snapshot that took the table's place.
pub(crate) type Listener = Box<dyn Fn(&[Event]) + Send + Sync>;

/// The machine that entries are applied to.
pub(crate) struct Machine {
    pub(crate) state: Arc<State>,
    pub(crate) listener: Listener,
}

impl Machine {
    fn apply_all(&self, entries: &[Entry]) -> Result<Vec<Answer>, RaftError> {
        let (_db, txn) = self.state.begin_write(Durability::None)?;
        let (mut answers, mut events) = (Vec::with_capacity(entries.len()), Vec::new());
        {
            let mut rows = Writing(txn.open_table(ROWS).map_err(table_error)?);
            let mut places = txn.open_table(POSITION).map_err(table_error)?;
            let mut at = position(&places)?;
            for entry in entries {
                at.applied = Some((&entry.log_id).into());
                answers.push(match &entry.payload {
                    EntryPayload::Blank => Answer(Blob(Arc::new([]))),
                    EntryPayload::Membership(membership) => {
                        at.members = Some((at.applied, membership.into()));
                        Answer(Blob(Arc::new([])))
                    }
                    EntryPayload::Normal(proposal) => apply(&mut rows, entry.log_id.index, proposal, &mut events)?,
                });
            }
            places.insert((), &to_bytes(&at)?[..]).map_err(table_error)?;
        }
        txn.commit().map_err(table_error)?;
        if !events.is_empty() {
            (self.listener)(&events);
        }
        Ok(answers)
    }
}

fn apply(
    rows: &mut Writing<'_>,
    index: u64,
    proposal: &Proposal,
    events: &mut Vec<Event>,
) -> Result<Answer, RaftError> {
    let stamp = Stamp { revision: index, time_ms: proposal.time_ms };
    // every member refuses the same bytes alike; a command of a newer version stops those that do not know it
    let command = machine::Command::decode(&proposal.command.0)
        .map_err(|error| RaftError::corrupt("command", error.to_string()))?;
    let applied = machine::apply(rows, stamp, &command).map_err(|error| RaftError::Table(error.0))?;
    events.extend(applied.events);
    Ok(Answer(Blob(applied.response.encode().into())))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.state.position()?;
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
        let answers = self.apply_all(&entries)?;
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { state: self.state.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let snapshot = match snapshot {
            SnapshotData::Here(rows) => self.state.copy(&rows)?,
            arrived @ SnapshotData::Arrived(_) => arrived,
        };
        let SnapshotData::Arrived(db) = snapshot else { return Err(io::Error::other("no snapshot arrived")) };
        write_position(&db, meta)?;
        self.state.adopt(db)?;
        // the history came along: who watches finds there what it missed
        (self.listener)(&[]);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        let snapshot = self.state.snapshot()?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

/// With the rows that arrived, what they are; durable on return.
fn write_position(db: &redb::Database, meta: &Meta) -> Result<(), RaftError> {
    let since = meta.last_membership.log_id().as_ref().map(Place::from);
    let members = Some((since, meta.last_membership.membership().into()));
    let at = Position { applied: meta.last_log_id.as_ref().map(Place::from), members };
    let mut txn = db.begin_write().map_err(table_error)?;
    txn.set_quick_repair(true);
    txn.open_table(POSITION).map_err(table_error)?.insert((), &to_bytes(&at)?[..]).map_err(table_error)?;
    txn.commit().map_err(table_error)
}

impl State {
    /// All rows as of now, and what they are.
    fn snapshot(&self) -> Result<Snap, RaftError> {
        let txn = self.db.read().begin_read().map_err(table_error)?;
        let at = position(&txn.open_table(POSITION).map_err(table_error)?)?;
        let rows = Reading::of(&txn).map_err(|error| RaftError::Table(error.0))?;
        let meta = Meta { last_log_id: at.applied.map(LogId::from), last_membership: at.membership()? };
        Ok(Snapshot { meta, snapshot: SnapshotData::Here(Arc::new(rows)) })
    }
}

/// Makes what is applied durable.
pub(crate) struct Builder {
    state: Arc<State>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        // first what it is of, then the checkpoint, which holds that and perhaps more
        let snapshot = self.state.snapshot()?;
        let state = self.state.clone();
        let checkpoint = move || state.checkpoint();
        tokio::task::spawn_blocking(checkpoint).await.map_err(io::Error::other)??;
        Ok(snapshot)
    }
}
