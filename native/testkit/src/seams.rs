//! Time and chance that a test sets.

use macula_core::{Chance, Clock};
use parking_lot::Mutex;
use std::time::Duration;

/// A clock that stands still unless told; sleeping advances it at once. Clones need an `Arc`.
#[derive(Debug)]
pub struct SimClock(Mutex<(u64, Duration)>);

impl Default for SimClock {
    fn default() -> Self {
        Self::new(1_700_000_000_000)
    }
}

impl SimClock {
    /// A clock whose wall shows `wall_ms` milliseconds since 1970 and whose monotonic time is 0.
    pub fn new(wall_ms: u64) -> Self {
        Self(Mutex::new((wall_ms, Duration::ZERO)))
    }

    /// Let the wall clock jump, forwards or backwards; monotonic time stays.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.0.lock().0 = wall_ms;
    }

    /// Let both go on.
    pub fn advance(&self, span: Duration) {
        let mut now = self.0.lock();
        now.0 += span.as_millis() as u64;
        now.1 += span;
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.0.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().1
    }

    fn sleep(&self, span: Duration) {
        self.advance(span);
    }
}

/// Chance that repeats for the same seed.
#[derive(Debug)]
pub struct SeededChance(Mutex<fastrand::Rng>);

impl SeededChance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
}

impl Chance for SeededChance {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}
