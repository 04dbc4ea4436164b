//! Leases, and all that ends by time.
//!
//! Time is the machine's: the greatest stamp so far. What is due stays until a `Tick` removes it, so
//! that all nodes agree on when it went. A lease ends with its parent, and takes the keys that were
//! put with it along.

use super::draft::{Draft, Stop};
use super::key::{self, Due};
use super::response::{Refusal, Response};
use super::row::LeaseRow;
use super::{EventKind, TableError, View};
use std::ops::ControlFlow;

/// How many keys and leases one `Tick` looks at.
pub const TICK_ENTRIES_MAX: usize = 4096;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: u64,
    /// How long it lives without being kept alive; none: as long as its parent.
    pub ttl_ms: Option<u64>,
    /// When it ends, milliseconds since 1970, unless it is kept alive.
    pub expires_ms: Option<u64>,
    /// The lease that ends it by ending.
    pub parent: Option<u64>,
    /// Whose it is.
    pub owner: Vec<u8>,
}

/// When the next `Tick` has something to do, milliseconds since 1970. Costs one row.
pub fn next_expiry(view: &dyn View) -> Result<Option<u64>, TableError> {
    let (from, to) = key::expiries_until(u64::MAX);
    let mut first = None;
    view.scan(&from, &to, false, &mut |key, _| {
        first = Some(key::expiry_ms(key).ok_or_else(|| TableError::corrupt("an expiry's row")));
        ControlFlow::Break(())
    })?;
    first.transpose()
}

/// A lease, if it is there.
pub fn lease(view: &dyn View, id: u64) -> Result<Option<Lease>, TableError> {
    Ok(row(view, id)?.map(|row| of_row(id, row)))
}

/// All leases, ascending, until the visitor breaks.
pub fn leases(view: &dyn View, visit: &mut dyn FnMut(Lease) -> ControlFlow<()>) -> Result<(), TableError> {
    let (from, to) = key::leases();
    let mut failure = None;
    view.scan(&from, &to, false, &mut |key, row| {
        let id = key::lease_id(key).ok_or_else(|| TableError::corrupt("a lease's key"));
        match id.and_then(|id| Ok(of_row(id, LeaseRow::parse(row)?))) {
            Ok(lease) => visit(lease),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(()), Err)
}

fn of_row(id: u64, row: LeaseRow) -> Lease {
    Lease { id, ttl_ms: row.ttl_ms, expires_ms: row.expires_ms, parent: row.parent, owner: row.owner }
}

fn row(view: &dyn View, id: u64) -> Result<Option<LeaseRow>, TableError> {
    view.get(&key::lease(id))?.map(|row| LeaseRow::parse(&row)).transpose()
}

/// Refuses a lease that is not there.
pub(super) fn check(draft: &Draft<'_>, id: u64) -> Result<(), Stop> {
    match draft.get(&key::lease(id))? {
        Some(_) => Ok(()),
        None => Err(Refusal::LeaseUnknown { id }.into()),
    }
}

pub(super) fn grant(
    draft: &mut Draft<'_>,
    ttl_ms: Option<u64>,
    owner: &[u8],
    parent: Option<u64>,
) -> Result<Response, Stop> {
    match parent {
        Some(parent) => check(draft, parent)?,
        None if ttl_ms.is_none() => return Err(Refusal::LeaseWithoutEnd.into()),
        None => {}
    }
    draft.check_size(&[], owner)?;
    let id = draft.meta.revision;
    let expires_ms = ttl_ms.map(|ttl_ms| draft.meta.time_ms.saturating_add(ttl_ms));
    let lease = LeaseRow { ttl_ms, expires_ms, parent, owner: owner.to_vec() };
    draft.set(key::lease(id), lease.encode());
    draft.meta.leases += 1;
    for index in index_rows(id, &lease) {
        draft.set(index, Vec::new());
    }
    Ok(Response::LeaseGranted { id, expires_ms })
}

pub(super) fn keep_alive(draft: &mut Draft<'_>, ids: &[u64]) -> Result<Response, Stop> {
    let mut gone = Vec::new();
    for id in ids {
        let Some(mut lease) = row(draft, *id)? else {
            gone.push(*id);
            continue;
        };
        if let (Some(ttl_ms), Some(old_ms)) = (lease.ttl_ms, lease.expires_ms) {
            let expires_ms = draft.meta.time_ms.saturating_add(ttl_ms);
            lease.expires_ms = Some(expires_ms);
            draft.clear(key::expiry_of_lease(old_ms, *id));
            draft.set(key::expiry_of_lease(expires_ms, *id), Vec::new());
            draft.set(key::lease(*id), lease.encode());
        }
    }
    Ok(Response::LeasesKept { gone })
}

pub(super) fn revoke(draft: &mut Draft<'_>, id: u64) -> Result<Response, Stop> {
    let found = draft.get(&key::lease(id))?.is_some();
    let removed = end(draft, id, EventKind::Deleted)?;
    Ok(Response::LeaseRevoked { found, removed })
}

pub(super) fn tick(draft: &mut Draft<'_>) -> Result<Response, Stop> {
    let range = key::expiries_until(draft.meta.time_ms);
    let mut removed = 0;
    for row in draft.keys(&range, TICK_ENTRIES_MAX)? {
        // one that is gone with one before it removes nothing
        removed += match key::due(&row) {
            Some(Due::Node(key)) => draft.remove_node(&key, EventKind::Expired)?,
            Some(Due::Lease(id)) => end(draft, id, EventKind::Expired)?,
            None => return Err(TableError::corrupt("an expiry's row").into()),
        };
    }
    let more = !draft.keys(&range, 1)?.is_empty();
    Ok(Response::Ticked { removed, more })
}

/// Ends a lease and those under it, each with its keys; answers how many nodes went.
fn end(draft: &mut Draft<'_>, id: u64, kind: EventKind) -> Result<u64, TableError> {
    let mut removed = 0;
    let mut ending = vec![id];
    while let Some(id) = ending.pop() {
        let Some(lease) = row(draft, id)? else { continue };
        for row in draft.keys(&key::lease_nodes(id), usize::MAX)? {
            let node = key::node_of_lease(&row).ok_or_else(|| TableError::corrupt("a lease's row of a node"))?;
            removed += draft.remove_node(&node, kind)?;
        }
        for row in draft.keys(&key::lease_children(id), usize::MAX)?.iter().rev() {
            ending.push(key::child_of_lease(row).ok_or_else(|| TableError::corrupt("a lease's row of a lease"))?);
        }
        for index in index_rows(id, &lease) {
            draft.clear(index);
        }
        draft.clear(key::lease(id));
        draft.meta.leases =
            draft.meta.leases.checked_sub(1).ok_or_else(|| TableError::corrupt("leases are not counted"))?;
    }
    Ok(removed)
}

/// The rows that lead to a lease.
pub(super) fn index_rows(id: u64, lease: &LeaseRow) -> impl Iterator<Item = Vec<u8>> {
    let expiry = lease.expires_ms.map(|expires_ms| key::expiry_of_lease(expires_ms, id));
    let child = lease.parent.map(|parent| key::lease_child(parent, id));
    expiry.into_iter().chain(child)
}
