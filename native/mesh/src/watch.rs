//! What other programs do to files, while they do it, where the kernel tells.
//!
//! What is told says only where to look; a scan finds the same a little later (`scan.rs`). Invariant: what was missed
//! is scanned, and what is missing is deleted only as a scan would: in the same tree, when nothing more went for a
//! while, and little since a scan's time ago. Memory is bounded: what does not fit is a reason to scan.

use crate::peers::blocking;
use crate::row::Row;
use crate::scan::{is_little, Scanned, MISSING_OF};
use crate::shared::Shared;
use crate::{MeshError, Name};
use macula_core::{AppFiles, AppName, Cancel, Happened, Kind, Look, RelPath, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

/// Between two looks whether apps were opened, or their trees replaced.
const LOOK: Duration = Duration::from_secs(1);
/// What happens at once is looked at once.
const GATHER: Duration = Duration::from_millis(50);
/// Of what went nothing is believed before nothing more goes for so long.
const QUIET: Duration = Duration::from_secs(1);
/// Between two scans of an app because something was missed.
const SCANS_APART: Duration = Duration::from_secs(60);
/// Directories that are watched, of all apps.
const DIRS_MAX: usize = 65_536;
/// Names that wait to be looked at, of all apps.
const NAMES_MAX: usize = 65_536;
/// Events at once.
const EVENTS: usize = 16_384;

/// What is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// Directories.
    pub dirs: u64,
    /// Apps that are open of which not all directories are: what happens there only a scan finds.
    pub partly: u64,
}

struct Watch {
    watcher: Arc<Watcher>,
    /// Where each watched directory is in its app's tree.
    dirs: BTreeMap<i32, (AppName, RelPath)>,
    /// The watch of each tree itself.
    roots: BTreeMap<AppName, i32>,
    /// Apps of which not all is watched, and when that is tried again.
    partly: BTreeMap<AppName, Duration>,
    changed: BTreeSet<Name>,
    gone: BTreeSet<Name>,
    gone_at: Duration,
    /// What was taken for deleted, since when.
    deleted: BTreeMap<AppName, (u64, Duration)>,
    missed: BTreeSet<AppName>,
    scanned: BTreeMap<AppName, Duration>,
}

/// What asks callers to promise, by `unsafe`, is that the descriptor stays the same and open: a watcher's does.
#[allow(deprecated)]
fn told_of(watcher: Arc<Watcher>) -> io::Result<AsyncFd<Arc<Watcher>>> {
    AsyncFd::with_interest(watcher, Interest::READABLE)
}

/// Until the mesh is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let begun = Watcher::new().map(Arc::new).and_then(|watcher| Ok((told_of(watcher.clone())?, watcher)));
    // where there is none the scan has it all
    let Ok((told, watcher)) = begun else { return };
    let mut watch = Watch::with(watcher);
    loop {
        if let Ok(Ok(mut ready)) = tokio::time::timeout(LOOK, told.readable()).await {
            // what comes from now on says so again
            ready.clear_ready();
            tokio::time::sleep(GATHER).await;
        }
        let of = shared.clone();
        let stepped = blocking(move || {
            watch.step(&of);
            Ok(watch)
        });
        match stepped.await {
            Ok(stepped) => watch = stepped,
            Err(_) => return,
        }
    }
}

impl Watch {
    fn with(watcher: Arc<Watcher>) -> Self {
        Self {
            watcher,
            dirs: BTreeMap::new(),
            roots: BTreeMap::new(),
            partly: BTreeMap::new(),
            changed: BTreeSet::new(),
            gone: BTreeSet::new(),
            gone_at: Duration::ZERO,
            deleted: BTreeMap::new(),
            missed: BTreeSet::new(),
            scanned: BTreeMap::new(),
        }
    }

    fn step(&mut self, shared: &Shared) {
        self.read(shared);
        self.look_for_trees(shared);
        let moved = match self.changed.is_empty() {
            true => BTreeMap::new(),
            false => shared.looks_of(self.gone.iter().cloned()).unwrap_or_default(),
        };
        for name in std::mem::take(&mut self.changed) {
            // what cannot be read now is found by a scan
            if let Ok(true) = shared.look_at_name(&name, &moved) {
                self.is_gone(shared, name);
            }
        }
        let now = shared.clock.monotonic();
        if now.saturating_sub(self.gone_at) < QUIET {
            return;
        }
        let mut of_apps = BTreeMap::<AppName, Vec<Name>>::new();
        for name in std::mem::take(&mut self.gone) {
            of_apps.entry(name.app.clone()).or_default().push(name);
        }
        for (app, names) in of_apps {
            let (before, since) = self.deleted.remove(&app).unwrap_or((0, now));
            let is_over = now.saturating_sub(since) >= shared.options.scan_every;
            let (before, since) = if is_over { (0, now) } else { (before, since) };
            let deleted = shared.end_gone(&app, &names, before).unwrap_or(0);
            self.deleted.insert(app, (before + deleted, since));
        }
        for app in std::mem::take(&mut self.missed) {
            let is_due = self.scanned.get(&app).is_none_or(|at| now.saturating_sub(*at) >= SCANS_APART);
            match is_due && shared.opened(&app).is_some() {
                true => {
                    let _: Result<Scanned, MeshError> = shared.scan(&app, false, &Cancel::new());
                    self.scanned.insert(app, shared.clock.monotonic());
                }
                false => drop(self.missed.insert(app)),
            }
        }
    }

    /// What was told, until nothing more is or there is no room.
    fn read(&mut self, shared: &Shared) {
        while let Some(all) = self.watcher.read(EVENTS).ok().filter(|all| !all.is_empty()) {
            for noticed in all {
                if noticed.happened == Happened::Missed {
                    // directories may have come, too
                    self.partly.extend(self.roots.keys().map(|app| (app.clone(), Duration::ZERO)));
                    self.missed.extend(self.roots.keys().cloned());
                    self.gone_at = shared.clock.monotonic();
                    continue;
                }
                if noticed.happened == Happened::Ended {
                    self.dirs.remove(&noticed.watch);
                    continue;
                }
                let Some((app, dir)) = self.dirs.get(&noticed.watch) else { continue };
                let Ok(path) = dir.join(&noticed.name) else { continue };
                self.happened(shared, Name { app: app.clone(), path }, noticed.happened);
            }
        }
    }

    fn happened(&mut self, shared: &Shared, name: Name, happened: Happened) {
        match happened {
            Happened::Written => {
                self.has_changed(name);
            }
            Happened::Gone => self.is_gone(shared, name),
            Happened::DirCame => {
                if let Some(files) = shared.opened(&name.app) {
                    // what was put there before it was watched is not told
                    self.watch_all(shared, &*files, (&name.app, name.path.clone()), true);
                }
            }
            Happened::DirGone => {
                self.forget(&name.app, &name.path);
                // moved away, nothing is told of what is in it
                let room = NAMES_MAX.saturating_sub(self.gone.len()) + 1;
                match shared.placed_below(&name, room) {
                    Ok(names) => names.into_iter().for_each(|name| self.is_gone(shared, name)),
                    Err(_) => drop(self.missed.insert(name.app)),
                }
            }
            Happened::Ended | Happened::Missed => {}
        }
    }

    fn has_changed(&mut self, name: Name) {
        match self.changed.len() < NAMES_MAX {
            true => drop(self.changed.insert(name)),
            false => drop(self.missed.insert(name.app)),
        }
    }

    fn is_gone(&mut self, shared: &Shared, name: Name) {
        self.gone_at = shared.clock.monotonic();
        match self.gone.len() < NAMES_MAX {
            true => drop(self.gone.insert(name)),
            false => drop(self.missed.insert(name.app)),
        }
    }

    /// Watch the trees of apps that are open, also those that were put in the place of others.
    fn look_for_trees(&mut self, shared: &Shared) {
        if !shared.has_met() {
            return;
        }
        let now = shared.clock.monotonic();
        let apps: Vec<AppName> = shared.apps().unwrap_or_default();
        let open: BTreeMap<_, _> =
            apps.into_iter().filter_map(|app| Some((app.clone(), shared.opened(&app)?))).collect();
        for (app, files) in &open {
            let root = match files.watch(&RelPath::root(), &self.watcher) {
                Ok(root) => Some(root),
                // nothing is there yet
                Err(error) if error.kind == Kind::NotFound => None,
                Err(_) => {
                    self.partly.insert(app.clone(), now + shared.options.scan_every);
                    None
                }
            };
            let is_same = root == self.roots.get(app).copied();
            let is_due = self.partly.get(app).is_some_and(|at| now >= *at);
            if !is_same {
                self.forget(app, &RelPath::root());
                self.scanned.remove(app);
            }
            if let (Some(root), true) = (root, is_due || !is_same) {
                self.partly.remove(app);
                self.roots.insert(app.clone(), root);
                self.watch_all(shared, &**files, (app, RelPath::root()), false);
                // what happened before
                self.missed.insert(app.clone());
            }
        }
        let ended: Vec<AppName> = self.roots.keys().filter(|app| !open.contains_key(app)).cloned().collect();
        ended.iter().for_each(|app| self.forget(app, &RelPath::root()));
        *shared.watched.lock() = Watched { dirs: self.dirs.len() as u64, partly: self.partly.len() as u64 };
    }

    /// Watch a directory and all in it; with `look`, look at the files that are there.
    fn watch_all(&mut self, shared: &Shared, files: &dyn AppFiles, (app, dir): (&AppName, RelPath), look: bool) {
        let mut left = vec![dir];
        while let Some(dir) = left.pop() {
            let watched = match self.dirs.len() < DIRS_MAX {
                true => files.watch(&dir, &self.watcher),
                false => Err(macula_core::AppFilesError { kind: Kind::Busy, message: "too many".into() }),
            };
            let names = match watched {
                Ok(watch) => {
                    self.dirs.insert(watch, (app.clone(), dir.clone()));
                    // names that come from now on are told
                    files.names(&dir)
                }
                Err(error) => Err(error),
            };
            match names {
                Ok(names) => {
                    for (path, is_dir) in names {
                        match (is_dir, look) {
                            (true, _) => left.push(path),
                            (false, true) => self.has_changed(Name { app: app.clone(), path }),
                            (false, false) => {}
                        }
                    }
                }
                Err(error) if error.kind == Kind::NotFound => {}
                // no more watches, or a file system without: the scan has it
                Err(_) => {
                    let again = shared.clock.monotonic() + shared.options.scan_every;
                    self.partly.insert(app.clone(), again);
                    return;
                }
            }
        }
    }

    /// Of a directory that is no longer there, and of all in it.
    fn forget(&mut self, app: &AppName, dir: &RelPath) {
        let is_in = |(of, at): &(AppName, RelPath)| of == app && at.is_within(dir);
        let ended: Vec<i32> = self.dirs.iter().filter(|(_, at)| is_in(at)).map(|(watch, _)| *watch).collect();
        for watch in ended {
            self.dirs.remove(&watch);
            self.watcher.forget(watch);
        }
        if dir.is_root() {
            self.roots.remove(app);
            self.partly.remove(app);
        }
    }
}

impl Shared {
    /// Look at a file that was told of; whether it is missing.
    fn look_at_name(&self, name: &Name, moved: &BTreeMap<u64, Look>) -> Result<bool, MeshError> {
        let Some(files) = self.opened(&name.app) else { return Ok(false) };
        let row: Option<Row> = self.index.row(name)?;
        let Some(look) = files.look(&name.path)? else { return Ok(true) };
        if row.is_none() && moved.get(&look.ino) == Some(&look) {
            self.adopt(name)?;
            return Ok(false);
        }
        // our own doing, most of the time
        if !row.as_ref().and_then(|row| row.here.placed).is_some_and(|placed| placed.is(&look)) {
            self.look_at(&name.app, &name.path, &*files, row.as_ref(), look, &mut Scanned::default())?;
        }
        Ok(false)
    }

    /// Names that went, of which so many others were taken for deleted before: how many of them are now. What is too
    /// much is left to a scan.
    fn end_gone(&self, app: &AppName, names: &[Name], before: u64) -> Result<u64, MeshError> {
        let Some(files) = self.opened(app) else { return Ok(0) };
        let mut missing = Vec::new();
        for name in names {
            let is_placed = self.index.row(name)?.is_some_and(|row| row.here.placed.is_some());
            if is_placed && files.look(&name.path)?.is_none() {
                missing.push(name);
            }
        }
        let missed = missing.len() as u64 + before;
        // no more of them are counted than are needed
        let known = before + self.count_placed(app, missed.saturating_mul(MISSING_OF).saturating_add(1))?;
        if missing.is_empty() || !is_little(missed, known) || !self.is_same_tree(app, &*files)? {
            return Ok(0);
        }
        let mut scanned = Scanned::default();
        for name in missing {
            self.end_missing(name, true, &mut scanned)?;
        }
        Ok(scanned.deleted)
    }

    fn count_placed(&self, app: &AppName, enough: u64) -> Result<u64, MeshError> {
        let (from, to) = ([app.as_str().as_bytes(), b"\0"].concat(), [app.as_str().as_bytes(), b"\x01"].concat());
        let mut count = 0;
        self.index.rows((Bound::Included(&from[..]), Bound::Excluded(&to[..])), &mut |_, row| {
            count += u64::from(row.here.placed.is_some());
            count < enough
        })?;
        Ok(count)
    }

    /// Files that were put below a directory, at most so many.
    fn placed_below(&self, dir: &Name, limit: usize) -> Result<Vec<Name>, MeshError> {
        let (from, to) = ([&dir.key()[..], b"/"].concat(), [&dir.key()[..], b"0"].concat());
        let rows = self.index.page((Bound::Included(&from[..]), Bound::Excluded(&to[..])), limit)?;
        Ok(rows.into_iter().filter(|(_, row)| row.here.placed.is_some()).map(|(name, _)| name).collect())
    }
}
