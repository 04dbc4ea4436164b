//! What the simulated disk loses, keeps and refuses.
#![allow(clippy::unwrap_used)]

use macula_core::{create_dir_all, read_all, remove_tree, write_durably, Chance, Clock, Disk, DiskFile, Open, RelPath};
use macula_testkit::{path, CrashMode, Fault, FaultDisk, SeededChance, SimClock};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const MODES: u64 = 400;

fn create(disk: &FaultDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(&path(name), Open::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn get(disk: &FaultDisk, name: &str) -> Option<Vec<u8>> {
    read_all(disk, &path(name), 1 << 20).ok()
}

/// Every content that a crash can leave under `name`.
fn outcomes(disk: &FaultDisk, name: &str) -> HashSet<Option<Vec<u8>>> {
    (0..MODES).map(|seed| get(&disk.after_crash(CrashMode::Random(seed)), name)).collect()
}

fn sync_root(disk: &FaultDisk) {
    disk.sync_dir(&RelPath::root()).unwrap();
}

#[test]
fn a_name_and_its_content_are_durable_separately() {
    let disk = FaultDisk::new();
    create(&disk, "a", b"abc");
    let expected = [None, Some(vec![]), Some(vec![0; 3]), Some(b"abc".to_vec())];
    assert_eq!(outcomes(&disk, "a"), HashSet::from(expected));
}

#[test]
fn what_is_synced_survives_whatever_the_seed() {
    let disk = FaultDisk::new();
    let file = create(&disk, "a", b"abc");
    file.sync_data().unwrap();
    sync_root(&disk);
    assert_eq!(outcomes(&disk, "a"), HashSet::from([Some(b"abc".to_vec())]));
    assert_eq!(get(&disk.after_crash(CrashMode::LoseAll), "a"), Some(b"abc".to_vec()));
    file.write_all_at(b"xyz", 0).unwrap();
    assert_eq!(get(&disk.after_crash(CrashMode::LoseAll), "a"), Some(b"abc".to_vec()));
    assert_eq!(get(&disk.after_crash(CrashMode::KeepAll), "a"), Some(b"xyz".to_vec()));
    assert_eq!(outcomes(&disk, "a").len(), 2);
}

#[test]
fn writes_tear_at_sectors() {
    let disk = FaultDisk::new();
    let file = create(&disk, "a", &[1; 2048]);
    file.sync_data().unwrap();
    sync_root(&disk);
    file.write_all_at(&[2; 1024], 256).unwrap();
    let found = outcomes(&disk, "a");
    assert_eq!(found.len(), 8, "three sectors are touched");
    for bytes in found.into_iter().flatten() {
        assert!(bytes[..256].iter().all(|b| *b == 1) && bytes[1280..].iter().all(|b| *b == 1));
        assert!(bytes[256..512].iter().all(|b| *b == bytes[256]));
        assert!(bytes[512..1024].iter().all(|b| *b == bytes[512]));
    }
}

#[test]
fn a_rename_leaves_at_least_one_name() {
    let disk = FaultDisk::new();
    disk.create_dir(&path("d")).unwrap();
    create(&disk, "a", b"abc").sync_data().unwrap();
    sync_root(&disk);
    disk.rename(&path("a"), &path("d/b")).unwrap();
    let mut seen = HashSet::new();
    for seed in 0..MODES {
        let crashed = disk.after_crash(CrashMode::Random(seed));
        let (old, new) = (get(&crashed, "a").is_some(), get(&crashed, "d/b").is_some());
        assert!(old || new, "seed={seed}");
        seen.insert((old, new));
    }
    assert_eq!(seen.len(), 3);
    disk.sync_dir(&path("d")).unwrap();
    for seed in 0..MODES {
        assert!(get(&disk.after_crash(CrashMode::Random(seed)), "d/b").is_some(), "seed={seed}");
    }
}

/// Random moves between directories that come and go: files that are durable under one name have
/// at least one name after any crash.
#[test]
fn no_sequence_of_moves_loses_a_durable_file() {
    for seed in 0..1000u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = FaultDisk::new();
        for n in 0..3u8 {
            create(&disk, &format!("f{n}"), &[n + 1]).sync_data().unwrap();
        }
        disk.sync_tree().unwrap();
        let place = |rng: &mut fastrand::Rng| match rng.u8(0..3) {
            0 => RelPath::root(),
            1 => path(["d", "e"][rng.usize(0..2)]),
            _ => path(["d/e", "e/d"][rng.usize(0..2)]),
        };
        for _ in 0..30 {
            let (from, to) = (place(&mut rng), place(&mut rng));
            let (one, other) = (rng.u8(0..3), rng.u8(0..3));
            // whatever fails, fails
            let _ = match rng.u8(0..7) {
                0 => disk.create_dir(&from),
                1 => disk.remove_dir(&from),
                2 => disk.sync_dir(&from),
                3 => disk.rename(&from, &to),
                4 => disk.exchange(&from, &to),
                _ => {
                    let free = disk.stat(&to.join(format!("f{other}")).unwrap()).is_err();
                    let from = from.join(format!("f{one}")).unwrap();
                    if free {
                        disk.rename(&from, &to.join(format!("f{other}")).unwrap())
                    } else {
                        Ok(())
                    }
                }
            };
        }
        for crash in 0..40 {
            let crashed = disk.after_crash(CrashMode::Random(crash));
            let mut found = HashSet::new();
            walk(&crashed, &RelPath::root(), &mut found);
            assert_eq!(found.len(), 3, "seed={seed} crash={crash} found={found:?}");
        }
    }
}

fn walk(disk: &FaultDisk, dir: &RelPath, found: &mut HashSet<Vec<u8>>) {
    for entry in disk.list(dir).unwrap() {
        let at = dir.join(entry.name.to_str().unwrap()).unwrap();
        match read_all(disk, &at, 10) {
            Ok(bytes) => drop(found.insert(bytes)),
            Err(_) => walk(disk, &at, found),
        }
    }
}

#[test]
fn names_in_an_unsynced_directory_go_with_it() {
    let disk = FaultDisk::new();
    disk.create_dir(&path("d")).unwrap();
    create(&disk, "d/a", b"abc").sync_data().unwrap();
    disk.sync_dir(&path("d")).unwrap();
    assert_eq!(get(&disk.after_crash(CrashMode::LoseAll), "d/a"), None);
    sync_root(&disk);
    assert_eq!(get(&disk.after_crash(CrashMode::LoseAll), "d/a"), Some(b"abc".to_vec()));
}

/// Linux marks pages clean when their sync fails: a second sync that succeeds proves nothing.
#[test]
fn a_sync_repeated_after_a_failure_saves_nothing() {
    let disk = FaultDisk::new();
    let file = create(&disk, "a", b"abc");
    sync_root(&disk);
    disk.fail_at(disk.operations() + 1, Fault::Io);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(get(&disk, "a"), Some(b"abc".to_vec()));
    assert_eq!(outcomes(&disk, "a"), HashSet::from([Some(vec![0; 3]), Some(b"abc".to_vec())]));
    file.write_all_at(b"new", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, "a"), HashSet::from([Some(b"new".to_vec())]));
}

#[test]
fn a_crash_freezes_and_a_kill_keeps_what_was_written() {
    let disk = FaultDisk::new();
    let file = create(&disk, "a", b"abc");
    sync_root(&disk);
    let killed = disk.kill();
    assert_eq!(get(&killed, "a"), Some(b"abc".to_vec()));
    assert_eq!(get(&killed.after_crash(CrashMode::LoseAll), "a"), Some(vec![]));
    disk.fail_at(disk.operations() + 2, Fault::Crash);
    file.write_all_at(b"x", 0).unwrap();
    assert!(disk.rename(&path("a"), &path("b")).is_err() && disk.has_crashed());
    assert!(file.sync_data().is_err() && file.len().is_err() && disk.stat(&path("a")).is_err());
    assert_eq!(disk.operation(disk.operations()), Some("rename"));
    assert_eq!(get(&disk.after_crash(CrashMode::KeepAll), "a"), Some(b"xbc".to_vec()));
    assert_eq!(get(&killed, "a"), Some(b"abc".to_vec()), "machines are apart");
}

#[test]
fn a_full_disk_takes_what_has_room_already() {
    let disk = FaultDisk::new();
    disk.set_capacity(Some(3 * 4096));
    let file = create(&disk, "a", &[1; 100]);
    file.allocate(8192).unwrap();
    assert_eq!(disk.space().unwrap().free, 4096);
    let other = create(&disk, "b", &[1; 10]);
    assert_eq!(other.write_all_at(&[1; 5000], 0).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(other.len().unwrap(), 4096, "what fits is written");
    file.write_all_at(&[2; 8192], 0).unwrap();
    assert!(file.allocate(8193).is_err());
    disk.remove_file(&path("b")).unwrap();
    assert!(file.allocate(8193).is_err(), "still open");
    drop(other);
    file.allocate(8193).unwrap();
    disk.fail_at(disk.operations() + 1, Fault::Full);
    assert_eq!(disk.create_dir(&path("d")).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    file.write_all_at(&[3; 8193], 0).unwrap();
    file.sync_data().unwrap();
    disk.remove_file(&path("a")).unwrap();
    disk.heal();
    disk.create_dir(&path("d")).unwrap();
}

#[test]
fn forgotten_syncs_lose_acknowledged_writes() {
    for (forget, expected) in [(false, Some(b"two".to_vec())), (true, None)] {
        let disk = FaultDisk::new();
        disk.forget_syncs(forget);
        write_durably(&disk, &path("a"), &path("tmp"), b"one").unwrap();
        write_durably(&disk, &path("a"), &path("tmp"), b"two").unwrap();
        assert_eq!(get(&disk.after_crash(CrashMode::LoseAll), "a"), expected);
    }
}

/// A durable replacement is wholly old or wholly new at whatever operation power goes.
#[test]
fn a_durable_replacement_is_old_or_new_at_every_operation() {
    let run = |n: Option<u64>| {
        let disk = FaultDisk::new();
        write_durably(&disk, &path("a"), &path("tmp"), &[1; 3000]).unwrap();
        if let Some(n) = n {
            disk.fail_at(disk.operations() + n, Fault::Crash);
        }
        let before = disk.operations();
        let result = write_durably(&disk, &path("a"), &path("tmp"), &[2; 5000]);
        (disk.operations() - before, result, disk)
    };
    let (count, ..) = run(None);
    for n in 1..=count {
        let (_, result, disk) = run(Some(n));
        assert!(result.is_err());
        for seed in 0..50 {
            let found = get(&disk.after_crash(CrashMode::Random(seed)), "a");
            assert!([Some(vec![1; 3000]), Some(vec![2; 5000])].contains(&found), "n={n} seed={seed}");
        }
    }
}

#[test]
fn time_and_chance_obey() {
    let clock = SimClock::new(5);
    clock.sleep(Duration::from_secs(1));
    assert_eq!((clock.wall_ms(), clock.monotonic()), (1005, Duration::from_secs(1)));
    clock.set_wall_ms(2);
    assert_eq!((clock.wall_ms(), clock.monotonic()), (2, Duration::from_secs(1)));
    assert_eq!(SeededChance::new(7).next_u64(), SeededChance::new(7).next_u64());
    assert_ne!(SeededChance::new(7).next_u64(), SeededChance::new(8).next_u64());
}

#[test]
fn a_hook_runs_once_at_the_moment_asked_for() {
    let disk = FaultDisk::new();
    create(&disk, "a", b"abc");
    let other = disk.clone();
    disk.before_look(&path("a"), move || other.rename(&path("a"), &path("b")).unwrap());
    assert!(disk.stat(&path("b")).is_err());
    assert!(disk.open(&path("a"), Open::Read).is_err(), "it moved in the nick of time");
    assert!(disk.open(&path("b"), Open::Read).is_ok());
}

#[test]
fn a_lacking_operation_is_unsupported_from_then_on() {
    let disk = FaultDisk::new();
    let file = create(&disk, "a", b"abc");
    disk.lack("set_tag");
    disk.fail_at(disk.operations() + 2, Fault::Unsupported);
    for _ in 0..2 {
        assert_eq!(file.set_tag("b3", b"x").unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    }
    disk.hard_link(&path("a"), &path("b")).unwrap();
    // once a run that was to crash at every operation ended at the first that was not supported
    disk.fail_at(disk.operations() + 1, Fault::Crash);
    file.set_tag("b3", b"x").unwrap_err();
    assert!(disk.has_crashed());
}

#[test]
fn a_directory_of_another_user_keeps_its_names_also_after_a_crash() {
    let disk = FaultDisk::new();
    create_dir_all(&disk, &path("d/theirs")).unwrap();
    create(&disk, "d/theirs/a", b"abc");
    disk.sync_tree().unwrap();
    disk.give_away(&path("d/theirs")).unwrap();
    for disk in [disk.clone(), disk.kill(), disk.after_crash(CrashMode::LoseAll)] {
        let refused = [
            disk.remove_file(&path("d/theirs/a")),
            disk.rename(&path("d/theirs/a"), &path("a")),
            disk.create_dir(&path("d/theirs/b")),
            disk.set_dir_meta(&path("d/theirs"), 0o777, 0),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
        assert!(remove_tree(&disk, &path("d")).is_err());
        disk.rename(&path("d"), &path("e")).expect("the directory above is ours");
    }
}

/// Of a tree with one directory that cannot be removed, a removal once left all that came after it.
#[test]
fn what_cannot_be_removed_keeps_nothing_else() {
    let disk = FaultDisk::new();
    create_dir_all(&disk, &path("d/b")).unwrap();
    for name in ["d/a", "d/b/file", "d/c"] {
        create(&disk, name, b"abc");
    }
    disk.give_away(&path("d/b")).unwrap();
    assert_eq!(remove_tree(&disk, &path("d")).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let left = |dir| disk.list(&path(dir)).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    assert_eq!((left("d"), left("d/b")), (vec!["b".into()], vec!["file".into()]));
}

/// A process made a directory and was killed before it synced it. The next one found it there, called
/// it durable, and acknowledged what it put into it.
#[test]
fn a_directory_that_was_there_is_durable_too() {
    let disk = FaultDisk::new();
    disk.create_dir(&path("d")).unwrap();
    let next = disk.kill();
    create_dir_all(&next, &path("d")).unwrap();
    assert!(next.after_crash(CrashMode::LoseAll).stat(&path("d")).is_ok());
}

/// A second sync does not make good what one that failed has lost.
#[test]
fn a_directory_whose_sync_failed_is_made_again() {
    let disk = FaultDisk::new();
    disk.fail_at(disk.operations() + 2, Fault::Io);
    create_dir_all(&disk, &path("d")).unwrap_err();
    create_dir_all(&disk, &path("d")).unwrap();
    assert!(disk.after_crash(CrashMode::LoseAll).stat(&path("d")).is_ok());
}
