//! The low-level floor: copies of databases in use, blobs in pieces, checkpoints, and why calls failed.
#![allow(clippy::unwrap_used)]

mod common;

use common::low::*;
use common::*;
use macula_core::{Cancel, Task};
use macula_sqlite::sqlite3::{BlobPlace, CheckpointMode, Conn, Sqlite3Error};
use macula_sqlite::{Request, SqliteError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

fn memory() -> Arc<Conn> {
    open(Path::new(":memory:"))
}

/// The one number that a query gives.
fn number(conn: &Conn, sql: &str) -> i64 {
    let sql = sql.to_owned();
    run(conn, move |session| {
        let stmt = session.prepare(&sql)?;
        session.step(&stmt)?;
        let found = match session.row(&stmt).next() {
            Some(macula_sqlite::Cell::Integer(found)) => found,
            other => panic!("{other:?}"),
        };
        Ok(found)
    })
    .unwrap()
}

const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, b);
    INSERT INTO t SELECT n, zeroblob(3000) FROM
      (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000) SELECT n FROM c)";

#[test]
fn a_copy_is_of_one_instant_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("a.db"), dir.path().join("copy.db"));
    let conn = open(&path);
    execute(&conn, format!("PRAGMA journal_mode=WAL; {ROWS}")).unwrap();
    let (reports, writer) = (Arc::new(AtomicU64::new(0)), open(&path));
    let seen = reports.clone();
    let task = Task::new(Cancel::new(), move |progress| {
        seen.fetch_add(1, Ordering::Relaxed);
        assert!(progress.bytes_done <= progress.bytes_total && progress.bytes_total > 6_000_000);
        // between two steps, others write; through the same file, which makes the copy begin anew elsewhere
        execute(&writer, "INSERT INTO t(b) VALUES (1)").unwrap();
    });
    conn.copy_to_file(&dest, &task).unwrap();
    assert!(reports.load(Ordering::Relaxed) > 5);
    assert!(number(&conn, "SELECT count(*) FROM t") > 2005);
    let copy = open(&dest);
    assert_eq!(number(&copy, "SELECT count(*) FROM t"), 2000);
    assert!(matches!(conn.copy_to_file(&dest, &Task::quiet()), Err(Sqlite3Error::Database(SqliteError::Exists(_)))));
    // in the place of what is there, which somebody has open
    conn.copy_over_file(dest.to_str().unwrap(), &Task::quiet()).unwrap();
    assert!(number(&copy, "SELECT count(*) FROM t") > 2005);
}

#[test]
fn memory_is_copied_both_ways_and_its_calls_go_on() {
    let (source, dest) = (memory(), memory());
    execute(&source, ROWS).unwrap();
    execute(&dest, "CREATE TABLE other(x)").unwrap();
    let from = source.clone();
    run(&dest, move |session| session.fill_from(&from, &Task::quiet())).unwrap();
    assert_eq!(number(&dest, "SELECT count(*) FROM t"), 2000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.db");
    let own = source.clone();
    let task = Task::new(Cancel::new(), move |_| execute(&own, "UPDATE t SET b = 2 WHERE id = 1").unwrap());
    source.copy_to_file(&file, &task).unwrap();
    let path = file.to_str().unwrap().to_owned();
    execute(&dest, "DELETE FROM t").unwrap();
    run(&dest, move |session| session.restore(&path, &Task::quiet())).unwrap();
    assert_eq!(number(&dest, "SELECT count(*) FROM t"), 2000);
    assert_eq!(number(&dest, "SELECT b FROM t WHERE id = 1"), 2);
    // into itself, and while it is in use
    let own = dest.clone();
    assert!(run(&dest, move |session| session.fill_from(&own, &Task::quiet())).is_err());
}

#[test]
fn a_copy_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let conn = open(&dir.path().join("a.db"));
    execute(&conn, ROWS).unwrap();
    let (cancel, dest) = (Cancel::new(), dir.path().join("copy.db"));
    let stop = cancel.clone();
    let task = Task::new(cancel, move |_| stop.cancel());
    assert_eq!(conn.copy_to_file(&dest, &task), Err(Sqlite3Error::Cancelled));
    assert!(!dest.exists());
    // its source is closed in the middle: by then, and not later, the copy has let go of both
    for round in 0..2 {
        let source = if round == 0 { conn.clone() } else { memory() };
        if round == 1 {
            execute(&source, ROWS).unwrap();
        }
        let closing = source.clone();
        let task = Task::new(Cancel::new(), move |_| closing.close(|| ()).unwrap());
        assert_eq!(source.copy_to_file(&dest, &task), Err(Sqlite3Error::Closed));
        assert!(!dest.exists());
    }
}

#[test]
fn two_that_are_copied_into_each_other_do_not_wait_for_ever() {
    let (one, two) = (memory(), memory());
    execute(&one, ROWS).unwrap();
    execute(&two, ROWS).unwrap();
    let start = |source: &Arc<Conn>, dest: &Arc<Conn>| {
        let source = source.clone();
        ask(dest, &Cancel::new(), move |session| session.fill_from(&source, &Task::quiet()))
    };
    for _ in 0..20 {
        let (there, back) = (start(&one, &two), start(&two, &one));
        for answer in [there, back] {
            match answer.recv_timeout(Duration::from_secs(20)).unwrap() {
                Ok(()) => {}
                Err(error) => assert!(error.is_busy(), "{error:?}"),
            }
        }
    }
    assert_eq!(number(&one, "SELECT count(*) FROM t"), 2000);
}

#[test]
fn an_apps_file_is_copied_and_never_replaced() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)");
    let conn = open(&fixture.path());
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("copy.db");
    conn.copy_to_file(&dest, &Task::quiet()).unwrap();
    let (app, copy) = (fixture.path(), open(&dest));
    let replace = copy.copy_over_file(app.to_str().unwrap(), &Task::quiet()).unwrap_err();
    assert!(replace.to_string().contains("restore the app"), "{replace}");
    let restore = run(&conn, move |session| session.restore(dest.to_str().unwrap(), &Task::quiet()));
    assert!(restore.unwrap_err().to_string().contains("restore the app"));
    let refused = run(&conn, |session| session.checkpoint(CheckpointMode::Truncate)).unwrap_err();
    assert!(refused.to_string().contains("app's own writer"), "{refused}");
    db.run(insert(1)).unwrap();
}

#[test]
fn checkpoints_tell_how_far_they_went() {
    let dir = tempfile::tempdir().unwrap();
    let conn = open(&dir.path().join("a.db"));
    execute(&conn, "CREATE TABLE t(x)").unwrap();
    assert_eq!(run(&conn, |session| session.checkpoint(CheckpointMode::Passive)), Ok(None));
    execute(&conn, "PRAGMA journal_mode=WAL; INSERT INTO t VALUES (1)").unwrap();
    let (log, done) = run(&conn, |session| session.checkpoint(CheckpointMode::Full)).unwrap().unwrap();
    assert!(log > 0 && log == done);
    assert_eq!(run(&conn, |session| session.checkpoint(CheckpointMode::Truncate)), Ok(Some((0, 0))));
}

fn place() -> BlobPlace {
    BlobPlace { database: "main".into(), table: "t".into(), column: "b".into() }
}

#[test]
fn a_blob_is_read_and_written_in_pieces() {
    let conn = memory();
    execute(&conn, "CREATE TABLE t(b); INSERT INTO t VALUES (zeroblob(10)), ('text'), (7)").unwrap();
    let blob = run(&conn, |session| session.open_blob(&place(), 1, true)).unwrap();
    assert_eq!(blob.len(), 10);
    let read = |blob: &Arc<macula_sqlite::sqlite3::Blob>, offset, len| {
        let blob = blob.clone();
        run(&conn, move |session| {
            let mut bytes = vec![9; len];
            session.read_blob(&blob, offset, &mut bytes).map(|()| bytes)
        })
    };
    let blob = Arc::new(blob);
    let writing = blob.clone();
    run(&conn, move |session| session.write_blob(&writing, 3, b"abc")).unwrap();
    assert_eq!(read(&blob, 2, 5).unwrap(), b"\0abc\0");
    assert_eq!(read(&blob, 10, 0).unwrap(), b"");
    for (offset, len) in [(0, 11), (10, 1), (u64::MAX, 1), (1 << 40, 0)] {
        let error = read(&blob, offset, len).unwrap_err();
        assert!(error.to_string().contains("outside of the blob"), "{error}");
    }
    let again = blob.clone();
    run(&conn, move |session| session.reopen_blob(&again, 2)).unwrap();
    assert_eq!(read(&blob, 0, 4).unwrap(), b"text");
    // what changes beneath it ends it
    execute(&conn, "UPDATE t SET b = 'other' WHERE rowid = 2").unwrap();
    assert!(read(&blob, 0, 1).unwrap_err().to_string().contains("the row was changed"));
    let ended = blob.clone();
    run(&conn, move |session| session.end_blob(&ended)).unwrap();
    assert_eq!(read(&blob, 0, 0), Err(Sqlite3Error::NoStatement));
    for (rowid, wrong) in [(3, "cannot open value of type integer"), (9, "no such rowid: 9")] {
        let error = run(&conn, move |session| session.open_blob(&place(), rowid, false)).unwrap_err();
        assert_eq!(error.to_string(), wrong);
    }
    // dropped, it is closed by whoever works on the connection next: the table can be dropped
    let left = run(&conn, |session| session.open_blob(&place(), 1, false)).unwrap();
    drop(left);
    drop(blob);
    execute(&conn, "DROP TABLE t").unwrap();
}

#[test]
fn a_blob_that_writes_to_an_apps_file_has_the_turn_until_it_is_closed() {
    let mut fixture = Fixture::new();
    fixture.options.transaction_idle_max = Duration::from_millis(300);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, zeroblob(4))");
    let conn = open(&fixture.path());
    let blob = Arc::new(run(&conn, |session| session.open_blob(&place(), 1, true)).unwrap());
    let writing = blob.clone();
    run(&conn, move |session| session.write_blob(&writing, 0, b"abcd")).unwrap();
    let (answer, answered) = channel();
    let insert = Request::execute("INSERT INTO t VALUES (2, 'later')");
    db.submit(insert, move |result| answer.send(result.map(|_| ())).unwrap()).unwrap();
    assert!(answered.recv_timeout(Duration::from_millis(100)).is_err(), "the app's writer waits");
    let ending = blob.clone();
    run(&conn, move |session| session.end_blob(&ending)).unwrap();
    answered.recv().unwrap().unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t WHERE b = CAST('abcd' AS BLOB)"), 1);
    // left idle it is ended, and so is one that nobody has any more
    let idle = Arc::new(run(&conn, |session| session.open_blob(&place(), 1, true)).unwrap());
    exec(&db, "INSERT INTO t VALUES (3, 'after it was idle')");
    let late = run(&conn, move |session| session.write_blob(&idle, 0, b"late"));
    assert_eq!(late, Err(Sqlite3Error::Ended("it was idle")));
    let dropped = run(&conn, |session| session.open_blob(&place(), 1, true)).unwrap();
    drop(dropped);
    exec(&db, "INSERT INTO t VALUES (4, 'after it was dropped')");
    execute(&conn, "DELETE FROM t").unwrap();
}

#[test]
fn what_failed_last_is_kept() {
    let conn = memory();
    assert_eq!(conn.last_failure(), None);
    let error = execute(&conn, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (1)").unwrap_err();
    conn.note(&error);
    let details = conn.last_failure().unwrap().details();
    assert_eq!((details.reason, details.code), ("constraint", 2067));
    assert_eq!(details.rule, Some(("unique", vec!["t.a".to_owned()])));
}
