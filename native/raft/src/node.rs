//! One member: its Raft, its log and its table; whoever runs it brings the threads.
//!
//! Invariant: a command that was answered is durable on a majority and applied where the answer was made.
//! [`RaftError::Unknown`] and [`RaftError::Stopped`] may have happened; any other error has not, and
//! never will.

use crate::engine::Listener;
use crate::log::{InMemory, LogStore, Opened};
use crate::machine;
use crate::network::{Peers, Transport};
use crate::rpc::Envelope;
use crate::state::{Machine, Reading, State};
use crate::types::{ClusterId, Member, Types};
use crate::RaftError;
use macula_core::{Chance, Clock, Disk, RelPath};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Config, RaftMetrics, SnapshotPolicy};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Raft = openraft::Raft<Types, Machine>;

const LOG_DIR: &str = "log";
/// Between two looks for who leads.
pub(crate) const LEADER_PAUSE: Duration = Duration::from_millis(20);
/// Of entries of the log that stay in memory, bytes, beside those since the last checkpoint.
const LOG_MEMORY_BYTES: usize = 16 << 20;

/// How a node behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Erlang node's name.
    pub name: String,
    /// Of the log.
    pub log: macula_wal::Options,
    /// Entries between two checkpoints. What the log keeps in memory is as long.
    pub checkpoint_entries: u64,
    /// Entries behind a checkpoint that stay, for followers that lag.
    pub kept_entries: u64,
    /// Gives the system memory back that was let go of. Called on threads that may wait.
    pub trim: fn(),
    /// Where there is nothing yet: wait to be let into this cluster. None: begin one, alone.
    pub joins: Option<ClusterId>,
}

impl Options {
    /// For a node of that name.
    pub fn of(name: impl Into<String>) -> Self {
        let (log, checkpoint_entries, kept_entries) = (macula_wal::Options::default(), 20_000, 2_000);
        Self { name: name.into(), log, checkpoint_entries, kept_entries, trim: || {}, joins: None }
    }
}

/// The seams of a node.
#[derive(Clone)]
pub struct Seams {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// Its chance.
    pub chance: Arc<dyn Chance>,
    /// Its way to other members.
    pub transport: Arc<dyn Transport>,
}

/// A running member.
pub struct Node {
    pub(crate) raft: Raft,
    pub(crate) state: Arc<State>,
    pub(crate) arriving: crate::serve::Arriving,
    pub(crate) rounds: crate::rounds::Rounds,
    pub(crate) outbox: crate::propose::Outbox,
    /// Held by who changes the members as the leader, from the first step to the last.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) is_full: Arc<AtomicBool>,
    log_closing: Arc<AtomicBool>,
    /// What the log takes from the disk at a time, at most.
    pub(crate) log_bytes: u64,
    log_in_memory: InMemory,
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) cluster: ClusterId,
}

impl Node {
    /// Open what is in the directory, or begin there. Call on a runtime that goes on as long as the node.
    pub async fn open(seams: Seams, options: Options, listener: Listener) -> Result<Self, RaftError> {
        Self::open_on(seams, options, listener, Opened::start).await
    }

    /// The same with a log that `start` found somebody to write for.
    pub(crate) async fn open_on(
        seams: Seams,
        options: Options,
        listener: Listener,
        start: impl FnOnce(Opened) -> io::Result<LogStore>,
    ) -> Result<Self, RaftError> {
        let Seams { disk, clock, chance, transport } = seams;
        let fail = |error: io::Error| RaftError::Table(error.to_string());
        let log_dir = RelPath::literal(LOG_DIR);
        match disk.create_dir(&log_dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            _ => disk.sync_dir(&RelPath::root()).map_err(fail)?,
        }
        let log_bytes = options.log.segment_bytes_max;
        let opened =
            Opened::open(disk.subtree(&log_dir).map_err(fail)?, clock.clone(), &*chance, options.log, options.joins)?;
        let (number, cluster, is_invited) = (opened.number(), opened.cluster(), opened.is_invited());
        let (is_full, log_closing) = (opened.is_full(), opened.closing());
        let opened_at = opened.last_index();
        let log = start(opened).map_err(fail)?;
        let log_in_memory = log.in_memory();
        let state = State::open(disk, chance.clone(), options.trim)?;
        state.open_at(opened_at);
        let machine = Machine { state: state.clone(), listener };
        let config = Arc::new(config(options.checkpoint_entries, options.kept_entries));
        let own = Envelope { cluster, from: number, to: number };
        let peers = Peers { transport: transport.clone(), own };
        let raft = Raft::new(number, config, peers, log, machine).await;
        let raft = raft.map_err(|error| state.damage().unwrap_or_else(|| stopped(error)))?;
        let (arriving, rounds, outbox, changing) = Default::default();
        let name = options.name;
        let node = Self {
            raft,
            state,
            arriving,
            rounds,
            outbox,
            changing,
            transport,
            clock,
            chance,
            is_full,
            log_closing,
            log_bytes,
            log_in_memory,
            name,
            number,
            cluster,
        };
        // also for one that begins nothing: behind Raft's first turn, in which it learns who the members are
        let begun = match is_invited {
            true => node.raft.is_initialized().await.map(drop).map_err(stopped),
            false => node.begin_alone().await,
        };
        begun.map_err(|error| node.damage().unwrap_or(error))?;
        Ok(node)
    }

    /// This incarnation's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A node of no cluster is a cluster of one; and one that is alone need not wait for a leader.
    async fn begin_alone(&self) -> Result<(), RaftError> {
        if !self.raft.is_initialized().await.map_err(stopped)? {
            self.begin(BTreeMap::from([(self.number, Member { name: self.name.clone(), address: String::new() })]))
                .await?;
        } else if self.raft.voter_ids().eq([self.number]) {
            self.raft.trigger().elect(false).await.map_err(stopped)?;
        }
        Ok(())
    }

    /// Whether no other has a vote, and this one has.
    pub(crate) fn is_alone(&self) -> bool {
        self.raft.voter_ids().eq([self.number])
    }

    pub(crate) fn to(&self, number: u64) -> Envelope {
        Envelope { cluster: self.cluster, from: self.number, to: number }
    }

    /// The state that this node has.
    pub fn read_local(&self) -> Arc<Reading> {
        self.state.read()
    }

    /// The same for who must not wait; `None` when that is so.
    pub(crate) fn read_now(&self) -> Option<Arc<Reading>> {
        self.state.read_now()
    }

    /// The block that stopped this node, if one did.
    pub(crate) fn damage(&self) -> Option<RaftError> {
        self.state.damage()
    }

    /// Its last entry that was applied; 0: none.
    pub(crate) fn applied(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_applied.map_or(0, |place| place.index)
    }

    /// Wait until there is a leader; its number.
    pub async fn wait_for_leader(&self, wait: Duration) -> Result<u64, RaftError> {
        let has_leader = |metrics: &RaftMetrics<Types>| metrics.current_leader.is_some();
        let waited = self.raft.wait(Some(wait)).metrics(has_leader, "a leader").await;
        waited.ok().and_then(|metrics| metrics.current_leader).ok_or(RaftError::NoQuorum)
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// How long until something expires; zero when it has.
    pub fn next_expiry(&self) -> Result<Option<Duration>, RaftError> {
        let next_ms = self.state.read().look(|rows| Ok(machine::next_expiry(rows)?))?;
        let now_ms = self.clock.wall_ms();
        Ok(next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(now_ms))))
    }

    /// Have a checkpoint made, and the log shortened, as soon as much is in memory only.
    pub(crate) async fn checkpoint_when_full(&self) -> Result<(), RaftError> {
        self.state.wait_until_full().await;
        // what stays for followers is counted in entries, and those may be long; of what the last checkpoint holds
        if let Some(surplus) = self.log_in_memory.surplus(LOG_MEMORY_BYTES) {
            self.raft.trigger().purge_log(surplus).await.map_err(stopped)?;
        }
        self.raft.trigger().snapshot().await.map(drop).map_err(stopped)
    }

    /// Stop. What was answered stays.
    pub async fn close(&self) {
        self.state.begin_closing();
        self.log_closing.store(true, Ordering::Release);
        // it stops, or it has
        let _ = self.raft.shutdown().await;
        let state = self.state.clone();
        // it panicked, or it is over
        let _ = tokio::task::spawn_blocking(move || state.checkpoint_at_close()).await;
    }
}

pub(crate) fn stopped(error: Fatal<Types>) -> RaftError {
    RaftError::Stopped(error.to_string())
}

/// A follower waits out the leader's lease, as long as the longest election timeout, and then its own: it stands for
/// leader 300 to 400 ms after it last heard of one. So a leader that stops for 250 ms, on a machine with other work,
/// leads on; and two that stand after the same silence differ by more than a question takes, mostly.
fn config(checkpoint_entries: u64, kept_entries: u64) -> Config {
    Config {
        cluster_name: "macula".to_owned(),
        heartbeat_interval: 50,
        election_timeout_min: 100,
        election_timeout_max: 200,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(checkpoint_entries),
        max_in_snapshot_log_to_keep: kept_entries,
        enable_pre_vote: Some(true),
        // what it had not synced yet others may have: as leader of the same term it would put other entries in
        // their places, and nobody could tell them apart (seen by the simulation, seed 490969526689)
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}
