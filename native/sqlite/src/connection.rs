//! One connection of ours: opened without following links, hardened, watched.
//!
//! Invariant: every connection of this crate passes through here, so none exists without its
//! authorizer, its watch, or our system calls beneath it. Checkpoints are never SQLite's own idea.

use crate::authorizer::Policy;
use crate::error::{classify, code_of, is_failed_sync};
use crate::watch::{Watch, STEPS};
use crate::{bridge, guard, Options, SqliteError, Synchronous};
use rusqlite::config::DbConfig;
use rusqlite::{ffi, OpenFlags};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that writes.
    Writer,
    /// Sees commits, changes nothing.
    Reader,
    /// The source of a copy of a database that is not opened as an app's.
    Foreign,
}

pub(crate) struct Connection {
    /// Before `sql`, to be dropped before it: what is counted has a descriptor.
    _crossing: Option<bridge::Crossing>,
    pub(crate) sql: rusqlite::Connection,
    pub(crate) watch: Arc<Watch>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) options: Options,
    /// Where the writer's says that a sync failed.
    pub(crate) poison: Option<Arc<OnceLock<String>>>,
}

impl Connection {
    /// Open an existing file.
    pub(crate) fn open(path: &Path, role: Role, options: &Options, watch: Arc<Watch>) -> Result<Self, SqliteError> {
        crate::syscalls::install()?;
        let failed = |error: std::io::Error| SqliteError::io(&error, path);
        let bridged = bridge::is_beneath(options.vfs);
        let shared = bridged && guard::opened_elsewhere(path).map_err(failed)?;
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let sql = rusqlite::Connection::open_with_flags_and_vfs(path, flags, options.vfs).map_err(classify)?;
        let file = if bridged { guard::inode_of(path).map_err(failed)? } else { None };
        let mut connection = Self {
            _crossing: file.map(bridge::Crossing::new),
            sql,
            watch,
            policy: Arc::default(),
            options: options.clone(),
            poison: None,
        };
        connection.install_callbacks().map_err(classify)?;
        connection.watch.begin(crate::request::Patience::default(), options.busy_timeout);
        let logged = if shared { connection.policy.trusted(|| has_log(&connection.sql)) } else { Ok(true) };
        let configured = logged.and_then(|logged| match logged {
            true => connection.configure(role).map(|()| true),
            false => Ok(false),
        });
        connection.watch.end();
        match configured.map_err(|error| connection.explain(error))? {
            true => Ok(connection),
            false => Err(SqliteError::Unlogged(path.to_owned())),
        }
    }

    fn install_callbacks(&mut self) -> rusqlite::Result<()> {
        let watch = self.watch.clone();
        self.sql.progress_handler(STEPS, Some(move || watch.must_stop()))?;
        let watch = self.watch.clone();
        self.sql.busy_handler(Some(move |tries| watch.must_retry_lock(tries)))?;
        let policy = self.policy.clone();
        self.sql.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| policy.judge(&context)))
    }

    fn configure(&self, role: Role) -> rusqlite::Result<()> {
        let sql = &self.sql;
        sql.set_prepared_statement_cache_capacity(self.options.statement_cache_len);
        sql.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        sql.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        sql.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let synchronous = match self.options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        let cache_kib = self.options.cache_bytes >> 10;
        self.policy.trusted(|| {
            if role == Role::Writer {
                self.use_log()?;
            }
            sql.execute_batch(&format!(
                "PRAGMA cache_size=-{cache_kib}; PRAGMA foreign_keys=ON;
                 PRAGMA synchronous={synchronous}; PRAGMA wal_autocheckpoint=0"
            ))?;
            match role {
                Role::Foreign => Ok(()),
                Role::Reader => sql.execute_batch("PRAGMA query_only=ON"),
                Role::Writer => sql.execute_batch(&format!("PRAGMA journal_size_limit={}", self.options.wal_bytes_max)),
            }
        })
    }

    fn use_log(&self) -> rusqlite::Result<()> {
        // SQLite opens a file that it may not write for reading, without a word
        if self.sql.is_readonly("main")? {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None));
        }
        // to its end: the row comes before the commit, and a failed commit leaves the old journal in use
        let mut change = self.sql.prepare("PRAGMA journal_mode=WAL")?;
        let mut answers = change.query([])?;
        let mut mode = String::new();
        while let Some(answer) = answers.next()? {
            mode = answer.get(0)?;
        }
        if mode != "wal" {
            let message = Some(format!("the file system does not take a write-ahead log, journal_mode={mode}"));
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), message));
        }
        Ok(())
    }

    /// Run a statement of ours (transaction control), prepared once.
    pub(crate) fn control(&self, sql: &'static str) -> rusqlite::Result<()> {
        let run = || self.sql.prepare_cached(sql)?.raw_execute().map(|_| ());
        self.policy.trusted(run).inspect_err(|error| self.note(error))
    }

    /// Undo the transaction if there is one.
    pub(crate) fn rollback(&self) {
        if !self.sql.is_autocommit() {
            // it can only fail by being rolled back already
            let _ = self.control("ROLLBACK");
        }
    }

    /// A sync that failed, also inside a statement (the log's header is synced before its first frame,
    /// when a statement outgrows the cache).
    fn note(&self, error: &rusqlite::Error) {
        let code = code_of(error);
        if let Some(poison) = self.poison.as_ref().filter(|_| is_failed_sync(code)) {
            // the first reason is the one that matters
            let _ = poison.set(format!("a sync failed: {error} code={code}"));
        }
    }

    /// A failure in the words of who asked: why we interrupted it, what the authorizer refused.
    pub(crate) fn explain(&self, error: rusqlite::Error) -> SqliteError {
        self.note(&error);
        let (denied, stopped) = (self.policy.take_denied(), self.watch.take_stopped());
        match code_of(&error) & 0xff {
            // a refused function is an ordinary error of the parser
            ffi::SQLITE_AUTH | ffi::SQLITE_ERROR if error.to_string().contains("not authorized") => {
                denied.unwrap_or_else(|| classify(error))
            }
            ffi::SQLITE_INTERRUPT | ffi::SQLITE_BUSY => stopped.unwrap_or_else(|| classify(error)),
            _ => classify(error),
        }
    }

    /// Whether foreign keys that were deferred are violated at this point of the transaction.
    pub(crate) fn has_deferred_violation(&self) -> bool {
        let (mut current, mut highest) = (0, 0);
        // SAFETY: the handle is live for as long as `self.sql`; the two integers are ours
        let code = unsafe {
            let op = ffi::SQLITE_DBSTATUS_DEFERRED_FKS;
            ffi::sqlite3_db_status(self.sql.handle(), op, &raw mut current, &raw mut highest, 0)
        };
        code == ffi::SQLITE_OK && current > 0
    }
}

/// Whether it is in WAL mode, or empty and may become so under the host's eyes.
pub(crate) fn has_log(sql: &rusqlite::Connection) -> rusqlite::Result<bool> {
    let mode: String = sql.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let pages: i64 = sql.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    Ok(mode == "wal" || pages == 0)
}
