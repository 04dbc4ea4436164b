//! What ends a call of the low-level floor before its time: an interrupt, a closing, another process's reset.
#![allow(clippy::unwrap_used)]

mod common;

use common::low::*;
use common::*;
use macula_core::Cancel;
use macula_sqlite::sqlite3::{Conn, Event, Sqlite3Error, Step, Wants};
use macula_sqlite::{Database, Value};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

/// As long as a stop may take, in a machine that does other things.
const SOON: Duration = Duration::from_secs(10);

fn with_table() -> (Fixture, Database, Arc<Conn>) {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)");
    let conn = open(&fixture.path());
    (fixture, db, conn)
}

fn insert_some(count: u32, value: &str) -> String {
    let numbers = format!("c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count})");
    format!("WITH RECURSIVE {numbers} INSERT INTO t SELECT n + 10, {value} FROM c")
}

/// It waited thirty seconds, and then wrote.
#[test]
fn an_interrupt_ends_a_wait_for_the_turn() {
    let (_fixture, db, conn) = with_table();
    let tx = begin(&db);
    let waiting = ask(&conn, &Cancel::new(), |session| session.execute("INSERT INTO t VALUES (1, 1)"));
    assert!(waiting.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
    conn.interrupt();
    assert_eq!(waiting.recv_timeout(SOON).unwrap(), Err(Sqlite3Error::Cancelled));
    commit(&tx).unwrap();
    execute(&conn, "INSERT INTO t VALUES (2, 1)").unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 2);
}

#[test]
fn closing_ends_a_wait_for_the_turn() {
    let (_fixture, db, conn) = with_table();
    let tx = begin(&db);
    let waiting = ask(&conn, &Cancel::new(), |session| session.execute("INSERT INTO t VALUES (1, 1)"));
    assert!(waiting.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
    close(&conn);
    waiting.recv_timeout(SOON).unwrap().unwrap_err();
    commit(&tx).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
}

/// As with SQLite itself: also what is between two steps is stopped, rows that were read ahead included.
#[test]
fn an_interrupt_ends_a_statement_that_has_rows_left() {
    let (_fixture, db, conn) = with_table();
    exec(&db, &insert_some(200, "1"));
    let stmt = prepare(&conn, "SELECT id FROM t");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    conn.interrupt();
    assert_eq!(step(&conn, &stmt).unwrap_err().to_string(), "interrupted");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row), "it begins anew");
    let ahead = stmt.clone();
    run(&conn, move |session| {
        session.read_ahead(&ahead);
        Ok(())
    })
    .unwrap();
    assert!(matches!(stmt.take_ahead(), Some(Ok(Some(_)))));
    conn.interrupt();
    assert_eq!(stmt.take_ahead(), Some(Err(Sqlite3Error::Cancelled)));
    assert_eq!(stmt.take_ahead(), None);
}

#[test]
fn an_interrupt_of_nothing_has_no_effect() {
    let (_fixture, db, conn) = with_table();
    for id in 0..200 {
        execute(&conn, format!("INSERT INTO t VALUES ({id}, 1)")).unwrap();
        conn.interrupt();
    }
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 200);
}

#[test]
fn a_statement_begun_anew_gives_no_rows_of_its_last_run() {
    let (_fixture, db, conn) = with_table();
    exec(&db, "INSERT INTO t VALUES (1, 1), (2, 1), (3, 1)");
    let stmt = prepare(&conn, "SELECT id FROM t");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    let ahead = stmt.clone();
    run(&conn, move |session| {
        session.read_ahead(&ahead);
        Ok(())
    })
    .unwrap();
    stmt.reset();
    assert_eq!(stmt.take_ahead(), None);
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
}

/// It committed, and synced, on the caller's thread: a scheduler of the VM.
#[test]
fn resetting_a_statement_that_wrote_commits_elsewhere() {
    let (_fixture, db, conn) = with_table();
    let (tell, told) = channel();
    run(&conn, move |session| {
        session.listen(move |event| match event {
            Event::Commit => tell.send(std::thread::current().id()).is_ok(),
            _ => true,
        })
    })
    .unwrap();
    let stmt = prepare(&conn, "INSERT INTO t VALUES (1, 1), (2, 1) RETURNING id");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    stmt.reset();
    assert_ne!(told.recv_timeout(SOON).unwrap(), std::thread::current().id());
    // the turn is back
    db.run(insert(3)).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 3);
}

/// The turn was given back with the transaction still open, and no write of the app went through any more.
#[test]
fn what_is_denied_does_not_keep_us_from_rolling_back() {
    let mut fixture = Fixture::new();
    fixture.options.transaction_idle_max = Duration::from_millis(100);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)");
    let conn = open(&fixture.path());
    execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1)").unwrap();
    run(&conn, |session| {
        session.deny(macula_sqlite::sqlite3::action_code("transaction"));
        Ok(())
    })
    .unwrap();
    db.run(insert(2).deadline(SOON)).unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 2);
}

/// It spun, with the app's turn.
#[test]
fn a_nul_in_a_text_is_refused() {
    let (_fixture, db, conn) = with_table();
    let error = execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1);\0x").unwrap_err();
    assert!(error.to_string().contains("NUL"), "{error}");
    run(&conn, |session| session.prepare("SELECT 1\0").map(drop)).unwrap_err();
    db.run(insert(2)).unwrap();
    for text in ["", ";", " ; -- nothing", "/* open", "INSERT INTO t VALUES (3, 1);;; -- more"] {
        execute(&conn, text).unwrap();
    }
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 5);
}

/// `:wal` was never told on an app's file, and elsewhere it took the place of what was set before.
#[test]
fn the_log_is_told_of_and_checkpointed_as_before() {
    let (fixture, db, conn) = with_table();
    let other = open(&fixture.dir.path().join("other.db"));
    execute(&other, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, n)")
        .unwrap();
    for conn in [&conn, &other] {
        let (tell, told) = channel();
        let wants = Wants { rows: false, log: true };
        let listener = move |event: Event<'_>| match event {
            Event::Log { pages, .. } => tell.send(pages).is_ok(),
            _ => true,
        };
        let id = run(conn, move |session| session.listen_as(wants, |_| listener)).unwrap();
        for n in 1..4 {
            execute(conn, format!("INSERT INTO t VALUES ({n}, 1)")).unwrap();
            assert!(told.recv_timeout(SOON).unwrap() > 0);
        }
        execute(conn, insert_some(1200, "zeroblob(4000)")).unwrap();
        assert!(told.recv_timeout(SOON).unwrap() > 1000, "SQLite's own bound is 1,000 pages");
        run(conn, move |session| {
            session.unlisten(id);
            Ok(())
        })
        .unwrap();
    }
    let bound = run(&other, |session| {
        let stmt = session.prepare("PRAGMA wal_autocheckpoint")?;
        session.step(&stmt)?;
        let bound = session.row(&stmt).next().map(|cell| cell.to_value());
        Ok(bound)
    });
    assert_eq!(bound, Ok(Some(Value::Integer(0))));
    let log = std::fs::metadata(fixture.dir.path().join("other.db-wal")).unwrap();
    assert!(log.len() > 1200 * 4096, "nobody checkpointed it");
    drop(db);
}

/// Its listeners were called after they were freed: by SQLite, which rolls back while it closes.
#[test]
fn closing_with_a_transaction_open_tells_its_rollback() {
    let (_fixture, db, conn) = with_table();
    let (_heard, _) = db.subscribe(None, true, |_| true).unwrap();
    for drops in [false, true] {
        let conn = if drops { open(db.path()) } else { conn.clone() };
        let (tell, told) = channel();
        let listener = move |event: Event<'_>| match event {
            Event::Rollback => tell.send(()).is_ok(),
            _ => true,
        };
        run(&conn, move |session| session.listen(listener)).unwrap();
        execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1)").unwrap();
        match drops {
            true => drop(conn),
            false => close(&conn),
        }
        told.recv_timeout(SOON).unwrap();
        db.run(insert(2)).unwrap();
        exec(&db, "DELETE FROM t");
    }
}

/// SQLite stops every statement while an interrupted one is there, the ROLLBACK that gives the turn back included.
#[test]
fn an_interrupt_does_not_keep_us_from_rolling_back() {
    let mut fixture = Fixture::new();
    fixture.options.transaction_idle_max = Duration::from_millis(1000);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 1), (2, 1)");
    let conn = open(&fixture.path());
    let stmt = prepare(&conn, "SELECT id FROM t");
    execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (3, 1)").unwrap();
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    run(&conn, |_| Ok(())).unwrap();
    conn.interrupt();
    db.run(insert(4).deadline(Duration::from_millis(1900))).unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 7);
}
