//! The tree that an archive is made of: what engines staged in a scratch directory, the files of one
//! instant, and what else lies in the app's directory.
//!
//! Items are produced by one thread as they are wanted, so that memory does not grow with the tree.

use crate::engine::Staged;
use crate::plain::{self, Scope};
use crate::StoreError;
use crossbeam_channel::{bounded, Receiver, Sender};
use macula_archive::{Item, Source, Tree};
use macula_core::{Disk, DiskFile, FileKind, Kind, Kinded, Open, RelPath, Task};
use macula_files::{FileSnapshot, SnapEntry};
use macula_sqlite::guard;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Items waiting between the walk and the archive's workers.
const ITEMS_AHEAD_MAX: usize = 256;

/// A directory for copies that exist only while an archive is made.
#[derive(Debug)]
pub struct Scratch {
    /// Its tree.
    pub disk: Arc<dyn Disk>,
    /// Its absolute path, for engines that need one.
    pub path: PathBuf,
}

/// Where an item's bytes are.
enum Origin {
    Scratch(RelPath),
    Snapshot(SnapEntry),
}

/// The files of an archive, by item.
pub(crate) struct AppTree {
    app: Arc<dyn Disk>,
    app_path: PathBuf,
    scratch: Arc<Scratch>,
    files: Vec<FileSnapshot>,
    origins: Mutex<HashMap<u64, Origin>>,
    left_out: Mutex<Vec<String>>,
}

/// The token of a file that is opened under its own path.
const PLAIN: u64 = 0;

impl AppTree {
    pub fn new(app: Arc<dyn Disk>, app_path: PathBuf, scratch: Arc<Scratch>) -> Self {
        Self { app, app_path, scratch, files: Vec::new(), origins: Mutex::default(), left_out: Mutex::default() }
    }

    /// Take over what an engine staged; its small items come first in the archive.
    pub fn add(&mut self, staged: Staged, first: &mut Vec<Item>) -> Result<(), StoreError> {
        match staged {
            Staged::Files(snapshot) => self.files.push(snapshot),
            Staged::Copy { path, scratch } => first.push(self.copied(path, scratch)?),
        }
        Ok(())
    }

    /// An item whose bytes lie in the scratch directory.
    fn copied(&self, path: RelPath, scratch: RelPath) -> Result<Item, StoreError> {
        let stat = self.scratch.disk.stat(&scratch).map_err(|e| StoreError::io("read", scratch.as_path(), e))?;
        let token = self.remember(Origin::Scratch(scratch));
        Ok(Item { path, source: Source::File, mode: 0o644, mtime_ns: stat.mtime_ns, len: stat.len, token })
    }

    fn remember(&self, origin: Origin) -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(PLAIN + 1);
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        self.origins.lock().insert(token, origin);
        token
    }

    /// What could not be archived, with the reason.
    pub fn left_out(&self) -> Vec<String> {
        std::mem::take(&mut *self.left_out.lock())
    }

    /// Walk and send items until done or nobody takes them.
    pub fn produce(&self, first: Vec<Item>, scope: Scope, task: &Task, items: &Sender<Found>) {
        let result =
            self.produce_all(first, scope, task, &mut |item| items.send(Ok(item)).map_err(|_| StoreError::Cancelled));
        if let Err(error) = result {
            let _ = items.send(Err(error));
        }
    }

    fn produce_all(
        &self,
        first: Vec<Item>,
        scope: Scope,
        task: &Task,
        send: &mut dyn FnMut(Item) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        first.into_iter().try_for_each(&mut *send)?;
        let mut databases = 0;
        plain::walk(&*self.app, scope, &mut |path, stat| {
            if task.cancel.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            if stat.kind == FileKind::File && self.is_sqlite_helper(&path)? {
                return Ok(());
            }
            if stat.kind == FileKind::File && self.is_sqlite(&path)? {
                databases += 1;
                if let Some(item) = self.copy_database(&path, databases, task)? {
                    return send(item);
                }
            }
            match plain::item(path.clone(), &stat, PLAIN, || self.app.read_link(&path).ok()) {
                Some(item) => send(item),
                None => {
                    self.leave_out(&path);
                    Ok(())
                }
            }
        })?;
        self.files.iter().try_for_each(|snapshot| self.produce_files(snapshot, task, send))
    }

    fn produce_files(
        &self,
        snapshot: &FileSnapshot,
        task: &Task,
        send: &mut dyn FnMut(Item) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let data = RelPath::literal("data");
        let mut outcome = Ok(());
        snapshot.walk(&mut |entry| {
            let next = (|| {
                if task.cancel.is_cancelled() {
                    return Err(StoreError::Cancelled);
                }
                let path = data.join(entry.archive_path().as_bytes())?;
                let target = || entry.target().map(Path::to_owned);
                let Some(mut item) = plain::item(path.clone(), entry.stat(), PLAIN, target) else {
                    self.leave_out(&path);
                    return Ok(());
                };
                if item.source == Source::File {
                    item.token = self.remember(Origin::Snapshot(entry));
                }
                send(item)
            })();
            match next {
                Ok(()) => std::ops::ControlFlow::Continue(()),
                Err(error) => {
                    outcome = Err(error);
                    std::ops::ControlFlow::Break(())
                }
            }
        })?;
        outcome
    }

    fn leave_out(&self, path: &RelPath) {
        self.left_out.lock().push(format!("{path}: not a file, directory or link"));
    }

    /// SQLite's own files beside a database: part of the copy that SQLite makes.
    fn is_sqlite_helper(&self, path: &RelPath) -> Result<bool, StoreError> {
        let bytes = path.as_bytes();
        let database = ["-wal", "-shm", "-journal"].iter().find_map(|end| bytes.strip_suffix(end.as_bytes()));
        match database.map(RelPath::new) {
            Some(Ok(database)) if self.app.stat(&database).is_ok() => self.is_sqlite(&database),
            _ => Ok(false),
        }
    }

    fn is_sqlite(&self, path: &RelPath) -> Result<bool, StoreError> {
        let at = self.app_path.join(path.as_path());
        match guard::looks_like_sqlite(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map_err(|e| StoreError::io("look at", at, e)),
        }
    }

    /// A copy that SQLite makes of a database beside the app's own; `None` for a file that only looks
    /// like one, or is damaged: nobody has it open, so it goes in as the file it is.
    fn copy_database(&self, path: &RelPath, number: u64, task: &Task) -> Result<Option<Item>, StoreError> {
        let scratch = RelPath::new(format!("database-{number}"))?;
        let source = self.app_path.join(path.as_path());
        match macula_sqlite::copy_other(&source, &self.scratch.path.join(scratch.as_path()), task) {
            Ok(_) => self.copied(path.clone(), scratch).map(Some),
            Err(error) if error.kind() == Kind::Corrupt => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Tree for AppTree {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let origin = self.origins.lock().remove(&item.token);
        match origin {
            // each item is opened once; its path may be a live database's
            None if item.token != PLAIN => Err(io::Error::other("an item was opened twice")),
            None => match self.app.open(&item.path, Open::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                file => file.map(Some),
            },
            Some(Origin::Scratch(path)) => self.scratch.disk.open(&path, Open::Read).map(Some),
            Some(Origin::Snapshot(entry)) => {
                // every snapshot knows its own entries; there is one per file engine
                let Some(snapshot) = self.files.first() else { return Ok(None) };
                snapshot.open(&entry).map_err(io::Error::other)
            }
        }
    }
}

/// An item, or why the walk ended.
pub(crate) type Found = Result<Item, StoreError>;

/// The channel between a walk and the archive.
pub(crate) fn channel() -> (Sender<Found>, Receiver<Found>) {
    bounded(ITEMS_AHEAD_MAX)
}

/// Reads a file from its start to its end.
pub(crate) struct FileReader {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl FileReader {
    pub fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl io::Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(bytes, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// Writes a file from its start.
pub(crate) struct FileWriter {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl FileWriter {
    pub fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, offset: 0 }
    }
}

impl io::Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
