//! Sessions of a low-level connection, and changesets.
//!
//! What only turns bytes into others waits for nobody: it runs on a dirty scheduler, as large copies do.

use crate::atoms;
use crate::handle::Handle;
use crate::sqlite::{backwards, cell};
use crate::sqlite3::{done, found, get, on_conn, Conn3, Failed};
use crate::sqlite3_events::action;
use macula_sqlite::sqlite3::{changes_in, concat, invert, Image, Policy, Recorded, Recorder, Resolve, Sqlite3Error};
use macula_sqlite::Cell;
use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::sync::Arc;

/// A session.
pub struct Session3(Handle<Arc<Recorder>>);

#[rustler::resource_impl]
impl Resource for Session3 {}

impl Session3 {
    fn get(&self) -> Result<Arc<Recorder>, Failed> {
        self.0.get().map_err(|_| Failed(Sqlite3Error::NoStatement))
    }
}

/// own thread: record what a connection changes.
#[rustler::nif]
fn sqlite3_session_create<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    database: String,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    on_conn(env, &conn, reference, move |env, session| {
        let recorder = session.record(&database);
        found(env, recorder.map(|recorder| ResourceArc::new(Session3(Handle::new(Arc::new(recorder))))))
    })
}

/// own thread: record a table, or all when it is `nil`.
#[rustler::nif]
fn sqlite3_session_attach<'a>(
    env: Env<'a>,
    session: ResourceArc<Session3>,
    reference: Term<'a>,
    table: Option<String>,
) -> Term<'a> {
    let recorder = get!(env, session.get());
    let conn = recorder.conn().clone();
    on_conn(env, &conn, reference, move |env, session| done(env, session.record_table(&recorder, table.as_deref())))
}

/// own thread: what was recorded, as a changeset or a patchset.
#[rustler::nif]
fn sqlite3_session_changes<'a>(
    env: Env<'a>,
    session: ResourceArc<Session3>,
    reference: Term<'a>,
    patchset: bool,
) -> Term<'a> {
    let recorder = get!(env, session.get());
    let conn = recorder.conn().clone();
    on_conn(env, &conn, reference, move |env, session| {
        let bytes = session.recorded(&recorder, patchset)?;
        found(env, Ok(cell(env, Cell::Blob(&bytes))))
    })
}

/// own thread: record no more.
#[rustler::nif]
fn sqlite3_session_delete<'a>(env: Env<'a>, session: ResourceArc<Session3>, reference: Term<'a>) -> Term<'a> {
    let Some(recorder) = session.0.take() else { return Failed(Sqlite3Error::NoStatement).encode(env) };
    let conn = recorder.conn().clone();
    on_conn(env, &conn, reference, move |env, session| {
        session.end_recorder(&recorder);
        done(env, Ok(()))
    })
}

/// own thread: apply a changeset or patchset, which is copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_changeset_apply<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    changeset: Binary<'a>,
    policy: (Atom, Atom, Atom, Atom, Atom),
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let (data, not_found, conflict, constraint, foreign_key) = policy;
    let policy = Policy {
        data: resolve(data),
        not_found: resolve(not_found),
        conflict: resolve(conflict),
        constraint: resolve(constraint),
        foreign_key: resolve(foreign_key),
    };
    let changeset = changeset.as_slice().to_vec();
    on_conn(env, &conn, reference, move |env, session| done(env, session.apply(changeset, &policy)))
}

fn resolve(atom: Atom) -> Resolve {
    match atom {
        atom if atom == atoms::omit() => Resolve::Omit,
        atom if atom == atoms::replace() => Resolve::Replace,
        _ => Resolve::Abort,
    }
}

/// memory: the changeset that undoes one.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_changeset_invert<'a>(env: Env<'a>, changeset: Binary<'a>) -> Term<'a> {
    bytes(env, invert(changeset.as_slice()))
}

/// memory: one that does what two do.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_changeset_concat<'a>(env: Env<'a>, first: Binary<'a>, then: Binary<'a>) -> Term<'a> {
    // SQLite promises not to write to them, but not in its types
    bytes(env, concat(&mut first.as_slice().to_vec(), &mut then.as_slice().to_vec()))
}

fn bytes(env: Env, result: Result<Vec<u8>, Sqlite3Error>) -> Term {
    match result {
        Ok(bytes) => (atoms::ok(), cell(env, Cell::Blob(&bytes))).encode(env),
        Err(error) => Failed(error).encode(env),
    }
}

/// memory: `{table, action, old, new}` of each change; `unchanged` for values that it does not have.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_changeset_info<'a>(env: Env<'a>, changeset: Binary<'a>) -> Term<'a> {
    match changes_in(&mut changeset.as_slice().to_vec()) {
        Ok(changes) => {
            let changes = changes.iter().rev().map(|change| recorded(env, change));
            (atoms::ok(), backwards(env, changes)).encode(env)
        }
        Err(error) => Failed(error).encode(env),
    }
}

fn recorded<'a>(env: Env<'a>, change: &Recorded) -> Term<'a> {
    let image = |image: &Option<Image>| {
        let values = |image: &Image| {
            backwards(
                env,
                image.iter().rev().map(|value| match value {
                    Some(value) => cell(env, value.as_cell()),
                    None => atoms::unchanged().encode(env),
                }),
            )
        };
        image.as_ref().map(values).encode(env)
    };
    (&change.table, action(change.action), image(&change.old), image(&change.new)).encode(env)
}
