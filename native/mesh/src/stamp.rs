//! When a change was made: a hybrid logical clock (Kulkarni and others, "Logical Physical Clocks", 2014).
//!
//! Invariant: what this replica stamps grows, whatever the wall clock does, also over restarts, because
//! the last one is durable before anybody sees it; and a stamp is later than those it has observed.

use macula_core::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How far ahead of this machine's clock another's stamps are followed, milliseconds: one whose clock is wrong by
/// years would else take everybody's along. Who made what after whom does not hang on it, see [`crate::Record`].
const AHEAD_MS_MAX: u64 = 600_000;
const COUNTER_BITS: u32 = 16;

/// Milliseconds since 1970 in the upper 48 bits, a counter below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first of a millisecond.
    pub fn at(wall_ms: u64) -> Self {
        Self(wall_ms << COUNTER_BITS)
    }

    /// Milliseconds since 1970.
    pub fn wall_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }
}

/// Gives stamps.
#[derive(Debug)]
pub struct Stamps {
    clock: Arc<dyn Clock>,
    last: Mutex<Stamp>,
}

impl Stamps {
    /// Behind `last`, the last one that is durable.
    pub fn after(last: Stamp, clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Mutex::new(last) }
    }

    /// One that is later than all before.
    pub fn next(&self) -> Stamp {
        let mut last = self.last.lock();
        *last = Stamp::at(self.clock.wall_ms()).max(Stamp(last.0 + 1));
        *last
    }

    /// The last one that was given or observed.
    pub fn last(&self) -> Stamp {
        *self.last.lock()
    }

    /// Whether this replica can have given it: who says that it gave a later one would have what it writes taken for
    /// seen already.
    pub fn may_have_given(&self, stamp: Stamp) -> bool {
        stamp.wall_ms() <= self.clock.wall_ms().saturating_add(AHEAD_MS_MAX) || stamp <= *self.last.lock()
    }

    /// Another replica's: what is stamped from now on is later, unless its clock is far ahead.
    pub fn observe(&self, other: Stamp) {
        if other.wall_ms() <= self.clock.wall_ms().saturating_add(AHEAD_MS_MAX) {
            let mut last = self.last.lock();
            *last = (*last).max(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_testkit::SimClock;

    #[test]
    fn stamps_grow_whatever_clocks_do() {
        let clock = Arc::new(SimClock::new(1_000_000));
        let stamps = Stamps::after(Stamp::at(5), clock.clone());
        let first = stamps.next();
        assert_eq!(first.wall_ms(), 1_000_000);
        assert!(stamps.next() > first);
        let ahead = Stamp::at(1_000_000 + AHEAD_MS_MAX);
        stamps.observe(ahead);
        assert!(stamps.next() > ahead);
        stamps.observe(Stamp::at(1_000_001 + AHEAD_MS_MAX));
        assert!(stamps.next().wall_ms() <= 1_000_000 + AHEAD_MS_MAX);
    }
}
