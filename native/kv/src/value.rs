//! How values lie in redb: a short one beside its key, a long one in a table of its own, so that a
//! look at a key, or at its neighbours, never brings in a long value.
//!
//! Invariant: each long value has exactly one cell that names it, each entry that expires exactly one
//! row in the order of expiry; all change in one transaction.
//! Bytes: docs/formats.md, "Tables of redb".

use crate::compress::Compress;
use crate::table::{Written, NEVER_MS};
use redb::{CursorError, ReadableTable, Table, TableDefinition, WriteTransaction};
use std::ops::Bound;

/// The first bytes of `bytes`, which must be long enough.
pub(crate) fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// Keys of the user, and what each holds: a cell.
pub(crate) const DATA: TableDefinition<&[u8], &[u8]> = TableDefinition::new("data");
/// Long values by number.
pub(crate) const LONG: TableDefinition<u64, &[u8]> = TableDefinition::new("long");

/// Keys that expire, each behind its time (milliseconds since 1970, big-endian).
pub(crate) const EXPIRY: TableDefinition<&[u8], ()> = TableDefinition::new("expiry");

/// One page of zeros: see [`Tables::pad`].
const PAD: TableDefinition<u64, &[u8]> = TableDefinition::new("pad");
const PAD_LEN: usize = 1000;

/// Numbers of the store's own.
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The newest batch that is in the tables.
pub(crate) const REVISION: &str = "revision";
/// The number of the next long value.
const LONG_NEXT: &str = "long_next";
/// Of all keys and values, bytes.
pub(crate) const LIVE_BYTES: &str = "live_bytes";
/// The same with values as they are stored; as long as none is compressed, it may not be there.
pub(crate) const STORED_BYTES: &str = "stored_bytes";

/// An entry to be loaded.
pub(crate) struct Loaded {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub expires_ms: u64,
}

/// The longest value that lies beside its key, bytes. Eight pages of redb.
pub(crate) const SHORT_LEN_MAX: usize = 32 << 10;

/// Bits of a cell's first byte.
const IS_LONG: u8 = 1;
const EXPIRES: u8 = 2;
const IS_COMPRESSED: u8 = 4;
const KNOWN: u8 = IS_LONG | EXPIRES | IS_COMPRESSED;

/// What the table of keys holds for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell<'a> {
    /// Milliseconds since 1970; [`NEVER_MS`] when it stays.
    pub expires_ms: u64,
    /// The value's length, bytes, when the body has it compressed.
    pub full_len: Option<u64>,
    pub body: Body<'a>,
}

/// Where the value is, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// Here.
    Short(&'a [u8]),
    /// In the other table.
    Long { number: u64, len: u64 },
}

impl<'a> Cell<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, redb::Error> {
        let unknown = || redb::Error::Corrupted("a cell of unknown kind".into());
        let (flags, mut rest) = bytes.split_first().ok_or_else(unknown)?;
        if flags & !KNOWN != 0 {
            return Err(unknown());
        }
        let mut expires_ms = NEVER_MS;
        if flags & EXPIRES != 0 {
            let (time, behind) = rest.split_at_checked(8).ok_or_else(unknown)?;
            (expires_ms, rest) = (u64::from_le_bytes(le(time)), behind);
        }
        let mut full_len = None;
        if flags & IS_COMPRESSED != 0 {
            let (len, behind) = rest.split_at_checked(8).ok_or_else(unknown)?;
            (full_len, rest) = (Some(u64::from_le_bytes(le(len))), behind);
        }
        let body = match (flags & IS_LONG != 0, rest.len()) {
            (false, _) => Body::Short(rest),
            (true, 16) => Body::Long { number: u64::from_le_bytes(le(rest)), len: u64::from_le_bytes(le(&rest[8..])) },
            (true, _) => return Err(unknown()),
        };
        Ok(Self { expires_ms, full_len, body })
    }

    /// Of the value, bytes.
    pub fn value_len(&self) -> u64 {
        self.full_len.unwrap_or(self.stored_len())
    }

    /// Of what is stored for it, bytes.
    fn stored_len(&self) -> u64 {
        match self.body {
            Body::Short(stored) => stored.len() as u64,
            Body::Long { len, .. } => len,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(0);
        if self.expires_ms != NEVER_MS {
            out[0] |= EXPIRES;
            out.extend_from_slice(&self.expires_ms.to_le_bytes());
        }
        if let Some(full_len) = self.full_len {
            out[0] |= IS_COMPRESSED;
            out.extend_from_slice(&full_len.to_le_bytes());
        }
        match self.body {
            Body::Short(value) => out.extend_from_slice(value),
            Body::Long { number, len } => {
                out[0] |= IS_LONG;
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
            }
        }
    }
}

/// The tables, being written.
pub(crate) struct Tables<'txn> {
    txn: &'txn WriteTransaction,
    data: Table<'txn, &'static [u8], &'static [u8]>,
    expiry: Table<'txn, &'static [u8], ()>,
    /// Opened when needed: that reads its first page, which may be as long as its longest value.
    long: Option<Table<'txn, u64, &'static [u8]>>,
    /// The number of the next long value.
    long_next: u64,
    live_bytes: u64,
    stored_bytes: u64,
    compress: Compress,
    /// Scratch for cells.
    cell: Vec<u8>,
}

impl<'txn> Tables<'txn> {
    /// Open them, creating what is not there. Values of `compress_len_min` bytes are compressed.
    pub fn open(txn: &'txn WriteTransaction, compress_len_min: usize) -> Result<Self, redb::Error> {
        let meta = txn.open_table(META)?;
        let long_next = meta.get(LONG_NEXT)?.map(|next| next.value());
        let live_bytes = meta.get(LIVE_BYTES)?.map_or(0, |bytes| bytes.value());
        let stored_bytes = meta.get(STORED_BYTES)?.map_or(live_bytes, |bytes| bytes.value());
        if long_next.is_none() {
            txn.open_table(LONG)?;
        }
        let long_next = long_next.unwrap_or(1);
        let (data, expiry) = (txn.open_table(DATA)?, txn.open_table(EXPIRY)?);
        let (compress, cell) = (Compress::new(compress_len_min), Vec::new());
        Ok(Self { txn, data, expiry, long: None, long_next, live_bytes, stored_bytes, compress, cell })
    }

    /// Let the tables of a new file take four pages. redb doubles its file, and takes single pages out of the
    /// smallest free piece first. Of a power of two pages, the new half is one piece, which fills from its
    /// beginning; otherwise the smallest is at the very end, and the file is at once as long as it can be.
    pub fn pad(&self) -> Result<(), redb::Error> {
        self.txn.open_table(PAD)?.insert(0, [0; PAD_LEN].as_slice())?;
        Ok(())
    }

    /// Write down what goes with `revision`.
    pub fn finish(self, revision: u64) -> Result<(), redb::Error> {
        let mut meta = self.txn.open_table(META)?;
        meta.insert(LONG_NEXT, self.long_next)?;
        meta.insert(LIVE_BYTES, self.live_bytes)?;
        meta.insert(STORED_BYTES, self.stored_bytes)?;
        meta.insert(REVISION, revision)?;
        Ok(())
    }

    fn long(&mut self) -> Result<&mut Table<'txn, u64, &'static [u8]>, redb::Error> {
        match &mut self.long {
            Some(long) => Ok(long),
            none => Ok(none.insert(self.txn.open_table(LONG)?)),
        }
    }

    /// What was written last about a key.
    pub fn bring(&mut self, key: &[u8], written: &Written) -> Result<(), redb::Error> {
        match &written.value {
            Some(value) => self.put(key, value, written.expires_ms),
            None => self.delete(key),
        }
    }

    /// Entries that are all behind the last one, in order: they fill their pages.
    pub fn append(&mut self, entries: &[Loaded]) -> Result<(), redb::Error> {
        let mut cells = Vec::with_capacity(entries.len());
        for Loaded { key, value, expires_ms } in entries {
            self.encode(key, value, *expires_ms)?;
            cells.push(self.cell.clone());
            if *expires_ms != NEVER_MS {
                self.expiry.insert(expiry_key(*expires_ms, key).as_slice(), ())?;
            }
        }
        let unordered = |error| match error {
            CursorError::Storage(error) => redb::Error::from(error),
            error => redb::Error::Corrupted(format!("entries out of order: {error}")),
        };
        let mut cursor = self.data.upper_bound_mut(Bound::<&[u8]>::Unbounded)?;
        for (entry, cell) in entries.iter().zip(&cells) {
            cursor.insert_before(entry.key.as_slice(), cell.as_slice()).map_err(unordered)?;
        }
        Ok(cursor.close()?)
    }

    /// The cell of a value that comes, into the scratch.
    fn encode(&mut self, key: &[u8], value: &[u8], expires_ms: u64) -> Result<(), redb::Error> {
        let compressed = self.compress.try_on(value);
        let stored = compressed.as_deref().unwrap_or(value);
        // where it lies does not depend on its content
        let body = if value.len() <= SHORT_LEN_MAX {
            Body::Short(stored)
        } else {
            let number = self.long_next;
            self.long_next += 1;
            self.long()?.insert(number, stored)?;
            Body::Long { number, len: stored.len() as u64 }
        };
        let full_len = compressed.is_some().then_some(value.len() as u64);
        Cell { expires_ms, full_len, body }.encode(&mut self.cell);
        self.live_bytes += (key.len() + value.len()) as u64;
        self.stored_bytes += (key.len() + stored.len()) as u64;
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8], expires_ms: u64) -> Result<(), redb::Error> {
        self.encode(key, value, expires_ms)?;
        let old = self.data.insert(key, self.cell.as_slice())?;
        let old = old.map(|old| Named::of(old.value())).transpose()?;
        self.forget(key, old)?;
        if expires_ms != NEVER_MS {
            self.expiry.insert(expiry_key(expires_ms, key).as_slice(), ())?;
        }
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let old = self.data.remove(key)?;
        let old = old.map(|old| Named::of(old.value())).transpose()?;
        self.forget(key, old)
    }

    fn forget(&mut self, key: &[u8], old: Option<Named>) -> Result<(), redb::Error> {
        let Some(old) = old else { return Ok(()) };
        self.live_bytes = self.live_bytes.saturating_sub(key.len() as u64 + old.value_len);
        self.stored_bytes = self.stored_bytes.saturating_sub(key.len() as u64 + old.stored_len);
        if let Some(number) = old.number {
            self.long()?.remove(number)?;
        }
        if old.expires_ms != NEVER_MS {
            self.expiry.remove(expiry_key(old.expires_ms, key).as_slice())?;
        }
        Ok(())
    }

    /// All of them, empty.
    pub fn clear(self) -> Result<Self, redb::Error> {
        let Self { txn, long_next, compress, .. } = self;
        drop((self.data, self.expiry, self.long));
        txn.delete_table(DATA)?;
        txn.delete_table(LONG)?;
        txn.delete_table(EXPIRY)?;
        txn.open_table(LONG)?;
        Ok(Self { long_next, live_bytes: 0, stored_bytes: 0, ..Self::open(txn, compress.len_min)? })
    }
}

/// The row of a key in the order of expiry.
pub(crate) fn expiry_key(expires_ms: u64, key: &[u8]) -> Vec<u8> {
    [&expires_ms.to_be_bytes()[..], key].concat()
}

/// The reverse.
pub(crate) fn split_expiry_key(row: &[u8]) -> Result<(u64, &[u8]), redb::Error> {
    match row.split_at_checked(8) {
        Some((time, key)) => Ok((u64::from_be_bytes(le(time)), key)),
        None => Err(redb::Error::Corrupted("a row of expiry without a time".into())),
    }
}

/// What goes with a cell when it goes.
struct Named {
    number: Option<u64>,
    value_len: u64,
    stored_len: u64,
    expires_ms: u64,
}

impl Named {
    fn of(cell: &[u8]) -> Result<Self, redb::Error> {
        let cell = Cell::decode(cell)?;
        let number = match cell.body {
            Body::Long { number, .. } => Some(number),
            Body::Short(_) => None,
        };
        let (value_len, stored_len) = (cell.value_len(), cell.stored_len());
        Ok(Self { number, value_len, stored_len, expires_ms: cell.expires_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_read_back_and_no_unknown_kind_is_taken() {
        let mut bytes = Vec::new();
        for expires_ms in [NEVER_MS, 0, 1_700_000_000_000] {
            for body in [Body::Short(&[]), Body::Short(&[1, 2]), Body::Long { number: 7, len: 40_000 }] {
                for full_len in [None, Some(70_000)] {
                    let cell = Cell { expires_ms, full_len, body };
                    cell.encode(&mut bytes);
                    assert_eq!(Cell::decode(&bytes).expect("reads"), cell);
                }
            }
        }
        let long = bytes;
        for bad in [&[][..], &[8], &[2, 0], &[4, 0], &long[..24], &[&long[..], &[0]].concat()] {
            assert!(Cell::decode(bad).is_err(), "{bad:?}");
        }
    }
}
