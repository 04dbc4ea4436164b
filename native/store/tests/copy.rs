//! A copy of a store is there whole or not at all, whenever the machine stops; and a directory's store is
//! open once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use macula_core::{Cancel, Disk, Gate, Kind, Kinded, RelPath, SystemClock, Task};
use macula_store::kv::{Batch, Store};
use macula_store::{copy_store, Directory, NewDir, Owner, StoreError};
use macula_testkit::{path, CrashMode, Fault, FaultDisk, SeededChance};
use std::sync::Arc;
use support::{base_at, seams, torture};

const ENTRIES: u64 = 300;

fn opened(disk: Arc<dyn Disk>) -> Result<Store, macula_store::kv::KvError> {
    let options = macula_store::kv::Options { cache_bytes: 1 << 20, ..Default::default() };
    let (gate, clock, chance) = (Arc::new(Gate::new()), Arc::new(SystemClock), Arc::new(SeededChance::new(1)));
    let threads = seams(1).kv_threads;
    Store::open(macula_store::kv::Seams { disk, gate, clock, chance, threads }, options)
}

/// A store on a disk of its own, with a long value among short ones.
fn source() -> Store {
    let store = opened(Arc::new(FaultDisk::new())).unwrap();
    let ops = (0..ENTRIES).flat_map(|n| {
        let len = if n == 7 { 300_000 } else { 40 };
        Batch::put(n.to_be_bytes(), vec![n as u8; len]).ops
    });
    store.write(Batch { ops: ops.collect(), ..Batch::default() }).unwrap();
    store
}

fn holds_all(store: &Store) -> bool {
    let same = |n: u64| store.get(&n.to_be_bytes()).unwrap().is_some_and(|value| value.iter().all(|b| *b == n as u8));
    store.len().unwrap() == ENTRIES && (0..ENTRIES).all(same)
}

fn copied(disk: &FaultDisk, store: &Store, task: &Task) -> Result<u64, StoreError> {
    let dest = NewDir::beneath(Arc::new(disk.clone()), path("copy"));
    copy_store(store, &store.snapshot().unwrap(), &dest, &seams(3), task).map(|copied| copied.entries)
}

/// What a disk has: the copy, whole; or no such name.
fn verdict(disk: &FaultDisk) -> Result<bool, String> {
    match disk.subtree(&path("copy")) {
        Err(_) => Ok(false),
        Ok(tree) => match opened(tree) {
            Ok(copy) if holds_all(&copy) => Ok(true),
            Ok(copy) => Err(format!("it opens with {} entries", copy.len().unwrap())),
            Err(error) => Err(format!("it does not open: {error}")),
        },
    }
}

#[test]
fn a_copy_is_whole_or_not_there_whenever_the_power_goes() {
    let store = source();
    let seeds = if torture() { 12 } else { 2 };
    let (mut n, mut crashes) = (1, 0);
    loop {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Crash);
        let ended = copied(&disk, &store, &Task::quiet());
        let random = (0..seeds).map(|seed| CrashMode::Random(n * 1_000 + seed));
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain(random) {
            let there = verdict(&disk.after_crash(mode)).unwrap_or_else(|what| panic!("n={n} {mode:?}: {what}"));
            assert!(there || ended.is_err(), "n={n} {mode:?}: it was acknowledged");
            crashes += 1;
        }
        if ended.is_ok() && !disk.has_crashed() {
            break;
        }
        n += 1;
    }
    println!("copy: operations={} crashes={crashes}", n - 1);
    assert!(n > 10, "the run is long enough to mean something");
}

#[test]
fn a_copy_that_failed_leaves_nothing() {
    let store = source();
    for fault in [Fault::Io, Fault::Full] {
        let mut n = 1;
        loop {
            let disk = FaultDisk::new();
            disk.fail_at(n, fault);
            let ended = copied(&disk, &store, &Task::quiet());
            disk.heal();
            match ended {
                // nothing failed, or only what is no matter
                Ok(entries) if disk.operations() < n => break assert_eq!(entries, ENTRIES),
                Ok(_) => assert_eq!(verdict(&disk), Ok(true), "n={n} {fault:?}"),
                Err(_) => {
                    assert_eq!(verdict(&disk), Ok(false), "n={n} {fault:?}");
                    copied(&disk, &store, &Task::quiet()).unwrap();
                }
            }
            n += 1;
        }
    }
}

#[test]
fn a_copy_is_refused_over_anything_and_ended_by_cancel() {
    let store = source();
    let disk = FaultDisk::new();
    copied(&disk, &store, &Task::quiet()).unwrap();
    assert!(matches!(copied(&disk, &store, &Task::quiet()), Err(StoreError::Exists(_))));
    let (disk, cancel) = (FaultDisk::new(), Cancel::new());
    cancel.cancel();
    // a store of less than a chunk is copied before anybody looks
    let long: Vec<_> = (0..40_u64).flat_map(|n| Batch::put(n.to_be_bytes(), vec![0; 300_000]).ops).collect();
    store.write(Batch { ops: long, ..Batch::default() }).unwrap();
    let error = copied(&disk, &store, &Task::new(cancel, |_| {})).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    assert_eq!(disk.list(&RelPath::root()).unwrap(), []);
    store.close();
    assert_eq!(store.snapshot().map(|_| ()).unwrap_err().kind(), Kind::Closed);
}

#[test]
fn a_directory_is_open_once_and_never_inside_an_app() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Owner { pid: 42, socket: None };
    let open = |path: &std::path::Path| Directory::open(path, &owner, Default::default(), &seams(5));
    let store = dir.path().join("a/b/store");
    let first = open(&store).unwrap();
    first.store().write(Batch::put("k", "v")).unwrap();
    assert!(matches!(open(&store), Err(StoreError::Locked(Some(found))) if found == owner));
    assert_eq!(Directory::owner(&store).unwrap(), Some(owner.clone()));
    first.close();
    assert_eq!(Directory::owner(&store).unwrap(), None);
    let again = open(&store).unwrap();
    assert_eq!(again.store().get(b"k").unwrap(), Some(b"v".to_vec()));
    assert!(first.store().get(b"k").is_err());

    let base = base_at(&dir.path().join("a"));
    let app = base.app(&support::app()).unwrap();
    for inside in ["", "data/kv", "data/kv/deeper", "uploads/x"] {
        assert!(matches!(open(&app.path().join(inside)), Err(StoreError::InsideApp { .. })), "{inside}");
    }
    assert!(matches!(NewDir::at(&app.path().join("data/kv")), Err(StoreError::InsideApp { .. })));
    // no app's, only called so
    open(&dir.path().join("a/apps/none/data")).unwrap();
}
