//! The threads that all stores of a process share: some write, some drain, some tell subscribers, one
//! keeps time.
//!
//! Invariant: a store has at most one writing task and one draining task here at a time, so the
//! queues are as long as there are stores. A panic in a task costs no thread.

use crate::tasks::{tasks, Tasks, Work};
use crossbeam_channel::{unbounded, Receiver, RecvTimeoutError, Sender};
use macula_core::Clock;
use parking_lot::Mutex;
use std::any::Any;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Threads that tell subscribers, where there are any that drain.
const TELLERS: usize = 2;

/// Some 100 us of work.
const COURTESY_KEYS: u32 = 32;

/// The threads. Clones share them; they end with [`Threads::stop`], or when nobody has them.
#[derive(Clone)]
pub struct Threads(Arc<Inner>);

struct Inner {
    writers: Mutex<Option<Tasks>>,
    /// `None`: whoever asks for a drain does it.
    drains: Mutex<Option<Tasks>>,
    /// `None`: nothing is compacted without being asked.
    compacts: Mutex<Option<Tasks>>,
    /// As the drains.
    tellers: Mutex<Option<Tasks>>,
    alarms: Mutex<Option<Sender<Alarm>>>,
    /// Memory of all stores that is not drained, bytes.
    waiting_bytes: AtomicUsize,
    joins: Mutex<Vec<JoinHandle<()>>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

impl Threads {
    /// `writers` threads that sync, `drains` that bring what was written into place; without any of
    /// those, draining is done at once by who asks for it (in tests, where each operation counts).
    pub fn start(writers: usize, drains: usize, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let mut joins = Vec::new();
        let writers = pool("macula-kv", writers.max(1), &mut joins)?;
        let drains = (drains > 0).then(|| pool("macula-kv-drain", drains, &mut joins)).transpose()?;
        let compacts = match drains {
            Some(_) => Some(pool("macula-kv-pack", 1, &mut joins)?),
            None => None,
        };
        let tellers = drains.is_some().then(|| pool("macula-kv-tell", TELLERS, &mut joins)).transpose()?;
        let (alarms, rings) = unbounded();
        let time = clock.clone();
        joins.push(spawn("macula-kv-time", move || keep_time(&*time, &rings))?);
        let (writers, alarms) = (Mutex::new(Some(writers)), Mutex::new(Some(alarms)));
        let (drains, compacts, tellers) = (Mutex::new(drains), Mutex::new(compacts), Mutex::new(tellers));
        let joins = Mutex::new(joins);
        let waiting_bytes = AtomicUsize::new(0);
        Ok(Self(Arc::new(Inner { writers, drains, compacts, tellers, alarms, waiting_bytes, joins, clock })))
    }

    /// Let a store write.
    pub(crate) fn write(&self, work: impl FnOnce() + Send + 'static) {
        send(&self.0.writers, Box::new(work));
    }

    /// Whether another store waits for its turn to write.
    pub(crate) fn has_waiting_writers(&self) -> bool {
        self.0.writers.lock().as_ref().is_some_and(|writers| !writers.is_empty())
    }

    /// Let a subscriber be told something.
    pub(crate) fn tell(&self, work: impl FnOnce() + Send + 'static) {
        send(&self.0.tellers, Box::new(work));
    }

    /// Whether another subscriber waits for its turn to be told.
    pub(crate) fn has_waiting_tellers(&self) -> bool {
        self.0.tellers.lock().as_ref().is_some_and(|tellers| !tellers.is_empty())
    }

    /// Work that nobody waits for.
    pub(crate) fn drain(&self, work: impl FnOnce() + Send + 'static) {
        send(&self.0.drains, Box::new(work));
    }

    /// Whether other work waits for those who drain.
    pub(crate) fn has_waiting_drains(&self) -> bool {
        self.0.drains.lock().as_ref().is_some_and(|drains| !drains.is_empty())
    }

    /// Work of seconds or minutes, one at a time. False: nobody is there for it.
    pub(crate) fn compact(&self, work: impl FnOnce() + Send + 'static) -> bool {
        self.0.compacts.lock().as_ref().map(|queue| queue.send(Box::new(work))).is_some()
    }

    /// Work that may wait for a store: never done at once.
    pub(crate) fn later(&self, work: impl FnOnce() + Send + 'static) {
        let has_drains = self.0.drains.lock().is_some();
        match has_drains {
            true => self.drain(work),
            false => self.after(Duration::ZERO, work),
        }
    }

    /// So much more of a store's memory waits to be drained.
    pub(crate) fn add_waiting(&self, bytes: usize) {
        self.0.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It does not any more.
    pub(crate) fn remove_waiting(&self, bytes: usize) {
        self.0.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Memory of all stores that is frozen and not freed, bytes.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.0.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Drop something large where nobody waits.
    pub(crate) fn dispose(&self, rubbish: Box<dyn Any + Send>) {
        self.drain(move || drop(rubbish));
    }

    /// Run `work`, which must be quick, after `span`.
    pub(crate) fn after(&self, span: Duration, work: impl FnOnce() + Send + 'static) {
        let at = self.0.clock.monotonic().saturating_add(span);
        if let Some(alarms) = &*self.0.alarms.lock() {
            let _ = alarms.send(Alarm { at, work: Box::new(work) });
        }
    }

    /// Whether this is a thread of any store's: it must not wait for a store.
    pub(crate) fn is_ours() -> bool {
        IS_OURS.get()
    }

    /// Finish what waits, and join them. Every store must be closed.
    pub fn stop(&self) {
        drop((self.0.writers.lock().take(), self.0.drains.lock().take(), self.0.tellers.lock().take()));
        drop((self.0.compacts.lock().take(), self.0.alarms.lock().take()));
        let own = std::thread::current().id();
        for thread in self.0.joins.lock().drain(..).filter(|thread| thread.thread().id() != own) {
            let _ = thread.join();
        }
    }
}

/// Long work gives its processor up now and then. A kernel that preempts by the clock would let it have
/// 4 ms at a time, and on a small machine those who write, and the VM, wait for it.
#[derive(Default)]
pub(crate) struct Courtesy(u32);

impl Courtesy {
    /// One more key was done.
    pub fn step(&mut self) {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(COURTESY_KEYS) {
            std::thread::yield_now();
        }
    }
}

/// With nobody to do it, it is done here.
fn send(queue: &Mutex<Option<Tasks>>, work: Work) {
    if let Some(queue) = &*queue.lock() {
        return queue.send(work);
    }
    work();
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

fn pool(name: &str, count: usize, joins: &mut Vec<JoinHandle<()>>) -> io::Result<Tasks> {
    let (queue, worker) = tasks();
    for _ in 0..count {
        let worker = worker.clone();
        joins.push(spawn(name, move || {
            IS_OURS.set(true);
            for work in worker {
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        })?);
    }
    Ok(queue)
}

struct Alarm {
    at: Duration,
    work: Work,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

fn keep_time(clock: &dyn Clock, alarms: &Receiver<Alarm>) {
    IS_OURS.set(true);
    let mut waiting = BinaryHeap::new();
    loop {
        let now = clock.monotonic();
        while waiting.peek().is_some_and(|Reverse(alarm): &Reverse<Alarm>| alarm.at <= now) {
            if let Some(Reverse(alarm)) = waiting.pop() {
                let _ = catch_unwind(AssertUnwindSafe(alarm.work));
            }
        }
        let received = match waiting.peek() {
            Some(Reverse(next)) => alarms.recv_timeout(next.at.saturating_sub(clock.monotonic())),
            None => alarms.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(alarm) => waiting.push(Reverse(alarm)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
