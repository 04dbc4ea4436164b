//! The base directory and the apps opened in it.

use crate::atoms;
use crate::error::{self, Failure};
use crate::handle::{dispose, Handle};
use crate::mesh::OpenMesh;
use crate::options::{app_name, kv_options, machine_path, sqlite_options};
use crate::reply::Reply;
use crate::runtime::{seams, Runtime};
use crate::state::OpenState;
use crossbeam_channel::{bounded, RecvTimeoutError, Sender};
use macula_core::{Kind, SystemChance};
use macula_raft::ClusterId;
use macula_store::{App, Base, Options, Owner, StoreError};
use parking_lot::Mutex;
use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A base with the threads that serve it.
pub struct Opened {
    /// The apps.
    pub base: Arc<Base>,
    /// The pools.
    pub runtime: Runtime,
    control: Mutex<Option<macula_control::Server>>,
    usage: Mutex<Option<UsageThread>>,
    state: Mutex<Option<Arc<OpenState>>>,
    mesh: Mutex<Option<Arc<OpenMesh>>>,
    /// As it was asked for; the base itself knows where its symlinks lead.
    path: PathBuf,
}

/// The thread that counts what other programs wrote.
struct UsageThread {
    _stop: Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

/// A base directory, in Elixir's hands.
pub type BaseHandle = Handle<Arc<Opened>>;

/// An opened app, in Elixir's hands.
pub type AppHandle = Handle<OpenApp>;

#[rustler::resource_impl]
impl Resource for BaseHandle {}

#[rustler::resource_impl]
impl Resource for AppHandle {}

/// An app, and the base that it belongs to.
#[derive(Clone)]
pub struct OpenApp {
    /// The app.
    pub app: Arc<App>,
    /// Its base.
    pub opened: Arc<Opened>,
}

/// The base of this VM: a supervisor that starts again finds what is still open. Held, and not only
/// known, because a base that is being dropped still has its locks: the new one would meet them.
static CURRENT: Mutex<Option<Arc<Opened>>> = Mutex::new(None);

/// dirty io: use a base directory, creating what is missing of it.
#[rustler::nif(schedule = "DirtyIo")]
fn base_open<'a>(
    env: Env<'a>,
    path: Binary,
    kv_cache_bytes: usize,
    kv_history_bytes: u64,
    sqlite_synchronous: Atom,
    usage_interval_ms: u64,
) -> Term<'a> {
    let (kv, sqlite) = (kv_options(kv_cache_bytes, kv_history_bytes), sqlite_options(sqlite_synchronous));
    let opened = open(&path, kv, sqlite, Duration::from_millis(usage_interval_ms));
    error::result(env, opened.map(|opened| ResourceArc::new(BaseHandle::new(opened))))
}

fn open(
    path: &Binary,
    kv: macula_store::kv::Options,
    sqlite: macula_sqlite::Options,
    usage_interval: Duration,
) -> Result<Arc<Opened>, Failure> {
    let path = machine_path(path)?;
    let mut current = CURRENT.lock();
    if let Some(opened) = &*current {
        if opened.path == path && !opened.base.is_closed() {
            return Ok(opened.clone());
        }
    }
    let pid = std::process::id();
    let socket = macula_control::socket_name(pid, &SystemChance);
    let owner = Owner { pid, socket: Some(socket.clone()) };
    let options = Options { kv, sqlite, usage_interval, owner };
    let threads = |error: std::io::Error| Failure::internal(format!("no threads could be started: {error}"));
    let base = Base::open(&path, options, seams()?)?;
    let control = macula_control::Server::start(base.clone(), &base.layout().run(), &socket)?;
    let usage = UsageThread::start(base.clone(), usage_interval).map_err(threads)?;
    let runtime = Runtime::start().map_err(threads)?;
    let (control, usage) = (Mutex::new(Some(control)), Mutex::new(Some(usage)));
    let (state, mesh) = Default::default();
    let opened = Arc::new(Opened { base, runtime, control, usage, state, mesh, path });
    if let Some(before) = current.replace(opened.clone()) {
        dispose(Box::new(before));
    }
    Ok(opened)
}

impl Opened {
    /// This node's replicated state, opened with the first call.
    pub fn state(&self, name: &str, joins: Option<ClusterId>) -> Result<Arc<OpenState>, Failure> {
        self.state_or(|| OpenState::open(self, name, joins))
    }

    /// What is open, or what is opened now.
    pub fn state_or(&self, open: impl FnOnce() -> Result<OpenState, Failure>) -> Result<Arc<OpenState>, Failure> {
        let mut state = self.state.lock();
        if let Some(state) = &*state {
            return Ok(state.clone());
        }
        if self.base.is_closed() {
            return Err(Failure::outcome(Kind::Closed));
        }
        Ok(state.insert(Arc::new(open()?)).clone())
    }

    /// This node's replicated files, as a member of the cluster of `state`, opened with the first call.
    pub fn mesh(&self, state: &OpenState, options: macula_mesh::Options) -> Result<Arc<OpenMesh>, Failure> {
        let mut mesh = self.mesh.lock();
        if let Some(mesh) = &*mesh {
            return Ok(mesh.clone());
        }
        if self.base.is_closed() {
            return Err(Failure::outcome(Kind::Closed));
        }
        Ok(mesh.insert(Arc::new(OpenMesh::open(self, state, options)?)).clone())
    }

    /// Close it, if it is open, and the replicated files with it.
    pub fn close_state(&self) {
        let mesh = self.mesh.lock().take();
        if let Some(mesh) = mesh {
            mesh.close();
        }
        let state = self.state.lock().take();
        if let Some(state) = state {
            state.close();
        }
    }

    fn close(&self) {
        // walks of whole trees, which the threads joined below may be in
        self.base.end_background();
        if let Some(control) = self.control.lock().take() {
            control.stop();
        }
        if let Some(usage) = self.usage.lock().take() {
            drop(usage._stop);
            let _ = usage.thread.join();
        }
        self.close_state();
        self.base.close();
        self.runtime.stop();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.close();
    }
}

impl UsageThread {
    fn start(base: Arc<Base>, interval: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let run = move || {
            let mut pause = interval;
            // the channel never carries anything: it ends when the base is closed
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = base.reconcile_open_apps().max(interval);
            }
        };
        let thread = std::thread::Builder::new().name("macula-usage".into()).spawn(run)?;
        Ok(Self { _stop: stop, thread })
    }
}

/// own thread: close every app and join the base's threads.
#[rustler::nif]
fn base_close<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>) -> Term<'a> {
    let Some(opened) = base.take() else {
        return Failure::outcome(Kind::Closed).encode(env);
    };
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    // not on the pool: it is one of the threads that are joined
    let run = move || {
        opened.close();
        reply.send_done(Ok::<_, Failure>(()));
    };
    match std::thread::Builder::new().name("macula-stop".into()).spawn(run) {
        Ok(_) => (atoms::ok(), call).encode(env),
        Err(error) => Failure::internal(format!("no thread could be started: {error}")).encode(env),
    }
}

/// dirty io: names of the apps that have a directory.
#[rustler::nif(schedule = "DirtyIo")]
fn base_apps<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>) -> Term<'a> {
    let names = base.get().and_then(|opened| Ok(opened.base.list_apps()?));
    error::result(env, names.map(|names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>()))
}

/// dirty io: the OS process id of an app's owner, or nil.
#[rustler::nif(schedule = "DirtyIo")]
fn app_owner<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, app: &str) -> Term<'a> {
    let owner = base.get().and_then(|opened| Ok(opened.base.owner(&app_name(app)?)?));
    error::result(env, owner.map(|owner| owner.map(|owner| owner.pid)))
}

/// own thread: create an app's directories.
#[rustler::nif]
fn app_dirs<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, app: &str) -> Term<'a> {
    on_base(env, base, reference, app, |reply, opened, name| reply.send_done(opened.base.ensure_app_dirs(&name)))
}

/// own thread: open an app; it is owned by this process from then on.
#[rustler::nif]
fn app_open<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, app: &str) -> Term<'a> {
    on_base(env, base, reference, app, |reply, opened, name| {
        let app = opened.base.app(&name);
        let handle = app.map(|app| ResourceArc::new(AppHandle::new(OpenApp { app, opened })));
        reply.send_result(handle);
    })
}

/// own thread: close an app and let go of it.
#[rustler::nif]
fn app_close<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, app: &str) -> Term<'a> {
    on_base(env, base, reference, app, |reply, opened, name| {
        opened.base.close_app(&name);
        reply.send_done(Ok::<_, StoreError>(()));
    })
}

fn on_base<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    app: &str,
    job: impl FnOnce(Reply, Arc<Opened>, macula_core::AppName) + Send + 'static,
) -> Term<'a> {
    let (opened, name) = match base.get().and_then(|opened| Ok((opened, app_name(app)?))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let job_opened = opened.clone();
    opened.runtime.io(env, reference, move |reply| job(reply, job_opened, name))
}

/// Run a job on an app's pool.
pub fn on_app<'a>(
    env: Env<'a>,
    app: &ResourceArc<AppHandle>,
    reference: Term<'a>,
    job: impl FnOnce(Reply, &App) + Send + 'static,
) -> Term<'a> {
    match app.get() {
        Ok(open) => {
            let opened = open.opened.clone();
            opened.runtime.io(env, reference, move |reply| job(reply, &open.app))
        }
        Err(failure) => failure.encode(env),
    }
}
