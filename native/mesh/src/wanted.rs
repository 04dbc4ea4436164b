//! Files of which content is to be brought here, and who may ask for blocks.
//!
//! Invariant: what somebody just wrote is never behind what merely moves because members came or went, or what a caller
//! read and wants kept; these take a part of the workers at most. A name is in one place: wanted, under way, or waiting
//! for another try.

use crate::Name;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

/// Requests for blocks under way, of all files: each is of 1 MiB at most.
const REQUESTS_MAX: usize = 24;
/// Mebibytes of manifests of contents under way, of those that have more than one: of two of the longest.
const MANIFESTS_MIB_MAX: usize = 260;
/// Files at once that are brought here because of where they shall be now.
const MOVES_MAX: usize = 8;

/// Why content of a file is wanted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Something changed in it.
    New,
    /// Members came or went: others shall have it now. Or nobody but a caller who read it has it stay here.
    Moved,
}

/// What is to be fetched.
pub(crate) struct Fetches {
    queue: Mutex<Queue>,
    wake: Notify,
    pub requests: Arc<Semaphore>,
    /// Of manifests, mebibytes.
    pub manifests: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    wanted: BTreeSet<Name>,
    moved: BTreeSet<Name>,
    /// Being fetched, why, and whether it was wanted again meanwhile.
    under_way: BTreeMap<Name, (Why, Option<Why>)>,
    /// Failed, and waiting.
    later: BTreeMap<Name, Why>,
    /// Of those, which a caller read, so that what they show is to be kept here.
    read: BTreeSet<Name>,
}

impl Default for Fetches {
    fn default() -> Self {
        let (requests, manifests) = (Semaphore::new(REQUESTS_MAX), Semaphore::new(MANIFESTS_MIB_MAX));
        let (requests, manifests) = (Arc::new(requests), Arc::new(manifests));
        Self { queue: Mutex::default(), wake: Notify::new(), requests, manifests }
    }
}

impl Queue {
    fn want(&mut self, name: Name, why: Why) {
        if let Some((_, again)) = self.under_way.get_mut(&name) {
            *again = Some(again.map_or(why, |before| before.min(why)));
            return;
        }
        let why = self.later.remove(&name).map_or(why, |before| before.min(why));
        if why == Why::New {
            self.moved.remove(&name);
            self.wanted.insert(name);
        } else if !self.wanted.contains(&name) {
            self.moved.insert(name);
        }
    }

    fn take(&mut self) -> Option<(Name, Why)> {
        let may_move = || self.under_way.values().filter(|(why, _)| *why == Why::Moved).count() < MOVES_MAX;
        let taken = match self.wanted.pop_first() {
            Some(name) => (name, Why::New),
            None if may_move() => (self.moved.pop_first()?, Why::Moved),
            None => return None,
        };
        self.under_way.insert(taken.0.clone(), (taken.1, None));
        Some(taken)
    }

    fn has_more(&self) -> bool {
        !self.wanted.is_empty() || !self.moved.is_empty()
    }
}

impl Fetches {
    /// Content of a file is wanted here.
    pub fn want(&self, name: Name, why: Why) {
        self.queue.lock().want(name, why);
        self.wake.notify_one();
    }

    /// A caller read a file that is not here, and what it shows is to be kept here.
    pub fn want_read(&self, name: Name) {
        let mut queue = self.queue.lock();
        queue.read.insert(name.clone());
        queue.want(name, Why::Moved);
        drop(queue);
        self.wake.notify_one();
    }

    /// Whether a caller read it; asked by whoever fetches it now: of what fails nobody tries it again.
    pub fn take_read(&self, name: &Name) -> bool {
        self.queue.lock().read.remove(name)
    }

    /// Somebody came: what failed may be had now.
    pub fn look(&self) {
        let mut queue = self.queue.lock();
        for (name, why) in std::mem::take(&mut queue.later) {
            queue.want(name, why);
        }
        drop(queue);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Files of which content is wanted here: all of them; and of these, those that failed and wait for another try.
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.lock();
        let later = queue.later.len();
        (queue.wanted.len() + queue.moved.len() + queue.under_way.len() + later, later)
    }

    /// All of them, if they are no more than that.
    pub fn names(&self, max: usize) -> Option<Vec<Name>> {
        let queue = self.queue.lock();
        let Queue { wanted, moved, under_way, later, .. } = &*queue;
        let is_few = wanted.len() + moved.len() + under_way.len() + later.len() <= max;
        is_few.then(|| wanted.iter().chain(moved).chain(under_way.keys()).chain(later.keys()).cloned().collect())
    }

    /// The next one, until [`Fetches::ended`].
    pub async fn next(&self) -> (Name, Why) {
        loop {
            let woken = self.wake.notified();
            {
                let mut queue = self.queue.lock();
                if let Some(taken) = queue.take() {
                    if queue.has_more() {
                        self.wake.notify_one();
                    }
                    return taken;
                }
            }
            woken.await;
        }
    }

    /// It is here, or could not be had now.
    pub fn ended(&self, name: Name, is_done: bool) {
        let mut queue = self.queue.lock();
        let Some((why, again)) = queue.under_way.remove(&name) else { return };
        match again {
            Some(again) => queue.want(name, again),
            None if is_done => {}
            None => drop(queue.later.insert(name, why)),
        }
        if queue.has_more() {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Fetches, Why, MOVES_MAX};
    use crate::Name;
    use futures_util::FutureExt;
    use macula_core::{AppName, RelPath};

    fn name(path: &str) -> Name {
        Name { app: AppName::new("app").expect("a name"), path: RelPath::new(path).expect("a path") }
    }

    fn next(fetches: &Fetches) -> Option<(Name, Why)> {
        fetches.next().now_or_never()
    }

    #[test]
    fn what_is_new_is_not_behind_what_moves() {
        let fetches = Fetches::default();
        (0..50).for_each(|n| fetches.want(name(&format!("a/{n:02}")), Why::Moved));
        fetches.want(name("z"), Why::New);
        assert_eq!(next(&fetches), Some((name("z"), Why::New)));
        for n in 0..MOVES_MAX {
            assert_eq!(next(&fetches), Some((name(&format!("a/{n:02}")), Why::Moved)));
        }
        // a worker is left for what comes
        assert_eq!(next(&fetches), None);
        fetches.want(name("a/40"), Why::New);
        assert_eq!(next(&fetches), Some((name("a/40"), Why::New)));
        assert_eq!(next(&fetches), None);
        fetches.ended(name("a/03"), true);
        assert_eq!(next(&fetches), Some((name(&format!("a/{MOVES_MAX:02}")), Why::Moved)));
        assert_eq!(fetches.waiting(), (50, 0));
    }

    #[test]
    fn what_failed_waits_until_somebody_comes_and_is_in_one_place() {
        let fetches = Fetches::default();
        fetches.want(name("a"), Why::Moved);
        fetches.want(name("b"), Why::New);
        fetches.want(name("b"), Why::Moved);
        assert_eq!(fetches.waiting(), (2, 0));
        assert_eq!(next(&fetches), Some((name("b"), Why::New)));
        assert_eq!(next(&fetches), Some((name("a"), Why::Moved)));
        // written anew meanwhile
        fetches.want(name("a"), Why::New);
        fetches.ended(name("a"), true);
        fetches.ended(name("b"), false);
        assert_eq!(fetches.waiting(), (2, 1));
        assert_eq!(next(&fetches), Some((name("a"), Why::New)));
        fetches.ended(name("a"), false);
        assert_eq!((next(&fetches), fetches.waiting()), (None, (2, 2)));
        fetches.want(name("a"), Why::Moved);
        assert_eq!(fetches.waiting(), (2, 1));
        fetches.look();
        assert_eq!(next(&fetches), Some((name("a"), Why::New)));
        assert_eq!(next(&fetches), Some((name("b"), Why::New)));
        assert_eq!(fetches.waiting(), (2, 0));
    }

    #[test]
    fn what_was_read_is_behind_what_is_new_and_tried_once() {
        let fetches = Fetches::default();
        fetches.want_read(name("a"));
        fetches.want(name("b"), Why::New);
        assert_eq!((next(&fetches), fetches.take_read(&name("b"))), (Some((name("b"), Why::New)), false));
        assert_eq!((next(&fetches), fetches.take_read(&name("a"))), (Some((name("a"), Why::Moved)), true));
        // read once more, behind the look at what is wanted
        fetches.want_read(name("a"));
        fetches.ended(name("a"), true);
        assert_eq!((next(&fetches), fetches.take_read(&name("a"))), (Some((name("a"), Why::Moved)), true));
        fetches.ended(name("a"), false);
        fetches.look();
        assert_eq!((next(&fetches), fetches.take_read(&name("a"))), (Some((name("a"), Why::Moved)), false));
        // what is new stays so
        fetches.want(name("c"), Why::New);
        fetches.want_read(name("c"));
        assert_eq!((next(&fetches), fetches.take_read(&name("c"))), (Some((name("c"), Why::New)), true));
    }
}
