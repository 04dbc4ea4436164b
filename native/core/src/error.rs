//! The kinds of failure, few and prescriptive: each tells the caller what to do next.
//!
//! Every crate has one error enum of its own and maps it to a [`Kind`] by a match without a
//! wildcard, so that a new variant does not compile until someone classed it. Kinds are API;
//! messages are not.

use std::io;

/// What a caller can do about a failure. The first group are expected outcomes and cross to the
/// BEAM as bare atoms; the second group need a person and cross as `%MaculaStorage.Error{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing under that name.
    NotFound,
    /// Something is already there.
    Exists,
    /// The value or version was not the one expected.
    Conflict,
    /// The queue is full: try again later.
    Busy,
    /// The deadline passed; a write may or may not have happened.
    Timeout,
    /// The caller cancelled it.
    Cancelled,
    /// The handle was closed.
    Closed,
    /// Another OS process owns it.
    Locked,
    /// This backend does not do that.
    Unsupported,
    /// The app's quota does not allow it.
    QuotaExceeded,
    /// Larger than the stated limit.
    TooLarge,
    /// No majority of members can be reached.
    NoQuorum,
    /// No space left; reads go on and writes return by themselves when space does.
    DiskFull,
    /// A write whose sync failed: it may or may not be there after reopen.
    UnknownResult,
    /// A sync or engine failed earlier; reopen the handle.
    Poisoned,
    /// The history asked for is no longer kept.
    HistoryGone,
    /// Another copy of SQLite in this process has the file open.
    OpenedByOtherSqlite,

    /// The caller's input is wrong; nothing was changed.
    Invalid,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A file of a newer format version than this code knows.
    NewerFormat,
    /// The operating system does not let us.
    Permission,
    /// The disk or the operating system failed.
    Io,
    /// SQLite refused the statement.
    Sql,
    /// Other members that are needed for it cannot be reached, or did not come to it in time.
    Unreachable,
    /// Another program held a lock of the file for as long as we waited; nothing was changed.
    LockHeld,
    /// A defect of ours.
    Internal,
}

/// An error that knows its [`Kind`].
pub trait Kinded: std::error::Error {
    /// What the caller can do about it.
    fn kind(&self) -> Kind;
    /// One sentence saying what to do, for kinds that a person must read.
    fn hint(&self) -> Option<String> {
        None
    }
    /// What a program may tell apart within the kind.
    fn details(&self) -> Option<Details> {
        None
    }
}

/// A failure in an engine's own terms. The words are of fixed lists of that engine's, so that each may
/// become a name elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The engine's word for it.
    pub reason: &'static str,
    /// The engine's number for it.
    pub code: i32,
    /// What the engine says.
    pub message: String,
    /// Byte offset in the input where it went wrong, if known.
    pub offset: Option<u32>,
    /// The rule that was broken: its kind, and what it is about.
    pub rule: Option<(&'static str, Vec<String>)>,
}

/// The kind of an operating system error.
pub fn io_kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::NotFound,
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => Kind::Exists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::DiskFull,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Kind::Corrupt,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Kind::Invalid,
        io::ErrorKind::IsADirectory => Kind::Invalid,
        io::ErrorKind::TimedOut => Kind::Timeout,
        _ => match error.raw_os_error() {
            // ELOOP, EXDEV: the path crosses a symlink or leaves its directory
            Some(40) | Some(18) => Kind::Invalid,
            _ => Kind::Io,
        },
    }
}
