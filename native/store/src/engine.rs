//! What the store asks of every engine, so that usage, backup, verification and closing follow from
//! one row in [`crate::App`]'s engine table.

use crate::restore::KV_RECORDS;
use crate::tree::{FileWriter, Scratch};
use crate::StoreError;
use macula_core::{Open, Part, RelPath, Task};
use macula_files::{FileSnapshot, Files};
use macula_kv::{Snapshot, Store};
use macula_sqlite::Database;
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// One engine of an opened app.
pub trait Engine: Send + Sync {
    /// The part of the app whose bytes it keeps.
    fn part(&self) -> Part;
    /// Bytes on disk now, without walking; `None` when the ledger knows better.
    fn bytes(&self) -> Option<u64>;
    /// Pin this instant. Called while the gate is closed: milliseconds, no walk.
    fn pin(&self) -> Result<Box<dyn Pinned>, StoreError>;
    /// Read everything and compare with its checksums.
    fn verify(&self, task: &Task) -> Result<(), StoreError>;
    /// Answer `Closed` from now on; returns when nothing of it runs any more.
    fn close(&self);
}

/// One instant of an engine.
pub trait Pinned: Send {
    /// Bring it into a form that can be archived, writing copies to `scratch` only.
    fn stage(self: Box<Self>, scratch: &Scratch, task: &Task) -> Result<Staged, StoreError>;
}

/// What an engine gives to an archive.
pub enum Staged {
    /// A file in the scratch directory, to be archived under `path`.
    Copy {
        /// Its path in the archive.
        path: RelPath,
        /// Its name in the scratch directory.
        scratch: RelPath,
    },
    /// The files of one instant, archived below `data/`.
    Files(FileSnapshot),
}

impl Engine for Store {
    fn part(&self) -> Part {
        Part::Kv
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.file_bytes())
    }

    fn pin(&self) -> Result<Box<dyn Pinned>, StoreError> {
        Ok(Box::new(PinnedKv { store: self.clone(), snapshot: self.snapshot()? }))
    }

    fn verify(&self, task: &Task) -> Result<(), StoreError> {
        Store::verify(self, task)?;
        Ok(())
    }

    fn close(&self) {
        Store::close(self);
    }
}

struct PinnedKv {
    store: Store,
    snapshot: Snapshot,
}

impl Pinned for PinnedKv {
    fn stage(self: Box<Self>, scratch: &Scratch, task: &Task) -> Result<Staged, StoreError> {
        let name = RelPath::literal("kv.records");
        let at = scratch.path.join(name.as_path());
        let file = scratch.disk.open(&name, Open::CreateNew).map_err(|e| StoreError::io("create", &at, e))?;
        let mut out = BufWriter::with_capacity(1 << 20, FileWriter::new(file));
        self.store.export(&self.snapshot, &mut out, task)?;
        self.snapshot.release();
        out.flush().map_err(|e| StoreError::io("write", &at, e))?;
        Ok(Staged::Copy { path: RelPath::literal(KV_RECORDS), scratch: name })
    }
}

impl Engine for Arc<Database> {
    fn part(&self) -> Part {
        Part::Sqlite
    }

    fn bytes(&self) -> Option<u64> {
        Some(Database::bytes(self))
    }

    fn pin(&self) -> Result<Box<dyn Pinned>, StoreError> {
        Ok(Box::new(Database::pin(self)?))
    }

    fn verify(&self, task: &Task) -> Result<(), StoreError> {
        Ok(self.check(&task.cancel)?)
    }

    fn close(&self) {
        Database::close(self);
    }
}

impl Pinned for macula_sqlite::Pinned {
    fn stage(self: Box<Self>, scratch: &Scratch, task: &Task) -> Result<Staged, StoreError> {
        let name = RelPath::literal("app.db");
        // the archive's own progress follows; a copy's pages are not its bytes
        let quiet = Task::new(task.cancel.clone(), |_| {});
        self.copy_to(&scratch.path.join(name.as_path()), &quiet)?;
        Ok(Staged::Copy { path: RelPath::literal("data/app.db"), scratch: name })
    }
}

impl Engine for Files {
    fn part(&self) -> Part {
        Part::Files
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn pin(&self) -> Result<Box<dyn Pinned>, StoreError> {
        Ok(Box::new(self.snapshot()))
    }

    fn verify(&self, task: &Task) -> Result<(), StoreError> {
        Ok(Files::verify(self, &|| task.cancel.is_cancelled())?)
    }

    fn close(&self) {
        Files::close(self);
    }
}

impl Pinned for FileSnapshot {
    fn stage(self: Box<Self>, _scratch: &Scratch, _task: &Task) -> Result<Staged, StoreError> {
        Ok(Staged::Files(*self))
    }
}
