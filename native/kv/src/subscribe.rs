//! Who is told of changes: as they are published, or from a revision that the log still has.
//!
//! The writer puts what it published into a short queue of each subscriber that wants it; a thread
//! of ours empties the queue into the sink. What a queue has no room for, and what came before it, is
//! read from the log, so that a slow sink costs neither the writer's time nor memory.
//! Invariant: a sink is told every batch that changes something in its range, once, whole, in order of
//! revision, and only what was published; where that cannot go on, it is told so and then nothing.

use crate::batch::Op;
use crate::record;
use crate::scan::is_empty;
use crate::shared::Shared;
use crate::store::Store;
use crate::view::KeyRange;
use crate::writer::SEQUENCE_MAX;
use crate::KvError;
use macula_wal::{History, Replayed, WalError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Changes that wait for one subscriber, bytes; more is read from the log.
const QUEUE_BYTES_MAX: usize = 256 << 10;
/// What is read from the log for one subscriber before others have their turn, bytes.
const READ_BYTES: usize = 4 << 20;

/// What a subscriber is told.
#[derive(Debug)]
pub enum Told<'t> {
    /// The changes of one batch in its range, in their order. [`Op::Clear`] is in every range.
    Changes {
        /// The batch's.
        revision: u64,
        /// One at least.
        changes: Vec<&'t Op>,
    },
    /// The last word: `Closed`; `HistoryGone` when it was too slow for what the log keeps; else why
    /// the log could not be read.
    Ended(KvError),
}

/// Called on a thread of ours, one call at a time. It must be quick, wait for no store, and not end its
/// own subscription.
pub type Sink = Box<dyn FnMut(Told<'_>) + Send>;

/// Ends when it is dropped: no call of the sink begins after that, and none is under way.
#[must_use]
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    shared: Weak<Shared>,
    revision: u64,
    is_started: AtomicBool,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Store {
    /// Tell `sink` of every change in `range` after the revision `from`, or from now on; it is told
    /// nothing before [`Subscription::start`]. Waits for the group that is being written.
    ///
    /// # Errors
    /// [`KvError::HistoryGone`] when the log does not have everything after `from`, or `from` is none of
    /// this store's (any more: power loss takes back what was not synced). `Closed`; `Corrupt`; `Io`.
    pub fn subscribe(&self, range: KeyRange, from: Option<u64>, sink: Sink) -> Result<Subscription, KvError> {
        self.shared().subscribe(range, from, sink)
    }
}

impl Subscription {
    /// What it is told comes after this.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Let the sink be told. Again is fine.
    pub fn start(&self) {
        if let (false, Some(shared)) = (self.is_started.swap(true, Ordering::AcqRel), self.shared.upgrade()) {
            shared.serve(vec![self.subscriber.clone()]);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.subscribers.lock().remove(&self.subscriber);
        }
        self.subscriber.end();
    }
}

/// One of them, as the store has it.
pub(crate) struct Subscriber {
    range: KeyRange,
    state: Mutex<State>,
    /// Held while it is called; `None` when it ended.
    sink: Mutex<Option<Sink>>,
}

/// What it is to be told: first what is unread, then the queue, then what is behind that.
struct State {
    /// To be read from the log: what comes after the one revision, up to the other.
    unread: Option<(u64, u64)>,
    queue: VecDeque<Arc<News>>,
    bytes: usize,
    /// What comes after this revision is not in the queue.
    behind: Option<u64>,
    /// A thread tells it, or will.
    is_served: bool,
    is_closed: bool,
}

/// A batch that somebody wants to be told of.
pub(crate) struct News {
    revision: u64,
    /// Those that anybody wants; `None`: more than fits into a queue.
    ops: Option<Vec<Op>>,
}

/// What is next.
enum Next {
    Nothing,
    Queued(Arc<News>),
    Unread(u64, u64),
    Behind(u64),
    Closed,
}

impl Subscriber {
    fn new(range: KeyRange, behind: Option<u64>, sink: Sink) -> Self {
        let (unread, queue) = (None, VecDeque::new());
        // nobody serves it before it is started
        let state = State { unread, queue, bytes: 0, behind, is_served: true, is_closed: false };
        Self { range, state: Mutex::new(state), sink: Mutex::new(Some(sink)) }
    }

    /// The only key that it wants.
    fn key(&self) -> Option<&Vec<u8>> {
        match &self.range {
            (Bound::Included(low), Bound::Included(high)) if low == high => Some(low),
            _ => None,
        }
    }

    fn wants(&self, op: &Op) -> bool {
        match key_of(op) {
            Some(key) => (as_slice(&self.range.0), as_slice(&self.range.1)).contains(key),
            None => !is_empty(&self.range),
        }
    }

    /// Whether a thread has to serve it now.
    fn push(&self, news: &Arc<News>) -> bool {
        let ops = news.ops.iter().flatten().filter(|op| self.wants(op));
        let bytes: usize = ops.map(bytes_of).sum();
        let mut state = self.state.lock();
        if state.behind.is_none() {
            if news.ops.is_some() && state.bytes + bytes <= QUEUE_BYTES_MAX {
                state.bytes += bytes;
                state.queue.push_back(news.clone());
            } else {
                state.behind = Some(news.revision - 1);
            }
        }
        !std::mem::replace(&mut state.is_served, true)
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        match (state.unread, state.is_closed) {
            // the log is closed, and the queue comes behind what it had
            (Some(_), true) => return Next::Closed,
            (Some((after, to)), false) => return Next::Unread(after, to),
            (None, _) => {}
        }
        if let Some(news) = state.queue.pop_front() {
            let ops = news.ops.iter().flatten().filter(|op| self.wants(op));
            state.bytes -= ops.map(bytes_of).sum::<usize>();
            return Next::Queued(news);
        }
        match (state.is_closed, state.behind) {
            (true, _) => Next::Closed,
            (false, Some(after)) => Next::Behind(after),
            (false, None) => {
                state.is_served = false;
                Next::Nothing
            }
        }
    }

    /// Tell it of a batch.
    fn tell_ops(&self, revision: u64, ops: &[Op]) {
        let changes: Vec<&Op> = ops.iter().filter(|op| self.wants(op)).collect();
        if !changes.is_empty() {
            self.tell(Told::Changes { revision, changes });
        }
    }

    fn tell(&self, told: Told<'_>) {
        let mut sink = self.sink.lock();
        let Some(call) = &mut *sink else { return };
        if catch_unwind(AssertUnwindSafe(|| call(told))).is_err() {
            // who panics is not called again
            let broken = sink.take();
            drop(sink);
            drop(broken);
        }
    }

    fn is_over(&self) -> bool {
        self.sink.lock().is_none()
    }

    fn end_with(&self, why: KvError) {
        self.tell(Told::Ended(why));
        self.end();
    }

    fn end(&self) {
        let sink = self.sink.lock().take();
        drop(sink);
        let mut state = self.state.lock();
        let queue = std::mem::take(&mut state.queue);
        (state.bytes, state.unread, state.behind) = (0, None, None);
        drop(state);
        drop(queue);
    }
}

/// All of them, of one store.
#[derive(Default)]
pub(crate) struct Subscribers {
    /// Those that want one key.
    keys: HashMap<Vec<u8>, Vec<Arc<Subscriber>>>,
    ranges: Vec<Arc<Subscriber>>,
    is_closed: bool,
}

/// A batch for those who want it, until it is published.
pub(crate) struct Heard(Arc<News>, Vec<Arc<Subscriber>>);

impl Subscribers {
    fn add(&mut self, subscriber: &Arc<Subscriber>) -> Result<(), KvError> {
        match (self.is_closed, subscriber.key()) {
            (true, _) => return Err(KvError::Closed),
            (false, Some(key)) => self.keys.entry(key.clone()).or_default().push(subscriber.clone()),
            (false, None) => self.ranges.push(subscriber.clone()),
        }
        Ok(())
    }

    fn remove(&mut self, subscriber: &Arc<Subscriber>) {
        let is_other = |other: &Arc<Subscriber>| !Arc::ptr_eq(other, subscriber);
        match subscriber.key() {
            None => self.ranges.retain(is_other),
            Some(key) => {
                let left = self.keys.get_mut(key).map(|those| {
                    those.retain(is_other);
                    those.len()
                });
                if left == Some(0) {
                    self.keys.remove(key);
                }
            }
        }
    }

    /// What of a batch anybody wants.
    pub fn hear(&self, revision: u64, ops: &[Op]) -> Option<Heard> {
        if self.ranges.is_empty() && self.keys.is_empty() {
            return None;
        }
        let (mut wanted, mut bytes, mut who) = (Vec::new(), 0, BTreeMap::new());
        for op in ops {
            let mut is_wanted = false;
            for subscriber in self.who_may_want(op).filter(|subscriber| subscriber.wants(op)) {
                who.entry(Arc::as_ptr(subscriber)).or_insert_with(|| subscriber.clone());
                is_wanted = true;
            }
            if is_wanted {
                wanted.push(op);
                bytes += bytes_of(op);
            }
        }
        let ops = (bytes <= QUEUE_BYTES_MAX).then(|| wanted.into_iter().cloned().collect());
        (!who.is_empty()).then(|| Heard(Arc::new(News { revision, ops }), who.into_values().collect()))
    }

    fn who_may_want<'s>(&'s self, op: &Op) -> Box<dyn Iterator<Item = &'s Arc<Subscriber>> + 's> {
        match key_of(op) {
            Some(key) => Box::new(self.keys.get(key).into_iter().flatten().chain(&self.ranges)),
            None => Box::new(self.keys.values().flatten().chain(&self.ranges)),
        }
    }

    /// Whom a thread has to tell that the store was closed.
    fn close(&mut self) -> Vec<Arc<Subscriber>> {
        self.is_closed = true;
        let (keys, ranges) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.ranges));
        let all = keys.into_values().flatten().chain(ranges);
        let is_unserved = |subscriber: &Arc<Subscriber>| {
            let mut state = subscriber.state.lock();
            state.is_closed = true;
            !std::mem::replace(&mut state.is_served, true)
        };
        all.filter(is_unserved).collect()
    }
}

/// Why the log is read no further.
enum Halt {
    Enough,
    Failed(KvError),
}

impl From<WalError> for Halt {
    fn from(error: WalError) -> Self {
        Self::Failed(error.into())
    }
}

impl Shared {
    fn subscribe(self: &Arc<Self>, range: KeyRange, from: Option<u64>, sink: Sink) -> Result<Subscription, KvError> {
        if let Some(from) = from {
            self.has_all_since(from)?;
        }
        // what is published before this lock is taken is in the log, what comes after it in the queue
        let writer = self.writer.lock();
        let published = self.view()?.revision;
        let revision = from.unwrap_or(published);
        let subscriber = Arc::new(Subscriber::new(range, (revision != published).then_some(revision), sink));
        self.subscribers.lock().add(&subscriber)?;
        drop(writer);
        Ok(Subscription { subscriber, shared: Arc::downgrade(self), revision, is_started: AtomicBool::new(false) })
    }

    /// Whether everything after `from` is in the log. A revision that was seen and then lost with the
    /// power was followed by others in its place: those who saw it must not go on from there.
    fn has_all_since(&self, from: u64) -> Result<(), KvError> {
        let (gone, sequence) = (Err(KvError::HistoryGone { from }), from & SEQUENCE_MAX);
        let history = {
            let writer = self.writer.lock();
            let published = self.view()?.revision;
            if from >= published {
                return if from == published { Ok(()) } else { gone };
            }
            // the record of `from` itself tells most; without it, the one behind it
            let first = writer.log.first_sequence();
            writer.log.history_written(if first == sequence + 1 { first } else { sequence })
        };
        let history = match history {
            Err(WalError::HistoryGone { .. }) => return gone,
            history => history?,
        };
        match first_revision(&history)? {
            Some((revision, found)) if found == sequence && sequence > 0 && revision == from => Ok(()),
            // of the same opening, so that nothing was lost between them
            Some((revision, found)) if found == sequence + 1 && (from == 0 || same_epoch(revision, from)) => Ok(()),
            _ => gone,
        }
    }

    /// Hand out what was published; whom a thread has to serve. Called by the writer, under its lock.
    pub fn hand_out(&self, heard: Vec<Heard>) -> Vec<Arc<Subscriber>> {
        let mut unserved = Vec::new();
        for Heard(news, who) in heard {
            unserved.extend(who.into_iter().filter(|subscriber| subscriber.push(&news)));
        }
        unserved
    }

    /// Let threads tell them. Not under the writer's lock.
    pub fn serve(self: &Arc<Self>, subscribers: Vec<Arc<Subscriber>>) {
        for subscriber in subscribers {
            let shared = self.clone();
            self.threads.tell(move || shared.tell_all(&subscriber));
        }
    }

    /// Tell everybody that it was closed.
    pub fn close_subscribers(self: &Arc<Self>) {
        let all = self.subscribers.lock().close();
        self.serve(all);
    }

    /// Tell one subscriber what there is, until others wait for this thread.
    fn tell_all(self: Arc<Self>, subscriber: &Arc<Subscriber>) {
        loop {
            let told = match subscriber.next() {
                Next::Nothing => return,
                Next::Closed => Err(KvError::Closed),
                Next::Queued(news) => {
                    subscriber.tell_ops(news.revision, news.ops.as_deref().unwrap_or_default());
                    Ok(())
                }
                Next::Behind(after) => self.join(subscriber, after),
                Next::Unread(after, to) => self.read_on(subscriber, after, to),
            };
            if let Err(why) = told {
                self.subscribers.lock().remove(subscriber);
                // another store may have the files by now, and what was read from them be its
                let is_closed = subscriber.state.lock().is_closed;
                return subscriber.end_with(if is_closed { KvError::Closed } else { why });
            }
            if self.threads.has_waiting_tellers() {
                return self.serve(vec![subscriber.clone()]);
            }
        }
    }

    /// From here on the writer fills the queue again; what was published until now is read.
    fn join(&self, subscriber: &Subscriber, after: u64) -> Result<(), KvError> {
        let _writer = self.writer.lock();
        let published = self.view()?.revision;
        let mut state = subscriber.state.lock();
        state.behind = None;
        state.unread = (after & SEQUENCE_MAX < published & SEQUENCE_MAX).then_some((after, published));
        Ok(())
    }

    /// Read what comes after `after`, up to `to`, or as much of it as is one's share.
    fn read_on(&self, subscriber: &Subscriber, after: u64, to: u64) -> Result<(), KvError> {
        let (mut told, mut bytes) = (after, 0);
        let read = self.history_after(after).and_then(|history| {
            let read = history.read(&mut |replayed| {
                let (revision, ops) = decode(replayed).map_err(Halt::Failed)?;
                // who ended is told nothing, and wants no more to be read
                if told == to || bytes >= READ_BYTES || subscriber.is_over() {
                    return Err(Halt::Enough);
                }
                bytes += ops.iter().map(bytes_of).sum::<usize>();
                subscriber.tell_ops(revision, &ops);
                told = revision;
                Ok(())
            });
            match read {
                Ok(()) if told != to => Err(KvError::Internal(format!("the log ends at {told}, not at {to}"))),
                Ok(()) | Err(Halt::Enough) => Ok(()),
                Err(Halt::Failed(error)) => Err(error),
            }
        });
        if let Err(error) = read {
            return Err(self.why_lost(error, told));
        }
        subscriber.state.lock().unread = (told != to && !subscriber.is_over()).then_some((told, to));
        Ok(())
    }

    fn history_after(&self, after: u64) -> Result<History, KvError> {
        Ok(self.writer.lock().log.history_written((after & SEQUENCE_MAX) + 1)?)
    }

    /// History that nobody needs after a crash may have gone in part: that is no damage.
    fn why_lost(&self, error: KvError, after: u64) -> KvError {
        let drained = self.state.read().stack.base.revision;
        match error {
            KvError::HistoryGone { .. } => KvError::HistoryGone { from: after },
            KvError::Corrupt { .. } if after < drained => KvError::HistoryGone { from: after },
            error => error,
        }
    }
}

/// Revision and sequence of the first record.
fn first_revision(history: &History) -> Result<Option<(u64, u64)>, KvError> {
    let mut first = None;
    let read = history.read(&mut |replayed| {
        if let Replayed::Record(record) = replayed {
            let (revision, _) = record::decode(&record).map_err(Halt::Failed)?;
            first = Some((revision, record.sequence));
        }
        Err(Halt::Enough)
    });
    match read {
        Err(Halt::Failed(error)) => Err(error),
        _ => Ok(first),
    }
}

fn decode(replayed: Replayed<'_>) -> Result<(u64, Vec<Op>), KvError> {
    match replayed {
        Replayed::Record(record) => record::decode(&record),
        Replayed::Truncated { .. } => Err(KvError::corrupt("the log", None, "records taken back")),
    }
}

fn same_epoch(one: u64, other: u64) -> bool {
    one & !SEQUENCE_MAX == other & !SEQUENCE_MAX
}

/// `None`: every key.
fn key_of(op: &Op) -> Option<&[u8]> {
    match op {
        Op::Put { key, .. } | Op::PutUntil { key, .. } | Op::Delete { key } => Some(key),
        Op::Expire(expired) => Some(expired.key()),
        Op::Clear => None,
    }
}

fn bytes_of(op: &Op) -> usize {
    64 + match op {
        Op::Put { key, value } | Op::PutUntil { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
        Op::Expire(expired) => expired.key().len(),
        Op::Clear => 0,
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Seams};
    use crate::view::EVERYTHING;
    use crate::{Batch, Threads};
    use macula_core::{Gate, SystemChance, SystemClock};
    use macula_testkit::FaultDisk;

    #[test]
    fn nothing_is_left_of_those_who_ended() {
        let clock = Arc::new(SystemClock);
        let threads = Threads::start(1, 0, clock.clone()).expect("threads");
        let (disk, gate, chance) = (Arc::new(FaultDisk::new()), Arc::new(Gate::new()), Arc::new(SystemChance));
        let seams = Seams { disk, gate, clock, chance, threads };
        let store = Store::open(seams, Options::default()).expect("opens");
        let key = || (Bound::Included(b"a".to_vec()), Bound::Included(b"a".to_vec()));
        let subscribe = |range| store.subscribe(range, None, Box::new(|_| {})).expect("subscribes");
        let all = [subscribe(key()), subscribe(EVERYTHING), subscribe(key())];
        let weak = all.each_ref().map(|one| Arc::downgrade(&one.subscriber));
        store.write(Batch::put("a", "1")).expect("writes");
        drop(all);
        let left = store.shared().subscribers.lock();
        assert!(left.keys.is_empty() && left.ranges.is_empty());
        assert!(weak.iter().all(|one| one.upgrade().is_none()));
    }
}
