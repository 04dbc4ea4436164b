//! What can go wrong in a key-value store. Clonable, because one failure answers a whole batch.

use macula_core::{io_kind, Kind, Kinded};
use macula_wal::WalError;
use std::io;
use std::sync::Arc;

/// An error of the key-value engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// A key that had to be absent is there.
    #[error("the key is already there")]
    Exists,
    /// A value was not the one expected.
    #[error("the value is not the one expected")]
    Conflict,
    /// The queue is full.
    #[error("the write queue is full")]
    Busy,
    /// The deadline of an exclusive turn passed.
    #[error("the deadline of the exclusive turn passed")]
    Timeout,
    /// The caller cancelled it, or it was aborted.
    #[error("cancelled")]
    Cancelled,
    /// The store, snapshot or exclusive turn was closed.
    #[error("the store is closed")]
    Closed,
    /// A key or value above the stated limit.
    #[error("larger than allowed: {what} len={len} len_max={len_max}")]
    TooLarge {
        /// Key, value, or writes of an exclusive turn.
        what: &'static str,
        /// Its length, bytes.
        len: u64,
        /// The limit, bytes.
        len_max: u64,
    },
    /// Not enough room on the device for this write.
    #[error("no space left for the write")]
    DiskFull,
    /// The commit failed half way: it may or may not be there after reopen.
    #[error("the result of the write is unknown until the store is reopened: {0}")]
    UnknownResult(String),
    /// A page that is not in memory, for who must not wait for it.
    #[error("not in memory")]
    Cold,
    /// An earlier sync or engine call failed.
    #[error("the store is poisoned until it is reopened: {0}")]
    Poisoned(String),
    /// The log does not have everything after a revision, or the revision is none of this store's.
    #[error("the changes after this revision are gone: from={from}")]
    HistoryGone {
        /// What was asked for.
        from: u64,
    },
    /// Stored bytes are not what was written.
    #[error("corrupted: {reason}, file={file} block={}", block.map_or("-".into(), |b| b.to_string()))]
    Corrupt {
        /// The file's name.
        file: String,
        /// The logical block of 4,096 bytes, when it is known.
        block: Option<u64>,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a newer version, or of a cipher that this version does not know.
    #[error("written by a newer version: {what}={found} known={known}, file={file}")]
    NewerFormat {
        /// The file's name.
        file: String,
        /// Which number of its header is unknown.
        what: &'static str,
        /// Its value.
        found: u32,
        /// The highest value this version knows.
        known: u32,
    },
    /// The disk or the operating system failed.
    #[error("could not {verb}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
    /// A defect of ours or of the engine below.
    #[error("internal defect: {0}")]
    Internal(String),
}

impl KvError {
    pub(crate) fn io(verb: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { verb, source: Arc::new(source) },
        }
    }

    pub(crate) fn corrupt(file: &str, block: Option<u64>, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), block, reason: reason.into() }
    }
}

impl From<WalError> for KvError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Corrupt { file, offset, reason } => {
                Self::Corrupt { file, block: None, reason: format!("{reason} (offset={offset})") }
            }
            WalError::NewerFormat { file, what, found, known } => Self::NewerFormat { file, what, found, known },
            WalError::TooLarge { what, len, len_max } => Self::TooLarge { what, len, len_max },
            WalError::DiskFull => Self::DiskFull,
            WalError::UnknownResult(why) => Self::UnknownResult(why),
            WalError::Poisoned(why) => Self::Poisoned(why),
            WalError::HistoryGone { from, .. } => Self::HistoryGone { from },
            WalError::Io { verb, source } => Self::Io { verb, source },
            error => Self::Internal(error.to_string()),
        }
    }
}

impl Kinded for KvError {
    fn kind(&self) -> Kind {
        match self {
            Self::Exists => Kind::Exists,
            Self::Conflict => Kind::Conflict,
            Self::Busy | Self::Cold => Kind::Busy,
            Self::Timeout => Kind::Timeout,
            Self::Cancelled => Kind::Cancelled,
            Self::Closed => Kind::Closed,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::DiskFull => Kind::DiskFull,
            Self::UnknownResult(_) => Kind::UnknownResult,
            Self::Poisoned(_) => Kind::Poisoned,
            Self::HistoryGone { .. } => Kind::HistoryGone,
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::NewerFormat { .. } => Kind::NewerFormat,
            Self::Io { source, .. } => io_kind(source),
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { .. } => Some("restore the app from a backup, or check the disk".into()),
            Self::NewerFormat { .. } => Some("open it with the version of macula_storage that wrote it".into()),
            _ => None,
        }
    }
}
