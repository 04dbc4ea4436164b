//! Ways to a file that a low-level connection has besides its own path: `ATTACH` and the parameters of a URI.
#![allow(clippy::unwrap_used)]

mod common;

use common::low::*;
use common::other::Other;
use common::*;
use macula_core::{Kind, Kinded};
use macula_sqlite::sqlite3::{Conn, Sqlite3Error, Step};
use macula_sqlite::{guard, Value};
use std::path::Path;
use std::sync::Arc;

fn attach(path: &Path) -> String {
    format!("ATTACH '{}' AS a", path.display())
}

/// Attach what a parameter names.
fn attach_bound(conn: &Arc<Conn>, path: &str) -> Result<Step, Sqlite3Error> {
    let stmt = prepare(conn, "ATTACH ? AS a");
    stmt.bind(1, Value::text(path)).unwrap();
    step(conn, &stmt)
}

/// Its rows were written without the app's turn and gate, and its log was checkpointed by SQLite itself.
#[test]
fn an_apps_file_is_not_attached() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let link = fixture.dir.path().join("link.db");
    std::os::unix::fs::symlink(fixture.path(), &link).unwrap();
    let conn = open(Path::new(":memory:"));
    let uri = format!("file:{}?mode=rw", fixture.path().display());
    for path in [&fixture.path(), &link, Path::new(&uri)] {
        let error = execute(&conn, attach(path)).unwrap_err();
        assert!(error.to_string().contains("ATTACH of an app's database"), "{error}");
        let error = attach_bound(&conn, path.to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("ATTACH of an app's database"), "{error}");
    }
    let joined = format!("ATTACH '{}' || '.db' AS a", fixture.path().with_extension("").display());
    execute(&conn, &*joined).unwrap_err();
    let own = open(&fixture.path());
    execute(&own, attach(&fixture.path())).unwrap_err();
    execute(&own, "INSERT INTO t VALUES (1)").unwrap();
    db.close();
    execute(&conn, attach(&fixture.path())).unwrap();
    execute(&conn, "INSERT INTO a.t VALUES (2); DETACH a").unwrap();
    attach_bound(&conn, fixture.path().to_str().unwrap()).unwrap();
    execute(&conn, "INSERT INTO a.t VALUES (3)").unwrap();
    // an error of SQLite's own is told as such
    assert!(execute(&conn, "ATTACH ':memory:' AS a").unwrap_err().to_string().contains("already in use"));
}

#[test]
fn other_files_and_memory_are_attached() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let conn = open(&fixture.path());
    let copy = fixture.dir.path().join("copy.db");
    execute(&conn, attach(&copy)).unwrap();
    execute(&conn, "CREATE TABLE a.t AS SELECT * FROM t; DETACH a").unwrap();
    assert_eq!(attach_bound(&conn, copy.to_str().unwrap()), Ok(Step::Done));
    execute(&conn, "DETACH a; ATTACH ':memory:' AS a; DETACH a; ATTACH '' AS a; DETACH a").unwrap();
    execute(&conn, format!("VACUUM INTO '{}'", fixture.dir.path().join("vacuumed.db").display())).unwrap();
    let rows = prepare(&open(&copy), "SELECT count(*) FROM t");
    assert_eq!(step(rows.conn(), &rows), Ok(Step::Row));
}

/// Opening and closing it drops the locks of the copy that has it.
#[test]
fn a_file_of_another_copy_is_not_attached() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    let foreign = common::bridged::open(&other, &fixture.path());
    assert_eq!(foreign.exec("CREATE TABLE t(id)"), 0);
    assert!(guard::opened_elsewhere(&fixture.path()).unwrap());
    let conn = open(Path::new(":memory:"));
    assert_eq!(execute(&conn, attach(&fixture.path())).unwrap_err().kind(), Kind::OpenedByOtherSqlite);
    let bound = attach_bound(&conn, fixture.path().to_str().unwrap());
    assert_eq!(bound.unwrap_err().kind(), Kind::OpenedByOtherSqlite);
    drop(foreign);
    execute(&conn, attach(&fixture.path())).unwrap();
}

#[test]
fn a_path_leads_past_no_lock() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let path = fixture.path();
    for params in ["vfs=unix-none", "mode=rw&vfs=unix", "v%66s=unix-dotfile", "nolock=1", "immutable=1"] {
        let error = try_open(format!("file:{}?{params}", path.display())).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{params}: {error}");
    }
    db.close();
    for params in ["nolock=1", "immutable=1", "mode=ro", "cache=private"] {
        drop(try_open(format!("file:{}?{params}", path.display())).unwrap());
    }
    assert!(try_open(format!("file:{}?vfs=unix-none", path.display())).is_err());
    drop(try_open("file:/shared?vfs=memdb".to_owned()).unwrap());
}
