//! What lies beside an app's files, staged or kept, and is of no use any more: found by who looks, not by who left it,
//! because that one may have been killed.
//!
//! Invariant: what this process works on is nobody else's to remove. It is taken in hand before it is there, and who
//! sweeps spares all that was in hand at any time since he began to look. What is kept goes only when each member has told
//! this process what it knows: of an index that was lost it may be the only copy.

use crate::row::{aside, ASIDE_DIGITS};
use crate::shared::Shared;
use crate::turn::Turn;
use crate::{Content, MeshError, Name};
use macula_core::{AppFiles, AppFilesError, AppName};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// With more files that are wanted, what was staged of others is left to a later look.
const WANTED_MAX: usize = 1_000;
/// Rows at once.
const PIECE: usize = 1_000;

/// A name of content beside the files of an app.
type Beside = (Arc<dyn AppFiles>, String);

#[derive(Default)]
struct Names {
    /// And by how many.
    now: BTreeMap<String, u32>,
    /// While somebody sweeps: those, and all that came since.
    since: Option<BTreeSet<String>>,
}

/// Names of contents beside the trees that this process works on.
#[derive(Clone, Default)]
pub(crate) struct InHand(Arc<Mutex<Names>>);

/// One of them, until it is dropped.
pub(crate) struct Held(InHand, String);

/// A look for what is of no use.
struct Sweep(InHand);

impl InHand {
    pub fn take(&self, name: &str) -> Held {
        let mut names = self.0.lock();
        *names.now.entry(name.to_owned()).or_default() += 1;
        if let Some(since) = &mut names.since {
            since.insert(name.to_owned());
        }
        drop(names);
        Held(self.clone(), name.to_owned())
    }

    fn sweep(&self) -> Sweep {
        let mut names = self.0.lock();
        names.since = Some(names.now.keys().cloned().collect());
        drop(names);
        Sweep(self.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut names = self.0 .0.lock();
        match names.now.get_mut(&self.1) {
            Some(others) if *others > 1 => *others -= 1,
            _ => drop(names.now.remove(&self.1)),
        }
    }
}

impl Sweep {
    fn spares(&self, name: &str) -> bool {
        self.0 .0.lock().since.as_ref().is_none_or(|since| since.contains(name))
    }

    /// Unless somebody has it in hand; nobody takes it meanwhile.
    fn remove(&self, name: &str, remove: impl FnOnce() -> Result<(), AppFilesError>) -> Result<(), MeshError> {
        let names = self.0 .0.lock();
        let is_free = names.since.as_ref().is_some_and(|since| !since.contains(name));
        if is_free {
            remove()?;
        }
        Ok(())
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0 .0.lock().since = None;
    }
}

impl Shared {
    /// Remove what was staged by writers that are no more, and of contents that are not fetched any more.
    pub fn sweep_staged(&self) -> Result<(), MeshError> {
        let sweep = self.in_hand.sweep();
        let found = self.beside(|files| files.staged(), &sweep)?;
        let Some(wanted) = self.fetches.names(WANTED_MAX).filter(|_| !found.is_empty()) else { return Ok(()) };
        let mut used = BTreeSet::new();
        for name in self.index.pending()? {
            let row = self.index.row(&name)?.unwrap_or_default();
            used.extend(row.here.pending.and_then(|pending| pending.staged));
        }
        for name in wanted {
            let row = self.index.row(&name)?.unwrap_or_default();
            used.extend(self.wanted(&name, &row).filter_map(|version| Some(aside(&name, &version.content?.id))));
        }
        for (files, name) in found.iter().filter(|(_, name)| !used.contains(name)) {
            // an app that takes no change now keeps no other from it
            let _ = sweep.remove(name, || files.unstage(name));
        }
        Ok(())
    }

    /// Remove what was kept of versions that are no more, by a process that died before it removed it; what is kept of
    /// one that is, and that the index lost, is known again. Whether it could: before each member told what it knows,
    /// one that may be the only copy of a version is spared, of which this index knows nothing yet.
    pub fn sweep_kept(&self) -> Result<bool, MeshError> {
        let (is_told, sweep) = (self.is_told_by_all(), self.in_hand.sweep());
        let mut found = self.beside(|files| files.kept(), &sweep)?;
        // what is kept for other reasons has shorter names
        found.retain(|(_, name)| name.len() == ASIDE_DIGITS);
        if found.is_empty() {
            return Ok(true);
        }
        let names: BTreeSet<String> = found.iter().map(|(_, name)| name.clone()).collect();
        let (mut used, mut after, mut lasting) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        loop {
            let rows = self.index.page((Bound::Excluded(&after[..]), Bound::Unbounded), PIECE)?;
            let Some((last, _)) = rows.last() else { break };
            after = last.key();
            for (name, row) in rows {
                used.extend(row.here.kept.iter().map(|id| aside(&name, id)));
                let lost = row.record.versions().iter().filter_map(|version| version.content);
                for content in lost.filter(|content| !row.has_content(&content.id)) {
                    let kept = aside(&name, &content.id);
                    if !names.contains(&kept) {
                        continue;
                    }
                    // whoever kept it may have failed to make that last, and have said nothing of it therefore
                    let lasts = || self.files(&name.app).is_ok_and(|files| files.sync_all().is_ok());
                    let lasts = *lasting.entry(name.app.clone()).or_insert_with(lasts);
                    if !lasts || self.keep_again(&name, content)? {
                        used.insert(kept);
                    }
                }
            }
        }
        for (files, name) in found.iter().filter(|(_, name)| is_told && !used.contains(name)) {
            let _ = sweep.remove(name, || files.unkeep(name));
        }
        Ok(is_told)
    }

    /// Know of a content that is kept, if it is what it should be; whether it is. One that is to be shown the next look at
    /// all files brings to its place.
    fn keep_again(&self, name: &Name, content: Content) -> Result<bool, MeshError> {
        let mut turn = Turn::of(self, name)?;
        let is_left = turn.row.record.versions().iter().any(|version| version.content == Some(content));
        if !is_left || turn.row.has_content(&content.id) || !turn.is_kept(&content)? {
            return Ok(turn.row.here.kept.contains(&content.id));
        }
        turn.row.here.kept.push(content.id);
        let record = turn.row.record.clone();
        turn.know(record)?;
        Ok(true)
    }

    /// What lies beside the files of the apps that are open, and nobody has in hand.
    fn beside(
        &self,
        list: impl Fn(&dyn AppFiles) -> Result<Vec<String>, AppFilesError>,
        sweep: &Sweep,
    ) -> Result<Vec<Beside>, MeshError> {
        let opened = |app: AppName| self.opened(&app);
        let all = |files: Arc<dyn AppFiles>| {
            let names = list(&*files).unwrap_or_default();
            names.into_iter().filter(|name| !sweep.spares(name)).map(move |name| (files.clone(), name)).collect()
        };
        Ok(self.apps()?.into_iter().filter_map(opened).flat_map(|files| -> Vec<_> { all(files) }).collect())
    }
}
