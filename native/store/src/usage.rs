//! How many bytes an app holds, by part, as `du -sb` counts them (GNU coreutils before 9.2, which
//! counts directories too), without walking its tree when asked.
//!
//! Engines know their own files; `files/` is kept exact by its writers; what other programs write
//! (`uploads/`, `cache/`, anything else) is found by a walk in the background, whose age is stated.
//! The figures of a clean end are kept in `run/<app>.usage`, those of a process that still runs, or
//! was killed, in `run/<app>.usage.open`: an opened app knows them at once, and how far to trust them.

use crate::app::App;
use crate::{Base, Layout, StoreError};
use macula_core::{write_durably, AppName, Disk, FileKind, Ledger, Part, RelPath};
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

/// What is known of an app's usage when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The figures of when it was closed.
    Clean,
    /// Those of some time before a process was killed.
    Stale,
    /// Nothing.
    Nothing,
}

/// Walk an app's tree. Hard links count once, symlinks as themselves, as `du` does. `None`: `stop`
/// said so.
pub(crate) fn walk(app: &dyn Disk, stop: &dyn Fn() -> bool) -> io::Result<Option<Found>> {
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
            if stop() {
                return Ok(None);
            }
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
    Ok((!stop()).then_some(found))
}

/// Walk and set the ledger, unless writers moved under the walk every time. One at a time per app;
/// `stop` also says that the walked tree is no longer the app's. False: it said so, nothing was set.
pub(crate) fn reconcile(app: &App, disk: &dyn Disk, stop: &dyn Fn() -> bool) -> Result<bool, StoreError> {
    const TRIES: usize = 3;
    let ledger = app.ledger();
    for tries_left in (0..TRIES).rev() {
        let before = ledger.get(Part::Files);
        let found = walk(disk, stop).map_err(|e| StoreError::io("walk", app.path(), e))?;
        let Some(found) = found else { return Ok(false) };
        let after = ledger.get(Part::Files);
        for part in Part::ALL {
            if part != Part::Files {
                ledger.set(part, found[part as usize]);
            }
        }
        // with nothing, or little, known before, a walk under load is nearer the truth than sums
        if before == after || (tries_left == 0 && !app.usage_is_fresh()) {
            // a writer may come between the comparison and this: add the difference, never set
            ledger.add(Part::Files, found[Part::Files as usize] as i64 - after as i64);
            break;
        }
        // otherwise the ledger's own sums are
    }
    Ok(true)
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

/// Keep the figures for the next opening, if they are new. `closed`: nothing of ours changes them any
/// more. A lost record costs one walk, so failure is no error.
pub(crate) fn save(base: &Base, app: &App, closed: bool) {
    let Some((usage, clean)) = app.usage_to_save(closed) else { return };
    let path = if clean { Layout::usage(app.name()) } else { while_open(app.name()) };
    let record = Record { version: 1, parts: usage.parts };
    let text = serde_json::to_vec(&record).unwrap_or_default();
    if let Ok(temporary) = RelPath::new(format!("{path}.new")) {
        let _ = write_durably(&*base.disk, &path, &temporary, &text);
    }
}

/// Fill the ledger from the last record. The record of a clean end is one no longer.
pub(crate) fn load(base: &Base, app: &AppName, ledger: &Ledger) -> Known {
    let (clean, stale) = (Layout::usage(app), while_open(app));
    if fill(base, &clean, ledger) {
        // not synced: coming back after a power loss, it costs the first walk only
        let _ = base.disk.rename(&clean, &stale);
        Known::Clean
    } else if fill(base, &stale, ledger) {
        Known::Stale
    } else {
        Known::Nothing
    }
}

/// `run/<app>.usage.open`
fn while_open(app: &AppName) -> RelPath {
    let clean = Layout::usage(app);
    let name = format!("{app}.usage.open");
    clean.parent().join(name).unwrap_or_else(|error| panic!("a validated name is a component: {error}"))
}

fn fill(base: &Base, record: &RelPath, ledger: &Ledger) -> bool {
    let Ok(text) = macula_core::read_all(&*base.disk, record, 64 * 1024) else { return false };
    let Ok(record) = serde_json::from_slice::<Record>(&text) else { return false };
    if record.version != 1 {
        return false;
    }
    for part in Part::ALL {
        ledger.set(part, record.parts.get(part.name()).copied().unwrap_or(0));
    }
    true
}
