//! A full disk met by a drain: redb refuses to go on after any error and is opened anew below the
//! store, while readers, updates and turns look through it.

#![allow(clippy::disallowed_methods)]

mod common;

use common::{count, drained_meanwhile, open_on, options};
use macula_core::{Kind, Kinded, Task};
use macula_kv::{Batch, Condition, KvError, Op, Options, Store};
use macula_testkit::{Fault, FaultDisk};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// A full disk refused deletes too: then only another program could make room.
#[test]
fn a_full_disk_takes_deletes_and_clears() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(8 << 20));
    let options = Options { table_bytes_max: 50_000, reserve_bytes: 2 << 20, ..options() };
    let store = open_on(Arc::new(disk.clone()), drained_meanwhile(), options.clone()).expect("opens");
    let mut written = 0_u32;
    let mut refused_at = None;
    loop {
        match store.write(Batch::put(written.to_be_bytes(), vec![written as u8; 2_000])) {
            Ok(_) => written += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::DiskFull, "{error}");
                // what waited in memory may have made room when it is drained
                if refused_at.replace(written) == Some(written) {
                    break;
                }
                store.checkpoint().expect("drains");
            }
        }
    }
    for n in 0..50_u32 {
        store.write(Batch::delete(n.to_be_bytes())).expect("deleted");
        store.checkpoint().expect("drained");
    }
    assert_eq!(store.len().expect("counts"), u64::from(written) - 50);
    store.write(Batch { ops: vec![Op::Clear], ..Batch::default() }).expect("cleared");
    store.close();
    let store = open_on(Arc::new(disk), drained_meanwhile(), options).expect("opens");
    assert_eq!(store.len().expect("counts"), 0);
    store.verify(&Task::quiet()).expect("sound");
}

/// While `meanwhile` runs, a drain meets a full disk; on a fresh store each time, because a file that
/// grew has room for many drains. "there" lies in redb and not in memory.
fn filling(meanwhile: impl Fn(&Store, &AtomicBool) + Sync) {
    let mut met = 0;
    for _ in 0..count(30, 500) {
        let disk = FaultDisk::new();
        let log = macula_wal::Options { segment_bytes_min: 1 << 20, ..macula_wal::Options::default() };
        // pages in its memory can be read from a closed redb, and so can the first of each table
        let options = Options { table_bytes_max: 8_000, cache_bytes: 0, log, ..options() };
        let store = open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens");
        let many = (0..500_u32).map(|n| Op::Put { key: n.to_be_bytes().into(), value: vec![0; 100] });
        store.write(Batch { ops: many.collect(), ..Batch::default() }).expect("fits");
        store.write(Batch::put("there", "1")).expect("fits");
        store.checkpoint().expect("drains");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| meanwhile(&store, &over));
            let _over = OnDrop(&over);
            disk.fail_at(disk.operations() + 1, Fault::Full);
            // into the log, which has its room; growing the file fails
            let written = store.write(Batch::put("large", vec![1; 400_000]));
            met += u64::from(written.is_ok() && store.checkpoint().is_err());
            disk.heal();
            store.write(Batch::put("large", vec![2; 400_000])).expect("writes come back");
            store.checkpoint().expect("drains come back");
        });
        store.verify(&Task::quiet()).expect("sound");
    }
    eprintln!("drains that met a full disk: {met}");
    assert!(met > 10, "met={met}");
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A conditional write that met the moment in which redb was closed was answered `Closed`, and the
/// store was poisoned, though nothing was wrong with it.
#[test]
fn updates_go_on_while_redb_is_opened_anew() {
    filling(|store, over| {
        while !over.load(Ordering::Acquire) {
            // many, so that the moment falls among them
            let is = |n: u32| Condition::Is { key: n.to_be_bytes().into(), value: Some(vec![0; 100]) };
            match store.write(Batch { conditions: (0..500).map(is).collect(), ..Batch::put("there", "1") }) {
                Err(error) if error.kind() != Kind::DiskFull => panic!("{error}"),
                _ => {}
            }
            let absent = Condition::Absent("there".into());
            match store.write(Batch { conditions: vec![absent], ..Batch::put("there", "2") }) {
                Err(KvError::Exists | KvError::DiskFull) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

/// A read between the failed write and the new redb was answered `Poisoned`: redb refuses everything
/// after an error, and only what came after its closing was asked again.
#[test]
fn reads_go_on_while_redb_is_opened_anew() {
    filling(|store, over| {
        while !over.load(Ordering::Acquire) {
            assert_eq!(store.get(b"there").expect("reads"), Some(b"1".to_vec()));
            assert!(store.len().expect("counts") > 500);
        }
    });
}

/// A turn has the store to itself, so the redb that was opened anew shows what the closed one did.
#[test]
fn a_turn_goes_on_while_redb_is_opened_anew() {
    filling(|store, over| {
        while !over.load(Ordering::Acquire) {
            let tx = store.begin_wait(LONG).expect("turn");
            for _ in 0..50 {
                assert_eq!(tx.get(b"there").expect("reads"), Some(b"1".to_vec()));
                assert!(!tx.has(b"nowhere").expect("reads"));
                assert!(tx.len().expect("counts") > 0);
            }
            tx.abort();
        }
    });
}
