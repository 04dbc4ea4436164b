//! An app's files for whoever replicates them.
//!
//! Invariant: each call asks the app for its engine, so that after a restore it is the one on the
//! restored data; what was staged or opened before stays with the engine that it came from, which
//! answers `Closed` to writes.

use crate::{App, StoreError};
use macula_core::{
    AppFiles, AppFilesError, Expected, Kinded, Look, Looks, Opened, RelPath, Staged, Watcher, TREE_MARK_LEN,
};
use macula_files::Files;
use std::sync::Arc;

impl From<StoreError> for AppFilesError {
    fn from(error: StoreError) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

/// The files of one app. Clones share it.
#[derive(Debug, Clone)]
pub struct AppFilesOf {
    app: Arc<App>,
}

impl AppFilesOf {
    /// The files of `app`, opened on first use.
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// Run `call` on the engine of the moment.
    fn with<T>(&self, call: impl FnOnce(&dyn AppFiles) -> Result<T, AppFilesError>) -> Result<T, AppFilesError> {
        let files: Files = self.app.files()?;
        call(&files)
    }
}

impl AppFiles for AppFilesOf {
    fn stage(&self, name: &str) -> Result<Box<dyn Staged>, AppFilesError> {
        self.with(|files| files.stage(name))
    }

    fn unstage(&self, name: &str) -> Result<(), AppFilesError> {
        self.with(|files| files.unstage(name))
    }

    fn restage(&self, from: &str, to: &str) -> Result<(), AppFilesError> {
        self.with(|files| files.restage(from, to))
    }

    fn staged(&self) -> Result<Vec<String>, AppFilesError> {
        self.with(|files| files.staged())
    }

    fn put(&self, path: &RelPath, staged: &str, keep: Option<&str>, expected: Expected) -> Result<Look, AppFilesError> {
        self.with(|files| files.put(path, staged, keep, expected))
    }

    fn put_unsynced(
        &self,
        path: &RelPath,
        content: &[u8],
        blake3: &[u8; 32],
        expected: Expected,
    ) -> Result<Look, AppFilesError> {
        self.with(|files| files.put_unsynced(path, content, blake3, expected))
    }

    fn sync_all(&self) -> Result<(), AppFilesError> {
        self.with(|files| files.sync_all())
    }

    fn put_kept(
        &self,
        path: &RelPath,
        kept: &str,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, AppFilesError> {
        self.with(|files| files.put_kept(path, kept, keep, expected))
    }

    fn remove(&self, path: &RelPath, keep: Option<&str>, expected: Expected) -> Result<(), AppFilesError> {
        self.with(|files| files.remove(path, keep, expected))
    }

    fn rename(&self, from: &RelPath, to: &RelPath, keep: Option<&str>) -> Result<Look, AppFilesError> {
        self.with(|files| files.rename(from, to, keep))
    }

    fn keep(&self, staged: &str, kept: &str) -> Result<(), AppFilesError> {
        self.with(|files| files.keep(staged, kept))
    }

    fn settle(&self, path: &RelPath) -> Result<(), AppFilesError> {
        self.with(|files| files.settle(path))
    }

    fn look(&self, path: &RelPath) -> Result<Option<Look>, AppFilesError> {
        self.with(|files| files.look(path))
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn Opened>, AppFilesError> {
        self.with(|files| files.open(path))
    }

    fn open_kept(&self, kept: &str) -> Result<Box<dyn Opened>, AppFilesError> {
        self.with(|files| files.open_kept(kept))
    }

    fn unkeep(&self, kept: &str) -> Result<(), AppFilesError> {
        self.with(|files| files.unkeep(kept))
    }

    fn kept(&self) -> Result<Vec<String>, AppFilesError> {
        self.with(|files| files.kept())
    }

    fn tree_mark(&self) -> Result<Option<[u8; TREE_MARK_LEN]>, AppFilesError> {
        self.with(|files| files.tree_mark())
    }

    fn mark_tree(&self, mark: &[u8; TREE_MARK_LEN]) -> Result<(), AppFilesError> {
        self.with(|files| files.mark_tree(mark))
    }

    fn watch(&self, dir: &RelPath, watcher: &Watcher) -> Result<i32, AppFilesError> {
        self.with(|files| files.watch(dir, watcher))
    }

    fn names(&self, dir: &RelPath) -> Result<Vec<(RelPath, bool)>, AppFilesError> {
        self.with(|files| files.names(dir))
    }

    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Looks, AppFilesError> {
        self.with(|files| files.page(after, limit))
    }
}
