//! A file in `.macula/tmp`, which nobody sees.
//!
//! Invariant: dropped without a name of its own it leaves nothing behind, and the ledger counts its
//! bytes as long as it is there.

use crate::inner::{Inner, TEMPORARIES};
use macula_core::{create_dir_all, DiskFile, Open, Part, RelPath};
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Temporary {
    inner: Arc<Inner>,
    pub at: RelPath,
    pub file: Arc<dyn DiskFile>,
    len: u64,
    named: bool,
}

impl Temporary {
    pub fn new(inner: Arc<Inner>) -> io::Result<Self> {
        let (at, file) = create(&inner)?;
        Ok(Self { inner, at, file, len: 0, named: false })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Somebody wrote so many bytes at its end.
    pub fn grew(&mut self, by: u64) {
        self.len += by;
        self.inner.ledger.add(Part::Other, by as i64);
    }

    /// It has another name now, and whoever gave it that accounts for its bytes.
    pub fn named(&mut self) {
        self.named = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            self.inner.ledger.add(Part::Other, -(self.len as i64));
            // what cannot be removed now is removed by the next open
            let _ = self.inner.data.remove_file(&self.at);
        }
    }
}

fn create(inner: &Inner) -> io::Result<(RelPath, Arc<dyn DiskFile>)> {
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
