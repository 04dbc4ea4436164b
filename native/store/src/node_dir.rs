//! The directories of what is this node's and no app's: its replicated state, and its index of replicated files.
//! Who has them open, and how a node forgets what it was.
//!
//! Invariant: what is set aside goes by one rename, and is never opened again by itself.

use crate::lock::OwnerLock;
use crate::{Base, Layout, StoreError};
use macula_core::{create_dir_all, remove_tree, Disk, Gate, RelPath};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// See [`Base::own_state`] and [`Base::own_mesh`].
#[derive(Debug)]
pub struct NodeDir {
    disk: Arc<dyn Disk>,
    _lock: OwnerLock,
}

impl NodeDir {
    /// Its tree.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}

impl Base {
    /// The directory of this node's replicated state, owned by this process for as long as it is held.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process owns it.
    pub fn own_state(&self) -> Result<NodeDir, StoreError> {
        self.own(&Layout::state(), &Layout::state_lock())
    }

    /// This node's index of replicated files, owned as the directory of [`Base::own_state`] is, while that is held.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process owns it.
    pub fn own_mesh(&self, options: macula_kv::Options) -> Result<(NodeDir, macula_kv::Store), StoreError> {
        let dir = self.own(&Layout::mesh(), &Layout::mesh_lock())?;
        let store = macula_kv::Store::open(self.seams.kv(dir.disk(), Arc::new(Gate::new())), options)?;
        Ok((dir, store))
    }

    fn own(&self, dir: &RelPath, lock: &RelPath) -> Result<NodeDir, StoreError> {
        let lock = self.lock_of(lock)?;
        let failed = |error| StoreError::io("use", self.layout.absolute(dir), error);
        create_dir_all(&*self.disk, dir).map_err(failed)?;
        Ok(NodeDir { disk: self.disk.subtree(dir).map_err(failed)?, _lock: lock })
    }

    /// Put what this node's replicated state holds out of the way, so that it begins anew; where it lies now.
    /// With `is_kept` false it is removed. Durable on return.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while it is open, also in this process.
    pub fn set_state_aside(&self, is_kept: bool) -> Result<Option<PathBuf>, StoreError> {
        let _lock = self.lock_of(&Layout::state_lock())?;
        let (from, to) = (Layout::state(), Layout::state_set_aside(self.seams.clock.wall_ms()));
        let failed = |error| StoreError::io("set aside", self.layout.absolute(&from), error);
        match self.disk.rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(failed)?,
        }
        self.disk.sync_dir(&from.parent()).map_err(failed)?;
        if !is_kept {
            // what cannot be removed takes room and harms nobody
            let _ = remove_tree(&*self.disk, &to);
            return Ok(None);
        }
        Ok(Some(self.layout.absolute(&to)))
    }

    fn lock_of(&self, lock: &RelPath) -> Result<OwnerLock, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let path = self.layout.absolute(lock);
        OwnerLock::acquire(&path, &self.options.owner, &*self.seams.clock)
    }
}
