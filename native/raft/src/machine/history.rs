//! The events of the last commands, for watches that resume.
//!
//! Invariant: from `history_first` on the events of every revision are kept. Rows go, oldest first, as
//! soon as together they are larger than the limit; a command whose events are larger by themselves
//! leaves no history at all, and watches read anew.

use super::codec::bytes;
use super::draft::Draft;
use super::row::{exactly, Meta};
use super::{key, Event, EventKind, MachineError, Path, TableError, View};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// The most bytes of history rows.
pub const HISTORY_BYTES_MAX: u64 = 16 << 20;

/// An event as it lies in its revision's row.
#[derive(Serialize)]
struct Stored<'a> {
    path: &'a Path,
    kind: EventKind,
    value: Option<Value<'a>>,
    version: u64,
    created: u64,
}

#[derive(Serialize)]
struct Value<'a>(#[serde(with = "bytes")] &'a [u8]);

#[derive(Deserialize)]
struct Told {
    path: Path,
    kind: EventKind,
    #[serde(with = "bytes::option")]
    value: Option<Vec<u8>>,
    version: u64,
    created: u64,
}

/// Tells all events from a revision on, in their order, until the visitor breaks. Cost: as many rows as revisions
/// are told. Error: [`MachineError::HistoryGone`].
pub fn history(
    view: &dyn View,
    from_revision: u64,
    visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(), MachineError> {
    let first = Meta::load(view)?.history_first;
    if from_revision < first {
        return Err(MachineError::HistoryGone { from: from_revision, first });
    }
    let (from, to) = key::history_from(from_revision);
    let mut failure = None;
    view.scan(&from, &to, false, &mut |key, row| match events(key, row) {
        Ok(events) => events.into_iter().try_for_each(&mut *visit),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn events(key: &[u8], row: &[u8]) -> Result<Vec<Event>, TableError> {
    let revision = key::history_revision(key).ok_or_else(|| TableError::corrupt("a history's key"))?;
    let told: Vec<Told> = exactly(row, "a history's row")?;
    let event = |told: Told| {
        let Told { path, kind, value, version, created } = told;
        Event { revision, path, kind, value, version, created }
    };
    Ok(told.into_iter().map(event).collect())
}

/// Writes the draft's events and lets old ones go.
pub(super) fn record(draft: &mut Draft<'_>) -> Result<(), TableError> {
    if draft.events.is_empty() {
        return Ok(());
    }
    let revision = draft.meta.revision;
    let stored = |event: &Event| -> usize { event.path.key().len() + event.value.as_ref().map_or(0, Vec::len) + 24 };
    let row = Vec::with_capacity(8 + draft.events.iter().map(stored).sum::<usize>());
    let events: Vec<Stored<'_>> = draft.events.iter().map(of_event).collect();
    // a vector takes all that is written to it
    let row = postcard::to_extend(&events, row).unwrap_or_default();
    let key = key::history(revision);
    draft.meta.history_bytes += (key.len() + row.len()) as u64;
    draft.set(key, row);
    prune(draft)
}

fn of_event(event: &Event) -> Stored<'_> {
    Stored {
        path: &event.path,
        kind: event.kind,
        value: event.value.as_deref().map(Value),
        version: event.version,
        created: event.created,
    }
}

fn prune(draft: &mut Draft<'_>) -> Result<(), TableError> {
    let mut bytes = draft.meta.history_bytes;
    if bytes <= HISTORY_BYTES_MAX {
        return Ok(());
    }
    // what went before may lie there still, removed in layers above
    let (from, to) = key::history_from(draft.meta.history_first);
    let mut gone = Vec::new();
    draft.scan(&from, &to, false, &mut |key, row| {
        gone.push(key.to_vec());
        bytes = bytes.saturating_sub((key.len() + row.len()) as u64);
        match bytes > HISTORY_BYTES_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    if let Some(last) = gone.last() {
        let last = key::history_revision(last).ok_or_else(|| TableError::corrupt("a history's key"))?;
        draft.meta.history_first = last.saturating_add(1);
    }
    draft.meta.history_bytes = bytes;
    for key in gone {
        draft.clear(key);
    }
    Ok(())
}
