//! SQLite's low-level floor: connections and statements in a process's hands.
//!
//! A step is answered at once when memory can answer it; all that may wait runs on the connection's own
//! thread. Errors cross as `{sqlite, code, message, offset}` or an atom; Elixir gives them exqlite's shape.

use crate::atoms;
use crate::error::{Failure, Told};
use crate::handle::{dispose, Handle};
use crate::options::list;
use crate::reply::Reply;
use crate::runtime::owe;
use crate::sqlite::{backwards, cell, decode_value, row};
use macula_core::SystemClock;
use macula_sqlite::sqlite3::{action_code, Conn, OpenMode, Session, Sqlite3Error, Step, Stmt};
use macula_sqlite::{Cell, Value};
use parking_lot::Mutex;
use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

/// A low-level connection.
pub struct Conn3 {
    conn: Handle<Arc<Conn>>,
    /// The listener that `set_update_hook` made.
    pub update_hook: Mutex<Option<u64>>,
}

#[rustler::resource_impl]
impl Resource for Conn3 {}

/// A prepared statement.
pub struct Stmt3(Handle<Arc<Stmt>>);

#[rustler::resource_impl]
impl Resource for Stmt3 {}

/// Bytes of rows that one answer holds at most, beyond its first row.
const PAGE_BYTES: usize = 1 << 20;
/// What a normal scheduler copies.
const HOT_BYTES: usize = 64 << 10;

/// Why not, on its way to Elixir.
pub struct Failed(pub Sqlite3Error);

impl Encoder for Failed {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let reason = match &self.0 {
            Sqlite3Error::Sqlite(failure) => {
                (atoms::sqlite(), failure.code, &failure.message, failure.offset).encode(env)
            }
            Sqlite3Error::Closed => atoms::connection_closed().encode(env),
            Sqlite3Error::NoStatement => atoms::invalid_statement().encode(env),
            Sqlite3Error::Busy => atoms::busy().encode(env),
            Sqlite3Error::Cancelled | Sqlite3Error::Undone(_) | Sqlite3Error::Ended(_) => {
                (atoms::sqlite(), INTERRUPT, self.0.to_string(), None::<u32>).encode(env)
            }
            Sqlite3Error::Database(error) => return Failure::from(error.clone()).encode(env),
        };
        (atoms::error(), reason).encode(env)
    }
}

/// `SQLITE_INTERRUPT`.
const INTERRUPT: i32 = 9;

impl Conn3 {
    fn new(conn: Arc<Conn>) -> ResourceArc<Self> {
        ResourceArc::new(Self { conn: Handle::new(conn), update_hook: Mutex::new(None) })
    }

    /// It, unless it was closed.
    pub fn get(&self) -> Result<Arc<Conn>, Failed> {
        self.conn.get().map_err(|_| Failed(Sqlite3Error::Closed))
    }
}

impl Stmt3 {
    fn new(stmt: Stmt) -> ResourceArc<Self> {
        ResourceArc::new(Self(Handle::new(Arc::new(stmt))))
    }

    fn get(&self) -> Result<Arc<Stmt>, Failed> {
        self.0.get().map_err(|_| Failed(Sqlite3Error::NoStatement))
    }
}

/// A connection and a statement of it, or why not.
fn pair<'a>(env: Env<'a>, conn: &Conn3, stmt: &Stmt3) -> Result<(Arc<Conn>, Arc<Stmt>), Term<'a>> {
    let conn = conn.get().map_err(|failed| failed.encode(env))?;
    let stmt = stmt.get().map_err(|failed| failed.encode(env))?;
    match Arc::ptr_eq(&conn, stmt.conn()) {
        true => Ok((conn, stmt)),
        false => Err((atoms::error(), atoms::other_connection()).encode(env)),
    }
}

/// Owe the reply to a job on the connection, which makes it in the reply's environment. It is sent once
/// what the job left can be asked for.
pub fn on_conn<'a>(
    env: Env<'a>,
    conn: &Conn,
    reference: Term<'a>,
    job: impl for<'b> FnOnce(Env<'b>, &mut Session) -> Result<Term<'b>, Sqlite3Error> + Send + 'static,
) -> Term<'a> {
    let reply = Reply::to_caller(env, reference);
    let call = reply.call().clone();
    let cancel = call.cancel_token();
    let job = move |session: Result<&mut Session, Sqlite3Error>| match session {
        Ok(session) => {
            // not inside `send`, which claims the reply: until then a caller who gives up interrupts
            let answer = reply.build(|env| {
                job(env, session).unwrap_or_else(|error| {
                    session.note(&error);
                    Failed(error).encode(env)
                })
            });
            session.finish();
            if let Some(answer) = answer {
                reply.send(|env| answer.load(env));
            }
        }
        Err(error) => reply.send(|env| Failed(error).encode(env)),
    };
    match conn.run(cancel, Box::new(job)) {
        Ok(()) => (atoms::ok(), call).encode(env),
        Err(error) => Failed(error).encode(env),
    }
}

/// `{ok, value}`, of what was found.
pub fn found<T: Encoder>(env: Env, result: Result<T, Sqlite3Error>) -> Result<Term, Sqlite3Error> {
    result.map(|value| (atoms::ok(), value).encode(env))
}

/// `ok` once it is done.
pub fn done(env: Env, result: Result<(), Sqlite3Error>) -> Result<Term, Sqlite3Error> {
    result.map(|()| atoms::ok().encode(env))
}

/// What a handle holds, or return why not.
macro_rules! get {
    ($env:expr, $handle:expr) => {
        match $handle {
            Ok(found) => found,
            Err(failed) => return failed.encode($env),
        }
    };
}
pub(crate) use get;

/// own thread: open a file, memory or a URI.
#[rustler::nif]
fn sqlite3_open<'a>(env: Env<'a>, reference: Term<'a>, path: String, write: bool, create: bool) -> Term<'a> {
    let pid = env.pid();
    owe(env, reference, |reply| {
        let opened = move |result: Result<Arc<Conn>, Sqlite3Error>| {
            reply.send(|env| match result {
                Ok(conn) => {
                    conn.set_who(Arc::new(pid));
                    (atoms::ok(), Conn3::new(conn)).encode(env)
                }
                Err(error) => Failed(error).encode(env),
            });
        };
        Conn::open(path, OpenMode { write, create }, Arc::new(SystemClock), opened)
    })
}

/// own thread: interrupt what runs, roll back, close.
#[rustler::nif]
fn sqlite3_close<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>) -> Term<'a> {
    let conn = match conn.conn.take() {
        Some(conn) => conn,
        None => return Failed(Sqlite3Error::Closed).encode(env),
    };
    let held = conn.clone();
    owe(env, reference, |reply| {
        conn.close(move || {
            reply.send_done(Ok::<_, Failure>(()));
            dispose(Box::new(held));
        })
    })
}

/// memory: stop what runs on a connection, a wait for a lock included.
#[rustler::nif]
fn sqlite3_interrupt(conn: ResourceArc<Conn3>) -> Atom {
    if let Ok(conn) = conn.get() {
        conn.interrupt();
    }
    atoms::ok()
}

/// memory: how long a step waits for a lock of others.
#[rustler::nif]
fn sqlite3_set_busy_timeout<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, timeout_ms: u64) -> Term<'a> {
    get!(env, conn.get()).set_lock_wait(Duration::from_millis(timeout_ms));
    atoms::ok().encode(env)
}

/// memory: `{changes, last_insert_rowid, in_transaction}` as the last call left them.
#[rustler::nif]
fn sqlite3_facts<'a>(env: Env<'a>, conn: ResourceArc<Conn3>) -> Term<'a> {
    let conn = get!(env, conn.get());
    (atoms::ok(), conn.facts()).encode(env)
}

/// memory: what the last call that failed left, as a map, or `nil`.
#[rustler::nif]
fn sqlite3_last_error<'a>(env: Env<'a>, conn: ResourceArc<Conn3>) -> Term<'a> {
    let details = get!(env, conn.get()).last_failure().map(|failure| failure.details());
    (atoms::ok(), details.as_ref().map(Told)).encode(env)
}

/// own thread: run all statements of a text.
#[rustler::nif]
fn sqlite3_execute<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, sql: String) -> Term<'a> {
    execute(env, &conn, reference, sql)
}

/// own thread: as `sqlite3_execute`, of a long text, which is copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_execute_large<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, sql: String) -> Term<'a> {
    execute(env, &conn, reference, sql)
}

fn execute<'a>(env: Env<'a>, conn: &Conn3, reference: Term<'a>, sql: String) -> Term<'a> {
    let conn = get!(env, conn.get());
    on_conn(env, &conn, reference, move |env, session| done(env, session.execute(&sql)))
}

/// own thread: prepare the first statement of a text, or take one that was released.
#[rustler::nif]
fn sqlite3_prepare<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    sql: String,
    cached: bool,
) -> Term<'a> {
    prepare_on_conn(env, &conn, reference, sql, cached)
}

/// own thread: as `sqlite3_prepare`, of a long text, which is copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_prepare_large<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    sql: String,
    cached: bool,
) -> Term<'a> {
    prepare_on_conn(env, &conn, reference, sql, cached)
}

fn prepare_on_conn<'a>(env: Env<'a>, conn: &Conn3, reference: Term<'a>, sql: String, cached: bool) -> Term<'a> {
    let conn = get!(env, conn.get());
    on_conn(env, &conn, reference, move |env, session| found(env, prepare(session, &sql, cached).map(Stmt3::new)))
}

/// memory: prepare a short text when nothing must be read for it, else `cold`.
#[rustler::nif]
fn sqlite3_prepare_hot<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, sql: String, cached: bool) -> Term<'a> {
    let conn = get!(env, conn.get());
    match conn.hot(|session| prepare(session, &sql, cached).ok()) {
        Some(stmt) => (atoms::ok(), Stmt3::new(stmt)).encode(env),
        None => atoms::cold().encode(env),
    }
}

fn prepare(session: &mut Session, sql: &str, cached: bool) -> Result<Stmt, Sqlite3Error> {
    match cached {
        true => session.prepare_cached(sql),
        false => session.prepare(sql),
    }
}

/// memory: names of a statement's parameters, `nil` for those that have none.
#[rustler::nif]
fn sqlite3_param_names<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>) -> Term<'a> {
    let stmt = get!(env, stmt.get());
    (atoms::ok(), &stmt.info().param_names).encode(env)
}

/// memory: column names of a statement.
#[rustler::nif]
fn sqlite3_columns<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, stmt: ResourceArc<Stmt3>) -> Term<'a> {
    let (_, stmt) = get!(env, pair(env, &conn, &stmt));
    (atoms::ok(), &stmt.info().columns).encode(env)
}

/// memory: bind all parameters anew; `{error, count}` when the statement has another number of them.
#[rustler::nif]
fn sqlite3_bind_all<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>, values: Term<'a>) -> Term<'a> {
    bind_all(env, &stmt, values)
}

/// memory: as `sqlite3_bind_all`, of large values, which are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_bind_all_large<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>, values: Term<'a>) -> Term<'a> {
    bind_all(env, &stmt, values)
}

fn bind_all<'a>(env: Env<'a>, stmt: &Stmt3, values: Term<'a>) -> Term<'a> {
    let stmt = get!(env, stmt.get());
    let values = list(values).and_then(|values| values.into_iter().map(decode_value).collect::<Result<Vec<_>, _>>());
    let values = match values {
        Ok(values) => values,
        Err(failure) => return failure.encode(env),
    };
    let expected = stmt.info().param_names.len();
    if values.len() != expected {
        return (atoms::error(), expected).encode(env);
    }
    stmt.bind_all(values);
    atoms::ok().encode(env)
}

/// memory: bind one parameter, counted from 1.
#[rustler::nif]
fn sqlite3_bind<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>, index: usize, value: Term<'a>) -> Term<'a> {
    bind(env, &stmt, index, value)
}

/// memory: as `sqlite3_bind`, of a large value, which is copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_bind_large<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>, index: usize, value: Term<'a>) -> Term<'a> {
    bind(env, &stmt, index, value)
}

fn bind<'a>(env: Env<'a>, stmt: &Stmt3, index: usize, value: Term<'a>) -> Term<'a> {
    let stmt = get!(env, stmt.get());
    match decode_value(value) {
        Err(failure) => failure.encode(env),
        Ok(value) => match stmt.bind(index, value) {
            Ok(()) => atoms::ok().encode(env),
            Err(error) => {
                stmt.conn().note(&error);
                Failed(error).encode(env)
            }
        },
    }
}

/// memory: begin anew at the next step.
#[rustler::nif]
fn sqlite3_reset<'a>(env: Env<'a>, stmt: ResourceArc<Stmt3>) -> Term<'a> {
    get!(env, stmt.get()).reset();
    atoms::ok().encode(env)
}

/// memory: a row that is read ahead, or the first of a read that memory answers; else `cold`.
#[rustler::nif]
fn sqlite3_step_hot<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, stmt: ResourceArc<Stmt3>) -> Term<'a> {
    let (conn, stmt) = get!(env, pair(env, &conn, &stmt));
    match stmt.take_ahead() {
        Some(Ok(Some(values))) => return (atoms::row(), row(env, &mut values.iter().map(Value::as_cell))).encode(env),
        Some(Ok(None)) => return atoms::done().encode(env),
        Some(Err(error)) => {
            conn.note(&error);
            return Failed(error).encode(env);
        }
        None => {}
    }
    let stepped = conn.hot(|session| match session.step_hot(&stmt)? {
        Step::Row => {
            let fits = session.row(&stmt).map(size).sum::<usize>() <= HOT_BYTES;
            match fits {
                true => Some((atoms::row(), row(env, &mut session.row(&stmt))).encode(env)),
                false => {
                    stmt.reset_in(session);
                    None
                }
            }
        }
        Step::Done | Step::Busy => Some(atoms::done().encode(env)),
    });
    stepped.unwrap_or_else(|| atoms::cold().encode(env))
}

/// own thread: one step: `{row, row}`, `done` or `busy`; rows after it are read ahead.
#[rustler::nif]
fn sqlite3_step<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, stmt: ResourceArc<Stmt3>) -> Term<'a> {
    let (conn, stmt) = get!(env, pair(env, &conn, &stmt));
    on_conn(env, &conn, reference, move |env, session| match session.step(&stmt)? {
        Step::Row => {
            let first = (atoms::row(), row(env, &mut session.row(&stmt))).encode(env);
            session.read_ahead(&stmt);
            Ok(first)
        }
        Step::Done => Ok(atoms::done().encode(env)),
        Step::Busy => Ok(atoms::busy().encode(env)),
    })
}

/// own thread: `{rows, rows}`, `{done, rows}` or `busy`: so many rows at most, or as many as fill a page.
#[rustler::nif]
fn sqlite3_multi_step<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    stmt: ResourceArc<Stmt3>,
    rows_max: usize,
) -> Term<'a> {
    let (conn, stmt) = get!(env, pair(env, &conn, &stmt));
    on_conn(env, &conn, reference, move |env, session| page(env, session, &stmt, rows_max))
}

fn page<'a>(env: Env<'a>, session: &mut Session, stmt: &Stmt, rows_max: usize) -> Result<Term<'a>, Sqlite3Error> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    while rows.len() < rows_max && bytes < PAGE_BYTES {
        match stmt.take_ahead().transpose()? {
            Some(Some(values)) => {
                rows.push(row(env, &mut values.iter().map(Value::as_cell)));
                continue;
            }
            Some(None) => return Ok((atoms::done(), list_of(env, rows)).encode(env)),
            None => {}
        }
        match session.step(stmt)? {
            Step::Row => {
                let mut counted = |cell: Cell<'_>| bytes += size(cell);
                rows.push(row(env, &mut session.row(stmt).inspect(|cell| counted(*cell))));
            }
            Step::Done => return Ok((atoms::done(), list_of(env, rows)).encode(env)),
            Step::Busy => return Ok(atoms::busy().encode(env)),
        }
    }
    Ok((atoms::rows(), list_of(env, rows)).encode(env))
}

fn list_of<'a>(env: Env<'a>, rows: Vec<Term<'a>>) -> Term<'a> {
    backwards(env, rows.into_iter().rev())
}

fn size(found: Cell<'_>) -> usize {
    match found {
        Cell::Text(bytes) | Cell::Blob(bytes) => bytes.len() + 16,
        _ => 16,
    }
}

/// memory: let go of a statement.
#[rustler::nif]
fn sqlite3_release(stmt: ResourceArc<Stmt3>) -> Atom {
    if let Some(stmt) = stmt.0.take() {
        stmt.release();
        dispose(Box::new(stmt));
    }
    atoms::ok()
}

fn database_name(name: &str) -> Result<CString, Failed> {
    let invalid = |_| Failed(macula_sqlite::SqliteError::Invalid("a name holds a NUL byte".to_owned()).into());
    CString::new(name).map_err(invalid)
}

/// own thread: a database as bytes.
#[rustler::nif]
fn sqlite3_serialize<'a>(env: Env<'a>, conn: ResourceArc<Conn3>, reference: Term<'a>, name: &str) -> Term<'a> {
    let conn = get!(env, conn.get());
    let name = get!(env, database_name(name));
    on_conn(env, &conn, reference, move |env, session| {
        let bytes = session.serialize(&name);
        found(env, bytes.map(|bytes| cell(env, Cell::Blob(&bytes))))
    })
}

/// own thread: put bytes in place of a database, in memory; they are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite3_deserialize<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    name: &str,
    bytes: Binary<'a>,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let name = get!(env, database_name(name));
    let bytes = bytes.as_slice().to_vec();
    on_conn(env, &conn, reference, move |env, session| done(env, session.deserialize(&name, bytes)))
}

/// own thread: let extensions be loaded, or not.
#[rustler::nif]
fn sqlite3_enable_load_extension<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    on: bool,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    on_conn(env, &conn, reference, move |env, session| done(env, session.enable_load_extension(on)))
}

/// own thread: deny actions by their names; an unknown one is `{error, name}`.
#[rustler::nif]
fn sqlite3_set_authorizer<'a>(
    env: Env<'a>,
    conn: ResourceArc<Conn3>,
    reference: Term<'a>,
    names: Vec<String>,
) -> Term<'a> {
    let conn = get!(env, conn.get());
    let mut codes = Vec::with_capacity(names.len());
    for name in names {
        match action_code(&name) {
            Some(code) => codes.push(code),
            None => return (atoms::error(), (atoms::unknown_action(), name)).encode(env),
        }
    }
    on_conn(env, &conn, reference, move |env, session| {
        session.deny(codes);
        done(env, Ok(()))
    })
}
