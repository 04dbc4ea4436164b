//! Damage of the table's file, room for it on the disk, and reads that must not wait.
//! A redb without verified blocks gave wrong values for flipped bytes, or panicked.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{binary, count, get, open, path, propose, propose_within, put, query, seed};
use macula_core::{Cancel, Disk, Kind, Kinded, Open, RelPath};
use macula_raft::machine::{Command, Op};
use macula_raft::{Consistency, Engine, Found, Options, Query, RaftError, HOT_BYTES_MAX};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE: &str = "state.redb";
const CELL: u64 = 4128;
const HEAD: u64 = 20_480;
const KEYS: u32 = 150;

fn value(n: u32) -> Vec<u8> {
    vec![n as u8; 40 + (n as usize % 7) * 300]
}

fn name(n: u32) -> String {
    format!("key-{n}")
}

/// A disk on which a node was closed that holds `KEYS` values.
fn closed_node() -> FaultDisk {
    let disk = FaultDisk::new();
    let engine = open(Arc::new(disk.clone())).expect("opens");
    for n in 0..KEYS {
        propose(&engine, put(&["k", &name(n)], &value(n), None)).expect("applies");
    }
    drop(engine);
    disk
}

fn flip(disk: &FaultDisk, offset: u64, mask: u8) {
    let file = disk.open(&RelPath::literal(FILE), Open::ReadWrite).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("reads");
    file.write_all_at(&[byte[0] ^ mask], offset).expect("writes");
}

fn len(disk: &FaultDisk) -> u64 {
    disk.stat(&RelPath::literal(FILE)).expect("is there").len
}

/// What reading all of a node gives: how many errors named the damage. Anything else panics.
fn read_all(engine: &Engine, what: &str) -> usize {
    let mut named = 0;
    for n in 0..KEYS {
        let of = Query::Get(path(&["k", &name(n)]));
        let hot = engine.query_hot(&of, None);
        let found = engine.query_here(&of);
        if let Ok(Some(Found::Node(node))) = &hot {
            let value_hot = node.as_ref().and_then(|node| node.value.as_ref());
            assert!(value_hot == Some(&binary(&value(n))), "{what}: wrong data of hot key {n}");
        }
        match found {
            Ok(Found::Node(node)) => {
                assert!(node.and_then(|node| node.value) == Some(binary(&value(n))), "{what}: wrong data of key {n}");
            }
            Ok(found) => panic!("{what}: {found:?}"),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
                assert!(error.to_string().contains(FILE), "{what}: {error}");
                named += 1;
            }
        }
    }
    named
}

/// A flipped byte of the file gives an error that names it or the right data. Afterwards a write is made or refused,
/// and nothing crashes.
#[test]
fn a_flipped_byte_is_named_or_harmless() {
    let mut random = fastrand::Rng::with_seed(seed());
    let disk = closed_node();
    let len = len(&disk);
    let (mut refused, mut named, mut harmless, mut stops) = (0, 0, 0, vec![]);
    let rounds = count(120, 5_000);
    for round in 0..rounds {
        let offset = match round % 8 {
            0 => random.u64(0..HEAD),
            _ => random.u64(HEAD..len),
        };
        let what = format!("flip at {offset} of {len}");
        let damaged = disk.after_crash(CrashMode::KeepAll);
        flip(&damaged, offset, 1 << random.u8(0..8));
        match open(Arc::new(damaged.clone())) {
            Ok(engine) => match read_all(&engine, &what) {
                0 => harmless += 1,
                _ => {
                    named += 1;
                    match propose(&engine, put(&["k", "more"], b"x", None)) {
                        // redb refuses to go on; of this one nobody knows, because the log took it
                        Err(RaftError::Stopped(why)) => stops.push(why),
                        // it had stopped before
                        Err(error) if told(&error) => {}
                        written => panic!("{what}: {written:?}"),
                    }
                }
            },
            Err(error) => {
                assert!(told(&error), "{what}: {error}");
                refused += 1;
            }
        }
    }
    eprintln!("flips={rounds} refused={refused} named={named} harmless={harmless}");
    eprintln!("stopped: {:?}", stops.first());
    assert!(refused > 0 && named > 0, "damage is met at opening and later");
}

fn told(error: &RaftError) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::NewerFormat) && error.to_string().contains(FILE)
}

/// Each block zeroed, or with the content of another: the tag knows its place.
#[test]
fn blocks_zeroed_or_moved_are_named_or_harmless() {
    let disk = closed_node();
    let cells: Vec<u64> = (HEAD..len(&disk) - CELL + 1).step_by(CELL as usize).collect();
    let file = RelPath::literal(FILE);
    let mut met = [0; 2];
    for (nth, at) in cells.iter().enumerate() {
        let mut moved = vec![0; CELL as usize];
        let from = cells[(nth + 1) % cells.len()];
        disk.open(&file, Open::Read).expect("opens").read_exact_at(&mut moved, from).expect("reads");
        for (kind, bytes) in [vec![0; CELL as usize], moved].iter().enumerate() {
            let what = format!("block at {at}, kind {kind}");
            let damaged = disk.after_crash(CrashMode::KeepAll);
            damaged.open(&file, Open::ReadWrite).expect("opens").write_all_at(bytes, *at).expect("writes");
            met[kind] += match open(Arc::new(damaged)) {
                Ok(engine) => usize::from(read_all(&engine, &what) > 0),
                Err(error) => {
                    assert!(told(&error), "{what}: {error}");
                    1
                }
            };
        }
    }
    eprintln!("blocks={} met={met:?}", cells.len());
    assert!(met.iter().all(|met| *met > 3), "{met:?}");
}

/// This disk never says that it would not wait: only what is in redb's memory is hot, and a cold read changes
/// nothing.
#[test]
fn a_hot_read_is_from_memory_or_none() {
    let disk = closed_node();
    let engine = open(Arc::new(disk)).expect("opens");
    let of = |n: u32| Query::Get(path(&["k", &name(n)]));
    let cold = (0..KEYS).filter(|n| engine.query_hot(&of(*n), None).expect("no error").is_none()).count();
    assert!(cold > 0, "a node that was just opened has not all of it in memory");
    assert_eq!(read_all(&engine, "sound"), 0);
    for n in 0..KEYS {
        let found = engine.query_hot(&of(n), None).expect("no error");
        let Some(Found::Node(Some(node))) = found else { panic!("key {n}: {found:?}") };
        assert_eq!(node.value, Some(binary(&value(n))));
    }
    assert!(matches!(engine.query_hot(&Query::Get(path(&["nowhere"])), None), Ok(Some(Found::Node(None)))));
    assert!(matches!(engine.query_hot(&Query::Status, None), Ok(None)), "of one node only");
    propose(&engine, put(&["long"], &vec![1; HOT_BYTES_MAX], None)).expect("applies");
    let long = Query::Get(path(&["long"]));
    assert!(matches!(engine.query_hot(&long, None), Ok(None)), "too long");
    assert!(matches!(engine.query_here(&long), Ok(Found::Node(Some(_)))));
    propose(&engine, put(&["k", &name(0)], b"new", None)).expect("applies");
    let Ok(Some(Found::Node(Some(node)))) = engine.query_hot(&of(0), None) else { panic!("hot after a write") };
    assert_eq!(node.value, Some(binary(b"new")), "what was answered is seen");
}

/// On a full disk writes are refused and reads go on; removals find some room; and writes come back by themselves.
#[test]
fn a_full_disk_refuses_writes_and_comes_back() {
    let disk = FaultDisk::new();
    let engine = open(Arc::new(disk.clone())).expect("opens");
    propose(&engine, put(&["first"], b"1", None)).expect("applies");
    disk.set_capacity(Some(6 << 20));
    let mut written = 0_u32;
    let refused = loop {
        match propose(&engine, put(&["k", &name(written)], &vec![7; 60_000], None)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the disk fills up");
    };
    assert_eq!(refused.kind(), Kind::DiskFull, "{refused}");
    assert!(written > 10, "written={written}");
    for n in 0..written {
        assert!(matches!(get(&engine, &["k", &name(n)]), Ok(Some(_))), "reads go on");
    }
    let removed = Op::Delete { path: path(&["k", &name(0)]) };
    propose(&engine, Command::Txn { conditions: vec![], then: vec![removed], otherwise: vec![] }).expect("removes");
    disk.set_capacity(None);
    let begun = Instant::now();
    while let Err(error) = propose(&engine, put(&["back"], b"1", None)) {
        assert_eq!(error.kind(), Kind::DiskFull, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "writes come back");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(engine);
    let engine = open(Arc::new(disk)).expect("opens again");
    let Found::Count(found) = query(
        &engine,
        Query::Count(
            macula_raft::machine::Pattern::new(vec![macula_raft::machine::Part::AnyDepth], None).expect("all"),
        ),
        Consistency::Local,
    )
    .expect("reads") else {
        panic!("no count")
    };
    assert!(found >= u64::from(written), "found={found} written={written}");
}

/// A node that was killed before its table had what its log has opens on a disk that is full by now, and says what it
/// is. It waited for room where nobody could hear of it (seen in scenarios: a member whose power went, on a disk that
/// was full again afterwards, answered no call, not even what it is).
#[test]
fn a_node_opens_on_a_full_disk() {
    let options = || Options { checkpoint_entries: 100_000, ..common::options() };
    // none at all; and none but for the log, which a leader needs to know what is committed
    for room in [0, 200 << 10] {
        let disk = FaultDisk::new();
        let seams = common::seams(Arc::new(disk.clone()));
        let mut engine = Engine::open(seams, options(), Box::new(|_| {})).expect("opens");
        for n in 0..KEYS {
            propose(&engine, put(&["k", &name(n)], &value(n), None)).expect("applies");
        }
        engine.kill();
        let disk = disk.kill();
        disk.set_capacity(Some(1 << 40));
        let used = disk.space().map(|space| space.total - space.free).expect("tells");
        disk.set_capacity(Some(used + room));
        let (opened, is_opened) = std::sync::mpsc::channel();
        let seams = common::seams(Arc::new(disk.clone()));
        std::thread::spawn(move || {
            opened.send(Engine::open(seams, options(), Box::new(|_| {}))).unwrap_or_default();
        });
        let opened = is_opened.recv_timeout(Duration::from_secs(20)).expect("it does not wait for room");
        let engine = opened.expect("opens");
        assert_eq!(engine.status().number, engine.number());
        for n in (0..KEYS).filter(|_| room > 0) {
            let node = get(&engine, &["k", &name(n)]).expect("reads go on");
            assert_eq!(node.and_then(|node| node.value), Some(binary(&value(n))));
        }
        propose_within(&engine, put(&["new"], b"1", None), Duration::from_millis(500)).expect_err("there is no room");
        disk.set_capacity(None);
        common::until("writes come back", || propose(&engine, put(&["new"], b"1", None)).is_ok());
    }
}

/// What waits for room on the disk keeps nobody from closing, at whatever operation the room ran out.
#[test]
fn a_node_that_waits_for_room_can_be_closed() {
    for n in (1..200).step_by(7) {
        let disk = FaultDisk::new();
        let mut engine = open(Arc::new(disk.clone())).expect("opens");
        propose(&engine, put(&["before"], b"1", None)).expect("applies");
        disk.fail_at(disk.operations() + n, Fault::Full);
        let (answer, answers) = std::sync::mpsc::channel();
        for k in 0..60 {
            let (command, answer) = (put(&["k", &name(k)], &[7; 2_000], None), answer.clone());
            let told = move |result: Result<_, RaftError>| answer.send(result.is_ok()).unwrap_or_default();
            // refused at once where it is known already
            let _ = engine.propose(command, None, Cancel::new(), told);
        }
        drop(answer);
        let (closed, is_closed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            engine.close();
            closed.send(()).unwrap_or_default();
        });
        assert!(is_closed.recv_timeout(Duration::from_secs(20)).is_ok(), "it hangs, n={n}");
        let acknowledged = answers.iter().filter(|ok| *ok).count();
        disk.heal();
        let engine = open(Arc::new(disk)).expect("opens again");
        let pattern =
            macula_raft::machine::Pattern::new(vec![macula_raft::machine::Part::AnyDepth], None).expect("all");
        let found = query(&engine, Query::Count(pattern), Consistency::Linearizable).expect("reads");
        assert!(matches!(found, Found::Count(count) if count >= acknowledged as u64), "n={n} {found:?} {acknowledged}");
    }
}

/// Many small commands over a table that is large for its disk: what they need is reckoned by the rows that they
/// wrote, and none is refused. By a share of pages for each command, they were (scenarios of three members, disks of
/// 145 MB).
#[test]
fn a_disk_with_room_takes_many_small_commands() {
    let disk = FaultDisk::new();
    let engine = open(Arc::new(disk.clone())).expect("opens");
    for n in 0..60 {
        propose(&engine, put(&["long", &name(n)], &vec![3; 100_000], None)).expect("applies");
    }
    drop(engine);
    let options = Options { checkpoint_entries: 100_000, ..common::options() };
    let engine = Engine::open(common::seams(Arc::new(disk.clone())), options, Box::new(|_| {})).expect("opens");
    disk.set_capacity(Some(1 << 40));
    let used = disk.space().map(|space| space.total - space.free).expect("tells");
    disk.set_capacity(Some(used + (12 << 20)));
    for n in 0..500 {
        let written = propose(&engine, put(&["k", &name(n % 50)], &value(n), None));
        assert!(written.is_ok(), "command {n} over {used} bytes: {written:?}");
    }
}
