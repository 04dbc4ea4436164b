//! What other members sent or said that cannot be so, and was refused: for whoever runs this node.
//!
//! Invariant: whatever they do, it takes no more room than a line for each member, and whoever listens hears of each
//! member once a minute at most.

use crate::MeshError;
use macula_core::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Members of which it is known; of more nothing is.
const MEMBERS_MAX: usize = 1_000;
/// Bytes of a reason, at most: it may quote them.
const WHY_MAX: usize = 300;
/// Between two tellings of one member.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What was refused of one member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub member: String,
    /// How often, since the mesh was opened.
    pub count: u64,
    /// The last time: why.
    pub why: String,
    /// And when, milliseconds since 1970.
    pub at_ms: u64,
}

type Listener = Arc<dyn Fn(&Refusal) + Send + Sync>;

/// Of all members.
pub(crate) struct Refusals {
    clock: Arc<dyn Clock>,
    of: Mutex<BTreeMap<String, Noted>>,
    listener: Mutex<Option<Listener>>,
}

#[derive(Default)]
struct Noted {
    refusal: Refusal,
    told: Option<Duration>,
}

impl Refusals {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, of: Mutex::default(), listener: Mutex::default() }
    }

    /// Something of a member was refused.
    pub fn note(&self, member: &str, why: &str) {
        let (now, at_ms) = (self.clock.monotonic(), self.clock.wall_ms());
        let mut of = self.of.lock();
        if of.len() >= MEMBERS_MAX && !of.contains_key(member) {
            return;
        }
        let Noted { refusal, told } = of.entry(member.to_owned()).or_default();
        let why = cut(why).to_owned();
        *refusal = Refusal { member: member.to_owned(), count: refusal.count + 1, why, at_ms };
        let Some(listener) = self.listener.lock().clone() else { return };
        if told.is_none_or(|told| now.saturating_sub(told) >= TOLD_EVERY) {
            *told = Some(now);
            let refusal = refusal.clone();
            drop(of);
            listener(&refusal);
        }
    }

    /// The same, if it is an error of the member's and not of a link or of this side.
    pub fn note_error(&self, member: &str, error: &MeshError) {
        if matches!(error, MeshError::Malformed(_) | MeshError::Unruly(_) | MeshError::Invalid(_)) {
            self.note(member, &error.to_string());
        }
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Refusal> {
        self.of.lock().values().map(|noted| noted.refusal.clone()).collect()
    }

    /// Who hears of it from now on, instead of who did before.
    pub fn listen(&self, listener: impl Fn(&Refusal) + Send + Sync + 'static) {
        *self.listener.lock() = Some(Arc::new(listener));
    }
}

fn cut(why: &str) -> &str {
    let ends = why.char_indices().map(|(at, char)| at + char.len_utf8());
    &why[..ends.take_while(|end| *end <= WHY_MAX).last().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use macula_testkit::SimClock;

    #[test]
    fn each_member_is_told_of_once_a_minute_and_all_are_counted() {
        let clock = Arc::new(SimClock::new(1_000));
        let refusals = Refusals::new(clock.clone());
        let told = Arc::new(Mutex::new(Vec::new()));
        refusals.note("a", "before anybody listens");
        let hears = told.clone();
        refusals.listen(move |refusal| hears.lock().push((refusal.member.clone(), refusal.count)));
        // at 1, 2, 59,999, 60,001, 60,002 and 120,001 ms
        for later in [1, 1, 59_997, 2, 1, 59_999] {
            clock.advance(Duration::from_millis(later));
            refusals.note("a", &"ä".repeat(200));
        }
        refusals.note_error("b", &MeshError::Closed);
        refusals.note_error("b", &MeshError::Malformed("x".into()));
        let of = |member: &str, count| (member.to_owned(), count);
        assert_eq!(*told.lock(), [of("a", 2), of("a", 5), of("a", 7), of("b", 1)]);
        let [a, b] = &refusals.all()[..] else { panic!("two") };
        assert_eq!((a.count, &a.why, a.at_ms), (7, &"ä".repeat(150), 121_001));
        assert_eq!((&b.member[..], b.count, &b.why[..]), ("b", 1, "x"));
    }
}
