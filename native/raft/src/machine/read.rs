//! Reading the tree without a command: local reads, and what a transaction's operations share with them.

use super::matching::{walk, Conditions, Met, Next};
use super::row::NodeRef;
use super::{key, Component, MachineError, Node, Path, Pattern, TableError, View};
use serde::{Deserialize, Serialize};

/// What one answer holds at most: bytes of data and paths.
pub const READ_BYTES_MAX: usize = 64 << 20;

/// Some nodes, in the order of their paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// The nodes.
    pub nodes: Vec<(Path, Node)>,
    /// There are more behind the last one.
    pub more: bool,
}

/// A node.
pub fn get(view: &dyn View, path: &Path) -> Result<Option<Node>, TableError> {
    let row = view.get(&key::node(path.key()))?;
    row.map(|row| Ok(Node::of(&NodeRef::parse(&row)?))).transpose()
}

/// Whether a node is there, with data or as a parent.
pub fn exists(view: &dyn View, path: &Path) -> Result<bool, TableError> {
    Ok(view.get(&key::node(path.key()))?.is_some())
}

/// The first nodes that match, behind a path if one is given: at most `limit`, and at most
/// [`READ_BYTES_MAX`] bytes, but one at least.
pub fn get_many(view: &dyn View, pattern: &Pattern, after: Option<&Path>, limit: u64) -> Result<Page, TableError> {
    let mut page = Page::default();
    let mut bytes = 0;
    found(view, pattern, after, &mut |met| {
        bytes += met.key.len() + met.node.payload.map_or(0, <[u8]>::len);
        page.more = page.nodes.len() as u64 >= limit || (bytes > READ_BYTES_MAX && !page.nodes.is_empty());
        if page.more {
            return Next::Stop;
        }
        page.nodes.push((Path::of_row(key::path_of(met.key)), Node::of(met.node)));
        Next::On
    })?;
    Ok(page)
}

/// How many nodes match.
pub fn count(view: &dyn View, pattern: &Pattern) -> Result<u64, TableError> {
    let mut count = 0;
    found(view, pattern, None, &mut |_| {
        count += 1;
        Next::On
    })?;
    Ok(count)
}

/// The names of a node's children, or of the root's, in term order: at most `limit`, behind a name if one is given. A node
/// that is not there has none.
pub fn list(
    view: &dyn View,
    path: Option<&Path>,
    after: Option<&Component>,
    limit: u64,
) -> Result<Vec<Component>, MachineError> {
    let after = match (path, after) {
        (Some(path), Some(name)) => Some(path.child(name)?),
        (None, Some(name)) => Some(Path::of_row(name.key())),
        (_, None) => None,
    };
    let mut names = Vec::new();
    found(view, &Pattern::children(path)?, after.as_ref(), &mut |met| {
        if names.len() as u64 >= limit {
            return Next::Stop;
        }
        names.push(Path::of_row(key::path_of(met.key)).last());
        Next::On
    })?;
    Ok(names)
}

/// Meets what matches only.
pub(super) fn found(
    view: &dyn View,
    pattern: &Pattern,
    after: Option<&Path>,
    visit: &mut dyn FnMut(Met<'_>) -> Next,
) -> Result<(), TableError> {
    let after = after.map(|path| key::node(path.key()));
    walk(view, pattern, Conditions::Asked, after.as_deref(), &mut |met| match met.matches {
        true => visit(met),
        false => Next::On,
    })
}
