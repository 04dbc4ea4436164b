//! The record stream of backups: there and back, and everything that can befall it on the way.

mod common;

use common::{contents, count, everything, open, open_at, options, real_disk, seed, threads, until, Model};
use macula_core::{Cancel, Clock, Disk, Kind, Kinded, RelPath, SystemChance, Task};
use macula_kv::{Batch, Exported, Imported, KvError, Op, Store, NEVER_MS};
use macula_testkit::{CrashMode, Fault, FaultDisk, SimClock};
use std::sync::Arc;
use std::time::Duration;

fn filled(disk: Arc<dyn Disk>, model: &Model) -> Store {
    let store = open(disk).expect("opens");
    let ops = model.iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone() }).collect();
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    store
}

fn small() -> Model {
    (0..50_u8).map(|n| (vec![n; usize::from(n % 5) + 1], vec![n; usize::from(n) * 3])).collect()
}

/// More than one chunk.
fn large(seed: u64) -> Model {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut model: Model =
        (0..4000).map(|_| (rng.u64(..).to_be_bytes().to_vec(), vec![rng.u8(..); rng.usize(..500)])).collect();
    model.insert(b"long".to_vec(), vec![7; 3 << 20]);
    model.insert(vec![], vec![]);
    model
}

fn export(store: &Store) -> (Vec<u8>, Exported) {
    let mut stream = Vec::new();
    let exported = store.export(&store.snapshot().expect("snapshot"), &mut stream, &Task::quiet()).expect("exports");
    (stream, exported)
}

fn import(disk: &FaultDisk, mut stream: &[u8]) -> Result<Imported, KvError> {
    Store::import(Arc::new(disk.clone()), &SystemChance, &mut stream, &Task::quiet())
}

fn refused(stream: &[u8], what: &str) -> KvError {
    let disk = FaultDisk::new();
    let error = import(&disk, stream).expect_err(what);
    assert!(disk.list(&RelPath::root()).expect("lists").is_empty(), "{what}: something is left");
    error
}

#[test]
fn there_and_back() {
    let seed = seed();
    for model in [Model::new(), small(), large(seed)] {
        let from = FaultDisk::new();
        let store = filled(Arc::new(from), &model);
        let revision = store.revision().expect("revision");
        let snapshot = store.snapshot().expect("snapshot");
        store.write(Batch::put("later", "not in it")).expect("put");
        let mut stream = Vec::new();
        let exported = store.export(&snapshot, &mut stream, &Task::quiet()).expect("exports");
        assert_eq!((exported.entries, exported.bytes), (model.len() as u64, stream.len() as u64));
        assert_eq!(exported.blake3, *blake3::hash(&stream).as_bytes());
        let to = FaultDisk::new();
        let imported = import(&to, &stream).expect("imports");
        assert_eq!(imported, Imported { entries: exported.entries, bytes: exported.bytes, revision });
        let store = open(Arc::new(to.after_crash(CrashMode::LoseAll))).expect("durable on return");
        assert_eq!(contents(&store).expect("reads"), model);
        assert!(store.write(Batch::put("k", "v")).expect("put").revision > revision);
        assert_eq!(import(&to, &stream).expect_err("there is one").kind(), Kind::Exists);
    }
}

/// An entry keeps its time on the way, also when it comes while the stream lies somewhere.
#[test]
fn an_entry_expires_where_it_was_moved_to() {
    let clock = Arc::new(SimClock::default());
    let at = |disk: &FaultDisk| open_at(Arc::new(disk.clone()), threads(), clock.clone(), options()).expect("opens");
    let store = at(&FaultDisk::new());
    let until_ms = |span_ms| clock.wall_ms() + span_ms;
    let put = |key: &str, len, expires_ms| Op::PutUntil { key: key.into(), value: vec![1; len], expires_ms };
    let ops = vec![
        put("gone", 1, until_ms(0)),
        put("late", 40_000, until_ms(2_000)),
        put("soon", 5, until_ms(1_000)),
        put("stays", 5, NEVER_MS),
    ];
    let expiries =
        |store: &Store| ["gone", "late", "soon", "stays"].map(|key| store.expires_ms(key.as_bytes()).expect("reads"));
    store.write(Batch { ops, ..Batch::default() }).expect("put");
    let (stream, exported) = export(&store);
    assert_eq!(exported.entries, 3, "what expired is not exported");

    let disk = FaultDisk::new();
    import(&disk, &stream).expect("imports");
    let moved = at(&disk);
    assert_eq!(expiries(&moved), expiries(&store));
    moved.verify(&Task::quiet()).expect("each has its row");
    clock.advance(Duration::from_millis(1_500));
    assert_eq!(moved.get(b"soon").expect("reads"), None);

    let disk = FaultDisk::new();
    import(&disk, &stream).expect("imports what expired meanwhile");
    let later = at(&disk);
    let found = everything(&later.snapshot().expect("snapshot")).expect("reads");
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [b"late".to_vec(), b"stays".to_vec()]);
    until("the sweep", || later.len().expect("len") == 2);
}

#[test]
fn a_cut_stream_is_refused() {
    let store = filled(Arc::new(FaultDisk::new()), &small());
    let (stream, _) = export(&store);
    for len in 0..stream.len() {
        assert_eq!(refused(&stream[..len], "cut").kind(), Kind::Corrupt, "cut to {len}");
    }
    let longer = [&stream[..], b"\0"].concat();
    assert_eq!(refused(&longer, "longer").kind(), Kind::Corrupt);
}

#[test]
fn a_flipped_byte_is_refused() {
    let store = filled(Arc::new(FaultDisk::new()), &small());
    let (stream, _) = export(&store);
    for at in (0..stream.len()).step_by(count(1, 1) as usize) {
        let mut flipped = stream.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(refused(&flipped, "flipped").kind(), Kind::Corrupt, "flip at {at}");
    }
}

#[test]
fn chunks_in_another_order_are_refused() {
    let store = filled(Arc::new(FaultDisk::new()), &large(7));
    let (stream, _) = export(&store);
    let mut chunks = Vec::new();
    let mut at = 64;
    while at < stream.len() {
        let len = u64::from_le_bytes(stream[at..at + 8].try_into().expect("8 bytes")) as usize + 32;
        chunks.push(stream[at..at + len].to_vec());
        at += len;
    }
    assert!(chunks.len() >= 4);
    let build =
        |order: &[usize]| [&stream[..64], &order.iter().flat_map(|n| chunks[*n].clone()).collect::<Vec<u8>>()].concat();
    let last = chunks.len() - 1;
    for order in [vec![1, 0, last], vec![0, last], vec![0, 0, last], vec![last], (0..last).collect()] {
        assert_eq!(refused(&build(&order), "another order").kind(), Kind::Corrupt, "{order:?}");
    }
    assert_eq!(build(&(0..=last).collect::<Vec<_>>()), stream);
}

#[test]
fn a_newer_stream_is_named() {
    let store = filled(Arc::new(FaultDisk::new()), &small());
    let (mut stream, _) = export(&store);
    stream[8] = 2;
    let sum = xxhash_rust::xxh3::xxh3_128(&stream[..48]);
    stream[48..64].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(refused(&stream, "newer").kind(), Kind::NewerFormat);
}

#[test]
fn an_import_stopped_anywhere_leaves_nothing_or_all() {
    let model = small();
    let (stream, _) = export(&filled(Arc::new(FaultDisk::new()), &model));
    let whole = FaultDisk::new();
    import(&whole, &stream).expect("imports");
    for n in 1..=whole.operations() {
        for fault in [Fault::Crash, Fault::Io, Fault::Full] {
            let disk = FaultDisk::new();
            disk.fail_at(n, fault);
            let result = import(&disk, &stream);
            let found = match fault {
                Fault::Crash => disk.after_crash(CrashMode::Random(n)),
                _ => disk.kill(),
            };
            disk.heal();
            let found_model = contents(&open(Arc::new(found)).expect("opens")).expect("reads");
            match result {
                Ok(_) => assert_eq!(found_model, model, "{fault:?} at {n}"),
                Err(_) => assert!(found_model.is_empty() || found_model == model, "{fault:?} at {n}"),
            }
            if fault == Fault::Full && !disk.has_crashed() && import(&disk, &stream).is_err() {
                assert_eq!(import(&disk, &stream).expect_err("there already").kind(), Kind::Exists);
            }
        }
    }
}

#[test]
fn cancelled_work_leaves_nothing() {
    let store = filled(Arc::new(FaultDisk::new()), &large(3));
    let (stream, _) = export(&store);
    let stopped = || {
        let cancel = Cancel::new();
        cancel.cancel();
        Task::new(cancel, |_| {})
    };
    let snapshot = store.snapshot().expect("snapshot");
    let error = store.export(&snapshot, &mut Vec::new(), &stopped()).expect_err("cancelled");
    assert_eq!(error.kind(), Kind::Cancelled);
    let disk = FaultDisk::new();
    let error =
        Store::import(Arc::new(disk.clone()), &SystemChance, &mut &stream[..], &stopped()).expect_err("cancelled");
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(disk.list(&RelPath::root()).expect("lists").is_empty());
    snapshot.release();
    assert_eq!(store.export(&snapshot, &mut Vec::new(), &Task::quiet()).expect_err("released").kind(), Kind::Closed);
}

#[test]
fn on_the_machines_own_disk() {
    let (one, two) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let model = large(5);
    let (stream, _) = export(&filled(real_disk(&one), &model));
    Store::import(real_disk(&two), &SystemChance, &mut &stream[..], &Task::quiet()).expect("imports");
    assert_eq!(contents(&open(real_disk(&two)).expect("opens")).expect("reads"), model);
}
