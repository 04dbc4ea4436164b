//! Changes of short files, and news of files, that come together are made together: the index is written once with all
//! that is to be, and once with all that is.
//!
//! Invariant: each file goes the way that it goes alone, in a turn of its own (turn.rs). Who has one turn waits for no
//! other: what has none at once, or needs more than these steps, is left to be done alone.

use crate::record::{Dot, Record};
use crate::shared::Shared;
use crate::turn::{unknown, Short, Turn};
use crate::{MeshError, Name};
use macula_kv::Durability;

/// What is to become of a file.
pub(crate) enum Step<'c> {
    /// Nothing.
    Nothing,
    /// This is known from now on; the file stays as it is.
    Know(Record),
    /// This short content comes in its place; by a caller here, or from elsewhere.
    Short(Record, &'c [u8], bool),
    /// What is kept comes in its place, or it goes.
    Change(Record),
}

/// What came of one: what is known then. Nothing: it is to be done alone.
pub(crate) type Done = Option<Result<Record, MeshError>>;

/// One that is under way.
struct Begun<'a, 'c> {
    at: usize,
    turn: Turn<'a>,
    durability: Durability,
    short: Option<Short<'c>>,
}

impl<'a, 'c> Begun<'a, 'c> {
    /// `None`: it is not for these steps.
    fn new(at: usize, mut turn: Turn<'a>, step: Step<'c>) -> Result<Option<Self>, MeshError> {
        let (durability, short) = match step {
            Step::Nothing | Step::Change(_) => return Ok(None),
            Step::Know(record) => (turn.begin_know(record)?, None),
            Step::Short(record, content, is_own) => match turn.begin_short(&record, content, is_own) {
                Some(short) => (Durability::Sync, Some(short)),
                None => return Ok(None),
            },
        };
        Ok(Some(Self { at, turn, durability, short }))
    }
}

/// Do what `plan` says of each file. What it says of one that is done alone then counts for nothing.
pub(crate) fn together<'a, 'c>(
    shared: &'a Shared,
    names: &[&'a Name],
    mut plan: impl FnMut(usize, &mut Turn<'a>) -> Result<Step<'c>, MeshError>,
) -> Vec<Done> {
    let mut done: Vec<Done> = names.iter().map(|_| None).collect();
    let mut begun = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let Ok(Some(mut turn)) = Turn::at_once(shared, name) else { continue };
        match plan(at, &mut turn) {
            Ok(Step::Nothing) => done[at] = Some(Ok(turn.row.record)),
            Ok(step) => match Begun::new(at, turn, step) {
                Ok(one) => begun.extend(one),
                Err(error) => done[at] = Some(Err(error)),
            },
            Err(error) => done[at] = Some(Err(error)),
        }
    }
    let durability = begun.iter().map(|one| one.durability).max().unwrap_or(Durability::Async);
    if let Err(error) = save(shared, &mut begun, durability, |short| short.map(Short::kept)) {
        begun.iter().for_each(|one| done[one.at] = Some(Err(again(&error))));
        return done;
    }
    put(shared, begun, &mut done);
    done
}

/// The second half: short contents come in their places.
fn put(shared: &Shared, begun: Vec<Begun<'_, '_>>, done: &mut [Done]) {
    let mut there = Vec::new();
    for mut one in begun {
        match one.short.as_ref().map_or(Ok(()), |short| one.turn.put_short(short)) {
            Ok(()) if one.short.is_some() => there.push(one),
            put => done[one.at] = Some(put.map(|()| one.turn.row.record)),
        }
    }
    let saved = save(shared, &mut there, Durability::Async, |_| None);
    for one in there {
        one.short.iter().for_each(|short| one.turn.put_is_known(short));
        done[one.at] = Some(match &saved {
            Ok(()) => Ok(one.turn.row.record),
            Err(error) => Err(unknown(again(error))),
        });
    }
}

/// Write the rows of all, with what the index is to keep for them until then.
fn save<'c>(
    shared: &Shared,
    begun: &mut [Begun<'_, 'c>],
    durability: Durability,
    kept: impl Fn(Option<&Short<'c>>) -> Option<(Dot, &'c [u8])>,
) -> Result<(), MeshError> {
    if begun.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = begun.iter().map(|one| one.turn.saving(kept(one.short.as_ref()))).collect();
    let now = shared.save(&rows, durability)?;
    drop(rows);
    begun.iter_mut().zip(now).for_each(|(one, now)| one.turn.saved(now));
    Ok(())
}

/// For one more of those whom it met.
fn again(error: &MeshError) -> MeshError {
    match error {
        MeshError::Index(error) => MeshError::Index(error.clone()),
        other => MeshError::Internal(other.to_string()),
    }
}
