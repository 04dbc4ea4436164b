//! Power loss, kill, failed calls and a full disk at every operation of a run that stages, puts, keeps.
//!
//! The oracle is the state after each step, acknowledged or not: what is found is that of the last
//! acknowledged step or of the next, name by name, and nothing that was to be kept is under no name.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::{Expected::Anything, Kind, Kinded, Open};
use macula_files::{Files, FilesError};
use macula_testkit::{path, CrashMode, Fault, FaultDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use support::{content, count, Rig};

type Names = BTreeMap<String, Vec<u8>>;

/// What is under which name.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    files: Names,
    kept: Names,
}

fn names(known: &[(&str, u64)]) -> Names {
    known.iter().map(|(name, version)| ((*name).to_owned(), version_of(*version))).collect()
}

/// More than one page, so that a part of it can be lost.
fn version_of(version: u64) -> Vec<u8> {
    content(version, 9_000)
}

/// Each step, and what is there after it.
type Step = (fn(&Files) -> Result<(), FilesError>, &'static [(&'static str, u64)], &'static [(&'static str, u64)]);

const STEPS: [Step; 8] = [
    (|files| files.write(&path("a"), &version_of(1)).map(drop), &[("a", 1)], &[]),
    (|files| staged(files, "02", 2), &[("a", 1)], &[]),
    (|files| sealed(files, "02", 2)?.put(&path("a"), "02", Some("01"), Anything).map(drop), &[("a", 2)], &[("01", 1)]),
    (
        |files| {
            staged(files, "03", 3)?;
            sealed(files, "03", 3)?.put(&path("d/b"), "03", Some("cc"), Anything).map(drop)
        },
        &[("a", 2), ("d/b", 3)],
        &[("01", 1)],
    ),
    (
        |files| files.rename_keeping(&path("d/b"), &path("a"), Some("02")).map(drop),
        &[("a", 3)],
        &[("01", 1), ("02", 2)],
    ),
    (|files| files.remove(&path("a"), Some("03"), Anything), &[], &[("01", 1), ("02", 2), ("03", 3)]),
    (|files| files.put_kept(&path("e/c"), "01", None, Anything).map(drop), &[("e/c", 1)], &[("02", 2), ("03", 3)]),
    (
        |files| {
            staged(files, "04", 4)?;
            sealed(files, "04", 4)?.keep("04", "04")
        },
        &[("e/c", 1)],
        &[("02", 2), ("03", 3), ("04", 4)],
    ),
];

/// Write half of it, and sync that.
fn staged(files: &Files, name: &str, version: u64) -> Result<(), FilesError> {
    let staged = files.stage(name)?;
    staged.write_at(&version_of(version)[5_000..], 5_000)?;
    staged.sync()
}

/// Go on from there, to the end.
fn sealed<'a>(files: &'a Files, name: &str, version: u64) -> Result<&'a Files, FilesError> {
    let whole = version_of(version);
    let staged = files.stage(name)?;
    let mut second = vec![0; whole.len() - 5_000];
    let read = staged.read_at(&mut second, 5_000)?;
    assert!(read == second.len() && second == whole[5_000..], "what was synced is there");
    staged.write_at(&whole[..5_000], 0)?;
    staged.seal(whole.len() as u64, Some(blake3::hash(&whole).as_bytes()))?;
    Ok(files)
}

fn state_after(steps: usize) -> State {
    match steps.checked_sub(1) {
        None => State::default(),
        Some(last) => State { files: names(STEPS[last].1), kept: names(STEPS[last].2) },
    }
}

fn found(rig: &Rig) -> Result<State, String> {
    let files = rig.contents().into_iter().map(|(name, bytes)| (String::from_utf8(name).unwrap(), bytes)).collect();
    let mut kept = Names::new();
    for name in rig.files.kept().map_err(|e| e.to_string())? {
        let reader = rig.files.open_kept(&name).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; reader.len() as usize];
        reader.read_at(&mut bytes, 0).map_err(|e| format!("kept {name}: {e}"))?;
        kept.insert(name, bytes);
    }
    Ok(State { files, kept })
}

/// What is wrong with what is found when `done` steps were acknowledged and, `maybe`, the next was begun.
fn complaint(rig: &Rig, done: usize, maybe: bool) -> Option<String> {
    let next = state_after((done + 1).min(STEPS.len()));
    let found = match found(rig) {
        Ok(found) => found,
        Err(error) => return Some(error),
    };
    let before = state_after(done);
    let after = if maybe { &next } else { &before };
    let all: BTreeSet<_> = found.files.keys().chain(before.files.keys()).collect();
    for name in all {
        let bytes = found.files.get(name);
        if bytes != before.files.get(name) && bytes != after.files.get(name) {
            return Some(format!("file {name}: found={:?}", bytes.map(|bytes| bytes.len())));
        }
    }
    for (name, bytes) in &found.kept {
        // a name that was taken back can be there again after a power loss
        if Some(bytes) != before.kept.get(name) && Some(bytes) != next.kept.get(name) {
            return Some(format!("kept {name}: found={}", bytes.len()));
        }
    }
    if let Some(name) =
        before.kept.keys().find(|name| !found.kept.contains_key(*name) && after.kept.contains_key(*name))
    {
        return Some(format!("kept {name} is gone"));
    }
    // every step keeps all that there was
    let there: BTreeSet<_> = found.files.values().chain(found.kept.values()).collect();
    let lost = before.files.values().chain(before.kept.values()).find(|bytes| !there.contains(bytes));
    lost.map(|_| format!("content is gone: {:?} {:?}", found.files.keys(), found.kept.keys()))
}

struct Run {
    disk: FaultDisk,
    rig: Option<Rig>,
    /// Steps that answered `Ok`.
    done: usize,
    /// Whether the next one may have changed something.
    maybe: bool,
    error: Option<FilesError>,
}

/// All steps; the n-th operation meets `fault`, none for 0.
fn run(n: u64, fault: Fault, prepare: &dyn Fn(&FaultDisk)) -> Run {
    let disk = FaultDisk::new();
    prepare(&disk);
    disk.fail_at(n, fault);
    let rig = Rig::open(Arc::new(disk.clone())).ok();
    let mut run = Run { disk, rig, done: 0, maybe: false, error: None };
    let Some(rig) = &run.rig else { return run };
    for (step, ..) in STEPS {
        if let Err(error) = step(&rig.files) {
            run.maybe = run.disk.has_crashed() || error.kind() == Kind::UnknownResult;
            run.error = Some(error);
            break;
        }
        run.done += 1;
    }
    run
}

fn modes(seeds: u64) -> impl Iterator<Item = CrashMode> {
    [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain((0..seeds).map(CrashMode::Random))
}

/// Opens what a crash left; gives what is wrong with it.
fn after(disk: FaultDisk, run: &Run) -> Option<String> {
    let rig = match Rig::open(Arc::new(disk)) {
        Ok(rig) => rig,
        Err(error) => return Some(format!("does not open: {error}")),
    };
    if rig.leftovers() > 0 {
        return Some("leftovers after open".to_owned());
    }
    let wrong = complaint(&rig, run.done, run.maybe);
    wrong.or_else(|| go_on(&rig, run))
}

/// The next process does what is left to do. What it finds done it must not take for durable: nobody
/// said that it was.
fn go_on(rig: &Rig, run: &Run) -> Option<String> {
    for (done, (step, ..)) in STEPS.iter().enumerate().skip(run.done) {
        let changes = state_after(done) != state_after(done + 1);
        if changes && found(rig).is_ok_and(|found| found == state_after(done + 1)) {
            let names = |steps| state_after(steps).files.into_keys();
            names(done).chain(names(done + 1)).for_each(|name| rig.files.settle(&path(&name)).unwrap());
            continue;
        }
        if let Err(error) = step(&rig.files) {
            return Some(format!("step {done} cannot go on: {error}"));
        }
        rig.check_ledger();
    }
    complaint(rig, STEPS.len(), false)
}

fn no(_: &FaultDisk) {}

fn no_links(disk: &FaultDisk) {
    disk.lack("link");
}

fn crash_at_every_operation(seeds: u64, prepare: &dyn Fn(&FaultDisk)) -> (u64, Vec<String>) {
    let whole = run(0, Fault::Crash, &no);
    assert_eq!((whole.done, complaint(whole.rig.as_ref().unwrap(), STEPS.len(), false)), (STEPS.len(), None));
    whole.rig.unwrap().check_ledger();
    let operations = run(0, Fault::Crash, prepare).disk.operations();
    let (mut crashes, mut complaints) = (0, Vec::new());
    for n in 1..=operations {
        let run = run(n, Fault::Crash, prepare);
        for mode in modes(seeds) {
            crashes += 1;
            let complaint = after(run.disk.after_crash(mode), &run);
            complaints.extend(complaint.map(|text| format!("n={n} mode={mode:?} done={}: {text}", run.done)));
        }
    }
    (crashes, complaints)
}

#[test]
fn power_loss_at_every_operation_loses_nothing_that_is_kept() {
    for prepare in [no, no_links] {
        let (crashes, complaints) = crash_at_every_operation(count(30, 1_000), &prepare);
        assert!(complaints.is_empty(), "{} of {crashes} crashes, first: {}", complaints.len(), complaints[0]);
        assert!(crashes > 2_000, "crashes={crashes}");
    }
}

#[test]
fn the_same_run_is_seen_to_fail_without_syncs() {
    let (_, complaints) = crash_at_every_operation(2, &|disk| disk.forget_syncs(true));
    assert!(complaints.iter().any(|text| text.contains("LoseAll")));
    assert!(complaints.iter().any(|text| text.contains("Random")));
}

/// A killed process leaves names that nobody synced; the next one goes on, and then power is lost.
#[test]
fn a_kill_then_the_rest_then_power_loss_loses_nothing() {
    for prepare in [no, no_links] {
        let operations = run(0, Fault::Crash, &prepare).disk.operations();
        for n in 1..=operations {
            let run = run(n, Fault::Crash, &prepare);
            let killed = run.disk.kill();
            assert_eq!(after(killed.clone(), &run), None, "n={n}");
            let all = Run { disk: killed.clone(), rig: None, done: STEPS.len(), maybe: false, error: None };
            for mode in modes(count(5, 100)) {
                assert_eq!(after(killed.after_crash(mode), &all), None, "n={n} mode={mode:?}");
            }
        }
    }
}

/// An error of one call, or a disk that is full from there on: either nothing changed, or the answer was
/// `unknown_result`; and the ledger is exact.
#[test]
fn a_failed_call_at_every_operation_is_told_truly() {
    for fault in [Fault::Io, Fault::Full] {
        let (mut refused, mut unknown) = (0, 0);
        let operations = run(0, fault, &no).disk.operations();
        for n in 1..=operations {
            let run = run(n, fault, &no);
            let (Some(rig), Some(error)) = (&run.rig, &run.error) else { continue };
            unknown += u64::from(error.kind() == Kind::UnknownResult);
            refused += u64::from(error.kind() == Kind::DiskFull);
            assert_eq!(complaint(rig, run.done, run.maybe), None, "n={n} {error}");
            assert_eq!(rig.leftovers(), 0, "n={n}");
            rig.check_ledger();
            if fault == Fault::Full {
                run.disk.heal();
                assert_eq!(go_on(rig, &run), None, "n={n}");
            }
            for mode in modes(count(5, 100)) {
                let rig = Rig::open(Arc::new(run.disk.after_crash(mode))).unwrap();
                let done = if fault == Fault::Full { STEPS.len() } else { run.done };
                assert_eq!(complaint(&rig, done, run.maybe), None, "n={n} mode={mode:?} {error}");
            }
        }
        assert!(if fault == Fault::Io { unknown > 3 } else { refused > 10 }, "{unknown} {refused}");
    }
}

/// Another program wrote the file and synced nothing: what is kept of it is durable all the same.
#[test]
fn what_another_program_wrote_is_kept_durably() {
    for prepare in [no, no_links] {
        let disk = FaultDisk::new();
        prepare(&disk);
        let rig = Rig::open(Arc::new(disk.clone())).unwrap();
        let theirs = rig.disk.open(&path("files/a"), Open::CreateNew).unwrap();
        theirs.write_all_at(&version_of(1), 0).unwrap();
        staged(&rig.files, "02", 2).unwrap();
        sealed(&rig.files, "02", 2).unwrap().put(&path("a"), "02", Some("01"), Anything).unwrap();
        for mode in modes(20) {
            let found = found(&Rig::open(Arc::new(disk.after_crash(mode))).unwrap()).unwrap();
            assert_eq!(found, State { files: names(&[("a", 2)]), kept: names(&[("01", 1)]) }, "{mode:?}");
        }
    }
}
