//! Whether the rows of a table say the same: what each node and lease claims of the others is made anew
//! and compared with what is there.

use super::change::index_rows;
use super::row::{LeaseRow, Meta, NodeRef};
use super::{key, lease, Path, TableError, View};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What all nodes and leases together claim.
#[derive(Default)]
struct Claims {
    meta: Meta,
    /// Of each node: how many children it has, and how many it says.
    children: BTreeMap<Vec<u8>, (u64, u64)>,
    rows: BTreeSet<Vec<u8>>,
    leases: BTreeSet<u64>,
    /// Those that nodes and leases say they end with.
    leases_named: BTreeSet<u64>,
    history: Vec<u64>,
}

/// Refuses, as corrupt, rows that contradict each other. Cost: all rows are read, and memory grows with their number.
pub fn verify(view: &dyn View) -> Result<(), TableError> {
    let meta = Meta::load(view)?;
    let mut claims = Claims::default();
    let mut found = BTreeSet::new();
    let mut failure = None;
    view.scan(&[], &[0xff], false, &mut |key, row| match claims.add(key, row, &mut found) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    claims.compare(&meta, &found)
}

impl Claims {
    fn add(&mut self, key: &[u8], row: &[u8], found: &mut BTreeSet<Vec<u8>>) -> Result<(), TableError> {
        match key::kind(key) {
            key::Kind::Meta => {}
            key::Kind::Node => self.node(key, row)?,
            key::Kind::Lease => {
                let id = key::lease_id(key).ok_or_else(|| TableError::corrupt("a lease's key"))?;
                let lease = LeaseRow::parse(row)?;
                self.meta.leases += 1;
                self.leases.insert(id);
                self.leases_named.extend(lease.parent);
                self.rows.extend(lease::index_rows(id, &lease));
            }
            key::Kind::History => {
                let revision = key::history_revision(key).ok_or_else(|| TableError::corrupt("a history's key"))?;
                self.history.push(revision);
                self.meta.history_bytes += (key.len() + row.len()) as u64;
            }
            key::Kind::Index => {
                if !row.is_empty() {
                    return Err(TableError::corrupt("a row of an index holds something"));
                }
                found.insert(key.to_vec());
            }
            key::Kind::Unknown => return Err(TableError::corrupt("a row of no kind")),
        }
        Ok(())
    }

    fn node(&mut self, key: &[u8], row: &[u8]) -> Result<(), TableError> {
        let node = NodeRef::parse(row)?;
        Path::from_key(key::path_of(key).to_vec()).map_err(|error| TableError(format!("corrupted: {error}")))?;
        self.meta.nodes += 1;
        self.meta.payload_bytes += node.payload.map_or(0, <[u8]>::len) as u64;
        self.children.insert(key.to_vec(), (0, node.head.children));
        match key::parent(key) {
            None => self.meta.root_children += 1,
            Some(parent) => {
                let parent =
                    self.children.get_mut(parent).ok_or_else(|| TableError::corrupt("a node has no parent"))?;
                parent.0 += 1;
            }
        }
        if node.payload.is_none() && node.head.children == 0 {
            return Err(TableError::corrupt("a node has neither data nor children"));
        }
        let index: Vec<Vec<u8>> = index_rows(key, &node.head).collect();
        self.meta.keep_rows += index.iter().filter(|row| key::is_keep(row)).count() as u64;
        self.rows.extend(index);
        self.leases_named.extend(node.head.lease);
        Ok(())
    }

    fn compare(self, meta: &Meta, found: &BTreeSet<Vec<u8>>) -> Result<(), TableError> {
        if self.children.values().any(|(counted, said)| counted != said) {
            return Err(TableError::corrupt("a node's children are not counted"));
        }
        if !self.leases_named.is_subset(&self.leases) {
            return Err(TableError::corrupt("a lease that is named is not there"));
        }
        if self.rows != *found {
            let row = self.rows.symmetric_difference(found).next();
            return Err(TableError(format!("corrupted: an index says other than the nodes, row={row:?}")));
        }
        if self.history.first().is_some_and(|first| *first < meta.history_first)
            || self.history.last().is_some_and(|last| *last > meta.revision)
        {
            return Err(TableError::corrupt("the history is of other revisions"));
        }
        let (revision, time_ms) = (meta.revision, meta.time_ms);
        let (root_pruned, history_first) = (meta.root_pruned, meta.history_first);
        let counted = Meta { revision, time_ms, root_pruned, history_first, ..self.meta };
        match counted == *meta {
            true => Ok(()),
            false => Err(TableError(format!("corrupted: the figures are others, counted={counted:?} said={meta:?}"))),
        }
    }
}
