//! Bytes as edits of a real log's files, and what must hold of whatever they make.
//!
//! Invariant: without new checksums nothing is given but the beginning of what was written; with them
//! (docs/formats.md says how) a run without a gap. Whatever opens goes on, tells its history, and
//! opens again as it was left.

#[path = "given.rs"]
mod given;

use given::{given, Given};
use macula_core::{Disk, Open, RelPath};
use macula_testkit::{FaultDisk, SeededChance, SimClock};
use macula_wal::{Log, Options, WalError};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed, xxh3_64_with_seed};

type Files = BTreeMap<Vec<u8>, Vec<u8>>;

const FILE_LEN_MAX: usize = 40_000;

/// What was given, also before an error.
fn open(disk: &FaultDisk) -> (Result<Log, WalError>, Vec<Given>) {
    let options = Options { segment_bytes_min: 8192, segment_bytes_max: 8192, ..Options::default() };
    let mut all = Vec::new();
    let (disk, clock) = (Arc::new(disk.clone()), Arc::new(SimClock::default()));
    let log = Log::open::<WalError>(disk, clock, &SeededChance::new(1), options, 0, &mut |replayed| {
        all.push(given(replayed));
        Ok(())
    });
    (log, all)
}

/// A log of several segments, lives and truncations, whose last records were not synced.
fn original() -> &'static (Files, Vec<Given>) {
    static ORIGINAL: OnceLock<(Files, Vec<Given>)> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let mut disk = FaultDisk::new();
        for life in 0..2 {
            let mut log = open(&disk).0.expect("opens");
            for len in [700, 80, 1500, 0, 1300, 900, 30] {
                log.append(life, 1, &[&vec![life + 1; len]]).expect("appends");
                log.sync().expect("syncs");
            }
            log.truncate_suffix(log.next_sequence() - 2).expect("takes back");
            log.spares().refill().expect("makes room");
            log.append(life, 1, &[b"not synced"]).expect("appends");
            log.flush().expect("flushes");
            disk = disk.kill();
        }
        let names = disk.list(&RelPath::root()).expect("lists");
        let file = |name: &[u8]| {
            let file = disk.open(&path(name), Open::Read).expect("opens");
            let mut bytes = vec![0; file.len().expect("is there") as usize];
            file.read_exact_at(&mut bytes, 0).expect("reads");
            bytes
        };
        let names = names.iter().map(|entry| entry.name.as_encoded_bytes().to_vec());
        let files = names.map(|name| (name.clone(), file(&name))).collect();
        let (log, all) = open(&disk.kill());
        log.expect("opens");
        (files, all)
    })
}

fn path(name: &[u8]) -> RelPath {
    RelPath::new(name).expect("a name")
}

/// Numbers out of the edits; zeros when they are used up.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn number<const N: usize>(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let len = N.min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        u64::from_le_bytes(bytes)
    }

    fn below(&mut self, end: usize) -> usize {
        self.number::<2>() as usize % end.max(1)
    }
}

/// One edit of one file.
fn edit(files: &mut Files, source: &mut Source<'_>) {
    let what = source.number::<1>();
    let nth = source.below(files.len());
    let Some(name) = files.keys().nth(nth).cloned() else { return };
    let mut bytes = files.remove(&name).unwrap_or_default();
    let mut name_new = name;
    match what % 10 {
        0 => bytes.truncate(source.below(FILE_LEN_MAX)),
        1 => bytes.resize(source.below(FILE_LEN_MAX), 0),
        2 => return,
        3 => {
            let number = source.number::<8>() >> (source.number::<1>() % 64);
            name_new = format!("wal-{number:016x}").into_bytes();
        }
        4 => bytes = source.0.to_vec(),
        5 => {
            let (from, to, len) = (source.below(bytes.len()), source.below(bytes.len()), source.below(3000));
            let len = len.min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        6 => {
            let (at, len) = (source.below(bytes.len()), source.below(5000));
            let end = bytes.len().min(at + len);
            bytes[at..end].fill(0);
        }
        // a number where the format has one: near the beginning of a header or of a record
        _ => {
            let beginning = if source.number::<1>().is_multiple_of(2) { 0 } else { 4096 };
            let at = beginning + source.below(200) / 4 * 4;
            let number = source.number::<8>();
            if let Some(place) = bytes.get_mut(at..at + 8) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
    }
    files.insert(name_new, bytes);
}

/// New checksums, as docs/formats.md has them.
fn seal(files: &mut Files) {
    for (name, bytes) in files.iter_mut() {
        if name == b"wal.meta" {
            for slot in bytes.chunks_exact_mut(4096) {
                let sum = xxh3_128(&slot[..4080]);
                slot[4080..].copy_from_slice(&sum.to_le_bytes());
            }
            continue;
        }
        let digits = std::str::from_utf8(&name[4..]).unwrap_or_default();
        let Ok(number) = u64::from_str_radix(digits, 16) else { continue };
        if bytes.len() < 4096 {
            continue;
        }
        let sum = xxh3_128(&bytes[..496]);
        bytes[496..512].copy_from_slice(&sum.to_le_bytes());
        let seed = xxh3_64_with_seed(&bytes[16..32], number);
        let mut at = 4096;
        while let Some(head) = bytes.get(at..at + 56) {
            let mut len = [0; 4];
            len.copy_from_slice(&head[16..20]);
            let end = at.saturating_add(56).saturating_add(u32::from_le_bytes(len) as usize);
            let Some(covered) = bytes.get(at + 16..end) else { break };
            let tag = xxh3_128_with_seed(covered, seed);
            bytes[at..at + 16].copy_from_slice(&tag.to_le_bytes());
            at = end.next_multiple_of(8);
        }
    }
}

fn model(all: &[Given]) -> BTreeMap<u64, &[u8]> {
    let mut model: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for given in all {
        match given {
            Given::Record(sequence, bytes) => {
                assert_eq!(*sequence, model.keys().next_back().map_or(1, |last| last + 1), "a gap");
                model.insert(*sequence, bytes);
            }
            Given::Truncated(from) => drop(model.split_off(from)),
        }
    }
    model
}

/// Edit, open, and look. Whether it opened.
pub fn check(edits: &[u8]) -> bool {
    let (files, whole) = original();
    let mut files = files.clone();
    let mut source = Source(edits);
    let seals = source.number::<1>() % 2 == 1;
    while !source.0.is_empty() {
        edit(&mut files, &mut source);
    }
    if seals {
        seal(&mut files);
    }
    let disk = FaultDisk::new();
    for (name, bytes) in &files {
        let file = disk.open(&path(name), Open::CreateNew).expect("creates");
        file.write_all_at(bytes, 0).expect("writes");
    }
    let (log, all) = open(&disk);
    let found = model(&all);
    assert!(seals || whole.starts_with(&all), "more than was written, or other: {all:?}");
    let Ok(mut log) = log else { return false };
    assert_eq!(log.next_sequence(), found.keys().next_back().map_or(1, |last| last + 1));
    assert_eq!(log.durable_sequence() + 1, log.next_sequence());
    let mut told = Vec::new();
    let history = log.history(1).expect("it was given just now");
    let read = history.read::<WalError>(&mut |replayed| {
        told.push(given(replayed));
        Ok(())
    });
    read.expect("reads");
    assert_eq!(model(&told), found);
    log.set_meta(b"meta").expect("sets");
    log.append(3, 1, &[b"behind"]).expect("appends");
    log.sync().expect("syncs");
    let (again, all_again) = open(&disk.kill());
    match again {
        // numbers were made up that just fitted
        Err(WalError::Corrupt { reason, .. }) if seals && reason.contains("no log") => return true,
        again => drop(again.expect("opens again")),
    }
    let found_again = model(&all_again);
    let mut found = found;
    found.insert(found.len() as u64 + 1, b"behind");
    assert_eq!(found_again, found);
    true
}
