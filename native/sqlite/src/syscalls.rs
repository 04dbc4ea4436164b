//! Which file descriptors of this process belong to our copy of SQLite.
//!
//! SQLite lets its `unix` VFS be given other system calls; ours are `open` and `close` with a list
//! beside them. Invariant: a descriptor is in [`OWN`] from before any other thread can see it as open
//! until it is closed, because both calls are made under the list's lock.

use crate::SqliteError;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::ffi;
use std::collections::BTreeSet;
use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

static OWN: Mutex<BTreeSet<c_int>> = Mutex::new(BTreeSet::new());

/// Our SQLite's descriptors; none is opened or closed while the guard lives.
pub(crate) fn own_fds() -> MutexGuard<'static, BTreeSet<c_int>> {
    OWN.lock()
}

/// Put our calls in place, once, before the first connection of this process is opened.
pub(crate) fn install() -> Result<(), SqliteError> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: the VFS is SQLite's static one; its method takes a name and a function pointer,
        // which SQLite casts back to the signatures below (os_unix.c, aSyscall); ours are those.
        unsafe {
            if ffi::sqlite3_initialize() != ffi::SQLITE_OK {
                return false;
            }
            let vfs = ffi::sqlite3_vfs_find(c"unix".as_ptr());
            let Some(set) = vfs.as_ref().and_then(|found| found.xSetSystemCall) else { return false };
            let open: unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int = open_listed;
            let close: unsafe extern "C" fn(c_int) -> c_int = close_listed;
            let open = std::mem::transmute::<*const (), unsafe extern "C" fn()>(open as *const ());
            let close = std::mem::transmute::<*const (), unsafe extern "C" fn()>(close as *const ());
            set(vfs, c"open".as_ptr(), Some(open)) == ffi::SQLITE_OK
                && set(vfs, c"close".as_ptr(), Some(close)) == ffi::SQLITE_OK
        }
    });
    match installed {
        true => Ok(()),
        false => Err(SqliteError::Internal("SQLite does not take our system calls".to_owned())),
    }
}

unsafe extern "C" fn open_listed(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let mut own = OWN.lock();
    // SAFETY: SQLite passes a NUL-terminated path
    let fd = unsafe { libc::open(path, flags, mode as libc::c_uint) };
    if fd >= 0 {
        own.insert(fd);
    }
    fd
}

unsafe extern "C" fn close_listed(fd: c_int) -> c_int {
    let mut own = OWN.lock();
    own.remove(&fd);
    // SAFETY: SQLite closes its own descriptor; closed under the lock, so that its number cannot be
    // listed again by `open_listed` before
    unsafe { libc::close(fd) }
}
