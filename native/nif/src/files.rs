//! Files: everything that may wait for the disk runs on the pool.
//!
//! Contents cross without a copy: the job holds the caller's binary until it is written.

use crate::atoms;
use crate::base::{on_app, AppHandle, OpenApp};
use crate::error::Failure;
use crate::handle::{dispose, Handle};
use crate::options::rel_path;
use macula_core::{Kind, RelPath};
use macula_store::files::{FileStat, Reader, Writer};
use parking_lot::Mutex;
use rustler::env::SavedTerm;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, OwnedEnv, Resource, ResourceArc, Term};
use std::sync::Arc;

/// Bytes of one read.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A file being read.
pub struct ReaderHandle(Handle<(Arc<Reader>, OpenApp)>);

#[rustler::resource_impl]
impl Resource for ReaderHandle {}

/// A file being written; dropped or aborted, it leaves no trace.
pub struct WriterHandle(Handle<(Arc<Mutex<Option<Writer>>>, OpenApp)>);

#[rustler::resource_impl]
impl Resource for WriterHandle {}

/// A caller's binary, held by reference until a job is done with it.
pub struct Held {
    env: OwnedEnv,
    term: SavedTerm,
}

impl Held {
    /// It.
    pub fn new(binary: Term) -> Self {
        let env = OwnedEnv::new();
        let term = env.save(binary);
        Self { env, term }
    }

    /// Use its bytes.
    pub fn with<T>(&self, act: impl FnOnce(&[u8]) -> T) -> Result<T, Failure> {
        self.env.run(|env| match self.term.load(env).decode::<Binary>() {
            Ok(bytes) => Ok(act(bytes.as_slice())),
            Err(_) => Err(Failure::invalid("expected a binary")),
        })
    }
}

/// own thread: write a whole file.
#[rustler::nif]
fn files_write<'a>(
    env: Env<'a>,
    app: ResourceArc<AppHandle>,
    reference: Term<'a>,
    path: Binary<'a>,
    content: Term<'a>,
) -> Term<'a> {
    with_path(env, &path, |path| {
        let content = Held::new(content);
        on_app(env, &app, reference, move |reply, app| {
            let write = || -> Result<(), Failure> {
                let files = app.files()?;
                content.with(|bytes| files.write(&path, bytes))??;
                Ok(())
            };
            reply.send_done(write());
        })
    })
}

/// own thread: read a whole file, verified.
#[rustler::nif]
fn files_read<'a>(
    env: Env<'a>,
    app: ResourceArc<AppHandle>,
    reference: Term<'a>,
    path: Binary<'a>,
    bytes_max: u64,
) -> Term<'a> {
    with_path(env, &path, |path| {
        on_app(env, &app, reference, move |reply, app| {
            let read = || -> Result<Vec<u8>, Failure> { Ok(app.files()?.read(&path, bytes_max)?) };
            reply.send_result(read().map(Bytes));
        })
    })
}

/// own thread: delete a file.
#[rustler::nif]
fn files_delete<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    with_path(env, &path, |path| {
        on_app(env, &app, reference, move |reply, app| {
            let delete = || -> Result<(), Failure> { Ok(app.files()?.delete(&path).map(|_| ())?) };
            reply.send_done(delete());
        })
    })
}

/// own thread: what is known of a file.
#[rustler::nif]
fn files_stat<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    with_path(env, &path, |path| {
        on_app(env, &app, reference, move |reply, app| {
            let stat = || -> Result<FileStat, Failure> { Ok(app.files()?.stat(&path)?) };
            reply.send_result(stat().map(Stat));
        })
    })
}

/// own thread: a page of names, and whether there are more.
#[rustler::nif]
fn files_list<'a>(
    env: Env<'a>,
    app: ResourceArc<AppHandle>,
    reference: Term<'a>,
    prefix: Option<Binary<'a>>,
    after: Option<Binary<'a>>,
    limit: usize,
) -> Term<'a> {
    let path = |path: Option<Binary>| path.map(|path| rel_path(&path)).transpose();
    let (prefix, after) = match path(prefix).and_then(|prefix| Ok((prefix, path(after)?))) {
        Ok(paths) => paths,
        Err(failure) => return failure.encode(env),
    };
    on_app(env, &app, reference, move |reply, app| {
        let list = || -> Result<_, Failure> {
            let page = app.files()?.list(prefix.as_ref(), after.as_ref(), limit)?;
            let names = page.names.iter().map(|name| Bytes(name.as_bytes().to_vec())).collect::<Vec<_>>();
            Ok((names, page.more))
        };
        reply.send_result(list());
    })
}

/// own thread: open a file for reading in chunks.
#[rustler::nif]
fn files_reader<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    let Ok(open) = app.get() else { return Failure::outcome(Kind::Closed).encode(env) };
    with_path(env, &path, |path| {
        on_app(env, &app, reference, move |reply, app| {
            let reader = || -> Result<_, Failure> { Ok(Arc::new(app.files()?.reader(&path)?)) };
            reply.send_result(reader().map(|reader| ResourceArc::new(ReaderHandle(Handle::new((reader, open))))));
        })
    })
}

/// own thread: at most a mebibyte at an offset; empty at the end.
#[rustler::nif]
fn files_read_at<'a>(
    env: Env<'a>,
    reader: ResourceArc<ReaderHandle>,
    reference: Term<'a>,
    offset: u64,
    len: usize,
) -> Term<'a> {
    let (reader, open) = match reader.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    open.opened.runtime.io(env, reference, move |reply| {
        let mut bytes = vec![0; len.min(CHUNK_BYTES_MAX)];
        let read = reader.read_at(&mut bytes, offset);
        reply.send_result(read.map(|len| {
            bytes.truncate(len);
            Bytes(bytes)
        }));
    })
}

/// own thread: begin to write a file in chunks.
#[rustler::nif]
fn files_writer<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    let Ok(open) = app.get() else { return Failure::outcome(Kind::Closed).encode(env) };
    with_path(env, &path, |path| {
        on_app(env, &app, reference, move |reply, app| {
            let writer = || -> Result<Writer, Failure> { Ok(app.files()?.writer(&path)?) };
            let handle = |writer| WriterHandle(Handle::new((Arc::new(Mutex::new(Some(writer))), open)));
            reply.send_result(writer().map(|writer| ResourceArc::new(handle(writer))));
        })
    })
}

/// own thread: append a chunk.
#[rustler::nif]
fn files_writer_chunk<'a>(
    env: Env<'a>,
    writer: ResourceArc<WriterHandle>,
    reference: Term<'a>,
    bytes: Term<'a>,
) -> Term<'a> {
    let (writer, open) = match writer.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let bytes = Held::new(bytes);
    open.opened.runtime.io(env, reference, move |reply| {
        let write = || -> Result<(), Failure> {
            let mut writer = writer.lock();
            let writer = writer.as_mut().ok_or_else(|| Failure::outcome(Kind::Closed))?;
            Ok(bytes.with(|bytes| writer.write_chunk(bytes))??)
        };
        reply.send_done(write());
    })
}

/// own thread: make the file visible and durable.
#[rustler::nif]
fn files_writer_commit<'a>(env: Env<'a>, writer: ResourceArc<WriterHandle>, reference: Term<'a>) -> Term<'a> {
    // not taken here: a full queue must leave the writer as it was
    let (writer, open) = match writer.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    open.opened.runtime.io(env, reference, move |reply| {
        let commit = || -> Result<(), Failure> {
            let writer = writer.lock().take().ok_or_else(|| Failure::outcome(Kind::Closed))?;
            Ok(writer.commit().map(|_| ())?)
        };
        reply.send_done(commit());
    })
}

/// memory: give up; what was written is removed on the closer thread.
#[rustler::nif]
fn files_writer_abort(writer: ResourceArc<WriterHandle>) -> Atom {
    if let Some(inner) = writer.0.take() {
        dispose(Box::new(inner));
    }
    atoms::ok()
}

fn with_path<'a>(env: Env<'a>, path: &Binary, act: impl FnOnce(RelPath) -> Term<'a>) -> Term<'a> {
    match rel_path(path) {
        Ok(path) => act(path),
        Err(failure) => failure.encode(env),
    }
}

/// Bytes as a binary.
pub struct Bytes(pub Vec<u8>);

impl Encoder for Bytes {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let binary: Binary = NewBinary::from_slice(env, &self.0).into();
        binary.encode(env)
    }
}

struct Stat(FileStat);

impl Encoder for Stat {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let mtime_ms = (self.0.mtime_ns / 1_000_000) as i64;
        let blake3 = self.0.blake3.map(|hash| Bytes(hash.to_vec()));
        let map = Term::map_new(env)
            .map_put(atoms::size(), self.0.len)
            .and_then(|map| map.map_put(atoms::mtime_ms(), mtime_ms))
            .and_then(|map| map.map_put(atoms::mode(), self.0.mode))
            .and_then(|map| map.map_put(atoms::blake3(), blake3));
        map.unwrap_or_else(|_| atoms::nil().encode(env))
    }
}
