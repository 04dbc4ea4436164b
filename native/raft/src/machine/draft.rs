//! What one command would change, over the rows as they are.
//!
//! Reads see what the draft has written. Invariant: the table is not touched before the command has
//! succeeded as a whole, so that what is refused leaves nothing behind.

use super::response::Refusal;
use super::row::{Meta, NodeRef};
use super::table::merge;
use super::{Event, TableError, View, Visit};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

/// Why a command ends early.
pub(super) enum Stop {
    /// An answer: nothing is changed.
    Refused(Refusal),
    /// The node stops.
    Table(TableError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

pub(super) type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

pub(super) struct Draft<'a> {
    view: &'a dyn View,
    /// Rows to write, or to remove.
    pub rows: Rows,
    pub meta: Meta,
    pub events: Vec<Event>,
    /// Nodes kept by a condition on something that was touched, by their rows.
    pub doubtful: BTreeSet<Vec<u8>>,
    pub written_bytes: usize,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a dyn View, meta: Meta) -> Self {
        let (rows, events, doubtful) = (Rows::new(), Vec::new(), BTreeSet::new());
        Self { view, rows, meta, events, doubtful, written_bytes: 0 }
    }

    pub fn set(&mut self, key: Vec<u8>, row: Vec<u8>) {
        self.rows.insert(key, Some(row));
    }

    pub fn clear(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// A node's row, to be written over.
    pub fn set_node(&mut self, key: &[u8], node: &NodeRef<'_>) {
        self.set(key.to_vec(), node.encode());
    }

    /// All keys in a range, copied.
    pub fn keys(&self, range: &(Vec<u8>, Vec<u8>), count_max: usize) -> Result<Vec<Vec<u8>>, TableError> {
        let mut keys = Vec::new();
        if count_max > 0 {
            self.scan(&range.0, &range.1, false, &mut |key, _| {
                keys.push(key.to_vec());
                match keys.len() < count_max {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
        }
        Ok(keys)
    }
}

impl View for Draft<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.view.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        if from >= to {
            return Ok(());
        }
        let range = self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let below = |visit: Visit<'_>| self.view.scan(from, to, reverse, visit);
        match reverse {
            false => merge(range, reverse, visit, below),
            true => merge(range.rev(), reverse, visit, below),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemoryTable, Table};
    use super::*;

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn scanned(view: &dyn View, from: &[u8], to: &[u8], reverse: bool, count_max: usize) -> Pairs {
        let mut rows = Pairs::new();
        let mut visit = |key: &[u8], row: &[u8]| {
            rows.push((key.to_vec(), row.to_vec()));
            match rows.len() < count_max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        view.scan(from, to, reverse, &mut visit).expect("scans");
        rows
    }

    /// A draft over a table reads as the table will once it is written.
    #[test]
    fn a_draft_reads_as_the_table_that_comes_of_it() {
        for seed in 0..3_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut key = |len: usize| -> Vec<u8> { (0..rng.usize(..len)).map(|_| rng.u8(0..3)).collect() };
            let mut below = MemoryTable::default();
            (0..20).for_each(|n| below.put(key(4), vec![n]).expect("puts"));
            let mut after = below.clone();
            let mut draft = Draft::new(&below, Meta::default());
            for n in 0..12 {
                let key = key(4);
                if n % 3 == 0 {
                    draft.clear(key.clone());
                    after.remove(key.clone()).expect("removes");
                } else {
                    draft.set(key.clone(), vec![100 + n]);
                    after.put(key.clone(), vec![100 + n]).expect("puts");
                }
            }
            for reverse in [false, true] {
                let (from, to, count_max) = (key(4), key(4), 1 + key(9).len());
                let expected = scanned(&after, &from, &to, reverse, count_max);
                assert_eq!(scanned(&draft, &from, &to, reverse, count_max), expected, "seed={seed} reverse={reverse}");
            }
            let key = key(4);
            assert_eq!(draft.get(&key), after.get(&key));
        }
    }
}
