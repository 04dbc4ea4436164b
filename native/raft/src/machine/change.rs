//! Putting and removing nodes, with every row that speaks of them.
//!
//! Invariant: after each function here a node's indexes name it and nothing else does, each node but
//! the root's children has its parent, each parent counts its children, a node without data has some,
//! and the figures of the machine's row are true.

use super::draft::{Draft, Stop};
use super::response::{Limit, Refusal};
use super::row::{Head, NodeRef};
use super::{keep, key, Condition, Event, EventKind, Node, Path, TableError, View, VALUE_BYTES_MAX, WRITE_BYTES_MAX};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// What is put beside the data.
#[derive(Default)]
pub(super) struct Terms<'a> {
    pub expires_ms: Option<u64>,
    pub lease: Option<u64>,
    pub keep_while: &'a [(Path, Condition)],
}

/// What became of the node that was put.
pub(super) struct Done {
    pub version: u64,
    pub created: u64,
    pub previous: Option<Node>,
}

impl Draft<'_> {
    /// Counts what a command writes, and refuses too much.
    pub fn check_size(&mut self, path: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let refused = |what, len: usize, len_max: usize| {
            let (len, len_max) = (len as u64, len_max as u64);
            Err(Refusal::TooLarge { what, len, len_max })
        };
        if value.len() > VALUE_BYTES_MAX {
            return refused(Limit::ValueBytes, value.len(), VALUE_BYTES_MAX);
        }
        self.written_bytes += path.len() + value.len();
        match self.written_bytes > WRITE_BYTES_MAX {
            true => refused(Limit::WriteBytes, self.written_bytes, WRITE_BYTES_MAX),
            false => Ok(()),
        }
    }

    /// Sets a node's data; `terms` of none leaves what stands beside it.
    pub fn put_node(&mut self, key: &[u8], value: &[u8], terms: Option<Terms<'_>>) -> Result<Done, Stop> {
        self.check_size(key, value)?;
        let row = self.get(key)?;
        let old = row.as_deref().map(NodeRef::parse).transpose()?;
        let previous = old.as_ref().map(Node::of);
        let revision = self.meta.revision;
        let mut head = match &old {
            Some(old) => old.head.clone(),
            None => Head { created: revision, ..Head::default() },
        };
        if let Some(terms) = terms {
            self.unindex(key, &head);
            head.expires_ms = terms.expires_ms;
            head.lease = terms.lease;
            head.keep_while = terms.keep_while.to_vec();
            self.index(key, &head);
        }
        let old_len = old.and_then(|old| old.payload).map_or(0, <[u8]>::len);
        self.meta.payload_bytes = (self.meta.payload_bytes + value.len() as u64)
            .checked_sub(old_len as u64)
            .ok_or_else(|| TableError::corrupt("bytes are not counted"))?;
        (head.has_payload, head.version, head.modified) = (true, head.version + 1, revision);
        let done = Done { version: head.version, created: head.created, previous };
        self.event(key, EventKind::Put, &head, Some(value));
        self.set_node(key, &NodeRef { head, payload: Some(value) });
        if row.is_none() {
            self.meta.nodes += 1;
            self.add_child(key)?;
        }
        keep::touched(self, key)?;
        Ok(done)
    }

    /// Counts a new node at its parent, which is made if it is missing.
    fn add_child(&mut self, child: &[u8]) -> Result<(), TableError> {
        let mut child = child;
        while let Some(parent) = key::parent(child) {
            let row = self.get(parent)?;
            let found = row.is_some();
            let mut node = match &row {
                Some(row) => NodeRef::parse(row)?,
                None => {
                    let (created, modified) = (self.meta.revision, self.meta.revision);
                    NodeRef { head: Head { created, modified, ..Head::default() }, payload: None }
                }
            };
            node.head.children += 1;
            self.set_node(parent, &node);
            keep::touched(self, parent)?;
            if found {
                return Ok(());
            }
            self.meta.nodes += 1;
            child = parent;
        }
        self.meta.root_children += 1;
        Ok(())
    }

    /// Removes a node, all beneath it, and the parents that it leaves without data and children. Answers
    /// how many that were.
    pub fn remove_node(&mut self, key: &[u8], kind: EventKind) -> Result<u64, TableError> {
        let mut gone: Vec<(Vec<u8>, Head, usize)> = Vec::new();
        let mut failure = None;
        self.scan(key, &key::behind(key), false, &mut |key, row| match NodeRef::parse(row) {
            Ok(node) => {
                gone.push((key.to_vec(), node.head, node.payload.map_or(0, <[u8]>::len)));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        if gone.first().is_none_or(|first| first.0 != key) {
            return Ok(0);
        }
        let mut removed = gone.len() as u64;
        for (key, head, payload_len) in gone {
            if head.has_payload {
                self.event(&key, kind, &head, None);
            }
            self.drop_row(key, &head, payload_len)?;
        }
        removed += self.remove_child(key)?;
        Ok(removed)
    }

    /// Counts a removed node at its parent; answers how many parents went with it.
    fn remove_child(&mut self, child: &[u8]) -> Result<u64, TableError> {
        let uncounted = || TableError::corrupt("children are not counted");
        let revision = self.meta.revision;
        let mut removed = 0;
        let mut child = child;
        while let Some(parent) = key::parent(child) {
            let row = self.get(parent)?.ok_or_else(|| TableError::corrupt("a node has no parent"))?;
            let mut node = NodeRef::parse(&row)?;
            node.head.children = node.head.children.checked_sub(1).ok_or_else(uncounted)?;
            node.head.pruned = revision;
            if node.head.children > 0 || node.payload.is_some() {
                self.set_node(parent, &node);
                keep::touched(self, parent)?;
                return Ok(removed);
            }
            self.drop_row(parent.to_vec(), &node.head, 0)?;
            removed += 1;
            child = parent;
        }
        self.meta.root_children = self.meta.root_children.checked_sub(1).ok_or_else(uncounted)?;
        self.meta.root_pruned = revision;
        Ok(removed)
    }

    fn drop_row(&mut self, key: Vec<u8>, head: &Head, payload_len: usize) -> Result<(), TableError> {
        let uncounted = || TableError::corrupt("nodes are not counted");
        self.meta.nodes = self.meta.nodes.checked_sub(1).ok_or_else(uncounted)?;
        self.meta.payload_bytes = self.meta.payload_bytes.checked_sub(payload_len as u64).ok_or_else(uncounted)?;
        self.unindex(&key, head);
        keep::touched(self, &key)?;
        self.clear(key);
        Ok(())
    }

    fn index(&mut self, key: &[u8], head: &Head) {
        for row in index_rows(key, head) {
            self.set(row, Vec::new());
        }
        self.meta.keep_rows += watched(head).len() as u64;
    }

    fn unindex(&mut self, key: &[u8], head: &Head) {
        for row in index_rows(key, head) {
            self.clear(row);
        }
        self.meta.keep_rows = self.meta.keep_rows.saturating_sub(watched(head).len() as u64);
    }

    fn event(&mut self, key: &[u8], kind: EventKind, head: &Head, value: Option<&[u8]>) {
        self.events.push(Event {
            revision: self.meta.revision,
            path: Path::of_row(key::path_of(key)),
            kind,
            value: value.map(<[u8]>::to_vec),
            version: head.version,
            created: head.created,
        });
    }
}

/// The rows that lead to a node.
pub(super) fn index_rows(key: &[u8], head: &Head) -> impl Iterator<Item = Vec<u8>> {
    let expiry = head.expires_ms.map(|expires_ms| key::expiry_of_node(expires_ms, key));
    let lease = head.lease.map(|id| key::lease_node(id, key));
    let keep: Vec<Vec<u8>> = watched(head).into_iter().map(|path| key::keep(path.key(), key)).collect();
    expiry.into_iter().chain(lease).chain(keep)
}

/// The paths that a node's conditions are about, each once.
fn watched(head: &Head) -> BTreeSet<&Path> {
    head.keep_while.iter().map(|(path, _)| path).collect()
}
