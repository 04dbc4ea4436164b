//! Snapshots: one instant, whatever happens afterwards.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::{Disk, FileKind, RealDisk, RelPath};
use macula_files::{FileSnapshot, SnapEntry};
use macula_testkit::{path, FaultDisk};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use support::{content, Rig};

fn entries(snapshot: &FileSnapshot) -> Vec<SnapEntry> {
    let mut all = Vec::new();
    snapshot
        .walk(&mut |entry| {
            all.push(entry);
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

/// Files and directories of a snapshot, as a model has them.
pub fn pinned(snapshot: &FileSnapshot) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let read = |entry: &SnapEntry| {
        let file = snapshot.open(entry).unwrap()?;
        let mut bytes = vec![0; entry.stat().len as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(file.len().unwrap(), entry.stat().len);
        assert_eq!(file.stat().unwrap().mtime_ns, entry.stat().mtime_ns);
        Some(bytes)
    };
    entries(snapshot).iter().map(|entry| (entry.path().as_bytes().to_vec(), read(entry))).collect()
}

fn live(rig: &Rig) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut all: BTreeMap<_, _> = rig.contents().into_iter().map(|(name, bytes)| (name, Some(bytes))).collect();
    for name in all.keys().cloned().collect::<Vec<_>>() {
        let mut dir = RelPath::new(&name).unwrap().parent();
        while !dir.is_root() {
            all.insert(dir.as_bytes().to_vec(), None);
            dir = dir.parent();
        }
    }
    all
}

#[test]
fn a_snapshot_keeps_its_instant() {
    let dir = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).unwrap());
    for disk in [real, Arc::new(FaultDisk::new())] {
        let rig = Rig::open(disk).unwrap();
        for (name, bytes) in [("a", "1"), ("d/b", "2"), ("d/e/c", "3"), ("gone/x", "4"), ("f", "5")] {
            rig.files.write(&path(name), bytes.as_bytes()).unwrap();
        }
        rig.disk.symlink(Path::new("/etc"), &path("files/link")).unwrap();
        rig.ledger.add(macula_core::Part::Files, 4);
        let before = {
            let mut all = live(&rig);
            all.insert(b"link".to_vec(), None);
            all
        };
        let snapshot = rig.files.snapshot();
        rig.files.write(&path("a"), b"newer").unwrap();
        rig.files.write(&path("a"), b"newest").unwrap();
        rig.files.delete(&path("gone/x")).unwrap();
        rig.files.write(&path("gone"), b"a file where a directory was").unwrap();
        rig.files.rename(&path("d/e/c"), &path("new/c")).unwrap();
        rig.files.delete(&path("f")).unwrap();
        rig.files.write(&path("f/g"), b"a directory where a file was").unwrap();
        rig.files.delete(&path("link")).unwrap();
        let other = rig.files.snapshot();
        let between = live(&rig);
        rig.files.delete(&path("f/g")).unwrap();
        rig.files.delete(&path("gone")).unwrap();
        rig.files.write(&path("gone/x"), b"back").unwrap();
        rig.files.delete(&path("new/c")).unwrap();
        rig.files.write(&path("d/b"), b"both").unwrap();
        assert_eq!(pinned(&snapshot), before);
        assert_eq!(pinned(&other), between);
        rig.check_ledger();
        let all = entries(&snapshot);
        let names: Vec<_> = all.iter().map(|e| e.path().to_string()).collect();
        assert_eq!(names, ["a", "d", "d/b", "d/e", "d/e/c", "f", "gone", "gone/x", "link"]);
        assert_eq!(all[8].target(), Some(Path::new("/etc")));
        assert_eq!(all[1].stat().kind, FileKind::Dir);
        assert_eq!(all[2].archive_path(), path("files/d/b"));
        drop(snapshot);
        rig.check_ledger();
        assert_eq!(pinned(&other), between);
        drop(other);
        assert_eq!(rig.leftovers(), 0);
        rig.check_ledger();
    }
}

#[test]
fn a_walk_stops_when_told() {
    let rig = Rig::open(Arc::new(FaultDisk::new())).unwrap();
    for name in ["a", "b", "c"] {
        rig.files.write(&path(name), b"").unwrap();
    }
    let mut seen = 0;
    let stop = |_| {
        seen += 1;
        ControlFlow::Break(())
    };
    rig.files.snapshot().walk(&mut { stop }).unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn what_other_programs_take_away_is_passed_over() {
    let rig = Rig::open(Arc::new(FaultDisk::new())).unwrap();
    for name in ["a", "d/b", "d/c"] {
        rig.files.write(&path(name), b"").unwrap();
    }
    let snapshot = rig.files.snapshot();
    let all = entries(&snapshot);
    macula_core::remove_tree(&*rig.disk, &path("files/d")).unwrap();
    rig.disk.remove_file(&path("files/a")).unwrap();
    rig.disk.create_dir(&path("files/a")).unwrap();
    assert!(all.iter().all(|entry| snapshot.open(entry).unwrap().is_none()));
    assert_eq!(entries(&snapshot).len(), 1);
}

/// The writer that strikes between a snapshot's two looks, at the worst moment of each.
#[test]
fn a_writer_in_the_middle_of_a_look_changes_nothing() {
    let strikes: [fn(&macula_files::Files); 3] = [
        |files| assert_eq!(files.write(&path("d/a"), b"new").unwrap().len, 3),
        |files| files.delete(&path("d/a")).unwrap(),
        |files| files.rename(&path("d/a"), &path("e/a")).unwrap(),
    ];
    for strike in strikes {
        for looked_at in ["files", "files/d", "files/d/a"] {
            for looks in 0..3 {
                let disk = FaultDisk::new();
                let rig = Rig::open(Arc::new(disk.clone())).unwrap();
                rig.files.write(&path("d/a"), b"old").unwrap();
                let expected = live(&rig);
                let snapshot = rig.files.snapshot();
                let files = rig.files.clone();
                // the n-th look is the stat of the walk, the list or the open
                nest(disk, path(looked_at), looks, Box::new(move || strike(&files)));
                assert_eq!(pinned(&snapshot), expected, "{looked_at} {looks}");
            }
        }
    }
}

fn nest(disk: FaultDisk, at: RelPath, looks: u32, strike: Box<dyn FnOnce() + Send>) {
    let (again, place) = (disk.clone(), at.clone());
    disk.before_look(&at, move || match looks {
        0 => strike(),
        _ => nest(again, place, looks - 1, strike),
    });
}

#[test]
fn without_hard_links_versions_are_copied_aside() {
    let disk = FaultDisk::new();
    disk.lack("link");
    let rig = Rig::open(Arc::new(disk.clone())).unwrap();
    let long = content(1, 700_000);
    rig.files.write(&path("a"), &long).unwrap();
    rig.files.write(&path("b"), b"b").unwrap();
    let expected = live(&rig);
    let (one, two) = (rig.files.snapshot(), rig.files.snapshot());
    rig.files.write(&path("a"), b"new").unwrap();
    rig.files.rename(&path("b"), &path("c")).unwrap();
    assert_eq!(pinned(&one), expected);
    drop(one);
    rig.check_ledger();
    assert_eq!(pinned(&two), expected);
    drop(two);
    assert_eq!(rig.leftovers(), 0);
    rig.check_ledger();
}

/// What cannot be set aside must not be replaced: the snapshot would lose it.
#[test]
fn a_version_that_cannot_be_set_aside_stays() {
    let disk = FaultDisk::new();
    let rig = Rig::open(Arc::new(disk.clone())).unwrap();
    rig.files.write(&path("a"), b"old").unwrap();
    let expected = live(&rig);
    let snapshot = rig.files.snapshot();
    disk.fail_at(disk.operations() + 1, macula_testkit::Fault::Full);
    assert!(rig.files.delete(&path("a")).is_err());
    assert!(rig.files.rename(&path("a"), &path("b")).is_err());
    assert_eq!(live(&rig), expected);
    disk.heal();
    rig.files.delete(&path("a")).unwrap();
    assert_eq!(pinned(&snapshot), expected);
    rig.check_ledger();
}

/// Writers, deleters and movers at full speed; each snapshot, taken with the gate closed, must give
/// exactly what was there at that moment, and the ledger must be exact in the end.
#[test]
fn snapshots_beside_writers_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = support::count(15, 300);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (rig, stop) = (&rig, &stop);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                let name =
                    |rng: &mut fastrand::Rng| path(["a", "d/a", "d/b", "d/e/a", "f/a", "f/g/h"][rng.usize(0..6)]);
                while !stop.load(Ordering::Relaxed) {
                    // a name may be a directory of another, or gone: such refusals are fine
                    let _ = match rng.u8(0..4) {
                        0 => rig.files.delete(&name(&mut rng)),
                        1 => rig.files.rename(&name(&mut rng), &name(&mut rng)),
                        _ => {
                            let len = rng.usize(0..2000);
                            rig.files.write(&name(&mut rng), &content(rng.u64(..), len)).map(drop)
                        }
                    };
                }
            });
        }
        let guard = Stop(&stop);
        for _ in 0..rounds {
            let closed = rig.gate.close();
            let snapshot = rig.files.snapshot();
            let expected = live(&rig);
            drop(closed);
            for _ in 0..3 {
                assert_eq!(pinned(&snapshot), expected);
            }
        }
        drop(guard);
    });
    rig.check_ledger();
    assert_eq!(rig.leftovers(), 0);
}

/// Ends the writers also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
