//! Reading: a file read from its first byte to its last is compared with its digest.

use crate::{tag, FilesError};
use blake3::Hasher;
use macula_core::{DiskFile, Look, RelPath, Stat};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// What is known about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Length in bytes.
    pub len: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Permission bits.
    pub mode: u32,
    /// Digest of the content, when we wrote it and nobody changed it since.
    pub blake3: Option<[u8; 32]>,
}

/// How a file looks without being read.
pub(crate) fn look_of(stat: &Stat) -> Look {
    Look { len: stat.len, mtime_ns: stat.mtime_ns, ino: stat.ino }
}

/// Fill `bytes` from `offset`, unless the file ends before.
pub(crate) fn fill(file: &dyn DiskFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// An open file. It stays the version that it was when opened, whatever is written meanwhile.
#[derive(Debug)]
pub struct Reader {
    file: Arc<dyn DiskFile>,
    path: RelPath,
    stat: Stat,
    hash: Option<[u8; 32]>,
    /// What was hashed so far and up to where; `None` once the reads were not in order.
    sequence: Mutex<Option<(Box<Hasher>, u64)>>,
}

impl Reader {
    pub(crate) fn new(file: Arc<dyn DiskFile>, path: RelPath) -> Result<Self, FilesError> {
        let known = file.stat().and_then(|stat| Ok((tag::get(&*file, &stat)?, stat)));
        let (hash, stat) = known.map_err(|e| FilesError::of("stat", &path, e))?;
        let sequence = Mutex::new(hash.map(|_| (Box::new(Hasher::new()), 0)));
        Ok(Self { file, path, stat, hash, sequence })
    }

    /// Length in bytes when it was opened.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.stat.len
    }

    /// What was known about it when it was opened.
    pub fn stat(&self) -> FileStat {
        let Stat { len, mtime_ns, mode, .. } = self.stat;
        FileStat { len, mtime_ns, mode, blake3: self.hash }
    }

    /// Read at `offset`, filling `bytes` unless the file ends before; 0 at its end. Reads in order
    /// from the first byte to the last verify the file: the last one fails with
    /// [`FilesError::Corrupt`] if the content is not what was written.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, FilesError> {
        let done = self.peek_at(bytes, offset)?;
        self.follow(&bytes[..done], offset)?;
        Ok(done)
    }

    /// As [`Reader::read_at`], verifying nothing.
    pub fn peek_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, FilesError> {
        fill(&*self.file, bytes, offset).map_err(|e| FilesError::of("read", &self.path, e))
    }

    /// How it looked when it was opened.
    pub fn look(&self) -> Look {
        look_of(&self.stat)
    }

    fn follow(&self, bytes: &[u8], offset: u64) -> Result<(), FilesError> {
        let mut sequence = self.sequence.lock();
        let Some((hasher, next)) = sequence.as_mut() else { return Ok(()) };
        if *next != offset || offset + bytes.len() as u64 > self.stat.len {
            *sequence = None;
            return Ok(());
        }
        hasher.update(bytes);
        *next += bytes.len() as u64;
        if *next < self.stat.len {
            return Ok(());
        }
        let same = self.hash == Some(*hasher.finalize().as_bytes());
        *sequence = None;
        if same {
            return Ok(());
        }
        // another program may have written to it between our reads: then nothing was promised
        let now = self.file.stat().map_err(|e| FilesError::of("stat", &self.path, e))?;
        if now.len == self.stat.len && now.mtime_ns == self.stat.mtime_ns {
            return Err(FilesError::Corrupt { path: self.path.clone() });
        }
        Ok(())
    }
}
