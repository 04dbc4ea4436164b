//! The low-level floor: connections beside an app's database, what waits, what ends.
#![allow(clippy::unwrap_used)]

mod common;

use common::low::*;
use common::*;
use macula_core::{Cancel, Clock, SystemClock};
use macula_sqlite::sqlite3::{Sqlite3Error, Step};
use macula_sqlite::{Request, Value};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

/// A thousand rows of a number `n`.
const NUMBERS: &str =
    "FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000) SELECT n FROM c)";

fn with_table() -> (Fixture, macula_sqlite::Database) {
    let mut fixture = Fixture::new();
    fixture.options.transaction_idle_max = Duration::from_millis(200);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)");
    (fixture, db)
}

#[test]
fn connections_and_the_app_take_turns_without_a_busy() {
    let (fixture, db) = with_table();
    let path = fixture.path();
    std::thread::scope(|scope| {
        for writer in 0..6_i64 {
            let path = &path;
            scope.spawn(move || {
                let conn = open(path);
                for n in 0..50 {
                    let (one, two) = (1000 * writer + 2 * n, 1000 * writer + 2 * n + 1);
                    match writer % 2 {
                        0 => execute(&conn, format!("INSERT INTO t VALUES ({one}, 1), ({two}, 1)")).unwrap(),
                        _ => {
                            execute(&conn, "BEGIN IMMEDIATE").unwrap();
                            execute(&conn, format!("INSERT INTO t VALUES ({one}, 1)")).unwrap();
                            execute(&conn, format!("INSERT INTO t VALUES ({two}, 1)")).unwrap();
                            execute(&conn, "COMMIT").unwrap();
                        }
                    }
                }
            });
        }
        for writer in 10..14_i64 {
            let db = &db;
            scope.spawn(move || {
                for n in 0..100 {
                    db.run(insert(1000 * writer + n)).unwrap();
                }
            });
        }
    });
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1000);
    assert_eq!(int(&db, "SELECT count(*) FROM t WHERE n = 1"), 600);
    db.check(&Cancel::new()).unwrap();
}

#[test]
fn an_idle_holder_loses_its_transaction_and_is_told() {
    let (fixture, db) = with_table();
    let conn = open(&fixture.path());
    execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1)").unwrap();
    assert!(conn.facts().2, "a transaction is open");
    db.run(insert(2)).unwrap();
    assert!(matches!(execute(&conn, "COMMIT"), Err(Sqlite3Error::Undone("it was idle"))));
    execute(&conn, "INSERT INTO t VALUES (3, 1)").unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 5);
    // rows that a statement still has to give hold the turn as well; by itself, it is committed all the same
    let stmt = prepare(&conn, "INSERT INTO t VALUES (4, 1), (5, 1) RETURNING id");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    db.run(insert(6)).unwrap();
    assert_eq!(step(&conn, &stmt), Err(Sqlite3Error::Ended("it was idle")));
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 20);
}

#[test]
fn closing_the_app_takes_the_turn_back() {
    let (fixture, db) = with_table();
    let conn = open(&fixture.path());
    execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1)").unwrap();
    db.close();
    assert!(matches!(execute(&conn, "COMMIT"), Err(Sqlite3Error::Undone(_))));
    // what it wrote after a restore went into a file that was removed, acknowledged
    assert_eq!(execute(&conn, "INSERT INTO t VALUES (2, 1)"), Err(Sqlite3Error::Closed));
    assert_eq!(execute(&conn, "SELECT * FROM t"), Err(Sqlite3Error::Closed));
    drop(conn);
    // opened anew, nobody's app: as any file
    execute(&open(&fixture.path()), "INSERT INTO t VALUES (3, 1)").unwrap();
    assert_eq!(int(&fixture.open(), "SELECT sum(id) FROM t"), 3);
}

#[test]
fn a_connection_that_goes_gives_the_turn_back() {
    let (fixture, db) = with_table();
    for close in [false, true] {
        let conn = open(&fixture.path());
        execute(&conn, "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 1)").unwrap();
        if close {
            let (done, is_done) = channel();
            conn.close(move || done.send(()).unwrap()).unwrap();
            is_done.recv().unwrap();
            assert_eq!(conn.run(Cancel::new(), Box::new(|_| ())), Err(Sqlite3Error::Closed));
        }
        drop(conn);
        db.run(Request::execute("DELETE FROM t WHERE id = 1").deadline(Duration::from_secs(5))).unwrap();
    }
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
}

#[test]
fn a_wait_for_the_turn_can_be_given_up() {
    let (fixture, db) = with_table();
    let tx = begin(&db);
    tx.run(insert(1)).unwrap();
    let conn = open(&fixture.path());
    let cancel = Cancel::new();
    let waiting = ask(&conn, &cancel, |session| session.execute("INSERT INTO t VALUES (2, 1)"));
    assert!(waiting.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
    cancel.cancel();
    assert_eq!(waiting.recv().unwrap(), Err(Sqlite3Error::Cancelled));
    commit(&tx).unwrap();
    execute(&conn, "INSERT INTO t VALUES (3, 1)").unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 4);
}

#[test]
fn a_commit_waits_at_the_apps_gate() {
    let (fixture, db) = with_table();
    let conn = open(&fixture.path());
    let closed = fixture.gate.close();
    let committing = ask(&conn, &Cancel::new(), |session| session.execute("INSERT INTO t VALUES (1, 1)"));
    assert!(committing.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
    drop(closed);
    committing.recv().unwrap().unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
    drop(fixture.gate.close());
}

/// The log is checkpointed by the app's writer, whose history it is.
#[test]
fn the_log_of_an_apps_file_is_the_apps_business() {
    let (fixture, db) = with_table();
    let conn = open(&fixture.path());
    for sql in ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode=DELETE", "PRAGMA wal_autocheckpoint=10"] {
        let error = execute(&conn, sql).unwrap_err();
        assert!(error.to_string().contains("not authorized"), "{sql}: {error}");
    }
    execute(&conn, "PRAGMA journal_mode").unwrap();
    db.close();
    execute(&open(&fixture.path()), "PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[test]
fn what_memory_cannot_answer_at_once_is_declined() {
    let (fixture, db) = with_table();
    exec(&db, &format!("INSERT INTO t(id) SELECT n {NUMBERS}"));
    drop(db);
    let conn = open(&fixture.path());
    let hot = |sql: &str| {
        let stmt = prepare(&conn, sql);
        // who prepared it has answered, and may hold the session for a moment longer
        while conn.hot(|_| Some(())).is_none() {
            std::thread::yield_now();
        }
        let stepped = conn.hot(|session| session.step_hot(&stmt));
        (stepped, step(&conn, &stmt))
    };
    assert_eq!(hot("SELECT n FROM t WHERE id = 500"), (Some(Step::Row), Ok(Step::Done)));
    // longer than a scheduler may be held; begun again, it gives its first row
    assert_eq!(hot("SELECT count(*) FROM t a, t b"), (None, Ok(Step::Row)));
    for sql in ["INSERT INTO t VALUES (2000, 1)", "BEGIN IMMEDIATE", "COMMIT", "PRAGMA user_version = 3"] {
        assert_eq!(hot(sql), (None, Ok(Step::Done)), "{sql}");
    }
    // somebody works on it
    let (go_on, held) = channel::<()>();
    let (begun, begins) = channel();
    let working = ask(&conn, &Cancel::new(), move |_| {
        begun.send(()).unwrap();
        held.recv().unwrap();
        Ok(())
    });
    begins.recv().unwrap();
    assert_eq!(conn.hot(|_| Some(())), None);
    go_on.send(()).unwrap();
    working.recv().unwrap().unwrap();
}

#[test]
fn what_runs_is_interrupted_by_anybody_and_by_close() {
    let fixture = Fixture::new();
    let conn = open(&fixture.path());
    let endless = || ask(&conn, &Cancel::new(), |session| session.execute(ENDLESS));
    let running = endless();
    let interrupted = || {
        conn.interrupt();
        running.recv_timeout(Duration::from_millis(1)).ok()
    };
    let error = std::iter::repeat_with(interrupted).flatten().next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    execute(&conn, "CREATE TABLE t(id)").unwrap();
    let (running, waiting) = (endless(), endless());
    let (done, is_done) = channel();
    conn.close(move || done.send(()).unwrap()).unwrap();
    is_done.recv().unwrap();
    assert!(running.recv().unwrap().is_err());
    assert_eq!(waiting.recv().unwrap(), Err(Sqlite3Error::Closed));
    assert_eq!(fixture.names(), ["app.db"]);
}

#[test]
fn a_panic_closes_the_connection_and_nothing_else() {
    let fixture = Fixture::new();
    let conn = open(&fixture.path());
    let job: macula_sqlite::sqlite3::Job = Box::new(|_| panic!("on purpose"));
    conn.run(Cancel::new(), job).unwrap();
    let begun = SystemClock.monotonic();
    while !conn.is_closed() {
        assert!(SystemClock.monotonic() - begun < Duration::from_secs(10));
        std::thread::yield_now();
    }
    let other = open(&fixture.path());
    execute(&other, "CREATE TABLE t(id)").unwrap();
}

/// A statement was finalized by whoever dropped it, who waited for the query that ran.
#[test]
fn dropping_a_statement_waits_for_nobody() {
    let fixture = Fixture::new();
    let conn = open(&fixture.path());
    execute(&conn, "CREATE TABLE t(id); INSERT INTO t VALUES (1), (2)").unwrap();
    let stmt = prepare(&conn, "SELECT * FROM t");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    let cancel = Cancel::new();
    let running = ask(&conn, &cancel, |session| session.execute(ENDLESS));
    drop(Arc::into_inner(stmt).unwrap());
    cancel.cancel();
    assert!(running.recv().unwrap().is_err());
    // its snapshot is gone with it: the table can be dropped
    execute(&conn, "DROP TABLE t").unwrap();
}

/// Its changes were committed, and synced, by whoever dropped it: on a scheduler of the VM.
#[test]
fn dropping_a_statement_that_wrote_commits_elsewhere() {
    let fixture = Fixture::new();
    let conn = open(&fixture.path());
    execute(&conn, "CREATE TABLE t(id)").unwrap();
    let (tell, told) = channel();
    run(&conn, move |session| {
        session.listen(move |event| match event {
            macula_sqlite::sqlite3::Event::Commit => tell.send(std::thread::current().id()).is_ok(),
            _ => true,
        })
    })
    .unwrap();
    let stmt = prepare(&conn, "INSERT INTO t VALUES (1), (2) RETURNING id");
    assert_eq!(step(&conn, &stmt), Ok(Step::Row));
    drop(Arc::into_inner(stmt).unwrap());
    assert_ne!(told.recv_timeout(Duration::from_secs(10)).unwrap(), std::thread::current().id());
    execute(&conn, "DROP TABLE t").unwrap();
}

#[test]
fn binding_and_reading_ahead() {
    let fixture = Fixture::new();
    let conn = open(&fixture.path());
    let stmt = prepare(&conn, &format!("SELECT n * ?1 {NUMBERS} LIMIT 200"));
    assert_eq!(stmt.info().param_names, [Some("?1".to_owned())]);
    assert!(stmt.bind(2, Value::Null).is_err() && stmt.bind(0, Value::Null).is_err());
    let mut found = Vec::new();
    stmt.bind_all(vec![Value::Integer(3)]);
    loop {
        let cloned = stmt.clone();
        let row = run(&conn, move |session| match session.step(&cloned)? {
            Step::Row => {
                let row: Vec<Value> = session.row(&cloned).map(|cell| cell.to_value()).collect();
                session.read_ahead(&cloned);
                Ok(Some(row))
            }
            _ => Ok(None),
        });
        let Some(row) = row.unwrap() else { break };
        found.push(row);
        while let Some(ahead) = stmt.take_ahead() {
            let Some(row) = ahead.unwrap() else { break };
            found.push(row);
        }
        if found.len() == 200 {
            break;
        }
    }
    let expected: Vec<_> = (1..=200).map(|n| vec![Value::Integer(3 * n)]).collect();
    assert_eq!(found, expected);
    stmt.reset();
    assert!(stmt.take_ahead().is_none());
    assert_eq!(step(&conn, &stmt), Ok(Step::Row), "what is bound stays");
    stmt.release();
    assert_eq!(step(&conn, &stmt), Err(Sqlite3Error::NoStatement));
    assert_eq!(step(&conn, &prepare(&conn, " -- nothing")), Err(Sqlite3Error::NoStatement));
}
