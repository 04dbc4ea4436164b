//! Power loss and failing calls at every step that SQLite takes on the disk: what was acknowledged
//! is there, nothing is there by half, nobody was told a lie.
//!
//! An ordinary run takes a slice of the steps, for some seconds a test; with `MACULA_TORTURE=1` every
//! step of several seeds. The seed is printed as `MACULA_SEED=`, and replays with it; a failure names its
//! own seed and step, and with `MACULA_STEP=` too that one is tried over and over.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

mod common;
#[path = "power_loss/ledger.rs"]
mod ledger;
#[path = "power_loss/workload.rs"]
mod workload;

use ledger::{End, Seen};
use macula_core::{Cancel, Clock, Gate, Kind, Kinded, SystemClock};
use macula_sqlite::{Database, Options, Request, Synchronous, Value};
use macula_testkit::{CrashMode, Fault, SqliteDisk};
use std::sync::Arc;
use std::time::Duration;
use workload::{Workload, LOG};

/// How long an ordinary run of one test looks for a fault.
const SLICE: Duration = Duration::from_secs(5);

/// Which runs a test makes, and what they came to.
struct Torture {
    name: &'static str,
    seeds: Vec<u64>,
    until: Option<Duration>,
    chance: fastrand::Rng,
    operations: u64,
    crashes: u64,
}

impl Torture {
    fn new(name: &'static str) -> Self {
        let given = std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("MACULA_SEED={seed}");
        let torture = std::env::var("MACULA_TORTURE").is_ok();
        let seeds = (0..if torture { 4 } else { 1 }).map(|n| seed.wrapping_add(n)).collect();
        let until = (!torture).then(|| SystemClock.monotonic() + SLICE);
        Self { name, seeds, until, chance: fastrand::Rng::with_seed(seed), operations: 0, crashes: 0 }
    }

    /// The steps of a life with its seed, in random order so that a slice is spread over it; every other
    /// one is a sync, as long as there are any.
    fn lives(&mut self, synchronous: Synchronous) -> Vec<(u64, u64)> {
        let (mut syncs, mut others) = (Vec::new(), Vec::new());
        for seed in self.seeds.clone() {
            let steps = steps_of(seed, synchronous);
            println!("seed {seed}: {} steps", steps.len());
            for (n, step) in (1..).zip(steps) {
                if step.starts_with("sync") { &mut syncs } else { &mut others }.push((seed, n));
            }
        }
        if let Some(only) = std::env::var("MACULA_STEP").ok().and_then(|step| step.parse().ok()) {
            return vec![(self.seeds[0], only); 1000];
        }
        self.chance.shuffle(&mut syncs);
        self.chance.shuffle(&mut others);
        let (mut syncs, mut others) = (syncs.into_iter(), others.into_iter());
        let pairs = std::iter::from_fn(|| Some([syncs.next(), others.next()]));
        pairs.take_while(|pair| pair.iter().any(Option::is_some)).flatten().flatten().collect()
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| SystemClock.monotonic() >= until)
    }

    /// Modes of a crash: the two extremes, and what chance leaves.
    fn modes(&mut self) -> [CrashMode; 4] {
        let mut random = || CrashMode::Random(self.chance.u64(..));
        [CrashMode::LoseAll, CrashMode::KeepAll, random(), random()]
    }

    /// What a database finds after a power loss of that mode.
    fn crash(&mut self, disk: &SqliteDisk, mode: CrashMode) -> Result<Seen, String> {
        self.crashes += 1;
        let left = tempfile::tempdir().unwrap();
        disk.crash_image(mode, left.path()).unwrap();
        // of the real VFS only the syncs are left out, which cost most of the time, and not always
        let quick = (mode != CrashMode::LoseAll).then(|| SqliteDisk::at(left.path()).unwrap());
        Seen::after_opening(left.path(), if quick.is_some() { SqliteDisk::VFS } else { c"unix" })
    }

    /// As [`Torture::crash`], with another power loss while the database recovers from the first.
    fn crash_twice(&mut self, disk: &SqliteDisk, mode: CrashMode) -> Result<Seen, String> {
        let left = tempfile::tempdir().unwrap();
        disk.crash_image(mode, left.path()).unwrap();
        let recovering = SqliteDisk::at(left.path()).unwrap();
        recovering.fail_at(self.chance.u64(1..40), Fault::Crash);
        let options = Options { vfs: SqliteDisk::VFS, ..Options::default() };
        let path = left.path().join("app.db");
        drop(Database::open(&path, Arc::new(Gate::new()), Arc::new(SystemClock), options));
        let mode = CrashMode::Random(self.chance.u64(..));
        self.crash(&recovering, mode)
    }

    fn finish(&self) {
        assert!(self.crashes > 0);
        let Self { name, operations, crashes, .. } = self;
        println!("sqlite power_loss {name}: operations={operations} crashes={crashes} lost=0");
    }
}

/// The steps of a life in which nothing fails.
fn steps_of(seed: u64, synchronous: Synchronous) -> Vec<String> {
    let mut life = Workload::new(seed, synchronous);
    life.run(|_| true);
    assert_eq!(life.errors, ["Sql".to_owned()].into(), "seed {seed}: only the rows that are there already");
    drop(life.db.take());
    (1..=life.disk.steps()).filter_map(|n| life.disk.step(n)).collect()
}

/// Without it a step of one life would be another step of the next, and a failure would not replay.
#[test]
fn the_same_seed_takes_the_same_steps() {
    let first = Torture::new("replay").seeds[0];
    for seed in (0..if std::env::var("MACULA_TORTURE").is_ok() { 300 } else { 5 }).map(|n| first.wrapping_add(n)) {
        let (steps, again) = (steps_of(seed, Synchronous::Full), steps_of(seed, Synchronous::Full));
        let differs = steps.iter().zip(&again).position(|(one, other)| one != other);
        assert!(steps == again, "MACULA_SEED={seed}: another life from step {differs:?} on");
    }
}

/// The machine stops at a step: every image that may be left opens by itself and tells the truth.
#[test]
fn power_loss_at_every_step() {
    let mut torture = Torture::new("stop");
    for (seed, n) in torture.lives(Synchronous::Full) {
        let mut life = Workload::new(seed, Synchronous::Full);
        life.disk.fail_at(n, Fault::Crash);
        life.run(|_| true);
        drop(life.db.take());
        torture.operations += life.disk.steps();
        let at = || format!("MACULA_SEED={seed} step {n}: {:?}", life.disk.step(n));
        for mode in torture.modes() {
            let told = torture.crash(&life.disk, mode).and_then(|seen| life.ledger.judge(&seen));
            told.unwrap_or_else(|why| panic!("{} {mode:?} {why}", at()));
        }
        let mode = CrashMode::Random(torture.chance.u64(..));
        let told = torture.crash_twice(&life.disk, mode).and_then(|seen| life.ledger.judge(&seen));
        told.unwrap_or_else(|why| panic!("{} twice {mode:?} {why}", at()));
        if torture.is_over() {
            break;
        }
    }
    torture.finish();
}

/// One call fails, once: whoever was answered `Ok` or a definite error was told the truth, before and
/// after a power loss, and after a failed sync nothing is written until the database is reopened.
#[test]
fn a_failed_call_at_every_step() {
    let mut torture = Torture::new("fail");
    let mut errors = std::collections::BTreeSet::new();
    for (seed, n) in torture.lives(Synchronous::Full) {
        let mut life = Workload::new(seed, Synchronous::Full);
        life.fail_at(n);
        if torture.chance.bool() {
            // another one soon after, while the database is reopened perhaps
            life.disk.fail_at(n + torture.chance.u64(1..30), Fault::Io);
        }
        let mut met = false;
        life.run(|life| {
            let first = !met && life.disk.steps() >= n;
            met |= first;
            if first {
                look(&mut torture, life, seed, n);
            }
            true
        });
        torture.operations += life.disk.steps();
        look(&mut torture, &mut life, seed, n);
        errors.append(&mut life.errors);
        if torture.is_over() {
            break;
        }
    }
    println!("  {errors:?}");
    let every_step = torture.until.is_none();
    let seen = ["UnknownResult", "Poisoned"].iter().all(|kind| errors.contains(*kind));
    assert!(!every_step || seen, "a sync of a commit failed: {errors:?}");
    torture.finish();
}

/// What is there now and after a power loss now; then a write that counts.
fn look(torture: &mut Torture, life: &mut Workload, seed: u64, n: u64) {
    let at = |life: &Workload| format!("MACULA_SEED={seed} step {n}: {:?} {:?}", life.disk.step(n), life.errors);
    // also a step of a close that did not come
    life.disk.heal();
    life.settle();
    // before there are tables nothing can be written into them
    for write in [false, life.ledger.standing().contains(&1)] {
        if write {
            life.single();
            let end = life.ledger.entries.last().map(|entry| entry.end);
            assert_eq!(end, Some(End::Acknowledged), "{}", at(life));
            life.settle();
        }
        for mode in torture.modes() {
            let told = torture.crash(&life.disk, mode).and_then(|seen| life.ledger.judge(&seen));
            told.unwrap_or_else(|why| panic!("{} write {write} {mode:?} {why}", at(life)));
        }
    }
    let told = Seen::of(life.db.as_ref().unwrap()).and_then(|seen| life.ledger.judge(&seen));
    told.unwrap_or_else(|why| panic!("{} live {why}", at(life)));
}

/// The disk is full: reads go on, writes are answered so, and come back when there is room.
#[test]
fn a_full_disk_at_every_size() {
    let mut torture = Torture::new("full");
    let mut lives = torture.lives(Synchronous::Full);
    lives.truncate(if torture.until.is_some() { usize::MAX } else { 1000 });
    for (seed, n) in lives {
        let mut life = Workload::new(seed, Synchronous::Full);
        // some have no room for the first page, some for all of it
        let most = if torture.chance.bool() { 10 } else { 200 };
        let capacity = torture.chance.u64(0..most) * 4096;
        let by_size = torture.chance.bool();
        if by_size {
            life.disk.set_capacity(Some(capacity));
        } else {
            life.disk.fail_at(n, Fault::Full);
        }
        let what = if by_size { format!("capacity {capacity}") } else { format!("full from step {n}") };
        let at = |life: &Workload| format!("MACULA_SEED={seed} {what} {:?}", life.errors);
        life.run(|life| {
            let has_tables = life.ledger.standing().contains(&1);
            if life.errors.contains("DiskFull") && !has_tables {
                life.make_room();
            } else if life.errors.contains("DiskFull") {
                life.read();
                for mode in torture.modes() {
                    let told = torture.crash(&life.disk, mode).and_then(|seen| life.ledger.judge(&seen));
                    told.unwrap_or_else(|why| panic!("{} full {mode:?} {why}", at(life)));
                }
                life.make_room();
                life.single();
                let end = life.ledger.entries.last().map(|entry| entry.end);
                assert_eq!(end, Some(End::Acknowledged), "{}", at(life));
                life.errors.remove("DiskFull");
                if by_size {
                    let more = life.disk.used() + torture.chance.u64(0..100) * 4096;
                    life.disk.set_capacity(Some(more));
                }
            }
            true
        });
        let expected = ["Sql", "DiskFull"].map(str::to_owned).into();
        assert!(life.errors.is_subset(&expected), "{}: no other failure than a full disk", at(&life));
        torture.operations += life.disk.steps();
        life.make_room();
        look(&mut torture, &mut life, seed, n);
        if torture.is_over() {
            break;
        }
    }
    torture.finish();
}

/// `synchronous=NORMAL`: a power loss may cost the last commits, never one between two others, and
/// none from before the last sync of the log.
#[test]
fn without_a_sync_for_each_commit_the_last_ones_may_be_lost() {
    let mut torture = Torture::new("normal");
    let mut gone = 0;
    for (seed, n) in torture.lives(Synchronous::Normal) {
        let mut life = Workload::new(seed, Synchronous::Normal);
        life.disk.fail_at(n, Fault::Crash);
        life.run(|_| true);
        drop(life.db.take());
        torture.operations += life.disk.steps();
        let log_syncs = life.disk.syncs(LOG);
        for mode in torture.modes() {
            let told = torture.crash(&life.disk, mode).and_then(|seen| life.ledger.judge_prefix(&seen, log_syncs));
            let at = || format!("MACULA_SEED={seed} step {n}: {:?}", life.disk.step(n));
            gone += told.unwrap_or_else(|why| panic!("{} {mode:?} {why}", at()));
        }
        if torture.is_over() {
            break;
        }
    }
    assert!(gone > 0, "or nothing was tried");
    println!("{gone} acknowledged commits gone, all of them the last ones");
    torture.finish();
}

/// This suite can fail: where syncs do nothing, it finds acknowledged rows lost.
#[test]
fn syncs_that_do_nothing_are_found_out() {
    let mut torture = Torture::new("forgotten syncs");
    let steps = torture.lives(Synchronous::Full).len() as u64;
    let (mut lost, mut other) = (0, 0);
    for n in (1..=steps).rev().step_by(steps as usize / 10) {
        let mut life = Workload::new(torture.seeds[0], Synchronous::Full);
        life.disk.forget_syncs(true);
        life.disk.fail_at(n, Fault::Crash);
        life.run(|_| true);
        drop(life.db.take());
        torture.operations += life.disk.steps();
        for mode in torture.modes() {
            match torture.crash(&life.disk, mode).and_then(|seen| life.ledger.judge(&seen)) {
                Err(why) if why.starts_with("lost acknowledged") => lost += 1,
                Err(_) => other += 1,
                Ok(()) => {}
            }
        }
    }
    println!("with syncs that do nothing: lost in {lost}, otherwise wrong in {other} of {} crashes", torture.crashes);
    assert!(lost > 0);
}

/// SQLite answers `wal` before it commits the change from the journal of a new file, and the answer was
/// all that was read: when that commit failed the database opened all the same and worked with a
/// journal, whose commits a power loss can undo.
#[test]
fn a_database_that_opens_has_its_log() {
    for (fault, n) in [Fault::Io, Fault::Full].into_iter().flat_map(|fault| (1..40).map(move |n| (fault, n))) {
        let dir = tempfile::tempdir().unwrap();
        let disk = SqliteDisk::at(dir.path()).unwrap();
        disk.fail_at(n, fault);
        let options = Options { vfs: SqliteDisk::VFS, ..Options::default() };
        let path = dir.path().join("app.db");
        let open = || Database::open(&path, Arc::new(Gate::new()), Arc::new(SystemClock), options.clone());
        let has_log = |db: &Database| {
            let mode = common::query(db, "PRAGMA journal_mode");
            assert_eq!(mode, [[Value::text("wal")]], "step {n} {:?} {fault:?}", disk.step(n));
        };
        let opened = open();
        assert!(opened.is_ok() || disk.steps() >= n);
        opened.iter().filter(|db| db.transaction(Duration::from_secs(60), Cancel::new()).is_ok()).for_each(has_log);
        drop(opened);
        disk.heal();
        has_log(&open().unwrap());
    }
}

/// A commit whose sync failed was read from the system's cache at the next opening and copied into the
/// database file, while the disk had nothing of it and no later sync of the log wrote it. A power loss then
/// left a log that ended before it and a database file that held it: pages of two moments. With a
/// reader that kept the log from starting again, commits behind it were lost as well.
#[test]
fn what_a_failed_sync_left_in_the_log_is_made_durable_before_it_is_used() {
    let mut sync_of_second = 0;
    for (fails, read_beside) in [(false, false), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let disk = SqliteDisk::at(dir.path()).unwrap();
        let path = dir.path().join("app.db");
        let options = Options { vfs: SqliteDisk::VFS, ..Options::default() };
        let open = || Database::open(&path, Arc::new(Gate::new()), Arc::new(SystemClock), options.clone()).unwrap();
        let insert = |id: i64| {
            let rows = (0..30).map(|n| ledger::row(id + n, 900)).collect::<Vec<_>>().join(", ");
            Request::execute(format!("INSERT INTO a VALUES {rows}"))
        };
        let db = open();
        db.run(Request::execute(ledger::SCHEMA)).unwrap();
        db.run(insert(100)).unwrap();
        drop(db);
        // a short log before the commit: it has few of the pages that the commit changes
        let db = open();
        db.run(Request::execute(format!("INSERT INTO a VALUES {}", ledger::row(150, 9)))).unwrap();
        if fails {
            disk.fail_at(sync_of_second, Fault::Io);
            assert_eq!(db.run(insert(200)).unwrap_err().kind(), Kind::UnknownResult);
        } else {
            db.run(insert(200)).unwrap();
            sync_of_second = disk.steps();
        }
        assert_eq!(disk.step(sync_of_second).unwrap(), "sync app.db-wal");
        drop(db);
        let flags = rusqlite::OpenFlags::default();
        let reader = rusqlite::Connection::open_with_flags_and_vfs(&path, flags, SqliteDisk::VFS).unwrap();
        if read_beside {
            reader.execute_batch("BEGIN; SELECT count(*) FROM a").unwrap();
        }
        let db = open();
        // the writer is at rest: it has decided what was in the log
        drop(db.transaction(Duration::from_secs(60), Cancel::new()).unwrap());
        for acknowledged in [100, 300] {
            if acknowledged == 300 {
                db.run(insert(300)).unwrap();
            }
            for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain((0..8).map(CrashMode::Random)) {
                let left = tempfile::tempdir().unwrap();
                disk.crash_image(mode, left.path()).unwrap();
                let seen = Seen::after_opening(left.path(), c"unix").unwrap();
                assert!(seen.ids.contains(&acknowledged), "{mode:?} fails {fails} reader {read_beside} {seen:?}");
            }
        }
        drop((db, reader));
    }
}
