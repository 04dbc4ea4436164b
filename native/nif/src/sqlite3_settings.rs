//! Limits of a low-level connection, checkpoints, and functions of ours.

use crate::atoms;
use crate::sqlite3::{found, get, on_conn, Conn3};
use macula_sqlite::sqlite3::{limit_code, CheckpointMode};
use rustler::{Atom, Encoder, Env, ResourceArc, Term};

/// own thread: a limit by its name, set to a value unless that is `nil`; what it was before.
#[rustler::nif]
fn sqlite3_limit<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    name: &str,
    value: Option<i32>,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let Some(code) = limit_code(name) else {
        return (atoms::error(), (atoms::unknown_action(), name)).encode(env);
    };
    on_conn(env, &conn, reference, move |env, session| found(env, Ok(session.limit(code, value))))
}

/// own thread: bring the log into the file; `nil` where there is no log.
#[rustler::nif]
fn sqlite3_checkpoint<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, mode: Atom) -> Term<'a> {
    let conn = get!(env, conn.get());
    let mode = match mode {
        mode if mode == atoms::passive() => CheckpointMode::Passive,
        mode if mode == atoms::full() => CheckpointMode::Full,
        mode if mode == atoms::restart() => CheckpointMode::Restart,
        _ => CheckpointMode::Truncate,
    };
    on_conn(env, &conn, reference, move |env, session| found(env, session.checkpoint(mode)))
}

/// own thread: add SQL functions of ours by their names, or all when it is `nil`.
#[rustler::nif]
fn sqlite3_add_functions<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    names: Option<Vec<String>>,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    on_conn(env, &conn, reference, move |env, session| {
        Ok(match session.add_functions(names.as_deref())? {
            Ok(()) => atoms::ok().encode(env),
            Err(unknown) => (atoms::error(), (atoms::unknown_action(), unknown)).encode(env),
        })
    })
}
