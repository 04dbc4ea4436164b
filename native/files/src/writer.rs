//! Writing: into a temporary beside the tree, hashed on the way, synced, then renamed into place.
//!
//! Invariant: under its name a file is always wholly one version. Until the rename nothing of the
//! new one can be seen and dropping the writer leaves nothing behind; after the rename only a
//! failed sync of the directory keeps the answer from being plain, and it says so.

use crate::inner::Inner;
use crate::kept::Terms;
use crate::temporary::Temporary;
use crate::{tag, FilesError};
use blake3::Hasher;
use macula_core::{DiskFile, RelPath, Stat};
use std::io;
use std::sync::Arc;

/// A file that was written and is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length in bytes.
    pub len: u64,
    /// Digest of the content.
    pub blake3: [u8; 32],
}

/// A file being written. Dropping it without [`Writer::commit`] leaves no trace.
#[derive(Debug)]
pub struct Writer {
    inner: Arc<Inner>,
    path: RelPath,
    temporary: Temporary,
    hasher: Box<Hasher>,
    failed: bool,
}

impl Writer {
    pub(crate) fn new(inner: Arc<Inner>, path: &RelPath) -> Result<Self, FilesError> {
        // no temporary appears in a tree that is being replaced
        let pass = inner.gate.pass();
        inner.check_usable()?;
        inner.look_at_target(path)?;
        let temporary = Temporary::new(inner.clone()).map_err(|e| FilesError::of("create", path, e));
        let temporary = temporary.map_err(|error| ours(error, "create a temporary", path))?;
        drop(pass);
        Ok(Self { inner, path: path.clone(), temporary, hasher: Box::new(Hasher::new()), failed: false })
    }

    /// Append. After an error the writer can only be dropped.
    pub fn write_chunk(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.check()?;
        self.failed = true;
        let written = self.temporary.file.write_all_at(bytes, self.temporary.len());
        written.map_err(|e| FilesError::of("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.temporary.grew(bytes.len() as u64);
        self.failed = false;
        Ok(())
    }

    /// Put the file in its place, replacing what is there. `Ok`: it is durable, name and content.
    /// [`FilesError::UnknownResult`]: it is in its place, but may not survive a power loss. Any
    /// other error: nothing changed.
    pub fn commit(mut self) -> Result<Written, FilesError> {
        self.check()?;
        let blake3 = *self.hasher.finalize().as_bytes();
        let file = &*self.temporary.file;
        let sealed = finish(file, Some(&blake3)).and_then(|stat| file.sync_data().map(|()| stat));
        let stat = sealed.map_err(|e| FilesError::of("sync", &self.path, e))?;
        let placed = self.inner.place((&self.temporary.at, Some(&stat)), &self.path, &Terms::none());
        let (owed, _) = placed.map_err(|error| ours(error, "put into place", &self.path))?;
        self.temporary.named();
        self.inner.settle(owed, &self.path)?;
        Ok(Written { len: self.temporary.len(), blake3 })
    }

    fn check(&self) -> Result<(), FilesError> {
        if self.failed {
            return Err(FilesError::WriterFailed { path: self.path.clone() });
        }
        Ok(())
    }
}

/// Tell everybody what a file holds, if that is known, before it is synced and put into its place; gives its stat.
pub(crate) fn finish(file: &dyn DiskFile, blake3: Option<&[u8; 32]>) -> io::Result<Stat> {
    // 0644: ordinary tools read what lies here
    file.set_mode(0o644)?;
    let stat = file.stat()?;
    if let Some(blake3) = blake3 {
        tag::set(file, blake3, &stat)?;
    }
    Ok(stat)
}

/// Where it is our temporary or its directory that is gone, the caller's file is not.
fn ours(error: FilesError, op: &'static str, path: &RelPath) -> FilesError {
    match error {
        FilesError::NotFound { .. } => {
            FilesError::Io { op, path: path.clone(), source: io::ErrorKind::NotFound.into() }
        }
        error => error,
    }
}
