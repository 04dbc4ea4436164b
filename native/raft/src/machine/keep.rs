//! keep_while: a node goes as soon as a condition about another one ceases to hold.
//!
//! At the end of a command the first node, in the order of paths, of which a condition does not hold is
//! removed, and so on until there is none. Each round removes a node and makes none, so there is an
//! end. Only nodes whose conditions are about what was touched are looked at: of all others they
//! held before and still do.

use super::draft::{Draft, Stop};
use super::response::Refusal;
use super::row::NodeRef;
use super::{key, EventKind, Path, TableError, View};

/// Something of the node changed, or of whether it is there.
pub(super) fn touched(draft: &mut Draft<'_>, key: &[u8]) -> Result<(), TableError> {
    if draft.meta.keep_rows == 0 {
        return Ok(());
    }
    let range = key::keepers(key::path_of(key));
    let prefix_len = range.0.len();
    for row in draft.keys(&range, usize::MAX)? {
        draft.doubtful.insert(key::node(&row[prefix_len..]));
    }
    Ok(())
}

/// Refuses when a condition of the node does not hold.
pub(super) fn check(draft: &Draft<'_>, key: &[u8]) -> Result<(), Stop> {
    match unmet(draft, key)? {
        Some(watched) => Err(Refusal::KeepWhileNotMet { watched }.into()),
        None => Ok(()),
    }
}

/// Removes what nothing keeps any longer.
pub(super) fn settle(draft: &mut Draft<'_>) -> Result<(), TableError> {
    while let Some(key) = draft.doubtful.pop_first() {
        if unmet(draft, &key)?.is_some() {
            draft.remove_node(&key, EventKind::Deleted)?;
        }
    }
    Ok(())
}

/// What the first condition is about that does not hold.
fn unmet(draft: &Draft<'_>, key: &[u8]) -> Result<Option<Path>, TableError> {
    let Some(row) = draft.get(key)? else { return Ok(None) };
    for (watched, condition) in NodeRef::parse(&row)?.head.keep_while {
        let row = draft.get(&key::node(watched.key()))?;
        let node = row.as_deref().map(NodeRef::parse).transpose()?;
        if !condition.holds(node.as_ref()) {
            return Ok(Some(watched));
        }
    }
    Ok(None)
}
