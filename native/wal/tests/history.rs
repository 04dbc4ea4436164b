//! A log's history read beside its writer: what is given is what opening the log would replay, up to
//! the last durable record; what the log let go of meanwhile is told from damage.
#![allow(clippy::disallowed_methods)]

mod common;
#[path = "common/given.rs"]
mod given;

use common::{append, count, open, open_with, options, payload, seed, Model, KIND};
use given::{given, Given};
use macula_core::{Disk, Kind, Kinded, Open, RealDisk, RelPath};
use macula_testkit::{CrashMode, Fault, FaultDisk, SeededChance};
use macula_wal::{History, Log, Options, WalError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;

fn read(history: &History) -> Result<Vec<Given>, WalError> {
    let mut all = Vec::new();
    history.read::<WalError>(&mut |replayed| {
        all.push(given(replayed));
        Ok(())
    })?;
    Ok(all)
}

/// What opening a copy of the disk gives.
fn opened(disk: &FaultDisk, from: u64) -> Vec<Given> {
    let mut all = Vec::new();
    let disk = Arc::new(disk.kill());
    Log::open::<WalError>(disk, common::clock(), &SeededChance::new(1), options(), from - 1, &mut |replayed| {
        all.push(given(replayed));
        Ok(())
    })
    .expect("opens");
    all
}

fn model(all: Vec<Given>) -> Model {
    let mut model = Model::new();
    for given in all {
        match given {
            Given::Record(sequence, bytes) => assert!(model.insert(sequence, bytes).is_none(), "given once"),
            Given::Truncated(from) => drop(model.split_off(&from)),
        }
    }
    model
}

fn sequences(all: &[Given]) -> Vec<u64> {
    let one = |given: &Given| if let Given::Record(sequence, _) = given { Some(*sequence) } else { None };
    all.iter().filter_map(one).collect()
}

/// `records` of `len` bytes, each durable before the next.
fn grow(log: &mut Log, records: usize, len: usize) {
    for _ in 0..records {
        append(log, len).expect("appends");
        log.sync().expect("syncs");
    }
}

fn gone(history: &History) -> u64 {
    match read(history) {
        Err(WalError::HistoryGone { first, .. }) => first,
        other => panic!("gone, not {other:?}"),
    }
}

#[test]
fn history_goes_to_other_threads() {
    fn sendable<T: Send + Sync + 'static>() {}
    sendable::<History>();
}

#[test]
fn history_ends_at_the_last_durable_record() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    assert_eq!(log.durable_sequence(), 0);
    assert_eq!(read(&log.history(1).expect("there")).expect("reads"), []);
    for _ in 0..3 {
        append(&mut log, 100).expect("appends");
    }
    assert_eq!((log.durable_sequence(), log.next_sequence()), (0, 4));
    assert_eq!(read(&log.history(1).expect("there")).expect("reads"), [], "in memory only");
    log.flush().expect("flushes");
    let before = log.history(1).expect("there");
    assert_eq!((log.durable_sequence(), read(&before).expect("reads").len()), (0, 0), "not synced");
    log.sync().expect("syncs");
    assert_eq!(log.durable_sequence(), 3);
    assert_eq!(read(&before).expect("reads"), [], "as of the call");
    let three = log.history(1).expect("there");
    // over many segments, the last of them not durable
    grow(&mut log, 100, 1000);
    append(&mut log, 40_000).expect("appends");
    assert_eq!(sequences(&read(&three).expect("reads")), [1, 2, 3]);
    let all = log.history(1).expect("there");
    assert_eq!((log.durable_sequence(), log.next_sequence()), (103, 105));
    assert_eq!(sequences(&read(&all).expect("reads")), (1..=103).collect::<Vec<_>>());
    assert_eq!(read(&all).expect("reads"), read(&all).expect("reads again"));
}

#[test]
fn what_was_written_and_not_synced_is_readable_too() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    grow(&mut log, 3, 100);
    append(&mut log, 100).expect("appends");
    assert_eq!(sequences(&read(&log.history_written(1).expect("there")).expect("reads")), [1, 2, 3], "in memory only");
    log.flush().expect("flushes");
    let written = log.history_written(2).expect("there");
    append(&mut log, 100).expect("appends");
    log.flush().expect("flushes");
    assert_eq!(sequences(&read(&written).expect("reads")), [2, 3, 4], "as of the call");
    assert_eq!(sequences(&read(&log.history(1).expect("there")).expect("reads")), [1, 2, 3]);
    let (log, _) = open(&disk.kill()).expect("opens");
    assert_eq!(sequences(&read(&log.history_written(1).expect("there")).expect("reads")), [1, 2, 3, 4, 5]);
}

#[test]
fn history_begins_anywhere() {
    let (mut log, _) = open(&FaultDisk::new()).expect("opens");
    grow(&mut log, 150, 700);
    for from in 0..=150 {
        let all = read(&log.history(from).expect("there")).expect("reads");
        assert_eq!(sequences(&all), (from.max(1)..=150).collect::<Vec<_>>(), "from={from}");
        assert!(all.iter().all(|given| matches!(given, Given::Record(n, bytes) if *bytes == payload(*n, 700))));
    }
    for from in [151, 152, 1000, u64::MAX] {
        assert_eq!(read(&log.history(from).expect("there")).expect("reads"), [], "from={from}");
    }
    log.purge_prefix(100).expect("releases");
    let first = log.first_sequence();
    assert!((50..=100).contains(&first));
    let refused = log.history(first - 1).expect_err("released");
    assert!(matches!(refused, WalError::HistoryGone { from, first: found } if (from, found) == (first - 1, first)));
    assert_eq!(log.history(0).expect_err("released").kind(), Kind::HistoryGone);
    assert_eq!(sequences(&read(&log.history(first).expect("there")).expect("reads"))[0], first);
}

#[test]
fn what_was_taken_back_is_given_and_then_taken_back() {
    let (mut log, _) = open(&FaultDisk::new()).expect("opens");
    grow(&mut log, 6, 10);
    append(&mut log, 10).expect("appends");
    log.truncate_suffix(5).expect("takes back");
    assert_eq!(log.durable_sequence(), 4);
    assert_eq!(log.append(KIND, 2, &[b"again"]).expect("appends"), 5);
    let record = |sequence| Given::Record(sequence, payload(sequence, 10));
    let taken_back = [record(4), record(5), record(6), record(7), Given::Truncated(5)];
    assert_eq!(read(&log.history(4).expect("there")).expect("reads"), taken_back);
    log.sync().expect("syncs");
    let all = read(&log.history(4).expect("there")).expect("reads");
    assert_eq!((&all[..5], &all[5..]), (&taken_back[..], &[Given::Record(5, b"again".to_vec())][..]));
}

#[test]
fn a_poisoned_log_still_tells_what_was_durable() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    grow(&mut log, 5, 100);
    for (nth, what) in ["write", "sync_data"].into_iter().enumerate() {
        append(&mut log, 100).expect("appends");
        disk.fail_at(disk.operations() + 1 + nth as u64, Fault::Io);
        assert_eq!(log.sync().expect_err(what).kind(), Kind::UnknownResult);
        assert_eq!(log.durable_sequence(), 5);
        assert_eq!(sequences(&read(&log.history(2).expect("there")).expect("reads")), [2, 3, 4, 5]);
        log = open(&disk.after_crash(CrashMode::LoseAll)).expect("opens").0;
        assert_eq!(log.durable_sequence(), 5);
        log = open(&disk).expect("opens").0;
        log.truncate_suffix(6).expect("takes back what may be there");
    }
}

#[test]
fn a_log_begun_behind_other_records_is_durable_up_to_them() {
    let (mut log, _) = open_with(&FaultDisk::new(), options(), 41).expect("opens");
    assert_eq!((log.durable_sequence(), log.next_sequence()), (41, 42));
    grow(&mut log, 2, 10);
    assert_eq!(log.history(41).expect_err("never here").kind(), Kind::HistoryGone);
    assert_eq!(sequences(&read(&log.history(42).expect("there")).expect("reads")), [42, 43]);
}

/// A random life of a log that keeps some history, and at each rest the histories from many places.
struct Life {
    rng: fastrand::Rng,
    disk: FaultDisk,
    log: Log,
    /// Also what was released.
    written: Model,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = FaultDisk::new();
        let log = open_with(&disk, Self::options(), 0).expect("opens").0;
        Self { rng: fastrand::Rng::with_seed(seed), disk, log, written: Model::new() }
    }

    fn options() -> Options {
        Options { history_bytes: 60_000, ..options() }
    }

    fn step(&mut self) {
        match self.rng.u8(0..100) {
            0..60 => {
                let len = if self.rng.u8(..) < 10 { self.rng.usize(..50_000) } else { self.rng.usize(..300) };
                let (sequence, bytes) = append(&mut self.log, len).expect("appends");
                self.written.insert(sequence, bytes);
            }
            60..75 => self.log.sync().expect("syncs"),
            75..80 => self.log.flush().expect("flushes"),
            80..84 => {
                let from = self.rng.u64(self.log.first_sequence()..=self.log.next_sequence());
                self.log.truncate_suffix(from).expect("takes back");
                self.written.split_off(&from);
            }
            84..92 => {
                let before = self.rng.u64(self.log.first_sequence()..=self.log.durable_sequence() + 1);
                self.log.purge_prefix(before).expect("releases");
            }
            92..96 => self.log.spares().refill().expect("makes room"),
            _ => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        self.disk = self.disk.after_crash(CrashMode::Random(self.rng.u64(..)));
        let after = self.log.durable_sequence().min(self.log.first_sequence().saturating_sub(1));
        self.log = open_with(&self.disk, Self::options(), after).expect("opens").0;
        self.written.split_off(&self.log.next_sequence());
    }

    fn check(&mut self) {
        for _ in 0..3 {
            let first = self.log.first_sequence();
            let from = self.rng.u64(first..=self.log.next_sequence() + 2);
            let history = self.log.history(from).expect("there");
            let all = read(&history).expect("reads");
            let last = self.log.durable_sequence();
            let wanted = self.written.range(from..).filter(|(sequence, _)| **sequence <= last);
            let wanted: Model = wanted.map(|(sequence, bytes)| (*sequence, bytes.clone())).collect();
            assert_eq!(model(all), wanted, "from={from}");
            if from > first {
                continue;
            }
            let refused = self.log.history(first - 1).map(drop);
            assert!(first == 1 || refused.is_err_and(|error| error.kind() == Kind::HistoryGone));
        }
    }

    /// With nothing on the way, the very records and truncations that opening would give.
    fn check_opened(&mut self) {
        self.log.sync().expect("syncs");
        for _ in 0..3 {
            let from = self.rng.u64(self.log.first_sequence()..=self.log.next_sequence() + 2);
            let all = read(&self.log.history(from).expect("there")).expect("reads");
            assert_eq!(all, opened(&self.disk, from), "from={from}");
        }
    }
}

#[test]
fn over_a_random_life_history_is_what_opening_replays() {
    let seed = seed();
    for nth in 0..count(40, 2000) {
        let mut life = Life::new(seed.wrapping_add(nth));
        for step in 0..300 {
            life.step();
            life.check();
            if step % 20 == 0 {
                life.check_opened();
            }
        }
    }
}

/// The log goes on in the middle of the reading, after each record in turn: lets go of all that is
/// being read and takes its files for new records.
#[test]
fn released_under_the_reader_is_gone_and_never_wrong() {
    let (mut whole, mut ended) = (0, 0);
    for stop in 1..=90_u64 {
        let disk = FaultDisk::new();
        let (mut log, _) = open(&disk).expect("opens");
        grow(&mut log, 90, 900);
        let history = log.history(1).expect("there");
        let mut next = 1;
        let result = history.read::<WalError>(&mut |replayed| {
            let Given::Record(sequence, bytes) = given(replayed) else { panic!("nothing was taken back") };
            assert_eq!((sequence, &bytes), (next, &payload(next, 900)), "stop={stop}");
            next += 1;
            if sequence == stop {
                for _ in 0..6 {
                    log.purge_prefix(log.next_sequence()).expect("releases");
                    grow(&mut log, 60, 900);
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => {
                assert_eq!(next, 91);
                whole += 1;
            }
            Err(WalError::HistoryGone { from: 1, first }) => {
                assert_eq!(first, log.first_sequence());
                assert!(next > stop && next <= 90);
                ended += 1;
            }
            Err(error) => panic!("stop={stop}: {error}"),
        }
        assert!(gone(&history) >= 91);
    }
    assert!(whole > 0 && ended > 20, "whole={whole} ended={ended}");
}

/// Closed and opened again, the log uses its files again and knows nothing of who reads them.
#[test]
fn a_history_outlives_its_log_until_the_files_are_used_again() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    grow(&mut log, 90, 900);
    let history = log.history(10).expect("there");
    drop(log);
    assert_eq!(read(&history).expect("reads").len(), 81);
    let (mut log, _) = open(&disk).expect("opens");
    grow(&mut log, 10, 900);
    assert_eq!(read(&history).expect("reads").len(), 81);
    log.purge_prefix(log.next_sequence()).expect("releases");
    grow(&mut log, 300, 900);
    gone(&history);
}

fn segment_files(disk: &FaultDisk) -> Vec<(RelPath, Vec<u8>)> {
    let entries = disk.list(&RelPath::root()).expect("lists");
    let paths = entries.iter().map(|entry| RelPath::new(entry.name.to_string_lossy().as_bytes()).expect("a name"));
    let segments = paths.filter(|path| path.as_bytes().starts_with(b"wal-"));
    let bytes = |path: &RelPath| {
        let file = disk.open(path, Open::Read).expect("opens");
        let mut bytes = vec![0; file.len().expect("is there") as usize];
        file.read_exact_at(&mut bytes, 0).expect("reads");
        bytes
    };
    segments.map(|path| (path.clone(), bytes(&path))).collect()
}

/// Unlike at opening, the last record is no exception: that it was durable is known here.
#[test]
fn a_flipped_byte_of_any_record_is_named() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    // no padding, and no byte of a segment's end that a record would have fitted into
    grow(&mut log, 60, 712);
    let history = log.history(1).expect("there");
    let whole = read(&history).expect("reads");
    let files = segment_files(&disk);
    assert!(files.len() >= 3);
    let (mut flips, mut named, mut records) = (0, 0, 60_u64);
    for (path, original) in &files {
        let inside = records.min((original.len() as u64 - 4096) / 768);
        records -= inside;
        let step = count(37, 1) as usize;
        for at in (rng.usize(..step)..original.len()).step_by(step) {
            let file = disk.open(path, Open::ReadWrite).expect("opens");
            file.write_all_at(&[original[at] ^ (1 << rng.u8(..8))], at as u64).expect("writes");
            flips += 1;
            if (4096..4096 + inside * 768).contains(&(at as u64)) {
                let offset_wanted = 4096 + (at as u64 - 4096) / 768 * 768;
                match read(&history) {
                    Err(WalError::Corrupt { file, offset, .. }) => {
                        assert_eq!((file.as_bytes(), offset), (path.as_bytes(), offset_wanted), "at {at}");
                        named += 1;
                    }
                    other => panic!("{path} at {at}: {other:?}"),
                }
            } else {
                assert_eq!(read(&history).expect("no record's"), whole, "{path} at {at}");
            }
            file.write_all_at(&original[at..=at], at as u64).expect("writes");
        }
    }
    assert_eq!(records, 0);
    let (path, original) = &files[1];
    let file = disk.open(path, Open::ReadWrite).expect("opens");
    file.set_len(5000).expect("cuts");
    assert!(matches!(read(&history), Err(WalError::Corrupt { file, .. }) if file.as_bytes() == path.as_bytes()));
    file.write_all_at(original, 0).expect("writes");
    assert_eq!(read(&history).expect("as before"), whole);
    // damage in what was let go of is no damage
    log.purge_prefix(log.next_sequence()).expect("releases");
    file.write_all_at(&[0; 9000], 0).expect("writes");
    gone(&history);
    eprintln!("wal history flips: flips={flips} named={named} wrong=0");
}

/// The length of a record tells its sequence, so that a reader knows what it must be given.
fn len_of(sequence: u64) -> usize {
    (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

struct Task {
    history: History,
    from: u64,
    last: u64,
}

#[derive(Default)]
struct Tally {
    whole: AtomicU64,
    gone: AtomicU64,
    records: AtomicU64,
}

/// Reads each history when `lag` later ones have come: with none it races the log, with some the log
/// has gone on for certain.
fn read_all(tasks: &Receiver<Task>, lag: usize, tally: &Tally) {
    let mut held = VecDeque::new();
    for task in tasks.iter() {
        held.push_back(task);
        if held.len() > lag {
            held.pop_front().iter().for_each(|task| read_until_gone(task, tally));
        }
    }
    held.iter().for_each(|task| read_until_gone(task, tally));
}

/// Or often enough.
fn read_until_gone(task: &Task, tally: &Tally) {
    let Task { history, from, last } = task;
    for _ in 0..5 {
        let (mut next, mut high) = (*from, *from);
        let result = history.read::<WalError>(&mut |replayed| {
            match given(replayed) {
                Given::Record(sequence, bytes) => {
                    assert!(sequence == next && bytes == payload(sequence, len_of(sequence)), "from={from}");
                    next += 1;
                }
                Given::Truncated(back) => next = next.min(back.max(*from)),
            }
            high = high.max(next);
            Ok(())
        });
        tally.records.fetch_add(high - from, Ordering::Relaxed);
        match result {
            Ok(()) => {
                assert_eq!(next, *from.max(&(last + 1)), "from={from}");
                tally.whole.fetch_add(1, Ordering::Relaxed);
            }
            Err(WalError::HistoryGone { from: asked, .. }) => {
                assert_eq!(asked, *from);
                tally.gone.fetch_add(1, Ordering::Relaxed);
                break;
            }
            Err(error) => panic!("from={from} last={last}: {error}"),
        }
    }
}

/// Appends, syncs, takes back the last few, lets go; hands out histories from anywhere.
fn write_all(disk: Arc<dyn Disk>, seed: u64, rounds: u64, tasks: &[SyncSender<Task>]) {
    let mut rng = fastrand::Rng::with_seed(seed);
    // a segment a round, or nearly
    let options = Options { segment_bytes_max: 8192, history_bytes: 50_000, ..options() };
    let (mut log, _) = common::open_on(disk, options, 0).expect("opens");
    for round in 0..rounds {
        for _ in 0..rng.usize(1..20) {
            let len = len_of(log.next_sequence());
            append(&mut log, len).expect("appends");
        }
        if rng.u8(..) < 20 {
            // not below the last durable one: nobody was told of the others
            log.truncate_suffix(rng.u64(log.durable_sequence() + 1..=log.next_sequence())).expect("takes back");
        }
        if rng.u8(..) < 200 {
            log.sync().expect("syncs");
        }
        if rng.u8(..) < 100 {
            log.purge_prefix(log.durable_sequence() + 1).expect("releases");
        }
        let (first, last) = (log.first_sequence(), log.durable_sequence());
        let from = if rng.bool() { first } else { rng.u64(first..=last.max(first)) };
        let history = log.history(from).expect("there");
        let (task, tasks) = (Task { history, from, last }, &tasks[rng.usize(..tasks.len())]);
        // mostly in a hurry, so that the readers are overtaken, and now and then waiting for them
        if round % 8 == 0 {
            tasks.send(task).expect("somebody reads");
        } else {
            let _ = tasks.try_send(task);
        }
    }
}

fn beside_a_writer(what: &str, disk: Arc<dyn Disk>, rounds: u64) {
    let (seed, tally) = (seed(), Tally::default());
    std::thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| sync_channel::<Task>(3)).unzip();
        let tally = &tally;
        for (receiver, lag) in receivers.into_iter().zip([0, 20]) {
            scope.spawn(move || read_all(&receiver, lag, tally));
        }
        write_all(disk, seed, rounds, &senders);
    });
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (whole, gone, records) = (count(&tally.whole), count(&tally.gone), count(&tally.records));
    eprintln!("wal history {what}: rounds={rounds} whole={whole} gone={gone} records={records} wrong=0");
    assert!(whole > 0 && gone > 0, "whole={whole} gone={gone}");
}

#[test]
fn readers_beside_a_writer_get_all_or_are_told() {
    beside_a_writer("simulated", Arc::new(FaultDisk::new()), count(4000, 100_000));
}

#[test]
fn readers_beside_a_writer_get_all_or_are_told_on_a_real_disk() {
    let dir = tempfile::tempdir().expect("temp");
    beside_a_writer("real", Arc::new(RealDisk::at(dir.path()).expect("there")), count(1000, 20_000));
}
