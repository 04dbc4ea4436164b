//! What files promise when nothing goes wrong but the caller, or another program.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // plays the other programs

mod support;

use macula_core::{Kind, Kinded, Open, RealDisk, RelPath};
use macula_files::FilesError;
use macula_testkit::{path, CrashMode, FaultDisk};
use std::path::Path;
use std::sync::Arc;
use support::Rig;

fn simulated() -> Rig {
    Rig::open(Arc::new(FaultDisk::new())).unwrap()
}

/// A rig on both disks; the directory lives as long as the test.
fn on_both(test: impl Fn(Rig)) {
    test(simulated());
    let dir = tempfile::tempdir().unwrap();
    test(Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap());
}

#[track_caller]
fn kind<T>(result: Result<T, FilesError>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

#[test]
fn writes_are_read_back() {
    on_both(|rig| {
        let written = rig.files.write(&path("docs/a.txt"), b"hello").unwrap();
        assert_eq!((written.len, written.blake3), (5, *blake3::hash(b"hello").as_bytes()));
        assert_eq!(rig.files.read(&path("docs/a.txt"), 5).unwrap(), b"hello");
        let stat = rig.files.stat(&path("docs/a.txt")).unwrap();
        assert_eq!((stat.len, stat.mode), (5, 0o644));
        assert!(stat.blake3.is_none_or(|hash| hash == written.blake3));
        rig.files.write(&path("docs/a.txt"), b"").unwrap();
        assert_eq!(rig.files.read(&path("docs/a.txt"), 5).unwrap(), b"");
        rig.check_ledger();
        assert_eq!(rig.leftovers(), 0);
    });
}

#[test]
fn a_long_file_goes_through_in_chunks() {
    on_both(|rig| {
        let whole = support::content(1, 3_000_000);
        let mut writer = rig.files.writer(&path("big")).unwrap();
        for chunk in whole.chunks(300_007) {
            writer.write_chunk(chunk).unwrap();
        }
        assert_eq!(kind(rig.files.read(&path("big"), 1)), Some(Kind::NotFound), "not there before commit");
        rig.check_ledger();
        assert_eq!(writer.commit().unwrap().blake3, *blake3::hash(&whole).as_bytes());
        assert_eq!(kind(rig.files.read(&path("big"), 10)), Some(Kind::TooLarge));
        assert_eq!(rig.files.range(&path("big"), 2_999_000, 5_000).unwrap(), &whole[2_999_000..]);
        assert!(rig.files.range(&path("big"), 4_000_000, 5).unwrap().is_empty());
        let reader = rig.files.reader(&path("big")).unwrap();
        rig.files.write(&path("big"), b"new").unwrap();
        let (mut read, mut chunk) = (Vec::new(), vec![0; 65_536]);
        while let n @ 1.. = reader.read_at(&mut chunk, read.len() as u64).unwrap() {
            read.extend_from_slice(&chunk[..n]);
        }
        assert!(read == whole, "a reader keeps its version");
        rig.check_ledger();
    });
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    on_both(|rig| {
        let mut writer = rig.files.writer(&path("a/b")).unwrap();
        writer.write_chunk(b"half").unwrap();
        assert_eq!(rig.leftovers(), 1);
        drop(writer);
        assert_eq!(rig.leftovers(), 0);
        assert!(rig.contents().is_empty() && rig.disk.stat(&path("files/a")).is_err());
        rig.check_ledger();
    });
}

#[test]
fn an_open_clears_what_a_killed_process_left() {
    let disk = FaultDisk::new();
    let rig = Rig::open(Arc::new(disk.clone())).unwrap();
    rig.files.write(&path("a"), b"1").unwrap();
    let snapshot = rig.files.snapshot();
    rig.files.write(&path("a"), b"2").unwrap();
    let writer = rig.files.writer(&path("b")).unwrap();
    let next = Rig::open(Arc::new(disk.kill())).unwrap();
    assert_eq!(next.leftovers(), 0);
    assert_eq!(next.contents().into_values().collect::<Vec<_>>(), [b"2"]);
    drop((snapshot, writer));
    assert_eq!(rig.leftovers(), 0);
}

#[test]
fn deletes_take_empty_directories_along() {
    on_both(|rig| {
        rig.files.write(&path("a/b/c"), b"x").unwrap();
        rig.files.write(&path("a/d"), b"x").unwrap();
        rig.files.delete(&path("a/b/c")).unwrap();
        assert!(rig.disk.stat(&path("files/a/b")).is_err());
        assert!(rig.disk.stat(&path("files/a")).is_ok());
        assert_eq!(kind(rig.files.delete(&path("a/b/c"))), Some(Kind::NotFound));
        assert_eq!(kind(rig.files.delete(&path("a/d/e"))), Some(Kind::NotFound));
        assert_eq!(kind(rig.files.delete(&path("a"))), Some(Kind::Invalid));
        rig.files.delete(&path("a/d")).unwrap();
        assert!(rig.disk.list(&path("files")).unwrap().is_empty());
        rig.check_ledger();
    });
}

#[test]
fn renames_replace_and_move_directories_along() {
    on_both(|rig| {
        rig.files.write(&path("a/b"), b"one").unwrap();
        rig.files.write(&path("c"), b"three").unwrap();
        rig.files.rename(&path("a/b"), &path("d/e/f")).unwrap();
        rig.check_ledger();
        rig.files.rename(&path("d/e/f"), &path("c")).unwrap();
        rig.files.rename(&path("c"), &path("c")).unwrap();
        assert_eq!(rig.files.read(&path("c"), 10).unwrap(), b"one");
        assert_eq!(rig.files.list(None, None, 10).unwrap().names, [path("c")]);
        assert_eq!(rig.disk.list(&path("files")).unwrap().len(), 1);
        assert_eq!(kind(rig.files.rename(&path("none"), &path("x/y"))), Some(Kind::NotFound));
        assert_eq!(kind(rig.files.rename(&path("c"), &path("c/d"))), Some(Kind::Invalid));
        assert!(rig.disk.stat(&path("files/x")).is_err());
        rig.check_ledger();
    });
}

#[test]
fn names_that_cannot_be_written_change_nothing() {
    on_both(|rig| {
        rig.files.write(&path("file"), b"x").unwrap();
        rig.files.write(&path("dir/file"), b"x").unwrap();
        let long = path(&["n"; 2047].join("/"));
        for (name, expected) in [
            (path("dir"), Kind::Invalid),
            (path("file/x"), Kind::Invalid),
            (path("file/x/y"), Kind::Invalid),
            (RelPath::root(), Kind::Invalid),
        ] {
            assert_eq!(kind(rig.files.write(&name, b"new")), Some(expected), "{name}");
        }
        assert_eq!(kind(rig.files.read(&path("dir"), 9)), Some(Kind::Invalid));
        assert_eq!(kind(rig.files.read(&path("file/x"), 9)), Some(Kind::NotFound));
        assert_eq!(kind(rig.files.write(&long, b"").map(drop)), Some(Kind::Invalid), "does not fit below files/");
        assert_eq!(rig.contents().len(), 2);
        assert_eq!(rig.leftovers(), 0);
        rig.check_ledger();
    });
}

/// Byte order of whole names is not the order in which a directory is walked: `a-b`, `a/b`, `a0`.
#[test]
fn lists_are_in_byte_order_of_whole_names_page_by_page() {
    on_both(|rig| {
        let names = ["a/b", "a/b-/c", "a-b", "a0", "a.b/c", "a.b/d/e", "a!", "aa/a", "B", "a/b.c", "a/b0/x", "z/z/z"];
        let mut sorted: Vec<RelPath> = names.map(path).to_vec();
        for name in &sorted {
            rig.files.write(name, b"").unwrap();
        }
        rig.disk.symlink(Path::new("B"), &path("files/link")).unwrap();
        sorted.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for limit in 1..=names.len() + 1 {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = rig.files.list(None, after.as_ref(), limit).unwrap();
                assert!(page.names.len() <= limit);
                listed.extend(page.names);
                after = listed.last().cloned();
                if !page.more {
                    break;
                }
            }
            assert_eq!(listed, sorted, "limit={limit}");
        }
        for after in ["a", "a/", "a/b", "a.b/d/a", "a.", "zz", "a.b/c/x", "a/b-/"].map(|a| a.trim_end_matches('/')) {
            let expected: Vec<_> = sorted.iter().filter(|n| n.as_bytes() > after.as_bytes()).cloned().collect();
            assert_eq!(rig.files.list(None, Some(&path(after)), 99).unwrap().names, expected, "after={after}");
        }
        for prefix in ["a", "a.b", "a/b", "none", "B", "link", "a.b/d"] {
            let expected: Vec<_> = sorted.iter().filter(|n| n.is_within(&path(prefix))).cloned().collect();
            assert_eq!(rig.files.list(Some(&path(prefix)), None, 99).unwrap().names, expected, "prefix={prefix}");
        }
        assert!(rig.files.list(None, None, 0).unwrap().more);
    });
}

#[test]
fn a_changed_byte_is_named_and_a_change_by_another_program_is_not() {
    let rig = simulated();
    rig.files.write(&path("a"), &[7; 10_000]).unwrap();
    let file = rig.disk.open(&path("files/a"), Open::ReadWrite).unwrap();
    let mtime = file.stat().unwrap().mtime_ns;
    file.write_all_at(b"x", 5_000).unwrap();
    assert_eq!(rig.files.read(&path("a"), 1 << 20).unwrap()[5_000], b'x', "another program's write is what it is");
    assert_eq!(rig.files.stat(&path("a")).unwrap().blake3, None);
    file.set_mtime(mtime).unwrap();
    let error = rig.files.read(&path("a"), 1 << 20).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("path=a") && error.hint().is_some());
    let reader = rig.files.reader(&path("a")).unwrap();
    let mut chunk = [0; 4_000];
    assert_eq!(reader.read_at(&mut chunk, 0).unwrap(), 4_000);
    assert_eq!(reader.read_at(&mut chunk, 4_000).unwrap(), 4_000);
    assert_eq!(kind(reader.read_at(&mut chunk, 8_000)), Some(Kind::Corrupt));
    assert!(rig.files.range(&path("a"), 1, 10).is_ok(), "a part cannot be verified");
    file.write_all_at(&[7], 5_000).unwrap();
    file.set_mtime(mtime).unwrap();
    assert!(rig.files.read(&path("a"), 1 << 20).is_ok());
}

#[test]
fn nothing_planted_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(Arc::new(RealDisk::at(dir.path()).unwrap())).unwrap();
    let plant = |target: &Path, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    plant(outside.path(), "files/dir");
    plant(&outside.path().join("secret"), "files/final");
    assert_eq!(kind(rig.files.read(&path("dir/secret"), 99)), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.read(&path("final"), 99)), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.write(&path("dir/secret"), b"x")), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.write(&path("dir/new/er"), b"x")), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.delete(&path("dir/secret"))), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.rename(&path("final"), &path("x"))), Some(Kind::Invalid));
    assert!(rig.files.list(None, None, 9).unwrap().names.is_empty());
    rig.files.write(&path("final"), b"mine").unwrap();
    assert_eq!(rig.contents().into_values().collect::<Vec<_>>(), [b"mine"]);
    rig.files.delete(&path("dir")).unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    plant(outside.path(), "elsewhere");
    std::fs::remove_dir_all(dir.path().join(".macula")).unwrap();
    plant(outside.path(), ".macula");
    assert_eq!(Rig::open(rig.disk.clone()).err().map(|e| e.kind()), Some(Kind::Invalid));
}

#[test]
fn a_fifo_among_the_files_is_refused_without_waiting() {
    let disk = FaultDisk::new();
    let rig = Rig::open(Arc::new(disk.clone())).unwrap();
    disk.plant_other(&path("files/fifo")).unwrap();
    assert_eq!(kind(rig.files.read(&path("fifo"), 9)), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.write(&path("fifo"), b"x")), Some(Kind::Invalid));
    assert_eq!(kind(rig.files.delete(&path("fifo"))), Some(Kind::Invalid));
    assert!(rig.files.list(None, None, 9).unwrap().names.is_empty());
}

/// The app's other programs may tidy up our directory of temporaries.
#[test]
fn a_removed_directory_of_temporaries_comes_back() {
    let rig = simulated();
    macula_core::remove_tree(&*rig.disk, &path(".macula")).unwrap();
    rig.files.write(&path("a"), b"x").unwrap();
    assert_eq!(rig.files.read(&path("a"), 9).unwrap(), b"x");
}

/// A walk that recursed would overflow the small stack of a scheduler thread.
#[test]
fn a_path_of_two_thousand_levels_is_a_path() {
    let deep = path(&["n"; 2040].join("/"));
    let rig = simulated();
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(128 * 1024);
        let work = || {
            rig.files.write(&deep, b"x").unwrap();
            assert_eq!(rig.files.list(None, None, 9).unwrap().names, std::slice::from_ref(&deep));
            let snapshot = rig.files.snapshot();
            rig.files.delete(&deep).unwrap();
            let mut seen = 0;
            let count = &mut |_| {
                seen += 1;
                std::ops::ControlFlow::Continue(())
            };
            snapshot.walk(count).unwrap();
            assert_eq!(seen, 2040);
        };
        small.spawn_scoped(scope, work).unwrap().join().unwrap();
    });
    rig.check_ledger();
}

#[test]
fn without_attributes_files_are_read_unverified() {
    let disk = FaultDisk::new();
    disk.lack("set_tag");
    let rig = Rig::open(Arc::new(disk)).unwrap();
    rig.files.write(&path("a"), b"x").unwrap();
    assert_eq!(rig.files.read(&path("a"), 9).unwrap(), b"x");
    assert_eq!(rig.files.stat(&path("a")).unwrap().blake3, None);
}

/// Another program, or a delete of ours, took a directory away that we knew to be durable; one of
/// that name came back without a sync. What is written into it must not count on the old one.
#[test]
fn a_directory_that_came_back_is_synced_again() {
    for who in 0..3 {
        let disk = FaultDisk::new();
        let rig = Rig::open(Arc::new(disk.clone())).unwrap();
        rig.files.write(&path("d/a"), b"1").unwrap();
        match who {
            0 => macula_core::remove_tree(&*rig.disk, &path("files/d")).unwrap(),
            1 => rig.files.delete(&path("d/a")).unwrap(),
            _ => {
                rig.files.delete(&path("d/a")).unwrap();
                rig.disk.create_dir(&path("files/d")).unwrap();
            }
        }
        rig.files.write(&path("d/b"), b"2").unwrap();
        let found = Rig::open(Arc::new(disk.after_crash(CrashMode::LoseAll))).unwrap();
        assert_eq!(found.files.read(&path("d/b"), 9).unwrap(), b"2", "who={who}");
    }
}

/// A restore exchanges the directory under the files: what was acknowledged through an old handle
/// afterwards would be gone with the old directory.
#[test]
fn a_closed_handle_takes_no_change() {
    let rig = simulated();
    let files = &rig.files;
    files.write(&path("a"), b"kept").unwrap();
    let mut late = files.writer(&path("late")).unwrap();
    late.write_chunk(b"late").unwrap();
    files.close();
    assert!(matches!(late.commit(), Err(FilesError::Closed)));
    assert!(matches!(files.write(&path("b"), b"x"), Err(FilesError::Closed)));
    assert!(matches!(files.delete(&path("a")), Err(FilesError::Closed)));
    assert!(matches!(files.rename(&path("a"), &path("c")), Err(FilesError::Closed)));
    assert_eq!(files.read(&path("a"), 100).unwrap(), b"kept");
    assert!(files.verify(&|| false).is_ok());
}
