//! One redb database over a verified file: opening, one durable commit per group, closing.
//!
//! Invariant: used by the writer thread only. [`Engine::commit`] is the seam behind which a log and
//! an overlay will stand: a group goes in, each member's outcome comes out, and the new view is
//! published while the gate's pass is held.

use crate::batch::{Batch, Committed, Condition, Op};
use crate::blocks::{Backend, BlockFile};
use crate::fence::fence;
use crate::value::Tables;
use crate::view::View;
use crate::KvError;
use macula_core::{Chance, Disk, Gate, Open, RelPath};
use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};
use std::io;
use std::sync::Arc;

/// The name of a store's file in its directory.
pub const FILE_NAME: &str = "kv.redb";
const FILE_NAME_NEW: &str = "kv.redb.new";

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";

/// Revisions passed over when a store was not closed properly: more than one group may have used,
/// so that a revision of a group whose result is unknown is never given to another.
const REVISIONS_SKIPPED: u64 = 1 << 20;
/// Batches in one group at most.
pub(crate) const GROUP_LEN_MAX: usize = 1 << 16;

/// Why a group failed.
pub(crate) enum Failed {
    /// Nothing happened; the engine can go on.
    Full,
    /// Nothing happened; the engine cannot go on.
    Before(KvError),
    /// It may or may not have happened; the engine cannot go on.
    Unknown(KvError),
}

pub(crate) type Outcomes = Vec<Result<Committed, KvError>>;

/// An opened store.
pub(crate) struct Engine {
    db: Option<Database>,
    pub blocks: Arc<BlockFile>,
    pub revision: u64,
    cache_bytes: usize,
}

impl Engine {
    /// Open the store of `disk`, or create it when there is no file.
    pub fn open(disk: &dyn Disk, chance: &dyn Chance, cache_bytes: usize) -> Result<Self, KvError> {
        let path = RelPath::literal(FILE_NAME);
        let file = match disk.open(&path, Open::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::build(disk, chance, cache_bytes, |engine| engine.write_revision(0))?;
                disk.open(&path, Open::ReadWrite)
            }
            file => file,
        };
        let file = file.map_err(|error| KvError::io("open the store", error))?;
        let (blocks, clean) = BlockFile::open(file, FILE_NAME)?;
        let mut engine = Self::over(Arc::new(blocks), cache_bytes)?;
        engine.revision = engine.stored_revision()?;
        if !clean {
            engine.write_revision(engine.revision + REVISIONS_SKIPPED)?;
        }
        Ok(engine)
    }

    /// Build a store under another name and give it its own when it is whole and durable.
    pub fn build<T>(
        disk: &dyn Disk,
        chance: &dyn Chance,
        cache_bytes: usize,
        fill: impl FnOnce(&mut Self) -> Result<T, KvError>,
    ) -> Result<T, KvError> {
        let (path, path_new) = (RelPath::literal(FILE_NAME), RelPath::literal(FILE_NAME_NEW));
        let fail = |error| KvError::io("create the store", error);
        match disk.remove_file(&path_new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let built = disk.open(&path_new, Open::CreateNew).map_err(fail).and_then(|file| {
            let mut store_id = [0; 16];
            chance.fill(&mut store_id);
            let blocks = Arc::new(BlockFile::create(file, FILE_NAME, store_id)?);
            let mut engine = Self::over(blocks, cache_bytes)?;
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

    fn over(blocks: Arc<BlockFile>, cache_bytes: usize) -> Result<Self, KvError> {
        let db = open_db(&blocks, cache_bytes)?;
        Ok(Self { db: Some(db), blocks, revision: 0, cache_bytes })
    }

    fn stored_revision(&self) -> Result<u64, KvError> {
        let db = self.db()?;
        let found = fence(&self.blocks, || {
            let table = db.begin_read()?.open_table(META)?;
            let found = table.get(REVISION)?.map(|revision| revision.value());
            Ok(found)
        })?;
        found.ok_or_else(|| KvError::corrupt(self.blocks.name(), None, "no revision"))
    }

    fn db(&self) -> Result<&Database, KvError> {
        self.db.as_ref().ok_or(KvError::Closed)
    }

    /// Set the revision durably, creating the tables when they are not there.
    pub fn write_revision(&mut self, revision: u64) -> Result<(), KvError> {
        let db = self.db()?;
        fence(&self.blocks, || {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            Tables::open(&txn)?;
            txn.open_table(META)?.insert(REVISION, revision)?;
            Ok(txn.commit()?)
        })?;
        self.revision = revision;
        Ok(())
    }

    /// Sorted entries, not durable before [`Engine::write_revision`].
    pub fn load(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<(), KvError> {
        let db = self.db()?;
        fence(&self.blocks, || {
            let mut txn = db.begin_write()?;
            txn.set_durability(redb::Durability::None)?;
            {
                let mut tables = Tables::open(&txn)?;
                for (key, value) in entries {
                    tables.put(key, value)?;
                }
            }
            Ok(txn.commit()?)
        })
    }

    /// The newest version.
    pub fn view(&self) -> Result<Arc<View>, KvError> {
        View::now(self.db()?, &self.blocks, self.revision)
    }

    /// Apply a group with one durable commit; the outcomes are in its order.
    pub fn commit(
        &mut self,
        group: &[&Batch],
        gate: &Gate,
        publish: impl FnOnce(Result<Arc<View>, KvError>),
    ) -> Result<Outcomes, Failed> {
        let db = self.db().map_err(Failed::Before)?;
        self.blocks.take_full();
        let staged = fence(&self.blocks, || stage(db, group, self.revision));
        let (txn, outcomes, revision) = match staged {
            Ok(staged) => staged,
            Err(_) if self.blocks.take_full() => return Err(Failed::Full),
            Err(error) => return Err(Failed::Before(error)),
        };
        if revision == self.revision {
            fence(&self.blocks, || Ok(txn.abort()?)).map_err(Failed::Before)?;
            return Ok(outcomes);
        }
        let _pass = gate.pass();
        let head_synced_count = self.blocks.head_synced_count();
        if let Err(error) = fence(&self.blocks, || Ok(txn.commit()?)) {
            // the commit takes effect with the second sync of block 0: none yet, so nothing happened
            let untouched = self.blocks.head_synced_count() == head_synced_count;
            return Err(if self.blocks.take_full() && untouched { Failed::Full } else { Failed::Unknown(error) });
        }
        self.revision = revision;
        publish(self.view());
        Ok(outcomes)
    }

    /// After [`Failed::Full`]: redb refuses to go on after any error, so begin anew on the same file.
    pub fn revive(&mut self) -> Result<(), KvError> {
        self.drop_db();
        self.db = Some(open_db(&self.blocks, self.cache_bytes)?);
        self.blocks.take_full();
        Ok(())
    }

    /// Close properly, so that the next opening knows exactly what must be there.
    pub fn close(&mut self) -> Result<(), KvError> {
        let Some(db) = self.db.take() else { return Ok(()) };
        fence(&self.blocks, || Ok(db.close()?))?;
        self.blocks.close_clean()
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

type Staged = (WriteTransaction, Outcomes, u64);

fn stage(db: &Database, group: &[&Batch], mut revision: u64) -> Result<Staged, redb::Error> {
    let before = revision;
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    let mut outcomes = Vec::with_capacity(group.len());
    let mut tables = Tables::open(&txn)?;
    for batch in group {
        match refused(&tables, &batch.conditions)? {
            Some(error) => outcomes.push(Err(error)),
            None => {
                tables = apply(&txn, tables, &batch.ops)?;
                revision += 1;
                outcomes.push(Ok(Committed { revision }));
            }
        }
    }
    drop(tables);
    if revision != before {
        txn.open_table(META)?.insert(REVISION, revision)?;
    }
    Ok((txn, outcomes, revision))
}

fn refused(tables: &Tables, conditions: &[Condition]) -> Result<Option<KvError>, redb::Error> {
    for condition in conditions {
        match condition {
            Condition::Absent(key) if tables.has(key)? => return Ok(Some(KvError::Exists)),
            Condition::Absent(_) => {}
            Condition::Is { key, value } if !tables.is(key, value.as_deref())? => return Ok(Some(KvError::Conflict)),
            Condition::Is { .. } => {}
        }
    }
    Ok(None)
}

fn apply<'txn>(txn: &'txn WriteTransaction, mut tables: Tables<'txn>, ops: &[Op]) -> Result<Tables<'txn>, redb::Error> {
    for op in ops {
        match op {
            Op::Put { key, value } => tables.put(key, value)?,
            Op::Delete { key } => tables.delete(key)?,
            Op::Clear => tables = tables.clear(txn)?,
        }
    }
    Ok(tables)
}
