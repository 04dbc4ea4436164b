//! SQLite: every statement runs on the database's own threads.

use crate::atoms;
use crate::base::{on_app, AppHandle, OpenApp};
use crate::error::Failure;
use crate::handle::{dispose, Handle};
use crate::options::{list, machine_path, span};
use crate::runtime::owe;
use macula_core::{Cancel, Kind};
use macula_sqlite::sqlite3::Cell;
use macula_sqlite::{Database, Mode, Params, Request, Rows, SqliteError, Transaction, Value};
use macula_store::{refuse_destination, App};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, Resource, ResourceArc, Term, TermType};
use std::sync::Arc;
use std::time::Duration;

/// A connection: the app's database as it was when opened, so that a restore closes it.
pub struct ConnHandle(Handle<(Arc<Database>, OpenApp)>);

#[rustler::resource_impl]
impl Resource for ConnHandle {}

/// A transaction, rolled back by its owner's death.
pub struct SqlTxHandle {
    tx: Handle<Arc<Transaction>>,
    owner: Cancel,
}

#[rustler::resource_impl]
impl Resource for SqlTxHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.give_up();
    }
}

impl SqlTxHandle {
    fn give_up(&self) {
        self.owner.cancel();
        if let Some(tx) = self.tx.take() {
            dispose(Box::new(tx));
        }
    }
}

/// own thread: open an app's database.
#[rustler::nif]
fn sqlite_open<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>) -> Term<'a> {
    let Ok(open) = app.get() else { return Failure::outcome(Kind::Closed).encode(env) };
    on_app(env, &app, reference, |reply, app| {
        let database = app.sqlite();
        reply.send_result(database.map(|database| ResourceArc::new(ConnHandle(Handle::new((database, open))))));
    })
}

/// memory: close a connection; the database stays open for others.
#[rustler::nif]
fn sqlite_close(conn: ResourceArc<ConnHandle>) -> Atom {
    if let Some(inner) = conn.0.take() {
        dispose(Box::new(inner));
    }
    atoms::ok()
}

/// own thread: run SQL on a connection or in a transaction.
#[rustler::nif]
fn sqlite_run<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    sql: Binary<'a>,
    params: (Atom, Term<'a>),
    kind: Atom,
    timeout_ms: u64,
) -> Term<'a> {
    run(env, target, reference, sql, params, kind, timeout_ms)
}

/// own thread: as `sqlite_run`; large arguments are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite_run_large<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    sql: Binary<'a>,
    params: (Atom, Term<'a>),
    kind: Atom,
    timeout_ms: u64,
) -> Term<'a> {
    run(env, target, reference, sql, params, kind, timeout_ms)
}

fn run<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    sql: Binary<'a>,
    params: (Atom, Term<'a>),
    kind: Atom,
    timeout_ms: u64,
) -> Term<'a> {
    let request = match request(&sql, params, kind, timeout_ms) {
        Ok(request) => request,
        Err(failure) => return failure.encode(env),
    };
    let conn = target.decode::<ResourceArc<ConnHandle>>().map(|conn| conn.0.get());
    let tx = target.decode::<ResourceArc<SqlTxHandle>>().map(|tx| tx.tx.get());
    match (conn, tx) {
        (Ok(Ok((database, _))), _) => owe(env, reference, |reply| {
            let request = request.cancel(reply.call().cancel_token());
            database.submit(request, |rows| reply.send_result(rows.map(RowsTerm)))
        }),
        (_, Ok(Ok(tx))) => owe(env, reference, |reply| {
            let request = request.cancel(reply.call().cancel_token());
            tx.submit(request, |rows| reply.send_result(rows.map(RowsTerm)))
        }),
        (Ok(Err(failure)), _) | (_, Ok(Err(failure))) => failure.encode(env),
        (Err(_), Err(_)) => Failure::invalid("expected a connection or a transaction").encode(env),
    }
}

fn request(sql: &Binary, params: (Atom, Term), kind: Atom, timeout_ms: u64) -> Result<Request, Failure> {
    let sql = std::str::from_utf8(sql.as_slice()).map_err(|_| Failure::invalid("SQL is not UTF-8"))?;
    let (by, values) = (params.0, list(params.1)?);
    let params = if by == atoms::named() {
        let named = |term: Term| {
            let (name, value): (String, Term) = term.decode().map_err(|_| bad_param())?;
            Ok::<_, Failure>((name, decode_value(value)?))
        };
        Params::Named(values.into_iter().map(named).collect::<Result<_, _>>()?)
    } else {
        Params::Positional(values.into_iter().map(decode_value).collect::<Result<_, _>>()?)
    };
    let mut request = Request::execute(sql).params(params);
    if kind == atoms::query() {
        request.mode = Mode::Query;
    }
    request.deadline = span(timeout_ms);
    Ok(request)
}

/// own thread: the writer's turn.
#[rustler::nif]
fn sqlite_begin<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>, reference: Term<'a>, deadline_ms: u64) -> Term<'a> {
    let (database, _open) = match conn.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let pid = env.pid();
    owe(env, reference, |reply| {
        // the owner's death before its turn comes, and after
        let owner = reply.call().cancel_token();
        let begun = move |result: Result<Transaction, SqliteError>| {
            let owner = reply.call().cancel_token();
            let handle = result.map(|tx| {
                let handle = ResourceArc::new(SqlTxHandle { tx: Handle::new(Arc::new(tx)), owner });
                if handle.monitor(None, &pid).is_none() {
                    handle.give_up();
                }
                handle
            });
            reply.send_result(handle);
        };
        database.begin(Duration::from_millis(deadline_ms), owner, begun)
    })
}

/// own thread: make a transaction durable.
#[rustler::nif]
fn sqlite_commit<'a>(env: Env<'a>, tx: ResourceArc<SqlTxHandle>, reference: Term<'a>) -> Term<'a> {
    finish(env, &tx, reference, true)
}

/// own thread: undo a transaction.
#[rustler::nif]
fn sqlite_rollback<'a>(env: Env<'a>, tx: ResourceArc<SqlTxHandle>, reference: Term<'a>) -> Term<'a> {
    finish(env, &tx, reference, false)
}

fn finish<'a>(env: Env<'a>, tx: &SqlTxHandle, reference: Term<'a>, commit: bool) -> Term<'a> {
    let Some(tx) = tx.tx.take() else {
        return Failure::outcome(Kind::Closed).encode(env);
    };
    // held until the answer: dropping a transaction rolls it back
    let held = tx.clone();
    owe(env, reference, |reply| {
        let answer = move |result: Result<(), SqliteError>| {
            reply.send_done(result);
            dispose(Box::new(held));
        };
        if commit {
            tx.commit(answer)
        } else {
            tx.rollback(answer)
        }
    })
}

/// own thread: copy one instant of the database to a new file.
#[rustler::nif]
fn sqlite_backup<'a>(
    env: Env<'a>,
    conn: ResourceArc<ConnHandle>,
    reference: Term<'a>,
    dest: Binary<'a>,
    overwrite: bool,
) -> Term<'a> {
    let found = conn.0.get().and_then(|found| Ok((found, machine_path(&dest)?)));
    let ((database, open), dest) = match found {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let (lane, opened) = (open.app.name().to_string(), open.opened.clone());
    open.opened.runtime.long(env, reference, &lane, move |reply| {
        crate::archive::with_progress(reply, |task| {
            refuse_destination(opened.base.layout(), &dest)?;
            App::copy_database(&database, &dest, overwrite, task)
        });
    })
}

fn bad_param() -> Failure {
    Failure::invalid("a parameter is of a type that SQLite does not have")
}

/// A parameter.
pub fn decode_value(term: Term) -> Result<Value, Failure> {
    match term.get_type() {
        TermType::Integer => term.decode().map(Value::Integer).map_err(|_| bad_param()),
        TermType::Float => term.decode().map(Value::Real).map_err(|_| bad_param()),
        TermType::Binary => {
            let text: Binary = term.decode().map_err(|_| bad_param())?;
            Ok(Value::Text(text.as_slice().to_vec()))
        }
        TermType::Atom => Ok(Value::Null),
        _ => {
            let (_blob, bytes): (Atom, Binary) = term.decode().map_err(|_| bad_param())?;
            Ok(Value::Blob(bytes.as_slice().to_vec()))
        }
    }
}

/// `{columns, rows, changes, last_insert_rowid}`.
struct RowsTerm(Rows);

impl Encoder for RowsTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let rows: Vec<Vec<Term>> =
            self.0.rows.iter().map(|row| row.iter().map(|v| cell(env, v.as_cell())).collect()).collect();
        (&self.0.columns, rows, self.0.changes, self.0.last_insert_rowid).encode(env)
    }
}

/// A value of a row.
pub fn cell<'a>(env: Env<'a>, cell: Cell<'_>) -> Term<'a> {
    match cell {
        Cell::Null => atoms::nil().encode(env),
        Cell::Integer(integer) => integer.encode(env),
        // the BEAM has no infinite floats: handing one over would end the VM
        Cell::Real(real) if real.is_finite() => real.encode(env),
        Cell::Real(real) if real > 0.0 => atoms::infinity().encode(env),
        Cell::Real(_) => atoms::neg_infinity().encode(env),
        Cell::Text(bytes) | Cell::Blob(bytes) => Binary::from(NewBinary::from_slice(env, bytes)).encode(env),
    }
}
