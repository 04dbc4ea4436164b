//! A name's turn: whoever has it is the only one who changes the file and what is known of it.
//!
//! A change is written to the index first (`pending`), then done to the file, then written as done. Invariant:
//! nobody is told of a change before the file is durable, and one that had begun is finished by the next turn,
//! also by that of another process; so after a crash file and index say the same, without a walk.

use crate::events::Seen;
use crate::in_hand::Held;
use crate::ranges::Digest;
use crate::record::{Content, Dot, Record, Version};
use crate::row::{aside, Here, Pending, Placed, Row};
use crate::shared::{Saving, Shared};
use crate::unsynced::SHORT_MAX;
use crate::{ContentId, Hashing, Manifest, MeshError, Name};
use macula_core::{AppFiles, AppFilesError, Expected, Kind, Look, Opened};
use macula_kv::Durability;
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Bytes that are read at once.
pub(crate) const CHUNK: usize = 1 << 20;

/// The turn of one name.
pub(crate) struct Turn<'a> {
    shared: &'a Shared,
    pub name: &'a Name,
    pub files: Arc<dyn AppFiles>,
    pub row: Row,
    /// The member from which a change comes: it is not told.
    pub from: Option<String>,
    /// What others were told of the row.
    told: Option<Digest>,
    /// What the index says lies under the name.
    placed: Option<ContentId>,
    /// What it stages or keeps.
    in_hand: Vec<Held>,
    /// What those know who listen.
    seen: Option<Seen>,
    _alone: MutexGuard<'a, ()>,
}

/// A short content on its way to its place.
pub(crate) struct Short<'c> {
    content: &'c [u8],
    dot: Dot,
    of: Content,
    /// As it was.
    before: Here,
    pending: Pending,
}

impl<'c> Short<'c> {
    /// What the index keeps until the file is synced.
    pub fn kept(&self) -> (Dot, &'c [u8]) {
        (self.dot, self.content)
    }
}

impl<'a> Turn<'a> {
    /// Wait for it. What had begun before is finished.
    pub fn of(shared: &'a Shared, name: &'a Name) -> Result<Self, MeshError> {
        let alone = shared.lock(name);
        let mut turn = Self::begin(shared, name, shared.files(&name.app)?, alone)?;
        turn.put_again(shared)?;
        if let Some(pending) = turn.row.here.pending.clone() {
            turn.go_on(pending)?;
        }
        Ok(turn)
    }

    /// The same, if nobody has it now, the app is open, and nothing had begun before.
    pub fn at_once(shared: &'a Shared, name: &'a Name) -> Result<Option<Self>, MeshError> {
        let (Some(alone), Some(files)) = (shared.try_lock(name), shared.opened(&name.app)) else { return Ok(None) };
        let turn = Self::begin(shared, name, files, alone)?;
        Ok(Some(turn).filter(|turn| turn.row.here.pending.is_none() && !shared.unsynced.is_former(name)))
    }

    fn begin(
        shared: &'a Shared,
        name: &'a Name,
        files: Arc<dyn AppFiles>,
        alone: MutexGuard<'a, ()>,
    ) -> Result<Self, MeshError> {
        shared.know_tree(&name.app, &*files);
        let row = shared.index.row(name)?.unwrap_or_default();
        let told = shared.digest(name, &row.record);
        let placed = content_of(&row);
        let (from, in_hand, seen) = (None, Vec::new(), Seen::of(shared, &row));
        Ok(Self { shared, name, files, row, from, told, placed, in_hand, seen, _alone: alone })
    }

    /// With what was begun and not ended, by a former process or a call that failed.
    fn go_on(&mut self, pending: Pending) -> Result<(), MeshError> {
        let is_deletion = pending.record.shown().is_none();
        let mut finished = self.finish_either(&pending, is_deletion)?;
        if finished.is_none() {
            let made = self.row.record.last_of(self.shared.own());
            self.adopt()?;
            // it was only touched, lost its time with the power, or is gone
            if self.row.record.last_of(self.shared.own()) == made {
                finished = self.finish_either(&pending, is_deletion)?;
            }
        }
        if let Some(look) = finished {
            return self.end(pending.record, look);
        }
        // what somebody else wrote is a version of its own, and comes first
        self.adopt()?;
        self.row.here.pending = None;
        let mut record = self.row.record.clone();
        // of a version that was made here and whose content power loss took, nobody was told
        if is_deletion || !pending.is_own {
            record.merge(&pending.record);
        }
        self.know(record)
    }

    /// Let the name show the winner of `record`, whose content is staged under that name, or kept, or none.
    ///
    /// # Errors
    /// [`Kind::UnknownResult`]: the next turn finishes it. Any other: nothing changed. [`Kind::Conflict`]: somebody else
    /// changed the file, unless it `is_own`; see [`Turn::adopt`].
    pub fn bring(&mut self, record: Record, staged: Option<String>, is_own: bool) -> Result<(), MeshError> {
        let before = self.row.here.clone();
        let keep = self.to_keep(&record);
        self.in_hand.extend(keep.map(|id| self.shared.in_hand.take(&aside(self.name, &id))));
        self.row.here.kept.extend(keep.filter(|id| !before.kept.contains(id)));
        let pending = Pending { record, staged, is_own };
        self.row.here.pending = Some(pending.clone());
        self.save(Durability::Sync)?;
        match self.change_file(&pending, keep) {
            Ok(look) => self.end(pending.record, look).map_err(unknown),
            Err(error) if error.kind == Kind::UnknownResult => Err(error.into()),
            Err(error) => {
                self.row.here = before;
                self.save(Durability::Sync).map_err(unknown)?;
                Err(error.into())
            }
        }
    }

    /// As [`Turn::bring`], of a short content that is not staged: it is durable in the index until the file is synced.
    pub fn bring_short(&mut self, record: Record, content: &[u8], is_own: bool) -> Result<(), MeshError> {
        let Some(short) = self.begin_short(&record, content, is_own) else {
            let staged = self.stage(content)?;
            return self.bring(record, Some(staged), is_own);
        };
        self.save_with(Durability::Sync, Some(short.kept()))?;
        self.put_short(&short)?;
        let saved = self.save(Durability::Async).map_err(unknown);
        self.put_is_known(&short);
        saved
    }

    /// The first step of that: the row says what is to be, and is to be written durably with that content. `None`: it is
    /// not for these steps.
    pub fn begin_short<'c>(&mut self, record: &Record, content: &'c [u8], is_own: bool) -> Option<Short<'c>> {
        let (dot, of) = record.winner().and_then(|winner| Some((winner.dot, winner.content?)))?;
        if content.len() > SHORT_MAX || self.to_keep(record).is_some() {
            return None;
        }
        let before = self.row.here.clone();
        let pending = Pending { record: record.clone(), staged: None, is_own };
        self.row.here.pending = Some(pending.clone());
        Some(Short { content, dot, of, before, pending })
    }

    /// The second: the file is put in its place, and the row is to be written once more, durable soon.
    ///
    /// # Errors
    /// As [`Turn::bring`]; the row is written then.
    pub fn put_short(&mut self, short: &Short<'_>) -> Result<(), MeshError> {
        let Short { content, of, pending, .. } = short;
        let put = self.files.put_unsynced(&self.name.path, content, &of.id.hash, self.expected(pending));
        match put {
            Ok(look) => self.ended(pending.record.clone(), Some(look)).map_err(unknown),
            Err(error) => {
                self.row.here = short.before.clone();
                self.save(Durability::Sync).map_err(unknown)?;
                self.put_is_known(short);
                Err(error.into())
            }
        }
    }

    /// The last: it is synced with others.
    pub fn put_is_known(&self, short: &Short<'_>) {
        self.shared.unsynced.add(self.name, short.dot, short.content.len());
    }

    /// Stage a whole content, sealed; under which name.
    fn stage(&mut self, content: &[u8]) -> Result<String, MeshError> {
        let id = ContentId::of_block(content);
        let staged_name = aside(self.name, &id);
        self.in_hand.push(self.shared.in_hand.take(&staged_name));
        let staged = self.files.stage(&staged_name)?;
        staged.write_at(content, 0)?;
        staged.seal(content.len() as u64, Some(&id.hash))?;
        Ok(staged_name)
    }

    /// Put the content of a version in its place once more, durably.
    pub(crate) fn place_again(&mut self, dot: Dot, of: Content, content: &[u8]) -> Result<(), MeshError> {
        let staged = self.stage(content)?;
        let look = self.files.put(&self.name.path, &staged, None, Expected::Anything)?;
        self.row.here.placed = Some(Placed::new(dot, of, look));
        self.save(Durability::Sync)
    }

    /// Put staged bytes in the place of a content that is here and whose bytes are not right; whether it was there.
    pub fn replace(&mut self, id: &ContentId, staged: &str) -> Result<bool, MeshError> {
        let Some(placed) = self.row.here.placed.filter(|placed| placed.content.id == *id) else {
            let is_kept = self.row.here.kept.contains(id);
            if is_kept {
                self.files.keep(staged, &aside(self.name, id))?;
            }
            return Ok(is_kept);
        };
        match self.files.put(&self.name.path, staged, None, Expected::File(placed.look())) {
            Ok(look) => self.row.here.placed = Some(Placed::new(placed.dot, placed.content, look)),
            // somebody else's change is found by a scan
            Err(error) if error.kind == Kind::Conflict => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.save(Durability::Sync)?;
        Ok(true)
    }

    /// Whether the file looks so and holds this.
    pub(crate) fn holds(&self, look: &Look, content: &[u8]) -> bool {
        self.begin_of(look, content.len() + 1).is_some_and(|bytes| bytes == content)
    }

    /// Whether the file looks so and can be what power loss left of this: it ends early, and holds zeros where nothing
    /// came to the disk.
    pub(crate) fn is_left_of(&self, look: &Look, content: &[u8]) -> bool {
        let is_of = |bytes: &[u8]| bytes.iter().zip(content).all(|(byte, whole)| [0, *whole].contains(byte));
        self.begin_of(look, content.len() + 1).is_some_and(|bytes| bytes.len() <= content.len() && is_of(&bytes))
    }

    /// The first bytes of the file, if it looks so.
    fn begin_of(&self, look: &Look, len: usize) -> Option<Vec<u8>> {
        let opened = self.files.open(&self.name.path).ok().filter(|opened| opened.look() == *look)?;
        let mut bytes = vec![0; len];
        let read = opened.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(read);
        Some(bytes)
    }

    /// Know this from now on; the file stays as it is.
    pub fn know(&mut self, record: Record) -> Result<(), MeshError> {
        let durability = self.begin_know(record)?;
        self.save(durability)
    }

    /// The same, and the row is to be written, so durably.
    pub fn begin_know(&mut self, record: Record) -> Result<Durability, MeshError> {
        // who else has what is known is told again by whoever it is
        let is_news = record.versions() != self.row.record.versions();
        self.replace_record(record, None);
        self.claim()?;
        Ok(if is_news { Durability::Sync } else { Durability::Async })
    }

    /// What somebody else did to the file is a version of its own; whether there was one. What vanished is not
    /// taken for a deletion here.
    pub fn adopt(&mut self) -> Result<bool, MeshError> {
        let (placed, look) = (self.row.here.placed, self.files.look(&self.name.path)?);
        let Some(look) = look else {
            if placed.is_some() {
                self.row.here.placed = None;
                self.claim()?;
                self.save(Durability::Sync)?;
            }
            return Ok(placed.is_some());
        };
        if placed.is_some_and(|placed| placed.is(&look)) {
            return Ok(false);
        }
        let Some((content, look)) = self.hash(look)? else { return Ok(false) };
        if let Some(placed) = placed.filter(|placed| placed.content == content) {
            // it was touched, or lost its time with the power
            self.row.here.placed = Some(Placed::new(placed.dot, content, look));
            self.save(Durability::Async)?;
            return Ok(true);
        }
        // one that is known already came by another way
        let known = self.row.record.versions().iter().find(|version| version.content == Some(content));
        if let Some(dot) = known.map(|version| version.dot) {
            self.row.here.placed = Some(Placed::new(dot, content, look));
            self.claim()?;
            self.save(Durability::Sync)?;
            return Ok(true);
        }
        let (dot, _making) = self.shared.make()?;
        let base = placed.and_then(|placed| self.row.record.version(&placed.dot)).and_then(|base| base.place);
        self.row.record.edit(dot, Some(content), placed.map(|placed| placed.dot));
        self.row.record.put_place(&dot, base.or_else(|| self.shared.place_for(self.name, None, None)));
        self.row.here.placed = Some(Placed::new(dot, content, look));
        self.claim()?;
        self.save(Durability::Sync)?;
        Ok(true)
    }

    /// See whether what the row says is here is here. A restore takes what was kept away, other programs what they like.
    pub fn check(&mut self) -> Result<(), MeshError> {
        self.adopt()?;
        let kept = self.row.here.kept.clone();
        self.row.here.kept.retain(|id| self.files.open_kept(&aside(self.name, id)).is_ok());
        if self.row.here.kept != kept {
            let Row { here, former, .. } = &mut self.row;
            former.retain(|of| here.kept.contains(&of.content.id));
            self.claim()?;
            self.save(Durability::Sync)?;
        }
        Ok(())
    }

    /// Whether a content lies kept beside the file, whole.
    pub fn is_kept(&self, content: &Content) -> Result<bool, MeshError> {
        let Ok(opened) = self.files.open_kept(&aside(self.name, &content.id)) else { return Ok(false) };
        let manifest = hash_of(&*opened)?;
        let is_it = manifest.id() == content.id;
        if is_it {
            self.shared.index.put_manifest(&manifest)?;
        }
        Ok(is_it)
    }

    /// Open a content of this name that is here.
    pub fn open(&self, id: &ContentId) -> Result<Option<Box<dyn Opened>>, MeshError> {
        open_here(&*self.files, self.name, &self.row, id)
    }

    /// Say to everybody what is here now.
    pub fn claim(&mut self) -> Result<(), MeshError> {
        let had = self.row.had();
        let stamp = self.shared.stamp()?;
        self.row.record.claim(self.shared.own(), stamp, had);
        Ok(())
    }

    /// Write the row.
    pub fn save(&mut self, durability: Durability) -> Result<(), MeshError> {
        self.save_with(durability, None)
    }

    fn save_with(&mut self, durability: Durability, short: Option<(Dot, &[u8])>) -> Result<(), MeshError> {
        let now = self.shared.save(&[self.saving(short)], durability)?;
        self.saved(now.first().copied().flatten());
        Ok(())
    }

    /// The row, to be written by whoever writes several.
    pub fn saving<'s>(&'s self, short: Option<(Dot, &'s [u8])>) -> Saving<'s> {
        let Self { name, ref row, told, placed, .. } = *self;
        Saving { name, row, told, placed_before: placed, short }
    }

    /// It was, and this is what others are told of it.
    pub fn saved(&mut self, now: Option<Digest>) {
        let told = std::mem::replace(&mut self.told, now);
        self.placed = content_of(&self.row);
        if self.told != told {
            self.shared.peers.tell(self.name, self.from.as_deref());
        }
        if let (None, Some(seen)) = (&self.row.here.pending, &self.seen) {
            seen.tell(self.shared, self.name, &self.row);
            self.seen = Seen::of(self.shared, &self.row);
        }
    }

    fn looks_as(&self, placed: &Placed) -> bool {
        self.files.look(&self.name.path).is_ok_and(|look| look == Some(placed.look()))
    }

    /// The content under the name, if another version that is left has it, or it becomes a former one that is kept.
    fn to_keep(&self, record: &Record) -> Option<ContentId> {
        let placed = self.row.here.placed?;
        let old = placed.content.id;
        record.winner().filter(|winner| winner.content.is_none_or(|content| content.id != old))?;
        let is_left = |version: &Version| version.content.is_some_and(|content| content.id == old);
        // what another program put in its place is no former version of anybody's; who goes on with a change keeps what was
        // to be kept
        let is_there = || self.row.here.kept.contains(&old) || self.looks_as(&placed);
        let is_former = || self.shared.keeps(self.name, record) > 0 && is_there();
        (record.versions().iter().any(is_left) || is_former()).then_some(old)
    }

    fn change_file(&self, to: &Pending, keep: Option<ContentId>) -> Result<Option<Look>, AppFilesError> {
        let keep = keep.map(|id| aside(self.name, &id));
        let (path, keep) = (&self.name.path, keep.as_deref());
        let expected = self.expected(to);
        let content = to.record.winner().and_then(|winner| winner.content);
        match (content, &to.staged) {
            (Some(_), Some(staged)) => self.files.put(path, staged, keep, expected).map(Some),
            (Some(content), None) => {
                self.files.put_kept(path, &aside(self.name, &content.id), keep, expected).map(Some)
            }
            (None, _) => match self.files.remove(path, keep, expected) {
                // a directory is no file, and not ours to remove
                Err(error) if matches!(error.kind, Kind::NotFound | Kind::Invalid) => Ok(None),
                removed => removed.map(|()| None),
            },
        }
    }

    /// What a change may replace.
    fn expected(&self, to: &Pending) -> Expected {
        match self.row.here.placed {
            _ if to.is_own => Expected::Anything,
            Some(placed) => Expected::File(placed.look()),
            None => Expected::Nothing,
        }
    }

    fn finish_either(&mut self, pending: &Pending, is_deletion: bool) -> Result<Option<Option<Look>>, MeshError> {
        let finished = if is_deletion { self.finish_deletion(pending) } else { self.finish(pending) };
        match finished {
            // somebody else changed the file meanwhile
            Err(MeshError::Files(error)) if error.kind == Kind::Conflict => Ok(None),
            finished => finished,
        }
    }

    /// How the file looks when what was left undone is done; nothing when it cannot be.
    fn finish(&mut self, pending: &Pending) -> Result<Option<Option<Look>>, MeshError> {
        match self.change_file(pending, self.to_keep(&pending.record)) {
            // what is to be kept is looked at before what comes in its place: done, it is not there any more either
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Conflict) => {}
            changed => return Ok(Some(changed?)),
        }
        if let Some(dot) = pending.record.winner().map(|winner| winner.dot) {
            if let Some(content) = self.shared.index.short(self.name, &dot)? {
                let staged = self.stage(&content)?;
                self.shared.unsynced.add(self.name, dot, content.len());
                // what was in place already, and is not whole, nobody else put there
                let look = self.files.look(&self.name.path)?;
                let left = look.filter(|look| self.is_left_of(look, &content)).map(Expected::File);
                let expected = left.unwrap_or_else(|| self.expected(pending));
                return Ok(Some(Some(self.files.put(&self.name.path, &staged, None, expected)?)));
            }
        }
        // it is in its place, unless the power took it, or somebody else changed it since
        let content = pending.record.winner().and_then(|winner| winner.content);
        let found = self.files.look(&self.name.path)?;
        match found.map(|look| self.hash(look)).transpose()?.flatten() {
            Some((found, look)) if Some(found) == content => {
                // who was killed may not have come to that
                self.files.settle(&self.name.path)?;
                Ok(Some(Some(look)))
            }
            _ => Ok(None),
        }
    }

    /// The same of a deletion: not of what somebody wrote since.
    fn finish_deletion(&mut self, pending: &Pending) -> Result<Option<Option<Look>>, MeshError> {
        let old = content_of(&self.row);
        if self.files.look(&self.name.path)?.is_none() {
            self.files.settle(&self.name.path)?;
            return Ok(Some(None));
        }
        self.adopt()?;
        match content_of(&self.row) == old {
            true => Ok(Some(self.change_file(pending, self.to_keep(&pending.record))?)),
            false => Ok(None),
        }
    }

    /// The change is done.
    fn end(&mut self, record: Record, look: Option<Look>) -> Result<(), MeshError> {
        self.ended(record, look)?;
        // the pending row is durable, and says the same
        self.save(Durability::Async)
    }

    /// The same, and the row is to be written.
    fn ended(&mut self, record: Record, look: Option<Look>) -> Result<(), MeshError> {
        self.row.here.pending = None;
        let before = self.row.here.placed;
        let winner = record.winner().map(|winner| (winner.dot, winner.content));
        self.row.here.placed = match (winner, look) {
            (Some((dot, Some(content))), Some(look)) => Some(Placed::new(dot, content, look)),
            _ => None,
        };
        self.replace_record(record, before);
        self.claim()
    }

    fn replace_record(&mut self, record: Record, placed: Option<Placed>) {
        let count = self.shared.keeps(self.name, &record);
        let (files, name) = (&self.files, self.name);
        // who went on after a power loss may not have found it any more
        self.row.retire(&record, placed, count, |id| files.open_kept(&aside(name, id)).is_ok());
        self.row.record = record;
        self.drop_kept();
    }

    /// Let go of contents that nothing speaks of any more. What stays by a crash is found by the sweep.
    fn drop_kept(&mut self) {
        let Row { record, here, former } = &mut self.row;
        let of_versions = record.versions().iter().filter_map(|version| version.content);
        // what is in its place lies there once, also when it came by another way, or never went
        let is_placed = |id: &ContentId| here.placed.is_some_and(|placed| placed.content.id == *id);
        let used = of_versions.chain(former.iter().map(|of| of.content)).map(|of| of.id);
        let used: Vec<ContentId> = used.filter(|id| !is_placed(id)).collect();
        let (kept, dropped) = here.kept.iter().partition(|id| used.contains(id));
        here.kept = kept;
        let dropped: Vec<ContentId> = dropped;
        for id in dropped {
            let _ = self.files.unkeep(&aside(self.name, &id));
        }
    }

    /// What the file holds now, and how it looked; nothing when it changed meanwhile.
    fn hash(&self, look: Look) -> Result<Option<(Content, Look)>, MeshError> {
        let opened = match self.files.open(&self.name.path) {
            Err(error) if error.kind == Kind::NotFound => return Ok(None),
            opened => opened?,
        };
        let manifest = hash_of(&*opened)?;
        if opened.look() != look || self.files.look(&self.name.path)? != Some(look) || manifest.len() != look.len {
            return Ok(None);
        }
        self.shared.index.put_manifest(&manifest)?;
        Ok(Some((Content { id: manifest.id(), len: look.len }, look)))
    }
}

/// A pending change is in the index, and could not be written as done, or as undone: the next turn finishes it.
pub(crate) fn unknown(error: MeshError) -> MeshError {
    let message = format!("whether the file was changed is seen when the index can be written: {error}");
    AppFilesError { kind: Kind::UnknownResult, message }.into()
}

/// The blocks of what was opened.
fn hash_of(opened: &dyn Opened) -> Result<Manifest, MeshError> {
    let (mut hashing, mut bytes) = (Hashing::default(), vec![0; CHUNK]);
    loop {
        match opened.read_at(&mut bytes, hashing.len())? {
            0 => return Ok(hashing.finish()),
            len => hashing.update(&bytes[..len]),
        }
    }
}

fn content_of(row: &Row) -> Option<ContentId> {
    row.here.placed.map(|placed| placed.content.id)
}

/// Open a content that a row says is here. `None`: it is not, or is no longer what it was.
pub(crate) fn open_here(
    files: &dyn AppFiles,
    name: &Name,
    row: &Row,
    id: &ContentId,
) -> Result<Option<Box<dyn Opened>>, MeshError> {
    let opened = match row.here.placed.filter(|placed| placed.content.id == *id) {
        Some(placed) => files.open(&name.path).map(|opened| Some(opened).filter(|opened| placed.is(&opened.look()))),
        None if row.here.kept.contains(id) => files.open_kept(&aside(name, id)).map(Some),
        None => Ok(None),
    };
    match opened {
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        opened => Ok(opened?),
    }
}
