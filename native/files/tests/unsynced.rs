//! Files that are put now and synced later, all at once.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::{AppFiles, Disk, Expected, Kind, RelPath};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::sync::Arc;
use support::{content, Rig};

fn rig() -> (FaultDisk, Rig) {
    let disk = FaultDisk::new();
    let rig = Rig::open(Arc::new(disk.clone()) as Arc<dyn Disk>).unwrap();
    (disk, rig)
}

fn put(rig: &Rig, path: &str, bytes: &[u8], expected: Expected) -> Result<macula_core::Look, Kind> {
    let (path, digest) = (RelPath::new(path).unwrap(), blake3::hash(bytes));
    let files: &dyn AppFiles = &rig.files;
    files.put_unsynced(&path, bytes, digest.as_bytes(), expected).map_err(|error| error.kind)
}

#[test]
fn it_is_there_at_once_and_durable_after_the_sync() {
    let (disk, rig) = rig();
    let look = put(&rig, "dir/a", b"one", Expected::Nothing).unwrap();
    assert_eq!(rig.files.look(&RelPath::literal("dir/a")).unwrap(), Some(look));
    assert_eq!(rig.files.read(&RelPath::literal("dir/a"), 10).unwrap(), b"one");
    put(&rig, "dir/b", &content(1, 10_000), Expected::Anything).unwrap();
    rig.check_ledger();
    AppFiles::sync_all(&rig.files).unwrap();
    put(&rig, "dir/c", b"later", Expected::Nothing).unwrap();
    let crashed = disk.after_crash(CrashMode::LoseAll);
    let rig = Rig::open(Arc::new(crashed)).unwrap();
    let names: Vec<Vec<u8>> = rig.contents().into_keys().collect();
    assert_eq!(names, [b"dir/a".to_vec(), b"dir/b".to_vec()]);
    assert_eq!(rig.contents()[&b"dir/b"[..]], content(1, 10_000));
    assert_eq!(rig.leftovers(), 0);
}

#[test]
fn it_replaces_what_is_expected_and_nothing_else() {
    let (_disk, rig) = rig();
    let first = put(&rig, "a", b"one", Expected::Nothing).unwrap();
    assert_eq!(put(&rig, "a", b"two", Expected::Nothing), Err(Kind::Conflict));
    let second = put(&rig, "a", b"two", Expected::File(first)).unwrap();
    assert_eq!(put(&rig, "a", b"three", Expected::File(first)), Err(Kind::Conflict));
    assert_eq!(rig.files.look(&RelPath::literal("a")).unwrap(), Some(second));
    assert_eq!(put(&rig, "a/b", b"1", Expected::Nothing), Err(Kind::Invalid));
    rig.check_ledger();
    assert_eq!(rig.leftovers(), 0);
}

#[test]
fn a_failed_sync_of_all_is_the_last() {
    let (disk, rig) = rig();
    put(&rig, "a", b"one", Expected::Nothing).unwrap();
    disk.fail_at(disk.operations() + 1, Fault::Io);
    let error = AppFiles::sync_all(&rig.files).expect_err("it fails");
    assert_eq!(error.kind, Kind::UnknownResult);
    assert_eq!(AppFiles::sync_all(&rig.files).expect_err("nobody can say").kind, Kind::Poisoned);
    assert_eq!(put(&rig, "b", b"two", Expected::Nothing), Err(Kind::Poisoned));
}

#[test]
fn a_full_disk_leaves_nothing() {
    let (disk, rig) = rig();
    put(&rig, "a", b"one", Expected::Nothing).unwrap();
    disk.fail_at(disk.operations() + 1, Fault::Full);
    assert_eq!(put(&rig, "b", &content(2, 100_000), Expected::Nothing), Err(Kind::DiskFull));
    disk.heal();
    assert_eq!(rig.contents().len(), 1);
    assert_eq!(rig.leftovers(), 0);
    rig.check_ledger();
}
