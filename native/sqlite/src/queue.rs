//! A bounded queue in front of a thread, whose waiting jobs can run out of time.
//!
//! Invariant: after `close` or `end` nothing enters; what is inside is answered by `close`, or still
//! handed out after `end`. No callback runs under the queue's lock.

use crate::request::Patience;
use crate::SqliteError;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;

/// A job that waits for its turn.
pub(crate) trait Waiting {
    fn patience(&self) -> &Patience;
    /// Its one answer.
    fn answer(self, error: SqliteError);
    /// It was refused by a return value.
    fn forget(self);
}

pub(crate) struct Queue<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
    len_max: usize,
}

struct State<J> {
    jobs: VecDeque<J>,
    closed: Option<SqliteError>,
    idle: usize,
}

/// What `pop` found.
pub(crate) enum Pop<J> {
    Job(J),
    Idle,
    Closed,
}

impl<J: Waiting> Queue<J> {
    pub(crate) fn new(len_max: usize) -> Self {
        let state = State { jobs: VecDeque::new(), closed: None, idle: 0 };
        Self { state: Mutex::new(state), ready: Condvar::new(), len_max }
    }

    /// Add a job; tells how many jobs wait beyond the threads that are idle. A refused job is not answered.
    pub(crate) fn push(&self, job: J) -> Result<usize, SqliteError> {
        let mut state = self.state.lock();
        let refusal = match &state.closed {
            Some(error) => error.clone(),
            None if state.jobs.len() >= self.len_max => SqliteError::Busy { len_max: self.len_max },
            None => {
                state.jobs.push_back(job);
                let unserved = state.jobs.len().saturating_sub(state.idle);
                drop(state);
                self.ready.notify_one();
                return Ok(unserved);
            }
        };
        drop(state);
        job.forget();
        Err(refusal)
    }

    /// Add a job that another queue already accepted: it is answered here when it cannot enter.
    pub(crate) fn push_accepted(&self, job: J) {
        let mut state = self.state.lock();
        let refusal = match &state.closed {
            Some(error) => error.clone(),
            None if state.jobs.len() >= self.len_max => SqliteError::Busy { len_max: self.len_max },
            None => {
                state.jobs.push_back(job);
                drop(state);
                self.ready.notify_one();
                return;
            }
        };
        drop(state);
        job.answer(refusal);
    }

    /// Jobs that wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// The next job; waits for one at most `wait`.
    pub(crate) fn pop(&self, wait: Duration) -> Pop<J> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Pop::Job(job);
            }
            if state.closed.is_some() {
                return Pop::Closed;
            }
            state.idle += 1;
            let timed_out = self.ready.wait_for(&mut state, wait).timed_out();
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() && state.closed.is_none() {
                return Pop::Idle;
            }
        }
    }

    /// Add the waiting jobs that `fits`, from the front up to the first that does not, to `batch`.
    pub(crate) fn take_while(&self, batch: &mut Vec<J>, len_max: usize, fits: impl Fn(&J) -> bool) {
        let mut state = self.state.lock();
        while batch.len() < len_max && state.jobs.front().is_some_and(&fits) {
            batch.extend(state.jobs.pop_front());
        }
    }

    /// Answer the waiting jobs whose time is up or whose caller is gone.
    pub(crate) fn sweep(&self, now: Duration) {
        let mut over = Vec::new();
        let mut state = self.state.lock();
        let verdict = |job: &J| job.patience().verdict(now, "waiting for its turn");
        if state.jobs.iter().any(|job| verdict(job).is_some()) {
            let jobs = std::mem::take(&mut state.jobs);
            for job in jobs {
                match verdict(&job) {
                    Some(error) => over.push((job, error)),
                    None => state.jobs.push_back(job),
                }
            }
        }
        drop(state);
        over.into_iter().for_each(|(job, error)| job.answer(error));
    }

    /// Let nothing in any more; what waits is still handed out.
    pub(crate) fn end(&self, error: SqliteError) {
        self.state.lock().closed.get_or_insert(error);
        self.ready.notify_all();
    }

    /// Let nothing in any more and answer what waits.
    pub(crate) fn close(&self, error: SqliteError) {
        let mut state = self.state.lock();
        // after an `end` too: what still waited is told the real reason
        state.closed = Some(error.clone());
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.ready.notify_all();
        jobs.into_iter().for_each(|job| job.answer(error.clone()));
    }
}
