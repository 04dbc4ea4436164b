//! A pool in whose lanes one job runs after the other: long work on one app, which takes turns anyway.
//!
//! Invariant: a job that waits for its lane holds no thread, so that three backups of one app do not
//! keep the backup of another waiting. Jobs of a lane run in the order in which they came.

use crate::{Pool, Refused};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of named threads with lanes.
#[derive(Debug)]
pub struct Lanes {
    pool: Pool,
    waiting: Arc<Waiting>,
}

struct Waiting {
    /// The lanes in which a job runs or is in the pool's queue, with what waits behind it.
    lanes: Mutex<HashMap<String, VecDeque<Job>>>,
    len_max: usize,
}

impl Lanes {
    /// `workers` threads named `name`, and room for `queue_len_max` waiting jobs, in the lanes and
    /// before them.
    pub fn new(name: &str, workers: usize, queue_len_max: usize) -> std::io::Result<Self> {
        let waiting = Arc::new(Waiting { lanes: Mutex::default(), len_max: queue_len_max });
        Ok(Self { pool: Pool::new(name, workers, queue_len_max)?, waiting })
    }

    /// Queue a job in `lane`, or hand it back unrun. Never waits.
    pub fn submit(&self, lane: &str, job: impl FnOnce() + Send + 'static) -> Result<(), Refused> {
        let mut lanes = self.waiting.lanes.lock();
        let len: usize = lanes.values().map(VecDeque::len).sum();
        if let Some(behind) = lanes.get_mut(lane) {
            if len >= self.waiting.len_max {
                return Err(Refused::Busy);
            }
            behind.push_back(Box::new(job));
            return Ok(());
        }
        let (waiting, name) = (self.waiting.clone(), lane.to_owned());
        self.pool.submit(move || waiting.run(&name, Box::new(job)))?;
        lanes.insert(lane.to_owned(), VecDeque::new());
        Ok(())
    }

    /// Take nothing more, finish what is queued, join the threads.
    pub fn stop(&self) {
        self.pool.stop();
    }
}

impl Waiting {
    /// The job, then those that came into its lane meanwhile.
    fn run(&self, lane: &str, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            // whoever submits puts its answer inside, which unwinding drops
            let _ = catch_unwind(AssertUnwindSafe(job));
            let mut lanes = self.lanes.lock();
            next = lanes.get_mut(lane).and_then(VecDeque::pop_front);
            if next.is_none() {
                lanes.remove(lane);
            }
        }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("lanes", &self.lanes.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    #[test]
    fn a_lane_is_in_order_and_keeps_no_other_waiting() {
        let lanes = Lanes::new("test", 2, 3).expect("threads");
        let (done, order) = unbounded();
        let (release, held) = bounded::<()>(0);
        let (started, has_started) = bounded(1);
        let tell = done.clone();
        lanes
            .submit("a", move || {
                started.send(()).expect("open");
                held.recv().expect("released");
                tell.send("a1").expect("open");
                panic!("costs neither the lane nor the worker");
            })
            .expect("room");
        has_started.recv().expect("started");
        for name in ["a2", "a3", "a4"] {
            let tell = done.clone();
            lanes.submit("a", move || tell.send(name).expect("open")).expect("room");
        }
        assert_eq!(lanes.submit("a", || {}), Err(Refused::Busy));
        // two workers, four jobs of "a": another lane has its turn at once
        let tell = done.clone();
        lanes.submit("b", move || tell.send("b").expect("open")).expect("room");
        assert_eq!(order.recv(), Ok("b"));
        release.send(()).expect("held");
        let rest: Vec<_> = (0..4).map(|_| order.recv().expect("runs")).collect();
        assert_eq!(rest, ["a1", "a2", "a3", "a4"]);
        lanes.stop();
        assert_eq!(lanes.submit("b", || {}), Err(Refused::Closed));
    }

    #[test]
    fn stopping_finishes_what_waits() {
        let lanes = Lanes::new("test", 1, 8).expect("threads");
        let (done, order) = unbounded();
        for n in 0..5 {
            let tell = done.clone();
            lanes.submit("a", move || tell.send(n).expect("open")).expect("room");
        }
        lanes.stop();
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
