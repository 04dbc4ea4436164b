//! What a caller takes to be under a name when it changes it, and names that nobody said were durable.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // plays the other programs

mod support;

use macula_core::Expected::{self, Anything, Nothing};
use macula_core::{Disk, Kind, Kinded, Look, Open, Part, RealDisk, RelPath};
use macula_files::{Files, FilesError};
use macula_testkit::{path, CrashMode, Fault, FaultDisk};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use support::{content, Rig};

type Change = fn(&Files, &RelPath, Option<&str>, Expected) -> Result<(), FilesError>;

const PUT: Change = |files, path, keep, expected| files.put(path, "5e", keep, expected).map(drop);
const PUT_KEPT: Change = |files, path, keep, expected| files.put_kept(path, "0c", keep, expected).map(drop);
const REMOVE: Change = |files, path, keep, expected| files.remove(path, keep, expected);

fn stage(files: &Files, name: &str, bytes: &[u8]) {
    let staged = files.stage(name).unwrap();
    staged.write_at(bytes, 0).unwrap();
    staged.seal(bytes.len() as u64, Some(blake3::hash(bytes).as_bytes())).unwrap();
}

/// A file, a symlink, what is staged to be put, and what is kept to be.
fn filled(disk: Arc<dyn Disk>) -> Rig {
    let rig = Rig::open(disk).unwrap();
    rig.files.write(&path("d/a"), b"old").unwrap();
    rig.disk.symlink(Path::new("d/a"), &path("files/link")).unwrap();
    rig.ledger.add(Part::Files, 3);
    stage(&rig.files, "cc", b"kept");
    rig.files.keep("cc", "0c").unwrap();
    stage(&rig.files, "5e", b"new");
    rig.check_ledger();
    rig
}

fn simulated() -> (Rig, FaultDisk) {
    let disk = FaultDisk::new();
    (filled(Arc::new(disk.clone())), disk)
}

/// A disk on which a power loss lost all that it could.
fn lost(disk: &FaultDisk) -> Rig {
    Rig::open(Arc::new(disk.after_crash(CrashMode::LoseAll))).unwrap()
}

fn look(files: &Files, at: &str) -> Look {
    files.look(&path(at)).unwrap().unwrap()
}

/// All names below the root, the content and the length of each, and the ledger.
fn all(rig: &Rig) -> String {
    let mut all = format!("{:?} {:?}", rig.ledger.get(Part::Files), rig.ledger.get(Part::Other));
    let mut dirs = vec![path("files"), path(".macula")];
    while let Some(dir) = dirs.pop() {
        for entry in rig.disk.list(&dir).unwrap() {
            let at = dir.join(entry.name.as_encoded_bytes()).unwrap();
            let stat = rig.disk.stat(&at).unwrap();
            let bytes = macula_core::read_all(&*rig.disk, &at, 99_999).ok();
            all += &format!("\n{at} {stat:?} {bytes:?}");
            dirs.extend(Some(at).filter(|_| stat.kind == macula_core::FileKind::Dir));
        }
    }
    all
}

/// Names, and what is expected there and is not so.
fn wrong(files: &Files) -> Vec<(&'static str, Expected)> {
    let now = look(files, "d/a");
    let others = [
        Look { len: now.len + 1, ..now },
        Look { mtime_ns: now.mtime_ns - 1, ..now },
        Look { ino: now.ino + 1_000_000, ..now },
    ];
    let stale = others.map(|look| ("d/a", Expected::File(look)));
    let more = [
        ("d/a", Nothing),
        ("link", Nothing),
        ("link", Expected::File(now)),
        ("none", Expected::File(now)),
        ("d/e/none", Expected::File(now)),
    ];
    stale.into_iter().chain(more).collect()
}

fn check_refused(rig: &Rig) {
    let before = all(rig);
    for change in [PUT, PUT_KEPT, REMOVE] {
        for keep in [None, Some("01")] {
            for (at, expected) in wrong(&rig.files) {
                let kind = change(&rig.files, &path(at), keep, expected).unwrap_err().kind();
                // what is to be removed, and is not there, needs no caller that looks again
                let is_gone = change as usize == REMOVE as usize && at.ends_with("none");
                assert_eq!(kind, if is_gone { Kind::NotFound } else { Kind::Conflict }, "{at} {expected:?}");
                assert_eq!(all(rig), before, "{at} {expected:?}");
            }
            assert_eq!(change(&rig.files, &path("d"), keep, Nothing).unwrap_err().kind(), Kind::Invalid);
            assert_eq!(all(rig), before);
        }
    }
    assert_eq!(rig.files.remove(&path("none"), None, Nothing).unwrap_err().kind(), Kind::NotFound);
    rig.check_ledger();
}

#[test]
fn what_is_not_as_expected_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    check_refused(&filled(Arc::new(RealDisk::at(dir.path()).unwrap())));
    let (rig, disk) = simulated();
    let operations = disk.operations();
    check_refused(&rig);
    // a kill in the middle would leave what is not what it is named among what is kept
    assert_eq!(disk.operations(), operations, "not even kept, to be taken back");
    let snapshot = rig.files.snapshot();
    check_refused(&rig);
    drop(snapshot);
}

#[test]
fn what_is_as_expected_is_changed() {
    for keep in [None, Some("01")] {
        for lacks_links in [false, true] {
            let (rig, disk) = simulated();
            if lacks_links {
                disk.lack("link");
            }
            let files = &rig.files;
            let put = files.put(&path("d/a"), "5e", keep, Expected::File(look(files, "d/a"))).unwrap();
            assert_eq!(files.kept().unwrap().len(), 1 + usize::from(keep.is_some()));
            files.put_kept(&path("e/b"), "0c", keep, Nothing).unwrap();
            files.remove(&path("d/a"), None, Expected::File(put)).unwrap();
            files.remove(&path("e/b"), None, Expected::File(look(files, "e/b"))).unwrap();
            files.remove(&path("link"), None, Anything).unwrap();
            assert!(rig.contents().is_empty());
            rig.check_ledger();
        }
    }
}

/// Another program is as quick as it can be: it changes the file after the caller looked, and after what
/// the change looks at first.
#[test]
fn what_becomes_another_in_the_middle_is_not_changed() {
    let strikes: [fn(&FaultDisk); 2] = [
        |disk| disk.open(&path("files/d/a"), Open::ReadWrite).unwrap().write_all_at(b"bet", 0).unwrap(),
        |disk| disk.rename(&path("files/theirs"), &path("files/d/a")).unwrap(),
    ];
    for strike in strikes {
        for (change, source) in [(PUT, ".macula/staged/5e"), (PUT_KEPT, ".macula/kept/0c")] {
            let (rig, disk) = simulated();
            rig.files.write(&path("theirs"), b"bet").unwrap();
            let expected = Expected::File(look(&rig.files, "d/a"));
            let struck = disk.clone();
            disk.before_look(&path(source), move || strike(&struck));
            let refused = change(&rig.files, &path("d/a"), None, expected).unwrap_err();
            assert_eq!(refused.kind(), Kind::Conflict, "{refused}");
            assert_eq!(macula_core::read_all(&disk, &path("files/d/a"), 99).unwrap(), b"bet");
            assert_eq!(
                (rig.files.kept().unwrap(), rig.files.staged().unwrap()),
                (vec!["0c".into()], vec!["5e".into()])
            );
            change(&rig.files, &path("d/a"), None, Expected::File(look(&rig.files, "d/a"))).unwrap();
        }
    }
}

/// Everybody counts one further, keeping what was there under its number: nobody counts over another.
#[test]
fn of_many_that_expect_the_same_one_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap();
    let (files, at, counted) = (&rig.files, path("n"), AtomicU64::new(0));
    files.write(&at, &0u64.to_le_bytes()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (at, counted) = (&at, &counted);
            scope.spawn(move || {
                for step in 0..support::count(50, 1_000) {
                    let staged = format!("{thread:02x}{step:06x}");
                    // held open, so that no other file is given its inode number meanwhile
                    let reader = files.reader(at).unwrap();
                    let mut bytes = [0; 8];
                    reader.read_at(&mut bytes, 0).unwrap();
                    let n = u64::from_le_bytes(bytes);
                    stage(files, &staged, &(n + 1).to_le_bytes());
                    match files.put(at, &staged, Some(&format!("{n:016x}")), Expected::File(reader.look())) {
                        Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            assert_eq!(error.kind(), Kind::Conflict, "{error}");
                            files.unstage(&staged).unwrap();
                        }
                    }
                }
            });
        }
    });
    let counted = counted.into_inner();
    assert_eq!(files.read(&at, 8).unwrap(), counted.to_le_bytes());
    assert!(files.kept().unwrap().into_iter().eq((0..counted).map(|n| format!("{n:016x}"))));
    for n in 0..counted {
        let mut bytes = [0; 8];
        files.open_kept(&format!("{n:016x}")).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, n.to_le_bytes(), "it is what it is named");
    }
    assert!(files.staged().unwrap().is_empty());
    rig.check_ledger();
}

/// A name, what the killed process did to it, and whether that is there.
type Killed = (&'static str, fn(&FaultDisk), fn(&Rig) -> bool);

/// A process was killed between a change and its sync. The next finds it done, and nobody said that it was
/// durable.
#[test]
fn a_settled_name_survives_a_power_loss() {
    let whole = || content(1, 9_000);
    let killed: [Killed; 6] = [
        (
            "x/y/b",
            |disk| {
                disk.create_dir(&path("files/x")).unwrap();
                disk.create_dir(&path("files/x/y")).unwrap();
                disk.rename(&path("files/f/a"), &path("files/x/y/b")).unwrap();
            },
            |rig| rig.files.read(&path("x/y/b"), 99_999).is_ok_and(|found| found == content(1, 9_000)),
        ),
        (
            "f/a",
            |disk| disk.rename(&path("files/d/a"), &path("files/f/a")).unwrap(),
            |rig| rig.files.read(&path("f/a"), 99).is_ok_and(|found| found == b"old"),
        ),
        (
            "f/a",
            |disk| {
                disk.remove_file(&path("files/f/a")).unwrap();
                disk.remove_dir(&path("files/f")).unwrap();
            },
            |rig| rig.disk.stat(&path("files/f")).is_err(),
        ),
        (
            "f/a",
            |disk| {
                disk.remove_file(&path("files/f/a")).unwrap();
                disk.remove_dir(&path("files/f")).unwrap();
                disk.symlink(Path::new("d"), &path("files/f")).unwrap();
            },
            |rig| rig.disk.read_link(&path("files/f")).is_ok(),
        ),
        // what was kept is under its one name
        (
            "b",
            |disk| disk.rename(&path(".macula/kept/0c"), &path("files/b")).unwrap(),
            |rig| rig.files.read(&path("b"), 99).is_ok() && rig.files.kept().unwrap().is_empty(),
        ),
        (
            "b",
            |disk| disk.rename(&path(".macula/staged/5e"), &path(".macula/kept/05")).unwrap(),
            |rig| rig.files.kept().unwrap() == ["05", "0c"],
        ),
    ];
    for (which, (name, change, is_there)) in killed.into_iter().enumerate() {
        for is_next in [false, true] {
            let (rig, disk) = simulated();
            rig.files.write(&path("f/a"), &whole()).unwrap();
            change(&disk);
            assert!(!is_there(&lost(&disk)), "{which}: there is something to lose");
            let (rig, disk) = match is_next.then(|| disk.kill()) {
                Some(next) => (Rig::open(Arc::new(next.clone())).unwrap(), next),
                None => (rig, disk),
            };
            let before = all(&rig);
            rig.files.settle(&path(name)).unwrap();
            assert_eq!(all(&rig), before, "{which}: it is as it was");
            assert!(is_there(&rig) && is_there(&lost(&disk)), "{which}");
        }
    }
}

#[test]
fn a_name_that_cannot_be_settled_is_told() {
    let (rig, disk) = simulated();
    for fine in ["d/a", "none", "g/h/i", "link", "link/x/y", "d/a/b/c", "d"] {
        rig.files.settle(&path(fine)).unwrap();
    }
    assert_eq!(rig.files.settle(&RelPath::root()).unwrap_err().kind(), Kind::Invalid);
    disk.fail_at(disk.operations() + 1, Fault::Io);
    assert_eq!(rig.files.settle(&path("d/a")).unwrap_err().kind(), Kind::UnknownResult);
    assert_eq!(rig.files.settle(&path("d/a")).unwrap_err().kind(), Kind::Poisoned, "the kernel may have let go of it");
    let (rig, _) = simulated();
    rig.files.close();
    assert_eq!(rig.files.settle(&path("d/a")).unwrap_err().kind(), Kind::Closed);
}
