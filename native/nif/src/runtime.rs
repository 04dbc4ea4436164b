//! The threads behind the NIFs: a pool for disk work that a caller waits for, one for work of
//! minutes, one for what another process may have to answer, so that neither a backup, a slow sync
//! nor a hung owner keeps the others' callers waiting.

use crate::atoms;
use crate::error::Failure;
use crate::reply::Reply;
use macula_core::{Kind, Lanes, Pool, Refused, SystemChance, SystemClock};
use macula_store::kv::Threads;
use macula_store::Seams;
use parking_lot::Mutex;
use rustler::{Encoder, Env, Term};
use std::sync::Arc;

/// Workers and queue for opens, file writes, commits.
const IO_WORKERS: usize = 8;
const IO_QUEUE_LEN_MAX: usize = 1024;
/// Workers and queue for backups, restores, verification; one at a time of each app.
const LONG_WORKERS: usize = 3;
const LONG_QUEUE_LEN_MAX: usize = 64;
/// Workers and queue for commands on apps that this process has not open.
const ASK_WORKERS: usize = 4;
const ASK_QUEUE_LEN_MAX: usize = 64;

/// And where there is no base: stores in directories of their own.
const SMALL_WORKERS: [usize; 3] = [4, 2, 1];

/// Threads of all key-value stores of this VM together: those that sync, and those that bring what
/// was written into place.
const KV_WRITERS: usize = 4;
const KV_DRAINS: usize = 2;

static KV_THREADS: Mutex<Option<Threads>> = Mutex::new(None);

/// The machine's own time and chance, and the threads of all key-value stores, started with the first.
pub fn seams() -> Result<Seams, Failure> {
    let mut threads = KV_THREADS.lock();
    let started = match &*threads {
        Some(threads) => threads.clone(),
        None => Threads::start(KV_WRITERS, KV_DRAINS, Arc::new(SystemClock))
            .map_err(|e| Failure::internal(format!("no threads could be started: {e}")))?,
    };
    let kv_threads = threads.insert(started).clone();
    Ok(Seams { clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), kv_threads })
}

/// The pools of one base.
pub struct Runtime {
    io: Pool,
    long: Lanes,
    ask: Lanes,
}

impl Runtime {
    /// Start the threads.
    pub fn start() -> std::io::Result<Self> {
        Self::with_workers([IO_WORKERS, LONG_WORKERS, ASK_WORKERS])
    }

    /// As [`Runtime::start`], fewer of them.
    pub fn start_small() -> std::io::Result<Self> {
        Self::with_workers(SMALL_WORKERS)
    }

    fn with_workers([io, long, ask]: [usize; 3]) -> std::io::Result<Self> {
        Ok(Self {
            io: Pool::new("macula-io", io, IO_QUEUE_LEN_MAX)?,
            long: Lanes::new("macula-long", long, LONG_QUEUE_LEN_MAX)?,
            ask: Lanes::new("macula-ask", ask, ASK_QUEUE_LEN_MAX)?,
        })
    }

    /// Run a job of the caller's; it owns the reply. Returns the NIF's own answer.
    pub fn io<'a>(&self, env: Env<'a>, reference: Term<'a>, job: impl FnOnce(Reply) + Send + 'static) -> Term<'a> {
        submit(env, reference, job, |run| self.io.submit(run))
    }

    /// As [`Runtime::io`], for work of seconds or minutes on an app.
    pub fn long<'a>(
        &self,
        env: Env<'a>,
        reference: Term<'a>,
        app: &str,
        job: impl FnOnce(Reply) + Send + 'static,
    ) -> Term<'a> {
        submit(env, reference, job, |run| self.long.submit(app, run))
    }

    /// As [`Runtime::long`], for what may be the answer of another process.
    pub fn ask<'a>(
        &self,
        env: Env<'a>,
        reference: Term<'a>,
        app: &str,
        job: impl FnOnce(Reply) + Send + 'static,
    ) -> Term<'a> {
        submit(env, reference, job, |run| self.ask.submit(app, run))
    }

    /// Finish what is queued and join the threads.
    pub fn stop(&self) {
        self.io.stop();
        self.long.stop();
        self.ask.stop();
    }
}

/// `{ok, call}`: the reply will come; `{error, busy | closed}`: it will not.
fn submit<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    job: impl FnOnce(Reply) + Send + 'static,
    queue: impl FnOnce(Box<dyn FnOnce() + Send>) -> Result<(), Refused>,
) -> Term<'a> {
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    let run = move || {
        if !reply.call().is_cancelled() {
            job(reply);
        }
    };
    match queue(Box::new(run)) {
        Ok(()) => (atoms::ok(), call).encode(env),
        Err(Refused::Busy) => Failure::outcome(Kind::Busy).encode(env),
        Err(Refused::Closed) => Failure::outcome(Kind::Closed).encode(env),
    }
}

/// For engines with queues of their own: owe the reply to `start`, which returns an engine's refusal.
pub fn owe<'a, E: Into<Failure>>(
    env: Env<'a>,
    reference: Term<'a>,
    start: impl FnOnce(Reply) -> Result<(), E>,
) -> Term<'a> {
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    match start(reply) {
        Ok(()) => (atoms::ok(), call).encode(env),
        Err(error) => error.into().encode(env),
    }
}
