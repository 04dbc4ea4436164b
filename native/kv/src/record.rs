//! What one batch is in the log: its revision, then its changes in their order. docs/formats.md,
//! "Batches in the log", has the bytes.
//!
//! Invariant: what is read is exactly what was written or an error; nothing is guessed.

use crate::batch::{Expired, Op, KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::table::NEVER_MS;
use crate::value::le;
use crate::KvError;
use macula_wal::{Log, Record, WalError};

/// Kind and version of the log's records.
const KIND_BATCH: u8 = 1;
const VERSION: u8 = 1;
/// Of the payload's head: revision and count.
const HEAD: usize = 12;
const PUT: u8 = 1;
const PUT_UNTIL: u8 = 2;
const DELETE: u8 = 3;
const CLEAR: u8 = 4;
const EXPIRE: u8 = 5;

/// Append a batch.
pub(crate) fn append(log: &mut Log, revision: u64, ops: &[Op]) -> Result<u64, WalError> {
    let mut heads = Vec::with_capacity(ops.len() * 9);
    let mut ends = Vec::with_capacity(ops.len());
    for op in ops {
        let (kind, key, value, expires_ms) = parts(op);
        heads.push(kind);
        heads.extend_from_slice(&(key.len() as u32).to_le_bytes());
        heads.extend_from_slice(&(value.len() as u32).to_le_bytes());
        if has_time(kind) {
            heads.extend_from_slice(&expires_ms.to_le_bytes());
        }
        ends.push(heads.len());
    }
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&revision.to_le_bytes());
    head[8..].copy_from_slice(&(ops.len() as u32).to_le_bytes());
    let mut slices: Vec<&[u8]> = Vec::with_capacity(1 + ops.len() * 3);
    slices.push(&head);
    let mut begin = 0;
    for (op, end) in ops.iter().zip(ends) {
        let (_, key, value, _) = parts(op);
        slices.extend([&heads[begin..end], key, value]);
        begin = end;
    }
    log.append(KIND_BATCH, VERSION, &slices)
}

/// Whether milliseconds since 1970 stand behind the lengths.
fn has_time(kind: u8) -> bool {
    matches!(kind, PUT_UNTIL | EXPIRE)
}

fn parts(op: &Op) -> (u8, &[u8], &[u8], u64) {
    match op {
        Op::Put { key, value } => (PUT, key, value, NEVER_MS),
        Op::PutUntil { key, value, expires_ms } => (PUT_UNTIL, key, value, *expires_ms),
        Op::Delete { key } => (DELETE, key, &[], NEVER_MS),
        Op::Clear => (CLEAR, &[], &[], NEVER_MS),
        Op::Expire(Expired { key, expires_ms }) => (EXPIRE, key, &[], *expires_ms),
    }
}

/// Revision and changes of a record.
pub(crate) fn decode(record: &Record<'_>) -> Result<(u64, Vec<Op>), KvError> {
    if record.kind != KIND_BATCH || record.version > VERSION {
        return Err(KvError::NewerFormat {
            file: "the log".into(),
            what: if record.kind == KIND_BATCH { "record version" } else { "record kind" },
            found: if record.kind == KIND_BATCH { record.version.into() } else { record.kind.into() },
            known: VERSION.into(),
        });
    }
    let bad = || KvError::corrupt("the log", None, format!("a batch that cannot be: sequence={}", record.sequence));
    let (head, mut rest) = record.payload.split_at_checked(HEAD).ok_or_else(bad)?;
    let (revision, count) = (u64::from_le_bytes(le(head)), u32::from_le_bytes(le(&head[8..])));
    let mut ops = Vec::new();
    for _ in 0..count {
        let (op, behind) = decode_op(rest).ok_or_else(bad)?;
        ops.push(op);
        rest = behind;
    }
    match rest.is_empty() {
        true => Ok((revision, ops)),
        false => Err(bad()),
    }
}

fn decode_op(bytes: &[u8]) -> Option<(Op, &[u8])> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let key_len = u32::from_le_bytes(le(&head[1..])) as usize;
    let value_len = u32::from_le_bytes(le(&head[5..])) as usize;
    let (expires_ms, rest) = match head[0] {
        kind if has_time(kind) => rest.split_at_checked(8).map(|(time, rest)| (u64::from_le_bytes(le(time)), rest))?,
        _ => (NEVER_MS, rest),
    };
    if key_len > KEY_LEN_MAX || value_len > VALUE_LEN_MAX {
        return None;
    }
    let (key, rest) = rest.split_at_checked(key_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    let (key, value) = (key.to_vec(), value.to_vec());
    let op = match head[0] {
        PUT => Op::Put { key, value },
        PUT_UNTIL => Op::PutUntil { key, value, expires_ms },
        DELETE if value_len == 0 => Op::Delete { key },
        CLEAR if key_len == 0 && value_len == 0 => Op::Clear,
        EXPIRE if value_len == 0 => Op::Expire(Expired { key, expires_ms }),
        _ => return None,
    };
    Some((op, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_no_batch_and_nothing_is_allocated_for_it() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let len = rng.usize(..80);
            let mut payload: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            if len > 12 {
                payload[8..12].copy_from_slice(&rng.u32(..3).to_le_bytes());
            }
            let record = Record { sequence: 1, kind: 1, version: 1, time_ms: 0, payload: &payload };
            if let Ok((_, ops)) = decode(&record) {
                assert!(ops.len() < 3);
            }
        }
        for (kind, version) in [(2, 1), (1, 2)] {
            let record = Record { sequence: 1, kind, version, time_ms: 0, payload: &[0; 12] };
            assert!(matches!(decode(&record), Err(KvError::NewerFormat { .. })));
        }
    }
}
