//! Where unpacked entries go: every check that does not need the manifest, then the disk.
//!
//! Many threads place at once, each with a [`Hand`]. Invariant: nothing is written before its name,
//! type and length were checked and counted against the limits, and so were the directories that it
//! implies; symlinks are made last, when nothing is written any more, so no write can go through one.

use crate::error::{io_at, refused, shown, ArchiveError, Result};
use crate::head::{Head, HEAD, MANIFEST};
use crate::header::{self, EntryKind, Meta};
use crate::input::Input;
use crate::item::{UnpackOptions, DIR_BYTES};
use crate::manifest::{digest_of, ManifestEntry, ManifestKind, Remark};
use crate::names::{is_too_deep, Links, Names};
use crate::slices::{slice_count, slice_len, slice_value, SliceHash, SLICE};
use macula_core::{Disk, DiskFile, Open, Progress, RelPath, Task};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Directory handles that a hand keeps open.
const DIRS_MAX: usize = 64;
/// What a name that is kept costs besides its bytes.
const NAME_EXTRA_BYTES: u64 = 64;
/// The owner may write: without it the system lets nobody but root set an extended attribute.
const OWNER_WRITE: u32 = 0o200;

/// Shared by the threads of one unpack.
pub(crate) struct Place<'a> {
    /// `None` when an archive is only verified.
    dest: Option<&'a Arc<dyn Disk>>,
    /// Of an archive of ours.
    head: Option<&'a Head>,
    options: &'a UnpackOptions,
    task: &'a Task,
    bytes: AtomicU64,
    entries: AtomicU64,
    late: Mutex<Late>,
}

/// What is looked at, or done, at the end.
#[derive(Default)]
struct Late {
    names: Names,
    links: Vec<(RelPath, Vec<u8>)>,
    dirs: Vec<(RelPath, u32, i64)>,
    /// Files that were damaged before they were packed.
    corrupt: Vec<RelPath>,
    /// Counted against `bytes_max`.
    bytes: u64,
    /// Counted against `names_bytes_max`.
    names_bytes: u64,
}

impl Late {
    /// Counts a name that stays in memory until the end.
    fn keep(&mut self, path: &[u8], target: &[u8], max: u64) -> Result<()> {
        self.names_bytes += (path.len() + target.len()) as u64 + NAME_EXTRA_BYTES;
        if self.names_bytes > max {
            return too_large("bytes of names of directories and links", max, path);
        }
        Ok(())
    }
}

fn too_large<T>(what: &'static str, max: u64, entry: &[u8]) -> Result<T> {
    Err(ArchiveError::TooLarge { what, max, entry: shown(entry) })
}

/// What an entry turned out to be.
pub(crate) enum Turn {
    /// An entry to place.
    Entry,
    /// The manifest of an archive of ours.
    Manifest,
}

impl<'a> Place<'a> {
    pub(crate) fn new(
        dest: Option<&'a Arc<dyn Disk>>,
        head: Option<&'a Head>,
        options: &'a UnpackOptions,
        task: &'a Task,
    ) -> Self {
        let (bytes, entries, late) = Default::default();
        Self { dest, head, options, task, bytes, entries, late }
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.task.cancel.is_cancelled() {
            Err(ArchiveError::Cancelled)
        } else {
            Ok(())
        }
    }

    pub(crate) fn report(&self, bytes_total: u64) {
        self.task.report(Progress {
            entries_done: self.entries.load(Ordering::Relaxed),
            bytes_done: self.bytes.load(Ordering::Relaxed),
            bytes_total,
        });
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Acquire), self.bytes.load(Ordering::Acquire))
    }

    /// Whether an entry is the manifest.
    pub(crate) fn turn(&self, meta: &Meta) -> Turn {
        let is_manifest = self.head.is_some_and(|head| {
            let rest = meta.path.strip_prefix(head.prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
            rest == Some(MANIFEST)
        });
        if is_manifest {
            Turn::Manifest
        } else {
            Turn::Entry
        }
    }

    /// Checks an entry and takes its name. `None`: the root of a foreign archive. `beside` is the
    /// directory of the entry before, and becomes that of this one.
    fn admit(&self, meta: &Meta, beside: &mut RelPath) -> Result<Option<RelPath>> {
        self.check_cancelled()?;
        let Some(path) = self.path_of(meta)? else { return Ok(None) };
        if meta.kind == EntryKind::Symlink {
            check_target(meta)?;
        }
        let parent = path.parent();
        let mut late = self.late.lock();
        let taken = late.names.take(&path, meta.kind == EntryKind::Dir, parent == *beside)?;
        if taken.names > self.options.entries_max {
            return too_large("entries", self.options.entries_max, &meta.path);
        }
        let names = (path.as_bytes().len() + meta.target.len()) as u64;
        let cost = meta.len.saturating_add(names + taken.dirs_new * DIR_BYTES);
        late.bytes = late.bytes.saturating_add(cost);
        if late.bytes > self.options.bytes_max {
            return too_large("bytes", self.options.bytes_max, &meta.path);
        }
        if meta.kind != EntryKind::File {
            late.keep(path.as_bytes(), &meta.target, self.options.names_bytes_max)?;
        }
        match meta.kind {
            EntryKind::Symlink => late.links.push((path.clone(), meta.target.clone())),
            EntryKind::Dir => late.dirs.push((path.clone(), meta.mode, meta.mtime_ns)),
            EntryKind::File => {}
        }
        // for the report; never more than what was counted
        self.bytes.fetch_add(meta.len, Ordering::AcqRel);
        self.entries.fetch_add(1, Ordering::AcqRel);
        *beside = parent;
        Ok(Some(path))
    }

    fn path_of(&self, meta: &Meta) -> Result<Option<RelPath>> {
        let mut bytes = meta.path.as_slice();
        if self.head.is_none() {
            while let Some(rest) = bytes.strip_prefix(b"./") {
                bytes = rest;
            }
            if meta.kind == EntryKind::Dir && (bytes.is_empty() || bytes == b".") {
                return Ok(None);
            }
        }
        let whole = match RelPath::new(bytes) {
            Ok(path) => path,
            Err(error) => return refused(error.reason, &meta.path),
        };
        let path = match self.head {
            None => whole,
            Some(head) => {
                let rest = bytes.strip_prefix(head.prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
                match rest.map(RelPath::new) {
                    Some(Ok(path)) => path,
                    _ => return refused("outside the top directory", &meta.path),
                }
            }
        };
        if is_too_deep(path.as_bytes()) {
            return refused("deeper than 128 directories", &meta.path);
        }
        Ok(Some(path))
    }

    fn seal(&self, path: &RelPath, meta: &Meta, hash: Option<&[u8; 32]>) {
        let digest = digest_of(meta, hash);
        self.late.lock().names.seal(path, digest);
    }

    /// Whether an entry's content goes to the disk.
    fn writes(&self, path: &RelPath) -> Option<&'a Arc<dyn Disk>> {
        let is_head = self.head.is_some() && path.as_bytes() == HEAD;
        self.dest.filter(|_| !is_head)
    }

    pub(crate) fn check_listed(&self, entry: &ManifestEntry) -> Result<()> {
        let mut late = self.late.lock();
        late.names.check_listed(entry)?;
        if entry.remark == Some(Remark::Corrupt) && entry.kind == ManifestKind::File {
            let path = entry.path();
            late.keep(&path, b"", self.options.names_bytes_max)?;
            late.corrupt.extend(RelPath::new(path).ok().filter(|path| self.writes(path).is_some()));
        }
        Ok(())
    }

    pub(crate) fn check_all_listed(&self) -> Result<()> {
        self.late.lock().names.check_all_listed()
    }

    /// After everything was verified: symlinks, then what directories look like.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut late = self.late.lock();
        let late = &mut *late;
        let by_path: HashMap<&[u8], &[u8]> =
            late.links.iter().map(|(path, target)| (path.as_bytes(), target.as_slice())).collect();
        let by_path = Links(by_path);
        for (path, target) in &late.links {
            self.check_cancelled()?;
            if !by_path.stays_inside(path, target) {
                return refused("a symlink that leads outside", path.as_bytes());
            }
        }
        let Some(dest) = self.dest else { return Ok(()) };
        let mut hand = Hand::new(self);
        for path in &late.corrupt {
            self.check_cancelled()?;
            hand.forget(dest, path)?;
        }
        for (path, target) in &late.links {
            self.check_cancelled()?;
            let (dir, name) = hand.parent(dest, path)?;
            let text = Path::new(OsStr::from_bytes(target));
            dir.symlink(text, &name).map_err(io_at("creating a symlink", path.as_bytes()))?;
        }
        // deepest first: a directory may lose the right to be entered
        late.dirs.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        for (path, mode, mtime_ns) in &late.dirs {
            let result = dest.set_dir_meta(path, kept(*mode), i128::from(*mtime_ns));
            result.map_err(io_at("setting a directory's mode and time", path.as_bytes()))?;
        }
        Ok(())
    }
}

fn check_target(meta: &Meta) -> Result<()> {
    match meta.target.as_slice() {
        b"" => refused("a symlink without a target", &meta.path),
        [b'/', ..] => refused("a symlink that leads outside", &meta.path),
        target if target.contains(&0) => refused("a symlink with a NUL byte", &meta.path),
        target if target.len() > RelPath::LEN_MAX => refused("a symlink's target is too long", &meta.path),
        _ => Ok(()),
    }
}

/// Permission bits that are restored: no set-user-id, no set-group-id.
fn kept(mode: u32) -> u32 {
    mode & 0o1777
}

/// A file of more than one slice while its slices come in.
pub(crate) struct LargePlace {
    path: RelPath,
    pub(crate) meta: Meta,
    file: Option<Arc<dyn DiskFile>>,
    hash: Mutex<SliceHash>,
}

/// One thread's hold on the destination: its open directories.
pub(crate) struct Hand<'p, 'a> {
    place: &'p Place<'a>,
    dirs: HashMap<Vec<u8>, Arc<dyn Disk>>,
    /// The directory of the entry before.
    beside: RelPath,
}

impl<'p, 'a> Hand<'p, 'a> {
    pub(crate) fn new(place: &'p Place<'a>) -> Self {
        Self { place, dirs: HashMap::new(), beside: RelPath::root() }
    }

    /// Places an entry whose content is next in the input.
    pub(crate) fn entry(&mut self, meta: Meta, input: &mut impl Input) -> Result<()> {
        if meta.kind == EntryKind::File && meta.len > SLICE as u64 {
            let large = self.begin_large(meta)?;
            for index in 0..slice_count(large.meta.len) {
                self.place.check_cancelled()?;
                self.slice(&large, index, input.take(slice_len(large.meta.len, index))?)?;
            }
            return input.take(header::padding(large.meta.len)).map(drop);
        }
        let Some(path) = self.place.admit(&meta, &mut self.beside)? else { return Ok(()) };
        let dest = self.place.writes(&path);
        let hash = match meta.kind {
            EntryKind::Dir => {
                if let Some(dest) = dest {
                    self.dir(dest, &path)?;
                }
                None
            }
            EntryKind::Symlink => Some(blake3::hash(&meta.target)),
            EntryKind::File => {
                let content = input.take(meta.len as usize)?;
                let hash = blake3::hash(content);
                if let Some(dest) = dest {
                    let file = self.create(dest, &path, &meta)?;
                    if !content.is_empty() {
                        file.write_all_at(content, 0).map_err(io_at("writing a file", path.as_bytes()))?;
                    }
                    self.finish_file(&*file, &path, &meta, hash.as_bytes())?;
                }
                input.take(header::padding(meta.len))?;
                Some(hash)
            }
        };
        self.place.seal(&path, &meta, hash.as_ref().map(blake3::Hash::as_bytes));
        Ok(())
    }

    pub(crate) fn begin_large(&mut self, meta: Meta) -> Result<LargePlace> {
        let Some(path) = self.place.admit(&meta, &mut self.beside)? else { return refused("empty", &meta.path) };
        let file = match self.place.writes(&path) {
            Some(dest) => Some(self.create(dest, &path, &meta)?),
            None => None,
        };
        Ok(LargePlace { path, meta, file, hash: Mutex::default() })
    }

    /// Places a slice; slices may come in any order, each once. Gives whether the file is complete.
    pub(crate) fn slice(&mut self, large: &LargePlace, index: u64, bytes: &[u8]) -> Result<bool> {
        let value = slice_value(index, bytes);
        if let Some(file) = &large.file {
            let result = file.write_all_at(bytes, index * SLICE as u64);
            result.map_err(io_at("writing a file", large.path.as_bytes()))?;
        }
        let mut hash = large.hash.lock();
        let complete = hash.add(index, value) == slice_count(large.meta.len);
        if complete {
            let hash = hash.finish();
            if let Some(file) = &large.file {
                self.finish_file(&**file, &large.path, &large.meta, &hash)?;
            }
            self.place.seal(&large.path, &large.meta, Some(&hash));
        }
        Ok(complete)
    }

    /// The time after the content, which would set it; the mode last, which may forbid the rest.
    fn finish_file(&self, file: &dyn DiskFile, path: &RelPath, meta: &Meta, hash: &[u8; 32]) -> Result<()> {
        let set = file.set_mtime(i128::from(meta.mtime_ns));
        set.map_err(io_at("setting a file's time", path.as_bytes()))?;
        if let Some(written) = &self.place.options.written {
            (written.0)(path, file, Some(hash)).map_err(io_at("marking a file", path.as_bytes()))?;
        }
        let (begun, last) = self.modes(meta.mode);
        if begun != last {
            file.set_mode(last).map_err(io_at("setting a file's mode", path.as_bytes()))?;
        }
        Ok(())
    }

    /// A file's mode while it is written, and after. They differ only when they must: most files need
    /// no second call.
    fn modes(&self, mode: u32) -> (u32, u32) {
        let last = kept(mode);
        match self.place.options.written {
            Some(_) => (last | OWNER_WRITE, last),
            None => (last, last),
        }
    }

    fn create(&mut self, dest: &Arc<dyn Disk>, path: &RelPath, meta: &Meta) -> Result<Arc<dyn DiskFile>> {
        let (begun, _) = self.modes(meta.mode);
        let (dir, name) = self.parent(dest, path)?;
        dir.create(&name, begun).map_err(io_at("creating a file", path.as_bytes()))
    }

    /// Takes back what was said of a file: only the manifest told that it had been damaged before.
    fn forget(&mut self, dest: &Arc<dyn Disk>, path: &RelPath) -> Result<()> {
        let Some(written) = &self.place.options.written else { return Ok(()) };
        let (dir, name) = self.parent(dest, path)?;
        let forgotten = dir.open(&name, Open::Read).and_then(|file| {
            let mode = file.stat()?.mode;
            file.set_mode(mode | OWNER_WRITE)?;
            (written.0)(path, &*file, None)?;
            file.set_mode(mode)
        });
        forgotten.map_err(io_at("marking a file", path.as_bytes()))
    }

    /// The open directory that holds `path`, made when it is not there, and the last component.
    fn parent(&mut self, dest: &Arc<dyn Disk>, path: &RelPath) -> Result<(Arc<dyn Disk>, RelPath)> {
        let name = RelPath::new(path.name().as_bytes());
        let name = name.map_err(|e| io_at("naming a file", path.as_bytes())(io::Error::other(e)))?;
        let parent = path.parent();
        let dir = if parent.is_root() { Arc::clone(dest) } else { self.dir(dest, &parent)? };
        Ok((dir, name))
    }

    /// The open directory `path`, made when it is not there.
    fn dir(&mut self, dest: &Arc<dyn Disk>, path: &RelPath) -> Result<Arc<dyn Disk>> {
        if let Some(dir) = self.dirs.get(path.as_bytes()) {
            return Ok(Arc::clone(dir));
        }
        let (above, name) = self.parent(dest, path)?;
        match above.create_dir(&name) {
            // another thread, or a path that went through it
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(io_at("creating a directory", path.as_bytes()))?,
        }
        // opening refuses a symlink: there is nothing to check before
        let dir = above.subtree(&name).map_err(io_at("opening a directory", path.as_bytes()))?;
        if self.dirs.len() >= DIRS_MAX {
            self.dirs.clear();
        }
        self.dirs.insert(path.as_bytes().to_vec(), Arc::clone(&dir));
        Ok(dir)
    }
}
