//! Runs one request's SQL on a connection that is already in the right transaction.
//!
//! Invariant: a statement that writes is stepped to its end, so that what it returns is complete
//! work even when rows are left out; a read stops at its bound.

use crate::connection::Connection;
use crate::params::bind_positional;
use crate::Value;
use crate::{Cell, Mode, Params, Request, Rows, SqliteError};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Statement};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Longer SQL (bulk inserts written out) is not kept prepared.
const CACHED_SQL_LEN_MAX: usize = 8 << 10;

/// What the rows of a request take so far, those of its other statements included.
type Bytes = std::cell::Cell<u64>;

/// How a request turned out when a connection that must not write was asked.
pub(crate) enum Tried {
    Done(Result<Rows, SqliteError>),
    /// It writes, or may be several statements: the writer's business.
    ForWriter,
}

/// Run it if it only reads.
pub(crate) fn try_read(connection: &Connection, request: &Request) -> Tried {
    if !request.also.is_empty() {
        return Tried::ForWriter;
    }
    let several = request.mode == Mode::Execute && request.sql.contains(';');
    let run = |statement: &mut Statement<'_>| match statement.readonly() {
        true => Tried::Done(run_one(connection, statement, request, &Bytes::default())),
        false => Tried::ForWriter,
    };
    match with_prepared(connection, &request.sql, run) {
        Ok(tried) => tried,
        Err(_) if several => Tried::ForWriter,
        Err(error) => Tried::Done(refused(connection, request, error)),
    }
}

/// Run it, inside the writer's transaction.
pub(crate) fn run(connection: &Connection, request: &Request) -> Result<Rows, SqliteError> {
    let bytes = Bytes::default();
    let mut rows = run_first(connection, request, &bytes)?;
    for (sql, params) in &request.also {
        let next = Request { params: params.clone(), mode: request.mode, ..Request::execute(sql.as_str()) };
        rows.also.push(run_first(connection, &next, &bytes)?);
    }
    Ok(rows)
}

fn run_first(connection: &Connection, request: &Request, bytes: &Bytes) -> Result<Rows, SqliteError> {
    match with_prepared(connection, &request.sql, |statement| run_one(connection, statement, request, bytes)) {
        Ok(result) => result,
        Err(error) if request.mode == Mode::Query => refused(connection, request, error),
        Err(rusqlite::Error::Empty) => refused(connection, request, rusqlite::Error::Empty),
        Err(error) if !request.params.is_empty() => match error {
            rusqlite::Error::MultipleStatement => {
                Err(SqliteError::invalid("several statements take no parameters, send them one by one"))
            }
            error => Err(connection.explain(error)),
        },
        // several statements, of which a later one may need what an earlier one creates
        Err(_) => run_several(connection, request, bytes),
    }
}

fn refused(connection: &Connection, request: &Request, error: rusqlite::Error) -> Result<Rows, SqliteError> {
    match error {
        rusqlite::Error::Empty if request.mode == Mode::Execute && request.params.is_empty() => Ok(Rows::default()),
        rusqlite::Error::Empty => Err(SqliteError::invalid("no statement in the SQL text")),
        error => Err(connection.explain(error)),
    }
}

fn with_prepared<T>(
    connection: &Connection,
    sql: &str,
    act: impl FnOnce(&mut Statement<'_>) -> T,
) -> rusqlite::Result<T> {
    if sql.len() <= CACHED_SQL_LEN_MAX {
        return Ok(act(&mut *connection.sql.prepare_cached(sql)?));
    }
    // rusqlite's own way to find that there are several takes a frame of the stack for each
    let sql = terminated(sql);
    let mut batch = Batch::new(&connection.sql, &sql);
    let mut statement = batch.next()?.ok_or(rusqlite::Error::Empty)?;
    match batch.next()? {
        None => Ok(act(&mut statement)),
        Some(_) => Err(rusqlite::Error::MultipleStatement),
    }
}

/// With the NUL at its end that keeps SQLite from copying all that is left for each statement.
fn terminated(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len() + 1);
    text.push_str(sql);
    text.push('\0');
    text
}

fn run_several(connection: &Connection, request: &Request, bytes: &Bytes) -> Result<Rows, SqliteError> {
    // what the attempt to prepare it as one statement left behind is not this attempt's
    connection.policy.take_denied();
    let sql = terminated(&request.sql);
    let mut batch = Batch::new(&connection.sql, &sql);
    let mut changes = 0;
    let mut last_insert_rowid = 0;
    while let Some(mut statement) = batch.next().map_err(|error| connection.explain(error))? {
        let rows = run_one(connection, &mut statement, request, bytes)?;
        changes += rows.changes;
        last_insert_rowid = rows.last_insert_rowid;
    }
    Ok(Rows { changes, last_insert_rowid, ..Rows::default() })
}

fn run_one(
    connection: &Connection,
    statement: &mut Statement<'_>,
    request: &Request,
    bytes: &Bytes,
) -> Result<Rows, SqliteError> {
    if let Some(sink) = &request.sink {
        sink.begin();
    }
    if let Params::Many(sets) = &request.params {
        return run_many(connection, statement, sets);
    }
    request.params.bind(statement)?;
    let reads = statement.readonly();
    let changes_before = connection.sql.total_changes();
    let mut result = collect(connection, statement, request, bytes)?;
    if !reads {
        if connection.sql.total_changes() != changes_before {
            result.changes = connection.sql.changes();
        }
        result.last_insert_rowid = connection.sql.last_insert_rowid();
    }
    Ok(result)
}

/// Once for each set of values; rows are left out.
fn run_many(connection: &Connection, statement: &mut Statement<'_>, sets: &[Vec<Value>]) -> Result<Rows, SqliteError> {
    let changes_before = connection.sql.total_changes();
    let mut changes = 0;
    for set in sets {
        bind_positional(statement, set)?;
        let mut rows = statement.raw_query();
        while rows.next().map_err(|error| connection.explain(error))?.is_some() {}
        drop(rows);
        changes += connection.sql.changes();
    }
    if connection.sql.total_changes() == changes_before {
        changes = 0;
    }
    Ok(Rows { changes, last_insert_rowid: connection.sql.last_insert_rowid(), ..Rows::default() })
}

fn collect(
    connection: &Connection,
    statement: &mut Statement<'_>,
    request: &Request,
    bytes: &Bytes,
) -> Result<Rows, SqliteError> {
    let reads = statement.readonly();
    let mut result = Rows::default();
    let limit = connection.options.result_bytes_max;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(|error| connection.explain(error))? {
        if result.count >= request.rows_max {
            result.more = true;
            if reads {
                break;
            }
            continue;
        }
        result.count += 1;
        let width = row.as_ref().column_count();
        // an index within the row's width is always there
        let cell = |index| {
            let cell = row.get_ref(index).map_or(Cell::Null, Cell::from);
            bytes.set(bytes.get() + cell.size());
            cell
        };
        match &request.sink {
            Some(sink) => sink.row(&mut (0..width).map(cell)),
            None => result.rows.push((0..width).map(|index| cell(index).to_value()).collect()),
        }
        if bytes.get() > limit {
            return Err(SqliteError::TooLarge { what: "the result", limit });
        }
    }
    drop(rows);
    result.columns = column_names(statement)?;
    Ok(result)
}

/// Read after stepping, because a schema changed by others is noticed there.
fn column_names(statement: &Statement<'_>) -> Result<Vec<String>, SqliteError> {
    // rusqlite panics on a name that is not UTF-8, which only a file written elsewhere can hold
    let names = || statement.column_names().map(str::to_owned).collect();
    catch_unwind(AssertUnwindSafe(names)).map_err(|_| SqliteError::invalid("a column name is not UTF-8"))
}
