//! Files that are put in place now and made durable later, many by one sync of the whole tree.
//!
//! Invariant: whoever puts them has their content durably elsewhere until [`Files::sync_all`] returned, and puts
//! those again that a power loss took. Nothing is kept of what they replace.

use crate::files::Files;
use crate::kept::Terms;
use crate::reader::look_of;
use crate::temporary::Temporary;
use crate::writer::finish;
use crate::FilesError;
use macula_core::{Expected, Look, RelPath};

impl Files {
    /// Put a whole content in the place of `path`; gives how the file looks now. `Ok`: it is there, and not durable
    /// before [`Files::sync_all`].
    ///
    /// # Errors
    /// [`FilesError::Changed`] when there was not what is `expected`; after any, nothing changed.
    pub fn put_unsynced(
        &self,
        path: &RelPath,
        content: &[u8],
        blake3: &[u8; 32],
        expected: Expected,
    ) -> Result<Look, FilesError> {
        let inner = &self.0;
        inner.check_usable()?;
        let failed = |error| match FilesError::of("write", path, error) {
            // it is our directory that is gone, not the caller's file
            FilesError::NotFound { path } => {
                FilesError::Io { op: "write", path, source: std::io::ErrorKind::NotFound.into() }
            }
            error => error,
        };
        // all make a name in one directory and take it away again, which the kernel lets one do at a time while the
        // others spin
        let _alone = inner.short.lock();
        let mut temporary = Temporary::new(inner.clone()).map_err(failed)?;
        temporary.file.write_all_at(content, 0).map_err(failed)?;
        temporary.grew(content.len() as u64);
        let stat = finish(&*temporary.file, Some(blake3)).map_err(failed)?;
        let place = |terms: &Terms| inner.place((&temporary.at, Some(&stat)), path, terms);
        let (_owed, stat) = inner.keeping(path, None, None, expected, place)?;
        temporary.named();
        Ok(look_of(&stat))
    }

    /// Make everything durable that was put so far.
    ///
    /// # Errors
    /// [`FilesError::UnknownResult`]: nobody can say what of it is, and nothing is changed until a reopen.
    pub fn sync_all(&self) -> Result<(), FilesError> {
        let inner = &self.0;
        inner.check_usable()?;
        inner.sync_tree().map_err(|source| FilesError::UnknownResult { path: RelPath::root(), source })
    }
}
