//! Tells subscribers which rows a commit changed, after it is durable and in the order of commits.
//!
//! SQLite's pre-update hook collects the changes of the transaction; a request that fails alone takes its
//! own back by a mark. Invariant: a change is told if and only if the request that made it was answered
//! `Ok`. The hook is there only while somebody subscribes: it keeps
//! SQLite from deleting whole tables at once.

use crate::sqlite3::{image, Action, RowImage};
use crate::Value;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More changes of one request are told as [`Told::Many`].
const CHANGES_MAX: usize = 10_000;

/// A row that a committed request changed.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    /// What was done.
    pub action: Action,
    /// The table.
    pub table: String,
    /// The row's id, the new one of an update that changed it; without a meaning in a table without row ids.
    pub rowid: i64,
    /// The values before, of an update or delete.
    pub before: Option<Vec<Value>>,
    /// The values after, of an insert or update.
    pub after: Option<Vec<Value>>,
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Told<'a> {
    /// A request was committed that changed these rows of the subscriber's.
    Changes(u64, Vec<&'a RowChange>),
    /// One was that changed more rows, in any tables, than are told one by one.
    Many(u64),
    /// The database is closed; nothing follows.
    Closed,
}

/// Called for every commit with a change of its own; `false` ends it.
type Tell = Box<dyn FnMut(Told<'_>) -> bool + Send>;

struct Subscriber {
    id: u64,
    table: Option<String>,
    tell: Tell,
}

/// The subscribers of one database.
pub(crate) struct Feed {
    subscribers: Mutex<Vec<Subscriber>>,
    count: AtomicUsize,
    next_id: AtomicU64,
    revision: AtomicU64,
}

impl Feed {
    /// Revisions grow from the time of opening on, so also over restarts while the clock does not go back.
    pub(crate) fn new(wall_ms: u64) -> Self {
        let (subscribers, count) = (Mutex::default(), AtomicUsize::new(0));
        Self { subscribers, count, next_id: AtomicU64::new(1), revision: AtomicU64::new(wall_ms << 10) }
    }

    pub(crate) fn subscribe(&self, table: Option<String>, tell: Tell) -> (u64, u64) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut subscribers = self.subscribers.lock();
        subscribers.push(Subscriber { id, table, tell });
        self.count.store(subscribers.len(), Ordering::Release);
        (id, self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn unsubscribe(&self, id: u64) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| subscriber.id != id);
        self.count.store(subscribers.len(), Ordering::Release);
    }

    fn is_wanted(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// A request was committed.
    fn tell(&self, changes: &[RowChange], is_cut: bool) {
        let revision = self.revision.fetch_add(1, Ordering::AcqRel) + 1;
        let mut subscribers = self.subscribers.lock();
        subscribers.retain_mut(|subscriber| {
            if is_cut {
                return (subscriber.tell)(Told::Many(revision));
            }
            let of_it = |change: &&RowChange| {
                subscriber.table.as_ref().is_none_or(|table| table.eq_ignore_ascii_case(&change.table))
            };
            let own: Vec<&RowChange> = changes.iter().filter(of_it).collect();
            own.is_empty() || (subscriber.tell)(Told::Changes(revision, own))
        });
        self.count.store(subscribers.len(), Ordering::Release);
    }

    pub(crate) fn close(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock());
        self.count.store(0, Ordering::Release);
        for mut subscriber in subscribers {
            (subscriber.tell)(Told::Closed);
        }
    }
}

/// What the writer's connection has changed since its last commit.
#[derive(Default)]
pub(crate) struct Collector {
    // boxed: SQLite holds its address
    changes: Box<Mutex<Vec<RowChange>>>,
    is_installed: bool,
}

impl Collector {
    /// A transaction begins: collect if anybody wants to know.
    pub(crate) fn begin(&mut self, feed: &Feed, db: &rusqlite::Connection) {
        self.changes.lock().clear();
        let is_wanted = feed.is_wanted();
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
        self.changes.lock().truncate(mark);
    }

    /// Committed: tell, request by request, of which each ended at one of `ends`.
    pub(crate) fn committed(&self, feed: &Feed, ends: &[usize]) {
        if !self.is_installed {
            return;
        }
        let changes = std::mem::take(&mut *self.changes.lock());
        let mut from = 0;
        for end in ends.iter().copied().filter(|end| *end <= changes.len()) {
            let own = &changes[from..end];
            if !own.is_empty() {
                feed.tell(&own[..own.len().min(CHANGES_MAX)], own.len() > CHANGES_MAX);
            }
            from = end;
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
        let changes = &*place.cast::<Mutex<Vec<RowChange>>>();
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
    let mut changes = changes.lock();
    // beyond what is told one by one only their number matters
    let is_many = changes.len() >= 4 * CHANGES_MAX;
    // SAFETY: inside of the hook, of a change that has this image
    let image = |is_there: bool, get: RowImage| (is_there && !is_many).then(|| unsafe { image(db, get) });
    let before = image(action != Action::Insert, ffi::sqlite3_preupdate_old);
    let after = image(action != Action::Delete, ffi::sqlite3_preupdate_new);
    let table = if is_many { String::new() } else { table.to_string_lossy().into_owned() };
    changes.push(RowChange { action, table, rowid, before, after });
}
