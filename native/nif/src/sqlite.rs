//! SQLite: every statement runs on the database's own threads.

mod care;
mod subscribe;

use crate::atoms;
use crate::base::{on_app, AppHandle, OpenApp};
use crate::error::Failure;
use crate::handle::{dispose, Handle};
use crate::options::{list, machine_path, span};
use crate::reply::{Built, Reply};
use crate::runtime::owe;
use macula_core::{Cancel, Kind};
use macula_sqlite::{Cell, Database, Mode, Owner, Params, Request, Rows, Sink, SqliteError, Transaction, Value};
use macula_store::{refuse_destination, App};
use parking_lot::Mutex;
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
    let target = match target_of(target) {
        Ok(target) => target,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let request = request.cancel(reply.call().cancel_token());
        let sink = TermSink::new(reply);
        let (request, answer) = (request.sink(sink.clone()), sink.clone());
        target.submit(request, move |rows| answer.send(rows)).inspect_err(|_| sink.forget())
    })
}

/// What runs SQL.
enum Target {
    Conn(Arc<Database>),
    Tx(Arc<Transaction>),
}

fn target_of(target: Term) -> Result<Target, Failure> {
    if let Ok(conn) = target.decode::<ResourceArc<ConnHandle>>() {
        return conn.0.get().map(|(database, _)| Target::Conn(database));
    }
    let tx = target.decode::<ResourceArc<SqlTxHandle>>();
    let tx = tx.map_err(|_| Failure::invalid("expected a connection or a transaction"))?;
    tx.tx.get().map(Target::Tx)
}

impl Target {
    fn submit(
        &self,
        request: Request,
        answer: impl FnOnce(Result<Rows, SqliteError>) + Send + 'static,
    ) -> Result<(), SqliteError> {
        match self {
            Self::Conn(database) => database.submit(request, answer),
            Self::Tx(tx) => tx.submit(request, answer),
        }
    }
}

/// memory: a short read, answered from memory; else `cold`.
#[rustler::nif]
fn sqlite_query_hot<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>, sql: Binary<'a>, values: Term<'a>) -> Term<'a> {
    let values = list(values).and_then(|values| values.into_iter().map(decode_value).collect::<Result<Vec<_>, _>>());
    let found = values.and_then(|values| Ok((values, sql_text(&sql)?, conn.0.get()?)));
    let (values, sql, (database, _open)) = match found {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let mut rows = Vec::new();
    match database.query_hot(sql, &values, |cells| rows.push(row(env, cells))) {
        Some(found) => (atoms::ok(), (found.columns, rows, found.changes, found.last_insert_rowid)).encode(env),
        None => atoms::cold().encode(env),
    }
}

/// own thread: run one statement once for each list of values; they are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite_run_many<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    sql: Binary<'a>,
    sets: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let decode = |set: Term| list(set)?.into_iter().map(decode_value).collect::<Result<Vec<_>, Failure>>();
    let sets = list(sets).and_then(|sets| sets.into_iter().map(decode).collect::<Result<Vec<_>, _>>());
    let found = sets.and_then(|sets| Ok((sets, sql_text(&sql)?.to_owned(), target_of(target)?)));
    let (sets, sql, target) = match found {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let mut request = Request::query(sql).params(Params::Many(sets)).cancel(reply.call().cancel_token());
        request.deadline = span(timeout_ms);
        target.submit(request, |rows| reply.send_result(rows.map(RowsTerm)))
    })
}

/// own thread: run statements as one transaction; arguments are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn sqlite_batch<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    statements: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let decode = |statement: Term| {
        let (sql, values): (Binary, (Atom, Term)) = statement.decode().map_err(|_| bad_param())?;
        Ok::<_, Failure>((sql_text(&sql)?.to_owned(), params(values)?))
    };
    let statements = list(statements).and_then(|all| all.into_iter().map(decode).collect::<Result<Vec<_>, _>>());
    let found = statements.and_then(|statements| Ok((statements, target_of(target)?)));
    let (mut statements, target) = match found {
        Ok((statements, _)) if statements.is_empty() => return Failure::invalid("no statement").encode(env),
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let (sql, first) = statements.remove(0);
    owe(env, reference, |reply| {
        let request = Request::query(sql).params(first).also(statements).cancel(reply.call().cancel_token());
        let request = Request { deadline: span(timeout_ms), ..request };
        target.submit(request, |rows| {
            reply.send_result(rows.map(|mut first| {
                let also = std::mem::take(&mut first.also);
                std::iter::once(first).chain(also).map(RowsTerm).collect::<Vec<_>>()
            }));
        })
    })
}

fn sql_text<'a>(sql: &'a Binary) -> Result<&'a str, Failure> {
    std::str::from_utf8(sql.as_slice()).map_err(|_| Failure::invalid("SQL is not UTF-8"))
}

fn params(params: (Atom, Term)) -> Result<Params, Failure> {
    let (by, values) = (params.0, list(params.1)?);
    Ok(if by == atoms::named() {
        let named = |term: Term| {
            let (name, value): (String, Term) = term.decode().map_err(|_| bad_param())?;
            Ok::<_, Failure>((name, decode_value(value)?))
        };
        Params::Named(values.into_iter().map(named).collect::<Result<_, _>>()?)
    } else {
        Params::Positional(values.into_iter().map(decode_value).collect::<Result<_, _>>()?)
    })
}

fn request(sql: &Binary, values: (Atom, Term), kind: Atom, timeout_ms: u64) -> Result<Request, Failure> {
    let mut request = Request::execute(sql_text(sql)?).params(params(values)?);
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
        let gone = reply.call().cancel_token();
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
        let owner = Owner { gone, who: Some(Arc::new(pid)) };
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

/// Rows that become terms as they come, off the schedulers, and the reply that carries them.
pub struct TermSink(Mutex<Collected>);

struct Collected {
    reply: Option<Reply>,
    /// Lists in the reply's environment.
    rows: Vec<Built>,
}

impl Sink for TermSink {
    fn begin(&self) {
        self.0.lock().rows.clear();
    }

    fn row(&self, cells: &mut dyn DoubleEndedIterator<Item = Cell<'_>>) {
        let mut collected = self.0.lock();
        let Collected { reply, rows } = &mut *collected;
        rows.extend(reply.as_ref().and_then(|reply| reply.build(|env| row(env, cells))));
    }
}

impl TermSink {
    /// Takes the reply; [`TermSink::send`] sends it.
    pub fn new(reply: Reply) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Collected { reply: Some(reply), rows: Vec::new() })))
    }

    fn send(&self, result: Result<Rows, SqliteError>) {
        let mut collected = self.0.lock();
        let rows = std::mem::take(&mut collected.rows);
        let Some(reply) = collected.reply.take() else { return };
        drop(collected);
        reply.send(|env| match result {
            Err(error) => Failure::from(error).encode(env),
            Ok(result) => {
                let rows = backwards(env, rows.iter().rev().map(|row| row.load(env)));
                (atoms::ok(), (result.columns, rows, result.changes, result.last_insert_rowid)).encode(env)
            }
        });
    }

    /// The engine did not take the request: its refusal is the call's own answer.
    fn forget(&self) {
        drop(self.0.lock().reply.take());
    }
}

/// `{columns, rows, changes, last_insert_rowid}` of rows that were copied.
struct RowsTerm(Rows);

impl Encoder for RowsTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let rows: Vec<Term> =
            self.0.rows.iter().map(|values| row(env, &mut values.iter().map(Value::as_cell))).collect();
        (&self.0.columns, rows, self.0.changes, self.0.last_insert_rowid).encode(env)
    }
}

/// A row as a list.
pub fn row<'a, 'c>(env: Env<'a>, cells: &mut dyn DoubleEndedIterator<Item = Cell<'c>>) -> Term<'a> {
    backwards(env, std::iter::from_fn(|| cells.next_back()).map(|found| cell(env, found)))
}

/// A list of which the last element comes first: no array is made of it on the way.
pub fn backwards<'a>(env: Env<'a>, elements: impl Iterator<Item = Term<'a>>) -> Term<'a> {
    elements.fold(Term::list_new_empty(env), |rest, element| rest.list_prepend(element))
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
