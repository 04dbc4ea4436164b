//! The seam between one app's plain files and whoever replicates them.
//!
//! Implemented by the store, so that quota, ledger, gate and snapshots see each change; used by mesh.
//! Invariant: under its name a file is always wholly one version. Content is *staged* beside the tree,
//! sealed, and put in place by a rename; what a name held before can be *kept* under a name of its own.

use crate::{AppName, Kind, Kinded, RelPath, Watcher};
use std::fmt::Debug;
use std::sync::Arc;

/// Length of a mark of a tree, bytes.
pub const TREE_MARK_LEN: usize = 16;

/// A failure of an app's files, in words of whoever implements them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AppFilesError {
    /// What the caller can do about it.
    pub kind: Kind,
    /// What happened.
    pub message: String,
}

impl Kinded for AppFilesError {
    fn kind(&self) -> Kind {
        self.kind
    }
}

/// How a file looks without being read. As long as it stays so, it is taken for unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Length in bytes.
    pub len: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Inode number: a file that was replaced by one of the same length and time is another.
    pub ino: u64,
}

/// What a caller takes to be under a name that it changes: it looked there before, and whoever was there
/// meanwhile must not lose anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there.
    Anything,
    /// No file and no symlink.
    Nothing,
    /// A regular file that looks so.
    File(Look),
}

/// One page of a walk over an app's files, in byte order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looks {
    /// Names and looks.
    pub files: Vec<(RelPath, Look)>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Content that is being put together, in any order, beside the tree. It outlives the process: staged
/// again under its name it has what was written and synced before. Dropped, it stays.
#[allow(clippy::len_without_is_empty)]
pub trait Staged: Send + Sync + Debug {
    /// Write at `offset`; `DiskFull` when there is no room.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), AppFilesError>;
    /// Fill `bytes` from `offset`; fewer at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, AppFilesError>;
    /// Its length in bytes now.
    fn len(&self) -> Result<u64, AppFilesError>;
    /// Make what was written so far durable, so that a later process can go on from it.
    fn sync(&self) -> Result<(), AppFilesError>;
    /// Whole: cut to `len` bytes, marked with the digest of its content where one is given, and synced. To be put in
    /// place next.
    fn seal(&self, len: u64, blake3: Option<&[u8; 32]>) -> Result<(), AppFilesError>;
}

/// A file opened for reading: it stays the version that it was, whatever is written meanwhile.
pub trait Opened: Send + Sync + Debug {
    /// How it looked when it was opened.
    fn look(&self) -> Look;
    /// The digest of its content, when it is as we wrote it.
    fn blake3(&self) -> Option<[u8; 32]>;
    /// Fill `bytes` from `offset`; fewer at the end. Not verified.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, AppFilesError>;
}

/// The plain files of one app.
///
/// Names of staged and kept content are of `[0-9a-f]`, 1 to 100 long; others are `Invalid`.
pub trait AppFiles: Send + Sync + Debug {
    /// Begin content under `name`, or go on with what a former process left of it.
    fn stage(&self, name: &str) -> Result<Box<dyn Staged>, AppFilesError>;
    /// Remove staged content; nothing there is fine.
    fn unstage(&self, name: &str) -> Result<(), AppFilesError>;
    /// Give staged content another name, in the place of what is staged under that; whoever has either open stages it
    /// again. `NotFound` when nothing is there.
    fn restage(&self, from: &str, to: &str) -> Result<(), AppFilesError>;
    /// Names of staged content.
    fn staged(&self) -> Result<Vec<String>, AppFilesError>;

    /// Put sealed content in the place of `path`, and keep what was there under `keep`, if that is asked for
    /// and something was there. Gives how the file looks now. `Ok`: durable. `UnknownResult`: done, and may
    /// not survive a power loss; any other error: nothing changed, and the content is still staged.
    /// `Conflict`: at the moment of the change there was not what is `expected`, or it became another while
    /// it was being kept.
    fn put(&self, path: &RelPath, staged: &str, keep: Option<&str>, expected: Expected) -> Result<Look, AppFilesError>;
    /// Put a whole content in the place of `path` at once. `Ok`: it is there, and durable after [`AppFiles::sync_all`]
    /// only: until then the caller has the content durably elsewhere, and puts it again after a power loss. Errors as
    /// [`AppFiles::put`].
    fn put_unsynced(
        &self,
        path: &RelPath,
        content: &[u8],
        blake3: &[u8; 32],
        expected: Expected,
    ) -> Result<Look, AppFilesError>;
    /// Make everything durable that was put so far.
    fn sync_all(&self) -> Result<(), AppFilesError>;
    /// As [`AppFiles::put`], of content that is kept, which has its other name from then on no more.
    fn put_kept(
        &self,
        path: &RelPath,
        kept: &str,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, AppFilesError>;
    /// Remove `path`, and keep its content under `keep`. Errors as [`AppFiles::put`]; `NotFound` when nothing
    /// is there, whatever is expected.
    fn remove(&self, path: &RelPath, keep: Option<&str>, expected: Expected) -> Result<(), AppFilesError>;
    /// Give `from` the name `to`, in one step, and keep what was at `to`. Errors as [`AppFiles::put`].
    fn rename(&self, from: &RelPath, to: &RelPath, keep: Option<&str>) -> Result<Look, AppFilesError>;
    /// Keep sealed staged content as it is. `Ok`: durable.
    fn keep(&self, staged: &str, kept: &str) -> Result<(), AppFilesError>;
    /// Make the name `path` durable as it is now, be there a file or not, and the names of what is kept. For who
    /// finds the change of a killed process done: nobody said that it would survive a power loss.
    /// `UnknownResult`: it may still not.
    fn settle(&self, path: &RelPath) -> Result<(), AppFilesError>;

    /// How `path` looks; `None` when there is no regular file.
    fn look(&self, path: &RelPath) -> Result<Option<Look>, AppFilesError>;
    /// Open `path` for reading.
    fn open(&self, path: &RelPath) -> Result<Box<dyn Opened>, AppFilesError>;
    /// Open kept content for reading.
    fn open_kept(&self, kept: &str) -> Result<Box<dyn Opened>, AppFilesError>;
    /// Remove kept content; nothing there is fine.
    fn unkeep(&self, kept: &str) -> Result<(), AppFilesError>;
    /// Names of kept content.
    fn kept(&self) -> Result<Vec<String>, AppFilesError>;
    /// The mark of the directory that holds the files now; `None` also of one that was made anew.
    fn tree_mark(&self) -> Result<Option<[u8; TREE_MARK_LEN]>, AppFilesError>;
    /// Mark it, so that another in its place is told from it. `Ok`: durable.
    fn mark_tree(&self, mark: &[u8; TREE_MARK_LEN]) -> Result<(), AppFilesError>;
    /// Have what happens in a directory of the tree told: the watch. `NotFound` when there is no such directory.
    fn watch(&self, dir: &RelPath, watcher: &Watcher) -> Result<i32, AppFilesError>;
    /// Files and directories in a directory, and whether each is one.
    fn names(&self, dir: &RelPath) -> Result<Vec<(RelPath, bool)>, AppFilesError>;
    /// Regular files after `after`, at most `limit`, in byte order of the whole name.
    fn page(&self, after: Option<&RelPath>, limit: usize) -> Result<Looks, AppFilesError>;
}

/// The apps of this node.
pub trait Apps: Send + Sync + Debug {
    /// The files of an app, which is opened when it is not. May wait for the disk.
    fn files_of(&self, app: &AppName) -> Result<Arc<dyn AppFiles>, AppFilesError>;
    /// The files of an app, if it is open: for what may wait until somebody uses it.
    fn opened(&self, app: &AppName) -> Option<Arc<dyn AppFiles>>;
    /// Whether somebody used it since this process began: one that is not open was closed then, and is left so.
    fn was_used(&self, app: &AppName) -> bool;
}
