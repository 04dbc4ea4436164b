//! A key-value store in any directory, outside of every app.
//!
//! Invariant: it is open at most once on the machine: `kv.lock` in the directory is flocked for as long.
//! An app's own store has its lock elsewhere (`run/`), so a directory inside an app is refused.

use crate::lock::OwnerLock;
use crate::{Owner, Seams, StoreError};
use macula_core::{create_dir_all, AppName, Disk, Gate, RealDisk, RelPath};
use macula_kv::Store;
use parking_lot::Mutex;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "kv.lock";

/// An opened store, and its lock.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    store: Store,
    lock: Mutex<Option<OwnerLock>>,
}

impl Directory {
    /// Open the store in `path`, creating what is missing of it, durably.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when it is open, in this process or another; [`StoreError::InsideApp`];
    /// [`StoreError::OtherDatabase`] when another library's files are there, and none of ours.
    pub fn open(path: &Path, owner: &Owner, options: macula_kv::Options, seams: &Seams) -> Result<Self, StoreError> {
        refuse_inside_app(path)?;
        let failed = |source| StoreError::Directory { path: path.to_owned(), source };
        make(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        refuse_inside_app(&path)?;
        let disk = RealDisk::at(&path).map_err(failed)?;
        refuse_other_database(&path, &disk)?;
        let lock = OwnerLock::acquire(&path.join(LOCK), owner, &*seams.clock)?;
        let store = Store::open(seams.kv(Arc::new(disk), Arc::new(Gate::new())), options)?;
        Ok(Self { path, store, lock: Mutex::new(Some(lock)) })
    }

    /// Where it is, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Close the store, then let others open it. Again is fine.
    pub fn close(&self) {
        self.store.close();
        *self.lock.lock() = None;
    }

    /// The process that has the store in `path` open, if one has.
    pub fn owner(path: &Path) -> Result<Option<Owner>, StoreError> {
        OwnerLock::owner(&path.join(LOCK))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.close();
    }
}

/// The directory, its name durable.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        // whoever made it may not have come to that; where we may not, it was nobody like us
        let above = path.canonicalize()?.parent().map(RealDisk::at);
        return match above.map(|above| above.and_then(|above| above.sync_dir(&RelPath::root()))) {
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        };
    }
    let there = path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"));
    let missing = path.strip_prefix(there).map_err(io::Error::other)?;
    let missing = RelPath::new(missing.as_os_str().as_bytes()).map_err(io::Error::other)?;
    create_dir_all(&RealDisk::at(there)?, &missing)
}

/// Refuse a path in the directory of an app, of whichever base directory.
///
/// # Errors
/// [`StoreError::InsideApp`].
pub(crate) fn refuse_inside_app(path: &Path) -> Result<(), StoreError> {
    let there = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, above)));
    let leads_to = there.and_then(|(real, above)| Some(real.join(path.strip_prefix(above).ok()?)));
    match app_of(path).or_else(|| app_of(&leads_to?)) {
        Some(app) => Err(StoreError::InsideApp { path: path.to_owned(), app }),
        None => Ok(()),
    }
}

/// `<base>/apps/<app>` or below, where `<base>/run/<app>.lock` says that it is one.
fn app_of(path: &Path) -> Option<AppName> {
    path.ancestors().find_map(|dir| {
        let name = AppName::new(dir.file_name()?.to_str()?).ok()?;
        let apps = dir.parent().filter(|apps| apps.ends_with(crate::layout::APPS))?;
        let lock = apps.parent()?.join(crate::layout::RUN).join(format!("{name}.lock"));
        lock.is_file().then_some(name)
    })
}

/// A store of ours beside the files of CubDB would look like a CubDB that lost everything.
fn refuse_other_database(path: &Path, disk: &RealDisk) -> Result<(), StoreError> {
    if disk.stat(&RelPath::literal(LOCK)).is_ok() {
        return Ok(());
    }
    let entries = disk.list(&RelPath::root()).map_err(|e| StoreError::io("list", path, e))?;
    match entries.iter().any(|entry| entry.name.as_bytes().ends_with(b".cub")) {
        true => Err(StoreError::OtherDatabase(path.to_owned())),
        false => Ok(()),
    }
}
