//! The tree that an archive is made of: what engines staged in a scratch directory, the files of one
//! instant, and what else lies in the app's directory.
//!
//! Items are produced by one thread as they are wanted, so that memory does not grow with the tree.
//! Invariant: no file that may be a database is opened while other code of this process has it open.

use crate::engine::Staged;
use crate::plain::{self, unless_changed, Scope};
use crate::StoreError;
use crossbeam_channel::{bounded, Receiver, Sender};
use macula_archive::{Item, Source, Tree};
use macula_core::{Disk, DiskFile, FileKind, Kind, Kinded, Open, RelPath, Stat, Task};
use macula_files::{FileSnapshot, SnapEntry};
use macula_sqlite::guard::{self, Look};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Items waiting between the walk and the archive's workers.
const BATCHES_AHEAD_MAX: usize = 8;
/// Items that are sent at once: one by one, sender and receiver spend their time waking each other.
const BATCH_LEN: usize = 32;
/// Names of what was left out that are kept; the others are counted.
pub(crate) const LEFT_OUT_MAX: usize = 1000;
/// Looks at a file that another program replaces while we look: each costs an `open` at most.
const LOOKS_MAX: u32 = 100;
/// Tries to open a database, each of which may wait for a lock.
const OPENINGS_MAX: u32 = 8;
/// Permission bits of a copy that stands for no file of its own.
const PRIVATE: u32 = 0o600;

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

/// A copy of a database, or why there is none.
enum Copy {
    Made(Item),
    /// It only looks like a database, or is damaged, and nobody has it open: to go in as the file it is.
    NoDatabase,
    /// The name stands for another file now.
    Replaced,
    /// Perhaps it does, since it could not be opened; why not.
    Unopened(StoreError),
}

/// The files of an archive, by item.
pub(crate) struct AppTree {
    app: Arc<dyn Disk>,
    app_path: PathBuf,
    scratch: Arc<Scratch>,
    files: Vec<FileSnapshot>,
    origins: Mutex<HashMap<u64, Origin>>,
    left_out: Mutex<LeftOut>,
}

/// What could not be archived: the first names with the reason, and how many in all.
#[derive(Default)]
pub(crate) struct LeftOut {
    pub names: Vec<String>,
    pub count: u64,
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
            Staged::Copy { path, scratch } => {
                let live = unless_changed(&path, self.app.stat(&path))?;
                first.push(self.copied(path, scratch, live.map_or(PRIVATE, |live| live.mode))?);
            }
        }
        Ok(())
    }

    /// An item whose bytes lie in the scratch directory; whom it lets in is up to what it stands for.
    fn copied(&self, path: RelPath, scratch: RelPath, mode: u32) -> Result<Item, StoreError> {
        let stat = self.scratch.disk.stat(&scratch).map_err(|e| StoreError::io("read", scratch.as_path(), e))?;
        let token = self.remember(Origin::Scratch(scratch));
        Ok(Item { path, source: Source::File, mode, mtime_ns: stat.mtime_ns, len: stat.len, token })
    }

    fn remember(&self, origin: Origin) -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(PLAIN + 1);
        let token = NEXT.fetch_add(1, Ordering::Relaxed);
        self.origins.lock().insert(token, origin);
        token
    }

    /// What could not be archived.
    pub fn left_out(&self) -> LeftOut {
        std::mem::take(&mut *self.left_out.lock())
    }

    /// Walk and send items until done or nobody takes them.
    pub fn produce(&self, first: Vec<Item>, scope: Scope, task: &Task, items: &Sender<Found>) {
        let mut ready = Vec::with_capacity(BATCH_LEN);
        let mut send = |item| {
            ready.push(item);
            if ready.len() < BATCH_LEN {
                return Ok(());
            }
            let batch = std::mem::replace(&mut ready, Vec::with_capacity(BATCH_LEN));
            items.send(Ok(batch)).map_err(|_| StoreError::Cancelled)
        };
        let result = self.produce_all(first, scope, task, &mut send);
        // nobody may take them any more: then nobody asks either
        let _ = items.send(Ok(ready));
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
            if stat.kind == FileKind::File {
                return self.file(path, stat, &mut databases, task)?.map_or(Ok(()), &mut *send);
            }
            let target = match stat.kind {
                FileKind::Symlink => match unless_changed(&path, self.app.read_link(&path))? {
                    None => return Ok(()),
                    target => target,
                },
                _ => None,
            };
            match plain::item(path.clone(), &stat, PLAIN, || target) {
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
        let mut left_out = self.left_out.lock();
        left_out.count += 1;
        if left_out.names.len() < LEFT_OUT_MAX {
            left_out.names.push(format!("{path}: not a file, directory or link"));
        }
    }

    /// The item of a file beside the engines' own, copied when it is a database; `None` when it is part
    /// of one, or no longer a file.
    fn file(
        &self,
        path: RelPath,
        mut seen: Stat,
        databases: &mut u64,
        task: &Task,
    ) -> Result<Option<Item>, StoreError> {
        if self.is_sqlite_helper(&path)? {
            return Ok(None);
        }
        let mut openings = 0;
        for _ in 0..LOOKS_MAX {
            let look = unless_changed(&path, guard::looks_like_sqlite(&*self.app, &path, &seen))?;
            match look.unwrap_or(Look::Replaced) {
                Look::Other => return Ok(plain::item(path, &seen, PLAIN, || None)),
                Look::Replaced => {}
                Look::Database => {
                    *databases += 1;
                    match self.copy_database(&path, &seen, *databases, task)? {
                        Copy::Made(item) => return Ok(Some(item)),
                        Copy::NoDatabase => return Ok(plain::item(path, &seen, PLAIN, || None)),
                        Copy::Replaced => openings = 0,
                        Copy::Unopened(error) => {
                            openings += 1;
                            if openings == OPENINGS_MAX {
                                return Err(error);
                            }
                        }
                    }
                }
            }
            match unless_changed(&path, self.app.stat(&path))? {
                Some(now) if now.kind == FileKind::File => seen = now,
                _ => return Ok(None),
            }
        }
        let busy = io::Error::new(io::ErrorKind::ResourceBusy, "another program replaces it all the time");
        Err(StoreError::io("read", path.as_path(), busy))
    }

    /// SQLite's own files beside a database: part of the copy that SQLite makes.
    fn is_sqlite_helper(&self, path: &RelPath) -> Result<bool, StoreError> {
        let bytes = path.as_bytes();
        let database = ["-wal", "-shm", "-journal"].iter().find_map(|end| bytes.strip_suffix(end.as_bytes()));
        let Some(database) = database else { return Ok(false) };
        match RelPath::new(database) {
            Ok(database) => {
                let Some(seen) = unless_changed(&database, self.app.stat(&database))? else { return Ok(false) };
                let look = guard::looks_like_sqlite(&*self.app, &database, &seen);
                Ok(unless_changed(&database, look)? == Some(Look::Database))
            }
            Err(_) => Ok(false),
        }
    }

    /// A copy that SQLite makes of a database beside the app's own. It opens by path, which another
    /// program can make lead elsewhere; the copy is one of the file that was `seen`, or none.
    fn copy_database(&self, path: &RelPath, seen: &Stat, number: u64, task: &Task) -> Result<Copy, StoreError> {
        let scratch = RelPath::new(format!("database-{number}"))?;
        let source = self.app_path.join(path.as_path());
        let dest = self.scratch.path.join(scratch.as_path());
        let error = match macula_sqlite::copy_other(&source, seen, &dest, task) {
            Ok(Some(_)) => return self.copied(path.clone(), scratch, seen.mode).map(Copy::Made),
            Ok(None) => return Ok(Copy::Replaced),
            Err(error) => error,
        };
        let now = unless_changed(path, self.app.stat(path))?;
        if now.is_none_or(|now| (now.dev, now.ino) != (seen.dev, seen.ino)) {
            return Ok(Copy::Replaced);
        }
        // the number of a file that is gone is given to the next one
        let is_unopened = self.scratch.disk.stat(&scratch).is_err();
        if is_unopened && !matches!(error.kind(), Kind::Corrupt | Kind::Cancelled) {
            return Ok(Copy::Unopened(error.into()));
        }
        if error.kind() == Kind::Corrupt {
            let opened = guard::opened_here(seen).map_err(|e| StoreError::io("look for users of", source, e))?;
            if !opened {
                return Ok(Copy::NoDatabase);
            }
        }
        Err(error.into())
    }
}

impl Tree for AppTree {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let origin = self.origins.lock().remove(&item.token);
        match origin {
            // each item is opened once; its path may be a live database's
            None if item.token != PLAIN => Err(io::Error::other("an item was opened twice")),
            None => match self.app.open(&item.path, Open::Read) {
                Err(error) if macula_archive::is_gone(&error) => Ok(None),
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

    fn digest(&self, item: &Item, file: &dyn DiskFile) -> io::Result<Option<[u8; 32]>> {
        match item.path.as_bytes().starts_with(b"data/files/") {
            true => macula_files::digest(file, item.len, item.mtime_ns),
            false => Ok(None),
        }
    }
}

/// Items, or why the walk ended.
pub(crate) type Found = Result<Vec<Item>, StoreError>;

/// The channel between a walk and the archive.
pub(crate) fn channel() -> (Sender<Found>, Receiver<Found>) {
    bounded(BATCHES_AHEAD_MAX)
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

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // what other programs do is done by hand
mod tests {
    use super::*;
    use macula_core::RealDisk;
    use std::os::unix::fs::symlink;

    struct Fixture {
        dir: tempfile::TempDir,
        tree: AppTree,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().expect("temp");
        let (app, scratch) = (dir.path().join("app"), dir.path().join("scratch"));
        let disk = |path: &Path| Arc::new(RealDisk::create_at(path).expect("made"));
        let scratch = Arc::new(Scratch { disk: disk(&scratch), path: scratch });
        let tree = AppTree::new(disk(&app), app, scratch);
        Fixture { dir, tree }
    }

    fn plant(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("inside")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn item(path: &'static str) -> Item {
        let path = RelPath::literal(path);
        Item { path, source: Source::File, mode: 0o644, mtime_ns: 0, len: 1, token: PLAIN }
    }

    /// A backup failed when a file was replaced by anything else between its listing and its reading:
    /// only a name that was gone altogether was taken for gone.
    #[test]
    fn a_file_that_became_something_else_is_gone() {
        let Fixture { dir, tree } = fixture();
        let app = dir.path().join("app");
        plant(&app.join("file"), "x");
        std::fs::create_dir(app.join("dir")).expect("made");
        symlink("file", app.join("link")).expect("linked");
        symlink("dir", app.join("link-to-dir")).expect("linked");
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, app.join("fifo"), fifo, mode, 0).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(app.join("socket")).expect("bound");
        assert!(tree.open(&item("file")).expect("opened").is_some());
        for path in ["absent", "dir", "link", "link-to-dir/x", "file/x", "fifo", "socket"] {
            assert!(tree.open(&item(path)).unwrap_or_else(|e| panic!("{path}: {e}")).is_none(), "{path}");
        }
    }

    /// And one between its listing and the look whether it is a database. That look went by path: a
    /// directory that became a link outside was followed, and what lay there was copied into the backup.
    #[test]
    fn nothing_outside_is_looked_at() {
        let Fixture { dir, tree } = fixture();
        let (inside, outside) = (dir.path().join("app/uploads/sub"), dir.path().join("outside"));
        let database = format!("SQLite format 3\0{}", "x".repeat(1008));
        plant(&inside.join("a.db"), &database);
        plant(&outside.join("a.db"), &database);
        let path = RelPath::literal("uploads/sub/a.db");
        let seen = tree.app.stat(&path).expect("there");
        std::fs::remove_dir_all(&inside).expect("removed");
        symlink(&outside, &inside).expect("linked");
        let found = tree.file(path.clone(), seen.clone(), &mut 0, &Task::quiet()).expect("passed over");
        assert!(found.is_none());
        let helper = RelPath::literal("uploads/sub/a.db-wal");
        assert!(tree.file(helper, seen, &mut 0, &Task::quiet()).expect("passed over").is_none());
        assert!(tree.scratch.disk.list(&RelPath::root()).expect("listed").is_empty());
    }

    /// A damaged database that nobody has open goes in as the file it is; opening and closing one that
    /// somebody has open would drop his locks.
    #[test]
    fn a_damaged_database_that_is_open_is_not_opened_beside() {
        let Fixture { dir, tree } = fixture();
        let at = dir.path().join("app/uploads/a.db");
        plant(&at, &format!("SQLite format 3\0{}", "x".repeat(1008)));
        let path = RelPath::literal("uploads/a.db");
        let seen = tree.app.stat(&path).expect("there");
        let look = || tree.file(path.clone(), seen.clone(), &mut 0, &Task::quiet());
        assert!(look().expect("taken").is_some());
        let held = std::fs::File::open(&at).expect("opened");
        assert_eq!(look().expect_err("refused").kind(), Kind::OpenedByOtherSqlite);
        drop(held);
        assert!(look().expect("taken").is_some());
    }
}
