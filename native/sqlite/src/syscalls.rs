//! The system calls of our copy of SQLite: which file descriptors of this process are its own, and reads
//! that never wait for a disk.
//!
//! SQLite lets its `unix` VFS be given other system calls; ours are `open` and `close` with a list
//! beside them. Invariant: a descriptor is in [`OWN`] from before any other thread can see it as open
//! until it is closed, because both calls are made under the list's lock. Inside [`without_waiting`]
//! a read that memory cannot answer fails, and no file is opened.

use crate::SqliteError;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::ffi;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

static OWN: Mutex<BTreeSet<c_int>> = Mutex::new(BTreeSet::new());

/// Reads that one act without waiting may make: 64 KiB of ordinary pages, all from the system's memory.
const READS_WITHOUT_WAITING: u32 = 16;

thread_local! {
    /// What is left of them; `None`: reads may wait.
    static READS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether one was refused.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Run `act`, in which this thread's reads of files fail where they would wait for a disk. `None` when one
/// did: not every answer that SQLite gives then is an error (its integrity check reports the failed read as
/// damage, and goes on).
pub(crate) fn without_waiting<T>(act: impl FnOnce() -> Option<T>) -> Option<T> {
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            READS_LEFT.set(None);
        }
    }
    READS_LEFT.set(Some(READS_WITHOUT_WAITING));
    REFUSED.set(false);
    let _until = Until;
    let answer = act();
    answer.filter(|_| !REFUSED.get())
}

/// Whether a read was refused since [`without_waiting`] began.
pub(crate) fn was_refused() -> bool {
    REFUSED.get()
}

fn refuse() -> c_int {
    REFUSED.set(true);
    set_errno(libc::EAGAIN);
    -1
}

/// Our SQLite's descriptors; none is opened or closed while the guard lives.
pub(crate) fn own_fds() -> MutexGuard<'static, BTreeSet<c_int>> {
    OWN.lock()
}

/// Whether this thread is inside [`without_waiting`].
pub(crate) fn must_not_wait() -> bool {
    READS_LEFT.get().is_some()
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
            let pread: unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize = pread_now_or_wait;
            let open = std::mem::transmute::<*const (), unsafe extern "C" fn()>(open as *const ());
            let close = std::mem::transmute::<*const (), unsafe extern "C" fn()>(close as *const ());
            let pread = std::mem::transmute::<*const (), unsafe extern "C" fn()>(pread as *const ());
            set(vfs, c"open".as_ptr(), Some(open)) == ffi::SQLITE_OK
                && set(vfs, c"close".as_ptr(), Some(close)) == ffi::SQLITE_OK
                && set(vfs, c"pread".as_ptr(), Some(pread)) == ffi::SQLITE_OK
        }
    });
    match installed {
        true => Ok(()),
        false => Err(SqliteError::Internal("SQLite does not take our system calls".to_owned())),
    }
}

unsafe extern "C" fn open_listed(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    if READS_LEFT.get().is_some() {
        return refuse();
    }
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

unsafe extern "C" fn pread_now_or_wait(fd: c_int, into: *mut c_void, len: usize, offset: i64) -> isize {
    let Some(left) = READS_LEFT.get() else {
        // SAFETY: SQLite passes a buffer of `len` bytes
        return unsafe { libc::pread(fd, into, len, offset) };
    };
    let Some(left) = left.checked_sub(1) else { return refuse() as isize };
    READS_LEFT.set(Some(left));
    let part = libc::iovec { iov_base: into, iov_len: len };
    // SAFETY: as above; the one part is that buffer
    let read = unsafe { libc::preadv2(fd, &raw const part, 1, offset, libc::RWF_NOWAIT) };
    if read < 0 {
        REFUSED.set(true);
    }
    read
}

fn set_errno(code: c_int) {
    // SAFETY: the place of this thread's errno
    unsafe { *libc::__errno_location() = code };
}
