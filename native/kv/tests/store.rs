//! The verbs of a store, on the machine's own disk.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{contents, everything, open, open_with, options, real_disk, ALL};
use macula_core::{Cancel, Kind, Kinded, Task};
use macula_kv::{Batch, Condition, KvError, Op, PageLimits, Seams, Store};
use std::ops::Bound;
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(real_disk(&dir)).expect("opens");
    (dir, store)
}

fn is(result: Result<impl Sized, KvError>, kind: Kind) {
    match result {
        Ok(_) => panic!("expected {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

#[test]
fn puts_gets_deletes_and_finds_them_again() {
    let (dir, store) = fresh();
    let first = store.write(Batch::put("a", "1")).expect("put");
    let second = store.write(Batch::put("b", "2")).expect("put");
    assert!(second.revision > first.revision);
    assert_eq!(store.get(b"a").expect("get"), Some(b"1".to_vec()));
    assert_eq!(store.get_with(b"b", 1, <[u8]>::len).expect("get"), Some(1));
    assert_eq!(store.get_many(&["b", "x"]).expect("get"), [Some(b"2".to_vec()), None]);
    store.write(Batch::delete("a")).expect("delete");
    assert_eq!((store.len().expect("len"), store.get(b"a").expect("get")), (1, None));
    store.close();
    is(store.get(b"b"), Kind::Closed);
    is(store.write(Batch::put("c", "3")), Kind::Closed);
    store.close();
    drop(store);
    let store = open(real_disk(&dir)).expect("opens again");
    assert_eq!(store.get(b"b").expect("get"), Some(b"2".to_vec()));
    assert!(store.write(Batch::put("c", "3")).expect("put").revision > second.revision);
}

#[test]
fn a_batch_is_atomic_and_fails_alone() {
    let (_dir, store) = fresh();
    store.write(Batch::put("a", "1")).expect("put");
    let put = |key: &str| Op::Put { key: key.into(), value: "v".into() };
    let exists = Batch { conditions: vec![Condition::Absent("a".into())], ops: vec![put("b")], ..Batch::default() };
    is(store.write(exists), Kind::Exists);
    let stale = Condition::Is { key: "a".into(), value: Some("0".into()) };
    is(store.write(Batch { conditions: vec![stale], ops: vec![put("b")], ..Batch::default() }), Kind::Conflict);
    assert_eq!(store.len().expect("len"), 1);
    let good = Condition::Is { key: "a".into(), value: Some("1".into()) };
    let absent = Condition::Is { key: "b".into(), value: None };
    let ops = vec![Op::Clear, put("b"), put("c"), Op::Delete { key: "c".into() }];
    store.write(Batch { conditions: vec![good, absent], ops, ..Batch::default() }).expect("holds");
    assert_eq!(contents(&store).expect("reads").into_keys().collect::<Vec<_>>(), [b"b".to_vec()]);
    let cancel = Cancel::new();
    cancel.cancel();
    is(store.write(Batch { cancel: Some(cancel), ..Batch::put("d", "4") }), Kind::Cancelled);
}

#[test]
fn conditions_see_the_batches_before_them_in_the_same_group() {
    let (_dir, store) = fresh();
    let tx = store.begin_wait(LONG).expect("turn");
    let (answer, answers) = mpsc::channel();
    for _ in 0..3 {
        let answer = answer.clone();
        let batch = Batch { conditions: vec![Condition::Absent("k".into())], ..Batch::put("k", "v") };
        store.submit(batch, Box::new(move |result| answer.send(result).expect("waits"))).expect("queued");
    }
    tx.abort();
    let won: Vec<bool> = answers.iter().take(3).map(|answer| answer.is_ok()).collect();
    assert_eq!(won, [true, false, false]);
}

#[test]
fn too_large_is_refused_before_the_queue() {
    let (_dir, store) = fresh();
    let key = vec![0; macula_kv::KEY_LEN_MAX + 1];
    is(store.write(Batch::put(key.clone(), "")), Kind::TooLarge);
    is(store.write(Batch::delete(key)), Kind::TooLarge);
    store.write(Batch::put(vec![1; macula_kv::KEY_LEN_MAX], vec![2; 3 << 20])).expect("largest key");
    assert_eq!(store.get(&vec![1; macula_kv::KEY_LEN_MAX]).expect("get"), Some(vec![2; 3 << 20]));
}

#[test]
fn snapshots_stay_and_are_released() {
    let (_dir, store) = fresh();
    store.write(Batch::put("a", "1")).expect("put");
    let snapshot = store.snapshot().expect("snapshot");
    store.write(Batch::put("a", "2")).expect("put");
    store.write(Batch::put("b", "2")).expect("put");
    assert_eq!(snapshot.get(b"a").expect("get"), Some(b"1".to_vec()));
    assert_eq!((snapshot.len().expect("len"), store.len().expect("len")), (1, 2));
    let clone = snapshot.clone();
    snapshot.release();
    is(clone.get(b"a"), Kind::Closed);
    let other = store.snapshot().expect("snapshot");
    store.close();
    is(other.get(b"a"), Kind::Closed);
    is(store.snapshot(), Kind::Closed);
}

#[test]
fn pages_cover_a_range_both_ways() {
    let (_dir, store) = fresh();
    let ops = (0..100_u8).map(|n| Op::Put { key: vec![n], value: vec![n; 10] }).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    let snapshot = store.snapshot().expect("snapshot");
    let limits = PageLimits { entries_max: 1000, bytes_max: 33, value_len_max: usize::MAX };
    let mut range = (Bound::Included(vec![10]), Bound::Excluded(vec![90]));
    let mut keys = Vec::new();
    loop {
        let page = snapshot.page(&range, true, limits).expect("page");
        assert!(page.entries.len() <= 3);
        keys.extend(page.entries.into_iter().map(|(key, _)| key[0]));
        match page.next {
            Some(next) => range.1 = Bound::Excluded(next),
            None => break,
        }
    }
    assert_eq!(keys, (10..90).rev().collect::<Vec<u8>>());
    for range in [
        (Bound::Included(vec![5]), Bound::Excluded(vec![5])),
        (Bound::Excluded(vec![9]), Bound::Included(vec![3])),
        (Bound::Excluded(vec![5]), Bound::Excluded(vec![5])),
    ] {
        for reverse in [false, true] {
            assert!(snapshot.page(&range, reverse, limits).expect("page").entries.is_empty(), "{range:?}");
        }
    }
    let one = snapshot
        .page(&ALL, false, PageLimits { entries_max: 0, bytes_max: 0, value_len_max: usize::MAX })
        .expect("page");
    assert_eq!((one.entries.len(), one.next), (1, Some(vec![0])));
}

/// Ten gets of 200 MB on dirty schedulers made an unrelated read of the VM wait for 9 s: who asks
/// says how much it will take, and what is longer is not even read.
#[test]
fn a_long_value_is_told_and_not_read() {
    const LONG_LEN: usize = 100_000;
    let (dir, store) = fresh();
    let put = |key: &str, len: usize| Op::Put { key: key.into(), value: vec![7; len] };
    let ops = vec![put("a", 1), put("b", LONG_LEN), put("c", 3), put("d", 32 << 10), put("e", (32 << 10) + 1)];
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    is(store.get_with(b"b", LONG_LEN - 1, <[u8]>::len), Kind::TooLarge);
    is(store.get_with(b"d", 100, <[u8]>::len), Kind::TooLarge);
    assert_eq!(store.get_with(b"b", LONG_LEN, <[u8]>::len).expect("get"), Some(LONG_LEN));
    assert!(store.has(b"b").expect("has") && !store.has(b"x").expect("has"));
    let (snapshot, tx) = (store.snapshot().expect("snapshot"), store.begin_wait(LONG).expect("turn"));
    is(snapshot.get_with(b"b", 5, <[u8]>::len), Kind::TooLarge);
    is(tx.get_with(b"b", 5, <[u8]>::len), Kind::TooLarge);
    tx.put(b"a", &[9; 50]).expect("put");
    is(tx.get_with(b"a", 49, <[u8]>::len), Kind::TooLarge);

    let limits = PageLimits { entries_max: 9, bytes_max: 1 << 20, value_len_max: 40 };
    let page = snapshot.page(&ALL, false, limits).expect("page");
    assert_eq!((page.entries.len(), page.next), (1, Some(b"a".to_vec())), "ends before the long one");
    is(snapshot.page(&(Bound::Excluded(b"a".to_vec()), Bound::Unbounded), false, limits), Kind::TooLarge);
    is(tx.page(&ALL, false, limits), Kind::TooLarge);
    tx.abort();

    // the file loses what nothing names any more: replaced, deleted, cleared
    store.write(Batch::put("b", "short")).expect("put");
    store.write(Batch::put("e", vec![8; LONG_LEN])).expect("put");
    store.verify(&macula_core::Task::quiet()).expect("one long value, one name");
    store.write(Batch::delete("e")).expect("delete");
    store.verify(&macula_core::Task::quiet()).expect("none");
    let ops = vec![put("f", LONG_LEN), Op::Clear, put("g", LONG_LEN)];
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    assert_eq!(store.verify(&macula_core::Task::quiet()).expect("one").entries, 1);
    assert_eq!(snapshot.get(b"b").expect("get"), Some(vec![7; LONG_LEN]), "a snapshot keeps its long values");
    snapshot.release();
    store.close();
    let store = open(real_disk(&dir)).expect("opens again");
    assert_eq!(store.get(b"g").expect("get"), Some(vec![7; LONG_LEN]));
}

#[test]
fn a_turn_reads_its_own_writes_and_commits_them() {
    let (_dir, store) = fresh();
    for key in ["a", "b", "c"] {
        store.write(Batch::put(key, "old")).expect("put");
    }
    let tx = store.begin_wait(LONG).expect("turn");
    tx.put(b"b", b"new").expect("put");
    tx.put(b"d", b"new").expect("put");
    tx.delete(b"a").expect("delete");
    tx.delete(b"nothing").expect("delete");
    assert_eq!((tx.len().expect("len"), tx.get(b"a").expect("get")), (3, None));
    let limits = PageLimits { entries_max: 2, bytes_max: 100, value_len_max: usize::MAX };
    let keys = |page: macula_kv::Page| page.entries.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    let page = tx.page(&ALL, true, limits).expect("page");
    assert_eq!(page.next, Some(b"c".to_vec()));
    assert_eq!(keys(page), [b"d", b"c"]);
    assert_eq!(keys(tx.page(&ALL, false, limits).expect("page")), [b"b", b"c"]);
    assert_eq!(store.get(b"b").expect("get"), Some(b"old".to_vec()), "nobody sees it yet");
    tx.commit_wait().expect("commit");
    is(tx.get(b"b"), Kind::Closed);
    assert_eq!(store.get(b"b").expect("get"), Some(b"new".to_vec()));
    assert_eq!(store.len().expect("len"), 3);

    let tx = store.begin_wait(LONG).expect("turn");
    tx.put(b"e", b"5").expect("put");
    tx.clear().expect("clear");
    assert_eq!((tx.len().expect("len"), tx.get(b"b").expect("get")), (0, None));
    tx.put(b"z", b"9").expect("put");
    assert_eq!(keys(tx.page(&ALL, false, limits).expect("page")), [b"z"]);
    tx.commit_wait().expect("commit");
    assert_eq!(contents(&store).expect("reads").len(), 1);
}

#[test]
fn a_turn_ends_by_deadline_drop_cancel_and_close() {
    let (_dir, store) = fresh();
    let tx = store.begin_wait(Duration::from_millis(5)).expect("turn");
    tx.put(b"a", b"1").expect("put");
    store.write(Batch::put("next", "1")).expect("the next writer proceeds after the deadline");
    is(tx.get(b"a"), Kind::Timeout);
    is(tx.commit_wait(), Kind::Timeout);

    drop(store.begin_wait(LONG).expect("turn"));
    store.write(Batch::put("next", "2")).expect("the next writer proceeds after a drop");

    store.begin(LONG, Box::new(drop)).expect("nobody takes the turn");
    store.begin(LONG, Box::new(|_| panic!("a defect of the caller"))).expect("queued");
    store.write(Batch::put("next", "3")).expect("the next writer proceeds");

    let tx = store.begin_wait(LONG).expect("turn");
    std::thread::scope(|scope| drop(scope.spawn(|| tx.cancel())));
    is(tx.put(b"a", b"1"), Kind::Cancelled);
    store.write(Batch::put("next", "4")).expect("the next writer proceeds after a cancel");

    let tx = store.begin_wait(LONG).expect("turn");
    store.close();
    is(tx.put(b"a", b"1"), Kind::Closed);
    is(store.begin_wait(LONG), Kind::Closed);
}

#[test]
fn a_turn_has_bounded_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_with(real_disk(&dir), macula_kv::Options { tx_bytes_max: 1000, ..options() }).expect("opens");
    let tx = store.begin_wait(LONG).expect("turn");
    tx.put(b"a", &[0; 800]).expect("fits");
    is(tx.put(b"b", &[0; 800]), Kind::TooLarge);
    tx.put(b"a", &[1; 800]).expect("replaces");
    tx.commit_wait().expect("commit");
    assert_eq!(contents(&store).expect("reads").len(), 1);
}

#[test]
fn a_full_queue_is_busy_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = macula_kv::Options { queue_len_max: 4, queue_bytes_max: 10_000, ..options() };
    let store = open_with(real_disk(&dir), options).expect("opens");
    let tx = store.begin_wait(LONG).expect("turn");
    let (answer, answers) = mpsc::channel();
    let submit = |batch| {
        let answer = answer.clone();
        store.submit(batch, Box::new(move |result| answer.send(result).expect("waits")))
    };
    for n in 0..4_u8 {
        submit(Batch::put([n], "v")).expect("queued");
    }
    is(submit(Batch::put("x", "v")), Kind::Busy);
    tx.abort();
    for _ in 0..4 {
        answers.recv().expect("answered").expect("committed");
    }
    let tx = store.begin_wait(LONG).expect("turn");
    submit(Batch::put("big", vec![0; 20_000])).expect("the only one may be larger");
    is(submit(Batch::put("big", "")), Kind::Busy);
    tx.abort();
    answers.recv().expect("answered").expect("committed");
    assert!(answers.try_recv().is_err(), "each is answered once");
}

#[test]
fn closing_answers_everyone_once() {
    let (dir, store) = fresh();
    let (answer, answers) = mpsc::channel();
    let acknowledged = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let (store, answer) = (store.clone(), answer.clone());
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for n in 0_u32.. {
                        let key = [&[writer][..], &n.to_be_bytes()].concat();
                        match store.write(Batch::put(key.clone(), "v")) {
                            Ok(_) => done.push(key),
                            Err(error) => {
                                assert_eq!(error.kind(), Kind::Closed, "{error}");
                                break;
                            }
                        }
                        let _ = answer.send(());
                    }
                    done
                })
            })
            .collect();
        let reader = scope.spawn(|| loop {
            match contents(&store) {
                Ok(_) => {}
                Err(error) => break assert_eq!(error.kind(), Kind::Closed, "{error}"),
            }
        });
        let verifier = scope.spawn(|| loop {
            match store.verify(&Task::quiet()) {
                Ok(_) => {}
                Err(error) => break assert_eq!(error.kind(), Kind::Closed, "{error}"),
            }
        });
        for _ in 0..50 {
            answers.recv().expect("writers write");
        }
        let other = scope.spawn(|| store.close());
        store.close();
        other.join().expect("closes too");
        reader.join().expect("reader");
        verifier.join().expect("verifier");
        writers.into_iter().flat_map(|writer| writer.join().expect("writer")).collect::<Vec<_>>()
    });
    let store = open(real_disk(&dir)).expect("opens");
    let found = contents(&store).expect("reads");
    assert!(acknowledged.iter().all(|key| found.contains_key(key)));
}

#[test]
fn dropping_the_last_handle_closes_without_waiting() {
    let (dir, store) = fresh();
    let (answer, answered) = mpsc::channel();
    let own = store.clone();
    store
        .submit(
            Batch::put("a", "1"),
            Box::new(move |result| {
                // the last handle dies on the writer thread itself
                own.close();
                drop(own);
                answer.send(result).expect("waits");
            }),
        )
        .expect("queued");
    let snapshot = store.snapshot().expect("snapshot");
    drop(store);
    answered.recv().expect("answered").expect("committed");
    while snapshot.len().is_ok() {
        std::thread::yield_now();
    }
    drop(dir);
}

#[test]
fn verifies_beside_writers() {
    let (_dir, store) = fresh();
    let ops = (0..2000_u32).map(|n| Op::Put { key: n.to_be_bytes().into(), value: vec![7; 200] }).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..200_u32 {
                store.write(Batch::put(n.to_be_bytes(), vec![8; 300])).expect("put");
            }
        });
        while !writer.is_finished() {
            let verified = store.verify(&Task::quiet()).expect("verifies");
            assert_eq!(verified.entries, 2000);
            assert!(verified.blocks > 100);
        }
    });
    let cancelled = Task::quiet();
    cancelled.cancel.cancel();
    is(store.verify(&cancelled), Kind::Cancelled);
}

#[test]
fn one_instant_under_a_closed_gate() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = std::sync::Arc::new(macula_core::Gate::new());
    let clock = std::sync::Arc::new(macula_core::SystemClock);
    let chance = std::sync::Arc::new(macula_core::SystemChance);
    let seams = Seams { disk: real_disk(&dir), gate: gate.clone(), clock, chance, threads: common::threads() };
    let store = Store::open(seams, options()).expect("opens");
    let (answer, answered) = mpsc::channel();
    let closed = gate.close();
    store.submit(Batch::put("a", "1"), Box::new(move |result| answer.send(result).expect("waits"))).expect("queued");
    let snapshot = store.snapshot().expect("snapshot");
    assert!(answered.recv_timeout(Duration::from_millis(50)).is_err(), "no commit passes a closed gate");
    drop(closed);
    answered.recv().expect("answered").expect("committed");
    assert!(everything(&snapshot).expect("reads").is_empty());
}
