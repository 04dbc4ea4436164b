//! Opening a log: what is there, where it ends, and making that end durable before anything follows.
//!
//! Invariant: what was read here and may be in the page cache only is written again, unchanged, and
//! synced, so that it is decided once; records go on in a fresh segment, under a number that no file
//! had before, so that what lies behind a torn tail or header can never come back.

use crate::history::Keeper;
use crate::log::{Log, Next};
use crate::meta::{Meta, NAME as META_NAME};
use crate::record::{KIND_OWN, KIND_TRUNCATE, NUMBER_MAX};
use crate::scan::{read_segment, End, Found, Scan};
use crate::segment::{self, Begun, Segment, SegmentHeader, RECORDS};
use crate::spares::{Released, Spare, Spares};
use crate::{Options, Record, Replayed, WalError};
use macula_core::{Chance, Clock, Disk, Open, RelPath};
use std::collections::VecDeque;
use std::sync::Arc;

impl Log {
    /// Open the log in the directory `disk`, or create one there, and give each record whose sequence
    /// is above `after` to `replay`, in order. Reads only the segments that hold such records. The
    /// caller has everything up to `after`, and sees to it that nobody else has the log open.
    ///
    /// # Errors
    /// `Corrupt` names damage and gaps, which stay as they are; `NewerFormat`; `DiskFull`; `Io`; what
    /// `replay` returns.
    pub fn open<E: From<WalError>>(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        chance: &dyn Chance,
        options: Options,
        after: u64,
        replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let found = Files::find(&*disk)?;
        let meta = match Meta::open(&*disk)? {
            Some(meta) => meta,
            None if found.is_empty() => Meta::create(&*disk, chance)?,
            None => return Err(WalError::corrupt(META_NAME, 0, "segments without the log's meta record").into()),
        };
        // a name may be there only because nobody lost power since
        disk.sync_dir(&RelPath::root()).map_err(WalError::io("settle the log's directory"))?;
        let files = Files::sort(found, &meta.log_id)?;
        let read = Read::from(&files, after, replay)?;
        let highest = files.number_highest;
        let (segments, room) = files.settle(read.as_ref())?;
        let size = segments.back().map_or(options.segment_bytes_min, |segment| segment.size);
        // one long record made one long segment, not all that follow
        let size = size.min(options.segment_bytes_max).max(options.segment_bytes_min);
        let spares = Arc::new(Spares::new(disk, highest, size));
        // it may hold records of a beginning whose header was lost: under its number they would verify
        if !room.is_empty() {
            spares.recycle(Released(room))?;
        }
        let next = read.map_or(Next { lsn: 1, sequence: after + 1, time_ms: 0 }, |read| read.next);
        let mut log = Self {
            clock,
            options,
            meta,
            segments,
            spares,
            next,
            written: next.lsn - 1,
            durable: next.lsn - 1,
            durable_sequence: next.sequence - 1,
            buffer: Vec::new(),
            offset: 0,
            is_dirty: false,
            poisoned: None,
            kept: Keeper::default(),
        };
        log.begin_segment(RECORDS)?;
        // segments grow with what is written, not with openings
        log.spares.set_size(size);
        // the header alone: where the log goes on is on the disk before anything is acknowledged
        log.sync()?;
        let released = log.release_but(after + 1, log.options.history_segments_old_max);
        log.spares.recycle(released)?;
        Ok(log)
    }
}

struct OpenFile {
    number: u64,
    file: Arc<dyn macula_core::DiskFile>,
    size: u64,
}

/// The files of a log, by number.
struct Files {
    segments: VecDeque<Segment>,
    spares: Vec<Spare>,
    /// Not begun, and yet not blank: an interrupted beginning, or damage.
    torn: Vec<Segment>,
    number_highest: u64,
}

impl Files {
    fn find(disk: &dyn Disk) -> Result<Vec<OpenFile>, WalError> {
        let fail = WalError::io("open the log");
        let mut found = Vec::new();
        for entry in disk.list(&RelPath::root()).map_err(&fail)? {
            let Some(number) = segment::number(&entry.name) else { continue };
            let file = disk.open(&segment::path(number), Open::ReadWrite).map_err(&fail)?;
            let size = file.len().map_err(&fail)?;
            found.push(OpenFile { number, file, size });
        }
        found.sort_by_key(|file| file.number);
        Ok(found)
    }

    fn sort(found: Vec<OpenFile>, log_id: &[u8; 16]) -> Result<Self, WalError> {
        let number_highest = found.last().map_or(0, |file| file.number);
        if number_highest > NUMBER_MAX {
            return Err(WalError::corrupt(&segment::name(number_highest), 0, "a number that no log reaches"));
        }
        let mut files = Self { segments: VecDeque::new(), spares: Vec::new(), torn: Vec::new(), number_highest };
        for OpenFile { number, file, size } in found {
            let name = segment::name(number);
            match SegmentHeader::read(&*file, &name, number, log_id)? {
                Begun::Yes(header) => files.segments.push_back(Segment { header, file, size }),
                Begun::No { number: before } => {
                    // its records would verify under that one
                    files.number_highest = files.number_highest.max(before);
                    files.spares.push(Spare { number, file, size });
                }
                Begun::Torn => {
                    let header = SegmentHeader { log_id: *log_id, number, lsn: 0, sequence: 0, time_ms: 0 };
                    files.torn.push(Segment { header, file, size });
                }
            }
        }
        Ok(files)
    }

    /// What goes on: segments, their end made durable, and behind them files that are room for others.
    fn settle(self, read: Option<&Read>) -> Result<(VecDeque<Segment>, Vec<Spare>), WalError> {
        if let Some((read, last)) = read.zip(self.segments.back()) {
            let fail = WalError::io("settle the end of the log");
            let page = last.header.encode();
            last.file.write_all_at(&page, 0).map_err(&fail)?;
            let mut bytes = vec![0; (read.end.offset - read.end.undecided) as usize];
            last.file.read_exact_at(&mut bytes, read.end.undecided).map_err(&fail)?;
            last.file.write_all_at(&bytes, read.end.undecided).map_err(&fail)?;
            last.file.sync_data().map_err(&fail)?;
        }
        let last = self.segments.back().map_or(0, |segment| segment.header.number);
        let torn =
            self.torn.into_iter().map(|torn| Spare { number: torn.header.number, file: torn.file, size: torn.size });
        let room = self.spares.into_iter().chain(torn).filter(|spare| spare.number > last).collect();
        Ok((self.segments, room))
    }
}

/// What reading found.
struct Read {
    next: Next,
    end: End,
}

impl Read {
    /// Read from the segment that holds the first record above `after`.
    fn from<E: From<WalError>>(
        files: &Files,
        after: u64,
        replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), E>,
    ) -> Result<Option<Self>, E> {
        let segments: Vec<&Segment> = files.segments.iter().collect();
        let Some(last) = segments.last() else {
            return Self::nothing_lost(files, 1).map(|()| None).map_err(E::from);
        };
        if segments[0].header.sequence > after + 1 {
            let reason = format!("records are missing: wanted={} first={}", after + 1, segments[0].header.sequence);
            return Err(WalError::corrupt(&segments[0].name(), 0, reason).into());
        }
        let begin = segments.iter().rposition(|segment| segment.header.sequence <= after + 1).unwrap_or(0);
        let mut next = Next { lsn: 0, sequence: segments[begin].header.sequence, time_ms: 0 };
        let mut end = None;
        for (nth, segment) in segments.iter().enumerate().skip(begin) {
            let header = segment.header;
            if end.is_some_and(|end: End| end.lsn != header.lsn) || next.sequence != header.sequence {
                return Err(gap(segments[nth - 1], end, segment).into());
            }
            let found = read_segment(segment, &mut |found| visit(segment, found, after, &mut next.sequence, replay))?;
            (next.lsn, next.time_ms) = (found.lsn, found.time_ms.max(header.time_ms));
            end = Some(found);
        }
        let Some(end) = end else { return Ok(None) };
        let mut scan = Scan::new(last);
        scan.offset = end.offset;
        if scan.has_durable_behind(end.lsn)? {
            return Err(WalError::corrupt(&last.name(), end.offset, damaged(end.lsn)).into());
        }
        Self::nothing_lost(files, end.lsn)?;
        Ok(Some(Self { next, end }))
    }

    /// Whether a segment that seems not begun holds what was durable.
    fn nothing_lost(files: &Files, lsn: u64) -> Result<(), WalError> {
        for torn in &files.torn {
            if Scan::new(torn).has_durable_behind(lsn)? {
                return Err(WalError::corrupt(&torn.name(), 0, "a damaged header before records that were durable"));
            }
        }
        Ok(())
    }
}

fn damaged(lsn: u64) -> String {
    format!("a damaged record before others that were written when it was durable: lsn={lsn}")
}

fn gap(before: &Segment, end: Option<End>, segment: &Segment) -> WalError {
    let offset = end.map_or(0, |end| end.offset);
    let lsn = end.map_or(0, |end| end.lsn);
    let reason = format!("records are missing or damaged: lsn={lsn} the next segment begins at {}", segment.header.lsn);
    WalError::corrupt(&before.name(), offset, reason)
}

/// Give one record, if the caller has not got it, and move `sequence` on behind it.
pub(crate) fn visit<E: From<WalError>>(
    segment: &Segment,
    found: Found<'_>,
    after: u64,
    sequence: &mut u64,
    replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let head = found.head;
    if head.kind == KIND_TRUNCATE && (1..=*sequence).contains(&head.sequence) {
        *sequence = head.sequence;
        return replay(Replayed::Truncated { from: head.sequence });
    }
    if head.kind >= KIND_OWN || head.sequence != *sequence {
        let reason = format!("a record that cannot follow: kind={} sequence={}", head.kind, head.sequence);
        return Err(WalError::corrupt(&segment.name(), found.offset, reason).into());
    }
    *sequence += 1;
    if head.sequence <= after {
        return Ok(());
    }
    let Found { payload, .. } = found;
    let (sequence, kind, version, time_ms) = (head.sequence, head.kind, head.version, head.time_ms);
    replay(Replayed::Record(Record { sequence, kind, version, time_ms, payload }))
}
