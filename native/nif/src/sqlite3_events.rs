//! What a low-level connection tells processes: rows that changed, commits, rollbacks, SQLite's own log.
//!
//! Sent from the thread that works on the connection, so in order; a process that is gone is told no more.

use crate::atoms;
use crate::sqlite::row;
use crate::sqlite3::{done, found, get, on_conn, Conn3};
use crate::stop::tell;
use macula_sqlite::sqlite3::{set_log, Action, Change, Event, RowChange, Wants};
use macula_sqlite::Value;
use rustler::{Atom, Encoder, Env, LocalPid, ResourceArc, Term};

/// own thread: tell a process `{action, database, table, rowid}` of each row that changes; one process at
/// a time, `nil` for none.
#[rustler::nif]
fn sqlite3_set_update_hook<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    pid: Option<LocalPid>,
) -> Term<'a> {
    let open = get!(env, conn.get());
    on_conn(env, &open, reference, move |env, session| {
        let mut hook = conn.update_hook.lock();
        if let Some(before) = hook.take() {
            session.unlisten(before);
        }
        let listened = pid.map(|pid| {
            session.listen(move |event| match event {
                Event::Changed(change) => tell(&pid, |env| changed(env, &change)),
                _ => true,
            })
        });
        done(env, listened.transpose().map(|id| *hook = id))
    })
}

/// own thread: tell a process `{MaculaStorage.SQLite.Sqlite3, id, event}` of each event of these kinds.
#[rustler::nif]
fn sqlite3_listen<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    pid: LocalPid,
    kinds: Vec<Atom>,
) -> Term<'a> {
    let open = get!(env, conn.get());
    on_conn(env, &open, reference, move |env, session| {
        let wants = Wants { rows: kinds.contains(&atoms::preupdate()), log: kinds.contains(&atoms::wal()) };
        let listened = session.listen_as(wants, |id| {
            move |event: Event<'_>| {
                if !kinds.contains(&kind(&event)) {
                    return true;
                }
                tell(&pid, |env| (atoms::sqlite3_module(), id, encode(env, &event)).encode(env))
            }
        });
        found(env, listened)
    })
}

/// own thread: tell of those events no more.
#[rustler::nif]
fn sqlite3_unlisten<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, id: u64) -> Term<'a> {
    let open = get!(env, conn.get());
    on_conn(env, &open, reference, move |env, session| {
        session.unlisten(id);
        done(env, Ok(()))
    })
}

/// memory: tell a process `{log, code, message}` of what SQLite logs, for all connections; one at a time.
#[rustler::nif]
fn sqlite3_set_log_hook(pid: LocalPid) -> Atom {
    set_log(move |code, message| tell(&pid, |env| (atoms::log(), code, message).encode(env)));
    atoms::ok()
}

fn kind(event: &Event<'_>) -> Atom {
    match event {
        Event::Changed(_) => atoms::update(),
        Event::Commit => atoms::commit(),
        Event::Rollback => atoms::rollback(),
        Event::Log { .. } => atoms::wal(),
        Event::Row(_) => atoms::preupdate(),
    }
}

fn encode<'a>(env: Env<'a>, event: &Event<'_>) -> Term<'a> {
    match event {
        Event::Changed(change) => changed(env, change),
        Event::Log { database, pages } => (atoms::wal(), database, pages).encode(env),
        Event::Row(change) => row_changes(env, change),
        Event::Commit | Event::Rollback => kind(event).encode(env),
    }
}

fn changed<'a>(env: Env<'a>, change: &Change<'_>) -> Term<'a> {
    (action(change.action), change.database, change.table, change.rowid).encode(env)
}

fn row_changes<'a>(env: Env<'a>, change: &RowChange<'_>) -> Term<'a> {
    let image = |values: &Option<Vec<Value>>| match values {
        Some(values) => row(env, &mut values.iter().map(Value::as_cell)),
        None => atoms::nil().encode(env),
    };
    let (old, new) = (image(&change.old), image(&change.new));
    let (old_rowid, new_rowid) = change.rowids;
    let action = action(change.action);
    let elements = [
        atoms::preupdate().encode(env),
        action.encode(env),
        change.database.encode(env),
        change.table.encode(env),
        old_rowid.encode(env),
        new_rowid.encode(env),
        old,
        new,
    ];
    rustler::types::tuple::make_tuple(env, &elements)
}

/// The atom of what was done to a row.
pub fn action(action: Action) -> Atom {
    match action {
        Action::Insert => atoms::insert(),
        Action::Update => atoms::update(),
        Action::Delete => atoms::delete(),
    }
}
