//! What can go wrong with replicated files.

use macula_core::{AppFilesError, Kind, Kinded, RelPath};
use macula_kv::KvError;
use macula_net::NetError;

/// A failure; unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// No such file, on any member that could be asked.
    #[error("no such file: path={path}")]
    NotFound {
        /// Its name.
        path: RelPath,
    },
    /// The file is known, and none of those who have it can be reached.
    #[error("nobody who has the file can be reached: path={path} holders={holders}")]
    Unreachable {
        /// Its name.
        path: RelPath,
        /// Their names.
        holders: String,
    },
    /// The bytes are not those that were written, and nobody who can be reached has others.
    #[error("the file's bytes are not those that were written, and no other member that is there has it: path={path}")]
    Rotten {
        /// Its name.
        path: RelPath,
    },
    /// Somebody else changed it meanwhile.
    #[error("the file was changed meanwhile: path={path}")]
    Changed {
        /// Its name.
        path: RelPath,
    },
    /// Longer than the caller wants to hold in memory.
    #[error("the file is longer than allowed: path={path} len={len} len_max={len_max}")]
    TooLarge {
        /// Its name.
        path: RelPath,
        /// Its length in bytes.
        len: u64,
        /// The caller's limit in bytes.
        len_max: u64,
    },
    /// Written here, durably; fewer others than asked for had it in time. They get it later.
    #[error("written here, but {have} of {wanted} replicas had it in time, the others follow: path={path}")]
    NotReplicated {
        /// Its name.
        path: RelPath,
        /// Replicas beside this one that have it.
        have: usize,
        /// Those that were asked for.
        wanted: usize,
    },
    /// What a peer sent, or what lies in the index, is not what it should be.
    #[error("{0}")]
    Malformed(String),
    /// A peer did not do what it was asked.
    #[error("{by} refused: {why}")]
    Refused {
        /// Its name.
        by: String,
        /// What it said.
        why: String,
    },
    /// A peer does not compare by the rules.
    #[error(transparent)]
    Unruly(#[from] crate::ranges::Unruly),
    /// A newer version of this library wrote the index.
    #[error("the index of files is of a newer format: version={0}")]
    NewerFormat(u8),
    /// The caller's input.
    #[error("{0}")]
    Invalid(String),
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
    /// As much waits to be done as may wait.
    #[error("too much waits to be done")]
    Busy,
    /// The mesh was closed.
    #[error("the replicated files are closed")]
    Closed,
    /// The app's files failed.
    #[error("{0}")]
    Files(#[from] AppFilesError),
    /// The index failed.
    #[error("the index of files: {0}")]
    Index(#[from] KvError),
    /// A link failed.
    #[error("a link: {0}")]
    Net(#[from] NetError),
    /// The application's transport did not carry a request, or its answer.
    #[error("the transport, to {to}: {why}")]
    Carrier {
        /// The member that was asked.
        to: String,
        /// What happened.
        why: String,
    },
    /// A defect of ours.
    #[error("{0}")]
    Internal(String),
}

impl Kinded for MeshError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Unreachable { .. } | Self::NotReplicated { .. } => Kind::Unreachable,
            Self::Net(_) | Self::Carrier { .. } | Self::Refused { .. } => Kind::Unreachable,
            Self::Changed { .. } => Kind::Conflict,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Malformed(_) | Self::Unruly(_) | Self::Rotten { .. } => Kind::Corrupt,
            Self::NewerFormat(_) => Kind::NewerFormat,
            Self::Invalid(_) => Kind::Invalid,
            Self::Cancelled => Kind::Cancelled,
            Self::Busy => Kind::Busy,
            Self::Closed => Kind::Closed,
            Self::Files(error) => error.kind(),
            Self::Index(error) => error.kind(),
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => {
                Some("bring one of them back, or read again when the links are there".to_owned())
            }
            Self::NotReplicated { .. } => {
                Some("nothing is to be done when the other members come back: they get it by themselves".to_owned())
            }
            Self::Files(error) => error.hint(),
            Self::Index(error) => error.hint(),
            _ => None,
        }
    }
}
