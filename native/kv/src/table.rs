//! What was written since redb was last brought up to date: an ordered map of versions in memory.
//!
//! Invariant: the store's one writer inserts, and only versions newer than any that a reader may
//! see; nothing is removed or changed. A reader sees the versions up to its own revision.

use crate::threads::Threads;
use crossbeam_skiplist::map::Entry;
use crossbeam_skiplist::SkipMap;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::atomic::{self, AtomicU64, AtomicUsize};

/// When an entry expires that stays.
pub const NEVER_MS: u64 = u64::MAX;
/// What an entry takes beside its key and value, bytes.
const ENTRY_BYTES: usize = 128;

/// What a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
    /// Wall clock, milliseconds since 1970; [`NEVER_MS`] when it stays.
    pub expires_ms: u64,
}

/// One version of one key; a key's newest comes first.
#[derive(Debug)]
pub(crate) struct Version {
    pub key: Vec<u8>,
    pub revision: u64,
}

/// So that a key is looked for without a copy of it.
trait AsVersion {
    fn parts(&self) -> (&[u8], u64);
}

impl AsVersion for Version {
    fn parts(&self) -> (&[u8], u64) {
        (&self.key, self.revision)
    }
}

impl AsVersion for (&[u8], u64) {
    fn parts(&self) -> (&[u8], u64) {
        *self
    }
}

fn order(one: (&[u8], u64), other: (&[u8], u64)) -> Ordering {
    one.0.cmp(other.0).then(other.1.cmp(&one.1))
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.parts(), other.parts())
    }
}

impl PartialEq for dyn AsVersion + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn AsVersion + '_ {}

impl PartialOrd for dyn AsVersion + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn AsVersion + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.parts(), other.parts())
    }
}

impl<'a> Borrow<dyn AsVersion + 'a> for Version {
    fn borrow(&self) -> &(dyn AsVersion + 'a) {
        self
    }
}

type Map = SkipMap<Version, Written>;

/// One table of versions.
pub(crate) struct Table {
    /// Taken on drop only.
    entries: Option<Map>,
    /// The revision that removed everything before it, with which this table began.
    pub cleared: Option<u64>,
    bytes: AtomicUsize,
    len: AtomicUsize,
    /// What it adds to the waiting of all stores.
    waiting_bytes: AtomicUsize,
    /// Set when nothing more comes.
    last_revision: AtomicU64,
    threads: Threads,
}

/// One key as a reader of some revision sees it.
pub(crate) type Seen<'t> = Entry<'t, Version, Written>;

impl Table {
    pub fn new(threads: &Threads) -> Self {
        let (bytes, len, waiting_bytes, last_revision) = Default::default();
        let (entries, threads) = (Some(SkipMap::new()), threads.clone());
        Self { entries, cleared: None, bytes, len, waiting_bytes, last_revision, threads }
    }

    /// The one that goes on after `revision` removed everything.
    pub fn cleared_at(&self, revision: u64) -> Self {
        let mut table = Self::new(&self.threads);
        table.cleared = Some(revision);
        table
    }

    /// Nothing after `revision` comes into it.
    pub fn freeze(&self, revision: u64) {
        self.last_revision.store(revision, atomic::Ordering::Release);
        self.waiting_bytes.store(self.bytes(), atomic::Ordering::Relaxed);
        self.threads.add_waiting(self.bytes());
    }

    /// The newest batch that is in it, once it is frozen.
    pub fn last_revision(&self) -> u64 {
        self.last_revision.load(atomic::Ordering::Acquire)
    }

    /// Versions.
    pub fn len(&self) -> usize {
        self.len.load(atomic::Ordering::Relaxed)
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(atomic::Ordering::Relaxed)
    }

    /// Whether draining it would change anything.
    pub fn is_blank(&self) -> bool {
        self.cleared.is_none() && self.len() == 0
    }

    /// By the writer.
    pub fn insert(&self, key: Vec<u8>, revision: u64, written: Written) {
        let Some(entries) = &self.entries else { return };
        let len = key.len() + written.value.as_ref().map_or(0, Vec::len) + ENTRY_BYTES;
        self.bytes.fetch_add(len, atomic::Ordering::Relaxed);
        self.len.fetch_add(1, atomic::Ordering::Relaxed);
        entries.insert(Version { key, revision }, written);
    }

    /// A key as of `revision`.
    pub fn get(&self, key: &[u8], revision: u64) -> Option<Seen<'_>> {
        let from: &dyn AsVersion = &(key, revision);
        let found = self.entries.as_ref()?.lower_bound(Bound::Included(from))?;
        (found.key().key == key).then_some(found)
    }

    /// The first key of a range that starts with `low`, as of `revision`.
    pub fn first(&self, low: Bound<&[u8]>, revision: u64) -> Option<Seen<'_>> {
        let entries = self.entries.as_ref()?;
        let found = match low {
            Bound::Unbounded => entries.front(),
            Bound::Included(key) => entries.lower_bound(Bound::Included(&(key, u64::MAX) as &dyn AsVersion)),
            Bound::Excluded(key) => entries.lower_bound(Bound::Excluded(&(key, 0_u64) as &dyn AsVersion)),
        };
        visible(found?, revision)
    }

    /// The key behind `seen`, as of `revision`.
    pub fn next<'t>(&'t self, seen: &Seen<'t>, revision: u64) -> Option<Seen<'t>> {
        let mut next = seen.next()?;
        while next.key().key == seen.key().key {
            next = next.next()?;
        }
        visible(next, revision)
    }

    /// The last key of a range that ends with `high`, as of `revision`.
    pub fn last(&self, high: Bound<&[u8]>, revision: u64) -> Option<Seen<'_>> {
        let entries = self.entries.as_ref()?;
        let mut found = match high {
            Bound::Unbounded => entries.back(),
            Bound::Included(key) => entries.upper_bound(Bound::Included(&(key, 0_u64) as &dyn AsVersion)),
            Bound::Excluded(key) => entries.upper_bound(Bound::Excluded(&(key, u64::MAX) as &dyn AsVersion)),
        };
        // the oldest version of a key comes last: when that is too new, all of them are
        while let Some(oldest) = found {
            if let Some(seen) = self.get(&oldest.key().key, revision) {
                return Some(seen);
            }
            found = entries.upper_bound(Bound::Excluded(&(&*oldest.key().key, u64::MAX) as &dyn AsVersion));
        }
        None
    }
}

/// This version, or the first behind it that a reader of `revision` sees.
fn visible(mut entry: Seen<'_>, revision: u64) -> Option<Seen<'_>> {
    while entry.key().revision > revision {
        entry = entry.next()?;
    }
    Some(entry)
}

impl Drop for Table {
    fn drop(&mut self) {
        self.threads.remove_waiting(*self.waiting_bytes.get_mut());
        // a hundred thousand entries take milliseconds, and the last reader may be a scheduler thread
        if let Some(entries) = self.entries.take().filter(|entries| !entries.is_empty()) {
            self.threads.dispose(Box::new(entries));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_core::SystemClock;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn each_revision_sees_its_own_versions_both_ways() {
        let threads = Threads::start(1, 0, Arc::new(SystemClock)).expect("threads");
        let table = Table::new(&threads);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut models: Vec<BTreeMap<Vec<u8>, u64>> = vec![BTreeMap::new()];
        for revision in 1..400_u64 {
            let key = vec![rng.u8(..40)];
            table.insert(key.clone(), revision, Written { value: None, expires_ms: revision });
            let mut model = models.last().expect("one").clone();
            model.insert(key, revision);
            models.push(model);
        }
        for (revision, model) in models.iter().enumerate() {
            let revision = revision as u64;
            let mut forward = Vec::new();
            let mut seen = table.first(Bound::Unbounded, revision);
            while let Some(entry) = seen {
                forward.push((entry.key().key.clone(), entry.value().expires_ms));
                seen = table.next(&entry, revision);
            }
            let expected: Vec<_> = model.iter().map(|(key, at)| (key.clone(), *at)).collect();
            assert_eq!(forward, expected, "revision={revision}");
            let mut back = Vec::new();
            let mut seen = table.last(Bound::Unbounded, revision);
            while let Some(entry) = seen {
                back.push((entry.key().key.clone(), entry.value().expires_ms));
                seen = table.last(Bound::Excluded(&entry.key().key), revision);
            }
            back.reverse();
            assert_eq!(back, expected, "revision={revision}");
            for key in 0..41 {
                let got = table.get(&[key], revision).map(|entry| entry.value().expires_ms);
                assert_eq!(got, model.get(&vec![key]).copied());
                let first = table.first(Bound::Excluded(&[key]), revision).map(|entry| entry.key().key[0]);
                assert_eq!(first, model.range(vec![key + 1]..).next().map(|(key, _)| key[0]));
                let last = table.last(Bound::Included(&[key]), revision).map(|entry| entry.key().key[0]);
                assert_eq!(last, model.range(..=vec![key]).next_back().map(|(key, _)| key[0]));
            }
        }
    }
}
