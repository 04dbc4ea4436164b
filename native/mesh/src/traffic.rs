//! What goes to other members and comes from them: counted, and what of it is bounded.
//!
//! Bounded are the blocks that a member fetches to have them, and those that it sends to members that do: each
//! direction by itself. Not bounded, so that nobody who waits is behind copies that nobody waits for: words, what a
//! caller reads, and short contents that go with the news of them. Invariant: what was found by a comparison, which may
//! be everything, and what is still being written go along only as far as the bound has room at once; else they are
//! fetched.

use crate::budget::Budget;
use crate::wanted::Why;
use macula_core::Clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Who asks for blocks does not wait longer for one answer: it is told to come again.
const SEND_WAIT_MAX: Duration = Duration::from_secs(5);

/// Of one mesh.
#[derive(Debug)]
pub(crate) struct Traffic {
    fetched: Budget,
    moved: Budget,
    sent: Budget,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Traffic {
    /// So many bytes in a second, in each direction; of what moves because members came or went, so many.
    pub fn new(bandwidth: Option<u64>, repair_rate: u64) -> Self {
        let (fetched, sent, moved) = (Budget::new(bandwidth), Budget::new(bandwidth), Budget::new(Some(repair_rate)));
        Self { fetched, moved, sent, bytes_sent: AtomicU64::new(0), bytes_received: AtomicU64::new(0) }
    }

    /// Wait until so many bytes that merely move may be fetched, as far as that is bounded for itself.
    pub async fn pass_moved(&self, clock: &dyn Clock, why: Why, bytes: u64) {
        if why == Why::Moved {
            self.moved.pass(clock, bytes).await;
        }
    }

    /// Wait until so many bytes may be fetched.
    pub async fn pass_fetched(&self, clock: &dyn Clock, bytes: u64) {
        self.fetched.pass(clock, bytes).await;
    }

    /// How long to wait before so many bytes of blocks are sent; or after which time to ask again.
    pub fn may_send(&self, clock: &dyn Clock, bytes: u64) -> Result<Duration, Duration> {
        self.sent.try_book(clock.monotonic(), bytes, SEND_WAIT_MAX)
    }

    /// Whether so many bytes that nobody asked for may be sent at once.
    pub fn may_send_along(&self, clock: &dyn Clock, bytes: u64) -> bool {
        self.sent.try_book(clock.monotonic(), bytes, Duration::ZERO).is_ok()
    }

    /// The same of what came without being asked for.
    pub fn may_come_along(&self, clock: &dyn Clock, bytes: u64) -> bool {
        self.fetched.try_book(clock.monotonic(), bytes, Duration::ZERO).is_ok()
    }

    /// A message.
    pub fn count_sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A message.
    pub fn count_received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of messages since the mesh was opened: sent, and received.
    pub fn counts(&self) -> (u64, u64) {
        (self.bytes_sent.load(Ordering::Relaxed), self.bytes_received.load(Ordering::Relaxed))
    }
}
