//! The door between BEAM and Rust, and the only crate that knows rustler: decode, call, encode.
//!
//! Each NIF's doc line begins with its class (design section 4):
//! - **memory**: a normal scheduler, no lock held across I/O;
//! - **dirty io**: bounded local disk, at most a page, a chunk or a batch;
//! - **own thread**: answered by exactly one `{ref, reply}` message from a thread of ours.
//!
//! One file per noun, as on every floor. No engine logic lives here.

mod archive;
mod atoms;
mod authority;
mod base;
mod bridge;
mod call;
mod dir;
mod error;
mod files;
mod handle;
mod heap;
mod kv;
mod mesh;
mod mesh_care;
mod mesh_carrier;
mod mesh_events;
mod options;
mod probe;
mod reply;
mod runtime;
mod sqlite;
mod sqlite3;
mod sqlite3_blob;
mod sqlite3_copy;
mod sqlite3_events;
mod sqlite3_session;
mod sqlite3_settings;
mod state;
mod stop;

use rustler::{Env, Term};

fn load(_env: Env, _info: Term) -> bool {
    stop::at_exit();
    heap::keep_messages();
    handle::start_closer()
}

rustler::init!("Elixir.MaculaStorage.Native", load = load);
