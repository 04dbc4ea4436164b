//! [`Files`] as whoever replicates them knows it, through the seam of core only.

use crate::{Files, FilesError, Reader, StagedFile};
use macula_core::{
    AppFiles, AppFilesError, Expected, Kinded, Look, Looks, Opened, RelPath, Staged, Watcher, TREE_MARK_LEN,
};

impl From<FilesError> for AppFilesError {
    fn from(error: FilesError) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

impl Staged for StagedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), AppFilesError> {
        Ok(StagedFile::write_at(self, bytes, offset)?)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, AppFilesError> {
        Ok(StagedFile::read_at(self, bytes, offset)?)
    }

    fn len(&self) -> Result<u64, AppFilesError> {
        Ok(StagedFile::len(self)?)
    }

    fn sync(&self) -> Result<(), AppFilesError> {
        Ok(StagedFile::sync(self)?)
    }

    fn seal(&self, len: u64, blake3: Option<&[u8; 32]>) -> Result<(), AppFilesError> {
        Ok(StagedFile::seal(self, len, blake3)?)
    }
}

impl Opened for Reader {
    fn look(&self) -> Look {
        Reader::look(self)
    }

    fn blake3(&self) -> Option<[u8; 32]> {
        self.stat().blake3
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, AppFilesError> {
        Ok(self.peek_at(bytes, offset)?)
    }
}

impl AppFiles for Files {
    fn stage(&self, name: &str) -> Result<Box<dyn Staged>, AppFilesError> {
        Ok(Box::new(Files::stage(self, name)?))
    }

    fn unstage(&self, name: &str) -> Result<(), AppFilesError> {
        Ok(Files::unstage(self, name)?)
    }

    fn restage(&self, from: &str, to: &str) -> Result<(), AppFilesError> {
        Ok(Files::restage(self, from, to)?)
    }

    fn staged(&self) -> Result<Vec<String>, AppFilesError> {
        Ok(Files::staged(self)?)
    }

    fn put(&self, path: &RelPath, staged: &str, keep: Option<&str>, expected: Expected) -> Result<Look, AppFilesError> {
        Ok(Files::put(self, path, staged, keep, expected)?)
    }

    fn put_unsynced(
        &self,
        path: &RelPath,
        content: &[u8],
        blake3: &[u8; 32],
        expected: Expected,
    ) -> Result<Look, AppFilesError> {
        Ok(Files::put_unsynced(self, path, content, blake3, expected)?)
    }

    fn sync_all(&self) -> Result<(), AppFilesError> {
        Ok(Files::sync_all(self)?)
    }

    fn put_kept(
        &self,
        path: &RelPath,
        kept: &str,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, AppFilesError> {
        Ok(Files::put_kept(self, path, kept, keep, expected)?)
    }

    fn remove(&self, path: &RelPath, keep: Option<&str>, expected: Expected) -> Result<(), AppFilesError> {
        Ok(Files::remove(self, path, keep, expected)?)
    }

    fn rename(&self, from: &RelPath, to: &RelPath, keep: Option<&str>) -> Result<Look, AppFilesError> {
        Ok(self.rename_keeping(from, to, keep)?)
    }

    fn keep(&self, staged: &str, kept: &str) -> Result<(), AppFilesError> {
        Ok(Files::keep(self, staged, kept)?)
    }

    fn settle(&self, path: &RelPath) -> Result<(), AppFilesError> {
        Ok(Files::settle(self, path)?)
    }

    fn look(&self, path: &RelPath) -> Result<Option<Look>, AppFilesError> {
        Ok(Files::look(self, path)?)
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn Opened>, AppFilesError> {
        Ok(Box::new(self.reader(path)?))
    }

    fn open_kept(&self, kept: &str) -> Result<Box<dyn Opened>, AppFilesError> {
        Ok(Box::new(Files::open_kept(self, kept)?))
    }

    fn unkeep(&self, kept: &str) -> Result<(), AppFilesError> {
        Ok(Files::unkeep(self, kept)?)
    }

    fn kept(&self) -> Result<Vec<String>, AppFilesError> {
        Ok(Files::kept(self)?)
    }

    fn tree_mark(&self) -> Result<Option<[u8; TREE_MARK_LEN]>, AppFilesError> {
        Ok(Files::tree_mark(self)?)
    }

    fn mark_tree(&self, mark: &[u8; TREE_MARK_LEN]) -> Result<(), AppFilesError> {
        Ok(Files::mark_tree(self, mark)?)
    }

    fn watch(&self, dir: &RelPath, watcher: &Watcher) -> Result<i32, AppFilesError> {
        Ok(Files::watch(self, dir, watcher)?)
    }

    fn names(&self, dir: &RelPath) -> Result<Vec<(RelPath, bool)>, AppFilesError> {
        Ok(Files::names(self, dir)?)
    }

    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Looks, AppFilesError> {
        Ok(Files::page(self, after, limit)?)
    }
}
