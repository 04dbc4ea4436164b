//! Reading every live block from the disk, past redb's cache, while the store goes on.
//!
//! Invariant: a second, read-only redb is opened over a copy of block 0 taken between two commits,
//! while a view of the same commit keeps its pages from being reused. Free blocks are not judged:
//! after a crash they may hold anything.

use crate::blocks::BlockFile;
use crate::engine::Engine;
use crate::fence::fence;
use crate::format::BLOCK;
use crate::view::{Value, View, EVERYTHING};
use crate::{KvError, Store};
use macula_core::{Progress, Task};
use redb::{ReadOnlyDatabase, StorageBackend};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// What a verification read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Entries.
    pub entries: u64,
    /// Blocks of 4,096 bytes.
    pub blocks: u64,
}

/// God byte of redb's header, and its flag for "opened for writing".
const GOD_BYTE: usize = 9;
const RECOVERY_REQUIRED: u8 = 2;

/// A commit, frozen.
pub(crate) struct Frozen {
    db: ReadOnlyDatabase,
    view: Arc<View>,
    blocks: Arc<BlockFile>,
    count: Arc<AtomicU64>,
}

#[derive(Debug)]
struct FrozenBackend {
    blocks: Arc<BlockFile>,
    head: Box<[u8; BLOCK]>,
    len: u64,
    count: Arc<AtomicU64>,
}

impl Frozen {
    /// Called on the writer thread, between commits: opening reads pages that no view protects.
    pub fn now(engine: &Engine) -> Result<Self, KvError> {
        let view = engine.view()?;
        let blocks = engine.blocks.clone();
        let (mut head, len) = blocks.frozen_head();
        head[GOD_BYTE] &= !RECOVERY_REQUIRED;
        let count = Arc::new(AtomicU64::new(0));
        let backend = FrozenBackend { blocks: blocks.clone(), head, len, count: count.clone() };
        let db = fence(&blocks, || Ok(redb::Builder::new().set_cache_size(0).open_read_only_with_backend(backend)?))?;
        Ok(Self { db, view, blocks, count })
    }

    fn walk(&self, task: &Task) -> Result<Verified, KvError> {
        let (mut entries, mut long) = (0, 0);
        let view = View::now(&self.db, &self.blocks, self.view.revision)?;
        let mut scan = view.scan(&EVERYTHING, false)?;
        while let Some((_, value)) = scan.look()? {
            entries += 1;
            long += u64::from(matches!(value, Value::Long(_)));
            if entries % 256 == 0 {
                if task.cancel.is_cancelled() {
                    return Err(KvError::Cancelled);
                }
                let bytes_done = self.count.load(Ordering::Relaxed) * BLOCK as u64;
                task.report(Progress { entries_done: entries, bytes_done, bytes_total: 0 });
            }
        }
        if entries != self.view.len {
            let reason = format!("holds {entries} entries of {}", self.view.len);
            return Err(KvError::corrupt(self.blocks.name(), None, reason));
        }
        let long_len = view.long_len()?;
        if long != long_len {
            let reason = format!("holds {long_len} long values, its entries name {long}");
            return Err(KvError::corrupt(self.blocks.name(), None, reason));
        }
        Ok(Verified { entries, blocks: self.count.load(Ordering::Relaxed) })
    }
}

impl Store {
    /// Read every live block from the disk and compare it with its tag. Waits for the writer thread
    /// once, then reads beside it.
    ///
    /// # Errors
    /// `Corrupt` names the first block that does not match; `Cancelled`; `Closed`.
    pub fn verify(&self, task: &Task) -> Result<Verified, KvError> {
        self.freeze()?.walk(task)
    }
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl StorageBackend for FrozenBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (block, within) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        if block == 0 && within + out.len() <= BLOCK {
            out.copy_from_slice(&self.head[within..within + out.len()]);
            return Ok(());
        }
        if block == 0 || within != 0 || !out.len().is_multiple_of(BLOCK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.count.fetch_add((out.len() / BLOCK) as u64, Ordering::Relaxed);
        self.blocks.read_blocks(block, out)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(read_only())
    }
}
