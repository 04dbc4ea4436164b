//! A directory whose SQLite files forget what was not synced: the disk under a database of a test.
//!
//! SQLite reaches it by the VFS [`SqliteDisk::VFS`], which passes everything on to `unix` and real
//! files (so locks and the shared index are real) but syncs nothing there; beside it a model keeps
//! what a power loss may leave. Every create, write, truncate, sync and delete is one step. Assumed,
//! because `unix` promises it (`POWERSAFE_OVERWRITE`): a write tears at 512 bytes and never changes
//! bytes outside its range. A sync of a file makes its content and length durable, and names only where
//! `unix` syncs the directory: at the first sync of a journal or log, and by a delete that asks for it.

use crate::content::CrashMode;
use crate::machine::Fault;
use crate::sqlite_model::Model;
use crate::sqlite_vfs;
use macula_core::{Disk, Open, RealDisk, RelPath};
use parking_lot::Mutex;
use std::ffi::{CStr, OsStr};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One directory of SQLite files. It lives until dropped, however often its databases are reopened.
#[derive(Debug)]
pub struct SqliteDisk {
    dir: PathBuf,
    model: Arc<Mutex<Model>>,
}

impl SqliteDisk {
    /// The name of the VFS, for whoever opens a database in such a directory.
    pub const VFS: &'static CStr = c"macula_forgetful";

    /// The disk of an existing directory. Files that are there already are durable.
    pub fn at(dir: &Path) -> io::Result<Self> {
        sqlite_vfs::register()?;
        let dir = std::fs::canonicalize(dir)?;
        let model = Arc::new(Mutex::new(Model::default()));
        sqlite_vfs::DISKS.lock().insert(dir.clone(), model.clone());
        Ok(Self { dir, model })
    }

    /// Let the step with this number (the first is 1, see [`SqliteDisk::steps`]) fail. [`Fault::Io`]: it
    /// fails once, with SQLite's code for its kind. [`Fault::Full`]: `SQLITE_FULL` for this and all later
    /// writes that take room. [`Fault::Crash`]: everything fails from here on. [`Fault::Unsupported`] is as `Io`.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.model.lock().faults.insert(n, fault);
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.model.lock().steps.len() as u64
    }

    /// What the n-th step was, such as `write app.db-wal`.
    pub fn step(&self, n: u64) -> Option<String> {
        let model = self.model.lock();
        let (operation, name) = model.steps.get(usize::try_from(n.checked_sub(1)?).ok()?)?;
        Some(format!("{operation} {}", name.to_string_lossy()))
    }

    /// Completed syncs of the file of that name.
    pub fn syncs(&self, name: &str) -> u64 {
        self.model.lock().syncs.get(OsStr::new(name)).copied().unwrap_or(0)
    }

    /// Whether a [`Fault::Crash`] was met.
    pub fn has_crashed(&self) -> bool {
        self.model.lock().crashed
    }

    /// Forget all planned faults, and a full disk; a crash stays.
    pub fn heal(&self) {
        let mut model = self.model.lock();
        model.full = false;
        model.faults.clear();
    }

    /// Syncs do nothing from here on, so that a test can be seen to fail.
    pub fn forget_syncs(&self, forget: bool) {
        self.model.lock().forgets = forget;
    }

    /// Room for content in bytes, in whole pages of 4,096; `None` is unlimited.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.model.lock().capacity = bytes;
    }

    /// Bytes of content that take room now, in whole pages.
    pub fn used(&self) -> u64 {
        self.model.lock().used()
    }

    /// Write what a power loss at this moment may leave into the empty directory `dest`. This disk stays
    /// as it is.
    pub fn crash_image(&self, mode: CrashMode, dest: &Path) -> io::Result<()> {
        let files = self.model.lock().crashed_files(mode);
        let disk = RealDisk::at(dest)?;
        for (name, bytes) in files {
            let name = RelPath::new(name.as_encoded_bytes()).map_err(io::Error::other)?;
            disk.open(&name, Open::CreateNew)?.write_all_at(&bytes, 0)?;
        }
        Ok(())
    }
}

impl Drop for SqliteDisk {
    fn drop(&mut self) {
        sqlite_vfs::DISKS.lock().remove(&self.dir);
    }
}
