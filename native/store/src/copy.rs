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
use std::path::Path;
use std::sync::Arc;

/// Between the thread that reads the one store and the one that builds the other.
const BUFFER_LEN: usize = 64 << 10;

/// Copy `snapshot`, of `store`, into the new directory `dest`. Durable on return; on an error nothing
/// is there. The copy holds no more than is live.
///
/// # Errors
/// [`StoreError::Exists`]; `NotFound` when the directory above is not there; [`StoreError::InsideApp`];
/// those of [`Store::export`] and [`Store::import`].
pub fn copy_store(
    store: &Store,
    snapshot: &Snapshot,
    dest: &Path,
    seams: &Seams,
    task: &Task,
) -> Result<Imported, StoreError> {
    let failed = |e| StoreError::io("create", dest, e);
    let (above, name) = machine_dir(dest)?;
    match above.stat(&name) {
        Ok(_) => return Err(StoreError::Exists(dest.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    refuse_inside_app(dest)?;
    let hidden = RelPath::new(format!(".macula-copy-{:016x}", seams.chance.next_u64()))?;
    above.create_dir(&hidden).map_err(failed)?;
    let tree = above.subtree(&hidden).map_err(failed);
    let copied = tree.and_then(|tree| Ok(stream(store, snapshot, tree, &*seams.chance, task)?));
    let copied = copied.and_then(|copied| publish(&above, &hidden, &name, dest).map(|()| copied));
    if copied.is_err() {
        let _ = remove_tree(&above, &hidden);
    }
    copied
}

fn publish(above: &dyn Disk, hidden: &RelPath, name: &RelPath, dest: &Path) -> Result<(), StoreError> {
    match above.rename(hidden, name) {
        // somebody was quicker
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory) => {
            return Err(StoreError::Exists(dest.to_owned()));
        }
        renamed => renamed.map_err(|e| StoreError::io("name", dest, e))?,
    }
    above.sync_dir(&RelPath::root()).map_err(|e| {
        // a sync that failed may never be made good
        let _ = remove_tree(above, name);
        StoreError::io("sync", dest, e)
    })
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
