//! redb over verified blocks, by itself: damage, reads that must not wait, and room that is taken by two.
#![allow(clippy::disallowed_methods)]

use macula_blocks::{catch, fence, only, Backend, BlockError, BlockFile, Brand};
use macula_core::{Disk, Open, RelPath};
use macula_testkit::{CrashMode, FaultDisk};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

const BRAND: Brand = Brand { magic: b"MACULATE", name: "test" };
const OTHER: Brand = Brand { magic: b"MACULATF", name: "second" };
const FILE: &str = "blocks";
const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("table");
const CELL: u64 = 4128;
const HEAD: u64 = 20_480;

fn over(blocks: &Arc<BlockFile>) -> Result<Database, BlockError> {
    let backend = Backend(blocks.clone());
    fence(blocks, || Ok(Database::builder().set_cache_size(0).create_with_backend(backend)?))
}

fn create(disk: &FaultDisk) -> (Arc<BlockFile>, Database) {
    let file = disk.open(&RelPath::literal(FILE), Open::CreateNew).expect("creates");
    let blocks = Arc::new(BlockFile::create(file, FILE, BRAND, [7; 16]).expect("lays out"));
    let db = over(&blocks).expect("begins");
    blocks.end_building().expect("durable");
    (blocks, db)
}

fn open(disk: &FaultDisk, brand: Brand) -> Result<(Arc<BlockFile>, bool), BlockError> {
    let file = disk.open(&RelPath::literal(FILE), Open::ReadWrite).expect("opens");
    BlockFile::open(file, FILE, brand).map(|(blocks, is_clean)| (Arc::new(blocks), is_clean))
}

fn put(blocks: &BlockFile, db: &Database, keys: std::ops::Range<u64>) -> Result<(), BlockError> {
    fence(blocks, || {
        let txn = db.begin_write()?;
        {
            let mut table = txn.open_table(TABLE)?;
            for n in keys {
                table.insert(n, &vec![n as u8; 500][..])?;
            }
        }
        Ok(txn.commit()?)
    })
}

fn get(blocks: &BlockFile, db: &Database, n: u64) -> Result<Option<Vec<u8>>, BlockError> {
    fence(blocks, || Ok(db.begin_read()?.open_table(TABLE)?.get(n)?.map(|value| value.value().to_vec())))
}

fn close(blocks: &BlockFile, db: Database) {
    fence(blocks, || Ok(db.close()?)).expect("closes");
    blocks.close_clean().expect("says so");
}

/// Both change the length: what the header says of it at closing must be the file's, or it is refused as cut.
#[test]
fn room_is_reserved_beside_a_writer() {
    let disk = FaultDisk::new();
    let (blocks, db) = create(&disk);
    let over = AtomicBool::new(false);
    let reserved = std::thread::scope(|scope| {
        let reserving = scope.spawn(|| {
            let mut reserved = 0_u64;
            while !over.load(Ordering::Acquire) {
                blocks.reserve(60_000 + reserved % 7 * 9_000).expect("there is room");
                reserved += 1;
                std::thread::yield_now();
            }
            reserved
        });
        for from in 0..25 {
            put(&blocks, &db, from * 20..from * 20 + 20).expect("commits");
        }
        over.store(true, Ordering::Release);
        reserving.join().expect("reserves")
    });
    close(&blocks, db);
    let len = disk.stat(&RelPath::literal(FILE)).expect("is there").len;
    assert_eq!(blocks.file_bytes(), len, "after reserving {reserved} times");
    let (blocks, is_clean) = open(&disk, BRAND).expect("opens");
    assert!(is_clean);
    let db = self::over(&blocks).expect("goes on");
    assert_eq!(get(&blocks, &db, 499).expect("reads"), Some(vec![499_u64 as u8; 500]));
}

#[test]
fn nothing_is_reserved_on_a_full_disk() {
    let disk = FaultDisk::new();
    let (blocks, db) = create(&disk);
    put(&blocks, &db, 0..50).expect("commits");
    // in whole pages
    disk.set_capacity(Some((blocks.file_bytes() / 4096 + 30) * 4096));
    assert!(matches!(blocks.reserve(10 << 20), Err(BlockError::DiskFull)));
    assert!(blocks.reserve(50_000).is_ok(), "what there is can be had");
    disk.set_capacity(None);
    put(&blocks, &db, 50..100).expect("redb met no error");
    close(&blocks, db);
    assert!(open(&disk, BRAND).expect("opens").1);
}

#[test]
fn a_file_of_somebody_else_is_refused_by_name() {
    let disk = FaultDisk::new();
    let (blocks, db) = create(&disk);
    close(&blocks, db);
    let error = open(&disk, OTHER).expect_err("refused");
    assert_eq!(error.to_string(), "corrupted: not a second file: wrong magic, file=blocks block=-");
    open(&disk, BRAND).expect("as it was");
}

/// In each block: the right value, or an error that names a block; and a panic of redb's comes to nobody.
#[test]
fn a_damaged_block_is_named() {
    let disk = FaultDisk::new();
    let (blocks, db) = create(&disk);
    put(&blocks, &db, 0..300).expect("commits");
    close(&blocks, db);
    let len = disk.stat(&RelPath::literal(FILE)).expect("is there").len;
    let mut named = 0;
    for at in (HEAD..len).step_by(CELL as usize) {
        let damaged = disk.after_crash(CrashMode::KeepAll);
        let file = damaged.open(&RelPath::literal(FILE), Open::ReadWrite).expect("opens");
        let (mut byte, place) = ([0], at + 30);
        file.read_exact_at(&mut byte, place).expect("reads");
        file.write_all_at(&[byte[0] ^ 4], place).expect("writes");
        let (blocks, _) = open(&damaged, BRAND).expect("the header is sound");
        let read = over(&blocks).and_then(|db| {
            (0..300).try_for_each(|n| {
                let value = get(&blocks, &db, n)?;
                assert!(value == Some(vec![n as u8; 500]), "wrong data of {n}: damage at {place}");
                Ok(())
            })
        });
        match read {
            Ok(()) => {}
            Err(BlockError::Corrupt { block: Some(_), .. }) => named += 1,
            Err(error) => panic!("damage at {place}: {error}"),
        }
    }
    assert!(named > 30, "named={named}");
}

/// This disk cannot say that it would not wait, and redb has no cache: every read is cold, and the next that may
/// wait is none the worse.
#[test]
fn a_cold_read_changes_nothing() {
    let disk = FaultDisk::new();
    let (blocks, db) = create(&disk);
    put(&blocks, &db, 0..300).expect("commits");
    let mut cold = 0;
    for n in 0..300 {
        match only(|| get(&blocks, &db, n)) {
            Err(BlockError::Cold) => cold += 1,
            found => assert_eq!(found.expect("from memory"), Some(vec![n as u8; 500])),
        }
        assert_eq!(get(&blocks, &db, n).expect("waits"), Some(vec![n as u8; 500]));
    }
    assert!(cold > 200, "cold={cold}");
    put(&blocks, &db, 300..310).expect("goes on");
}

#[test]
fn a_panic_is_an_error() {
    let disk = FaultDisk::new();
    let (blocks, _db) = create(&disk);
    let caught: Result<(), BlockError> = catch(&blocks, || std::panic::resume_unwind(Box::new("a bad page")));
    assert_eq!(caught.expect_err("caught").to_string(), "internal defect: redb panicked: a bad page");
}
