//! The keys of rows: one byte tells the kind, big-endian numbers and path bytes follow.
//!
//! Invariant: no key of one kind is the beginning of another of its kind, except a node's of its
//! descendants'.

use super::path;

pub(super) const META: u8 = 0x01;
pub(super) const NODE: u8 = 0x10;
const EXPIRY: u8 = 0x20;
const LEASE: u8 = 0x30;
const LEASE_NODE: u8 = 0x31;
const LEASE_CHILD: u8 = 0x32;
const KEEP: u8 = 0x40;
const HISTORY: u8 = 0x50;

const EXPIRY_NODE: u8 = 1;
const EXPIRY_LEASE: u8 = 2;

/// What an expiry row is of.
pub(super) enum Due {
    Node(Vec<u8>),
    Lease(u64),
}

/// What a row is.
pub(super) enum Kind {
    Meta,
    Node,
    Lease,
    Index,
    History,
    Unknown,
}

/// A range of keys, `from <= key < to`.
pub(super) type Range = (Vec<u8>, Vec<u8>);

pub(super) fn kind(key: &[u8]) -> Kind {
    match key.first().copied() {
        Some(META) => Kind::Meta,
        Some(NODE) => Kind::Node,
        Some(LEASE) => Kind::Lease,
        Some(EXPIRY | LEASE_NODE | LEASE_CHILD | KEEP) => Kind::Index,
        Some(HISTORY) => Kind::History,
        _ => Kind::Unknown,
    }
}

/// Whether each of many such rows may be on a page of its own: the machine's is one, the history's follow each other.
pub(crate) fn is_scattered(key: &[u8]) -> bool {
    !matches!(key.first(), Some(&META | &HISTORY))
}

pub(super) fn is_keep(key: &[u8]) -> bool {
    key.first() == Some(&KEEP)
}

/// A node's row; of no bytes, where all of them begin.
pub(super) fn node(path: &[u8]) -> Vec<u8> {
    [&[NODE], path].concat()
}

/// What a node's row key says of its path.
pub(super) fn path_of(node: &[u8]) -> &[u8] {
    &node[1..]
}

/// The row of the node's parent, unless that is the root.
pub(super) fn parent(node: &[u8]) -> Option<&[u8]> {
    match path::parent_len(path_of(node)) {
        0 => None,
        len => Some(&node[..1 + len]),
    }
}

/// The first key behind a node's row and all beneath it: `01` at the end of each path is followed by `02`.
pub(super) fn behind(node: &[u8]) -> Vec<u8> {
    let mut key = node.to_vec();
    if let Some(last) = key.last_mut() {
        *last += 1;
    }
    key
}

/// The next key there can be.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

pub(super) fn expiry_of_node(expires_ms: u64, node: &[u8]) -> Vec<u8> {
    [&[EXPIRY], &expires_ms.to_be_bytes()[..], &[EXPIRY_NODE], path_of(node)].concat()
}

pub(super) fn expiry_of_lease(expires_ms: u64, id: u64) -> Vec<u8> {
    [&[EXPIRY], &expires_ms.to_be_bytes()[..], &[EXPIRY_LEASE], &id.to_be_bytes()].concat()
}

/// All that expires until then.
pub(super) fn expiries_until(now_ms: u64) -> Range {
    let to = match now_ms.checked_add(1) {
        Some(later_ms) => [&[EXPIRY], &later_ms.to_be_bytes()[..]].concat(),
        None => vec![EXPIRY + 1],
    };
    (vec![EXPIRY], to)
}

pub(super) fn expiry_ms(key: &[u8]) -> Option<u64> {
    number(key.get(1..)?)
}

pub(super) fn due(key: &[u8]) -> Option<Due> {
    let (kind, rest) = key.get(9..)?.split_first()?;
    match *kind {
        EXPIRY_NODE => Some(Due::Node(node(rest))),
        EXPIRY_LEASE => number(rest).map(Due::Lease),
        _ => None,
    }
}

pub(super) fn lease(id: u64) -> Vec<u8> {
    numbered(LEASE, id)
}

pub(super) fn leases() -> Range {
    (vec![LEASE], vec![LEASE + 1])
}

pub(super) fn lease_id(key: &[u8]) -> Option<u64> {
    number(key.get(1..)?)
}

pub(super) fn lease_node(id: u64, node: &[u8]) -> Vec<u8> {
    [&[LEASE_NODE], &id.to_be_bytes()[..], path_of(node)].concat()
}

pub(super) fn lease_nodes(id: u64) -> Range {
    (numbered(LEASE_NODE, id), next_numbered(LEASE_NODE, id))
}

/// The node of a lease's row of one.
pub(super) fn node_of_lease(key: &[u8]) -> Option<Vec<u8>> {
    key.get(9..).map(node)
}

pub(super) fn lease_child(id: u64, child: u64) -> Vec<u8> {
    [&[LEASE_CHILD], &id.to_be_bytes()[..], &child.to_be_bytes()].concat()
}

pub(super) fn lease_children(id: u64) -> Range {
    (numbered(LEASE_CHILD, id), next_numbered(LEASE_CHILD, id))
}

pub(super) fn child_of_lease(key: &[u8]) -> Option<u64> {
    number(key.get(9..)?)
}

/// `00` between the two: after a path's end it begins no component.
pub(super) fn keep(watched: &[u8], keeper: &[u8]) -> Vec<u8> {
    [&[KEEP], watched, &[0], path_of(keeper)].concat()
}

/// The rows of all whose conditions are about this path.
pub(super) fn keepers(watched: &[u8]) -> Range {
    ([&[KEEP], watched, &[0]].concat(), [&[KEEP], watched, &[1]].concat())
}

pub(super) fn history(revision: u64) -> Vec<u8> {
    numbered(HISTORY, revision)
}

pub(super) fn history_from(revision: u64) -> Range {
    (history(revision), vec![HISTORY + 1])
}

pub(super) fn history_revision(key: &[u8]) -> Option<u64> {
    number(key.get(1..)?)
}

fn numbered(kind: u8, id: u64) -> Vec<u8> {
    [&[kind], &id.to_be_bytes()[..]].concat()
}

fn next_numbered(kind: u8, id: u64) -> Vec<u8> {
    match id.checked_add(1) {
        Some(next) => numbered(kind, next),
        None => vec![kind + 1],
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
