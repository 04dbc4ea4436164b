//! One redb database over a verified file: opening, bringing it up to a revision, closing.
//!
//! Invariant: whoever has it drains, compacts or closes; nobody waits here for a write to be
//! acknowledged. What it holds is always the state after some revision, which it names.

use crate::base::Base;
use crate::fence::fence;
use crate::scan::Scan;
use crate::threads::{Courtesy, Threads};
use crate::value::{Loaded, Tables, LIVE_BYTES, META, REVISION, STORED_BYTES};
use crate::view::View;
use crate::KvError;
use macula_blocks::{Backend, BlockFile, Brand};
use macula_core::{Chance, Disk, Open, RelPath};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, WriteTransaction};
use std::io;
use std::sync::Arc;

/// The name of a store's file in its directory.
pub const FILE_NAME: &str = "kv.redb";
const BRAND: Brand = Brand { magic: b"MACULAKV", name: "macula_kv" };
const FILE_NAME_NEW: &str = "kv.redb.new";

/// The id of the log that goes on from here, in two halves.
const LOG_ID: [&str; 2] = ["log_low", "log_high"];

/// How a file is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Memory for its pages, bytes.
    pub cache_bytes: usize,
    /// Values of so many bytes are compressed.
    pub compress_len_min: usize,
}

/// An opened store.
pub(crate) struct Engine {
    db: Option<Database>,
    keeper: Arc<Keeper>,
    pub blocks: Arc<BlockFile>,
    /// The newest batch that is in it.
    pub revision: u64,
    tuning: Tuning,
}

/// Held by every base of one database: what it holds in the end is closed when the last of them goes.
pub(crate) struct Keeper(Mutex<Option<(Database, Arc<BlockFile>, Threads)>>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((db, blocks, threads)) = self.0.get_mut().take() {
            // closing writes and syncs: not where the last reader happens to be
            threads.drain(move || {
                let _ = fence(&blocks, || {
                    drop(db);
                    Ok(())
                });
            });
        }
    }
}

/// What an interrupted build or compaction left.
fn remove_unfinished(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove_file(&RelPath::literal(FILE_NAME_NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why it could not be brought up to date.
pub(crate) enum Failed {
    /// The disk is full. It is as before, once revived.
    Full,
    /// It cannot go on until the store is opened again.
    Broken(KvError),
}

impl From<Failed> for KvError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Full => Self::DiskFull,
            Failed::Broken(error) => error,
        }
    }
}

impl Engine {
    /// Open the store of `disk`, or create it when there is no file. Whether it was closed properly.
    pub fn open(disk: &dyn Disk, chance: &dyn Chance, tuning: Tuning) -> Result<(Self, bool), KvError> {
        let path = RelPath::literal(FILE_NAME);
        // costs room only, when it cannot be removed
        let _ = remove_unfinished(disk);
        let file = match disk.open(&path, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::build(disk, chance, tuning, |_| Ok(()))?;
                disk.open(&path, Open::ReadWrite)
            }
            file => file,
        };
        let file = file.map_err(|error| KvError::io("open the store", error))?;
        let (blocks, is_clean) = BlockFile::open(file, FILE_NAME, BRAND)?;
        let mut engine = Self::over(Arc::new(blocks), tuning)?;
        engine.revision =
            engine.meta(REVISION)?.ok_or_else(|| KvError::corrupt(engine.blocks.name(), None, "no revision"))?;
        Ok((engine, is_clean))
    }

    /// Build a store under another name and give it its own when it is whole and durable.
    pub fn build<T>(
        disk: &dyn Disk,
        chance: &dyn Chance,
        tuning: Tuning,
        fill: impl FnOnce(&mut Self) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let (path, path_new) = (RelPath::literal(FILE_NAME), RelPath::literal(FILE_NAME_NEW));
        let fail = |error| KvError::io("create the store", error);
        let built = Self::begin(disk, chance, tuning).and_then(|mut engine| {
            let value = fill(&mut engine)?;
            engine.close()?;
            disk.rename(&path_new, &path).map_err(fail)?;
            disk.sync_dir(&RelPath::root()).map_err(fail).inspect_err(|_| {
                let _ = disk.remove_file(&path);
            })?;
            Ok(value)
        });
        if built.is_err() {
            // what cannot be removed now is removed by the next attempt
            let _ = disk.remove_file(&path_new);
        }
        built
    }

    /// An empty one in a new file under another name, none of it durable.
    fn begin(disk: &dyn Disk, chance: &dyn Chance, tuning: Tuning) -> Result<Self, KvError> {
        let fail = |error| KvError::io("create the store", error);
        remove_unfinished(disk).map_err(fail)?;
        let file = disk.open(&RelPath::literal(FILE_NAME_NEW), Open::CreateNew).map_err(fail)?;
        let mut store_id = [0; 16];
        chance.fill(&mut store_id);
        let mut engine = Self::over(Arc::new(BlockFile::create(file, FILE_NAME, BRAND, store_id)?), tuning)?;
        engine.write(|txn| {
            let tables = Tables::open(txn, tuning.compress_len_min)?;
            tables.pad()?;
            tables.finish(0)
        })?;
        engine.trim()?;
        Ok(engine)
    }

    /// As [`Engine::begin`], for a store that is open: [`Engine::replace`] makes it that store's.
    pub fn begin_copy(&self, disk: &dyn Disk, chance: &dyn Chance) -> Result<Self, KvError> {
        let copy = Self::begin(disk, chance, self.tuning)?;
        if let Some(id) = self.log_id()? {
            copy.set_log_id(id)?;
        }
        Ok(copy)
    }

    /// Take the place of the store's file, durably. The old file is gone when nobody reads it.
    pub fn replace(&self, disk: &dyn Disk) -> Result<(), KvError> {
        self.blocks.end_building()?;
        let fail = |error| KvError::io("put the compacted file in place", error);
        disk.rename(&RelPath::literal(FILE_NAME_NEW), &RelPath::literal(FILE_NAME)).map_err(fail)?;
        disk.sync_dir(&RelPath::root()).map_err(fail)
    }

    fn over(blocks: Arc<BlockFile>, tuning: Tuning) -> Result<Self, KvError> {
        let db = open_db(&blocks, tuning.cache_bytes)?;
        let keeper = Arc::new(Keeper(Mutex::new(None)));
        Ok(Self { db: Some(db), keeper, blocks, revision: 0, tuning })
    }

    /// Give a copy up that was begun.
    pub fn discard(mut self, disk: &dyn Disk) {
        self.drop_db();
        // costs room only, when it cannot be removed
        let _ = remove_unfinished(disk);
    }

    /// Keep the database open until the last of its bases is gone, and no longer.
    pub fn retire(mut self, threads: &Threads) {
        *self.keeper.0.lock() = self.db.take().map(|db| (db, self.blocks.clone(), threads.clone()));
    }

    /// Whether somebody reads what it held before: beside its newest base there is another.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.keeper) > 2
    }

    /// Of all keys and values, bytes.
    pub fn live_bytes(&self) -> Result<u64, KvError> {
        Ok(self.meta(LIVE_BYTES)?.unwrap_or(0))
    }

    /// The same with values as they are stored.
    pub fn stored_bytes(&self) -> Result<u64, KvError> {
        self.meta(STORED_BYTES)?.map_or_else(|| self.live_bytes(), Ok)
    }

    fn meta(&self, name: &str) -> Result<Option<u64>, KvError> {
        let db = self.db()?;
        fence(&self.blocks, || {
            let table = db.begin_read()?.open_table(META)?;
            let found = table.get(name)?.map(|number| number.value());
            Ok(found)
        })
    }

    /// The log that goes on from here; `None` before there was one.
    pub fn log_id(&self) -> Result<Option<[u8; 16]>, KvError> {
        let (Some(low), Some(high)) = (self.meta(LOG_ID[0])?, self.meta(LOG_ID[1])?) else { return Ok(None) };
        Ok(Some((u128::from(high) << 64 | u128::from(low)).to_le_bytes()))
    }

    /// Durable on return.
    pub fn set_log_id(&self, id: [u8; 16]) -> Result<(), KvError> {
        let id = u128::from_le_bytes(id);
        self.write(|txn| {
            let mut meta = txn.open_table(META)?;
            meta.insert(LOG_ID[0], id as u64)?;
            meta.insert(LOG_ID[1], (id >> 64) as u64)?;
            Ok(())
        })
    }

    /// Change something in one durable transaction.
    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), KvError> {
        let db = self.db()?;
        fence(&self.blocks, || {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            change(&txn)?;
            Ok(txn.commit()?)
        })
    }

    fn db(&self) -> Result<&Database, KvError> {
        self.db.as_ref().ok_or(KvError::Closed)
    }

    /// Let redb take no more pages for its own than there are.
    fn trim(&mut self) -> Result<(), KvError> {
        let Some(db) = self.db.as_mut() else { return Err(KvError::Closed) };
        fence(&self.blocks, || {
            db.compact()?;
            Ok(())
        })
    }

    /// Set the revision durably, creating the tables when they are not there.
    pub fn write_revision(&mut self, revision: u64) -> Result<(), KvError> {
        let compress_len_min = self.tuning.compress_len_min;
        self.write(|txn| Tables::open(txn, compress_len_min)?.finish(revision))?;
        self.revision = revision;
        Ok(())
    }

    /// Sorted entries, not durable before [`Engine::write_revision`].
    pub fn load(&self, entries: &[Loaded]) -> Result<(), KvError> {
        let db = self.db()?;
        fence(&self.blocks, || {
            let mut txn = db.begin_write()?;
            txn.set_durability(redb::Durability::None)?;
            let mut tables = Tables::open(&txn, self.tuning.compress_len_min)?;
            tables.append(entries)?;
            tables.finish(0)?;
            Ok(txn.commit()?)
        })
    }

    /// What it holds now.
    pub fn base(&self) -> Result<Arc<Base>, KvError> {
        Base::now(self.db()?, &self.blocks, self.revision, Some(self.keeper.clone()))
    }

    /// Bring what lies in the tables of `view` into place, in key order, with one durable commit. The
    /// view's own base is not looked at.
    pub fn bring(&mut self, view: &View) -> Result<(), Failed> {
        self.blocks.forget_full();
        let compress_len_min = self.tuning.compress_len_min;
        let brought = self.write(|txn| {
            let mut tables = Tables::open(txn, compress_len_min)?;
            if view.stack.is_cleared() {
                tables = tables.clear()?;
            }
            let mut scan = Scan::over_base(view);
            let mut courtesy = Courtesy::default();
            while let Some(item) = scan.step().map_err(|error| redb::Error::Corrupted(error.to_string()))? {
                if let Some(written) = item.written() {
                    tables.bring(item.key(), written)?;
                }
                courtesy.step();
            }
            drop(scan);
            tables.finish(view.revision)
        });
        match brought {
            Ok(()) => self.revision = view.revision,
            Err(_) if self.blocks.is_full() => return Err(Failed::Full),
            Err(error) => return Err(Failed::Broken(error)),
        }
        Ok(())
    }

    /// After [`Failed::Full`]: redb refuses to go on after any error, so begin anew on the same file.
    /// Closes every base: the pages of the old ones are not safe from the new database.
    pub fn revive(&mut self) -> Result<(), KvError> {
        self.drop_db();
        self.db = Some(open_db(&self.blocks, self.tuning.cache_bytes)?);
        self.revision = self.meta(REVISION)?.unwrap_or(self.revision);
        Ok(())
    }

    /// Close properly, so that the next opening knows exactly what must be there.
    pub fn close(&mut self) -> Result<(), KvError> {
        let Some(db) = self.db.take() else { return Ok(()) };
        fence(&self.blocks, || Ok(db.close()?))?;
        Ok(self.blocks.close_clean()?)
    }

    /// Leave the file as after a crash.
    pub fn drop_db(&mut self) {
        let db = self.db.take();
        let _ = fence(&self.blocks, || {
            drop(db);
            Ok(())
        });
    }
}

fn open_db(blocks: &Arc<BlockFile>, cache_bytes: usize) -> Result<Database, KvError> {
    fence(blocks, || {
        let backend = Backend(blocks.clone());
        Ok(Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?)
    })
}
