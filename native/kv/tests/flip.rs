//! Any one byte of a closed store flipped: a named error or exactly the right data, never a wrong
//! or missing value. (A page checksum of redb's own is checked on repair only: one byte flipped in
//! each of 1,000 values gave 1,000 wrong reads.)

mod common;

use common::{contents, count, open, quiet_panics, torture, Model};
use macula_core::{Disk, Kind, Kinded, Open, RelPath, Task};
use macula_kv::{Batch, KvError, Op, Store, FILE_NAME};
use macula_testkit::{CrashMode, FaultDisk};
use std::sync::Arc;

/// Bytes before the first block that is not block 0.
const HEAD: u64 = 20_480;

fn closed_store() -> (FaultDisk, Model, u64) {
    let disk = FaultDisk::new();
    let store = open(Arc::new(disk.clone())).expect("opens");
    let put = |n: u16, len: usize| Op::Put { key: n.to_be_bytes().into(), value: vec![n as u8; len] };
    let all = (0..120).map(|n| put(n, 40)).chain([put(500, 20_000), put(501, 3000)]).collect();
    store.write(Batch { ops: all, ..Batch::default() }).expect("put");
    store
        .write(Batch { ops: vec![put(7, 60), Op::Delete { key: 9_u16.to_be_bytes().into() }], ..Batch::default() })
        .expect("put");
    let model = contents(&store).expect("reads");
    store.close();
    let len = disk.stat(&RelPath::literal(FILE_NAME)).expect("there").len;
    (disk, model, len)
}

fn flip(disk: &FaultDisk, offset: u64, mask: u8) {
    flip_in(disk, &RelPath::literal(FILE_NAME), offset, mask);
}

fn flip_in(disk: &FaultDisk, path: &RelPath, offset: u64, mask: u8) {
    let file = disk.open(path, Open::ReadWrite).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("reads");
    file.write_all_at(&[byte[0] ^ mask], offset).expect("writes");
}

fn read_all(store: &Store, model: &Model) -> Result<Model, KvError> {
    let found = contents(store)?;
    for (key, value) in model {
        assert_eq!(store.get(key)?.as_ref(), Some(value));
    }
    Ok(found)
}

/// Whether the damage was named.
fn named(disk: &FaultDisk, model: &Model, what: &str) -> bool {
    let result = open(Arc::new(disk.clone())).and_then(|store| {
        let found = read_all(&store, model);
        let verified = store.verify(&Task::quiet());
        assert_eq!(
            found.is_ok(),
            verified.is_ok(),
            "{what}: reading {:?}, verifying {verified:?}",
            found.as_ref().err()
        );
        store.close();
        found
    });
    match result {
        Ok(found) => {
            assert_eq!(&found, model, "{what}: wrong data");
            false
        }
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::NewerFormat), "{what}: {error}");
            assert!(what.split(' ').next().is_some_and(|file| error.to_string().contains(file)), "{what}: {error}");
            true
        }
    }
}

#[test]
fn a_flipped_byte_is_named_or_harmless() {
    quiet_panics();
    let (disk, model, len) = closed_store();
    let step = |offset: u64| match offset {
        _ if torture() => 1,
        // the header and the two slots of block 0; what is between is never read
        0..8224 | 12_288..16_416 => 1,
        _ => 37,
    };
    let mut offsets = vec![0];
    while let Some(last) = offsets.last().copied().filter(|last| last + step(*last) < len) {
        offsets.push(last + step(last));
    }
    let halves = offsets.split_at(offsets.len() / 2);
    let check = |offsets: &[u64]| -> Vec<u64> {
        let one = |offset: &u64| {
            let damaged = disk.after_crash(CrashMode::KeepAll);
            flip(&damaged, *offset, 1 << (*offset % 8));
            named(&damaged, &model, &format!("{FILE_NAME} flip at {offset}"))
        };
        offsets.iter().copied().filter(one).collect()
    };
    let damaged = std::thread::scope(|scope| {
        let other = scope.spawn(|| check(halves.1));
        [check(halves.0), other.join().expect("checks")].concat()
    });
    eprintln!("file of {len} bytes: {} flips, {} named", offsets.len(), damaged.len());
    let missed = |slot: std::ops::Range<u64>| {
        let within = |all: &[u64]| all.iter().filter(|offset| slot.contains(offset)).count();
        (within(&offsets) - within(&damaged), within(&damaged))
    };
    let mut slots = [missed(4096..8224), missed(12_288..16_416)];
    slots.sort_unstable();
    let [(missed, _), (_, named)] = slots;
    assert!(missed == 0 && named == 0, "each byte of the slot in use, none of the other: {slots:?}");
    assert!(damaged.len() * 4 > offsets.len(), "most of the file carries something");
}

/// A closed store needs nothing of its log but its identity: damage there is named or harmless.
#[test]
fn a_flipped_byte_of_the_log_is_named_or_harmless() {
    let (disk, model, _) = closed_store();
    let mut named_count = 0;
    for entry in disk.list(&RelPath::root()).expect("lists") {
        let name = entry.name.to_str().expect("text").to_owned();
        if name == FILE_NAME {
            continue;
        }
        let path = RelPath::new(&name).expect("a name");
        let len = disk.stat(&path).expect("there").len;
        let step = if torture() { 1 } else { 61 };
        for offset in
            (0..len).filter(|offset| *offset < 200 || (*offset > 4000 && *offset < 4400) || offset % step == 0)
        {
            let damaged = disk.after_crash(CrashMode::KeepAll);
            flip_in(&damaged, &path, offset, 1 << (offset % 8));
            named_count += u32::from(named(&damaged, &model, &format!("wal flip of {name} at {offset}")));
        }
    }
    eprintln!("{named_count} named");
}

#[test]
fn a_truncated_or_foreign_file_is_refused_and_kept() {
    let (disk, _, len) = closed_store();
    let path = RelPath::literal(FILE_NAME);
    let step = count(997, 41);
    for cut in (0..len).step_by(step as usize).chain([1, 8, 511, 512, 4095, 4096, len - 1, len - 4128]) {
        let damaged = disk.after_crash(CrashMode::KeepAll);
        damaged.open(&path, Open::ReadWrite).expect("opens").set_len(cut).expect("cuts");
        let error = open(Arc::new(damaged.clone())).expect_err("refused");
        assert_eq!(error.kind(), Kind::Corrupt, "cut to {cut}: {error}");
        assert_eq!(damaged.stat(&path).expect("there").len, cut, "never overwritten");
    }
    let longer = disk.after_crash(CrashMode::KeepAll);
    longer.open(&path, Open::ReadWrite).expect("opens").set_len(len + 4128).expect("grows");
    assert_eq!(open(Arc::new(longer)).expect_err("refused").kind(), Kind::Corrupt);
    for foreign in [&b"SQLite format 3\0"[..], &[0; 100_000], b""] {
        let other = FaultDisk::new();
        other.open(&path, Open::CreateNew).expect("creates").write_all_at(foreign, 0).expect("writes");
        assert_eq!(open(Arc::new(other.clone())).expect_err("refused").kind(), Kind::Corrupt);
        assert_eq!(other.stat(&path).expect("there").len, foreign.len() as u64);
    }
}

#[test]
fn blocks_moved_swapped_zeroed_or_of_another_store_are_named() {
    let (disk, model, len) = closed_store();
    let other = closed_store().0;
    let path = RelPath::literal(FILE_NAME);
    let cells: Vec<u64> = (0..(len - HEAD) / 4128).map(|n| HEAD + n * 4128).collect();
    let cell = |disk: &FaultDisk, offset: u64| {
        let mut bytes = vec![0; 4128];
        disk.open(&path, Open::Read).expect("opens").read_exact_at(&mut bytes, offset).expect("reads");
        bytes
    };
    let mut named_count = [0; 3];
    for (nth, at) in cells.iter().enumerate() {
        let moved = cell(&disk, cells[(nth + 1) % cells.len()]);
        for (kind, bytes) in [moved, cell(&other, *at), vec![0; 4128]].iter().enumerate() {
            let damaged = disk.after_crash(CrashMode::KeepAll);
            damaged.open(&path, Open::ReadWrite).expect("opens").write_all_at(bytes, *at).expect("writes");
            named_count[kind] += u32::from(named(&damaged, &model, &format!("{FILE_NAME} block at {at}, kind {kind}")));
        }
    }
    assert!(named_count.iter().all(|count| *count > 5), "{named_count:?}");
}

#[test]
fn a_corrupted_block_poisons_writes_and_is_named_again_after_reopening() {
    quiet_panics();
    let (disk, _, len) = closed_store();
    for at in (HEAD + 100..len).step_by(4128) {
        let damaged = disk.after_crash(CrashMode::KeepAll);
        flip(&damaged, at, 1);
        let Ok(store) = open(Arc::new(damaged.clone())) else { continue };
        if contents(&store).is_ok() {
            continue;
        }
        let refused = store.write(Batch::put("x", "y")).expect_err("refused").kind();
        assert!(matches!(refused, Kind::Poisoned | Kind::Corrupt), "{refused:?}");
        assert_eq!(store.write(Batch::put("x", "y")).expect_err("refused").kind(), Kind::Poisoned);
        store.close();
        let again = open(Arc::new(damaged)).and_then(|store| contents(&store));
        assert_eq!(again.expect_err("still").kind(), Kind::Corrupt);
    }
}
