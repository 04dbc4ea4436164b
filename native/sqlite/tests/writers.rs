//! Many callers at once: group commit, members that fail alone, transactions, the bounds of the queue.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // the command line as another process, and threads that are slow

mod common;

use common::*;
use macula_core::{Cancel, Kind, Kinded};
use macula_sqlite::{Database, Params, Request, SqliteError, Value};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

fn submit(db: &Database, request: Request) -> Receiver<Result<macula_sqlite::Rows, SqliteError>> {
    let (answer, answered) = channel();
    db.submit(request, move |result| answer.send(result).unwrap()).unwrap();
    answered
}

/// Holds the writer, so that what is sent meanwhile waits together.
fn hold(db: &Database) -> macula_sqlite::Transaction {
    begin(db)
}

#[test]
fn sixty_four_writers_and_readers_beside_them() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(id INTEGER PRIMARY KEY)");
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Ordering::Acquire) {
                    let rows = query(&db, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)");
                    assert_eq!(rows[0][0], rows[0][1], "no half of a transaction is seen");
                    let Value::Integer(count) = rows[0][0] else { panic!() };
                    assert!(count >= last, "commits do not come undone");
                    last = count;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let writers: Vec<_> = (0..64)
            .map(|writer| {
                let db = &db;
                scope.spawn(move || {
                    for n in 0..50 {
                        let id = writer * 1000 + n;
                        exec(db, &format!("INSERT INTO t VALUES ({id}); INSERT INTO u VALUES ({id})"));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Release);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 64 * 50);
    db.check(&Cancel::new()).unwrap();
    drop(db);
    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM u"), 64 * 50);
}

#[test]
fn members_of_a_batch_fail_alone() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY);
         CREATE TABLE c(id INTEGER PRIMARY KEY, t REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let held = hold(&db);
    let answers = [
        submit(&db, insert(1)),
        submit(&db, insert(1)),
        submit(&db, Request::execute("INSERT INTO t VALUES (2); INSERT INTO nowhere VALUES (3)")),
        submit(&db, Request::execute("INSERT INTO c VALUES (1, 77)")),
        submit(&db, Request::execute("INSERT INTO c VALUES (2, 5); INSERT INTO t VALUES (5)")),
        submit(&db, Request::execute("PRAGMA defer_foreign_keys=ON; INSERT INTO c VALUES (3, 78)")),
        submit(&db, insert(6)),
    ];
    drop(held);
    let ends: Vec<bool> = answers.iter().map(|answer| answer.recv().unwrap().is_ok()).collect();
    assert_eq!(ends, [true, false, false, false, true, false, true]);
    assert_eq!(query(&db, "SELECT group_concat(id) FROM t")[0][0], Value::text("1,5,6"));
    assert_eq!(int(&db, "SELECT count(*) FROM c"), 1);
}

/// Some failures take the whole transaction with them; the others in the batch had nothing to do with it.
#[test]
fn a_member_that_rolls_everything_back_harms_nobody_else() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY);
         CREATE TRIGGER no BEFORE INSERT ON t WHEN new.id = 13 BEGIN SELECT raise(ROLLBACK, 'unlucky'); END",
    );
    let held = hold(&db);
    let cancel = Cancel::new();
    let endless = format!("INSERT INTO t {ENDLESS}");
    let mut answers =
        vec![submit(&db, insert(1)), submit(&db, Request::execute("INSERT OR ROLLBACK INTO t VALUES (1)"))];
    answers.push(submit(&db, insert(2)));
    answers.push(submit(&db, insert(13)));
    answers.push(submit(&db, Request::execute(&endless).deadline(Duration::from_millis(100))));
    answers.push(submit(&db, Request::execute(&endless).cancel(cancel.clone())));
    answers.push(submit(&db, insert(3)));
    cancel.cancel();
    drop(held);
    let ends: Vec<_> = answers.iter().map(|answer| answer.recv().unwrap().err().map(|e| e.kind())).collect();
    let (sql, ok) = (Some(Kind::Sql), None);
    assert_eq!(ends, [ok, sql, ok, sql, Some(Kind::Timeout), Some(Kind::Cancelled), ok]);
    assert_eq!(query(&db, "SELECT group_concat(id) FROM t")[0][0], Value::text("1,2,3"));
}

#[test]
fn a_transaction_sees_its_own_writes_and_ends_in_one_of_many_ways() {
    let mut fixture = Fixture::new();
    fixture.options.transaction_idle_max = Duration::from_secs(60);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let tx = begin(&db);
    tx.run(insert(1)).unwrap();
    assert_eq!(tx.run(Request::query("SELECT count(*) FROM t")).unwrap().rows, [[Value::Integer(1)]]);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0, "readers do not see it yet");
    assert_eq!(tx.run(insert(1)).unwrap_err().kind(), Kind::Sql, "a failed statement leaves it open");
    tx.run(Request::execute("INSERT INTO t VALUES (2); INSERT INTO t VALUES (2)")).unwrap_err();
    assert_eq!(tx.run(Request::execute("COMMIT")).unwrap_err().kind(), Kind::Invalid);
    commit(&tx).unwrap();
    assert_eq!(tx.run(insert(3)).unwrap_err().kind(), Kind::Closed);
    assert_eq!(commit(&tx).unwrap_err().kind(), Kind::Closed);
    assert_eq!(query(&db, "SELECT group_concat(id) FROM t")[0][0], Value::text("1"));

    // Dropped with a commit on its way: committed. (The writer once looked at the handle's end between
    // the last statement's answer and the commit, and rolled back: hence many times.)
    for _ in 0..200 {
        let tx = begin(&db);
        tx.run(Request::execute("INSERT OR REPLACE INTO t VALUES (2)")).unwrap();
        let (answer, answered) = channel();
        tx.commit(move |result| answer.send(result).unwrap()).unwrap();
        drop(tx);
        answered.recv().unwrap().unwrap();
    }
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 2);

    // rolled back by word, by drop, by drop in mid-statement
    let tx = begin(&db);
    tx.run(insert(9)).unwrap();
    let (answer, answered) = channel();
    tx.rollback(move |result| answer.send(result).unwrap()).unwrap();
    answered.recv().unwrap().unwrap();
    let tx = begin(&db);
    tx.run(insert(9)).unwrap();
    drop(tx);
    let tx = begin(&db);
    let (answer, answered) = channel();
    tx.submit(Request::query(ENDLESS), move |result| answer.send(result).unwrap()).unwrap();
    drop(tx);
    assert_eq!(answered.recv().unwrap().unwrap_err().kind(), Kind::Cancelled);

    // its owner ends, idle and in mid-statement
    let owner = Cancel::new();
    let tx = db.transaction(Duration::from_secs(60), owner.clone()).unwrap();
    tx.run(insert(9)).unwrap();
    owner.cancel();
    db.run(insert(3)).unwrap();
    assert_eq!(tx.run(insert(9)).unwrap_err().kind(), Kind::Cancelled);

    // its deadline passes, in mid-statement and idle; its idle bound passes
    let tx = db.transaction(Duration::from_millis(100), Cancel::new()).unwrap();
    assert_eq!(tx.run(Request::execute(format!("INSERT INTO t {ENDLESS}"))).unwrap_err().kind(), Kind::Timeout);
    assert_eq!(tx.run(insert(9)).unwrap_err().kind(), Kind::Timeout);
    let tx = db.transaction(Duration::from_millis(100), Cancel::new()).unwrap();
    db.run(insert(4)).unwrap();
    assert_eq!(tx.run(insert(9)).unwrap_err().kind(), Kind::Timeout);
    db.close();
    fixture.options.transaction_idle_max = Duration::from_millis(30);
    let db = fixture.open();
    let tx = begin(&db);
    db.run(insert(5)).unwrap();
    assert_eq!(commit(&tx).unwrap_err().kind(), Kind::Timeout);
    db.close();
    fixture.options.transaction_idle_max = Duration::from_secs(60);
    let db = fixture.open();

    // lost as a whole
    let tx = begin(&db);
    tx.run(Request::execute("INSERT OR ROLLBACK INTO t VALUES (1)")).unwrap_err();
    assert!(matches!(tx.run(insert(9)).unwrap_err(), SqliteError::RolledBack(_)));

    // the database closes
    let tx = begin(&db);
    tx.run(insert(9)).unwrap();
    db.close();
    assert_eq!(tx.run(insert(9)).unwrap_err().kind(), Kind::Closed);
    let db = fixture.open();
    assert_eq!(query(&db, "SELECT group_concat(id) FROM t")[0][0], Value::text("1,2,3,4,5"));
}

#[test]
fn a_failed_commit_of_a_transaction_is_undone() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY);
         CREATE TABLE c(id INTEGER PRIMARY KEY, t REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let tx = begin(&db);
    tx.run(Request::execute("INSERT INTO c VALUES (1, 77)")).unwrap();
    assert!(matches!(commit(&tx), Err(SqliteError::Constraint { .. })));
    db.run(insert(1)).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM c"), 0);
}

/// Rows over the bound were once answered `TooLarge` for an insert that had happened, and was then
/// committed with the rest.
#[test]
fn an_error_inside_a_transaction_means_that_its_statement_changed_nothing() {
    let mut fixture = Fixture::new();
    fixture.options.result_bytes_max = 1 << 20;
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b);
         CREATE TRIGGER no BEFORE INSERT ON t WHEN new.id = 13 BEGIN SELECT raise(FAIL, 'unlucky'); END",
    );
    let tx = begin(&db);
    tx.run(Request::execute("INSERT INTO t VALUES (1, zeroblob(9))")).unwrap();
    let failing = [
        ("INSERT INTO t SELECT 2, zeroblob(2000000) RETURNING b", Kind::TooLarge),
        ("UPDATE t SET b = zeroblob(2000000) RETURNING b", Kind::TooLarge),
        ("WITH n(i) AS (VALUES (3)) INSERT INTO t SELECT i, zeroblob(2000000) FROM n RETURNING b", Kind::TooLarge),
        ("INSERT INTO t(id) VALUES (5), (1)", Kind::Sql),
        ("INSERT OR FAIL INTO t(id) VALUES (6), (1)", Kind::Sql),
        ("INSERT INTO t(id) VALUES (7), (13)", Kind::Sql),
        ("INSERT INTO t(id) VALUES (8); INSERT INTO t(id) VALUES (1)", Kind::Sql),
    ];
    for (sql, kind) in failing {
        let mode = if sql.contains(';') { Request::execute(sql) } else { Request::query(sql) };
        let error = tx.run(mode).expect_err(sql);
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        let rows = tx.run(Request::query("SELECT id, length(b) FROM t")).unwrap().rows;
        assert_eq!(rows, [[1, 9].map(Value::Integer)], "{sql}");
    }
    // a read that is too large changes nothing either, and all of it goes on
    assert_eq!(tx.run(Request::query("SELECT zeroblob(2000000)")).unwrap_err().kind(), Kind::TooLarge);
    tx.run(Request::query("INSERT INTO t(id) VALUES (9) RETURNING id")).unwrap();
    commit(&tx).unwrap();
    assert_eq!(query(&db, "SELECT group_concat(id) FROM t")[0][0], Value::text("1,9"));
    // alone, too
    for (sql, kind) in failing {
        let mode = if sql.contains(';') { Request::execute(sql) } else { Request::query(sql) };
        assert_eq!(error(&db, mode).kind(), kind, "{sql}");
        assert_eq!(
            query(&db, "SELECT group_concat(id), max(length(b)) FROM t"),
            [[Value::text("1,9"), Value::Integer(9)]]
        );
    }
}

#[test]
fn the_queue_is_bounded_and_what_waits_in_it_runs_out_of_time() {
    let mut fixture = Fixture::new();
    fixture.options.queue_len_max = 4;
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    for slow in [None, Some(format!("INSERT INTO t {ENDLESS}"))] {
        let held = hold(&db);
        let stop = Cancel::new();
        let busy = slow.map(|sql| {
            let (answer, answered) = channel();
            held.submit(Request::execute(sql).cancel(stop.clone()), move |r| answer.send(r).unwrap()).unwrap();
            answered
        });
        let cancelled = Cancel::new();
        let waiting = [
            submit(&db, insert(1).deadline(Duration::from_millis(1000))),
            submit(&db, insert(2).cancel(cancelled.clone())),
            submit(&db, insert(3).deadline(Duration::from_millis(1200))),
        ];
        let (answer, begun) = channel();
        db.begin(Duration::from_millis(1100), Cancel::new(), move |r| answer.send(r.map(|_| ())).unwrap()).unwrap();
        let refused = db.submit(insert(4), |_| panic!("a refused request is not answered"));
        assert_eq!(refused.unwrap_err().kind(), Kind::Busy);
        cancelled.cancel();
        // answered while the writer is held by the other
        let kinds: Vec<_> = waiting.iter().map(|answer| answer.recv().unwrap().unwrap_err().kind()).collect();
        assert_eq!(kinds, [Kind::Timeout, Kind::Cancelled, Kind::Timeout]);
        assert_eq!(begun.recv().unwrap().unwrap_err().kind(), Kind::Timeout);
        stop.cancel();
        if let Some(busy) = busy {
            assert_eq!(busy.recv().unwrap().unwrap_err().kind(), Kind::Cancelled);
        }
        drop(held);
    }
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
}

#[test]
fn a_reply_that_panics_or_closes_the_database_harms_nobody() {
    let fixture = Fixture::new();
    let db = Arc::new(fixture.open());
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    db.submit(insert(1), |_| panic!("the caller's own")).unwrap();
    db.submit(Request::query("SELECT 1"), |_| panic!("the caller's own")).unwrap();
    db.run(insert(2)).unwrap();
    let (answer, answered) = channel();
    let inside = db.clone();
    db.submit(insert(3), move |result| {
        inside.close();
        answer.send(result).unwrap();
    })
    .unwrap();
    answered.recv().unwrap().unwrap();
    db.close();
    db.close();
    assert_eq!(db.run(insert(4)).unwrap_err().kind(), Kind::Closed);
    assert_eq!(db.pin().unwrap_err().kind(), Kind::Closed);
    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 3);
}

/// The writer's connection must be the last to go, or the files beside the database stay: a reader
/// that ended later once left them, one close in thirty.
#[test]
fn nothing_stays_beside_a_closed_database() {
    let fixture = Fixture::new();
    exec(&fixture.open(), "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    for n in 0..200 {
        let db = Arc::new(fixture.open());
        db.run(insert(n)).unwrap();
        query(&db, "SELECT count(*) FROM t");
        if n % 2 == 0 {
            // two threads of the database and one of ours close it at once
            let (one, other) = (db.clone(), db.clone());
            let _ = db.submit(Request::query("SELECT 1"), move |_| one.close());
            let _ = db.submit(Request::execute("DELETE FROM t"), move |_| other.close());
            db.close();
        } else {
            db.close();
            assert_eq!(fixture.names(), ["app.db"], "round {n}");
        }
    }
}

#[test]
fn the_gate_holds_commits_back_and_nothing_else() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let closed = fixture.gate.close();
    let waiting = submit(&db, insert(1));
    let pinned = db.pin().unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0, "reads go on");
    assert!(waiting.try_recv().is_err());
    drop(closed);
    waiting.recv().unwrap().unwrap();
    let copy = fixture.dir.path().join("copy.db");
    pinned.copy_to(&copy, &macula_core::Task::quiet()).unwrap();
    let copied = rusqlite::Connection::open(&copy).unwrap();
    assert_eq!(copied.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn the_log_is_bounded_and_gone_after_close() {
    let mut fixture = Fixture::new();
    fixture.options.wal_bytes_max = 256 << 10;
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
    let wal = fixture.dir.path().join("app.db-wal");
    let len = || std::fs::metadata(&wal).unwrap().len();
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    query(&db, "SELECT sum(length(b)) FROM t");
                }
            });
        }
        for _ in 0..400 {
            exec(&db, "INSERT INTO t(b) VALUES (randomblob(30000))");
            longest.fetch_max(len(), Ordering::Relaxed);
        }
        stop.store(true, Ordering::Release);
    });
    let longest = longest.load(Ordering::Relaxed);
    assert!(longest < 4 << 20, "12 MB were written, the log reached {longest}");
    assert!(db.bytes() >= 12_000_000);
    drop(db);
    assert_eq!(fixture.names(), ["app.db"]);
}

/// Another OS process holds the lock: we wait for it in time slices of ours and say who it is.
#[test]
fn another_process_holding_the_lock_is_waited_for_and_named() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let mut fixture = Fixture::new();
    fixture.options.busy_timeout = Duration::from_millis(100);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let started = Command::new("sqlite3").arg(fixture.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut other) = started else {
        return println!("skipped: no sqlite3 command line here");
    };
    let mut into = other.stdin.take().unwrap();
    let mut from = BufReader::new(other.stdout.take().unwrap());
    let mut say = |sql: &str| {
        let mut line = String::new();
        writeln!(into, "{sql}\nSELECT 'done';").unwrap();
        from.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    };
    say("BEGIN IMMEDIATE; INSERT INTO t VALUES (100);");
    assert_eq!(macula_sqlite::guard::other_processes(&fixture.path()).unwrap(), [other.id()]);
    assert!(!macula_sqlite::guard::opened_elsewhere(&fixture.path()).unwrap());
    for request in [insert(1), insert(1).deadline(Duration::from_millis(500))] {
        let error = error(&db, request);
        assert_eq!(error.kind(), Kind::LockHeld);
        assert!(error.to_string().contains(&format!("pids=[{}]", other.id())), "{error}");
    }
    assert_eq!(db.transaction(Duration::from_millis(500), Cancel::new()).unwrap_err().kind(), Kind::LockHeld);
    let waiting: Vec<_> = (2..5).map(|id| submit(&db, insert(id).deadline(Duration::from_secs(60)))).collect();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0, "reads go on");
    say("COMMIT;");
    waiting.iter().for_each(|answer| assert!(answer.recv().unwrap().is_ok()));
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 4);
    drop(into);
    other.wait().unwrap();
}

#[test]
fn parameters_of_many_types_and_many_statements_do_not_grow_the_cache() {
    let fixture = Fixture::new();
    let db = fixture.open();
    for n in 0..500 {
        let request = Request::query(format!("SELECT {n} + ?")).params(Params::Positional(vec![Value::Integer(1)]));
        assert_eq!(db.run(request).unwrap().rows, [[Value::Integer(n + 1)]]);
    }
}
