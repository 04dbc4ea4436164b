//! What SQLite calls back for: listeners to changes and commits, what the authorizer denies, and the gate of
//! the app whose file a commit goes to.
//!
//! Invariant: a listener is called on the thread that works on the connection, under its lock, so it must
//! be quick and must not use the connection; one that answers `false` is called no more.

use super::session::CommitPass;
use super::Sqlite3Error;
use crate::registry::{self, FileId};
use crate::Value;
use macula_core::Gate;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// What was done to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Insert,
    /// It has other values.
    Update,
    /// It is gone.
    Delete,
}

/// A row that changed, before its transaction is committed.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What was done.
    pub action: Action,
    /// `main`, `temp` or an attached one's name.
    pub database: &'a str,
    /// The table.
    pub table: &'a str,
    /// The row.
    pub rowid: i64,
}

impl Action {
    pub(super) fn of(code: c_int) -> Self {
        match code {
            ffi::SQLITE_INSERT => Self::Insert,
            ffi::SQLITE_DELETE => Self::Delete,
            _ => Self::Update,
        }
    }
}

/// A row that is going to change.
#[derive(Debug, Clone)]
pub struct RowChange<'a> {
    /// What is done.
    pub action: Action,
    /// `main`, `temp` or an attached one's name.
    pub database: &'a str,
    /// The table.
    pub table: &'a str,
    /// Its row id before and after; a table without row ids has numbers that mean nothing.
    pub rowids: (Option<i64>, Option<i64>),
    /// Its values before, unless it is new.
    pub old: Option<Vec<Value>>,
    /// Its values after, unless it is gone, or written to through a blob handle.
    pub new: Option<Vec<Value>>,
}

/// What a listener hears.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A row is going to change; only to listeners that asked for it.
    Row(&'a RowChange<'a>),
    /// A row of an ordinary table changed.
    Changed(Change<'a>),
    /// A transaction is about to be committed.
    Commit,
    /// A transaction was rolled back.
    Rollback,
    /// A commit went into the log, which now has so many pages.
    Log {
        /// Whose log.
        database: &'a str,
        /// Its length.
        pages: u32,
    },
}

/// Called for every event; `false` ends it.
type Listener = Box<dyn FnMut(Event<'_>) -> bool + Send>;
type Listeners = Arc<Mutex<Vec<Listening>>>;

struct Listening {
    id: u64,
    /// It hears of rows before they change.
    rows: bool,
    listener: Listener,
}

/// So many were made in this process.
static LISTENERS: AtomicU64 = AtomicU64::new(1);

pub(super) struct Hooks {
    listeners: Listeners,
    policy: Arc<Policy>,
    gate: Arc<Mutex<Option<Arc<Gate>>>>,
    pass: CommitPass,
    /// The hook for rows before they change is set, and ours.
    row_hook: bool,
}

/// What the authorizer looks at.
struct Policy {
    /// A bit for each of SQLite's action codes.
    denied: AtomicU64,
    file: Option<FileId>,
}

impl Hooks {
    pub(super) fn install(db: &mut rusqlite::Connection, file: Option<FileId>) -> Result<Self, Sqlite3Error> {
        let hooks = Self {
            listeners: Arc::default(),
            policy: Arc::new(Policy { denied: AtomicU64::new(0), file }),
            gate: Arc::default(),
            pass: Arc::default(),
            row_hook: false,
        };
        let (gate, pass, listeners) = (hooks.gate.clone(), hooks.pass.clone(), hooks.listeners.clone());
        let commit = move || {
            if let Some(gate) = gate.lock().as_ref() {
                *pass.lock() = Some(gate.pass_owned());
            }
            tell(&listeners, Event::Commit);
            false
        };
        db.commit_hook(Some(commit)).map_err(|error| Sqlite3Error::from(crate::error::classify(error)))?;
        hooks.authorize(db);
        Ok(hooks)
    }

    /// Whether a listener hears of rows before they change.
    pub(super) fn tells_rows(&self) -> bool {
        self.listeners.lock().iter().any(|listening| listening.rows)
    }

    /// Commits pass this gate.
    pub(super) fn pass_at(&self, gate: &Arc<Gate>) {
        *self.gate.lock() = Some(gate.clone());
    }

    /// Whether a commit began, of which nobody has heard how it ended.
    pub(super) fn is_committing(&self) -> bool {
        self.pass.lock().is_some()
    }

    /// A commit is over, if one was under way, which is told.
    pub(super) fn end_commit(&self) -> bool {
        self.pass.lock().take().is_some()
    }

    fn authorize(&self, db: &rusqlite::Connection) {
        let policy = Arc::as_ptr(&self.policy).cast_mut().cast::<c_void>();
        // SAFETY: an open handle under its lock; the policy lives in the session, beside the handle, which is
        // closed before any hook could be called without it. Prepared statements are prepared again.
        unsafe { ffi::sqlite3_set_authorizer(db.handle(), Some(judge), policy) };
    }
}

impl super::Session {
    /// Call `listener` for every event from now on, but [`Event::Row`]. Returns what
    /// [`super::Session::unlisten`] takes.
    pub fn listen(&mut self, listener: impl FnMut(Event<'_>) -> bool + Send + 'static) -> Result<u64, Sqlite3Error> {
        self.listen_as(false, |_| listener)
    }

    /// As [`super::Session::listen`], with a listener that knows what it returns; with `rows` also for
    /// [`Event::Row`], which costs all that changes rows something.
    pub fn listen_as<L: FnMut(Event<'_>) -> bool + Send + 'static>(
        &mut self,
        rows: bool,
        listener: impl FnOnce(u64) -> L,
    ) -> Result<u64, Sqlite3Error> {
        if rows && !self.recorders.is_empty() {
            return Err(super::record::one_hook());
        }
        let id = LISTENERS.fetch_add(1, Ordering::Relaxed);
        self.hooks.listeners.lock().push(Listening { id, rows, listener: Box::new(listener(id)) });
        self.settle_row_hook();
        let listeners = || self.hooks.listeners.clone();
        let (changes, rollbacks, logs) = (listeners(), listeners(), listeners());
        let log = move |wal: &mut rusqlite::hooks::Wal, pages: c_int| {
            let pages = pages.unsigned_abs();
            tell(&logs, Event::Log { database: &wal.name().to_string_lossy(), pages });
            // SQLite's own checkpoints are a hook too, which this one takes the place of
            if pages >= LOG_PAGES_MAX {
                wal.checkpoint()
            } else {
                Ok(())
            }
        };
        let app_is_open = self.is_app_file();
        let db = self.db();
        let changed = move |action: rusqlite::hooks::Action, database: &str, table: &str, rowid| {
            let action = Action::of(action as c_int);
            tell(&changes, Event::Changed(Change { action, database, table, rowid }));
        };
        let installed = db.update_hook(Some(changed));
        let installed = installed.and_then(|()| db.rollback_hook(Some(move || tell(&rollbacks, Event::Rollback))));
        let installed = installed.and_then(|()| if app_is_open { Ok(()) } else { db.wal_hook(Some(log)) });
        installed.map(|()| id).map_err(|error| crate::error::classify(error).into())
    }

    /// Call that listener no more.
    pub fn unlisten(&mut self, id: u64) {
        self.hooks.listeners.lock().retain(|listening| listening.id != id);
        self.settle_row_hook();
    }

    /// Set the hook for rows when somebody hears of them, and only then: it makes SQLite look at each row
    /// that `DELETE FROM t` removes.
    pub(super) fn settle_row_hook(&mut self) {
        let wanted = self.hooks.tells_rows();
        if wanted == self.hooks.row_hook {
            return;
        }
        let listeners = Arc::as_ptr(&self.hooks.listeners).cast_mut().cast::<c_void>();
        let (hook, context): (RowHook, _) = if wanted { (Some(row_changes), listeners) } else { (None, null_mut()) };
        // SAFETY: an open handle under its lock. The listeners live in the session, beside the handle, which is
        // closed before they go. No recorder is there, whose hook this would replace: neither lets the other in.
        unsafe { ffi::sqlite3_preupdate_hook(self.handle(), hook, context) };
        self.hooks.row_hook = wanted;
        self.authorize_again();
    }

    /// Have statements that are there prepared again.
    pub(super) fn authorize_again(&self) {
        let (hooks, db) = self.hooks_and_db();
        hooks.authorize(db);
    }

    /// Deny these of SQLite's actions, by their codes, to statements prepared from now on; none: all are
    /// allowed again. Statements that are there are prepared again.
    pub fn deny(&mut self, codes: impl IntoIterator<Item = u32>) {
        let bits = codes.into_iter().filter(|code| *code < 64).fold(0, |bits, code| bits | 1 << code);
        self.hooks.policy.denied.store(bits, Ordering::Relaxed);
        self.authorize_again();
    }
}

type RowHook =
    Option<unsafe extern "C" fn(*mut c_void, *mut ffi::sqlite3, c_int, *const c_char, *const c_char, i64, i64)>;

unsafe extern "C" fn row_changes(
    listeners: *mut c_void,
    db: *mut ffi::sqlite3,
    code: c_int,
    database: *const c_char,
    table: *const c_char,
    old_rowid: i64,
    new_rowid: i64,
) {
    // SAFETY: the pointer that was given with this function, see `settle_row_hook`; NUL-terminated names. The
    // hook is called with the handle whose hook it is, on the thread that works on it.
    let (listeners, database, table, through_blob) = unsafe {
        let listeners = &*listeners.cast::<Mutex<Vec<Listening>>>();
        let name = |name| CStr::from_ptr(name).to_string_lossy();
        (listeners, name(database), name(table), ffi::sqlite3_preupdate_blobwrite(db) >= 0)
    };
    // SQLite calls what a blob handle writes a removal
    let action = if through_blob { Action::Update } else { Action::of(code) };
    let (was, will_be) = (action != Action::Insert, action != Action::Delete);
    let change = RowChange {
        action,
        database: &database,
        table: &table,
        rowids: (was.then_some(old_rowid), will_be.then_some(if through_blob { old_rowid } else { new_rowid })),
        // SAFETY: inside of the hook, of a change that has this image
        old: was.then(|| unsafe { image(db, ffi::sqlite3_preupdate_old) }),
        // SAFETY: as above
        new: (will_be && !through_blob).then(|| unsafe { image(db, ffi::sqlite3_preupdate_new) }),
    };
    let event = Event::Row(&change);
    listeners.lock().retain_mut(|listening| !listening.rows || (listening.listener)(event));
}

/// `sqlite3_preupdate_old` or `sqlite3_preupdate_new`.
pub(crate) type RowImage = unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// All columns of a row.
///
/// # Safety
/// Inside of the pre-update hook of `db`, of a change that has the image which `value` gives.
pub(crate) unsafe fn image(db: *mut ffi::sqlite3, value: RowImage) -> Vec<Value> {
    let column = |index| {
        let mut found: *mut ffi::sqlite3_value = null_mut();
        // SAFETY: as the caller says; the place is ours, the value good until the hook returns
        unsafe {
            value(db, index, &raw mut found);
            value_of(found).unwrap_or(Value::Null)
        }
    };
    // SAFETY: as the caller says
    (0..unsafe { ffi::sqlite3_preupdate_count(db) }).map(column).collect()
}

/// A copy of a value; `None` of null.
///
/// # Safety
/// Null, or a protected value that lives, of a connection whose lock is held.
pub(super) unsafe fn value_of(value: *mut ffi::sqlite3_value) -> Option<Value> {
    if value.is_null() {
        return None;
    }
    let copy = |start: *const u8| {
        // SAFETY: as the caller says; the length is asked for after the bytes, which may convert them
        let len = usize::try_from(unsafe { ffi::sqlite3_value_bytes(value) }).unwrap_or(0);
        match start.is_null() {
            true => Vec::new(),
            // SAFETY: so many bytes are there until the value is used again, and copied at once
            false => unsafe { std::slice::from_raw_parts(start, len) }.to_vec(),
        }
    };
    // SAFETY: as the caller says
    Some(unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Value::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => Value::Text(copy(ffi::sqlite3_value_text(value))),
            ffi::SQLITE_BLOB => Value::Blob(copy(ffi::sqlite3_value_blob(value).cast())),
            _ => Value::Null,
        }
    })
}

/// As SQLite's own: its log is checkpointed from so many pages on.
const LOG_PAGES_MAX: u32 = 1_000;

fn tell(listeners: &Mutex<Vec<Listening>>, event: Event<'_>) {
    listeners.lock().retain_mut(|listening| (listening.listener)(event));
}

/// The code of one of SQLite's actions by its name in lower case, as exqlite's users write it.
pub fn action_code(name: &str) -> Option<u32> {
    let code = match name {
        "create_index" => ffi::SQLITE_CREATE_INDEX,
        "create_table" => ffi::SQLITE_CREATE_TABLE,
        "create_temp_index" => ffi::SQLITE_CREATE_TEMP_INDEX,
        "create_temp_table" => ffi::SQLITE_CREATE_TEMP_TABLE,
        "create_temp_trigger" => ffi::SQLITE_CREATE_TEMP_TRIGGER,
        "create_temp_view" => ffi::SQLITE_CREATE_TEMP_VIEW,
        "create_trigger" => ffi::SQLITE_CREATE_TRIGGER,
        "create_view" => ffi::SQLITE_CREATE_VIEW,
        "delete" => ffi::SQLITE_DELETE,
        "drop_index" => ffi::SQLITE_DROP_INDEX,
        "drop_table" => ffi::SQLITE_DROP_TABLE,
        "drop_temp_index" => ffi::SQLITE_DROP_TEMP_INDEX,
        "drop_temp_table" => ffi::SQLITE_DROP_TEMP_TABLE,
        "drop_temp_trigger" => ffi::SQLITE_DROP_TEMP_TRIGGER,
        "drop_temp_view" => ffi::SQLITE_DROP_TEMP_VIEW,
        "drop_trigger" => ffi::SQLITE_DROP_TRIGGER,
        "drop_view" => ffi::SQLITE_DROP_VIEW,
        "insert" => ffi::SQLITE_INSERT,
        "pragma" => ffi::SQLITE_PRAGMA,
        "read" => ffi::SQLITE_READ,
        "select" => ffi::SQLITE_SELECT,
        "transaction" => ffi::SQLITE_TRANSACTION,
        "update" => ffi::SQLITE_UPDATE,
        "attach" => ffi::SQLITE_ATTACH,
        "detach" => ffi::SQLITE_DETACH,
        "alter_table" => ffi::SQLITE_ALTER_TABLE,
        "reindex" => ffi::SQLITE_REINDEX,
        "analyze" => ffi::SQLITE_ANALYZE,
        "create_vtable" => ffi::SQLITE_CREATE_VTABLE,
        "drop_vtable" => ffi::SQLITE_DROP_VTABLE,
        "function" => ffi::SQLITE_FUNCTION,
        "savepoint" => ffi::SQLITE_SAVEPOINT,
        "recursive" => ffi::SQLITE_RECURSIVE,
        _ => return None,
    };
    u32::try_from(code).ok()
}

/// Settings of the log that are the app's own business, with whether reading them is, too.
const LOG_PRAGMAS: [(&str, bool); 4] =
    [("wal_checkpoint", true), ("wal_autocheckpoint", false), ("journal_mode", false), ("locking_mode", false)];

unsafe extern "C" fn judge(
    policy: *mut c_void,
    action: c_int,
    name: *const c_char,
    value: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    // SAFETY: the pointer that was given with this function, see `Hooks::authorize`
    let policy = unsafe { &*policy.cast::<Policy>() };
    let denied = policy.denied.load(Ordering::Relaxed) & 1u64.checked_shl(action.unsigned_abs()).unwrap_or(0) != 0;
    if denied || (action == ffi::SQLITE_PRAGMA && policy.is_apps_business(name, value)) {
        return ffi::SQLITE_DENY;
    }
    ffi::SQLITE_OK
}

impl Policy {
    fn is_apps_business(&self, name: *const c_char, value: *const c_char) -> bool {
        if name.is_null() {
            return false;
        }
        // SAFETY: SQLite passes NUL-terminated text
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let own =
            |(pragma, also_read): &(&str, bool)| pragma.eq_ignore_ascii_case(&name) && (*also_read || !value.is_null());
        LOG_PRAGMAS.iter().any(own) && self.file.and_then(registry::find).is_some()
    }
}
