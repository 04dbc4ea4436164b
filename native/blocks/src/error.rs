//! What can go wrong with verified blocks and with the redb over them.

use macula_core::{io_kind, Kind, Kinded};
use std::io;
use std::sync::Arc;

/// An error of the block device, or of redb.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlockError {
    /// Stored bytes are not what was written.
    #[error("corrupted: {reason}, file={file} block={}", block.map_or("-".into(), |b| b.to_string()))]
    Corrupt {
        /// The file's name.
        file: String,
        /// The logical block, when it is known.
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
    /// A page that is not in memory, for who must not wait for it.
    #[error("not in memory")]
    Cold,
    /// redb was closed.
    #[error("the store is closed")]
    Closed,
    /// No room on the device.
    #[error("no space left for the write")]
    DiskFull,
    /// A value that redb does not take.
    #[error("larger than allowed: value len={len}")]
    TooLarge {
        /// Its length, bytes.
        len: u64,
    },
    /// redb refuses to go on after an error.
    #[error("poisoned until it is reopened: {0}")]
    Poisoned(String),
    /// The disk or the operating system failed.
    #[error("could not {verb}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
    /// A defect of ours or of redb.
    #[error("internal defect: {0}")]
    Internal(String),
}

impl BlockError {
    /// What the operating system said when `verb` was tried.
    pub fn io(verb: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { verb, source: Arc::new(source) },
        }
    }

    pub(crate) fn corrupt(file: &str, block: Option<u64>, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), block, reason: reason.into() }
    }
}

impl Kinded for BlockError {
    fn kind(&self) -> Kind {
        match self {
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::NewerFormat { .. } => Kind::NewerFormat,
            Self::Cold => Kind::Busy,
            Self::Closed => Kind::Closed,
            Self::DiskFull => Kind::DiskFull,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Poisoned(_) => Kind::Poisoned,
            Self::Io { source, .. } => io_kind(source),
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NewerFormat { .. } => Some("open it with the version of macula_storage that wrote it".into()),
            _ => None,
        }
    }
}
