//! What the store asks of every engine, so that usage, backup, verification and closing follow from
//! one row in [`crate::App`]'s engine table.

use crate::tree::Scratch;
use crate::StoreError;
use macula_core::{Part, RelPath, Task};
use macula_files::FileSnapshot;
use std::fmt::Debug;

/// One engine of an opened app.
pub trait Engine: Send + Sync + Debug {
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
