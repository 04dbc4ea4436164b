//! Writing: into a temporary beside the tree, hashed on the way, synced, then renamed into place.
//!
//! Invariant: under its name a file is always wholly one version. Until the rename nothing of the
//! new one can be seen and dropping the writer leaves nothing behind; after the rename only a
//! failed sync of the directory keeps the answer from being plain, and it says so.

use crate::inner::{Inner, TEMPORARIES};
use crate::{tag, FilesError};
use blake3::Hasher;
use macula_core::{create_dir_all, DiskFile, Open, Part, RelPath};
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
    temporary: RelPath,
    file: Arc<dyn DiskFile>,
    hasher: Box<Hasher>,
    len: u64,
    failed: bool,
    placed: bool,
}

impl Writer {
    pub(crate) fn new(inner: Arc<Inner>, path: &RelPath) -> Result<Self, FilesError> {
        // no temporary appears in a tree that is being replaced
        let pass = inner.gate.pass();
        inner.check_usable()?;
        inner.look_at_target(path)?;
        let (temporary, file) = create_temporary(&inner).map_err(|e| match FilesError::of("create", path, e) {
            // it is our directory that is gone, not the caller's file
            FilesError::NotFound { path } => {
                FilesError::Io { op: "create a temporary", path, source: io::ErrorKind::NotFound.into() }
            }
            error => error,
        })?;
        drop(pass);
        let hasher = Box::new(Hasher::new());
        Ok(Self { inner, path: path.clone(), temporary, file, hasher, len: 0, failed: false, placed: false })
    }

    /// Append. After an error the writer can only be dropped.
    pub fn write_chunk(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        self.check()?;
        self.failed = true;
        self.file.write_all_at(bytes, self.len).map_err(|e| FilesError::of("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        self.inner.ledger.add(Part::Other, bytes.len() as i64);
        self.failed = false;
        Ok(())
    }

    /// Put the file in its place, replacing what is there. `Ok`: it is durable, name and content.
    /// [`FilesError::UnknownResult`]: it is in its place, but may not survive a power loss. Any
    /// other error: nothing changed.
    pub fn commit(mut self) -> Result<Written, FilesError> {
        self.check()?;
        let hash = *self.hasher.finalize().as_bytes();
        self.seal(&hash).map_err(|e| FilesError::of("sync", &self.path, e))?;
        let owed = self.inner.place(&self.temporary, &self.path)?;
        self.placed = true;
        self.inner.settle(owed, &self.path)?;
        Ok(Written { len: self.len, blake3: hash })
    }

    fn seal(&self, hash: &[u8; 32]) -> io::Result<()> {
        // 0644: ordinary tools read what lies here
        self.file.set_mode(0o644)?;
        tag::set(&*self.file, hash, &self.file.stat()?)?;
        self.file.sync_data()
    }

    fn check(&self) -> Result<(), FilesError> {
        if self.failed {
            return Err(FilesError::WriterFailed { path: self.path.clone() });
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.inner.ledger.add(Part::Other, -(self.len as i64));
        if !self.placed {
            // what cannot be removed now is removed by the next open
            let _ = self.inner.data.remove_file(&self.temporary);
        }
    }
}

fn create_temporary(inner: &Inner) -> io::Result<(RelPath, Arc<dyn DiskFile>)> {
    let dir = RelPath::literal(TEMPORARIES);
    let mut tries = 0;
    loop {
        let name = format!("{:016x}", inner.chance.next_u64());
        let path = dir.join(name).map_err(io::Error::other)?;
        tries += 1;
        match inner.data.open(&path, Open::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 100 => {}
            // another program tidied up our directory
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => create_dir_all(&*inner.data, &dir)?,
            result => return Ok((path, result?)),
        }
    }
}
