//! Writes the log that an earlier run left once more, in place, and syncs it, before anything builds on it.
//!
//! After a failed sync Linux takes the file's pages for clean: what is then read from the log may not
//! be on the disk, and no later sync writes it. A checkpoint of such frames followed by a power loss left
//! a database of two moments, since the log was shorter than what had been copied out of it. Invariant:
//! the caller holds the write lock, so that nobody appends or starts the log again; readers and other
//! processes read the same bytes as before. Costs the log's length, which is bounded, and one sync.

use crate::connection::Connection;
use rusqlite::ffi;
use std::ffi::c_int;
use std::ptr::null_mut;

const CHUNK_BYTES: usize = 64 << 10;
/// A log of its header only holds nothing.
const HEADER_BYTES: i64 = 32;

/// Make durable what the log holds.
pub(crate) fn rewrite_log(connection: &Connection) -> rusqlite::Result<()> {
    let mut log: *mut ffi::sqlite3_file = null_mut();
    // SAFETY: the handle is live for as long as the connection; the operation writes one pointer. SQLite
    // keeps the log's file open while the transaction around this lasts, and its methods are called as
    // SQLite calls them: on the connection's own thread, with buffers of the length that is told.
    unsafe {
        let (handle, answer) = (connection.sql.handle(), (&raw mut log).cast());
        check(ffi::sqlite3_file_control(handle, c"main".as_ptr(), ffi::SQLITE_FCNTL_JOURNAL_POINTER, answer))?;
        let Some(methods) = log.as_ref().and_then(|file| file.pMethods.as_ref()) else { return Ok(()) };
        let (Some(size), Some(read), Some(write), Some(sync)) =
            (methods.xFileSize, methods.xRead, methods.xWrite, methods.xSync)
        else {
            return check(ffi::SQLITE_IOERR);
        };
        let mut len = 0;
        check(size(log, &raw mut len))?;
        if len <= HEADER_BYTES {
            return Ok(());
        }
        let mut chunk = vec![0u8; CHUNK_BYTES];
        for offset in (0..len).step_by(CHUNK_BYTES) {
            let part = (len - offset).min(CHUNK_BYTES as i64) as c_int;
            check(read(log, chunk.as_mut_ptr().cast(), part, offset))?;
            check(write(log, chunk.as_ptr().cast(), part, offset))?;
        }
        check(sync(log, ffi::SQLITE_SYNC_NORMAL))
    }
}

fn check(code: c_int) -> rusqlite::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}
