//! Threads for low-level connections: as many as connections work at once, gone when nobody needs them.
//!
//! Invariant: a job never waits for a thread, so that a connection whose step waits for a lock cannot
//! keep waiting the one that holds it. The number of threads is bounded by that of connections, of
//! which each has at most one job here.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::Builder;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(10);

static CREW: Crew = Crew { state: Mutex::new(State { waiting: VecDeque::new(), idle: 0 }), ready: Condvar::new() };

struct Crew {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    waiting: VecDeque<Job>,
    idle: usize,
}

/// Run `job` on a thread of ours. Fails when the system gives no thread.
pub(super) fn run(job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut state = CREW.state.lock();
    if state.idle > state.waiting.len() {
        state.waiting.push_back(Box::new(job));
        drop(state);
        CREW.ready.notify_one();
        return Ok(());
    }
    drop(state);
    Builder::new().name("macula-sql-c".into()).spawn(move || serve(Box::new(job))).map(|_| ())
}

fn serve(first: Job) {
    let mut next = Some(first);
    while let Some(job) = next {
        // the answer is inside the job, which unwinding drops
        let _ = catch_unwind(AssertUnwindSafe(job));
        next = await_next();
    }
}

fn await_next() -> Option<Job> {
    let mut state = CREW.state.lock();
    if state.waiting.is_empty() {
        state.idle += 1;
        CREW.ready.wait_for(&mut state, IDLE);
        state.idle -= 1;
    }
    state.waiting.pop_front()
}
