//! Power loss, failed syncs, I/O errors and a full disk at every operation of a short mixed run.

mod common;

use common::{contents, count, open, seed, Model};
use macula_core::{Disk, Kind, Kinded, RelPath, Task};
use macula_kv::{Batch, KvError, Op, Store};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::ops::ControlFlow;
use std::sync::{mpsc, Arc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn key(n: u32) -> Vec<u8> {
    format!("key-{n:05}").into_bytes()
}

/// One step of the run: batches that are queued together, or closing and opening again.
#[derive(Debug, Clone)]
enum Step {
    Group(Vec<Vec<Op>>),
    Turn(Vec<Op>),
    Reopen,
    Compact,
}

fn put(n: u32, len: usize) -> Op {
    Op::Put { key: key(n), value: vec![n as u8 ^ 0x5a; len] }
}

fn steps() -> Vec<Step> {
    let one = |ops: Vec<Op>| Step::Group(vec![ops]);
    vec![
        one(vec![put(1, 10)]),
        one((0..40).map(|n| put(n * 7, 300)).collect()),
        Step::Group((0..3).map(|n| vec![put(1000 + n, 50), put(n, 20)]).collect()),
        one(vec![put(5, 9000), Op::Delete { key: key(14) }]),
        Step::Turn(vec![put(2000, 5), Op::Delete { key: key(7) }, put(2001, 700)]),
        Step::Reopen,
        one((0..300).map(|n| put(n, 3000)).collect()),
        one((0..250).map(|n| Op::Delete { key: key(n) }).collect()),
        Step::Compact,
        one(vec![put(3, 3)]),
        one(vec![Op::Clear, put(4, 4)]),
        Step::Compact,
        Step::Group((0..5).map(|n| vec![put(n, 100)]).collect()),
        Step::Reopen,
        one(vec![put(6, 60_000)]),
    ]
}

fn apply(model: &mut Model, ops: &[Op]) {
    for op in ops {
        match op.clone() {
            Op::Put { key, value } => drop(model.insert(key, value)),
            Op::Delete { key } => drop(model.remove(&key)),
            Op::Clear => model.clear(),
            other => unreachable!("no step has it: {other:?}"),
        }
    }
}

/// What a run promised.
#[derive(Debug, Clone, Default)]
struct Promise {
    /// After the last acknowledged batch.
    acknowledged: Model,
    /// What may be there besides, one after the other.
    possible: Vec<Model>,
    revision: u64,
}

impl Promise {
    fn allows(&self, found: &Model) -> bool {
        *found == self.acknowledged || self.possible.contains(found)
    }
}

/// Queue batches so that they become one group, and wait for all answers.
fn write_together(store: &Store, batches: &[Vec<Op>]) -> Vec<Result<u64, KvError>> {
    let turn = match batches.len() {
        1 => None,
        _ => store.begin_wait(LONG).ok(),
    };
    let answers: Vec<_> = batches
        .iter()
        .map(|ops| {
            let (answer, answered) = mpsc::channel();
            let refused = answer.clone();
            let batch = Batch { ops: ops.clone(), ..Batch::default() };
            if let Err(error) = store.submit(batch, Box::new(move |result| answer.send(result).expect("waits"))) {
                refused.send(Err(error)).expect("waits");
            }
            answered
        })
        .collect();
    drop(turn);
    let answer = |answered: mpsc::Receiver<Result<macula_kv::Committed, KvError>>| {
        let result = answered.recv().expect("answered").map(|committed| committed.revision);
        assert!(answered.try_recv().is_err(), "answered once");
        result
    };
    answers.into_iter().map(answer).collect()
}

fn write_turn(store: &Store, ops: &[Op]) -> Result<u64, KvError> {
    let tx = store.begin_wait(LONG)?;
    for op in ops {
        match op {
            Op::Put { key, value } => tx.put(key, value)?,
            Op::Delete { key } => tx.delete(key)?,
            Op::Clear => tx.clear()?,
            other => unreachable!("no step has it: {other:?}"),
        }
    }
    Ok(tx.commit_wait()?.revision)
}

/// Run all steps. `failed` is told each error and decides whether the step is tried again.
fn run(disk: &FaultDisk, promise: &mut Promise, mut failed: impl FnMut(&KvError) -> ControlFlow<()>) -> Option<Store> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut store = loop {
        match open(disk.clone()) {
            Ok(store) => break store,
            Err(error) if failed(&error).is_break() => return None,
            Err(_) => {}
        }
    };
    for step in steps() {
        let batches = match &step {
            Step::Group(batches) => batches.clone(),
            Step::Turn(ops) => vec![ops.clone()],
            Step::Compact => {
                // a compaction that fails leaves the store as it was, or says that it is poisoned
                for error in (0..3).map_while(|_| store.compact(&Task::quiet()).err()) {
                    let is_as_before = matches!(error.kind(), Kind::Io) && store.sync().is_ok();
                    if !is_as_before && failed(&error).is_break() {
                        return Some(store);
                    }
                }
                continue;
            }
            Step::Reopen => {
                store.close();
                store = loop {
                    match open(disk.clone()) {
                        Ok(store) => break store,
                        Err(error) if failed(&error).is_break() => return None,
                        Err(_) => {}
                    }
                };
                continue;
            }
        };
        let mut left = batches;
        while !left.is_empty() {
            promise.possible.clear();
            let mut model = promise.acknowledged.clone();
            for ops in &left {
                apply(&mut model, ops);
                promise.possible.push(model.clone());
            }
            let results = match &step {
                Step::Turn(ops) => vec![write_turn(&store, ops)],
                _ => write_together(&store, &left),
            };
            let mut again = Vec::new();
            for (ops, result) in left.into_iter().zip(results) {
                match result {
                    Ok(revision) => {
                        assert!(revision > promise.revision, "revisions grow");
                        promise.revision = revision;
                        apply(&mut promise.acknowledged, &ops);
                    }
                    Err(error) if failed(&error).is_break() => return Some(store),
                    Err(_) => again.push(ops),
                }
            }
            left = again;
        }
    }
    promise.possible.clear();
    Some(store)
}

fn operations() -> (u64, FaultDisk) {
    let disk = FaultDisk::new();
    let store = run(&disk, &mut Promise::default(), |error| panic!("{error}")).expect("runs");
    store.close();
    (disk.operations(), disk)
}

/// Open what a crash left, compare, write on, and read it again.
fn survives(disk: &FaultDisk, promise: &Promise, what: &str) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = open(disk.clone()).unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    let mut found = contents(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(promise.allows(&found), "{what}: {} entries, {} promised", found.len(), promise.acknowledged.len());
    let committed = store.write(Batch::put("more", "after")).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(committed.revision > promise.revision, "{what}: a revision is used again");
    found.insert("more".into(), "after".into());
    store.verify(&Task::quiet()).unwrap_or_else(|error| panic!("{what}: {error}"));
    store.close();
    let store = open(disk).unwrap_or_else(|error| panic!("{what}: does not open again: {error}"));
    assert_eq!(contents(&store).expect("reads"), found, "{what}");
}

fn crash_at(n: u64, modes: &[CrashMode], check: impl Fn(&FaultDisk, &Promise, &str)) {
    let disk = FaultDisk::new();
    disk.fail_at(n, Fault::Crash);
    let mut promise = Promise::default();
    let store = run(&disk, &mut promise, |_| ControlFlow::Break(()));
    drop(store);
    for mode in modes {
        check(&disk.after_crash(*mode), &promise, &format!("operation {n} ({:?}), {mode:?}", disk.operation(n)));
    }
}

#[test]
fn power_loss_at_every_operation_loses_nothing() {
    let seed = seed();
    let (operations, _) = operations();
    eprintln!("operations={operations}");
    let rounds = count(1, 20);
    let step = count(3, 1);
    for n in (1 + seed % step..=operations).step_by(step as usize) {
        // keeping all is what a killed process leaves, tested below too
        let mut modes = vec![CrashMode::LoseAll];
        modes.extend((n % count(4, 1) == 0).then_some(CrashMode::KeepAll));
        modes.extend((0..rounds).map(|round| CrashMode::Random(seed ^ (n << 8) ^ round)));
        crash_at(n, &modes, survives);
    }
}

#[test]
fn power_loss_during_recovery_loses_nothing() {
    let seed = seed();
    let (operations, _) = operations();
    let step = count(151, 3) as usize;
    for n in (1..=operations).rev().step_by(step) {
        crash_at(n, &[CrashMode::KeepAll, CrashMode::Random(seed ^ n)], |found, promise, what| {
            let probe = found.after_crash(CrashMode::KeepAll);
            open(Arc::new(probe.clone())).expect("opens").close();
            for m in 1..=probe.operations() {
                let disk = found.after_crash(CrashMode::KeepAll);
                disk.fail_at(m, Fault::Crash);
                if let Ok(store) = open(Arc::new(disk.clone())) {
                    store.close();
                }
                let again = disk.after_crash(CrashMode::Random(seed ^ m));
                survives(&again, promise, &format!("{what}, recovery stopped at {m}"));
            }
        });
    }
}

#[test]
fn this_suite_sees_a_disk_that_does_not_sync() {
    let (operations, _) = operations();
    let lost = (1..=operations).step_by(5).any(|n| {
        let disk = FaultDisk::new();
        disk.forget_syncs(true);
        disk.fail_at(n, Fault::Crash);
        let mut promise = Promise::default();
        drop(run(&disk, &mut promise, |_| ControlFlow::Break(())));
        match open(Arc::new(disk.after_crash(CrashMode::LoseAll))) {
            Ok(store) => !promise.allows(&contents(&store).expect("reads")),
            Err(_) => true,
        }
    });
    assert!(lost, "without syncs something must be missed");
}

#[test]
fn killed_processes_lose_nothing() {
    let (operations, _) = operations();
    for n in (1..=operations).step_by(count(7, 1) as usize) {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Crash);
        let mut promise = Promise::default();
        drop(run(&disk, &mut promise, |_| ControlFlow::Break(())));
        survives(&disk.kill(), &promise, &format!("killed at {n}"));
    }
}

/// After a failed sync a commit may be there in the page cache and not on the disk. Reopening
/// decides once: what the first opening shows is what a later power loss leaves.
#[test]
fn a_failed_sync_poisons_and_reopening_decides_for_good() {
    let (operations, whole) = operations();
    let mut unknown = 0;
    for n in (1..=operations).filter(|n| whole.operation(*n) == Some("sync_data")) {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Io);
        let (mut promise, mut errors) = (Promise::default(), Vec::new());
        let store = run(&disk, &mut promise, |error| {
            errors.push(error.clone());
            ControlFlow::Break(())
        });
        let Some(error) = errors.first() else { continue };
        if let Some(store) = store {
            // a drain that failed poisons, and the next who asks is told
            let told = matches!(error.kind(), Kind::UnknownResult | Kind::Io | Kind::Poisoned);
            assert!(told, "sync {n}: {error}");
            unknown += u32::from(error.kind() == Kind::UnknownResult);
            let refused = store.write(Batch::put("x", "y")).expect_err("poisoned");
            assert_eq!(refused.kind(), Kind::Poisoned, "sync {n}: {refused}");
            assert_eq!(store.begin_wait(LONG).expect_err("poisoned").kind(), Kind::Poisoned);
            match contents(&store) {
                Ok(found) => assert_eq!(found, promise.acknowledged, "sync {n}: reads show the last good state"),
                Err(error) => assert_eq!(error.kind(), Kind::Poisoned, "sync {n}: {error}"),
            }
            store.close();
        }
        disk.heal();
        let store = open(Arc::new(disk.clone())).unwrap_or_else(|error| panic!("sync {n}: {error}"));
        let found = contents(&store).expect("reads");
        assert!(promise.allows(&found), "sync {n}");
        // nor is a revision used again that the failed group may have had
        let revision = promise.revision + promise.possible.len() as u64;
        let decided = Promise { acknowledged: found, possible: vec![], revision };
        for mode in [CrashMode::LoseAll, CrashMode::Random(n), CrashMode::KeepAll] {
            survives(&disk.after_crash(mode), &decided, &format!("sync {n}, then {mode:?}"));
        }
    }
    assert!(unknown > 10, "unknown={unknown}");
}

/// The pieces in which a long sync goes out count as syncs: one that fails poisons, and nothing is lost.
#[test]
fn a_long_sync_that_stops_between_its_pieces_loses_nothing() {
    let life = |disk: &FaultDisk| {
        let store = open(Arc::new(disk.clone())).expect("opens");
        let written = store.write(Batch::put("long", vec![7; 3 << 20]));
        let drained = written.and_then(|_| store.checkpoint());
        (store, drained)
    };
    let whole = FaultDisk::new();
    life(&whole).1.expect("drains");
    let pieces: Vec<_> = (1..=whole.operations()).filter(|n| whole.operation(*n) == Some("write_out")).collect();
    assert!(pieces.len() >= 2, "{pieces:?}");
    let promise = Promise { acknowledged: [(b"long".to_vec(), vec![7; 3 << 20])].into(), ..Promise::default() };
    for n in pieces {
        for fault in [Fault::Io, Fault::Crash] {
            let disk = FaultDisk::new();
            disk.fail_at(n, fault);
            let (store, drained) = life(&disk);
            drained.expect_err("the drain fails");
            let refused = store.write(Batch::put("x", "y")).expect_err("poisoned");
            assert_eq!(refused.kind(), Kind::Poisoned, "{refused}");
            drop(store);
            for mode in [CrashMode::LoseAll, CrashMode::Random(n), CrashMode::KeepAll] {
                survives(&disk.after_crash(mode), &promise, &format!("piece {n}, {fault:?}, {mode:?}"));
            }
        }
    }
}

#[test]
fn a_failed_write_changes_nothing_or_is_unknown() {
    let (operations, whole) = operations();
    let writes = (1..=operations).filter(|n| whole.operation(*n) != Some("sync_data"));
    for n in writes.step_by(count(3, 1) as usize) {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Io);
        let mut promise = Promise::default();
        let mut unknown = true;
        drop(run(&disk, &mut promise, |error| {
            unknown = error.kind() == Kind::UnknownResult;
            ControlFlow::Break(())
        }));
        if !unknown {
            promise.possible.clear();
        }
        disk.heal();
        survives(&disk.kill(), &promise, &format!("write {n} ({:?}) failed", disk.operation(n)));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_they_come_back_by_themselves() {
    let (operations, _) = operations();
    for n in (1..=operations).step_by(count(11, 1) as usize) {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Full);
        let mut promise = Promise::default();
        let mut refused = 0;
        let store = run(&disk, &mut promise, |error| {
            assert_eq!(error.kind(), Kind::DiskFull, "operation {n}: {error}");
            refused += 1;
            disk.heal();
            ControlFlow::Continue(())
        });
        let store = store.expect("goes on");
        assert_eq!(contents(&store).expect("reads"), promise.acknowledged, "operation {n}");
        store.close();
        survives(&disk.after_crash(CrashMode::LoseAll), &promise, &format!("full at {n}"));
    }
}

/// When the disk fills in the middle of a commit, redb refuses to go on and is opened anew below
/// the handle; readers must not see it closed meanwhile.
#[test]
fn readers_go_on_while_the_disk_fills_in_a_commit() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut refused = 0;
    for _ in 0..30 {
        let disk = FaultDisk::new();
        let store = open(Arc::new(disk.clone())).expect("opens");
        store.write(Batch::put("first", "1")).expect("fits");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    assert_eq!(store.get(b"first").expect("reads"), Some(b"1".to_vec()));
                }
            });
            // growing the file fails, and so do the writes that need its room
            disk.fail_at(disk.operations() + 1, Fault::Full);
            refused += u32::from(store.write(Batch::put("large", vec![1; 400_000])).is_err());
            disk.heal();
            store.write(Batch::put("large", vec![2; 400_000])).expect("writes come back");
            done.store(true, Ordering::Release);
            reader.join().expect("reads");
        });
    }
    assert!(refused > 10, "refused={refused}");
}

#[test]
fn a_disk_that_fills_up_keeps_its_readers() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(8 << 20));
    let store = open(Arc::new(disk.clone())).expect("opens");
    store.write(Batch::put("first", "1")).expect("fits");
    let mut model = contents(&store).expect("reads");
    let mut full_at = 0;
    for n in 0.. {
        assert!(n < 10_000, "the disk never fills");
        match store.write(Batch { ops: vec![put(n, 5000)], ..Batch::default() }) {
            Ok(_) => apply(&mut model, &[put(n, 5000)]),
            Err(error) => {
                assert_eq!(error.kind(), Kind::DiskFull, "{error}");
                // the log's room comes back when what it holds is in the file
                let before = model.len();
                if before == full_at || store.checkpoint().is_err() {
                    break;
                }
                full_at = before;
            }
        }
    }
    assert!(model.len() > 300, "most of the disk is used: entries={}", model.len());
    assert_eq!(contents(&store).expect("reads go on"), model);
    let snapshot = store.snapshot().expect("snapshot");
    assert_eq!(snapshot.get(b"first").expect("reads go on"), Some(b"1".to_vec()));
    disk.set_capacity(None);
    store.write(Batch::put("last", "1")).expect("writes come back by themselves");
    store.close();
    assert_eq!(contents(&open(Arc::new(disk.clone())).expect("opens")).expect("reads").len(), model.len() + 1);
}

#[test]
fn many_writers_share_commits_and_lose_nothing() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for round in 0..count(40, 1000) {
        let disk = FaultDisk::new();
        let store = open(Arc::new(disk.clone())).expect("opens");
        disk.fail_at(disk.operations() + rng.u64(1..400), Fault::Crash);
        let write = |writer: u32| -> Vec<u32> {
            let two = |n: u32| Batch { ops: vec![put(n, 50), put(n + 1, 50)], ..Batch::default() };
            (writer * 10_000..).step_by(2).take_while(|n| store.write(two(*n)).is_ok()).collect()
        };
        let acknowledged: Vec<u32> = std::thread::scope(|scope| {
            let write = &write;
            let writers: Vec<_> = (0..8).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().flat_map(|writer| writer.join().expect("writer")).collect()
        });
        drop(store);
        let found =
            contents(&open(Arc::new(disk.after_crash(CrashMode::Random(round)))).expect("opens")).expect("reads");
        for n in acknowledged {
            assert!(found.contains_key(&key(n)), "round {round}: lost {n}");
        }
        let halves = found.keys().filter(|key| key.last().is_some_and(|digit| digit % 2 == 0)).count();
        assert_eq!(halves * 2, found.len(), "round {round}: half a batch");
    }
}

/// The file of an interrupted creation has another name, and the next opening clears it away.
#[test]
fn an_interrupted_creation_leaves_nothing_half() {
    let (operations, whole) = operations();
    let renamed = (1..=operations).find(|n| whole.operation(*n) == Some("rename")).expect("renamed");
    for n in 1..=renamed {
        let disk = FaultDisk::new();
        disk.fail_at(n, Fault::Crash);
        assert!(open(Arc::new(disk.clone())).is_err());
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random(n)] {
            let found = disk.after_crash(mode);
            open(Arc::new(found.clone())).unwrap_or_else(|error| panic!("stopped at {n}: {error}")).close();
            let names = found.list(&RelPath::root()).expect("lists");
            let mut names: Vec<_> = names.iter().map(|entry| entry.name.to_str().expect("text")).collect();
            names.retain(|name| !name.starts_with("wal-"));
            assert_eq!(names, ["kv.redb", "wal.meta"], "stopped at {n}");
        }
    }
}
