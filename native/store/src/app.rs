//! An app that this process owns: its lock, its gate, its ledger, its engines.
//!
//! Engines are opened on first use and closed together: at the app's end, and for the moment in
//! which a restore exchanges the directories. A handle taken before that answers `Closed`; asking
//! the app again gives the engine on the restored data.

use crate::backup::{publish, remove_leftover};
use crate::engine::{Engine, Pinned};
use crate::lock::OwnerLock;
use crate::plain::unless_gone;
use crate::restore::machine_dir;
use crate::turns::Turns;
use crate::{usage, Base, Layout, Options, Seams, StoreError, Usage};
use macula_core::{create_dir_all, AppName, Disk, Gate, Ledger, Part, RelPath, Task};
use macula_files::Files;
use macula_kv::Store;
use macula_sqlite::Database;
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Held while engines are opened, exchanged or closed, which takes I/O; never by a reader.
    changing: Mutex<()>,
    /// Held for a look or a store of pointers only.
    state: RwLock<State>,
    reconciled_at: Mutex<Option<Duration>>,
    usage_known: AtomicBool,
    usage_saved: Mutex<Option<Usage>>,
    walking: Mutex<()>,
    /// Grows with each exchange of the app's directory.
    generation: AtomicU64,
    turns: Turns,
}

#[derive(Debug)]
enum State {
    Open(Engines),
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
        Ok(Arc::new(Self {
            name: name.clone(),
            path,
            base_disk: base.disk.clone(),
            seams: base.seams.clone(),
            options: base.options.clone(),
            gate: Arc::new(Gate::new()),
            ledger,
            lock: Mutex::new(Some(lock)),
            changing: Mutex::new(()),
            state: RwLock::new(State::Open(Engines::on(disk))),
            reconciled_at: Mutex::new(None),
            usage_known: AtomicBool::new(known),
            usage_saved: Mutex::new(None),
            walking: Mutex::new(()),
            generation: AtomicU64::new(0),
            turns: Turns::default(),
        }))
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
        let keep = |engines: &mut Engines, kv: &Store| engines.kv = Some(kv.clone());
        self.engine(|engines| engines.kv.clone(), |disk| self.open_kv(disk), keep)
    }

    /// The key-value store, if it is open: never waits for a disk.
    pub fn kv_if_open(&self) -> Option<Store> {
        self.peek(|engines| engines.kv.clone())
    }

    /// The SQLite database, opened (and created) on first use.
    pub fn sqlite(&self) -> Result<Arc<Database>, StoreError> {
        let keep = |engines: &mut Engines, sqlite: &Arc<Database>| engines.sqlite = Some(sqlite.clone());
        self.engine(|engines| engines.sqlite.clone(), |_| self.open_sqlite(), keep)
    }

    /// The files, opened on first use.
    pub fn files(&self) -> Result<Files, StoreError> {
        let keep = |engines: &mut Engines, files: &Files| engines.files = Some(files.clone());
        self.engine(|engines| engines.files.clone(), |disk| self.open_files(disk), keep)
    }

    /// The tree of the app's directory.
    pub(crate) fn disk(&self) -> Result<Arc<dyn Disk>, StoreError> {
        self.peek(|engines| Some(engines.disk.clone())).ok_or(StoreError::Closed)
    }

    /// The turns of long work on the app.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Open every engine that has something on the disk.
    fn open_engines(&self) -> Result<(), StoreError> {
        let disk = self.disk()?;
        let there = |path| unless_gone(&path, disk.stat(&path)).map(|stat| stat.is_some());
        if there(RelPath::literal("data/kv"))? {
            self.kv()?;
        }
        if there(RelPath::literal("data/app.db"))? {
            self.sqlite()?;
        }
        self.files().map(|_| ())
    }

    fn engines(&self) -> Result<Vec<Box<dyn Engine>>, StoreError> {
        self.peek(|engines| Some(engines.all())).ok_or(StoreError::Closed)
    }

    /// Pin this instant in every engine.
    pub(crate) fn pin(&self) -> Result<Vec<Box<dyn Pinned>>, StoreError> {
        self.open_engines()?;
        // an engine that is first opened, and written to, from here on would be missed
        let _changing = self.changing.lock();
        let engines = self.engines()?;
        let _closed = self.gate.close();
        engines.iter().map(|engine| engine.pin()).collect()
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
        remove_leftover(&dir, &partial).map_err(failed)?;
        database.backup(&dest.with_file_name(partial.as_path()), task)?;
        publish(&dir, &partial, &name, overwrite).map_err(failed)
    }

    /// Bytes by part.
    ///
    /// Walks once when no record was found at the app's opening: nothing else can tell then.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        if !self.usage_known.load(Ordering::Acquire) {
            self.reconcile()?;
        }
        Ok(usage::read(self))
    }

    /// Walk the tree and correct the ledger by what other programs wrote.
    pub fn reconcile(&self) -> Result<(), StoreError> {
        let _walking = self.walking.lock();
        let generation = self.generation.load(Ordering::Acquire);
        let same = || self.generation.load(Ordering::Acquire) == generation;
        usage::reconcile(self, &*self.disk()?, same)?;
        *self.reconciled_at.lock() = Some(self.seams.clock.monotonic());
        self.usage_known.store(true, Ordering::Release);
        Ok(())
    }

    /// The figures, if they are known and not what was last saved.
    pub(crate) fn usage_to_save(&self) -> Option<Usage> {
        let now = self.usage_known.load(Ordering::Acquire).then(|| Usage { age_ms: None, ..usage::read(self) })?;
        let mut saved = self.usage_saved.lock();
        (saved.as_ref() != Some(&now)).then(|| saved.insert(now).clone())
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
        self.open_engines()?;
        self.engines()?.iter().try_for_each(|engine| engine.verify(task))
    }

    /// Close the engines, run `exchange`, and let the next call open them on what is there then.
    pub(crate) fn swap(&self, exchange: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let _changing = self.changing.lock();
        let engines = match &mut *self.state.write() {
            State::Open(engines) => {
                let disk = engines.disk.clone();
                std::mem::replace(engines, Engines::on(disk))
            }
            State::Closed => return Err(StoreError::Closed),
        };
        engines.all().iter().for_each(|engine| engine.close());
        let exchanged = exchange();
        let reopened = self.base_disk.subtree(&Layout::app(&self.name));
        let (state, reopened) = match reopened.map_err(|e| StoreError::io("open", &self.path, e)) {
            Ok(disk) => (State::Open(Engines::on(disk)), Ok(())),
            Err(error) => (State::Closed, Err(error)),
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        *self.state.write() = state;
        exchanged.and(reopened)
    }

    /// Cancel long work, close the engines. The lock stays until [`App::release`].
    pub(crate) fn close(&self) {
        let _turns = self.turns.end();
        let _changing = self.changing.lock();
        let state = std::mem::replace(&mut *self.state.write(), State::Closed);
        if let State::Open(engines) = state {
            for engine in engines.all() {
                engine.close();
                if let Some(bytes) = engine.bytes() {
                    self.ledger.set(engine.part(), bytes);
                }
            }
        }
    }

    /// Let another process own the app.
    pub(crate) fn release(&self) {
        *self.lock.lock() = None;
    }

    /// What `opened` finds among the engines, or what `open` makes of it.
    fn engine<T>(
        &self,
        opened: impl Fn(&Engines) -> Option<T>,
        open: impl FnOnce(&Arc<dyn Disk>) -> Result<T, StoreError>,
        keep: impl FnOnce(&mut Engines, &T),
    ) -> Result<T, StoreError> {
        let look = || match &*self.state.read() {
            State::Open(engines) => Ok((opened(engines), engines.disk.clone())),
            State::Closed => Err(StoreError::Closed),
        };
        if let (Some(found), _) = look()? {
            return Ok(found);
        }
        let _changing = self.changing.lock();
        let (found, disk) = look()?;
        if let Some(found) = found {
            return Ok(found);
        }
        let engine = open(&disk)?;
        if let State::Open(engines) = &mut *self.state.write() {
            keep(engines, &engine);
        }
        Ok(engine)
    }

    fn peek<T>(&self, look: impl FnOnce(&Engines) -> Option<T>) -> Option<T> {
        match &*self.state.read() {
            State::Open(engines) => look(engines),
            State::Closed => None,
        }
    }

    fn open_kv(&self, disk: &Arc<dyn Disk>) -> Result<Store, StoreError> {
        let dir = RelPath::literal("data/kv");
        let failed = |e| StoreError::io("open", self.path.join("data/kv"), e);
        create_dir_all(&**disk, &dir).map_err(failed)?;
        let tree = disk.subtree(&dir).map_err(failed)?;
        let options = macula_kv::Options { cache_bytes: self.options.kv_cache_bytes, ..Default::default() };
        let seams = &self.seams;
        Ok(Store::open(tree, self.gate.clone(), seams.clock.clone(), &*seams.chance, options)?)
    }

    fn open_sqlite(&self) -> Result<Arc<Database>, StoreError> {
        let path = self.path.join("data/app.db");
        let options = macula_sqlite::Options::default();
        Ok(Arc::new(Database::open(&path, self.gate.clone(), self.seams.clock.clone(), options)?))
    }

    fn open_files(&self, disk: &Arc<dyn Disk>) -> Result<Files, StoreError> {
        let data = disk.subtree(&RelPath::literal("data"));
        let data = data.map_err(|e| StoreError::io("open", self.path.join("data"), e))?;
        let seams = &self.seams;
        Ok(Files::open(data, self.gate.clone(), self.ledger.clone(), seams.clock.clone(), seams.chance.clone())?)
    }
}
