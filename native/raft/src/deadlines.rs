//! When calls are over that no task of their own waits for.
//!
//! Invariant: a call that is still there at its time is told so once, on our threads.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Something whose time may be over.
pub(crate) trait Over: Send + Sync {
    fn over(&self);
}

#[derive(Default)]
pub(crate) struct Deadlines {
    waiting: Mutex<Waiting>,
    earlier: Notify,
}

/// By their times; the number tells those of one moment apart.
type ByTime = BTreeMap<(Instant, u64), Weak<dyn Over>>;

#[derive(Default)]
struct Waiting {
    calls: ByTime,
    added: u64,
    /// When they are looked at next, whatever comes.
    look_at: Option<Instant>,
}

/// A deadline, until it is dropped.
pub(crate) struct Deadline {
    of: Arc<Deadlines>,
    key: (Instant, u64),
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.of.waiting.lock().calls.remove(&self.key);
    }
}

impl Deadlines {
    pub(crate) fn add(self: &Arc<Self>, at: Instant, call: Weak<dyn Over>) -> Deadline {
        let mut waiting = self.waiting.lock();
        waiting.added += 1;
        let key = (at, waiting.added);
        waiting.calls.insert(key, call);
        // later ones are found then: calls that follow each other wake nobody
        if waiting.look_at.is_none_or(|look_at| at < look_at) {
            self.earlier.notify_one();
        }
        drop(waiting);
        Deadline { of: self.clone(), key }
    }

    /// Tell them, for as long as this runs.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            let (over, look_at) = self.look();
            for call in over.values().filter_map(Weak::upgrade) {
                call.over();
            }
            match look_at {
                None => self.earlier.notified().await,
                Some(look_at) => tokio::select! {
                    () = tokio::time::sleep_until(look_at) => {}
                    () = self.earlier.notified() => {}
                },
            }
        }
    }

    /// Those that are over, and when to look again.
    fn look(&self) -> (ByTime, Option<Instant>) {
        let mut waiting = self.waiting.lock();
        let later = waiting.calls.split_off(&(Instant::now(), u64::MAX));
        let over = std::mem::replace(&mut waiting.calls, later);
        waiting.look_at = waiting.calls.first_key_value().map(|((at, _), _)| *at);
        (over, waiting.look_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Over for Told {
        fn over(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each once, at its time, whatever the order in which they came; not those that ended before.
    #[tokio::test(start_paused = true)]
    async fn calls_are_over_at_their_time() {
        let deadlines = Arc::new(Deadlines::default());
        let keeping = tokio::spawn(deadlines.clone().keep());
        let told: Vec<Arc<Told>> = (0..5).map(|_| Arc::default()).collect();
        let add = |nth: usize, ms: u64| {
            let call: Arc<dyn Over> = told[nth].clone();
            deadlines.add(Instant::now() + Duration::from_millis(ms), Arc::downgrade(&call))
        };
        let counts = || told.iter().map(|told| told.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (_first, _second, ended, _fourth) = (add(0, 100), add(1, 50), add(2, 60), add(3, 50));
        drop(ended);
        tokio::time::sleep(Duration::from_millis(49)).await;
        assert_eq!(counts(), [0, 0, 0, 0, 0]);
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(counts(), [0, 1, 0, 1, 0]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(counts(), [1, 1, 0, 1, 0]);
        // behind a time with none
        let _fifth = add(4, 10);
        tokio::time::sleep(Duration::from_millis(12)).await;
        assert_eq!(counts(), [1, 1, 0, 1, 1]);
        assert_eq!(deadlines.waiting.lock().calls.len(), 0);
        keeping.abort();
    }
}
