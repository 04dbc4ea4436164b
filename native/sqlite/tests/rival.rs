//! Another copy of SQLite in this process that opens our file after we did.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a log is removed by hand

mod common;

use common::other::Other;
use common::*;
use macula_core::{Cancel, Clock, Kind, Kinded, SystemClock, Task};
use macula_sqlite::{Request, SqliteError};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn fixture() -> (Fixture, Arc<Leaping>, macula_sqlite::Database) {
    let mut fixture = Fixture::new();
    // a second reader would have to open the file, which is refused here, whenever the first one is slow
    fixture.options.reader_count = 1;
    // no look at an idle tick: what is looked at here is looked at for a write
    fixture.options.checkpoint_after_idle = Duration::from_secs(3600);
    let clock = Arc::new(Leaping::default());
    let db = fixture.open_at(clock.clone()).unwrap();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    db.run(insert(1)).unwrap();
    (fixture, clock, db)
}

fn opened_by_other<T: std::fmt::Debug>(result: Result<T, SqliteError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, SqliteError::OpenedByOther(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::OpenedByOtherSqlite);
}

/// We looked for another copy when we opened the file, and never again: exqlite could open it later, and
/// its close dropped our locks while we went on writing.
#[test]
fn a_copy_that_comes_later_stops_what_writes_until_it_is_gone() {
    let (fixture, clock, db) = fixture();
    let other = std::fs::File::open(fixture.path()).unwrap();
    clock.leap(SECOND);
    for _ in 0..2 {
        opened_by_other(db.run(insert(2)));
        opened_by_other(db.transaction(SECOND, Cancel::new()));
    }
    opened_by_other(db.pin());
    opened_by_other(db.check(&Cancel::new()));
    opened_by_other(db.backup(&fixture.dir.path().join("copy.db"), &Task::quiet()));
    opened_by_other(db.run(Request::query("SELECT * FROM t"))); // the first read opens a connection
    drop(other);
    clock.leap(SECOND);
    db.run(insert(3)).unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 4);

    // reads on a connection that is there go on
    let other = std::fs::File::open(fixture.path()).unwrap();
    clock.leap(SECOND);
    opened_by_other(db.run(insert(4)));
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 4);
    // closed meanwhile: nothing of the log goes into a file that another may be writing
    db.close();
    assert_eq!(fixture.names(), ["app.db", "app.db-shm", "app.db-wal"]);
    drop(other);
    assert_eq!(int(&fixture.open(), "SELECT sum(id) FROM t"), 4);
}

/// Also one that comes while a transaction is open: it is looked for again before the commit.
#[test]
fn a_copy_that_comes_during_a_transaction_stops_its_commit() {
    let (fixture, clock, db) = fixture();
    let tx = db.transaction(Duration::from_secs(600), Cancel::new()).unwrap();
    tx.run(insert(2)).unwrap();
    let other = std::fs::File::open(fixture.path()).unwrap();
    clock.leap(Duration::from_secs(2));
    opened_by_other(commit(&tx));
    drop(other);
    clock.leap(SECOND);
    db.run(insert(3)).unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 4, "what was refused is not there");
}

/// A real copy's last connection removes the log when it closes. What we committed after that went into
/// a file without a name: acknowledged, read back by us, and gone at the next opening.
#[test]
fn a_copy_that_took_the_log_with_it_poisons() {
    let Some(other) = Other::load() else { return };
    for late in [false, true] {
        let (fixture, clock, db) = fixture();
        assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
        let foreign = other.open(&fixture.path());
        assert_eq!(foreign.exec("INSERT INTO t VALUES (10)"), 0);
        if late {
            clock.leap(SECOND);
            opened_by_other(db.run(insert(2)));
        }
        drop(foreign);
        assert!(!fixture.names().contains(&"app.db-wal".to_owned()), "a close that removes it is what this is about");
        clock.leap(SECOND);
        for _ in 0..2 {
            assert_eq!(db.run(insert(3)).unwrap_err().kind(), Kind::Poisoned);
        }
        db.close();
        let db = fixture.open();
        db.check(&Cancel::new()).unwrap();
        db.run(insert(4)).unwrap();
        assert_eq!(int(&db, "SELECT sum(id) FROM t"), 15, "every acknowledged row, and no other");
    }
}

/// The log goes between the look and the commit, which waits at the gate there: not acknowledged either.
#[test]
fn a_commit_into_a_log_that_is_gone_is_not_acknowledged() {
    let (fixture, _clock, db) = fixture();
    let closed = fixture.gate.close();
    let (answer, answered) = std::sync::mpsc::channel();
    db.submit(insert(2), move |result| answer.send(result).unwrap()).unwrap();
    // should it not be at the gate yet, it sees the log gone before: `Poisoned`
    SystemClock.sleep(Duration::from_millis(200));
    std::fs::remove_file(fixture.dir.path().join("app.db-wal")).unwrap();
    drop(closed);
    let kind = answered.recv().unwrap().unwrap_err().kind();
    assert!(matches!(kind, Kind::UnknownResult | Kind::Poisoned), "{kind:?}");
    assert_eq!(db.run(insert(3)).unwrap_err().kind(), Kind::Poisoned);
}
