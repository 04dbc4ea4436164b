//! What can go wrong with a log. Clonable, because one failure answers a whole group.

use macula_core::{io_kind, Kind, Kinded};
use std::io;
use std::sync::Arc;

/// An error of the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Stored bytes are not what was written, or records are missing.
    #[error("corrupted: {reason}, file={file} offset={offset}")]
    Corrupt {
        /// The segment, or the meta file.
        file: String,
        /// Where in it, bytes.
        offset: u64,
        /// What is wrong there.
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
    /// A record or meta record above the stated limit.
    #[error("larger than allowed: {what} len={len} len_max={len_max}")]
    TooLarge {
        /// Record or meta record.
        what: &'static str,
        /// Its length, bytes.
        len: u64,
        /// The limit, bytes.
        len_max: u64,
    },
    /// No room for another segment; nothing was changed.
    #[error("no space left for the log")]
    DiskFull,
    /// The records asked for were released.
    #[error("the log no longer has these records: from={from} first={first}")]
    HistoryGone {
        /// The sequence asked for.
        from: u64,
        /// The first one that is there.
        first: u64,
    },
    /// A write or sync failed: what was appended may or may not be there after reopening.
    #[error("the result is unknown until the log is reopened: {0}")]
    UnknownResult(String),
    /// An earlier write or sync failed.
    #[error("the log is poisoned until it is reopened: {0}")]
    Poisoned(String),
    /// The disk or the operating system failed.
    #[error("could not {verb}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The operating system's word.
        source: Arc<io::Error>,
    },
}

impl WalError {
    pub(crate) fn corrupt(file: &str, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, reason: reason.into() }
    }

    /// For operations after which nothing has changed.
    pub(crate) fn io(verb: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match io_kind(&error) {
            Kind::DiskFull => Self::DiskFull,
            _ => Self::Io { verb, source: Arc::new(error) },
        }
    }
}

impl Kinded for WalError {
    fn kind(&self) -> Kind {
        match self {
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::NewerFormat { .. } => Kind::NewerFormat,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::DiskFull => Kind::DiskFull,
            Self::HistoryGone { .. } => Kind::HistoryGone,
            Self::UnknownResult(_) => Kind::UnknownResult,
            Self::Poisoned(_) => Kind::Poisoned,
            Self::Io { source, .. } => match io_kind(source) {
                // a file of ours that is missing is no outcome of the caller's
                Kind::NotFound => Kind::Io,
                kind => kind,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { .. } => Some("restore the app from a backup; keep the directory for inquiry".into()),
            Self::NewerFormat { .. } => Some("use the version that wrote it, or a newer one".into()),
            Self::UnknownResult(_) | Self::Poisoned(_) => Some("close the app and open it again".into()),
            _ => None,
        }
    }
}
