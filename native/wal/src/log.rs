//! The log: records go in, one sync makes all of them durable, and what is no longer needed is let
//! go of by whole segments.
//!
//! Used by one thread at a time. Invariant: a record is durable once [`Log::sync`] returned `Ok`
//! after it; a segment is left only when everything in it is durable; after a failed write or sync
//! nothing is written any more.

use crate::history::Keeper;
use crate::meta::{Meta, META_BYTES, META_LEN_MAX};
use crate::record::{encode, record_len, Head, KIND_OWN, KIND_TRUNCATE, PAYLOAD_LEN_MAX};
use crate::segment::{Segment, SegmentHeader, RECORDS};
use crate::spares::{Released, Spare, Spares};
use crate::{Options, WalError};
use macula_core::{Clock, Disk};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// An opened log. See [`Log::open`].
#[derive(Debug)]
pub struct Log {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    pub(crate) meta: Meta,
    /// Begun, oldest first; records go into the last one.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) next: Next,
    /// Everything up to this lsn was handed to the operating system.
    pub(crate) written: u64,
    /// Everything up to this lsn is durable.
    pub(crate) durable: u64,
    /// The same, of the user's numbers.
    pub(crate) durable_sequence: u64,
    /// Encoded and not written yet; goes to `offset` of the last segment.
    pub(crate) buffer: Vec<u8>,
    pub(crate) offset: u64,
    /// Written and not synced.
    pub(crate) is_dirty: bool,
    pub(crate) poisoned: Option<String>,
    pub(crate) kept: Keeper,
}

/// What the next record gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    pub lsn: u64,
    pub sequence: u64,
    pub time_ms: u64,
}

impl Log {
    /// Append a record of `kind` (under [`KIND_OWN`]) whose payload is `parts` in a row; its sequence.
    /// Durable after [`Log::sync`]. Writes nothing, except when a segment is full.
    ///
    /// # Errors
    /// `TooLarge`, `DiskFull`: this record was not appended, others are as before. `UnknownResult`,
    /// `Poisoned`.
    pub fn append(&mut self, kind: u8, version: u8, parts: &[&[u8]]) -> Result<u64, WalError> {
        let sequence = self.next.sequence;
        self.append_record(kind.min(KIND_OWN - 1), version, parts, sequence)?;
        self.next.sequence += 1;
        Ok(sequence)
    }

    /// Take back every record from `from` on; the next one appended is `from`. Durable on return.
    ///
    /// # Errors
    /// `HistoryGone` when `from` was released; else as [`Log::append`] and [`Log::sync`].
    pub fn truncate_suffix(&mut self, from: u64) -> Result<(), WalError> {
        let first = self.first_sequence();
        if from < first {
            return Err(WalError::HistoryGone { from, first });
        }
        if from >= self.next.sequence {
            return Ok(());
        }
        self.append_record(KIND_TRUNCATE, 1, &[], from)?;
        self.next.sequence = from;
        self.sync()
    }

    fn append_record(&mut self, kind: u8, version: u8, parts: &[&[u8]], sequence: u64) -> Result<(), WalError> {
        self.writable()?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > PAYLOAD_LEN_MAX {
            return Err(WalError::TooLarge { what: "record", len: len as u64, len_max: PAYLOAD_LEN_MAX as u64 });
        }
        let size = self.segments.back().map_or(0, |segment| segment.size);
        if self.offset + self.buffer.len() as u64 + record_len(len) > size {
            self.begin_segment(RECORDS + record_len(len))?;
        }
        let Some(segment) = self.segments.back() else { return Err(WalError::Poisoned("no segment".into())) };
        self.next.time_ms = self.next.time_ms.max(self.clock.wall_ms());
        let head = Head {
            len: len as u32,
            kind,
            version,
            lsn: self.next.lsn,
            sequence,
            durable: self.durable,
            time_ms: self.next.time_ms,
        };
        encode(&mut self.buffer, &head, parts, segment.seed());
        self.next.lsn += 1;
        Ok(())
    }

    /// Go on in the next segment. Its header goes out with its first records.
    pub(crate) fn begin_segment(&mut self, size_min: u64) -> Result<(), WalError> {
        // room first: without it, this log stays as it is
        let spare = self.spares.take(size_min)?;
        self.sync()?;
        let grown = spare.size.saturating_mul(2).min(self.options.segment_bytes_max);
        self.spares.set_size(grown.max(self.options.segment_bytes_min));
        let header = SegmentHeader {
            log_id: self.meta.log_id,
            number: spare.number,
            lsn: self.next.lsn,
            sequence: self.next.sequence,
            time_ms: self.next.time_ms,
        };
        self.buffer = header.encode();
        self.offset = 0;
        self.segments.push_back(Segment { header, file: spare.file, size: spare.size });
        Ok(())
    }

    /// Hand what was appended to the operating system. Not durable: survives the death of this
    /// process, not power loss.
    ///
    /// # Errors
    /// `UnknownResult`, and `Poisoned` from then on.
    pub fn flush(&mut self) -> Result<(), WalError> {
        self.writable()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Some(segment) = self.segments.back() else { return Ok(()) };
        let written = segment.file.write_all_at(&self.buffer, self.offset);
        self.poison_on_error(written)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(self.options.buffer_bytes_max);
        self.written = self.next.lsn - 1;
        self.is_dirty = true;
        Ok(())
    }

    /// Make everything that was appended durable, with one sync.
    ///
    /// # Errors
    /// `UnknownResult`, and `Poisoned` from then on.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.flush()?;
        if self.is_dirty {
            if let Some(segment) = self.segments.back() {
                let synced = segment.file.sync_data();
                self.poison_on_error(synced)?;
            }
            self.is_dirty = false;
        }
        self.durable = self.next.lsn - 1;
        self.durable_sequence = self.next.sequence - 1;
        Ok(())
    }

    /// Let go of records before `before`: of the segments that hold no other, as far as the options
    /// keep no history. Whoever calls this needs them no more, durably.
    ///
    /// # Errors
    /// `Io`: some segments stay for the next time.
    pub fn purge_prefix(&mut self, before: u64) -> Result<(), WalError> {
        let released = self.release_prefix(before);
        self.spares.recycle(released)
    }

    /// As [`Log::purge_prefix`], without touching the disk: [`Spares::recycle`] goes on from here, on
    /// another thread if it likes. Dropped, the files stay until the log is opened again.
    pub fn release_prefix(&mut self, before: u64) -> Released {
        self.release_but(before, self.options.history_segments_max)
    }

    /// As [`Log::release_prefix`], with so many segments of history at most.
    pub(crate) fn release_but(&mut self, before: u64, kept_max: usize) -> Released {
        let released = self.release(before, kept_max);
        // who reads them elsewhere is told before the files change
        self.keep_from_first();
        let spare = |Segment { header, file, size }| Spare { number: header.number, file, size };
        Released(released.into_iter().map(spare).collect())
    }

    fn keep_from_first(&self) {
        if let Some(first) = self.segments.front() {
            self.kept.release_before(first);
        }
    }

    /// The segments that go, oldest first, out of this log.
    fn release(&mut self, before: u64, kept_max: usize) -> Vec<Segment> {
        // the one in use, of which nobody knows how full it is, is no history
        let mut bytes: u64 = self.segments.iter().rev().skip(1).map(|segment| segment.size).sum();
        let now_ms = self.next.time_ms.max(self.clock.wall_ms());
        let mut released = Vec::new();
        while let [first, second, rest @ ..] = self.segments.make_contiguous() {
            let old_enough = now_ms.saturating_sub(second.header.time_ms) > self.options.history_ms;
            let enough = bytes - first.size >= self.options.history_bytes;
            let too_many = enough || rest.len() + 1 > kept_max;
            if second.header.sequence > before || !(old_enough || too_many) {
                break;
            }
            bytes -= first.size;
            released.extend(self.segments.pop_front());
        }
        released
    }

    /// Go on in a segment of the smallest size, and give back the spares: for a log that rests.
    ///
    /// # Errors
    /// `DiskFull`: it goes on as it was. `UnknownResult`, and `Poisoned` from then on.
    pub fn slim(&mut self) -> Result<(), WalError> {
        let size_min = self.options.segment_bytes_min;
        if self.segments.back().is_none_or(|last| last.size <= size_min) {
            return Ok(());
        }
        self.spares.clear();
        self.spares.set_size(size_min);
        self.begin_segment(RECORDS)?;
        self.sync()
    }

    /// Replace the user's small record. Durable on return. At most [`META_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// `TooLarge`: nothing changed. `UnknownResult`, and `Poisoned` from then on.
    pub fn set_meta(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        self.writable()?;
        if bytes.len() > META_LEN_MAX {
            let (len, len_max) = (bytes.len() as u64, META_LEN_MAX as u64);
            return Err(WalError::TooLarge { what: "meta record", len, len_max });
        }
        let set = self.meta.set(bytes);
        self.poison_on_error(set)
    }

    /// The user's small record of a log that is not open, empty where there is none: for those who keep in it
    /// what [`Log::open`] asks.
    ///
    /// # Errors
    /// `Corrupt`, `NewerFormat`, `Io`.
    pub fn read_meta(disk: &dyn Disk) -> Result<Vec<u8>, WalError> {
        Ok(Meta::open(disk)?.map(|meta| meta.bytes).unwrap_or_default())
    }

    /// The user's small record; empty at first.
    pub fn meta(&self) -> &[u8] {
        &self.meta.bytes
    }

    /// The log's id, random.
    pub fn id(&self) -> [u8; 16] {
        self.meta.log_id
    }

    /// The sequence of the first record that is kept, or of the next one.
    pub fn first_sequence(&self) -> u64 {
        self.segments.front().map_or(self.next.sequence, |segment| segment.header.sequence)
    }

    /// The sequence that the next record gets.
    pub fn next_sequence(&self) -> u64 {
        self.next.sequence
    }

    /// The sequence of the last durable record, 0 if there was none: every record up to it is durable.
    /// In a log that was begun behind records that are elsewhere, the last of those.
    pub fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// Bytes of all files, spares included.
    pub fn file_bytes(&self) -> u64 {
        self.begun_bytes() + self.spares.bytes()
    }

    /// Bytes of all files but the [`Spares`].
    pub fn begun_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum::<u64>() + META_BYTES
    }

    /// Where room for later segments is made.
    pub fn spares(&self) -> Arc<Spares> {
        self.spares.clone()
    }

    fn writable(&self) -> Result<(), WalError> {
        match &self.poisoned {
            Some(why) => Err(WalError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn poison_on_error(&mut self, result: io::Result<()>) -> Result<(), WalError> {
        result.map_err(|error| {
            let why = error.to_string();
            self.poisoned = Some(why.clone());
            WalError::UnknownResult(why)
        })
    }
}
