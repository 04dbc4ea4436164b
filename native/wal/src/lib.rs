//! A segmented, checksummed log: the commit log of the key-value store and of Raft, and the history
//! that a restore to a point in time reads.
//!
//! [`Log`] appends, syncs once for all that was appended, takes back a suffix and lets go of a
//! prefix; [`Spares`] makes room and [`History`] reads on other threads. Formats: docs/formats.md,
//! "Log". A torn tail is cut, damage and gaps are refused by name.

mod error;
mod history;
mod log;
mod meta;
mod open;
mod record;
mod scan;
mod segment;
mod spares;

pub use error::WalError;
pub use history::History;
pub use log::Log;
pub use meta::META_LEN_MAX;
pub use record::{KIND_OWN, PAYLOAD_LEN_MAX};
pub use spares::{Released, Spares};

/// How a log behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first segment, bytes. Each later one is twice as long, up to the maximum.
    pub segment_bytes_min: u64,
    /// The longest segment, bytes; one record may need a longer.
    pub segment_bytes_max: u64,
    /// Records that were let go of stay in the segments behind them: as few as hold this, bytes.
    pub history_bytes: u64,
    /// In this many segments at most, each of which is an open file.
    pub history_segments_max: usize,
    /// Of those that are there when the log is opened, in this many: each opening begins a segment.
    pub history_segments_old_max: usize,
    /// And at most for this long, milliseconds.
    pub history_ms: u64,
    /// Memory that is kept for appending, bytes.
    pub buffer_bytes_max: usize,
}

impl Default for Options {
    /// Keeps no history.
    fn default() -> Self {
        Self {
            segment_bytes_min: 64 << 10,
            segment_bytes_max: 8 << 20,
            history_bytes: 0,
            history_segments_max: usize::MAX,
            history_segments_old_max: usize::MAX,
            history_ms: u64::MAX,
            buffer_bytes_max: 1 << 20,
        }
    }
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The user's number: one more than the record's before.
    pub sequence: u64,
    /// As appended.
    pub kind: u8,
    /// As appended.
    pub version: u8,
    /// Wall clock when it was appended, milliseconds since 1970; never less than the record's before.
    pub time_ms: u64,
    /// As appended.
    pub payload: &'a [u8],
}

/// What reading a log gives, in the order in which it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed<'a> {
    /// A record.
    Record(Record<'a>),
    /// Records from `from` on, given before, were taken back.
    Truncated {
        /// The first of them.
        from: u64,
    },
}
