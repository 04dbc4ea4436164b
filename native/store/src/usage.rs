//! How many bytes an app holds, by part, as `du -sb` counts them (GNU coreutils before 9.2, which
//! counts directories too), without walking its tree when asked.
//!
//! Engines know their own files; `files/` is kept exact by its writers; what other programs write
//! (`uploads/`, `cache/`, anything else) is found by a walk in the background, whose age is stated.
//! The last figures are kept in `run/<app>.usage`, so that an opened app knows them at once.

use crate::app::App;
use crate::{Base, Layout, StoreError};
use macula_core::{write_durably, Disk, FileKind, Ledger, Part, RelPath};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Bytes by part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of each part, by [`Part::name`].
    pub parts: BTreeMap<String, u64>,
    /// Bytes of all parts.
    pub total: u64,
    /// Milliseconds since the parts that other programs write were last walked; `None`: not yet
    /// since the app was opened (the figures are those of the last record).
    pub age_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    parts: BTreeMap<String, u64>,
}

/// Bytes found by a walk, by part.
pub(crate) type Found = [u64; Part::ALL.len()];

/// Walk an app's tree. Hard links count once, symlinks as themselves, as `du` does.
pub(crate) fn walk(app: &dyn Disk) -> io::Result<Found> {
    let mut found = Found::default();
    let mut linked = HashSet::new();
    let mut dirs = vec![RelPath::root()];
    found[Part::Other as usize] += app.stat(&RelPath::root())?.len;
    while let Some(dir) = dirs.pop() {
        // what vanishes while we walk is not there
        let Ok(entries) = app.list(&dir) else { continue };
        // one directory's entries by its own descriptor: one lookup each, not one per level
        let Ok(tree) = app.subtree(&dir) else { continue };
        for entry in entries {
            let name = entry.name.as_bytes();
            let (Ok(name), Ok(path)) = (RelPath::new(name), dir.join(name)) else { continue };
            let Ok(stat) = tree.stat(&name) else { continue };
            if stat.kind == FileKind::Dir {
                dirs.push(path.clone());
            } else if stat.nlink > 1 && !linked.insert((stat.dev, stat.ino)) {
                continue;
            }
            found[Layout::part_of(&path) as usize] += stat.len;
        }
    }
    Ok(found)
}

/// Walk and set the ledger, unless writers moved under the walk every time. One at a time per app;
/// `same` says whether the walked tree is still the app's, which a restore ends.
pub(crate) fn reconcile(app: &App, disk: &dyn Disk, same: impl Fn() -> bool) -> Result<(), StoreError> {
    const TRIES: usize = 3;
    let ledger = app.ledger();
    for _ in 0..TRIES {
        let before = ledger.get(Part::Files);
        let found = walk(disk).map_err(|e| StoreError::io("walk", app.path(), e))?;
        if !same() {
            return Ok(());
        }
        let after = ledger.get(Part::Files);
        for part in Part::ALL {
            if part != Part::Files {
                ledger.set(part, found[part as usize]);
            }
        }
        if before == after {
            // a writer may come between the comparison and this: add the difference, never set
            ledger.add(Part::Files, found[Part::Files as usize] as i64 - after as i64);
            break;
        }
        // under load the ledger's own sums are nearer the truth than a walk
    }
    Ok(())
}

/// The figures as they are now.
pub(crate) fn read(app: &App) -> Usage {
    let mut parts = BTreeMap::new();
    for part in Part::ALL {
        let live = app.engine_bytes(part);
        parts.insert(part.name().to_owned(), live.unwrap_or_else(|| app.ledger().get(part)));
    }
    let total = parts.values().sum();
    Usage { parts, total, age_ms: app.usage_age().map(|age| age.as_millis() as u64) }
}

/// Keep the figures for the next opening, if they are new. A lost record costs one walk, so failure
/// is no error.
pub(crate) fn save(base: &Base, app: &App) {
    let Some(usage) = app.usage_to_save() else { return };
    let path = Layout::usage(app.name());
    let record = Record { version: 1, parts: usage.parts };
    let text = serde_json::to_vec(&record).unwrap_or_default();
    if let Ok(temporary) = RelPath::new(format!("{path}.new")) {
        let _ = write_durably(&*base.disk, &path, &temporary, &text);
    }
}

/// Fill the ledger from the last record; false when there is none that we can read.
pub(crate) fn load(base: &Base, app: &macula_core::AppName, ledger: &Ledger) -> bool {
    let Ok(text) = macula_core::read_all(&*base.disk, &Layout::usage(app), 64 * 1024) else { return false };
    let Ok(record) = serde_json::from_slice::<Record>(&text) else { return false };
    if record.version != 1 {
        return false;
    }
    for part in Part::ALL {
        ledger.set(part, record.parts.get(part.name()).copied().unwrap_or(0));
    }
    true
}
