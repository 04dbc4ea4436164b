//! SIGKILL at random moments: what was acknowledged is there, and the database is sound.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // a child process, told by its environment what to do

mod common;

use common::*;
use macula_core::Cancel;
use macula_sqlite::{Database, Value};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "MACULA_SQLITE_CRASH_CHILD";

/// Not a test of its own: what the parent starts and kills.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut fixture = Fixture::new();
    fixture.options.wal_bytes_max = 128 << 10; // so that some die in a checkpoint
    let path = Path::new(&path);
    let clock = Arc::new(macula_core::SystemClock);
    let db = Database::open(path, fixture.gate.clone(), clock, fixture.options.clone()).unwrap();
    let first = match query(&db, "SELECT coalesce(max(id), 0) FROM t")[0][0] {
        Value::Integer(last) => last + 1,
        ref other => panic!("{other:?}"),
    };
    let db = &db;
    std::thread::scope(|scope| {
        for writer in 0..8 {
            scope.spawn(move || {
                for n in 0.. {
                    let id = first + n * 8 + writer;
                    let both = format!("INSERT INTO t VALUES ({id}, randomblob(500)); INSERT INTO u VALUES ({id})");
                    exec(db, &both);
                    // one write call: a line is whole or absent
                    std::io::stderr().write_all(format!("ack {id}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn acknowledged_rows_survive_sigkill() {
    let rounds = if std::env::var("MACULA_TORTURE").is_ok() { 300 } else { 20 };
    let seed =
        std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("MACULA_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let fixture = Fixture::new();
    let db = fixture.open();
    exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE TABLE u(id INTEGER PRIMARY KEY)");
    drop(db);
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, fixture.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_micros(chance.u64(0..120_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in std::iter::once(Ok(first)).chain(lines) {
            let line = line.unwrap();
            let id = line.strip_prefix("ack ").and_then(|id| id.parse::<i64>().ok());
            acknowledged.insert(id.unwrap_or_else(|| panic!("round {round}: {line}")));
        }
        let db = fixture.open();
        let present: BTreeSet<i64> = ids(&db, "t");
        assert!(acknowledged.is_subset(&present), "round {round}: {:?}", acknowledged.difference(&present));
        assert_eq!(present, ids(&db, "u"), "round {round}: half a transaction");
        db.check(&Cancel::new()).unwrap();
    }
    println!("{rounds} rounds, {} acknowledged", acknowledged.len());
    assert_eq!(fixture.names(), ["app.db"]);
}

fn ids(db: &Database, table: &str) -> BTreeSet<i64> {
    let rows = query(db, &format!("SELECT id FROM {table}"));
    let id = |row: Vec<Value>| match row[0] {
        Value::Integer(id) => id,
        ref other => panic!("{other:?}"),
    };
    rows.into_iter().map(id).collect()
}
