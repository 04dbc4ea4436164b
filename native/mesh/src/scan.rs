//! What other programs did to an app's files: put there, changed, removed.
//!
//! A walk that compares how files look with what was put there; only what looks different is read. Invariant: what is
//! missing is a deletion only in the very directory into which it was put, as long as little is missing, and something
//! else is still there. Otherwise a directory vanished, a disk was not mounted, an index is of other files: then the
//! files are lost here, and come back from others.

use crate::row::Row;
use crate::shared::Shared;
use crate::turn::Turn;
use crate::{MeshError, Name};
use macula_core::{AppFiles, AppName, Cancel, Look, RelPath};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Files looked at at once.
const PAGE: usize = 1_000;
/// Of the files that were here, so many may be missing as deleted: one of four, and one of two or three.
pub(crate) const MISSING_OF: u64 = 4;

/// What a scan found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Files that were here before.
    pub known: u64,
    /// New ones, which are replicated from now on.
    pub found: u64,
    /// Changed ones: each has a new version.
    pub changed: u64,
    /// Missing ones that were taken for deleted.
    pub deleted: u64,
    /// Missing ones that are fetched from others.
    pub lost: u64,
}

/// What a page of files says.
pub(crate) enum Told {
    Known,
    Found,
    Changed,
}

impl Shared {
    /// Look through the files of an app. With `deletions`, all that is missing was deleted, however much it is.
    pub fn scan(&self, app: &AppName, deletions: bool, cancel: &Cancel) -> Result<Scanned, MeshError> {
        let files = self.files(app)?;
        let is_same = self.is_same_tree(app, &*files)?;
        // remembered when all that is missing in it is known to be
        let renewed = if is_same { None } else { self.mark_tree(&*files).ok() };
        let (mut scanned, mut missing) = (Scanned::default(), Vec::new());
        let mut after: Option<RelPath> = None;
        loop {
            let page = files.page(after.as_ref(), PAGE)?;
            let last = page.files.last().map(|(path, _)| path.clone()).filter(|_| page.more);
            let mut there: BTreeMap<RelPath, Look> = page.files.into_iter().collect();
            for (path, row) in self.rows_between(app, after.as_ref(), last.as_ref())? {
                let found = there.remove(&path);
                let placed = row.here.placed;
                scanned.known += u64::from(placed.is_some());
                if !is_same && !row.here.kept.is_empty() {
                    // what was kept beside them is gone, too
                    Turn::of(self, &Name { app: app.clone(), path: path.clone() })?.check()?;
                }
                match (placed, found) {
                    (Some(placed), Some(look)) if placed.is(&look) => {}
                    (_, Some(look)) => self.look_at(app, &path, &*files, Some(&row), look, &mut scanned)?,
                    (Some(_), None) => missing.push(path),
                    (None, None) => {}
                }
            }
            for (path, look) in there {
                self.look_at(app, &path, &*files, None, look, &mut scanned)?;
            }
            match last {
                Some(last) if !cancel.is_cancelled() => after = Some(last),
                Some(_) => return Err(MeshError::Cancelled),
                None => break,
            }
        }
        self.adopt_moved(app, &*files, &missing, &mut scanned)?;
        let is_same = is_same && self.is_same_tree(app, &*files)?;
        let are_deleted = deletions || (is_same && is_little(missing.len() as u64, scanned.known));
        for path in missing {
            self.end_missing(&Name { app: app.clone(), path }, are_deleted, &mut scanned)?;
        }
        renewed.map_or(Ok(()), |mark| self.index.put_tree(app, &mark))?;
        Ok(scanned)
    }

    fn rows_between(
        &self,
        app: &AppName,
        after: Option<&RelPath>,
        last: Option<&RelPath>,
    ) -> Result<Vec<(RelPath, Row)>, MeshError> {
        let key = |path: &RelPath| Name { app: app.clone(), path: path.clone() }.key();
        let all = [app.as_str().as_bytes(), b"\0"].concat();
        // the key behind all of the app's
        let end = [app.as_str().as_bytes(), b"\x01"].concat();
        let (after, last) = (after.map(&key), last.map(&key));
        let from = after.as_ref().map_or(Bound::Included(&all[..]), |after| Bound::Excluded(&after[..]));
        let to = last.as_ref().map_or(Bound::Excluded(&end[..]), |last| Bound::Included(&last[..]));
        let rows = self.index.page((from, to), usize::MAX)?;
        Ok(rows.into_iter().map(|(name, row)| (name.path, row)).collect())
    }

    pub(crate) fn look_at(
        &self,
        app: &AppName,
        path: &RelPath,
        files: &dyn AppFiles,
        row: Option<&Row>,
        look: Look,
        scanned: &mut Scanned,
    ) -> Result<(), MeshError> {
        // what an app wrote by itself, not to be replicated, carries our digest and is in no index
        let is_own = || files.open(path).is_ok_and(|opened| opened.look() == look && opened.blake3().is_some());
        if row.is_none() && is_own() {
            return Ok(());
        }
        let name = Name { app: app.clone(), path: path.clone() };
        match self.adopt(&name)? {
            Told::Known => {}
            Told::Found => scanned.found += 1,
            Told::Changed => scanned.changed += 1,
        }
        Ok(())
    }

    /// A file that was given another name carries our digest still, and is no app's own.
    fn adopt_moved(
        &self,
        app: &AppName,
        files: &dyn AppFiles,
        missing: &[RelPath],
        scanned: &mut Scanned,
    ) -> Result<(), MeshError> {
        let names = missing.iter().map(|path| Name { app: app.clone(), path: path.clone() });
        let (moved, mut after) = (self.looks_of(names)?, None);
        while !moved.is_empty() {
            let page = files.page(after.as_ref(), PAGE)?;
            for (path, look) in &page.files {
                let name = Name { app: app.clone(), path: path.clone() };
                if moved.get(&look.ino) == Some(look) && self.index.row(&name)?.is_none() {
                    self.adopt(&name)?;
                    scanned.found += 1;
                }
            }
            match page.files.into_iter().last().filter(|_| page.more) {
                Some((path, _)) => after = Some(path),
                None => break,
            }
        }
        Ok(())
    }

    /// How files looked that were put there, by their inodes.
    pub(crate) fn looks_of(&self, names: impl Iterator<Item = Name>) -> Result<BTreeMap<u64, Look>, MeshError> {
        let mut looks = BTreeMap::new();
        for name in names {
            if let Some(placed) = self.index.row(&name)?.and_then(|row| row.here.placed) {
                looks.insert(placed.ino, placed.look());
            }
        }
        Ok(looks)
    }

    pub(crate) fn adopt(&self, name: &Name) -> Result<Told, MeshError> {
        let mut turn = Turn::of(self, name)?;
        let (before, had) = (turn.row.record.last_of(self.own()), turn.row.here.placed.is_some());
        turn.adopt()?;
        Ok(match turn.row.record.last_of(self.own()) != before {
            true if had => Told::Changed,
            true => Told::Found,
            false => Told::Known,
        })
    }

    pub(crate) fn end_missing(&self, name: &Name, is_deleted: bool, scanned: &mut Scanned) -> Result<(), MeshError> {
        let mut turn = Turn::of(self, name)?;
        if turn.row.here.placed.is_none() || turn.files.look(&name.path)?.is_some() {
            return Ok(());
        }
        let is_shown =
            turn.row.record.winner().map(|winner| winner.dot) == turn.row.here.placed.map(|placed| placed.dot);
        if is_deleted && is_shown {
            let (dot, _making) = self.make()?;
            let mut record = turn.row.record.clone();
            record.write(dot, None);
            turn.bring(record, None, true)?;
            scanned.deleted += 1;
        } else {
            // and wanted, if this replica shall have it
            turn.adopt()?;
            scanned.lost += 1;
        }
        Ok(())
    }

    /// The apps of which something is known.
    pub fn apps(&self) -> Result<Vec<AppName>, MeshError> {
        let (mut apps, mut from) = (Vec::new(), Vec::new());
        loop {
            let first = self.index.page((Bound::Included(&from[..]), Bound::Unbounded), 1)?;
            let Some((name, _)) = first.into_iter().next() else { return Ok(apps) };
            from = [name.app.as_str().as_bytes(), b"\x01"].concat();
            apps.push(name.app);
        }
    }
}

/// Whether so much may have been deleted one by one.
pub(crate) fn is_little(missing: u64, known: u64) -> bool {
    missing < known && missing <= (known / MISSING_OF).max(1)
}

#[cfg(test)]
mod tests {
    use super::is_little;

    #[test]
    fn a_vanished_directory_is_no_deletion() {
        assert!(is_little(1, 2) && is_little(1, 3) && is_little(25, 100));
        assert!(!is_little(1, 1) && !is_little(2, 3) && !is_little(26, 100) && !is_little(7, 7));
    }
}
