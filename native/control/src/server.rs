//! The side of the process that owns apps: one thread that accepts and gives signs of life, and one
//! thread for each of a few connections, which carries out one command.
//!
//! Invariants: a connection is answered once or ended; a command whose client has vanished is
//! cancelled; no client, however slow or hostile, holds a thread longer than [`REQUEST_WAIT`] before
//! its command and [`REPLY_WAIT`] after it.

use crate::command::{Hello, Reply, Told};
use crate::frame::{Assembler, Type};
use crate::link::{now, Link, Read};
use crate::perform::Owned;
use crate::place::{Listener, Place};
use crate::{Command, ControlError, Outcome};
use macula_core::{Cancel, Clock, Progress, SystemClock, Task};
use macula_store::Base;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{Shutdown, SocketFlags};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Commands at a time.
const CONNECTIONS_MAX: usize = 8;
/// In this time a request must have arrived whole.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// In this time a client must have taken its reply.
const REPLY_WAIT: Duration = Duration::from_secs(5);
/// A client hears of its command at least this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often connections are looked at for a cancel, an end, progress to tell.
const PULSE: Duration = Duration::from_millis(200);
/// Between two looks for threads to end, and after an accept that failed.
const PAUSE: Duration = Duration::from_millis(10);

/// Carries out commands in the process that is asked.
pub trait Handler: Send + Sync + 'static {
    /// Carry one out. Looks at `task.cancel`; a panic is answered as a defect.
    fn handle(&self, command: &Command, task: &Task) -> Result<Outcome, ControlError>;
}

/// A control socket that is being served.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    handler: Box<dyn Handler>,
    place: Place,
    listener: Listener,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Server {
    /// Serve the apps that `base` has open, on `run_dir/socket_name` (see [`crate::socket_name`]).
    ///
    /// # Errors
    /// [`ControlError::Io`] when the socket cannot be made, [`ControlError::Unsafe`] when others
    /// could reach it.
    pub fn start(base: Arc<Base>, run_dir: &Path, socket_name: &str) -> Result<Self, ControlError> {
        Self::serve(Owned(base), run_dir, socket_name)
    }

    /// As [`Server::start`], with commands carried out by `handler`.
    pub fn serve(handler: impl Handler, run_dir: &Path, socket_name: &str) -> Result<Self, ControlError> {
        let place = Place::open(run_dir, socket_name)?;
        let listener = place.listen()?;
        let stopping = AtomicBool::new(false);
        let shared = Arc::new(Shared { handler: Box::new(handler), place, listener, stopping });
        let accepting = shared.clone();
        let thread = spawn(move || accepting.run()).inspect_err(|_| shared.place.remove(&shared.listener))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Take no more commands, cancel those that run, answer them, end the threads, remove the
    /// socket. Waits for commands to heed their cancel. Not from a command.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // wakes the thread in `accept`; an error means that it is awake
        let _ = rustix::net::shutdown(&self.shared.listener.socket, Shutdown::Both);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection and the thread that serves it.
struct Active {
    connection: Arc<Connection>,
    thread: JoinHandle<()>,
}

impl Shared {
    fn run(self: &Arc<Self>) {
        let mut active = Vec::new();
        let mut pulsed_at = now();
        while !self.stopping.load(Ordering::Acquire) {
            self.accept(&mut active);
            reap(&mut active);
            if now().saturating_sub(pulsed_at) >= PULSE {
                pulsed_at = now();
                active.iter().for_each(|a| a.connection.pulse());
            }
        }
        self.place.remove(&self.listener);
        for Active { connection, .. } in &active {
            connection.cancel.cancel();
            connection.link.stop_reading();
        }
        while !active.is_empty() {
            SystemClock.sleep(PAUSE);
            active.iter().for_each(|a| a.connection.pulse());
            reap(&mut active);
        }
    }

    fn accept(self: &Arc<Self>, active: &mut Vec<Active>) {
        // idle, the thread sleeps until somebody comes
        let wait = (!active.is_empty()).then_some(PULSE);
        let listener = &self.listener.socket;
        let accepted = set_socket_timeout(listener, Timeout::Recv, wait)
            .and_then(|()| rustix::net::accept_with(listener, SocketFlags::CLOEXEC));
        match accepted {
            Ok(socket) => self.welcome(Link::new(socket), active),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // no descriptors left, for one: not a reason to spin
            Err(_) => SystemClock.sleep(PAUSE),
        }
    }

    fn welcome(self: &Arc<Self>, link: Link, active: &mut Vec<Active>) {
        reap(active);
        let refused = match link.refuse_strangers() {
            Ok(()) if active.len() < CONNECTIONS_MAX => None,
            Ok(()) => Some(ControlError::Busy(CONNECTIONS_MAX)),
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            link.write_now(Type::Reply, &Reply::of_error(&error));
            return;
        }
        let connection = Arc::new(Connection::new(link));
        let (shared, served) = (self.clone(), connection.clone());
        // without a thread the connection ends here, and its client hears that nobody listens
        if let Ok(thread) = spawn(move || served.serve(&shared)) {
            active.push(Active { connection, thread });
        }
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ControlError> {
    let thread = std::thread::Builder::new().name("macula-ctl".into());
    thread.spawn(run).map_err(|error| ControlError::io("start a thread for", "the control socket", error))
}

/// Join the threads that have ended.
fn reap(active: &mut Vec<Active>) {
    for ended in active.extract_if(.., |a| a.thread.is_finished()) {
        let _ = ended.thread.join();
    }
}

/// One client.
struct Connection {
    link: Link,
    cancel: Cancel,
    progress: Arc<Mutex<Progress>>,
    /// While the command runs, and only then, the accepting thread reads and writes.
    running: Mutex<Option<Running>>,
}

struct Running {
    frames: Assembler,
    told: Progress,
    told_at: Duration,
}

impl Connection {
    fn new(link: Link) -> Self {
        Self { link, cancel: Cancel::new(), progress: Arc::default(), running: Mutex::new(None) }
    }

    fn serve(&self, shared: &Shared) {
        if let Some(result) = self.result(shared) {
            self.reply(result);
        }
        self.link.end();
    }

    /// What there is to reply, if there is somebody to reply to.
    fn result(&self, shared: &Shared) -> Option<Result<Outcome, ControlError>> {
        let mut frames = Assembler::default();
        match self.request(&mut frames, shared) {
            Ok(Some(command)) => {
                *self.running.lock() = Some(Running { frames, told: Progress::default(), told_at: now() });
                let result = self.handle(&*shared.handler, &command);
                *self.running.lock() = None;
                Some(result)
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// The client's command; `None` when it went away.
    fn request(&self, frames: &mut Assembler, shared: &Shared) -> Result<Option<Command>, ControlError> {
        let deadline = now() + REQUEST_WAIT;
        self.link.write(Type::Hello, &Hello { pid: std::process::id() }, deadline)?;
        match self.link.read(frames, &[Type::Request], deadline)? {
            Read::Frame(frame) => frame.decode().map(Some),
            Read::Nothing => Err(ControlError::Malformed(format!("no whole request within {REQUEST_WAIT:?}"))),
            Read::End if shared.stopping.load(Ordering::Acquire) => Err(ControlError::Ending),
            Read::End => Ok(None),
        }
    }

    fn handle(&self, handler: &dyn Handler, command: &Command) -> Result<Outcome, ControlError> {
        let progress = self.progress.clone();
        let task = Task::new(self.cancel.clone(), move |at| *progress.lock() = at);
        catch_unwind(AssertUnwindSafe(|| handler.handle(command, &task))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(ControlError::Internal(text.unwrap_or("a panic without a message").to_owned()))
        })
    }

    fn reply(&self, result: Result<Outcome, ControlError>) {
        let deadline = now() + REPLY_WAIT;
        let reply = result.map_or_else(|error| Reply::of_error(&error), Reply::Ok);
        if let Err(error) = self.link.write(Type::Reply, &reply, deadline) {
            let _ = self.link.write(Type::Reply, &Reply::of_error(&error), deadline);
        }
    }

    /// Hear a cancel or an end; tell how far the command is. Never waits.
    fn pulse(&self) {
        let Some(mut running) = self.running.try_lock() else { return };
        let Some(running) = running.as_mut() else { return };
        if !self.cancel.is_cancelled() {
            match self.link.read_now(&mut running.frames, &[Type::Cancel]) {
                Ok(Read::Nothing) => {}
                Ok(Read::Frame(_) | Read::End) | Err(_) => self.cancel.cancel(),
            }
        }
        let (at, now) = (*self.progress.lock(), now());
        if at != running.told || now.saturating_sub(running.told_at) >= HEARTBEAT {
            (running.told, running.told_at) = (at, now);
            if !self.link.write_now(Type::Progress, &Told::from(at)) {
                self.cancel.cancel();
            }
        }
    }
}
