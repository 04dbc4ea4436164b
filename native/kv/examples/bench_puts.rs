//! Puts and gets per second of one store on a real disk:
//! `cargo run --release -p macula_kv --example bench_puts [DIR [CACHE_MIB]]`
//! 16-byte random keys, 100-byte values, each put durable before the next of its client.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use macula_core::{Chance, Clock, Disk, Gate, RealDisk, SystemChance, SystemClock};
use macula_kv::{Batch, Op, Options, Seams, Store, Threads};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

const SPAN: Duration = Duration::from_secs(2);

fn random_key() -> [u8; 16] {
    let mut key = [0; 16];
    SystemChance.fill(&mut key);
    key
}

/// Work of `clients` threads for a while, per second.
fn rate(clients: usize, work: impl Fn(usize) + Sync) -> u64 {
    let clock = SystemClock;
    let count = AtomicU64::new(0);
    let start = clock.monotonic();
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (work, count) = (&work, &count);
            scope.spawn(move || {
                while clock.monotonic() - start < SPAN {
                    work(client);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (count.into_inner() as f64 / (clock.monotonic() - start).as_secs_f64()) as u64
}

fn main() {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("macula-kv-bench-{:x}", SystemChance.next_u64()));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::create_at(&dir).unwrap());
    let cache_mib: usize = std::env::args().nth(2).map_or(16, |mib| mib.parse().unwrap());
    let options = Options { cache_bytes: cache_mib << 20, ..Options::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let threads = Threads::start(4, 2, clock.clone()).unwrap();
    let (gate, chance) = (Arc::new(Gate::new()), Arc::new(SystemChance));
    let store = Store::open(Seams { disk, gate, clock, chance, threads: threads.clone() }, options).unwrap();
    let keys: Vec<[u8; 16]> = (0..100_000).map(|_| random_key()).collect();
    for some in keys.chunks(10_000) {
        let ops = some.iter().map(|key| Op::Put { key: key.to_vec(), value: vec![1; 100] }).collect();
        store.write(Batch { ops, ..Batch::default() }).unwrap();
    }
    println!("entries={} file_bytes={}", store.len().unwrap(), store.file_bytes());
    for clients in [1, 8, 64] {
        let puts = rate(clients, |_| {
            store.write(Batch::put(random_key(), vec![2; 100])).unwrap();
        });
        println!("puts/s clients={clients}: {puts}");
    }
    for clients in [1, 2] {
        let next = AtomicU64::new(0);
        let gets = rate(clients, |_| {
            let nth = next.fetch_add(7919, Ordering::Relaxed) as usize % keys.len();
            assert_eq!(store.get_with(&keys[nth], usize::MAX, <[u8]>::len).unwrap(), Some(100));
        });
        println!("gets/s threads={clients}: {gets}");
    }
    println!("entries={} file_bytes={}", store.len().unwrap(), store.file_bytes());
    store.close();
    threads.stop();
    RealDisk::at(dir.parent().unwrap())
        .and_then(|parent| {
            let name = macula_core::RelPath::new(dir.file_name().unwrap().as_encoded_bytes()).unwrap();
            macula_core::remove_tree(&parent, &name)
        })
        .unwrap();
}
