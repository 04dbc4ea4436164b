//! One segment file: a header page, then records. docs/formats.md has the bytes.
//!
//! Invariant: a file whose header does not name the number that its name has was not begun: it is
//! room for a later segment. A number is used once, so that nothing from a file's earlier life
//! verifies in its next.

use crate::record::{le, seed, NUMBER_MAX};
use crate::WalError;
use macula_core::{DiskFile, RelPath};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Where records begin: the header has a page to itself.
pub(crate) const RECORDS: u64 = 4096;
const HEADER: usize = 512;
const SUM: usize = HEADER - 16;
const MAGIC: &[u8; 8] = b"MACULAWL";
const VERSION: u16 = 1;
const CIPHER_PLAIN: u16 = 0;
const NAME_BEGIN: &str = "wal-";

/// What a begun segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub log_id: [u8; 16],
    pub number: u64,
    /// The lsn of its first record.
    pub lsn: u64,
    /// The sequence of its first record.
    pub sequence: u64,
    pub time_ms: u64,
}

/// What a segment's first bytes turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    Yes(SegmentHeader),
    /// Never written, or left from an earlier life of the file, in which it had this number.
    No {
        number: u64,
    },
    /// Neither: a write that was interrupted, or damage.
    Torn,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; RECORDS as usize];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&CIPHER_PLAIN.to_le_bytes());
        out[16..32].copy_from_slice(&self.log_id);
        for (at, number) in [(32, self.number), (40, self.lsn), (48, self.sequence), (56, self.time_ms)] {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = xxh3_128(&out[..SUM]);
        out[SUM..HEADER].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Whether the file `name`, whose number is `number`, was begun as a segment of `log_id`.
    pub fn decode(bytes: &[u8; HEADER], name: &str, number: u64, log_id: &[u8; 16]) -> Result<Begun, WalError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Begun::No { number: 0 });
        }
        if &bytes[..8] != MAGIC || xxh3_128(&bytes[..SUM]).to_le_bytes() != bytes[SUM..] {
            return Ok(Begun::Torn);
        }
        let newer = |what, found, known| Err(WalError::NewerFormat { file: name.to_owned(), what, found, known });
        let version = u16::from_le_bytes(le(&bytes[8..]));
        if version > VERSION {
            return newer("version", version.into(), VERSION.into());
        }
        let cipher = u16::from_le_bytes(le(&bytes[10..]));
        if cipher != CIPHER_PLAIN {
            return newer("cipher", cipher.into(), CIPHER_PLAIN.into());
        }
        let number_at = |at: usize| u64::from_le_bytes(le(&bytes[at..]));
        let header = Self {
            log_id: le(&bytes[16..]),
            number: number_at(32),
            lsn: number_at(40),
            sequence: number_at(48),
            time_ms: number_at(56),
        };
        if header.log_id != *log_id {
            return Err(WalError::corrupt(name, 0, "a segment of another log"));
        }
        if [header.number, header.lsn, header.sequence].iter().any(|number| !(1..=NUMBER_MAX).contains(number)) {
            return Err(WalError::corrupt(name, 0, "a header that no log writes"));
        }
        Ok(if header.number == number { Begun::Yes(header) } else { Begun::No { number: header.number } })
    }

    pub fn read(file: &dyn DiskFile, name: &str, number: u64, log_id: &[u8; 16]) -> Result<Begun, WalError> {
        let mut bytes = [0; HEADER];
        match file.read_exact_at(&mut bytes, 0) {
            // shorter than its header: the room was not made yet
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Begun::No { number: 0 }),
            Err(error) => Err(WalError::io("read a segment of the log")(error)),
            Ok(()) => Self::decode(&bytes, name, number, log_id),
        }
    }
}

/// A begun segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub header: SegmentHeader,
    pub file: Arc<dyn DiskFile>,
    /// Of the file, bytes.
    pub size: u64,
}

impl Segment {
    pub fn name(&self) -> String {
        name(self.header.number)
    }

    pub fn seed(&self) -> u64 {
        seed(&self.header.log_id, self.header.number)
    }
}

/// The file name of a segment.
pub(crate) fn name(number: u64) -> String {
    format!("{NAME_BEGIN}{number:016x}")
}

/// The same as a path.
pub(crate) fn path(number: u64) -> RelPath {
    let name = name(number);
    RelPath::new(&name).unwrap_or_else(|_| RelPath::literal("wal"))
}

/// The number in a segment's file name.
pub(crate) fn number(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_prefix(NAME_BEGIN)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (self::name(number) == name.to_str()?).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_header_is_of_its_own_name_log_and_version() {
        let header = SegmentHeader { log_id: [3; 16], number: 9, lsn: 4, sequence: 2, time_ms: 1 };
        let page = header.encode();
        let decode = |page: &[u8], number, id| SegmentHeader::decode(&le(page), "f", number, &[id; 16]);
        assert_eq!(decode(&page, 9, 3).expect("reads"), Begun::Yes(header));
        assert_eq!(decode(&page, 10, 3).expect("reads"), Begun::No { number: 9 }, "recycled");
        assert!(matches!(decode(&page, 9, 4), Err(WalError::Corrupt { .. })));
        assert_eq!(decode(&[0; HEADER], 9, 3).expect("reads"), Begun::No { number: 0 });
        for at in 0..HEADER {
            let mut flipped = page.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped, 9, 3).expect("reads"), Begun::Torn, "flip at {at}");
        }
        for (at, number) in [(32, 0), (40, 0), (48, 0), (40, u64::MAX), (48, NUMBER_MAX + 1)] {
            let mut made_up = page.clone();
            made_up[at..at + 8].copy_from_slice(&u64::to_le_bytes(number));
            let sum = xxh3_128(&made_up[..SUM]);
            made_up[SUM..HEADER].copy_from_slice(&sum.to_le_bytes());
            assert!(matches!(decode(&made_up, 9, 3), Err(WalError::Corrupt { .. })), "{number} at {at}");
        }
        for (at, what) in [(8, "version"), (10, "cipher")] {
            let mut newer = page.clone();
            newer[at] = 7;
            let sum = xxh3_128(&newer[..SUM]);
            newer[SUM..HEADER].copy_from_slice(&sum.to_le_bytes());
            assert!(
                matches!(decode(&newer, 9, 3), Err(WalError::NewerFormat { what: named, found: 7, .. }) if named == what)
            );
        }
    }

    #[test]
    fn names_are_exact() {
        assert_eq!(number(OsStr::new(&name(0x1f))), Some(0x1f));
        for bad in ["wal-1", "wal-000000000000001F", "wal-+00000000000001f", "wal-000000000000001f.new", "kv.redb"] {
            assert_eq!(number(OsStr::new(bad)), None, "{bad}");
        }
    }
}
