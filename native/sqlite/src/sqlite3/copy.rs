//! Copies of a database while it is used, by SQLite's online backup, some pages at a time.
//!
//! Invariant: SQLite's backup object lives in the source's [`Session`], and the destination, which the copy
//! holds for all its time, is touched only under the source's lock. So it is finished before either is
//! closed, and whatever closes the source finds it there.

use super::{crew, Conn, OpenMode, Session, Sqlite3Error};
use crate::backup::Target;
use crate::{Failure, SqliteError};
use macula_core::{Progress, Task};
use rusqlite::ffi;
use std::ffi::c_int;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Pages between two moments in which others may use the source: 1 MiB of ordinary ones.
const PAGES_PER_STEP: c_int = 256;
/// What a copy waits when somebody holds a lock that SQLite does not wait for.
const PAUSE: Duration = Duration::from_millis(5);

/// Run `job`, which may wait, on a thread of the low-level floor's.
pub fn on_thread(job: impl FnOnce() + Send + 'static) -> Result<(), Sqlite3Error> {
    crew::run(job).map_err(|error| SqliteError::Internal(format!("no thread could be started: {error}")).into())
}

pub(super) struct RawCopy(NonNull<ffi::sqlite3_backup>);

// SAFETY: used and finished by whoever holds the source's lock, under which alone both handles are touched
unsafe impl Send for RawCopy {}

impl Drop for RawCopy {
    fn drop(&mut self) {
        // SAFETY: finished once. The source is open, for its session drops copies first; the destination is
        // open, for who holds it ends the copy, or sees under the source's lock that it ended, before it goes.
        // What went wrong in it was answered by a step.
        unsafe { ffi::sqlite3_backup_finish(self.0.as_ptr()) };
    }
}

/// How a step ended.
enum Stepped {
    Done,
    More,
    /// Somebody holds a lock.
    Held,
}

/// A copy under way. Dropped, it is finished: what is not complete is rolled back.
struct Copying<'c> {
    source: &'c Arc<Conn>,
    id: u64,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        // before the destination goes, also when the source is being closed
        self.source.end_copy(self.id);
    }
}

impl Conn {
    /// Copy what is committed now into a new file at `dest` and make that durable; nothing is left there on
    /// failure. Waits: on a thread of ours only.
    pub fn copy_to_file(self: &Arc<Self>, dest: &Path, task: &Task) -> Result<(), Sqlite3Error> {
        let target = Target::create_at(dest)?;
        let copied = target.connect().map_err(Sqlite3Error::from).and_then(|db| {
            // SAFETY: `db` lives until the copy is over, and nobody else has it
            let handle = unsafe { db.handle() };
            self.copy_all(handle, task)
        });
        let copied = copied.and_then(|()| target.seal().map_err(Sqlite3Error::from));
        if copied.is_err() {
            target.remove();
        }
        copied.map(|_| ())
    }

    /// As [`Conn::copy_to_file`], in the place of what a database at `dest` holds, in one transaction; others
    /// may have it open.
    pub fn copy_over_file(self: &Arc<Self>, dest: &str, task: &Task) -> Result<(), Sqlite3Error> {
        let mode = OpenMode { write: true, create: true };
        let dest = Self::open_now(dest, mode, self.clock().clone())?;
        dest.between(&task.cancel, |session| session.fill_from(self, task))
    }

    fn copy_all(self: &Arc<Self>, dest: *mut ffi::sqlite3, task: &Task) -> Result<(), Sqlite3Error> {
        let pinned = self.pinned(task)?;
        let source = pinned.as_ref().unwrap_or(self);
        let id = source.next_stmt();
        let page_bytes = source.between(&task.cancel, |session| session.begin_copy(id, dest))?;
        let copying = Copying { source, id };
        let mut held_since = None;
        loop {
            let step = |session: &mut Session| session.step_copy(copying.id);
            let (stepped, pages, left) = source.between(&task.cancel, step)?;
            match stepped {
                Stepped::Held => {
                    let now = self.clock().monotonic();
                    let since = *held_since.get_or_insert(now);
                    if now.saturating_sub(since) >= self.lock_wait() {
                        return Err(Sqlite3Error::code(ffi::SQLITE_BUSY));
                    }
                    self.clock().sleep(PAUSE);
                    continue;
                }
                Stepped::More | Stepped::Done => held_since = None,
            }
            let done = u64::from(pages - left.min(pages));
            let bytes_total = u64::from(pages) * page_bytes;
            task.report(Progress { entries_done: done, bytes_done: done * page_bytes, bytes_total });
            if matches!(stepped, Stepped::Done) {
                return Ok(());
            }
        }
    }

    /// Of a file with a log: a connection of its own that stays at one instant, so that neither this one's
    /// calls nor anybody's writes are in the way. Of others `None`: a copy begins anew when others write.
    fn pinned(self: &Arc<Self>, task: &Task) -> Result<Option<Arc<Self>>, Sqlite3Error> {
        let path = self.between(&task.cancel, |session| Ok(session.db().path().map(str::to_owned)))?;
        let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
        let mode = OpenMode { write: false, create: false };
        // what cannot be opened once more is read through the connection that is there
        let Ok(pinned) = Self::open_now(&path, mode, self.clock().clone()) else { return Ok(None) };
        let is_logged = pinned.between(&task.cancel, |session| {
            let mode = session.db().query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
            if mode.map_err(crate::error::classify)? != "wal" {
                return Ok(false);
            }
            // any read takes the snapshot; this one touches the first page only
            session.execute("BEGIN; PRAGMA schema_version").map(|()| true)
        });
        match is_logged {
            Err(Sqlite3Error::Cancelled) => Err(Sqlite3Error::Cancelled),
            is_logged => Ok(is_logged.unwrap_or(false).then_some(pinned)),
        }
    }
}

impl Session {
    /// Put what the database at `path` holds in the place of this one's, in one transaction.
    pub fn restore(&mut self, path: &str, task: &Task) -> Result<(), Sqlite3Error> {
        let mode = OpenMode { write: false, create: false };
        let source = Conn::open_now(path, mode, self.conn()?.clock().clone())?;
        self.fill_from(&source, task)
    }

    /// As [`Session::restore`], from another connection. Waits for that one's jobs.
    pub fn fill_from(&mut self, source: &Arc<Conn>, task: &Task) -> Result<(), Sqlite3Error> {
        let conn = self.conn()?;
        let refused = |code, message: &str| {
            Err(Sqlite3Error::Sqlite(Failure { code, message: message.to_owned(), offset: None }))
        };
        if Arc::ptr_eq(source, &conn) {
            return refused(ffi::SQLITE_MISUSE, "a database cannot be copied into itself");
        }
        if self.is_app_file() {
            let message = "not authorized: the file is open as an app's database; restore the app, or write rows";
            return refused(ffi::SQLITE_AUTH, message);
        }
        // two that are copied into each other would wait for ever
        if !self.copies.is_empty() {
            return Err(Sqlite3Error::code(ffi::SQLITE_BUSY));
        }
        conn.is_replaced.store(true, Ordering::Release);
        let copied = source.copy_all(self.handle(), task);
        conn.is_replaced.store(false, Ordering::Release);
        copied
    }

    /// Begin a copy into `dest`, which its holder keeps open until the copy is gone from this session. The
    /// bytes of a page.
    fn begin_copy(&mut self, id: u64, dest: *mut ffi::sqlite3) -> Result<u64, Sqlite3Error> {
        let main = c"main".as_ptr();
        // SAFETY: both handles are open: this one under its lock, the other as its holder promises
        let raw = unsafe { ffi::sqlite3_backup_init(dest, main, self.handle(), main) };
        // SAFETY: as above; the words about a failure are the destination's
        let raw = NonNull::new(raw).ok_or_else(|| Sqlite3Error::last(dest))?;
        self.copies.insert(id, RawCopy(raw));
        let read = self.db().query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0));
        // only for progress: a caller may have denied pragmas
        Ok(read.map_or(4096, i64::unsigned_abs))
    }

    fn step_copy(&mut self, id: u64) -> Result<(Stepped, u32, u32), Sqlite3Error> {
        let Some(copy) = self.copies.get(&id) else { return Err(Sqlite3Error::Closed) };
        let raw = copy.0.as_ptr();
        // SAFETY: a live backup; its source's lock is held, and who holds its destination waits for this call
        let (code, pages, left) = unsafe {
            let code = ffi::sqlite3_backup_step(raw, PAGES_PER_STEP);
            (code, ffi::sqlite3_backup_pagecount(raw), ffi::sqlite3_backup_remaining(raw))
        };
        let stepped = match code & 0xff {
            ffi::SQLITE_OK => Stepped::More,
            ffi::SQLITE_DONE => Stepped::Done,
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Stepped::Held,
            _ => return Err(Sqlite3Error::code(code)),
        };
        Ok((stepped, pages.unsigned_abs(), left.unsigned_abs()))
    }
}
