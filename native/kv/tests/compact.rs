//! Compaction beside readers and writers: nothing is lost, nothing is seen twice or too early, and the
//! room comes back.

mod common;

use common::{contents, drained_meanwhile, everything, open_on, options, real_disk, seed, Model};
use macula_core::{Kind, Kinded, Task};
use macula_kv::{AutoCompact, Batch, Op, Options, Store};
use std::sync::atomic::{AtomicBool, Ordering};

fn put(n: u32, len: usize, with: u8) -> Op {
    Op::Put { key: n.to_be_bytes().into(), value: vec![with; len] }
}

fn small() -> Options {
    Options { table_bytes_max: 64 << 10, overlay_bytes_max: 8 << 20, auto_compact: None, ..options() }
}

fn fresh(options: Options) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_on(real_disk(&dir), drained_meanwhile(), options).expect("opens");
    (dir, store)
}

#[test]
fn the_room_comes_back_and_readers_of_the_old_file_go_on() {
    let (dir, store) = fresh(small());
    for round in 0..6 {
        let ops = (0..20_000).map(|n| put(n, 100, round)).collect();
        store.write(Batch { ops, ..Batch::default() }).expect("put");
    }
    store.write(Batch { ops: vec![put(7, 200_000, 9)], ..Batch::default() }).expect("put");
    store.checkpoint().expect("drains");
    let snapshot = store.snapshot().expect("snapshot");
    let before = everything(&snapshot).expect("reads");
    let ops = (0..15_000).map(|n| Op::Delete { key: (n as u32).to_be_bytes().into() }).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("deleted");
    store.checkpoint().expect("drains");
    let now = contents(&store).expect("reads");
    let compacted = store.compact(&Task::quiet()).expect("compacts");
    assert!(compacted.bytes_after * 3 < compacted.bytes_before, "{compacted:?}");
    assert!(compacted.bytes_after < 5_000 * 250 + (512 << 10), "packed: {compacted:?}");
    assert_eq!(everything(&snapshot).expect("the old file is still there"), before);
    assert_eq!(contents(&store).expect("reads"), now);
    drop(snapshot);
    store.write(Batch { ops: vec![put(1, 10, 1)], ..Batch::default() }).expect("put");
    store.verify(&Task::quiet()).expect("verifies");
    store.close();
    let store = open_on(real_disk(&dir), drained_meanwhile(), small()).expect("opens");
    assert_eq!(contents(&store).expect("reads").len(), now.len() + 1);
}

#[test]
fn writers_and_readers_go_on_meanwhile() {
    let seed = seed();
    let (dir, store) = fresh(small());
    let done = AtomicBool::new(false);
    let models: Vec<Model> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u32)
            .map(|writer| {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(writer));
                    let mut model = Model::new();
                    while !done.load(Ordering::Relaxed) {
                        let n = writer << 24 | rng.u32(..2000);
                        let value = vec![rng.u8(..); rng.usize(..300)];
                        let key = n.to_be_bytes().to_vec();
                        match rng.u8(..4) {
                            0 => {
                                store.write(Batch::delete(key.clone())).expect("deleted");
                                model.remove(&key);
                            }
                            _ => {
                                store.write(Batch::put(key.clone(), value.clone())).expect("put");
                                model.insert(key.clone(), value);
                            }
                        }
                        assert_eq!(store.get(&key).expect("reads"), model.get(&key).cloned(), "own write");
                    }
                    model
                })
            })
            .collect();
        for _ in 0..common::count(12, 200) {
            store.compact(&Task::quiet()).expect("compacts");
            let snapshot = store.snapshot().expect("snapshot");
            let first = everything(&snapshot).expect("reads");
            assert_eq!(everything(&snapshot).expect("reads"), first, "a snapshot stays");
        }
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("writes")).collect()
    });
    let model: Model = models.into_iter().flatten().collect();
    assert_eq!(contents(&store).expect("reads"), model);
    store.verify(&Task::quiet()).expect("verifies");
    store.close();
    let store = open_on(real_disk(&dir), drained_meanwhile(), small()).expect("opens");
    assert_eq!(contents(&store).expect("reads"), model);
}

#[test]
fn one_at_a_time_cancelled_and_closed() {
    let (_dir, store) = fresh(small());
    let ops = (0..60_000).map(|n| put(n, 150, 1)).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    let cancelled = Task::quiet();
    cancelled.cancel.cancel();
    assert_eq!(store.compact(&cancelled).expect_err("cancelled").kind(), Kind::Cancelled);
    assert!(!store.is_compacting() && !store.halt_compaction());
    let halted = AtomicBool::new(false);
    let inner = store.clone();
    let task = Task::new(Default::default(), move |_| {
        assert!(inner.is_compacting());
        assert_eq!(inner.compact(&Task::quiet()).expect_err("one at a time").kind(), Kind::Conflict);
        halted.store(inner.halt_compaction(), Ordering::Relaxed);
        assert!(halted.load(Ordering::Relaxed));
    });
    assert_eq!(store.compact(&task).expect_err("halted").kind(), Kind::Cancelled);
    store.compact(&Task::quiet()).expect("and again");
    assert_eq!(store.len().expect("len"), 60_000);
    store.close();
    assert_eq!(store.compact(&Task::quiet()).expect_err("closed").kind(), Kind::Closed);
}

/// redb doubles its file, and took pages from its end first: a file was up to twice as long as what it held.
#[test]
fn a_compacted_file_is_hardly_longer_than_what_is_in_it() {
    let (_dir, store) = fresh(small());
    for step in 0..10_u32 {
        let keys = step * 7_000..(step + 1) * 7_000;
        store.write(Batch { ops: keys.map(|n| put(n, 100, 0)).collect(), ..Batch::default() }).expect("put");
        store.checkpoint().expect("drains");
        store.compact(&Task::quiet()).expect("compacts");
        let stats = store.stats().expect("open");
        eprintln!("live={} file={}", stats.live_bytes, stats.file_bytes);
        assert!(stats.file_bytes < stats.live_bytes * 13 / 10 + (1 << 20), "{stats:?}");
    }
}

/// 100,000 keys under one long reader made a file of 373 times what lived in it, for good.
#[test]
fn growth_under_a_long_reader_stops_by_itself() {
    let auto_compact = Some(AutoCompact { writes_min: 1000, dirt_min: 0.6 });
    // drains as large as in life: each copies about all of so small a file. What waits in memory while a
    // slow machine compacts is in the log too.
    let memory = 16 << 20;
    let sizes = Options { overlay_bytes_max: memory, drain_bytes: Options::default().drain_bytes, ..small() };
    let (_dir, store) = fresh(Options { auto_compact, ..sizes });
    let keys = 30_000_u32;
    store.write(Batch { ops: (0..keys).map(|n| put(n, 100, 0)).collect(), ..Batch::default() }).expect("put");
    let reader = store.snapshot().expect("snapshot");
    let live = u64::from(keys) * 104;
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut highest = 0;
    for round in 0..common::count(400, 4000) {
        let ops = (0..500).map(|_| put(rng.u32(..keys), 100, round as u8)).collect();
        store.write(Batch { ops, ..Batch::default() }).expect("put");
        highest = highest.max(store.file_bytes());
    }
    assert_eq!(everything(&reader).expect("reads").len(), keys as usize);
    // the old file that the reader keeps, which was no larger, has no name any more
    eprintln!("highest={highest} live={live}");
    // and the room that two drains and the log take, however little lives in it
    assert!(highest < live * 6 + memory as u64 * 3 / 2 + (24 << 20), "highest={highest} live={live}");
    store.checkpoint().expect("drains");
    drop(reader);
    store.set_auto_compact(None);
    while let Err(error) = store.compact(&Task::quiet()) {
        assert_eq!(error.kind(), Kind::Conflict, "its own may run still");
        std::thread::yield_now();
    }
    // beside the log's segments
    assert!(store.file_bytes() < live * 2 + (16 << 20), "{}", store.file_bytes());
}
