//! One table of the state: redb over verified blocks.
//!
//! Invariant: redb is called inside [`Database::run`] only, which catches what it throws at a damaged page. A
//! table gets its name when it is whole and durable.

use super::rows::ROWS;
use super::store::POSITION;
use crate::machine::MachineError;
use crate::RaftError;
use macula_blocks::{Backend, BlockError, BlockFile, Brand};
use macula_core::{Chance, Disk, Open, RelPath};
use redb::{Durability, WriteTransaction};
use std::io;
use std::sync::Arc;

pub(super) const NAME: &str = "state.redb";
pub(super) const NAME_ARRIVED: &str = "state-arrived.redb";
const NAME_NEW: &str = "state-new.redb";
const BRAND: Brand = Brand { magic: b"MACULAST", name: "macula_raft" };
/// Pages that redb keeps in memory, bytes.
const CACHE_BYTES: usize = 32 << 20;

/// An open table. The last who lets it go closes it, which writes and syncs.
pub(crate) struct Database {
    /// Taken on drop only.
    db: Option<redb::Database>,
    blocks: Arc<BlockFile>,
}

fn disk_error(error: io::Error) -> RaftError {
    BlockError::io("reach the file of the table", error).into()
}

impl Database {
    /// One that is not there is made.
    pub(super) fn open(disk: &dyn Disk, chance: &dyn Chance) -> Result<Arc<Self>, RaftError> {
        let file = match disk.open(&RelPath::literal(NAME), Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let db = Self::create(disk, chance, NAME_NEW)?;
                db.give_name(disk, NAME_NEW)?;
                return Ok(Arc::new(db));
            }
            file => file.map_err(disk_error)?,
        };
        let (blocks, _) = BlockFile::open(file, NAME, BRAND)?;
        Ok(Arc::new(Self::over(blocks)?))
    }

    /// Nothing of it is durable before it is given its name.
    pub(super) fn create(disk: &dyn Disk, chance: &dyn Chance, name: &'static str) -> Result<Self, RaftError> {
        remove(disk, name)?;
        let file = disk.open(&RelPath::literal(name), Open::CreateNew).map_err(disk_error)?;
        let mut id = [0; 16];
        chance.fill(&mut id);
        let db = Self::over(BlockFile::create(file, NAME, BRAND, id)?)?;
        db.write(Durability::Immediate, |txn| {
            txn.open_table(ROWS).map_err(|error| db.said(error))?;
            txn.open_table(POSITION).map_err(|error| db.said(error))?;
            Ok(())
        })?;
        Ok(db)
    }

    fn over(blocks: BlockFile) -> Result<Self, RaftError> {
        let blocks = Arc::new(blocks);
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let backend = Backend(blocks.clone());
        let db = macula_blocks::fence(&blocks, || Ok(builder.create_with_backend(backend)?))?;
        Ok(Self { db: Some(db), blocks })
    }

    /// Make all of it durable, then the one in use. What had the name lives on for who has it open.
    pub(super) fn give_name(&self, disk: &dyn Disk, from: &'static str) -> Result<(), RaftError> {
        self.blocks.end_building()?;
        let renamed = disk.rename(&RelPath::literal(from), &RelPath::literal(NAME));
        renamed.and_then(|()| disk.sync_dir(&RelPath::root())).map_err(disk_error)
    }

    pub(super) fn blocks(&self) -> &BlockFile {
        &self.blocks
    }

    /// What redb said, in our words.
    pub(super) fn said(&self, error: impl Into<redb::Error>) -> RaftError {
        macula_blocks::translate(&self.blocks, error).into()
    }

    /// Run `act`, which calls redb or drops what is redb's.
    pub(super) fn run<T>(&self, act: impl FnOnce(&redb::Database) -> Result<T, RaftError>) -> Result<T, RaftError> {
        let db = self.db.as_ref().ok_or(RaftError::Closed)?;
        macula_blocks::catch(&self.blocks, || act(db)).map_err(|error| self.cause(error))
    }

    /// The machine knows an error of its rows as text; what is behind it is known here.
    fn cause(&self, error: RaftError) -> RaftError {
        if !matches!(error, RaftError::Table(_) | RaftError::Machine(MachineError::Table(_))) {
            return error;
        }
        match self.blocks.corruption() {
            Some(cause) => cause.into(),
            None if self.blocks.is_full() => BlockError::DiskFull.into(),
            None => error,
        }
    }

    /// Change it in one transaction.
    pub(super) fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, RaftError>,
    ) -> Result<T, RaftError> {
        self.run(|db| {
            let mut txn = db.begin_write().map_err(|error| self.said(error))?;
            // what a crash leaves is opened without a walk through all of it
            txn.set_quick_repair(matches!(durability, Durability::Immediate));
            txn.set_durability(durability).map_err(|error| self.said(error))?;
            let changed = change(&txn)?;
            txn.commit().map_err(|error| self.said(error))?;
            Ok(changed)
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        // failing here, it is opened like after a crash
        if macula_blocks::fence(&self.blocks, || Ok(db.close()?)).is_ok() {
            let _ = self.blocks.close_clean();
        }
    }
}

pub(super) fn remove(disk: &dyn Disk, name: &'static str) -> Result<(), RaftError> {
    match disk.remove_file(&RelPath::literal(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk_error(error)),
        _ => Ok(()),
    }
}
