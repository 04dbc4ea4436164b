//! The plain tree: everything beneath a directory, in the order of its names.
//!
//! Invariant: memory grows with the depth of the tree and its widest directories on the way, not with
//! its size. Devices, fifos and sockets are passed over; names that vanish while the tree is walked
//! are too.

use crate::item::{Item, Source, Tree};
use macula_core::{Disk, DiskFile, Entry, FileKind, Open, RelPath};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Opens items by their own path beneath a directory.
#[derive(Debug)]
pub struct DiskTree(pub Arc<dyn Disk>);

impl Tree for DiskTree {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.0.open(&item.path, Open::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The items of a tree, without the directory itself.
pub struct Walk<F> {
    wants: F,
    /// Directories being listed, the deepest last, with the names still to come.
    levels: Vec<Level>,
}

struct Level {
    path: RelPath,
    dir: Arc<dyn Disk>,
    names: std::vec::IntoIter<Entry>,
}

impl<F: FnMut(&RelPath, FileKind) -> bool> Walk<F> {
    /// Walks `dir`. What `wants` does not want is left out, a directory with all below it.
    pub fn new(dir: &Arc<dyn Disk>, wants: F) -> io::Result<Self> {
        let names = dir.list(&RelPath::root())?.into_iter();
        Ok(Self { wants, levels: vec![Level { path: RelPath::root(), dir: Arc::clone(dir), names }] })
    }

    fn item(&mut self, name: &Entry) -> io::Result<Option<Item>> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidFilename, error);
        let own = RelPath::new(name.name.as_bytes()).map_err(invalid)?;
        let path = level.path.join(name.name.as_bytes()).map_err(invalid)?;
        let stat = level.dir.stat(&own)?;
        if !(self.wants)(&path, stat.kind) {
            return Ok(None);
        }
        let (source, len) = match stat.kind {
            FileKind::File => (Source::File, stat.len),
            FileKind::Symlink => (Source::Symlink { target: level.dir.read_link(&own)? }, 0),
            FileKind::Dir => {
                let dir = level.dir.subtree(&own)?;
                let names = dir.list(&RelPath::root())?.into_iter();
                self.levels.push(Level { path: path.clone(), dir, names });
                (Source::Dir, 0)
            }
            FileKind::Other => return Ok(None),
        };
        Ok(Some(Item { path, source, mode: stat.mode, mtime_ns: stat.mtime_ns, len, token: 0 }))
    }
}

impl<F: FnMut(&RelPath, FileKind) -> bool> Iterator for Walk<F> {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(name) = self.levels.last_mut()?.names.next() else {
                self.levels.pop();
                continue;
            };
            match self.item(&name) {
                Ok(Some(item)) => return Some(Ok(item)),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Gone, or replaced by something else, between its listing and its opening.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    // a symlink (ELOOP) or a socket (ENXIO) stands there now; InvalidInput: a device or fifo
    matches!(error.raw_os_error(), Some(40 | 6))
        || matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidInput)
}
