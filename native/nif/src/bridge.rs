//! What the shared object is to another copy of SQLite: an extension that bridges it to ours.
//!
//! SQLite derives the entry point's name from the file's, `macula_nif.so`: the letters of it.

use crate::atoms;
use macula_sqlite::bridge::{self, Status};
use rustler::{Encoder, Env, Term};
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
    unsafe { bridge::enter(db, message, api) }
}

/// memory: whether there is a bridge, and why not when there might be.
#[rustler::nif]
fn sqlite_bridge_status(env: Env) -> Term {
    match bridge::status() {
        Status::NotLoaded => (atoms::error(), None::<&str>).encode(env),
        Status::Built => atoms::ok().encode(env),
        Status::Refused(why) => (atoms::error(), why).encode(env),
    }
}
