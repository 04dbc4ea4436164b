//! Deletions that are forgotten, against members that never forget: thousands of runs of some replicas that write,
//! delete, compare with each other step by step, hear what was said long ago, lose their index, retire and come back.
//!
//! After each step a replica shows exactly what one shows that forgets nothing. `MACULA_SEED` runs one again;
//! `MACULA_TORTURE` runs more of them.

use macula_mesh::{Content, ContentId, Dot, Floor, Record, Stamp};
use std::collections::{BTreeMap, BTreeSet};

const RUNS: u64 = 3_000;
const TORTURE_RUNS: u64 = 100_000;
const NAMES: usize = 3;

/// What happened to a name, as far as somebody knows.
#[derive(Clone, Default)]
struct History {
    made: BTreeSet<Dot>,
    gone: BTreeSet<Dot>,
}

impl History {
    fn merge(&mut self, other: &Self) {
        self.made.extend(&other.made);
        self.gone.extend(&other.gone);
    }

    fn left(&self) -> BTreeSet<Dot> {
        self.made.difference(&self.gone).copied().collect()
    }
}

#[derive(Clone, Default)]
struct Row {
    record: Record,
    /// What the record stands for.
    told: History,
}

/// A comparison with another replica, that has begun.
#[derive(Clone)]
struct Comparison {
    with: u64,
    floor: Floor,
    histories: Vec<History>,
    left: Vec<usize>,
}

#[derive(Clone)]
struct Replica {
    number: u64,
    stamp: u64,
    rows: BTreeMap<usize, Row>,
    floor: Floor,
    /// All that it ever knew.
    histories: Vec<History>,
    comparison: Option<Comparison>,
    is_member: bool,
}

impl Replica {
    fn new(number: u64, stamp: u64) -> Self {
        let histories = vec![History::default(); NAMES];
        let (rows, floor, comparison) = Default::default();
        Self { number, stamp, rows, floor, histories, comparison, is_member: true }
    }

    fn row(&self, name: usize) -> Row {
        self.rows.get(&name).cloned().unwrap_or_default()
    }

    fn has_seen(&self, dot: &Dot) -> bool {
        dot.replica == self.number || self.floor.has(dot)
    }

    /// What it says that it has seen.
    fn says(&self) -> Floor {
        let mut floor = self.floor.clone();
        floor.raise(self.number, Stamp(self.stamp));
        floor
    }

    fn hear(&mut self, name: usize, other: &Row) {
        let mut row = self.row(name);
        row.record.refuse(&other.record, |dot| self.has_seen(dot));
        row.record.merge(&other.record);
        row.told.merge(&other.told);
        self.histories[name].merge(&other.told);
        self.tell_seen(name, &mut row);
        self.claim(&mut row);
        assert!(row.record.is_sound());
        self.rows.insert(name, row);
    }

    /// Of a replica that was seen up to a version all before it is seen, too, and what is not there is gone.
    fn tell_seen(&self, name: usize, row: &mut Row) {
        let is_gone = |dot: &&Dot| row.record.has_seen(dot) && row.record.version(dot).is_none();
        let gone: Vec<Dot> = self.histories[name].made.iter().filter(is_gone).copied().collect();
        row.told.made.extend(&gone);
        row.told.gone.extend(&gone);
    }

    fn claim(&mut self, row: &mut Row) {
        self.stamp += 1;
        let of = row.record.versions().iter().map(|version| version.dot).collect();
        row.record.claim(self.number, Stamp(self.stamp), of);
    }

    fn forget(&mut self, members: &[u64]) {
        let (number, floor) = (self.number, self.floor.clone());
        let has_seen = |dot: Dot| dot.replica == number || floor.has(&dot);
        self.rows.retain(|name, row| {
            let is_over = row.record.is_known_deleted(members) && row.record.seen().all(has_seen);
            if is_over {
                // the deletions have done what they were for
                let left = self.histories[*name].left();
                self.histories[*name].gone.extend(left);
            }
            !is_over
        });
    }

    fn check(&self) {
        for name in 0..NAMES {
            let shown: BTreeSet<Dot> = self.row(name).record.versions().iter().map(|version| version.dot).collect();
            assert_eq!(shown, self.histories[name].left(), "{name} on {}", self.number);
        }
    }
}

struct World {
    rng: fastrand::Rng,
    replicas: Vec<Replica>,
    /// Records on their way.
    late: Vec<(usize, Row)>,
    deletions: BTreeSet<Dot>,
    numbers: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.u64(2..=4);
        // clocks are far from each other
        let replicas = (0..count).map(|number| Replica::new(number, 1_000 * number)).collect();
        Self { rng, replicas, late: Vec::new(), deletions: BTreeSet::new(), numbers: count }
    }

    fn members(&self) -> Vec<u64> {
        self.replicas.iter().filter(|replica| replica.is_member).map(|replica| replica.number).collect()
    }

    fn step(&mut self) {
        let (at, name) = (self.rng.usize(..self.replicas.len()), self.rng.usize(..NAMES));
        match self.rng.u32(..40) {
            0..=5 => self.change(at, name, false),
            6..=9 => self.change(at, name, true),
            10..=13 if self.replicas[at].is_member => {
                let row = self.replicas[at].row(name);
                self.late.push((name, row));
            }
            14..=17 if !self.late.is_empty() && self.replicas[at].is_member => {
                let (name, row) = self.late[self.rng.usize(..self.late.len())].clone();
                self.replicas[at].hear(name, &row);
            }
            18..=31 => self.compare(at),
            32..=36 => {
                let members = self.members();
                self.replicas[at].forget(&members);
            }
            37 if self.rng.u32(..4) == 0 => {
                self.replicas[at] = Replica { is_member: self.replicas[at].is_member, ..Replica::new(self.numbers, 0) };
                self.numbers += 1;
            }
            38 => self.replicas[at].is_member ^= self.members().len() > 1 || !self.replicas[at].is_member,
            _ => {}
        }
        self.replicas.iter().for_each(Replica::check);
    }

    fn change(&mut self, at: usize, name: usize, is_deletion: bool) {
        let replica = &mut self.replicas[at];
        let mut row = replica.row(name);
        if is_deletion && row.record.shown().is_none() {
            return;
        }
        replica.stamp += 1;
        let dot = Dot { stamp: Stamp(replica.stamp), replica: replica.number };
        let content = Content { id: ContentId::of_block(&dot.stamp.0.to_le_bytes()), len: 8 };
        let before: BTreeSet<Dot> = row.record.versions().iter().map(|version| version.dot).collect();
        row.record.write(dot, (!is_deletion).then_some(content));
        let after: BTreeSet<Dot> = row.record.versions().iter().map(|version| version.dot).collect();
        for history in [&mut row.told, &mut replica.histories[name]] {
            history.made.insert(dot);
            history.gone.extend(before.difference(&after));
        }
        replica.tell_seen(name, &mut row);
        replica.claim(&mut row);
        replica.rows.insert(name, row);
        self.deletions.extend(is_deletion.then_some(dot));
    }

    /// A step of a comparison, or its beginning or end.
    fn compare(&mut self, at: usize) {
        let Some(mut comparison) = self.replicas[at].comparison.take() else {
            let with = self.rng.usize(..self.replicas.len());
            if with != at && self.replicas[at].is_member && self.replicas[with].is_member {
                let with = &self.replicas[with];
                let (number, floor, histories) = (with.number, with.says(), with.histories.clone());
                let left = (0..NAMES).collect();
                self.replicas[at].comparison = Some(Comparison { with: number, floor, histories, left });
            }
            return;
        };
        let with = self.replicas.iter().position(|with| with.number == comparison.with && with.is_member);
        let Some(with) = with.filter(|_| self.replicas[at].is_member) else { return };
        if comparison.left.is_empty() {
            return self.compared(at, &comparison);
        }
        let name = comparison.left.swap_remove(self.rng.usize(..comparison.left.len()));
        self.replicas[at].comparison = Some(comparison);
        let is_lost = self.rng.u32(..8) == 0;
        let is_merged = self.compare_name(at, with, name, is_lost);
        if !is_merged {
            self.replicas[at].comparison = None;
        }
    }

    /// Whether all of theirs is here now.
    fn compare_name(&mut self, at: usize, with: usize, name: usize, is_lost: bool) -> bool {
        let (own, other) = (self.replicas[at].row(name), self.replicas[with].row(name));
        // of a record without versions nothing is told
        if other.record.versions().is_empty() && own.record.versions().is_empty() {
            return true;
        }
        if is_lost {
            return false;
        }
        if !other.record.versions().is_empty() {
            self.replicas[at].hear(name, &other);
        }
        if self.rng.u32(..4) > 0 {
            let known = self.replicas[at].row(name);
            self.replicas[with].hear(name, &known);
            let answer = self.replicas[with].row(name);
            if self.rng.u32(..4) > 0 {
                self.replicas[at].hear(name, &answer);
            }
        }
        true
    }

    fn compared(&mut self, at: usize, comparison: &Comparison) {
        let with = self.replicas.iter().find(|with| with.number == comparison.with);
        let now = with.expect("it is there").histories.clone();
        let replica = &mut self.replicas[at];
        replica.floor.merge(&comparison.floor.clone().without(replica.number));
        for (name, theirs) in comparison.histories.iter().enumerate() {
            // what is here and gone there is told by them
            let here: BTreeSet<Dot> = replica.row(name).record.versions().iter().map(|version| version.dot).collect();
            let known = |dot: &&Dot| replica.has_seen(dot) && !here.contains(dot);
            let seen: Vec<Dot> = theirs.made.iter().filter(known).copied().collect();
            // it was heard of, or gone there by the end
            let is_right = |dot: &Dot| now[name].gone.contains(dot) || replica.histories[name].made.contains(dot);
            assert!(seen.iter().all(is_right), "{name} on {} was not seen", replica.number);
            replica.histories[name].made.extend(&seen);
            replica.histories[name].gone.extend(&seen);
        }
    }

    /// All compare with all, until nothing changes.
    fn end(&mut self) {
        self.replicas.iter_mut().for_each(|replica| (replica.is_member, replica.comparison) = (true, None));
        let members = self.members();
        for _ in 0..4 {
            for at in 0..self.replicas.len() {
                for with in (0..self.replicas.len()).filter(|with| *with != at) {
                    self.compare_all(at, with);
                }
                self.replicas[at].check();
            }
        }
        self.replicas.iter_mut().for_each(|replica| replica.forget(&members));
        for _ in 0..2 {
            (1..self.replicas.len()).for_each(|at| self.compare_all(at, 0));
            (1..self.replicas.len()).for_each(|at| self.compare_all(0, at));
        }
        let first = &self.replicas[0];
        for name in 0..NAMES {
            let shown = |replica: &Replica| -> Vec<Dot> {
                let row = replica.row(name);
                row.record.versions().iter().map(|version| version.dot).filter(|dot| self.is_content(dot)).collect()
            };
            let of_first = shown(first);
            assert!(self.replicas.iter().all(|replica| shown(replica) == of_first), "all agree");
        }
        self.check_forgotten(&members);
        // what was said long ago comes now
        for (name, row) in std::mem::take(&mut self.late) {
            for replica in &mut self.replicas {
                replica.hear(name, &row);
                replica.check();
            }
        }
    }

    fn compare_all(&mut self, at: usize, with: usize) {
        let theirs = &self.replicas[with];
        let (with_number, floor, histories) = (theirs.number, theirs.says(), theirs.histories.clone());
        for name in 0..NAMES {
            let (own, other) = (self.replicas[at].row(name), self.replicas[with].row(name));
            if own.record.versions().is_empty() && other.record.versions().is_empty() {
                continue;
            }
            self.replicas[at].hear(name, &other);
            let known = self.replicas[at].row(name);
            self.replicas[with].hear(name, &known);
            let answer = self.replicas[with].row(name);
            self.replicas[at].hear(name, &answer);
        }
        self.compared(at, &Comparison { with: with_number, floor, histories, left: Vec::new() });
    }

    fn is_content(&self, dot: &Dot) -> bool {
        !self.deletions.contains(dot)
    }

    /// A deletion is left only where somebody who is no more had a part in the name.
    fn check_forgotten(&mut self, members: &[u64]) {
        self.replicas.iter_mut().for_each(|replica| replica.forget(members));
        for row in self.replicas.iter().flat_map(|replica| replica.rows.values()) {
            let is_deleted = row.record.versions().iter().all(|version| version.content.is_none());
            let are_here = row.record.seen().all(|dot| members.contains(&dot.replica));
            assert!(!(is_deleted && are_here), "a deletion is kept for ever: {:?}", row.record);
        }
    }
}

#[test]
fn what_is_forgotten_does_not_come_back() {
    let setting = |name: &str| std::env::var_os(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
    let (first, runs) = match setting("MACULA_SEED") {
        Some(seed) => (seed, 1),
        None if std::env::var_os("MACULA_TORTURE").is_some() => (fastrand::u64(..1 << 40), TORTURE_RUNS),
        None => (fastrand::u64(..1 << 40), RUNS),
    };
    for seed in first..first + runs {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let steps = world.rng.usize(1..200);
            (0..steps).for_each(|_| world.step());
            world.end();
        });
        assert!(run.is_ok(), "MACULA_SEED={seed}");
    }
}
