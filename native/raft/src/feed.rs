//! Watches: who waits for changes, and pages of the history for them.
//!
//! A change only wakes those whom it concerns and who had read everything; each reads the history from the
//! table at its own pace, so that a slow one costs no memory. Invariant: up to its `seen` a watch was given all
//! that matches; while it sleeps nothing after `seen` matches, and that number moves on without it, so that
//! changes elsewhere do not push it out of the history.

use crate::machine::{self, Event, Pattern, View};
use crate::{RaftError, Reading, HOT_BYTES_MAX};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What one page reads of the history, unless one revision is larger.
const PAGE_BYTES: usize = 512 << 10;
/// The same of a page for who must not wait.
const PAGE_NOW_BYTES: usize = 8 << 10;
/// What an event takes beside its path and value, about.
const EVENT_BYTES: usize = 64;

/// Called when there may be more to read. Must not block.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// The watches of one node's state.
#[derive(Default)]
pub struct Feeds(Mutex<Hub>);

#[derive(Default)]
struct Hub {
    /// The newest revision with events that was told.
    newest: u64,
    /// How often anything may have changed.
    turns: u64,
    next_id: u64,
    is_closed: bool,
    watches: BTreeMap<u64, Watch>,
}

struct Watch {
    pattern: Arc<Pattern>,
    seen: u64,
    sleeps: bool,
    wake: Waker,
}

/// Whole revisions of a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedPage {
    /// What matches, in order.
    pub events: Vec<Event>,
    /// Up to which revision the watch has seen all.
    pub through: u64,
    /// Read on now: no waker will be called.
    pub more: bool,
}

impl Feeds {
    /// Tells what was applied, after it can be read. Nothing: anything may have changed.
    pub fn tell(&self, events: &[Event]) {
        let mut hub = self.0.lock();
        let last = events.last().map_or(0, |event| event.revision);
        hub.newest = hub.newest.max(last);
        hub.turns += u64::from(events.is_empty());
        for watch in hub.watches.values_mut().filter(|watch| watch.sleeps) {
            let concerns = |event: &Event| event.revision > watch.seen && watch.pattern.matches(&event.path);
            if events.is_empty() || events.iter().any(concerns) {
                watch.sleeps = false;
                (watch.wake)();
            } else {
                watch.seen = watch.seen.max(last);
            }
        }
    }

    /// A watch of what matches, after a revision. It begins awake: read it.
    pub fn begin(&self, pattern: Pattern, after: u64, wake: Waker) -> Result<u64, RaftError> {
        let mut hub = self.0.lock();
        if hub.is_closed {
            return Err(RaftError::Closed);
        }
        let id = hub.next_id;
        hub.next_id += 1;
        hub.watches.insert(id, Watch { pattern: Arc::new(pattern), seen: after, sleeps: false, wake });
        Ok(id)
    }

    /// Forgets a watch.
    pub fn end(&self, id: u64) {
        let ended = self.0.lock().watches.remove(&id);
        drop(ended);
    }

    /// Wakes all: what they read next is refused.
    pub fn close(&self) {
        let mut hub = self.0.lock();
        hub.is_closed = true;
        for watch in hub.watches.values() {
            (watch.wake)();
        }
    }

    /// The next page of a watch. `look` reads the state as of now with what it is given.
    pub fn next(
        &self,
        id: u64,
        look: impl FnOnce(&mut dyn FnMut(&dyn View) -> Result<FeedPage, RaftError>) -> Result<FeedPage, RaftError>,
    ) -> Result<FeedPage, RaftError> {
        let (pattern, after, turns) = self.0.lock().wake_up(id)?;
        let mut page = look(&mut |rows| page(rows, &pattern, after))?;
        self.0.lock().given(id, &mut page, turns);
        Ok(page)
    }

    /// The same for who must not wait, and less of it; `None`: by [`Feeds::next`] only, as of now.
    /// `rows` gives the state as of when it is called, if it can.
    pub fn next_now(
        &self,
        id: u64,
        rows: impl FnOnce() -> Result<Option<Arc<Reading>>, RaftError>,
    ) -> Result<Option<FeedPage>, RaftError> {
        let Some(mut hub) = self.0.try_lock() else { return Ok(None) };
        let (pattern, after, turns) = hub.wake_up(id)?;
        drop(hub);
        let Some(rows) = rows()? else { return Ok(None) };
        let page = rows.look_now(HOT_BYTES_MAX, |rows| page_of(rows, &pattern, after, PAGE_NOW_BYTES))?;
        // without it, nothing was given
        let (Some(mut page), Some(mut hub)) = (page, self.0.try_lock()) else { return Ok(None) };
        hub.given(id, &mut page, turns);
        Ok(Some(page))
    }
}

impl Hub {
    /// What a watch is of, what it has seen, and how often anything had changed by then.
    fn wake_up(&mut self, id: u64) -> Result<(Arc<Pattern>, u64, u64), RaftError> {
        let watch = self.watches.get_mut(&id).ok_or(RaftError::Closed)?;
        watch.sleeps = false;
        Ok((watch.pattern.clone(), watch.seen, self.turns))
    }

    fn given(&mut self, id: u64, page: &mut FeedPage, turns: u64) {
        // told between the look at the table and now
        page.more = page.more || self.newest > page.through || self.turns != turns;
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.seen = page.through;
            watch.sleeps = !page.more;
        }
    }
}

/// What happened behind a revision and matches.
pub(crate) fn page(rows: &dyn View, pattern: &Pattern, after: u64) -> Result<FeedPage, RaftError> {
    page_of(rows, pattern, after, PAGE_BYTES)
}

fn page_of(rows: &dyn View, pattern: &Pattern, after: u64, bytes_max: usize) -> Result<FeedPage, RaftError> {
    let through = machine::status(rows)?.revision.max(after);
    let mut page = FeedPage { through, ..FeedPage::default() };
    let (mut at, mut bytes) = (after, 0);
    machine::history(rows, after.saturating_add(1), &mut |event| {
        if event.revision != at && bytes > bytes_max {
            (page.through, page.more) = (at, true);
            return ControlFlow::Break(());
        }
        at = event.revision;
        bytes += event.path.key().len() + event.value.as_ref().map_or(0, Vec::len) + EVENT_BYTES;
        if pattern.matches(&event.path) {
            page.events.push(event);
        }
        ControlFlow::Continue(())
    })?;
    Ok(page)
}
