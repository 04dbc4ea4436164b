//! A walk over a tree of names in the byte order of whole paths, a step at a time.
//!
//! Directories sort as if they ended in `/` (`a-b` before `a/b` before `a0`), so one whose name is a
//! prefix of later names waits until those are done. Invariant: memory is one list of names per
//! level, not the tree; no recursion, because a path can have two thousand levels and a scheduler
//! thread has little stack.

use crate::FilesError;
use macula_core::{FileKind, RelPath, Stat};
use std::ffi::OsString;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What a walk found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub path: RelPath,
    pub stat: Stat,
    pub target: Option<PathBuf>,
}

/// Where a walk finds it.
pub(crate) trait Source {
    /// Sorted names in a directory; none when it is gone.
    fn names(&self, dir: &RelPath) -> Result<Vec<OsString>, FilesError>;
    /// What a name stands for; `None` when it is gone.
    fn look(&self, path: &RelPath) -> Result<Option<Found>, FilesError>;
}

struct Frame {
    dir: RelPath,
    names: Peekable<std::vec::IntoIter<OsString>>,
    /// Directories whose turn comes after the names that sort before their content.
    waiting: Vec<Found>,
}

pub(crate) struct Walk<'a> {
    source: &'a dyn Source,
    frames: Vec<Frame>,
    /// Only what sorts after this path.
    after: Option<Vec<u8>>,
}

/// The bytes that everything in a directory begins with.
fn inside(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

impl<'a> Walk<'a> {
    pub fn new(source: &'a dyn Source, after: Option<&RelPath>) -> Self {
        Self { source, frames: Vec::new(), after: after.map(|path| path.as_bytes().to_vec()) }
    }

    /// Begin at a directory (itself not part of the walk).
    pub fn enter(&mut self, dir: RelPath) -> Result<(), FilesError> {
        let names = self.source.names(&dir)?.into_iter().peekable();
        self.frames.push(Frame { dir, names, waiting: Vec::new() });
        Ok(())
    }

    /// Whether `path`, a file or directory, can lead to something wanted.
    fn is_wanted(&self, path: &[u8]) -> bool {
        let Some(after) = &self.after else { return true };
        let inside = inside(path);
        path > &after[..] || inside > *after || after.starts_with(&inside)
    }

    /// Whether a file of that name is wanted.
    pub fn is_after(&self, path: &RelPath) -> bool {
        self.after.as_ref().is_none_or(|after| path.as_bytes() > &after[..])
    }

    /// The next file, directory (before its content), symlink or other thing.
    pub fn step(&mut self) -> Result<Option<Found>, FilesError> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let next = frame.names.peek().map(|next| next.as_bytes());
            let due = |dir: &mut Found| next.is_none_or(|next| &inside(dir.path.name().as_bytes())[..] < next);
            if let Some(dir) = frame.waiting.pop_if(due) {
                self.enter(dir.path.clone())?;
                return Ok(Some(dir));
            }
            let Some(name) = frame.names.next() else {
                self.frames.pop();
                continue;
            };
            // a name too long for any caller to ask for
            let Ok(path) = frame.dir.join(name.as_bytes()) else { continue };
            if !self.is_wanted(path.as_bytes()) {
                continue;
            }
            let Some(found) = self.source.look(&path)? else { continue };
            if found.stat.kind != FileKind::Dir {
                if self.is_after(&path) {
                    return Ok(Some(found));
                }
                continue;
            }
            if let Some(frame) = self.frames.last_mut() {
                frame.waiting.push(found);
            }
        }
    }
}
