//! Power loss, failed calls and a full disk at every operation of a short run, and every byte of what
//! is on the disk changed: nothing durable is ever missing or wrong without a word.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{append, count, open, open_on, options, seed, Model};
use macula_core::{Disk, Kind, Kinded, Open, RealDisk, RelPath};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use macula_wal::WalError;
use std::sync::Arc;

/// What a run promised: `durable` is there, and of `written` a prefix.
#[derive(Default, Clone)]
struct Promise {
    written: Model,
    durable: u64,
    meta: Vec<Vec<u8>>,
}

/// Appends, syncs, takes back, releases nothing, and opens again in between.
fn run(disk: &FaultDisk, promise: &mut Promise) -> Result<(), WalError> {
    promise.meta.push(Vec::new());
    for life in 0..3_u8 {
        let (mut log, _) = open(disk)?;
        for group in 0..6 {
            for len in [10, 700, 90] {
                let (sequence, bytes) = append(&mut log, len * (group + 1))?;
                promise.written.insert(sequence, bytes);
            }
            log.sync()?;
            promise.durable = log.next_sequence() - 1;
        }
        promise.meta.push(vec![life; 40]);
        log.set_meta(&[life; 40])?;
        promise.meta.drain(..promise.meta.len() - 1);
        log.spares().refill()?;
        let from = log.next_sequence() - 2;
        // what is taken back may be there until that is durable
        promise.durable = from - 1;
        log.truncate_suffix(from)?;
        promise.written.split_off(&from);
    }
    Ok(())
}

fn check(disk: &FaultDisk, promise: &Promise, what: &str) {
    let (log, found) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let last = found.keys().next_back().copied().unwrap_or(0);
    assert!(last >= promise.durable, "{what}: lost: found={last} durable={}", promise.durable);
    for (sequence, bytes) in &found {
        assert_eq!(promise.written.get(sequence), Some(bytes), "{what}: sequence={sequence}");
    }
    assert_eq!(found.len() as u64, last, "{what}: a gap");
    assert!(promise.meta.iter().any(|meta| meta == log.meta()), "{what}: meta");
}

fn operations() -> u64 {
    let disk = FaultDisk::new();
    run(&disk, &mut Promise::default()).expect("runs");
    disk.operations()
}

#[test]
fn power_loss_at_every_operation_loses_nothing() {
    let (seed, operations) = (seed(), operations());
    let mut crashes = 0;
    for n in 1..=operations {
        let (disk, mut promise) = (FaultDisk::new(), Promise::default());
        disk.fail_at(n, Fault::Crash);
        run(&disk, &mut promise).expect_err("crashes");
        let random = (0..count(2, 40)).map(|nth| CrashMode::Random(seed ^ (n * 1000 + nth)));
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain(random) {
            let found = disk.after_crash(mode);
            check(&found, &promise, &format!("operation {n} {mode:?}"));
            // and again, with whatever opening did not make durable
            check(&found.after_crash(CrashMode::LoseAll), &promise, &format!("operation {n} {mode:?}, twice"));
            crashes += 1;
        }
    }
    eprintln!("wal power_loss: operations={operations} crashes={crashes} lost=0");
}

#[test]
fn power_loss_during_opening_loses_nothing() {
    let seed = seed();
    for nth in 0..count(10, 200) {
        let (disk, mut promise) = (FaultDisk::new(), Promise::default());
        disk.fail_at(operations() / 2 + nth % 40, Fault::Crash);
        run(&disk, &mut promise).expect_err("crashes");
        let found = disk.after_crash(CrashMode::Random(seed + nth));
        let whole = found.kill();
        drop(open(&whole).expect("opens"));
        for n in 1..=whole.operations() {
            let part = found.kill();
            part.fail_at(n, Fault::Crash);
            open(&part).expect_err("crashes");
            for mode in [CrashMode::LoseAll, CrashMode::Random(seed + n)] {
                check(&part.after_crash(mode), &promise, &format!("opening stopped at {n} {mode:?}"));
            }
        }
    }
}

#[test]
fn the_suite_fails_when_sync_does_nothing() {
    let disk = FaultDisk::new();
    let mut promise = Promise::default();
    disk.forget_syncs(true);
    run(&disk, &mut promise).expect("runs");
    let found = disk.after_crash(CrashMode::LoseAll);
    let lost = open(&found).map_or(true, |(_, model)| (model.len() as u64) < promise.durable);
    assert!(lost);
}

#[test]
fn a_failed_call_is_unknown_or_changes_nothing_and_is_decided_by_opening() {
    let operations = operations();
    for (fault, n) in [Fault::Io, Fault::Full].into_iter().flat_map(|fault| (1..=operations).map(move |n| (fault, n))) {
        let (disk, mut promise) = (FaultDisk::new(), Promise::default());
        disk.fail_at(n, fault);
        match run(&disk, &mut promise) {
            // a name that could not be removed
            Ok(()) => continue,
            Err(error) => {
                let kinds = [Kind::UnknownResult, Kind::Io, Kind::DiskFull];
                assert!(kinds.contains(&error.kind()), "operation {n}: {error}");
            }
        }
        disk.heal();
        let killed = disk.kill();
        check(&killed, &promise, &format!("{fault:?} at operation {n}"));
        // what opening found stays, whatever the disk loses afterwards
        let (_, decided) = open(&killed).expect("opens");
        let (_, again) = open(&killed.after_crash(CrashMode::LoseAll)).expect("opens");
        assert_eq!(decided, again, "{fault:?} at operation {n}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    append(&mut log, 10).expect("appends");
    disk.fail_at(disk.operations() + 2, Fault::Io);
    assert_eq!(log.sync().expect_err("fails").kind(), Kind::UnknownResult);
    let operations = disk.operations();
    assert_eq!(append(&mut log, 10).expect_err("poisoned").kind(), Kind::Poisoned);
    assert_eq!(log.sync().expect_err("poisoned").kind(), Kind::Poisoned);
    assert_eq!(log.truncate_suffix(1).expect_err("poisoned").kind(), Kind::Poisoned);
    assert_eq!(log.set_meta(b"x").expect_err("poisoned").kind(), Kind::Poisoned);
    assert_eq!(disk.operations(), operations);
}

/// A log of a few segments on the machine's own disk, and its files.
fn on_disk() -> (tempfile::TempDir, Model, Vec<RelPath>) {
    let dir = tempfile::tempdir().expect("temp");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("there"));
    let (mut log, _) = open_on(disk.clone(), options(), 0).expect("opens");
    let mut model = Model::new();
    for len in (0..60).map(|n| n * 13 % 700) {
        let (sequence, bytes) = append(&mut log, len).expect("appends");
        model.insert(sequence, bytes);
        log.sync().expect("syncs");
    }
    drop(log);
    let entries = disk.list(&RelPath::root()).expect("lists");
    let paths = entries.iter().map(|entry| RelPath::new(entry.name.to_string_lossy().as_bytes()).expect("a name"));
    (dir, model, paths.collect())
}

/// Whatever byte changes: the damage is named, or it hit what no record needs, or the very last
/// record, which nothing on the disk says was synced.
#[test]
fn a_flipped_byte_is_named_or_harmless() {
    let (dir, model, paths) = on_disk();
    let originals: Vec<_> =
        paths.iter().map(|path| std::fs::read(dir.path().join(path.as_path())).expect("reads")).collect();
    let mut rng = fastrand::Rng::with_seed(seed());
    let (mut named, mut flips) = (0, 0);
    for (path, original) in paths.iter().zip(&originals) {
        let step = count(67, 1) as usize;
        for at in (rng.usize(..step)..original.len()).step_by(step) {
            let disk = FaultDisk::new();
            for (other, bytes) in paths.iter().zip(&originals) {
                let file = disk.open(other, Open::CreateNew).expect("creates");
                let mut bytes = bytes.clone();
                if other == path {
                    bytes[at] ^= 1 << rng.u8(..8);
                }
                file.write_all_at(&bytes, 0).expect("writes");
            }
            flips += 1;
            match open(&disk) {
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Corrupt | Kind::NewerFormat), "{path} at {at}: {error}");
                    named += 1;
                }
                Ok((_, found)) => {
                    assert!(found.len() + 1 >= model.len(), "{path} at {at}: lost in silence: {}", found.len());
                    assert!(found.iter().all(|(sequence, bytes)| model.get(sequence) == Some(bytes)), "{path} at {at}");
                }
            }
        }
    }
    assert!(named > flips / 8, "flips={flips} named={named}");
    eprintln!("wal flips: flips={flips} named={named} wrong=0");
}

#[test]
fn a_missing_segment_is_named() {
    let (dir, _, paths) = on_disk();
    let segments: Vec<_> = paths.iter().filter(|path| path.as_bytes().starts_with(b"wal-")).collect();
    assert!(segments.len() >= 3);
    std::fs::remove_file(dir.path().join(segments[1].as_path())).expect("removes");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("there"));
    assert_eq!(open_on(disk.clone(), options(), 0).expect_err("a gap").kind(), Kind::Corrupt);
    std::fs::remove_file(dir.path().join("wal.meta")).expect("removes");
    assert_eq!(open_on(disk, options(), 0).expect_err("no meta").kind(), Kind::Corrupt);
}

/// Files that somebody else made up, or that were changed in many places: refused or read, never a
/// panic, and no memory for lengths that are lies.
#[test]
fn noise_is_refused_or_read() {
    let (dir, _, paths) = on_disk();
    let originals: Vec<_> =
        paths.iter().map(|path| std::fs::read(dir.path().join(path.as_path())).expect("reads")).collect();
    let mut rng = fastrand::Rng::with_seed(seed());
    let (mut refused, runs) = (0, count(300, 20_000));
    for _ in 0..runs {
        let disk = FaultDisk::new();
        for (path, original) in paths.iter().zip(&originals) {
            let mut bytes = original.clone();
            match rng.u8(..8) {
                0 => bytes.iter_mut().for_each(|byte| *byte = rng.u8(..)),
                1 => bytes.truncate(rng.usize(..=original.len())),
                2..5 => (0..rng.usize(1..20)).for_each(|_| {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                }),
                // a piece of another place
                5 => {
                    let (from, to, len) = (rng.usize(..bytes.len()), rng.usize(..bytes.len()), rng.usize(..2000));
                    let len = len.min(bytes.len() - from.max(to));
                    bytes.copy_within(from..from + len, to);
                }
                _ => {}
            }
            let file = disk.open(path, Open::CreateNew).expect("creates");
            file.write_all_at(&bytes, 0).expect("writes");
        }
        if let Err(error) = open(&disk) {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::NewerFormat), "{error}");
            refused += 1;
        }
    }
    assert!(refused > runs / 2, "runs={runs} refused={refused}");
}

/// A segment was begun and written, and the power went: its records came to the disk, its header did
/// not. Opening found no such segment and said where the log ends, and then began the same number in
/// the same file, so that at the next opening the lost records were there again, behind (or instead
/// of) what was written since.
#[test]
fn records_of_a_lost_beginning_stay_lost() {
    for (writes, old_header) in [(false, false), (true, false), (true, true)] {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk).expect("opens");
        let mut model = Model::new();
        let mut last = Vec::new();
        for len in [3000, 900, 100, 100, 100] {
            let (sequence, bytes) = append(&mut log, len).expect("appends");
            if len > 100 {
                log.sync().expect("syncs");
                model.insert(sequence, bytes);
                last = newest(&disk);
            }
        }
        log.flush().expect("flushes");
        let disk = disk.kill();
        let begun = newest(&disk);
        assert_ne!(begun, last);
        let file = |name: &[u8]| disk.open(&RelPath::new(name).expect("a name"), Open::ReadWrite).expect("opens");
        let mut page = vec![0; 4096];
        if old_header {
            // as of a file that was another segment before
            file(&last).read_exact_at(&mut page, 0).expect("reads");
        }
        file(&begun).write_all_at(&page, 0).expect("writes");
        let (mut log, found) = open(&disk).expect("opens");
        assert_eq!((&found, log.next_sequence()), (&model, 3));
        if writes {
            let (sequence, bytes) = append(&mut log, 100).expect("appends");
            model.insert(sequence, bytes);
            log.sync().expect("syncs");
        }
        let (_, again) = open(&disk.kill()).expect("opens");
        assert_eq!(again, model, "writes={writes} old_header={old_header}");
    }
}

fn newest(disk: &FaultDisk) -> Vec<u8> {
    let entries = disk.list(&RelPath::root()).expect("lists");
    let names = entries.iter().map(|entry| entry.name.as_encoded_bytes().to_vec());
    names.filter(|name| name.starts_with(b"wal-")).max().expect("a segment")
}
