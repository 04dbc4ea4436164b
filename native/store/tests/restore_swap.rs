//! A restore stopped at every operation leaves wholly the old or wholly the new app, on disks that
//! can exchange two directories and on disks that cannot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod support;

use macula_core::{Kind, Kinded, RelPath, Task};
use macula_store::kv::Batch;
use macula_store::{App, BackupOptions, RestoreOptions};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::path::{Path, PathBuf};
use support::{app, base_at, base_over, torture};

const ENTRIES: u64 = 6;

fn fill(app: &App, what: &str) {
    for i in 0..ENTRIES {
        app.kv().unwrap().write(Batch::put(format!("k{i}"), format!("{what}-{i}"))).unwrap();
        let name = RelPath::new(format!("d{}/f{i}-{what}", i % 2)).unwrap();
        app.files().unwrap().write(&name, format!("{what}-{i}").as_bytes()).unwrap();
    }
}

/// Which of the two fills the app holds, wholly.
fn holds(app: &App) -> Result<String, String> {
    let kv = app.kv().map_err(|e| e.to_string())?;
    let first = kv.get(b"k0").map_err(|e| e.to_string())?.ok_or("k0 is gone")?;
    let what = String::from_utf8_lossy(&first).trim_end_matches("-0").to_owned();
    for i in 0..ENTRIES {
        let value = kv.get(format!("k{i}").as_bytes()).map_err(|e| e.to_string())?;
        if value != Some(format!("{what}-{i}").into_bytes()) {
            return Err(format!("k{i} is not of {what}"));
        }
    }
    let files = app.files().map_err(|e| e.to_string())?;
    let names = files.list(None, None, 100).map_err(|e| e.to_string())?.names;
    for name in &names {
        let bytes = files.read(name, 1 << 20).map_err(|e| e.to_string())?;
        if !bytes.starts_with(what.as_bytes()) {
            return Err(format!("{name} is not of {what}"));
        }
    }
    match names.len() as u64 {
        ENTRIES => Ok(what),
        other => Err(format!("{other} files of {what}")),
    }
}

/// An archive of the new app, on the real disk.
fn archive(dir: &Path) -> PathBuf {
    let base = base_at(dir);
    fill(&base.app(&app()).unwrap(), "new");
    let dest = dir.join("new.tar.zst");
    base.archive(&app(), &dest, &BackupOptions::default(), &Task::quiet()).unwrap();
    base.close();
    dest
}

/// `None`: the restore ended before the crash.
fn restore_until(n: u64, mode: CrashMode, archive: &Path, real: &Path, exchange: bool) -> Option<String> {
    let disk = FaultDisk::new();
    if !exchange {
        disk.lack("exchange");
    }
    let base = base_over(&disk, real, n).unwrap();
    fill(&base.app(&app()).unwrap(), "old");
    disk.fail_at(disk.operations() + n, Fault::Crash);
    let restored = base.restore(&app(), archive, &RestoreOptions::default(), &Task::quiet());
    base.close();
    if restored.is_ok() && !disk.has_crashed() {
        return None;
    }
    let after = disk.after_crash(mode);
    if !exchange {
        after.lack("exchange");
    }
    let base = base_over(&after, real, n + 1).unwrap();
    let found = base.app(&app()).map_err(|e| e.to_string()).and_then(|app| holds(&app));
    base.close();
    let found = found.unwrap_or_else(|what| panic!("stopped at {n}, {mode:?}, exchange={exchange}: {what}"));
    let acknowledged = restored.is_ok();
    assert!(!acknowledged || found == "new", "an acknowledged restore was lost: stopped at {n}, {mode:?}");
    Some(found)
}

fn every_crash(exchange: bool) {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let real = tempfile::tempdir().unwrap();
    let stride = if torture() { 1 } else { 3 };
    let (mut old, mut new) = (0, 0);
    for n in (1..).step_by(stride) {
        let modes = [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random(n)];
        let found = modes.map(|mode| restore_until(n, mode, &archive, real.path(), exchange));
        if found.iter().any(Option::is_none) {
            break;
        }
        for found in found.into_iter().flatten() {
            if found == "old" {
                old += 1
            } else {
                new += 1
            }
        }
    }
    println!("restore_swap: exchange={exchange} old={old} new={new} mixed=0");
    assert!(old > 10, "the crashes reach the time before the decision");
}

#[test]
fn wholly_old_or_new_where_directories_can_be_exchanged() {
    every_crash(true);
}

#[test]
fn wholly_old_or_new_where_they_cannot() {
    every_crash(false);
}

/// A call that fails, at every operation of a restore, with the process going on: the answer is true
/// of what is there, now and after the next opening.
fn every_failure(exchange: bool) {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let real = tempfile::tempdir().unwrap();
    let (mut refused, mut unknown) = (0, 0);
    for n in 1.. {
        let disk = FaultDisk::new();
        if !exchange {
            disk.lack("exchange");
        }
        let base = base_over(&disk, real.path(), n).unwrap();
        fill(&base.app(&app()).unwrap(), "old");
        let before = disk.operations();
        disk.fail_at(before + n, Fault::Io);
        let restored = base.restore(&app(), &archive, &RestoreOptions::default(), &Task::quiet());
        let ended = disk.operations() < before + n;
        base.close();
        let base = base_over(&disk, real.path(), n + 1).unwrap();
        let found = base.app(&app()).map_err(|e| e.to_string()).and_then(|app| holds(&app));
        base.close();
        let step = disk.operation(before + n).unwrap_or("none");
        let found = found.unwrap_or_else(|what| panic!("failed at {n} ({step}), exchange={exchange}: {what}"));
        match restored {
            Ok(_) => assert_eq!(found, "new", "failed at {n} ({step}): an acknowledged restore is gone"),
            Err(error) if error.kind() == Kind::UnknownResult => unknown += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(found, "old", "failed at {n} ({step}): refused with {error}, but it happened");
            }
        }
        if ended {
            break;
        }
    }
    assert!(refused > 10 && unknown > 0, "refused={refused} unknown={unknown}");
}

#[test]
fn a_failed_call_is_told_truly_where_directories_can_be_exchanged() {
    every_failure(true);
}

#[test]
fn a_failed_call_is_told_truly_where_they_cannot() {
    every_failure(false);
}
