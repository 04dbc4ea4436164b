//! One prepared statement of SQLite's, by its C functions: rusqlite's own borrows its connection, and a
//! statement in a caller's hands may not.
//!
//! Invariant: every method is called while the connection's lock is held, and no statement outlives its
//! connection: both live in one [`super::Session`], the statements first.

use super::Sqlite3Error;
use crate::{Cell, Value};
use rusqlite::ffi;
use std::ffi::{c_char, c_int, CStr};
use std::ptr::{null, null_mut, NonNull};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Row,
    Done,
    Busy,
    Failed,
}

pub(crate) struct RawStmt(NonNull<ffi::sqlite3_stmt>);

// SAFETY: a statement may be used by any thread that holds its connection's lock
unsafe impl Send for RawStmt {}

impl Drop for RawStmt {
    fn drop(&mut self) {
        // SAFETY: finalized once; its connection is open. The code repeats an earlier error.
        unsafe { ffi::sqlite3_finalize(self.0.as_ptr()) };
    }
}

/// The first statement of `sql`, `None` when it holds only spaces and comments, and where the next begins.
pub(crate) fn prepare(db: *mut ffi::sqlite3, sql: &[u8], keep: bool) -> Result<(Option<RawStmt>, usize), Sqlite3Error> {
    let Ok(len) = c_int::try_from(sql.len()) else { return Err(Sqlite3Error::too_big()) };
    let (mut stmt, mut tail): (*mut ffi::sqlite3_stmt, *const c_char) = (null_mut(), null());
    let flags = if keep { ffi::SQLITE_PREPARE_PERSISTENT } else { 0 };
    let text = sql.as_ptr().cast::<c_char>();
    // SAFETY: the text is `len` bytes, the handle open and its lock held, the two places ours
    let code = unsafe { ffi::sqlite3_prepare_v3(db, text, len, flags, &raw mut stmt, &raw mut tail) };
    if code != ffi::SQLITE_OK {
        return Err(Sqlite3Error::last(db));
    }
    let used = if tail.is_null() { sql.len() } else { tail as usize - text as usize };
    Ok((NonNull::new(stmt).map(RawStmt), used))
}

impl RawStmt {
    fn get(&self) -> *mut ffi::sqlite3_stmt {
        self.0.as_ptr()
    }

    pub(crate) fn db(&self) -> *mut ffi::sqlite3 {
        // SAFETY: a live statement
        unsafe { ffi::sqlite3_db_handle(self.get()) }
    }

    pub(crate) fn step(&self) -> Code {
        // SAFETY: a live statement under its connection's lock
        match unsafe { ffi::sqlite3_step(self.get()) } {
            ffi::SQLITE_ROW => Code::Row,
            ffi::SQLITE_DONE => Code::Done,
            code if code & 0xff == ffi::SQLITE_BUSY => Code::Busy,
            _ => Code::Failed,
        }
    }

    /// A code that repeats an earlier step's error, or how the commit ended that a write with rows left makes.
    pub(crate) fn reset(&self) -> c_int {
        // SAFETY: as in `step`
        unsafe { ffi::sqlite3_reset(self.get()) }
    }

    /// Whether it was stepped and is not reset.
    pub(crate) fn is_under_way(&self) -> bool {
        // SAFETY: as in `step`
        unsafe { ffi::sqlite3_stmt_busy(self.get()) != 0 }
    }

    /// Whether SQLite says that it changes no file by itself: also of `COMMIT`.
    pub(crate) fn is_readonly(&self) -> bool {
        // SAFETY: as in `step`
        unsafe { ffi::sqlite3_stmt_readonly(self.get()) != 0 }
    }

    /// Whether it undid a part of the transaction, which goes on.
    pub(crate) fn is_rollback_to(&self, db: &rusqlite::Connection) -> bool {
        !db.is_autocommit() && self.begins_with("ROLLBACK")
    }

    /// Whether it opens another file.
    pub(crate) fn attaches(&self) -> bool {
        self.begins_with("ATTACH")
    }

    fn begins_with(&self, keyword: &str) -> bool {
        // SAFETY: as in `step`; the text lives as long as the statement
        let sql = unsafe { CStr::from_ptr(ffi::sqlite3_sql(self.get())) };
        crate::sql::first_keyword(&sql.to_string_lossy()).as_deref() == Some(keyword)
    }

    /// Its text, with what is bound in the place of its parameters.
    pub(crate) fn with_values(&self) -> Result<String, Sqlite3Error> {
        // SAFETY: as in `step`; the text is NUL-terminated, copied, and freed once
        unsafe {
            let sql = ffi::sqlite3_expanded_sql(self.get());
            if sql.is_null() {
                return Err(Sqlite3Error::too_big());
            }
            let text = CStr::from_ptr(sql).to_string_lossy().into_owned();
            ffi::sqlite3_free(sql.cast());
            Ok(text)
        }
    }

    pub(crate) fn param_count(&self) -> usize {
        // SAFETY: as in `step`
        usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(self.get()) }).unwrap_or(0)
    }

    /// With its prefix, for each parameter that has one.
    pub(crate) fn param_names(&self) -> Vec<Option<String>> {
        let name = |index: usize| {
            // SAFETY: as in `step`; the name is NUL-terminated and copied at once
            unsafe {
                let name = ffi::sqlite3_bind_parameter_name(self.get(), index as c_int);
                (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
            }
        };
        (1..=self.param_count()).map(name).collect()
    }

    /// Column names, which are UTF-8 unless a file was written elsewhere.
    pub(crate) fn columns(&self) -> Vec<String> {
        let name = |index: c_int| {
            // SAFETY: as in `step`; null only without memory, and copied at once
            unsafe {
                let name = ffi::sqlite3_column_name(self.get(), index);
                if name.is_null() {
                    return String::new();
                }
                CStr::from_ptr(name).to_string_lossy().into_owned()
            }
        };
        // SAFETY: as in `step`
        (0..unsafe { ffi::sqlite3_column_count(self.get()) }).map(name).collect()
    }

    /// How often SQLite prepared it again, because the schema had changed.
    pub(crate) fn prepared_again(&self) -> i32 {
        // SAFETY: as in `step`
        unsafe { ffi::sqlite3_stmt_status(self.get(), ffi::SQLITE_STMTSTATUS_REPREPARE, 0) }
    }

    pub(crate) fn width(&self) -> usize {
        // SAFETY: as in `step`
        usize::try_from(unsafe { ffi::sqlite3_data_count(self.get()) }).unwrap_or(0)
    }

    /// One column of the row that the last step gave.
    pub(crate) fn cell(&self, index: usize) -> Cell<'_> {
        let (stmt, index) = (self.get(), index as c_int);
        // SAFETY: as in `step`; an index out of range reads as null. Pointers are good until the next step
        // or reset, which takes `&self` like this: callers do not keep a cell over one.
        unsafe {
            let bytes = |start: *const u8| {
                let len = usize::try_from(ffi::sqlite3_column_bytes(stmt, index)).unwrap_or(0);
                if start.is_null() {
                    &[][..]
                } else {
                    std::slice::from_raw_parts(start, len)
                }
            };
            match ffi::sqlite3_column_type(stmt, index) {
                ffi::SQLITE_INTEGER => Cell::Integer(ffi::sqlite3_column_int64(stmt, index)),
                ffi::SQLITE_FLOAT => Cell::Real(ffi::sqlite3_column_double(stmt, index)),
                ffi::SQLITE_TEXT => Cell::Text(bytes(ffi::sqlite3_column_text(stmt, index))),
                ffi::SQLITE_BLOB => Cell::Blob(bytes(ffi::sqlite3_column_blob(stmt, index).cast())),
                _ => Cell::Null,
            }
        }
    }

    pub(crate) fn clear(&self) {
        // SAFETY: as in `step`
        unsafe { ffi::sqlite3_clear_bindings(self.get()) };
    }

    /// Bind a parameter, counted from 1. SQLite copies the bytes.
    pub(crate) fn bind(&self, index: usize, value: &Value) -> Result<(), Sqlite3Error> {
        let (stmt, index) = (self.get(), c_int::try_from(index).unwrap_or(c_int::MAX));
        // SAFETY: as in `step`; the bytes are copied by SQLite before it returns
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(stmt, index),
                Value::Integer(integer) => ffi::sqlite3_bind_int64(stmt, index, *integer),
                Value::Real(real) => ffi::sqlite3_bind_double(stmt, index, *real),
                Value::Text(bytes) => {
                    let (start, len) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    ffi::sqlite3_bind_text64(stmt, index, start, len, ffi::SQLITE_TRANSIENT(), ffi::SQLITE_UTF8 as u8)
                }
                // an empty vector's pointer is not null, which would bind NULL
                Value::Blob(bytes) => {
                    let (start, len) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    ffi::sqlite3_bind_blob64(stmt, index, start, len, ffi::SQLITE_TRANSIENT())
                }
            }
        };
        if code == ffi::SQLITE_OK {
            Ok(())
        } else {
            Err(Sqlite3Error::last(self.db()))
        }
    }
}
