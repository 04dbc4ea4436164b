//! The disk under a SQLite database: what it keeps, loses, tears and refuses, by SQLite's own eyes.
#![allow(clippy::unwrap_used)]

use macula_testkit::{CrashMode, Fault, SqliteDisk};
use rusqlite::{ffi, Connection, OpenFlags};
use std::path::Path;

struct Fixture {
    dir: tempfile::TempDir,
    disk: SqliteDisk,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = SqliteDisk::at(dir.path()).unwrap();
        Self { dir, disk }
    }

    fn open(&self, synchronous: &str) -> Connection {
        let path = self.dir.path().join("a.db");
        let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), SqliteDisk::VFS).unwrap();
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
        connection.execute_batch(&format!("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous={synchronous}")).unwrap();
        connection
    }

    /// Rows of `t` after a power loss; `None` when the table is not there.
    fn rows_after(&self, mode: CrashMode) -> Option<i64> {
        let dest = tempfile::tempdir().unwrap();
        self.disk.crash_image(mode, dest.path()).unwrap();
        rows(&dest.path().join("a.db"))
    }
}

fn rows(path: &Path) -> Option<i64> {
    let connection = Connection::open(path).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).ok()
}

fn code(error: rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_synced_stays_and_the_rest_may_go() {
    let fixture = Fixture::new();
    let sql = fixture.open("FULL");
    sql.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(fixture.rows_after(CrashMode::LoseAll), Some(1));
    sql.execute_batch("PRAGMA synchronous=OFF; INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(fixture.rows_after(CrashMode::LoseAll), Some(1));
    assert_eq!(fixture.rows_after(CrashMode::KeepAll), Some(3));
    let mut seen = [0; 4];
    for seed in 0..40 {
        assert_eq!(fixture.rows_after(CrashMode::Random(seed)), fixture.rows_after(CrashMode::Random(seed)));
        seen[fixture.rows_after(CrashMode::Random(seed)).unwrap() as usize] += 1;
    }
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > 0 && seen[3] > 0, "{seen:?}");
    // the log of a crash is read, and a checkpoint makes it all durable
    sql.execute_batch("PRAGMA synchronous=FULL; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(sql);
    assert_eq!(fixture.rows_after(CrashMode::LoseAll), Some(3));
}

#[test]
fn a_step_fails_once_or_the_machine_stops_or_the_disk_fills() {
    let fixture = Fixture::new();
    let disk = &fixture.disk;
    let sql = fixture.open("FULL");
    sql.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    let insert = || sql.execute_batch("INSERT INTO t VALUES (2)");
    let first = disk.steps() + 1;
    disk.fail_at(first, Fault::Io);
    assert_eq!(code(insert().unwrap_err()), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(disk.step(first).unwrap(), "write a.db-wal");
    insert().unwrap();
    let syncs = disk.syncs("a.db-wal");
    let last = disk.steps();
    insert().unwrap();
    assert_eq!((disk.step(disk.steps()).unwrap(), disk.syncs("a.db-wal")), ("sync a.db-wal".to_owned(), syncs + 1));
    disk.fail_at(disk.steps() + disk.steps() - last, Fault::Io);
    assert_eq!(code(insert().unwrap_err()), ffi::SQLITE_IOERR_FSYNC);

    disk.set_capacity(Some(disk.used()));
    let full = (0..9).find_map(|_| insert().err()).unwrap();
    assert_eq!(code(full), ffi::SQLITE_FULL);
    disk.set_capacity(None);
    insert().unwrap();

    let before = fixture.rows_after(CrashMode::LoseAll);
    disk.fail_at(disk.steps() + 2, Fault::Crash);
    insert().unwrap_err();
    assert!(disk.has_crashed());
    insert().unwrap_err();
    assert_eq!(fixture.rows_after(CrashMode::LoseAll), before);
}

/// A log whose name was never synced is lost as a whole, and one that was deleted without a sync of
/// the directory can come back.
#[test]
fn names_are_durable_only_when_their_directory_is() {
    let fixture = Fixture::new();
    let sql = fixture.open("FULL");
    sql.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    drop(sql);
    let names = |seed| {
        let dest = tempfile::tempdir().unwrap();
        fixture.disk.crash_image(CrashMode::Random(seed), dest.path()).unwrap();
        std::fs::read_dir(dest.path()).unwrap().count()
    };
    let found: std::collections::BTreeSet<usize> = (0..50).map(names).collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [1, 2], "the deleted log is there or not");

    let fixture = Fixture::new();
    fixture.disk.forget_syncs(true);
    let sql = fixture.open("FULL");
    sql.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(fixture.rows_after(CrashMode::KeepAll), Some(1));
    let dest = tempfile::tempdir().unwrap();
    fixture.disk.crash_image(CrashMode::LoseAll, dest.path()).unwrap();
    assert_eq!(std::fs::read_dir(dest.path()).unwrap().count(), 0);
}
