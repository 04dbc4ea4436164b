//! redb on a file of a [`macula_core::Disk`].

use macula_core::DiskFile;
use redb::StorageBackend;
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // room is taken before it is written to
        match len > self.0.len()? {
            true => self.0.allocate(len),
            false => self.0.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
