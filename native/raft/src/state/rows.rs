//! The machine's rows in redb, for reading and for writing.

use crate::machine::{Table, TableError, View, Visit};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition};

pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

type Key = &'static [u8];

fn failed(error: redb::StorageError) -> TableError {
    TableError(error.to_string())
}

fn get(table: &impl ReadableTable<Key, Key>, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
    Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<Key, Key>,
    (from, to): (&[u8], &[u8]),
    reverse: bool,
    visit: Visit<'_>,
) -> Result<(), TableError> {
    if from >= to {
        return Ok(());
    }
    let mut range = table.range::<&[u8]>(from..to).map_err(failed)?;
    while let Some(row) = if reverse { range.next_back() } else { range.next() } {
        let (key, value) = row.map_err(failed)?;
        if visit(key.value(), value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

/// In a transaction that writes.
pub(super) struct Writing<'txn>(pub(super) redb::Table<'txn, Key, Key>);

impl View for Writing<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        get(&self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        scan(&self.0, (from, to), reverse, visit)
    }
}

impl Table for Writing<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.0.insert(key, value).map(|_| ()).map_err(failed)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), TableError> {
        self.0.remove(key).map(|_| ()).map_err(failed)
    }
}

/// As of one moment, for as long as it is held.
pub struct Reading {
    table: ReadOnlyTable<Key, Key>,
}

impl Reading {
    pub(super) fn of(txn: &ReadTransaction) -> Result<Self, TableError> {
        let table = txn.open_table(ROWS).map_err(|error| TableError(error.to_string()))?;
        Ok(Self { table })
    }
}

impl View for Reading {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        get(&self.table, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        scan(&self.table, (from, to), reverse, visit)
    }
}
