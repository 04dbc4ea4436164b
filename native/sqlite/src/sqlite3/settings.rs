//! Limits of a connection, and checkpoints of its log.
//!
//! Invariant: the log of an app's file is checkpointed by the app's writer only.

use super::{Session, Sqlite3Error};
use crate::Failure;
use rusqlite::ffi;
use std::ffi::c_int;

/// How far a checkpoint goes, <https://www.sqlite.org/c3ref/wal_checkpoint_v2.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointMode {
    /// As far as nobody is in the way.
    Passive,
    /// All of it; waits for who writes.
    Full,
    /// And the next writer begins the log anew; waits for who reads.
    Restart,
    /// And the log's file is cut.
    Truncate,
}

/// SQLite's number of a limit, by its name in lower case.
pub fn limit_code(name: &str) -> Option<i32> {
    Some(match name {
        "length" => ffi::SQLITE_LIMIT_LENGTH,
        "sql_length" => ffi::SQLITE_LIMIT_SQL_LENGTH,
        "column" => ffi::SQLITE_LIMIT_COLUMN,
        "expr_depth" => ffi::SQLITE_LIMIT_EXPR_DEPTH,
        "compound_select" => ffi::SQLITE_LIMIT_COMPOUND_SELECT,
        "vdbe_op" => ffi::SQLITE_LIMIT_VDBE_OP,
        "function_arg" => ffi::SQLITE_LIMIT_FUNCTION_ARG,
        "attached" => ffi::SQLITE_LIMIT_ATTACHED,
        "like_pattern_length" => ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
        "variable_number" => ffi::SQLITE_LIMIT_VARIABLE_NUMBER,
        "trigger_depth" => ffi::SQLITE_LIMIT_TRIGGER_DEPTH,
        "worker_threads" => ffi::SQLITE_LIMIT_WORKER_THREADS,
        _ => return None,
    })
}

impl Session {
    /// The limit of a code from [`limit_code`]; with `value`, it is that from now on, or what SQLite was
    /// compiled with if that is less. What it was before.
    pub fn limit(&mut self, code: i32, value: Option<i32>) -> i32 {
        // SAFETY: an open handle under its lock; an unknown code answers -1, a negative value changes nothing
        unsafe { ffi::sqlite3_limit(self.handle(), code, value.map_or(-1, |value| value.max(0))) }
    }

    /// Bring the log into the file. Pages in the log and how many of them are in the file, when there is a log.
    pub fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Option<(u32, u32)>, Sqlite3Error> {
        if self.is_app_file() {
            return Err(Sqlite3Error::Sqlite(Failure {
                code: ffi::SQLITE_AUTH,
                message: "not authorized: the log of an app's file is checkpointed by the app's own writer, as it \
                          grows and when nobody writes"
                    .to_owned(),
                offset: None,
            }));
        }
        let mode = match mode {
            CheckpointMode::Passive => ffi::SQLITE_CHECKPOINT_PASSIVE,
            CheckpointMode::Full => ffi::SQLITE_CHECKPOINT_FULL,
            CheckpointMode::Restart => ffi::SQLITE_CHECKPOINT_RESTART,
            CheckpointMode::Truncate => ffi::SQLITE_CHECKPOINT_TRUNCATE,
        };
        let (mut log, mut done): (c_int, c_int) = (-1, -1);
        let db = self.handle();
        // SAFETY: an open handle under its lock; the name is NUL-terminated, the two places ours
        let code = unsafe { ffi::sqlite3_wal_checkpoint_v2(db, c"main".as_ptr(), mode, &raw mut log, &raw mut done) };
        match code {
            ffi::SQLITE_OK => Ok(u32::try_from(log).ok().zip(u32::try_from(done).ok())),
            _ => Err(Sqlite3Error::last(db)),
        }
    }
}
