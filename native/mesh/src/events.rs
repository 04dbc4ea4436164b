//! What those are told who want to hear of what happens to files without their doing.
//!
//! Invariant: whoever changes a file waits for nobody who listens: each listener has a short queue, is woken once until
//! it has read that empty, and what did not fit is counted, and told behind what did. Without listeners nothing is looked
//! at. What is told is durable here.

use crate::record::{Content, Dot};
use crate::row::Row;
use crate::shared::Shared;
use crate::Name;
use macula_core::{AppName, RelPath};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// What may lie unread in one queue.
pub const UNREAD_MAX: usize = 1_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A version is not shown, though nothing replaced it.
    Conflict {
        /// The one that is shown.
        winner: Dot,
        /// And the one that is not.
        loser: Dot,
    },
    /// The name shows a version that was made elsewhere; whether its content is here, or shall not be.
    Changed {
        /// Which.
        version: Dot,
        /// What it holds.
        content: Content,
        /// Whether that is here.
        is_here: bool,
    },
    /// It was deleted elsewhere.
    Deleted {
        /// By which version.
        version: Dot,
    },
    /// A content that is here is not what it was.
    Rotten,
    /// It is again.
    Mended,
}

/// What happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub path: RelPath,
    /// What.
    pub what: What,
}

/// What somebody wants to hear of.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Of the files of an app.
    pub app: AppName,
    /// Those at or below this path.
    pub prefix: Option<RelPath>,
    /// Which kinds: conflict, changed, deleted, rotten, mended.
    pub kinds: [bool; 5],
}

/// What was read of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// In the order in which it happened.
    pub events: Vec<Event>,
    /// So many more happened behind those that were not kept.
    pub missed: u64,
    /// There is more already; else the listener is woken when there is.
    pub more: bool,
    /// The mesh was closed: nothing comes any more.
    pub is_over: bool,
}

/// All who listen.
#[derive(Default)]
pub(crate) struct Listeners {
    open: RwLock<BTreeMap<u64, Arc<Listener>>>,
    last: AtomicU64,
    /// Whether there are any.
    are_any: AtomicBool,
}

struct Listener {
    wish: Wish,
    queue: Mutex<Queue>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    missed: u64,
    is_awake: bool,
    is_over: bool,
}

/// One who listens, until it is dropped.
pub struct Listening {
    listeners: Arc<Listeners>,
    id: u64,
    of: Arc<Listener>,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("wish", &self.of.wish).finish_non_exhaustive()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut open = self.listeners.open.write();
        open.remove(&self.id);
        self.listeners.are_any.store(!open.is_empty(), Ordering::Release);
    }
}

impl Listening {
    /// What happened, at most so much at once.
    pub fn next(&self, limit: usize) -> Told {
        let mut queue = self.of.queue.lock();
        let count = queue.events.len().min(limit);
        let events = queue.events.drain(..count).collect();
        if !queue.events.is_empty() {
            return Told { events, more: true, ..Told::default() };
        }
        queue.is_awake = false;
        Told { events, missed: std::mem::take(&mut queue.missed), more: false, is_over: queue.is_over }
    }
}

impl Listener {
    fn tell(&self, change: impl FnOnce(&mut Queue)) {
        let was_awake = {
            let mut queue = self.queue.lock();
            change(&mut queue);
            std::mem::replace(&mut queue.is_awake, true)
        };
        if !was_awake {
            (self.wake)();
        }
    }
}

impl Listeners {
    /// Hear of it from now on; `wake` is called when there is something to read, and must be quick.
    pub fn listen(self: &Arc<Self>, wish: Wish, wake: impl Fn() + Send + Sync + 'static) -> Listening {
        let of = Arc::new(Listener { wish, queue: Mutex::default(), wake: Box::new(wake) });
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.write();
        open.insert(id, of.clone());
        self.are_any.store(true, Ordering::Release);
        Listening { listeners: self.clone(), id, of }
    }

    /// Tell everybody who wants to hear of it.
    pub fn tell(&self, name: &Name, what: What) {
        if !self.are_any.load(Ordering::Acquire) {
            return;
        }
        for listener in self.open.read().values().filter(|listener| listener.wish.is_of(name, &what)) {
            listener.tell(|queue| match queue.missed == 0 && queue.events.len() < UNREAD_MAX {
                true => queue.events.push_back(Event { path: name.path.clone(), what }),
                false => queue.missed += 1,
            });
        }
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.open.read().values().for_each(|listener| listener.tell(|queue| queue.is_over = true));
    }
}

impl Wish {
    fn is_of(&self, name: &Name, what: &What) -> bool {
        let kind = match what {
            What::Conflict { .. } => 0,
            What::Changed { .. } => 1,
            What::Deleted { .. } => 2,
            What::Rotten => 3,
            What::Mended => 4,
        };
        let is_below = |prefix: &RelPath| name.path == *prefix || name.path.is_within(prefix);
        self.kinds[kind] && self.app == name.app && self.prefix.as_ref().is_none_or(is_below)
    }
}

/// What of a row is told of when it changes.
pub(crate) struct Seen {
    shown: Option<(Dot, Option<Content>)>,
    placed: Option<Dot>,
    losers: Vec<Dot>,
}

impl Seen {
    /// As it is now, if anybody listens.
    pub fn of(shared: &Shared, row: &Row) -> Option<Self> {
        shared.listeners.are_any.load(Ordering::Acquire).then(|| Self {
            shown: row.record.winner().map(|winner| (winner.dot, winner.content)),
            placed: row.here.placed.map(|placed| placed.dot),
            losers: row.record.losers().map(|loser| loser.dot).collect(),
        })
    }

    /// Tell what has changed since then.
    pub fn tell(&self, shared: &Shared, name: &Name, row: &Row) {
        let Some(now) = Self::of(shared, row) else { return };
        let Some((version, content)) = now.shown else { return };
        for loser in now.losers.iter().filter(|loser| !self.losers.contains(loser)) {
            shared.listeners.tell(name, What::Conflict { winner: version, loser: *loser });
        }
        if version.replica == shared.own() {
            return;
        }
        let is_here = now.placed == Some(version);
        match content {
            Some(content) => {
                let is_new = || self.shown.map(|(dot, _)| dot) != Some(version);
                let is_wanted = || shared.wanted(name, row).any(|wanted| wanted.dot == version);
                // what is on its way is told when it is here
                let is_told = if is_here { self.placed != Some(version) } else { is_new() && !is_wanted() };
                if is_told {
                    shared.listeners.tell(name, What::Changed { version, content, is_here });
                }
            }
            None if self.shown.is_some_and(|(_, content)| content.is_some()) => {
                shared.listeners.tell(name, What::Deleted { version });
            }
            None => {}
        }
    }
}
