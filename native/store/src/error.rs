//! What can go wrong with an app's storage as a whole.

use crate::Owner;
use macula_archive::ArchiveError;
use macula_core::{io_kind, AppName, Details, Kind, Kinded, NameError, PathError};
use macula_files::FilesError;
use macula_kv::KvError;
use macula_sqlite::SqliteError;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process owns the app.
    #[error("another process owns the app: os_pid={}", pid(.0))]
    Locked(Option<Owner>),
    /// The app was closed.
    #[error("the app is closed")]
    Closed,
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It took longer than allowed.
    #[error("the deadline passed while waiting for {0}")]
    Timeout(&'static str),
    /// The base directory cannot be used.
    #[error("cannot use the base directory: {source}, path={path:?}")]
    Base {
        /// The base directory.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The disk or the operating system failed.
    #[error("could not {verb} {path:?}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// It happened, but may not survive a power loss; the next opening decides.
    #[error("the outcome is not known until the app is opened again: {0}")]
    Unknown(String),
    /// No such backup.
    #[error("no such backup: {0}")]
    NoBackup(String),
    /// The archive is not one of ours, or not of this app.
    #[error("not an archive to restore from: {0}")]
    NotOurs(String),
    /// The destination is already there.
    #[error("already there: path={0:?}")]
    Exists(PathBuf),
    /// The destination is what an app lives in.
    #[error("that would overwrite what an app lives in: path={0:?}")]
    Destination(PathBuf),
    /// A directory for a store cannot be used.
    #[error("cannot use the directory: {source}, path={path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// A directory for a store that lies in an app's.
    #[error("inside the directory of an app: path={path:?} app={app}")]
    InsideApp {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        app: AppName,
    },
    /// Another library's database is there.
    #[error("the directory holds a CubDB database: path={0:?}")]
    OtherDatabase(PathBuf),
    /// Another OS process has the app's database open, so that it cannot be replaced.
    #[error("the database is in use by another process: path={path:?} os_pids={pids:?}")]
    DatabaseInUse {
        /// The database.
        path: PathBuf,
        /// Who has it open.
        pids: Vec<u32>,
    },
    /// Another copy of SQLite in this process has it open.
    #[error("the database is open in another copy of SQLite in this process: path={0:?}")]
    OpenedByOtherSqlite(PathBuf),
    /// The app has no directory.
    #[error("no such app: {0}")]
    NoApp(String),
    /// A bad app name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A bad path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The key-value engine's.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// SQLite's.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The file engine's.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The archive's.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl StoreError {
    pub(crate) fn io(verb: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { verb, path: path.as_ref().to_owned(), source }
    }
}

impl Kinded for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Locked(_) => Kind::Locked,
            Self::Closed => Kind::Closed,
            Self::Cancelled => Kind::Cancelled,
            Self::Timeout(_) => Kind::Timeout,
            // never an outcome such as "not found": whose base it is must read why
            Self::Base { source, .. } | Self::Directory { source, .. } => match io_kind(source) {
                Kind::Permission => Kind::Permission,
                _ => Kind::Io,
            },
            Self::Io { source, .. } => io_kind(source),
            Self::Unknown(_) => Kind::UnknownResult,
            Self::NoBackup(_) => Kind::NotFound,
            Self::NotOurs(_) => Kind::Invalid,
            Self::Exists(_) => Kind::Exists,
            Self::Destination(_) | Self::DatabaseInUse { .. } => Kind::Invalid,
            Self::InsideApp { .. } | Self::OtherDatabase(_) => Kind::Invalid,
            Self::OpenedByOtherSqlite(_) => Kind::OpenedByOtherSqlite,
            Self::NoApp(_) => Kind::NotFound,
            Self::Name(error) => error.kind(),
            Self::Path(error) => error.kind(),
            Self::Kv(error) => error.kind(),
            Self::Sqlite(error) => error.kind(),
            Self::Files(error) => error.kind(),
            Self::Archive(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Base { .. } => Some(
                "set MACULA_STORAGE_BASE or `config :macula_storage, base_path:` to a directory that this user may write"
                    .into(),
            ),
            Self::Destination(_) => Some("choose another destination; a restore replaces an app's data".into()),
            Self::InsideApp { app, .. } => {
                Some(format!("use the app's own store, by its name, or a directory outside: app={app}"))
            }
            Self::OtherDatabase(_) => Some("import it with `mix macula.import.cubdb`, or use another directory".into()),
            Self::DatabaseInUse { .. } => Some("stop that process, or let it close the database, and try again".into()),
            Self::Kv(error) => error.hint(),
            Self::Sqlite(error) => error.hint(),
            Self::Files(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            _ => None,
        }
    }

    fn details(&self) -> Option<Details> {
        match self {
            Self::Sqlite(error) => error.details(),
            _ => None,
        }
    }
}

fn pid(owner: &Option<Owner>) -> String {
    owner.as_ref().map_or("unknown".into(), |owner| owner.pid.to_string())
}
