//! What can go wrong with the replicated state.

use crate::machine::{MachineError, TableError};
use macula_blocks::BlockError;
use macula_core::{Kind, Kinded};
use macula_net::NetError;
use macula_wal::WalError;

/// An error of the replicated state.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RaftError {
    /// Bytes on the disk or from a member are not what was written.
    #[error("corrupted: {what}: {reason}")]
    Corrupt {
        /// What they should have been.
        what: &'static str,
        /// What is wrong with them.
        reason: String,
    },
    /// Written by a newer version.
    #[error("written by a newer version: {what}={found} known={known}")]
    NewerFormat {
        /// Which bytes.
        what: &'static str,
        /// Their version.
        found: u32,
        /// The highest that this version knows.
        known: u32,
    },
    /// The log failed.
    #[error("the log of the replicated state: {0}")]
    Log(#[from] WalError),
    /// The table that holds the state failed.
    #[error("the table of the replicated state: {0}")]
    Table(String),
    /// The blocks that hold the table are damaged, full, or the disk failed.
    #[error("the table of the replicated state: {0}")]
    Blocks(#[from] BlockError),
    /// What was asked, or what is stored, is not the machine's.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Too many calls are under way.
    #[error("too many calls are under way: len_max={len_max}")]
    Busy {
        /// So many are allowed.
        len_max: usize,
    },
    /// It may or may not have happened: whoever was to decide it was lost meanwhile.
    #[error("nobody knows yet whether it happened")]
    Unknown,
    /// There is a cluster here already.
    #[error("this node is of a cluster already")]
    Begun,
    /// The members cannot be changed so.
    #[error("the members cannot be changed: {0}")]
    Refused(String),
    /// The deadline passed; a write may or may not have happened.
    #[error("the deadline passed")]
    Timeout,
    /// Nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
    /// The node was closed.
    #[error("the replicated state was closed")]
    Closed,
    /// A link or listener failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another member leads; its name, if one is known.
    #[error("another member leads: {0:?}")]
    NotLeader(Option<String>),
    /// No majority of the members can be reached.
    #[error("no majority of the members can be reached")]
    NoQuorum,
    /// The node failed or was closed.
    #[error("the node stopped: {0}")]
    Stopped(String),
    /// A defect of ours.
    #[error("a defect: {0}")]
    Internal(String),
}

impl RaftError {
    pub(crate) fn corrupt(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Corrupt { what, reason: reason.into() }
    }
}

impl Kinded for RaftError {
    fn kind(&self) -> Kind {
        match self {
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::NewerFormat { .. } => Kind::NewerFormat,
            Self::Log(error) => error.kind(),
            Self::Table(_) => Kind::Io,
            Self::Blocks(error) => error.kind(),
            Self::Machine(error) => error.kind(),
            Self::Net(error) => error.kind(),
            Self::Busy { .. } => Kind::Busy,
            Self::Timeout | Self::Unknown => Kind::Timeout,
            Self::Begun => Kind::Exists,
            Self::Refused(_) => Kind::Invalid,
            Self::Cancelled => Kind::Cancelled,
            Self::Closed => Kind::Closed,
            Self::NotLeader(_) | Self::NoQuorum => Kind::NoQuorum,
            Self::Stopped(_) => Kind::Poisoned,
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Log(error) => error.hint(),
            Self::Blocks(BlockError::Corrupt { .. }) => {
                Some("replace this member, or restore it from an export".into())
            }
            Self::Blocks(error) => error.hint(),
            Self::Machine(error) => error.hint(),
            Self::Net(error) => error.hint(),
            Self::NewerFormat { .. } => Some("use the version that wrote it, or a newer one".into()),
            _ => None,
        }
    }
}

impl From<RaftError> for std::io::Error {
    fn from(error: RaftError) -> Self {
        Self::other(error)
    }
}

impl From<TableError> for RaftError {
    fn from(TableError(reason): TableError) -> Self {
        Self::Table(reason)
    }
}
