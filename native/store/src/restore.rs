//! Restoring an app from an archive: unpack and verify into a sibling directory while the app runs,
//! sync it once, then exchange the two directories.
//!
//! Invariant: until the exchange nothing of the app has changed; after it nothing of the old is
//! left in its place. What goes wrong before leaves only a staging directory, which is removed here
//! or when the app is opened next.

use crate::layout::APP_DIRS;
use crate::plain::unless_gone;
use crate::swap::{self, rubbish};
use crate::{App, Base, Layout, StoreError};
use macula_archive::{UnpackOptions, Unpacked, Written};
use macula_core::{AppName, Disk, DiskFile, FileKind, Open, RealDisk, RelPath, Task};
use macula_kv::Store;
use macula_sqlite::guard;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What a restore may do.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct RestoreOptions {
    /// Accept an archive that is not ours (no manifest, so not verified), such as `tar -czf` makes.
    pub foreign: bool,
    /// Accept a backup of another app.
    pub from_other_app: bool,
    /// Refuse archives that unpack to more bytes than this; `None`: what the disk has free.
    pub bytes_max: Option<u64>,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RestoreInfo {
    /// Files, directories and symlinks.
    pub entries: u64,
    /// Bytes unpacked.
    pub bytes: u64,
    /// Whether every entry was compared with its BLAKE3 in the manifest.
    pub verified: bool,
}

/// The key-value store inside an archive, in the app's directory until it is imported.
pub(crate) const KV_RECORDS: &str = "data/.macula/kv.records";

impl Base {
    /// Replace the app's directory by what the archive at `path` holds.
    ///
    /// # Errors
    /// Before the exchange every error leaves the app as it was. [`StoreError::DatabaseInUse`] and
    /// [`StoreError::OpenedByOtherSqlite`] when another program has the app's database open.
    pub fn restore(
        self: &Arc<Self>,
        name: &AppName,
        path: &Path,
        options: &RestoreOptions,
        task: &Task,
    ) -> Result<RestoreInfo, StoreError> {
        let archive = open_machine_file(path)?;
        let was_there = self.app_if_open(name).is_some() || swap::has_directory(self, name);
        let app = self.app(name)?;
        let restored = self.restore_app(&app, archive, options, task);
        // one of unknown outcome is the next opening's
        if !was_there && restored.as_ref().is_err_and(|error| !matches!(error, StoreError::Unknown(_))) {
            self.remove_unused(&app);
        }
        restored
    }

    fn restore_app(
        self: &Arc<Self>,
        app: &Arc<App>,
        archive: Arc<dyn DiskFile>,
        options: &RestoreOptions,
        task: &Task,
    ) -> Result<RestoreInfo, StoreError> {
        let name = app.name();
        let stop = || task.cancel.is_cancelled() || app.is_closing();
        let _turn = app.turns().restore(task)?;
        swap::clear_the_way(self, name)?;
        rubbish::remove(self, name, &stop);
        let unpacked = self.unpack(name, archive, options, task);
        let restored = unpacked.and_then(|info| self.exchange(app, task).map(|()| info));
        if matches!(restored, Err(StoreError::Unknown(_))) {
            return restored;
        }
        // what cannot be moved now is in the way of the next restore, which says so
        let _ = swap::clear_the_way(self, name);
        rubbish::remove(self, name, &stop);
        // done is done: figures that cannot be had now come with the next walk
        let _ = app.reconcile_for(task);
        restored
    }

    /// Unpack into the staging directory and make it durable.
    fn unpack(
        &self,
        name: &AppName,
        archive: Arc<dyn DiskFile>,
        options: &RestoreOptions,
        task: &Task,
    ) -> Result<RestoreInfo, StoreError> {
        let staging = Layout::staging(name);
        let at = self.layout.absolute(&staging);
        let failed = |verb| move |e| StoreError::io(verb, &at, e);
        // it must not be there: what was left in one would be restored too
        self.disk.create_dir(&staging).map_err(failed.clone()("create"))?;
        let tree = self.disk.subtree(&staging).map_err(failed.clone()("open"))?;
        let free = self.disk.space().map_err(failed.clone()("ask the free space of"))?.free;
        let bytes_max = options.bytes_max.unwrap_or(free);
        let written = Some(Written(Arc::new(mark_files)));
        let unpack = UnpackOptions { bytes_max, foreign: options.foreign, written, ..UnpackOptions::default() };
        let unpacked = macula_archive::unpack(&archive, &tree, &unpack, task)?;
        check_origin(name, &unpacked, options)?;
        self.import_kv(&*tree, task)?;
        for dir in APP_DIRS {
            make_dir(&*tree, &RelPath::literal(dir)).map_err(failed.clone()("create"))?;
        }
        self.keep_mode(name, &staging).map_err(failed.clone()("set the mode of"))?;
        tree.sync_tree().map_err(failed("sync"))?;
        Ok(RestoreInfo { entries: unpacked.entries, bytes: unpacked.bytes, verified: unpacked.totals.is_some() })
    }

    /// Whom the app's directory lets in is its operator's choice, and in no archive.
    fn keep_mode(&self, name: &AppName, staging: &RelPath) -> io::Result<()> {
        let live = match self.disk.stat(&Layout::app(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            stat => stat?,
        };
        let new = self.disk.stat(staging)?;
        if new.mode == live.mode {
            return Ok(());
        }
        self.disk.set_dir_meta(staging, live.mode, new.mtime_ns)
    }

    /// Turn the record stream back into a store.
    fn import_kv(&self, tree: &dyn Disk, task: &Task) -> Result<(), StoreError> {
        let records = RelPath::literal(KV_RECORDS);
        let Some(file) = unless_gone(&records, tree.open(&records, Open::Read))? else { return Ok(()) };
        let dir = RelPath::literal("data/kv");
        let failed = |e| StoreError::io("write", Path::new("data/kv"), e);
        make_dir(tree, &dir).map_err(failed)?;
        let kv = tree.subtree(&dir).map_err(failed)?;
        let mut input = crate::tree::FileReader::new(file);
        Store::import(kv, &*self.seams.chance, &mut input, task)?;
        tree.remove_file(&records).map_err(failed)
    }

    /// The moment of the restore: engines closed, directories exchanged.
    fn exchange(self: &Arc<Self>, app: &Arc<App>, task: &Task) -> Result<(), StoreError> {
        if task.cancel.is_cancelled() {
            return Err(StoreError::Cancelled);
        }
        // a backup under way reads the old tree to its end
        let _turn = app.turns().archive(task)?;
        let database = self.layout.database(app.name());
        // asked twice, so that a refusal costs nobody their connection
        refuse_if_in_use(&database, guard::used_elsewhere)?;
        app.swap(|| {
            // our own connections are closed by now: whoever still has it open is another
            refuse_if_in_use(&database, guard::opened_elsewhere)?;
            swap::swap(self, app.name())
        })
    }
}

/// Files are verified when they are read, restored ones too, unless they were damaged when they were
/// archived: then nothing tells what they should hold.
fn mark_files(path: &RelPath, file: &dyn DiskFile, blake3: Option<&[u8; 32]>) -> io::Result<()> {
    match blake3 {
        _ if !path.as_bytes().starts_with(b"data/files/") => Ok(()),
        Some(blake3) => macula_files::mark(file, blake3),
        None => macula_files::unmark(file),
    }
}

fn refuse_if_in_use(database: &Path, opened: fn(&Path) -> io::Result<bool>) -> Result<(), StoreError> {
    let failed = |e| StoreError::io("look for users of", database, e);
    if opened(database).map_err(failed)? {
        return Err(StoreError::OpenedByOtherSqlite(database.to_owned()));
    }
    let pids = guard::other_processes(database).map_err(failed)?;
    if pids.is_empty() {
        return Ok(());
    }
    Err(StoreError::DatabaseInUse { path: database.to_owned(), pids })
}

fn check_origin(name: &AppName, unpacked: &Unpacked, options: &RestoreOptions) -> Result<(), StoreError> {
    let Some(head) = &unpacked.head else { return Ok(()) };
    let app = head.about.get("app").and_then(|app| app.as_str()).unwrap_or_default();
    if app == name.as_str() || options.from_other_app {
        return Ok(());
    }
    Err(StoreError::NotOurs(format!("it is a backup of another app (from_other_app: true takes it): app={app:?}")))
}

/// A file that the operator named, through links if it pleases: `latest.tar.zst` is often one.
pub(crate) fn open_machine_file(path: &Path) -> Result<Arc<dyn DiskFile>, StoreError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NoBackup(path.display().to_string()),
        _ => StoreError::io("open", path, error),
    };
    let (disk, name) = machine_dir(&path.canonicalize().map_err(failed)?)?;
    disk.open(&name, Open::Read).map_err(failed)
}

/// Create a directory that may be there; whether it was made. Durable when the caller syncs.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &RelPath) -> io::Result<bool> {
    match disk.create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match disk.stat(dir)?.kind {
            FileKind::Dir => Ok(false),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        },
        result => result.map(|()| true),
    }
}

/// The directory that holds `path`, and its name in it.
pub(crate) fn machine_dir(path: &Path) -> Result<(RealDisk, RelPath), StoreError> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name().ok_or_else(|| StoreError::NoBackup(path.display().to_string()))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let disk = RealDisk::at(dir).map_err(|e| StoreError::io("open", dir, e))?;
    Ok((disk, RelPath::new(name.as_bytes())?))
}
