//! What openraft asks of a log.
//!
//! Invariant: memory holds what the log holds or will hold, in the order of its jobs; openraft reads
//! memory.

use super::appender::{Appender, Job, Jobs, LogThread, KIND_COMMITTED, KIND_ENTRY};
use super::Meta;
use crate::entry::{self, Place};
use crate::types::{ClusterId, Entry, LogId, Types, Vote};
use crate::RaftError;
use macula_core::{Chance, Clock, Disk};
use macula_wal::{Log, Options, Record, Replayed};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Of entries handed out at once, bytes; one at least.
const READ_BYTES_MAX: usize = 1 << 20;

/// The log of one node.
#[derive(Clone)]
pub(crate) struct LogStore {
    tail: Arc<Mutex<Tail>>,
    jobs: Arc<dyn Jobs>,
}

/// What the log holds.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    committed: Option<LogId>,
    /// By index. Raft leaves no gap between them.
    pub(crate) entries: BTreeMap<u64, Entry>,
}

/// What of the log is in memory: all of it, and it stays behind a checkpoint for followers that lag.
pub(crate) struct InMemory(Arc<Mutex<Tail>>);

impl InMemory {
    /// Up to which entry it would have to be let go of, so that no more than so many bytes stay; `None`: they are
    /// not more.
    pub(crate) fn surplus(&self, bytes_max: usize) -> Option<u64> {
        let tail = self.0.lock();
        let mut bytes = 0;
        let too_much = |entry: &&Entry| {
            bytes += len_of(entry);
            bytes > bytes_max
        };
        tail.entries.values().rev().find(too_much).map(|entry| entry.log_id.index)
    }
}

/// A log that was just opened.
pub(crate) struct Opened {
    appender: Appender,
    pub(crate) tail: Tail,
}

impl Opened {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        chance: &dyn Chance,
        options: Options,
        joins: Option<ClusterId>,
    ) -> Result<Self, RaftError> {
        let found = Meta::decode(&Log::read_meta(&*disk)?)?;
        let after = found.as_ref().map_or(0, |meta| meta.purged_sequence);
        let mut read = Read::default();
        let log = Log::open(disk, clock.clone(), chance, options, after, &mut |replayed| read.take(replayed))?;
        let meta = found.unwrap_or_default();
        let purged = meta.purged.map(LogId::from);
        let mut appender = Appender {
            log,
            meta,
            clock,
            sequences: BTreeMap::new(),
            is_full: Arc::new(AtomicBool::new(false)),
            closing: Arc::new(AtomicBool::new(false)),
        };
        appender.begin(chance, joins)?;
        let tail = Tail {
            vote: appender.meta.vote.map(Vote::from),
            purged,
            committed: read.committed.map(LogId::from),
            entries: BTreeMap::new(),
        };
        let mut opened = Self { appender, tail };
        opened.fill(read.entries)?;
        Ok(opened)
    }

    /// Take over the entries that were found: those behind the last purged one, without a gap.
    fn fill(&mut self, found: VecDeque<(u64, Entry)>) -> Result<(), RaftError> {
        let first = self.tail.purged.map_or(0, |id| id.index + 1);
        for (sequence, entry) in found {
            let index = entry.log_id.index;
            if index < first {
                // a snapshot holds it; the crash came before it was let go of
                continue;
            }
            let expected = first + self.tail.entries.len() as u64;
            if index != expected {
                let reason = format!("index={index} expected={expected}");
                return Err(RaftError::corrupt("an entry out of its place in the log", reason));
            }
            self.appender.sequences.insert(index, sequence);
            self.tail.entries.insert(index, entry);
        }
        Ok(())
    }

    /// This incarnation's number.
    pub(crate) fn number(&self) -> u64 {
        self.appender.meta.node
    }

    /// Its last entry; 0: none.
    pub(crate) fn last_index(&self) -> u64 {
        self.tail.entries.keys().next_back().copied().unwrap_or_default()
    }

    /// The cluster that this node is of, or waits for.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.appender.meta.cluster
    }

    /// Whether it waits to be heard of by a cluster that others began.
    pub(crate) fn is_invited(&self) -> bool {
        self.appender.meta.is_invited
    }

    /// Set while there is no room for what waits.
    pub(crate) fn is_full(&self) -> Arc<AtomicBool> {
        self.appender.is_full.clone()
    }

    /// To be set before the node is closed: nobody waits for room any more.
    pub(crate) fn closing(&self) -> Arc<AtomicBool> {
        self.appender.closing.clone()
    }

    /// The store, with the thread that writes for it.
    pub(crate) fn start(self) -> io::Result<LogStore> {
        self.start_on(|appender| Ok(Arc::new(LogThread::start(appender)?)))
    }

    /// The same with whoever `start` finds to do the jobs.
    pub(crate) fn start_on(self, start: impl FnOnce(Appender) -> io::Result<Arc<dyn Jobs>>) -> io::Result<LogStore> {
        let jobs = start(self.appender)?;
        Ok(LogStore { tail: Arc::new(Mutex::new(self.tail)), jobs })
    }
}

impl Appender {
    /// A node that has no number yet draws one, durably, before it says anything; and one for its cluster,
    /// unless it is to join one.
    fn begin(&mut self, chance: &dyn Chance, joins: Option<ClusterId>) -> Result<(), RaftError> {
        if self.meta.node == 0 {
            self.meta.node = chance.next_u64().max(1);
            let drawn = u128::from(chance.next_u64()) << 64 | u128::from(chance.next_u64());
            self.meta.cluster = joins.unwrap_or(ClusterId(drawn.to_le_bytes()));
            self.meta.is_invited = joins.is_some();
            let bytes = self.meta.encode()?;
            self.log.set_meta(&bytes)?;
        }
        Ok(())
    }
}

/// What replaying gave.
#[derive(Default)]
struct Read {
    entries: VecDeque<(u64, Entry)>,
    committed: Option<Place>,
}

impl Read {
    fn take(&mut self, replayed: Replayed<'_>) -> Result<(), RaftError> {
        match replayed {
            Replayed::Truncated { from } => {
                while self.entries.back().is_some_and(|(sequence, _)| *sequence >= from) {
                    self.entries.pop_back();
                }
                Ok(())
            }
            Replayed::Record(Record { kind, version, sequence, payload, .. }) => {
                if version != entry::VERSION {
                    let (what, known) = ("record of the log", u32::from(entry::VERSION));
                    return Err(RaftError::NewerFormat { what, found: version.into(), known });
                }
                match kind {
                    KIND_ENTRY => self.entries.push_back((sequence, entry::decode(payload)?)),
                    KIND_COMMITTED => self.committed = Some(entry::from_bytes("committed", payload)?),
                    kind => return Err(RaftError::corrupt("record of the log", format!("kind={kind}"))),
                }
                Ok(())
            }
        }
    }
}

impl LogStore {
    pub(crate) fn in_memory(&self) -> InMemory {
        InMemory(self.tail.clone())
    }

    /// Replace the record beside the log, durably.
    async fn change_meta(&self, change: impl FnOnce(&mut Meta) + Send + 'static) -> io::Result<()> {
        self.done(|done| Job::Meta { change: Box::new(change), done }).await
    }

    async fn done(&self, job: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Job) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.jobs.submit(job(done));
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let tail = self.tail.lock();
        Ok(tail.entries.range(from..to.max(from)).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut bytes = 0;
        let tail = self.tail.lock();
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += len_of(entry);
            is_first || bytes <= READ_BYTES_MAX
        };
        let entries = tail.entries.range(start..end.max(start)).map(|(_, entry)| entry);
        Ok(entries.take_while(fits).cloned().collect())
    }
}

/// About what an entry takes, bytes.
pub(crate) fn len_of(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => 64 + proposal.command.0.len(),
        openraft::EntryPayload::Blank => 64,
        openraft::EntryPayload::Membership(_) => 1024,
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let tail = self.tail.lock();
        let last = tail.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: last.or(tail.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let ballot = entry::Ballot::from(vote);
        self.change_meta(move |meta| meta.vote = Some(ballot)).await?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = &committed {
            self.jobs.submit(Job::Committed(entry::to_bytes(&Place::from(id))?));
        }
        self.tail.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.tail.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        let encoded = entries.iter().map(entry::encode).collect::<Result<Vec<_>, _>>()?;
        // both under the lock: the order of the jobs is the order in memory
        let mut tail = self.tail.lock();
        tail.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        self.jobs.submit(Job::Append { first, entries: encoded, flushed });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index + 1);
        self.tail.lock().entries.split_off(&from);
        self.done(|done| Job::Truncate { from, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut tail = self.tail.lock();
            tail.entries = tail.entries.split_off(&(upto.index + 1));
            tail.purged = Some(upto);
        }
        self.done(|done| Job::Purge { upto: (&upto).into(), done }).await
    }
}
