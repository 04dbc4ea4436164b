//! What one open snapshot remembers of names that changed after it was taken.
//!
//! Invariant: a writer records here, under the lock of names, before it changes a name, and only the
//! first time; so a name without a record is as it was at the snapshot's instant, and one with a
//! record is as recorded, its file set aside by a second name in `.macula/aside/<id>/`.

use crate::inner::{place_of, Inner, ASIDE};
use macula_core::{DiskFile, FileKind, Open, Part, RelPath, Stat};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Bytes copied at once where hard links are not supported.
const CHUNK: usize = 256 * 1024;

/// What a name stood for at the snapshot's instant.
#[derive(Debug, Clone)]
pub(crate) enum Past {
    Absent,
    Dir(Stat),
    Symlink(Stat, PathBuf),
    File(Stat, u64),
}

#[derive(Debug, Default)]
struct Records {
    /// By directory, then name.
    past: BTreeMap<(Vec<u8>, Vec<u8>), Past>,
    /// Numbers given to files set aside.
    files: u64,
}

#[derive(Debug)]
pub(crate) struct Aside {
    id: String,
    pub taken_ms: u64,
    records: Mutex<Records>,
}

fn key(path: &RelPath) -> (Vec<u8>, Vec<u8>) {
    (path.parent().as_bytes().to_vec(), path.name().as_bytes().to_vec())
}

impl Aside {
    pub fn new(id: u64, taken_ms: u64) -> Self {
        Self { id: format!("{id:016x}"), taken_ms, records: Mutex::default() }
    }

    pub fn past(&self, path: &RelPath) -> Option<Past> {
        self.records.lock().past.get(&key(path)).cloned()
    }

    /// Names in `dir` that were there and changed since.
    pub fn names(&self, dir: &RelPath) -> Vec<OsString> {
        let dir = dir.as_bytes().to_vec();
        let records = self.records.lock();
        let below = records.past.range((dir.clone(), Vec::new())..).take_while(|((parent, _), _)| *parent == dir);
        let there = below.filter(|(_, past)| !matches!(past, Past::Absent));
        there.map(|((_, name), _)| OsString::from_vec(name.clone())).collect()
    }

    pub fn record_absent(&self, path: &RelPath) {
        self.record(path, Past::Absent);
    }

    pub fn record_dir(&self, path: &RelPath, stat: &Stat) {
        self.record(path, Past::Dir(stat.clone()));
    }

    fn record(&self, path: &RelPath, past: Past) {
        self.records.lock().past.entry(key(path)).or_insert(past);
    }

    /// Keep a file or symlink; gives how many more names (0 or 1) the file has now.
    pub fn keep(&self, inner: &Inner, path: &RelPath, stat: &Stat) -> io::Result<u64> {
        if self.past(path).is_some() {
            return Ok(0);
        }
        let from = place_of(path).map_err(io::Error::other)?;
        if stat.kind == FileKind::Symlink {
            self.record(path, Past::Symlink(stat.clone(), inner.data.read_link(&from)?));
            return Ok(0);
        }
        let number = {
            let mut records = self.records.lock();
            records.files += 1;
            records.files
        };
        if number == 1 {
            self.make_dir(inner)?;
        }
        let to = self.file(number)?;
        let links = match inner.growing(&to.parent(), || inner.data.hard_link(&from, &to)) {
            Ok(()) => 1,
            Err(error) if is_refusal(&error) => {
                copy(inner, &from, &to, stat)?;
                0
            }
            Err(error) => return Err(error),
        };
        self.record(path, Past::File(stat.clone(), number));
        Ok(links)
    }

    fn dir(&self) -> io::Result<RelPath> {
        RelPath::literal(ASIDE).join(&self.id).map_err(io::Error::other)
    }

    /// Where a file set aside lies.
    pub fn file(&self, number: u64) -> io::Result<RelPath> {
        self.dir()?.join(number.to_string()).map_err(io::Error::other)
    }

    fn make_dir(&self, inner: &Inner) -> io::Result<()> {
        let dir = self.dir()?;
        let made = inner.data.create_dir(&dir);
        if made.is_err() {
            // so that the next file tries again
            self.records.lock().files = 0;
        }
        made?;
        inner.ledger.add(Part::Other, inner.data.stat(&dir)?.len as i64);
        Ok(())
    }

    /// Remove all that was set aside. What resists is removed by the next open.
    pub fn clear(&self, inner: &Inner) {
        let files = self.records.lock().files;
        for number in 1..=files {
            // under the lock, so that of two snapshots that keep one file one sees the last name
            let names = inner.names();
            let Ok(path) = self.file(number) else { continue };
            let _ = inner.remove_beside(&names, &path, None);
        }
        let Ok(dir) = self.dir() else { return };
        if let (1.., Ok(stat)) = (files, inner.data.stat(&dir)) {
            if inner.data.remove_dir(&dir).is_ok() {
                inner.ledger.add(Part::Other, -(stat.len as i64));
            }
        }
    }
}

/// Whether the file system has no hard link to give: none at all, too many, or not of this file.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), Unsupported | PermissionDenied | TooManyLinks)
}

fn copy(inner: &Inner, from: &RelPath, to: &RelPath, stat: &Stat) -> io::Result<()> {
    let source = inner.data.open(from, Open::Read)?;
    let target = inner.growing(&to.parent(), || inner.data.open(to, Open::CreateNew))?;
    let copied = copy_content(&*source, &*target, stat);
    match copied {
        Ok(len) => inner.ledger.add(Part::Other, len as i64),
        // what cannot be removed now is removed with the snapshot
        Err(_) => drop(inner.growing(&to.parent(), || inner.data.remove_file(to))),
    }
    copied.map(drop)
}

/// Content, digest, mode and time; gives the length.
pub(crate) fn copy_content(source: &dyn DiskFile, target: &dyn DiskFile, stat: &Stat) -> io::Result<u64> {
    let mut bytes = vec![0; CHUNK];
    let mut len = 0;
    loop {
        match source.read_at(&mut bytes, len)? {
            0 => break,
            n => target.write_all_at(&bytes[..n], len)?,
        }
        len = target.len()?;
    }
    if let Some(tag) = source.tag(crate::tag::NAME)? {
        match target.set_tag(crate::tag::NAME, &tag) {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
    }
    target.set_mode(stat.mode)?;
    target.set_mtime(stat.mtime_ns)?;
    Ok(len)
}
