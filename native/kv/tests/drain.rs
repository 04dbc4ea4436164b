//! Power loss, failed operations and full disks while eight writers write, turns and clears come
//! between, snapshots are read, and drains run on their own threads: what is acknowledged stays.
//!
//! A writer owns its keys and has one batch under way, so after n batches its keys are a function of
//! n and of how many of them a clear took. The faults come at a chance operation; what the threads
//! do meanwhile is up to the machine, so a seed gives the same plan and not the same run.

#![allow(clippy::disallowed_methods)]

mod common;

use common::{contents, count, drained_meanwhile, everything, open_on, options, seed, Model};
use macula_core::{Kind, Kinded, Task};
use macula_kv::{Batch, Condition, KvError, Op, Options, Store};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const WRITERS: u8 = 8;
/// Of a writer's batches, the last so many leave their marks.
const KEPT: u64 = 6;
const CLEARS: &[u8] = b"c";

/// What becomes of the disk in one life of a store.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Power loss at an operation.
    Loss,
    /// One operation fails.
    Failure,
    /// Full from an operation on, for so many refusals.
    Full,
}

fn counter(life: u8, writer: u8) -> Vec<u8> {
    vec![b'n', life, writer]
}

fn mark(life: u8, writer: u8, n: u64, half: u8) -> Vec<u8> {
    [&[b'm', life, writer][..], &n.to_be_bytes(), &[half]].concat()
}

fn value(writer: u8, n: u64) -> Vec<u8> {
    let len = 10 + (n * 131 + u64::from(writer) * 17) % 400;
    // now and then one that has a table of its own
    let len = if n % 23 == 5 { 40_000 } else { len };
    vec![writer ^ n as u8; len as usize]
}

/// A writer's keys after `n` batches, of which the first `cut` were cleared.
fn keys_after(life: u8, writer: u8, n: u64, cut: u64) -> Model {
    let mut keys = Model::new();
    for at in cut.max(n.saturating_sub(KEPT)) + 1..=n {
        keys.insert(mark(life, writer, at, 0), value(writer, at));
        keys.insert(mark(life, writer, at, 1), value(writer, at));
    }
    if n > cut {
        keys.insert(counter(life, writer), n.to_be_bytes().to_vec());
    }
    keys
}

fn batch(life: u8, writer: u8, n: u64) -> Vec<Op> {
    let put = |key, value| Op::Put { key, value };
    let mut ops = vec![
        put(mark(life, writer, n, 0), value(writer, n)),
        put(counter(life, writer), n.to_be_bytes().to_vec()),
        put(mark(life, writer, n, 1), value(writer, n)),
    ];
    if n > KEPT {
        ops.extend([0, 1].map(|half| Op::Delete { key: mark(life, writer, n - KEPT, half) }));
    }
    ops
}

/// What one writer, or the one who clears, was told.
#[derive(Debug, Clone, Default)]
struct Told {
    /// The revisions of its batches, which were all acknowledged.
    revisions: Vec<u64>,
    /// One more batch, of unknown result.
    unknown: bool,
    refused: u64,
}

/// What is shared by the threads of one life.
struct Life {
    life: u8,
    store: Store,
    disk: FaultDisk,
    plan: Plan,
    batches: u64,
    refusals: AtomicU64,
    refusals_max: u64,
    is_over: AtomicBool,
}

/// Also when a writer panics: then the others come to their end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the readers saw: the highest revision, and each writer's highest number.
#[derive(Debug, Clone, Default)]
struct Seen {
    revision: u64,
    numbers: BTreeMap<u8, u64>,
}

impl Life {
    /// Until it has written all or something fails. `write` is tried again while the disk is full.
    fn repeat(&self, most: u64, mut write: impl FnMut(u64) -> Result<u64, KvError>) -> Told {
        let mut told = Told::default();
        let mut since = Instant::now();
        while (told.revisions.len() as u64) < most {
            match write(told.revisions.len() as u64 + 1) {
                Ok(revision) => {
                    assert!(told.revisions.last().is_none_or(|last| *last < revision), "revisions grow");
                    told.revisions.push(revision);
                    since = Instant::now();
                }
                Err(error) => match error.kind() {
                    Kind::Conflict | Kind::Busy => std::thread::yield_now(),
                    Kind::DiskFull if matches!(self.plan, Plan::Full) => {
                        told.refused += 1;
                        if self.refusals.fetch_add(1, Ordering::Relaxed) >= self.refusals_max {
                            self.disk.heal();
                        }
                        assert!(since.elapsed() < LONG, "writes do not come back");
                        std::thread::yield_now();
                    }
                    kind => {
                        let expected = matches!(kind, Kind::UnknownResult | Kind::Poisoned | Kind::Io);
                        assert!(expected && !matches!(self.plan, Plan::Full), "{kind:?}: {error}");
                        told.unknown = kind == Kind::UnknownResult;
                        return told;
                    }
                },
            }
        }
        told
    }

    fn write(&self, writer: u8, mut rng: fastrand::Rng) -> Told {
        self.repeat(self.batches, |n| match rng.u8(..8) {
            0 => self.write_in_a_turn(writer, n),
            1 | 2 => {
                // on what is there, as an update does
                let key = counter(self.life, writer);
                let found = self.store.get(&key)?;
                let conditions = vec![Condition::Is { key, value: found }];
                let batch = Batch { conditions, ops: batch(self.life, writer, n), ..Batch::default() };
                Ok(self.store.write(batch)?.revision)
            }
            _ => Ok(self.store.write(Batch { ops: batch(self.life, writer, n), ..Batch::default() })?.revision),
        })
    }

    fn write_in_a_turn(&self, writer: u8, n: u64) -> Result<u64, KvError> {
        let tx = self.store.begin_wait(LONG)?;
        let found = tx.get(&counter(self.life, writer))?;
        assert!(found.is_none_or(|found| found == (n - 1).to_be_bytes()), "a turn sees what was acknowledged");
        for op in batch(self.life, writer, n) {
            match op {
                Op::Put { key, value } => tx.put(&key, &value)?,
                Op::Delete { key } => tx.delete(&key)?,
                _ => unreachable!("puts and deletes"),
            }
        }
        Ok(tx.commit_wait()?.revision)
    }

    fn clear(&self) -> Told {
        self.repeat(2, |n| {
            // not at the very begin: then there would be nothing to clear
            while self.disk.operations() < n * 150 && !self.is_over.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let ops = vec![Op::Clear, Op::Put { key: CLEARS.to_vec(), value: [[self.life], [n as u8]].concat() }];
            Ok(self.store.write(Batch { ops, ..Batch::default() })?.revision)
        })
    }

    /// A new file again and again, while it goes on. What it meets, the others are told too.
    fn compact(&self) -> u64 {
        let mut compacted = 0;
        while !self.is_over.load(Ordering::Acquire) {
            compacted += u64::from(self.store.compact(&Task::quiet()).is_ok());
        }
        compacted
    }

    /// Snapshots show whole batches, and what they showed before.
    fn read(&self) -> Seen {
        let mut seen = Seen::default();
        while !self.is_over.load(Ordering::Acquire) {
            let Ok(snapshot) = self.store.snapshot() else { break };
            let Ok(revision) = snapshot.revision() else { break };
            assert!(revision >= seen.revision, "what was seen stays");
            let Ok(found) = everything(&snapshot) else { continue };
            for (key, value) in &found {
                match key[0] {
                    b'm' => {
                        let mut other = key.clone();
                        *other.last_mut().expect("a half") ^= 1;
                        assert_eq!(found.get(&other), Some(value), "half a batch is seen");
                    }
                    b'n' if key[1] == self.life => {
                        let number = u64::from_be_bytes(value.as_slice().try_into().expect("a number"));
                        let highest = seen.numbers.entry(key[2]).or_default();
                        *highest = number.max(*highest);
                    }
                    _ => {}
                }
            }
            seen.revision = revision;
            if let Ok(again) = everything(&snapshot) {
                assert!(again == found, "a snapshot changes");
            }
        }
        seen
    }
}

/// What one life promised.
struct Promise {
    life: u8,
    /// What was there before it.
    before: Model,
    writers: Vec<Told>,
    clears: Told,
    seen: Seen,
}

impl Promise {
    fn revision_highest(&self) -> u64 {
        let all = self.writers.iter().chain([&self.clears]);
        let acknowledged = all.clone().filter_map(|told| told.revisions.last()).max().copied().unwrap_or(0);
        acknowledged.max(self.seen.revision) + all.filter(|told| told.unknown).count() as u64
    }

    /// Everything, had the clears up to the revision `cleared_at` happened, and `more` have written
    /// what they do not know of.
    fn state(&self, cleared_at: Option<(u64, u8)>, more: &[bool]) -> Model {
        let mut state = if cleared_at.is_some() { Model::new() } else { self.before.clone() };
        for (writer, told) in self.writers.iter().enumerate() {
            let n = told.revisions.len() as u64 + u64::from(more[writer]);
            let before_clear = |revision: &&u64| cleared_at.is_some_and(|(at, _)| **revision < at);
            // one that is unknown and was cleared is as good as not written
            let cut = told.revisions.iter().filter(before_clear).count() as u64;
            state.extend(keys_after(self.life, writer as u8, n, cut));
        }
        if let Some((_, number)) = cleared_at {
            state.insert(CLEARS.to_vec(), vec![self.life, number]);
        }
        state
    }

    /// The clears that may have been the last: where in the order, and which.
    fn clears_possible(&self, found: &Model) -> Vec<Option<(u64, u8)>> {
        let known = self.clears.revisions.len() as u8;
        let number = found.get(CLEARS).filter(|value| value[0] == self.life).map(|value| value[1]);
        match number {
            None if known == 0 => vec![None],
            Some(number) if number == known => {
                vec![self.clears.revisions.last().map(|revision| (*revision, number))]
            }
            Some(number) if number == known + 1 && self.clears.unknown => {
                let after = self.clears.revisions.last().copied().unwrap_or(0);
                let others = self.writers.iter().flat_map(|told| &told.revisions).filter(|at| **at > after);
                others.chain([&u64::MAX]).map(|at| Some((*at, number))).collect()
            }
            other => panic!("clears acknowledged={known} found={other:?}"),
        }
    }

    fn check(&self, found: &Model, what: &str) {
        // an unknown batch is there when its number is, unless it was cleared
        let more: Vec<bool> = (0..WRITERS)
            .zip(&self.writers)
            .map(|(writer, told)| {
                let n = told.revisions.len() as u64 + 1;
                let there = found.get(&counter(self.life, writer)).is_some_and(|value| *value == n.to_be_bytes());
                assert!(!there || told.unknown, "{what}: writer {writer} was told that {n} is not written");
                let seen = self.seen.numbers.get(&writer).copied().unwrap_or(0);
                assert!(seen <= n, "{what}: seen before it was written");
                there
            })
            .collect();
        let possible = self.clears_possible(found);
        if possible.iter().any(|cleared_at| self.state(*cleared_at, &more) == *found) {
            return self.check_seen(found, &more, what);
        }
        let expected = self.state(possible[0], &more);
        let lost: Vec<_> = expected.keys().filter(|key| !found.contains_key(*key)).collect();
        let made_up: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
        panic!("{what}: lost={lost:?} made_up={made_up:?} more={more:?} clears={possible:?}");
    }

    /// With every write synced, what a reader saw is there after power loss.
    fn check_seen(&self, found: &Model, more: &[bool], what: &str) {
        for (writer, told) in (0..WRITERS).zip(&self.writers) {
            let seen = self.seen.numbers.get(&writer).copied().unwrap_or(0);
            let cleared = !found.contains_key(&counter(self.life, writer));
            let have = told.revisions.len() as u64 + u64::from(more[usize::from(writer)]);
            assert!(cleared || seen <= have, "{what}: writer {writer} was seen at {seen} and is at {have}");
        }
    }
}

fn small(rng: &mut fastrand::Rng) -> Options {
    let log = macula_wal::Options {
        segment_bytes_min: 4096 << rng.u8(..3),
        segment_bytes_max: 32 << 10,
        ..macula_wal::Options::default()
    };
    let table_bytes_max = rng.usize(4_000..20_000);
    let overlay_bytes_max = if rng.bool() { 1 << 20 } else { 4 * table_bytes_max };
    let drain_bytes = rng.usize(0..2) * 3 * table_bytes_max;
    let compress_len_min = if rng.bool() { 50 } else { usize::MAX };
    Options { table_bytes_max, overlay_bytes_max, drain_bytes, compress_len_min, queue_len_max: 64, log, ..options() }
}

fn open_small(disk: &FaultDisk, rng: &mut fastrand::Rng) -> Result<Store, KvError> {
    open_on(Arc::new(disk.clone()), drained_meanwhile(), small(rng))
}

/// One life with a fault somewhere in it.
fn live(life: u8, disk: &FaultDisk, plan: Plan, before: Model, rng: &mut fastrand::Rng) -> (Promise, Store) {
    let store = open_small(disk, rng).expect("opens");
    assert!(contents(&store).expect("reads") == before, "opened again, it is the same");
    let fault = match plan {
        Plan::Loss => Fault::Crash,
        Plan::Failure => Fault::Io,
        Plan::Full => Fault::Full,
    };
    disk.fail_at(disk.operations() + rng.u64(1..1500), fault);
    let shared = Life {
        life,
        store: store.clone(),
        disk: disk.clone(),
        plan,
        batches: rng.u64(20..60),
        refusals: AtomicU64::new(0),
        refusals_max: rng.u64(1..200),
        is_over: AtomicBool::new(false),
    };
    let (with_clears, with_compactions) = (rng.bool(), rng.bool());
    let (writers, clears, seen) = std::thread::scope(|scope| {
        let shared = &shared;
        let over = Over(&shared.is_over);
        let reader = scope.spawn(|| shared.read());
        if with_compactions {
            scope.spawn(|| shared.compact());
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let rng = rng.fork();
                scope.spawn(move || shared.write(writer, rng))
            })
            .collect();
        let clearer = with_clears.then(|| scope.spawn(|| shared.clear()));
        let writers: Vec<Told> = writers.into_iter().map(|writer| writer.join().expect("writer")).collect();
        drop(over);
        let clears = clearer.map(|clearer| clearer.join().expect("clearer")).unwrap_or_default();
        (writers, clears, reader.join().expect("reader"))
    });
    (Promise { life, before, writers, clears, seen }, store)
}

/// The disk as it may be found after a life.
fn found_after(disk: &FaultDisk, plan: Plan, store: Store, rng: &mut fastrand::Rng) -> (FaultDisk, &'static str) {
    if let Plan::Failure | Plan::Full = plan {
        disk.heal();
        if rng.bool() {
            store.close();
        }
    }
    let copy = match rng.u8(..4) {
        0 => (disk.after_crash(CrashMode::LoseAll), "all lost"),
        1 => (disk.after_crash(CrashMode::KeepAll), "all kept"),
        2 => (disk.kill(), "killed"),
        _ => (disk.after_crash(CrashMode::Random(rng.u64(..))), "some lost"),
    };
    // what its threads do now, they do on the old disk
    drop(store);
    copy
}

/// What is decided by opening it once stays decided, and it is sound.
fn settle(disk: FaultDisk, promise: &Promise, what: &str, rng: &mut fastrand::Rng) -> (FaultDisk, Model) {
    let store = open_small(&disk, rng).unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    let found = contents(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
    promise.check(&found, what);
    let disk = match rng.bool() {
        true => {
            drop(store);
            disk.after_crash(CrashMode::LoseAll)
        }
        false => {
            store.verify(&Task::quiet()).unwrap_or_else(|error| panic!("{what}: {error}"));
            store.close();
            disk
        }
    };
    let store = open_small(&disk, rng).unwrap_or_else(|error| panic!("{what}: does not open again: {error}"));
    let again = contents(&store).expect("reads");
    assert!(again == found, "{what}: what was decided changes, {} entries and {}", found.len(), again.len());
    let revision = store.write(Batch::put("z", what)).expect("writes").revision;
    assert!(revision > promise.revision_highest(), "{what}: a revision is used again");
    store.verify(&Task::quiet()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = contents(&store).expect("reads");
    store.close();
    (disk, found)
}

fn several_lives(seed: u64, plan: Plan) -> (u64, u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut disk, mut model) = (FaultDisk::new(), Model::new());
    let (mut acknowledged, mut refused) = (0, 0);
    for life in 0..3 {
        let (promise, store) = live(life, &disk, plan, model, &mut rng);
        let (found, how) = found_after(&disk, plan, store, &mut rng);
        acknowledged += promise.writers.iter().map(|told| told.revisions.len() as u64).sum::<u64>();
        refused += promise.writers.iter().map(|told| told.refused + u64::from(told.unknown)).sum::<u64>();
        let what = format!("seed={seed} life={life} {plan:?} {how}");
        (disk, model) = settle(found, &promise, &what, &mut rng);
    }
    (acknowledged, refused)
}

fn many_lives(plan: Plan, runs: u64) {
    let seed = seed();
    let (mut acknowledged, mut refused) = (0, 0);
    for run in 0..runs {
        let (more_acknowledged, more_refused) = several_lives(seed.wrapping_add(run), plan);
        (acknowledged, refused) = (acknowledged + more_acknowledged, refused + more_refused);
    }
    eprintln!("{plan:?}: runs={runs} lives={} acknowledged={acknowledged} unknown_or_refused={refused}", runs * 3);
    assert!(acknowledged > runs * 10 && refused > 0, "something was done, and something failed");
}

#[test]
fn power_loss_while_it_drains_loses_nothing() {
    many_lives(Plan::Loss, count(12, 600));
}

#[test]
fn a_failed_operation_while_it_drains_loses_nothing() {
    many_lives(Plan::Failure, count(12, 600));
}

#[test]
fn a_full_disk_while_it_drains_loses_nothing_and_writes_come_back() {
    many_lives(Plan::Full, count(5, 200));
}
