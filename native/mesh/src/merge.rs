//! What other members know is merged into what is known here, and files follow it.
//!
//! Invariant: what was seen is never forgotten for what somebody tells, and no file is replaced that somebody else
//! changed meanwhile: that is a version of its own first.

use crate::row::{Placed, Row};
use crate::shared::Shared;
use crate::together::{together, Step};
use crate::turn::Turn;
use crate::{ContentId, MeshError, Name, Record};
use bytes::Bytes;
use macula_core::{Kind, Kinded};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// How often a file may be changed by others while a version from elsewhere comes into its place.
const CHANGES_MAX: usize = 3;

/// What a member knows of a file; with the content of what it shows, when that came along.
pub(crate) struct Told {
    pub name: Name,
    pub record: Record,
    pub content: Option<Bytes>,
}

/// What is to be known then, and the content that is wanted here.
type Merged<'c> = (Record, Option<&'c [u8]>);

impl Shared {
    /// Merge what the member `from` knows of many files; what is known then of each, in their order.
    pub async fn merge_all(
        self: &Arc<Self>,
        told: Vec<Told>,
        from: &str,
    ) -> Result<Vec<Result<Record, MeshError>>, MeshError> {
        let mut of_apps = BTreeMap::<_, Vec<(usize, Told)>>::new();
        let mut merged: Vec<_> = told.iter().map(|_| Err(MeshError::Closed)).collect();
        for (at, of) in told.into_iter().enumerate() {
            of_apps.entry(of.name.app.clone()).or_default().push((at, of));
        }
        // an app whose files wait keeps no other's waiting
        let (mut groups, mut alone) = (JoinSet::new(), JoinSet::new());
        for group in of_apps.into_values() {
            let (shared, from) = (self.clone(), from.to_owned());
            groups.spawn_blocking(move || shared.merge_together(group, &from));
        }
        while let Some(group) = groups.join_next().await {
            for (at, of, known) in group.map_err(ended)? {
                let Some(known) = known else {
                    let (shared, from) = (self.clone(), from.to_owned());
                    alone
                        .spawn_blocking(move || (at, shared.merge(&of.name, &of.record, of.content.as_deref(), &from)));
                    continue;
                };
                merged[at] = Ok(known);
            }
        }
        while let Some(one) = alone.join_next().await {
            let (at, known) = one.map_err(ended)?;
            merged[at] = known;
        }
        merged.iter().filter_map(|known| known.as_ref().err()).for_each(|error| self.refusals.note_error(from, error));
        Ok(merged)
    }

    /// Of files of one app; what is known then of each that need not be merged alone.
    fn merge_together(&self, told: Vec<(usize, Told)>, from: &str) -> Vec<(usize, Told, Option<Record>)> {
        let names: Vec<&Name> = told.iter().map(|(_, of)| &of.name).collect();
        let done = together(self, &names, |at, turn| {
            let (_, of) = &told[at];
            turn.from = Some(from.to_owned());
            match self.merging(turn, &of.record, of.content.as_deref(), from)? {
                Some((record, content)) => Ok(self.step(turn, record, content)),
                None => Ok(Step::Nothing),
            }
        });
        told.into_iter().zip(done).map(|((at, of), known)| (at, of, known.and_then(Result::ok))).collect()
    }

    /// Merge what the member `from` knows of a file, of which it is not told: it gets that as an answer, or knows it.
    pub fn merge(&self, name: &Name, record: &Record, content: Option<&[u8]>, from: &str) -> Result<Record, MeshError> {
        let mut turn = Turn::of(self, name)?;
        turn.from = Some(from.to_owned());
        let Some((mut merged, inline)) = self.merging(&mut turn, record, content, from)? else {
            return Ok(turn.row.record.clone());
        };
        for _ in 0..CHANGES_MAX {
            match self.show(&mut turn, merged, inline) {
                // somebody else changed the file: a version of its own, beside the one that comes
                Err(error) if error.kind() == Kind::Conflict => drop(turn.adopt()?),
                Err(error) if error.kind() != Kind::UnknownResult => {
                    let mut merged = turn.row.record.clone();
                    merged.merge(record);
                    let content = merged.winner().and_then(|winner| winner.content);
                    // it is known, and fetched when there is room for it, and nothing else in its place
                    return match content.is_some_and(|content| !turn.row.has_content(&content.id)) {
                        true => turn.know(merged).map(|()| turn.row.record.clone()),
                        false => Err(error),
                    };
                }
                shown => return shown.map(|()| turn.row.record.clone()),
            }
            merged = turn.row.record.clone();
            merged.merge(record);
        }
        Err(MeshError::Busy)
    }

    /// What is to be known of a file; nothing when that is known.
    fn merging<'c>(
        &self,
        turn: &mut Turn<'_>,
        record: &Record,
        content: Option<&'c [u8]>,
        from: &str,
    ) -> Result<Option<Merged<'c>>, MeshError> {
        let name = turn.name;
        if !self.may_be_known(record) {
            return Err(MeshError::Malformed(format!("{from} knows of {name} what this replica did not say yet")));
        }
        self.observe(record);
        // what was deleted so long ago that nothing else is known of it
        let is_old = self.refuse_seen(&mut turn.row.record, record);
        let mut merged = turn.row.record.clone();
        let is_news = merged.merge(record) || is_old;
        if is_news && !merged.has_room() {
            // else nobody would take it, nor what goes with it
            return Err(MeshError::Malformed(format!("{name} has more versions than can be")));
        }
        let inline = content.filter(|_| self.lacks_shown(name, &turn.row, &merged));
        Ok((is_news || inline.is_some()).then_some((merged, inline)))
    }

    /// What becomes of a file, so that its name shows what it is to show now, as far as the content is here.
    fn step<'c>(&self, turn: &mut Turn<'_>, record: Record, inline: Option<&'c [u8]>) -> Step<'c> {
        let placed = turn.row.here.placed;
        let shown = record.winner().and_then(|winner| Some((winner.dot, winner.content?)));
        let Some((winner, content)) = shown else {
            return if placed.is_some() { Step::Change(record) } else { Step::Know(record) };
        };
        match placed {
            Some(placed) if placed.content == content => {
                turn.row.here.placed = Some(Placed { dot: winner, ..placed });
                return Step::Know(record);
            }
            _ => {}
        }
        if turn.row.here.kept.contains(&content.id) {
            return Step::Change(record);
        }
        let is_it = |bytes: &&[u8]| bytes.len() as u64 == content.len && ContentId::of_block(bytes) == content.id;
        match inline.filter(is_it) {
            Some(bytes) => Step::Short(record, bytes, false),
            None => Step::Know(record),
        }
    }

    /// Let the name show it.
    fn show(&self, turn: &mut Turn<'_>, record: Record, inline: Option<&[u8]>) -> Result<(), MeshError> {
        match self.step(turn, record, inline) {
            Step::Nothing => Ok(()),
            Step::Know(record) => turn.know(record),
            Step::Short(record, content, is_own) => turn.bring_short(record, content, is_own),
            Step::Change(record) => turn.bring(record, None, false),
        }
    }

    /// Bring what is kept to its place, as nothing else will: it is not wanted.
    pub fn show_kept(&self, name: &Name) -> Result<(), MeshError> {
        let mut turn = Turn::of(self, name)?;
        // somebody else's change is a version of its own
        turn.adopt()?;
        match turn.row.keeps_shown() {
            true => {
                let record = turn.row.record.clone();
                self.show(&mut turn, record, None)
            }
            false => Ok(()),
        }
    }

    /// Whether the content of what a record shows is wanted here, and not here.
    fn lacks_shown(&self, name: &Name, row: &Row, record: &Record) -> bool {
        let there = Row { record: record.clone(), here: row.here.clone(), former: Vec::new() };
        let dot = record.winner().map(|winner| winner.dot);
        let is_wanted = self.wanted(name, &there).any(|version| Some(version.dot) == dot);
        is_wanted
    }
}

fn ended(error: tokio::task::JoinError) -> MeshError {
    MeshError::Internal(format!("work ended: {error}"))
}
