//! The low-level floor: what a connection changed, recorded and told row by row.
#![allow(clippy::unwrap_used)]

mod common;

use common::low::*;
use common::*;
use macula_sqlite::sqlite3::{changes_in, concat, invert, Action, Conn, Event, Policy, Recorder, Resolve, Wants};
use macula_sqlite::Value;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::Arc;

const ROWS: Wants = Wants { rows: true, log: false };

const ABORT: Policy = Policy {
    data: Resolve::Abort,
    not_found: Resolve::Abort,
    conflict: Resolve::Abort,
    constraint: Resolve::Abort,
    foreign_key: Resolve::Abort,
};

fn recording(conn: &Conn) -> Arc<Recorder> {
    let recorder = run(conn, |session| {
        let recorder = session.record("main")?;
        session.record_table(&recorder, None).map(|()| recorder)
    });
    Arc::new(recorder.unwrap())
}

fn recorded(conn: &Conn, recorder: &Arc<Recorder>) -> Vec<u8> {
    let recorder = recorder.clone();
    run(conn, move |session| session.recorded(&recorder, false)).unwrap()
}

#[test]
fn changes_are_applied_to_an_apps_file_in_turn_and_undone() {
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)");
    let (source, dest) = (open(Path::new(":memory:")), open(&fixture.path()));
    execute(&source, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)").unwrap();
    let recorder = recording(&source);
    execute(&source, "INSERT INTO t VALUES (1, 1), (2, 2)").unwrap();
    let mut changes = recorded(&source, &recorder);
    let found = changes_in(&mut changes).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|change| change.table == "t" && change.action == Action::Insert && change.old.is_none()));
    // while the app's own transaction is open, it waits
    let tx = begin(&db);
    tx.run(insert(9)).unwrap();
    let apply = |bytes: Vec<u8>| ask(&dest, &macula_core::Cancel::new(), move |session| session.apply(bytes, &ABORT));
    let applying = apply(changes.clone());
    assert!(applying.recv_timeout(std::time::Duration::from_millis(50)).is_err());
    commit(&tx).unwrap();
    applying.recv().unwrap().unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 12);
    assert!(apply(changes.clone()).recv().unwrap().is_err(), "the rows are there");
    let mut undo = invert(&changes).unwrap();
    assert_eq!(concat(&mut changes, &mut undo).unwrap(), b"");
    apply(undo).recv().unwrap().unwrap();
    assert_eq!(int(&db, "SELECT sum(id) FROM t"), 9);
}

/// SQLite would take the listener's context for a recorder, and follow pointers that are none.
#[test]
fn recorders_and_listeners_to_rows_exclude_each_other() {
    let conn = open(Path::new(":memory:"));
    execute(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)").unwrap();
    let listen = || run(&conn, |session| session.listen_as(ROWS, |_| |_: Event<'_>| true));
    let first = recording(&conn);
    let second = recording(&conn);
    assert!(listen().is_err());
    drop(first);
    execute(&conn, "INSERT INTO t VALUES (1, 1)").unwrap();
    assert!(!recorded(&conn, &second).is_empty());
    drop(second);
    let id = listen().unwrap();
    assert!(run(&conn, |session| session.record("main")).is_err());
    execute(&conn, "DELETE FROM t").unwrap();
    run(&conn, move |session| {
        session.unlisten(id);
        Ok(())
    })
    .unwrap();
    let third = recording(&conn);
    execute(&conn, "INSERT INTO t VALUES (2, 2)").unwrap();
    assert!(!recorded(&conn, &third).is_empty());
    // closed with a recorder on it, which is dropped later
    let (done, is_done) = channel();
    conn.close(move || done.send(()).unwrap()).unwrap();
    is_done.recv().unwrap();
    drop(third);
}

#[test]
fn rows_are_told_with_their_values_and_only_to_who_asked() {
    let conn = open(Path::new(":memory:"));
    execute(&conn, "CREATE TABLE t(id INTEGER PRIMARY KEY, n)").unwrap();
    let (tell, told) = channel();
    let others = tell.clone();
    run(&conn, move |session| {
        session.listen(move |event| others.send(format!("{event:?}")).is_ok())?;
        session.listen_as(ROWS, |_| {
            move |event: Event<'_>| match event {
                Event::Row(change) => tell.send(format!("{:?} {:?}", change.old, change.new)).is_ok(),
                _ => true,
            }
        })
    })
    .unwrap();
    execute(&conn, "INSERT INTO t VALUES (1, 'a')").unwrap();
    let row = [Value::Integer(1), Value::text("a")];
    assert_eq!(told.recv().unwrap(), format!("None {:?}", Some(&row)));
    let then: Vec<String> = told.try_iter().collect();
    assert!(then.iter().all(|event| !event.contains("RowChange")), "{then:?}");
    execute(&conn, "DELETE FROM t").unwrap();
    assert_eq!(told.recv().unwrap(), format!("{:?} None", Some(&row)));
}
