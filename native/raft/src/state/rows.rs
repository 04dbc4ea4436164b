//! The machine's rows: those in redb, and layers of newer ones above them.
//!
//! Invariant: rows are looked at inside the fence of their table; what is read is as of one version, whatever is
//! applied or brought into redb meanwhile.

use super::database::Database;
use super::overlay::{Overlay, Row};
use crate::machine::{merge, Layered, Table, TableError, View, Visit};
use crate::RaftError;
use macula_blocks::BlockError;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

type Key = &'static [u8];

fn failed(error: redb::StorageError) -> TableError {
    TableError(error.to_string())
}

/// What redb holds, as of a checkpoint.
pub(super) struct Base {
    /// Taken on drop only.
    table: Option<ReadOnlyTable<Key, Key>>,
    /// Behind its table, because redb closes with the last who has it.
    db: Arc<Database>,
}

impl Base {
    pub fn now(db: &Arc<Database>) -> Result<Arc<Self>, RaftError> {
        let txn = |redb: &redb::Database| redb.begin_read().map_err(|error| db.said(error));
        db.run(|redb| Self::of(db, &txn(redb)?)).map(Arc::new)
    }

    /// Called inside the fence.
    fn of(db: &Arc<Database>, txn: &ReadTransaction) -> Result<Self, RaftError> {
        let table = txn.open_table(ROWS).map_err(|error| db.said(error))?;
        Ok(Self { table: Some(table), db: db.clone() })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let table = self.table.take();
        let _ = self.db.run(|_| {
            drop(table);
            Ok(())
        });
    }
}

/// As of one moment, for as long as it is held.
pub struct Reading {
    base: Arc<Base>,
    /// Above it, the newest first.
    layers: Arc<[Arc<Overlay>]>,
    version: u64,
}

impl Reading {
    pub(super) fn new(base: Arc<Base>, layers: Arc<[Arc<Overlay>]>, version: u64) -> Self {
        Self { base, layers, version }
    }

    /// The same rows as of a later version.
    pub(super) fn at(&self, version: u64) -> Self {
        Self { base: self.base.clone(), layers: self.layers.clone(), version }
    }

    /// What `act` makes of the rows.
    pub fn look<T>(&self, act: impl FnOnce(&dyn View) -> Result<T, RaftError>) -> Result<T, RaftError> {
        self.within(usize::MAX, |rows| act(rows))
    }

    /// The same from memory and of rows no longer than `len_max` bytes, for who must not wait; `None`: by
    /// [`Reading::look`] only. A scan is as long as its visitor lets it be.
    pub fn look_now<T>(
        &self,
        len_max: usize,
        act: impl FnOnce(&dyn View) -> Result<T, RaftError>,
    ) -> Result<Option<T>, RaftError> {
        let looked = macula_blocks::only(|| {
            self.within(len_max, |rows| {
                let found = act(rows);
                match rows.is_long.get() {
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

    fn within<T>(&self, len_max: usize, act: impl FnOnce(&Rows<'_>) -> Result<T, RaftError>) -> Result<T, RaftError> {
        let table = self.base.table.as_ref().ok_or(RaftError::Closed)?;
        let rows = Rows { table, layers: &self.layers, version: self.version, len_max, is_long: Cell::new(false) };
        self.base.db.run(|_| act(&rows))
    }
}

/// A reading's rows; after one longer than `len_max`, what was read counts no more.
struct Rows<'reading> {
    table: &'reading ReadOnlyTable<Key, Key>,
    layers: &'reading [Arc<Overlay>],
    version: u64,
    len_max: usize,
    is_long: Cell<bool>,
}

impl Rows<'_> {
    fn owned(&self, row: &[u8]) -> Result<Vec<u8>, TableError> {
        match row.len() <= self.len_max {
            true => Ok(row.to_vec()),
            false => {
                self.is_long.set(true);
                Err(TableError("long".into()))
            }
        }
    }

    fn scan_layers(
        &self,
        layers: &[Arc<Overlay>],
        (from, to): (&[u8], &[u8]),
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), TableError> {
        let Some((newest, below)) = layers.split_first() else { return self.scan_table((from, to), reverse, visit) };
        let ours = newest.range((from, to), self.version, reverse);
        merge(ours, reverse, visit, |visit| self.scan_layers(below, (from, to), reverse, visit))
    }

    fn scan_table(&self, (from, to): (&[u8], &[u8]), reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        let mut range = self.table.range::<&[u8]>(from..to).map_err(failed)?;
        while let Some(row) = if reverse { range.next_back() } else { range.next() } {
            let (key, value) = row.map_err(failed)?;
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl View for Rows<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        if let Some(seen) = self.layers.iter().find_map(|layer| layer.get(key, self.version)) {
            return seen.row().map(|row| self.owned(row)).transpose();
        }
        self.table.get(key).map_err(failed)?.map(|value| self.owned(value.value())).transpose()
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        let visit: Visit<'_> = &mut |key, row| match row.len() <= self.len_max {
            true => visit(key, row),
            false => {
                self.is_long.set(true);
                ControlFlow::Break(())
            }
        };
        match from < to {
            true => self.scan_layers(self.layers, (from, to), reverse, visit),
            false => Ok(()),
        }
    }
}

/// What a batch of commands writes, over the rows as they were before it.
pub(super) struct Batch<'rows> {
    rows: &'rows dyn View,
    pub written: BTreeMap<Vec<u8>, Row>,
}

impl<'rows> Batch<'rows> {
    pub fn over(rows: &'rows dyn View) -> Self {
        Self { rows, written: BTreeMap::new() }
    }
}

impl View for Batch<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.written.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.rows.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        if from >= to {
            return Ok(());
        }
        let range = self.written.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let below = |visit: Visit<'_>| self.rows.scan(from, to, reverse, visit);
        match reverse {
            false => merge(range, reverse, visit, below),
            true => merge(range.rev(), reverse, visit, below),
        }
    }
}

impl Table for Batch<'_> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableError> {
        self.written.insert(key, Some(value));
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) -> Result<(), TableError> {
        self.written.insert(key, None);
        Ok(())
    }
}
