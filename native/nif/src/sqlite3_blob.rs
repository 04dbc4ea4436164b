//! Blobs of a low-level connection, read and written in pieces.

use crate::atoms;
use crate::handle::Handle;
use crate::sqlite3::{done, found, get, on_conn, Conn3, Failed};
use macula_sqlite::sqlite3::{Blob, BlobPlace, Sqlite3Error};
use rustler::{Binary, Encoder, Env, NewBinary, Resource, ResourceArc, Term};
use std::sync::Arc;

/// An open blob.
pub struct Blob3(Handle<Arc<Blob>>);

#[rustler::resource_impl]
impl Resource for Blob3 {}

impl Blob3 {
    fn get(&self) -> Result<Arc<Blob>, Failed> {
        self.0.get().map_err(|_| Failed(Sqlite3Error::NoStatement))
    }
}

/// own thread: open a value of a row.
#[rustler::nif]
fn sqlite3_blob_open<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    place: (String, String, String),
    rowid: i64,
    write: bool,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let (database, table, column) = place;
    let place = BlobPlace { database, table, column };
    on_conn(env, &conn, reference, move |env, session| {
        let blob = session.open_blob(&place, rowid, write);
        found(env, blob.map(|blob| ResourceArc::new(Blob3(Handle::new(Arc::new(blob))))))
    })
}

/// memory: bytes of a blob.
#[rustler::nif]
fn sqlite3_blob_size<'a>(env: Env<'a>, blob: ResourceArc<Blob3>) -> Term<'a> {
    (atoms::ok(), get!(env, blob.get()).len()).encode(env)
}

/// own thread: a part of a blob.
#[rustler::nif]
fn sqlite3_blob_read<'a>(
    env: Env<'a>,
    blob: ResourceArc<Blob3>,
    reference: Term<'a>,
    offset: u64,
    len: u64,
) -> Term<'a> {
    let blob = get!(env, blob.get());
    let conn = blob.conn().clone();
    on_conn(env, &conn, reference, move |env, session| {
        // no more memory than there is blob, and one byte for SQLite's own refusal
        let mut bytes = NewBinary::new(env, len.min(blob.len() + 1) as usize);
        session.read_blob(&blob, offset, bytes.as_mut_slice())?;
        found(env, Ok(Term::from(bytes)))
    })
}

/// own thread: put bytes in the place of a part of a blob; they are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_blob_write<'a>(
    env: Env<'a>,
    blob: ResourceArc<Blob3>,
    reference: Term<'a>,
    offset: u64,
    bytes: Binary<'a>,
) -> Term<'a> {
    let blob = get!(env, blob.get());
    let bytes = bytes.as_slice().to_vec();
    let conn = blob.conn().clone();
    on_conn(env, &conn, reference, move |env, session| done(env, session.write_blob(&blob, offset, &bytes)))
}

/// own thread: go to another row.
#[rustler::nif]
fn sqlite3_blob_reopen<'a>(env: Env<'a>, blob: ResourceArc<Blob3>, reference: Term<'a>, rowid: i64) -> Term<'a> {
    let blob = get!(env, blob.get());
    let conn = blob.conn().clone();
    on_conn(env, &conn, reference, move |env, session| done(env, session.reopen_blob(&blob, rowid)))
}

/// own thread: close a blob, which commits what was written outside of a transaction.
#[rustler::nif]
fn sqlite3_blob_close<'a>(env: Env<'a>, blob: ResourceArc<Blob3>, reference: Term<'a>) -> Term<'a> {
    let Some(blob) = blob.0.take() else { return Failed(Sqlite3Error::NoStatement).encode(env) };
    let conn = blob.conn().clone();
    on_conn(env, &conn, reference, move |env, session| done(env, session.end_blob(&blob)))
}
