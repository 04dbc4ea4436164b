//! Changes of names: the one place where a file appears, is replaced, moves or vanishes.
//!
//! Invariant: each change runs under the gate's pass and one lock, from the look at what was there
//! to the entry in the ledger, so the ledger is exact and a snapshot sees a change wholly or not at
//! all; the lock covers a few calls that do not wait for the disk, never a sync. What must be synced
//! for the change to last is owed, and paid outside by [`Inner::settle`].

use crate::aside::Aside;
use crate::kept::{Claim, Terms};
use crate::staged::Content;
use crate::syncs::Syncs;
use crate::FilesError;
use macula_core::{Chance, Clock, Disk, FileKind, Gate, Ledger, Part, RelPath, Stat};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

pub(crate) const FILES: &str = "files";
pub(crate) const TEMPORARIES: &str = ".macula/tmp";
pub(crate) const ASIDE: &str = ".macula/aside";
pub(crate) const STAGED: &str = ".macula/staged";
pub(crate) const KEPT: &str = ".macula/kept";

/// Directories remembered as durable at most; beyond that all are synced once more.
const DURABLE_DIRS_MAX: usize = 10_000;
/// How often a change starts again when other programs remove directories under it.
const RETRIES_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Inner {
    pub data: Arc<dyn Disk>,
    pub gate: Arc<Gate>,
    pub ledger: Arc<Ledger>,
    pub clock: Arc<dyn Clock>,
    pub chance: Arc<dyn Chance>,
    /// Of who puts a short file.
    pub short: Mutex<()>,
    names: Mutex<Names>,
    syncs: Syncs,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    pub snapshots: Vec<Arc<Aside>>,
    /// Staged content that somebody has open, by where it lies.
    pub staged: HashMap<RelPath, Weak<Content>>,
    /// Names of kept content that changes under way count on, by where it lies.
    pub claims: HashMap<RelPath, Claim>,
    /// Directories whose own name is known to be durable. One that a process made and was killed
    /// before it synced is there, but not in this set.
    durable_dirs: HashSet<RelPath>,
    /// Directories made and removed so far, to tell whether one was there all the time.
    dir_changes: u64,
}

/// Syncs that a change needs to last.
#[derive(Debug)]
pub(crate) struct Owed {
    dirs: Vec<RelPath>,
    /// Directories that are durable once those syncs are done.
    proves: HashSet<RelPath>,
    dir_changes: u64,
}

/// The part of the app that a directory counts to.
fn part_of(dir: &RelPath) -> Part {
    if dir.is_within(&RelPath::literal(FILES)) {
        Part::Files
    } else {
        Part::Other
    }
}

/// Whether two names stand for one file.
pub(crate) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.dev, one.ino) == (other.dev, other.ino)
}

/// Where a file lies below `data/`.
pub(crate) fn place_of(path: &RelPath) -> Result<RelPath, FilesError> {
    let files = RelPath::literal(FILES);
    if path.is_root() {
        return Ok(files);
    }
    files.join(path.as_bytes()).map_err(|_| FilesError::BadName { path: path.clone() })
}

impl Inner {
    pub fn new(
        data: Arc<dyn Disk>,
        gate: Arc<Gate>,
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Self {
        let (short, names, syncs, closed) = Default::default();
        Self { data, gate, ledger, clock, chance, short, names, syncs, closed }
    }

    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock()
    }

    /// Refuse every change from now on; changes under way are visible when this returns.
    pub fn close(&self) {
        let _closed = self.gate.close();
        self.closed.store(true, Ordering::Release);
    }

    /// Whether changes are taken; holds until the end of a gate's pass that was taken before.
    pub fn check_usable(&self) -> Result<(), FilesError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(FilesError::Closed);
        }
        if self.syncs.is_poisoned() {
            return Err(FilesError::Poisoned);
        }
        Ok(())
    }

    /// What a write to `path` would replace; refuses what can never be written to.
    pub fn look_at_target(&self, path: &RelPath) -> Result<Option<Stat>, FilesError> {
        if path.is_root() {
            return Err(FilesError::IsDirectory { path: path.clone() });
        }
        match self.data.stat(&place_of(path)?) {
            Ok(stat) => match stat.kind {
                FileKind::File | FileKind::Symlink => Ok(Some(stat)),
                FileKind::Dir => Err(FilesError::IsDirectory { path: path.clone() }),
                FileKind::Other => Err(FilesError::NotAFile { path: path.clone() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(FilesError::NotADirectory { path: path.clone() })
            }
            Err(error) => Err(FilesError::of("stat", path, error)),
        }
    }

    /// Something that can be removed or moved away.
    fn look_at_source(&self, path: &RelPath) -> Result<Stat, FilesError> {
        match self.look_at_target(path) {
            Ok(Some(stat)) => Ok(stat),
            Ok(None) | Err(FilesError::NotADirectory { .. }) => Err(FilesError::NotFound { path: path.clone() }),
            Err(error) => Err(error),
        }
    }

    /// Rename a finished file of ours, temporary, staged or kept, into its place, `known` to look so; gives its stat.
    pub fn place(
        &self,
        (source, known): (&RelPath, Option<&Stat>),
        path: &RelPath,
        terms: &Terms,
    ) -> Result<(Owed, Stat), FilesError> {
        let _pass = self.gate.pass();
        self.check_usable()?;
        let mut names = self.names.lock();
        names.check_sealed(source)?;
        for _ in 0..RETRIES_MAX {
            match self.try_place(&mut names, (source, known), path, terms) {
                // unless it is the source that is gone, a directory vanished under us
                Err(FilesError::NotFound { .. }) if self.data.stat(source).is_ok() => {}
                Err(FilesError::NotFound { .. }) => return Err(FilesError::NotFound { path: source.clone() }),
                result => return result,
            }
        }
        let source = io::ErrorKind::NotFound.into();
        Err(FilesError::Io { op: "put into place", path: path.clone(), source })
    }

    fn try_place(
        &self,
        names: &mut Names,
        (source, known): (&RelPath, Option<&Stat>),
        path: &RelPath,
        terms: &Terms,
    ) -> Result<(Owed, Stat), FilesError> {
        let of = |error| FilesError::of("put into place", path, error);
        let to = place_of(path)?;
        let parent = to.parent();
        let new = known.map_or_else(|| self.data.stat(source), |known| Ok(known.clone())).map_err(of)?;
        if new.kind != FileKind::File {
            return Err(FilesError::NotAFile { path: source.clone() });
        }
        let old = self.look_at_target(path)?;
        terms.check(path, old.as_ref())?;
        let result = (|| {
            self.make_dirs(names, path, &parent)?;
            let links = self.set_aside(names, path, old.as_ref())?;
            self.move_file(source, &new, &to, old.as_ref()).map_err(of)?;
            Ok(links)
        })();
        let links = result.inspect_err(|_| drop(self.prune(names, &parent)))?;
        self.ledger.add(Part::Other, -(new.len as i64));
        self.ledger.add(Part::Files, new.len as i64);
        self.account_for_removal(old.as_ref(), links);
        names.end_staged(source);
        let mut changed = vec![parent];
        // its owner counts on the other name being gone; staged content that came back is swept
        changed.extend(Some(source.parent()).filter(|dir| *dir == RelPath::literal(KEPT)));
        Ok((self.owe(names, changed), new))
    }

    /// Rename a file, recording by how much the directories grew. Between two names of one file a
    /// rename would do nothing, and leave both.
    pub fn move_file(&self, from: &RelPath, moved: &Stat, to: &RelPath, replaced: Option<&Stat>) -> io::Result<()> {
        let (here, there) = (from.parent(), to.parent());
        if replaced.is_some_and(|replaced| is_same(moved, replaced)) {
            return self.growing(&here, || self.data.remove_file(from));
        }
        let rename = || {
            let grown = self.data.rename_measured(from, to)?;
            self.ledger.add(part_of(&there), grown);
            Ok(())
        };
        if here == there {
            return rename();
        }
        self.growing(&here, rename)
    }

    /// Remove a file or symlink and the directories that it leaves empty.
    pub fn remove(&self, path: &RelPath, terms: &Terms) -> Result<Owed, FilesError> {
        let _pass = self.gate.pass();
        self.check_usable()?;
        let mut names = self.names.lock();
        let old = self.look_at_source(path)?;
        terms.check(path, Some(&old))?;
        let from = place_of(path)?;
        let links = self.set_aside(&names, path, Some(&old))?;
        let removed = self.growing(&from.parent(), || self.data.remove_file(&from));
        removed.map_err(|e| FilesError::of("remove", path, e))?;
        self.account_for_removal(Some(&old), links);
        let left = self.prune(&mut names, &from.parent());
        Ok(Owed { dirs: vec![left], proves: HashSet::new(), dir_changes: names.dir_changes })
    }

    /// Give a file another name, replacing what is there; gives its stat.
    pub fn rename(&self, from: &RelPath, to: &RelPath, terms: &Terms) -> Result<(Option<Owed>, Stat), FilesError> {
        let _pass = self.gate.pass();
        self.check_usable()?;
        let mut names = self.names.lock();
        let moved = self.look_at_source(from)?;
        if moved.kind != FileKind::File {
            return Err(FilesError::NotAFile { path: from.clone() });
        }
        if from == to {
            return Ok((None, moved));
        }
        let replaced = self.look_at_target(to)?;
        terms.check(to, replaced.as_ref())?;
        let (source, target) = (place_of(from)?, place_of(to)?);
        let result = (|| {
            self.make_dirs(&mut names, to, &target.parent())?;
            self.set_aside(&names, from, Some(&moved))?;
            let links = self.set_aside(&names, to, replaced.as_ref())?;
            let renamed = self.move_file(&source, &moved, &target, replaced.as_ref());
            renamed.map_err(|e| FilesError::of("rename", from, e))?;
            Ok(links)
        })();
        let links = result.inspect_err(|_| drop(self.prune(&mut names, &target.parent())))?;
        // of two names of one file (another program's hard link) one holds its bytes as both did
        self.account_for_removal(replaced.filter(|replaced| !is_same(&moved, replaced)).as_ref(), links);
        let left = self.prune(&mut names, &source.parent());
        Ok((Some(self.owe(&names, [target.parent(), left])), moved))
    }

    /// Remove a file that lies beside the tree; nothing there is fine. `counted`: bytes of it in the
    /// ledger, where that is not its length.
    pub fn remove_beside(&self, _names: &Names, at: &RelPath, counted: Option<u64>) -> io::Result<()> {
        let stat = match self.data.stat(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            stat => stat?,
        };
        self.growing(&at.parent(), || self.data.remove_file(at))?;
        // otherwise another name holds the bytes
        if stat.nlink == 1 {
            self.ledger.add(Part::Other, -(counted.unwrap_or(stat.len) as i64));
        }
        Ok(())
    }

    /// Make everything durable.
    pub fn sync_tree(&self) -> io::Result<()> {
        self.syncs.sync_tree(&*self.data)
    }

    /// Make durable what a change of `path` owes.
    pub fn settle(&self, owed: Owed, path: &RelPath) -> Result<(), FilesError> {
        self.sync(owed).map_err(|source| FilesError::UnknownResult { path: path.clone(), source })
    }

    /// As [`Inner::settle`], before anything that a caller knows of has changed.
    pub fn sync(&self, owed: Owed) -> io::Result<()> {
        for dir in &owed.dirs {
            self.syncs.join(&*self.data, dir)?;
        }
        if owed.proves.is_empty() {
            return Ok(());
        }
        let mut names = self.names.lock();
        if names.dir_changes == owed.dir_changes {
            if names.durable_dirs.len() >= DURABLE_DIRS_MAX {
                names.durable_dirs.clear();
            }
            names.durable_dirs.extend(owed.proves);
        }
        Ok(())
    }

    /// Syncs for changes in `dirs`, and for each directory above whose name may not be durable.
    pub fn owe(&self, names: &Names, dirs: impl IntoIterator<Item = RelPath>) -> Owed {
        let mut owed = Owed { dirs: Vec::new(), proves: HashSet::new(), dir_changes: names.dir_changes };
        for dir in dirs {
            let mut at = dir.clone();
            while !at.is_root() {
                if !names.durable_dirs.contains(&at) && owed.proves.insert(at.clone()) {
                    owed.dirs.push(at.parent());
                }
                at = at.parent();
            }
            owed.dirs.push(dir);
        }
        let mut seen = HashSet::new();
        owed.dirs.retain(|dir| seen.insert(dir.clone()));
        owed
    }

    /// Syncs for the name `path` as it is now, be there a file or not, whoever changed it.
    pub fn owe_name(&self, path: &RelPath) -> Result<Owed, FilesError> {
        if path.is_root() {
            return Err(FilesError::IsDirectory { path: path.clone() });
        }
        let _pass = self.gate.pass();
        self.check_usable()?;
        let names = self.names.lock();
        let mut dir = place_of(path)?.parent();
        // where a directory is gone so are the names in it, once that is durable
        while !dir.is_root() && !self.is_dir(&dir, path)? {
            dir = dir.parent();
        }
        // what was kept may have come from there, or lie there now
        let kept = RelPath::literal(KEPT);
        let kept = if self.is_dir(&kept, path)? { Some(kept) } else { None };
        Ok(self.owe(&names, [dir].into_iter().chain(kept)))
    }

    fn is_dir(&self, dir: &RelPath, path: &RelPath) -> Result<bool, FilesError> {
        match self.data.stat(dir).map_err(|e| FilesError::of("look at a directory", path, e)) {
            Ok(stat) => Ok(stat.kind == FileKind::Dir),
            Err(FilesError::NotFound { .. } | FilesError::NotAFile { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Create what is missing of a directory, for `path`.
    pub fn make_dirs(&self, names: &mut Names, path: &RelPath, dir: &RelPath) -> Result<(), FilesError> {
        let mut missing = Vec::new();
        let mut at = dir.clone();
        loop {
            match self.data.stat(&at) {
                Ok(stat) if stat.kind == FileKind::Dir => break,
                Ok(_) => return Err(FilesError::NotADirectory { path: path.clone() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let above = at.parent();
                    missing.push(std::mem::replace(&mut at, above));
                }
                Err(error) => return Err(FilesError::of("look at a directory", path, error)),
            }
        }
        for dir in missing.into_iter().rev() {
            if part_of(&dir) == Part::Files {
                names.snapshots.iter().for_each(|snapshot| snapshot.record_absent(&shown(&dir)));
            }
            match self.growing(&dir.parent(), || self.data.create_dir(&dir)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.map_err(|e| FilesError::of("create a directory", path, e))?,
            }
            names.durable_dirs.remove(&dir);
            names.dir_changes += 1;
            self.ledger.add(part_of(&dir), self.len_of(&dir));
        }
        Ok(())
    }

    /// Remove `dir` and what is above it, as long as it is empty; gives the first that stays.
    fn prune(&self, names: &mut Names, dir: &RelPath) -> RelPath {
        let root = RelPath::literal(FILES);
        let mut at = dir.clone();
        while at != root && at.is_within(&root) {
            let Ok(stat) = self.data.stat(&at) else {
                at = at.parent();
                continue;
            };
            for snapshot in &names.snapshots {
                snapshot.record_dir(&shown(&at), &stat);
            }
            if self.growing(&at.parent(), || self.data.remove_dir(&at)).is_err() {
                break;
            }
            names.durable_dirs.remove(&at);
            names.dir_changes += 1;
            self.ledger.add(Part::Files, -(stat.len as i64));
            at = at.parent();
        }
        at
    }

    /// Keep for every open snapshot what is under a name that is about to change; gives how many
    /// more names the file has now.
    fn set_aside(&self, names: &Names, path: &RelPath, old: Option<&Stat>) -> Result<u64, FilesError> {
        let mut links = 0;
        for snapshot in &names.snapshots {
            match old {
                None => snapshot.record_absent(path),
                Some(old) => {
                    let kept = snapshot.keep(self, path, old);
                    links += kept.map_err(|e| FilesError::of("set aside for a snapshot", path, e))?;
                }
            }
        }
        Ok(links)
    }

    /// A name of `old` is gone: its bytes are too, unless another name (`links` of them made since,
    /// or another program's) still holds them.
    fn account_for_removal(&self, old: Option<&Stat>, links: u64) {
        let Some(old) = old else { return };
        self.ledger.add(Part::Files, -(old.len as i64));
        if old.nlink + links > 1 {
            self.ledger.add(Part::Other, old.len as i64);
        }
    }

    /// Change names in a directory, recording by how much the directory itself grew.
    pub fn growing<T>(&self, dir: &RelPath, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        // names come and go there without the lock, so it is for the next walk to tell
        if *dir == RelPath::literal(TEMPORARIES) {
            return change();
        }
        let before = self.len_of(dir);
        let changed = change()?;
        self.ledger.add(part_of(dir), self.len_of(dir) - before);
        Ok(changed)
    }

    fn len_of(&self, dir: &RelPath) -> i64 {
        self.data.stat(dir).map_or(0, |stat| stat.len as i64)
    }
}

/// The name of a directory as callers know it.
fn shown(dir: &RelPath) -> RelPath {
    let below = dir.as_path().strip_prefix(FILES).ok();
    below.and_then(|path| RelPath::new(path.as_os_str().as_encoded_bytes()).ok()).unwrap_or_else(RelPath::root)
}
