//! No message is sent into a VM that is going away.
//!
//! `exit()` tears the process down while our threads still run. The handler registered here runs
//! first: it waits for sends that are under way, and no send begins after it.

use crate::reply::on_scheduler_thread;
use parking_lot::RwLock;
use rustler::{Env, LocalPid, OwnedEnv, Term};

static STOPPED: RwLock<bool> = RwLock::new(false);

/// Run `send` unless the VM is stopping.
pub fn unless_stopped(send: impl FnOnce()) {
    let stopped = STOPPED.read();
    if !*stopped {
        send();
    }
}

/// Send a process a message that is no reply, from a thread of ours. Whether it is there to be told.
pub fn tell(pid: &LocalPid, encode: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> bool {
    if on_scheduler_thread() {
        return false;
    }
    let mut there = true;
    unless_stopped(|| there = OwnedEnv::new().send_and_clear(pid, encode).is_ok());
    there
}

/// Register the handler. Called once, at load.
pub fn at_exit() {
    // SAFETY: `stop` is a plain function that does not unwind.
    unsafe { libc::atexit(stop) };
}

extern "C" fn stop() {
    // bounded: a thread that died inside a send must not keep the process from ending
    if let Some(mut stopped) = STOPPED.try_write_for(std::time::Duration::from_millis(500)) {
        *stopped = true;
    }
}
