//! Where a copy on the machine must not go: over the files that an app lives in.
//!
//! Invariant: a rename over an open database or store leaves its owner writing to a file that has no
//! name any more, so every later `:ok` of it would be lost. Looked at here, before a byte is written.

use crate::layout::APPS;
use crate::{Layout, StoreError};
use macula_core::AppName;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Refuse a destination in `<base>/apps/<app>/data/` that is the app's database, one of SQLite's
/// files beside it, or in the directory of its key-value store.
///
/// # Errors
/// [`StoreError::Destination`].
pub fn refuse_destination(layout: &Layout, dest: &Path) -> Result<(), StoreError> {
    // by what it is called and by where its directory is, so that no symlink leads past this
    let leads_to = dest.parent().and_then(|dir| dir.canonicalize().ok()).zip(dest.file_name());
    let leads_to = leads_to.map(|(dir, name)| dir.join(name));
    if is_live(layout, dest) || leads_to.is_some_and(|path| is_live(layout, &path)) {
        return Err(StoreError::Destination(dest.to_owned()));
    }
    Ok(())
}

fn is_live(layout: &Layout, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(layout.root().join(APPS)) else { return false };
    let names: Vec<&OsStr> = inside.components().filter_map(normal).collect();
    let [app, data, name, ..] = names[..] else { return false };
    let is_app = app.to_str().is_some_and(|app| AppName::new(app).is_ok());
    let database = name.as_bytes().strip_prefix(b"app.db");
    let is_database = database.is_some_and(|end| [&b""[..], b"-wal", b"-shm", b"-journal"].contains(&end));
    is_app && data == "data" && (is_database || name == "kv")
}

fn normal(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn live_files_are_refused_by_whatever_path() {
        let dir = tempfile::tempdir().expect("temp");
        let base = dir.path().canonicalize().expect("there");
        let data = base.join("apps/a/data");
        std::fs::create_dir_all(data.join("kv")).expect("made");
        std::os::unix::fs::symlink(&data, base.join("link")).expect("linked");
        let layout = Layout::new(base.clone());
        let refused = |path: &Path| refuse_destination(&layout, path).is_err();
        for name in ["app.db", "app.db-wal", "app.db-shm", "app.db-journal", "kv", "kv/kv.redb"] {
            assert!(refused(&data.join(name)), "{name}");
        }
        assert!(refused(&base.join("link/app.db")) && refused(&data.join("../data/app.db")));
        for name in ["copy.db", "app.db.copy", "files/app.db"] {
            assert!(!refused(&data.join(name)), "{name}");
        }
        assert!(!refused(&base.join("backups/app.db")) && !refused(Path::new("/tmp/app.db")));
    }
}
