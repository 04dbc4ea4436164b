//! Copies of one instant of a database, by SQLite's online backup.
//!
//! Invariant: the source connection stays inside one read transaction from `pin` to the end, so that
//! every page it gives is of the same instant, whatever is written or checkpointed meanwhile. The
//! copy is one file that needs no log; it is a new file, and `Ok` speaks of the very file that was made
//! and is still at its name, never of one that somebody put there.

use crate::connection::{Connection, Role};
use crate::database::refuse_in_the_way;
use crate::error::classify;
use crate::request::Patience;
use crate::watch::Watch;
use crate::{bridge, guard, Failure, Options, SqliteError};
use macula_core::{Cancel, Clock, Disk, DiskFile, Kind, Open, Progress, RealDisk, RelPath, Stat, SystemClock, Task};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{ffi, OpenFlags};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Pages between two looks at the cancel flag: 1 MiB of ordinary pages.
const PAGES_PER_STEP: i32 = 256;
/// Offset of the two bytes that say whether a database needs a log: 2 yes, 1 no.
/// <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
const VERSION_OFFSET: u64 = 18;

/// One instant of a database, held until dropped. While it lives the write-ahead log cannot be reused.
pub struct Pinned {
    connection: Connection,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl Pinned {
    pub(crate) fn of(
        path: &Path,
        role: Role,
        clock: &Arc<dyn Clock>,
        options: &Options,
        cancel: &Cancel,
    ) -> Result<Self, SqliteError> {
        let watch = Watch::new(clock.clone(), Arc::default(), Box::new(|_| {}));
        let connection = Connection::open(path, role, options, watch)?;
        let patience = Patience::new(&**clock, None, cancel.clone());
        connection.watch.begin(patience, options.busy_timeout);
        let pinned = connection.policy.trusted(|| {
            connection.sql.execute_batch("BEGIN")?;
            // any read takes the snapshot; this one touches the first page only, not the schema
            connection.sql.query_row("PRAGMA schema_version", [], |_| Ok(()))
        });
        pinned.map_err(|error| connection.explain(error))?;
        Ok(Self { connection, clock: clock.clone() })
    }

    /// Copy it into a new file at `dest` and make that durable. Returns its size in bytes. On failure
    /// or cancel nothing is left there.
    pub fn copy_to(&self, dest: &Path, task: &Task) -> Result<u64, SqliteError> {
        let target = Target::create(resolve_parent(dest)?)?;
        // closed again before the file is sealed
        let copied = self.copy_pages(&target, task).and_then(|()| target.seal());
        if copied.is_err() {
            target.remove();
        }
        copied
    }

    fn copy_pages(&self, dest: &Target, task: &Task) -> Result<(), SqliteError> {
        let mut target = dest.connect()?;
        let page_bytes = self.page_bytes()?;
        let backup = Backup::new(&self.connection.sql, &mut target).map_err(classify)?;
        loop {
            if task.cancel.is_cancelled() {
                return Err(SqliteError::Cancelled);
            }
            let step = backup.step(PAGES_PER_STEP).map_err(|error| self.connection.explain(error))?;
            let (total, left) = (backup.progress().pagecount, backup.progress().remaining);
            let done = u64::from((total - left).unsigned_abs());
            let bytes_total = u64::from(total.unsigned_abs()) * page_bytes;
            task.report(Progress { entries_done: done, bytes_done: done * page_bytes, bytes_total });
            match step {
                StepResult::Done => return Ok(()),
                StepResult::More => {}
                // nobody else writes the source's snapshot or the target: only a passing lock
                _ => self.clock.sleep(Duration::from_millis(1)),
            }
        }
    }

    fn page_bytes(&self) -> Result<u64, SqliteError> {
        let read = || self.connection.sql.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0));
        self.connection.policy.trusted(read).map(i64::unsigned_abs).map_err(|error| self.connection.explain(error))
    }

    /// Whether the file that was opened is the one that was `seen`. A name in another program's tree
    /// can lead elsewhere for the moment in which SQLite resolves it, so the descriptor is asked, and
    /// SQLite whether the name still stands for that descriptor.
    fn is_of(&self, path: &Path, seen: &Stat) -> io::Result<bool> {
        let mut moved: std::ffi::c_int = 0;
        // SAFETY: the handle is live for as long as the connection; the operation writes one `int`
        let code = unsafe {
            let (handle, moved) = (self.connection.sql.handle(), (&raw mut moved).cast());
            ffi::sqlite3_file_control(handle, c"main".as_ptr(), ffi::SQLITE_FCNTL_HAS_MOVED, moved)
        };
        let opened = match bridge::is_beneath(self.connection.options.vfs) {
            false => guard::opened_by_us(seen)?,
            // the host's descriptors do not tell whose they are; what is left is the inode's number, which
            // SQLite compared, on the same device
            true => guard::opened_here(seen)?,
        };
        Ok(code == ffi::SQLITE_OK && moved == 0 && guard::stands_for(path, seen)? && opened)
    }

    /// `PRAGMA integrity_check` of this instant: `Corrupt` with the first finding.
    pub fn check(&self) -> Result<(), SqliteError> {
        let sql = &self.connection.sql;
        let found = sql.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match found.map_err(|error| self.connection.explain(error))? {
            sound if sound == "ok" => Ok(()),
            message => Err(SqliteError::Corrupt(Failure { code: ffi::SQLITE_CORRUPT, message, offset: None })),
        }
    }
}

/// Copy any other SQLite database file that lies in an app's data into a new file at `dest`, as of one
/// instant. Writers of a database without a write-ahead log wait meanwhile. The source's log, if it
/// has one, is left as it is. `None`: the name no longer stands for the file that was `seen` there, and
/// nothing was copied.
pub fn copy_other(path: &Path, seen: &Stat, dest: &Path, task: &Task) -> Result<Option<u64>, SqliteError> {
    let failed = |error: io::Error| SqliteError::io(&error, path);
    if !guard::stands_for(path, seen).map_err(failed)? {
        return Ok(None);
    }
    let options = Options { vfs: bridge::beneath(c"unix"), ..Options::default() };
    refuse_in_the_way(path, options.vfs)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let had_log = std::fs::symlink_metadata(&guard::companions(path)[0]).is_ok();
    let pinned = Pinned::of(path, Role::Foreign, &clock, &options, &task.cancel)?;
    if !pinned.is_of(path, seen).map_err(failed)? {
        return Ok(None);
    }
    if !had_log {
        // opening one made an empty log, which SQLite removes again when it may
        let config = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        pinned.connection.sql.set_db_config(config, false).map_err(classify)?;
    }
    pinned.copy_to(dest, task).map(Some)
}

/// A copy being made: the file that was created, whatever happens to its name.
pub(crate) struct Target {
    path: PathBuf,
    disk: RealDisk,
    name: RelPath,
    file: Arc<dyn DiskFile>,
    stat: Stat,
}

impl Target {
    /// As [`Target::create`], of a path that may cross links.
    pub(crate) fn create_at(path: &Path) -> Result<Self, SqliteError> {
        Self::create(resolve_parent(path)?)
    }

    /// Open it to be filled; closed again before it is sealed.
    pub(crate) fn connect(&self) -> Result<rusqlite::Connection, SqliteError> {
        crate::syscalls::install()?;
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let target = rusqlite::Connection::open_with_flags_and_vfs(&self.path, flags, c"unix").map_err(classify)?;
        // a half copy is removed, so it needs no journal, and one sync at the end does
        target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF").map_err(classify)?;
        match guard::opened_by_us(&self.stat).map_err(|error| SqliteError::io(&error, &self.path))? {
            true => Ok(target),
            false => Err(self.replaced()),
        }
    }

    /// A new empty file.
    fn create(path: PathBuf) -> Result<Self, SqliteError> {
        let (disk, name) = place(&path)?;
        let made = disk.open(&name, Open::CreateNew).and_then(|file| Ok((file.stat()?, file)));
        let (stat, file) = made.map_err(|error| SqliteError::io(&error, &path))?;
        Ok(Self { path, disk, name, file, stat })
    }

    /// Mark it as one that needs no log, make it durable, and see that it is what the name stands for.
    pub(crate) fn seal(&self) -> Result<u64, SqliteError> {
        let sealed = || -> io::Result<u64> {
            let len = self.file.len()?;
            if len > 0 {
                self.file.write_all_at(&[1, 1], VERSION_OFFSET)?;
            }
            self.file.sync_data()?;
            self.disk.sync_dir(&RelPath::root())?;
            Ok(len)
        };
        let len = sealed().map_err(|error| SqliteError::io(&error, &self.path))?;
        match self.is_at_its_name() {
            true => Ok(len),
            false => Err(self.replaced()),
        }
    }

    fn is_at_its_name(&self) -> bool {
        self.disk.stat(&self.name).is_ok_and(|found| (found.dev, found.ino) == (self.stat.dev, self.stat.ino))
    }

    fn replaced(&self) -> SqliteError {
        let message = format!("another program replaced the copy while it was made path={}", self.path.display());
        SqliteError::Io { message, kind: Kind::Io }
    }

    /// After a failure, which is what the caller must hear of; a file that stays is seen.
    pub(crate) fn remove(&self) {
        if self.is_at_its_name() {
            let _ = self.disk.remove_file(&self.name);
        }
    }
}

/// The file's directory as a disk, and its name in it.
fn place(path: &Path) -> Result<(RealDisk, RelPath), SqliteError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SqliteError::invalid(format!("not the path of a file, got path={}", path.display())));
    };
    let name = RelPath::new(name.as_encoded_bytes()).map_err(|error| SqliteError::Invalid(error.to_string()))?;
    let disk = RealDisk::at(dir).map_err(|error| SqliteError::io(&error, dir))?;
    Ok((disk, name))
}

/// A new empty file (mode 0600) whose name is durable.
pub(crate) fn create(path: &Path) -> Result<(), SqliteError> {
    let (disk, name) = place(path)?;
    let created = disk.open(&name, Open::CreateNew).and_then(|_| disk.sync_dir(&RelPath::root()));
    created.map_err(|error| SqliteError::io(&error, path))
}

/// Make the names beside a file durable.
pub(crate) fn sync_dir_of(path: &Path) -> Result<(), SqliteError> {
    let (disk, _) = place(path)?;
    disk.sync_dir(&RelPath::root()).map_err(|error| SqliteError::io(&error, path))
}

/// Links above a destination are the caller's own business; the file itself is always a new one.
fn resolve_parent(path: &Path) -> Result<PathBuf, SqliteError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SqliteError::invalid(format!("not the path of a file, got path={}", path.display())));
    };
    let dir = std::fs::canonicalize(dir).map_err(|error| SqliteError::io(&error, dir))?;
    Ok(dir.join(name))
}
