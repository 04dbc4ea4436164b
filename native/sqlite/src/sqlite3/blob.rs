//! A value read and written in pieces, without ever being in memory as a whole.
//!
//! Invariant: a handle lives in its connection's [`Session`], as a statement does, and is closed before the
//! database. One that was opened for writing holds a write transaction, so on an app's file the turn, until
//! it is closed; closing may commit, which is never done on a caller's thread.

use super::{Conn, Session, Sqlite3Error};
use crate::{Failure, SqliteError};
use rusqlite::ffi;
use std::ffi::{c_int, CString};
use std::fmt;
use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// Where a blob is, besides its row.
#[derive(Debug, Clone)]
pub struct BlobPlace {
    /// `main`, `temp` or an attached one's name.
    pub database: String,
    /// A table with row ids.
    pub table: String,
    /// The column.
    pub column: String,
}

/// An open blob. Dropped, it is closed as soon as nobody works on its connection.
pub struct Blob {
    conn: Arc<Conn>,
    id: u64,
    len: AtomicU64,
    is_closed: AtomicBool,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Blob {
    /// Its connection.
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// Bytes it holds, of the row that it was opened on last.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if !self.is_closed.load(Ordering::Acquire) {
            self.conn.close_blob_later(self.id);
        }
    }
}

/// SQLite's own handle.
pub(super) struct RawBlob(NonNull<ffi::sqlite3_blob>);

// SAFETY: a blob handle may be used by any thread that holds its connection's lock; it lives beside the
// database handle in the session which that lock guards
unsafe impl Send for RawBlob {}

impl Drop for RawBlob {
    fn drop(&mut self) {
        // SAFETY: closed once: `close` forgets it. The database is open, for the session drops blobs first.
        unsafe { ffi::sqlite3_blob_close(self.0.as_ptr()) };
    }
}

impl RawBlob {
    fn len(&self) -> u64 {
        // SAFETY: a live handle under its connection's lock
        u64::try_from(unsafe { ffi::sqlite3_blob_bytes(self.0.as_ptr()) }).unwrap_or(0)
    }

    /// Close it and hear how the commit went, if that was one.
    pub(super) fn close(self) -> c_int {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        // SAFETY: the handle is ours alone, and forgotten above, so that this is the only close
        unsafe { ffi::sqlite3_blob_close(raw) }
    }
}

impl Session {
    /// Open the value of a row, which must be text or a blob. For writing, wait for the turn.
    pub fn open_blob(&mut self, place: &BlobPlace, rowid: i64, write: bool) -> Result<Blob, Sqlite3Error> {
        let conn = self.conn()?;
        let name = |name: &str| CString::new(name).map_err(|_| SqliteError::invalid("a name holds a NUL byte"));
        let (database, table, column) = (name(&place.database)?, name(&place.table)?, name(&place.column)?);
        if write {
            self.before_write()?;
        }
        self.check_undone()?;
        let mut raw: *mut ffi::sqlite3_blob = null_mut();
        let (database, table, column) = (database.as_ptr(), table.as_ptr(), column.as_ptr());
        let (db, write) = (self.handle(), c_int::from(write));
        // SAFETY: an open handle under its lock; the names are NUL-terminated and live here; the place is ours
        let code = unsafe { ffi::sqlite3_blob_open(db, database, table, column, rowid, write, &raw mut raw) };
        let Some(raw) = NonNull::new(raw).filter(|_| code == ffi::SQLITE_OK).map(RawBlob) else {
            return Err(self.failed(Sqlite3Error::last(db)));
        };
        let (id, len) = (conn.next_stmt(), AtomicU64::new(raw.len()));
        self.blobs.insert(id, raw);
        Ok(Blob { conn, id, len, is_closed: AtomicBool::new(false) })
    }

    /// Fill `into` with what begins at `offset`.
    pub fn read_blob(&mut self, blob: &Blob, offset: u64, into: &mut [u8]) -> Result<(), Sqlite3Error> {
        let (raw, offset, len) = self.blob_at(blob, offset, into.len())?;
        // SAFETY: a live handle under its lock; SQLite writes `len` bytes, as many as `into` has
        let code = unsafe { ffi::sqlite3_blob_read(raw, into.as_mut_ptr().cast(), len, offset) };
        self.blob_done(code)
    }

    /// Put `bytes` in the place of what begins at `offset`; a blob keeps its length.
    pub fn write_blob(&mut self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Sqlite3Error> {
        let (raw, offset, len) = self.blob_at(blob, offset, bytes.len())?;
        // SAFETY: a live handle under its lock; SQLite reads `len` bytes, as many as there are
        let code = unsafe { ffi::sqlite3_blob_write(raw, bytes.as_ptr().cast(), len, offset) };
        self.blob_done(code)
    }

    /// Go to the same column of another row. When that fails, the handle can only be closed.
    pub fn reopen_blob(&mut self, blob: &Blob, rowid: i64) -> Result<(), Sqlite3Error> {
        self.check_undone()?;
        let raw = self.blobs.get(&blob.id).ok_or(Sqlite3Error::NoStatement)?;
        // SAFETY: a live handle under its lock
        let code = unsafe { ffi::sqlite3_blob_reopen(raw.0.as_ptr(), rowid) };
        blob.len.store(raw.len(), Ordering::Release);
        self.blob_done(code)
    }

    /// Close it: what was written is committed, outside of a transaction. Again is fine.
    pub fn end_blob(&mut self, blob: &Blob) -> Result<(), Sqlite3Error> {
        blob.is_closed.store(true, Ordering::Release);
        self.close_blob(blob.id)
    }

    pub(super) fn close_blob(&mut self, blob: u64) -> Result<(), Sqlite3Error> {
        match self.blobs.remove(&blob) {
            None => self.check_undone(),
            Some(raw) => {
                let code = raw.close();
                self.blob_done(code)?;
                self.settle_commit()
            }
        }
    }

    /// The handle and the numbers as SQLite takes them, within the blob.
    fn blob_at(
        &mut self,
        blob: &Blob,
        offset: u64,
        len: usize,
    ) -> Result<(*mut ffi::sqlite3_blob, c_int, c_int), Sqlite3Error> {
        self.check_undone()?;
        let raw = self.blobs.get(&blob.id).ok_or(Sqlite3Error::NoStatement)?;
        let within = offset.checked_add(len as u64).is_some_and(|end| end <= blob.len());
        match (c_int::try_from(offset), c_int::try_from(len)) {
            (Ok(at), Ok(bytes)) if within => Ok((raw.0.as_ptr(), at, bytes)),
            _ => {
                let message = format!("outside of the blob offset={offset} bytes={len} blob_bytes={}", blob.len());
                Err(Sqlite3Error::Sqlite(Failure { code: ffi::SQLITE_ERROR, message, offset: None }))
            }
        }
    }

    fn blob_done(&self, code: c_int) -> Result<(), Sqlite3Error> {
        match code {
            ffi::SQLITE_OK => Ok(()),
            // the row changed or is gone; SQLite has no words of its own for it
            ffi::SQLITE_ABORT => Err(Sqlite3Error::Sqlite(Failure {
                code,
                message: "the row was changed or removed since the blob was opened".to_owned(),
                offset: None,
            })),
            _ => Err(self.failed(Sqlite3Error::last(self.handle()))),
        }
    }
}
