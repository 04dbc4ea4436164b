//! One command, applied: a draft of all changes, then the rows of it, ascending.

use super::change::Terms;
use super::command::{Command, Guard, ImportEntry, Op};
use super::draft::{Draft, Stop};
use super::matching::{walk, Conditions, Next};
use super::response::{Limit, OpResult, Refusal, Response};
use super::row::{Meta, NodeRef};
use super::{history, keep, key, lease, read};
use super::{Event, EventKind, Part, Pattern, Table, TableError, View, KEEP_WHILE_MAX, RESULT_BYTES_MAX};

/// When and where in the log a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its index in the log; greater than that of every command before it.
    pub revision: u64,
    /// The proposer's wall clock, milliseconds since 1970.
    pub time_ms: u64,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever proposed it.
    pub response: Response,
    /// What became of keys, in order.
    pub events: Vec<Event>,
}

/// Applies a command. Cost: rows in proportion to the nodes that it reads and changes, whatever the tree's size.
///
/// An error means that the table failed, or that this command was applied before; of what is in the table's
/// transaction then, nothing may be kept.
pub fn apply<T: Table>(table: &mut T, stamp: Stamp, command: &Command) -> Result<Applied, TableError> {
    let (rows, applied) = drafted(&*table, stamp, command)?;
    for (key, row) in rows {
        match row {
            Some(row) => table.put(key, row)?,
            None => table.remove(key)?,
        }
    }
    Ok(applied)
}

fn drafted(view: &dyn View, stamp: Stamp, command: &Command) -> Result<(super::draft::Rows, Applied), TableError> {
    let mut meta = Meta::load(view)?;
    if stamp.revision <= meta.revision {
        let (applied, revision) = (meta.revision, stamp.revision);
        return Err(TableError(format!("a command is applied twice: revision={revision} applied={applied}")));
    }
    meta.revision = stamp.revision;
    meta.time_ms = meta.time_ms.max(stamp.time_ms);
    let mut draft = Draft::new(view, meta.clone());
    let done = run(&mut draft, command).and_then(|response| {
        keep::settle(&mut draft)?;
        history::record(&mut draft)?;
        Ok(response)
    });
    let response = match done {
        Ok(response) => response,
        Err(Stop::Table(error)) => return Err(error),
        Err(Stop::Refused(refusal)) => {
            draft = Draft::new(view, meta);
            Response::Refused(refusal)
        }
    };
    let row = draft.meta.encode();
    draft.set(vec![key::META], row);
    Ok((draft.rows, Applied { response, events: draft.events }))
}

fn run(draft: &mut Draft<'_>, command: &Command) -> Result<Response, Stop> {
    match command {
        Command::Txn { conditions, then, otherwise } => txn(draft, conditions, then, otherwise),
        Command::LeaseGrant { ttl_ms, owner, parent } => lease::grant(draft, *ttl_ms, owner, *parent),
        Command::LeaseKeepAlive { ids } => lease::keep_alive(draft, ids),
        Command::LeaseRevoke { id } => lease::revoke(draft, *id),
        Command::Tick => lease::tick(draft),
        Command::Import { entries } => import(draft, entries),
    }
}

fn txn(draft: &mut Draft<'_>, conditions: &[Guard], then: &[Op], otherwise: &[Op]) -> Result<Response, Stop> {
    let mut succeeded = true;
    for guard in conditions {
        succeeded = succeeded && holds(draft, guard)?;
    }
    let ops = if succeeded { then } else { otherwise };
    let mut results = Vec::with_capacity(ops.len());
    let mut bytes = 0;
    for op in ops {
        let result = op_result(draft, op)?;
        bytes += result.bytes();
        if bytes > RESULT_BYTES_MAX {
            let (len, len_max) = (bytes as u64, RESULT_BYTES_MAX as u64);
            return Err(Refusal::TooLarge { what: Limit::ResultBytes, len, len_max }.into());
        }
        results.push(result);
    }
    Ok(Response::Txn { succeeded, results })
}

fn op_result(draft: &mut Draft<'_>, op: &Op) -> Result<OpResult, Stop> {
    Ok(match op {
        Op::Put { path, value, ttl_ms, lease, keep_while } => {
            if keep_while.len() > KEEP_WHILE_MAX {
                let (len, len_max) = (keep_while.len() as u64, KEEP_WHILE_MAX as u64);
                return Err(Refusal::TooLarge { what: Limit::KeepWhile, len, len_max }.into());
            }
            if let Some(id) = lease {
                lease::check(draft, *id)?;
            }
            let key = key::node(path.key());
            let expires_ms = ttl_ms.map(|ttl_ms| draft.meta.time_ms.saturating_add(ttl_ms));
            let done = draft.put_node(&key, value, Some(Terms { expires_ms, lease: *lease, keep_while }))?;
            if !keep_while.is_empty() {
                keep::check(draft, &key)?;
            }
            OpResult::Put { version: done.version, created: done.created, previous: done.previous }
        }
        Op::Delete { path } => {
            let previous = read::get(draft, path)?;
            let removed = draft.remove_node(&key::node(path.key()), EventKind::Deleted)?;
            OpResult::Deleted { removed, previous }
        }
        Op::PutMany { pattern, value } => {
            let keys = found_keys(draft, pattern, Next::On)?;
            for key in &keys {
                draft.put_node(key, value, None)?;
            }
            OpResult::PutMany { count: keys.len() as u64 }
        }
        Op::DeleteMany { pattern } => {
            let mut removed = 0;
            for key in found_keys(draft, pattern, Next::Past)? {
                removed += draft.remove_node(&key, EventKind::Deleted)?;
            }
            OpResult::DeletedMany { removed }
        }
        Op::Get { path } => OpResult::Got { node: read::get(draft, path)? },
        Op::GetMany { pattern, limit } => {
            let page = read::get_many(draft, pattern, None, *limit)?;
            OpResult::GotMany { nodes: page.nodes, more: page.more }
        }
    })
}

/// The rows of all that match, before any of them is changed.
fn found_keys(draft: &Draft<'_>, pattern: &Pattern, next: Next) -> Result<Vec<Vec<u8>>, TableError> {
    let mut keys = Vec::new();
    read::found(draft, pattern, None, &mut |met| {
        keys.push(met.key.to_vec());
        next
    })?;
    Ok(keys)
}

fn import(draft: &mut Draft<'_>, entries: &[ImportEntry]) -> Result<Response, Stop> {
    for entry in entries {
        let terms = Terms { expires_ms: entry.expires_ms, ..Terms::default() };
        draft.put_node(&key::node(entry.path.key()), &entry.value, Some(terms))?;
    }
    Ok(Response::Imported { entries: entries.len() as u64 })
}

fn holds(draft: &Draft<'_>, guard: &Guard) -> Result<bool, TableError> {
    match guard {
        Guard::Node(path, condition) => {
            let row = draft.get(&key::node(path.key()))?;
            let node = row.as_deref().map(NodeRef::parse).transpose()?;
            Ok(condition.holds(node.as_ref()))
        }
        Guard::Unchanged { pattern, since } => unchanged(draft, pattern, *since),
    }
}

/// A node that is there says itself when it changed. Of one that is not, its parent says when it last lost a
/// child; and when that is gone too, its own parent, up to the root.
fn unchanged(draft: &Draft<'_>, pattern: &Pattern, since: u64) -> Result<bool, TableError> {
    // a node that its condition left out may have been left in
    let widened = pattern.conditions().any(|condition| condition.asks_for_children()).then(|| pattern.widened());
    let pattern = widened.as_ref().unwrap_or(pattern);
    let base = key::node(&pattern.exact_prefix().0);
    if last_loss(draft, &base)? > since {
        return Ok(false);
    }
    // what is put in a node on the way may open or close it
    let on_the_way = pattern.parts().iter().any(|part| matches!(part, Part::Any(Some(_))));
    let mut unchanged = true;
    walk(draft, pattern, Conditions::Ignored, None, &mut |met| {
        let head = &met.node.head;
        let lost = met.goes_on && head.pruned > since;
        // what was beneath an earlier node of that path went with it
        let made = met.key == base && head.created > since;
        let put = (met.matches || on_the_way) && head.modified > since;
        unchanged = !(lost || made || put);
        match unchanged {
            true => Next::On,
            false => Next::Stop,
        }
    })?;
    Ok(unchanged)
}

/// Since when the node has not been there, at the latest, if it is not.
fn last_loss(draft: &Draft<'_>, base: &[u8]) -> Result<u64, TableError> {
    if base.len() == 1 {
        return Ok(draft.meta.root_pruned);
    }
    if draft.get(base)?.is_some() {
        return Ok(0);
    }
    let mut child = base;
    while let Some(parent) = key::parent(child) {
        if let Some(row) = draft.get(parent)? {
            let head = NodeRef::parse(&row)?.head;
            // made anew, it does not know what an earlier one lost
            return Ok(head.pruned.max(head.created));
        }
        child = parent;
    }
    Ok(draft.meta.root_pruned)
}
