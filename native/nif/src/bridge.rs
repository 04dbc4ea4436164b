//! What the shared object is to another copy of SQLite: an extension that bridges it to ours.
//!
//! SQLite derives the entry point's name from the file's, `macula_nif.so`: the letters of it.

use std::ffi::{c_char, c_int, c_void};

/// Called by the other copy's `load_extension`, on any thread, perhaps before the VM loaded the NIFs.
///
/// # Safety
/// As SQLite calls an extension's entry point.
#[no_mangle]
pub unsafe extern "C" fn sqlite3_maculanif_init(
    db: *mut c_void,
    message: *mut *mut c_char,
    api: *const c_void,
) -> c_int {
    // SAFETY: passed on from the caller
    unsafe { macula_sqlite::bridge::enter(db, message, api) }
}

/// memory: whether another copy of SQLite in this VM has loaded the extension.
#[rustler::nif]
fn sqlite_is_bridged() -> bool {
    macula_sqlite::bridge::is_built()
}
