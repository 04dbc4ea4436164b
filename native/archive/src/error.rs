//! What can go wrong with an archive, sorted by what the caller can do about it.
//!
//! Invariant: after any of these the destination of an unpack is to be discarded as a whole, and an
//! archive that was being written is not one.

use macula_core::{io_kind, Kind, Kinded};
use std::io;

/// Why an archive was not written or not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The operating system failed.
    #[error("{doing} failed: {source}, entry={entry:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The entry, empty when it is about the archive itself.
        entry: String,
        /// Its error.
        source: io::Error,
    },
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// Written by a newer version of this code.
    #[error("the archive is of a newer format than this code knows: version={version} known={known}")]
    Newer {
        /// Its version.
        version: u64,
        /// The newest known.
        known: u64,
    },
    /// An entry that no good archive holds.
    #[error("refused: {reason}, entry={entry:?}")]
    Refused {
        /// What is wrong with it.
        reason: &'static str,
        /// Its name, cut to 120 characters.
        entry: String,
    },
    /// The end is missing.
    #[error("the archive is cut short: {what}")]
    Truncated {
        /// What is missing.
        what: &'static str,
    },
    /// Bytes are not what was written.
    #[error("the archive is damaged: {what}, entry={entry:?}")]
    Corrupt {
        /// What does not fit.
        what: &'static str,
        /// The entry, empty when it is about the archive itself.
        entry: String,
    },
    /// A file to be packed is not what its own digest says: damaged where it lies.
    #[error("a file's bytes are not those that were written: path={entry:?}")]
    Rotten {
        /// The file.
        entry: String,
    },
    /// More than the caller's limits allow.
    #[error("the archive holds more than is allowed: {what}, max={max} entry={entry:?}")]
    TooLarge {
        /// Bytes, entries...
        what: &'static str,
        /// The limit.
        max: u64,
        /// The entry that crossed it.
        entry: String,
    },
    /// Not written by us, and the caller did not ask for foreign archives.
    #[error("not an archive of ours: {what}")]
    NotOurs {
        /// What is missing.
        what: &'static str,
    },
    /// An option or item that cannot be.
    #[error("{what}, got={got:?}")]
    Invalid {
        /// What is wrong with it.
        what: &'static str,
        /// What was given.
        got: String,
    },
    /// A defect of ours: a worker panicked.
    #[error("a worker of the archive panicked: {message}")]
    Internal {
        /// The panic's message.
        message: String,
    },
}

impl Kinded for ArchiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } => io_kind(source),
            Self::Cancelled => Kind::Cancelled,
            Self::Newer { .. } => Kind::NewerFormat,
            Self::Refused { .. } | Self::NotOurs { .. } | Self::Invalid { .. } => Kind::Invalid,
            Self::Truncated { .. } | Self::Corrupt { .. } | Self::Rotten { .. } => Kind::Corrupt,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Internal { .. } => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Newer { .. } => "restore it with the version of the library that wrote it, or a newer one",
            Self::Truncated { .. } => "copy the archive again: its end is missing",
            Self::Corrupt { .. } => "the archive was damaged after it was written: take another one",
            Self::Rotten { .. } => {
                "the disk gives other bytes than were written: take that file from an older backup, write it anew, or \
                 remove it, then repeat this; nothing was archived"
            }
            Self::NotOurs { .. } => "an archive made by tar needs the option that accepts foreign archives",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

pub(crate) type Result<T> = std::result::Result<T, ArchiveError>;

/// A name as it is shown in an error.
pub(crate) fn shown(entry: &[u8]) -> String {
    String::from_utf8_lossy(entry).chars().take(120).collect()
}

pub(crate) fn io_at<'a>(doing: &'static str, entry: &'a [u8]) -> impl FnOnce(io::Error) -> ArchiveError + 'a {
    move |source| ArchiveError::Io { doing, entry: shown(entry), source }
}

pub(crate) fn refused<T>(reason: &'static str, entry: &[u8]) -> Result<T> {
    Err(ArchiveError::Refused { reason, entry: shown(entry) })
}

pub(crate) fn corrupt<T>(what: &'static str, entry: &[u8]) -> Result<T> {
    Err(ArchiveError::Corrupt { what, entry: shown(entry) })
}

/// Runs a worker's job; a panic becomes an error, so that nobody waits for its answer for ever.
pub(crate) fn guarded<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(ArchiveError::Internal { message })
    })
}
