//! The handle of one app's database: what is shared by its threads, and the way in and out.
//!
//! Invariant: after [`Database::close`] returned, no thread and no connection of ours is left on the
//! file (a [`Pinned`] of the caller's excepted) and every accepted request has been answered.

use crate::connection::{Connection, Role};
use crate::feed::{Collector, Feed, Told};
use crate::hot::Hots;
use crate::queue::Queue;
use crate::request::{Owner, Patience, Reply, Request, Work};
use crate::rival::Rival;
use crate::stats::{Counters, Stats};
use crate::watch::Watch;
use crate::writer::{Begin, Job, Vacuum, Writer};
use crate::{bridge, guard, Cell, Options, Pinned, Rows, SqliteError, Transaction, Value};
use macula_core::{Cancel, Clock, Gate, Task};
use parking_lot::Mutex;
use std::ffi::CStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// What the threads of one database share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) writes: Queue<Job>,
    pub(crate) reads: Queue<Work>,
    pub(crate) hots: Hots,
    pub(crate) counters: Counters,
    pub(crate) feed: Feed,
    pub(crate) closing: Arc<AtomicBool>,
    /// Bytes that the write-ahead log held after the last commit.
    pub(crate) wal_bytes: Arc<AtomicU64>,
    poison: Arc<OnceLock<String>>,
}

impl Shared {
    pub(crate) fn poison(&self, why: String) {
        // the first reason is the one that matters
        let _ = self.poison.set(why);
    }

    pub(crate) fn poisoned(&self) -> Option<SqliteError> {
        self.poison.get().map(|why| SqliteError::Poisoned(why.clone()))
    }

    pub(crate) fn closing_error(&self) -> Option<SqliteError> {
        self.closing.load(Ordering::Acquire).then_some(CLOSED)
    }

    pub(crate) fn sweep(&self, now: Duration) {
        self.writes.sweep(now);
    }
}

const CLOSED: SqliteError = SqliteError::Closed("the database was closed");

/// An open database. Dropping it closes it, which waits for its threads.
pub struct Database {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

impl Database {
    /// Open, creating the file (mode 0600) when there is none; its directory must be there. `path` is
    /// absolute and crosses no symlink. Blocks on the disk. Errors: [`SqliteError::OpenedByOther`],
    /// [`SqliteError::Corrupt`] (the file is not touched), [`SqliteError::Unlogged`],
    /// [`SqliteError::Invalid`], input and output.
    pub fn open(path: &Path, gate: Arc<Gate>, clock: Arc<dyn Clock>, options: Options) -> Result<Self, SqliteError> {
        if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
            return Err(SqliteError::invalid(format!("not an absolute path, got path={}", path.display())));
        }
        // for all its life: a file is never open past the bridge and through it
        let options = Options { vfs: bridge::beneath(options.vfs), ..options };
        refuse_in_the_way(path, options.vfs)?;
        crate::backup::create(path).or_else(|error| match error {
            SqliteError::Exists(_) => Ok(()),
            error => Err(error),
        })?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            gate,
            feed: Feed::new(clock.wall_ms()),
            clock,
            writes: Queue::new(options.queue_len_max),
            reads: Queue::new(options.queue_len_max),
            counters: Counters::default(),
            hots: Hots::new(options.reader_count, options.vfs),
            closing: Arc::default(),
            wal_bytes: Arc::default(),
            poison: Arc::default(),
            options,
        });
        let connection = open_writer(&shared)?;
        if let Some(file) = path.to_str().and_then(crate::registry::file_id) {
            crate::registry::enter(file, &shared);
        }
        let rival = Rival::new(path, shared.options.vfs, shared.clock.monotonic());
        let writer = Writer {
            connection,
            shared: shared.clone(),
            rival,
            committed: true,
            log_checkpointed: 0,
            log_is_durable: false,
            collector: Collector::default(),
        };
        let thread = spawn("macula-sql-w", path, move || writer.run())?;
        let threads = Threads { writer: Some(thread), readers: Vec::new() };
        let database = Self { shared, threads: Mutex::new(threads) };
        // the first reader is there before the first read: a failure to start it can be returned here
        database.start_reader()?;
        Ok(database)
    }

    /// Queue a request; never waits. Refusals (`Busy`, `Closed`, `Poisoned`, `Invalid`, `Refused`) are
    /// returned and `reply` is not called; otherwise it is called once, from a thread of ours.
    pub fn submit(
        &self,
        request: Request,
        reply: impl FnOnce(Result<Rows, SqliteError>) + Send + 'static,
    ) -> Result<(), SqliteError> {
        let keyword = crate::sql::admit(&request)?;
        self.usable()?;
        let reads = request.also.is_empty() && crate::sql::looks_read_only(&request.sql, keyword.as_deref());
        let patience = Patience::new(&*self.shared.clock, request.deadline, request.cancel.clone());
        let work = Work { request, patience, reply: Reply::new(Box::new(reply)) };
        if !reads {
            return self.shared.writes.push(Job::Run(work)).map(|_| ());
        }
        if self.shared.reads.push(work)? > 0 {
            // without one more, those that are there take their time
            let _ = self.start_reader();
        }
        Ok(())
    }

    /// Answer a short read at once, on this thread, from memory; `None` when that cannot be, or not yet:
    /// then what `row` got is to be forgotten, and [`Database::submit`] answers. Never waits.
    pub fn query_hot(
        &self,
        sql: &str,
        params: &[Value],
        row: impl FnMut(&mut dyn DoubleEndedIterator<Item = Cell<'_>>),
    ) -> Option<Rows> {
        self.usable().ok()?;
        let found = self.shared.hots.query(sql, params, row);
        self.shared.counters.hot(found.is_some());
        found
    }

    /// [`Database::submit`], waiting for the answer. For threads that may wait.
    pub fn run(&self, request: Request) -> Result<Rows, SqliteError> {
        wait(|reply| self.submit(request, reply))
    }

    /// Begin an interactive transaction when its turn comes. `deadline` counts from here to its end;
    /// `owner` cancels it, waiting or begun. Never waits.
    pub fn begin(
        &self,
        deadline: Duration,
        owner: impl Into<Owner>,
        reply: impl FnOnce(Result<Transaction, SqliteError>) + Send + 'static,
    ) -> Result<(), SqliteError> {
        self.usable()?;
        let Owner { gone, who } = owner.into();
        let patience = Patience::new(&*self.shared.clock, Some(deadline), gone);
        let begin = Begin { patience, who, reply: Reply::new(Box::new(reply)) };
        self.shared.writes.push(Job::Begin(begin)).map(|_| ())
    }

    /// [`Database::begin`], waiting for the answer. For threads that may wait.
    pub fn transaction(&self, deadline: Duration, owner: Cancel) -> Result<Transaction, SqliteError> {
        wait(|reply| self.begin(deadline, owner, reply))
    }

    /// A snapshot of this instant, to be copied at leisure. Costs opening one connection, whatever the
    /// database holds; under a closed gate it is the instant of all engines.
    pub fn pin(&self) -> Result<Pinned, SqliteError> {
        self.usable()?;
        refuse_in_the_way(&self.shared.path, self.shared.options.vfs)?;
        Pinned::of(&self.shared.path, Role::Reader, &self.shared.clock, &self.shared.options, &Cancel::new())
    }

    /// Copy the database as of now into a new file at `dest`; writers go on. Returns its size in
    /// bytes. [`SqliteError::Exists`] when something is there.
    pub fn backup(&self, dest: &Path, task: &Task) -> Result<u64, SqliteError> {
        self.pin()?.copy_to(dest, task)
    }

    /// `PRAGMA integrity_check` on a snapshot: `Corrupt` with the first finding. Reads everything.
    pub fn check(&self, cancel: &Cancel) -> Result<(), SqliteError> {
        self.usable()?;
        let (path, options) = (&self.shared.path, &self.shared.options);
        refuse_in_the_way(path, options.vfs)?;
        Pinned::of(path, Role::Reader, &self.shared.clock, options, cancel)?.check()
    }

    /// Call `tell` for every request that is committed from now on and changes rows of `table`, or of any;
    /// after the commit is durable, in the order of commits, from the thread that commits; the same of a
    /// transaction of a low-level connection. Answers what [`Database::unsubscribe`] takes, and the revision
    /// after which it begins.
    pub fn subscribe(
        &self,
        table: Option<String>,
        images: bool,
        tell: impl FnMut(Told<'_>) -> bool + Send + 'static,
    ) -> Result<(u64, u64), SqliteError> {
        self.usable()?;
        Ok(self.shared.feed.subscribe(table, images, Box::new(tell)))
    }

    /// Call it no more. May wait for a call that is under way.
    pub fn unsubscribe(&self, id: u64) {
        self.shared.feed.unsubscribe(id);
    }

    /// What it can tell of itself.
    pub fn stats(&self) -> Stats {
        self.shared.stats(self.bytes())
    }

    /// Rewrite the file without what was deleted, holding the writer meanwhile; readers go on. Needs twice
    /// the room of what is kept. Refusals are returned; never waits.
    pub fn vacuum(
        &self,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<(), SqliteError>) + Send + 'static,
    ) -> Result<(), SqliteError> {
        self.usable()?;
        let patience = Patience::new(&*self.shared.clock, deadline, cancel);
        let vacuum = Vacuum { patience, reply: Reply::new(Box::new(reply)) };
        self.shared.writes.push(Job::Vacuum(vacuum)).map(|_| ())
    }

    /// Bytes of the database file and of what SQLite keeps beside it, by `stat`.
    pub fn bytes(&self) -> u64 {
        // stat opens nothing: the locks are safe
        let len = |path: &Path| std::fs::symlink_metadata(path).map_or(0, |meta| meta.len());
        len(&self.shared.path) + guard::companions(&self.shared.path).iter().map(|path| len(path)).sum::<u64>()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Close: what waits is answered `Closed`, what runs is interrupted (a commit under way is
    /// finished), the log is written back, so that only the database file remains. Waits for our
    /// threads; again is fine. A reply that calls it does not wait for its own thread.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        let inside = Inside::enter();
        self.shared.reads.close(CLOSED);
        // held over the joins, so that a second close returns when the first is done; but a reply that
        // closes, from a thread that is being joined or from this very call, must not wait for it
        let threads = if inside.before { self.threads.try_lock() } else { Some(self.threads.lock()) };
        let Some(mut threads) = threads else { return };
        std::mem::take(&mut threads.readers).into_iter().for_each(join);
        self.shared.hots.close();
        // only now the writer's end, since its connection, which tidies up, must be the last one
        self.shared.writes.close(CLOSED);
        threads.writer.take().into_iter().for_each(join);
        self.shared.feed.close();
    }

    fn usable(&self) -> Result<(), SqliteError> {
        self.shared.closing_error().or_else(|| self.shared.poisoned()).map_or(Ok(()), Err)
    }

    /// One more reader, if there may be one.
    fn start_reader(&self) -> Result<(), SqliteError> {
        // when it is taken somebody starts one, or closes
        let Some(mut threads) = self.threads.try_lock() else { return Ok(()) };
        if threads.readers.len() < self.shared.options.reader_count.max(1) && threads.writer.is_some() {
            let shared = self.shared.clone();
            threads.readers.push(spawn("macula-sql-r", &self.shared.path, move || crate::reader::run(&shared))?);
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// [`SqliteError::OpenedByOther`] when code of this process has it open that a connection on this VFS
/// would harm.
pub(crate) fn refuse_in_the_way(path: &Path, vfs: &CStr) -> Result<(), SqliteError> {
    match guard::is_in_the_way(path, vfs) {
        Ok(false) => Ok(()),
        Ok(true) => Err(SqliteError::OpenedByOther(path.to_owned())),
        Err(error) => Err(SqliteError::io(&error, path)),
    }
}

/// Call something that answers by a callback, and wait for the answer.
pub(crate) fn wait<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, SqliteError>) + Send>) -> Result<(), SqliteError>,
) -> Result<T, SqliteError> {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    ask(Box::new(move |result| {
        // nobody waits any more only if this thread is gone
        let _ = answer.send(result);
    }))?;
    answered.recv().unwrap_or_else(|_| Err(SqliteError::Internal("no answer".to_owned())))
}

fn open_writer(shared: &Arc<Shared>) -> Result<Connection, SqliteError> {
    let behind = Arc::downgrade(shared);
    let tick = Box::new(move |now| {
        if let Some(shared) = behind.upgrade() {
            shared.sweep(now);
        }
    });
    let watch = Watch::new(shared.clock.clone(), shared.closing.clone(), tick);
    let mut connection = Connection::open(&shared.path, Role::Writer, &shared.options, watch)?;
    connection.poison = Some(shared.poison.clone());
    let page_bytes: u64 = connection
        .sql
        .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))
        .map_or(4096, |bytes| bytes.unsigned_abs());
    let wal_bytes = shared.wal_bytes.clone();
    let record = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        wal_bytes.store(u64::from(pages.unsigned_abs()) * page_bytes, Ordering::Relaxed);
        Ok(())
    };
    connection.sql.wal_hook(Some(record)).map_err(crate::error::classify)?;
    Ok(connection)
}

thread_local! {
    static INSIDE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// While it lives, what runs on this thread may be a reply called by us: a thread of some database, or
/// a caller that is closing one.
struct Inside {
    before: bool,
}

impl Inside {
    fn enter() -> Self {
        Self { before: INSIDE.replace(true) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

fn join(handle: JoinHandle<()>) {
    if handle.thread().id() != std::thread::current().id() {
        // an error is a panic that the thread could not catch; there is nothing left to stop
        let _ = handle.join();
    }
}

fn spawn(name: &str, path: &Path, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SqliteError> {
    let marked = || {
        let _inside = Inside::enter();
        run();
    };
    Builder::new().name(name.to_owned()).spawn(marked).map_err(|error| SqliteError::io(&error, path))
}
