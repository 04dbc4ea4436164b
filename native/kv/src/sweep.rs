//! The sweeper: frees entries whose time has come, which nobody reads any more by then. It looks after
//! each drain, and by the clock when the next one in redb expires.
//!
//! Invariant: one sweep of a store at a time, with one small batch in the queue at a time; while memory
//! fills up, no more is swept than written, so that neither waits for ever. Without an entry that expires
//! no alarm is set. A sweep that is lost is done again: what it did needs no sync.

use crate::batch::{Batch, Durability, Expired, Op};
use crate::queue::Job;
use crate::reply::Reply;
use crate::shared::Shared;
use crate::value::expiry_key;
use crate::view::View;
use crate::KvError;
use macula_core::{Kind, Kinded};
use std::sync::Arc;
use std::time::Duration;

/// Keys of one batch, and their bytes, at most: the writer looks for each of them again.
const KEYS_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;
/// Between two looks by the clock at least.
const PAUSE: Duration = Duration::from_millis(100);

/// How far it is.
#[derive(Default)]
pub(crate) struct Sweeper {
    is_running: bool,
    /// Rows may have come before the one that was looked at last.
    is_asked: bool,
    /// The row that was looked at last; what expires before it is swept, though not drained.
    behind: Option<Vec<u8>>,
    /// When it looks next by the clock.
    alarm_at: Option<Duration>,
    /// Entries that may be swept until the next drain though memory fills up.
    allowance: usize,
}

/// A part of what is due.
#[derive(Default)]
struct Found {
    due: Vec<Op>,
    /// The row that was looked at last.
    last: Option<Vec<u8>>,
    /// There may be more.
    is_cut: bool,
    /// When the first entry expires that is not due.
    next_ms: Option<u64>,
}

/// Let a thread look at everything, after so many changes were drained. Never waits.
pub(crate) fn ask(shared: &Arc<Shared>, drained: usize) {
    let mut sweeper = shared.sweeper.lock();
    sweeper.is_asked = true;
    // of those, half may have been a sweep's
    sweeper.allowance = drained / 2;
    let is_running = std::mem::replace(&mut sweeper.is_running, true);
    drop(sweeper);
    if !is_running {
        go_on(shared);
    }
}

fn go_on(shared: &Arc<Shared>) {
    let (shared, threads) = (shared.clone(), shared.threads.clone());
    threads.drain(move || shared.sweep());
}

impl Shared {
    /// Hand what is due to the writer, which lets this go on when it is done.
    fn sweep(self: &Arc<Self>) {
        loop {
            let (behind, is_allowed) = {
                let mut sweeper = self.sweeper.lock();
                if std::mem::take(&mut sweeper.is_asked) {
                    sweeper.behind = None;
                }
                (sweeper.behind.clone(), sweeper.allowance > 0)
            };
            let found = match self.read(|view| self.look(view, behind.as_deref(), is_allowed)) {
                Ok(Some(found)) => found,
                // a drain is due, and asks again
                Ok(None) => return self.rest(None),
                Err(error) => return self.failed(&error),
            };
            if found.last.is_some() {
                let mut sweeper = self.sweeper.lock();
                sweeper.behind = found.last;
                sweeper.allowance = sweeper.allowance.saturating_sub(found.due.len());
            }
            if !found.due.is_empty() {
                return self.submit_sweep(found.due);
            }
            if !found.is_cut {
                let now_ms = self.now.ms();
                let next = found.next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(now_ms)));
                return self.rest(next);
            }
        }
    }

    /// `None`: not now, too much waits in memory.
    fn look(&self, view: &View, behind: Option<&[u8]>, is_allowed: bool) -> Result<Option<Found>, KvError> {
        let stack = &view.stack;
        // writers are slowed down above the half
        if !is_allowed && stack.bytes() > self.options.overlay_bytes_max / 4 {
            return Ok(None);
        }
        let (mut found, mut rows, mut bytes) = (Found::default(), Vec::new(), 0);
        if stack.is_cleared() {
            return Ok(Some(found));
        }
        stack.base.expiring(behind, |expires_ms, key| {
            if !stack.now.has_passed(expires_ms) {
                found.next_ms = Some(expires_ms);
                return false;
            }
            bytes += key.len();
            rows.push(Expired { key: key.to_vec(), expires_ms });
            found.is_cut = rows.len() >= KEYS_MAX || bytes >= BYTES_MAX;
            !found.is_cut
        })?;
        found.last = rows.last().map(|Expired { key, expires_ms }| expiry_key(*expires_ms, key));
        for expired in rows {
            // what was swept or written anew and is not drained has its row yet
            if view.is_due(&expired)? {
                found.due.push(Op::Expire(expired));
            }
        }
        Ok(Some(found))
    }

    fn submit_sweep(self: &Arc<Self>, ops: Vec<Op>) {
        let shared = Arc::downgrade(self);
        let reply = Reply::new(Box::new(move |result| {
            let Some(shared) = shared.upgrade() else { return };
            match result {
                Ok(_) => go_on(&shared),
                Err(error) => shared.failed(&error),
            }
        }));
        let batch = Batch { ops, durability: Some(Durability::None), ..Batch::default() };
        // a job of our own takes none of the callers' room in the queue
        self.submit_own(Job::Batch { batch, bytes: 0, reply });
    }

    /// Try everything again later, unless the store has come to its end.
    fn failed(self: &Arc<Self>, error: &KvError) {
        self.sweeper.lock().behind = None;
        let is_over = matches!(error.kind(), Kind::Closed | Kind::Poisoned) || self.writable().is_err();
        self.rest((!is_over).then_some(self.options.sweep_interval));
    }

    /// Nothing to do now; after `next`, there is.
    fn rest(self: &Arc<Self>, next: Option<Duration>) {
        let mut sweeper = self.sweeper.lock();
        sweeper.is_running = sweeper.is_asked && self.writable().is_ok();
        if sweeper.is_running {
            drop(sweeper);
            return go_on(self);
        }
        let Some(next) = next else { return };
        // not longer, because the wall clock may be set forward
        let span = next.max(PAUSE).min(self.options.sweep_interval);
        let at = self.clock.monotonic().saturating_add(span);
        if sweeper.alarm_at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        sweeper.alarm_at = Some(at);
        let shared = Arc::downgrade(self);
        self.threads.after(span, move || {
            if let Some(shared) = shared.upgrade() {
                shared.ring(at);
            }
        });
    }

    fn ring(self: &Arc<Self>, at: Duration) {
        let mut sweeper = self.sweeper.lock();
        // else an earlier one was set meanwhile
        if sweeper.alarm_at == Some(at) {
            sweeper.alarm_at = None;
            let is_running = std::mem::replace(&mut sweeper.is_running, true);
            drop(sweeper);
            if !is_running {
                go_on(self);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Seams, Store, Threads};
    use macula_core::{Clock, Gate, SystemChance, SystemClock};
    use macula_testkit::{FaultDisk, SimClock};

    const T: u64 = 1_700_000_000_000;

    /// Drained, and swept, on the thread that asks.
    fn open(disk: &FaultDisk, clock: &Arc<SimClock>, sweep_interval: Duration) -> Store {
        let (gate, chance) = (Arc::new(Gate::new()), Arc::new(SystemChance));
        let threads = Threads::start(1, 0, Arc::new(SystemClock)).expect("threads");
        let seams = Seams { disk: Arc::new(disk.clone()), gate, clock: clock.clone(), chance, threads };
        let options = Options { cache_bytes: 1 << 20, reserve_bytes: 0, sweep_interval, ..Options::default() };
        Store::open(seams, options).expect("opens")
    }

    fn put_until(key: &str, expires_ms: u64) -> Op {
        Op::PutUntil { key: key.into(), value: "v".into(), expires_ms }
    }

    fn expire(key: &str, expires_ms: u64) -> Op {
        Op::Expire(Expired { key: key.into(), expires_ms })
    }

    fn write(store: &Store, ops: Vec<Op>) -> u64 {
        store.write(Batch { ops, ..Batch::default() }).expect("written").revision
    }

    fn expiry(store: &Store, key: &str) -> Option<u64> {
        store.shared().view().expect("open").expiry(key.as_bytes()).expect("reads")
    }

    /// An hour: no alarm rings in a test.
    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn only_what_still_is_as_it_was_found_expires() {
        let (disk, clock) = (FaultDisk::new(), Arc::new(SimClock::new(T)));
        let store = open(&disk, &clock, NEVER);
        write(&store, ["a", "b", "c", "d"].map(|key| put_until(key, T + 10)).to_vec());
        let all = || ["a", "b", "c", "d", "e"].map(|key| expire(key, T + 10)).to_vec();
        let before = store.revision().expect("revision");
        assert_eq!(write(&store, all()), before, "nothing is due, nothing is written");
        clock.advance(Duration::from_millis(10));
        let (answer, answers) = std::sync::mpsc::channel();
        // in one group: what is written anew before the sweep's batch stays
        let turn = store.begin_wait(NEVER).expect("turn");
        let anew = vec![Op::Put { key: "b".into(), value: "new".into() }, put_until("c", T + 20)];
        for ops in [anew, vec![Op::Delete { key: "d".into() }], all()] {
            let answer = answer.clone();
            let reply = move |result: Result<_, KvError>| answer.send(result.expect("written")).expect("waits");
            store.submit(Batch { ops, ..Batch::default() }, Box::new(reply)).expect("queued");
        }
        drop(turn);
        drop(answer);
        assert_eq!(answers.iter().count(), 3);
        let expected = [None, Some(crate::NEVER_MS), Some(T + 20), None];
        assert_eq!(["a", "b", "c", "d"].map(|key| expiry(&store, key)), expected);
        // what the log says was done, though the clock of this opening would not do it
        store.sync().expect("synced");
        let again = open(&disk.kill(), &Arc::new(SimClock::new(T)), NEVER);
        assert_eq!(["a", "b", "c", "d"].map(|key| expiry(&again, key)), expected);
    }

    #[test]
    fn without_an_entry_that_expires_there_is_no_alarm() {
        let clock = Arc::new(SimClock::new(T));
        let store = open(&FaultDisk::new(), &clock, NEVER);
        let alarm_ms = || store.shared().sweeper.lock().alarm_at.map(|at| at.as_millis());
        write(&store, vec![Op::Put { key: "a".into(), value: "v".into() }]);
        store.checkpoint().expect("drains");
        assert_eq!(alarm_ms(), None);
        write(&store, vec![put_until("far", T + 10_000_000)]);
        store.checkpoint().expect("drains");
        assert_eq!(alarm_ms(), Some(NEVER.as_millis()), "the clock may be set forward");
        write(&store, vec![put_until("near", T + 500)]);
        store.checkpoint().expect("drains");
        assert_eq!(alarm_ms(), Some(500));
        write(&store, vec![put_until("very near", T + 1)]);
        store.checkpoint().expect("drains");
        assert_eq!(alarm_ms(), Some(PAUSE.as_millis()));
    }

    #[test]
    fn a_clock_that_is_set_back_neither_revives_nor_keeps() {
        let clock = Arc::new(SimClock::new(T));
        let store = open(&FaultDisk::new(), &clock, NEVER);
        write(&store, vec![put_until("a", T + 10)]);
        clock.advance(Duration::from_millis(10));
        assert_eq!(store.get(b"a").expect("reads"), None);
        clock.set_wall_ms(T - 1_000_000);
        assert_eq!(store.get(b"a").expect("reads"), None);
        write(&store, vec![put_until("b", store.now_ms() + 50)]);
        clock.advance(Duration::from_millis(49));
        assert!(store.has(b"b").expect("reads"));
        clock.advance(Duration::from_millis(1));
        assert!(!store.has(b"b").expect("reads"));
        assert_eq!(store.now_ms(), T + 60);
        clock.set_wall_ms(T + 1_000_000);
        assert_eq!((store.now_ms(), clock.wall_ms()), (T + 1_000_000, T + 1_000_000));
    }
}
