//! What openraft asks of a state machine.
//!
//! Invariant: entries are applied in order, each once; a batch of them is one transaction.

use super::database::{remove, Database, NAME_ARRIVED};
use super::room::Owed;
use super::rows::{Reading, Writing, ROWS};
use super::snapshot::{piece, Arrival, SnapshotData};
use crate::entry::{from_bytes, to_bytes, Members, Place};
use crate::machine::{self, Event, Stamp};
use crate::types::{Answer, Blob, Entry, LogId, Proposal, StoredMembership, Types};
use crate::RaftError;
use futures_util::{Stream, StreamExt};
use macula_core::{Chance, Disk};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

/// One row, [`Position`].
pub(super) const POSITION: TableDefinition<(), &[u8]> = TableDefinition::new("position");
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

/// The table in use, shared with those who read it.
pub(crate) struct State {
    pub(super) disk: Arc<dyn Disk>,
    chance: Arc<dyn Chance>,
    current: RwLock<Current>,
    /// Tables that were in use, until nobody reads them: closing one waits for the disk.
    retired: Mutex<Vec<Arc<Database>>>,
    pub(super) owed: Owed,
    /// Told when members were changed, or may have been.
    pub(crate) members_changed: Notify,
}

struct Current {
    db: Arc<Database>,
    /// As of the last batch, so that a read begins without redb.
    rows: Arc<Reading>,
}

impl State {
    pub(crate) fn open(disk: Arc<dyn Disk>, chance: Arc<dyn Chance>) -> Result<Arc<Self>, RaftError> {
        remove(&*disk, NAME_ARRIVED)?;
        let db = Database::open(&*disk, &*chance)?;
        let current = RwLock::new(Current { rows: Arc::new(Reading::now(&db)?), db });
        let (retired, owed, members_changed) = (Mutex::default(), Owed::default(), Notify::new());
        Ok(Arc::new(Self { disk, chance, current, retired, owed, members_changed }))
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

    /// Let readers see what `db` holds now.
    fn show(&self, db: Arc<Database>) -> Result<(), RaftError> {
        let rows = Arc::new(Reading::now(&db)?);
        let before = std::mem::replace(&mut *self.current.write(), Current { db, rows });
        // behind the lock
        drop(before);
        Ok(())
    }

    fn position(&self) -> Result<Position, RaftError> {
        Ok(self.snapshot()?.0)
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

    /// Make what is applied durable; the log up to there may go afterwards.
    fn checkpoint(&self) -> Result<(), RaftError> {
        self.db().write(Durability::Immediate, |_| Ok(()))?;
        self.retired.lock().retain(|db| Arc::strong_count(db) > 1);
        Ok(())
    }

    /// Make a table that arrived the one in use.
    fn adopt(&self, arrived: Arc<Database>) -> Result<(), RaftError> {
        arrived.give_name(&*self.disk, NAME_ARRIVED)?;
        self.retired.lock().push(self.db());
        self.show(arrived)
    }
}

fn position(db: &Database, table: &impl ReadableTable<(), &'static [u8]>) -> Result<Position, RaftError> {
    match table.get(()).map_err(|error| db.said(error))? {
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
        let (mut answers, mut events) = (Vec::with_capacity(entries.len()), Vec::new());
        let db = self.state.db();
        db.write(Durability::None, |txn| {
            let mut rows = Writing(txn.open_table(ROWS).map_err(|error| db.said(error))?);
            let mut places = txn.open_table(POSITION).map_err(|error| db.said(error))?;
            let mut at = position(&db, &places)?;
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
            places.insert((), &to_bytes(&at)?[..]).map_err(|error| db.said(error))?;
            Ok(())
        })?;
        self.state.show(db)?;
        if entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Membership(_))) {
            self.state.members_changed.notify_one();
        }
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
    let applied = machine::apply(rows, stamp, &command)?;
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
        self.state.wait_for_room(&entries).await?;
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

impl State {
    /// All rows as of now, and what they are.
    fn snapshot(&self) -> Result<(Position, Reading), RaftError> {
        let db = self.db();
        db.run(|redb| {
            let txn = redb.begin_read().map_err(|error| db.said(error))?;
            let at = position(&db, &txn.open_table(POSITION).map_err(|error| db.said(error))?)?;
            Ok((at, Reading::of(&db, &txn)?))
        })
    }

    fn snap(&self) -> Result<Snap, RaftError> {
        let (at, rows) = self.snapshot()?;
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
        let snapshot = self.state.snap()?;
        crate::engine::blocking(|| self.state.checkpoint())?;
        Ok(snapshot)
    }
}
