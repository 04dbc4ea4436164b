//! What a restore, a backup or a killed process leaves lying about: it is never restored too, keeps
//! nobody waiting, and goes in the end; and what is in the way of a swap costs no data.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use macula_core::{AppName, Disk, Kind, Kinded, Open, RelPath, Task};
use macula_store::{App, BackupOptions, Base, RestoreInfo, RestoreOptions, StoreError};
use macula_testkit::{path, CrashMode, Fault, FaultDisk};
use std::path::Path;
use std::sync::Arc;
use support::{app, archive, base_at, base_over, fill, holds};

fn restore(base: &Arc<Base>, archive: &Path) -> Result<RestoreInfo, StoreError> {
    base.restore(&app(), archive, &RestoreOptions::default(), &Task::quiet())
}

/// Names beside the apps' and the backups' own.
fn left(disk: &dyn Disk) -> Vec<String> {
    let names = |dir| disk.list(&path(dir)).unwrap().into_iter().map(|entry| entry.name.into_string().unwrap());
    names("apps").chain(names("backups")).filter(|name| name.starts_with('.')).collect()
}

fn plant(disk: &dyn Disk, file: &str) {
    let file = path(file);
    let mut dirs: Vec<RelPath> =
        std::iter::successors(Some(file.parent()), |dir| Some(dir.parent())).take_while(|dir| !dir.is_root()).collect();
    dirs.reverse();
    dirs.iter().for_each(|dir| drop(disk.create_dir(dir)));
    disk.open(&file, Open::CreateNew).unwrap().write_all_at(b"planted", 0).unwrap();
}

/// A disk with a restored app on it, an archive to restore it from, and room for locks.
struct Rig {
    disk: FaultDisk,
    base: Arc<Base>,
    real: tempfile::TempDir,
    archive: std::path::PathBuf,
}

impl Rig {
    fn new() -> Self {
        let real = tempfile::tempdir().unwrap();
        let elsewhere = real.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let archive = archive(&elsewhere);
        let disk = FaultDisk::new();
        let base = base_over(&disk, real.path(), 1).unwrap();
        fill(&base.app(&app()).unwrap(), "old");
        Self { disk, base, real, archive }
    }

    /// Another process, after this one ended, finds `disk`.
    fn next(&self, disk: &FaultDisk) -> Arc<Base> {
        self.base.close();
        base_over(disk, self.real.path(), 2).unwrap()
    }
}

fn found(base: &Base) -> String {
    holds(&base.app(&app()).unwrap()).unwrap()
}

/// A process of another user had made `uploads/2024`. After a restore the tree that was replaced
/// could not be removed wholly, and was where the next restore unpacked: that one was refused for
/// ever, or put the old files into the app again and said `Ok`.
#[test]
fn what_cannot_be_removed_is_neither_restored_nor_in_the_way() {
    let rig = Rig::new();
    plant(&rig.disk, "apps/shop/uploads/2024/theirs");
    plant(&rig.disk, "apps/shop/uploads/ours");
    rig.disk.give_away(&path("apps/shop/uploads/2024")).unwrap();
    for _ in 0..3 {
        restore(&rig.base, &rig.archive).unwrap();
        assert_eq!(found(&rig.base), "new");
        assert!(rig.disk.list(&path("apps/shop/uploads")).unwrap().is_empty(), "the old tree's");
    }
    let rubbish = left(&rig.disk);
    assert!(matches!(&rubbish[..], [one] if one.starts_with(".rubbish-shop-")), "{rubbish:?}");
    let kept = rig.disk.list(&path("apps").join(&rubbish[0]).unwrap().join("uploads").unwrap()).unwrap();
    assert_eq!(kept.len(), 1, "only what is another's stays");
    let base = rig.next(&rig.disk);
    assert_eq!(found(&base), "new");
    base.close();
}

/// The staging of an earlier restore can be neither removed nor renamed (`apps/` is sticky, and it
/// is another user's). It must not be unpacked into; who reads the error learns where it is.
#[test]
fn a_staging_that_stays_is_named() {
    let rig = Rig::new();
    plant(&rig.disk, "apps/.restore-shop/data/files/stray");
    rig.disk.give_away(&path("apps")).unwrap();
    let error = restore(&rig.base, &rig.archive).unwrap_err();
    assert_eq!(error.kind(), Kind::Permission);
    assert!(error.to_string().contains("apps/.restore-shop") && error.to_string().contains("remove it"), "{error}");
    let base = rig.next(&rig.disk);
    assert_eq!(found(&base), "old", "it keeps nobody from the app");
    base.close();
}

/// Opening an app once removed all that a killed restore or backup had left, file by file, while
/// everybody who wanted the app waited.
#[test]
fn opening_moves_leftovers_and_the_background_removes_them() {
    let rig = Rig::new();
    let disk = rig.disk.kill();
    for n in 0..20 {
        plant(&disk, &format!("apps/.restore-shop/uploads/{n}"));
        plant(&disk, &format!("apps/.old-shop/uploads/{n}"));
        plant(&disk, &format!("backups/.scratch-shop/{n}"));
    }
    let partial = "backups/.shop_20260112T101530.000000Z.tar.zst.1-0123456789abcdef.partial";
    plant(&disk, partial);
    plant(&disk, "backups/.other_20260112T101530.000000Z.tar.zst.1-0123456789abcdef.partial");
    let base = rig.next(&disk);
    let before = disk.operations();
    base.app(&app()).unwrap();
    let operations: Vec<_> = (before + 1..=disk.operations()).filter_map(|n| disk.operation(n)).collect();
    assert!(!operations.iter().any(|name| name.starts_with("remove")), "{operations:?}");
    assert!(left(&disk).iter().all(|name| name.starts_with(".rubbish-shop-") || name.starts_with(".other_")));
    base.reconcile_open_apps();
    assert_eq!(left(&disk), [".other_20260112T101530.000000Z.tar.zst.1-0123456789abcdef.partial"]);
    assert_eq!(found(&base), "old");
    base.close();
}

/// Rubbish of an app that nobody has open may be an app's tree yet: an exchange that was not synced.
#[test]
fn rubbish_of_an_app_that_is_not_open_stays() {
    let rig = Rig::new();
    plant(&rig.disk, "apps/.rubbish-other-0123456789abcdef/data/x");
    plant(&rig.disk, "apps/.rubbish-shop-0123456789abcdef/data/x");
    rig.base.remove_rubbish();
    assert_eq!(left(&rig.disk), [".rubbish-other-0123456789abcdef"]);
    rig.base.close();
}

/// Where directories cannot be exchanged the app's place is free between two renames. Somebody made
/// `uploads/` there: the new tree could not take its place, the old one was not put back, and then
/// both were removed as rubbish.
#[test]
fn who_takes_the_apps_place_between_the_renames_costs_no_data() {
    for fails in [false, true] {
        let rig = Rig::new();
        rig.disk.lack("exchange");
        let disk = rig.disk.clone();
        // the exchange that is not supported, then the new tree
        rig.disk.before_arrival(&path("apps/shop"), || {});
        rig.disk.before_arrival(&path("apps/shop"), move || {
            plant(&disk, "apps/shop/uploads/theirs");
            if fails {
                disk.fail_at(disk.operations() + 1, Fault::Io);
            }
        });
        let restored = restore(&rig.base, &rig.archive);
        let expected = if fails { "old" } else { "new" };
        assert_eq!(restored.is_err(), fails, "{restored:?}");
        assert_eq!(found(&rig.base), expected);
        let aside = left(&rig.disk);
        assert!(matches!(&aside[..], [one] if one.starts_with(".aside-shop-")), "{aside:?}");
        let theirs = path("apps").join(&aside[0]).unwrap().join("uploads/theirs").unwrap();
        rig.disk.stat(&theirs).expect("a person is to look at it");
        let base = rig.next(&rig.disk.after_crash(CrashMode::LoseAll));
        assert_eq!(found(&base), expected);
        base.close();
    }
}

/// The directories were exchanged, then the app's could not be opened: the restore was answered as
/// failed, and the app said `closed` until somebody closed it.
#[test]
fn an_app_that_could_not_be_opened_after_a_restore_is_opened_by_the_next_use() {
    let rig = Rig::new();
    let before = rig.base.app(&app()).unwrap();
    let (disk, away) = (rig.disk.clone(), path("away"));
    rig.disk.before_arrival(&path("apps/shop"), move || {
        let (at_look, live) = (disk.clone(), path("apps/shop"));
        disk.before_look(&live.clone(), move || at_look.rename(&live, &away).unwrap());
    });
    restore(&rig.base, &rig.archive).expect("it happened, durably");
    assert_eq!(before.kv().unwrap_err().kind(), Kind::Closed, "nothing is written to a tree that is not known");
    rig.disk.rename(&path("away"), &path("apps/shop")).unwrap();
    assert_eq!(found(&rig.base), "new");
    rig.base.close();
}

/// An operator had let nobody but the app's user in. A restore let everybody in.
#[test]
fn a_restore_keeps_the_mode_of_the_apps_directory() {
    let rig = Rig::new();
    rig.disk.set_dir_meta(&path("apps/shop"), 0o700, 0).unwrap();
    restore(&rig.base, &rig.archive).unwrap();
    rig.base.close();
    for disk in [rig.disk.clone(), rig.disk.after_crash(CrashMode::LoseAll)] {
        assert_eq!(disk.stat(&path("apps/shop")).unwrap().mode, 0o700);
    }
}

/// A name that was mistyped in a restore was an app from then on.
#[test]
fn a_restore_that_fails_makes_no_app() {
    let rig = Rig::new();
    let typo = AppName::new("shpo").unwrap();
    let restore = |options| rig.base.restore(&typo, &rig.archive, &options, &Task::quiet());
    restore(RestoreOptions::default()).expect_err("a backup of another app");
    assert_eq!(rig.base.list_apps().unwrap(), [app()]);
    assert!(rig.base.app_if_open(&typo).is_none());
    // one that was there stays, and so does one that was restored
    restore(RestoreOptions { from_other_app: true, ..Default::default() }).unwrap();
    restore(RestoreOptions::default()).expect_err("a backup of another app");
    assert_eq!(rig.base.list_apps().unwrap(), [app(), typo.clone()]);
    rig.base.close();
}

/// `latest.tar.zst` is often a link, and was refused.
#[test]
fn an_archive_is_restored_through_a_link() {
    let rig = Rig::new();
    let link = rig.real.path().join("latest.tar.zst");
    std::os::unix::fs::symlink(&rig.archive, &link).unwrap();
    restore(&rig.base, &link).unwrap();
    assert_eq!(found(&rig.base), "new");
    std::fs::remove_file(&rig.archive).unwrap();
    assert_eq!(restore(&rig.base, &link).unwrap_err().kind(), Kind::NotFound);
    rig.base.close();
}

fn partials(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("partial")).collect()
}

/// Two archives to one path wrote into one hidden file, or removed each other's; what was published
/// could be the half of another's.
#[test]
fn archives_that_are_made_at_once_to_one_path_are_each_whole() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_at(dir.path());
    let names = ["a", "b"].map(|name| AppName::new(name).unwrap());
    for name in &names {
        fill(&base.app(name).unwrap(), name.as_str());
    }
    let dest = dir.path().join("one.tar.zst");
    let options = BackupOptions { overwrite: true, ..Default::default() };
    std::thread::scope(|threads| {
        for name in &names {
            threads.spawn(|| {
                for _ in 0..20 {
                    base.archive(name, &dest, &options, &Task::quiet()).unwrap();
                }
            });
        }
    });
    let options = RestoreOptions { from_other_app: true, ..Default::default() };
    base.restore(&names[0], &dest, &options, &Task::quiet()).unwrap();
    let restored = holds(&base.app(&names[0]).unwrap()).unwrap();
    assert!(["a", "b"].contains(&restored.as_str()), "{restored}");
    assert_eq!(partials(dir.path()), [""; 0]);
    base.close();
}

#[test]
fn what_dead_processes_left_of_an_archive_goes_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_at(dir.path());
    fill(&base.app(&app()).unwrap(), "old");
    let (nobody, ours, init) = (i32::MAX as u32, std::process::id(), 1);
    for pid in [nobody, ours, init] {
        std::fs::write(dir.path().join(format!(".one.tar.zst.{pid}-0123456789abcdef.partial")), "half").unwrap();
    }
    std::fs::write(dir.path().join(format!(".two.tar.zst.{nobody}-0123456789abcdef.partial")), "half").unwrap();
    let cancelled = Task::quiet();
    cancelled.cancel.cancel();
    let archive = |task| base.archive(&app(), &dir.path().join("one.tar.zst"), &BackupOptions::default(), task);
    archive(&cancelled).unwrap_err();
    archive(&Task::quiet()).unwrap();
    let mut left = partials(dir.path());
    left.sort();
    let living = format!(".one.tar.zst.{init}-0123456789abcdef.partial");
    assert_eq!(left, [living, format!(".two.tar.zst.{nobody}-0123456789abcdef.partial")]);
    base.close();
}

fn other_bytes(app: &App) -> u64 {
    app.usage().unwrap().parts["uploads"]
}

/// The record of a process that was killed was taken for what is there, until a whole interval had
/// passed.
#[test]
fn an_app_that_was_not_closed_is_counted_when_it_is_opened() {
    let rig = Rig::new();
    rig.base.reconcile_open_apps();
    let disk = rig.disk.kill();
    let before = other_bytes(&rig.base.app(&app()).unwrap());
    plant(&disk, "apps/shop/uploads/new");
    let base = rig.next(&disk);
    let opened = base.app(&app()).unwrap();
    while opened.usage().unwrap().age_ms.is_none() {
        std::thread::yield_now();
    }
    assert_eq!(other_bytes(&opened), before + "planted".len() as u64);
    base.close();
    let base = base_over(&disk, rig.real.path(), 3).unwrap();
    assert_eq!(base.app(&app()).unwrap().usage().unwrap().age_ms, None, "a clean end is believed");
    base.close();
}

/// Whoever asked for the usage of an app without a record walked it, and everybody else who asked
/// waited for that: in a VM that was every thread there is for opens and writes.
#[test]
fn a_question_for_the_usage_does_not_wait_for_a_long_walk() {
    let rig = Rig::new();
    let disk = rig.disk.kill();
    let (go_on, wait) = crossbeam_channel::bounded::<()>(0);
    for name in ["shop.usage", "shop.usage.open"] {
        let _ = disk.remove_file(&path("run").join(name).unwrap());
    }
    let base = rig.next(&disk);
    // the walk lists it by this name
    disk.before_look(&path("uploads"), move || assert!(wait.recv().is_err()));
    let opened = base.app(&app()).unwrap();
    assert_eq!(opened.usage().unwrap().age_ms, None, "not counted yet");
    drop(go_on);
    while opened.usage().unwrap().age_ms.is_none() {
        std::thread::yield_now();
    }
    base.close();
}

/// Closing a base waited until the walk of its largest app had ended.
#[test]
fn a_walk_ends_when_the_base_is_closed() {
    let rig = Rig::new();
    let opened = rig.base.app(&app()).unwrap();
    opened.reconcile().unwrap();
    let base = rig.base.clone();
    rig.disk.before_look(&path("uploads"), move || base.end_background());
    assert_eq!(opened.reconcile().unwrap_err().kind(), Kind::Closed);
    let cancelled = Task::quiet();
    cancelled.cancel.cancel();
    assert!(opened.reconcile_for(&cancelled).is_err());
    rig.base.close();
}
