//! What this node's own callers do to files.
//!
//! Invariant: what returned `Ok` is durable here, file and index; what returned an error other than an unknown
//! result has changed nothing. Nothing here waits for another member.

use crate::ahead::Sending;
use crate::early::EarlySync;
use crate::in_hand::Held;
use crate::placement::{Class, Place};
use crate::record::{Content, Record, Version};
use crate::row::{Former, Row};
use crate::shared::Shared;
use crate::turn::{Turn, CHUNK};
use crate::unsynced::SHORT_MAX;
use crate::{ContentId, Dot, Hashing, MeshError, Name, BLOCK_LEN};
use macula_core::{AppFiles, AppName, Kind, Kinded, RelPath, Staged};
use std::ops::Bound;
use std::sync::Arc;

/// A file that is being written. Dropped, it leaves no trace.
pub struct Writing {
    shared: Arc<Shared>,
    files: Arc<dyn AppFiles>,
    name: Name,
    /// As long as it is short, nothing is staged.
    short: Vec<u8>,
    staged: Option<(Held, String, Arc<dyn Staged>)>,
    early: EarlySync,
    ahead: Option<Sending>,
    hashing: Hashing,
    /// Where it shall lie.
    place: Option<Place>,
    /// What it must turn out to be.
    is_copy_of: Option<ContentId>,
    is_placed: bool,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The version that its name shows.
    pub version: Version,
    /// Its content.
    pub content: Content,
    /// Names of the members that have it.
    pub replicas: Vec<String>,
    /// Whether this one is among them.
    pub is_here: bool,
    /// Versions that it does not show, though nothing replaced them.
    pub conflicts: usize,
}

/// Names of files, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Their paths.
    pub paths: Vec<RelPath>,
    /// Whether there are more after the last.
    pub more: bool,
}

impl Writing {
    /// Which file.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Let it lie elsewhere than the rules say: to be told before the first bytes.
    pub fn put_place(&mut self, copies: Option<u8>, class: Option<Class>) {
        self.place = self.shared.place_for(&self.name, copies, class);
    }

    /// The next bytes.
    ///
    /// # Errors
    /// [`Kind::DiskFull`]; behind an error the writer can only be dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), MeshError> {
        if self.staged.is_none() && self.short.len() + bytes.len() <= SHORT_MAX {
            self.short.extend_from_slice(bytes);
            self.hashing.update(bytes);
            return Ok(());
        }
        let mut offset = self.hashing.len();
        let staged = self.stage()?;
        staged.write_at(bytes, offset)?;
        self.early.wrote(bytes.len() as u64, &staged);
        let mut rest = bytes;
        while !rest.is_empty() {
            let in_block = BLOCK_LEN - (offset % BLOCK_LEN as u64) as usize;
            let (now, behind) = rest.split_at(in_block.min(rest.len()));
            self.hashing.update(now);
            if let Some(ahead) = &mut self.ahead {
                ahead.wrote(now, self.hashing.ended_block());
            }
            (rest, offset) = (behind, offset + now.len() as u64);
        }
        Ok(())
    }

    /// The file has this content from now on. `Ok`: durable here.
    ///
    /// # Errors
    /// [`Kind::UnknownResult`]: it may not survive a power loss. Any other: nothing changed.
    pub fn commit(mut self) -> Result<Dot, MeshError> {
        self.end(|record, dot, content| record.write(dot, Some(content)), |_| Ok(()))
    }

    /// The same by another change of the record, if `check` has nothing against it.
    fn end(
        &mut self,
        change: impl FnOnce(&mut Record, Dot, Content),
        check: impl FnOnce(&Row) -> Result<(), MeshError>,
    ) -> Result<Dot, MeshError> {
        if let Some(ahead) = &mut self.ahead {
            ahead.finish();
        }
        let manifest = std::mem::take(&mut self.hashing).finish();
        let content = Content { id: manifest.id(), len: manifest.len() };
        if self.is_copy_of.is_some_and(|id| id != content.id) {
            return Err(MeshError::Rotten { path: self.name.path.clone() });
        }
        if let Some((_, _, staged)) = &self.staged {
            staged.seal(content.len, manifest.whole())?;
            self.shared.index.put_manifest(&manifest)?;
            if let Some(ahead) = &self.ahead {
                ahead.settle();
            }
        }
        let mut turn = Turn::of(&self.shared, &self.name)?;
        check(&turn.row)?;
        let (dot, _making) = self.shared.make()?;
        let mut record = turn.row.record.clone();
        change(&mut record, dot, content);
        record.put_place(&dot, self.place);
        let brought = match &self.staged {
            Some((_, staged_name, _)) => turn.bring(record, Some(staged_name.clone()), true),
            None => turn.bring_short(record, &self.short, true),
        };
        match brought {
            Err(error) if error.kind() != Kind::UnknownResult => Err(error),
            brought => {
                self.is_placed = true;
                brought.map(|()| dot)
            }
        }
    }

    /// Content that was short so far goes beside the tree.
    fn stage(&mut self) -> Result<Arc<dyn Staged>, MeshError> {
        if let Some((_, _, staged)) = &self.staged {
            return Ok(staged.clone());
        }
        let (held, staged_name, staged) = self.shared.stage_new(&*self.files)?;
        self.staged = Some((held, staged_name, staged.clone()));
        let short = std::mem::take(&mut self.short);
        staged.write_at(&short, 0)?;
        // a copy is where its content is
        if self.is_copy_of.is_none() {
            self.ahead = Sending::begin(&self.shared, &self.name, self.place);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.wrote(&short, None);
        }
        Ok(staged)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let Some((_, staged_name, _)) = &self.staged else { return };
        if !self.is_placed {
            // an app that was closed meanwhile has others now; what cannot be removed now is swept when it is open
            let files = self.shared.opened(&self.name.app).unwrap_or_else(|| self.files.clone());
            let _ = files.unstage(staged_name);
        }
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    /// New content, in hand, its name drawn.
    pub fn stage_new(&self, files: &dyn AppFiles) -> Result<(Held, String, Arc<dyn Staged>), MeshError> {
        let staged_name = format!("{:016x}{:016x}", self.chance.next_u64(), self.chance.next_u64());
        let held = self.in_hand.take(&staged_name);
        let staged = Arc::from(files.stage(&staged_name)?);
        Ok((held, staged_name, staged))
    }

    /// Begin to write a file.
    pub fn writing(self: &Arc<Self>, name: &Name) -> Result<Writing, MeshError> {
        let files = self.files(&name.app)?;
        let (shared, name) = (self.clone(), name.clone());
        let (short, early, hashing) = Default::default();
        let (staged, ahead, is_copy_of) = Default::default();
        let place = shared.place_for(&name, None, None);
        Ok(Writing { shared, files, name, short, staged, early, ahead, hashing, place, is_copy_of, is_placed: false })
    }

    /// Write a whole file, where the rules say.
    pub fn write(self: &Arc<Self>, name: &Name, bytes: &[u8]) -> Result<Dot, MeshError> {
        self.write_to(name, bytes, self.place_for(name, None, None))
    }

    /// Write a whole file, to lie there.
    pub fn write_to(self: &Arc<Self>, name: &Name, bytes: &[u8], place: Option<Place>) -> Result<Dot, MeshError> {
        let mut writing = self.writing(name)?;
        writing.place = place;
        writing.write(bytes)?;
        writing.commit()
    }

    /// Delete a file.
    pub fn delete(&self, name: &Name) -> Result<Dot, MeshError> {
        let mut turn = Turn::of(self, name)?;
        let shown = turn.row.record.winner().and_then(|winner| winner.content);
        shown.ok_or_else(|| MeshError::NotFound { path: name.path.clone() })?;
        let (dot, _making) = self.make()?;
        let mut record = turn.row.record.clone();
        record.write(dot, None);
        turn.bring(record, None, true)?;
        Ok(dot)
    }

    /// Let a file have, instead of all its versions, the content of one of them that is here.
    pub fn resolve(self: &Arc<Self>, name: &Name, chosen: Dot) -> Result<Dot, MeshError> {
        // a copy: whoever holds the chosen one may look for it there
        let mut writing = self.copying(name, Some(chosen), name)?;
        let resolve = |record: &mut Record, dot, content| record.resolve(dot, Some(content));
        writing.end(resolve, |row| match row.version(&chosen) {
            Some(_) => Ok(()),
            None => Err(MeshError::NotFound { path: name.path.clone() }),
        })
    }

    /// Give a file's content, which is here, to another name too. It travels to nobody who has it.
    pub fn copy(self: &Arc<Self>, from: &Name, to: &Name) -> Result<Dot, MeshError> {
        self.copying(from, None, to)?.commit()
    }

    /// Give a file another name: first it has both, then the one. Gives the versions that were made: of the new name,
    /// and of the former.
    pub fn rename(self: &Arc<Self>, from: &Name, to: &Name) -> Result<(Dot, Dot), MeshError> {
        if from == to {
            return Err(MeshError::Invalid("a file has that name already".into()));
        }
        let before = self.stat(from)?.version.dot;
        let made = self.copy(from, to)?;
        // what was written there meanwhile is not what was moved
        let mut turn = Turn::of(self, from)?;
        let shown = shown(&turn.row.record);
        if shown != Some(before) {
            return Err(MeshError::Changed { path: from.path.clone() });
        }
        let (dot, _making) = self.make()?;
        let mut record = turn.row.record.clone();
        record.write(dot, None);
        turn.bring(record, None, true)?;
        Ok((made, dot))
    }

    /// Begin to write `to` with the content of a version of `from`.
    fn copying(self: &Arc<Self>, from: &Name, chosen: Option<Dot>, to: &Name) -> Result<Writing, MeshError> {
        let reading = self.reading(from, chosen)?;
        let opened = reading.opened.as_ref();
        let opened = opened.ok_or_else(|| self.unreachable(from, &reading.row, &reading.version))?;
        let mut writing = self.writing(to)?;
        writing.is_copy_of = Some(reading.content.id);
        writing.place = reading.version.place.or(writing.place);
        let mut bytes = vec![0; CHUNK];
        loop {
            match opened.read_at(&mut bytes, writing.hashing.len())? {
                0 => return Ok(writing),
                len => writing.write(&bytes[..len])?,
            }
        }
    }

    /// What is known of a file, without its turn.
    pub fn stat(&self, name: &Name) -> Result<Stat, MeshError> {
        let row = self.row(name)?;
        let shown = row.record.winner().and_then(|version| version.content.map(|content| (version.clone(), content)));
        let (version, content) = shown.ok_or_else(|| MeshError::NotFound { path: name.path.clone() })?;
        let replicas = self.names_of(row.record.holders(version.dot));
        let is_here = row.has_content(&content.id);
        Ok(Stat { replicas, is_here, conflicts: row.record.losers().count(), version, content })
    }

    /// The versions of a file that nothing replaced, the one it shows first.
    pub fn versions(&self, name: &Name) -> Result<Vec<Version>, MeshError> {
        let record = self.row(name)?.record;
        let shown = record.winner().cloned().into_iter();
        let versions: Vec<Version> = shown.chain(record.losers().cloned()).collect();
        match versions.is_empty() {
            true => Err(MeshError::NotFound { path: name.path.clone() }),
            false => Ok(versions),
        }
    }

    /// Let go of former versions that are kept no more.
    pub fn forget_former(&self, name: &Name) -> Result<(), MeshError> {
        let mut turn = Turn::of(self, name)?;
        let record = turn.row.record.clone();
        turn.know(record)
    }

    /// The versions that were replaced and are kept here, the last first.
    pub fn former(&self, name: &Name) -> Result<Vec<Version>, MeshError> {
        Ok(self.row(name)?.former.iter().rev().map(Former::version).collect())
    }

    /// Names of an app at or below `prefix` that come after `after`, at most `limit`, only those with such records.
    pub fn list(
        &self,
        app: &AppName,
        (prefix, after): (Option<&RelPath>, Option<&RelPath>),
        limit: usize,
        only: impl Fn(&Record) -> bool,
    ) -> Result<Page, MeshError> {
        let of = |path: &RelPath| Name { app: app.clone(), path: path.clone() }.key();
        let all = [app.as_str().as_bytes(), b"\0"].concat();
        let first = prefix.map_or(all, &of);
        let after = after.map(of).filter(|after| *after >= first);
        let from = after.as_ref().map_or(Bound::Included(&first[..]), |after| Bound::Excluded(&after[..]));
        let mut page = Page::default();
        let mut failed = None;
        self.index.rows((from, Bound::Unbounded), &mut |key, row| {
            if !key.starts_with(&first) {
                return false;
            }
            match Name::of_key(key) {
                Ok(name) if prefix.is_none_or(|prefix| name.path.is_within(prefix)) => {
                    if only(&row.record) {
                        page.paths.push(name.path);
                    }
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            page.paths.len() <= limit && failed.is_none()
        })?;
        page.more = page.paths.len() > limit;
        page.paths.truncate(limit);
        failed.map_or(Ok(page), Err)
    }

    /// Nobody who says that it has a version can be asked now.
    pub fn unreachable(&self, name: &Name, row: &Row, version: &Version) -> MeshError {
        let holders = self.names_of(row.record.holders(version.dot)).join(" ");
        MeshError::Unreachable { path: name.path.clone(), holders }
    }

    /// The members' names of replicas that are known.
    pub fn names_of(&self, replicas: impl Iterator<Item = crate::ReplicaId>) -> Vec<String> {
        let cards = self.cards();
        let name = |replica| cards.iter().find(|card| card.replica == replica).map(|card| card.name.clone());
        replicas.filter_map(name).collect()
    }

    /// What is known of a file, as others are told it.
    pub fn record(&self, name: &Name) -> Result<Record, MeshError> {
        Ok(self.index.row(name)?.unwrap_or_default().record)
    }
}

/// The version that a record shows.
fn shown(record: &Record) -> Option<Dot> {
    record.winner().map(|winner| winner.dot)
}
