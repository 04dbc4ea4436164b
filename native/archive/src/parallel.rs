//! Unpacking by groups: each worker reads, decompresses and places one group after the other.
//!
//! Invariant: a slice waits only for the first group of its own file, which a worker took before it;
//! an error anywhere stops all, and all are joined.

use crate::codec::Unpacker;
use crate::error::{corrupt, guarded, io_at, ArchiveError, Result};
use crate::header::{self, EntryKind};
use crate::index::{Group, GroupKind, Index};
use crate::input::{carried, GroupInput, Input};
use crate::item::Format;
use crate::place::{Hand, LargePlace, Place, Turn};
use crate::slices::{slice_count, slice_len, SLICE};
use macula_core::DiskFile;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

struct Shared<'a> {
    archive: &'a Arc<dyn DiskFile>,
    format: Format,
    groups: &'a [Group],
    place: &'a Place<'a>,
    next: AtomicUsize,
    bytes_total: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    error: Option<ArchiveError>,
    stopped: bool,
    /// Large files by their first group, until all of their slices are placed.
    large: HashMap<usize, Arc<LargePlace>>,
}

/// Places every group before the manifest.
pub(crate) fn place_groups(
    archive: &Arc<dyn DiskFile>,
    format: Format,
    index: &Index,
    place: &Place<'_>,
    workers: usize,
) -> Result<()> {
    let groups = &index.groups[..index.manifest()];
    let shared = Shared {
        archive,
        format,
        groups,
        place,
        next: AtomicUsize::new(0),
        bytes_total: groups.iter().map(|g| g.len as u64).sum(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(groups.len()) {
            let thread = std::thread::Builder::new().name("macula-unpack".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, || shared.serve()) {
                shared.stop(io_at("starting a thread", b"")(error));
            }
        }
        shared.serve();
    });
    shared.state.into_inner().error.map_or(Ok(()), Err)
}

impl Shared<'_> {
    fn serve(&self) {
        let mut worker =
            Worker { shared: self, hand: Hand::new(self.place), frames: Frames::new(self.format, self.groups) };
        loop {
            let number = self.next.fetch_add(1, Ordering::AcqRel);
            if number >= self.groups.len() || self.state.lock().stopped {
                return;
            }
            if let Err(error) = guarded(|| worker.group(number)) {
                return self.stop(error);
            }
            self.place.report(self.bytes_total);
        }
    }

    fn stop(&self, error: ArchiveError) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// The large file that begins in group `first`, once the worker that has that group opened it.
    fn large(&self, first: usize) -> Option<Arc<LargePlace>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(large) = state.large.get(&first) {
                return Some(Arc::clone(large));
            }
            self.changed.wait(&mut state);
        }
    }
}

struct Worker<'s> {
    shared: &'s Shared<'s>,
    hand: Hand<'s, 's>,
    frames: Frames,
}

impl Worker<'_> {
    fn group(&mut self, number: usize) -> Result<()> {
        self.shared.place.check_cancelled()?;
        let groups = self.shared.groups;
        let group = groups[number];
        let mut input = GroupInput(self.frames.read(&**self.shared.archive, &group)?);
        match group.kind {
            GroupKind::Head | GroupKind::Entries => {
                while !input.at_end() {
                    match header::read(&mut input)? {
                        Some(meta) if matches!(self.shared.place.turn(&meta), Turn::Entry) => {
                            self.hand.entry(meta, &mut input)?;
                        }
                        Some(meta) => return corrupt("the manifest is not where the index says", &meta.path),
                        None => return corrupt("the tar ends before its last group", b""),
                    }
                }
            }
            GroupKind::Large => {
                let slices = 1 + groups[number + 1..].iter().take_while(|g| g.kind == GroupKind::Slice).count();
                let Some(meta) = header::read(&mut input)? else {
                    return corrupt("the tar ends before its last group", b"");
                };
                if meta.kind != EntryKind::File || slice_count(meta.len) != slices as u64 {
                    return corrupt("a large file's slices", &meta.path);
                }
                let large = Arc::new(self.hand.begin_large(meta)?);
                self.shared.state.lock().large.insert(number, Arc::clone(&large));
                self.shared.changed.notify_all();
                self.hand.slice(&large, 0, input.take(SLICE)?)?;
            }
            GroupKind::Slice => {
                let Some(large) = self.shared.large(group.first) else { return Ok(()) };
                let (len, index) = (large.meta.len, (number - group.first) as u64);
                let complete = self.hand.slice(&large, index, input.take(slice_len(len, index))?)?;
                if index + 1 == slice_count(len) {
                    input.take(header::padding(len))?;
                }
                // not at the last slice: others may still be on their way
                if complete {
                    self.shared.state.lock().large.remove(&group.first);
                }
            }
            GroupKind::Manifest => return corrupt("the order of groups in the index", b""),
        }
        if input.at_end() {
            Ok(())
        } else {
            corrupt("bytes after a group's last entry", b"")
        }
    }
}

/// Reads and decompresses groups.
struct Frames {
    unpacker: Unpacker,
    packed: Vec<u8>,
    raw: Vec<u8>,
}

impl Frames {
    /// For these groups, with room for the longest: growing step by step would touch new pages again
    /// and again.
    fn new(format: Format, groups: &[Group]) -> Self {
        let packed_len = groups.iter().map(|group| group.packed_len).max().unwrap_or(0);
        let len = groups.iter().map(|group| group.len).max().unwrap_or(0);
        let (packed, raw) = (vec![0; packed_len], Vec::with_capacity(len));
        Self { unpacker: Unpacker::new(format), packed, raw }
    }

    fn read(&mut self, archive: &dyn DiskFile, group: &Group) -> Result<&[u8]> {
        let packed = &mut self.packed[..group.packed_len];
        archive.read_exact_at(packed, group.offset).map_err(io_at("reading the archive", b""))?;
        self.unpacker.unpack(packed, group.len, &mut self.raw)?;
        Ok(&self.raw)
    }
}

/// Groups one after the other as a stream.
pub(crate) struct GroupRead<'a> {
    archive: &'a dyn DiskFile,
    groups: std::slice::Iter<'a, Group>,
    frames: Frames,
    at: usize,
}

impl<'a> GroupRead<'a> {
    /// The groups of the manifest.
    pub(crate) fn manifest(archive: &'a Arc<dyn DiskFile>, format: Format, index: &'a Index) -> Self {
        let groups = &index.groups[index.manifest()..];
        Self { archive: &**archive, groups: groups.iter(), frames: Frames::new(format, groups), at: 0 }
    }
}

impl Read for GroupRead<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at == self.frames.raw.len() {
            let Some(group) = self.groups.next() else { return Ok(0) };
            self.frames.read(self.archive, group).map_err(carried)?;
            self.at = 0;
        }
        let n = bytes.len().min(self.frames.raw.len() - self.at);
        bytes[..n].copy_from_slice(&self.frames.raw[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
