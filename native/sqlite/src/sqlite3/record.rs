//! What a connection changed, as bytes that can be applied elsewhere: SQLite's sessions and changesets.
//!
//! Here a recorder is what SQLite calls a session. Invariant: it lives in its connection's [`Session`], and is
//! deleted before the database is closed. Recorders and listeners to rows before they change are never there
//! together: SQLite has one hook for both, and takes what the hook was given before for a recorder.

use super::hooks::value_of;
use super::{Action, Conn, Session, Sqlite3Error};
use crate::{Failure, SqliteError, Value};
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_uchar, c_void, CStr, CString};
use std::fmt;
use std::ptr::{null, null_mut, NonNull};
use std::sync::Arc;

/// Records what its connection changes. Dropped, it ends as soon as nobody works on the connection.
pub struct Recorder {
    conn: Arc<Conn>,
    id: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Its connection.
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.conn.release(self.id);
    }
}

pub(super) struct RawRecorder(NonNull<ffi::sqlite3_session>);

// SAFETY: used by whoever holds the lock of the connection that it records, beside whose handle it lives
unsafe impl Send for RawRecorder {}

impl Drop for RawRecorder {
    fn drop(&mut self) {
        // SAFETY: deleted once; the database is open, for the session drops recorders first, and the hook is
        // the recorders' own, for no listener to rows is let in beside them
        unsafe { ffi::sqlite3session_delete(self.0.as_ptr()) };
    }
}

/// What to do with a change that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// Leave it out.
    Omit,
    /// Make it all the same; only of [`Policy::data`] and [`Policy::conflict`].
    Replace,
    /// Undo all that was applied.
    Abort,
}

/// What to do with changes that do not fit, by why they do not.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The row is there with other values than before the change.
    pub data: Resolve,
    /// The row is not there.
    pub not_found: Resolve,
    /// A row with that primary key is there already.
    pub conflict: Resolve,
    /// Another constraint refuses it.
    pub constraint: Resolve,
    /// In the end foreign keys are broken.
    pub foreign_key: Resolve,
}

/// The values of a row in a changeset; `None` for those that it does not have.
pub type Image = Vec<Option<Value>>;

/// One change of a changeset.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Of which table.
    pub table: String,
    /// What was done.
    pub action: Action,
    /// Before, unless the row is new.
    pub old: Option<Image>,
    /// After, unless the row is gone.
    pub new: Option<Image>,
}

/// Why recorders and listeners to rows exclude each other, for who comes second.
pub(super) fn one_hook() -> Sqlite3Error {
    let message = "SQLite has one pre-update hook: a connection that records changes cannot tell of rows before they \
                   change, nor the other way round";
    Sqlite3Error::Sqlite(Failure { code: ffi::SQLITE_MISUSE, message: message.to_owned(), offset: None })
}

impl Session {
    /// Record what this connection changes in `database` from now on, in tables that are attached.
    pub fn record(&mut self, database: &str) -> Result<Recorder, Sqlite3Error> {
        let conn = self.conn()?;
        let database = c_string(database)?;
        self.stop_collecting();
        if self.hooks.tells_rows() {
            return Err(one_hook());
        }
        // the hook of listeners that are gone would be taken for a recorder
        self.settle_row_hook();
        let mut raw: *mut ffi::sqlite3_session = null_mut();
        // SAFETY: an open handle under its lock; the name is NUL-terminated and copied, the place ours; the hook
        // that may be there is another recorder's
        let code = unsafe { ffi::sqlite3session_create(self.handle(), database.as_ptr(), &raw mut raw) };
        let raw = NonNull::new(raw).filter(|_| code == ffi::SQLITE_OK).ok_or_else(|| Sqlite3Error::code(code))?;
        let id = conn.next_stmt();
        self.recorders.insert(id, RawRecorder(raw));
        // statements that are there are prepared again: `DELETE FROM t` had no need to look at each row
        self.authorize_again();
        Ok(Recorder { conn, id })
    }

    /// Record the changes of a table, or of all; it has a primary key, else it is left out.
    pub fn record_table(&mut self, recorder: &Recorder, table: Option<&str>) -> Result<(), Sqlite3Error> {
        let table = table.map(c_string).transpose()?;
        let raw = self.recorder(recorder)?;
        let name = table.as_ref().map_or(null(), |table| table.as_ptr());
        // SAFETY: a live recorder under its connection's lock; the name is NUL-terminated and copied
        match unsafe { ffi::sqlite3session_attach(raw, name) } {
            ffi::SQLITE_OK => Ok(()),
            code => Err(Sqlite3Error::code(code)),
        }
    }

    /// What was changed, as a changeset, or as a patchset, which is smaller and cannot be inverted.
    pub fn recorded(&mut self, recorder: &Recorder, as_patchset: bool) -> Result<Vec<u8>, Sqlite3Error> {
        let raw = self.recorder(recorder)?;
        let give = if as_patchset { ffi::sqlite3session_patchset } else { ffi::sqlite3session_changeset };
        // SAFETY: a live recorder under its connection's lock; the places are ours
        taken(|len, bytes| unsafe { give(raw, len, bytes) })
    }

    /// Record no more.
    pub fn end_recorder(&mut self, recorder: &Recorder) {
        self.recorders.remove(&recorder.id);
    }

    fn recorder(&self, recorder: &Recorder) -> Result<*mut ffi::sqlite3_session, Sqlite3Error> {
        let raw = self.recorders.get(&recorder.id).ok_or(Sqlite3Error::NoStatement)?;
        Ok(raw.0.as_ptr())
    }

    /// Apply a changeset or patchset, all of it or nothing. On an app's file, when it is our turn.
    pub fn apply(&mut self, mut changeset: Vec<u8>, policy: &Policy) -> Result<(), Sqlite3Error> {
        let len = length(&changeset)?;
        self.before_write()?;
        // what does not fit is undone by savepoints
        self.doubt_changes();
        let (db, bytes) = (self.handle(), changeset.as_mut_ptr().cast());
        let context = std::ptr::from_ref(policy).cast_mut().cast();
        // SAFETY: an open handle under its lock; the bytes and the policy outlive the call, which only reads them
        let code = unsafe {
            ffi::sqlite3changeset_apply_v2(db, len, bytes, None, Some(resolve), context, null_mut(), null_mut(), 0)
        };
        match code {
            ffi::SQLITE_OK => self.settle_commit(),
            ffi::SQLITE_ABORT => Err(Sqlite3Error::Sqlite(Failure {
                code,
                message: "a change did not fit, and nothing was applied".to_owned(),
                offset: None,
            })),
            code => Err(self.failed(said(db, code))),
        }
    }
}

/// The connection's words about a code, if it is its own last.
fn said(db: *mut ffi::sqlite3, code: c_int) -> Sqlite3Error {
    match Sqlite3Error::last(db) {
        Sqlite3Error::Sqlite(failure) if failure.code & 0xff == code & 0xff => Sqlite3Error::Sqlite(failure),
        _ => Sqlite3Error::code(code),
    }
}

unsafe extern "C" fn resolve(context: *mut c_void, why: c_int, _change: *mut ffi::sqlite3_changeset_iter) -> c_int {
    // SAFETY: the pointer that was given with this function, for the call under way, see `Session::apply`
    let policy = unsafe { &*context.cast::<Policy>() };
    let (resolve, may_replace) = match why {
        ffi::SQLITE_CHANGESET_DATA => (policy.data, true),
        ffi::SQLITE_CHANGESET_NOTFOUND => (policy.not_found, false),
        ffi::SQLITE_CHANGESET_CONFLICT => (policy.conflict, true),
        ffi::SQLITE_CHANGESET_CONSTRAINT => (policy.constraint, false),
        _ => (policy.foreign_key, false),
    };
    match resolve {
        Resolve::Omit => ffi::SQLITE_CHANGESET_OMIT,
        Resolve::Replace if may_replace => ffi::SQLITE_CHANGESET_REPLACE,
        Resolve::Replace | Resolve::Abort => ffi::SQLITE_CHANGESET_ABORT,
    }
}

/// The changeset that undoes this one. A patchset has none.
pub fn invert(changeset: &[u8]) -> Result<Vec<u8>, Sqlite3Error> {
    let (len, bytes) = (length(changeset)?, changeset.as_ptr().cast());
    // SAFETY: as many bytes as there are, read only; the places are ours
    taken(|out_len, out| unsafe { ffi::sqlite3changeset_invert(len, bytes, out_len, out) })
}

/// One that does what these two do, one after the other; both are changesets, or both patchsets.
pub fn concat(first: &mut [u8], then: &mut [u8]) -> Result<Vec<u8>, Sqlite3Error> {
    let (first_len, then_len) = (length(first)?, length(then)?);
    let (first, then) = (first.as_mut_ptr().cast(), then.as_mut_ptr().cast());
    // SAFETY: as many bytes as there are of each; the places are ours
    taken(|out_len, out| unsafe { ffi::sqlite3changeset_concat(first_len, first, then_len, then, out_len, out) })
}

/// What is in a changeset or patchset.
pub fn changes_in(changeset: &mut [u8]) -> Result<Vec<Recorded>, Sqlite3Error> {
    let len = length(changeset)?;
    let mut raw: *mut ffi::sqlite3_changeset_iter = null_mut();
    // SAFETY: as many bytes as there are, which outlive the iterator; the place is ours
    let code = unsafe { ffi::sqlite3changeset_start(&raw mut raw, len, changeset.as_mut_ptr().cast()) };
    let raw = NonNull::new(raw).filter(|_| code == ffi::SQLITE_OK).ok_or_else(|| Sqlite3Error::code(code))?;
    let iterator = Iter(raw);
    let mut found = Vec::new();
    loop {
        // SAFETY: a live iterator
        match unsafe { ffi::sqlite3changeset_next(iterator.0.as_ptr()) } {
            ffi::SQLITE_ROW => found.push(iterator.change()?),
            ffi::SQLITE_DONE => return Ok(found),
            code => return Err(Sqlite3Error::code(code)),
        }
    }
}

struct Iter(NonNull<ffi::sqlite3_changeset_iter>);

impl Drop for Iter {
    fn drop(&mut self) {
        // SAFETY: finalized once; the code repeats an earlier error
        unsafe { ffi::sqlite3changeset_finalize(self.0.as_ptr()) };
    }
}

/// Where one of SQLite's functions puts a value of a change.
type ImageOf = unsafe extern "C" fn(*mut ffi::sqlite3_changeset_iter, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

impl Iter {
    fn change(&self) -> Result<Recorded, Sqlite3Error> {
        let (mut table, mut width, mut code, mut indirect): (*const c_char, c_int, c_int, c_int) = (null(), 0, 0, 0);
        // SAFETY: an iterator on a change; the places are ours
        let told = unsafe {
            let (table, width) = (&raw mut table, &raw mut width);
            ffi::sqlite3changeset_op(self.0.as_ptr(), table, width, &raw mut code, &raw mut indirect)
        };
        if told != ffi::SQLITE_OK || table.is_null() {
            return Err(Sqlite3Error::code(told));
        }
        // SAFETY: NUL-terminated, good until the next change, and copied at once
        let table = unsafe { CStr::from_ptr(table) }.to_string_lossy().into_owned();
        let action = Action::of(code);
        let image = |wanted: bool, image_of: ImageOf| wanted.then(|| self.image(width, image_of)).transpose();
        let old = image(action != Action::Insert, ffi::sqlite3changeset_old)?;
        let new = image(action != Action::Delete, ffi::sqlite3changeset_new)?;
        Ok(Recorded { table, action, old, new })
    }

    fn image(&self, width: c_int, image_of: ImageOf) -> Result<Image, Sqlite3Error> {
        let value = |column| {
            let mut value: *mut ffi::sqlite3_value = null_mut();
            // SAFETY: an iterator on a change that has this image, of `width` columns; the place is ours
            match unsafe { image_of(self.0.as_ptr(), column, &raw mut value) } {
                // SAFETY: null, or a value that is good until the next change
                ffi::SQLITE_OK => Ok(unsafe { value_of(value) }),
                code => Err(Sqlite3Error::code(code)),
            }
        };
        (0..width).map(value).collect()
    }
}

/// Bytes that SQLite allocated.
fn taken(give: impl FnOnce(*mut c_int, *mut *mut c_void) -> c_int) -> Result<Vec<u8>, Sqlite3Error> {
    let (mut len, mut bytes): (c_int, *mut c_void) = (0, null_mut());
    let code = give(&raw mut len, &raw mut bytes);
    let copied = match (usize::try_from(len), bytes.is_null()) {
        // SAFETY: SQLite gave so many bytes there
        (Ok(len), false) => unsafe { std::slice::from_raw_parts(bytes.cast::<c_uchar>(), len) }.to_vec(),
        _ => Vec::new(),
    };
    // SAFETY: SQLite's allocation, ours to free, once; null is fine
    unsafe { ffi::sqlite3_free(bytes) };
    match code {
        ffi::SQLITE_OK => Ok(copied),
        code => Err(Sqlite3Error::code(code)),
    }
}

fn length(bytes: &[u8]) -> Result<c_int, Sqlite3Error> {
    c_int::try_from(bytes.len()).map_err(|_| Sqlite3Error::too_big())
}

fn c_string(name: &str) -> Result<CString, Sqlite3Error> {
    CString::new(name).map_err(|_| SqliteError::invalid("a name holds a NUL byte").into())
}
