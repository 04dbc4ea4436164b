//! What was written waits in memory until there is enough of it for a drain: the log has it meanwhile.

mod common;

use common::{drained_meanwhile, everything, open_on, options, real_disk, until};
use macula_core::Disk;
use macula_kv::{Batch, Options, Stats, Store};
use macula_testkit::FaultDisk;
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
