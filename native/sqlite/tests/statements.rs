//! What statements take and give: values, parameters, several statements, errors, refusals.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use macula_core::{Clock, Kind, Kinded, SystemClock};
use macula_sqlite::{ConstraintKind, Params, Request, SqliteError, Value};
use std::time::Duration;

#[test]
fn every_value_comes_back_as_it_was() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let values = [
        Value::Null,
        Value::Integer(0),
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Real(-0.0),
        Value::Real(f64::MIN_POSITIVE),
        Value::Real(f64::INFINITY),
        Value::Real(1.0),
        Value::text(""),
        Value::text("grüße \u{1f600}"),
        Value::Text(b"a\0b".to_vec()),
        Value::Text(vec![0xff, 0xfe]),
        Value::Blob(vec![]),
        Value::Blob(vec![0, 1, 255]),
        Value::Blob(vec![7; 3 << 20]),
    ];
    for value in &values {
        let insert = Request::execute("INSERT INTO t(v) VALUES (?)").params(Params::Positional(vec![value.clone()]));
        assert_eq!(db.run(insert).unwrap().changes, 1);
    }
    let rows = query(&db, "SELECT v FROM t ORDER BY id");
    let back: Vec<Value> = rows.into_iter().map(|mut row| row.remove(0)).collect();
    assert_eq!(back, values);
    assert_eq!(format!("{:?}", back[4]), "Real(-0.0)");

    assert_eq!(Value::try_from(u64::MAX).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(Value::try_from(5_u64).unwrap(), Value::Integer(5));
    let nan = Request::execute("INSERT INTO t(v) VALUES (?)").params(Params::Positional(vec![Value::Real(f64::NAN)]));
    assert_eq!(error(&db, nan).kind(), Kind::Invalid);
}

#[test]
fn parameters_are_bound_exactly_once() {
    let fixture = Fixture::new();
    let db = fixture.open();
    let one = || Value::Integer(1);
    let named = |names: &[&str]| Params::Named(names.iter().map(|n| ((*n).to_owned(), one())).collect());
    let positional = |n: usize| Params::Positional(vec![one(); n]);
    let good = [
        ("SELECT ?, ?", positional(2)),
        ("SELECT ?2, ?1", positional(2)),
        ("SELECT :a, :a", positional(1)),
        ("SELECT :a, @b, $c", named(&["a", "b", "c"])),
        ("SELECT :a, @b, $c", named(&["$c", ":a", "@b"])),
        ("SELECT :a, @a", named(&["a"])),
        ("SELECT :a, @a", named(&[":a", "@a"])),
        ("SELECT ?1", named(&["1"])),
        ("SELECT 1", named(&[])),
        ("SELECT 1", Params::None),
    ];
    for (sql, params) in good {
        db.run(Request::query(sql).params(params.clone())).unwrap_or_else(|e| panic!("{sql} {params:?}: {e}"));
    }
    let bad = [
        ("SELECT ?, ?", positional(1), "expected=2 got=1"),
        ("SELECT ?", positional(2), "expected=1 got=2"),
        ("SELECT ?", Params::None, "expected=1 got=0"),
        ("SELECT :a, :b", named(&["a"]), "missing name=:b"),
        ("SELECT :a", named(&["a", "b"]), "no such parameter name=b"),
        ("SELECT :a", named(&["a", "a"]), "twice"),
        ("SELECT :a", named(&["a", ":a"]), "twice"),
        ("SELECT ?", named(&["a"]), "no name"),
        ("SELECT :a", named(&["@a"]), "missing name=:a"),
        ("SELECT 1", named(&["a"]), "no such parameter"),
    ];
    for (sql, params, text) in bad {
        let error = error(&db, Request::query(sql).params(params));
        assert_eq!(error.kind(), Kind::Invalid, "{sql}");
        assert!(error.to_string().contains(text), "{sql}: {error}");
    }
}

#[test]
fn execute_takes_several_statements_as_one_transaction_and_query_exactly_one() {
    let fixture = Fixture::new();
    let db = fixture.open();
    let rows = exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1),(2); -- x\nINSERT INTO t VALUES (7);",
    );
    assert_eq!((rows.changes, rows.last_insert_rowid), (3, 7));
    let failing = error(&db, Request::execute("INSERT INTO t VALUES (8); INSERT INTO t VALUES (8)"));
    assert_eq!(failing.kind(), Kind::Sql);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 3, "the first of the two is undone");
    exec(&db, "SELECT 1; INSERT INTO t VALUES (9)");
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 4);
    for (sql, mode) in [("", "execute"), (" -- nothing\n;", "execute")] {
        assert_eq!(db.run(Request::execute(sql)).unwrap().changes, 0, "{mode}");
        assert_eq!(error(&db, Request::query(sql)).kind(), Kind::Invalid);
    }
    let several = [
        Request::query("SELECT 1; SELECT 2"),
        Request::query("INSERT INTO t VALUES (20); SELECT 2"),
        Request::execute("INSERT INTO t VALUES (?); SELECT 2").params(Params::Positional(vec![Value::Integer(21)])),
        Request::execute("SELECT 1\0"),
    ];
    for request in several {
        assert_eq!(error(&db, request).kind(), Kind::Invalid);
    }
    assert!(matches!(error(&db, Request::query("SELECT 1; garbage")), SqliteError::Statement(_)));
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 4);
    assert_eq!(query(&db, "SELECT 1;  -- fine\n ;").len(), 1);
}

#[test]
fn rows_are_bounded_and_a_write_still_complete() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let returning = "INSERT INTO t SELECT value FROM generate RETURNING id";
    let returning = returning.replace("generate", "json_each('[1,2,3,4,5,6,7,8,9]')");
    let rows = db.run(Request::query(returning).rows_max(2)).unwrap();
    assert_eq!((rows.rows.len(), rows.more, rows.changes), (2, true, 9));
    assert_eq!(rows.columns, ["id"]);
    let rows = db.run(Request::query("SELECT id, id + 1 AS next FROM t ORDER BY id").rows_max(9)).unwrap();
    assert_eq!((rows.rows.len(), rows.more), (9, false));
    assert_eq!(rows.columns, ["id", "next"]);
    let none = db.run(Request::query("SELECT id FROM t WHERE id > 100")).unwrap();
    assert_eq!((none.columns.len(), none.rows.len()), (1, 0));

    let mut small = Fixture::new();
    small.options.result_bytes_max = 1 << 20;
    let db = small.open();
    assert_eq!(error(&db, Request::query(ENDLESS.replace("count(*)", "i"))).kind(), Kind::TooLarge);
}

#[test]
fn writes_that_look_like_reads_reach_the_writer() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let rows =
        db.run(Request::query("WITH n(i) AS (VALUES (1),(2)) INSERT INTO t SELECT i FROM n RETURNING id")).unwrap();
    assert_eq!((rows.rows.len(), rows.changes), (2, 2));
    exec(&db, "PRAGMA user_version=7");
    assert_eq!(int(&db, "PRAGMA user_version"), 7);
    assert_eq!(int(&db, "PRAGMA foreign_keys"), 1);
    exec(&db, "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT 5 CHECK (c > 1)");
    exec(&db, "ALTER TABLE t RENAME COLUMN c TO d");
    exec(&db, "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('hello world')");
    assert_eq!(query(&db, "SELECT body FROM f WHERE f MATCH 'hello'").len(), 1);
    exec(&db, "ANALYZE; PRAGMA optimize; REINDEX");
}

#[test]
fn constraints_are_named() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a, b, UNIQUE(a, b));
         CREATE TABLE t(id INTEGER PRIMARY KEY, n INT NOT NULL, p REFERENCES p(id), c INT CONSTRAINT small CHECK (c < 10));
         CREATE TABLE s(i INT) STRICT;
         INSERT INTO p VALUES (1, 2, 3); INSERT INTO t VALUES (1, 1, 1, 1)",
    );
    let cases = [
        ("INSERT INTO p VALUES (2, 2, 3)", ConstraintKind::Unique, vec!["p.a", "p.b"]),
        ("INSERT INTO p VALUES (1, 5, 5)", ConstraintKind::PrimaryKey, vec!["p.id"]),
        ("INSERT INTO t VALUES (2, NULL, 1, 1)", ConstraintKind::NotNull, vec!["t.n"]),
        ("INSERT INTO t VALUES (2, 1, 99, 1)", ConstraintKind::ForeignKey, vec![]),
        ("INSERT INTO t VALUES (2, 1, 1, 11)", ConstraintKind::Check, vec!["small"]),
        ("INSERT INTO s VALUES ('x')", ConstraintKind::DataType, vec!["s.i"]),
    ];
    for (sql, kind, names) in cases {
        match error(&db, Request::execute(sql)) {
            SqliteError::Constraint { constraint, .. } => {
                assert_eq!(
                    (constraint.kind, constraint.names),
                    (kind, names.iter().map(|n| (*n).to_owned()).collect())
                );
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
    match error(&db, Request::query("SELECT * FRM t")) {
        SqliteError::Statement(failure) => assert_eq!(failure.offset, Some(9), "{failure}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn statements_that_reach_beyond_the_database_are_refused() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let other = fixture.dir.path().join("other.db");
    let other = other.display();
    let refused = [
        format!("ATTACH '{other}' AS o"),
        format!("/* */ -- x\n ;attach '{other}' AS o"),
        "DETACH main".to_owned(),
        format!("VACUUM INTO '{other}'"),
        "VACUUM".to_owned(),
        "SELECT load_extension('x')".to_owned(),
        "SELECT LOAD_EXTENSION('x', 'y')".to_owned(),
        "PRAGMA journal_mode=DELETE".to_owned(),
        "PRAGMA wal_autocheckpoint=1000".to_owned(),
        "PRAGMA locking_mode=EXCLUSIVE".to_owned(),
        "PRAGMA synchronous=OFF".to_owned(),
        "PRAGMA foreign_keys=OFF".to_owned(),
        "PRAGMA writable_schema=ON".to_owned(),
        "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        "PRAGMA query_only=OFF".to_owned(),
        "PRAGMA trusted_schema=ON".to_owned(),
        "PRAGMA mmap_size=1000000".to_owned(),
        "CREATE TEMP TABLE x(y)".to_owned(),
    ];
    for sql in &refused {
        for request in [Request::query(sql.clone()), Request::execute(sql.clone())] {
            let error = error(&db, request);
            assert_eq!(error.kind(), Kind::Unsupported, "{sql}: {error}");
            assert!(error.hint().is_some());
        }
        let hidden = error(&db, Request::execute(format!("INSERT INTO t VALUES (1); {sql}")));
        assert!(matches!(hidden.kind(), Kind::Unsupported | Kind::Sql), "{sql}: {hidden}");
    }
    for sql in [
        "BEGIN",
        "begin immediate",
        "COMMIT",
        "end",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE x",
        "ROLLBACK TO macula_member",
    ] {
        assert_eq!(error(&db, Request::execute(sql)).kind(), Kind::Invalid, "{sql}");
        let hidden = error(&db, Request::execute(format!("INSERT INTO t VALUES (1); {sql}; INSERT INTO t VALUES (2)")));
        assert_eq!(hidden.kind(), Kind::Invalid, "{sql}: {hidden}");
    }
    assert!(error(&db, Request::execute("INSERT INTO sqlite_schema(name) VALUES ('x')")).kind() == Kind::Sql);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
    assert_eq!((int(&db, "PRAGMA synchronous"), int(&db, "PRAGMA foreign_keys")), (2, 1));
    assert_eq!(fixture.names(), ["app.db", "app.db-shm", "app.db-wal"]);
}

#[test]
fn endless_sql_ends_with_its_deadline_its_caller_or_the_database() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let endless_write = format!("INSERT INTO t {ENDLESS}");
    for sql in [ENDLESS, &endless_write] {
        let error = error(&db, Request::execute(sql).deadline(Duration::from_millis(50)));
        assert_eq!(error.kind(), Kind::Timeout, "{sql}: {error}");
        let cancel = macula_core::Cancel::new();
        let (answer, answered) = std::sync::mpsc::channel();
        db.submit(Request::execute(sql).cancel(cancel.clone()), move |r| answer.send(r).unwrap()).unwrap();
        cancel.cancel();
        assert_eq!(answered.recv().unwrap().unwrap_err().kind(), Kind::Cancelled);
    }
    db.run(insert(1)).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
    let (answer, answered) = std::sync::mpsc::channel();
    for sql in [ENDLESS, ENDLESS, ENDLESS, &endless_write, &endless_write] {
        let answer = answer.clone();
        db.submit(Request::execute(sql), move |r| answer.send(r).unwrap()).unwrap();
    }
    db.close();
    drop(answer);
    let ends: Vec<_> = answered.iter().map(|r| r.unwrap_err().kind()).collect();
    assert_eq!(ends, [Kind::Closed; 5]);
}

/// A connection's temporary schema comes before its main one. `CREATE TABLE temp.t` without the word
/// TEMP once passed: the table stayed on the one writer, and the rows that every other caller then
/// inserted into `t`, acknowledged, went into it and were gone with it.
#[test]
fn temporary_objects_are_refused_however_they_are_written() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t");
    let temporary = [
        "CREATE TABLE temp.t(id INTEGER PRIMARY KEY)",
        "CREATE TABLE IF NOT EXISTS TEMP.t(id)",
        "create table \"temp\" . t as select 1 as id",
        "CREATE TABLE temp.s(id) STRICT",
        "CREATE VIEW temp.v AS SELECT 7 AS id",
        "CREATE VIEW [temp].t AS SELECT 7 AS id",
        "CREATE VIRTUAL TABLE temp.t USING fts5(id)",
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.f USING fts5(id)",
        "CREATE VIRTUAL TABLE temp.r USING rtree(id, a, b)",
        "CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE TRIGGER temp.x AFTER INSERT ON main.t BEGIN DELETE FROM t; END",
        "CREATE TRIGGER temp.x INSTEAD OF INSERT ON v BEGIN DELETE FROM t; END",
        "CREATE TEMP TABLE t(id)",
        "CREATE TEMPORARY TABLE t AS SELECT 1 AS id",
        "CREATE TEMP VIEW t AS SELECT 1 AS id",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "INSERT INTO temp.sqlite_master VALUES ('table', 't', 't', 0, 'CREATE TABLE t(id)')",
        "ANALYZE temp",
    ];
    for sql in temporary {
        let mut answers = vec![db.run(Request::execute(sql)), db.run(Request::query(sql))];
        answers.push(db.run(Request::execute(format!("INSERT INTO t VALUES (99); {sql}"))));
        answers.push(begin(&db).run(Request::execute(sql)));
        for answer in answers {
            let error = answer.expect_err(sql);
            assert_eq!(error.kind(), Kind::Unsupported, "{sql}: {error}");
        }
    }
    assert_eq!(error(&db, Request::execute("CREATE INDEX temp.i ON t(id)")).kind(), Kind::Sql);
    assert_eq!(error(&db, Request::execute("DROP TABLE temp.t")).kind(), Kind::Sql);
    db.run(insert(1)).unwrap();
    assert_eq!(int(&db, "SELECT count(*) FROM main.t"), 1, "what was acknowledged is in the app's own table");
    assert_eq!(int(&db, "SELECT count(*) FROM sqlite_temp_schema"), 0);
    exec(&db, "INSERT INTO t SELECT 2 WHERE NOT EXISTS (SELECT * FROM sqlite_temp_schema)");
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 2, "nor is there one on the writer");
}

/// What ALTER does by itself to the temporary schema is no caller's temporary object.
#[test]
fn tables_are_altered() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(
        &db,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT a FROM t;
         CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE t SET a = 1 WHERE id = new.id; END; INSERT INTO t VALUES (1, 1, 1)",
    );
    let alter = ["ADD COLUMN c DEFAULT 5", "RENAME COLUMN a TO aa", "RENAME TO u"];
    alter.iter().for_each(|change| drop(exec(&db, &format!("ALTER TABLE t {change}"))));
    let tx = begin(&db);
    tx.run(Request::execute("ALTER TABLE u DROP COLUMN b")).unwrap();
    tx.run(Request::execute("ALTER TABLE u RENAME COLUMN c TO cc; ALTER TABLE u RENAME TO w")).unwrap();
    commit(&tx).unwrap();
    exec(&db, "INSERT INTO w(id) VALUES (2)");
    let rows = db.run(Request::query("SELECT * FROM w")).unwrap();
    assert_eq!(rows.columns, ["id", "aa", "cc"]);
    assert_eq!(rows.rows, [[1, 1, 5], [2, 1, 5]].map(|row| row.map(Value::Integer)));
    exec(&db, "DROP TRIGGER x; DROP VIEW v; DROP INDEX i; DROP TABLE w");
    assert_eq!(int(&db, "SELECT count(*) FROM sqlite_schema"), 0);
}

/// SQLite calls these two read-only; tried on a reader, which may not write, they failed.
#[test]
fn pragmas_that_write_are_the_writers() {
    let fixture = Fixture::new();
    let made = rusqlite::Connection::open(fixture.path()).unwrap();
    made.execute_batch(
        "PRAGMA auto_vacuum=INCREMENTAL; CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)",
    )
    .unwrap();
    drop(made);
    let db = fixture.open();
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) SELECT i FROM n";
    exec(&db, &format!("INSERT INTO t SELECT i, randomblob(3000) FROM ({numbers})"));
    exec(&db, "DELETE FROM t WHERE id > 5");
    let free = || int(&db, "PRAGMA freelist_count");
    let before = free();
    assert!(before > 300);
    assert_eq!(int(&db, "PRAGMA auto_vacuum"), 2);
    exec(&db, "PRAGMA incremental_vacuum(10)");
    assert_eq!(free(), before - 10);
    db.run(Request::query("pragma main . Incremental_Vacuum(10)")).unwrap();
    assert_eq!(free(), before - 20);
    exec(&db, "/* all */ PRAGMA incremental_vacuum");
    assert_eq!(free(), 0);
    for sql in ["PRAGMA optimize", "PRAGMA optimize(0x10002)", "PRAGMA main.optimize = 0x10002", "PRAGMA Optimize;"] {
        exec(&db, sql);
        db.run(Request::query(sql)).unwrap();
    }
    assert_eq!(int(&db, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'"), 1, "it analyzed");
    let tx = begin(&db);
    for sql in ["DELETE FROM t", "PRAGMA incremental_vacuum", "PRAGMA optimize"] {
        tx.run(Request::execute(sql)).unwrap();
    }
    commit(&tx).unwrap();
    assert_eq!((int(&db, "SELECT count(*) FROM t"), free()), (0, 0));
}

/// Only the first statement of a request was looked at: a `COMMIT` behind it was ours, prepared already, and
/// ended the transaction; our own commit then failed, which poisoned the database.
#[test]
fn transaction_control_is_refused_wherever_it_stands() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let tx = begin(&db);
    for sql in ["COMMIT", "ROLLBACK", "SAVEPOINT macula_member", "RELEASE macula_step", "BEGIN IMMEDIATE"] {
        let request = || insert(1).also(vec![(sql.to_owned(), macula_sqlite::Params::None)]);
        assert!(matches!(tx.run(request()), Err(SqliteError::Invalid(_))), "{sql}");
        assert!(matches!(error(&db, request()), SqliteError::Invalid(_)), "{sql}");
    }
    tx.run(insert(2)).unwrap();
    commit(&tx).unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 2);
}

/// Two readers and the connections of hot reads keep a page cache each: too much for an app that was read once.
#[test]
fn what_nobody_reads_any_more_is_closed_and_comes_back() {
    let mut fixture = Fixture::new();
    fixture.options.rest_after = Duration::from_millis(50);
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (7)");
    // each connection has the log open; the file's own descriptors stay while the writer has locks
    let [log, ..] = macula_sqlite::guard::companions(&fixture.path());
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links.filter(|link| std::fs::read_link(link.path()).is_ok_and(|file| file == log)).count()
    };
    let written = open();
    for _ in 0..3 {
        for _ in 0..5 {
            assert_eq!(int(&db, "SELECT id FROM t"), 7);
        }
        assert!(db.query_hot("SELECT id FROM t", &[], |_| {}).is_some());
        assert!(open() > written);
        let mut waited = 0;
        while open() > written {
            assert!(waited < 500, "they stay open");
            waited += 1;
            SystemClock.sleep(Duration::from_millis(10));
        }
    }
}

/// The cache of statements takes more off a text than SQLite does: our own `COMMIT` was found by it, past
/// the authorizer, ended everybody's transaction, and poisoned the app.
#[test]
fn no_text_finds_the_statements_that_are_ours() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id)");
    let spaces = "\u{a0}\u{b}\u{85}\u{1680}\u{2003}\u{2028}\u{202f}\u{205f}\u{3000}\u{feff}";
    for space in spaces.chars() {
        for sql in
            ["COMMIT", "ROLLBACK", "BEGIN IMMEDIATE", "SAVEPOINT macula_member", "RELEASE macula_member", "VACUUM"]
        {
            for text in [format!("{space}{sql}"), format!(" {space}\t{sql}{space}"), format!("{sql}{space}")] {
                let error = error(&db, Request::execute(&*text));
                assert!(matches!(error.kind(), Kind::Invalid | Kind::Unsupported), "{text:?}: {error}");
            }
        }
    }
    exec(&db, "INSERT INTO t VALUES (1)");
}

/// Each statement of a text took a frame of the stack, and the last one the VM.
#[test]
fn a_text_of_very_many_statements() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id)");
    let many = "INSERT INTO t VALUES (1);".repeat(100_000);
    assert_eq!(exec(&db, &many).changes, 100_000);
    assert_eq!(error(&db, Request::query(&*many)).kind(), Kind::Invalid);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 100_000);
    let short = "DELETE FROM t;".repeat(500);
    exec(&db, &short);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 0);
    let long = format!("INSERT INTO t VALUES ('{}') -- one, and no other", "x".repeat(100_000));
    assert_eq!(exec(&db, &long).changes, 1);
}

/// The bound was each statement's.
#[test]
fn the_rows_of_a_batch_have_one_bound() {
    let mut fixture = Fixture::new();
    fixture.options.result_bytes_max = 1 << 20;
    let db = fixture.open();
    let rows = "INSERT INTO t VALUES (zeroblob(700000)) RETURNING b";
    exec(&db, "CREATE TABLE t(b)");
    db.run(Request::query(rows)).unwrap();
    let both = Request::query(rows).also(vec![(rows.to_owned(), Params::None)]);
    assert_eq!(error(&db, both).kind(), Kind::TooLarge);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
}
