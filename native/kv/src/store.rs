//! The handle of a store, and snapshots of it.
//!
//! Invariant: no call here waits for a writer except those that say so. Dropping the last handle
//! closes the store on a thread of ours, and does not wait.

use crate::batch::{Batch, Committed, Durability};
use crate::compact::AutoCompact;
use crate::compress::COMPRESS_LEN_MIN;
use crate::open;
use crate::queue::Job;
use crate::reply::Reply;
use crate::shared::Shared;
use crate::threads::Threads;
use crate::turn::Tx;
use crate::view::{Counted, KeyRange, Page, PageLimits, View};
use crate::KvError;
use macula_core::{Chance, Clock, Disk, Gate};
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Of changes that subscribers can go on from.
const HISTORY_BYTES: u64 = 4 << 20;
/// Segments of the log that are kept for subscribers only, each of which is an open file: as many as
/// doubling takes from the shortest to 4 MiB, and of earlier openings, which begin one each, few.
const HISTORY_SEGMENTS_MAX: usize = 8;
const HISTORY_SEGMENTS_OLD_MAX: usize = 2;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for pages of the file, bytes.
    pub cache_bytes: usize,
    /// Values of so many bytes lie compressed in the file, where that pays.
    pub compress_len_min: usize,
    /// Batches and turns waiting; one more is `Busy`.
    pub queue_len_max: usize,
    /// Bytes waiting; more is `Busy`, except for the only batch in the queue.
    pub queue_bytes_max: usize,
    /// Bytes that one sync takes from the queue; a larger batch goes alone.
    pub batch_bytes_max: usize,
    /// Writes of an exclusive turn, bytes.
    pub tx_bytes_max: usize,
    /// Room on the disk that writes leave free, bytes.
    pub reserve_bytes: u64,
    /// What a write gets that does not say.
    pub durability: Durability,
    /// How long a write with [`Durability::Async`] is not synced at most.
    pub sync_interval: Duration,
    /// Memory of what was written and not begun to be drained into the file, bytes.
    pub table_bytes_max: usize,
    /// Memory of what was written and is not drained, bytes. Writers slow down above half of it.
    pub overlay_bytes_max: usize,
    /// What a drain brings into a small store at once, bytes of that memory. Less waits for more, while
    /// there is room on the disk and in the memory of all stores.
    pub drain_bytes: usize,
    /// How long what was written stays in memory and log only, when little is written.
    pub drain_interval: Duration,
    /// When the file is compacted without being asked; `None`: never.
    pub auto_compact: Option<AutoCompact>,
    /// While something expires: how long the sweeper does not look at the clock at most.
    pub sweep_interval: Duration,
    /// The log's.
    pub log: macula_wal::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            compress_len_min: COMPRESS_LEN_MIN,
            queue_len_max: 1024,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 8 << 20,
            tx_bytes_max: 256 << 20,
            reserve_bytes: 8 << 20,
            durability: Durability::Sync,
            sync_interval: Duration::from_secs(1),
            table_bytes_max: 1 << 20,
            overlay_bytes_max: 32 << 20,
            drain_bytes: 12 << 20,
            drain_interval: Duration::from_secs(30),
            auto_compact: Some(AutoCompact::default()),
            sweep_interval: Duration::from_secs(60),
            log: macula_wal::Options { segment_bytes_max: 4 << 20, ..Default::default() },
        }
        .keeping(HISTORY_BYTES)
    }
}

impl Options {
    /// With at least so many bytes of changes that subscribers can go on from, as soon as there are as
    /// many. On the disk it may be a segment more.
    pub fn keeping(mut self, history_bytes: u64) -> Self {
        let log = &mut self.log;
        let longest = (history_bytes / log.segment_bytes_max.max(1)) as usize;
        log.history_bytes = history_bytes;
        log.history_segments_max = HISTORY_SEGMENTS_MAX + longest;
        log.history_segments_old_max = HISTORY_SEGMENTS_OLD_MAX + longest;
        self
    }
}

/// What a store stands on.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Its directory.
    pub disk: Arc<dyn Disk>,
    /// Of its app.
    pub gate: Arc<Gate>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Whoever does its work.
    pub threads: Threads,
}

/// An opened store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        if !shared.is_closed() {
            self.shared.threads.later(move || shared.close());
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("file", &crate::FILE_NAME).finish_non_exhaustive()
    }
}

impl Store {
    /// Open the store in a directory, or create it there. After a crash this reads the log since the
    /// last checkpoint, never the data. The caller sees to it that nobody else has it open.
    ///
    /// # Errors
    /// `Corrupt` for files that are not ours, damaged or cut, which stay as they are; `NewerFormat`;
    /// `DiskFull`; `Io`.
    pub fn open(seams: Seams, options: Options) -> Result<Self, KvError> {
        let shared = open::open(seams, options)?;
        Ok(Self(Arc::new(Handle { shared })))
    }

    /// Queue a batch; `reply` is called once, on a thread of ours, and must be quick. Never waits.
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
        self.0.shared.submit(Job::Batch { batch, bytes, reply: Reply::new(reply) }, bytes)
    }

    /// As [`Store::submit`], waiting for the answer.
    pub fn write(&self, batch: Batch) -> Result<Committed, KvError> {
        wait(|reply| self.submit(batch, reply))
    }

    /// Ask for the exclusive turn; `reply` has it when the queue came to it. The writers behind it
    /// wait until it ends, at most `deadline` after it began. Errors as [`Store::submit`].
    pub fn begin(&self, deadline: Duration, reply: Box<dyn FnOnce(Result<Tx, KvError>) + Send>) -> Result<(), KvError> {
        self.0.shared.submit(Job::Begin { deadline, reply: Reply::new(reply) }, 0)
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
        // read again when redb was opened anew under it: then it was not found before
        let f = Cell::new(Some(f));
        let found = self.0.shared.read(|view| view.find(key, len_max, |bytes| f.take().map(|f| f(bytes))))?;
        Ok(found.flatten())
    }

    /// As [`Store::get_with`], for a thread that must not wait: from memory, or [`KvError::Cold`].
    pub fn get_hot<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        let view = self.0.shared.view_now()?;
        let found = match macula_blocks::only(|| view.find(key, len_max, f)) {
            // redb is being opened anew
            Err(error) if self.0.shared.is_passing(&error, &view) => Err(KvError::Cold),
            found => found,
        };
        self.0.shared.counters.hot(&found);
        found
    }

    /// Whether a key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.0.shared.read(|view| view.has(key))
    }

    /// When a key is gone by itself, milliseconds since 1970, [`crate::NEVER_MS`] for never; `None`
    /// when it is not there. Its value is not looked at.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        self.0.shared.read(|view| view.expires_ms(key))
    }

    /// The time by which entries expire: the wall clock's, milliseconds since 1970, but it never goes
    /// back while the store is open. A time to live begins here.
    pub fn now_ms(&self) -> u64 {
        self.0.shared.now.ms()
    }

    /// The values of many keys, of one instant.
    pub fn get_many(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.0.shared.read(|view| keys.iter().map(|key| view.get(key.as_ref())).collect())
    }

    /// Entries; those that expired and were not swept yet are counted. Looks once into redb for each
    /// key that lies in memory: not for a scheduler. O(1) when nothing was written since.
    pub fn len(&self) -> Result<u64, KvError> {
        self.0.shared.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> Result<bool, KvError> {
        Ok(self.len()? == 0)
    }

    /// The revision of the newest batch.
    pub fn revision(&self) -> Result<u64, KvError> {
        Ok(self.0.shared.view()?.revision)
    }

    /// Make everything durable that was written; waits for what was queued before.
    pub fn sync(&self) -> Result<(), KvError> {
        wait(|reply| self.sync_later(reply))
    }

    /// As [`Store::sync`], answered by `reply`. Errors as [`Store::submit`].
    pub fn sync_later(&self, reply: Box<dyn FnOnce(Result<(), KvError>) + Send>) -> Result<(), KvError> {
        self.0.shared.submit(Job::Sync { freeze: false, reply: Some(Reply::new(reply)) }, 0)
    }

    /// Bring everything that was written before into the file, and let go of the log. Waits for that.
    pub fn checkpoint(&self) -> Result<(), KvError> {
        wait(|reply| self.0.shared.submit(Job::Sync { freeze: true, reply: Some(Reply::new(reply)) }, 0))?;
        let mut engine = self.0.shared.engine.lock();
        self.0.shared.drain(&mut engine)
    }

    /// What a write gets from now on that does not say.
    pub fn set_durability(&self, durability: Durability) {
        *self.0.shared.durability.lock() = durability;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// A version that stays. The file grows while it is kept.
    pub fn snapshot(&self) -> Result<Snapshot, KvError> {
        let view = self.0.shared.view()?;
        Ok(Snapshot(Arc::new(Held { view: Mutex::new(Some(view)), shared: self.0.shared.clone() })))
    }

    /// Bytes of the files, for the ledger. O(1).
    pub fn file_bytes(&self) -> u64 {
        self.0.shared.file_bytes()
    }

    /// Close: what waits is answered `Closed`, a group being committed is answered by its result, what
    /// lies in memory is brought into the file. Returns when the files are closed. Again is fine; from
    /// a reply it does not wait.
    pub fn close(&self) {
        let shared = self.0.shared.clone();
        match Threads::is_ours() {
            true => self.0.shared.threads.later(move || shared.close()),
            false => shared.close(),
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.shared.is_closed()
    }
}

/// An answer that somebody waits for. A channel's receiver spins before it sleeps: many who wait for one sync would take
/// the processors from who makes it.
struct Awaited<T>(Mutex<Option<Result<T, KvError>>>, Condvar);

/// Who answers: dropped without an answer, that is `Closed`.
struct Answering<T>(Arc<Awaited<T>>);

impl<T> Drop for Answering<T> {
    fn drop(&mut self) {
        self.0 .0.lock().get_or_insert(Err(KvError::Closed));
        self.0 .1.notify_one();
    }
}

/// Turn a call with a reply into one that waits.
pub(crate) fn wait<T: Send + 'static>(
    call: impl FnOnce(Box<dyn FnOnce(Result<T, KvError>) + Send>) -> Result<(), KvError>,
) -> Result<T, KvError> {
    let awaited = Arc::new(Awaited(Mutex::new(None), Condvar::new()));
    let answering = Answering(awaited.clone());
    call(Box::new(move |result| *answering.0 .0.lock() = Some(result)))?;
    let mut answer = awaited.0.lock();
    loop {
        match answer.take() {
            Some(answer) => return answer,
            None => awaited.1.wait(&mut answer),
        }
    }
}

/// A version of the store. Clones share it; after `release`, or when the store was closed, every
/// call answers [`KvError::Closed`].
#[derive(Clone)]
pub struct Snapshot(Arc<Held>);

struct Held {
    view: Mutex<Option<View>>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(crate) fn view(&self) -> Result<View, KvError> {
        if self.0.shared.is_closed() {
            return Err(KvError::Closed);
        }
        self.0.view.lock().clone().ok_or(KvError::Closed)
    }

    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.0.shared.blocks().store_id()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.view()?.get(key)
    }

    /// As [`Store::get_hot`].
    pub fn get_hot<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        let view = self.view()?;
        macula_blocks::only(|| view.find(key, len_max, f))
    }

    /// As [`Store::get_with`].
    pub fn get_with<R>(&self, key: &[u8], len_max: usize, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, KvError> {
        self.view()?.find(key, len_max, f)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        self.view()?.has(key)
    }

    /// As [`Store::expires_ms`], of now: what expires meanwhile is gone from snapshots as well.
    pub fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        self.view()?.expires_ms(key)
    }

    /// The values of many keys.
    pub fn get_many(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        let view = self.view()?;
        keys.iter().map(|key| view.get(key.as_ref())).collect()
    }

    /// As [`Store::len`].
    pub fn len(&self) -> Result<u64, KvError> {
        self.view()?.len()
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

    /// How many entries `range` has, `entries_max` at most; go on from [`Counted::next`]. No value is read.
    pub fn count(&self, range: &KeyRange, entries_max: u64) -> Result<Counted, KvError> {
        self.view()?.count(range, entries_max)
    }

    /// Let go of it now, whoever else holds a clone.
    pub fn release(&self) {
        let view = self.0.view.lock().take();
        drop(view);
    }
}
