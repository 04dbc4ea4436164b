//! Calls of the low-level floor, from a test's thread.

use macula_core::{Cancel, SystemClock};
use macula_sqlite::sqlite3::{Conn, OpenMode, Session, Sqlite3Error, Step, Stmt};
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

pub fn open(path: &Path) -> Arc<Conn> {
    try_open(path.to_str().unwrap().to_owned()).unwrap()
}

pub fn try_open(path: String) -> Result<Arc<Conn>, Sqlite3Error> {
    let (answer, answered) = channel();
    let mode = OpenMode { write: true, create: true };
    Conn::open(path, mode, Arc::new(SystemClock), move |result| answer.send(result).unwrap()).unwrap();
    answered.recv().unwrap()
}

/// Close, and wait for it.
pub fn close(conn: &Conn) {
    let (done, is_done) = channel();
    conn.close(move || done.send(()).unwrap()).unwrap();
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
}

pub type Answer<T> = Receiver<Result<T, Sqlite3Error>>;

/// Begin a job; its answer comes.
pub fn ask<T: Send + 'static>(
    conn: &Conn,
    cancel: &Cancel,
    job: impl FnOnce(&mut Session) -> Result<T, Sqlite3Error> + Send + 'static,
) -> Answer<T> {
    let (answer, answered) = channel();
    let job = move |session: Result<&mut Session, Sqlite3Error>| {
        let _ = answer.send(session.and_then(|session| {
            let done = job(session);
            session.finish();
            done
        }));
    };
    conn.run(cancel.clone(), Box::new(job)).unwrap();
    answered
}

pub fn run<T: Send + 'static>(
    conn: &Conn,
    job: impl FnOnce(&mut Session) -> Result<T, Sqlite3Error> + Send + 'static,
) -> Result<T, Sqlite3Error> {
    ask(conn, &Cancel::new(), job).recv().unwrap()
}

pub fn execute(conn: &Conn, sql: impl Into<String>) -> Result<(), Sqlite3Error> {
    let sql = sql.into();
    run(conn, move |session| session.execute(&sql))
}

pub fn prepare(conn: &Conn, sql: &str) -> Arc<Stmt> {
    let sql = sql.to_owned();
    Arc::new(run(conn, move |session| session.prepare(&sql)).unwrap())
}

pub fn step(conn: &Conn, stmt: &Arc<Stmt>) -> Result<Step, Sqlite3Error> {
    let stmt = stmt.clone();
    run(conn, move |session| session.step(&stmt))
}
