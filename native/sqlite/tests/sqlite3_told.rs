//! What subscribers of an app's database hear of commits: the app's own, and those of low-level connections.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a log is removed by hand

mod common;

use common::low::*;
use common::*;
use macula_core::{Clock, Kind, Kinded, SystemClock};
use macula_sqlite::sqlite3::{Action, BlobPlace, Conn, Policy, Resolve};
use macula_sqlite::{Database, Told, Value};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

/// What a test compares: rows by what was done and their ids, or that there were many.
#[derive(Debug, PartialEq)]
enum Heard {
    Rows(Vec<(Action, i64)>),
    Many,
}

use Action::{Delete, Insert, Update};
use Heard::{Many, Rows as Changed};

struct Subscriber {
    heard: Receiver<(u64, Heard)>,
    revision: u64,
}

impl Subscriber {
    fn of(db: &Database, images: bool) -> Self {
        let (tell, heard) = channel();
        let listen = move |told: Told<'_>| match told {
            Told::Changes(revision, rows) => {
                assert!(!images || rows.iter().all(|row| row.before.is_some() || row.after.is_some()));
                let rows = rows.iter();
                tell.send((revision, Changed(rows.map(|row| (row.action, row.rowid)).collect()))).is_ok()
            }
            Told::Many(revision) => tell.send((revision, Many)).is_ok(),
            Told::Closed => false,
        };
        let (_, revision) = db.subscribe(Some("t".to_owned()), images, listen).unwrap();
        Self { heard, revision }
    }

    /// All that was heard since, in order.
    fn heard(&mut self) -> Vec<Heard> {
        // what the app's thread commits is told after its caller was answered
        SystemClock.sleep(Duration::from_millis(50));
        let heard: Vec<_> = self.heard.try_iter().collect();
        for (revision, _) in &heard {
            assert!(*revision > self.revision, "revisions grow");
            self.revision = *revision;
        }
        heard.into_iter().map(|(_, heard)| heard).collect()
    }
}

fn with_table() -> (Fixture, Database, Arc<Conn>) {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE other(id INTEGER PRIMARY KEY)");
    let conn = open(&fixture.path());
    (fixture, db, conn)
}

#[test]
fn transactions_of_both_floors_are_told_in_the_order_of_their_commits() {
    let (_fixture, db, conn) = with_table();
    let mut all = Subscriber::of(&db, false);
    let mut images = Subscriber::of(&db, true);
    exec(&db, "INSERT INTO t VALUES (1, 'a')");
    execute(&conn, "INSERT INTO t VALUES (2, 'b')").unwrap();
    execute(&conn, "BEGIN; UPDATE t SET v = 'c' WHERE id = 2; INSERT INTO t VALUES (3, 'd')").unwrap();
    execute(&conn, "INSERT INTO temp.sqlite_master SELECT * FROM temp.sqlite_master WHERE 0").unwrap_err();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 1)]), Changed(vec![(Insert, 2)])], "not before the commit");
    execute(&conn, "DELETE FROM t WHERE id = 1; COMMIT").unwrap();
    exec(&db, "DELETE FROM t WHERE id = 3");
    execute(&conn, "INSERT INTO t VALUES (8, 'x'); INSERT INTO t VALUES (9, 'y')").unwrap();
    execute(&conn, "INSERT INTO other VALUES (1)").unwrap();
    execute(&conn, "BEGIN; INSERT INTO t VALUES (10, 'z'); ROLLBACK").unwrap();
    execute(&conn, "BEGIN; SELECT * FROM t; COMMIT").unwrap();
    let told = || {
        let transaction = vec![(Update, 2), (Insert, 3), (Delete, 1)];
        let rest = [vec![(Delete, 3)], vec![(Insert, 8)], vec![(Insert, 9)]];
        [transaction].into_iter().chain(rest).map(Changed).collect::<Vec<_>>()
    };
    assert_eq!(all.heard(), told());
    assert_eq!(images.heard()[2..], told());
}

#[test]
fn what_a_failed_statement_did_is_told_when_it_stays() {
    let (_fixture, db, conn) = with_table();
    exec(&db, "CREATE UNIQUE INDEX t_v ON t(v)");
    let mut all = Subscriber::of(&db, true);
    execute(&conn, "BEGIN; INSERT INTO t VALUES (1, 'a')").unwrap();
    execute(&conn, "INSERT INTO t VALUES (2, 'b'), (3, 'a')").unwrap_err();
    execute(&conn, "INSERT INTO t VALUES (4, 'd'); COMMIT").unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 1), (Insert, 4)])]);
    execute(&conn, "INSERT OR FAIL INTO t VALUES (5, 'e'), (6, 'a')").unwrap_err();
    assert_eq!(int(&db, "SELECT count(*) FROM t WHERE id = 5"), 1);
    assert_eq!(all.heard(), [Many]);
    execute(&conn, "BEGIN; INSERT INTO t VALUES (7, 'g')").unwrap();
    execute(&conn, "INSERT OR ROLLBACK INTO t VALUES (8, 'a')").unwrap_err();
    execute(&conn, "INSERT INTO t VALUES (9, 'i')").unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 9)])]);
    execute(&conn, "INSERT INTO t VALUES (10, 'j'); INSERT INTO t VALUES (11, 'a')").unwrap_err();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 10)])], "the first was committed");
}

#[test]
fn where_the_rows_are_not_known_it_is_told_that_there_were_some() {
    let (_fixture, db, conn) = with_table();
    let mut all = Subscriber::of(&db, false);
    execute(&conn, "BEGIN; INSERT INTO t VALUES (1, 'a'); SAVEPOINT s; INSERT INTO t VALUES (2, 'b')").unwrap();
    execute(&conn, "ROLLBACK TO s; RELEASE s; COMMIT").unwrap();
    assert_eq!(all.heard(), [Many]);
    execute(&conn, "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (3, 'c'); RELEASE s; COMMIT").unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 3)])]);
    // a recorder needs the hook, and is let in while we collect
    execute(&conn, "BEGIN; INSERT INTO t VALUES (4, 'd')").unwrap();
    let recorder = run(&conn, |session| session.record("main")).unwrap();
    execute(&conn, "COMMIT; INSERT INTO t VALUES (5, 'e')").unwrap();
    assert_eq!(all.heard(), [Many, Many]);
    run(&conn, move |session| {
        session.end_recorder(&recorder);
        Ok(())
    })
    .unwrap();
    execute(&conn, "INSERT INTO t VALUES (6, 'f')").unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 6)])]);
    let omit = Resolve::Omit;
    let policy = Policy { data: omit, not_found: omit, conflict: omit, constraint: omit, foreign_key: omit };
    let source = open(std::path::Path::new(":memory:"));
    execute(&source, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
    let changes = run(&source, |session| {
        let recorder = session.record("main")?;
        session.record_table(&recorder, None)?;
        session.execute("INSERT INTO t VALUES (7, 'a')")?;
        session.recorded(&recorder, false)
    });
    run(&conn, move |session| session.apply(changes.unwrap(), &policy)).unwrap();
    assert_eq!(all.heard(), [Many]);
}

/// Who subscribes and then reads does not see what is committed later; it must be told.
#[test]
fn who_subscribes_during_a_transaction_is_told_that_it_was_committed() {
    let (_fixture, db, conn) = with_table();
    let tx = begin(&db);
    tx.run(insert(0)).unwrap();
    let mut first = Subscriber::of(&db, false);
    commit(&tx).unwrap();
    assert_eq!(first.heard(), [Many]);
    let (_other, db, conn) = {
        drop((first, db, conn));
        with_table()
    };
    execute(&conn, "BEGIN; INSERT INTO t VALUES (1, 'a')").unwrap();
    let mut first = Subscriber::of(&db, false);
    execute(&conn, "COMMIT").unwrap();
    assert_eq!(first.heard(), [Many]);
    let tx = begin(&db);
    tx.run(insert(2)).unwrap();
    let mut images = Subscriber::of(&db, true);
    commit(&tx).unwrap();
    assert_eq!(first.heard(), [Changed(vec![(Insert, 2)])]);
    assert_eq!(images.heard(), [Many], "collected without images");
}

#[test]
fn a_commit_by_a_statement_or_blob_that_goes_is_told() {
    let (_fixture, db, conn) = with_table();
    let emptying = prepare(&conn, "DELETE FROM t");
    let returning = prepare(&conn, "INSERT INTO t VALUES (1, 'aaa'), (2, 'b') RETURNING id");
    let mut all = Subscriber::of(&db, true);
    step(&conn, &returning).unwrap();
    assert_eq!(all.heard(), []);
    returning.reset();
    let stmt = returning.clone();
    run(&conn, move |session| {
        stmt.reset_in(session);
        Ok(())
    })
    .unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Insert, 1), (Insert, 2)])]);
    let place = BlobPlace { database: "main".into(), table: "t".into(), column: "v".into() };
    let blob = run(&conn, move |session| session.open_blob(&place, 1, true)).unwrap();
    run(&conn, move |session| {
        session.write_blob(&blob, 0, b"A")?;
        session.end_blob(&blob)
    })
    .unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Update, 1)])]);
    step(&conn, &emptying).unwrap();
    assert_eq!(all.heard(), [Changed(vec![(Delete, 1), (Delete, 2)])], "prepared before anybody subscribed");
    let last = prepare(&conn, "INSERT INTO t VALUES (3, 'c'), (4, 'd') RETURNING id");
    step(&conn, &last).unwrap();
    let (closed, is_closed) = channel();
    conn.close(move || closed.send(()).unwrap()).unwrap();
    is_closed.recv().unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 2);
    assert_eq!(all.heard(), [Changed(vec![(Insert, 3), (Insert, 4)])]);
}

#[test]
fn images_of_a_transaction_are_bounded_and_made_only_when_asked_for() {
    let (_fixture, db, conn) = with_table();
    let mut bare = Subscriber::of(&db, false);
    let large = |id: i64| format!("INSERT INTO t VALUES ({id}, zeroblob({}) || {id})", 6 << 20);
    let transaction = |from: i64| (from..from + 5).map(large).collect::<Vec<_>>().join(";");
    execute(&conn, format!("BEGIN; {}; COMMIT", transaction(1))).unwrap();
    let ids = |from: i64| Changed((from..from + 5).map(|id| (Insert, id)).collect());
    assert_eq!(bare.heard(), [ids(1)]);
    let mut images = Subscriber::of(&db, true);
    execute(&conn, format!("BEGIN; {}; COMMIT", transaction(11))).unwrap();
    db.run(macula_sqlite::Request::execute(transaction(21))).unwrap();
    assert_eq!(images.heard(), [Many, Many]);
    drop(bare);
    execute(&conn, large(31)).unwrap();
    assert_eq!(images.heard(), [Changed(vec![(Insert, 31)])]);
}

/// A copy of SQLite that was not asked for closes the file and removes the log.
#[test]
fn a_commit_into_a_log_that_is_gone_is_not_acknowledged() {
    let (fixture, db, conn) = with_table();
    let mut all = Subscriber::of(&db, false);
    execute(&conn, "BEGIN; INSERT INTO t VALUES (1, 'a')").unwrap();
    std::fs::remove_file(fixture.dir.path().join("app.db-wal")).unwrap();
    let error = execute(&conn, "COMMIT").unwrap_err();
    assert_eq!(error.kind(), Kind::UnknownResult, "{error:?}");
    assert_eq!(db.run(insert(2)).unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(execute(&conn, "INSERT INTO t VALUES (3, 'c')").unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(all.heard(), []);
    drop((conn, db));
    let db = fixture.open();
    exec(&db, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)");
    assert!(query(&db, "SELECT id FROM t")
        .iter()
        .all(|row| row != &[Value::Integer(2)] && row != &[Value::Integer(3)]));
}

/// Each change of a transaction took its place in memory, however many there were.
#[test]
fn very_many_changes_are_counted_only() {
    let (_fixture, db, conn) = with_table();
    let mut subscriber = Subscriber::of(&db, false);
    let numbers = "c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000)";
    exec(&db, &format!("WITH RECURSIVE {numbers} INSERT INTO t SELECT n, 1 FROM c"));
    assert_eq!(subscriber.heard(), [Many]);
    // undone back into what is kept: told one by one again
    let tx = begin(&db);
    tx.run(insert(200_000)).unwrap();
    let twice = format!("WITH RECURSIVE {numbers} UPDATE t SET v = 2; INSERT INTO t(id) VALUES (1)");
    let twice = twice.replace("UPDATE t", "INSERT INTO t SELECT n + 300000, 1 FROM c; UPDATE t");
    tx.run(macula_sqlite::Request::execute(twice)).unwrap_err();
    tx.run(insert(200_001)).unwrap();
    commit(&tx).unwrap();
    assert_eq!(subscriber.heard(), [Changed(vec![(Insert, 200_000), (Insert, 200_001)])]);
    execute(&conn, "UPDATE t SET v = 3").unwrap();
    execute(&conn, "DELETE FROM t WHERE id = 1").unwrap();
    assert_eq!(subscriber.heard(), [Many, Changed(vec![(Delete, 1)])]);
}
