//! The one place where the write-ahead log's pages go back into the database file. SQLite never does
//! it by itself here: history (restore to a point in time) must read the log before it is reused.

use crate::connection::Connection;
use crate::error::code_of;
use crate::request::Patience;
use crate::SqliteError;
use rusqlite::ffi;
use std::time::Duration;

/// Short reads end within it; a long one must not hold the writer.
const READERS_WAIT: Duration = Duration::from_millis(20);

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What no reader holds back; waits for nobody.
    Passive,
    /// All, so that the log starts again; waits a moment for readers.
    Restart,
    /// All, then cut the log to nothing; gives up at once when a reader holds it back.
    Truncate,
}

/// Pages left in the log, `None` when others kept it from running. An error means a failed sync or
/// write of the database file: the caller poisons the handle.
pub(crate) fn checkpoint(connection: &Connection, depth: Depth) -> Result<Option<u64>, SqliteError> {
    let sql = match depth {
        Depth::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Depth::Restart => "PRAGMA wal_checkpoint(RESTART)",
        Depth::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let run = || {
        let mut statement = connection.sql.prepare(sql)?;
        statement.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
    };
    if depth == Depth::Restart {
        connection.watch.begin(Patience::default(), READERS_WAIT);
    }
    let result = connection.policy.trusted(run);
    connection.watch.end();
    match result {
        Ok((0, pages, done)) => Ok(Some(u64::try_from(pages.saturating_sub(done)).unwrap_or(0))),
        Ok(_) => Ok(None),
        Err(error) => match code_of(&error) & 0xff {
            // a full disk: the log stays, the next checkpoint tries again
            ffi::SQLITE_FULL | ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Ok(None),
            _ => Err(connection.explain(error)),
        },
    }
}
