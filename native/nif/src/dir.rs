//! Stores in directories of their own, outside of an app, each owned by the process that opened it.
//!
//! Invariant: such a store is closed when its owner closes it or dies; its lock goes with it, so that the
//! owner's successor finds it free after a moment.

use crate::atoms;
use crate::error::{self, Failure};
use crate::handle::{dispose, Handle};
use crate::options::{kv_options, machine_path};
use crate::reply::Reply;
use crate::runtime::{seams, Runtime};
use macula_core::{Clock, Kind, SystemClock};
use macula_store::{Directory, Owner, Seams, StoreError};
use parking_lot::Mutex;
use rustler::{Binary, Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long apart a lock is asked for that a dead owner of this process still has.
const PAUSE: Duration = Duration::from_millis(20);

/// A directory's store, and the threads that serve all of them.
pub struct OpenDir {
    /// The store.
    pub dir: Directory,
    /// The pools.
    pub runtime: Arc<Runtime>,
}

/// An opened directory, in Elixir's hands.
pub struct DirHandle(Handle<Arc<OpenDir>>);

#[rustler::resource_impl]
impl Resource for DirHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        if let Some(open) = self.0.take() {
            dispose(Box::new(Abandoned(open)));
        }
    }
}

impl DirHandle {
    /// What it holds, or `closed`.
    pub fn get(&self) -> Result<Arc<OpenDir>, Failure> {
        self.0.get()
    }
}

/// Closed by being dropped, on the closer thread, whoever else still has the store in hand.
struct Abandoned(Arc<OpenDir>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.dir.close();
    }
}

static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// The threads of all directories, started with the first.
pub fn runtime() -> Result<Arc<Runtime>, Failure> {
    let mut runtime = RUNTIME.lock();
    if let Some(runtime) = &*runtime {
        return Ok(runtime.clone());
    }
    let started = Runtime::start_small();
    let started = started.map_err(|e| Failure::internal(format!("no threads could be started: {e}")))?;
    Ok(runtime.insert(Arc::new(started)).clone())
}

/// own thread: open the store in a directory, for the calling process. `wait_ms`: how long to wait for one
/// that a dead process of this VM is still closing. On a dirty scheduler, because the first starts threads.
#[rustler::nif(schedule = "DirtyCpu")]
fn dir_open<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    path: Binary<'a>,
    kv_cache_bytes: usize,
    kv_history_bytes: u64,
    wait_ms: u64,
) -> Term<'a> {
    let (path, runtime) = match machine_path(&path).and_then(|path| Ok((path, runtime()?))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let seams = match seams() {
        Ok(seams) => seams,
        Err(failure) => return failure.encode(env),
    };
    let (owner, threads) = (env.pid(), runtime.clone());
    runtime.io(env, reference, move |reply| {
        let wait = Duration::from_millis(wait_ms);
        let gone = || reply.call().is_cancelled();
        let options = kv_options(kv_cache_bytes, kv_history_bytes);
        let handle = open(&path, &options, &seams, wait, &gone).map(|dir| {
            let open = Arc::new(OpenDir { dir, runtime: threads });
            let handle = ResourceArc::new(DirHandle(Handle::new(open)));
            // an owner that is gone already cannot be monitored
            if handle.monitor(None, &owner).is_none() || gone() {
                drop(handle.0.take());
            }
            handle
        });
        reply.send_result(handle);
    })
}

fn open(
    path: &Path,
    options: &macula_store::kv::Options,
    seams: &Seams,
    wait: Duration,
    gone: &dyn Fn() -> bool,
) -> Result<Directory, StoreError> {
    let owner = Owner { pid: std::process::id(), socket: None };
    let until = SystemClock.monotonic().saturating_add(wait);
    loop {
        match Directory::open(path, &owner, options.clone(), seams) {
            Err(StoreError::Locked(Some(holder)))
                if holder.pid == owner.pid && SystemClock.monotonic() < until && !gone() =>
            {
                SystemClock.sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// own thread: close a directory's store.
#[rustler::nif]
fn dir_close<'a>(env: Env<'a>, dir: ResourceArc<DirHandle>, reference: Term<'a>) -> Term<'a> {
    let Some(open) = dir.0.take() else {
        return Failure::outcome(Kind::Closed).encode(env);
    };
    let abandoned = Abandoned(open);
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    // not on a pool, which may be full
    let run = move || {
        drop(abandoned);
        reply.send_done(Ok::<_, Failure>(()));
    };
    match std::thread::Builder::new().name("macula-stop".into()).spawn(run) {
        Ok(_) => (atoms::ok(), call).encode(env),
        Err(error) => Failure::internal(format!("no thread could be started: {error}")).encode(env),
    }
}

/// dirty io: the OS process id of the owner of a directory's store, or nil.
#[rustler::nif(schedule = "DirtyIo")]
fn dir_owner<'a>(env: Env<'a>, path: Binary<'a>) -> Term<'a> {
    let owner = machine_path(&path).and_then(|path| Ok(Directory::owner(&path)?));
    error::result(env, owner.map(|owner| owner.map(|owner| owner.pid)))
}
