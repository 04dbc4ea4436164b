//! Reading the records of one segment, and judging where they end.
//!
//! Invariant: what follows the last valid record is a torn tail only if nothing behind it says that
//! it had been durable; otherwise it is damage, and named. Memory: a window of 1 MiB, or one record.

use crate::record::{le, record_len, verifies, Head, HEAD};
use crate::segment::{Segment, RECORDS};
use crate::WalError;

const WINDOW: usize = 1 << 20;
const STEP: u64 = 8;

/// A record as it lies in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub head: Head,
    pub payload: &'a [u8],
    /// Of its first byte.
    pub offset: u64,
}

/// A position in a segment, moving from record to record.
pub(crate) struct Scan<'s> {
    segment: &'s Segment,
    seed: u64,
    /// Of the next record.
    pub offset: u64,
    window: Vec<u8>,
    window_offset: u64,
}

impl<'s> Scan<'s> {
    pub fn new(segment: &'s Segment) -> Self {
        Self { segment, seed: segment.seed(), offset: RECORDS, window: Vec::new(), window_offset: RECORDS }
    }

    /// The valid record at the present offset, whatever its lsn; steps behind it.
    pub fn step(&mut self) -> Result<Option<Found<'_>>, WalError> {
        let offset = self.offset;
        let Some(head) = self.head_at(offset)? else { return Ok(None) };
        if !self.verifies_at(offset, &head)? {
            return Ok(None);
        }
        self.offset = offset + head.record_len();
        let at = (offset - self.window_offset) as usize + HEAD;
        Ok(Some(Found { head, payload: &self.window[at..at + head.len as usize], offset }))
    }

    /// Whether anything behind the present offset says that `lsn` had been durable when it was
    /// written. Looks at every place where a record can begin.
    pub fn has_durable_behind(&mut self, lsn: u64) -> Result<bool, WalError> {
        let mut offset = self.offset;
        while offset + HEAD as u64 <= self.segment.size {
            if let Some(head) = self.head_at(offset)? {
                // cheap before dear: noise fails here
                let plausible = head.lsn > lsn && head.durable >= lsn && head.durable < head.lsn;
                if plausible && self.verifies_at(offset, &head)? {
                    return Ok(true);
                }
            }
            offset += STEP;
        }
        Ok(false)
    }

    fn head_at(&mut self, offset: u64) -> Result<Option<Head>, WalError> {
        if offset + HEAD as u64 > self.segment.size {
            return Ok(None);
        }
        let head = Head::decode(&le(self.bytes(offset, HEAD)?));
        Ok(head.filter(|head| head.lsn > 0 && offset + head.record_len() <= self.segment.size))
    }

    fn verifies_at(&mut self, offset: u64, head: &Head) -> Result<bool, WalError> {
        let (len, seed) = (HEAD + head.len as usize, self.seed);
        Ok(verifies(self.bytes(offset, len)?, seed))
    }

    /// Bytes of the file, which must have them.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], WalError> {
        let have = self.window_offset..self.window_offset + self.window.len() as u64;
        if !(have.contains(&offset) && offset + len as u64 <= have.end) {
            let room = (self.segment.size - offset).min(WINDOW.max(len) as u64) as usize;
            self.window.resize(room, 0);
            self.window_offset = offset;
            let read = self.segment.file.read_exact_at(&mut self.window, offset);
            read.map_err(WalError::io("read the log"))?;
        }
        let at = (offset - self.window_offset) as usize;
        Ok(&self.window[at..at + len])
    }
}

/// Where the records of a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Behind the last record.
    pub offset: u64,
    /// The lsn that comes next.
    pub lsn: u64,
    /// The highest lsn that a record says was durable.
    pub durable: u64,
    /// Where the first record begins that nobody says was durable.
    pub undecided: u64,
    /// The last record's time, milliseconds.
    pub time_ms: u64,
}

/// Gives each record from `segment`'s first on to `visit`.
pub(crate) fn read_segment<E: From<WalError>>(
    segment: &Segment,
    visit: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
) -> Result<End, E> {
    let mut scan = Scan::new(segment);
    let header = segment.header;
    let mut end = End { offset: RECORDS, lsn: header.lsn, durable: 0, undecided: RECORDS, time_ms: header.time_ms };
    // where each record begins that is not known to be durable
    let mut open = std::collections::VecDeque::new();
    while let Some(found) = scan.step()? {
        if found.head.lsn != end.lsn {
            break;
        }
        end.durable = end.durable.max(found.head.durable);
        open.push_back((end.lsn, found.offset));
        while open.front().is_some_and(|(lsn, _)| *lsn <= end.durable) {
            open.pop_front();
        }
        (end.offset, end.time_ms) = (found.offset + record_len(found.payload.len()), found.head.time_ms);
        end.lsn += 1;
        visit(found)?;
    }
    end.undecided = open.front().map_or(end.offset, |(_, offset)| *offset);
    Ok(end)
}
