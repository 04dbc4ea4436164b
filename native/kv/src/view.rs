//! What a reader sees: tables of versions in memory, newest first, over a base in redb, all as of one
//! revision.
//!
//! Invariant: a view never changes. The stack that it holds has everything up to its revision;
//! versions that came later are in it too and not seen. An entry whose time has come is not seen.

use crate::base::{short_enough, Base};
use crate::batch::Expired;
use crate::scan::{is_empty, Scan};
use crate::table::{Table, Written, NEVER_MS};
use crate::KvError;
use macula_core::Clock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Changes of an exclusive turn.
pub(crate) type Writes = BTreeMap<Vec<u8>, Written>;

/// A range of keys.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Every key.
pub(crate) const EVERYTHING: KeyRange = (Bound::Unbounded, Bound::Unbounded);

/// How much one page holds. It always holds one entry, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Entries at most.
    pub entries_max: usize,
    /// Bytes of keys and values at most.
    pub bytes_max: usize,
    /// A value that is longer ends the page before it; as the first entry it is `TooLarge`.
    pub value_len_max: usize,
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A part of a range, in the order asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values.
    pub entries: Vec<Entry>,
    /// When there is more: the last key here, to go on after (exclusively).
    pub next: Option<Vec<u8>>,
}

/// A part of a range that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many are there.
    pub entries: u64,
    /// When there may be more: the last key that was counted, to go on after (exclusively).
    pub next: Option<Vec<u8>>,
}

/// The wall clock, made to go forward only, so that what expired stays expired; and to go on when the
/// wall clock was set back, so that a time to live given then is neither cut short nor endless.
#[derive(Debug)]
pub(crate) struct Now {
    clock: Arc<dyn Clock>,
    /// How far the wall clock was ahead of the monotonic one at most, milliseconds.
    ahead_ms: AtomicU64,
}

impl Now {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead_ms: AtomicU64::new(0) }
    }

    /// Milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        // in this order: a thread that was stopped in between is late for a moment, not ahead for ever
        let wall_ms = self.clock.wall_ms();
        let since_ms = self.clock.monotonic().as_millis() as u64;
        let ahead_ms = wall_ms.saturating_sub(since_ms);
        self.ahead_ms.fetch_max(ahead_ms, Ordering::AcqRel).max(ahead_ms) + since_ms
    }

    pub fn has_passed(&self, expires_ms: u64) -> bool {
        expires_ms != NEVER_MS && self.ms() >= expires_ms
    }
}

/// Everything there is, from the newest to the oldest.
pub(crate) struct Stack {
    /// The first one is being written; only the last one may have begun with a clear.
    pub tables: Vec<Arc<Table>>,
    pub base: Arc<Base>,
    pub now: Arc<Now>,
}

impl Stack {
    /// Whether the base counts for nothing any more.
    pub fn is_cleared(&self) -> bool {
        self.tables.last().is_some_and(|table| table.cleared.is_some())
    }

    /// Versions in memory.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|table| table.len()).sum()
    }

    /// Memory of all tables, about.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|table| table.bytes()).sum()
    }
}

/// One version of the store.
#[derive(Clone)]
pub(crate) struct View {
    pub stack: Arc<Stack>,
    pub revision: u64,
}

impl View {
    /// What `f` makes of the value of a key; [`KvError::TooLarge`] when it is longer than `len_max`.
    pub fn find<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        for table in &self.stack.tables {
            if let Some(seen) = table.get(key, self.revision) {
                return match self.live(seen.value()) {
                    Some(value) => short_enough(value.len(), len_max).map(|()| Some(f(value))),
                    None => Ok(None),
                };
            }
        }
        if self.stack.is_cleared() {
            return Ok(None);
        }
        self.stack.base.find(key, len_max, |expires_ms| self.stack.now.has_passed(expires_ms), f)
    }

    /// The value, if it was not deleted and is not expired.
    pub fn live<'w>(&self, written: &'w Written) -> Option<&'w [u8]> {
        written.value.as_deref().filter(|_| !self.stack.now.has_passed(written.expires_ms))
    }

    /// When a key expires, if it is there; its value is not looked at.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        Ok(self.expiry(key)?.filter(|expires_ms| !self.stack.now.has_passed(*expires_ms)))
    }

    /// The same, of an entry whose time has come too, as long as it was not swept.
    pub fn expiry(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        for table in &self.stack.tables {
            if let Some(seen) = table.get(key, self.revision) {
                let written = seen.value();
                return Ok(written.value.as_ref().map(|_| written.expires_ms));
            }
        }
        match self.stack.is_cleared() {
            true => Ok(None),
            false => self.stack.base.expires_ms(key),
        }
    }

    /// Whether it is there as it was found, and its time has come.
    pub fn is_due(&self, expired: &Expired) -> Result<bool, KvError> {
        let is_same = self.expiry(&expired.key)? == Some(expired.expires_ms);
        Ok(is_same && self.stack.now.has_passed(expired.expires_ms))
    }

    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        Ok(self.expires_ms(key)?.is_some())
    }

    /// Whether the key has exactly this value.
    pub fn is(&self, key: &[u8], value: Option<&[u8]>) -> Result<bool, KvError> {
        match value {
            None => Ok(!self.has(key)?),
            Some(value) => match self.find(key, value.len(), |found| found == value) {
                // longer than it
                Err(KvError::TooLarge { .. }) => Ok(false),
                found => Ok(found? == Some(true)),
            },
        }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.find(key, usize::MAX, <[u8]>::to_vec)
    }

    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        page(self, &Writes::new(), false, range, reverse, limits)
    }

    pub fn count(&self, range: &KeyRange, entries_max: u64) -> Result<Counted, KvError> {
        count(self, &Writes::new(), false, range, entries_max)
    }

    /// Entries; those that expired and were not swept yet are counted. Looks at what lies in memory,
    /// and for each key there once into redb.
    pub fn len(&self) -> Result<u64, KvError> {
        let stack = &self.stack;
        let mut len = if stack.is_cleared() { 0 } else { stack.base.len };
        let mut scan = Scan::over_base(self);
        while let Some(item) = scan.step()? {
            let had = !stack.is_cleared() && stack.base.expires_ms(item.key())?.is_some();
            len = len + u64::from(item.is_there()) - u64::from(had);
        }
        Ok(len)
    }
}

/// As [`page`], without a look at any value.
pub(crate) fn count(
    view: &View,
    writes: &Writes,
    is_cleared: bool,
    range: &KeyRange,
    entries_max: u64,
) -> Result<Counted, KvError> {
    let mut counted = Counted::default();
    if is_empty(range) {
        return Ok(counted);
    }
    let mut scan = Scan::new(view, writes, is_cleared, range, false)?;
    while let Some(item) = scan.next()? {
        counted.entries += 1;
        if counted.entries >= entries_max {
            counted.next = Some(item.into_key());
            break;
        }
    }
    Ok(counted)
}

/// A page of `view` (as if it were empty, if `is_cleared`) with `writes` laid over it.
pub(crate) fn page(
    view: &View,
    writes: &Writes,
    is_cleared: bool,
    range: &KeyRange,
    reverse: bool,
    limits: PageLimits,
) -> Result<Page, KvError> {
    let mut page = Page::default();
    if is_empty(range) {
        return Ok(page);
    }
    let mut scan = Scan::new(view, writes, is_cleared, range, reverse)?;
    let mut bytes = 0;
    while let Some(item) = scan.next()? {
        let value = scan.value(&item, limits.value_len_max, <[u8]>::to_vec);
        let weight = value.as_ref().map_or(0, |value| item.key().len() + value.len());
        let full = page.entries.len() >= limits.entries_max || bytes + weight > limits.bytes_max;
        let longer = matches!(value, Err(KvError::TooLarge { .. }));
        if let (true, Some((last, _))) = (full || longer, page.entries.last()) {
            page.next = Some(last.clone());
            return Ok(page);
        }
        bytes += weight;
        page.entries.push((item.into_key(), value?));
    }
    Ok(page)
}
