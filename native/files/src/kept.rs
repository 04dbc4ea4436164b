//! Content kept in `.macula/kept` under a name of its own when a file is replaced or removed.
//!
//! Invariant: what a change takes away is durable under its kept name before the change begins, so
//! after a power loss it is under one of the two. The syncs that this takes come before the lock of
//! names; under it the change looks again whether it takes away what is kept, and is refused if not.
//! Content of one kept name is the same, whoever keeps it: what is there is left as it is.

use crate::aside::{copy_content, is_refusal};
use crate::files::Files;
use crate::inner::{is_same, place_of, Inner, Names, Owed, KEPT, STAGED};
use crate::reader::look_of;
use crate::staged::{content_at, content_names};
use crate::temporary::Temporary;
use crate::{FilesError, Reader};
use macula_core::{Expected, FileKind, Look, Open, Part, RelPath, Stat};
use std::io;
use std::sync::Arc;

/// A kept name that changes under way count on.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    users: usize,
    /// One of them made it, and none has come about yet.
    fresh: bool,
}

/// What one change takes away, kept. Taken back when it is dropped before [`Held::lasts`], unless
/// another change counts on it.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    inner: &'a Arc<Inner>,
    at: RelPath,
    /// How the file looked that is kept; `None`: there was none.
    old: Option<Look>,
    /// Inode number of what is kept.
    ino: u64,
}

/// What must be so when a change comes about, under the lock of names.
#[derive(Debug)]
pub(crate) struct Terms<'a> {
    expected: Expected,
    held: Option<Held<'a>>,
}

impl Terms<'_> {
    pub fn none() -> Self {
        Self { expected: Expected::Anything, held: None }
    }

    /// Refuses when `old`, which is about to lose the name `path`, is not what the caller takes it for, or
    /// not what is kept.
    pub fn check(&self, path: &RelPath, old: Option<&Stat>) -> Result<(), FilesError> {
        check_expected(self.expected, path, old)?;
        self.held.as_ref().map_or(Ok(()), |held| held.check(path, old))
    }
}

fn check_expected(expected: Expected, path: &RelPath, old: Option<&Stat>) -> Result<(), FilesError> {
    let is_so = match expected {
        Expected::Anything => true,
        Expected::Nothing => old.is_none(),
        Expected::File(look) => old.is_some_and(|old| old.kind == FileKind::File && look_of(old) == look),
    };
    if is_so {
        return Ok(());
    }
    Err(FilesError::Changed { path: path.clone() })
}

/// An error of keeping what is at `path`: what vanishes meanwhile was changed, not missing.
fn failed<'a>(op: &'static str, path: &'a RelPath) -> impl Fn(io::Error) -> FilesError + 'a {
    move |error| match FilesError::of(op, path, error) {
        FilesError::NotFound { .. } => FilesError::Changed { path: path.clone() },
        error => error,
    }
}

impl<'a> Held<'a> {
    /// Keep the regular file at `path`, if there is one. `arriving`: where the file lies that comes in
    /// its place.
    fn new(
        inner: &'a Arc<Inner>,
        path: &RelPath,
        at: RelPath,
        arriving: Option<&RelPath>,
        expected: Expected,
    ) -> Result<Self, FilesError> {
        let pass = inner.gate.pass();
        inner.check_usable()?;
        let mut held = Self { inner, at, old: None, ino: 0 };
        let mut names = inner.names();
        // what else is in the way is told by the change itself
        let found = inner.look_at_target(path).ok().flatten();
        let Some(old) = found.filter(|stat| stat.kind == FileKind::File) else { return Ok(held) };
        // already here: by the next process, were we killed, the other content is taken for what it is named
        check_expected(expected, path, Some(&old))?;
        held.old = Some(look_of(&old));
        names.claims.entry(held.at.clone()).or_default().users += 1;
        let is_there = held.link(&mut names, path, &old, arriving)?;
        drop(names);
        drop(pass);
        if !is_there {
            held.copy(path, &old)?;
        }
        held.sync(path)?;
        Ok(held)
    }

    /// Give the file its kept name, unless content has it; false: a copy is needed.
    fn link(
        &self,
        names: &mut Names,
        path: &RelPath,
        old: &Stat,
        arriving: Option<&RelPath>,
    ) -> Result<bool, FilesError> {
        let (data, dir) = (&self.inner.data, self.at.parent());
        self.inner.make_dirs(names, &self.at, &dir)?;
        if data.stat(&self.at).is_ok() {
            return Ok(true);
        }
        // it will still be there, and who writes to it there must not write to what is kept
        if arriving.is_some_and(|arriving| data.stat(arriving).is_ok_and(|stat| is_same(&stat, old))) {
            return Ok(false);
        }
        let from = place_of(path)?;
        match self.inner.growing(&dir, || data.hard_link(&from, &self.at)) {
            Err(error) if is_refusal(&error) => return Ok(false),
            linked => linked.map_err(failed("keep", path))?,
        }
        self.made(names);
        Ok(true)
    }

    /// Whole and durable before it has the kept name: by the next process it is taken for what it is
    /// named.
    fn copy(&self, path: &RelPath, old: &Stat) -> Result<(), FilesError> {
        let failed = failed("copy what is to be kept", path);
        let mut copy = Temporary::new(self.inner.clone()).map_err(&failed)?;
        let source = self.inner.data.open(&place_of(path)?, Open::Read).map_err(&failed)?;
        copy.grew(copy_content(&*source, &*copy.file, old).map_err(&failed)?);
        copy.file.sync_data().map_err(&failed)?;
        if look_of(&source.stat().map_err(&failed)?) != look_of(old) {
            return Err(FilesError::Changed { path: path.clone() });
        }
        let mut names = self.inner.names();
        if self.inner.data.stat(&self.at).is_err() {
            let copied = copy.file.stat().map_err(&failed)?;
            self.inner.move_file(&copy.at, &copied, &self.at, None).map_err(&failed)?;
            copy.named();
            self.made(&mut names);
        }
        Ok(())
    }

    fn made(&self, names: &mut Names) {
        names.claims.entry(self.at.clone()).or_default().fresh = true;
    }

    fn sync(&mut self, path: &RelPath) -> Result<(), FilesError> {
        let failed = failed("sync what is kept", path);
        let file = self.inner.data.open(&self.at, Open::Read).map_err(&failed)?;
        // another program may have written it, and who made its name may have been killed
        file.sync_data().map_err(&failed)?;
        self.ino = file.stat().map_err(&failed)?.ino;
        let owed = self.inner.owe(&self.inner.names(), [self.at.parent()]);
        self.inner.sync(owed).map_err(&failed)
    }

    /// Refuses when `old`, which is about to lose the name `path`, is not what is kept.
    pub fn check(&self, path: &RelPath, old: Option<&Stat>) -> Result<(), FilesError> {
        let old = old.filter(|stat| stat.kind == FileKind::File).map(look_of);
        let is_there = || self.inner.data.stat(&self.at).is_ok_and(|stat| stat.ino == self.ino);
        if old == self.old && (old.is_none() || is_there()) {
            return Ok(());
        }
        Err(FilesError::Changed { path: path.clone() })
    }

    /// The change has come about.
    fn lasts(self) {
        // dropping takes the lock too
        let mut names = self.inner.names();
        if let Some(claim) = names.claims.get_mut(&self.at) {
            claim.fresh = false;
        }
        drop(names);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.old.is_none() {
            return;
        }
        let mut names = self.inner.names();
        let Some(claim) = names.claims.get_mut(&self.at) else { return };
        claim.users -= 1;
        if claim.users == 0 && names.claims.remove(&self.at).is_some_and(|claim| claim.fresh) {
            // what cannot be removed now is found among what is kept
            let _ = self.inner.remove_beside(&names, &self.at, None);
        }
    }
}

impl Inner {
    /// Run `change`, which takes away what is at `path`, when that is kept under `keep`. It is handed what must
    /// be so.
    pub(crate) fn keeping<T>(
        self: &Arc<Self>,
        path: &RelPath,
        keep: Option<&str>,
        arriving: Option<&RelPath>,
        expected: Expected,
        change: impl FnOnce(&Terms) -> Result<T, FilesError>,
    ) -> Result<T, FilesError> {
        let keep = keep.map(|keep| content_at(KEPT, keep)).transpose()?;
        let held = keep.map(|at| Held::new(self, path, at, arriving, expected)).transpose()?;
        let terms = Terms { expected, held };
        let changed = change(&terms)?;
        if let Some(held) = terms.held {
            held.lasts();
        }
        Ok(changed)
    }

    /// Rename sealed staged content to a kept name.
    fn keep(&self, staged: &RelPath, at: &RelPath) -> Result<Owed, FilesError> {
        let of = |error| FilesError::of("keep", staged, error);
        let _pass = self.gate.pass();
        self.check_usable()?;
        let mut names = self.names();
        names.check_sealed(staged)?;
        let moved = self.data.stat(staged).map_err(of)?;
        self.make_dirs(&mut names, at, &at.parent())?;
        let replaced = self.data.stat(at).ok();
        self.move_file(staged, &moved, at, replaced.as_ref()).map_err(of)?;
        if let Some(replaced) = replaced.filter(|replaced| replaced.nlink == 1) {
            self.ledger.add(Part::Other, -(replaced.len as i64));
        }
        if let Some(claim) = names.claims.get_mut(at) {
            claim.fresh = false;
        }
        names.end_staged(staged);
        Ok(self.owe(&names, [at.parent()]))
    }
}

impl Files {
    /// As [`Files::put`], of content of ours that lies at `source`.
    pub(crate) fn put_from(
        &self,
        source: &RelPath,
        path: &RelPath,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, FilesError> {
        let inner = &self.0;
        let place = |terms: &Terms| inner.place((source, None), path, terms);
        let (owed, stat) = inner.keeping(path, keep, Some(source), expected, place)?;
        inner.settle(owed, path)?;
        Ok(look_of(&stat))
    }

    /// As [`Files::put`], of kept content, which loses its kept name.
    ///
    /// # Errors
    /// [`FilesError::BadContentName`] also when `keep` is that name.
    pub fn put_kept(
        &self,
        path: &RelPath,
        kept: &str,
        keep: Option<&str>,
        expected: Expected,
    ) -> Result<Look, FilesError> {
        let source = content_at(KEPT, kept)?;
        if keep == Some(kept) {
            return Err(FilesError::BadContentName { reason: "of what is to be put", name: kept.to_owned() });
        }
        self.put_from(&source, path, keep, expected)
    }

    /// Remove a file and the directories that become empty, keeping its content under `keep`. Errors as
    /// [`Files::put`]; [`FilesError::NotFound`] when nothing is there, whatever is expected.
    pub fn remove(&self, path: &RelPath, keep: Option<&str>, expected: Expected) -> Result<(), FilesError> {
        let owed = self.0.keeping(path, keep, None, expected, |terms| self.0.remove(path, terms))?;
        self.0.settle(owed, path)
    }

    /// Give a file another name in one step, keeping the file that has it under `keep`; gives how the
    /// file looks now. Errors as [`Files::put`].
    pub fn rename_keeping(&self, from: &RelPath, to: &RelPath, keep: Option<&str>) -> Result<Look, FilesError> {
        let arriving = place_of(from)?;
        let keep = keep.filter(|_| from != to);
        let rename = |terms: &Terms| self.0.rename(from, to, terms);
        let (owed, stat) = self.0.keeping(to, keep, Some(&arriving), Expected::Anything, rename)?;
        owed.map_or(Ok(()), |owed| self.0.settle(owed, from))?;
        Ok(look_of(&stat))
    }

    /// Keep sealed staged content, in the place of what is kept under that name. `Ok`: durable;
    /// errors as [`Files::put`].
    pub fn keep(&self, staged: &str, kept: &str) -> Result<(), FilesError> {
        let at = content_at(KEPT, kept)?;
        let owed = self.0.keep(&content_at(STAGED, staged)?, &at)?;
        self.0.settle(owed, &at)
    }

    /// Open kept content for reading.
    pub fn open_kept(&self, kept: &str) -> Result<Reader, FilesError> {
        let at = content_at(KEPT, kept)?;
        let file = self.0.data.open(&at, Open::Read).map_err(|e| FilesError::of("open", &at, e))?;
        Reader::new(file, at)
    }

    /// Remove kept content; nothing there is fine. Not synced.
    pub fn unkeep(&self, kept: &str) -> Result<(), FilesError> {
        let at = content_at(KEPT, kept)?;
        let _pass = self.0.gate.pass();
        self.0.check_usable()?;
        let removed = self.0.remove_beside(&self.0.names(), &at, None);
        removed.map_err(|e| FilesError::of("remove", &at, e))
    }

    /// Names of kept content, in byte order.
    pub fn kept(&self) -> Result<Vec<String>, FilesError> {
        content_names(&*self.0.data, KEPT)
    }
}
