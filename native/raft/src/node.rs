//! One member: its Raft, its log, its table, and the threads that run them.
//!
//! Invariant: a command that was answered is durable on a quorum and applied here or where it was answered.
//! [`RaftError::Timeout`] and [`RaftError::Stopped`] may have happened.

use crate::engine::Listener;
use crate::log::{LogThread, Opened};
use crate::machine::{self, Command};
use crate::network::Alone;
use crate::state::{Machine, Reading, State};
use crate::types::{Member, Proposal, Types};
use crate::{Blob, RaftError};
use macula_core::{Chance, Clock, Disk, RelPath};
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError as Refused};
use openraft::{Config, ReadPolicy, SnapshotPolicy};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

type Raft = openraft::Raft<Types, Machine>;

const LOG_DIR: &str = "log";
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
}

impl Options {
    /// For a node of that name.
    pub fn of(name: impl Into<String>) -> Self {
        let (log, checkpoint_entries, kept_entries) = (macula_wal::Options::default(), 20_000, 2_000);
        Self { name: name.into(), log, checkpoint_entries, kept_entries }
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
}

/// A running member.
pub struct Node {
    raft: Raft,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    is_full: Arc<AtomicBool>,
    /// What the log takes from the disk at a time, at most.
    log_bytes: u64,
}

impl Node {
    /// Open what is in the directory, or begin there, alone. Call on a runtime that goes on as long as the node.
    pub async fn open(seams: Seams, options: Options, listener: Listener) -> Result<Self, RaftError> {
        let Seams { disk, clock, chance } = seams;
        let fail = |error: io::Error| RaftError::Table(error.to_string());
        let log_dir = RelPath::literal(LOG_DIR);
        match disk.create_dir(&log_dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            _ => disk.sync_dir(&RelPath::root()).map_err(fail)?,
        }
        let log_bytes = options.log.segment_bytes_max;
        let opened = Opened::open(disk.subtree(&log_dir).map_err(fail)?, clock.clone(), &*chance, options.log)?;
        let number = opened.number();
        let is_full = opened.is_full();
        let log = opened.start(LogThread::start).map_err(fail)?;
        let state = State::open(disk, chance)?;
        let machine = Machine { state: state.clone(), listener };
        let config = Arc::new(config(options.checkpoint_entries, options.kept_entries));
        let raft = Raft::new(number, config, Alone, log, machine).await.map_err(stopped)?;
        let node = Self { raft, state, clock, is_full, log_bytes };
        node.begin_alone(number, options.name).await?;
        Ok(node)
    }

    /// A node of no cluster is a cluster of one; and one that is alone need not wait for a leader.
    async fn begin_alone(&self, number: u64, name: String) -> Result<(), RaftError> {
        if !self.raft.is_initialized().await.map_err(stopped)? {
            let members = BTreeMap::from([(number, Member { name, address: String::new() })]);
            let begun = self.raft.initialize(members).await;
            begun.map_err(|error| RaftError::Internal(format!("a cluster of one cannot begin: {error}")))?;
        } else if self.raft.voter_ids().eq([number]) {
            self.raft.trigger().elect(false).await.map_err(stopped)?;
        }
        Ok(())
    }

    /// Have a command applied. Its answer, encoded.
    pub async fn propose(&self, command: &Command) -> Result<Blob, RaftError> {
        if self.is_full.load(Ordering::Acquire) {
            return Err(RaftError::Log(macula_wal::WalError::DiskFull));
        }
        command.check()?;
        let bytes = Blob(command.encode().into());
        let _let_in = self.state.let_in(command, bytes.0.len(), self.log_bytes)?;
        let proposal = Proposal { time_ms: self.clock.wall_ms(), command: bytes };
        match self.raft.client_write(proposal).await {
            Ok(written) => Ok(written.data.0),
            Err(Refused::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(RaftError::NotLeader(forward.leader_node.map(|member| member.name)))
            }
            Err(Refused::APIError(error)) => Err(RaftError::Internal(error.to_string())),
            Err(Refused::Fatal(error)) => Err(stopped(error)),
        }
    }

    /// The state as of some moment after this call.
    pub async fn read_latest(&self) -> Result<Arc<Reading>, RaftError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(self.read_local()),
            Err(Refused::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(RaftError::NotLeader(forward.leader_node.map(|member| member.name)))
            }
            Err(Refused::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(RaftError::NoQuorum),
            Err(Refused::Fatal(error)) => Err(stopped(error)),
        }
    }

    /// The state that this node has.
    pub fn read_local(&self) -> Arc<Reading> {
        self.state.read()
    }

    /// The same for who must not wait; `None` when that is so.
    pub(crate) fn read_now(&self) -> Option<Arc<Reading>> {
        self.state.read_now()
    }

    /// Wait until there is a leader.
    pub async fn wait_for_leader(&self, wait: Duration) -> Result<(), RaftError> {
        let has_leader = |metrics: &openraft::RaftMetrics<Types>| metrics.current_leader.is_some();
        let waited = self.raft.wait(Some(wait)).metrics(has_leader, "a leader").await;
        waited.map(|_| ()).map_err(|_| RaftError::NoQuorum)
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

    /// Stop. What was answered stays.
    pub async fn close(&self) {
        self.state.begin_closing();
        // it stops, or it has
        let _ = self.raft.shutdown().await;
    }
}

fn stopped(error: Fatal<Types>) -> RaftError {
    RaftError::Stopped(error.to_string())
}

fn config(checkpoint_entries: u64, kept_entries: u64) -> Config {
    Config {
        cluster_name: "macula".to_owned(),
        heartbeat_interval: 50,
        election_timeout_min: 200,
        election_timeout_max: 350,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(checkpoint_entries),
        max_in_snapshot_log_to_keep: kept_entries,
        enable_pre_vote: Some(true),
        ..Config::default()
    }
}
