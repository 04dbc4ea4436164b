//! How values lie in redb: a short one beside its key, a long one in a table of its own, so that a
//! look at a key, or at its neighbours, never brings in a long value.
//!
//! Invariant: each long value has exactly one cell that names it; both change in one transaction.
//! Bytes: docs/formats.md, "Tables of redb".

use crate::format::le;
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

/// Keys of the user, and what each holds: a cell.
pub(crate) const DATA: TableDefinition<&[u8], &[u8]> = TableDefinition::new("data");
/// Long values by number.
pub(crate) const LONG: TableDefinition<u64, &[u8]> = TableDefinition::new("long");

/// The longest value that lies beside its key, bytes. Eight pages of redb.
pub(crate) const SHORT_LEN_MAX: usize = 32 << 10;

const SHORT: u8 = 0;
const IS_LONG: u8 = 1;
const LONG_CELL_LEN: usize = 17;

/// What the table of keys holds for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// The value itself.
    Short(&'a [u8]),
    /// Where the value is, and how long.
    Long { number: u64, len: u64 },
}

impl<'a> Cell<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, redb::Error> {
        match bytes.split_first() {
            Some((&SHORT, value)) => Ok(Self::Short(value)),
            Some((&IS_LONG, rest)) if bytes.len() == LONG_CELL_LEN => {
                Ok(Self::Long { number: u64::from_le_bytes(le(rest)), len: u64::from_le_bytes(le(&rest[8..])) })
            }
            _ => Err(redb::Error::Corrupted("a cell of unknown kind".into())),
        }
    }

    /// Of the value, bytes.
    pub fn value_len(&self) -> u64 {
        match self {
            Self::Short(value) => value.len() as u64,
            Self::Long { len, .. } => *len,
        }
    }
}

/// Both tables, being written.
pub(crate) struct Tables<'txn> {
    data: Table<'txn, &'static [u8], &'static [u8]>,
    long: Table<'txn, u64, &'static [u8]>,
    /// Scratch for cells.
    cell: Vec<u8>,
}

impl<'txn> Tables<'txn> {
    /// Open them, creating what is not there.
    pub fn open(txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self { data: txn.open_table(DATA)?, long: txn.open_table(LONG)?, cell: Vec::new() })
    }

    pub fn has(&self, key: &[u8]) -> Result<bool, redb::Error> {
        Ok(self.data.get(key)?.is_some())
    }

    /// Whether the key has exactly this value.
    pub fn is(&self, key: &[u8], value: Option<&[u8]>) -> Result<bool, redb::Error> {
        let cell = self.data.get(key)?;
        let (Some(cell), Some(value)) = (&cell, value) else { return Ok(cell.is_none() && value.is_none()) };
        match Cell::decode(cell.value())? {
            Cell::Short(found) => Ok(found == value),
            Cell::Long { len, .. } if len != value.len() as u64 => Ok(false),
            Cell::Long { number, .. } => Ok(self.long.get(number)?.is_some_and(|found| found.value() == value)),
        }
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), redb::Error> {
        self.cell.clear();
        if value.len() <= SHORT_LEN_MAX {
            self.cell.push(SHORT);
            self.cell.extend_from_slice(value);
        } else {
            let number = self.long.last()?.map_or(0, |(last, _)| last.value()) + 1;
            self.long.insert(number, value)?;
            self.cell.push(IS_LONG);
            self.cell.extend_from_slice(&number.to_le_bytes());
            self.cell.extend_from_slice(&(value.len() as u64).to_le_bytes());
        }
        let old = self.data.insert(key, self.cell.as_slice())?;
        let old = old.map(|old| long_number(old.value())).transpose()?.flatten();
        self.forget(old)
    }

    pub fn delete(&mut self, key: &[u8]) -> Result<(), redb::Error> {
        let old = self.data.remove(key)?;
        let old = old.map(|old| long_number(old.value())).transpose()?.flatten();
        self.forget(old)
    }

    fn forget(&mut self, number: Option<u64>) -> Result<(), redb::Error> {
        if let Some(number) = number {
            self.long.remove(number)?;
        }
        Ok(())
    }

    /// Both tables, empty.
    pub fn clear(self, txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        drop(self);
        txn.delete_table(DATA)?;
        txn.delete_table(LONG)?;
        Self::open(txn)
    }
}

fn long_number(cell: &[u8]) -> Result<Option<u64>, redb::Error> {
    match Cell::decode(cell)? {
        Cell::Long { number, .. } => Ok(Some(number)),
        Cell::Short(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_no_known_kind_are_refused() {
        assert_eq!(Cell::decode(&[0]).expect("empty"), Cell::Short(&[]));
        assert_eq!(Cell::decode(&[0, 1]).expect("short"), Cell::Short(&[1]));
        let mut long = vec![1];
        long.extend_from_slice(&7_u64.to_le_bytes());
        long.extend_from_slice(&40_000_u64.to_le_bytes());
        assert_eq!(Cell::decode(&long).expect("long"), Cell::Long { number: 7, len: 40_000 });
        for bad in [&[][..], &[2], &long[..16], &[&long[..], &[0]].concat()] {
            assert!(Cell::decode(bad).is_err(), "{bad:?}");
        }
    }
}
