//! A version of the store that stays as it is while others write.
//!
//! Invariant: a view holds a read transaction of redb, so that none of its pages is reused before
//! the view is dropped; whoever keeps one for long makes the file grow.

use crate::blocks::BlockFile;
use crate::fence::fence;
use crate::value::{Cell, DATA, LONG};
use crate::KvError;
use redb::{AccessGuard, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Changes not yet in a view: `None` deletes.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

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

/// One version.
pub(crate) struct View {
    /// Taken on drop only.
    tables: Option<Tables>,
    blocks: Arc<BlockFile>,
    pub revision: u64,
    pub len: u64,
}

struct Tables {
    data: ReadOnlyTable<&'static [u8], &'static [u8]>,
    long: ReadOnlyTable<u64, &'static [u8]>,
}

type Bytes = AccessGuard<'static, &'static [u8]>;

/// A value that is not copied yet.
pub(crate) enum Value {
    /// The cell beside its key.
    Short(Bytes),
    /// From the table of long values.
    Long(Bytes),
}

impl Value {
    pub fn bytes(&self) -> &[u8] {
        match self {
            // decoded once already: of this kind
            Self::Short(cell) => cell.value().get(1..).unwrap_or_default(),
            Self::Long(bytes) => bytes.value(),
        }
    }
}

impl Tables {
    /// The value that a cell holds or names, of at most `len_max` bytes.
    fn value(&self, cell: Bytes, len_max: usize) -> Result<Result<Value, KvError>, redb::Error> {
        let decoded = Cell::decode(cell.value())?;
        let len = decoded.value_len();
        if len > len_max as u64 {
            return Ok(Err(KvError::TooLarge { what: "value", len, len_max: len_max as u64 }));
        }
        let Cell::Long { number, len } = decoded else { return Ok(Ok(Value::Short(cell))) };
        match self.long.get(number)? {
            Some(bytes) if bytes.value().len() as u64 == len => Ok(Ok(Value::Long(bytes))),
            _ => Err(redb::Error::Corrupted(format!("no long value of its length: number={number} len={len}"))),
        }
    }
}

impl View {
    /// The version that redb holds now.
    pub fn now(db: &impl ReadableDatabase, blocks: &Arc<BlockFile>, revision: u64) -> Result<Arc<Self>, KvError> {
        let (tables, len) = fence(blocks, || {
            let txn = db.begin_read()?;
            let tables = Tables { data: txn.open_table(DATA)?, long: txn.open_table(LONG)? };
            let len = tables.data.len()?;
            Ok((tables, len))
        })?;
        Ok(Arc::new(Self { tables: Some(tables), blocks: blocks.clone(), revision, len }))
    }

    /// Inside the fence, because a bad page panics where it is first touched.
    fn within<T>(&self, act: impl FnOnce(&Tables) -> Result<T, redb::Error>) -> Result<T, KvError> {
        let tables = self.tables.as_ref().ok_or(KvError::Closed)?;
        fence(&self.blocks, || act(tables))
    }

    /// The value of a key; [`KvError::TooLarge`] when it is longer than `len_max`.
    pub fn find(&self, key: &[u8], len_max: usize) -> Result<Option<Value>, KvError> {
        let found = self.within(|tables| {
            let Some(cell) = tables.data.get(key)? else { return Ok(None) };
            Ok(Some(tables.value(cell, len_max)?))
        });
        found?.transpose()
    }

    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.within(|tables| Ok(tables.data.get(key)?.is_some()))
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.find(key, usize::MAX)?.map(|value| value.bytes().to_vec()))
    }

    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        page(Some(self), &Writes::new(), range, reverse, limits)
    }

    /// How many long values there are, named or not.
    pub fn long_len(&self) -> Result<u64, KvError> {
        self.within(|tables| Ok(tables.long.len()?))
    }

    /// Entries in key order, or the reverse.
    pub fn scan(&self, range: &KeyRange, reverse: bool) -> Result<Scan<'_>, KvError> {
        let (low, high) = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
        let range = match is_empty(range) {
            true => None,
            false => Some(self.within(|tables| Ok(tables.data.range::<&[u8]>((low, high))?))?),
        };
        Ok(Scan { view: self, range, reverse })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let tables = self.tables.take();
        let _ = fence(&self.blocks, || {
            drop(tables);
            Ok(())
        });
    }
}

/// An iteration over a view.
pub(crate) struct Scan<'view> {
    view: &'view View,
    range: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    reverse: bool,
}

impl Scan<'_> {
    /// The next key with its cell.
    fn step(&mut self) -> Result<Option<(Vec<u8>, Bytes)>, KvError> {
        let Some(range) = &mut self.range else { return Ok(None) };
        let reverse = self.reverse;
        fence(&self.view.blocks, || {
            let entry = if reverse { range.next_back() } else { range.next() };
            let Some(entry) = entry else { return Ok(None) };
            let (key, cell) = entry?;
            Ok(Some((key.value().to_vec(), cell)))
        })
    }

    fn value(&self, cell: Bytes, len_max: usize) -> Result<Value, KvError> {
        self.view.within(|tables| tables.value(cell, len_max))?
    }

    /// The next entry, its value not copied.
    pub fn look(&mut self) -> Result<Option<(Vec<u8>, Value)>, KvError> {
        let Some((key, cell)) = self.step()? else { return Ok(None) };
        Ok(Some((key, self.value(cell, usize::MAX)?)))
    }

    /// The next entry.
    pub fn next(&mut self) -> Result<Option<Entry>, KvError> {
        Ok(self.look()?.map(|(key, value)| (key, value.bytes().to_vec())))
    }
}

fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
    }
}

/// A page of `view` (nothing, if `None`) with `writes` laid over it.
pub(crate) fn page(
    view: Option<&View>,
    writes: &Writes,
    range: &KeyRange,
    reverse: bool,
    limits: PageLimits,
) -> Result<Page, KvError> {
    let mut page = Page::default();
    if is_empty(range) {
        return Ok(page);
    }
    let mut scan = view.map(|view| view.scan(range, reverse)).transpose()?;
    let mut below = scan.as_mut().map_or(Ok(None), Scan::step)?;
    let bounds = (range.0.as_ref(), range.1.as_ref());
    let mut above = writes.range::<Vec<u8>, _>(bounds);
    let mut next_above = || if reverse { above.next_back() } else { above.next() };
    let mut over = next_above();
    let mut bytes = 0;
    loop {
        let order = match (&below, over) {
            (None, None) => return Ok(page),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((written, _))) if reverse => written.as_slice().cmp(key),
            (Some((key, _)), Some((written, _))) => key.as_slice().cmp(written),
        };
        let (mut under, mut written) = (None, None);
        if order.is_le() {
            under = below.take();
            below = scan.as_mut().map_or(Ok(None), Scan::step)?;
        }
        if order.is_ge() {
            written = over;
            over = next_above();
        }
        let entry = match (written, under, &scan) {
            (Some((_, None)), _, _) => continue,
            (Some((key, Some(value))), _, _) => {
                short_enough(value, limits.value_len_max).map(|()| (key.clone(), value.clone()))
            }
            (None, Some((key, cell)), Some(scan)) => {
                scan.value(cell, limits.value_len_max).map(|value| (key, value.bytes().to_vec()))
            }
            (None, _, _) => return Ok(page),
        };
        let weight = entry.as_ref().map_or(0, |(key, value)| key.len() + value.len());
        let full = page.entries.len() >= limits.entries_max || bytes + weight > limits.bytes_max;
        let longer = matches!(entry, Err(KvError::TooLarge { .. }));
        if let (true, Some((last, _))) = (full || longer, page.entries.last()) {
            page.next = Some(last.clone());
            return Ok(page);
        }
        bytes += weight;
        page.entries.push(entry?);
    }
}

pub(crate) fn short_enough(value: &[u8], len_max: usize) -> Result<(), KvError> {
    let len = value.len();
    match len > len_max {
        true => Err(KvError::TooLarge { what: "value", len: len as u64, len_max: len_max as u64 }),
        false => Ok(()),
    }
}
