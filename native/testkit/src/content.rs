//! The bytes of one simulated file: as every reader sees them, and as the platter has them.
//!
//! Invariant: replaying every pending change onto the durable content gives the live content. A
//! change that met a failed sync stays in limbo: like Linux, a later successful sync does not write
//! it (the kernel took the pages for clean), so only luck makes it durable.

use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const PAGE: usize = 4096;
const SECTOR: u64 = 512;

/// What a machine finds after power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Exactly what was synced.
    LoseAll,
    /// Everything that was written.
    KeepAll,
    /// Any subset of the rest that a disk and a file system could leave, chosen by the seed.
    Random(u64),
}

/// A sparse byte array; a page that is present occupies space on the simulated device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub len: u64,
    pub pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

/// The parts of `[offset, offset + len)` that lie in one block each: (block, offset in it, range).
fn split(offset: u64, len: usize, block: u64) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % block) as usize;
        let part = (block as usize - within).min(len - done);
        done += part;
        Some((at / block, within, done - part..done))
    })
}

impl Content {
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> usize {
        let len = (self.len.saturating_sub(offset)).min(bytes.len() as u64) as usize;
        for (page, within, range) in split(offset, len, PAGE as u64) {
            let part = &mut bytes[range];
            match self.pages.get(&page) {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
        }
        len
    }

    pub fn write_at(&mut self, bytes: &[u8], offset: u64) {
        for (page, within, range) in split(offset, bytes.len(), PAGE as u64) {
            let page = Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE])));
            page[within..within + range.len()].copy_from_slice(&bytes[range]);
        }
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE as u64));
            if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
                Arc::make_mut(page)[(len % PAGE as u64) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    /// Bytes from `offset` that can be written while `free` more pages may be taken.
    pub fn writable(&self, offset: u64, len: usize, mut free: u64) -> usize {
        for (page, _, range) in split(offset, len, PAGE as u64) {
            if !self.pages.contains_key(&page) {
                if free == 0 {
                    return range.start;
                }
                free -= 1;
            }
        }
        len
    }

    /// Pages that an allocation up to `len` would take.
    pub fn pages_missing(&self, len: u64) -> u64 {
        let wanted = len.div_ceil(PAGE as u64);
        wanted - self.pages.range(..wanted).count() as u64
    }

    fn allocate(&mut self, len: u64) {
        let zeros = Arc::new([0; PAGE]);
        for page in 0..len.div_ceil(PAGE as u64) {
            self.pages.entry(page).or_insert_with(|| zeros.clone());
        }
        self.len = self.len.max(len);
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Len(u64),
    Allocate(u64),
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { offset, bytes } => content.write_at(bytes, *offset),
            Change::Len(len) => content.set_len(*len),
            Change::Allocate(len) => content.allocate(*len),
        }
    }

    /// As [`Change::apply`], each sector and the growth in length by `luck`.
    fn apply_torn(&self, content: &mut Content, luck: &mut impl FnMut() -> bool) {
        let Change::Write { offset, bytes } = self else {
            if luck() {
                self.apply(content);
            }
            return;
        };
        let end = offset + bytes.len() as u64;
        if end > content.len && luck() {
            content.len = end;
        }
        for (sector, within, range) in split(*offset, bytes.len(), SECTOR) {
            let at = sector * SECTOR + within as u64;
            let room = content.len.saturating_sub(at).min(range.len() as u64) as usize;
            if luck() {
                content.write_at(&bytes[range][..room], at);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dirty,
    Limbo,
    Synced,
}

/// Live and durable content of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileData {
    pub live: Content,
    durable: Content,
    pending: Vec<(Change, Fate)>,
}

impl FileData {
    pub fn at_rest(content: Content) -> Self {
        Self { live: content.clone(), durable: content, pending: Vec::new() }
    }

    pub fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push((change, Fate::Dirty));
    }

    pub fn sync(&mut self) {
        if self.pending.iter().all(|(_, fate)| *fate != Fate::Limbo) {
            for (change, _) in self.pending.drain(..) {
                change.apply(&mut self.durable);
            }
            return;
        }
        for (_, fate) in self.pending.iter_mut().filter(|(_, fate)| *fate == Fate::Dirty) {
            *fate = Fate::Synced;
        }
        // the inode, and with it the length, is written by every successful sync
        self.pending.push((Change::Len(self.live.len), Fate::Synced));
    }

    pub fn fail_sync(&mut self) {
        for (_, fate) in self.pending.iter_mut().filter(|(_, fate)| *fate == Fate::Dirty) {
            *fate = Fate::Limbo;
        }
    }

    pub fn crashed(&self, mode: CrashMode, rng: &mut Rng) -> Content {
        if mode == CrashMode::KeepAll {
            return self.live.clone();
        }
        let mut content = self.durable.clone();
        let odds = rng.u8(1..=9);
        for (change, fate) in &self.pending {
            match (fate, mode) {
                (Fate::Synced, _) => change.apply(&mut content),
                (_, CrashMode::Random(_)) => change.apply_torn(&mut content, &mut || rng.u8(0..10) < odds),
                _ => {}
            }
        }
        content
    }
}
