//! A restore stopped at every operation leaves wholly the old or wholly the new app, on disks that
//! can exchange two directories and on disks that cannot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod support;

use macula_core::{Kind, Kinded, Task};
use macula_store::kv::Batch;
use macula_store::{App, Base, RestoreOptions};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::path::Path;
use std::sync::Arc;
use support::{app, archive, base_over, fill, holds, torture};

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

/// Open the app, write, and say what it holds. The error: it cannot be opened, as the disk has it.
fn go_on(base: &Arc<Base>) -> Result<String, String> {
    let app = base.app(&app()).map_err(|e| e.to_string())?;
    let found = holds(&app)?;
    app.kv().and_then(|kv| Ok(kv.write(Batch::put("after", "it"))?)).map_err(|e| e.to_string())?;
    Ok(found)
}

fn has_gone_on(app: &App) -> bool {
    app.kv().unwrap().get(b"after").unwrap() == Some(b"it".to_vec())
}

/// Whoever was told that a write after the restore is durable finds it, on the tree that it was made on.
fn survives_power_loss(disk: &FaultDisk, held: &str, real: &Path, exchange: bool, n: u64, what: &str) {
    for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random(n), CrashMode::Random(n + 1000)] {
        let after = disk.after_crash(mode);
        if !exchange {
            after.lack("exchange");
        }
        let base = base_over(&after, real, n + 2).unwrap();
        let found = base.app(&app()).map_err(|e| e.to_string()).and_then(|app| {
            let found = holds(&app)?;
            has_gone_on(&app).then_some(found).ok_or("an acknowledged write is gone".into())
        });
        base.close();
        assert_eq!(found.as_deref(), Ok(held), "{what} at {n}, exchange={exchange}, {mode:?}");
    }
}

/// A call that fails, at every operation of a restore, with the process going on: the answer is true
/// of what is there, now and after the next opening; and so is that of each write that follows, also
/// when power is lost then. Once a failed sync of `apps/` left the restored tree open: writes to it
/// were acknowledged, and went with it when power loss brought the old name back.
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
        let step = disk.operation(before + n).unwrap_or("none");
        let found = go_on(&base);
        let stopped = disk.kill();
        base.close();
        if let Ok(found) = &found {
            survives_power_loss(&stopped, found, real.path(), exchange, n, step);
        }
        let base = base_over(&disk, real.path(), n + 1).unwrap();
        let reopened = base.app(&app()).map_err(|e| e.to_string()).and_then(|app| holds(&app));
        base.close();
        let reopened = reopened.unwrap_or_else(|what| panic!("failed at {n} ({step}), exchange={exchange}: {what}"));
        assert!(
            found.is_err() || found.as_ref() == Ok(&reopened),
            "failed at {n} ({step}): {found:?}, then {reopened}"
        );
        match restored {
            Ok(_) => assert_eq!(reopened, "new", "failed at {n} ({step}): an acknowledged restore is gone"),
            Err(error) if error.kind() == Kind::UnknownResult => unknown += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(reopened, "old", "failed at {n} ({step}): refused with {error}, but it happened");
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

/// A process is killed at every operation of a restore; the next one opens the app, writes, and loses
/// power. Opening once took the names it found for durable, and removed the old tree while a power
/// loss could still bring its name back.
fn every_kill(exchange: bool) {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let real = tempfile::tempdir().unwrap();
    let (mut old, mut new) = (0, 0);
    for n in 1.. {
        let disk = FaultDisk::new();
        if !exchange {
            disk.lack("exchange");
        }
        let base = base_over(&disk, real.path(), n).unwrap();
        fill(&base.app(&app()).unwrap(), "old");
        disk.fail_at(disk.operations() + n, Fault::Crash);
        let restored = base.restore(&app(), &archive, &RestoreOptions::default(), &Task::quiet());
        base.close();
        if restored.is_ok() && !disk.has_crashed() {
            break;
        }
        let killed = disk.kill();
        let base = base_over(&killed, real.path(), n + 1).unwrap();
        let found = go_on(&base).unwrap_or_else(|what| panic!("killed at {n}, exchange={exchange}: {what}"));
        base.remove_rubbish();
        let stopped = killed.kill();
        base.close();
        survives_power_loss(&stopped, &found, real.path(), exchange, n, "killed");
        if found == "old" {
            old += 1
        } else {
            new += 1
        }
    }
    println!("restore_swap: killed, exchange={exchange} old={old} new={new} lost=0");
    assert!(old > 10 && new > 0);
}

#[test]
fn what_a_killed_process_left_undurable_is_made_so_where_directories_can_be_exchanged() {
    every_kill(true);
}

#[test]
fn what_a_killed_process_left_undurable_is_made_so_where_they_cannot() {
    every_kill(false);
}
