//! The seam to the disk: a directory tree, everything beneath it, nothing outside it.
//!
//! [`crate::RealDisk`] opens beneath its directory and never through a symlink; the testkit's disk
//! forgets what was not synced and fails at the n-th operation. Durability is explicit: data is
//! durable after `sync_data`, a name after `sync_dir` of its directory, a tree after `sync_tree`.

use crate::{RelPath, Watcher};
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How a file is opened. Never through a symlink, never a directory, device or fifo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Read an existing file.
    Read,
    /// Read and write an existing file.
    ReadWrite,
    /// Read and write a file that must not exist yet (mode 0600, see [`DiskFile::set_mode`]).
    CreateNew,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, fifo or socket.
    Other,
}

/// What the file system knows about a name (as `lstat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// File, directory, symlink, other.
    pub kind: FileKind,
    /// Apparent size in bytes.
    pub len: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Change time of the inode, nanoseconds since 1970.
    pub ctime_ns: i128,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// One path component, any bytes.
    pub name: OsString,
    /// Its inode number (0 when the disk has none).
    pub ino: u64,
}

/// Room on the disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for us.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// A directory tree. Errors are the operating system's; `ELOOP` and `EXDEV` mean that the path
/// crosses a symlink or would leave the tree.
pub trait Disk: Send + Sync + Debug {
    /// Open or create a file.
    fn open(&self, path: &RelPath, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// [`Open::CreateNew`] with permission bits: one call where the disk can.
    fn create(&self, path: &RelPath, mode: u32) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.open(path, Open::CreateNew)?;
        file.set_mode(mode)?;
        Ok(file)
    }
    /// As `lstat`.
    fn stat(&self, path: &RelPath) -> io::Result<Stat>;
    /// Names in a directory, sorted.
    fn list(&self, dir: &RelPath) -> io::Result<Vec<Entry>>;
    /// Create one directory (mode 0755); fails if it is there.
    fn create_dir(&self, dir: &RelPath) -> io::Result<()>;
    /// Rename, replacing a file at `to`.
    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// The same; by how many bytes that made the directory of `to` longer.
    fn rename_measured(&self, from: &RelPath, to: &RelPath) -> io::Result<i64> {
        let len = || self.stat(&to.parent()).map_or(0, |stat| stat.len as i64);
        let before = len();
        self.rename(from, to)?;
        Ok(len() - before)
    }
    /// Exchange two names in one step; `Unsupported` where the file system cannot.
    fn exchange(&self, one: &RelPath, other: &RelPath) -> io::Result<()>;
    /// A second name for a file.
    fn hard_link(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// A symlink at `path` with the given text.
    fn symlink(&self, target: &std::path::Path, path: &RelPath) -> io::Result<()>;
    /// The text of a symlink.
    fn read_link(&self, path: &RelPath) -> io::Result<PathBuf>;
    /// Remove a file or symlink.
    fn remove_file(&self, path: &RelPath) -> io::Result<()>;
    /// Remove an empty directory.
    fn remove_dir(&self, dir: &RelPath) -> io::Result<()>;
    /// Permission bits and modification time of a directory.
    fn set_dir_meta(&self, dir: &RelPath, mode: u32, mtime_ns: i128) -> io::Result<()>;
    /// What a directory was tagged with; `None` also where the file system has no tags.
    fn dir_tag(&self, dir: &RelPath, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Tag a directory, durably after [`Disk::sync_dir`]; `Unsupported` where the file system has no tags.
    fn set_dir_tag(&self, dir: &RelPath, name: &str, value: &[u8]) -> io::Result<()>;
    /// Tell the file system that what lies in the directories of `dir` is unrelated, so that it puts
    /// each where there is room. A hint: a disk without it does nothing.
    fn spread_dirs_of(&self, _dir: &RelPath) -> io::Result<()> {
        Ok(())
    }
    /// Have what happens in a directory told; `Unsupported` where nobody tells.
    fn watch(&self, _dir: &RelPath, _watcher: &Watcher) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Make the names in a directory durable.
    fn sync_dir(&self, dir: &RelPath) -> io::Result<()>;
    /// Make everything in the tree durable (`syncfs`).
    fn sync_tree(&self) -> io::Result<()>;
    /// Room on the device that holds the tree.
    fn space(&self) -> io::Result<Space>;
    /// The tree beneath `dir`, which must exist and not be a symlink.
    fn subtree(&self, dir: &RelPath) -> io::Result<Arc<dyn Disk>>;
}

/// An open file. Positions are explicit, so one handle serves many threads.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync + Debug {
    /// Read at `offset`; 0 bytes at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`DiskFile::read_exact_at`] where that does not wait for the device; false: it would, or this
    /// disk cannot say.
    fn read_now_at(&self, _bytes: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Write all at `offset`, growing the file when needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cut or grow with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserve room so that later writes below `len` cannot meet a full disk; grows the length.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Make content and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Hand what was written there to the device and wait until it took it, so that a later sync of the file
    /// holds up nobody else's. Nothing is durable by it. An error counts as a failed sync: that one may not
    /// say it again.
    fn write_out(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// As `fstat`.
    fn stat(&self) -> io::Result<Stat>;
    /// Permission bits.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Modification time, nanoseconds since 1970.
    fn set_mtime(&self, mtime_ns: i128) -> io::Result<()>;
    /// An extended attribute `user.macula.<name>`; `None` when absent or not supported.
    fn tag(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Set it; `Unsupported` where the file system has none.
    fn set_tag(&self, name: &str, value: &[u8]) -> io::Result<()>;

    /// Read exactly `bytes.len()` at `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.read_at(&mut bytes[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}
