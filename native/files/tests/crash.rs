//! Power loss, kill, failed calls and a full disk, at every operation of a mixed run.
//!
//! The oracle keeps for each name what was acknowledged and, for the one operation that did not
//! answer or answered `unknown_result`, what else may be there. Nothing else may ever be seen.
#![allow(clippy::unwrap_used)]

mod support;

use fastrand::Rng;
use macula_core::{Kind, Kinded, RelPath};
use macula_files::{FileSnapshot, Files, FilesError};
use macula_testkit::{path, CrashMode, Fault, FaultDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use support::{content, count, Rig};

type State = Option<Vec<u8>>;
const NAMES: [&str; 6] = ["a", "d/a", "d/b", "d/e/a", "f/a", "f/g/h"];

/// Every state that each name may be in.
#[derive(Debug, Clone, Default)]
struct Oracle(BTreeMap<&'static str, BTreeSet<State>>);

impl Oracle {
    fn new() -> Self {
        Self(NAMES.iter().map(|name| (*name, BTreeSet::from([None]))).collect())
    }

    fn states(&mut self, name: &str) -> &mut BTreeSet<State> {
        self.0.get_mut(name).unwrap()
    }

    /// An operation would put `new` under `name`; `certain`: it said that it did.
    fn change(&mut self, name: &str, new: BTreeSet<State>, certain: bool) {
        let states = self.states(name);
        if certain {
            states.clear();
        }
        states.extend(new);
    }

    /// What is wrong with what `files` shows.
    fn complaint(&self, files: &Files) -> Option<String> {
        for (name, states) in &self.0 {
            let found = match files.read(&path(name), 1 << 20) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(error) => return Some(format!("{name}: {error}")),
            };
            if !states.contains(&found) {
                let short = |state: &State| state.as_ref().map(|bytes| bytes.len());
                let expected: Vec<_> = states.iter().map(short).collect();
                return Some(format!("{name}: found={:?} expected={expected:?}", short(&found)));
            }
        }
        let listed = files.list(None, None, 100).map_err(|e| e.to_string()).ok()?;
        let stranger = listed.names.iter().find(|name| !NAMES.contains(&name.to_string().as_str()));
        stranger.map(|name| format!("unknown file {name}"))
    }
}

/// What an answer means for the oracle: applied, not applied, perhaps.
fn verdict<T>(result: &Result<T, FilesError>, disk: &FaultDisk) -> Option<bool> {
    match result {
        Ok(_) => Some(true),
        Err(_) if disk.has_crashed() => None,
        Err(error) if error.kind() == Kind::UnknownResult => None,
        Err(_) => Some(false),
    }
}

/// A run of operations that the seed chooses, with a snapshot open for a part of it.
fn run(files: &Files, disk: &FaultDisk, seed: u64, steps: u64) -> Oracle {
    let mut rng = Rng::with_seed(seed);
    let mut oracle = Oracle::new();
    let mut snapshot: Option<FileSnapshot> = None;
    for step in 0..steps {
        let (name, other) = (NAMES[rng.usize(0..6)], NAMES[rng.usize(0..6)]);
        let bytes = content(seed * 1_000 + step, rng.usize(0..2_000));
        match rng.u8(0..9) {
            0 => snapshot = Some(files.snapshot()),
            1 => snapshot = None,
            2..=3 => {
                let verdict = verdict(&files.delete(&path(name)), disk);
                if verdict != Some(false) {
                    oracle.change(name, BTreeSet::from([None]), verdict.is_some());
                }
            }
            4 if name != other => {
                let verdict = verdict(&files.rename(&path(name), &path(other)), disk);
                if verdict != Some(false) {
                    let moved = oracle.states(name).iter().filter(|state| state.is_some()).cloned().collect();
                    oracle.change(other, moved, verdict.is_some());
                    oracle.change(name, BTreeSet::from([None]), verdict.is_some());
                }
            }
            _ => {
                let verdict = verdict(&write(files, name, &bytes), disk);
                if verdict != Some(false) {
                    oracle.change(name, BTreeSet::from([Some(bytes)]), verdict.is_some());
                }
            }
        }
        if disk.has_crashed() {
            break;
        }
    }
    drop(snapshot);
    oracle
}

fn write(files: &Files, name: &str, bytes: &[u8]) -> Result<(), FilesError> {
    let mut writer = files.writer(&path(name))?;
    for chunk in bytes.chunks(700) {
        writer.write_chunk(chunk)?;
    }
    writer.commit().map(drop)
}

fn modes(seeds: u64) -> impl Iterator<Item = CrashMode> {
    [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain((0..seeds).map(CrashMode::Random))
}

const STEPS: u64 = 40;

/// A run in which the n-th operation meets `fault`; no fault for 0.
fn faulty_run(seed: u64, n: u64, fault: Fault, forget_syncs: bool) -> (FaultDisk, Oracle, Option<Rig>) {
    let disk = FaultDisk::new();
    disk.forget_syncs(forget_syncs);
    disk.fail_at(n, fault);
    match Rig::open(Arc::new(disk.clone())) {
        Ok(rig) => {
            let oracle = run(&rig.files, &disk, seed, STEPS);
            (disk, oracle, Some(rig))
        }
        Err(_) => (disk, Oracle::new(), None),
    }
}

/// Looks at what a crash left; gives what is wrong with it.
fn after(disk: FaultDisk, oracle: &Oracle) -> Option<String> {
    let rig = match Rig::open(Arc::new(disk)) {
        Ok(rig) => rig,
        Err(error) => return Some(format!("does not open: {error}")),
    };
    if rig.leftovers() > 0 {
        return Some("leftovers after open".to_owned());
    }
    oracle.complaint(&rig.files)
}

fn crash_at_every_operation(runs: u64, seeds: u64, forget_syncs: bool) -> (u64, Vec<String>) {
    let (mut crashes, mut complaints) = (0, Vec::new());
    for seed in 0..runs {
        let operations = faulty_run(seed, 0, Fault::Crash, false).0.operations();
        for n in 1..=operations {
            let (disk, oracle, _rig) = faulty_run(seed, n, Fault::Crash, forget_syncs);
            for mode in modes(seeds) {
                crashes += 1;
                let complaint = after(disk.after_crash(mode), &oracle);
                complaints.extend(complaint.map(|text| format!("seed={seed} n={n} mode={mode:?}: {text}")));
            }
        }
    }
    (crashes, complaints)
}

#[test]
fn power_loss_at_every_operation_loses_no_acknowledged_write() {
    let (crashes, complaints) = crash_at_every_operation(count(3, 60), count(4, 20), false);
    assert!(complaints.is_empty(), "{} of {crashes} crashes, first: {}", complaints.len(), complaints[0]);
    assert!(crashes > 1_000, "crashes={crashes}");
}

#[test]
fn the_same_run_is_seen_to_fail_without_syncs() {
    let (_, complaints) = crash_at_every_operation(1, 2, true);
    assert!(complaints.iter().any(|text| text.contains("LoseAll")));
    assert!(complaints.iter().any(|text| text.contains("Random")));
}

/// A killed process leaves directories that were never synced. The next one finds them there, must
/// not take them for durable, and its acknowledged writes must survive a power loss later on.
#[test]
fn a_kill_then_writes_then_power_loss_loses_nothing() {
    for seed in 0..count(3, 40) {
        let operations = faulty_run(seed, 0, Fault::Crash, false).0.operations();
        for n in 1..=operations {
            let (disk, mut oracle, _rig) = faulty_run(seed, n, Fault::Crash, false);
            let killed = disk.kill();
            let rig = Rig::open(Arc::new(killed.clone())).unwrap();
            assert_eq!(oracle.complaint(&rig.files), None, "seed={seed} n={n}");
            for name in ["d/e/a", "f/g/h"] {
                rig.files.write(&path(name), b"after the kill").unwrap();
                oracle.change(name, BTreeSet::from([Some(b"after the kill".to_vec())]), true);
            }
            for mode in modes(2) {
                assert_eq!(after(killed.after_crash(mode), &oracle), None, "seed={seed} n={n} mode={mode:?}");
            }
        }
    }
}

/// An error of one call: either nothing changed, or the answer was `unknown_result` and everything
/// that follows is refused until the reopen.
#[test]
fn a_failed_call_at_every_operation_is_told_truly() {
    let mut poisoned = 0;
    for seed in 0..count(3, 60) {
        let operations = faulty_run(seed, 0, Fault::Io, false).0.operations();
        for n in 1..=operations {
            let (disk, oracle, rig) = faulty_run(seed, n, Fault::Io, false);
            let Some(rig) = rig else { continue };
            assert_eq!(oracle.complaint(&rig.files), None, "seed={seed} n={n}");
            if rig.files.write(&path("probe"), b"").is_err_and(|e| e.kind() == Kind::Poisoned) {
                poisoned += 1;
            } else {
                rig.files.delete(&path("probe")).unwrap();
            }
            for mode in modes(count(3, 20)) {
                assert_eq!(after(disk.after_crash(mode), &oracle), None, "seed={seed} n={n} mode={mode:?}");
            }
        }
    }
    assert!(poisoned > 0);
}

/// A disk that fills up at any moment: clear answers, nothing half, all comes back with the room.
#[test]
fn a_full_disk_at_every_operation_changes_nothing() {
    let mut refused = 0;
    for seed in 0..count(3, 60) {
        let operations = faulty_run(seed, 0, Fault::Full, false).0.operations();
        for n in 1..=operations {
            let (disk, oracle, rig) = faulty_run(seed, n, Fault::Full, false);
            let Some(rig) = rig else { continue };
            assert_eq!(oracle.complaint(&rig.files), None, "seed={seed} n={n}");
            let answer = rig.files.write(&path("d/a"), &[1; 100]);
            refused += u64::from(answer.is_err_and(|error| error.kind() == Kind::DiskFull));
            assert_eq!(rig.leftovers(), 0, "seed={seed} n={n}");
            rig.check_ledger();
            disk.heal();
            rig.files.write(&path("d/a"), &[1; 100]).unwrap();
        }
    }
    assert!(refused > 0);
}

/// A rename that a crash interrupts leaves the file under one name at least, also into directories
/// that did not exist.
#[test]
fn an_interrupted_rename_never_loses_the_file() {
    for (from, to) in [("a", "b"), ("a", "new/dir/b"), ("old/dir/a", "b"), ("old/dir/a", "new/dir/b")] {
        let run = |n: Option<u64>| {
            let disk = FaultDisk::new();
            let rig = Rig::open(Arc::new(disk.clone())).unwrap();
            rig.files.write(&path(from), b"only copy").unwrap();
            let before = disk.operations();
            if let Some(n) = n {
                disk.fail_at(before + n, Fault::Crash);
            }
            // it fails where it was told to
            let _ = rig.files.rename(&path(from), &path(to));
            (disk.operations() - before, disk)
        };
        for n in 1..=run(None).0 {
            let disk = run(Some(n)).1;
            for mode in modes(count(200, 2_000)) {
                let rig = Rig::open(Arc::new(disk.after_crash(mode))).unwrap();
                let found = rig.contents();
                assert!(found.values().all(|bytes| bytes == b"only copy"), "n={n} mode={mode:?}");
                assert!(!found.is_empty(), "{from} {to} n={n} mode={mode:?}");
            }
        }
    }
}

/// Little room instead of none: a write that does not fit leaves what was there, and no temporary.
#[test]
fn a_write_that_does_not_fit_leaves_the_old_version() {
    let disk = FaultDisk::new();
    let rig = Rig::open(Arc::new(disk.clone())).unwrap();
    disk.set_capacity(Some(10 * 4096));
    rig.files.write(&path("a"), &[1; 4096]).unwrap();
    for len in [10 * 4096, 20 * 4096, 100 * 4096] {
        let error = rig.files.write(&path("a"), &vec![2; len]).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull);
        assert_eq!((rig.leftovers(), rig.contents().len()), (0, 1));
        rig.check_ledger();
    }
    rig.files.write(&path("a"), &[2; 9 * 4096]).unwrap();
}

/// Random operations against a map, snapshots against copies of it, the ledger against a walk.
#[test]
fn files_do_as_a_map_does() {
    for seed in 0..count(60, 2_000) {
        model_run(seed);
    }
}

type Pinned = (FileSnapshot, BTreeMap<String, Vec<u8>>);

fn model_run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let rig = Rig::open(Arc::new(FaultDisk::new())).unwrap();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut snapshots: Vec<Pinned> = Vec::new();
    for step in 0..60 {
        let name = random_name(&mut rng);
        let at = path(&name);
        match rng.u8(0..10) {
            0 => snapshots.push((rig.files.snapshot(), model.clone())),
            1 if !snapshots.is_empty() => drop(snapshots.swap_remove(rng.usize(0..snapshots.len()))),
            2 => assert_eq!(rig.files.delete(&at).is_ok(), model.remove(&name).is_some(), "seed={seed} step={step}"),
            3 => {
                let to = random_name(&mut rng);
                let result = rig.files.rename(&at, &path(&to));
                let fits = model.contains_key(&name) && (is_free(&model, &to) || to == name);
                assert_eq!(result.is_ok(), fits, "seed={seed} step={step} {name} {to} {result:?}");
                if let Some(bytes) = model.remove(&name).filter(|_| true) {
                    model.insert(if fits { to } else { name }, bytes);
                }
            }
            _ => {
                let bytes = content(rng.u64(..), rng.usize(0..300));
                let result = rig.files.write(&at, &bytes);
                assert_eq!(result.is_ok(), is_free(&model, &name), "seed={seed} step={step} {name} {result:?}");
                if result.is_ok() {
                    model.insert(name, bytes);
                }
            }
        }
        if rng.u8(0..4) == 0 {
            compare(&rig, &model, &snapshots, seed);
        }
    }
    compare(&rig, &model, &snapshots, seed);
    snapshots.clear();
    assert_eq!(rig.leftovers(), 0, "seed={seed}");
    rig.check_ledger();
}

/// Short names that collide as files and directories, with bytes on both sides of the slash.
fn random_name(rng: &mut Rng) -> String {
    let parts: Vec<&str> = (0..rng.usize(1..4)).map(|_| ["a", "a-", "a.", "a0", "b"][rng.usize(0..5)]).collect();
    parts.join("/")
}

/// Whether a file can have this name: no directory has it, no file lies on its way.
fn is_free(model: &BTreeMap<String, Vec<u8>>, name: &str) -> bool {
    let below = |dir: &str, file: &str| file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    !model.keys().any(|file| below(name, file) || below(file, name))
}

fn compare(rig: &Rig, model: &BTreeMap<String, Vec<u8>>, snapshots: &[Pinned], seed: u64) {
    let listed = rig.files.list(None, None, 1_000).unwrap().names;
    assert!(listed.iter().map(RelPath::to_string).eq(model.keys().cloned()), "seed={seed}");
    for (name, bytes) in model {
        assert_eq!(&rig.files.read(&path(name), 1 << 20).unwrap(), bytes, "seed={seed}");
    }
    rig.check_ledger();
    for (snapshot, expected) in snapshots {
        let mut found = BTreeMap::new();
        let mut visit = |entry: macula_files::SnapEntry| {
            if let Some(file) = snapshot.open(&entry).unwrap() {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                found.insert(entry.path().to_string(), bytes);
            }
            ControlFlow::Continue(())
        };
        snapshot.walk(&mut visit).unwrap();
        assert_eq!(&found, expected, "seed={seed}");
    }
}
