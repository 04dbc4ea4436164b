//! Beside a second, real copy of SQLite in this process: the system's shared library.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // files are made by hand

mod common;

use common::other::Other;
use common::*;
use macula_core::{Disk, Kind, Kinded, RealDisk, RelPath, Stat, Task};
use macula_sqlite::guard::Look;
use macula_sqlite::{copy_other, guard, Request, SqliteError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn seen(path: &Path) -> Stat {
    disk_of(path).0.stat(&disk_of(path).1).unwrap()
}

fn look(path: &Path) -> Look {
    let (disk, name) = disk_of(path);
    guard::looks_like_sqlite(&disk, &name, &seen(path)).unwrap()
}

fn disk_of(path: &Path) -> (RealDisk, RelPath) {
    let name = RelPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
    (RealDisk::at(path.parent().unwrap()).unwrap(), name)
}

#[test]
fn a_file_that_another_copy_has_open_is_refused() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    drop(fixture.open());

    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("CREATE TABLE t(x); INSERT INTO t VALUES (1)"), 0);
    let error = fixture.try_open().unwrap_err();
    assert!(matches!(error, SqliteError::OpenedByOther(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::OpenedByOtherSqlite);
    assert!(error.hint().unwrap().contains("exqlite"));
    let dest = fixture.dir.path().join("copy.db");
    assert!(matches!(
        copy_other(&fixture.path(), &seen(&fixture.path()), &dest, &Task::quiet()),
        Err(SqliteError::OpenedByOther(_))
    ));
    assert!(!dest.exists());
    drop(foreign);

    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
    assert!(!guard::opened_elsewhere(&fixture.path()).unwrap(), "ours do not count");
    let again = fixture.try_open().unwrap();
    assert_eq!(int(&again, "SELECT count(*) FROM t"), 1);
    drop(again);
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("SELECT * FROM t"), 0);
    assert!(guard::opened_elsewhere(&fixture.path()).unwrap(), "found also when it came later");
}

/// Asking whether a file is a database must not drop the locks of who has it open: a plain open and
/// close of the file in this process would.
#[test]
fn looking_at_a_file_keeps_the_locks_of_who_has_it_open() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("CREATE TABLE t(x)"), 0);
    assert_eq!(foreign.exec("BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)"), 0);
    // read in pieces, between which others' locks come and go, it may leave one out, or tell it twice
    let (pid, file) = (std::process::id().to_string(), std::fs::metadata(fixture.path()).unwrap());
    let (dev, ino) = (file.dev(), file.ino());
    let file = format!("{:02x}:{:02x}:{ino}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let of_file = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        (words.contains(&pid.as_str()) && words.contains(&file.as_str())).then(|| words.join(" "))
    };
    let seen = || std::fs::read_to_string("/proc/locks").unwrap().lines().filter_map(of_file).collect::<Vec<_>>();
    let locks = || (0..20).flat_map(|_| seen()).collect::<std::collections::BTreeSet<_>>();
    let before = locks();
    assert!(!before.is_empty());
    assert_eq!(look(&fixture.path()), Look::Database);
    assert!(guard::opened_elsewhere(&fixture.path()).unwrap());
    assert_eq!(guard::other_processes(&fixture.path()).unwrap(), Vec::<u32>::new());
    assert_eq!(locks(), before);
    assert_eq!(foreign.exec("COMMIT"), 0);

    // and ours
    let ours = Fixture::new();
    let db = ours.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    assert_eq!(look(&ours.path()), Look::Database);
    assert_eq!(db.run(Request::query("SELECT 1")).unwrap().rows.len(), 1);
    let plain = ours.dir.path().join("plain");
    std::fs::write(&plain, vec![7; 1024]).unwrap();
    assert_eq!(look(&plain), Look::Other);
    assert_eq!(look(ours.dir.path()), Look::Other);
    // two openers of a plain file do not make it stay open forever
    let held = std::fs::File::open(&plain).unwrap();
    assert!(guard::opened_elsewhere(&plain).unwrap());
    drop(held);
    assert!(!guard::opened_elsewhere(&plain).unwrap());
}
