//! A version of redb that stays as it is while others write: what lies below the tables in memory.
//!
//! Invariant: a base holds a read transaction of redb, so that none of its pages is reused before
//! the base is dropped; whoever keeps one for long makes the file grow.

use crate::compress::decompress;
use crate::engine::Keeper;
use crate::fence::fence;
use crate::value::{split_expiry_key, Body, Cell, DATA, EXPIRY, LONG};
use crate::KvError;
use macula_blocks::BlockFile;
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use std::ops::Bound;
use std::sync::Arc;

/// One version.
pub(crate) struct Base {
    /// Taken on drop only.
    tables: Option<Tables>,
    blocks: Arc<BlockFile>,
    /// Dropped behind the transaction.
    _keeper: Option<Arc<Keeper>>,
    /// The newest batch that it holds.
    pub revision: u64,
    /// Entries.
    pub len: u64,
}

/// What is not opened here is opened when needed: opening a table reads its first page, and a page of
/// long values is as long as they are.
struct Tables {
    txn: ReadTransaction,
    data: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

type Bytes = AccessGuard<'static, &'static [u8]>;

/// An entry whose value is not looked at yet.
pub(crate) struct Stored(Bytes);

impl Tables {
    /// What `f` makes of the value that a cell holds or names.
    fn value<R>(
        &self,
        cell: &[u8],
        len_max: usize,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Result<R, KvError>, redb::Error> {
        let cell = Cell::decode(cell)?;
        if let Err(error) = short_enough(cell.value_len() as usize, len_max) {
            return Ok(Err(error));
        }
        let whole = |stored: &[u8]| match cell.full_len {
            Some(len) => Ok(Ok(f(&decompress(stored, len)?))),
            None => Ok(Ok(f(stored))),
        };
        let (number, len) = match cell.body {
            Body::Short(stored) => return whole(stored),
            Body::Long { number, len } => (number, len),
        };
        match self.txn.open_table(LONG)?.get(number)? {
            Some(bytes) if bytes.value().len() as u64 == len => whole(bytes.value()),
            _ => Err(redb::Error::Corrupted(format!("no long value of its length: number={number} len={len}"))),
        }
    }
}

impl Base {
    /// The version that redb holds now.
    pub fn now(
        db: &impl ReadableDatabase,
        blocks: &Arc<BlockFile>,
        revision: u64,
        keeper: Option<Arc<Keeper>>,
    ) -> Result<Arc<Self>, KvError> {
        let (tables, len) = fence(blocks, || {
            let txn = db.begin_read()?;
            let data = txn.open_table(DATA)?;
            let len = data.len()?;
            Ok((Tables { txn, data }, len))
        })?;
        Ok(Arc::new(Self { tables: Some(tables), blocks: blocks.clone(), _keeper: keeper, revision, len }))
    }

    /// The file that it reads.
    pub fn blocks(&self) -> &Arc<BlockFile> {
        &self.blocks
    }

    /// Inside the fence, because a bad page panics where it is first touched.
    fn within<T>(&self, act: impl FnOnce(&Tables) -> Result<T, redb::Error>) -> Result<T, KvError> {
        let tables = self.tables.as_ref().ok_or(KvError::Closed)?;
        fence(&self.blocks, || act(tables))
    }

    /// What `f` makes of the value of a key, unless `has_passed` says so of its time;
    /// [`KvError::TooLarge`] when the value is longer than `len_max`.
    pub fn find<R>(
        &self,
        key: &[u8],
        len_max: usize,
        has_passed: impl FnOnce(u64) -> bool,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, KvError> {
        let found = self.within(|tables| {
            let Some(cell) = tables.data.get(key)? else { return Ok(None) };
            if has_passed(Cell::decode(cell.value())?.expires_ms) {
                return Ok(None);
            }
            Ok(Some(tables.value(cell.value(), len_max, f)?))
        });
        found?.transpose()
    }

    /// When a key expires, if it is there.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        self.within(|tables| {
            let Some(cell) = tables.data.get(key)? else { return Ok(None) };
            Ok(Some(Cell::decode(cell.value())?.expires_ms))
        })
    }

    /// What `f` makes of an entry of this base.
    pub fn value<R>(&self, stored: &Stored, len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R, KvError> {
        self.within(|tables| tables.value(stored.0.value(), len_max, f))?
    }

    /// How many long values there are, named or not.
    pub fn long_len(&self) -> Result<u64, KvError> {
        self.within(|tables| Ok(tables.txn.open_table(LONG)?.len()?))
    }

    /// How many entries there are that expire.
    pub fn expiry_len(&self) -> Result<u64, KvError> {
        self.within(|tables| Ok(tables.txn.open_table(EXPIRY)?.len()?))
    }

    /// When each entry expires and its key, in this order, behind the row `behind` and until `take` says
    /// that it has enough.
    pub fn expiring(&self, behind: Option<&[u8]>, mut take: impl FnMut(u64, &[u8]) -> bool) -> Result<(), KvError> {
        self.within(|tables| {
            let low = behind.map_or(Bound::Unbounded, Bound::Excluded);
            for row in tables.txn.open_table(EXPIRY)?.range::<&[u8]>((low, Bound::Unbounded))? {
                let row = row?.0;
                let (expires_ms, key) = split_expiry_key(row.value())?;
                if !take(expires_ms, key) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Entries in key order, or the reverse. The range must not be empty by its bounds.
    pub fn scan(&self, low: Bound<&[u8]>, high: Bound<&[u8]>, reverse: bool) -> Result<BaseScan<'_>, KvError> {
        let range = self.within(|tables| Ok(tables.data.range::<&[u8]>((low, high))?))?;
        Ok(BaseScan { base: self, range, reverse })
    }
}

impl Stored {
    /// When it expires.
    pub fn expires_ms(&self) -> u64 {
        Cell::decode(self.0.value()).map_or(0, |cell| cell.expires_ms)
    }

    /// Whether its value lies in the table of long ones.
    pub fn is_long(&self) -> bool {
        matches!(Cell::decode(self.0.value()), Ok(Cell { body: Body::Long { .. }, .. }))
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let tables = self.tables.take();
        let _ = fence(&self.blocks, || {
            drop(tables);
            Ok(())
        });
    }
}

/// An iteration over a base.
pub(crate) struct BaseScan<'base> {
    base: &'base Base,
    range: redb::Range<'static, &'static [u8], &'static [u8]>,
    reverse: bool,
}

impl BaseScan<'_> {
    /// The next key with its entry.
    pub fn step(&mut self) -> Result<Option<(Vec<u8>, Stored)>, KvError> {
        let (range, reverse) = (&mut self.range, self.reverse);
        fence(&self.base.blocks, || {
            let entry = if reverse { range.next_back() } else { range.next() };
            let Some(entry) = entry else { return Ok(None) };
            let (key, cell) = entry?;
            Cell::decode(cell.value())?;
            Ok(Some((key.value().to_vec(), Stored(cell))))
        })
    }
}

pub(crate) fn short_enough(len: usize, len_max: usize) -> Result<(), KvError> {
    match len > len_max {
        true => Err(KvError::TooLarge { what: "value", len: len as u64, len_max: len_max as u64 }),
        false => Ok(()),
    }
}
