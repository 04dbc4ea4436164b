//! A queue of work for a pool of threads, who sleep while there is none.
//!
//! Invariant: what was sent before the last sender went is done. Nobody spins: between two groups of a store its thread
//! has nothing to do for some microseconds, and a channel's receiver would take the processor from those who bring more.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// One piece.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    is_over: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Who sends: dropped, the threads end when they have done what waits.
pub(crate) struct Tasks(Arc<Shared>);

/// Who does it.
#[derive(Clone)]
pub(crate) struct Worker(Arc<Shared>);

/// A queue, and what its threads take from.
pub(crate) fn tasks() -> (Tasks, Worker) {
    let shared = Arc::<Shared>::default();
    (Tasks(shared.clone()), Worker(shared))
}

impl Tasks {
    /// At the end.
    pub fn send(&self, work: Work) {
        self.0.queue.lock().waiting.push_back(work);
        self.0.changed.notify_one();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.queue.lock().waiting.is_empty()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.queue.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Iterator for Worker {
    type Item = Work;

    fn next(&mut self) -> Option<Work> {
        let mut queue = self.0.queue.lock();
        loop {
            match queue.waiting.pop_front() {
                None if !queue.is_over => self.0.changed.wait(&mut queue),
                work => return work,
            }
        }
    }
}
