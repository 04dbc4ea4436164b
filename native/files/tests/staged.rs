//! Staged and kept content: what each verb promises when nothing but the caller goes wrong, or another
//! program, or the disk at one call.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // plays the other programs

mod support;

use macula_core::{AppFiles, Disk, Expected::Anything, FileKind, Kind, Kinded, Look, Open, RealDisk, RelPath};
use macula_files::{Files, FilesError, StagedFile};
use macula_testkit::{path, Fault, FaultDisk};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use support::{content, Rig};

type Change = fn(&Files) -> Result<(), FilesError>;

fn simulated() -> (Rig, FaultDisk) {
    let disk = FaultDisk::new();
    (Rig::open(Arc::new(disk.clone())).unwrap(), disk)
}

/// A rig on both disks, and on one without hard links; the directory lives as long as the test.
fn on_all(test: impl Fn(Rig)) {
    test(simulated().0);
    let (rig, disk) = simulated();
    disk.lack("link");
    test(rig);
    let dir = tempfile::tempdir().unwrap();
    test(Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap());
}

#[track_caller]
fn kind<T>(result: Result<T, FilesError>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fn stage(files: &Files, name: &str, bytes: &[u8]) -> StagedFile {
    let staged = files.stage(name).unwrap();
    staged.write_at(bytes, 0).unwrap();
    staged.seal(bytes.len() as u64, Some(&hash(bytes))).unwrap();
    staged
}

fn put(files: &Files, at: &str, bytes: &[u8], keep: Option<&str>) -> Result<Look, FilesError> {
    drop(stage(files, "5e", bytes));
    files.put(&path(at), "5e", keep, Anything)
}

fn kept(files: &Files, name: &str) -> Vec<u8> {
    let reader = files.open_kept(name).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    assert_eq!(reader.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn read(files: &Files, at: &str) -> Vec<u8> {
    files.read(&path(at), 1 << 20).unwrap()
}

#[test]
fn content_is_put_together_in_any_order_and_put_in_place() {
    on_all(|rig| {
        let files = &rig.files;
        let whole = content(1, 300_000);
        let staged = files.stage("a1").unwrap();
        for (at, piece) in whole.chunks(70_001).enumerate().collect::<Vec<_>>().into_iter().rev() {
            staged.write_at(piece, at as u64 * 70_001).unwrap();
            rig.check_ledger();
        }
        staged.write_at(b"beyond its end", 400_000).unwrap();
        staged.write_at(b"", 1 << 40).unwrap();
        rig.check_ledger();
        let mut piece = [0; 100];
        assert_eq!(staged.read_at(&mut piece, 250_000).unwrap(), 100);
        assert_eq!((&piece[..], staged.len().unwrap()), (&whole[250_000..250_100], 400_014));
        staged.sync().unwrap();
        assert_eq!(files.staged().unwrap(), ["a1"]);
        staged.seal(whole.len() as u64, Some(&hash(&whole))).unwrap();
        assert!(files.list(None, None, 9).unwrap().names.is_empty());
        rig.check_ledger();
        let look = files.put(&path("d/e/a"), "a1", None, Anything).unwrap();
        assert_eq!((look.len, files.look(&path("d/e/a")).unwrap()), (whole.len() as u64, Some(look)));
        assert_eq!(read(files, "d/e/a"), whole);
        let stat = files.stat(&path("d/e/a")).unwrap();
        assert_eq!((stat.mode, stat.mtime_ns), (0o644, look.mtime_ns));
        assert!(stat.blake3.is_none_or(|found| found == hash(&whole)));
        assert!(files.staged().unwrap().is_empty() && files.kept().unwrap().is_empty());
        rig.check_ledger();
        assert_eq!(kind(files.put(&path("d/e/a"), "a1", None, Anything)), Some(Kind::NotFound));
        assert_eq!(kind(staged.write_at(b"x", 0)), Some(Kind::Closed), "it is another's now");
        assert_eq!(kind(staged.sync()), Some(Kind::Closed));
        assert_eq!(read(files, "d/e/a"), whole);
    });
}

#[test]
fn only_sealed_content_is_put_and_sealed_content_takes_nothing() {
    on_all(|rig| {
        let files = &rig.files;
        let (staged, other) = (files.stage("aa").unwrap(), files.stage("aa").unwrap());
        staged.write_at(b"one", 0).unwrap();
        other.write_at(b"two", 3).unwrap();
        assert_eq!(kind(files.put(&path("a"), "aa", None, Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.keep("aa", "bb")), Some(Kind::Invalid));
        assert_eq!(kind(staged.seal(7, Some(&[0; 32]))), Some(Kind::Invalid), "too short");
        other.write_at(b"more", 6).unwrap();
        for _ in 0..2 {
            staged.seal(6, Some(&hash(b"onetwo"))).unwrap();
        }
        assert_eq!(kind(other.write_at(b"x", 0)), Some(Kind::Closed));
        rig.check_ledger();
        files.put(&path("a"), "aa", None, Anything).unwrap();
        assert_eq!(read(files, "a"), b"onetwo");
        let again = files.stage("aa").unwrap();
        assert_eq!(again.len().unwrap(), 0, "new content");
        again.write_at(b"again", 0).unwrap();
        assert_eq!(kind(other.write_at(b"x", 0)), Some(Kind::Closed));
        files.unstage("aa").unwrap();
        files.unstage("aa").unwrap();
        assert_eq!(kind(again.write_at(b"longer than before", 0)), Some(Kind::Closed));
        rig.check_ledger();
        assert_eq!(read(files, "a"), b"onetwo");
    });
}

#[test]
fn the_next_process_goes_on() {
    let (rig, disk) = simulated();
    let staged = rig.files.stage("a1").unwrap();
    staged.write_at(&[1; 5_000], 5_000).unwrap();
    staged.sync().unwrap();
    staged.write_at(&[1; 5_000], 10_000).unwrap();
    drop(stage(&rig.files, "a2", b"sealed"));
    rig.files.write(&path("a"), b"old").unwrap();
    let found = Rig::open(Arc::new(disk.kill())).unwrap();
    assert_eq!(found.files.staged().unwrap(), ["a1", "a2"]);
    let next = found.files.stage("a1").unwrap();
    assert_eq!(next.len().unwrap(), 15_000);
    next.write_at(&[1; 5_000], 0).unwrap();
    next.seal(15_000, Some(&hash(&[1; 15_000]))).unwrap();
    found.files.put(&path("a"), "a1", Some("0a"), Anything).unwrap();
    found.files.put(&path("b"), "a2", None, Anything).unwrap();
    assert_eq!((read(&found.files, "a"), read(&found.files, "b")), (vec![1; 15_000], b"sealed".to_vec()));
    assert_eq!(kept(&found.files, "0a"), b"old");
    found.check_ledger();
}

#[test]
fn other_names_are_refused() {
    let (rig, _) = simulated();
    let files = &rig.files;
    files.write(&path("a"), b"a").unwrap();
    drop(stage(files, "aa", b"x"));
    let at = path("a");
    for bad in ["", "A", "g", "a/b", "..", ".", "a b", "ä", &"a".repeat(101)] {
        assert_eq!(kind(files.stage(bad)), Some(Kind::Invalid), "{bad}");
        assert_eq!(kind(files.unstage(bad)), Some(Kind::Invalid));
        assert_eq!(kind(files.put(&at, bad, None, Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.put(&at, "aa", Some(bad), Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.put_kept(&at, bad, None, Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.put_kept(&at, "aa", Some(bad), Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.remove(&at, Some(bad), Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.rename_keeping(&at, &path("b"), Some(bad))), Some(Kind::Invalid));
        assert_eq!(kind(files.keep("aa", bad)), Some(Kind::Invalid));
        assert_eq!(kind(files.keep(bad, "aa")), Some(Kind::Invalid));
        assert_eq!(kind(files.open_kept(bad)), Some(Kind::Invalid));
        assert_eq!(kind(files.unkeep(bad)), Some(Kind::Invalid));
    }
    assert!(files.stage(&"a".repeat(100)).is_ok());
    assert_eq!(read(files, "a"), b"a");
    rig.disk.open(&path(".macula/staged/README"), Open::CreateNew).unwrap();
    assert_eq!(files.staged().unwrap(), ["aa".to_owned(), "a".repeat(100)], "of ours only");
}

#[test]
fn what_is_replaced_moved_over_or_removed_is_kept() {
    on_all(|rig| {
        let files = &rig.files;
        put(files, "d/a", b"one", Some("01")).unwrap();
        assert!(files.kept().unwrap().is_empty(), "nothing was there");
        put(files, "d/a", b"two", Some("01")).unwrap();
        rig.check_ledger();
        put(files, "b", b"three", None).unwrap();
        let look = files.rename_keeping(&path("b"), &path("d/a"), Some("02")).unwrap();
        assert_eq!(files.look(&path("d/a")).unwrap(), Some(look));
        assert_eq!(files.rename_keeping(&path("d/a"), &path("d/a"), Some("03")).unwrap(), look);
        rig.check_ledger();
        files.remove(&path("d/a"), Some("03"), Anything).unwrap();
        assert!(rig.contents().is_empty() && rig.disk.list(&path("files")).unwrap().is_empty());
        assert_eq!(["01", "02", "03"].map(|name| kept(files, name)), [&b"one"[..], b"two", b"three"]);
        assert_eq!(kind(files.remove(&path("d/a"), Some("04"), Anything)), Some(Kind::NotFound));
        assert_eq!(files.kept().unwrap(), ["01", "02", "03"]);
        rig.check_ledger();
        let opened = AppFiles::open_kept(files, "01").unwrap();
        let look = files.put_kept(&path("e/f"), "01", Some("04"), Anything).unwrap();
        assert_eq!((opened.look(), opened.blake3()), (look, files.stat(&path("e/f")).unwrap().blake3));
        files.put_kept(&path("e/f"), "02", Some("01"), Anything).unwrap();
        assert_eq!((read(files, "e/f"), kept(files, "01")), (b"two".to_vec(), b"one".to_vec()));
        assert_eq!(kind(files.put_kept(&path("e/f"), "03", Some("03"), Anything)), Some(Kind::Invalid));
        assert_eq!(kind(files.put_kept(&path("e/f"), "02", None, Anything)), Some(Kind::NotFound));
        rig.check_ledger();
        // what is there under that name is the same, says who names it
        put(files, "e/f", b"four", Some("03")).unwrap();
        assert_eq!(kept(files, "03"), b"three");
        drop(stage(files, "aa", b"five"));
        files.keep("aa", "05").unwrap();
        drop(stage(files, "ab", b"five"));
        files.keep("ab", "05").unwrap();
        assert_eq!(kind(files.keep("ab", "05")), Some(Kind::NotFound));
        rig.check_ledger();
        assert_eq!(files.kept().unwrap(), ["01", "03", "05"]);
        for name in ["01", "03", "05", "07"] {
            files.unkeep(name).unwrap();
        }
        assert_eq!(kind(files.open_kept("01")), Some(Kind::NotFound));
        assert!(files.kept().unwrap().is_empty() && files.staged().unwrap().is_empty());
        assert_eq!(rig.leftovers(), 0);
        rig.check_ledger();
    });
}

#[test]
fn a_symlink_is_replaced_and_a_directory_is_not() {
    on_all(|rig| {
        let files = &rig.files;
        rig.disk.symlink(Path::new("/etc/passwd"), &path("files/link")).unwrap();
        rig.ledger.add(macula_core::Part::Files, 11);
        put(files, "link", b"mine", Some("01")).unwrap();
        assert_eq!(rig.disk.stat(&path("files/link")).unwrap().kind, FileKind::File);
        rig.disk.symlink(Path::new("link"), &path("files/other")).unwrap();
        rig.ledger.add(macula_core::Part::Files, 4);
        files.remove(&path("other"), Some("01"), Anything).unwrap();
        assert!(files.kept().unwrap().is_empty());
        files.write(&path("d/a"), b"a").unwrap();
        for bad in [path("d"), path("d/a/b"), RelPath::root()] {
            drop(stage(files, "5e", b"x"));
            assert_eq!(kind(files.put(&bad, "5e", Some("01"), Anything)), Some(Kind::Invalid), "{bad}");
            assert!(files.look(&bad).unwrap().is_none());
        }
        assert!(files.kept().unwrap().is_empty());
        assert_eq!(files.staged().unwrap(), ["5e"]);
        rig.check_ledger();
    });
}

/// A snapshot that was taken before holds the old file aside, beside the kept name: of the three names
/// that the file had the last that goes takes its bytes.
#[test]
fn a_snapshot_still_reads_what_was_kept() {
    for drop_first in [true, false] {
        on_all(|rig| {
            let files = &rig.files;
            let old = content(1, 10_000);
            for name in ["put", "removed", "renamed"] {
                put(files, name, &old, None).unwrap();
            }
            put(files, "moved", b"moved", None).unwrap();
            let snapshot = files.snapshot();
            let seen = pinned(&snapshot);
            put(files, "put", b"new", Some("01")).unwrap();
            files.remove(&path("removed"), Some("02"), Anything).unwrap();
            files.rename_keeping(&path("moved"), &path("renamed"), Some("03")).unwrap();
            put(files, "later", b"later", None).unwrap();
            files.put_kept(&path("back"), "02", None, Anything).unwrap();
            rig.check_ledger();
            assert_eq!(pinned(&snapshot), seen);
            if drop_first {
                drop(snapshot);
                rig.check_ledger();
                assert_eq!((kept(files, "01"), kept(files, "03")), (old.clone(), old.clone()));
                files.unkeep("01").unwrap();
                files.unkeep("03").unwrap();
            } else {
                files.unkeep("01").unwrap();
                files.unkeep("03").unwrap();
                rig.check_ledger();
                assert_eq!(pinned(&snapshot), seen);
                drop(snapshot);
            }
            assert_eq!(read(files, "back"), old);
            files.delete(&path("back")).unwrap();
            assert_eq!(rig.leftovers(), 0);
            rig.check_ledger();
        });
    }
}

fn pinned(snapshot: &macula_files::FileSnapshot) -> Vec<(RelPath, Vec<u8>)> {
    let mut all = Vec::new();
    let visit = &mut |entry: macula_files::SnapEntry| {
        let mut bytes = vec![0; entry.stat().len as usize];
        snapshot.open(&entry).unwrap().unwrap().read_exact_at(&mut bytes, 0).unwrap();
        all.push((entry.path().clone(), bytes));
        std::ops::ControlFlow::Continue(())
    };
    snapshot.walk(visit).unwrap();
    all
}

/// Run `strike` before one of the looks at what is kept under `kept`: the first is for whether it is there,
/// the second its sync, when the lock of names is free, the third that of the change itself.
fn while_keeping(disk: &FaultDisk, kept: &str, look: u32, strike: impl FnOnce() + Send + 'static) {
    let (again, kept_again) = (disk.clone(), kept.to_owned());
    let strike = Box::new(strike) as Box<dyn FnOnce() + Send>;
    disk.before_look(&path(".macula/kept").join(kept).unwrap(), move || match look {
        1 => strike(),
        _ => while_keeping(&again, &kept_again, look - 1, strike),
    });
}

/// An app, or another program, replaces or removes a file while it is being kept for another change: that
/// one would have lost what came between.
#[test]
fn what_changes_while_it_is_kept_is_not_replaced() {
    let strikes: [fn(&Files, &FaultDisk); 5] = [
        |files, _| assert_eq!(files.write(&path("a"), b"between").unwrap().len, 7),
        |files, _| files.delete(&path("a")).unwrap(),
        |_, disk| disk.open(&path("files/a"), Open::ReadWrite).unwrap().write_all_at(b"between", 0).unwrap(),
        |files, _| files.unkeep("01").unwrap(),
        |_, disk| disk.remove_file(&path(".macula/kept/01")).unwrap(),
    ];
    let changes: [Change; 4] = [
        |files| files.put(&path("a"), "5e", Some("01"), Anything).map(drop),
        |files| files.put_kept(&path("a"), "02", Some("01"), Anything).map(drop),
        |files| files.remove(&path("a"), Some("01"), Anything),
        |files| files.rename_keeping(&path("b"), &path("a"), Some("01")).map(drop),
    ];
    for (which, strike) in strikes.iter().enumerate() {
        for change in changes {
            let (rig, disk) = simulated();
            put(&rig.files, "a", b"old....", None).unwrap();
            put(&rig.files, "b", b"b", None).unwrap();
            drop(stage(&rig.files, "cc", b"kept"));
            rig.files.keep("cc", "02").unwrap();
            drop(stage(&rig.files, "5e", b"new"));
            let (files, struck, strike) = (rig.files.clone(), disk.clone(), *strike);
            while_keeping(&disk, "01", if which == 4 { 3 } else { 2 }, move || strike(&files, &struck));
            let error = change(&rig.files).unwrap_err();
            // what is to be removed, and is gone, is simply not there
            let is_gone = which == 1 && error.kind() == Kind::NotFound;
            assert!(is_gone || error.kind() == Kind::Conflict, "strike {which}: {error}");
            let expected = [Some(&b"between"[..]), None, Some(b"between"), Some(b"old...."), Some(b"old....")][which];
            assert_eq!(rig.files.read(&path("a"), 99).ok().as_deref(), expected);
            assert_eq!(
                (rig.files.kept().unwrap(), rig.files.staged().unwrap()),
                (vec!["02".into()], vec!["5e".into()])
            );
            assert_eq!(read(&rig.files, "b"), b"b");
            rig.check_ledger();
            let done = change(&rig.files);
            assert!(done.is_ok() || expected.is_none(), "{done:?}");
            assert!(expected.is_none_or(|expected| kept(&rig.files, "01") == expected));
            rig.check_ledger();
        }
    }
}

/// Two changes keep the same content under the same name, and one of them does not come about.
#[test]
fn a_kept_name_is_not_taken_back_from_another_who_counts_on_it() {
    let others: [Change; 3] = [
        |files| files.put(&path("b"), "bb", Some("01"), Anything).and_then(|_| files.delete(&path("a"))),
        |files| files.keep("bb", "01").and_then(|()| files.delete(&path("a"))),
        |files| files.put(&path("b"), "cc", Some("01"), Anything).map(drop),
    ];
    for (which, other) in others.into_iter().enumerate() {
        let (rig, disk) = simulated();
        put(&rig.files, "a", b"same", None).unwrap();
        put(&rig.files, "b", b"same", None).unwrap();
        drop(stage(&rig.files, "aa", b"new a"));
        drop(stage(&rig.files, "bb", b"same"));
        let files = rig.files.clone();
        while_keeping(&disk, "01", 2, move || assert_eq!(other(&files).is_ok(), which != 2));
        assert_eq!(rig.files.put(&path("a"), "aa", Some("01"), Anything).is_ok(), which == 2);
        assert_eq!(kept(&rig.files, "01"), b"same");
        rig.check_ledger();
    }
}

/// One call that fails, or a disk that fills up at it: all is as it was, or it was told that it may not be.
#[test]
fn a_failed_call_leaves_everything_as_it_was() {
    for lacks_links in [false, true] {
        for fault in [Fault::Full, Fault::Io] {
            let (mut n, mut refused) = (0, 0);
            loop {
                n += 1;
                let (rig, disk) = simulated();
                if lacks_links {
                    disk.lack("link");
                }
                put(&rig.files, "a", b"old", None).unwrap();
                drop(stage(&rig.files, "aa", b"new"));
                disk.fail_at(disk.operations() + n, fault);
                let done = rig.files.put(&path("a"), "aa", Some("01"), Anything);
                disk.heal();
                rig.check_ledger();
                match done {
                    Ok(_) => break,
                    Err(error) if error.kind() == Kind::UnknownResult => {
                        assert_eq!((read(&rig.files, "a"), kept(&rig.files, "01")), (b"new".to_vec(), b"old".to_vec()));
                        assert_eq!(kind(rig.files.unstage("aa")), Some(Kind::Poisoned));
                    }
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::DiskFull | Kind::Io), "{error}");
                        assert_eq!(read(&rig.files, "a"), b"old", "n={n}");
                        assert_eq!(rig.files.staged().unwrap(), ["aa"], "n={n}");
                        assert_eq!((rig.files.kept().unwrap().len(), rig.leftovers()), (0, 0), "n={n}");
                    }
                }
                refused += 1;
            }
            assert!(refused > 1, "{fault:?} {refused}");
        }
    }
}

/// After a sync that failed the kernel takes the lost bytes for written: nobody may go on from them.
#[test]
fn after_a_failed_sync_content_is_begun_anew() {
    let (rig, disk) = simulated();
    for seals in [false, true] {
        let staged = rig.files.stage("aa").unwrap();
        staged.write_at(&[1; 10_000], 0).unwrap();
        // before the sync of a seal: mode and digest
        disk.fail_at(disk.operations() + if seals { 3 } else { 1 }, Fault::Io);
        let done = if seals { staged.seal(10_000, Some(&[0; 32])) } else { staged.sync() };
        assert_eq!(kind(done), Some(Kind::Io));
        assert_eq!(kind(staged.write_at(b"x", 0)), Some(Kind::Closed));
        assert!(rig.files.staged().unwrap().is_empty());
        assert_eq!(rig.files.stage("aa").unwrap().len().unwrap(), 0);
        rig.check_ledger();
    }
}

#[test]
fn content_that_does_not_fit_can_go_on_later() {
    let (rig, disk) = simulated();
    let staged = rig.files.stage("aa").unwrap();
    disk.set_capacity(Some(4 * 4096));
    staged.write_at(&[1; 4096], 0).unwrap();
    assert_eq!(kind(staged.write_at(&[1; 8 * 4096], 4096)), Some(Kind::DiskFull));
    rig.check_ledger();
    disk.set_capacity(None);
    staged.write_at(&[1; 8 * 4096], 4096).unwrap();
    staged.seal(9 * 4096, Some(&hash(&[1; 9 * 4096]))).unwrap();
    rig.files.put(&path("a"), "aa", None, Anything).unwrap();
    assert_eq!(read(&rig.files, "a"), [1; 9 * 4096]);
    rig.check_ledger();
}

/// Power was lost in the middle of the rename that put it in its place: it has both names. Who goes on
/// with the staged one would write to the file.
#[test]
fn a_rename_that_was_half_done_is_finished_by_the_next_open() {
    let (rig, disk) = simulated();
    put(&rig.files, "a", b"whole", None).unwrap();
    drop(stage(&rig.files, "bb", b"another"));
    disk.hard_link(&path("files/a"), &path(".macula/staged/aa")).unwrap();
    let next = Rig::open(Arc::new(disk.kill())).unwrap();
    assert_eq!(next.files.staged().unwrap(), ["bb"]);
    next.files.stage("aa").unwrap().write_at(b"x", 0).unwrap();
    assert_eq!(read(&next.files, "a"), b"whole");
    next.check_ledger();
    // the same of a kept name: putting it there again leaves one name
    disk.hard_link(&path("files/a"), &path(".macula/staged/cc")).unwrap();
    rig.files.keep("cc", "0c").unwrap();
    let look = rig.files.put_kept(&path("a"), "0c", Some("0d"), Anything).unwrap();
    assert_eq!((rig.files.look(&path("a")).unwrap(), rig.files.kept().unwrap()), (Some(look), vec!["0d".into()]));
    let kept = rig.disk.open(&path(".macula/kept/0d"), Open::Read).unwrap();
    assert_ne!(kept.stat().unwrap().ino, look.ino, "who writes to the file does not write to what is kept");
    rig.check_ledger();
    // and of another program's second name
    disk.hard_link(&path("files/a"), &path("files/b")).unwrap();
    assert_eq!(rig.files.rename_keeping(&path("b"), &path("a"), Some("0e")).unwrap(), look);
    assert_eq!((rig.contents().len(), rig.files.kept().unwrap().len()), (1, 2));
    rig.check_ledger();
}

#[test]
fn pages_tell_how_files_look() {
    on_all(|rig| {
        let files = &rig.files;
        let names = ["a-b", "a/b", "a/c", "a0", "z"];
        for name in names {
            put(files, name, name.as_bytes(), None).unwrap();
        }
        rig.disk.symlink(Path::new("a0"), &path("files/m")).unwrap();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = files.page(after.as_ref(), 2).unwrap();
            found.extend(page.files);
            after = found.last().map(|(name, _)| name.clone());
            if !page.more {
                break;
            }
        }
        assert!(found.iter().map(|(name, _)| name.to_string()).eq(names));
        assert!(found.iter().all(|(name, look)| files.look(name).unwrap() == Some(*look)));
        for none in ["m", "a", "a/b/c", "none"] {
            assert_eq!(files.look(&path(none)).unwrap(), None, "{none}");
        }
    });
}

#[test]
fn through_the_seam_nothing_is_verified_and_errors_keep_their_kind() {
    let (rig, disk) = simulated();
    put(&rig.files, "a", b"bytes", None).unwrap();
    let file = disk.open(&path("files/a"), Open::ReadWrite).unwrap();
    let mtime = file.stat().unwrap().mtime_ns;
    file.write_all_at(b"B", 0).unwrap();
    file.set_mtime(mtime).unwrap();
    let files: &dyn AppFiles = &rig.files;
    let opened = files.open(&path("a")).unwrap();
    let mut bytes = [0; 9];
    assert_eq!((opened.read_at(&mut bytes, 0).unwrap(), &bytes[..5]), (5, &b"Bytes"[..]));
    assert_eq!(opened.blake3(), Some(hash(b"bytes")));
    let error = files.put(&path("a"), "aa", None, Anything).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("path=.macula/staged/aa")), (Kind::NotFound, true));
}

#[test]
fn a_closed_handle_takes_no_change() {
    let (rig, _) = simulated();
    let files = &rig.files;
    put(files, "a", b"a", Some("01")).unwrap();
    let staged = stage(files, "aa", b"x");
    files.close();
    assert_eq!(kind(staged.write_at(b"y", 0)), Some(Kind::Closed));
    assert_eq!(kind(staged.seal(1, Some(&[0; 32]))), Some(Kind::Closed));
    assert_eq!(kind(files.stage("bb")), Some(Kind::Closed));
    assert_eq!(kind(files.put(&path("a"), "aa", Some("02"), Anything)), Some(Kind::Closed));
    assert_eq!(kind(files.keep("aa", "02")), Some(Kind::Closed));
    assert_eq!(kind(files.remove(&path("a"), Some("02"), Anything)), Some(Kind::Closed));
    assert_eq!((kind(files.unkeep("01")), kind(files.unstage("aa"))), (Some(Kind::Closed), Some(Kind::Closed)));
    assert_eq!((read(files, "a"), files.staged().unwrap().len()), (b"a".to_vec(), 1));
    rig.check_ledger();
}

/// Everybody replaces, moves and removes the same few names, keeping what was there: each content that was
/// put is under one name in the end.
#[test]
fn beside_each_other_changes_lose_nothing_that_they_keep() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap();
    let was_put = std::sync::Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (files, was_put) = (&rig.files, &was_put);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for step in 0..support::count(60, 2_000) {
                    let name = |rng: &mut fastrand::Rng| path(["a", "d/a", "d/e/a"][rng.usize(0..3)]);
                    let keep = format!("{:02x}{step:06x}", thread);
                    let snapshot = (step % 7 == 0).then(|| files.snapshot());
                    let done = match rng.u8(0..5) {
                        0 => files.remove(&name(&mut rng), Some(&keep), Anything),
                        1 => files.rename_keeping(&name(&mut rng), &name(&mut rng), Some(&keep)).map(drop),
                        _ => {
                            let bytes = content(thread << 32 | step, rng.usize(0..9_000));
                            drop(stage(files, &keep, &bytes));
                            let put = files.put(&name(&mut rng), &keep, Some(&keep), Anything).map(drop);
                            match &put {
                                Ok(()) => drop(was_put.lock().unwrap().insert(bytes)),
                                Err(_) => files.unstage(&keep).unwrap(),
                            }
                            put
                        }
                    };
                    assert!(matches!(kind(done), None | Some(Kind::Conflict | Kind::NotFound)));
                    drop(snapshot);
                }
            });
        }
    });
    rig.check_ledger();
    assert_eq!((rig.leftovers(), rig.files.staged().unwrap().len()), (0, 0));
    let names = rig.files.kept().unwrap();
    let mut found: Vec<_> =
        names.iter().map(|name| kept(&rig.files, name)).chain(rig.contents().into_values()).collect();
    found.sort();
    assert!(found.iter().eq(was_put.lock().unwrap().iter()), "each once");
}
