//! What SQLite calls back for: listeners to changes and commits, what the authorizer denies, and the gate of
//! the app whose file a commit goes to.
//!
//! Invariant: a listener is called on the thread that works on the connection, under its lock, so it must
//! be quick and must not use the connection; one that answers `false` is called no more.

use super::open::refuse_attached;
use super::raw::{self, RawStmt};
use super::session::CommitPass;
use super::Sqlite3Error;
use crate::registry::{self, FileId};
use crate::{SqliteError, Value};
use macula_core::Gate;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// A commit went into the log, which now has so many pages; only to listeners that asked for it.
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

/// What a listener hears of beside changes, commits and rollbacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wants {
    /// [`Event::Row`], which costs all that changes rows something.
    pub rows: bool,
    /// [`Event::Log`].
    pub log: bool,
}

struct Listening {
    id: u64,
    wants: Wants,
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
    /// So is the one for the log, which checkpoints it from so many pages on, as SQLite's own did before.
    log_hook: Option<c_int>,
}

/// What the authorizer looks at.
#[derive(Default)]
struct Policy {
    /// A bit for each of SQLite's action codes.
    denied: AtomicU64,
    file: Option<FileId>,
    /// Why the last file may not be attached.
    objection: Mutex<Option<SqliteError>>,
    /// There may be a statement that attaches what it is bound to.
    attaches_unnamed: AtomicBool,
    /// What is attached must be known now.
    must_name: AtomicBool,
}

impl Hooks {
    pub(super) fn install(db: &mut rusqlite::Connection, file: Option<FileId>) -> Result<Self, Sqlite3Error> {
        let hooks = Self {
            listeners: Arc::default(),
            policy: Arc::new(Policy { file, ..Policy::default() }),
            gate: Arc::default(),
            pass: Arc::default(),
            row_hook: false,
            log_hook: None,
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
        self.listeners.lock().iter().any(|listening| listening.wants.rows)
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

    /// Nothing is told any more: `sqlite3_close` frees what rusqlite's hooks are called with before it rolls
    /// back what is open, and calls them for that.
    pub(super) fn detach(&self, db: &rusqlite::Connection) {
        // SAFETY: an open handle under its lock; no function, and nothing that it would be called with
        unsafe {
            ffi::sqlite3_rollback_hook(db.handle(), None, null_mut());
            ffi::sqlite3_commit_hook(db.handle(), None, null_mut());
            ffi::sqlite3_update_hook(db.handle(), None, null_mut());
            ffi::sqlite3_wal_hook(db.handle(), None, null_mut());
        }
    }

    /// Run a statement of ours, whatever is denied to the caller's.
    pub(super) fn unhindered<T>(&self, act: impl FnOnce() -> T) -> T {
        let denied = self.policy.denied.swap(0, Ordering::Relaxed);
        let done = act();
        self.policy.denied.store(denied, Ordering::Relaxed);
        done
    }

    /// Why a statement could not be prepared, in our words if it was we who refused it.
    pub(super) fn explain(&self, error: Sqlite3Error) -> Sqlite3Error {
        match &error {
            Sqlite3Error::Sqlite(failure) if failure.code & 0xff == ffi::SQLITE_AUTH => {
                self.policy.objection.lock().take().map_or(error, Sqlite3Error::from)
            }
            _ => error,
        }
    }

    /// Look at the file that an `ATTACH` is about to open, if it was not known when that was prepared.
    pub(super) fn before_attach(&self, raw: &RawStmt) -> Result<(), Sqlite3Error> {
        if !self.policy.attaches_unnamed.load(Ordering::Relaxed) || !raw.attaches() {
            return Ok(());
        }
        self.policy.must_name.store(true, Ordering::Relaxed);
        let named = raw.with_values().and_then(|sql| raw::prepare(raw.db(), sql.as_bytes(), false));
        self.policy.must_name.store(false, Ordering::Relaxed);
        named.map(|_| ()).map_err(|error| self.explain(error))
    }

    fn authorize(&self, db: &rusqlite::Connection) {
        let policy = Arc::as_ptr(&self.policy).cast_mut().cast::<c_void>();
        // SAFETY: an open handle under its lock; the policy lives in the session, beside the handle, which is
        // closed before any hook could be called without it. Prepared statements are prepared again.
        unsafe { ffi::sqlite3_set_authorizer(db.handle(), Some(judge), policy) };
    }
}

impl super::Session {
    /// Call `listener` for every change, commit and rollback from now on. Returns what
    /// [`super::Session::unlisten`] takes.
    pub fn listen(&mut self, listener: impl FnMut(Event<'_>) -> bool + Send + 'static) -> Result<u64, Sqlite3Error> {
        self.listen_as(Wants::default(), |_| listener)
    }

    /// As [`super::Session::listen`], with a listener that knows what it returns, also for what it `wants`.
    pub fn listen_as<L: FnMut(Event<'_>) -> bool + Send + 'static>(
        &mut self,
        wants: Wants,
        listener: impl FnOnce(u64) -> L,
    ) -> Result<u64, Sqlite3Error> {
        if wants.rows && !self.recorders.is_empty() {
            return Err(super::record::one_hook());
        }
        let id = LISTENERS.fetch_add(1, Ordering::Relaxed);
        self.hooks.listeners.lock().push(Listening { id, wants, listener: Box::new(listener(id)) });
        self.settle_row_hook();
        let settled = self.settle_log_hook();
        let (changes, rollbacks) = (self.hooks.listeners.clone(), self.hooks.listeners.clone());
        let changed = move |action: rusqlite::hooks::Action, database: &str, table: &str, rowid| {
            let action = Action::of(action as c_int);
            tell(&changes, Event::Changed(Change { action, database, table, rowid }));
        };
        let db = self.db();
        let installed = settled.and_then(|()| db.update_hook(Some(changed)));
        let installed = installed.and_then(|()| db.rollback_hook(Some(move || tell(&rollbacks, Event::Rollback))));
        installed.map(|()| id).map_err(|error| crate::error::classify(error).into())
    }

    /// Call that listener no more.
    pub fn unlisten(&mut self, id: u64) {
        self.hooks.listeners.lock().retain(|listening| listening.id != id);
        self.settle_row_hook();
        // a hook without a listener is harmless
        let _ = self.settle_log_hook();
    }

    /// Set the hook for the log while somebody hears of it. SQLite's own checkpoints are that hook, too: they
    /// go on by ours as they were set, and are SQLite's again after it.
    fn settle_log_hook(&mut self) -> rusqlite::Result<()> {
        let wanted = self.hooks.listeners.lock().iter().any(|listening| listening.wants.log);
        match (wanted, self.hooks.log_hook) {
            (true, None) => {
                let pages = self.db.query_row("PRAGMA wal_autocheckpoint", [], |row| row.get(0));
                self.set_log_hook(pages.unwrap_or(LOG_PAGES_MAX))
            }
            (false, Some(pages)) => {
                self.hooks.log_hook = None;
                // SAFETY: an open handle under its lock; a plain setting
                unsafe { ffi::sqlite3_wal_autocheckpoint(self.handle(), pages) };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_log_hook(&mut self, pages_max: c_int) -> rusqlite::Result<()> {
        let listeners = self.hooks.listeners.clone();
        let log = move |wal: &mut rusqlite::hooks::Wal, pages: c_int| {
            tell(&listeners, Event::Log { database: &wal.name().to_string_lossy(), pages: pages.unsigned_abs() });
            if pages_max > 0 && pages >= pages_max {
                wal.checkpoint()
            } else {
                Ok(())
            }
        };
        self.hooks.log_hook = Some(pages_max);
        self.db.wal_hook(Some(log))
    }

    /// The log is checkpointed by somebody else from now on.
    pub(super) fn leave_checkpoints_to_app(&mut self) -> rusqlite::Result<()> {
        // SAFETY: an open handle under its lock; a plain setting, which takes the hook away
        unsafe { ffi::sqlite3_wal_autocheckpoint(self.handle(), 0) };
        if self.hooks.log_hook.is_some() {
            self.set_log_hook(0)?;
        }
        Ok(())
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
    listeners.lock().retain_mut(|listening| !listening.wants.rows || (listening.listener)(event));
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
const LOG_PAGES_MAX: c_int = 1_000;

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
    let denied = denied || (action == ffi::SQLITE_PRAGMA && policy.is_apps_business(name, value));
    if denied {
        *policy.objection.lock() = None;
    }
    if denied || (action == ffi::SQLITE_ATTACH && policy.objects_to_file(name)) {
        ffi::SQLITE_DENY
    } else {
        ffi::SQLITE_OK
    }
}

impl Policy {
    /// Of an `ATTACH`; what it names by an expression is null, and looked at when it is known.
    fn objects_to_file(&self, name: *const c_char) -> bool {
        if name.is_null() {
            self.attaches_unnamed.store(true, Ordering::Relaxed);
            return self.must_name.load(Ordering::Relaxed);
        }
        // SAFETY: SQLite passes NUL-terminated text
        let objection = refuse_attached(&unsafe { CStr::from_ptr(name) }.to_string_lossy()).err();
        let objects = objection.is_some();
        *self.objection.lock() = objection;
        objects
    }

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
