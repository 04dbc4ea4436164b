//! Reading every live block from the disk, past redb's cache, while the store goes on.
//!
//! Invariant: a second, read-only redb is opened over a copy of block 0 taken between two commits,
//! while a view of the same commit keeps its pages from being reused. Free blocks are not judged:
//! after a crash they may hold anything.

use crate::base::Base;
use crate::engine::Engine;
use crate::fence::fence;
use crate::table::NEVER_MS;
use crate::{KvError, Store};
use macula_blocks::{BlockFile, BLOCK};
use macula_core::{Progress, Task};
use redb::{ReadOnlyDatabase, StorageBackend};
use std::io;
use std::ops::Bound;
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
    base: Arc<Base>,
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
    /// Called by who has the engine, between commits: opening reads pages that no base protects.
    pub fn now(engine: &Engine) -> Result<Self, KvError> {
        let base = engine.base()?;
        let blocks = engine.blocks.clone();
        let (mut head, len) = blocks.frozen_head();
        head[GOD_BYTE] &= !RECOVERY_REQUIRED;
        let count = Arc::new(AtomicU64::new(0));
        let backend = FrozenBackend { blocks: blocks.clone(), head, len, count: count.clone() };
        let db = fence(&blocks, || Ok(redb::Builder::new().set_cache_size(0).open_read_only_with_backend(backend)?))?;
        Ok(Self { db, base, blocks, count })
    }

    fn walk(&self, task: &Task) -> Result<Verified, KvError> {
        let (mut entries, mut long, mut expiring) = (0, 0, 0);
        let base = Base::now(&self.db, &self.blocks, self.base.revision, None)?;
        let mut scan = base.scan(Bound::Unbounded, Bound::Unbounded, false)?;
        while let Some((_, stored)) = scan.step()? {
            entries += 1;
            long += u64::from(stored.is_long());
            expiring += u64::from(stored.expires_ms() != NEVER_MS);
            base.value(&stored, usize::MAX, |_| ())?;
            if entries % 256 == 0 {
                if task.cancel.is_cancelled() {
                    return Err(KvError::Cancelled);
                }
                let bytes_done = self.count.load(Ordering::Relaxed) * BLOCK as u64;
                task.report(Progress { entries_done: entries, bytes_done, bytes_total: 0 });
            }
        }
        let (long_len, expiry_len) = (base.long_len()?, base.expiry_len()?);
        for (what, found, named) in [
            ("entries", entries, self.base.len),
            ("long values", long_len, long),
            ("entries that expire", expiry_len, expiring),
        ] {
            if found != named {
                let reason = format!("holds {found} {what} where there should be {named}");
                return Err(KvError::corrupt(self.blocks.name(), None, reason));
            }
        }
        Ok(Verified { entries, blocks: self.count.load(Ordering::Relaxed) })
    }
}

impl Store {
    /// Bring what was written into the file, read every live block of it from the disk and compare it
    /// with its tag. Waits for a drain, then reads beside the writers.
    ///
    /// # Errors
    /// `Corrupt` names the first block that does not match; `Cancelled`; `Closed`.
    pub fn verify(&self, task: &Task) -> Result<Verified, KvError> {
        self.checkpoint()?;
        let frozen = {
            let engine = self.shared().engine.lock();
            self.shared().writable().and_then(|()| Frozen::now(&engine))?
        };
        frozen.walk(task)
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
