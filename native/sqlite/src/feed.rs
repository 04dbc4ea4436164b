//! Tells subscribers which rows a commit changed, after it is durable and in the order of commits.
//!
//! SQLite's pre-update hook collects the changes of the transaction; a request that fails alone takes its
//! own back by a mark. Invariant: a change is told, or [`Told::Many`] in its place, if and only if the request
//! that made it was committed. The hook is there only while somebody subscribes: it keeps SQLite from
//! deleting whole tables at once.

use crate::sqlite3::{image, Action, RowImage};
use crate::Value;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More changes of one request are told as [`Told::Many`].
const CHANGES_MAX: usize = 10_000;
/// So are those of a transaction that come after so many bytes of images.
const IMAGES_BYTES_MAX: u64 = 16 << 20;

/// A row that a committed request changed.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    /// What was done.
    pub action: Action,
    /// The table.
    pub table: String,
    /// The row's id, the new one of an update that changed it; without a meaning in a table without row ids.
    pub rowid: i64,
    /// The values before, of an update or delete, when some subscriber wants images.
    pub before: Option<Vec<Value>>,
    /// The values after, of an insert or update, likewise; not of what a blob handle wrote.
    pub after: Option<Vec<Value>>,
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Told<'a> {
    /// A request was committed that changed these rows of the subscriber's.
    Changes(u64, Vec<&'a RowChange>),
    /// One was that changed rows, in any tables, which are not told one by one: too many, or not known.
    Many(u64),
    /// The database is closed; nothing follows.
    Closed,
}

/// Called for every commit with a change of its own; `false` ends it.
type Tell = Box<dyn FnMut(Told<'_>) -> bool + Send>;

struct Subscriber {
    id: u64,
    table: Option<String>,
    images: bool,
    tell: Tell,
}

impl Subscriber {
    /// Whether it wants to hear more.
    fn hears(&mut self, told: Told<'_>) -> bool {
        // the caller's code: its panic must not take what commits
        catch_unwind(AssertUnwindSafe(|| (self.tell)(told))).unwrap_or(false)
    }
}

/// What the subscribers want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    Rows,
    Images,
}

/// The subscribers of one database.
pub(crate) struct Feed {
    subscribers: Mutex<Vec<Subscriber>>,
    /// How many there are, and how many of them want images.
    counts: [AtomicUsize; 2],
    next_id: AtomicU64,
    revision: AtomicU64,
}

impl Feed {
    /// Revisions grow from the time of opening on, so also over restarts while the clock does not go back.
    pub(crate) fn new(wall_ms: u64) -> Self {
        let revision = AtomicU64::new(wall_ms << 10);
        Self { subscribers: Mutex::default(), counts: Default::default(), next_id: AtomicU64::new(1), revision }
    }

    pub(crate) fn subscribe(&self, table: Option<String>, images: bool, tell: Tell) -> (u64, u64) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut subscribers = self.subscribers.lock();
        subscribers.push(Subscriber { id, table, images, tell });
        self.count(&subscribers);
        (id, self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn unsubscribe(&self, id: u64) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| subscriber.id != id);
        self.count(&subscribers);
    }

    fn count(&self, subscribers: &[Subscriber]) {
        let [all, images] = &self.counts;
        images.store(subscribers.iter().filter(|subscriber| subscriber.images).count(), Ordering::Release);
        all.store(subscribers.len(), Ordering::Release);
    }

    pub(crate) fn wanted(&self) -> Wanted {
        let [all, images] = &self.counts;
        match (all.load(Ordering::Acquire), images.load(Ordering::Acquire)) {
            (0, _) => Wanted::Nothing,
            (_, 0) => Wanted::Rows,
            _ => Wanted::Images,
        }
    }

    /// Something was committed of which is not known what it changed.
    pub(crate) fn tell_many(&self) {
        self.tell(None, false);
    }

    /// A request was committed that changed these rows; `None`: some, not known or too many.
    fn tell(&self, changes: Option<&[RowChange]>, with_images: bool) {
        let revision = self.revision.fetch_add(1, Ordering::AcqRel) + 1;
        let mut subscribers = self.subscribers.lock();
        subscribers.retain_mut(|subscriber| {
            // who came for images during a transaction that was collected without
            let Some(changes) = changes.filter(|_| with_images || !subscriber.images) else {
                return subscriber.hears(Told::Many(revision));
            };
            let of_it = |change: &&RowChange| {
                subscriber.table.as_ref().is_none_or(|table| table.eq_ignore_ascii_case(&change.table))
            };
            let own: Vec<&RowChange> = changes.iter().filter(of_it).collect();
            own.is_empty() || subscriber.hears(Told::Changes(revision, own))
        });
        self.count(&subscribers);
    }

    pub(crate) fn close(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock());
        self.count(&[]);
        for mut subscriber in subscribers {
            subscriber.hears(Told::Closed);
        }
    }
}

/// What a transaction under way has changed, within bounds.
#[derive(Default)]
pub(crate) struct Changes {
    rows: Vec<RowChange>,
    images_bytes: u64,
    with_images: bool,
    /// So many followed that are not kept.
    more: usize,
}

impl Changes {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { with_images: wanted == Wanted::Images, ..Self::default() }
    }

    /// One more; an image is asked for when it is kept.
    pub(crate) fn push(
        &mut self,
        (action, table, rowid): (Action, &str, i64),
        before: impl FnOnce() -> Option<Vec<Value>>,
        after: impl FnOnce() -> Option<Vec<Value>>,
    ) {
        let many = self.rows.len() >= 4 * CHANGES_MAX || self.images_bytes >= IMAGES_BYTES_MAX;
        if many || self.more > 0 {
            self.more += 1;
            return;
        }
        let table = table.to_owned();
        let (before, after) = if self.with_images { (before(), after()) } else { (None, None) };
        let change = RowChange { action, table, rowid, before, after };
        self.images_bytes += change.images_bytes();
        self.rows.push(change);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() + self.more
    }

    /// What came after the first `mark` was undone.
    pub(crate) fn undo(&mut self, mark: usize) {
        self.images_bytes -= self.rows.iter().skip(mark).map(RowChange::images_bytes).sum::<u64>();
        self.rows.truncate(mark);
        self.more = mark.saturating_sub(self.rows.len()).min(self.more);
    }

    /// Committed: tell, request by request, of which each ended at one of `ends`.
    pub(crate) fn tell(&self, feed: &Feed, ends: &[usize]) {
        let mut from = 0;
        for end in ends.iter().copied().filter(|end| *end <= self.len()) {
            let kept = self.rows.get(from..end).filter(|own| own.len() <= CHANGES_MAX);
            if end > from {
                feed.tell(kept, self.with_images);
            }
            from = end;
        }
    }
}

impl RowChange {
    fn images_bytes(&self) -> u64 {
        let values = self.before.iter().chain(&self.after).flatten();
        values.map(|value| value.as_cell().size()).sum()
    }
}

/// What the writer's connection has changed since its last commit.
#[derive(Default)]
pub(crate) struct Collector {
    // boxed: SQLite holds its address
    changes: Box<Mutex<Changes>>,
    is_installed: bool,
    /// Somebody subscribed during the transaction.
    is_late: bool,
}

impl Collector {
    /// A transaction begins: collect if anybody wants to know.
    pub(crate) fn begin(&mut self, feed: &Feed, db: &rusqlite::Connection) {
        let wanted = feed.wanted();
        *self.changes.lock() = Changes::new(wanted);
        let is_wanted = wanted != Wanted::Nothing;
        if is_wanted == self.is_installed {
            return;
        }
        let (hook, place): (Option<Hook>, *mut c_void) = match is_wanted {
            true => (Some(changed), (&raw mut *self.changes).cast()),
            false => (None, std::ptr::null_mut()),
        };
        // SAFETY: the handle is live; the place lives as long as the collector, which goes after the
        // connection, or is taken out here
        unsafe { ffi::sqlite3_preupdate_hook(db.handle(), hook, place) };
        self.is_installed = is_wanted;
        // a `DELETE FROM t` that was prepared without the hook goes on removing all at once, and telling nothing
        db.flush_prepared_statement_cache();
    }

    /// Where the changes of what follows begin.
    pub(crate) fn mark(&self) -> usize {
        self.changes.lock().len()
    }

    /// What came after the mark was undone.
    pub(crate) fn undo(&self, mark: usize) {
        self.changes.lock().undo(mark);
    }

    /// It is committed, and nobody was answered yet: who subscribes from now on sees it by reading.
    pub(crate) fn settle(&mut self, feed: &Feed) {
        self.is_late = !self.is_installed && feed.wanted() != Wanted::Nothing;
    }

    /// Tell what was committed, request by request, of which each ended at one of `ends`.
    pub(crate) fn tell(&self, feed: &Feed, ends: &[usize]) {
        if self.is_installed {
            let changes = std::mem::take(&mut *self.changes.lock());
            changes.tell(feed, ends);
        } else if self.is_late {
            feed.tell_many();
        }
    }
}

type Hook = unsafe extern "C" fn(*mut c_void, *mut ffi::sqlite3, c_int, *const c_char, *const c_char, i64, i64);

unsafe extern "C" fn changed(
    place: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    database: *const c_char,
    table: *const c_char,
    rowid_old: i64,
    rowid_new: i64,
) {
    // SAFETY: the place that was given with this function, see `Collector::begin`; names are NUL-terminated
    let (changes, database, table) = unsafe {
        let changes = &*place.cast::<Mutex<Changes>>();
        (changes, CStr::from_ptr(database), CStr::from_ptr(table))
    };
    if database != c"main" {
        return;
    }
    let (action, rowid) = match op {
        ffi::SQLITE_INSERT => (Action::Insert, rowid_new),
        ffi::SQLITE_DELETE => (Action::Delete, rowid_old),
        _ => (Action::Update, rowid_new),
    };
    // SAFETY: inside of the hook, of a change that has this image
    let image = |is_there: bool, get: RowImage| is_there.then(|| unsafe { image(db, get) });
    let before = || image(action != Action::Insert, ffi::sqlite3_preupdate_old);
    let after = || image(action != Action::Delete, ffi::sqlite3_preupdate_new);
    changes.lock().push((action, &table.to_string_lossy(), rowid), before, after);
}
