//! How soon a member answers who reads, so that the nearest of those that have a file is asked.
//!
//! Invariant: what is not known, or was measured long ago, counts as the soonest; so each is measured again, and none is
//! passed over for ever because it was slow once.

use parking_lot::Mutex;
use std::time::Duration;

/// A measure is good for that long.
const GOOD: Duration = Duration::from_secs(60);
/// A new measure moves the average by one part of so many.
const PARTS: u32 = 8;

/// The average of one member, and when it was measured last, by the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Near(Mutex<Option<(Duration, Duration)>>);

impl Near {
    /// It answered now what it was asked then.
    pub fn answered(&self, then: Duration, now: Duration) {
        let took = now.saturating_sub(then);
        let mut known = self.0.lock();
        let average = match *known {
            Some((average, at)) if is_good(at, now) => (average * (PARTS - 1) + took) / PARTS,
            _ => took,
        };
        *known = Some((average, now));
    }

    /// How soon it will answer.
    pub fn expected(&self, now: Duration) -> Duration {
        self.0.lock().filter(|(_, at)| is_good(*at, now)).map_or(Duration::ZERO, |(average, _)| average)
    }
}

fn is_good(at: Duration, now: Duration) -> bool {
    now.saturating_sub(at) < GOOD
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn who_is_unknown_comes_first_and_so_does_whose_measure_is_old() {
        let (unknown, soon, late) = (Near::default(), Near::default(), Near::default());
        soon.answered(ms(1_000), ms(1_010));
        late.answered(ms(1_000), ms(1_900));
        let all = [&unknown, &soon, &late].map(|near| near.expected(ms(3_000)));
        assert!(all.is_sorted() && all[0] < all[1] && all[1] < all[2], "{all:?}");
        let old = ms(3_000) + GOOD;
        assert!([&soon, &late].iter().all(|near| near.expected(old) == Duration::ZERO));
        // what was measured then weighs nothing now
        late.answered(old, old + ms(5));
        assert_eq!(late.expected(old + ms(5)), ms(5));
    }

    #[test]
    fn one_slow_answer_is_not_all_and_many_are() {
        let near = Near::default();
        near.answered(ms(0), ms(8));
        near.answered(ms(10), ms(98));
        assert_eq!(near.expected(ms(98)), ms(18));
        for n in 1..40 {
            near.answered(ms(n * 100), ms(n * 100 + 88));
        }
        assert!(near.expected(ms(4_000)) > ms(80));
    }
}
