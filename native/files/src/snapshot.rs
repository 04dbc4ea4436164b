//! The files of one instant, readable while writers go on.
//!
//! Why an open is right: it opens the live file first and looks for a record second. A writer
//! records before it renames or removes. So when there is no record at the second step, no change
//! had begun at the first, and the descriptor is that of the instant's version, which no later
//! rename can touch; when there is one, it names the version set aside. The other order could find
//! no record, lose to a writer, and open the new version. A directory is listed in the same order.

use crate::aside::{Aside, Past};
use crate::inner::{place_of, Inner};
use crate::walk::{Found, Source, Walk};
use crate::FilesError;
use macula_core::{DiskFile, FileKind, Open, RelPath, Stat};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// A file, directory, symlink or other thing of a snapshot.
#[derive(Debug, Clone)]
pub struct SnapEntry(Found);

impl SnapEntry {
    /// Its name, as callers of [`crate::Files`] know it.
    pub fn path(&self) -> &RelPath {
        &self.0.path
    }

    /// Where it lies below the app's `data/`, for an archive of that directory.
    pub fn archive_path(&self) -> RelPath {
        // a name found on disk below that directory fits below it
        place_of(&self.0.path).unwrap_or_else(|_| self.0.path.clone())
    }

    /// As `lstat` at that instant; a directory that still stands may have later times.
    pub fn stat(&self) -> &Stat {
        &self.0.stat
    }

    /// A symlink's text.
    pub fn target(&self) -> Option<&Path> {
        self.0.target.as_deref()
    }
}

/// One instant of an app's files. Dropping it removes what was set aside for it (one call per file
/// replaced or removed meanwhile: drop it where files may be removed).
#[derive(Debug)]
pub struct FileSnapshot {
    inner: Arc<Inner>,
    aside: Arc<Aside>,
}

impl FileSnapshot {
    pub(crate) fn take(inner: Arc<Inner>) -> Self {
        let aside = Arc::new(Aside::new(inner.chance.next_u64(), inner.clock.wall_ms()));
        inner.names().snapshots.push(aside.clone());
        Self { inner, aside }
    }

    /// When it was taken, milliseconds since 1970.
    pub fn taken_ms(&self) -> u64 {
        self.aside.taken_ms
    }

    /// Visit every file, directory (before its content), symlink and other thing of that instant, in
    /// byte order of whole paths, until `visit` breaks. What other programs remove is passed over.
    pub fn walk(&self, visit: &mut dyn FnMut(SnapEntry) -> ControlFlow<()>) -> Result<(), FilesError> {
        let mut walk = Walk::new(self, None);
        walk.enter(RelPath::root())?;
        while let Some(found) = walk.step()? {
            if visit(SnapEntry(found)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The content of a file of that instant; `None` when another program took it away, or the entry
    /// is no file. Another program's writes into the file itself can be seen: compare its stat.
    pub fn open(&self, entry: &SnapEntry) -> Result<Option<Arc<dyn DiskFile>>, FilesError> {
        let path = entry.path();
        let of = |error| FilesError::of("open", path, error);
        let live = self.inner.data.open(&place_of(path)?, Open::Read).map_err(of);
        match self.aside.past(path) {
            Some(Past::File(_, number)) => {
                let aside = self.aside.file(number).map_err(of)?;
                self.inner.data.open(&aside, Open::Read).map(Some).map_err(of)
            }
            Some(Past::Absent | Past::Dir(_) | Past::Symlink(..)) => Ok(None),
            None => gone(live),
        }
    }
}

/// `None` for what is no longer a file there.
fn gone<T>(result: Result<T, FilesError>) -> Result<Option<T>, FilesError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(FilesError::NotFound { .. } | FilesError::IsDirectory { .. } | FilesError::NotAFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names in a live directory; none when it is no directory any more.
pub(crate) fn live_names(inner: &Inner, dir: &RelPath) -> Result<Vec<OsString>, FilesError> {
    let listed = inner.data.list(&place_of(dir)?).map_err(|e| FilesError::of("list", dir, e));
    Ok(gone(listed)?.unwrap_or_default().into_iter().map(|entry| entry.name).collect())
}

/// What a live name stands for.
pub(crate) fn live_look(inner: &Inner, path: &RelPath) -> Result<Option<Found>, FilesError> {
    // found on disk, but too long to be asked for
    let Ok(at) = place_of(path) else { return Ok(None) };
    let known = inner.data.stat(&at).and_then(|stat| match stat.kind {
        FileKind::Symlink => Ok((stat, Some(inner.data.read_link(&at)?))),
        _ => Ok((stat, None)),
    });
    let known = match known {
        // it became something else between the two calls
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
        known => gone(known.map_err(|e| FilesError::of("stat", path, e)))?,
    };
    Ok(known.map(|(stat, target)| Found { path: path.clone(), stat, target }))
}

impl Source for FileSnapshot {
    fn names(&self, dir: &RelPath) -> Result<Vec<OsString>, FilesError> {
        let live = live_names(&self.inner, dir)?;
        let past = self.aside.names(dir);
        if past.is_empty() {
            return Ok(live);
        }
        Ok(live.into_iter().chain(past).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn look(&self, path: &RelPath) -> Result<Option<Found>, FilesError> {
        let live = live_look(&self.inner, path)?;
        let found = |stat, target| Some(Found { path: path.clone(), stat, target });
        Ok(match self.aside.past(path) {
            None => live,
            Some(Past::Absent) => None,
            Some(Past::Dir(stat) | Past::File(stat, _)) => found(stat, None),
            Some(Past::Symlink(stat, target)) => found(stat, Some(target)),
        })
    }
}

impl Drop for FileSnapshot {
    fn drop(&mut self) {
        self.inner.names().snapshots.retain(|other| !Arc::ptr_eq(other, &self.aside));
        self.aside.clear(&self.inner);
    }
}
