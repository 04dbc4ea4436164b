//! What the lock of a connection guards: the database handle, its statements, and the app's turn while a
//! transaction of it writes.
//!
//! Invariant: a statement that may write to a file which is open as an app's database is stepped only while
//! the turn is held; the turn is held exactly from then until no write transaction is open.

use super::blob::RawBlob;
use super::commit::Collecting;
use super::copy::RawCopy;
use super::hooks::Hooks;
use super::open::Opened;
use super::raw::{self, Code, RawStmt};
use super::record::RawRecorder;
use super::{Conn, Lend, Sqlite3Error, Stmt, StmtInfo, Turn};
use crate::bridge::Crossing;
use crate::database::Shared;
use crate::registry::{self, FileId};
use crate::request::{Patience, Reply};
use crate::watch::{Watch, STEPS};
use crate::writer::Job;
use crate::{Cell, Failure, SqliteError};
use macula_core::{Cancel, Clock};
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Longer than any holder of the turn may keep it idle.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// What a slow step of a read takes ahead: rows, and bytes.
const AHEAD_ROWS: usize = 50;
const AHEAD_BYTES: u64 = 64 << 10;

/// Statements that a connection keeps for who prepares them again.
const KEPT_MAX: usize = 64;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A row is there.
    Row,
    /// The statement is done, and reset.
    Done,
    /// Another connection holds a lock; the statement is reset.
    Busy,
}

/// What a call left, to be read without the lock.
#[derive(Clone, Default)]
pub(super) struct Facts(Arc<Numbers>);

#[derive(Default)]
struct Numbers {
    changes: AtomicU64,
    last_insert_rowid: AtomicI64,
    in_transaction: AtomicBool,
    finished_ns: AtomicU64,
    failed: Mutex<Option<Failure>>,
}

impl Facts {
    pub(super) fn read(&self) -> (u64, i64, bool) {
        let numbers = &self.0;
        let rowid = numbers.last_insert_rowid.load(Ordering::Acquire);
        (numbers.changes.load(Ordering::Acquire), rowid, numbers.in_transaction.load(Ordering::Acquire))
    }

    pub(super) fn note(&self, failure: Failure) {
        *self.0.failed.lock() = Some(failure);
    }

    pub(super) fn last_failure(&self) -> Option<Failure> {
        self.0.failed.lock().clone()
    }

    /// When the last call ended, on the monotonic clock.
    pub(super) fn finished(&self) -> Duration {
        Duration::from_nanos(self.0.finished_ns.load(Ordering::Acquire))
    }
}

/// An open database handle with its statements.
pub struct Session {
    // dropped in this order: what is open on a database before it, its transaction before the turn
    stmts: HashMap<u64, RawStmt>,
    /// Statements to be kept once nobody has them any more, with their SQL.
    lent: HashMap<u64, Arc<str>>,
    /// Those that nobody has; the one that was used last is last.
    kept: VecDeque<(Arc<str>, RawStmt)>,
    pub(super) blobs: HashMap<u64, RawBlob>,
    pub(super) copies: HashMap<u64, RawCopy>,
    pub(super) recorders: HashMap<u64, RawRecorder>,
    _crossing: Option<Crossing>,
    pub(super) db: rusqlite::Connection,
    pub(super) hooks: Hooks,
    pub(super) collecting: Collecting,
    pub(super) turn: Option<(Turn, Arc<Shared>)>,
    file: Option<FileId>,
    /// Set once the app's database that this file was is closed: by a restore it is another file.
    app_closed: Option<Arc<AtomicBool>>,
    facts: Facts,
    patience: Patience,
    undone: Option<Sqlite3Error>,
    clock: Arc<dyn Clock>,
    watch: Arc<Watch>,
    conn: Weak<Conn>,
}

impl Session {
    pub(super) fn new(opened: Opened, watch: Arc<Watch>, clock: Arc<dyn Clock>) -> Result<Self, Sqlite3Error> {
        let classify = |error| Sqlite3Error::from(crate::error::classify(error));
        let Opened { mut db, crossing } = opened;
        let (stop, retry) = (watch.clone(), watch.clone());
        db.progress_handler(STEPS, Some(move || stop.must_stop())).map_err(classify)?;
        db.busy_handler(Some(move |tries| retry.must_retry_lock(tries))).map_err(classify)?;
        let file = db.path().filter(|path| !path.is_empty()).and_then(registry::file_id);
        let hooks = Hooks::install(&mut db, file)?;
        let app_closed = file.and_then(registry::find).map(|app| app.closing.clone());
        let mut session = Self {
            stmts: HashMap::new(),
            lent: HashMap::new(),
            kept: VecDeque::new(),
            blobs: HashMap::new(),
            copies: HashMap::new(),
            recorders: HashMap::new(),
            _crossing: crossing,
            db,
            hooks,
            collecting: Collecting::default(),
            turn: None,
            file,
            app_closed,
            facts: Facts::default(),
            patience: Patience::default(),
            undone: None,
            clock,
            conn: Weak::new(),
            watch,
        };
        session.leave_checkpoints()?;
        Ok(session)
    }

    pub(super) fn set_conn(&mut self, conn: Weak<Conn>) {
        self.conn = conn;
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// The handle, for SQLite's own functions.
    pub(super) fn handle(&self) -> *mut ffi::sqlite3 {
        // SAFETY: used under the lock that guards this session, for as long as it lives
        unsafe { self.db.handle() }
    }

    pub(super) fn db(&mut self) -> &mut rusqlite::Connection {
        &mut self.db
    }

    pub(super) fn hooks_and_db(&self) -> (&Hooks, &rusqlite::Connection) {
        (&self.hooks, &self.db)
    }

    pub(super) fn is_app_file(&self) -> bool {
        self.file.and_then(registry::find).is_some()
    }

    /// A job begins.
    pub(super) fn begin(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Give the turn back if nothing is being written, and tell what was done. At the end of a job, and
    /// before its caller is answered, who may ask at once.
    pub fn finish(&mut self) {
        // that the log is gone was told to who committed, or poisons who comes next
        let _ = self.settle_commit();
        // a listener to rows may be gone since
        self.settle_row_hook();
        if !self.is_writing() {
            self.turn = None;
        }
        let numbers = &self.facts.0;
        numbers.changes.store(self.db.changes(), Ordering::Release);
        numbers.last_insert_rowid.store(self.db.last_insert_rowid(), Ordering::Release);
        numbers.in_transaction.store(!self.db.is_autocommit(), Ordering::Release);
        numbers.finished_ns.store(self.clock.monotonic().as_nanos() as u64, Ordering::Release);
    }

    /// `Closed` when the app whose file it is was closed, or restored: what is written there now is lost.
    fn still_apps(&self) -> Result<(), Sqlite3Error> {
        match &self.app_closed {
            Some(closed) if closed.load(Ordering::Acquire) => Err(Sqlite3Error::Closed),
            _ => Ok(()),
        }
    }

    /// Why a call failed, for [`Conn::last_failure`].
    pub fn note(&self, error: &Sqlite3Error) {
        self.facts.note(error.failure());
    }

    /// Prepare the first statement of `sql`.
    pub fn prepare(&mut self, sql: &str) -> Result<Stmt, Sqlite3Error> {
        self.still_apps()?;
        refuse_nul(sql)?;
        let conn = self.conn()?;
        let (raw, _) = self.prepare_raw(sql.as_bytes(), true)?;
        let id = conn.next_stmt();
        let info = raw.as_ref().map_or_else(StmtInfo::default, |raw| StmtInfo::of(raw, sql));
        self.stmts.extend(raw.map(|raw| (id, raw)));
        Ok(Stmt::new(conn, id, info))
    }

    fn prepare_raw(&self, sql: &[u8], keep: bool) -> Result<(Option<RawStmt>, usize), Sqlite3Error> {
        raw::prepare(self.handle(), sql, keep).map_err(|error| self.hooks.explain(error))
    }

    /// As [`Session::prepare`], by taking the one that was released last; released, this one is kept, too.
    pub fn prepare_cached(&mut self, sql: &str) -> Result<Stmt, Sqlite3Error> {
        let kept = self.kept.iter().rposition(|(text, _)| &**text == sql).and_then(|at| self.kept.remove(at));
        let Some((sql, raw)) = kept else {
            let stmt = self.prepare(sql)?;
            self.lent.insert(stmt.id(), sql.into());
            return Ok(stmt);
        };
        let conn = self.conn()?;
        let id = conn.next_stmt();
        // anew: its last use may have seen that the schema changed
        let info = StmtInfo::of(&raw, &sql);
        self.stmts.insert(id, raw);
        self.lent.insert(id, sql);
        Ok(Stmt::new(conn, id, info))
    }

    /// Run all statements of `sql`; rows are left out. The first failure ends it.
    pub fn execute(&mut self, sql: &str) -> Result<(), Sqlite3Error> {
        refuse_nul(sql)?;
        // one at its end keeps SQLite from copying what is left for each statement
        let text = [sql.as_bytes(), &[0]].concat();
        let mut rest = &*text;
        loop {
            let (raw, used) = self.prepare_raw(rest, false)?;
            rest = &rest[used..];
            let Some(raw) = raw else {
                match used {
                    0 => break,
                    _ => continue,
                }
            };
            self.before_step(&raw)?;
            loop {
                match self.step_once(&raw)? {
                    Code::Row => {}
                    Code::Done => break,
                    Code::Busy | Code::Failed => return Err(Sqlite3Error::last(raw.db())),
                }
            }
        }
        Ok(())
    }

    /// Step a statement once, after what was bound since.
    pub fn step(&mut self, stmt: &Stmt) -> Result<Step, Sqlite3Error> {
        self.settle_or_fail(stmt)?;
        let Some(raw) = self.stmts.remove(&stmt.id()) else { return Err(Sqlite3Error::NoStatement) };
        // taken out, so that taking the turn may use all of the session
        let stepped = match self.before_step(&raw) {
            Ok(()) => self.step_raw(&raw),
            Err(error) if error.is_busy() => {
                self.note(&error);
                Ok(Step::Busy)
            }
            Err(error) => Err(error),
        };
        self.stmts.insert(stmt.id(), raw);
        stepped
    }

    /// As [`Session::step`] where nothing may wait: `None` when it must be done on a thread of ours.
    pub fn step_hot(&mut self, stmt: &Stmt) -> Option<Step> {
        if !stmt.info().reads
            || self.undone.is_some()
            || self.still_apps().is_err()
            || self.settle_or_fail(stmt).is_err()
        {
            return None;
        }
        let raw = self.stmts.get(&stmt.id())?;
        if raw.is_under_way() {
            return None;
        }
        let code = raw.step();
        if crate::syscalls::was_refused() {
            // also where SQLite made an answer of it
            raw.reset();
            return None;
        }
        match code {
            Code::Row => Some(Step::Row),
            Code::Done => {
                raw.reset();
                Some(Step::Done)
            }
            // it only reads: begun again where it may wait, it answers for itself
            Code::Busy | Code::Failed => {
                raw.reset();
                None
            }
        }
    }

    fn step_raw(&mut self, raw: &RawStmt) -> Result<Step, Sqlite3Error> {
        let stepped = match self.step_once(raw) {
            Ok(Code::Row) => return Ok(Step::Row),
            Ok(Code::Done) => Ok(Step::Done),
            Ok(Code::Busy | Code::Failed) => {
                self.note(&Sqlite3Error::last(raw.db()));
                Ok(Step::Busy)
            }
            Err(error) => Err(error),
        };
        raw.reset();
        stepped
    }

    /// The row that the last step of it gave.
    pub fn row<'a>(&'a self, stmt: &Stmt) -> impl DoubleEndedIterator<Item = Cell<'a>> + 'a {
        let raw = self.stmts.get(&stmt.id());
        (0..raw.map_or(0, RawStmt::width)).map(move |index| raw.map_or(Cell::Null, |raw| raw.cell(index)))
    }

    /// After a step that gave a row: take some more of a read ahead, for [`Stmt::take_ahead`].
    pub fn read_ahead(&mut self, stmt: &Stmt) {
        if !stmt.info().reads {
            return;
        }
        let run = stmt.pending.lock().run;
        let mut bytes = 0;
        let mut ahead = Vec::new();
        let mut then = None;
        while ahead.len() < AHEAD_ROWS && bytes < AHEAD_BYTES {
            match self.step(stmt) {
                Ok(Step::Row) => {
                    let row: Vec<_> = self.row(stmt).map(Cell::to_value).collect();
                    bytes += row.iter().map(|value| value.as_cell().size()).sum::<u64>();
                    ahead.push(row);
                }
                over => {
                    then = Some(over);
                    break;
                }
            }
        }
        let mut pending = stmt.pending.lock();
        if pending.run != run {
            // another process began it anew meanwhile
            pending.reset = true;
            return;
        }
        pending.ahead = ahead.into();
        pending.then = then;
        pending.interrupts = stmt.conn().interrupts();
    }

    /// Reset and bind what was asked for since; `None` when that failed or there is no such statement.
    pub(super) fn settle(&mut self, stmt: &Stmt) -> Option<()> {
        self.settle_or_fail(stmt).ok()
    }

    fn settle_or_fail(&mut self, stmt: &Stmt) -> Result<(), Sqlite3Error> {
        let Some(raw) = self.stmts.get(&stmt.id()) else { return Err(Sqlite3Error::NoStatement) };
        let mut pending = stmt.pending.lock();
        if std::mem::take(&mut pending.reset) {
            self.reset(raw);
        }
        if std::mem::take(&mut pending.clear) {
            raw.clear();
        }
        std::mem::take(&mut pending.params).iter().try_for_each(|(index, value)| raw.bind(*index, value))
    }

    /// Of a statement or a recorder, or of a blob that could not be closed otherwise.
    pub(super) fn release(&mut self, id: u64) {
        let raw = self.stmts.remove(&id);
        let _ = raw.as_ref().is_some_and(|raw| self.reset(raw));
        if let (Some(sql), Some(raw)) = (self.lent.remove(&id), raw) {
            raw.clear();
            self.kept.push_back((sql, raw));
            if self.kept.len() > KEPT_MAX {
                self.kept.pop_front();
            }
        }
        let _ = self.blobs.remove(&id).is_some_and(|blob| self.drop_blob(blob));
        self.recorders.remove(&id);
    }

    /// Reset a statement of [`Session::commits_when_released`], where a commit may wait.
    pub(super) fn reset_writing(&mut self, id: u64) {
        if let Some(raw) = self.stmts.get(&id).filter(|_| self.commits_when_released(id)) {
            self.reset(raw);
        }
    }

    /// A statement that writes and still has rows to give: its changes are committed when it goes.
    pub(super) fn commits_when_released(&self, id: u64) -> bool {
        self.blobs.contains_key(&id) || self.stmts.get(&id).is_some_and(|raw| raw.is_under_way() && !raw.is_readonly())
    }

    pub(super) fn conn(&self) -> Result<Arc<Conn>, Sqlite3Error> {
        self.conn.upgrade().ok_or(Sqlite3Error::Closed)
    }

    /// That the turn was taken back since the last call, once, and that the app is not closed.
    pub(super) fn check_undone(&mut self) -> Result<(), Sqlite3Error> {
        self.undone.take().map_or(Ok(()), Err)?;
        self.still_apps()
    }

    /// Roll back, and tell so at the next call: the turn was taken back.
    pub(super) fn undo(&mut self, why: &'static str) {
        if self.turn.is_none() {
            return;
        }
        let alone = self.db.is_autocommit();
        // a statement by itself has made its changes before it gave its first row: this commits them. In a
        // transaction it is reset first, too: one that was interrupted has SQLite stop the ROLLBACK as well
        let reset = self.reset_all();
        if !alone {
            // it can only fail by being rolled back already
            let _ = self.hooks.unhindered(|| self.db.execute_batch("ROLLBACK"));
        }
        let committed = self.settle_commit().is_ok() && reset;
        if !self.is_writing() {
            self.turn = None;
        }
        self.undone = Some(if alone && committed { Sqlite3Error::Ended(why) } else { Sqlite3Error::Undone(why) });
    }

    /// Have the statements that have rows left fail at their next step, as SQLite does.
    pub(super) fn interrupt(&self) {
        if self.stmts.values().any(RawStmt::is_under_way) {
            // SAFETY: an open handle under its lock
            unsafe { ffi::sqlite3_interrupt(self.handle()) };
        }
    }

    /// Whether all that this commits is committed.
    fn reset_all(&mut self) -> bool {
        let mut done = true;
        for raw in self.stmts.values() {
            done &= self.reset(raw);
        }
        for blob in std::mem::take(&mut self.blobs).into_values() {
            done &= self.drop_blob(blob);
        }
        done
    }

    fn before_step(&mut self, raw: &RawStmt) -> Result<(), Sqlite3Error> {
        self.check_undone()?;
        self.hooks.before_attach(raw)?;
        if raw.is_readonly() || raw.is_under_way() {
            return Ok(());
        }
        self.before_write()
    }

    /// What comes writes: not before it is our turn.
    pub(super) fn before_write(&mut self) -> Result<(), Sqlite3Error> {
        self.check_undone()?;
        if self.turn.is_some() {
            return Ok(());
        }
        match self.file.and_then(registry::find) {
            Some(app) => self.take_turn(app),
            // asked once more: it may have been closed since, and what is written without its turn is lost
            None => self.still_apps(),
        }
    }

    fn take_turn(&mut self, app: Arc<Shared>) -> Result<(), Sqlite3Error> {
        if let Some(error) = app.poisoned() {
            return Err(error.into());
        }
        let stop = Cancel::new();
        self.watch.wait_with(stop.clone());
        let until = self.clock.monotonic().saturating_add(TURN_WAIT);
        let patience = self.patience.clone().until(until).also(stop.clone());
        let borrower = self.conn.clone();
        let turn = crate::database::wait(|reply| {
            let lend = Lend { patience, reply: Reply::new(reply), borrower };
            app.writes.push(Job::Lend(lend)).map(|_| ())
        });
        match turn {
            // interrupted as it came: given back
            Ok(_) if stop.is_cancelled() => Err(Sqlite3Error::Cancelled),
            Ok(turn) => {
                self.hooks.pass_at(&app.gate);
                // opened before the app was
                self.app_closed = Some(app.closing.clone());
                self.leave_checkpoints()?;
                self.collect(&app);
                self.turn = Some((turn, app));
                Ok(())
            }
            Err(SqliteError::Timeout(_)) => Err(Sqlite3Error::code(ffi::SQLITE_BUSY)),
            Err(SqliteError::Cancelled) => Err(Sqlite3Error::Cancelled),
            Err(error) => Err(error.into()),
        }
    }

    /// An app's log is checkpointed by its own writer only.
    fn leave_checkpoints(&mut self) -> Result<(), Sqlite3Error> {
        if self.is_app_file() {
            self.leave_checkpoints_to_app().map_err(crate::error::classify)?;
            // SAFETY: an open handle under its lock; a setting with its value
            unsafe {
                let on: std::ffi::c_int = 1;
                let no_place: *mut std::ffi::c_int = std::ptr::null_mut();
                ffi::sqlite3_db_config(self.handle(), ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, on, no_place);
            }
        }
        Ok(())
    }

    /// The whole database as bytes.
    pub fn serialize(&mut self, database: &CStr) -> Result<Vec<u8>, Sqlite3Error> {
        let classify = |error| Sqlite3Error::from(crate::error::classify(error));
        self.db.serialize(database).map(|data| data.to_vec()).map_err(classify)
    }

    /// Put these bytes in place of the database, in memory.
    pub fn deserialize(&mut self, database: &CStr, bytes: Vec<u8>) -> Result<(), Sqlite3Error> {
        let classify = |error| Sqlite3Error::from(crate::error::classify(error));
        let len = bytes.len();
        self.db.deserialize_read_exact(database, bytes.as_slice(), len, false).map_err(classify)
    }

    /// Let SQL and C code of extensions in, or not.
    pub fn enable_load_extension(&mut self, on: bool) -> Result<(), Sqlite3Error> {
        // SAFETY: an open handle under its lock
        match unsafe { ffi::sqlite3_enable_load_extension(self.handle(), i32::from(on)) } {
            ffi::SQLITE_OK => Ok(()),
            _ => Err(Sqlite3Error::last(self.handle())),
        }
    }
}

/// SQLite would take it for the end.
fn refuse_nul(sql: &str) -> Result<(), Sqlite3Error> {
    match sql.contains('\0') {
        true => Err(SqliteError::invalid("SQL text holds a NUL byte").into()),
        false => Ok(()),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // of a statement by itself that has rows left, this commits what it changed
        self.reset_all();
        let _ = self.settle_commit();
        if !self.db.is_autocommit() {
            // it can only fail by being rolled back already
            let _ = self.hooks.unhindered(|| self.db.execute_batch("ROLLBACK"));
        }
        self.hooks.detach(&self.db);
    }
}

/// The gate's pass of a commit under way, put there by a hook.
pub(super) type CommitPass = Arc<Mutex<Option<macula_core::OwnedGatePass>>>;
