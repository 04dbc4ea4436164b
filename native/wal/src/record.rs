//! One record's bytes (docs/formats.md, "Log"): a head of 56 bytes, the payload, zeros up to a
//! multiple of 8.
//!
//! Invariant: the tag covers head and payload and is seeded with the log's id and the segment's
//! number, so that a record from an earlier life of a recycled file, or of another log, never
//! verifies.

use xxhash_rust::xxh3::{xxh3_128_with_seed, xxh3_64_with_seed};

/// Bytes before the payload.
pub(crate) const HEAD: usize = 56;
/// The longest payload, bytes: a value of 1 GiB and what goes with it.
pub const PAYLOAD_LEN_MAX: usize = (1 << 30) + (16 << 20);
/// Kinds from here on are the log's own.
pub const KIND_OWN: u8 = 128;
/// Everything from the sequence in its own head on is taken back.
pub(crate) const KIND_TRUNCATE: u8 = 255;

/// No log ever counts to here: a number above it is made up. Sums below it never overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

const TAG: usize = 16;
const ALIGN: usize = 8;

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub len: u32,
    pub kind: u8,
    pub version: u8,
    /// Counts records as they were written; never reused.
    pub lsn: u64,
    /// The user's number: one more than the last, or what a truncation gave back.
    pub sequence: u64,
    /// Everything up to this lsn was durable when this was written.
    pub durable: u64,
    /// Wall clock, milliseconds since 1970, never less than the record's before.
    pub time_ms: u64,
}

impl Head {
    /// Of the record with its padding, bytes.
    pub fn record_len(&self) -> u64 {
        record_len(self.len as usize)
    }

    /// The head, if these bytes can be one at all; the tag is compared by [`verifies`].
    pub fn decode(bytes: &[u8; HEAD]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(le(&bytes[at..]));
        let len = u32::from_le_bytes(le(&bytes[16..]));
        let (kind, version) = (bytes[20], bytes[21]);
        let head = Self {
            len,
            kind,
            version,
            lsn: number(24),
            sequence: number(32),
            durable: number(40),
            time_ms: number(48),
        };
        (len as usize <= PAYLOAD_LEN_MAX && bytes[22..24] == [0, 0]).then_some(head)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; TAG]);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&[self.kind, self.version, 0, 0]);
        for number in [self.lsn, self.sequence, self.durable, self.time_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// Of a record with a payload of `len` bytes.
pub(crate) fn record_len(len: usize) -> u64 {
    (HEAD + len).next_multiple_of(ALIGN) as u64
}

/// What the tags of one segment are seeded with.
pub(crate) fn seed(log_id: &[u8; 16], number: u64) -> u64 {
    xxh3_64_with_seed(log_id, number)
}

/// Appends a record.
pub(crate) fn encode(out: &mut Vec<u8>, head: &Head, payload: &[&[u8]], seed: u64) {
    let begin = out.len();
    head.write(out);
    payload.iter().for_each(|part| out.extend_from_slice(part));
    let tag = xxh3_128_with_seed(&out[begin + TAG..], seed);
    out[begin..begin + TAG].copy_from_slice(&tag.to_le_bytes());
    out.resize(begin + head.record_len() as usize, 0);
}

/// Whether head and payload together are what [`encode`] wrote in a segment of that seed.
pub(crate) fn verifies(record: &[u8], seed: u64) -> bool {
    xxh3_128_with_seed(&record[TAG..], seed).to_le_bytes() == record[..TAG]
}

/// The first bytes of `bytes`, which must be long enough.
pub(crate) fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_verifies_in_its_own_segment_and_no_byte_can_change() {
        let head = head();
        let mut bytes = Vec::new();
        let seed = seed(&[1; 16], 4);
        encode(&mut bytes, &head, &[b"he", b"llo"], seed);
        assert_eq!(bytes.len(), 64);
        let check = |bytes: &[u8], seed| Head::decode(&le(bytes)) == Some(head) && verifies(&bytes[..61], seed);
        assert!(check(&bytes, seed));
        assert!(!check(&bytes, super::seed(&[1; 16], 5)), "another segment's");
        assert!(!check(&bytes, super::seed(&[2; 16], 4)), "another log's");
        for at in 0..61 {
            bytes[at] ^= 1;
            assert!(!check(&bytes, seed), "flip at {at}");
            bytes[at] ^= 1;
        }
    }

    fn head() -> Head {
        Head { len: 5, kind: 3, version: 1, lsn: 7, sequence: 6, durable: 5, time_ms: 9 }
    }
}
