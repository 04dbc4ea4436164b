//! A long random life of a store beside a `BTreeMap`: batches, conditions, turns, snapshots, pages,
//! closing, killing, moving by export and import, and a clock by which entries expire.

mod common;

use common::{count, everything, options, seed, until, Model};
use macula_core::{Clock, Disk, Kind, Kinded, SystemChance, Task};
use macula_kv::{Batch, Condition, Counted, Durability, KeyRange, Op, Options, PageLimits, Snapshot, Store, NEVER_MS};
use macula_testkit::{CrashMode, FaultDisk, SimClock};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Values, and when each expires.
type Timed = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

struct Life {
    rng: fastrand::Rng,
    disk: FaultDisk,
    clock: Arc<SimClock>,
    store: Store,
    model: Timed,
    snapshots: Vec<(Snapshot, Timed)>,
    revision: u64,
}

/// Small tables, so that there are several, and drains between the steps.
fn open_on(disk: &FaultDisk, clock: &Arc<SimClock>, rng: &mut fastrand::Rng) -> Store {
    let drain_bytes = if rng.bool() { 0 } else { 20_000 };
    let compress_len_min = if rng.bool() { 30 } else { usize::MAX };
    let overlay_bytes_max = 1 << 20;
    let options = Options { table_bytes_max: 6_000, overlay_bytes_max, drain_bytes, compress_len_min, ..options() };
    common::open_at(Arc::new(disk.clone()), common::drained_meanwhile(), clock.clone(), options).expect("opens")
}

impl Life {
    fn new(seed: u64) -> Self {
        let (disk, clock) = (FaultDisk::new(), Arc::new(SimClock::default()));
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = open_on(&disk, &clock, &mut rng);
        Self { rng, disk, clock, store, model: Timed::new(), snapshots: Vec::new(), revision: 0 }
    }

    /// What is not expired.
    fn live(&self, timed: &Timed) -> Model {
        let now_ms = self.clock.wall_ms();
        let live = timed.iter().filter(|(_, (_, expires_ms))| *expires_ms > now_ms);
        live.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    fn expires_ms(&mut self) -> u64 {
        self.clock.wall_ms() + self.rng.u64(0..2_000)
    }

    fn key(&mut self) -> Vec<u8> {
        let len = self.rng.usize(0..4);
        (0..len).map(|_| self.rng.u8(0..6)).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.rng.u8(..) < 8 { self.rng.usize(..80_000) } else { self.rng.usize(..120) };
        vec![self.rng.u8(..); len]
    }

    fn ops(&mut self) -> Vec<Op> {
        let count = self.rng.usize(0..12);
        (0..count)
            .map(|_| match self.rng.u8(..100) {
                0 => Op::Clear,
                1..30 => Op::Delete { key: self.key() },
                30..50 => Op::PutUntil { key: self.key(), value: self.value(), expires_ms: self.expires_ms() },
                _ => Op::Put { key: self.key(), value: self.value() },
            })
            .collect()
    }

    fn bound(&mut self) -> Bound<Vec<u8>> {
        match self.rng.u8(0..3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(self.key()),
            _ => Bound::Excluded(self.key()),
        }
    }

    fn apply(model: &mut Timed, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value } => drop(model.insert(key, (value, NEVER_MS))),
                Op::Delete { key } => drop(model.remove(&key)),
                Op::Clear => model.clear(),
                Op::PutUntil { key, value, expires_ms } => drop(model.insert(key, (value, expires_ms))),
                Op::Expire(_) => unreachable!("the store's own"),
            }
        }
    }

    /// Entries that expired and were not swept may be counted.
    fn same_len(&self, len: u64, timed: &Timed) {
        let (live, all) = (self.live(timed).len() as u64, timed.len() as u64);
        assert!((live..=all).contains(&len), "{len} entries, {live} of {all} live");
    }

    fn committed(&mut self, revision: u64) {
        assert!(revision > self.revision);
        self.revision = revision;
    }

    fn batch(&mut self) {
        let (ops, key) = (self.ops(), self.key());
        let live = self.live(&self.model);
        let conditions = match self.rng.u8(0..4) {
            0 => vec![Condition::Absent(key.clone())],
            1 => vec![Condition::Is { value: live.get(&key).cloned(), key: key.clone() }],
            2 => vec![Condition::Is { value: Some(vec![1, 2, 3, 4, 5]), key: key.clone() }],
            _ => vec![],
        };
        let holds = conditions.iter().all(|condition| match condition {
            Condition::Absent(key) => !live.contains_key(key),
            Condition::Is { key, value } => live.get(key) == value.as_ref(),
        });
        let durability = [None, Some(Durability::None), Some(Durability::Async)][self.rng.usize(..3)];
        match self.store.write(Batch { conditions, ops: ops.clone(), durability, cancel: None }) {
            Ok(committed) => {
                assert!(holds);
                self.committed(committed.revision);
                Self::apply(&mut self.model, ops);
            }
            Err(error) => {
                assert!(!holds, "{error}");
                assert!(matches!(error.kind(), Kind::Exists | Kind::Conflict), "{error}");
            }
        }
    }

    fn turn(&mut self) {
        let tx = self.store.begin_wait(Duration::from_secs(60)).expect("turn");
        let mut model = self.model.clone();
        for op in self.ops() {
            match &op {
                Op::Put { key, value } => tx.put(key, value).expect("put"),
                Op::Delete { key } => tx.delete(key).expect("delete"),
                Op::Clear => tx.clear().expect("clear"),
                Op::PutUntil { key, value, expires_ms } => tx.put_until(key, value, *expires_ms).expect("put"),
                Op::Expire(_) => unreachable!("the store's own"),
            }
            Self::apply(&mut model, vec![op]);
            self.same_len(tx.len().expect("len"), &model);
            let (key, live) = (self.key(), self.live(&model));
            assert_eq!(tx.get(&key).expect("get"), live.get(&key).cloned());
            assert_eq!(tx.has(&key).expect("has"), live.contains_key(&key));
            let expires_ms = live.contains_key(&key).then(|| model[&key].1);
            assert_eq!(tx.expires_ms(&key).expect("expiry"), expires_ms);
        }
        let (range, reverse, limits) = self.range();
        let live = self.live(&model);
        same_page(tx.page(&range, reverse, limits).expect("page"), &live, &range, reverse, limits);
        same_count(|range, max| tx.count(range, max).expect("count"), &live, &range, limits);
        if self.rng.bool() {
            let committed = tx.commit_wait().expect("commit");
            self.committed(committed.revision);
            self.model = model;
        }
    }

    fn range(&mut self) -> (KeyRange, bool, PageLimits) {
        let range = (self.bound(), self.bound());
        let limits = PageLimits {
            entries_max: self.rng.usize(1..20),
            bytes_max: self.rng.usize(1..3000),
            value_len_max: usize::MAX,
        };
        (range, self.rng.bool(), limits)
    }

    fn look(&mut self) {
        let (range, reverse, limits) = self.range();
        let page = self.store.snapshot().expect("snapshot").page(&range, reverse, limits).expect("page");
        let live = self.live(&self.model);
        same_page(page, &live, &range, reverse, limits);
        let snapshot = self.store.snapshot().expect("snapshot");
        same_count(|range, max| snapshot.count(range, max).expect("count"), &live, &range, limits);
        let keys: Vec<_> = (0..3).map(|_| self.key()).collect();
        let expected: Vec<_> = keys.iter().map(|key| live.get(key).cloned()).collect();
        assert_eq!(self.store.get_many(&keys).expect("get"), expected);
        for key in keys {
            let expires_ms = live.contains_key(&key).then(|| self.model[&key].1);
            assert_eq!(self.store.expires_ms(&key).expect("expiry"), expires_ms);
        }
        self.same_len(self.store.len().expect("len"), &self.model);
    }

    fn wait(&mut self) {
        self.clock.advance(Duration::from_millis(self.rng.u64(0..800)));
    }

    /// Everything that is due is freed, and nothing else.
    fn swept(&self) {
        self.store.checkpoint().expect("drains");
        let live = self.live(&self.model).len() as u64;
        until("the sweep", || self.store.len().expect("len") == live);
        let verified = self.store.verify(&Task::quiet()).expect("verifies");
        assert_eq!(verified.entries, live);
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            self.snapshots.push((self.store.snapshot().expect("snapshot"), self.model.clone()));
        } else {
            let (snapshot, model) = self.snapshots.remove(0);
            assert_eq!(everything(&snapshot).expect("reads"), self.live(&model));
        }
    }

    fn reopen(&mut self) {
        self.snapshots.clear();
        match self.rng.u8(0..4) {
            0 => {
                // another process finds the file as a dead one left it
                self.disk = self.disk.kill();
                self.store = open_on(&self.disk, &self.clock, &mut self.rng);
            }
            1 => {
                self.store.sync().expect("what was written without a sync is durable now");
                self.disk = self.disk.after_crash(CrashMode::Random(self.rng.u64(..)));
                self.store = open_on(&self.disk, &self.clock, &mut self.rng);
            }
            2 => {
                let mut stream = Vec::new();
                let snapshot = self.store.snapshot().expect("snapshot");
                self.store.export(&snapshot, &mut stream, &Task::quiet()).expect("exports");
                self.disk = FaultDisk::new();
                let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
                Store::import(disk, &SystemChance, &mut &stream[..], &Task::quiet()).expect("imports");
                self.store = open_on(&self.disk, &self.clock, &mut self.rng);
            }
            _ => {
                self.store.close();
                self.store = open_on(&self.disk, &self.clock, &mut self.rng);
            }
        }
        self.same();
    }

    fn same(&self) {
        let snapshot = self.store.snapshot().expect("snapshot");
        assert_eq!(everything(&snapshot).expect("reads"), self.live(&self.model));
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.rng.u8(0..100) {
                0..50 => self.batch(),
                50..65 => self.turn(),
                65..85 => self.look(),
                85..91 => self.snapshot(),
                91..94 => self.wait(),
                94 => self.swept(),
                96 => self.store.checkpoint().expect("drains"),
                95 => drop(self.store.compact(&Task::quiet()).expect("compacts")),
                97 => drop(self.store.verify(&Task::quiet()).expect("verifies")),
                _ => self.reopen(),
            }
        }
        self.same();
    }
}

fn is_inside(range: &KeyRange, key: &[u8]) -> bool {
    let low = match &range.0 {
        Bound::Unbounded => true,
        Bound::Included(low) => key >= &low[..],
        Bound::Excluded(low) => key > &low[..],
    };
    let high = match &range.1 {
        Bound::Unbounded => true,
        Bound::Included(high) => key <= &high[..],
        Bound::Excluded(high) => key < &high[..],
    };
    low && high
}

fn same_count(count: impl Fn(&KeyRange, u64) -> Counted, model: &Model, range: &KeyRange, limits: PageLimits) {
    let expected = model.keys().filter(|key| is_inside(range, key)).count() as u64;
    let (mut range, mut entries) = (range.clone(), 0);
    loop {
        let counted = count(&range, limits.entries_max as u64);
        entries += counted.entries;
        match counted.next {
            Some(next) => range.0 = Bound::Excluded(next),
            None => break,
        }
    }
    assert_eq!(entries, expected);
}

fn same_page(page: macula_kv::Page, model: &Model, range: &KeyRange, reverse: bool, limits: PageLimits) {
    let mut expected: Vec<_> =
        model.iter().filter(|(key, _)| is_inside(range, key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if reverse {
        expected.reverse();
    }
    let (mut bytes, mut fit) = (0, 0);
    for (key, value) in &expected {
        bytes += key.len() + value.len();
        if fit > 0 && (fit >= limits.entries_max || bytes > limits.bytes_max) {
            break;
        }
        fit += 1;
    }
    let next = (fit < expected.len()).then(|| expected[fit - 1].0.clone());
    expected.truncate(fit);
    assert_eq!((page.entries, page.next), (expected, next));
}

#[test]
fn a_random_life() {
    let seed = seed();
    for life in 0..count(6, 200) {
        Life::new(seed.wrapping_add(life)).run(600);
    }
}
