//! A job without an engine, so that the tests can reach the boundary itself: it answers, waits until
//! its caller gives up, or panics. And what our side of it holds in memory.

use crate::base::BaseHandle;
use crate::{atoms, error};
use macula_core::{Clock, SystemClock};
use rustler::{Encoder, Env, ResourceArc, Term};
use std::time::Duration;

/// own thread: `answer` after `wait_ms`, or panic.
#[rustler::nif]
fn probe<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, wait_ms: u64, panics: bool) -> Term<'a> {
    let opened = match base.get() {
        Ok(opened) => opened,
        Err(failure) => return failure.encode(env),
    };
    opened.runtime.io(env, reference, move |reply| {
        SystemClock.sleep(Duration::from_millis(wait_ms));
        assert!(!panics, "the probe was asked to panic");
        reply.send(|env| error::result(env, Ok::<_, error::Failure>(atoms::done())));
    })
}

/// dirty io: bytes that the C library's allocator has given out: to SQLite and all of this library, hardly
/// to the VM; 0 where it does not count them. Looks at all of its arenas.
#[rustler::nif(schedule = "DirtyIo")]
fn probe_heap() -> u64 {
    crate::heap::bytes()
}
