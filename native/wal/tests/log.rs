//! What a log does when nothing goes wrong, and a long random life of one beside a model.

mod common;

use common::{append, count, open, open_with, options, payload, seed, Model, KIND};
use macula_core::{Disk, Kind, Kinded, RelPath};
use macula_testkit::{CrashMode, FaultDisk};
use macula_wal::{Log, Options, WalError, META_LEN_MAX, PAYLOAD_LEN_MAX};

fn names(disk: &FaultDisk) -> Vec<String> {
    let entries = disk.list(&RelPath::root()).expect("lists");
    entries.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect()
}

#[test]
fn what_was_appended_is_replayed_and_goes_on() {
    let disk = FaultDisk::new();
    let (mut log, model) = open(&disk).expect("opens");
    assert!(model.is_empty());
    let id = log.id();
    let mut model = Model::new();
    for len in [0, 1, 7, 8, 9, 100, 5000, 20_000, 3] {
        let (sequence, bytes) = append(&mut log, len).expect("appends");
        model.insert(sequence, bytes);
    }
    log.sync().expect("syncs");
    assert_eq!((log.first_sequence(), log.next_sequence()), (1, 10));
    drop(log);
    let disk = disk.after_crash(CrashMode::LoseAll);
    let (mut log, found) = open(&disk).expect("opens");
    assert_eq!((&found, log.next_sequence(), log.id()), (&model, 10, id));
    let (sequence, bytes) = append(&mut log, 30).expect("appends");
    model.insert(sequence, bytes);
    log.sync().expect("syncs");
    let (_, later) = open_with(&disk.kill(), options(), 7).expect("opens");
    assert_eq!(later, model.split_off(&8));
}

#[test]
fn a_suffix_is_taken_back() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    for _ in 0..20 {
        append(&mut log, 900).expect("appends");
    }
    log.truncate_suffix(12).expect("takes back");
    assert_eq!(log.next_sequence(), 12);
    log.truncate_suffix(40).expect("nothing to take back");
    let sequence = log.append(KIND, 2, &[b"again"]).expect("appends");
    assert_eq!(sequence, 12);
    log.sync().expect("syncs");
    let (_, found) = open(&disk.after_crash(CrashMode::LoseAll)).expect("opens");
    assert_eq!(found.len(), 12);
    assert_eq!(found[&12], b"again");
    assert_eq!(found[&11], payload(11, 900));
}

#[test]
fn released_segments_become_room_for_later_ones() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    let mut bytes_max = 0;
    for round in 0..200 {
        for _ in 0..10 {
            append(&mut log, 500).expect("appends");
        }
        log.sync().expect("syncs");
        log.purge_prefix(log.next_sequence()).expect("releases");
        log.spares().refill().expect("makes room");
        bytes_max = bytes_max.max(if round > 50 { log.file_bytes() } else { 0 });
    }
    assert!(bytes_max <= 6 * 32_768, "it stays as long as it must be: {bytes_max}");
    assert!(names(&disk).len() < 7, "{:?}", names(&disk));
    let first = log.first_sequence();
    assert!(first > 1900);
    assert!(matches!(log.truncate_suffix(5), Err(WalError::HistoryGone { from: 5, first: found }) if found == first));
    let (_, found) = open_with(&disk.kill(), options(), first - 1).expect("opens");
    assert_eq!(found.keys().next(), Some(&first));
    assert_eq!(found[&1999], payload(1999, 500));
    log.spares().clear();
    assert_eq!(log.spares().bytes(), 0);
}

#[test]
fn history_is_kept_as_long_as_the_options_say() {
    let kept = |options: Options| {
        let (mut log, _) = open_with(&FaultDisk::new(), options, 0).expect("opens");
        for _ in 0..300 {
            append(&mut log, 1000).expect("appends");
        }
        log.sync().expect("syncs");
        log.purge_prefix(log.next_sequence()).expect("releases");
        301 - log.first_sequence()
    };
    assert!(kept(options()) < 35);
    let some = kept(Options { history_bytes: 100_000, ..options() });
    assert!((70..=140).contains(&some), "{some}");
    assert_eq!(kept(Options { history_bytes: 10 << 20, ..options() }), 300);
    let few = kept(Options { history_bytes: 10 << 20, history_segments_max: 3, ..options() });
    assert!((90..=140).contains(&few), "{few}");
    // the clock of this test stands still: nothing is older than it
    assert_eq!(kept(Options { history_bytes: 10 << 20, history_ms: 0, ..options() }), 300);
}

#[test]
fn an_opening_keeps_few_segments_of_those_before() {
    let disk = FaultDisk::new();
    let options = Options { history_bytes: 10 << 20, history_segments_old_max: 2, ..options() };
    for nth in 1..=10 {
        let (mut log, _) = open_with(&disk, options.clone(), nth - 1).expect("opens");
        append(&mut log, 100).expect("appends");
        log.sync().expect("syncs");
        assert_eq!(log.first_sequence(), nth.saturating_sub(2).max(1));
        log.spares().refill().expect("makes room");
        assert!(log.file_bytes() < 7 * options.segment_bytes_min, "it does not grow by being opened");
    }
    // what its user does not have stays
    let (log, found) = open_with(&disk, options, 8).expect("opens");
    assert_eq!((found.len(), log.first_sequence()), (2, 9));
}

#[test]
fn the_meta_record_is_replaced_and_bounded() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    assert_eq!(log.meta(), b"");
    for text in [&b"one"[..], b"", &[7; META_LEN_MAX], b"last"] {
        log.set_meta(text).expect("sets");
        assert_eq!(open(&disk.after_crash(CrashMode::LoseAll)).expect("opens").0.meta(), text);
    }
    assert_eq!(log.set_meta(&[0; META_LEN_MAX + 1]).expect_err("too long").kind(), Kind::TooLarge);
    assert_eq!(log.meta(), b"last");
}

#[test]
fn too_long_a_record_changes_nothing() {
    let (mut log, _) = open(&FaultDisk::new()).expect("opens");
    let half = vec![0; PAYLOAD_LEN_MAX / 2 + 1];
    assert_eq!(log.append(KIND, 2, &[&half, &half]).expect_err("too long").kind(), Kind::TooLarge);
    assert_eq!(log.next_sequence(), 1);
}

#[test]
fn a_full_disk_is_told_before_anything_changes() {
    let disk = FaultDisk::new();
    let (mut log, _) = open(&disk).expect("opens");
    disk.set_capacity(Some(100_000));
    let mut model = Model::new();
    let full = loop {
        match append(&mut log, 800) {
            Ok((sequence, bytes)) => drop(model.insert(sequence, bytes)),
            Err(error) => break error,
        }
        log.sync().expect("there is room in the segment");
    };
    assert_eq!(full.kind(), Kind::DiskFull);
    assert!(model.len() > 20);
    let (_, found) = open(&disk.kill()).map_err(|error| error.kind()).unwrap_or_else(|kind| {
        // opening needs room too, and says so
        assert_eq!(kind, Kind::DiskFull);
        disk.set_capacity(None);
        open(&disk.kill()).expect("opens")
    });
    assert_eq!(found, model);
    disk.set_capacity(None);
    let (sequence, bytes) = append(&mut log, 800).expect("comes back by itself");
    model.insert(sequence, bytes);
    log.sync().expect("syncs");
    assert_eq!(open(&disk.kill()).expect("opens").1, model);
}

/// A log with what it must hold: `durable` for certain, of `written` any further prefix.
struct Life {
    rng: fastrand::Rng,
    disk: FaultDisk,
    log: Log,
    written: Model,
    durable: u64,
    first: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = FaultDisk::new();
        let log = open(&disk).expect("opens").0;
        Self { rng: fastrand::Rng::with_seed(seed), disk, log, written: Model::new(), durable: 0, first: 1 }
    }

    fn step(&mut self) {
        match self.rng.u8(0..100) {
            0..60 => {
                let len = if self.rng.u8(..) < 10 { self.rng.usize(..50_000) } else { self.rng.usize(..300) };
                let (sequence, bytes) = append(&mut self.log, len).expect("appends");
                self.written.insert(sequence, bytes);
            }
            60..80 => {
                self.log.sync().expect("syncs");
                self.durable = self.log.next_sequence() - 1;
            }
            80..85 => self.log.flush().expect("flushes"),
            85..88 => {
                let from = self.rng.u64(self.first..=self.log.next_sequence());
                let takes_back = from < self.log.next_sequence();
                self.log.truncate_suffix(from).expect("takes back");
                self.written.split_off(&from);
                if takes_back {
                    self.durable = self.log.next_sequence() - 1;
                }
            }
            88..93 => {
                let before = self.rng.u64(self.first..=self.durable + 1);
                self.log.purge_prefix(before).expect("releases");
                self.first = self.first.max(self.log.first_sequence());
                self.written = self.written.split_off(&self.first);
            }
            93..97 => self.log.spares().refill().expect("makes room"),
            _ => self.reopen(),
        }
    }

    fn reopen(&mut self) {
        let mode = [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random(self.rng.u64(..))][self.rng.usize(..3)];
        self.disk = if self.rng.bool() { self.disk.kill() } else { self.disk.after_crash(mode) };
        let (log, mut found) = open_with(&self.disk, options(), self.first - 1).expect("opens");
        found = found.split_off(&self.first);
        let next = log.next_sequence();
        assert!(next > self.durable, "what was synced is there: next={next} durable={}", self.durable);
        self.written.split_off(&next);
        assert_eq!(found, self.written);
        (self.log, self.durable) = (log, next - 1);
    }
}

#[test]
fn a_random_life() {
    let seed = seed();
    for nth in 0..count(60, 3000) {
        let mut life = Life::new(seed.wrapping_add(nth));
        (0..400).for_each(|_| life.step());
        life.reopen();
    }
}
