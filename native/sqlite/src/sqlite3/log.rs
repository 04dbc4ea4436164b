//! SQLite's own error log, which is one for the whole process.
//!
//! Invariant: the listener is called on a thread of ours, never where SQLite logged: that may be a
//! scheduler of the VM, from which no message can be sent, or a thread that holds a connection.

use super::crew;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::Once;

type Listener = Box<dyn FnMut(i32, &str) -> bool + Send>;

static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

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
    // without a thread nobody is told
    let _ = crew::run(move || {
        let mut listener = LISTENER.lock();
        if listener.as_mut().is_some_and(|listener| !listener(code, &message)) {
            *listener = None;
        }
    });
}
