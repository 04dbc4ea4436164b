//! The durable records of a log, read on another thread while the log goes on.
//!
//! Invariant: nothing is given that did not verify under its segment's own number, so a file that
//! the log took for a later segment can not give a wrong record, only none. Whether that is what
//! happened, or damage, [`Kept`] says for certain: it is told before the first byte of a released
//! file changes, and asked after the bytes were read.

use crate::open::visit;
use crate::scan::Scan;
use crate::segment::{Segment, RECORDS};
use crate::{Log, Replayed, WalError};
use std::io;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::Arc;

/// The records of a log from some sequence on, up to the last that was durable (or written) when this
/// was made. See [`Log::history`]. Holds the segments' files open, also those that the log removed meanwhile.
#[derive(Debug)]
#[must_use]
pub struct History {
    log: Kept,
    from: u64,
    /// The one that holds `from`, and those behind it that hold anything that is given.
    segments: Vec<Segment>,
    /// Of the last record that is given.
    lsn_last: u64,
}

impl Log {
    /// Records whose sequence is at least `from`, up to the last that is durable now, readable on
    /// another thread while this log goes on. None if `from` is above all of them. Reads nothing yet.
    ///
    /// # Errors
    /// `HistoryGone` when `from` was released.
    pub fn history(&self, from: u64) -> Result<History, WalError> {
        self.history_up_to(from, self.durable)
    }

    /// As [`Log::history`], up to the last record that was flushed: power loss may take back the last.
    ///
    /// # Errors
    /// `HistoryGone` when `from` was released.
    pub fn history_written(&self, from: u64) -> Result<History, WalError> {
        self.history_up_to(from, self.written)
    }

    fn history_up_to(&self, from: u64, lsn_last: u64) -> Result<History, WalError> {
        // the first sequence there can be
        let (from, first) = (from.max(1), self.first_sequence());
        if from < first {
            return Err(WalError::HistoryGone { from, first });
        }
        // the last one: if a truncation made it so, all from `from` on was taken back before it
        let begin = self.segments.iter().rposition(|segment| segment.header.sequence <= from).unwrap_or(0);
        let holds = |segment: &&Segment| segment.header.lsn <= lsn_last;
        let segments = self.segments.iter().skip(begin).take_while(holds).cloned().collect();
        Ok(History { log: self.kept.0.clone(), from, segments, lsn_last })
    }
}

impl History {
    /// Give each record to `replay`, and each truncation, in the order in which they were written, as
    /// [`Log::open`] does: records may be given that a later [`Replayed::Truncated`] takes back. May
    /// be called again, and begins anew.
    ///
    /// # Errors
    /// `HistoryGone`: the log released records before they were read, or was closed and its files are
    /// in use again; what was given until then is right, and without a gap. `Corrupt`; `Io`; what
    /// `replay` returns.
    pub fn read<E: From<WalError>>(&self, replay: &mut dyn FnMut(Replayed<'_>) -> Result<(), E>) -> Result<(), E> {
        let Some(first) = self.segments.first() else { return Ok(()) };
        let mut sequence = first.header.sequence;
        for (nth, segment) in self.segments.iter().enumerate() {
            let lsn_end = self.segments.get(nth + 1).map_or(self.lsn_last + 1, |next| next.header.lsn);
            let mut scan = Scan::new(segment);
            for lsn in segment.header.lsn..lsn_end {
                let offset = scan.offset;
                let found = match scan.step() {
                    Ok(Some(found)) if found.head.lsn == lsn => found,
                    Ok(_) => return Err(self.lost(segment, offset, lsn, None).into()),
                    Err(error) => return Err(self.lost(segment, offset, lsn, Some(error)).into()),
                };
                visit(segment, found, self.from - 1, &mut sequence, replay)?;
            }
        }
        Ok(())
    }

    /// Why a record that was durable is not where it was.
    fn lost(&self, segment: &Segment, offset: u64, lsn: u64, error: Option<WalError>) -> WalError {
        if self.log.is_released(segment) {
            return WalError::HistoryGone { from: self.from, first: self.log.first_sequence() };
        }
        match error {
            Some(WalError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                WalError::corrupt(&segment.name(), offset.max(RECORDS), format!("the file was cut short: lsn={lsn}"))
            }
            Some(error) => error,
            None => WalError::corrupt(&segment.name(), offset, format!("a damaged record that was durable: lsn={lsn}")),
        }
    }
}

/// Which segments are still what they were: shared by a log and the histories of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    /// Of the first segment that was not released.
    number: AtomicU64,
    sequence: AtomicU64,
}

impl Kept {
    /// From here on the files of segments below `number` may become others.
    fn release_below(&self, number: u64, sequence: u64) {
        self.0.sequence.store(sequence, Ordering::Relaxed);
        self.0.number.store(number, Ordering::Release);
        // before any write into those files, which happens outside of what the language orders
        fence(Ordering::SeqCst);
    }

    /// Whether what was read of `segment` just now may have been another's.
    fn is_released(&self, segment: &Segment) -> bool {
        fence(Ordering::SeqCst);
        segment.header.number < self.0.number.load(Ordering::Acquire)
    }

    fn first_sequence(&self) -> u64 {
        self.0.sequence.load(Ordering::Relaxed)
    }
}

/// The log's own [`Kept`]. With the log everything is released: who opens it next reuses its files
/// and tells nobody.
#[derive(Debug, Default)]
pub(crate) struct Keeper(Kept);

impl Keeper {
    pub fn release_before(&self, first: &Segment) {
        self.0.release_below(first.header.number, first.header.sequence);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.release_below(u64::MAX, self.0.first_sequence());
    }
}
