//! What a packing worker does: read a group's files, hash them, lay them out as tar, compress.
//!
//! Invariant: the tar never says other than what was read. A file that is not as long as expected is
//! cut, or ends earlier, or (when large) is filled with zeros, and is marked as changed. A file that
//! nobody changed and that is not what its own digest says is never packed as if it were good.

use crate::codec::Packer;
use crate::error::{io_at, ArchiveError, Result};
use crate::header::{self, EntryKind, Meta};
use crate::index::GroupKind;
use crate::item::{Format, Item, Source};
use crate::manifest::{ManifestEntry, Remark, Totals};
use crate::pack::{Large, Shared};
use crate::slices::{slice_len, slice_value, SliceHash};
use blake3::hazmat::ChainingValue;
use macula_core::DiskFile;
use parking_lot::Mutex;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

pub(crate) enum Job {
    Entries { kind: GroupKind, items: Vec<Item> },
    Slice { large: Large, index: u64 },
    Raw { kind: GroupKind, raw: Vec<u8> },
}

/// A compressed group.
pub(crate) struct Done {
    pub(crate) kind: GroupKind,
    pub(crate) packed: Vec<u8>,
    /// Decompressed length.
    pub(crate) len: usize,
    /// Lines for the manifest.
    pub(crate) lines: Vec<u8>,
    pub(crate) totals: Totals,
    pub(crate) remarked: Vec<ManifestEntry>,
    /// A slice's chaining value.
    pub(crate) slice: Option<(Large, u64, ChainingValue)>,
    /// The file was shorter than expected.
    pub(crate) short: bool,
}

pub(crate) struct LargeFile {
    pub(crate) meta: Meta,
    item: Item,
    file: Arc<dyn DiskFile>,
    state: Mutex<(SliceHash, bool)>,
}

impl LargeFile {
    pub(crate) fn new(item: Item, file: Arc<dyn DiskFile>) -> Self {
        Self { meta: meta_of(&item), item, file, state: Mutex::default() }
    }

    /// Takes a slice's value, in order; gives the manifest's line after the last.
    pub(crate) fn add(
        &self,
        shared: &Shared<'_>,
        index: u64,
        value: ChainingValue,
        short: bool,
    ) -> Result<Option<ManifestEntry>> {
        let (hash, changed) = &mut *self.state.lock();
        *changed |= short;
        if hash.add(index, value) < crate::slices::slice_count(self.meta.len) {
            return Ok(None);
        }
        let hash = hash.finish();
        let remark = shared.judge(&self.item, &*self.file, *changed, &hash)?;
        Ok(Some(ManifestEntry::new(&self.meta, Some(&hash), remark)))
    }
}

impl Shared<'_> {
    /// What is to be said of a file that was read to its end and has this BLAKE3. `changed`: it had
    /// another length than expected.
    fn judge(&self, item: &Item, file: &dyn DiskFile, changed: bool, hash: &[u8; 32]) -> Result<Option<Remark>> {
        let path = item.path.as_bytes();
        let stat = file.stat().map_err(io_at("reading a file", path))?;
        if changed || stat.len != item.len || stat.mtime_ns != item.mtime_ns {
            return Ok(Some(Remark::Changed));
        }
        match self.tree.digest(item, file).map_err(io_at("reading a file's digest", path))? {
            Some(digest) if digest != *hash && self.keep_corrupt => Ok(Some(Remark::Corrupt)),
            Some(digest) if digest != *hash => Err(ArchiveError::Rotten { entry: item.path.to_string() }),
            _ => Ok(None),
        }
    }
}

/// An item's header, its path below the top directory.
pub(crate) fn meta_of(item: &Item) -> Meta {
    let (kind, len, target) = match &item.source {
        Source::Dir => (EntryKind::Dir, 0, Vec::new()),
        Source::File => (EntryKind::File, item.len, Vec::new()),
        Source::Bytes(bytes) => (EntryKind::File, bytes.len() as u64, Vec::new()),
        Source::Symlink { target } => (EntryKind::Symlink, 0, target.as_os_str().as_bytes().to_vec()),
    };
    let mtime_ns = item.mtime_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    Meta { path: item.path.as_bytes().to_vec(), kind, len, mode: item.mode & 0o7777, mtime_ns, target }
}

pub(crate) struct Worker<'a> {
    shared: &'a Shared<'a>,
    packer: Packer,
    raw: Vec<u8>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared<'a>, format: Format, level: i32) -> Result<Self> {
        Ok(Self { shared, packer: Packer::new(format, level)?, raw: Vec::new() })
    }

    pub(crate) fn run(&mut self, job: Job) -> Result<Done> {
        self.raw.clear();
        let kind = match &job {
            Job::Entries { kind, .. } | Job::Raw { kind, .. } => *kind,
            Job::Slice { index: 0, .. } => GroupKind::Large,
            Job::Slice { .. } => GroupKind::Slice,
        };
        let mut done = Done {
            kind,
            packed: Vec::new(),
            len: 0,
            lines: Vec::new(),
            totals: Totals::default(),
            remarked: Vec::new(),
            slice: None,
            short: false,
        };
        match job {
            Job::Entries { items, .. } => {
                for item in &items {
                    if self.shared.task.cancel.is_cancelled() {
                        return Err(ArchiveError::Cancelled);
                    }
                    self.entry(item, &mut done)?;
                }
            }
            Job::Slice { large, index } => self.slice(large, index, &mut done)?,
            Job::Raw { raw, .. } => self.raw = raw,
        }
        done.len = self.raw.len();
        if done.len > 0 {
            done.packed = self.shared.spare.lock().pop().unwrap_or_default();
            done.packed.clear();
            self.packer.pack(&self.raw, &mut done.packed)?;
        }
        Ok(done)
    }

    fn entry(&mut self, item: &Item, done: &mut Done) -> Result<()> {
        let mut meta = meta_of(item);
        let mut remark = None;
        let hash = match &item.source {
            Source::Dir => {
                self.header(&meta);
                None
            }
            Source::Symlink { .. } => {
                self.header(&meta);
                Some(blake3::hash(&meta.target))
            }
            Source::Bytes(bytes) => {
                self.header(&meta);
                self.raw.extend_from_slice(bytes);
                self.pad(meta.len);
                Some(blake3::hash(bytes))
            }
            Source::File => {
                let file = self.shared.tree.open(item).map_err(io_at("opening a file", &meta.path))?;
                match file {
                    None => {
                        remark = Some(Remark::Vanished);
                        None
                    }
                    Some(file) => {
                        let (hash, changed) = self.file(&mut meta, item, &*file)?;
                        remark = self.shared.judge(item, &*file, changed, hash.as_bytes())?;
                        Some(hash)
                    }
                }
            }
        };
        let entry = ManifestEntry::new(&meta, hash.as_ref().map(blake3::Hash::as_bytes), remark);
        done.totals.count(entry.kind, entry.len, remark);
        entry.write_line(&mut done.lines);
        done.remarked.extend(remark.is_some().then_some(entry));
        Ok(())
    }

    fn header(&mut self, meta: &Meta) {
        let full = self.full(meta);
        header::write(&mut self.raw, &full);
    }

    /// With its path below the top directory's name.
    fn full(&self, meta: &Meta) -> Meta {
        Meta { path: [self.shared.prefix, b"/", &meta.path].concat(), ..meta.clone() }
    }

    fn pad(&mut self, len: u64) {
        self.raw.resize(self.raw.len() + header::padding(len), 0);
    }

    /// Header and content of a small file, and whether it ended early. Its length is known only now.
    fn file(&mut self, meta: &mut Meta, item: &Item, file: &dyn DiskFile) -> Result<(blake3::Hash, bool)> {
        let header_at = self.raw.len();
        self.header(meta);
        let at = self.raw.len();
        let got = self.read(meta, file, 0, item.len as usize)?;
        let changed = (got as u64) < item.len;
        if changed {
            self.raw.truncate(at + got);
            meta.len = got as u64;
            let mut header = Vec::new();
            header::write(&mut header, &self.full(meta));
            // as long as before: only large lengths change a header's own
            self.raw[header_at..at].copy_from_slice(&header);
        }
        let hash = blake3::hash(&self.raw[at..]);
        self.pad(meta.len);
        Ok((hash, changed))
    }

    /// Appends `len` bytes of a file, zeros where it ends before; gives how many it had.
    fn read(&mut self, meta: &Meta, file: &dyn DiskFile, offset: u64, len: usize) -> Result<usize> {
        let at = self.raw.len();
        self.raw.resize(at + len, 0);
        let room = &mut self.raw[at..];
        let mut got = 0;
        while got < len {
            let n = file.read_at(&mut room[got..], offset + got as u64);
            match n.map_err(io_at("reading a file", &meta.path))? {
                0 => break,
                n => got += n,
            }
        }
        Ok(got)
    }

    fn slice(&mut self, large: Large, index: u64, done: &mut Done) -> Result<()> {
        if self.shared.task.cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        let meta = &large.meta;
        if index == 0 {
            self.header(meta);
        }
        let at = self.raw.len();
        let len = slice_len(meta.len, index);
        let got = self.read(meta, &*large.file, index * crate::slices::SLICE as u64, len)?;
        done.short = got < len;
        let value = slice_value(index, &self.raw[at..]);
        if index + 1 == crate::slices::slice_count(meta.len) {
            self.pad(meta.len);
        }
        done.slice = Some((large, index, value));
        Ok(())
    }
}
