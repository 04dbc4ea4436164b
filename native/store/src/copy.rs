//! A copy of a key-value store as a new directory, which opens as a store of its own.
//!
//! Invariant: the directory has its name only when all of it is durable; a copy that was cut short is a
//! hidden directory beside it, never a store with less in it.

use crate::directory::refuse_inside_app;
use crate::restore::machine_dir;
use crate::{Seams, StoreError};
use macula_core::{remove_tree, Chance, Disk, RelPath, Task};
use macula_kv::{Imported, KvError, Snapshot, Store};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Between the thread that reads the one store and the one that builds the other.
const BUFFER_LEN: usize = 64 << 10;

/// Where a copy goes: a name that nothing has yet, in a directory that is there.
#[derive(Debug)]
pub struct NewDir {
    above: Arc<dyn Disk>,
    name: RelPath,
    path: PathBuf,
}

impl NewDir {
    /// At a path on the machine.
    ///
    /// # Errors
    /// `NotFound` when the directory above is not there; [`StoreError::InsideApp`].
    pub fn at(path: &Path) -> Result<Self, StoreError> {
        refuse_inside_app(path)?;
        let (above, name) = machine_dir(path)?;
        Ok(Self { above: Arc::new(above), name, path: path.to_owned() })
    }

    /// In the root of any disk.
    pub fn beneath(above: Arc<dyn Disk>, name: RelPath) -> Self {
        let path = name.as_path().to_owned();
        Self { above, name, path }
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> StoreError + '_ {
        move |error| StoreError::io(verb, &self.path, error)
    }

    /// Give `hidden` the name.
    fn publish(&self, hidden: &RelPath) -> Result<(), StoreError> {
        match self.above.rename(hidden, &self.name) {
            // somebody was quicker
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::Exists(self.path.clone()));
            }
            renamed => renamed.map_err(self.failed("name"))?,
        }
        self.above.sync_dir(&RelPath::root()).map_err(|error| {
            // a sync that failed may never be made good
            let _ = remove_tree(&*self.above, &self.name);
            StoreError::io("sync", &self.path, error)
        })
    }
}

/// Copy `snapshot`, of `store`, into a new directory. Durable on return; on an error nothing is there.
/// The copy holds no more than is live.
///
/// # Errors
/// [`StoreError::Exists`]; those of [`Store::export`] and [`Store::import`].
pub fn copy_store(
    store: &Store,
    snapshot: &Snapshot,
    dest: &NewDir,
    seams: &Seams,
    task: &Task,
) -> Result<Imported, StoreError> {
    let above = &*dest.above;
    match above.stat(&dest.name) {
        Ok(_) => return Err(StoreError::Exists(dest.path.clone())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(dest.failed("look at")(error)),
    }
    let hidden = RelPath::new(format!(".macula-copy-{:016x}", seams.chance.next_u64()))?;
    above.create_dir(&hidden).map_err(dest.failed("create"))?;
    let tree = above.subtree(&hidden).map_err(dest.failed("open"));
    let copied = tree.and_then(|tree| Ok(stream(store, snapshot, tree, &*seams.chance, task)?));
    let copied = copied.and_then(|copied| dest.publish(&hidden).map(|()| copied));
    if copied.is_err() {
        let _ = remove_tree(above, &hidden);
    }
    copied
}

fn stream(
    store: &Store,
    snapshot: &Snapshot,
    disk: Arc<dyn Disk>,
    chance: &dyn Chance,
    task: &Task,
) -> Result<Imported, KvError> {
    let failed = |verb| move |e| KvError::Io { verb, source: Arc::new(e) };
    let (read, write) = io::pipe().map_err(failed("make a pipe"))?;
    // one of the two tells the progress
    let quiet = Task::new(task.cancel.clone(), |_| {});
    std::thread::scope(|threads| {
        let export = move || store.export(snapshot, &mut BufWriter::with_capacity(BUFFER_LEN, write), &quiet);
        let export = std::thread::Builder::new().name("macula-copy".into()).spawn_scoped(threads, export);
        let export = export.map_err(failed("start a thread"))?;
        let imported = {
            // dropped when it ended, so that an export that goes on ends too
            let mut input = BufReader::with_capacity(BUFFER_LEN, read);
            Store::import(disk, chance, &mut input, task)
        };
        let exported = export.join().unwrap_or_else(|_| Err(KvError::Internal("the copy panicked".into())));
        match (imported, exported) {
            // a stream that was cut: the other end says why
            (Err(KvError::Corrupt { .. }), Err(error)) => Err(error),
            (imported, _) => imported,
        }
    })
}
