//! A version of the store that stays as it is while others write.
//!
//! Invariant: a view holds a read transaction of redb, so that none of its pages is reused before
//! the view is dropped; whoever keeps one for long makes the file grow.

use crate::blocks::BlockFile;
use crate::fence::fence;
use crate::KvError;
use redb::{ReadOnlyTable, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Keys and values of the user.
pub(crate) const DATA: TableDefinition<&[u8], &[u8]> = TableDefinition::new("data");

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
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    blocks: Arc<BlockFile>,
    pub revision: u64,
    pub len: u64,
}

impl View {
    /// The version that redb holds now.
    pub fn now(db: &impl ReadableDatabase, blocks: &Arc<BlockFile>, revision: u64) -> Result<Arc<Self>, KvError> {
        let (table, len) = fence(blocks, || {
            let table = db.begin_read()?.open_table(DATA)?;
            let len = table.len()?;
            Ok((table, len))
        })?;
        Ok(Arc::new(Self { table: Some(table), blocks: blocks.clone(), revision, len }))
    }

    pub fn find(&self, key: &[u8]) -> Result<Option<Value>, KvError> {
        let Some(table) = &self.table else { return Ok(None) };
        fence(&self.blocks, || {
            let found = table.get(key)?;
            // a bad page would panic here, inside the fence, and not at the caller's
            let _ = found.as_ref().map(|guard| guard.value().len());
            Ok(found)
        })
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.find(key)?.map(|value| value.value().to_vec()))
    }

    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        page(Some(self), &Writes::new(), range, reverse, limits)
    }

    /// Entries in key order, or the reverse.
    pub fn scan(&self, range: &KeyRange, reverse: bool) -> Result<Scan, KvError> {
        let (low, high) = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
        let range = match &self.table {
            Some(table) if !is_empty(range) => Some(fence(&self.blocks, || Ok(table.range::<&[u8]>((low, high))?))?),
            _ => None,
        };
        Ok(Scan { range, blocks: self.blocks.clone(), reverse })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let table = self.table.take();
        let _ = fence(&self.blocks, || {
            drop(table);
            Ok(())
        });
    }
}

/// An iteration over a view, which must outlive it.
pub(crate) struct Scan {
    range: Option<redb::Range<'static, &'static [u8], &'static [u8]>>,
    blocks: Arc<BlockFile>,
    reverse: bool,
}

/// A value that is not copied yet.
pub(crate) type Value = redb::AccessGuard<'static, &'static [u8]>;

impl Scan {
    pub fn step(&mut self) -> Result<Option<(Vec<u8>, Value)>, KvError> {
        let Some(range) = &mut self.range else { return Ok(None) };
        let reverse = self.reverse;
        fence(&self.blocks, || {
            let entry = if reverse { range.next_back() } else { range.next() };
            let Some(entry) = entry else { return Ok(None) };
            let (key, value) = entry?;
            Ok(Some((key.value().to_vec(), value)))
        })
    }

    /// The next entry.
    pub fn next(&mut self) -> Result<Option<Entry>, KvError> {
        let Some((key, value)) = self.step()? else { return Ok(None) };
        Ok(Some((key, self.copy(&value)?)))
    }

    fn copy(&self, value: &Value) -> Result<Vec<u8>, KvError> {
        fence(&self.blocks, || Ok(value.value().to_vec()))
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
            (Some((key, Some(value))), _, _) => (key.clone(), value.clone()),
            (None, Some((key, value)), Some(scan)) => (key, scan.copy(&value)?),
            (None, _, _) => return Ok(page),
        };
        let weight = entry.0.len() + entry.1.len();
        let full = page.entries.len() >= limits.entries_max || bytes + weight > limits.bytes_max;
        if let (true, Some((last, _))) = (full, page.entries.last()) {
            page.next = Some(last.clone());
            return Ok(page);
        }
        bytes += weight;
        page.entries.push(entry);
    }
}
