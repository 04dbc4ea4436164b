//! A connection: who works on it, what waits for it, and how it ends.
//!
//! Invariant: its [`Session`] is used under its lock only, by one job at a time on a thread of ours, or by
//! [`Conn::hot`] on the caller's when nobody holds it. After [`Conn::close`] every call answers `Closed`.
//! Dropping a statement takes no lock: whoever holds the session next lets go of it.

use super::session::Facts;
use super::{crew, OpenMode, Session, Sqlite3Error};
use crate::request::{Patience, Who};
use crate::watch::Watch;
use crate::Failure;
use crossbeam_channel::{unbounded, Receiver, Sender};
use macula_core::{Cancel, Clock};
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Calls that may wait for one connection.
const QUEUE_LEN_MAX: usize = 1024;
/// As exqlite's.
const LOCK_WAIT_MS: u64 = 2_000;

/// How often who waits for a session looks whether it shall go on waiting.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Work on a connection, told when it cannot be done.
pub type Job = Box<dyn FnOnce(Result<&mut Session, Sqlite3Error>) + Send>;

/// An open connection. Dropped, it closes; that may wait for the disk.
pub struct Conn {
    me: Weak<Conn>,
    session: Mutex<Option<Session>>,
    jobs: Mutex<Jobs>,
    closing: Arc<AtomicBool>,
    pub(super) watch: Arc<Watch>,
    released: (Sender<u64>, Receiver<u64>),
    facts: Facts,
    lock_wait_ms: AtomicU64,
    who: OnceLock<Who>,
    stmt_count: AtomicU64,
    interrupts: AtomicU64,
    /// Nothing of it is answered on a scheduler: what it reads through a bridge waits, or functions take long.
    pub(super) is_cold: AtomicBool,
    /// A copy of another database is being put in its place, which holds it.
    pub(super) is_replaced: AtomicBool,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<(Patience, Job)>,
    /// A thread works through them.
    served: bool,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").finish_non_exhaustive()
    }
}

impl Conn {
    /// Open on a thread of ours and hand the connection to `reply`. Fails, `reply` not called, when the
    /// system gives no thread.
    pub fn open(
        path: String,
        mode: OpenMode,
        clock: Arc<dyn Clock>,
        reply: impl FnOnce(Result<Arc<Self>, Sqlite3Error>) + Send + 'static,
    ) -> Result<(), Sqlite3Error> {
        let open = move || reply(Self::open_now(&path, mode, clock));
        crew::run(open).map_err(no_thread)
    }

    pub(super) fn open_now(path: &str, mode: OpenMode, clock: Arc<dyn Clock>) -> Result<Arc<Self>, Sqlite3Error> {
        let opened = Self::open_file(path, mode)?;
        let is_bridged = opened.crossing.is_some();
        let closing = Arc::<AtomicBool>::default();
        let watch = Watch::new(clock.clone(), closing.clone(), Box::new(|_| {}));
        let session = Session::new(opened, watch.clone(), clock.clone())?;
        let facts = session.facts();
        let conn = |me: &Weak<Self>| {
            let mut session = session;
            session.set_conn(me.clone());
            Self {
                me: me.clone(),
                session: Mutex::new(Some(session)),
                jobs: Mutex::default(),
                closing,
                watch,
                released: unbounded(),
                facts,
                lock_wait_ms: AtomicU64::new(LOCK_WAIT_MS),
                who: OnceLock::new(),
                stmt_count: AtomicU64::new(0),
                interrupts: AtomicU64::new(0),
                is_cold: AtomicBool::new(is_bridged),
                is_replaced: AtomicBool::new(false),
                clock,
            }
        };
        Ok(Arc::new_cyclic(conn))
    }

    /// Queue a job; it is called once, from a thread of ours, with the session or with why not. Refusals
    /// (`Busy`, `Closed`, no thread) are returned and the job is not called. Never waits.
    pub fn run(&self, cancel: Cancel, job: Job) -> Result<(), Sqlite3Error> {
        if self.is_closed() {
            return Err(Sqlite3Error::Closed);
        }
        let patience = Patience::new(&*self.clock, None, cancel);
        let mut jobs = self.jobs.lock();
        if jobs.waiting.len() >= QUEUE_LEN_MAX {
            return Err(Sqlite3Error::Busy);
        }
        jobs.waiting.push_back((patience, job));
        if jobs.served {
            return Ok(());
        }
        let Some(me) = self.me.upgrade() else { return Err(Sqlite3Error::Closed) };
        match crew::run(move || me.serve()) {
            Ok(()) => {
                jobs.served = true;
                Ok(())
            }
            Err(error) => {
                // dropped uncalled, which its caller is told by the error
                drop(jobs.waiting.pop_back());
                Err(no_thread(error))
            }
        }
    }

    /// Do at once what memory can answer: `None` when somebody holds the session, or `act` declines. What
    /// SQLite does in it is stopped after some thousand steps and where it would wait for a disk or lock:
    /// it then fails, and `act` declines.
    pub fn hot<T>(&self, act: impl FnOnce(&mut Session) -> Option<T>) -> Option<T> {
        if self.is_closed() || self.is_cold.load(Ordering::Acquire) {
            return None;
        }
        let mut held = self.session.try_lock()?;
        let session = held.as_mut()?;
        self.watch.begin_hot();
        let done = crate::syscalls::without_waiting(|| act(session));
        self.watch.end();
        session.finish();
        drop(held);
        self.let_go();
        done
    }

    /// Close: what runs is interrupted, what waits answered `Closed`, an open transaction rolled back.
    /// `reply` is called when the file is closed. Again is fine.
    pub fn close(&self, reply: impl FnOnce() + Send + 'static) -> Result<(), Sqlite3Error> {
        self.closing.store(true, Ordering::Release);
        self.watch.interrupt();
        let Some(me) = self.me.upgrade() else {
            reply();
            return Ok(());
        };
        let close = move || {
            // dropped under the lock: a copy from it touches its destination until then
            *me.session.lock() = None;
            reply();
        };
        crew::run(close).map_err(no_thread)
    }

    /// Stop what runs now, a wait for a lock included, and the statements that have rows left; without effect
    /// when there is neither.
    pub fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::Release);
        if self.watch.interrupt() {
            return;
        }
        // who holds it between two works is done at once
        if let Some(session) = self.session.try_lock().as_deref().and_then(Option::as_ref) {
            session.interrupt();
        }
    }

    /// How often it was interrupted.
    pub(super) fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::Acquire)
    }

    /// How long a step waits for a lock that another OS process, or another file's connection, holds.
    pub fn set_lock_wait(&self, wait: Duration) {
        self.lock_wait_ms.store(wait.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whose it is, for the app's [`crate::Stats`] while it has the turn.
    pub fn set_who(&self, who: Who) {
        // whose it was first
        let _ = self.who.set(who);
    }

    pub(crate) fn who(&self) -> Option<Who> {
        self.who.get().cloned()
    }

    /// What the last call left: rows changed, row id of the last insert, whether a transaction is open.
    pub fn facts(&self) -> (u64, i64, bool) {
        self.facts.read()
    }

    /// What the last call that failed left.
    pub fn last_failure(&self) -> Option<Failure> {
        self.facts.last_failure()
    }

    /// Why a call failed that needed no session, for [`Conn::last_failure`].
    pub fn note(&self, error: &Sqlite3Error) {
        self.facts.note(error.failure());
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Work on it between its jobs; waits, on a thread of ours, for whoever holds it.
    pub(super) fn between<T>(
        &self,
        cancel: &Cancel,
        work: impl FnOnce(&mut Session) -> Result<T, Sqlite3Error>,
    ) -> Result<T, Sqlite3Error> {
        let mut held = loop {
            if self.is_closed() {
                return Err(Sqlite3Error::Closed);
            }
            if cancel.is_cancelled() {
                return Err(Sqlite3Error::Cancelled);
            }
            if self.is_replaced.load(Ordering::Acquire) {
                return Err(Sqlite3Error::code(ffi::SQLITE_BUSY));
            }
            if let Some(held) = self.session.try_lock_for(LOCK_LOOK) {
                break held;
            }
        };
        let Some(session) = held.as_mut() else { return Err(Sqlite3Error::Closed) };
        let patience = Patience::new(&*self.clock, None, cancel.clone());
        session.begin(patience.clone());
        self.watch.begin(patience, self.lock_wait());
        let done = catch_unwind(AssertUnwindSafe(|| work(session)));
        if self.watch.end() {
            session.interrupt();
        }
        session.finish();
        drop(held);
        self.let_go();
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Finish a copy, also of a connection that is being closed: what is in the session is dropped later.
    pub(super) fn end_copy(&self, copy: u64) {
        if let Some(session) = self.session.lock().as_mut() {
            session.copies.remove(&copy);
        }
        self.let_go();
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn lock_wait(&self) -> Duration {
        Duration::from_millis(self.lock_wait_ms.load(Ordering::Relaxed))
    }

    pub(super) fn next_stmt(&self) -> u64 {
        self.stmt_count.fetch_add(1, Ordering::Relaxed)
    }

    /// Close a blob handle as soon as nobody works on the connection: that may commit, so a thread of ours
    /// does it.
    pub(super) fn close_blob_later(&self, blob: u64) {
        let close = move |session: Result<&mut Session, Sqlite3Error>| {
            // of a closed connection, it is closed; whoever wants to hear of a failure closes it himself
            let _ = session.and_then(|session| session.close_blob(blob));
        };
        if self.run(Cancel::new(), Box::new(close)).is_err() {
            self.release(blob);
        }
    }

    /// Let go of a statement, now or when whoever holds the session is done.
    pub(super) fn release(&self, stmt: u64) {
        // both ends of the channel are ours
        let _ = self.released.0.send(stmt);
        self.let_go();
    }

    /// How long nobody has worked on it.
    pub(super) fn idle_for(&self, now: Duration) -> Duration {
        match self.session.is_locked() {
            true => Duration::ZERO,
            false => now.saturating_sub(self.facts.finished()),
        }
    }

    /// Take the app's turn back: stop what runs, roll back; looks after what `waits` meanwhile.
    pub(super) fn take_back(&self, why: &'static str, waits: impl Fn()) {
        let mut held = loop {
            // again, since more may begin before we have it
            self.watch.interrupt();
            match self.session.try_lock_for(LOCK_LOOK) {
                Some(held) => break held,
                None => waits(),
            }
        };
        if let Some(session) = held.as_mut() {
            session.undo(why);
            session.finish();
        }
    }

    fn serve(&self) {
        loop {
            let next = {
                let mut jobs = self.jobs.lock();
                let next = jobs.waiting.pop_front();
                jobs.served = next.is_some();
                next
            };
            let Some((patience, job)) = next else { return };
            self.serve_one(patience, job);
            self.let_go();
        }
    }

    fn serve_one(&self, patience: Patience, job: Job) {
        let mut held = self.session.lock();
        let Some(session) = held.as_mut().filter(|_| !self.is_closed()) else {
            drop(held);
            return job(Err(Sqlite3Error::Closed));
        };
        if patience.verdict(self.clock.monotonic(), "waiting for its turn").is_some() {
            return job(Err(Sqlite3Error::Cancelled));
        }
        session.begin(patience.clone());
        self.watch.begin(patience, self.lock_wait());
        let worked = catch_unwind(AssertUnwindSafe(|| job(Ok(session))));
        if self.watch.end() {
            session.interrupt();
        }
        match worked {
            Ok(()) => session.finish(),
            // nobody knows what it left behind
            Err(_) => {
                self.closing.store(true, Ordering::Release);
                *held = None;
            }
        }
    }

    /// Finalize what was released. Tried again after every use of the session, so that either its holder
    /// or this call finds it.
    fn let_go(&self) {
        while !self.released.1.is_empty() {
            let Some(mut held) = self.session.try_lock() else { return };
            let mut commits = Vec::new();
            while let Ok(id) = self.released.1.try_recv() {
                match held.as_mut() {
                    Some(session) if session.commits_when_released(id) => commits.push(id),
                    Some(session) => session.release(id),
                    None => {}
                }
            }
            if let Some(session) = held.as_mut() {
                session.finish();
            }
            drop(held);
            // this may be a scheduler of the VM, which waits for no disk
            let refused = commits.into_iter().filter(|id| !self.release_later(*id)).collect::<Vec<_>>();
            for id in &refused {
                // its queue is full: tried again after the next job; both ends of the channel are ours
                let _ = self.released.0.send(*id);
            }
            if !refused.is_empty() {
                return;
            }
        }
    }

    /// Reset a statement that commits by that; one that cannot be queued is reset by its next step.
    pub(super) fn reset_later(&self, id: u64) {
        let reset = move |session: Result<&mut Session, Sqlite3Error>| {
            // of a closed connection it is gone
            let _ = session.map(|session| session.reset_writing(id));
        };
        let _ = self.run(Cancel::new(), Box::new(reset));
    }

    fn release_later(&self, id: u64) -> bool {
        let release = move |session: Result<&mut Session, Sqlite3Error>| {
            // of a closed connection it is gone
            let _ = session.map(|session| session.release(id));
        };
        self.run(Cancel::new(), Box::new(release)).is_ok()
    }
}

fn no_thread(error: std::io::Error) -> Sqlite3Error {
    crate::SqliteError::Internal(format!("no thread could be started: {error}")).into()
}
