//! Snapshots held over many drains and clears show exactly their state, to several readers at once.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{contents, count, drained_meanwhile, everything, open_on, options, seed, Model, ALL};
use macula_core::Task;
use macula_kv::{Batch, Op, Options, PageLimits, Snapshot, Store};
use macula_testkit::FaultDisk;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

fn open_small(disk: &FaultDisk) -> Store {
    let options = Options { table_bytes_max: 6_000, ..options() };
    open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens")
}

fn step(store: &Store, model: &mut Model, rng: &mut fastrand::Rng) {
    let mut ops = Vec::new();
    if rng.u8(..) == 0 {
        ops.push(Op::Clear);
        model.clear();
    }
    for _ in 0..rng.usize(1..12) {
        let key = vec![rng.u8(..60), rng.u8(..2)];
        if rng.u8(..4) == 0 {
            model.remove(&key);
            ops.push(Op::Delete { key });
        } else {
            let value = vec![rng.u8(..); if rng.u8(..) < 3 { 40_000 } else { rng.usize(..200) }];
            model.insert(key.clone(), value.clone());
            ops.push(Op::Put { key, value });
        }
    }
    store.write(Batch { ops, ..Batch::default() }).expect("written");
}

fn same(snapshot: &Snapshot, model: &Model, what: &str) {
    assert!(everything(snapshot).expect("reads") == *model, "{what}");
    assert_eq!(snapshot.len().expect("counts"), model.len() as u64, "{what}");
    let limits = PageLimits { entries_max: usize::MAX, bytes_max: usize::MAX, value_len_max: usize::MAX };
    let back = snapshot.page(&ALL, true, limits).expect("reads").entries;
    assert!(back.into_iter().rev().eq(model.clone()), "{what}: backwards");
    for key in [vec![7, 0], vec![7, 1], vec![59, 1]] {
        assert_eq!(snapshot.get(&key).expect("reads"), model.get(&key).cloned(), "{what}");
        let above = (Bound::Excluded(key.clone()), Bound::Unbounded);
        let one = PageLimits { entries_max: 1, ..limits };
        let next = snapshot.page(&above, false, one).expect("reads").entries.pop();
        let expected = model.range((above.0, Bound::Unbounded)).next().map(|(key, value)| (key.clone(), value.clone()));
        assert_eq!(next, expected, "{what}");
    }
}

#[test]
fn each_shows_its_state_over_many_drains() {
    let seed = seed();
    for round in 0..count(2, 100) {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(round));
        let disk = FaultDisk::new();
        let (store, mut model) = (open_small(&disk), Model::new());
        let mut held: Vec<(usize, Snapshot, Model)> = Vec::new();
        for n in 0..800 {
            step(&store, &mut model, &mut rng);
            if n % 40 == 0 {
                held.push((n, store.snapshot().expect("snapshot"), model.clone()));
            }
            if n % 100 == 99 {
                store.checkpoint().expect("drains");
                let (at, snapshot, model) = &held[rng.usize(..held.len())];
                same(snapshot, model, &format!("seed={seed} round={round}: snapshot {at} at {n}"));
            }
        }
        for (at, snapshot, model) in &held {
            same(snapshot, model, &format!("seed={seed} round={round}: snapshot {at} at the end"));
        }
        store.verify(&Task::quiet()).expect("sound");
        drop(held);
        assert!(contents(&store).expect("reads") == model);
        store.close();
        assert!(contents(&open_small(&disk)).expect("reads") == model);
    }
}

/// One snapshot, four readers, and a writer that drains and clears all the time.
#[test]
fn one_is_read_by_many_while_it_drains() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let (store, mut model) = (open_small(&FaultDisk::new()), Model::new());
    for _ in 0..100 {
        step(&store, &mut model, &mut rng);
    }
    let (snapshot, expected) = (store.snapshot().expect("snapshot"), model.clone());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut looks = 0;
                    while !over.load(Ordering::Acquire) || looks == 0 {
                        same(&snapshot, &expected, "beside a writer");
                        looks += 1;
                    }
                })
            })
            .collect();
        for _ in 0..count(800, 50_000) {
            step(&store, &mut model, &mut rng);
            if readers.iter().any(|reader| reader.is_finished()) {
                break;
            }
        }
        over.store(true, Ordering::Release);
    });
    assert!(contents(&store).expect("reads") == model);
}
