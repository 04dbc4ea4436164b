//! What each durability promises, on a disk that forgets what was not synced and with a clock that a
//! test sets: Sync before anybody sees it, Async within the interval, None with the next sync; and
//! what a power loss takes is always the end of the history.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{contents, count, drained_meanwhile, open, open_on, options, seed};
use macula_core::{Gate, SystemChance};
use macula_kv::{Batch, Durability, Op, Options, Seams, Store, Threads};
use macula_testkit::{CrashMode, FaultDisk, SimClock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(20);

fn batch(key: impl Into<Vec<u8>>, durability: Durability) -> Batch {
    Batch { durability: Some(durability), ..Batch::put(key, "v") }
}

/// Whether `key` would be there after losing power now.
fn would_survive(disk: &FaultDisk, key: &str) -> bool {
    let found = open(Arc::new(disk.after_crash(CrashMode::LoseAll))).expect("opens");
    found.get(key.as_bytes()).expect("reads").is_some()
}

/// Looks until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LONG, "did not come: {what}");
        std::thread::yield_now();
    }
}

struct Timed {
    disk: FaultDisk,
    clock: Arc<SimClock>,
    threads: Threads,
    store: Store,
}

impl Timed {
    fn new() -> Self {
        let (disk, clock) = (FaultDisk::new(), Arc::new(SimClock::default()));
        let threads = Threads::start(2, 1, clock.clone()).expect("threads");
        let (gate, chance) = (Arc::new(Gate::new()), Arc::new(SystemChance));
        let seams =
            Seams { disk: Arc::new(disk.clone()), gate, clock: clock.clone(), chance, threads: threads.clone() };
        let store = Store::open(seams, Options { sync_interval: INTERVAL, ..options() }).expect("opens");
        Self { disk, clock, threads, store }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.store.close();
        self.threads.stop();
    }
}

#[test]
fn an_async_write_is_seen_at_once_and_durable_when_its_interval_is_over() {
    let timed = Timed::new();
    for (round, key) in ["a", "b", "c"].into_iter().enumerate() {
        timed.store.write(batch(key, Durability::Async)).expect("written");
        assert_eq!(timed.store.get(key.as_bytes()).expect("reads"), Some(b"v".to_vec()));
        assert!(!would_survive(&timed.disk, key), "round {round}: nobody syncs before the time");
        let killed = open(Arc::new(timed.disk.kill())).expect("opens");
        assert!(killed.get(key.as_bytes()).expect("reads").is_some(), "a killed process loses nothing");
        timed.clock.advance(INTERVAL);
        until("the sync", || would_survive(&timed.disk, key));
    }
}

/// The sync stood in the queue behind the turn, for as long as the turn had.
#[test]
fn an_async_write_is_durable_in_time_while_a_turn_holds_the_queue() {
    let timed = Timed::new();
    timed.store.write(batch("a", Durability::Async)).expect("written");
    let tx = timed.store.begin_wait(LONG).expect("turn");
    timed.clock.advance(INTERVAL);
    until("the sync", || would_survive(&timed.disk, "a"));
    tx.put(b"b", b"v").expect("the turn goes on");
    tx.commit_wait().expect("commits");
}

#[test]
fn what_asked_for_nothing_survives_a_kill_and_a_sync_makes_it_durable() {
    let timed = Timed::new();
    for n in 0..20 {
        timed.store.write(batch(format!("n{n}"), Durability::None)).expect("written");
    }
    timed.clock.advance(INTERVAL * 50);
    let killed = open(Arc::new(timed.disk.kill())).expect("opens");
    assert_eq!(contents(&killed).expect("reads").len(), 20);
    assert!(!would_survive(&timed.disk, "n0"), "nobody asked for a sync");
    timed.store.sync().expect("syncs");
    assert!((0..20).all(|n| would_survive(&timed.disk, &format!("n{n}"))));
    // and so does the next synced write, for all that came before it
    timed.store.write(batch("x", Durability::None)).expect("written");
    timed.store.write(batch("y", Durability::Sync)).expect("written");
    assert!(would_survive(&timed.disk, "x") && would_survive(&timed.disk, "y"));
}

/// A reader that saw a synced write tells nobody of something that may still be lost.
#[test]
fn a_synced_write_is_durable_before_it_is_seen() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for _ in 0..count(15, 500) {
        let disk = FaultDisk::new();
        let options = Options { table_bytes_max: 5_000, ..options() };
        let store = open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens");
        let over = AtomicBool::new(false);
        let looks = rng.u32(1..40);
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let (store, over) = (&store, &over);
                scope.spawn(move || {
                    let mut n = 0_u32;
                    while !over.load(Ordering::Acquire) {
                        n += 1;
                        store.write(Batch::put([writer], n.to_be_bytes())).expect("written");
                    }
                });
            }
            let mut last = None;
            while last.is_none_or(|revision| revision < u64::from(looks)) {
                let revision = store.revision().expect("reads");
                last = Some(revision & 0xff_ffff_ffff);
            }
            // seen first, then the power goes
            let seen = contents(&store).expect("reads");
            let found = disk.after_crash(CrashMode::LoseAll);
            over.store(true, Ordering::Release);
            let found = contents(&open(Arc::new(found)).expect("opens")).expect("reads");
            for (key, value) in &seen {
                assert!(found.get(key) >= Some(value), "seen {value:?} and found {:?}", found.get(key));
            }
        });
    }
}

/// Of eight writers with chance durabilities: what is found is everything up to some revision, and all
/// that was promised to be durable.
#[test]
fn what_is_lost_is_the_end() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut lost = 0;
    for round in 0..count(40, 2000) {
        let disk = FaultDisk::new();
        let log = macula_wal::Options {
            segment_bytes_min: 4096,
            segment_bytes_max: 16 << 10,
            ..macula_wal::Options::default()
        };
        let options = Options { table_bytes_max: rng.usize(3_000..50_000), sync_interval: LONG, log, ..options() };
        let store = open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens");
        let (told, tell) = mpsc::channel();
        let mut acknowledged: BTreeMap<u64, (Vec<u8>, bool)> = BTreeMap::new();
        let most = rng.usize(1..400);
        let found = std::thread::scope(|scope| {
            for writer in 0..8_u8 {
                let (store, told, mut rng) = (&store, told.clone(), rng.fork());
                scope.spawn(move || {
                    for n in 0..100_u32 {
                        let key = [&[writer][..], &n.to_be_bytes()].concat();
                        let durability = [Durability::None, Durability::Async, Durability::Sync]
                            [[0, 0, 0, 1, 1, 1, 1, 2][rng.usize(..8)]];
                        let put = Op::Put { key: key.clone(), value: vec![writer; rng.usize(..200)] };
                        let batch = Batch { ops: vec![put], durability: Some(durability), ..Batch::default() };
                        let revision = store.write(batch).expect("written").revision;
                        let _ = told.send((revision, key, durability == Durability::Sync));
                    }
                });
            }
            drop(told);
            for (revision, key, is_synced) in tell.iter().take(most) {
                acknowledged.insert(revision, (key, is_synced));
            }
            let found = disk.after_crash(match rng.bool() {
                true => CrashMode::LoseAll,
                false => CrashMode::Random(rng.u64(..)),
            });
            // what was told meanwhile is in order too
            acknowledged.extend(tell.iter().map(|(revision, key, _)| (revision, (key, false))));
            found
        });
        let found = contents(&open(Arc::new(found)).expect("opens")).expect("reads");
        let is_there = |key: &Vec<u8>| found.contains_key(key);
        let mut gone = acknowledged.values().skip_while(|(key, _)| is_there(key));
        let late = gone.clone().filter(|(key, _)| is_there(key)).count();
        assert_eq!(late, 0, "seed={seed} round={round}: later ones are there without an earlier one");
        assert!(gone.all(|(_, is_synced)| !is_synced), "seed={seed} round={round}: a synced one is lost");
        lost += acknowledged.len() - found.len();
    }
    eprintln!("lost={lost}");
    assert!(lost > 0, "some were written in vain");
}
