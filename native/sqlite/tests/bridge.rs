//! The bridge between two real copies of SQLite in one process: nothing that either acknowledged is lost.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)] // children, pauses, counts

mod common;

use common::bridged::*;
use common::other::Other;
use common::*;
use macula_core::{Cancel, Clock, Kind, Kinded, SystemClock, Task};
use macula_sqlite::bridge::{self, Status};
use macula_sqlite::{copy_other, guard, Database, Options, Params, Request, SqliteError, Value};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn row(id: i64, by: &str) -> Request {
    let params = vec![Value::Integer(id), Value::Text(by.as_bytes().to_vec()), Value::Blob(vec![7; 300])];
    Request::execute("INSERT INTO t VALUES (?, ?, ?)").params(Params::Positional(params)).deadline(60 * SECOND)
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, by TEXT, b BLOB)";

#[test]
fn without_the_bridge_the_guard_refuses() {
    let Some(other) = Other::load() else { return };
    let fixture = Fixture::new();
    let foreign = open(&other, &fixture.path());
    assert_eq!(bridge::status(), Status::NotLoaded);
    let error = fixture.try_open().unwrap_err();
    assert_eq!(error.kind(), Kind::OpenedByOtherSqlite);
    assert!(error.hint().unwrap().contains("extension"), "{:?}", error.hint());
    drop(foreign);
    drop(fixture.open());
}

/// What is acknowledged to each, by id.
#[derive(Default)]
struct Told {
    ids: Mutex<BTreeSet<i64>>,
    next: AtomicI64,
}

impl Told {
    fn take(&self) -> i64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, id: i64) {
        self.ids.lock().unwrap().insert(id);
    }

    fn count(&self) -> usize {
        self.ids.lock().unwrap().len()
    }
}

#[derive(Default)]
struct Counts {
    host: AtomicUsize,
    ours: AtomicUsize,
    host_opened: AtomicUsize,
    ours_opened: AtomicUsize,
    reads: AtomicUsize,
    host_checkpoints: AtomicUsize,
    backups: AtomicUsize,
}

struct Storm<'a> {
    other: &'a Other,
    fixture: &'a Fixture,
    told: Told,
    counts: Counts,
    done: AtomicBool,
}

const HOST_ROWS: usize = 1500;
const OUR_ROWS: usize = 1500;

impl Storm<'_> {
    fn going(&self) -> bool {
        !self.done.load(Ordering::SeqCst)
    }

    fn host_writes(&self, seed: u64) {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut foreign = open(self.other, &self.fixture.path());
        for _ in 0..HOST_ROWS {
            if chance.u32(..40) == 0 {
                drop(foreign);
                foreign = open(self.other, &self.fixture.path());
                self.counts.host_opened.fetch_add(1, Ordering::SeqCst);
            }
            let id = self.told.take();
            let insert = format!("INSERT INTO t VALUES ({id}, 'host', zeroblob({}))", chance.u32(1..600));
            // the host's own checkpoints: at each 1000 pages by default, and by hand here
            assert_eq!(foreign.exec(&insert), 0);
            self.told.note(id);
            self.counts.host.fetch_add(1, Ordering::SeqCst);
            if chance.u32(..50) == 0 {
                let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][chance.usize(..4)];
                assert_eq!(foreign.exec(&format!("PRAGMA wal_checkpoint({mode})")), 0);
                self.counts.host_checkpoints.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn we_write(&self, db: &Database, seed: u64) {
        let mut chance = fastrand::Rng::with_seed(seed);
        for _ in 0..OUR_ROWS {
            let id = self.told.take();
            if chance.u32(..10) == 0 {
                let tx = db.transaction(60 * SECOND, Cancel::new()).unwrap();
                tx.run(row(id, "ours")).unwrap();
                commit(&tx).unwrap();
            } else {
                db.run(row(id, "ours")).unwrap();
            }
            self.told.note(id);
            self.counts.ours.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A second database of ours that comes and goes.
    fn we_come_and_go(&self, seed: u64) {
        let mut chance = fastrand::Rng::with_seed(seed);
        while self.going() {
            let db = self.fixture.open();
            for _ in 0..chance.usize(1..20) {
                let id = self.told.take();
                db.run(row(id, "ours")).unwrap();
                self.told.note(id);
                self.counts.ours.fetch_add(1, Ordering::SeqCst);
            }
            db.close();
            self.counts.ours_opened.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn read(&self, db: &Database) {
        let foreign = open(self.other, &self.fixture.path());
        while self.going() {
            // nothing that was acknowledged is missing, to either copy
            let told = self.told.count() as i64;
            assert!(int(db, "SELECT count(*) FROM t") >= told);
            let told = self.told.count() as i64;
            let seen: i64 = foreign.ask("SELECT count(*) FROM t").unwrap().parse().unwrap();
            assert!(seen >= told, "{seen} < {told}");
            self.counts.reads.fetch_add(2, Ordering::SeqCst);
        }
    }

    fn back_up(&self, db: &Database) {
        while self.going() {
            let told: BTreeSet<i64> = self.told.ids.lock().unwrap().clone();
            let n = self.counts.backups.fetch_add(1, Ordering::SeqCst);
            let copy = self.fixture.dir.path().join(format!("copy-{n}.db"));
            db.backup(&copy, &Task::quiet()).unwrap();
            db.check(&Cancel::new()).unwrap();
            let copied = Database::open(&copy, self.fixture.gate.clone(), Arc::new(SystemClock), Options::default());
            let copied = copied.unwrap();
            copied.check(&Cancel::new()).unwrap();
            let found = ids(&copied);
            assert!(told.is_subset(&found), "lost in the copy: {:?}", told.difference(&found).collect::<Vec<_>>());
            drop(copied);
            std::fs::remove_file(copy).unwrap();
            SystemClock.sleep(Duration::from_millis(100));
        }
    }
}

fn ids(db: &Database) -> BTreeSet<i64> {
    let id = |row: &Vec<Value>| match row[0] {
        Value::Integer(id) => id,
        ref other => panic!("{other:?}"),
    };
    query(db, "SELECT id FROM t").iter().map(id).collect()
}

/// Two copies without it made a file malformed within seconds (facts of the spike).
#[test]
fn both_write_thousands_of_rows_and_none_is_lost() {
    if !in_own_process("both_write_thousands_of_rows_and_none_is_lost") {
        return;
    }
    let seed =
        std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("  MACULA_SEED={seed}");
    let Some(other) = bridged() else { return };
    let mut fixture = Fixture::new();
    fixture.options.wal_bytes_max = 256 << 10;
    fixture.options.busy_timeout = 60 * SECOND;
    fixture.options.checkpoint_after_idle = Duration::from_millis(5);
    let first = open(&other, &fixture.path());
    assert_eq!(first.exec(TABLE), 0);
    assert_eq!(bridge::status(), Status::Built);
    let db = fixture.open();
    let told = Told::default();
    let storm =
        Storm { other: &other, fixture: &fixture, told, counts: Counts::default(), done: AtomicBool::default() };
    std::thread::scope(|scope| {
        let (storm, db) = (&storm, &db);
        let host = (0..2).map(|n| scope.spawn(move || storm.host_writes(seed + n)));
        let ours = (0..3).map(|n| scope.spawn(move || storm.we_write(db, seed + 10 + n)));
        let writers: Vec<_> = host.collect::<Vec<_>>().into_iter().chain(ours.collect::<Vec<_>>()).collect();
        scope.spawn(move || storm.we_come_and_go(seed + 20));
        scope.spawn(move || storm.read(db));
        scope.spawn(move || storm.back_up(db));
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join().is_ok()).collect();
        storm.done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(|sound| *sound));
    });
    assert_eq!(first.ask("PRAGMA integrity_check").unwrap(), "ok");
    db.check(&Cancel::new()).unwrap();
    let told = storm.told.ids.into_inner().unwrap();
    assert_eq!(ids(&db), told, "every acknowledged row, and no other");
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    let counts = &storm.counts;
    println!(
        "  rows={} host={} ours={} host_opened={} ours_opened={} reads={} host_checkpoints={} backups={}",
        told.len(),
        count(&counts.host),
        count(&counts.ours),
        count(&counts.host_opened),
        count(&counts.ours_opened),
        count(&counts.reads),
        count(&counts.host_checkpoints),
        count(&counts.backups)
    );
    // the last one of all removes the log, whichever copy's it is
    if seed.is_multiple_of(2) {
        drop(first);
        drop(db);
    } else {
        drop(db);
        assert!(fixture.names().contains(&"app.db-wal".to_owned()));
        drop(first);
    }
    // a copy whose last descriptor the host still counted as somebody's may leave its empty log behind
    let names: Vec<_> = fixture.names().into_iter().filter(|name| !name.starts_with("copy-")).collect();
    assert_eq!(names, ["app.db"]);
    assert_eq!(ids(&fixture.open()), told);
}

/// The last connection of a copy checkpoints, and removes the log and its index. It is not the last one
/// while the other copy has the file open through the same VFS.
#[test]
fn whoever_closes_first_takes_nothing_from_the_other() {
    if !in_own_process("whoever_closes_first_takes_nothing_from_the_other") {
        return;
    }
    let Some(other) = bridged() else { return };
    let fixture = Fixture::new();
    drop(open(&other, &fixture.path()));
    assert!(guard::opened_elsewhere(&fixture.path()).is_ok_and(|opened| !opened));
    // ours first, the host's later: no look at the file refuses anything
    let clock = Arc::new(Leaping::default());
    let db = fixture.open_at(clock.clone()).unwrap();
    exec(&db, TABLE);
    assert!(!guard::opened_elsewhere(&fixture.path()).unwrap(), "ours do not count, through the bridge either");
    let both = ["app.db", "app.db-shm", "app.db-wal"];
    for round in 0..20 {
        let foreign = open(&other, &fixture.path());
        assert!(guard::opened_elsewhere(&fixture.path()).unwrap());
        assert_eq!(foreign.exec(&format!("INSERT INTO t VALUES ({round}, 'host', NULL)")), 0);
        clock.leap(SECOND);
        db.run(row(100 + round, "ours")).unwrap();
        assert_eq!(foreign.exec("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
        assert!(guard::used_elsewhere(&fixture.path()).unwrap());
        drop(foreign);
        // its descriptor stays while we have locks; that it does not use the file any more is seen
        assert!(!guard::used_elsewhere(&fixture.path()).unwrap());
        assert_eq!(fixture.names(), both, "the host is not the last one");
        db.run(row(200 + round, "ours")).unwrap();
    }
    let foreign = open(&other, &fixture.path());
    db.close();
    assert_eq!(fixture.names(), both, "and we are not");
    assert_eq!(foreign.exec("INSERT INTO t VALUES (1000, 'host', NULL)"), 0);
    assert_eq!(foreign.ask("PRAGMA integrity_check").unwrap(), "ok");
    let db = fixture.open();
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 61);
    drop(foreign);
    drop(db);
    assert_eq!(fixture.names(), ["app.db"]);
    assert!(!guard::opened_elsewhere(&fixture.path()).unwrap());
    assert_eq!(int(&fixture.open(), "SELECT count(*) FROM t"), 61);
}

/// A file that we opened before there was a bridge is one that two copies have open: writes are refused
/// until it is opened anew, through the bridge.
#[test]
fn a_file_that_was_open_before_is_refused_until_reopened() {
    if !in_own_process("a_file_that_was_open_before_is_refused_until_reopened") {
        return;
    }
    let Some(other) = bridged() else { return };
    let fixture = Fixture::new();
    let clock = Arc::new(Leaping::default());
    let db = fixture.open_at(clock.clone()).unwrap();
    exec(&db, TABLE);
    let foreign = other.open(&fixture.path());
    assert_eq!(bridge::status(), Status::Built);
    clock.leap(SECOND);
    let refused = |error: SqliteError| assert_eq!(error.kind(), Kind::OpenedByOtherSqlite, "{error}");
    refused(db.run(row(1, "ours")).unwrap_err());
    refused(db.pin().unwrap_err());
    refused(fixture.try_open().unwrap_err());
    let seen = disk_of(&fixture.path());
    let dest = fixture.dir.path().join("copy.db");
    refused(copy_other(&fixture.path(), &seen, &dest, &Task::quiet()).unwrap_err());
    db.close();
    assert_eq!(fixture.names(), ["app.db", "app.db-shm", "app.db-wal"], "nothing is taken from the host");
    let db = fixture.open();
    db.run(row(2, "ours")).unwrap();
    assert_eq!(foreign.exec("INSERT INTO t VALUES (3, 'host', NULL)"), 0);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 2);
    assert_eq!(foreign.ask("PRAGMA integrity_check").unwrap(), "ok");
    // an app's other databases, which a backup copies
    assert!(copy_other(&fixture.path(), &seen, &dest, &Task::quiet()).unwrap().is_some());
    assert!(dest.exists());
}

fn disk_of(path: &Path) -> macula_core::Stat {
    use macula_core::Disk;
    let name = macula_core::RelPath::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
    macula_core::RealDisk::at(path.parent().unwrap()).unwrap().stat(&name).unwrap()
}

#[test]
fn a_file_without_a_log_is_refused_by_name() {
    if !in_own_process("a_file_without_a_log_is_refused_by_name") {
        return;
    }
    let Some(other) = bridged() else { return };
    let fixture = Fixture::new();
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.exec("PRAGMA journal_mode=DELETE; CREATE TABLE t(x); INSERT INTO t VALUES (1)"), 0);
    let seen = disk_of(&fixture.path());
    let copy = copy_other(&fixture.path(), &seen, &fixture.dir.path().join("copy.db"), &Task::quiet());
    for error in [fixture.try_open().unwrap_err(), copy.unwrap_err()] {
        assert!(matches!(error, SqliteError::Unlogged(_)), "{error:?}");
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("not in WAL mode"), "{error}");
        assert!(error.hint().unwrap().contains("journal_mode=WAL"));
    }
    assert_eq!(foreign.ask("PRAGMA journal_mode").unwrap(), "delete", "not changed under its eyes");
    assert_eq!(fixture.names(), ["app.db"]);
    // one that nobody has open is ours to change
    drop(foreign);
    drop(fixture.open());
    let foreign = other.open(&fixture.path());
    assert_eq!(foreign.ask("PRAGMA journal_mode").unwrap(), "wal");
    drop(fixture.open());
    // an empty one has no mode yet
    let empty = Fixture::new();
    let foreign = other.open(&empty.path());
    assert_eq!(foreign.exec("BEGIN; SELECT * FROM sqlite_schema; COMMIT"), 0);
    let db = empty.open();
    exec(&db, TABLE);
    assert_eq!(foreign.exec("INSERT INTO t VALUES (1, 'host', NULL)"), 0);
    assert_eq!(int(&db, "SELECT count(*) FROM t"), 1);
}

/// Another OS process sees the locks of both copies, also after connections of both were closed: what
/// POSIX locks are dropped by, which is how a row that was acknowledged got lost without the bridge.
#[test]
fn another_process_keeps_out_and_is_kept_out() {
    const NAME: &str = "another_process_keeps_out_and_is_kept_out";
    if !in_own_process(NAME) {
        return;
    }
    let Some(other) = bridged() else { return };
    let mut fixture = Fixture::new();
    fixture.options.busy_timeout = Duration::from_millis(100);
    // no checkpoint of ours but those at opening and closing, so that a lock is somebody's transaction
    fixture.options.checkpoint_after_idle = Duration::from_secs(3600);
    let foreign = open(&other, &fixture.path());
    assert_eq!(foreign.exec(TABLE), 0);
    let db = fixture.open();
    let mut child = command("stranger");
    child.arg("--ignored").env("MACULA_DB", fixture.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut into = child.stdin.take().unwrap();
    let mut from = BufReader::new(child.stdout.take().unwrap());
    let mut say = |sql: &str| -> c_int {
        writeln!(into, "{sql}").unwrap();
        loop {
            let mut line = String::new();
            assert!(from.read_line(&mut line).unwrap() > 0, "the stranger is gone");
            if let Some(code) = line.strip_prefix("code=") {
                return code.trim().parse().unwrap();
            }
        }
    };
    const BUSY: c_int = 5;
    assert_eq!(say("PRAGMA busy_timeout=60000; INSERT INTO t VALUES (1, 'stranger', NULL); PRAGMA busy_timeout=0"), 0);
    for round in 0..10 {
        // what closes, of both copies, drops no lock of what stays
        drop((fixture.open(), open(&other, &fixture.path())));
        let tx = begin(&db);
        tx.run(row(100 + round, "ours")).unwrap();
        drop((open(&other, &fixture.path()), db.pin().unwrap()));
        assert_eq!(say("BEGIN IMMEDIATE"), BUSY);
        assert_eq!(foreign.exec("PRAGMA busy_timeout=0; BEGIN IMMEDIATE"), BUSY);
        commit(&tx).unwrap();
        assert_eq!(foreign.exec(&format!("BEGIN IMMEDIATE; INSERT INTO t VALUES ({}, 'host', NULL)", 200 + round)), 0);
        drop((fixture.open(), db.pin().unwrap()));
        assert_eq!(say("BEGIN IMMEDIATE"), BUSY);
        let locked = |error: SqliteError| {
            assert_eq!(error.kind(), Kind::LockHeld);
            let text = error.to_string();
            assert!(text.contains(&format!("pids=[{}] or=the bridged copy", child.id())), "{text}");
        };
        // without a deadline: so it is the lock that it waited for, not its turn
        locked(error(&db, Request::execute("DELETE FROM t")));
        assert_eq!(foreign.exec("COMMIT"), 0);
        assert_eq!(say(&format!("BEGIN IMMEDIATE; INSERT INTO t VALUES ({}, 'stranger', NULL)", 300 + round)), 0);
        assert_eq!(foreign.exec("BEGIN IMMEDIATE"), BUSY);
        locked(error(&db, Request::execute("DELETE FROM t")));
        assert_eq!(say("COMMIT"), 0);
    }
    // the stranger's last close is not the last one
    drop(into);
    assert!(child.wait().unwrap().success());
    assert!(fixture.names().contains(&"app.db-wal".to_owned()));
    db.run(row(1000, "ours")).unwrap();
    assert_eq!(foreign.ask("SELECT count(*) FROM t").unwrap(), "32");
    assert_eq!(foreign.ask("PRAGMA integrity_check").unwrap(), "ok");
    db.check(&Cancel::new()).unwrap();
}

/// That process: statements by lines, with the system's copy of SQLite, which knows no bridge.
#[test]
#[ignore = "a child of another test"]
fn stranger() {
    if !is_child("stranger") {
        return;
    }
    let other = Other::load().unwrap();
    let foreign = other.open(Path::new(&std::env::var("MACULA_DB").unwrap()));
    for line in std::io::stdin().lines() {
        println!("\ncode={}", foreign.exec(&line.unwrap()));
    }
}

/// Killed in the middle of both copies' writes: the next process, without a bridge, finds all that either
/// was told.
#[test]
fn killed_while_both_write() {
    if is_child("killed_while_both_write") {
        return write_until_killed(Path::new(&std::env::var("MACULA_DB").unwrap()));
    }
    if Other::load().is_none() {
        return;
    }
    let fixture = Fixture::new();
    let mut told = BTreeSet::new();
    for round in 0..4 {
        let start = round * 1_000_000;
        let mut child = command("killed_while_both_write");
        child.env("MACULA_DB", fixture.path()).env("MACULA_START", start.to_string());
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(id) = line.strip_prefix("told=") else { continue };
            seen += usize::from(told.insert(id.parse::<i64>().unwrap()));
            if seen == 300 {
                child.kill().unwrap(); // lines that are in the pipe are still read
            }
        }
        child.wait().unwrap();
        let db = fixture.open();
        db.check(&Cancel::new()).unwrap();
        let found = ids(&db);
        assert!(told.is_subset(&found), "lost: {:?}", told.difference(&found).collect::<Vec<_>>());
    }
    println!("  told={} kills=4", told.len());
}

fn write_until_killed(path: &Path) {
    let Some(other) = bridged() else { return };
    let next = AtomicI64::new(std::env::var("MACULA_START").unwrap().parse().unwrap());
    let mut options = Options { wal_bytes_max: 64 << 10, ..Options::default() };
    options.busy_timeout = 60 * SECOND;
    let first = open(&other, path);
    assert_eq!(first.exec(TABLE), 0);
    let db = Database::open(path, Fixture::new().gate, Arc::new(SystemClock), options).unwrap();
    let tell = |id: i64| {
        // one write each, so that no line is cut by another's
        std::io::stdout().lock().write_all(format!("\ntold={id}\n").as_bytes()).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| loop {
            let id = next.fetch_add(1, Ordering::SeqCst);
            db.run(row(id, "ours")).unwrap();
            tell(id);
        });
        scope.spawn(|| loop {
            let foreign = open(&other, path);
            for _ in 0..20 {
                let id = next.fetch_add(1, Ordering::SeqCst);
                assert_eq!(foreign.exec(&format!("INSERT INTO t VALUES ({id}, 'host', zeroblob(300))")), 0);
                tell(id);
            }
        });
    });
}
