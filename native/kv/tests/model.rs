//! A long random life of a store beside a `BTreeMap`: batches, conditions, turns, snapshots, pages,
//! closing, killing, moving by export and import.

mod common;

use common::{contents, count, everything, options, seed, Model};
use macula_core::{Disk, Kind, Kinded, SystemChance, Task};
use macula_kv::{Batch, Condition, Durability, Op, Options, PageLimits, Snapshot, Store};
use macula_testkit::{CrashMode, FaultDisk};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

struct Life {
    rng: fastrand::Rng,
    disk: FaultDisk,
    store: Store,
    model: Model,
    snapshots: Vec<(Snapshot, Model)>,
    revision: u64,
}

/// Small tables, so that there are several, and drains between the steps.
fn open_on(disk: &FaultDisk) -> Store {
    let options = Options { table_bytes_max: 6_000, overlay_bytes_max: 1 << 20, ..options() };
    common::open_on(Arc::new(disk.clone()), common::drained_meanwhile(), options).expect("opens")
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = FaultDisk::new();
        let store = open_on(&disk);
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, disk, store, model: Model::new(), snapshots: Vec::new(), revision: 0 }
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

    fn apply(model: &mut Model, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value } => drop(model.insert(key, value)),
                Op::Delete { key } => drop(model.remove(&key)),
                Op::Clear => model.clear(),
                Op::PutUntil { key, value, .. } => drop(model.insert(key, value)),
            }
        }
    }

    fn committed(&mut self, revision: u64) {
        assert!(revision > self.revision);
        self.revision = revision;
    }

    fn batch(&mut self) {
        let (ops, key) = (self.ops(), self.key());
        let conditions = match self.rng.u8(0..4) {
            0 => vec![Condition::Absent(key.clone())],
            1 => vec![Condition::Is { value: self.model.get(&key).cloned(), key: key.clone() }],
            2 => vec![Condition::Is { value: Some(vec![1, 2, 3, 4, 5]), key: key.clone() }],
            _ => vec![],
        };
        let holds = conditions.iter().all(|condition| match condition {
            Condition::Absent(key) => !self.model.contains_key(key),
            Condition::Is { key, value } => self.model.get(key) == value.as_ref(),
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
            }
            Self::apply(&mut model, vec![op]);
            assert_eq!(tx.len().expect("len"), model.len() as u64);
            let key = self.key();
            assert_eq!(tx.get(&key).expect("get"), model.get(&key).cloned());
        }
        let (range, reverse, limits) = self.range();
        same_page(tx.page(&range, reverse, limits).expect("page"), &model, &range, reverse, limits);
        if self.rng.bool() {
            let committed = tx.commit_wait().expect("commit");
            self.committed(committed.revision);
            self.model = model;
        }
    }

    fn range(&mut self) -> (macula_kv::KeyRange, bool, PageLimits) {
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
        same_page(page, &self.model, &range, reverse, limits);
        let keys: Vec<_> = (0..3).map(|_| self.key()).collect();
        let expected: Vec<_> = keys.iter().map(|key| self.model.get(key).cloned()).collect();
        assert_eq!(self.store.get_many(&keys).expect("get"), expected);
        assert_eq!(self.store.len().expect("len"), self.model.len() as u64);
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            self.snapshots.push((self.store.snapshot().expect("snapshot"), self.model.clone()));
        } else {
            let (snapshot, model) = self.snapshots.remove(0);
            assert_eq!(everything(&snapshot).expect("reads"), model);
        }
    }

    fn reopen(&mut self) {
        self.snapshots.clear();
        match self.rng.u8(0..4) {
            0 => {
                // another process finds the file as a dead one left it
                self.disk = self.disk.kill();
                self.store = open_on(&self.disk);
            }
            1 => {
                self.store.sync().expect("what was written without a sync is durable now");
                self.disk = self.disk.after_crash(CrashMode::Random(self.rng.u64(..)));
                self.store = open_on(&self.disk);
            }
            2 => {
                let mut stream = Vec::new();
                let snapshot = self.store.snapshot().expect("snapshot");
                self.store.export(&snapshot, &mut stream, &Task::quiet()).expect("exports");
                self.disk = FaultDisk::new();
                let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
                Store::import(disk, &SystemChance, &mut &stream[..], &Task::quiet()).expect("imports");
                self.store = open_on(&self.disk);
            }
            _ => {
                self.store.close();
                self.store = open_on(&self.disk);
            }
        }
        assert_eq!(contents(&self.store).expect("reads"), self.model);
    }

    fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.rng.u8(0..100) {
                0..50 => self.batch(),
                50..65 => self.turn(),
                65..85 => self.look(),
                85..95 => self.snapshot(),
                96 => self.store.checkpoint().expect("drains"),
                95 => drop(self.store.compact(&Task::quiet()).expect("compacts")),
                97 => drop(self.store.verify(&Task::quiet()).expect("verifies")),
                _ => self.reopen(),
            }
        }
        assert_eq!(contents(&self.store).expect("reads"), self.model);
    }
}

fn same_page(page: macula_kv::Page, model: &Model, range: &macula_kv::KeyRange, reverse: bool, limits: PageLimits) {
    let inside = |key: &&Vec<u8>| {
        let low = match &range.0 {
            Bound::Unbounded => true,
            Bound::Included(low) => *key >= low,
            Bound::Excluded(low) => *key > low,
        };
        let high = match &range.1 {
            Bound::Unbounded => true,
            Bound::Included(high) => *key <= high,
            Bound::Excluded(high) => *key < high,
        };
        low && high
    };
    let mut expected: Vec<_> =
        model.iter().filter(|(key, _)| inside(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
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
        Life::new(seed.wrapping_add(life)).live(600);
    }
}
