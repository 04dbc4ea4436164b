//! How much may pass in a time: a bucket that fills at a rate, as time that is booked ("generic cell rate algorithm",
//! ITU-T I.371).
//!
//! Who passes books the time that its bytes take, behind all that is booked, and waits once until that is less than a
//! burst away. Invariant: in any span T there pass at most rate times T and a burst (a longer piece counts as a burst
//! of its own); what was booked before alone says how long one waits, so that everybody comes through.

use macula_core::Clock;
use parking_lot::Mutex;
use std::time::Duration;

/// Bytes that pass at once after a time of rest, at least: the longest message of blocks.
const BURST_MIN: u64 = 1 << 20;
/// Of a second's bytes: timers are late by a millisecond or two, and what that takes comes in again.
const BURST_OF: u64 = 10;
const NANOS: u128 = 1_000_000_000;

/// A rate that many share.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes in a second; `None`: as many as there are.
    rate: Option<u64>,
    /// Nanoseconds of the monotonic clock until which all is booked.
    booked: Mutex<u128>,
}

impl Budget {
    /// So many bytes in a second.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.map(|rate| rate.max(1)), booked: Mutex::default() }
    }

    /// Book so many bytes; how long to wait before they pass. Who does not wait for them has spent them all the same.
    pub fn book(&self, now: Duration, bytes: u64) -> Duration {
        self.try_book(now, bytes, Duration::MAX).unwrap_or_else(|wait| wait)
    }

    /// The same, unless it would take longer than `wait_max`: then nothing is booked, and so long it would take.
    pub fn try_book(&self, now: Duration, bytes: u64, wait_max: Duration) -> Result<Duration, Duration> {
        let Some(rate) = self.rate else { return Ok(Duration::ZERO) };
        let cost = |bytes: u64| (u128::from(bytes) * NANOS).div_ceil(u128::from(rate));
        let burst = cost(BURST_MIN.max(rate / BURST_OF));
        let now = now.as_nanos();
        let mut booked = self.booked.lock();
        let until = (*booked).max(now) + cost(bytes);
        let wait = until.saturating_sub(now + burst);
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        if wait > wait_max {
            return Err(wait);
        }
        *booked = until;
        Ok(wait)
    }

    /// Wait until so many bytes may pass.
    pub async fn pass(&self, clock: &dyn Clock, bytes: u64) {
        let wait = self.book(clock.monotonic(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, BURST_MIN, BURST_OF};
    use std::time::Duration;

    struct Passed {
        asked: Duration,
        at: Duration,
        bytes: u64,
    }

    /// Askers that come at any time, often all at once, with pieces up to two bursts long.
    fn run(rng: &mut fastrand::Rng, rate: u64) -> Vec<Passed> {
        let (budget, mut now, mut passed) = (Budget::new(Some(rate)), Duration::from_secs(5), Vec::new());
        for _ in 0..rng.usize(2..120) {
            if rng.u8(..3) == 0 {
                now += Duration::from_nanos(rng.u64(..3_000_000_000));
            }
            let bytes = rng.u64(..=2 * BURST_MIN) >> rng.u32(..20);
            passed.push(Passed { asked: now, at: now + budget.book(now, bytes), bytes });
        }
        passed
    }

    #[test]
    fn in_no_span_passes_more_than_the_rate_and_a_burst() {
        for seed in 0..400 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = 1 << rng.u32(10..31);
            let passed = run(&mut rng, rate);
            let longest = passed.iter().map(|piece| piece.bytes).max().unwrap_or_default();
            let burst = BURST_MIN.max(rate / BURST_OF).max(longest);
            for first in 0..passed.len() {
                let mut bytes = 0;
                for last in &passed[first..] {
                    bytes += last.bytes;
                    let span = (last.at - passed[first].at).as_nanos();
                    let may = u128::from(rate) * span / 1_000_000_000 + u128::from(burst);
                    assert!(u128::from(bytes) <= may + 1, "seed={seed} rate={rate} bytes={bytes} may={may}");
                }
            }
        }
    }

    /// The same as bytes: a bucket fills, everybody takes what it wants, and waits until what is owed has come.
    #[test]
    fn all_come_through_in_their_order_as_soon_as_a_bucket_of_bytes_has_it() {
        for seed in 0..400 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = 1 << rng.u32(10..31);
            let passed = run(&mut rng, rate);
            assert!(passed.windows(2).all(|two| two[0].at <= two[1].at), "seed={seed}");
            let (rate, burst) = (rate as f64, BURST_MIN.max(rate / BURST_OF) as f64);
            let (mut level, mut now) = (burst, Duration::ZERO);
            for piece in passed {
                level = burst.min(level + (piece.asked - now).as_secs_f64() * rate) - piece.bytes as f64;
                now = piece.asked;
                let (wait, expected) = ((piece.at - now).as_secs_f64(), (-level / rate).max(0.0));
                assert!((wait - expected).abs() < 1e-5, "seed={seed} wait={wait} expected={expected}");
            }
        }
    }

    #[test]
    fn who_does_not_want_to_wait_so_long_takes_nothing() {
        let (budget, second) = (Budget::new(Some(BURST_MIN)), Duration::from_secs(1));
        assert_eq!(budget.book(second, BURST_MIN), Duration::ZERO);
        assert_eq!(budget.try_book(second, 2 * BURST_MIN, second), Err(2 * second));
        assert_eq!(budget.try_book(second, BURST_MIN, second), Ok(second));
        assert_eq!(budget.try_book(3 * second, BURST_MIN, Duration::ZERO), Ok(Duration::ZERO));
        let open = Budget::new(None);
        assert_eq!(open.book(second, u64::MAX), Duration::ZERO);
    }
}
