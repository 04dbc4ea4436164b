//! A node that is alone: works at the first call, keeps what it acknowledged, ends what has expired.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{count, get, open, propose, put, query, seed};
use macula_core::Cancel;
use macula_raft::machine::Response;
use macula_raft::{Consistency, Found, Query, RaftError};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn what_was_put_is_there_at_once_and_after_opening_again() {
    let disk = FaultDisk::new();
    for life in 0..3 {
        let engine = open(Arc::new(disk.clone())).expect("opens");
        for n in 0..40_u32 {
            let name = format!("{life}/{n}");
            let answer = propose(&engine, put(&["apps", &name], &n.to_le_bytes(), None)).expect("applies");
            assert!(matches!(answer, Response::Txn { succeeded: true, .. }));
        }
        for before in 0..=life {
            for n in 0..40_u32 {
                let node = get(&engine, &["apps", &format!("{before}/{n}")]).expect("reads").expect("is there");
                assert_eq!(node.value, Some(common::binary(&n.to_le_bytes())));
                assert_eq!(node.version, 1);
            }
        }
        let Found::Status(status) = query(&engine, Query::Status, Consistency::Local).expect("reads") else { panic!() };
        assert_eq!(status.nodes, (life + 1) * 40 + 1);
    }
}

#[test]
fn what_expires_goes_by_itself() {
    let engine = open(Arc::new(FaultDisk::new())).expect("opens");
    propose(&engine, put(&["short"], b"x", Some(50))).expect("applies");
    propose(&engine, put(&["long"], b"x", Some(60_000))).expect("applies");
    assert!(get(&engine, &["short"]).expect("reads").is_some());
    let begun = Instant::now();
    while get(&engine, &["short"]).expect("reads").is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(get(&engine, &["long"]).expect("reads").is_some());
}

#[test]
fn calls_after_closing_are_told_so() {
    let mut engine = open(Arc::new(FaultDisk::new())).expect("opens");
    engine.close();
    assert!(matches!(propose(&engine, put(&["a"], b"x", None)), Err(RaftError::Closed)));
}

/// Who is told `Closed` may ask again: what he asked for has not happened, and never will.
#[test]
fn a_command_that_is_on_its_way_when_it_is_closed_is_unknown_and_not_closed() {
    let disk = FaultDisk::new();
    let (mut closed, mut unknown) = (Vec::new(), 0);
    for life in 0..20 {
        let mut engine = open(Arc::new(disk.clone())).expect("opens");
        let (answer, answers) = std::sync::mpsc::channel();
        for n in 0..200 {
            let (name, answer) = (format!("{life}/{n}"), answer.clone());
            let command = put(&["k", &name], b"x", None);
            let told = move |result| drop(answer.send((name, result)));
            engine.propose(command, None, Cancel::new(), told).expect("taken");
        }
        engine.close();
        drop(answer);
        for (name, result) in answers {
            match result {
                Ok(_) => {}
                Err(RaftError::Closed) => closed.push(name),
                Err(RaftError::Unknown) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let engine = open(Arc::new(disk)).expect("opens");
    for name in &closed {
        assert!(get(&engine, &["k", name]).expect("reads").is_none(), "it happened: {name}");
    }
    eprintln!("alone closing: unknown={unknown} closed={}", closed.len());
}

/// A member of a later version says what this one cannot apply: it is refused before it is in the log.
#[test]
fn a_command_that_is_none_is_not_taken_into_the_log() {
    let engine = open(Arc::new(FaultDisk::new())).expect("opens");
    // version 1, from 7 to this node, tag 6: time 0, a command of one byte
    let mut request = vec![1, 7];
    let mut number = engine.number();
    while number >= 0x80 {
        request.push(number as u8 | 0x80);
        number >>= 7;
    }
    request.extend([number as u8, 6, 0, 1, 0xff]);
    let (answer, answered) = std::sync::mpsc::channel();
    engine.serve(request, move |bytes| drop(answer.send(bytes))).expect("asked");
    // tag 13: failed
    assert_eq!(answered.recv().expect("an answer")[..2], [1, 13]);
    propose(&engine, put(&["k"], b"x", None)).expect("it goes on");
}

/// Puts one after the other until the disk fails; how many were acknowledged.
fn run(disk: &FaultDisk, from: u32, puts: u32) -> u32 {
    let Ok(engine) = open(Arc::new(disk.clone())) else { return 0 };
    let done = (from..from + puts)
        .take_while(|n| propose(&engine, put(&["k", &n.to_string()], &n.to_le_bytes(), None)).is_ok())
        .count();
    done as u32
}

fn crash(fault: Fault, n: u64, mode: CrashMode) -> (bool, u32) {
    let disk = FaultDisk::new();
    let before = run(&disk, 0, 10);
    assert_eq!(before, 10);
    disk.fail_at(disk.operations() + n, fault);
    let acknowledged = 10 + run(&disk, 10, 40);
    let met = disk.has_crashed() || fault == Fault::Io;
    let after = match fault {
        Fault::Crash => disk.after_crash(mode),
        _ => disk.kill(),
    };
    let disk_after = after.clone();
    let what = format!("{fault:?} n={n} mode={mode:?} ({:?})", disk.operation(n));
    let engine = open(Arc::new(after)).unwrap_or_else(|error| panic!("{what}: {error}"));
    for key in 0..acknowledged {
        let node = get(&engine, &["k", &key.to_string()]).unwrap_or_else(|error| panic!("{what}: {error}"));
        let value = node.and_then(|node| node.value);
        assert_eq!(value, Some(common::binary(&key.to_le_bytes())), "{what}: lost key={key} of {acknowledged}");
    }
    // what a sync that failed left is perhaps in the system's cache only, and must not be built upon
    propose(&engine, put(&["k", "then"], b"then", None)).unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(engine);
    let engine = open(Arc::new(disk_after.after_crash(mode))).unwrap_or_else(|error| panic!("{what}, then: {error}"));
    for key in 0..acknowledged {
        let node = get(&engine, &["k", &key.to_string()]).unwrap_or_else(|error| panic!("{what}, then: {error}"));
        assert!(node.is_some(), "{what}, then: lost key={key} of {acknowledged}");
    }
    assert!(get(&engine, &["k", "then"]).expect("reads").is_some(), "{what}: lost what came then");
    (met, acknowledged)
}

/// Power loss at some operation, or one that fails: whatever was acknowledged is there afterwards. Threads race,
/// so an operation's number is not the same twice: the seed gives the numbers, not the run.
#[test]
fn power_loss_loses_nothing_that_was_acknowledged() {
    let mut random = fastrand::Rng::with_seed(seed());
    let (mut met, mut acknowledged) = (0, 0);
    let rounds = count(40, 2_000);
    for _ in 0..rounds {
        let mode = match random.u8(0..3) {
            0 => CrashMode::LoseAll,
            1 => CrashMode::KeepAll,
            _ => CrashMode::Random(random.u64(..)),
        };
        let fault = if random.u8(0..4) == 0 { Fault::Io } else { Fault::Crash };
        let (crashed, puts) = crash(fault, random.u64(1..400), mode);
        met += u64::from(crashed);
        acknowledged += u64::from(puts);
    }
    eprintln!("alone power_loss: crashes={met} of {rounds} acknowledged={acknowledged} lost=0");
    assert!(met > rounds / 4, "the faults are met");
}
