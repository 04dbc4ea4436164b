//! Records against a model that remembers who replaced what: thousands of runs of some replicas that write,
//! delete, resolve and hear of each other in any order, late, doubly or never.
//!
//! `MACULA_SEED` runs one again; `MACULA_TORTURE` runs more of them.

use macula_mesh::{Content, ContentId, Dot, Record, Stamp};
use std::collections::BTreeSet;

const RUNS: u64 = 3_000;
const TORTURE_RUNS: u64 = 100_000;

struct Replica {
    record: Record,
    /// A wall clock of its own, which may be far from the others'.
    stamp: u64,
}

struct World {
    rng: fastrand::Rng,
    replicas: Vec<Replica>,
    /// Records on their way.
    late: Vec<Record>,
    made: BTreeSet<Dot>,
    replaced: BTreeSet<Dot>,
    contents: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(2..=5);
        let replica = |n: usize| Replica { record: Record::default(), stamp: 1_000 * n as u64 };
        let replicas = (0..count).map(replica).collect();
        let (late, made, replaced, contents) = Default::default();
        Self { rng, replicas, late, made, replaced, contents }
    }

    fn step(&mut self) {
        let at = self.rng.usize(..self.replicas.len());
        match self.rng.u32(..10) {
            0..=2 => self.change(at, |world| Some(world.content()), false),
            3 => self.change(at, |_| None, false),
            4 => self.change(at, |world| Some(world.content()), true),
            5 => self.claim(at),
            6 => {
                let record = self.replicas[at].record.clone();
                self.late.push(record);
            }
            7 if !self.late.is_empty() => {
                let record = self.late[self.rng.usize(..self.late.len())].clone();
                self.hear(at, &record);
            }
            _ => {
                let from = self.rng.usize(..self.replicas.len());
                let record = self.replicas[from].record.clone();
                self.hear(at, &record);
            }
        }
    }

    fn content(&mut self) -> Content {
        self.contents += 1;
        let bytes = self.contents.to_le_bytes();
        Content { id: ContentId::of_block(&bytes), len: 8 }
    }

    fn change(&mut self, at: usize, content: impl FnOnce(&mut Self) -> Option<Content>, resolves: bool) {
        let content = content(self);
        let replica = &mut self.replicas[at];
        replica.stamp += 1;
        let dot = Dot { stamp: Stamp(replica.stamp), replica: at as u64 };
        let before: BTreeSet<Dot> = replica.record.versions().iter().map(|version| version.dot).collect();
        let shown = replica.record.winner().map(|winner| winner.dot);
        let losers: BTreeSet<Dot> = replica.record.losers().map(|version| version.dot).collect();
        match resolves {
            true => replica.record.resolve(dot, content),
            false => replica.record.write(dot, content),
        }
        let after: BTreeSet<Dot> = replica.record.versions().iter().map(|version| version.dot).collect();
        assert_eq!(replica.record.winner().map(|winner| winner.dot), Some(dot), "who writes sees what it wrote");
        assert!(!after.contains(&shown.unwrap_or(Dot { stamp: Stamp(0), replica: 0 })));
        if !resolves {
            assert!(losers.is_subset(&after), "a write replaces no version that the name does not show");
        }
        self.replaced.extend(before.difference(&after));
        self.made.insert(dot);
    }

    fn claim(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        replica.stamp += 1;
        let of = replica.record.versions().iter().map(|version| version.dot).filter(|_| self.rng.bool()).collect();
        replica.record.claim(at as u64, Stamp(replica.stamp), of);
    }

    fn hear(&mut self, at: usize, record: &Record) {
        let own = &mut self.replicas[at].record;
        let mut turned = record.clone();
        turned.merge(own);
        let before = own.clone();
        assert_eq!(own.merge(record), *own != before);
        assert_eq!(*own, turned, "who merges with whom does not matter");
        assert!(!own.merge(record), "twice is once");
        assert!(own.is_sound());
        // another clock is followed only where it is near
        if self.rng.bool() {
            self.replicas[at].stamp = self.replicas[at].stamp.max(record.last().0);
        }
    }

    fn end(&mut self) {
        for _ in 0..2 {
            for at in 0..self.replicas.len() {
                for from in 0..self.replicas.len() {
                    let record = self.replicas[from].record.clone();
                    self.hear(at, &record);
                }
            }
        }
        let late = std::mem::take(&mut self.late);
        late.iter().for_each(|record| self.hear(0, record));
        let first = &self.replicas[0].record;
        assert!(self.replicas.iter().all(|replica| replica.record == *first), "all agree");
        let left: BTreeSet<Dot> = first.versions().iter().map(|version| version.dot).collect();
        let expected: BTreeSet<Dot> = self.made.difference(&self.replaced).copied().collect();
        assert_eq!(left, expected, "what nobody replaced is there, and nothing else");
        let shown = first.winner().map(|winner| winner.content.is_some());
        let is_above = |version: &macula_mesh::Version| !first.versions().iter().any(|v| v.over.contains(&version.dot));
        let written = first.versions().iter().any(|version| version.content.is_some() && is_above(version));
        assert_eq!(shown.unwrap_or(false), written, "nothing is deleted that somebody wrote beside it");
    }
}

#[test]
fn replicas_agree_and_nothing_is_lost() {
    let setting = |name: &str| std::env::var_os(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
    let (first, runs) = match setting("MACULA_SEED") {
        Some(seed) => (seed, 1),
        None if std::env::var_os("MACULA_TORTURE").is_some() => (fastrand::u64(..1 << 40), TORTURE_RUNS),
        None => (fastrand::u64(..1 << 40), RUNS),
    };
    for seed in first..first + runs {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let steps = world.rng.usize(1..80);
            (0..steps).for_each(|_| world.step());
            world.end();
        });
        assert!(run.is_ok(), "MACULA_SEED={seed}");
    }
}

#[test]
fn a_delete_hides_what_its_author_knew_and_nothing_else() {
    let content = |n: u8| Some(Content { id: ContentId::of_block(&[n]), len: 1 });
    let dot = |stamp, replica| Dot { stamp: Stamp(stamp), replica };
    let (mut one, mut other) = (Record::default(), Record::default());
    one.write(dot(1, 1), content(1));
    other.write(dot(2, 2), content(2));
    one.merge(&other);
    assert_eq!(one.winner().map(|winner| winner.dot), Some(dot(2, 2)));
    one.write(dot(3, 1), None);
    assert_eq!(one.winner().map(|winner| winner.content), Some(None), "the older one does not come up");
    assert_eq!(one.losers().map(|version| version.dot).collect::<Vec<_>>(), [dot(1, 1)], "and can be had");
    // written elsewhere before that was known, with a clock that is behind
    other.write(dot(2, 3), content(3));
    one.merge(&other);
    assert_eq!(one.winner().map(|winner| winner.dot), Some(dot(2, 3)), "it was not deleted by anybody");
}

#[test]
fn a_deletion_is_known_when_all_say_so() {
    let dot = |stamp, replica| Dot { stamp: Stamp(stamp), replica };
    let mut one = Record::default();
    one.write(dot(1, 1), Some(Content { id: ContentId::of_block(b"1"), len: 1 }));
    one.claim(1, Stamp(2), vec![dot(1, 1)]);
    assert!(!one.is_known_deleted(&[1]));
    let mut other = one.clone();
    one.write(dot(3, 1), None);
    one.claim(1, Stamp(4), vec![dot(3, 1)]);
    assert!(one.is_known_deleted(&[1]) && !one.is_known_deleted(&[1, 2]));
    // of what one has not heard nobody knows
    other.write(dot(5, 2), None);
    other.claim(2, Stamp(6), vec![dot(5, 2)]);
    one.merge(&other);
    assert!(!one.is_known_deleted(&[1, 2]), "two deletions, of which each knows one");
    one.claim(1, Stamp(7), vec![dot(3, 1), dot(5, 2)]);
    one.claim(2, Stamp(8), vec![dot(3, 1), dot(5, 2)]);
    assert!(one.is_known_deleted(&[1, 2]) && !one.is_known_deleted(&[1, 2, 3]));
}
