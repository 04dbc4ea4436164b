//! Which files are open as an app's database in this process, for connections that reach one by its path.
//!
//! Invariant: a database is in it from before its writer starts until it is dropped.

use crate::database::Shared;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};

/// Device and number of a file.
pub(crate) type FileId = (u64, u64);

static DATABASES: Mutex<BTreeMap<FileId, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// Of the file at `path`; links are followed, nothing is opened.
pub(crate) fn file_id(path: &str) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// From now on `shared` is the app's database in that file.
pub(crate) fn enter(file: FileId, shared: &Arc<Shared>) {
    let mut databases = DATABASES.lock();
    databases.retain(|_, open| open.strong_count() > 0);
    databases.insert(file, Arc::downgrade(shared));
}

/// The app's database in that file, unless it is closed.
pub(crate) fn find(file: FileId) -> Option<Arc<Shared>> {
    let found = DATABASES.lock().get(&file)?.upgrade()?;
    found.closing_error().is_none().then_some(found)
}
