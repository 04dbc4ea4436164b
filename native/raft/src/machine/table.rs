//! The seam to the rows: an ordered map of bytes, given by whoever keeps it.
//!
//! The machine needs of it that reads see its own writes, and nothing of when they become durable.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The engine below failed, or rows are not what the machine wrote: the node stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the table of the replicated state failed: {0}")]
pub struct TableError(pub String);

impl TableError {
    /// A row that the machine did not write so.
    #[cold]
    pub(super) fn corrupt(what: &str) -> Self {
        Self(format!("corrupted: {what}"))
    }
}

/// Takes a row's key and value, and breaks when it has seen enough.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Rows to read.
pub trait View {
    /// The value of a row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;

    /// Rows with `from <= key < to`, ascending or descending, until the visitor breaks. A range that is
    /// empty or the wrong way round has none.
    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError>;
}

/// Rows to change.
pub trait Table: View {
    /// Sets a row.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableError>;

    /// Removes a row; none there is no error.
    fn remove(&mut self, key: Vec<u8>) -> Result<(), TableError>;
}

/// A row above others: it hides the one of its key.
pub(crate) trait Layered {
    /// Its key.
    fn key(&self) -> &[u8];
    /// What stands there; `None` where it was removed.
    fn row(&self) -> Option<&[u8]>;
}

impl Layered for (&Vec<u8>, &Option<Vec<u8>>) {
    fn key(&self) -> &[u8] {
        self.0
    }

    fn row(&self) -> Option<&[u8]> {
        self.1.as_deref()
    }
}

/// Rows of a range with a layer above them, in one order: `ours` gives the layer's in that order, `below` scans the
/// others.
pub(crate) fn merge<O: Layered>(
    mut ours: impl Iterator<Item = O>,
    reverse: bool,
    visit: Visit<'_>,
    below: impl FnOnce(Visit<'_>) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let is_before = |a: &[u8], b: &[u8]| if reverse { a > b } else { a < b };
    let mut next = ours.next();
    let mut flow = ControlFlow::Continue(());
    below(&mut |key, row| {
        while let Some(our) = next.take_if(|our| !is_before(key, our.key())) {
            next = ours.next();
            if let Some(row) = our.row() {
                flow = visit(our.key(), row);
            }
            if flow.is_break() || our.key() == key {
                return flow;
            }
        }
        flow = visit(key, row);
        flow
    })?;
    while let (Some(our), ControlFlow::Continue(())) = (next, flow) {
        next = ours.next();
        if let Some(row) = our.row() {
            flow = visit(our.key(), row);
        }
    }
    Ok(())
}

/// Rows in memory, for tests and the simulator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryTable {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryTable {
    /// All rows, ascending.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

impl View for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        if from >= to {
            return Ok(());
        }
        let range = self.rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        // whether the visitor broke is nothing to the caller
        let _ = match reverse {
            false => range.into_iter().try_for_each(|(key, value)| visit(key, value)),
            true => range.into_iter().rev().try_for_each(|(key, value)| visit(key, value)),
        };
        Ok(())
    }
}

impl Table for MemoryTable {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableError> {
        self.rows.insert(key, value);
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) -> Result<(), TableError> {
        self.rows.remove(&key);
        Ok(())
    }
}
