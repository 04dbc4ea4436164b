//! Entries that expire: nobody reads one whose time has come, and the sweeper frees it, whatever happens
//! meanwhile.

mod common;

use common::{count, drained_meanwhile, everything, open_at, options, seed, threads, until, Model, ALL};
use macula_core::{Clock, Disk, Kind, Kinded, SystemChance, Task};
use macula_kv::{Batch, Condition, KvError, Op, Options, PageLimits, Store, NEVER_MS};
use macula_testkit::{CrashMode, Fault, FaultDisk, SimClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn put(key: &str) -> Op {
    Op::Put { key: key.into(), value: "stays".into() }
}

fn put_until(key: &str, len: usize, expires_ms: u64) -> Op {
    Op::PutUntil { key: key.into(), value: vec![7; len], expires_ms }
}

fn write(store: &Store, ops: Vec<Op>) {
    store.write(Batch { ops, ..Batch::default() }).expect("written");
}

fn keys(store: &Store) -> Vec<String> {
    let found = everything(&store.snapshot().expect("snapshot")).expect("reads");
    found.into_keys().map(|key| String::from_utf8(key).expect("text")).collect()
}

/// By every way to read one, in memory, in redb, and after opening again.
#[test]
fn nobody_reads_what_expired() {
    for is_drained in [false, true] {
        let (disk, clock) = (FaultDisk::new(), Arc::new(SimClock::default()));
        let open = || open_at(Arc::new(disk.clone()), threads(), clock.clone(), options()).expect("opens");
        let store = open();
        let soon_ms = clock.wall_ms() + 100;
        write(&store, vec![put("a"), put_until("b", 3, soon_ms), put_until("c", 40_000, soon_ms), put("d")]);
        if is_drained {
            store.checkpoint().expect("drains");
        }
        assert_eq!(keys(&store), ["a", "b", "c", "d"]);
        assert_eq!(store.expires_ms(b"b").expect("reads"), Some(soon_ms));
        assert_eq!(store.expires_ms(b"a").expect("reads"), Some(NEVER_MS));
        assert_eq!(store.expires_ms(b"x").expect("reads"), None);
        let (snapshot, tx) = (store.snapshot().expect("snapshot"), store.begin_wait(LONG).expect("turn"));
        tx.put_until(b"mine", b"1", soon_ms).expect("put");
        assert_eq!(tx.expires_ms(b"mine").expect("reads"), Some(soon_ms));
        clock.advance(ms(100));
        let limits = PageLimits { entries_max: 9, bytes_max: 1 << 20, value_len_max: usize::MAX };
        for key in [&b"b"[..], b"c", b"mine"] {
            assert_eq!(store.get(key).expect("reads"), None);
            assert_eq!(store.get_with(key, 0, <[u8]>::len).expect("its length is not looked at"), None);
            assert_eq!(snapshot.get(key).expect("reads"), None);
            assert_eq!(tx.get(key).expect("reads"), None);
            assert!(!store.has(key).expect("reads") && !snapshot.has(key).expect("reads"));
            assert!(!tx.has(key).expect("reads"));
            assert_eq!(store.expires_ms(key).expect("reads"), None);
            assert_eq!(snapshot.expires_ms(key).expect("reads"), None);
            assert_eq!(tx.expires_ms(key).expect("reads"), None);
        }
        for reverse in [false, true] {
            let pages = [snapshot.page(&ALL, reverse, limits), tx.page(&ALL, reverse, limits)];
            assert!(pages.into_iter().all(|page| page.expect("reads").entries.len() == 2));
        }
        tx.clear().expect("clears");
        tx.put_until(b"mine", b"1", soon_ms).expect("put");
        assert!(tx.page(&ALL, false, limits).expect("reads").entries.is_empty());
        tx.abort();
        drop(snapshot);
        assert_eq!(store.get_many(&["a", "b"]).expect("reads"), [Some(b"stays".to_vec()), None]);
        store.close();
        assert_eq!(keys(&open()), ["a", "d"]);
    }
}

#[test]
fn conditions_do_not_see_what_expired() {
    let clock = Arc::new(SimClock::default());
    let store = open_at(Arc::new(FaultDisk::new()), threads(), clock.clone(), options()).expect("opens");
    let soon_ms = clock.wall_ms() + 100;
    write(&store, ["a", "b", "c"].map(|key| put_until(key, 1, soon_ms)).to_vec());
    let only_if = |condition: Condition, key: &str| {
        store.write(Batch { conditions: vec![condition], ops: vec![put(key)], ..Batch::default() })
    };
    let was = |key: &str, value: Option<&[u8]>| Condition::Is { key: key.into(), value: value.map(Into::into) };
    let refused = |result: Result<_, KvError>| result.map(|_| ()).expect_err("refused").kind();
    assert_eq!(refused(only_if(Condition::Absent("a".into()), "a")), Kind::Exists);
    clock.advance(ms(100));
    assert_eq!(refused(only_if(was("c", Some(&[7])), "c")), Kind::Conflict);
    only_if(Condition::Absent("a".into()), "a").expect("it is gone");
    only_if(was("b", None), "b").expect("it is gone");
    assert_eq!(keys(&store), ["a", "b"]);
    assert_eq!(store.expires_ms(b"a").expect("reads"), Some(NEVER_MS), "a plain put stays");
}

#[test]
fn the_sweeper_frees_what_expired_and_nothing_else() {
    let (disk, clock) = (FaultDisk::new(), Arc::new(SimClock::default()));
    // an overlay that the sweep alone would fill
    let options = Options { overlay_bytes_max: 256 << 10, table_bytes_max: 16 << 10, ..options() };
    let open = || open_at(Arc::new(disk.clone()), drained_meanwhile(), clock.clone(), options.clone()).expect("opens");
    let store = open();
    let now_ms = clock.wall_ms();
    for from in (0..5_000).step_by(500) {
        let key = |n: u64| format!("{n:05}");
        let op = |n: u64| put_until(&key(n), if n.is_multiple_of(100) { 40_000 } else { 50 }, now_ms + n);
        write(&store, (from..from + 500).map(op).collect());
    }
    store.checkpoint().expect("drains");
    clock.advance(ms(999));
    until("the first thousand", || store.len().expect("len") == 4_000);
    write(&store, vec![put("01000"), put_until("01001", 5, now_ms + 20_000)]);
    clock.advance(ms(1_000));
    until("the second thousand", || store.len().expect("len") == 3_002);
    assert!(store.has(b"01000").expect("reads") && store.has(b"01001").expect("reads"));
    assert_eq!(store.verify(&Task::quiet()).expect("rows and cells agree").entries, 3_002);
    store.close();
    clock.advance(ms(2_001));
    let store = open();
    assert_eq!(keys(&store).len(), 1_002 - 1);
    until("what expired while it was closed", || store.len().expect("len") == 1_001);
    write(&store, vec![Op::Clear]);
    assert_eq!(store.verify(&Task::quiet()).expect("nothing").entries, 0);
}

/// Writers beside a sweep of many keys are answered between its batches.
#[test]
fn writers_go_on_while_it_sweeps() {
    let clock = Arc::new(SimClock::default());
    let store = open_at(Arc::new(FaultDisk::new()), drained_meanwhile(), clock.clone(), options()).expect("opens");
    let soon_ms = clock.wall_ms() + 100;
    for from in (0..40_000_u32).step_by(4_000) {
        let ops = (from..from + 4_000).map(|n| put_until(&format!("{n:05}"), 20, soon_ms));
        write(&store, ops.collect());
    }
    store.checkpoint().expect("drains");
    let (len, mut written) = (store.len().expect("len"), 0);
    clock.advance(ms(100));
    until("the sweep", || {
        write(&store, vec![put(&format!("x{written:05}"))]);
        written += 1;
        store.len().expect("len") == written
    });
    assert_eq!(len, 40_000);
    assert!(written > 10, "written={written}");
}

/// Memory that is always rather full, because more is written than drained, does not keep the sweeper
/// away for good: what expires would fill the disk.
#[test]
fn it_sweeps_while_more_is_written_than_drained() {
    let clock = Arc::new(SimClock::default());
    let options = Options { overlay_bytes_max: 32 << 10, table_bytes_max: 24 << 10, ..options() };
    let store = open_at(Arc::new(FaultDisk::new()), drained_meanwhile(), clock.clone(), options).expect("opens");
    let soon_ms = clock.wall_ms() + 100;
    write(&store, (0..1_000).map(|n| put_until(&format!("{n:05}"), 20, soon_ms)).collect());
    store.checkpoint().expect("drains");
    write(&store, (0..100).map(|n| put(&format!("x{n}"))).collect());
    clock.advance(ms(100));
    until("the sweep", || {
        write(&store, (0..100).map(|n| put(&format!("x{n}"))).collect());
        store.len().expect("len") == 100
    });
}

type Timed = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn apply(model: &mut Timed, ops: &[Op]) {
    for op in ops.iter().cloned() {
        match op {
            Op::Put { key, value } => drop(model.insert(key, (value, NEVER_MS))),
            Op::PutUntil { key, value, expires_ms } => drop(model.insert(key, (value, expires_ms))),
            Op::Delete { key } => drop(model.remove(&key)),
            Op::Clear => model.clear(),
            Op::Expire(_) => unreachable!("the store's own"),
        }
    }
}

fn live(model: &Timed, clock: &SimClock) -> Model {
    let now_ms = clock.wall_ms();
    let live = model.iter().filter(|(_, (_, expires_ms))| *expires_ms > now_ms);
    live.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
}

enum Step {
    Write(Vec<Op>),
    Checkpoint,
    /// Time goes on by milliseconds, and what is due is swept.
    Wait(u64),
    /// The same, and nobody waits for the sweep.
    Pass(u64),
    Reopen,
}

fn steps(now_ms: u64) -> Vec<Step> {
    let key = |n: u64| format!("{n:03}");
    let expiring = |from: u64, to: u64, at_ms: u64| {
        let len = |n: u64| if n.is_multiple_of(10) { 40_000 } else { 30 };
        (from..to).map(|n| put_until(&key(n), len(n), now_ms + at_ms)).collect::<Vec<_>>()
    };
    vec![
        Step::Write(expiring(0, 40, 1_000)),
        Step::Write((40..60).map(|n| put(&key(n))).collect()),
        Step::Write(expiring(60, 80, 100_000)),
        Step::Checkpoint,
        Step::Wait(1_500),
        Step::Write((0..5).map(|n| put(&key(n))).collect()),
        Step::Write(expiring(3, 50, 2_000)),
        Step::Checkpoint,
        Step::Write((10..15).map(|n| Op::Delete { key: key(n).into() }).collect()),
        Step::Pass(1_000),
        Step::Write(expiring(20, 30, 3_000)),
        Step::Reopen,
        Step::Wait(2_000),
        Step::Write([vec![Op::Clear], expiring(0, 9, 8_000), expiring(9, 15, 5_000), expiring(12, 15, 6_000)].concat()),
        Step::Checkpoint,
        Step::Wait(1_000),
        Step::Reopen,
    ]
}

struct Run {
    disk: FaultDisk,
    clock: Arc<SimClock>,
    acknowledged: Timed,
    possible: Timed,
}

impl Run {
    fn new(disk: FaultDisk) -> Self {
        Self { disk, clock: Arc::default(), acknowledged: Timed::new(), possible: Timed::new() }
    }

    fn open(&self) -> Result<Store, KvError> {
        open_at(Arc::new(self.disk.clone()), threads(), self.clock.clone(), options())
    }

    /// What `act` answers; tried again while `may_fail` says so.
    fn at_last<T>(&self, act: impl Fn() -> Result<T, KvError>, is_healed: bool) -> Option<T> {
        loop {
            match act() {
                Ok(done) => return Some(done),
                Err(error) if is_healed && error.kind() == Kind::DiskFull => self.disk.heal(),
                Err(error) => {
                    assert!(self.disk.has_crashed(), "{error}");
                    return None;
                }
            }
        }
    }

    /// False when it crashed. A full disk is healed when it is met.
    fn live(&mut self, is_healed: bool) -> Option<Store> {
        let mut store = self.at_last(|| self.open(), is_healed)?;
        for step in steps(self.clock.wall_ms()) {
            match step {
                Step::Write(ops) => {
                    apply(&mut self.possible, &ops);
                    let batch = Batch { ops: ops.clone(), ..Batch::default() };
                    self.at_last(|| store.write(batch.clone()), is_healed)?;
                    apply(&mut self.acknowledged, &ops);
                }
                Step::Checkpoint => drop(self.at_last(|| store.checkpoint(), is_healed)?),
                Step::Pass(span_ms) => self.clock.advance(ms(span_ms)),
                Step::Wait(span_ms) => {
                    self.clock.advance(ms(span_ms));
                    self.at_last(|| store.checkpoint(), is_healed)?;
                    let len = live(&self.acknowledged, &self.clock).len() as u64;
                    until("the sweep", || {
                        if is_healed {
                            self.disk.heal();
                        }
                        self.disk.has_crashed() || store.len().expect("len") == len
                    });
                }
                Step::Reopen => {
                    store.close();
                    store = self.at_last(|| self.open(), is_healed)?;
                }
            }
        }
        Some(store)
    }

    /// What a crash left holds what was acknowledged, expires at the same times, and is freed.
    fn survives(&self, disk: FaultDisk, what: &str) {
        let found = Self { disk, clock: self.clock.clone(), ..Self::new(FaultDisk::new()) };
        let store = found.open().unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
        let read = || everything(&store.snapshot().expect("snapshot")).expect("reads");
        let of_now = read();
        let acknowledged = live(&self.acknowledged, &self.clock);
        let is_known = of_now == acknowledged || of_now == live(&self.possible, &self.clock);
        assert!(is_known, "{what}: {} entries, {} promised", of_now.len(), acknowledged.len());
        store.checkpoint().unwrap_or_else(|error| panic!("{what}: {error}"));
        until("the sweep", || store.len().expect("len") == of_now.len() as u64);
        let verified = store.verify(&Task::quiet()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(verified.entries, of_now.len() as u64, "{what}");
        assert_eq!(read(), of_now, "{what}: the sweep took what is live");
        store.close();
    }
}

fn whole() -> FaultDisk {
    let mut run = Run::new(FaultDisk::new());
    let store = run.live(false).expect("runs");
    assert_eq!(keys(&store), (0..9).chain(12..15).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    store.close();
    run.disk
}

#[test]
fn power_loss_at_every_operation_keeps_the_times() {
    let (seed, operations) = (seed(), whole().operations());
    eprintln!("operations={operations}");
    for n in (1..=operations).step_by(count(3, 1) as usize) {
        let mut run = Run::new(FaultDisk::new());
        run.disk.fail_at(n, Fault::Crash);
        drop(run.live(false));
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random(seed ^ n)] {
            let what = format!("operation {n} ({:?}), {mode:?}", run.disk.operation(n));
            run.survives(run.disk.after_crash(mode), &what);
        }
    }
}

#[test]
fn a_full_disk_puts_the_sweep_off() {
    let operations = whole().operations();
    for n in (1..=operations).step_by(count(5, 1) as usize) {
        let mut run = Run::new(FaultDisk::new());
        run.disk.fail_at(n, Fault::Full);
        drop(run.live(true).expect("goes on"));
        run.survives(run.disk.after_crash(CrashMode::LoseAll), &format!("full at {n}"));
    }
}

#[test]
fn a_store_is_moved_with_its_times() {
    let mut run = Run::new(FaultDisk::new());
    let store = run.live(false).expect("runs");
    let mut stream = Vec::new();
    store.export(&store.snapshot().expect("snapshot"), &mut stream, &Task::quiet()).expect("exports");
    let disk = FaultDisk::new();
    Store::import(Arc::new(disk.clone()) as Arc<dyn Disk>, &SystemChance, &mut &stream[..], &Task::quiet())
        .expect("imports");
    run.clock.advance(ms(1_000));
    run.survives(disk, "moved");
}
