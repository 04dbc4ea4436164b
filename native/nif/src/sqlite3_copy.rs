//! Copies of a low-level connection's database, into a file or another connection, and back.

use crate::archive::with_progress_to;
use crate::atoms;
use crate::error::Failure;
use crate::options::machine_path;
use crate::reply::Reply;
use crate::sqlite3::{get, Conn3, Failed};
use macula_core::{Kind, Task};
use macula_sqlite::sqlite3::{on_thread, Conn, Session, Sqlite3Error};
use macula_sqlite::SqliteError;
use rustler::{Binary, Encoder, Env, ResourceArc, Term};
use std::path::Path;
use std::sync::Arc;

/// own thread: copy the database into a file: a new one, or in the place of what a database there holds.
#[rustler::nif]
fn sqlite3_backup<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    dest: Binary<'a>,
    overwrite: bool,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let dest = get!(env, machine_path(&dest));
    let text = get!(env, text_path(&dest));
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    let copy = move || {
        let work = |task: &Task| match overwrite {
            true => conn.copy_over_file(&text, task),
            false => conn.copy_to_file(&dest, task),
        };
        with_progress_to(reply, work, |reply, copied| answer(reply, &conn, copied));
    };
    match on_thread(copy) {
        Ok(()) => (atoms::ok(), call).encode(env),
        Err(error) => Failed(error).encode(env),
    }
}

/// own thread: copy the database over another connection's.
#[rustler::nif]
fn sqlite3_backup_to<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    dest: ResourceArc<Conn3>,
) -> Term<'a> {
    let (source, dest) = (get!(env, conn.get()), get!(env, dest.get()));
    into(env, &dest, reference, move |session, task| session.fill_from(&source, task))
}

/// own thread: put what a file holds in the place of the database.
#[rustler::nif]
fn sqlite3_restore<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    let conn = get!(env, conn.get());
    let path = get!(env, machine_path(&path).and_then(|path| text_path(&path)));
    into(env, &conn, reference, move |session, task| session.restore(&path, task))
}

/// Work on a connection, that tells its progress.
fn into<'a>(
    env: Env<'a>,
    conn: &Arc<Conn>,
    reference: Term<'a>,
    copy: impl FnOnce(&mut Session, &Task) -> Result<(), Sqlite3Error> + Send + 'static,
) -> Term<'a> {
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    let (cancel, held) = (call.cancel_token(), conn.clone());
    let job = move |session: Result<&mut Session, Sqlite3Error>| {
        let work = |task: &Task| {
            let session = session?;
            let copied = copy(session, task);
            session.finish();
            copied
        };
        with_progress_to(reply, work, |reply, copied| answer(reply, &held, copied));
    };
    match conn.run(cancel, Box::new(job)) {
        Ok(()) => (atoms::ok(), call).encode(env),
        Err(error) => Failed(error).encode(env),
    }
}

fn answer(reply: Reply, conn: &Conn, copied: Result<(), Sqlite3Error>) {
    reply.send(|env| match copied {
        Ok(()) => atoms::ok().encode(env),
        // expected, and not SQLite's to say
        Err(Sqlite3Error::Database(SqliteError::Exists(_))) => Failure::outcome(Kind::Exists).encode(env),
        Err(error) => {
            conn.note(&error);
            Failed(error).encode(env)
        }
    });
}

fn text_path(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::invalid("a path is not UTF-8"))
}
