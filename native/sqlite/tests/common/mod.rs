//! A fresh directory with a database in it, and short words for the tests.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it

use macula_core::{Cancel, Gate, SystemClock};
use macula_sqlite::{Database, Options, Params, Request, Rows, SqliteError, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub gate: Arc<Gate>,
    pub options: Options,
}

impl Fixture {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), gate: Arc::new(Gate::new()), options: Options::default() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub fn open(&self) -> Database {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Database, SqliteError> {
        Database::open(&self.path(), self.gate.clone(), Arc::new(SystemClock), self.options.clone())
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn exec(db: &Database, sql: &str) -> Rows {
    db.run(Request::execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub fn query(db: &Database, sql: &str) -> Vec<Vec<Value>> {
    db.run(Request::query(sql)).unwrap_or_else(|error| panic!("{sql}: {error}")).rows
}

pub fn int(db: &Database, sql: &str) -> i64 {
    match query(db, sql)[0][0] {
        Value::Integer(integer) => integer,
        ref other => panic!("{sql}: {other:?}"),
    }
}

pub fn error(db: &Database, request: Request) -> SqliteError {
    let sql = request.sql.clone();
    db.run(request).err().unwrap_or_else(|| panic!("succeeded: {sql}"))
}

pub fn insert(id: i64) -> Request {
    Request::execute("INSERT INTO t(id) VALUES (?)").params(Params::Positional(vec![Value::Integer(id)]))
}

pub fn begin(db: &Database) -> macula_sqlite::Transaction {
    db.transaction(Duration::from_secs(60), Cancel::new()).unwrap()
}

/// A statement that never ends.
pub const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
