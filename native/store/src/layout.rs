//! Where things lie under the base directory (design section 7). Paths only; touches no disk.

use macula_core::{AppName, Part, RelPath};
use std::path::{Path, PathBuf};

/// The names below a base directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// Directory of apps.
pub(crate) const APPS: &str = "apps";
/// Directory of backups.
pub(crate) const BACKUPS: &str = "backups";
/// Owner locks, control sockets, usage records: outside what a restore swaps.
pub(crate) const RUN: &str = "run";
/// Every app has these.
pub(crate) const APP_DIRS: [&str; 3] = ["data", "uploads", "cache"];

impl Layout {
    /// The layout below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The base directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `apps/<app>`, relative to the base.
    pub fn app(app: &AppName) -> RelPath {
        below(APPS, app.as_str())
    }

    /// `apps/.restore-<app>`: the sibling that a restore unpacks into, and afterwards the old tree.
    pub fn staging(app: &AppName) -> RelPath {
        below(APPS, &format!(".restore-{app}"))
    }

    /// `apps/.old-<app>`: the old tree where directories cannot be exchanged in one step.
    pub fn old(app: &AppName) -> RelPath {
        below(APPS, &format!(".old-{app}"))
    }

    /// `run/<app>.usage`: the last usage record.
    pub fn usage(app: &AppName) -> RelPath {
        below(RUN, &format!("{app}.usage"))
    }

    /// `run/<app>.lock`: flocked by the owner.
    pub fn lock(app: &AppName) -> RelPath {
        below(RUN, &format!("{app}.lock"))
    }

    /// `state/raft`: the replicated state of this node.
    pub fn state() -> RelPath {
        RelPath::literal("state/raft")
    }

    /// `state/raft-set-aside-<time>`: what it was before it joined others, or left them.
    pub fn state_set_aside(time_ms: u64) -> RelPath {
        below("state", &format!("raft-set-aside-{time_ms}"))
    }

    /// `mesh`: what this node knows of replicated files.
    pub fn mesh() -> RelPath {
        RelPath::literal("mesh")
    }

    /// `run/.mesh.lock`: flocked by who has that open.
    pub fn mesh_lock() -> RelPath {
        RelPath::literal("run/.mesh.lock")
    }

    /// `run/.state.lock`, a name that no app can have: flocked by who has the replicated state open.
    pub fn state_lock() -> RelPath {
        RelPath::literal("run/.state.lock")
    }

    /// The absolute path of `relative`.
    pub fn absolute(&self, relative: &RelPath) -> PathBuf {
        self.root.join(relative.as_path())
    }

    /// The directory of locks and sockets, absolute.
    pub fn run(&self) -> PathBuf {
        self.root.join(RUN)
    }

    /// The absolute path of the app's SQLite database.
    pub fn database(&self, app: &AppName) -> PathBuf {
        self.absolute(&Self::app(app)).join("data/app.db")
    }

    /// Which part of an app a path inside its directory belongs to.
    pub fn part_of(path: &RelPath) -> Part {
        let within = |dir: &'static str| path.is_within(&RelPath::literal(dir));
        // the directory itself is no byte of the engine's
        if within("data/kv") && *path != RelPath::literal("data/kv") {
            Part::Kv
        } else if within("data/files") {
            Part::Files
        } else if within("uploads") {
            Part::Uploads
        } else if within("cache") {
            Part::Cache
        } else if is_database(path) {
            Part::Sqlite
        } else {
            Part::Other
        }
    }
}

/// Whether it is the app's own database or one of SQLite's files beside it.
pub(crate) fn is_database(path: &RelPath) -> bool {
    let bytes = path.as_bytes();
    let names: [&[u8]; 4] = [b"data/app.db", b"data/app.db-wal", b"data/app.db-shm", b"data/app.db-journal"];
    names.contains(&bytes)
}

fn below(dir: &'static str, name: &str) -> RelPath {
    RelPath::literal(dir).join(name).unwrap_or_else(|error| panic!("a validated name is a component: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_whole_components() {
        let part = |path: &'static str| Layout::part_of(&RelPath::literal(path));
        assert_eq!(part("data/kv/kv.redb"), Part::Kv);
        assert_eq!(part("data/kv"), Part::Other);
        assert_eq!(part("data/kv2"), Part::Other);
        assert_eq!(part("data/app.db-wal"), Part::Sqlite);
        assert_eq!(part("data/app.db.old"), Part::Other);
        assert_eq!(part("uploads"), Part::Uploads);
        assert_eq!(part("data"), Part::Other);
    }
}
