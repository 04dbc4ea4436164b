//! Copies of one instant, and files that are not what they seem.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // damaged files are made by hand

mod common;

use common::*;
use macula_core::{Cancel, Disk, Kind, Kinded, Progress, RealDisk, RelPath, Stat, Task};
use macula_sqlite::guard::Look;
use macula_sqlite::{copy_other, guard, Database, Request, SqliteError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

fn at(path: &Path) -> (RealDisk, RelPath, Stat) {
    let disk = RealDisk::at(path.parent().unwrap()).unwrap();
    let name = RelPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
    let seen = disk.stat(&name).unwrap();
    (disk, name, seen)
}

fn look(path: &Path) -> Look {
    let (disk, name, seen) = at(path);
    guard::looks_like_sqlite(&disk, &name, &seen).unwrap()
}

fn count(path: &Path, table: &str) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let copy = rusqlite::Connection::open_with_flags(path, flags).unwrap();
    let sound: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let mode: String = copy.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "needs no log");
    copy.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Two tables get a row in each transaction; at every instant they hold equally many.
fn write_pairs(db: &Database, from: i64, stop: &AtomicBool, written: &AtomicU64) {
    for n in from.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        exec(db, &format!("INSERT INTO t VALUES ({n}, randomblob(2000)); INSERT INTO u VALUES ({n}, randomblob(100))"));
        written.fetch_add(1, Ordering::Release);
    }
}

#[test]
fn a_copy_under_load_is_the_pinned_instant() {
    let mut fixture = Fixture::new();
    fixture.options.wal_bytes_max = 64 << 10; // checkpoints all the time
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE TABLE u(id INTEGER PRIMARY KEY, b)");
    exec(&db, "INSERT INTO t SELECT -key - 1, randomblob(3000) FROM json_each('[' || trim(replace(hex(zeroblob(2000)), '00', '1,'), ',') || ']')");
    exec(&db, "UPDATE t SET id = id");
    let _ = query(&db, "SELECT 1");
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let wait_for = |more: u64| {
        let from = written.load(Ordering::Acquire);
        while written.load(Ordering::Acquire) < from + more {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        for writer in 1..=4 {
            let (db, stop, written) = (&db, &stop, &written);
            scope.spawn(move || write_pairs(db, writer * 1_000_000, stop, written));
        }
        let old = 2000;
        for round in 0..12 {
            wait_for(20);
            let closed = fixture.gate.close();
            let pinned = db.pin().unwrap();
            let instant = int(&db, "SELECT count(*) FROM u");
            drop(closed);
            wait_for(50);
            let steps = Arc::new(AtomicU64::new(0));
            let seen = steps.clone();
            let watched = Task::new(Cancel::new(), move |progress: Progress| {
                assert!(progress.bytes_done <= progress.bytes_total);
                seen.fetch_add(1, Ordering::Relaxed);
            });
            let dest = fixture.dir.path().join(format!("it's \"{round}\" 100% ü.db"));
            let bytes = pinned.copy_to(&dest, &watched).unwrap();
            assert_eq!(bytes, std::fs::metadata(&dest).unwrap().len());
            assert!(steps.load(Ordering::Relaxed) > 1, "in steps");
            assert_eq!((count(&dest, "u"), count(&dest, "t")), (instant, instant + old));
            std::fs::remove_file(&dest).unwrap();
        }
        stop.store(true, Ordering::Release);
    });
    db.check(&Cancel::new()).unwrap();
}

#[test]
fn a_copy_is_a_new_file_or_nothing() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t(b) VALUES (randomblob(5000000))");
    let dest = fixture.dir.path().join("copy.db");
    std::fs::write(&dest, "mine").unwrap();
    assert_eq!(db.backup(&dest, &Task::quiet()).unwrap_err().kind(), Kind::Exists);
    assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
    std::fs::remove_file(&dest).unwrap();
    std::os::unix::fs::symlink("elsewhere.db", &dest).unwrap();
    assert_eq!(db.backup(&dest, &Task::quiet()).unwrap_err().kind(), Kind::Exists);
    std::fs::remove_file(&dest).unwrap();
    assert_eq!(db.backup(&fixture.dir.path().join("no/copy.db"), &Task::quiet()).unwrap_err().kind(), Kind::NotFound);

    let cancel = Cancel::new();
    let on_progress = cancel.clone();
    let cancelled = Task::new(cancel, move |_| on_progress.cancel());
    assert_eq!(db.backup(&dest, &cancelled).unwrap_err().kind(), Kind::Cancelled);
    assert!(!dest.exists());

    // through a link above it, and of an empty database
    let real = fixture.dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, fixture.dir.path().join("link")).unwrap();
    db.backup(&fixture.dir.path().join("link/copy.db"), &Task::quiet()).unwrap();
    assert_eq!(count(&real.join("copy.db"), "t"), 1);
    let empty = Fixture::new();
    empty.open().backup(&dest, &Task::quiet()).unwrap();
    assert_eq!(count(&dest, "sqlite_schema"), 0);
}

#[test]
fn other_databases_are_copied_and_left_alone() {
    let fixture = Fixture::new();
    for (mode, clean) in [("delete", true), ("wal", true), ("wal", false)] {
        let dir = fixture.dir.path().join(format!("{mode}{clean}"));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("own.db");
        let flags = rusqlite::OpenFlags::default();
        let own = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
        own.execute_batch(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)"))
            .unwrap();
        if clean {
            drop(own);
        } else {
            let config = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            own.set_db_config(config, true).unwrap();
            drop(own);
            assert!(dir.join("own.db-wal").exists());
        }
        assert_eq!(look(&path), Look::Database);
        let before = snapshot(&dir);
        let dest = fixture.dir.path().join(format!("copy-{mode}{clean}.db"));
        copy_other(&path, &at(&path).2, &dest, &Task::quiet()).unwrap().unwrap();
        assert_eq!(count(&dest, "t"), 2);
        assert_eq!(snapshot(&dir), before, "{mode} {clean}");
    }
}

/// Names and contents of a directory, the index of a log excepted, which is rebuilt at will.
fn snapshot(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.unwrap();
        (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())
    };
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(entry).filter(|(name, _)| !name.ends_with("-shm")).collect();
    all.sort();
    all
}

/// A program that replaced a name while it was copied could have the copy of another file taken for it:
/// the name was resolved anew by whoever opened it next.
#[test]
fn a_file_that_is_no_longer_the_one_that_was_seen_is_not_copied() {
    let fixture = Fixture::new();
    let (own, secret) = (fixture.dir.path().join("own.db"), fixture.dir.path().join("secret.db"));
    for path in [&own, &secret] {
        rusqlite::Connection::open(path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    }
    let (disk, name, seen) = at(&own);
    let dest = fixture.dir.path().join("copy.db");
    std::fs::remove_file(&own).unwrap();
    assert_eq!(copy_other(&own, &seen, &dest, &Task::quiet()).unwrap(), None, "gone");
    std::fs::copy(&secret, &own).unwrap();
    let replaced = Stat { ino: u64::MAX, ..at(&own).2 };
    assert_eq!(copy_other(&own, &replaced, &dest, &Task::quiet()).unwrap(), None, "another file");
    assert_eq!(guard::looks_like_sqlite(&disk, &name, &replaced).unwrap(), Look::Replaced);
    std::fs::remove_file(&own).unwrap();
    std::os::unix::fs::symlink(&secret, &own).unwrap();
    assert_eq!(copy_other(&own, &at(&secret).2, &dest, &Task::quiet()).unwrap(), None, "a link to it");
    guard::looks_like_sqlite(&disk, &name, &seen).expect_err("no link is followed, also out of the tree");
    assert!(!dest.exists());
}

/// Two backups to one destination wrote under one name: the second removed the unfinished file of the
/// first and put its own there, and the first published that, half written, with `:ok`.
#[test]
fn a_copy_that_was_replaced_while_it_was_made_is_no_copy() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t(b) VALUES (randomblob(5000000))");
    let dest = fixture.dir.path().join("copy.db");
    let other = dest.clone();
    let rival = Task::new(Cancel::new(), move |_| {
        let _ = std::fs::remove_file(&other);
        std::fs::write(&other, "half of another copy").unwrap();
    });
    let error = db.backup(&dest, &rival).unwrap_err();
    assert!(error.to_string().contains("replaced the copy"), "{error}");
    assert_eq!(std::fs::read(&dest).unwrap(), b"half of another copy", "not ours to remove");
    std::fs::remove_file(&dest).unwrap();
    // many at once: one makes it, and the others are told that it is there
    let made: Vec<_> = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..8).map(|_| scope.spawn(|| db.backup(&dest, &Task::quiet()))).collect();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
    let kinds: Vec<_> = made.iter().filter_map(|result| result.as_ref().err()).map(Kinded::kind).collect();
    assert_eq!(kinds, [Kind::Exists; 7]);
    assert_eq!(count(&dest, "t"), 1);
}

#[test]
fn what_is_no_database_is_refused_untouched() {
    let fixture = Fixture::new();
    // SQLite takes a file of one byte for an empty database, as some file systems need it
    let garbage: [&[u8]; 3] = [b"xy", &[0x55; 5000], &[0; 4096]];
    for bytes in garbage {
        std::fs::write(fixture.path(), bytes).unwrap();
        let error = fixture.try_open().expect_err(&format!("opened {} bytes", bytes.len()));
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(std::fs::read(fixture.path()).unwrap(), bytes);
        assert_eq!(fixture.names(), ["app.db"]);
        assert_eq!(look(&fixture.path()), Look::Other);
    }
    std::fs::remove_file(fixture.path()).unwrap();

    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)");
    for n in 0..200 {
        db.run(Request::execute(format!("INSERT INTO t VALUES ({n}, randomblob(300))"))).unwrap();
    }
    drop(db);
    let mut bytes = std::fs::read(fixture.path()).unwrap();
    let len = bytes.len();
    bytes[8192..len - 4096].fill(0xa5);
    std::fs::write(fixture.path(), &bytes).unwrap();
    let db = fixture.open();
    assert_eq!(db.check(&Cancel::new()).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(error(&db, Request::query("SELECT sum(length(b)) FROM t")).kind(), Kind::Corrupt);
    assert_eq!(error(&db, Request::execute("UPDATE t SET b = 1")).kind(), Kind::Corrupt);
    drop(db);
    assert_eq!(std::fs::read(fixture.path()).unwrap().len(), len);
}

#[test]
fn a_path_through_a_link_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.open());
    std::os::unix::fs::symlink(fixture.dir.path(), fixture.dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("app.db", fixture.dir.path().join("other.db")).unwrap();
    for name in ["link/app.db", "other.db"] {
        let (gate, clock) = (fixture.gate.clone(), Arc::new(macula_core::SystemClock));
        let error = Database::open(&fixture.dir.path().join(name), gate, clock, fixture.options.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{name}: {error}");
    }
    let (gate, clock) = (fixture.gate.clone(), Arc::new(macula_core::SystemClock));
    let error = Database::open(Path::new("app.db"), gate, clock, fixture.options.clone()).unwrap_err();
    assert!(matches!(error, SqliteError::Invalid(_)));
}

#[test]
fn descriptors_come_back() {
    let open_fds = |dir: &Path| {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(dir))).count()
    };
    let fixture = Fixture::new();
    for n in 0..20 {
        let db = fixture.open();
        exec(&db, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY)");
        query(&db, "SELECT * FROM t");
        db.backup(&fixture.dir.path().join(format!("{n}.db")), &Task::quiet()).unwrap();
        let pinned = db.pin().unwrap();
        assert!(open_fds(fixture.dir.path()) > 0);
        drop(db);
        drop(pinned);
        assert_eq!(open_fds(fixture.dir.path()), 0);
    }
}
