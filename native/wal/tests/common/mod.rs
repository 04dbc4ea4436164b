//! What the tests of the log share: a log on a simulated disk beside what it must hold.
#![allow(dead_code, clippy::disallowed_methods)]

use macula_core::{Clock, Disk};
use macula_testkit::{FaultDisk, SeededChance, SimClock};
use macula_wal::{Log, Options, Replayed, WalError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Payloads by sequence.
pub type Model = BTreeMap<u64, Vec<u8>>;

pub const KIND: u8 = 7;

/// Small segments, so that short runs cross many.
pub fn options() -> Options {
    Options { segment_bytes_min: 8192, segment_bytes_max: 32_768, ..Options::default() }
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SimClock::default())
}

pub fn open_with(disk: &FaultDisk, options: Options, after: u64) -> Result<(Log, Model), WalError> {
    open_on(Arc::new(disk.clone()), options, after)
}

pub fn open_on(disk: Arc<dyn Disk>, options: Options, after: u64) -> Result<(Log, Model), WalError> {
    let mut model = Model::new();
    let log = Log::open::<WalError>(disk, clock(), &SeededChance::new(1), options, after, &mut |replayed| {
        match replayed {
            Replayed::Record(record) => {
                assert_eq!((record.kind, record.version), (KIND, 2));
                assert!(model.insert(record.sequence, record.payload.to_vec()).is_none(), "given once");
            }
            Replayed::Truncated { from } => drop(model.split_off(&from)),
        }
        Ok(())
    })?;
    Ok((log, model))
}

pub fn open(disk: &FaultDisk) -> Result<(Log, Model), WalError> {
    open_with(disk, options(), 0)
}

/// A payload that tells its sequence and length.
pub fn payload(sequence: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (sequence as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

pub fn append(log: &mut Log, len: usize) -> Result<(u64, Vec<u8>), WalError> {
    let bytes = payload(log.next_sequence(), len);
    let (head, tail) = bytes.split_at(len / 3);
    let sequence = log.append(KIND, 2, &[head, tail])?;
    Ok((sequence, bytes))
}

pub fn seed() -> u64 {
    let given = std::env::var("MACULA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1_000_000));
    eprintln!("MACULA_SEED={seed}");
    seed
}

/// How often, in `bin/test` and in `bin/torture`.
pub fn count(slice: u64, torture: u64) -> u64 {
    if std::env::var("MACULA_TORTURE").is_ok() {
        torture
    } else {
        slice
    }
}
