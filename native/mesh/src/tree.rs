//! Whether the files of an app still lie in the directory that the index speaks of.
//!
//! Invariant: what is missing in a directory that is another than the one into which it was put (made anew, restored,
//! mounted there instead) was never deleted, however little it is. Without a mark nothing is known to be the same.

use crate::shared::Shared;
use crate::MeshError;
use macula_core::{AppFiles, AppName, TREE_MARK_LEN};
use parking_lot::Mutex;
use std::collections::BTreeSet;

/// What tells one directory from another.
pub(crate) type TreeMark = [u8; TREE_MARK_LEN];

/// Apps whose directory the index knows.
#[derive(Default)]
pub(crate) struct Trees(Mutex<BTreeSet<AppName>>);

impl Shared {
    /// Before the first file is put there. What cannot be marked now is marked the next time.
    pub fn know_tree(&self, app: &AppName, files: &dyn AppFiles) {
        let mut known = self.trees.0.lock();
        if known.contains(app) {
            return;
        }
        let know = || -> Result<(), MeshError> {
            if self.index.tree(app)?.is_none() {
                // of an index that was lost the files are found, and none was put there by this one
                let mark = files.tree_mark()?.map_or_else(|| self.mark_tree(files), Ok)?;
                self.index.put_tree(app, &mark)?;
            }
            Ok(())
        };
        if know().is_ok() {
            known.insert(app.clone());
        }
    }

    /// Whether it is the directory that the index knows.
    pub fn is_same_tree(&self, app: &AppName, files: &dyn AppFiles) -> Result<bool, MeshError> {
        let mark = files.tree_mark()?;
        Ok(mark.is_some() && mark == self.index.tree(app)?)
    }

    /// Tell the directory that is there now from all others; the index still knows the former.
    pub fn mark_tree(&self, files: &dyn AppFiles) -> Result<TreeMark, MeshError> {
        let mark = (u128::from(self.chance.next_u64()) << 64 | u128::from(self.chance.next_u64())).to_be_bytes();
        files.mark_tree(&mark)?;
        Ok(mark)
    }
}
