//! What was written waits in memory until there is enough of it for a drain: the log has it meanwhile.

mod common;

use common::{drained_meanwhile, everything, open_on, options, real_disk, until};
use macula_core::{Clock, Disk, SystemClock};
use macula_kv::{Batch, Op, Options, Stats, Store, Threads};
use macula_testkit::FaultDisk;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

const TABLE: usize = 16 << 10;
const ENOUGH: usize = 256 << 10;

fn opened(disk: Arc<dyn Disk>, drain_interval: Duration) -> Store {
    let options = Options { table_bytes_max: TABLE, drain_bytes: ENOUGH, drain_interval, ..options() };
    open_on(disk, drained_meanwhile(), options).expect("opens")
}

fn put(store: &Store, numbers: std::ops::Range<u32>) {
    for n in numbers {
        store.write(Batch::put(n.to_be_bytes(), vec![n as u8; 1_000])).expect("written");
    }
}

fn stats(store: &Store) -> Stats {
    store.stats().expect("open")
}

#[test]
fn little_waits_and_enough_is_drained() {
    let dir = tempfile::tempdir().expect("dir");
    let store = opened(real_disk(&dir), Duration::from_secs(3600));
    put(&store, 0..100);
    let seen = stats(&store);
    assert!(seen.drains == 0 && seen.memory_bytes > 100_000, "{seen:?}");
    put(&store, 100..300);
    until("it is drained", || stats(&store).drains > 0 && stats(&store).memory_bytes < ENOUGH as u64);
    assert_eq!(everything(&store.snapshot().expect("snapshot")).expect("reads").len(), 300);
}

/// Several tables were full long ago; none of them is the one that is written now.
#[test]
fn little_is_drained_after_a_while() {
    let dir = tempfile::tempdir().expect("dir");
    let store = opened(real_disk(&dir), Duration::from_millis(50));
    put(&store, 0..100);
    until("it is drained", || stats(&store).memory_bytes == 0);
    assert!(stats(&store).drains > 0);
}

#[test]
fn where_the_disk_has_little_room_nothing_waits() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(64 << 20));
    let store = opened(Arc::new(disk), Duration::from_secs(3600));
    put(&store, 0..100);
    until("it is drained", || stats(&store).memory_bytes <= 2 * TABLE as u64);
}

/// Memory belongs to all stores of a process: many, each with little, are drained all the same.
#[test]
fn many_stores_do_not_wait_together() {
    let stores: Vec<_> = (0..80)
        .map(|_| {
            let options = Options { table_bytes_max: 1 << 20, drain_bytes: 1 << 30, ..options() };
            let disk = Arc::new(FaultDisk::new());
            open_on(disk, drained_meanwhile(), Options { drain_interval: Duration::from_secs(3600), ..options })
        })
        .collect::<Result<_, _>>()
        .expect("opens");
    for store in &stores {
        store.write(Batch::put(b"key", vec![7; 1 << 20])).expect("written");
    }
    let waiting = || stores.iter().map(|store| stats(store).memory_bytes).sum::<u64>();
    until("some are drained", || waiting() <= 66 << 20);
}

/// Those who drain were with one busy store as long as it was busy: other stores' memory was not drained,
/// and no memory was freed, 3 GB in five minutes.
#[test]
fn a_busy_store_leaves_those_who_drain_to_others() {
    let threads = Threads::start(2, 1, Arc::new(SystemClock)).expect("threads");
    let small = Options { table_bytes_max: 2_000, overlay_bytes_max: 4 << 20, auto_compact: None, ..options() };
    let open = |options| open_on(Arc::new(FaultDisk::new()), threads.clone(), options).expect("opens");
    let (busy, other) = (open(small.clone()), open(small));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4_u32 {
            let (busy, is_over) = (&busy, &is_over);
            scope.spawn(move || {
                let mut n = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    n += 1;
                    let ops = (0..20_u32).map(|at| Op::Put {
                        key: [writer, n % 500 * 20 + at].map(u32::to_be_bytes).concat(),
                        value: vec![n as u8; 100],
                    });
                    busy.write(Batch { ops: ops.collect(), ..Batch::default() }).expect("written");
                }
            });
        }
        until("it is busy", || stats(&busy).memory_bytes > 1 << 20);
        for n in 0..20_u32 {
            other.write(Batch::put(n.to_be_bytes(), vec![7; 2_500])).expect("written");
        }
        let begun = SystemClock.monotonic();
        while stats(&other).memory_bytes > 0 && SystemClock.monotonic() - begun < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(stats(&other).drains, 20);
    drop((busy, other));
    threads.stop();
}
