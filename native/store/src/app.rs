//! An app that this process owns: its lock, its gate, its ledger, its engines.
//!
//! Engines are opened on first use and closed together: at the app's end, and for the moment in
//! which a restore exchanges the directories. A handle taken before that answers `Closed`; asking
//! the app again gives the engine on the restored data.

use crate::backup::publish;
use crate::engine::Engine;
use crate::lock::OwnerLock;
use crate::restore::machine_dir;
use crate::{usage, Base, Layout, Options, Seams, StoreError, Usage};
use macula_core::{create_dir_all, remove_tree, AppName, Disk, Gate, Ledger, Part, RelPath, Task};
use macula_files::Files;
use macula_kv::Store;
use macula_sqlite::Database;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An opened app. Cheap to share; closed by [`crate::Base::close_app`].
#[derive(Debug)]
pub struct App {
    name: AppName,
    path: PathBuf,
    base_disk: Arc<dyn Disk>,
    seams: Seams,
    options: Options,
    gate: Arc<Gate>,
    ledger: Arc<Ledger>,
    lock: Mutex<Option<OwnerLock>>,
    state: Mutex<State>,
    swapped: Condvar,
    reconciled_at: Mutex<Option<Duration>>,
    backup_turn: Mutex<()>,
    restore_turn: Mutex<()>,
}

#[derive(Debug)]
enum State {
    Open(Engines),
    /// A restore exchanges the directories: whoever asks for an engine waits.
    Swapping,
    Closed,
}

#[derive(Debug)]
struct Engines {
    disk: Arc<dyn Disk>,
    kv: Option<Store>,
    sqlite: Option<Arc<Database>>,
    files: Option<Files>,
}

impl Engines {
    fn on(disk: Arc<dyn Disk>) -> Self {
        Self { disk, kv: None, sqlite: None, files: None }
    }

    /// The engine table: a new engine is a row here.
    fn all(&self) -> Vec<Box<dyn Engine>> {
        let mut all: Vec<Box<dyn Engine>> = Vec::new();
        if let Some(kv) = &self.kv {
            all.push(Box::new(kv.clone()));
        }
        if let Some(sqlite) = &self.sqlite {
            all.push(Box::new(sqlite.clone()));
        }
        if let Some(files) = &self.files {
            all.push(Box::new(files.clone()));
        }
        all
    }
}

impl App {
    pub(crate) fn open(base: &Base, name: &AppName, lock: OwnerLock) -> Result<Arc<Self>, StoreError> {
        let path = base.layout.absolute(&Layout::app(name));
        let disk = base.disk.subtree(&Layout::app(name)).map_err(|e| StoreError::io("open", &path, e))?;
        let ledger = Arc::new(Ledger::new());
        let known = usage::load(base, name, &ledger);
        let app = Arc::new(Self {
            name: name.clone(),
            path,
            base_disk: base.disk.clone(),
            seams: base.seams.clone(),
            options: base.options.clone(),
            gate: Arc::new(Gate::new()),
            ledger,
            lock: Mutex::new(Some(lock)),
            state: Mutex::new(State::Open(Engines::on(disk))),
            swapped: Condvar::new(),
            reconciled_at: Mutex::new(None),
            backup_turn: Mutex::new(()),
            restore_turn: Mutex::new(()),
        });
        if !known {
            // the first opening, or a lost record: nothing else can tell what is there
            app.reconcile()?;
        }
        Ok(app)
    }

    /// Its name.
    pub fn name(&self) -> &AppName {
        &self.name
    }

    /// Its directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key-value store, opened on first use.
    pub fn kv(&self) -> Result<Store, StoreError> {
        self.engine(|engines| engines.kv.clone(), |engines| self.open_kv(engines))
    }

    /// The key-value store, if it is open: never waits for a disk.
    pub fn kv_if_open(&self) -> Option<Store> {
        self.peek(|engines| engines.kv.clone())
    }

    /// The SQLite database, opened (and created) on first use.
    pub fn sqlite(&self) -> Result<Arc<Database>, StoreError> {
        self.engine(|engines| engines.sqlite.clone(), |engines| self.open_sqlite(engines))
    }

    /// The files, opened on first use.
    pub fn files(&self) -> Result<Files, StoreError> {
        self.engine(|engines| engines.files.clone(), |engines| self.open_files(engines))
    }

    /// The files, if opened: never waits for a disk.
    pub fn files_if_open(&self) -> Option<Files> {
        self.peek(|engines| engines.files.clone())
    }

    /// The tree of the app's directory.
    pub(crate) fn disk(&self) -> Result<Arc<dyn Disk>, StoreError> {
        self.engine(|engines| Some(engines.disk.clone()), |engines| Ok(engines.disk.clone()))
    }

    /// One archive of an app is made at a time.
    pub(crate) fn backup_turn(&self) -> MutexGuard<'_, ()> {
        self.backup_turn.lock()
    }

    /// One restore of an app runs at a time.
    pub(crate) fn restore_turn(&self) -> MutexGuard<'_, ()> {
        self.restore_turn.lock()
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Every engine that has something on the disk, opened.
    pub(crate) fn engines_on_disk(&self) -> Result<Vec<Box<dyn Engine>>, StoreError> {
        let disk = self.disk()?;
        let there = |path: &'static str| disk.stat(&RelPath::literal(path)).is_ok();
        if there("data/kv") {
            self.kv()?;
        }
        if there("data/app.db") {
            self.sqlite()?;
        }
        self.files()?;
        self.engine(|engines| Some(engines.all()), |engines| Ok(engines.all()))
    }

    /// Copy one instant of the database to `dest`, a path on the machine.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when something is there and `overwrite` was not asked for.
    pub fn copy_database(database: &Database, dest: &Path, overwrite: bool, task: &Task) -> Result<(), StoreError> {
        let (dir, name) = machine_dir(dest)?;
        if !overwrite && dir.stat(&name).is_ok() {
            return Err(StoreError::Exists(dest.to_owned()));
        }
        let partial = RelPath::new(format!(".{name}.partial"))?;
        let failed = |e| StoreError::io("name", dest, e);
        remove_tree(&dir, &partial).map_err(failed)?;
        database.backup(&dest.with_file_name(partial.as_path()), task)?;
        publish(&dir, &partial, &name, overwrite).map_err(failed)
    }

    /// Bytes by part.
    pub fn usage(&self) -> Usage {
        usage::read(self)
    }

    /// Walk the tree and correct the ledger by what other programs wrote.
    pub fn reconcile(&self) -> Result<(), StoreError> {
        usage::reconcile(self)?;
        *self.reconciled_at.lock() = Some(self.seams.clock.monotonic());
        Ok(())
    }

    pub(crate) fn usage_age(&self) -> Option<Duration> {
        let at = *self.reconciled_at.lock();
        at.map(|at| self.seams.clock.monotonic().saturating_sub(at))
    }

    pub(crate) fn engine_bytes(&self, part: Part) -> Option<u64> {
        let engines = self.peek(|engines| Some(engines.all()))?;
        engines.iter().find(|engine| engine.part() == part)?.bytes()
    }

    /// Read everything and compare with its checksums.
    pub fn verify(&self, task: &Task) -> Result<(), StoreError> {
        self.engines_on_disk()?.iter().try_for_each(|engine| engine.verify(task))
    }

    /// Close the engines, run `exchange`, and let the next call open them on what is there then.
    pub(crate) fn swap(&self, exchange: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let engines = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Swapping) {
                State::Open(engines) => engines,
                other => {
                    let busy = matches!(other, State::Swapping);
                    *state = other;
                    return Err(if busy { StoreError::Timeout("another restore") } else { StoreError::Closed });
                }
            }
        };
        engines.all().iter().for_each(|engine| engine.close());
        let exchanged = exchange();
        let reopened = self.base_disk.subtree(&Layout::app(&self.name));
        let reopened = reopened.map_err(|e| StoreError::io("open", &self.path, e));
        let (state, reopened) = match reopened {
            Ok(disk) => (State::Open(Engines::on(disk)), Ok(())),
            Err(error) => (State::Closed, Err(error)),
        };
        *self.state.lock() = state;
        self.swapped.notify_all();
        exchanged.and(reopened)
    }

    /// Close the engines and let go of the lock.
    pub(crate) fn close(&self) {
        let engines = {
            let mut state = self.state.lock();
            while matches!(*state, State::Swapping) {
                self.swapped.wait(&mut state);
            }
            match std::mem::replace(&mut *state, State::Closed) {
                State::Open(engines) => Some(engines),
                _ => None,
            }
        };
        if let Some(engines) = engines {
            for engine in engines.all() {
                engine.close();
                if let Some(bytes) = engine.bytes() {
                    self.ledger.set(engine.part(), bytes);
                }
            }
        }
        *self.lock.lock() = None;
    }

    fn engine<T>(
        &self,
        opened: impl Fn(&Engines) -> Option<T>,
        open: impl FnOnce(&mut Engines) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.lock();
        while matches!(*state, State::Swapping) {
            self.swapped.wait(&mut state);
        }
        match &mut *state {
            State::Open(engines) => match opened(engines) {
                Some(engine) => Ok(engine),
                None => open(engines),
            },
            State::Swapping | State::Closed => Err(StoreError::Closed),
        }
    }

    fn peek<T>(&self, look: impl FnOnce(&Engines) -> Option<T>) -> Option<T> {
        match &*self.state.try_lock()? {
            State::Open(engines) => look(engines),
            State::Swapping | State::Closed => None,
        }
    }

    fn open_kv(&self, engines: &mut Engines) -> Result<Store, StoreError> {
        let dir = RelPath::literal("data/kv");
        let failed = |e| StoreError::io("open", self.path.join("data/kv"), e);
        create_dir_all(&*engines.disk, &dir).map_err(failed)?;
        let tree = engines.disk.subtree(&dir).map_err(failed)?;
        let options = macula_kv::Options { cache_bytes: self.options.kv_cache_bytes, ..Default::default() };
        let kv = Store::open(tree, self.gate.clone(), self.seams.clock.clone(), &*self.seams.chance, options)?;
        engines.kv = Some(kv.clone());
        Ok(kv)
    }

    fn open_sqlite(&self, engines: &mut Engines) -> Result<Arc<Database>, StoreError> {
        let path = self.path.join("data/app.db");
        let options = macula_sqlite::Options::default();
        let database = Database::open(&path, self.gate.clone(), self.seams.clock.clone(), options)?;
        let database = Arc::new(database);
        engines.sqlite = Some(database.clone());
        Ok(database)
    }

    fn open_files(&self, engines: &mut Engines) -> Result<Files, StoreError> {
        let data = engines.disk.subtree(&RelPath::literal("data"));
        let data = data.map_err(|e| StoreError::io("open", self.path.join("data"), e))?;
        let seams = &self.seams;
        let files =
            Files::open(data, self.gate.clone(), self.ledger.clone(), seams.clock.clone(), seams.chance.clone())?;
        engines.files = Some(files.clone());
        Ok(files)
    }
}
