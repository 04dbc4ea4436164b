//! What lies in an app's directory beside the engines' own files: uploads, cache, other files under
//! `data/`, written by any program at any time.
//!
//! Such files have no instant: each is archived as it is when read, and marked when it changed
//! meanwhile. SQLite databases among them are never read as files while anybody has them open; they
//! are copied by SQLite into the scratch directory.

use crate::layout::is_database;
use crate::StoreError;
use macula_archive::{Item, Source};
use macula_core::{Disk, FileKind, RelPath, Stat};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What of the app's directory a walk visits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// `cache/` as well.
    pub cache: bool,
}

/// Whether the walk leaves `path` to an engine, or out altogether.
fn is_left_out(path: &RelPath, scope: Scope) -> bool {
    let is = |name: &'static str| *path == RelPath::literal(name);
    is("data/kv") || is("data/files") || is("data/.macula") || is_database(path) || (is("cache") && !scope.cache)
}

/// Visit everything in scope, directories before what is in them, in byte order of names.
pub(crate) fn walk(
    app: &dyn Disk,
    scope: Scope,
    visit: &mut dyn FnMut(RelPath, Stat) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    walk_dir(app, &RelPath::root(), scope, visit)
}

fn walk_dir(
    app: &dyn Disk,
    dir: &RelPath,
    scope: Scope,
    visit: &mut dyn FnMut(RelPath, Stat) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some(entries) = unless_changed(dir, app.list(dir))? else { return Ok(()) };
    for entry in entries {
        let path = dir.join(entry.name.as_bytes())?;
        if is_left_out(&path, scope) {
            continue;
        }
        let Some(stat) = unless_changed(&path, app.stat(&path))? else { continue };
        let kind = stat.kind;
        visit(path.clone(), stat)?;
        if kind == FileKind::Dir {
            walk_dir(app, &path, scope, visit)?;
        }
    }
    Ok(())
}

/// What is not there is no error.
pub(crate) fn unless_gone<T>(path: &RelPath, result: io::Result<T>) -> Result<Option<T>, StoreError> {
    unless(path, result, |error| error.kind() == io::ErrorKind::NotFound)
}

/// What vanishes while we walk, or becomes something else, is not there; anything else that cannot be
/// read must not be left out of a backup in silence.
pub(crate) fn unless_changed<T>(path: &RelPath, result: io::Result<T>) -> Result<Option<T>, StoreError> {
    unless(path, result, macula_archive::is_gone)
}

fn unless<T>(
    path: &RelPath,
    result: io::Result<T>,
    is_gone: impl FnOnce(&io::Error) -> bool,
) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read", path.as_path(), error)),
    }
}

/// The archive's item for a name; `None` for what cannot be archived (sockets, devices, fifos).
/// `target` gives the text of a symlink. An empty file is packed without being opened: it may be a
/// database that is about to get its first page from other code of this process, whose locks on it
/// would be dropped by closing it.
pub(crate) fn item(path: RelPath, stat: &Stat, token: u64, target: impl FnOnce() -> Option<PathBuf>) -> Option<Item> {
    let source = match stat.kind {
        FileKind::File if stat.len == 0 => Source::Bytes(Vec::new()),
        FileKind::File => Source::File,
        FileKind::Dir => Source::Dir,
        FileKind::Symlink => Source::Symlink { target: target()? },
        FileKind::Other => return None,
    };
    Some(Item { path, source, mode: stat.mode, mtime_ns: stat.mtime_ns, len: stat.len, token })
}
