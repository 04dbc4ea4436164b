//! A base directory: the apps in it, which of them this process has opened, their backups.
//!
//! Invariant: an app is opened at most once per process; everyone who asks gets the same [`App`].

use crate::layout::{APPS, APP_DIRS, BACKUPS, RUN};
use crate::lock::OwnerLock;
use crate::restore::make_dir;
use crate::swap::{self, rubbish};
use crate::{usage, App, Layout, Owner, StoreError};
use macula_core::{create_dir_all, AppName, Cancel, Chance, Clock, Disk, FileKind, Gate, RealDisk, RelPath};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where an engine's time, chance and threads come from.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// The threads of all key-value stores.
    pub kv_threads: macula_kv::Threads,
}

impl Seams {
    /// What a key-value store in `disk` stands on.
    pub(crate) fn kv(&self, disk: Arc<dyn Disk>, gate: Arc<Gate>) -> macula_kv::Seams {
        let (clock, chance, threads) = (self.clock.clone(), self.chance.clone(), self.kv_threads.clone());
        macula_kv::Seams { disk, gate, clock, chance, threads }
    }
}

/// How the apps of a base are opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of each app's key-value store.
    pub kv: macula_kv::Options,
    /// Of each app's database.
    pub sqlite: macula_sqlite::Options,
    /// Shortest time between two reconciliations of an app's usage.
    pub usage_interval: Duration,
    /// What the owner lock says of this process.
    pub owner: Owner,
}

/// A base directory and the apps of it that this process owns.
#[derive(Debug)]
pub struct Base {
    pub(crate) layout: Layout,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) seams: Seams,
    pub(crate) options: Options,
    /// Held for a look or a change of the map only.
    apps: RwLock<Apps>,
    background_ended: Cancel,
}

#[derive(Debug, Default)]
struct Apps {
    open: HashMap<AppName, Arc<App>>,
    /// The turn to open or close each app, which takes I/O.
    turns: HashMap<AppName, Arc<Mutex<()>>>,
    closed: bool,
}

impl Base {
    /// Use `root`, creating it and its directories when missing.
    ///
    /// # Errors
    /// [`StoreError::Base`] when it cannot be created or written.
    pub fn open(root: &Path, options: Options, seams: Seams) -> Result<Arc<Self>, StoreError> {
        let refuse = |source| StoreError::Base { path: root.to_owned(), source };
        if !root.is_absolute() {
            return Err(refuse(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path")));
        }
        let disk = RealDisk::create_at(root).map_err(refuse)?;
        // SQLite opens by path and follows no symlink in it
        let root = root.canonicalize().map_err(refuse)?;
        Self::over(Arc::new(disk), &root, options, seams)
    }

    /// As [`Base::open`], over any disk whose tree is also at `root`.
    pub fn over(disk: Arc<dyn Disk>, root: &Path, options: Options, seams: Seams) -> Result<Arc<Self>, StoreError> {
        let refuse = |source| StoreError::Base { path: root.to_owned(), source };
        for dir in [APPS, BACKUPS, RUN] {
            create_dir_all(&*disk, &RelPath::literal(dir)).map_err(refuse)?;
        }
        // control sockets and locks are nobody else's business
        disk.set_dir_meta(&RelPath::literal(RUN), 0o700, i128::from(seams.clock.wall_ms()) * 1_000_000)
            .map_err(refuse)?;
        // file systems other than ext4 know no such hint
        let _ = disk.spread_dirs_of(&RelPath::literal(APPS));
        let layout = Layout::new(root.to_owned());
        Ok(Arc::new(Self { layout, disk, seams, options, apps: RwLock::default(), background_ended: Cancel::new() }))
    }

    /// The layout below the base directory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The app, opened: owned by this process from now on.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process owns it.
    pub fn app(&self, name: &AppName) -> Result<Arc<App>, StoreError> {
        let usable = || self.app_if_open(name).filter(|app| !app.is_poisoned());
        if let Some(app) = usable() {
            return Ok(app);
        }
        let turn = self.turn(name);
        let _turn = turn.lock();
        if let Some(app) = usable() {
            return Ok(app);
        }
        // a poisoned one is opened anew, which decides
        self.let_go(name);
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let path = self.layout.absolute(&Layout::lock(name));
        let lock = OwnerLock::acquire(&path, &self.options.owner, &*self.seams.clock)?;
        swap::recover(self, name)?;
        // also makes durable what the recovery renamed, or a killed process had no time to sync
        self.make_app_dirs(name)?;
        // what stays in the way of the next backup is told by that
        let _ = self.set_backup_leftovers_aside(name);
        let app = App::open(self, name, lock)?;
        let mut apps = self.apps.write();
        if apps.closed {
            drop(apps);
            app.close();
            app.release();
            return Err(StoreError::Closed);
        }
        apps.open.insert(name.clone(), app.clone());
        drop(apps);
        if self.background_ended.is_cancelled() {
            app.end_background();
        }
        Ok(app)
    }

    fn turn(&self, name: &AppName) -> Arc<Mutex<()>> {
        self.apps.write().turns.entry(name.clone()).or_default().clone()
    }

    /// As [`Base::app`], for an app that is there: asking about a name must not make an app of it.
    ///
    /// # Errors
    /// [`StoreError::NoApp`] when it has no directory.
    pub fn existing_app(&self, name: &AppName) -> Result<Arc<App>, StoreError> {
        if self.app_if_open(name).is_none() && !swap::has_directory(self, name) {
            return Err(StoreError::NoApp(name.to_string()));
        }
        self.app(name)
    }

    /// Whether an app was opened, or was to be, since this base was.
    pub fn was_used(&self, name: &AppName) -> bool {
        self.apps.read().turns.contains_key(name)
    }

    /// The app, if this process has it open.
    pub fn app_if_open(&self, name: &AppName) -> Option<Arc<App>> {
        self.apps.read().open.get(name).cloned()
    }

    /// The apps that this process has open.
    pub fn open_apps(&self) -> Vec<Arc<App>> {
        self.apps.read().open.values().cloned().collect()
    }

    /// Close one app: long work on it is cancelled, its engines are closed, its lock is let go of.
    pub fn close_app(&self, name: &AppName) {
        let turn = self.turn(name);
        let _turn = turn.lock();
        self.let_go(name);
    }

    /// Close and forget an app, in its turn.
    fn let_go(&self, name: &AppName) {
        let app = self.apps.write().open.remove(name);
        if let Some(app) = app {
            app.close();
            usage::save(self, &app, true);
            app.release();
        }
    }

    /// Remove the directories of an app that nobody has put anything into: a name that was mistyped
    /// must not become an app.
    pub(crate) fn remove_unused(&self, app: &Arc<App>) {
        let name = app.name();
        let turn = self.turn(name);
        let _turn = turn.lock();
        if !self.app_if_open(name).is_some_and(|open| Arc::ptr_eq(&open, app)) {
            return;
        }
        self.apps.write().open.remove(name);
        app.close();
        // deepest first: the first that holds something ends it
        let dirs = APP_DIRS.iter().rev().filter_map(|dir| Layout::app(name).join(dir).ok());
        let _ = dirs.chain([Layout::app(name)]).try_for_each(|dir| self.disk.remove_dir(&dir));
        app.release();
    }

    /// Close every app; nothing can be opened afterwards.
    pub fn close(&self) {
        self.apps.write().closed = true;
        self.end_background();
        for app in self.open_apps() {
            self.close_app(app.name());
        }
    }

    /// Let walks and removals in the background end now: nobody waits for them, and who joins their
    /// threads must not either. Part of [`Base::close`]; they do not begin again.
    pub fn end_background(&self) {
        self.background_ended.cancel();
        self.open_apps().iter().for_each(|app| app.end_background());
    }

    /// Create what is missing of `apps/<app>/{data,uploads,cache}`. Durable on return.
    pub fn ensure_app_dirs(&self, name: &AppName) -> Result<(), StoreError> {
        let app = self.app_if_open(name);
        // between the two renames of a restore its directory is not missing
        let _still = app.as_ref().map(|app| app.hold_still());
        self.make_app_dirs(name)
    }

    fn make_app_dirs(&self, name: &AppName) -> Result<(), StoreError> {
        let app = Layout::app(name);
        let mut made = Vec::new();
        let result = self.make_dirs_durably(&app, &mut made);
        if result.is_err() {
            // a sync that failed may never be made good: who tries again must make the names again
            made.iter().rev().for_each(|dir| drop(self.disk.remove_dir(dir)));
        }
        result.map_err(|e| StoreError::io("create", self.layout.absolute(&app), e))
    }

    /// Directories that are there are synced too: who made them may have been killed before it did.
    fn make_dirs_durably(&self, app: &RelPath, made: &mut Vec<RelPath>) -> io::Result<()> {
        let below = APP_DIRS.iter().map(|dir| app.join(dir).map_err(io::Error::other));
        let dirs = std::iter::once(Ok(app.clone())).chain(below).collect::<io::Result<Vec<_>>>()?;
        for dir in dirs {
            if make_dir(&*self.disk, &dir)? {
                made.push(dir);
            }
        }
        self.disk.sync_dir(app)?;
        self.disk.sync_dir(&app.parent())
    }

    /// Whether [`Base::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.apps.read().closed
    }

    /// Remove what restores and backups of the apps that are open left behind. Costs two listings
    /// when there is nothing.
    pub fn remove_rubbish(&self) {
        for name in rubbish::owners(self) {
            // of an app that is not open it is not certain yet whether a power loss brings it back
            let Some(app) = self.app_if_open(&name).filter(|app| !app.is_poisoned()) else { continue };
            rubbish::remove(self, &name, &|| app.is_closing());
        }
    }

    /// Count what other programs wrote into the apps that are open, and remove rubbish.
    ///
    /// Returns how long to wait before the next time: fifty times what this one took, so that
    /// walking never costs more than a fiftieth of one core.
    pub fn reconcile_open_apps(&self) -> Duration {
        if self.background_ended.is_cancelled() {
            return Duration::ZERO;
        }
        self.remove_rubbish();
        let begun = self.seams.clock.monotonic();
        for app in self.open_apps() {
            // an app that is being closed or restored is counted when it is open again
            if app.reconcile().is_ok() {
                usage::save(self, &app, false);
            }
        }
        50 * self.seams.clock.monotonic().saturating_sub(begun)
    }

    /// Names of the apps that have a directory, sorted.
    pub fn list_apps(&self) -> Result<Vec<AppName>, StoreError> {
        let apps = RelPath::literal(APPS);
        let entries = self.disk.list(&apps).map_err(|e| StoreError::io("list", self.layout.absolute(&apps), e))?;
        let names = entries.iter().filter_map(|entry| swap::app_of(entry.name.to_str()?));
        let mut names: Vec<_> = names.filter(|name| swap::has_directory(self, name)).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The process that owns the app now, if one does (this one included).
    pub fn owner(&self, name: &AppName) -> Result<Option<Owner>, StoreError> {
        OwnerLock::owner(&self.layout.absolute(&Layout::lock(name)))
    }

    pub(crate) fn is_dir(&self, path: &RelPath) -> bool {
        self.disk.stat(path).is_ok_and(|stat| stat.kind == FileKind::Dir)
    }
}
