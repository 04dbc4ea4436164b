//! Walking a range through several sources at once: an exclusive turn's writes, tables of versions,
//! redb. The newest source that has a key has the word about it.
//!
//! Invariant: each key comes once, in order; memory is one head per source.

use crate::base::{short_enough, Base, BaseScan, Stored};
use crate::table::{Seen, Table, Written};
use crate::view::{KeyRange, View, Writes};
use crate::KvError;
use std::cmp::Ordering;
use std::collections::btree_map;
use std::ops::Bound;

/// A key with what the newest source says about it.
pub(crate) enum Item<'v> {
    Mine(&'v Vec<u8>, &'v Written),
    Over(Seen<'v>),
    Under(Vec<u8>, Stored),
}

impl Item<'_> {
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Mine(key, _) => key,
            Self::Over(seen) => &seen.key().key,
            Self::Under(key, _) => key,
        }
    }

    pub fn into_key(self) -> Vec<u8> {
        match self {
            Self::Under(key, _) => key,
            other => other.key().to_vec(),
        }
    }

    /// Not deleted; it may have expired.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Mine(_, written) => written.value.is_some(),
            Self::Over(seen) => seen.value().value.is_some(),
            Self::Under(..) => true,
        }
    }

    /// What was written; `None` when it lies in redb.
    pub fn written(&self) -> Option<&Written> {
        match self {
            Self::Mine(_, written) => Some(written),
            Self::Over(seen) => Some(seen.value()),
            Self::Under(..) => None,
        }
    }

    pub fn expires_ms(&self) -> u64 {
        match self {
            Self::Mine(_, written) => written.expires_ms,
            Self::Over(seen) => seen.value().expires_ms,
            Self::Under(_, stored) => stored.expires_ms(),
        }
    }
}

enum Source<'v> {
    Mine { rest: btree_map::Range<'v, Vec<u8>, Written>, head: Option<(&'v Vec<u8>, &'v Written)> },
    Over { table: &'v Table, revision: u64, head: Option<Seen<'v>> },
    Under { rest: Box<BaseScan<'v>>, head: Option<(Vec<u8>, Stored)> },
}

impl<'v> Source<'v> {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Mine { head, .. } => head.map(|(key, _)| key.as_slice()),
            Self::Over { head, .. } => head.as_ref().map(|seen| seen.key().key.as_slice()),
            Self::Under { head, .. } => head.as_ref().map(|(key, _)| key.as_slice()),
        }
    }

    /// Its head; the one behind it becomes the head.
    fn take(&mut self, range: &Range<'_>) -> Result<Option<Item<'v>>, KvError> {
        match self {
            Self::Mine { rest, head } => {
                let next = if range.reverse { rest.next_back() } else { rest.next() };
                let old = std::mem::replace(head, next);
                Ok(old.map(|(key, written)| Item::Mine(key, written)))
            }
            Self::Over { table, revision, head } => {
                let Some(old) = head.take() else { return Ok(None) };
                let next = match range.reverse {
                    false => table.next(&old, *revision),
                    true => table.last(Bound::Excluded(&old.key().key), *revision),
                };
                *head = next.filter(|seen| range.contains(&seen.key().key));
                Ok(Some(Item::Over(old)))
            }
            Self::Under { rest, head } => {
                let old = std::mem::replace(head, rest.step()?);
                Ok(old.map(|(key, stored)| Item::Under(key, stored)))
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Range<'r> {
    low: Bound<&'r [u8]>,
    high: Bound<&'r [u8]>,
    reverse: bool,
}

impl Range<'_> {
    /// Whether a key that is not before the walk's begin is not behind its end.
    fn contains(&self, key: &[u8]) -> bool {
        match (self.reverse, self.low, self.high) {
            (true, Bound::Included(low), _) => key >= low,
            (true, Bound::Excluded(low), _) => key > low,
            (false, _, Bound::Included(high)) => key <= high,
            (false, _, Bound::Excluded(high)) => key < high,
            _ => true,
        }
    }
}

/// A walk.
pub(crate) struct Scan<'v> {
    /// Newest first.
    sources: Vec<Source<'v>>,
    view: &'v View,
    range: Range<'v>,
}

impl<'v> Scan<'v> {
    /// The entries of `view` (as if it were empty, if `is_cleared`) with `writes` laid over it. The
    /// range must not be [empty](is_empty) by its bounds.
    pub fn new(
        view: &'v View,
        writes: &'v Writes,
        is_cleared: bool,
        range: &'v KeyRange,
        reverse: bool,
    ) -> Result<Self, KvError> {
        let (low, high) = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
        let mut scan = Self { sources: Vec::new(), view, range: Range { low, high, reverse } };
        let mut rest = writes.range::<[u8], _>((low, high));
        let head = if reverse { rest.next_back() } else { rest.next() };
        if head.is_some() {
            scan.sources.push(Source::Mine { rest, head });
        }
        if !is_cleared {
            view.stack.tables.iter().for_each(|table| scan.push_table(table, view.revision));
            if !view.stack.is_cleared() {
                scan.push_base(&view.stack.base)?;
            }
        }
        Ok(scan)
    }

    /// What the tables of `view` hold above redb, deletions too.
    pub fn over_base(view: &'v View) -> Self {
        let range = Range { low: Bound::Unbounded, high: Bound::Unbounded, reverse: false };
        let mut scan = Self { sources: Vec::new(), view, range };
        view.stack.tables.iter().for_each(|table| scan.push_table(table, view.revision));
        scan
    }

    fn push_table(&mut self, table: &'v Table, revision: u64) {
        let head = match self.range.reverse {
            false => table.first(self.range.low, revision),
            true => table.last(self.range.high, revision),
        };
        let head = head.filter(|seen| self.range.contains(&seen.key().key));
        if head.is_some() {
            self.sources.push(Source::Over { table, revision, head });
        }
    }

    fn push_base(&mut self, base: &'v Base) -> Result<(), KvError> {
        let mut rest = Box::new(base.scan(self.range.low, self.range.high, self.range.reverse)?);
        let head = rest.step()?;
        self.sources.push(Source::Under { rest, head });
        Ok(())
    }

    /// The next key with what is said about it, deletions too.
    pub fn step(&mut self) -> Result<Option<Item<'v>>, KvError> {
        let mut first: Option<(usize, &[u8])> = None;
        // more sources have the same key
        let mut is_shared = false;
        for (nth, source) in self.sources.iter().enumerate() {
            let Some(key) = source.key() else { continue };
            let order = match first {
                None => Ordering::Less,
                Some((_, best)) if self.range.reverse => best.cmp(key),
                Some((_, best)) => key.cmp(best),
            };
            match order {
                Ordering::Less => (first, is_shared) = (Some((nth, key)), false),
                Ordering::Equal => is_shared = true,
                Ordering::Greater => {}
            }
        }
        let Some((newest, _)) = first else { return Ok(None) };
        let item = self.sources[newest].take(&self.range)?;
        if let (true, Some(item)) = (is_shared, &item) {
            for source in &mut self.sources[newest + 1..] {
                if source.key() == Some(item.key()) {
                    source.take(&self.range)?;
                }
            }
        }
        Ok(item)
    }

    /// The next entry that is there.
    pub fn next(&mut self) -> Result<Option<Item<'v>>, KvError> {
        while let Some(item) = self.step()? {
            if item.is_there() && !self.view.stack.now.has_passed(item.expires_ms()) {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// What `f` makes of the value of an item that is there.
    pub fn value<R>(&self, item: &Item<'_>, len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R, KvError> {
        let written = match item {
            Item::Under(_, stored) => return self.view.stack.base.value(stored, len_max, f),
            Item::Mine(_, written) => written,
            Item::Over(seen) => seen.value(),
        };
        let value = written.value.as_deref().unwrap_or_default();
        short_enough(value.len(), len_max).map(|()| f(value))
    }
}

/// Whether no key can be in it.
pub(crate) fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
    }
}
