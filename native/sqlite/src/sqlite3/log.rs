//! SQLite's own error log, which is one for the whole process.
//!
//! Invariant: the listener is called on a thread of ours, never where SQLite logged: that may be a
//! scheduler of the VM, from which no message can be sent, or a thread that holds a connection.

use super::crew;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

type Listener = Box<dyn FnMut(i32, &str) -> bool + Send>;

/// Entries that wait for the listener; what comes beyond is left out.
const WAITING_MAX: usize = 1024;

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { entries: VecDeque::new(), told: false });

struct Waiting {
    entries: VecDeque<(i32, String)>,
    /// A thread tells them, in order.
    told: bool,
}

/// Call `listener` with the code and text of each entry from now on, until it answers `false`; it takes the
/// place of the one before.
pub fn set_log(listener: impl FnMut(i32, &str) -> bool + Send + 'static) {
    static INSTALLED: Once = Once::new();
    *LISTENER.lock() = Some(Box::new(listener));
    INSTALLED.call_once(|| {
        let log: unsafe extern "C" fn(*mut c_void, c_int, *const c_char) = logged;
        let none: *mut c_void = std::ptr::null_mut();
        // SAFETY: this setting may be made at any time; the function lives as long as the process
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOG, log, none) };
    });
}

unsafe extern "C" fn logged(_: *mut c_void, code: c_int, message: *const c_char) {
    // what is tried without waiting, and fails for it, is tried again
    if message.is_null() || crate::syscalls::must_not_wait() {
        return;
    }
    // SAFETY: SQLite passes NUL-terminated text
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    let mut waiting = WAITING.lock();
    if waiting.entries.len() < WAITING_MAX {
        waiting.entries.push_back((code, message));
    }
    if !waiting.told {
        // without a thread the next entry tries again
        waiting.told = crew::run(tell_all).is_ok();
    }
}

fn tell_all() {
    loop {
        let entry = {
            let mut waiting = WAITING.lock();
            let entry = waiting.entries.pop_front();
            waiting.told = entry.is_some();
            entry
        };
        let Some((code, message)) = entry else { return };
        let mut listener = LISTENER.lock();
        let told = listener.as_mut().map(|listener| catch_unwind(AssertUnwindSafe(|| listener(code, &message))));
        if told.is_some_and(|told| !told.unwrap_or(false)) {
            *listener = None;
        }
    }
}
