//! Threads of ours for work that waits: a bounded queue, a fixed number of workers.
//!
//! A full queue is the submitter's to report (`busy`); a panic in a job is caught here and answered
//! by what the job drops: whoever submits puts its answer inside.

use crossbeam_channel::{bounded, Sender, TrySendError};
use parking_lot::Mutex;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of named threads.
#[derive(Debug)]
pub struct Pool {
    queue: Mutex<Option<Sender<Job>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full.
    Busy,
    /// The pool was stopped.
    Closed,
}

impl Pool {
    /// `workers` threads named `name`, and room for `queue_len_max` waiting jobs.
    pub fn new(name: &str, workers: usize, queue_len_max: usize) -> std::io::Result<Self> {
        let (queue, jobs) = bounded::<Job>(queue_len_max);
        let spawn = |_| {
            let jobs = jobs.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                for job in jobs {
                    // the reply inside the job answers when it is dropped by the unwinding
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })
        };
        let workers = (0..workers).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { queue: Mutex::new(Some(queue)), workers: Mutex::new(workers) })
    }

    /// Queue a job, or hand it back unrun. Never waits.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refused> {
        let queue = self.queue.lock();
        let Some(queue) = queue.as_ref() else { return Err(Refused::Closed) };
        queue.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Disconnected(_) => Refused::Closed,
        })
    }

    /// Take nothing more, finish what is queued, join the threads (but the one that calls this).
    pub fn stop(&self) {
        self.queue.lock().take();
        let own = std::thread::current().id();
        for worker in self.workers.lock().drain(..).filter(|worker| worker.thread().id() != own) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    #[test]
    fn a_full_queue_refuses_and_a_panic_costs_no_worker() {
        let pool = Pool::new("test", 1, 1).expect("threads");
        let (release, held) = bounded::<()>(0);
        let (started_tx, started) = unbounded();
        pool.submit(move || {
            started_tx.send(()).expect("open");
            held.recv().expect("released");
            panic!("on purpose");
        })
        .expect("room");
        started.recv().expect("started");
        pool.submit(|| {}).expect("one waits");
        assert_eq!(pool.submit(|| {}), Err(Refused::Busy));
        release.send(()).expect("held");
        let (tx, rx) = unbounded();
        let mut job = Err(Refused::Busy);
        while job == Err(Refused::Busy) {
            let tx = tx.clone();
            job = pool.submit(move || tx.send(7).expect("open"));
        }
        assert_eq!(rx.recv(), Ok(7));
        pool.stop();
        assert_eq!(pool.submit(|| {}), Err(Refused::Closed));
    }
}
