//! Trees that change while they are packed, cancelling, memory, links that cannot be restored.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::*;
use macula_archive::{
    list, pack, unpack, verify, ArchiveError, Format, Item, PackOptions, Packed, Remark, Source, Tree, UnpackOptions,
    Written, WrittenFn, DEPTH_MAX, SLICE,
};
use macula_core::{Cancel, Disk, DiskFile, Kind, Kinded, Stat, Task};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn file(path: &str, len: u64) -> Item {
    Item { path: rel(path), source: Source::File, mode: 0o644, mtime_ns: 0, len, token: len }
}

/// Opens by a function of the item.
struct Opens<F>(F);

impl<F: Fn(&Item) -> io::Result<Option<Arc<dyn DiskFile>>> + Send + Sync> Tree for Opens<F> {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        (self.0)(item)
    }
}

fn pack_items(items: Vec<Item>, tree: &dyn Tree, task: &Task) -> (Vec<u8>, Result<Packed, ArchiveError>) {
    let out = MemFile::default();
    let packed = pack(&mut items.into_iter().map(Ok), tree, &out, &options(Format::Zst, 2), task);
    (out.bytes(), packed)
}

/// The packer was told one length, the file has another: it grew, shrank, or is gone. The archive is
/// a good one all the same and says what happened.
#[test]
fn files_that_change_while_they_are_packed_are_marked() {
    let large = 3 * SLICE as u64 + 5;
    let items = vec![
        file("same", 10),
        file("grew", 10),
        file("shrank", 10),
        file("emptied", 10),
        file("gone", 10),
        file("large same", large),
        file("large grew", large),
        file("large shrank", large),
        file("large gone", large),
        file("last", 3),
    ];
    let tree = Opens(|item: &Item| {
        let name = item.path.to_string();
        let len = match name.split(' ').next_back().unwrap() {
            "grew" => item.len + 7,
            "shrank" => item.len / 2,
            "emptied" => 0,
            "gone" => return Ok(None),
            _ => item.len,
        };
        Ok(Some(MemFile::of(&vec![b'x'; len as usize])))
    });
    let (archive, packed) = pack_items(items, &tree, &Task::quiet());
    let packed = packed.unwrap();
    assert_eq!((packed.totals.changed, packed.totals.vanished), (5, 2));
    let to = tempfile::tempdir().unwrap();
    let unpacked = unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
    assert_eq!(unpacked.totals, Some(packed.totals));
    let len = |name: &str| std::fs::metadata(to.path().join(name)).map(|m| m.len()).ok();
    assert_eq!(
        ["same", "grew", "shrank", "emptied", "gone", "last"].map(len),
        [Some(10), Some(10), Some(5), Some(0), None, Some(3)]
    );
    assert_eq!(
        ["large same", "large grew", "large shrank", "large gone"].map(len),
        [Some(large), Some(large), Some(large), None]
    );
    let shrunk = std::fs::read(to.path().join("large shrank")).unwrap();
    assert!(shrunk[..large as usize / 2].iter().all(|b| *b == b'x'));
    assert!(shrunk[large as usize / 2..].iter().all(|b| *b == 0), "filled with zeros");
    let mut remarks = Vec::new();
    list(&MemFile::of(&archive), &Task::quiet(), &mut |entry| {
        if let Some(remark) = entry.remark {
            remarks.push((String::from_utf8(entry.path()).unwrap(), remark));
        }
    })
    .unwrap();
    remarks.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("emptied", Remark::Changed),
        ("gone", Remark::Vanished),
        ("grew", Remark::Changed),
        ("large gone", Remark::Vanished),
        ("large grew", Remark::Changed),
        ("large shrank", Remark::Changed),
        ("shrank", Remark::Changed),
    ];
    assert_eq!(remarks, expected.map(|(name, remark)| (name.to_owned(), remark)));
    assert_eq!(packed.remarked.len(), 7);
}

/// A file that keeps its length but has another time than expected is marked too.
#[test]
fn another_time_is_a_change() {
    let items = vec![Item { mtime_ns: 5, ..file("a", 3) }, Item { mtime_ns: 5, ..file("b", 2 * SLICE as u64) }];
    let tree = Opens(|item: &Item| Ok(Some(MemFile::of(&vec![1; item.len as usize]))));
    let (_, packed) = pack_items(items, &tree, &Task::quiet());
    assert_eq!(packed.unwrap().totals.changed, 2);
}

#[test]
fn everything_vanished() {
    let items = (0..10).map(|n| file(&format!("f{n}"), 10)).collect();
    let (archive, packed) = pack_items(items, &Opens(|_: &Item| Ok(None)), &Task::quiet());
    assert_eq!(packed.unwrap().totals.vanished, 10);
    let to = tempfile::tempdir().unwrap();
    unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
}

/// What no restore would accept is not packed, so that what was packed can be restored.
#[test]
fn links_that_lead_outside_are_left_out_and_named() {
    let from = tempfile::tempdir().unwrap();
    std::fs::create_dir(from.path().join("d")).unwrap();
    std::fs::write(from.path().join("manifest.jsonl"), "an app's own").unwrap();
    for (name, target) in [
        ("absolute", "/etc/passwd"),
        ("above", "../x"),
        ("d/above", "../../x"),
        ("d/up", ".."),
        ("through", "d/up/../x"),
        ("good", "d/x"),
        ("d/good", "../d/up/good"),
    ] {
        std::os::unix::fs::symlink(target, from.path().join(name)).unwrap();
    }
    let (archive, packed) = pack_dir(from.path(), &options(Format::Zst, 2));
    let mut names: Vec<_> = packed.remarked.iter().map(|e| String::from_utf8(e.path()).unwrap()).collect();
    names.sort();
    assert_eq!(names, ["above", "absolute", "d/above", "manifest.jsonl", "through"]);
    assert_eq!(packed.totals.left_out, 5);
    let to = tempfile::tempdir().unwrap();
    unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
    assert_eq!(picture(to.path()).into_keys().collect::<Vec<_>>(), ["d", "d/good", "d/up", "good"]);
}

fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let ours = |name: String| name.starts_with("macula-");
    tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok()).filter(|n| ours(n.clone())).count()
}

/// Cancelled at the n-th progress report: it says so, and no thread of it is left. (Other tests of
/// this file may have theirs at the same time, hence the wait for none.)
#[test]
fn cancelling_ends_it() {
    let from = tempfile::tempdir().unwrap();
    plant(from.path(), &mut fastrand::Rng::with_seed(2), 150, 6 << 20);
    std::fs::write(from.path().join("large"), vec![3; 30 << 20]).unwrap();
    let disk = disk(from.path());
    let (archive, _) = pack_dir(from.path(), &options(Format::Zst, 3));
    for at in [1, 2, 5] {
        let task = || {
            let (cancel, count) = (Cancel::new(), AtomicU64::new(0));
            let flag = cancel.clone();
            Task::new(cancel, move |_| {
                if count.fetch_add(1, Ordering::AcqRel) + 1 >= at {
                    flag.cancel();
                }
            })
        };
        let mut items = macula_archive::Walk::new(&disk, |_, _| true).unwrap();
        let tree = macula_archive::DiskTree(Arc::clone(&disk));
        let result = pack(&mut items, &tree, &MemFile::default(), &options(Format::Zst, 3), &task());
        assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
        let to = tempfile::tempdir().unwrap();
        let dest: Arc<dyn Disk> = Arc::new(macula_core::RealDisk::at(to.path()).unwrap());
        let result = unpack(&MemFile::of(&archive), &dest, &UnpackOptions::default(), &task());
        assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    }
    let cancelled = Cancel::new();
    cancelled.cancel();
    let task = Task::new(cancelled, |_| {});
    assert_eq!(verify(&MemFile::of(&archive), &foreign(), &task).unwrap_err().kind(), Kind::Cancelled);
    while threads() > 0 {
        std::thread::yield_now();
    }
}

/// An error or a panic of the tree ends the pack with that error; nobody waits for ever.
#[test]
fn failing_and_panicking_trees_end_it() {
    let items = || (0..200).map(|n| file(&format!("f{n}"), 100_000)).collect::<Vec<_>>();
    let fails = Opens(|item: &Item| match item.path.to_string().as_str() {
        "f150" => Err(io::Error::from_raw_os_error(5)),
        _ => Ok(Some(MemFile::of(&vec![1; item.len as usize]))),
    });
    let error = pack_items(items(), &fails, &Task::quiet()).1.unwrap_err();
    assert!(error.kind() == Kind::Io && error.to_string().contains("f150"), "{error}");
    let panics = Opens(|item: &Item| match item.path.to_string().as_str() {
        "f150" => panic!("a defect"),
        _ => Ok(Some(MemFile::of(&vec![1; item.len as usize]))),
    });
    let error = pack_items(items(), &panics, &Task::quiet()).1.unwrap_err();
    assert!(error.kind() == Kind::Internal && error.to_string().contains("a defect"), "{error}");
    let out = MemFile::default();
    let mut broken = (0..3).map(|n| match n {
        2 => Err(io::Error::from_raw_os_error(5)),
        n => Ok(file(&format!("f{n}"), 10)),
    });
    let options = options(Format::Zst, 2);
    let error = pack(&mut broken, &fails, &out, &options, &Task::quiet()).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
}

#[test]
fn wrong_options_are_named() {
    let nothing = Opens(|_: &Item| Ok(None));
    let try_pack = |options: &PackOptions| {
        let out = MemFile::default();
        pack(&mut std::iter::empty(), &nothing, &out, options, &Task::quiet()).map(drop).map_err(|e| e.kind())
    };
    for prefix in ["", "a/b", "..", "/a", "a\0"] {
        assert_eq!(try_pack(&PackOptions::new(prefix)), Err(Kind::Invalid), "{prefix:?}");
    }
    let about = serde_json::json!({ "long": "x".repeat(40_000) });
    assert_eq!(try_pack(&PackOptions { about, ..PackOptions::new("a") }), Err(Kind::Invalid));
    assert_eq!(try_pack(&PackOptions { about: 1.into(), ..PackOptions::new("a") }), Err(Kind::Invalid));
    assert_eq!(try_pack(&PackOptions { workers: 0, ..PackOptions::new("a") }), Err(Kind::Invalid));
    assert_eq!(try_pack(&PackOptions::new("a")), Ok(()));
}

/// Zeros without end, counting what was read.
#[derive(Debug)]
struct Zeros {
    len: u64,
    read: Arc<AtomicU64>,
}

impl DiskFile for Zeros {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = (self.len.saturating_sub(offset) as usize).min(bytes.len());
        bytes[..n].fill(0);
        self.read.fetch_add(n as u64, Ordering::AcqRel);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(self.len))
    }

    fn write_all_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_mtime(&self, _mtime_ns: i128) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn tag(&self, _name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn set_tag(&self, _name: &str, _value: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What was read and not yet written stays within three groups per worker, whatever the file's size.
#[test]
fn memory_is_bounded_by_workers() {
    let (gib, read, most) = (1 << 30, Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let opened = Arc::clone(&read);
    let tree = Opens(move |item: &Item| {
        Ok(Some(Arc::new(Zeros { len: item.len, read: Arc::clone(&opened) }) as Arc<dyn DiskFile>))
    });
    let (seen, peak) = (Arc::clone(&read), Arc::clone(&most));
    let task = Task::new(Cancel::new(), move |progress| {
        let in_flight = seen.load(Ordering::Acquire).saturating_sub(progress.bytes_done);
        peak.fetch_max(in_flight, Ordering::AcqRel);
    });
    let (archive, packed) = pack_items(vec![file("sparse", gib)], &tree, &task);
    assert!(packed.unwrap().bytes_tar > gib);
    assert!(archive.len() < 1 << 20);
    assert_eq!(read.load(Ordering::Acquire), gib);
    let most = most.load(Ordering::Acquire);
    assert!(most <= 3 * 2 * SLICE as u64, "most={most}");
    let options = UnpackOptions { workers: 2, ..UnpackOptions::default() };
    assert_eq!(verify(&MemFile::of(&archive), &options, &Task::quiet()).unwrap().bytes, gib + head_len(&archive));
}

fn head_len(archive: &[u8]) -> u64 {
    let mut len = 0;
    list(&MemFile::of(archive), &Task::quiet(), &mut |entry| {
        if entry.path() == b"macula.json" {
            len = entry.len;
        }
    })
    .unwrap();
    len
}

/// Sizes from 8 GiB stand in a PAX record; read back by their header alone.
#[test]
fn sizes_from_8_gib_are_declared() {
    let len = (8 << 30) + 1;
    let entries = [Raw::pax("size", len.to_string().as_bytes()), Raw::file("huge", b"")];
    let name = "huge".len() as u64;
    let options = UnpackOptions { bytes_max: len + name, ..foreign() };
    let error = verify(&MemFile::of(&zst(&tar(&entries))), &options, &Task::quiet()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "the content is missing: {error}");
    let options = UnpackOptions { bytes_max: len + name - 1, ..foreign() };
    let error = verify(&MemFile::of(&zst(&tar(&entries))), &options, &Task::quiet()).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

/// Knows a digest for each file; those named `rotten` have other bytes than that.
struct Tagged;

impl Tree for Tagged {
    fn open(&self, item: &Item) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let len = if item.path.to_string().contains("grew") { item.len + 1 } else { item.len };
        Ok(Some(MemFile::of(&vec![b'x'; len as usize])))
    }

    fn digest(&self, item: &Item, _file: &dyn DiskFile) -> io::Result<Option<[u8; 32]>> {
        let byte = if item.path.to_string().contains("good") { b'x' } else { b'y' };
        Ok(Some(*blake3::hash(&vec![byte; item.len as usize]).as_bytes()))
    }
}

/// A flipped bit under a file that carries its digest went into a "verified" archive, and a restore gave
/// the damaged bytes a fresh and valid digest: from then on nothing could tell. It ends the pack now.
#[test]
fn a_file_that_is_not_what_its_digest_says_ends_the_pack() {
    for len in [10, 2 * SLICE as u64 + 1] {
        let items = vec![file("good", len), file("rotten", len)];
        let error = pack_items(items, &Tagged, &Task::quiet()).1.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("rotten"), "names the file: {error}");
        assert!(error.hint().unwrap().contains("older backup"), "says what to do");
        // somebody wrote to it: its digest speaks of what was there before
        let (_, packed) = pack_items(vec![file("grew", len)], &Tagged, &Task::quiet());
        assert_eq!(packed.unwrap().totals.changed, 1);
    }
}

/// When it is to be kept all the same, the manifest says so, and nobody is told that it is good.
#[test]
fn a_kept_damaged_file_is_remarked_and_not_marked_as_good() {
    let out = MemFile::default();
    let large = 2 * SLICE as u64 + 1;
    let items = [file("d/good", 10), file("d/rotten", 10), file("rotten large", large), file("good large", large)];
    let keeping = PackOptions { keep_corrupt: true, ..options(Format::Zst, 2) };
    let packed = pack(&mut items.into_iter().map(Ok), &Tagged, &out, &keeping, &Task::quiet()).unwrap();
    assert_eq!((packed.totals.corrupt, packed.totals.changed, packed.totals.files), (2, 0, 5));
    let mut remarked: Vec<_> = packed.remarked.iter().map(|e| (e.path(), e.remark)).collect();
    remarked.sort_by(|one, other| one.0.cmp(&other.0));
    let corrupt = Some(Remark::Corrupt);
    assert_eq!(remarked, [(b"d/rotten".to_vec(), corrupt), (b"rotten large".to_vec(), corrupt)]);

    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let tell = Arc::clone(&told);
    let written: WrittenFn = Arc::new(move |path, _file, hash| {
        tell.lock().unwrap().insert(path.to_string(), hash.is_some());
        Ok(())
    });
    let to = tempfile::tempdir().unwrap();
    let limits = UnpackOptions { written: Some(Written(written)), ..UnpackOptions::default() };
    let unpacked = unpack_to(&out.bytes(), to.path(), &limits).unwrap();
    assert_eq!(unpacked.totals, Some(packed.totals));
    let told: Vec<_> = told.lock().unwrap().clone().into_iter().collect();
    let expected = [("d/good", true), ("d/rotten", false), ("good large", true), ("rotten large", false)];
    assert_eq!(told, expected.map(|(path, good)| (path.to_owned(), good)));
    assert_eq!(std::fs::read(to.path().join("d/rotten")).unwrap(), [b'x'; 10]);
}

/// A backup with 1,000 files that changed named none of the links that it left out.
#[test]
fn what_is_left_out_is_named_however_much_changed() {
    let mut items: Vec<Item> = (0..1500).map(|n| Item { mtime_ns: 1, ..file(&format!("f{n}"), 1) }).collect();
    let out = |n| Item { source: Source::Symlink { target: "/etc".into() }, ..file(&format!("l{n}"), 0) };
    items.extend((0..1200).map(out));
    let tree = Opens(|_: &Item| Ok(Some(MemFile::of(b"x"))));
    let packed = pack_items(items, &tree, &Task::quiet()).1.unwrap();
    let of = |remark| packed.remarked.iter().filter(|e| e.remark == Some(remark)).count();
    assert_eq!((of(Remark::LeadsOutside), of(Remark::Changed)), (1000, 1000));
    assert_eq!((packed.totals.left_out, packed.totals.changed), (1200, 1500));
}

/// What no restore takes is not packed: it would be missed when it is needed.
#[test]
fn deeper_than_a_restore_takes_is_refused_by_name() {
    let deep = |levels: usize| Item { source: Source::Dir, ..file(&format!("{}x", "d/".repeat(levels)), 0) };
    let nothing = Opens(|_: &Item| Ok(None));
    let (archive, packed) = pack_items(vec![deep(DEPTH_MAX)], &nothing, &Task::quiet());
    packed.unwrap();
    let to = tempfile::tempdir().unwrap();
    unpack_to(&archive, to.path(), &UnpackOptions::default()).unwrap();
    let error = pack_items(vec![deep(DEPTH_MAX + 1)], &nothing, &Task::quiet()).1.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("deeper"), "{error}");
}
