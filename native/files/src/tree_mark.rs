//! Which tree this is: a mark on the directory `files/` itself, in its extended attribute `user.macula.tree`. Whoever
//! remembers it can tell that this is still the directory that it put files into, however many of them are missing.
//!
//! Invariant: a directory that was made anew, restored or mounted there instead has no mark, or another. Where the file
//! system has no attributes the mark is kept content, which tells of a new `data/` only.

use crate::files::Files;
use crate::inner::FILES;
use crate::FilesError;
use macula_core::{RelPath, TREE_MARK_LEN};
use std::io;

/// Name of the attribute.
const TAG: &str = "tree";
/// Name of the content where there are no attributes.
const KEPT_AS: &str = "0";

impl Files {
    /// The mark of the tree that is there now.
    pub fn tree_mark(&self) -> Result<Option<[u8; TREE_MARK_LEN]>, FilesError> {
        let dir = RelPath::literal(FILES);
        match self.0.data.dir_tag(&dir, TAG) {
            Ok(Some(mark)) => return Ok(mark.try_into().ok()),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FilesError::of("read the mark of", &dir, error)),
        }
        let mut mark = [0; TREE_MARK_LEN];
        match self.open_kept(KEPT_AS) {
            Ok(kept) => Ok((kept.read_at(&mut mark, 0)? == TREE_MARK_LEN).then_some(mark)),
            Err(FilesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Mark the tree that is there now. `Ok`: durable.
    pub fn mark_tree(&self, mark: &[u8; TREE_MARK_LEN]) -> Result<(), FilesError> {
        let inner = &self.0;
        let dir = RelPath::literal(FILES);
        let owed = {
            let _pass = inner.gate.pass();
            inner.check_usable()?;
            let mut names = inner.names();
            inner.make_dirs(&mut names, &dir, &dir)?;
            match inner.data.set_dir_tag(&dir, TAG, mark) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
                Err(error) => return Err(FilesError::of("mark", &dir, error)),
                Ok(()) => Some(inner.owe(&names, [dir.clone()])),
            }
        };
        match owed {
            Some(owed) => inner.settle(owed, &dir),
            None => self.keep_mark(mark),
        }
    }

    fn keep_mark(&self, mark: &[u8; TREE_MARK_LEN]) -> Result<(), FilesError> {
        let staged = self.stage(KEPT_AS)?;
        staged.write_at(mark, 0)?;
        staged.seal(TREE_MARK_LEN as u64, None)?;
        self.keep(KEPT_AS, KEPT_AS)
    }
}
