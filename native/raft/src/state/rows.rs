//! The machine's rows in redb, for reading and for writing.
//!
//! Invariant: rows are looked at inside the fence of their table.

use super::database::Database;
use crate::machine::{Table, TableError, View, Visit};
use crate::RaftError;
use macula_blocks::BlockError;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::cell::Cell;
use std::sync::Arc;

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

struct Rows(ReadOnlyTable<Key, Key>);

impl View for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        get(&self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        scan(&self.0, (from, to), reverse, visit)
    }
}

/// The short ones of these rows; after any other, what was read counts no more.
struct Short<'rows> {
    rows: &'rows Rows,
    len_max: usize,
    is_long: Cell<bool>,
}

impl Short<'_> {
    fn refuse<T>(&self) -> Result<T, TableError> {
        self.is_long.set(true);
        Err(TableError("long".into()))
    }
}

impl View for Short<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.rows.0.get(key).map_err(failed)? {
            Some(value) if value.value().len() > self.len_max => self.refuse(),
            value => Ok(value.map(|value| value.value().to_vec())),
        }
    }

    fn scan(&self, _from: &[u8], _to: &[u8], _reverse: bool, _visit: Visit<'_>) -> Result<(), TableError> {
        self.refuse()
    }
}

/// As of one moment, for as long as it is held.
pub struct Reading {
    /// Taken on drop only.
    rows: Option<Rows>,
    /// Behind its rows, because redb closes with the last who has it.
    db: Arc<Database>,
}

impl Reading {
    /// As of now.
    pub(super) fn now(db: &Arc<Database>) -> Result<Self, RaftError> {
        db.run(|redb| Self::of(db, &redb.begin_read().map_err(|error| db.said(error))?))
    }

    /// Called inside the fence.
    pub(super) fn of(db: &Arc<Database>, txn: &ReadTransaction) -> Result<Self, RaftError> {
        let rows = txn.open_table(ROWS).map_err(|error| db.said(error))?;
        Ok(Self { rows: Some(Rows(rows)), db: db.clone() })
    }

    /// What `act` makes of the rows.
    pub fn look<T>(&self, act: impl FnOnce(&dyn View) -> Result<T, RaftError>) -> Result<T, RaftError> {
        self.within(|rows| act(rows))
    }

    /// The same from memory and of rows no longer than `len_max` bytes, for who must not wait; `None`: by
    /// [`Reading::look`] only.
    pub(crate) fn look_now<T>(
        &self,
        len_max: usize,
        act: impl FnOnce(&dyn View) -> Result<T, RaftError>,
    ) -> Result<Option<T>, RaftError> {
        let looked = macula_blocks::only(|| {
            self.within(|rows| {
                let short = Short { rows, len_max, is_long: Cell::new(false) };
                let found = act(&short);
                match short.is_long.get() {
                    true => Err(BlockError::Cold.into()),
                    false => found,
                }
            })
        });
        match looked {
            Err(RaftError::Blocks(BlockError::Cold)) => Ok(None),
            found => found.map(Some),
        }
    }

    fn within<T>(&self, act: impl FnOnce(&Rows) -> Result<T, RaftError>) -> Result<T, RaftError> {
        let rows = self.rows.as_ref().ok_or(RaftError::Closed)?;
        self.db.run(|_| act(rows))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let rows = self.rows.take();
        let _ = self.db.run(|_| {
            drop(rows);
            Ok(())
        });
    }
}
