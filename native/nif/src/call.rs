//! A call that waits for a reply: pending, then either replied or cancelled, never both.
//!
//! Who gives up asks [`cancel`] and learns whether a reply is already on its way; if so it takes it
//! out of its mailbox, else none will ever come. The death of the caller cancels as well.

use crate::atoms;
use macula_core::Cancel;
use parking_lot::Mutex;
use rustler::{Atom, Env, LocalPid, Monitor, Resource, ResourceArc};
use std::sync::atomic::{AtomicU8, Ordering};

const PENDING: u8 = 0;
const REPLIED: u8 = 1;
const CANCELLED: u8 = 2;

/// The state of one call, held by the caller and by the job.
pub struct Call {
    state: AtomicU8,
    cancel: Cancel,
    monitor: Mutex<Option<Monitor>>,
    /// Held while progress is being sent, for microseconds.
    telling: Mutex<()>,
}

#[rustler::resource_impl]
impl Resource for Call {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.give_up();
    }
}

impl Call {
    /// A pending call of the process that calls this NIF, cancelled when that process dies.
    pub fn of_caller(env: Env) -> ResourceArc<Call> {
        let state = AtomicU8::new(PENDING);
        let call =
            ResourceArc::new(Call { state, cancel: Cancel::new(), monitor: Mutex::new(None), telling: Mutex::new(()) });
        let monitor = env.monitor(&call, &env.pid());
        *call.monitor.lock() = monitor;
        call
    }

    /// Looked at by the job while it works.
    pub fn cancel_token(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Send a message on the way, unless nobody waits. Once [`Call::give_up`] returned, none is sent.
    pub fn tell(&self, send: impl FnOnce()) {
        let _telling = self.telling.lock();
        if !self.is_cancelled() {
            send();
        }
    }

    /// Claim the right to send the one reply.
    pub fn claim_reply(&self) -> bool {
        self.state.compare_exchange(PENDING, REPLIED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The monitor, to be ended by whoever replied.
    pub fn take_monitor(&self) -> Option<Monitor> {
        self.monitor.lock().take()
    }

    fn give_up(&self) -> bool {
        let cancelled = self.state.compare_exchange(PENDING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        if cancelled.is_ok() {
            self.cancel.cancel();
            // a message that is being sent is in the mailbox when the caller empties it
            drop(self.telling.lock());
        }
        cancelled != Err(REPLIED)
    }
}

/// memory: give a call up. `cancelled`: no reply will come; `replied`: one is on its way.
#[rustler::nif(name = "call_cancel")]
fn cancel(call: ResourceArc<Call>) -> Atom {
    if call.give_up() {
        atoms::cancelled()
    } else {
        atoms::replied()
    }
}
