//! An open file of the simulated disk. Like a descriptor it outlives the names of its file, and
//! works on the machine that opened it, never on the one found after a crash.

use crate::content::{Change, FileData};
use crate::machine::{fault_error, Core, Fault};
use crate::tree::*;
use macula_core::{DiskFile, Stat};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct FaultFile {
    pub core: Arc<Mutex<Core>>,
    pub ino: u64,
    pub writable: bool,
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        self.core.lock().release(self.ino);
    }
}

impl FaultFile {
    fn with_data<T>(&self, core: &Core, read: impl FnOnce(&FileData) -> T) -> io::Result<T> {
        match &core.tree.node(self.ino)?.body {
            Body::File(data) => Ok(read(data)),
            _ => Err(errno(EINVAL)),
        }
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Core>> {
        let core = self.core.lock();
        core.check()?;
        Ok(core)
    }

    fn step(&self, operation: &'static str) -> io::Result<MutexGuard<'_, Core>> {
        let mut core = self.core.lock();
        core.step(operation).map_err(fault_error)?;
        Ok(core)
    }

    fn for_writing(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(errno(EBADF))
        }
    }

    /// A step that makes the disk write: where it fails, what was not synced is in nobody's hands.
    fn sync_step(&self, operation: &'static str) -> io::Result<MutexGuard<'_, Core>> {
        let mut core = self.core.lock();
        match core.step(operation) {
            Ok(()) => Ok(core),
            Err(Fault::Crash) => Err(fault_error(Fault::Crash)),
            Err(fault) => {
                if let Some(Body::File(data)) = core.tree.nodes.get_mut(&self.ino).map(|node| &mut node.body) {
                    data.fail_sync();
                }
                Err(fault_error(fault))
            }
        }
    }

    fn change_meta(&self, operation: &'static str, change: impl FnOnce(&mut Meta)) -> io::Result<()> {
        let mut core = self.step(operation)?;
        let now = core.now();
        let node = core.tree.nodes.get_mut(&self.ino).ok_or_else(|| errno(ENOENT))?;
        node.meta.ctime_ns = now;
        change(&mut node.meta);
        Ok(())
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let core = self.look()?;
        self.with_data(&core, |data| data.live.read_at(bytes, offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.for_writing()?;
        let mut core = self.core.lock();
        let fault = core.step("write");
        if fault == Err(Fault::Crash) {
            return fault.map_err(fault_error);
        }
        let mut len = if fault.is_err() { bytes.len() / 2 } else { bytes.len() };
        let free = core.pages_free();
        len = self.with_data(&core, |data| data.live.writable(offset, len, free))?;
        if len > 0 {
            core.change_file(self.ino, Change::Write { offset, bytes: bytes[..len].to_vec() })?;
        }
        fault.map_err(fault_error)?;
        if len < bytes.len() {
            return Err(errno(ENOSPC));
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let core = self.look()?;
        self.with_data(&core, |data| data.live.len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.for_writing()?;
        self.step("set_len")?.change_file(self.ino, Change::Len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.for_writing()?;
        let mut core = self.step("allocate")?;
        if self.with_data(&core, |data| data.live.pages_missing(len))? > core.pages_free() {
            return Err(errno(ENOSPC));
        }
        core.change_file(self.ino, Change::Allocate(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_step("sync_data")?.sync_file(self.ino);
        Ok(())
    }

    /// What reached the device may be lost with the power all the same, as if it had not.
    fn write_out(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.sync_step("write_out").map(drop)
    }

    fn stat(&self) -> io::Result<Stat> {
        self.look()?.stat(self.ino)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.change_meta("set_mode", |meta| meta.mode = mode & 0o7777)
    }

    fn set_mtime(&self, mtime_ns: i128) -> io::Result<()> {
        self.change_meta("set_mtime", |meta| meta.mtime_ns = mtime_ns)
    }

    fn tag(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let core = self.look()?;
        Ok(core.tree.node(self.ino)?.meta.tags.get(name).cloned())
    }

    fn set_tag(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.change_meta("set_tag", |meta| {
            meta.tags.insert(name.to_owned(), value.to_vec());
        })
    }
}
