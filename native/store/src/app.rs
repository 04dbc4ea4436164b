//! An app that this process owns: its lock, its gate, its ledger, its engines.
//!
//! Engines are opened on first use and closed together: at the app's end, and for the moment in
//! which a restore exchanges the directories. A handle taken before that answers `Closed`; asking
//! the app again gives the engine on the restored data.
//! Invariant: nothing is written to a tree of which it is not certain that it is the app's.

use crate::backup::Partial;
use crate::engine::{Engine, Pinned};
use crate::lock::OwnerLock;
use crate::plain::unless_gone;
use crate::restore::machine_dir;
use crate::turns::{Turns, LOOK};
use crate::usage::{self, Known};
use crate::{Base, Layout, Options, Seams, StoreError, Usage};
use crossbeam_channel::{bounded, Receiver, RecvTimeoutError};
use macula_core::{create_dir_all, AppName, Cancel, Disk, Gate, Ledger, Part, RelPath, SystemChance, Task};
use macula_files::Files;
use macula_kv::Store;
use macula_sqlite::Database;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a question for the usage waits for the first walk of an app without a record.
const FIRST_WALK_WAIT: Duration = Duration::from_secs(2);

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
    /// Whether the figures are of a clean end, or of a walk since.
    usage_fresh: AtomicBool,
    usage_saved: Mutex<Option<(Usage, bool)>>,
    walking: Mutex<()>,
    first_walk: Mutex<Option<FirstWalk>>,
    /// Ends walks, which nobody waits for.
    closing: Cancel,
    /// Grows with each exchange of the app's directory.
    generation: AtomicU64,
    turns: Turns,
}

/// The walk that begins when the app is opened, where its usage is not known for sure.
#[derive(Debug)]
struct FirstWalk {
    thread: JoinHandle<()>,
    /// Hears the end of it, and nothing else.
    ended: Receiver<()>,
}

#[derive(Debug)]
enum State {
    Open(Engines),
    Closed,
    /// Only the next opening knows which tree is the app's: nothing may be written until then.
    Poisoned,
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
            changing: Mutex::new(()),
            state: RwLock::new(State::Open(Engines::on(disk))),
            reconciled_at: Mutex::new(None),
            usage_known: AtomicBool::new(known != Known::Nothing),
            usage_fresh: AtomicBool::new(known == Known::Clean),
            usage_saved: Mutex::new(None),
            walking: Mutex::new(()),
            first_walk: Mutex::new(None),
            closing: Cancel::new(),
            generation: AtomicU64::new(0),
            turns: Turns::default(),
        });
        if known != Known::Clean {
            app.begin_first_walk();
        }
        Ok(app)
    }

    /// Count now, beside whoever uses the app: what is known of its usage is old, or nothing.
    fn begin_first_walk(self: &Arc<Self>) {
        let (app, (running, ended)) = (self.clone(), bounded(0));
        let thread = std::thread::Builder::new().name("macula-walk".into()).spawn(move || {
            // what fails here comes with the next walk
            let _ = app.reconcile();
            drop(running);
        });
        *self.first_walk.lock() = thread.ok().map(|thread| FirstWalk { thread, ended });
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
        let partial = Partial::new(&dir, &name, &SystemChance)?;
        database.backup(&dest.with_file_name(partial.path().as_path()), task)?;
        partial.publish(&name, overwrite).map_err(|e| StoreError::io("name", dest, e))
    }

    /// Bytes by part.
    ///
    /// An app without a record is walked when it is opened: this waits for that walk, but not longer
    /// than two seconds, and gives what is known by then.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let is_known = || self.usage_known.load(Ordering::Acquire);
        let first_walk = self.first_walk.lock().as_ref().map(|walk| walk.ended.clone());
        if let (false, Some(ended)) = (is_known(), first_walk) {
            if ended.recv_timeout(FIRST_WALK_WAIT) == Err(RecvTimeoutError::Timeout) {
                return Ok(usage::read(self));
            }
        }
        if !is_known() {
            // the first walk failed, and this one says why; or somebody walks already
            if let Some(walking) = self.walking.try_lock_for(FIRST_WALK_WAIT) {
                if !is_known() {
                    self.walk(&walking, &Cancel::new())?;
                }
            }
        }
        Ok(usage::read(self))
    }

    /// Walk the tree and correct the ledger by what other programs wrote.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the app is being closed.
    pub fn reconcile(&self) -> Result<(), StoreError> {
        self.reconcile_for(&Task::quiet())
    }

    /// As [`App::reconcile`], for a caller who may give up.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when it did.
    pub fn reconcile_for(&self, task: &Task) -> Result<(), StoreError> {
        let walking = loop {
            match self.walking.try_lock_for(LOOK) {
                Some(walking) => break walking,
                None if task.cancel.is_cancelled() => return Err(StoreError::Cancelled),
                None => {}
            }
        };
        self.walk(&walking, &task.cancel)
    }

    fn walk(&self, _walking: &MutexGuard<'_, ()>, cancel: &Cancel) -> Result<(), StoreError> {
        let generation = self.generation.load(Ordering::Acquire);
        let disk = self.disk()?;
        let same = || self.generation.load(Ordering::Acquire) == generation;
        let stop = || cancel.is_cancelled() || self.closing.is_cancelled() || !same();
        if !usage::reconcile(self, &*disk, &stop)? {
            if self.closing.is_cancelled() {
                return Err(StoreError::Closed);
            }
            // a tree that was replaced meanwhile is counted by whoever replaced it
            return if cancel.is_cancelled() { Err(StoreError::Cancelled) } else { Ok(()) };
        }
        *self.reconciled_at.lock() = Some(self.seams.clock.monotonic());
        self.usage_known.store(true, Ordering::Release);
        self.usage_fresh.store(true, Ordering::Release);
        Ok(())
    }

    /// The figures, and whether they are those of a clean end, if they are known and not what was last
    /// saved.
    pub(crate) fn usage_to_save(&self, closed: bool) -> Option<(Usage, bool)> {
        let now = self.usage_known.load(Ordering::Acquire).then(|| Usage { age_ms: None, ..usage::read(self) })?;
        let now = (now, closed && self.usage_fresh.load(Ordering::Acquire));
        let mut saved = self.usage_saved.lock();
        (saved.as_ref() != Some(&now)).then(|| saved.insert(now).clone())
    }

    /// Whether the figures are more than an old record's.
    pub(crate) fn usage_is_fresh(&self) -> bool {
        self.usage_fresh.load(Ordering::Acquire)
    }

    /// Whether long work in the background is to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// End what runs in the background and nobody waits for.
    pub(crate) fn end_background(&self) {
        self.closing.cancel();
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
            State::Closed | State::Poisoned => return Err(StoreError::Closed),
        };
        engines.all().iter().for_each(|engine| engine.close());
        let exchanged = exchange();
        let state = match (&exchanged, self.base_disk.subtree(&Layout::app(&self.name))) {
            (Err(StoreError::Unknown(_)), _) => State::Poisoned,
            (_, Ok(disk)) => State::Open(Engines::on(disk)),
            // what was decided is durable, so the answer is that of the exchange; the next use opens
            // the app anew, and is told what keeps its directory from being opened
            (_, Err(_)) => State::Poisoned,
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        // the figures are of the tree before
        self.usage_fresh.store(false, Ordering::Release);
        *self.state.write() = state;
        exchanged
    }

    /// Whether only another opening can tell which tree is the app's.
    pub(crate) fn is_poisoned(&self) -> bool {
        matches!(&*self.state.read(), State::Poisoned)
    }

    /// Keep the app's directory where it is until the guard is dropped.
    pub(crate) fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Cancel long work, close the engines. The lock stays until [`App::release`].
    pub(crate) fn close(&self) {
        self.closing.cancel();
        let first_walk = self.first_walk.lock().take();
        if let Some(walk) = first_walk {
            // it answers nobody: a panic in it is no reason not to close
            let _ = walk.thread.join();
        }
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
            State::Closed | State::Poisoned => Err(StoreError::Closed),
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
            State::Closed | State::Poisoned => None,
        }
    }

    fn open_kv(&self, disk: &Arc<dyn Disk>) -> Result<Store, StoreError> {
        let dir = RelPath::literal("data/kv");
        let failed = |e| StoreError::io("open", self.path.join("data/kv"), e);
        create_dir_all(&**disk, &dir).map_err(failed)?;
        let tree = disk.subtree(&dir).map_err(failed)?;
        Ok(Store::open(self.seams.kv(tree, self.gate.clone()), self.options.kv.clone())?)
    }

    fn open_sqlite(&self) -> Result<Arc<Database>, StoreError> {
        let path = self.path.join("data/app.db");
        let options = self.options.sqlite.clone();
        Ok(Arc::new(Database::open(&path, self.gate.clone(), self.seams.clock.clone(), options)?))
    }

    fn open_files(&self, disk: &Arc<dyn Disk>) -> Result<Files, StoreError> {
        let data = disk.subtree(&RelPath::literal("data"));
        let data = data.map_err(|e| StoreError::io("open", self.path.join("data"), e))?;
        let seams = &self.seams;
        Ok(Files::open(data, self.gate.clone(), self.ledger.clone(), seams.clock.clone(), seams.chance.clone())?)
    }
}
