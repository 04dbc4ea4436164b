//! What can go wrong, by what the caller can do about it; SQLite's own codes and words inside.

use macula_core::{io_kind, Details, Kind, Kinded};
use rusqlite::ffi;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of a database. Cheap to clone: one failure may answer many waiting callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqliteError {
    /// SQLite refused the statement; it changed nothing.
    #[error("{0}")]
    Statement(Failure),
    /// A constraint refused the statement; it changed nothing.
    #[error("{failure}")]
    Constraint {
        /// Which one, on which columns.
        constraint: Constraint,
        /// SQLite's code and words.
        failure: Failure,
    },
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A statement that an app's connection does not run.
    #[error("not allowed here: {what}")]
    Refused {
        /// The statement, pragma or function.
        what: String,
        /// What to use in its place.
        hint: &'static str,
    },
    /// The queue is full.
    #[error("the queue is full len_max={len_max}")]
    Busy {
        /// Requests that may wait.
        len_max: usize,
    },
    /// The deadline passed; nothing of the request was committed.
    #[error("deadline passed while {0}")]
    Timeout(&'static str),
    /// Another OS process, or the bridged copy of SQLite, held the lock until the deadline; nothing was
    /// committed.
    #[error("another program holds the database lock, waited_ms={waited_ms}{holders}")]
    LockedByOther {
        /// How long we waited.
        waited_ms: u64,
        /// Who holds it, as far as the system tells: empty or ` pids=[..]`, and the bridged copy.
        holders: String,
    },
    /// The caller cancelled it; nothing of it was committed.
    #[error("cancelled")]
    Cancelled,
    /// The database or the transaction is closed.
    #[error("closed: {0}")]
    Closed(&'static str),
    /// The transaction is over because an earlier statement of it failed as a whole.
    #[error("the transaction was rolled back by an earlier failure: {0}")]
    RolledBack(String),
    /// The commit failed in a way that leaves open whether it happened; reopening decides.
    #[error("the commit may or may not have happened: {0}")]
    UnknownResult(Failure),
    /// A commit or sync failed earlier.
    #[error("the database must be reopened: {0}")]
    Poisoned(String),
    /// No space left; nothing of the request was committed.
    #[error("no space left on the disk: {0}")]
    DiskFull(String),
    /// A result or value over a limit.
    #[error("too large: {what} limit={limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit, bytes.
        limit: u64,
    },
    /// The file is not a database, or is damaged.
    #[error("not a sound SQLite database: {0}")]
    Corrupt(Failure),
    /// Another copy of SQLite in this OS process has the file open.
    #[error("other code in this process has the file open path={}", .0.display())]
    OpenedByOther(PathBuf),
    /// Another copy of SQLite has the file open, bridged, and the file is not in WAL mode.
    #[error("not in WAL mode, and open by another copy of SQLite in this process path={}", .0.display())]
    Unlogged(PathBuf),
    /// The destination is there already.
    #[error("already there path={}", .0.display())]
    Exists(PathBuf),
    /// The operating system failed.
    #[error("{message}")]
    Io {
        /// What it says.
        message: String,
        /// Its class.
        kind: Kind,
    },
    /// A defect of ours.
    #[error("defect: {0}")]
    Internal(String),
}

/// SQLite's own words about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Extended result code, <https://www.sqlite.org/rescode.html>.
    pub code: i32,
    /// SQLite's message.
    pub message: String,
    /// Byte offset in the SQL where the error is, if SQLite knows.
    pub offset: Option<u32>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} code={}", self.message, self.code)?;
        match self.offset {
            Some(offset) => write!(f, " offset={offset}"),
            None => Ok(()),
        }
    }
}

impl Failure {
    /// It as a program reads it.
    pub fn details(&self) -> Details {
        let refused = (self.code & 0xff == ffi::SQLITE_CONSTRAINT).then(|| constraint(self));
        let rule = refused.map(|constraint| (constraint.kind.word(), constraint.names));
        let (code, message, offset) = (self.code, self.message.clone(), self.offset);
        Details { reason: reason(code), code, message, offset, rule }
    }
}

/// SQLite's name of a family of result codes, in lower case.
fn reason(code: i32) -> &'static str {
    match code & 0xff {
        ffi::SQLITE_INTERNAL => "internal",
        ffi::SQLITE_PERM => "perm",
        ffi::SQLITE_ABORT => "abort",
        ffi::SQLITE_BUSY => "busy",
        ffi::SQLITE_LOCKED => "locked",
        ffi::SQLITE_NOMEM => "nomem",
        ffi::SQLITE_READONLY => "readonly",
        ffi::SQLITE_INTERRUPT => "interrupt",
        ffi::SQLITE_IOERR => "ioerr",
        ffi::SQLITE_CORRUPT => "corrupt",
        ffi::SQLITE_NOTFOUND => "notfound",
        ffi::SQLITE_FULL => "full",
        ffi::SQLITE_CANTOPEN => "cantopen",
        ffi::SQLITE_PROTOCOL => "protocol",
        ffi::SQLITE_SCHEMA => "schema",
        ffi::SQLITE_TOOBIG => "toobig",
        ffi::SQLITE_CONSTRAINT => "constraint",
        ffi::SQLITE_MISMATCH => "mismatch",
        ffi::SQLITE_MISUSE => "misuse",
        ffi::SQLITE_NOLFS => "nolfs",
        ffi::SQLITE_AUTH => "auth",
        ffi::SQLITE_RANGE => "range",
        ffi::SQLITE_NOTADB => "notadb",
        _ => "error",
    }
}

/// A constraint that refused a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Which kind.
    pub kind: ConstraintKind,
    /// `table.column` for each column, or the constraint's or index's name, as SQLite tells it.
    pub names: Vec<String>,
}

/// Kinds of constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConstraintKind {
    /// `UNIQUE`.
    Unique,
    /// `PRIMARY KEY`, also of a rowid.
    PrimaryKey,
    /// `FOREIGN KEY`.
    ForeignKey,
    /// `NOT NULL`.
    NotNull,
    /// `CHECK`.
    Check,
    /// A type of a `STRICT` table.
    DataType,
    /// `RAISE` in a trigger.
    Trigger,
    /// Any other.
    Other,
}

impl ConstraintKind {
    fn word(self) -> &'static str {
        match self {
            Self::Unique => "unique",
            Self::PrimaryKey => "primary_key",
            Self::ForeignKey => "foreign_key",
            Self::NotNull => "not_null",
            Self::Check => "check",
            Self::DataType => "data_type",
            Self::Trigger => "trigger",
            Self::Other => "other",
        }
    }
}

impl SqliteError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// Of a commit that went into a log which is no longer the one at its path.
    pub(crate) fn log_gone() -> Self {
        let message = crate::rival::LOG_GONE.to_owned();
        Self::UnknownResult(Failure { code: ffi::SQLITE_IOERR_VNODE, message, offset: None })
    }

    pub(crate) fn io(error: &io::Error, path: &Path) -> Self {
        match error.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path.to_owned()),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull(format!("path={}", path.display()))
            }
            _ => Self::Io { message: format!("{error} path={}", path.display()), kind: io_kind(error) },
        }
    }
}

impl Kinded for SqliteError {
    fn kind(&self) -> Kind {
        match self {
            Self::Statement(_) | Self::Constraint { .. } | Self::RolledBack(_) => Kind::Sql,
            Self::Invalid(_) | Self::Unlogged(_) => Kind::Invalid,
            Self::Refused { .. } => Kind::Unsupported,
            Self::Busy { .. } => Kind::Busy,
            Self::Timeout(_) => Kind::Timeout,
            Self::LockedByOther { .. } => Kind::LockHeld,
            Self::Cancelled => Kind::Cancelled,
            Self::Closed(_) => Kind::Closed,
            Self::UnknownResult(_) => Kind::UnknownResult,
            Self::Poisoned(_) => Kind::Poisoned,
            Self::DiskFull(_) => Kind::DiskFull,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::Corrupt(_) => Kind::Corrupt,
            Self::OpenedByOther(_) => Kind::OpenedByOtherSqlite,
            Self::Exists(_) => Kind::Exists,
            Self::Io { kind, .. } => *kind,
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => Some((*hint).to_owned()),
            Self::OpenedByOther(_) => Some(
                "two copies of SQLite in one process drop each other's locks: close the other connection to this \
                 file (exqlite, for instance), open it through this library only, or let the other copy load this \
                 library as an extension before both open the file"
                    .to_owned(),
            ),
            Self::Unlogged(_) => Some("let the other copy run `PRAGMA journal_mode=WAL` first".to_owned()),
            Self::LockedByOther { .. } => Some("end the other program's transaction, or wait longer".to_owned()),
            Self::Corrupt(_) => Some("restore the newest backup; keep the damaged file for salvage".to_owned()),
            Self::Poisoned(_) | Self::UnknownResult(_) => {
                Some("close the database and open it again: opening decides what was committed".to_owned())
            }
            _ => None,
        }
    }

    fn details(&self) -> Option<Details> {
        match self {
            Self::Statement(failure) | Self::Constraint { failure, .. } => Some(failure.details()),
            _ => None,
        }
    }
}

/// SQLite's words and codes out of rusqlite's error, for the classes that do not depend on who asked.
pub(crate) fn classify(error: rusqlite::Error) -> SqliteError {
    let failure = match error {
        rusqlite::Error::SqliteFailure(code, message) => Failure {
            code: code.extended_code,
            message: message.unwrap_or_else(|| ffi::code_to_str(code.extended_code).to_owned()),
            offset: None,
        },
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
            Failure { code: error.extended_code, message: msg, offset: u32::try_from(offset).ok() }
        }
        rusqlite::Error::NulError(_) | rusqlite::Error::InvalidPath(_) => {
            return SqliteError::invalid("a path or SQL text holds a NUL byte")
        }
        rusqlite::Error::MultipleStatement => return SqliteError::invalid("one statement expected, got several"),
        other => return SqliteError::Internal(other.to_string()),
    };
    classify_failure(failure)
}

/// The class of what SQLite said.
pub(crate) fn classify_failure(failure: Failure) -> SqliteError {
    match failure.code & 0xff {
        ffi::SQLITE_FULL => SqliteError::DiskFull(failure.message),
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => SqliteError::Corrupt(failure),
        ffi::SQLITE_CONSTRAINT => SqliteError::Constraint { constraint: constraint(&failure), failure },
        ffi::SQLITE_TOOBIG => SqliteError::TooLarge { what: "a string, blob or statement", limit: 1_000_000_000 },
        ffi::SQLITE_BUSY => SqliteError::LockedByOther { waited_ms: 0, holders: String::new() },
        ffi::SQLITE_INTERRUPT => SqliteError::Cancelled,
        ffi::SQLITE_CANTOPEN if failure.code == ffi::SQLITE_CANTOPEN_SYMLINK => {
            SqliteError::invalid(format!("the path crosses a symbolic link: {}", failure.message))
        }
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_NOMEM | ffi::SQLITE_NOLFS => {
            SqliteError::Io { message: failure.to_string(), kind: Kind::Io }
        }
        ffi::SQLITE_PERM | ffi::SQLITE_READONLY => {
            SqliteError::Io { message: failure.to_string(), kind: Kind::Permission }
        }
        ffi::SQLITE_MISUSE | ffi::SQLITE_INTERNAL => SqliteError::Internal(failure.to_string()),
        _ => SqliteError::Statement(failure),
    }
}

/// The extended and primary code of an error that came from SQLite itself.
pub(crate) fn code_of(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(code, _) | rusqlite::Error::SqlInputError { error: code, .. } => {
            code.extended_code
        }
        _ => ffi::SQLITE_INTERNAL,
    }
}

/// Whether a commit that failed so may have happened all the same. It has not where SQLite refused it before, or
/// while, it wrote the log: without its last frame it is no commit.
pub(crate) fn is_undecided(code: i32) -> bool {
    let refused = [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_CONSTRAINT, ffi::SQLITE_CORRUPT];
    !refused.contains(&(code & 0xff))
}

/// Whether a sync failed: what the kernel then says of the file's pages is not true.
pub(crate) fn is_failed_sync(code: i32) -> bool {
    [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC, ffi::SQLITE_IOERR_TRUNCATE].contains(&code)
}

fn constraint(failure: &Failure) -> Constraint {
    let kind = match failure.code {
        ffi::SQLITE_CONSTRAINT_UNIQUE => ConstraintKind::Unique,
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => ConstraintKind::PrimaryKey,
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ConstraintKind::ForeignKey,
        ffi::SQLITE_CONSTRAINT_NOTNULL => ConstraintKind::NotNull,
        ffi::SQLITE_CONSTRAINT_CHECK => ConstraintKind::Check,
        ffi::SQLITE_CONSTRAINT_DATATYPE => ConstraintKind::DataType,
        ffi::SQLITE_CONSTRAINT_TRIGGER => ConstraintKind::Trigger,
        _ => ConstraintKind::Other,
    };
    let named = failure.message.split_once("constraint failed: ");
    let names = match (kind, named) {
        (ConstraintKind::Check, Some((_, name))) => vec![name.to_owned()],
        (_, Some((_, names))) => names.split(", ").map(str::to_owned).collect(),
        (ConstraintKind::DataType, None) => {
            failure.message.split_whitespace().last().map(str::to_owned).into_iter().collect()
        }
        (_, None) => Vec::new(),
    };
    Constraint { kind, names }
}
