//! What a low-level call can answer: SQLite's own words, or why SQLite was not asked.

use crate::{Failure, SqliteError};
use macula_core::{Kind, Kinded};
use rusqlite::ffi;
use std::ffi::CStr;

/// A failure of the low-level floor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Sqlite3Error {
    /// SQLite's code and message.
    #[error("{}", .0.message)]
    Sqlite(Failure),
    /// The connection is closed.
    #[error("connection closed")]
    Closed,
    /// The statement was released, or was none (only spaces and comments).
    #[error("invalid statement")]
    NoStatement,
    /// Too many calls wait for this connection.
    #[error("too many calls wait for this connection")]
    Busy,
    /// The caller gave up.
    #[error("interrupted")]
    Cancelled,
    /// The transaction of this connection was undone by us, and why.
    #[error("the transaction was rolled back: {0}")]
    Undone(&'static str),
    /// A statement of this connection was ended by us before it gave all its rows, and why.
    #[error("the statement was ended, what it changed is committed: {0}")]
    Ended(&'static str),
    /// What the app's database says.
    #[error(transparent)]
    Database(#[from] SqliteError),
}

impl Sqlite3Error {
    /// What the last call on `db` left. The lock of the connection is held.
    pub(super) fn last(db: *mut ffi::sqlite3) -> Self {
        // SAFETY: an open connection under its lock; the message is copied at once
        unsafe {
            let code = ffi::sqlite3_extended_errcode(db);
            let message = CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy().into_owned();
            let offset = u32::try_from(ffi::sqlite3_error_offset(db)).ok();
            Self::Sqlite(Failure { code, message, offset })
        }
    }

    /// A code without a connection's words for it.
    pub(super) fn code(code: i32) -> Self {
        Self::Sqlite(Failure { code, message: ffi::code_to_str(code).to_owned(), offset: None })
    }

    pub(super) fn too_big() -> Self {
        Self::code(ffi::SQLITE_TOOBIG)
    }

    /// It in SQLite's words, also where SQLite was not asked.
    pub fn failure(&self) -> Failure {
        let said = |code| Failure { code, message: self.to_string(), offset: None };
        match self {
            Self::Sqlite(failure) => failure.clone(),
            Self::Closed | Self::NoStatement => said(ffi::SQLITE_MISUSE),
            Self::Busy => said(ffi::SQLITE_BUSY),
            Self::Cancelled | Self::Undone(_) | Self::Ended(_) => said(ffi::SQLITE_INTERRUPT),
            Self::Database(error) => match error {
                SqliteError::Statement(failure)
                | SqliteError::Constraint { failure, .. }
                | SqliteError::Corrupt(failure)
                | SqliteError::UnknownResult(failure) => failure.clone(),
                SqliteError::DiskFull(_) => said(ffi::SQLITE_FULL),
                SqliteError::Busy { .. } | SqliteError::LockedByOther { .. } => said(ffi::SQLITE_BUSY),
                SqliteError::TooLarge { .. } => said(ffi::SQLITE_TOOBIG),
                SqliteError::Io { .. } | SqliteError::Poisoned(_) => said(ffi::SQLITE_IOERR),
                SqliteError::Timeout(_) | SqliteError::Cancelled | SqliteError::RolledBack(_) => {
                    said(ffi::SQLITE_INTERRUPT)
                }
                SqliteError::OpenedByOther(_) | SqliteError::Unlogged(_) | SqliteError::Exists(_) => {
                    said(ffi::SQLITE_CANTOPEN)
                }
                SqliteError::Refused { .. } => said(ffi::SQLITE_AUTH),
                SqliteError::Invalid(_) | SqliteError::Closed(_) => said(ffi::SQLITE_MISUSE),
                SqliteError::Internal(_) => said(ffi::SQLITE_INTERNAL),
            },
        }
    }

    /// Whether SQLite says that another connection holds a lock.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(failure) if failure.code & 0xff == ffi::SQLITE_BUSY)
    }
}

impl Kinded for Sqlite3Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(failure) => crate::error::classify_failure(failure.clone()).kind(),
            Self::Closed => Kind::Closed,
            Self::NoStatement => Kind::Invalid,
            Self::Busy => Kind::Busy,
            Self::Cancelled => Kind::Cancelled,
            Self::Undone(_) | Self::Ended(_) => Kind::Timeout,
            Self::Database(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Database(error) => error.hint(),
            _ => None,
        }
    }
}
