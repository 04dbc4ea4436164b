//! A fresh directory with a database in it, and short words for the tests.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it

pub mod bridged;
pub mod low;
pub mod other;

use macula_core::{Cancel, Clock, Gate, SystemClock};
use macula_sqlite::{Database, Options, Params, Request, Rows, SqliteError, Value};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
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
        self.open_at(Arc::new(SystemClock))
    }

    pub fn open_at(&self, clock: Arc<dyn Clock>) -> Result<Database, SqliteError> {
        Database::open(&self.path(), self.gate.clone(), clock, self.options.clone())
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The system's clock, but for leaps that the test makes.
#[derive(Debug, Default)]
pub struct Leaping(AtomicU64);

impl Leaping {
    pub fn leap(&self, span: Duration) {
        self.0.fetch_add(span.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for Leaping {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, span: Duration) {
        SystemClock.sleep(span);
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

/// Commit, and wait for it.
pub fn commit(tx: &macula_sqlite::Transaction) -> Result<(), SqliteError> {
    let (answer, answered) = std::sync::mpsc::channel();
    tx.commit(move |result| answer.send(result).unwrap())?;
    answered.recv().unwrap()
}

pub fn begin(db: &Database) -> macula_sqlite::Transaction {
    db.transaction(Duration::from_secs(60), Cancel::new()).unwrap()
}

/// A statement that never ends.
pub const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
