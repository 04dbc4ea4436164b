//! What is packed: items in the order of the archive, and how their files are opened.
//!
//! Invariant: items come from one thread, one at a time, as they are wanted; files are opened by
//! many threads and read once.

use macula_core::{DiskFile, RelPath};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory.
    Dir,
    /// A file that [`Tree::open`] opens.
    File,
    /// A symbolic link with this text.
    Symlink {
        /// Its text.
        target: PathBuf,
    },
    /// A small file with this content, at most [`crate::SLICE`] bytes.
    Bytes(Vec<u8>),
}

/// One thing to pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its path in the archive, below the top directory.
    pub path: RelPath,
    /// What it is.
    pub source: Source,
    /// Permission bits; set-user-id and set-group-id are dropped when it is unpacked.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970. A file that has another one when it was read is
    /// marked as changed.
    pub mtime_ns: i128,
    /// Expected length of a file, bytes. No more than that is packed.
    pub len: u64,
    /// The tree's own.
    pub token: u64,
}

/// Opens the files of items.
pub trait Tree: Send + Sync {
    /// The file of an item whose source is [`Source::File`]; `None` when it vanished meanwhile,
    /// which the manifest then says. Any error ends the pack.
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>>;

    /// The BLAKE3 that a file must have when it is still as long and as old as its item says, where
    /// somebody recorded it. Asked after the file was read, once.
    fn digest(&self, _item: &Item, _file: &dyn DiskFile) -> io::Result<Option<[u8; 32]>> {
        Ok(None)
    }
}

/// How the archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.tar.zst`
    Zst,
    /// `.tar.gz`
    Gz,
}

impl Format {
    /// The level that is taken when none is given. For zstd: on a tree of sources and programs level
    /// 2 is 3 to 5 % smaller than gzip's 6 and compresses at twice the rate of level 3, which is 5 %
    /// smaller again; level 1 is larger than gzip's.
    pub fn level_default(self) -> i32 {
        match self {
            Format::Zst => 2,
            Format::Gz => 6,
        }
    }

    /// How file names of that format end, with the leading dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Zst => ".tar.zst",
            Format::Gz => ".tar.gz",
        }
    }
}

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Compression.
    pub format: Format,
    /// Its level: 1 to 19 for zstd, 1 to 9 for gzip.
    pub level: i32,
    /// Threads that read and compress, 1 to 64.
    pub workers: usize,
    /// The top directory in the archive: one path component.
    pub prefix: String,
    /// What the caller wants to say about the archive (app, creation time...), an object of at most
    /// 32 KiB; [`crate::peek`] gives it back.
    pub about: serde_json::Value,
    /// For progress: expected bytes of all files, 0 when unknown.
    pub bytes_total: u64,
    /// Pack a file that is not what its own digest says ([`Tree::digest`]) and remark on it, instead
    /// of giving up.
    pub keep_corrupt: bool,
}

impl PackOptions {
    /// The defaults for a top directory.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            format: Format::Zst,
            level: Format::Zst.level_default(),
            workers: workers_default(),
            prefix: prefix.into(),
            about: serde_json::Value::Object(serde_json::Map::new()),
            bytes_total: 0,
            keep_corrupt: false,
        }
    }

    /// With another format, at its default level.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self.level = format.level_default();
        self
    }
}

/// One thread per core, at most 8.
pub fn workers_default() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
}

/// How to unpack, and how much at most.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Bytes at most: of all files, of paths and links' texts, and [`DIR_BYTES`] for each directory,
    /// those that are only implied by a path included.
    pub bytes_max: u64,
    /// Entries at most, directories that are only implied by a path included. The default needs
    /// about 1 GiB of memory when it is reached, in proportion below.
    pub entries_max: u64,
    /// Bytes at most of the names of directories and links, and of links' texts, which stay in memory
    /// until all files are placed; 64 more for each.
    pub names_bytes_max: u64,
    /// Take archives without our head, manifest or index too, such as those made by `tar`. Entries
    /// then keep their top directory.
    pub foreign: bool,
    /// Threads that decompress and write, 1 to 64.
    pub workers: usize,
    /// Told of each file that was written, with its BLAKE3, before anything is synced; the owner may
    /// write to it at that moment whatever its mode will be. Told once more, with `None`, of a file
    /// that was damaged before it was packed, which only the manifest at the archive's end tells.
    pub written: Option<Written>,
}

/// Directories above an entry at most, below the top directory.
pub const DEPTH_MAX: usize = 128;
/// What a directory counts in [`UnpackOptions::bytes_max`]: its first block on most file systems.
pub const DIR_BYTES: u64 = 4096;

/// What a caller does with a file that was unpacked.
#[derive(Clone)]
pub struct Written(pub WrittenFn);

/// Path below the top directory, the file, BLAKE3 of its content (`None`: forget it). Called from
/// many threads.
pub type WrittenFn = Arc<dyn Fn(&RelPath, &dyn DiskFile, Option<&[u8; 32]>) -> io::Result<()> + Send + Sync>;

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written")
    }
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            bytes_max: u64::MAX,
            entries_max: 16_000_000,
            names_bytes_max: 512 << 20,
            foreign: false,
            workers: workers_default(),
            written: None,
        }
    }
}
