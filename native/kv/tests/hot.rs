//! Gets that must not wait: answered from memory or told cold, and nothing is the worse for it. An error
//! would have made redb refuse everything that follows; unwinding out of it must not.

mod common;

use common::{contents, open_with, options};
use macula_core::Task;
use macula_kv::{Batch, KvError, Op, Options};
use macula_testkit::FaultDisk;
use std::sync::Arc;

#[test]
fn a_cold_get_says_so_and_leaves_the_store_as_it_was() {
    // this disk never says that it would not wait, and redb keeps no page
    let disk = Arc::new(FaultDisk::new());
    let store = open_with(disk, Options { cache_bytes: 0, ..options() }).expect("opens");
    let ops = (0..3_000_u32).map(|n| Op::Put { key: n.to_be_bytes().into(), value: vec![n as u8; 100] });
    store.write(Batch { ops: ops.collect(), ..Batch::default() }).expect("put");
    let hot = |key: u32| store.get_hot(&key.to_be_bytes(), 1 << 20, <[u8]>::to_vec);
    assert_eq!(hot(7).expect("in a table"), Some(vec![7; 100]));
    assert!(matches!(store.get_hot(&7_u32.to_be_bytes(), 99, <[u8]>::len), Err(KvError::TooLarge { .. })));
    store.checkpoint().expect("drains");
    let before = contents(&store).expect("reads");
    let mut cold = 0;
    for round in 0..3_000_u32 {
        match hot(round) {
            Err(KvError::Cold) => cold += 1,
            found => assert_eq!(found.expect("from memory"), Some(vec![round as u8; 100])),
        }
        if round % 500 == 0 {
            assert_eq!(store.get(&round.to_be_bytes()).expect("waits"), Some(vec![round as u8; 100]));
            store.write(Batch::put(format!("more-{round}"), "1")).expect("goes on");
            store.checkpoint().expect("drains");
        }
    }
    assert!(cold > 2_000, "cold={cold}");
    let after = contents(&store).expect("reads");
    assert!(before.iter().all(|(key, value)| after.get(key) == Some(value)));
    assert_eq!(after.len(), before.len() + 6);
    store.verify(&Task::quiet()).expect("sound");
    let stats = store.stats().expect("open");
    assert_eq!((stats.cache_misses, stats.cache_hits + stats.cache_misses), (cold, 3_002));
    let snapshot = store.snapshot().expect("snapshot");
    assert!(matches!(snapshot.get_hot(&7_u32.to_be_bytes(), 100, <[u8]>::len), Err(KvError::Cold) | Ok(Some(100))));
}
