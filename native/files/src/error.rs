//! What can go wrong with plain files.

use macula_core::{io_kind, Kind, Kinded, RelPath};
use std::io;

/// A failure of a file operation; unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// No such file.
    #[error("no such file: path={path}")]
    NotFound {
        /// Its name.
        path: RelPath,
    },
    /// The name is a directory's.
    #[error("a directory is no file: path={path}")]
    IsDirectory {
        /// Its name.
        path: RelPath,
    },
    /// Something above the name is no directory.
    #[error("the path leads through something that is no directory: path={path}")]
    NotADirectory {
        /// The name asked for.
        path: RelPath,
    },
    /// A symlink, device, fifo or socket that another program placed there.
    #[error("not a regular file, or behind a symlink: path={path}")]
    NotAFile {
        /// Its name.
        path: RelPath,
    },
    /// A name that does not fit below the app's directory.
    #[error("not a name for a file: path={path}")]
    BadName {
        /// The name.
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
    /// The bytes are not those that were written, though nobody touched the file since.
    #[error("the file's bytes are not those that were written: path={path}")]
    Corrupt {
        /// Its name.
        path: RelPath,
    },
    /// No space left.
    #[error("no space left on the device: path={path}")]
    DiskFull {
        /// The file being written.
        path: RelPath,
    },
    /// The change was made, but the sync of its directory failed: it may or may not survive.
    #[error("the directory could not be synced, the change may or may not survive: path={path} error={source}")]
    UnknownResult {
        /// The file that was changed.
        path: RelPath,
        /// What the operating system said.
        source: io::Error,
    },
    /// A sync of a directory failed earlier.
    #[error("a sync failed earlier, files can be changed again after a reopen")]
    Poisoned,
    /// The files were closed.
    #[error("the files are closed")]
    Closed,
    /// A name that staged or kept content cannot have.
    #[error("not a name for content: {reason}, got name={name:?}")]
    BadContentName {
        /// What is wrong with it.
        reason: &'static str,
        /// The name, cut to 80 characters.
        name: String,
    },
    /// Staged content that was to be put in place, and may still be written to.
    #[error("the content was not sealed: path={path}")]
    NotSealed {
        /// Where it lies.
        path: RelPath,
    },
    /// Content that was to be sealed, and does not have all its bytes.
    #[error("the content is shorter than it is to be: path={path} len={len} wanted={wanted}")]
    TooShort {
        /// Where it lies.
        path: RelPath,
        /// Its length in bytes.
        len: u64,
        /// The length in bytes that it was said to have.
        wanted: u64,
    },
    /// Content that was sealed, put in place, kept or removed, and takes no more bytes.
    #[error("the content takes no more bytes: path={path}")]
    Ended {
        /// Where it lay.
        path: RelPath,
    },
    /// The file is not what the caller took it for, or became another while it was being kept; nothing
    /// was changed.
    #[error("the file was changed meanwhile: path={path}")]
    Changed {
        /// Its name.
        path: RelPath,
    },
    /// An earlier step of this writer failed.
    #[error("the writer failed earlier: path={path}")]
    WriterFailed {
        /// The file being written.
        path: RelPath,
    },
    /// The operating system failed.
    #[error("cannot {op}: path={path} error={source}")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file concerned.
        path: RelPath,
        /// What the operating system said.
        source: io::Error,
    },
}

impl FilesError {
    /// The error of an attempt to `op` the file `path`.
    pub(crate) fn of(op: &'static str, path: &RelPath, source: io::Error) -> Self {
        let path = path.clone();
        match (source.kind(), source.raw_os_error()) {
            (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => Self::NotFound { path },
            (io::ErrorKind::IsADirectory, _) => Self::IsDirectory { path },
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Self::DiskFull { path },
            // ELOOP, EXDEV: a symlink on the way
            (io::ErrorKind::InvalidInput, _) | (_, Some(40 | 18)) => Self::NotAFile { path },
            _ => Self::Io { op, path, source },
        }
    }
}

impl Kinded for FilesError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::IsDirectory { .. } | Self::NotADirectory { .. } | Self::NotAFile { .. } | Self::BadName { .. } => {
                Kind::Invalid
            }
            Self::BadContentName { .. } | Self::NotSealed { .. } | Self::TooShort { .. } => Kind::Invalid,
            Self::Changed { .. } => Kind::Conflict,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::DiskFull { .. } => Kind::DiskFull,
            Self::UnknownResult { .. } => Kind::UnknownResult,
            Self::Poisoned => Kind::Poisoned,
            Self::Closed | Self::WriterFailed { .. } | Self::Ended { .. } => Kind::Closed,
            Self::Io { source, .. } => io_kind(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { .. } => Some("restore the file from a backup, or write it anew".to_owned()),
            Self::NotAFile { .. } => Some("remove what another program placed there".to_owned()),
            _ => None,
        }
    }
}
