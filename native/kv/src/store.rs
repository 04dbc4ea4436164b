//! The handle of a store, and snapshots of it.
//!
//! Invariant: no call here waits for the writer thread except `write`, `verify` and `close`, which
//! say so. Dropping the last handle tells the writer thread to close, and does not wait.

use crate::batch::{Batch, Committed};
use crate::blocks::BlockFile;
use crate::engine::Engine;
use crate::reply::Reply;
use crate::turn::Tx;
use crate::view::{KeyRange, Page, PageLimits, View};
use crate::writer::{Job, Writer};
use crate::KvError;
use crossbeam_channel::{bounded, Sender, TrySendError};
use macula_core::{Chance, Clock, Disk, Gate};
use parking_lot::{Mutex, RwLock};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages of the file, bytes.
    pub cache_bytes: usize,
    /// Batches and turns waiting; one more is `Busy`.
    pub queue_len_max: usize,
    /// Bytes waiting; more is `Busy`, except for the only batch in the queue.
    pub queue_bytes_max: usize,
    /// Bytes that one commit takes from the queue; a larger batch goes alone.
    pub batch_bytes_max: usize,
    /// Writes of an exclusive turn, bytes.
    pub tx_bytes_max: usize,
    /// Room on the disk that writes leave free, bytes.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            queue_len_max: 1024,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 8 << 20,
            tx_bytes_max: 256 << 20,
            reserve_bytes: 8 << 20,
        }
    }
}

/// What handles, snapshots and the writer thread share.
pub(crate) struct Shared {
    state: RwLock<State>,
    pub bytes_queued: AtomicUsize,
    pub blocks: Arc<BlockFile>,
}

struct State {
    /// What readers get.
    view: Result<Arc<View>, KvError>,
    poisoned: Option<String>,
    closed: bool,
}

impl Shared {
    /// The newest view; a poisoned store still has its last.
    pub fn view(&self) -> Result<Arc<View>, KvError> {
        self.state.read().view.clone()
    }

    /// Read from the newest view. redb closes the views of a database that is opened anew (see
    /// `Engine::revive`): then there is a newer one, or will be in a moment.
    fn read<T>(&self, read: impl Fn(&View) -> Result<T, KvError>) -> Result<T, KvError> {
        loop {
            match read(&*self.view()?) {
                Err(KvError::Closed) if self.writable().is_ok() => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// What readers get from now on.
    pub fn publish(&self, view: Result<Arc<View>, KvError>) {
        // what is dropped may take a lock of redb's: not under ours
        let _old = std::mem::replace(&mut self.state.write().view, view);
    }

    /// Nothing is written any more.
    pub fn poison(&self, why: &KvError) {
        self.state.write().poisoned.get_or_insert_with(|| why.to_string());
    }

    pub fn close(&self) {
        self.state.write().closed = true;
        self.publish(Err(KvError::Closed));
    }

    pub fn writable(&self) -> Result<(), KvError> {
        let state = self.state.read();
        match &state.poisoned {
            Some(why) => Err(KvError::Poisoned(why.clone())),
            None if state.closed => Err(KvError::Closed),
            None => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.state.read().closed
    }
}

/// An opened store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// The writer thread closes the store when it is gone.
    open: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
    queue_bytes_max: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("file", &self.0.shared.blocks.name()).finish_non_exhaustive()
    }
}

impl Store {
    /// Open the store in the directory `disk`, or create it there. After a crash this reads a few
    /// blocks, never the data. The caller sees to it that nobody else has it open.
    ///
    /// # Errors
    /// `Corrupt` for a file that is not one of ours, damaged or cut, which stays as it is;
    /// `NewerFormat`; `DiskFull`; `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        chance: &dyn Chance,
        options: Options,
    ) -> Result<Self, KvError> {
        let engine = Engine::open(&*disk, chance, options.cache_bytes)?;
        let view = engine.view()?;
        let state = State { view: Ok(view), poisoned: None, closed: false };
        let blocks = engine.blocks.clone();
        let shared = Arc::new(Shared { state: RwLock::new(state), bytes_queued: AtomicUsize::new(0), blocks });
        let (jobs, jobs_waiting) = bounded(options.queue_len_max.max(1));
        let (open, opened) = bounded(0);
        let queue_bytes_max = options.queue_bytes_max;
        let writer = Writer {
            engine,
            shared: shared.clone(),
            jobs: jobs_waiting,
            open: opened,
            disk,
            gate,
            clock,
            options,
            next: None,
        };
        let thread = std::thread::Builder::new().name("macula-kv".into()).spawn(move || writer.run());
        let thread = thread.map_err(|error| KvError::io("start the writer thread", error))?;
        let thread_id = thread.thread().id();
        let (open, thread) = (Mutex::new(Some(open)), Mutex::new(Some(thread)));
        Ok(Self(Arc::new(Handle { shared, jobs, open, thread, thread_id, queue_bytes_max })))
    }

    /// Queue a batch; `reply` is called once, on the writer thread, and must be quick. Never waits.
    ///
    /// # Errors
    /// `Busy`, `Closed`, `Poisoned`, `TooLarge`: the batch is not queued and `reply` never called.
    pub fn submit(
        &self,
        batch: Batch,
        reply: Box<dyn FnOnce(Result<Committed, KvError>) + Send>,
    ) -> Result<(), KvError> {
        batch.check_lens()?;
        let bytes = batch.bytes();
        let queued = &self.0.shared.bytes_queued;
        let before = queued.fetch_add(bytes, Ordering::AcqRel);
        let result = match before > 0 && before + bytes > self.0.queue_bytes_max {
            true => Err(KvError::Busy),
            false => self.send(Job::Batch { batch, bytes, reply: Reply::new(reply) }),
        };
        if result.is_err() {
            queued.fetch_sub(bytes, Ordering::AcqRel);
        }
        result
    }

    fn send(&self, job: Job) -> Result<(), KvError> {
        let refused = match self.0.shared.writable() {
            Err(error) => (job, error),
            Ok(()) => match self.0.jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(job)) => (job, KvError::Busy),
                Err(TrySendError::Disconnected(job)) => (job, KvError::Closed),
            },
        };
        match refused.0 {
            Job::Batch { reply, .. } => reply.disarm(),
            Job::Begin { reply, .. } => reply.disarm(),
            Job::Freeze(reply) => reply.disarm(),
        }
        Err(refused.1)
    }

    /// As [`Store::submit`], waiting for the answer.
    pub fn write(&self, batch: Batch) -> Result<Committed, KvError> {
        wait(|reply| self.submit(batch, reply))
    }

    /// Ask for the exclusive turn; `reply` has it when the queue came to it. The writers behind it
    /// wait until it ends, at most `deadline` after it began. Errors as [`Store::submit`].
    pub fn begin(&self, deadline: Duration, reply: Box<dyn FnOnce(Result<Tx, KvError>) + Send>) -> Result<(), KvError> {
        self.send(Job::Begin { deadline, reply: Reply::new(reply) })
    }

    /// As [`Store::begin`], waiting for the turn.
    pub fn begin_wait(&self, deadline: Duration) -> Result<Tx, KvError> {
        wait(|reply| self.begin(deadline, reply))
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.shared.read(|view| view.get(key))
    }

    /// What `f` makes of the value of a key, without a copy; [`KvError::TooLarge`], and the value
    /// was not read, when it is longer than `len_max` bytes.
    pub fn get_with<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        Ok(self.0.shared.read(|view| view.find(key, len_max))?.map(|value| f(value.bytes())))
    }

    /// Whether a key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.0.shared.read(|view| view.has(key))
    }

    /// The values of many keys, of one instant.
    pub fn get_many(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.0.shared.read(|view| keys.iter().map(|key| view.get(key.as_ref())).collect())
    }

    /// Entries. O(1).
    pub fn len(&self) -> Result<u64, KvError> {
        Ok(self.0.shared.view()?.len)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> Result<bool, KvError> {
        Ok(self.len()? == 0)
    }

    /// The revision of the newest batch.
    pub fn revision(&self) -> Result<u64, KvError> {
        Ok(self.0.shared.view()?.revision)
    }

    /// A version that stays. The file grows while it is kept.
    pub fn snapshot(&self) -> Result<Snapshot, KvError> {
        let view = self.0.shared.view()?;
        Ok(Snapshot(Arc::new(Held { view: Mutex::new(Some(view)), shared: self.0.shared.clone() })))
    }

    /// Bytes of the file, for the ledger. O(1).
    pub fn file_bytes(&self) -> u64 {
        self.0.shared.blocks.file_bytes()
    }

    pub(crate) fn freeze(&self) -> Result<crate::verify::Frozen, KvError> {
        wait(|reply| self.send(Job::Freeze(Reply::new(reply))))
    }

    /// Close: what waits is answered `Closed`, a group being committed is answered by its result.
    /// Returns when the file is closed. Again is fine; from a reply it does not wait.
    pub fn close(&self) {
        drop(self.0.open.lock().take());
        if std::thread::current().id() == self.0.thread_id {
            return;
        }
        // whoever comes second waits here for the first
        let mut thread = self.0.thread.lock();
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.shared.is_closed()
    }
}

/// Turn a call with a reply into one that waits.
pub(crate) fn wait<T: Send + 'static>(
    call: impl FnOnce(Box<dyn FnOnce(Result<T, KvError>) + Send>) -> Result<(), KvError>,
) -> Result<T, KvError> {
    let (answer, answered) = bounded(1);
    call(Box::new(move |result| {
        let _ = answer.try_send(result);
    }))?;
    answered.recv().unwrap_or(Err(KvError::Closed))
}

/// A version of the store. Clones share it; after `release`, or when the store was closed, every
/// call answers [`KvError::Closed`].
#[derive(Clone)]
pub struct Snapshot(Arc<Held>);

struct Held {
    view: Mutex<Option<Arc<View>>>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn view(&self) -> Result<Arc<View>, KvError> {
        if self.0.shared.is_closed() {
            return Err(KvError::Closed);
        }
        self.0.view.lock().clone().ok_or(KvError::Closed)
    }

    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.0.shared.blocks.store_id()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.view()?.get(key)
    }

    /// As [`Store::get_with`].
    pub fn get_with<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        Ok(self.view()?.find(key, len_max)?.map(|value| f(value.bytes())))
    }

    /// Whether a key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.view()?.has(key)
    }

    /// The values of many keys.
    pub fn get_many(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        let view = self.view()?;
        keys.iter().map(|key| view.get(key.as_ref())).collect()
    }

    /// Entries. O(1).
    pub fn len(&self) -> Result<u64, KvError> {
        Ok(self.view()?.len)
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> Result<bool, KvError> {
        Ok(self.len()? == 0)
    }

    /// The revision it shows.
    pub fn revision(&self) -> Result<u64, KvError> {
        Ok(self.view()?.revision)
    }

    /// The first entries of `range`, or the last when `reverse`; go on from [`Page::next`].
    pub fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        self.view()?.page(range, reverse, limits)
    }

    /// Let go of it now, whoever else holds a clone.
    pub fn release(&self) {
        let view = self.0.view.lock().take();
        drop(view);
    }
}
