//! What subscribers are told is what was committed: from any revision, in order, without a gap, nothing
//! twice; through drains, purges, closing, crashes; and nothing of it is the writers' concern.

mod common;

use common::{count, drained_meanwhile, options, seed, threads, ALL};
use macula_core::{Kind, Kinded, SystemChance, Task};
use macula_kv::{Batch, Durability, KeyRange, KvError, Op, Options, Sink, Store, Subscription, Told};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// What a sink was told, as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Changes(u64, Vec<Op>),
    Ended(Kind),
}

fn heard(told: Told<'_>) -> Heard {
    match told {
        Told::Changes { revision, changes } => Heard::Changes(revision, changes.into_iter().cloned().collect()),
        Told::Ended(why) => Heard::Ended(why.kind()),
    }
}

fn sink(to: Sender<Heard>) -> Sink {
    Box::new(move |told| drop(to.send(heard(told))))
}

fn subscribe(store: &Store, range: KeyRange, from: Option<u64>) -> Result<(Subscription, Receiver<Heard>), KvError> {
    let (to, told) = channel();
    let subscription = store.subscribe(range, from, sink(to))?;
    subscription.start();
    Ok((subscription, told))
}

fn put(key: impl Into<Vec<u8>>, len: usize) -> Op {
    Op::Put { key: key.into(), value: vec![7; len] }
}

fn write(store: &Store, ops: Vec<Op>) -> u64 {
    store.write(Batch { ops, ..Batch::default() }).expect("writes").revision
}

fn within<'o>(range: &KeyRange, ops: &'o [Op]) -> Vec<&'o Op> {
    let is_in = |op: &&Op| match op {
        Op::Put { key, .. } | Op::PutUntil { key, .. } | Op::Delete { key } => {
            (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice)).contains(key.as_slice())
        }
        Op::Clear => true,
        // nothing here expires
        Op::Expire(_) => false,
    };
    ops.iter().filter(is_in).collect()
}

type Made = BTreeMap<u64, Vec<Op>>;

/// What has to be told of `made` in `range` after `from`.
fn expected(made: &Made, range: &KeyRange, from: u64) -> Vec<Heard> {
    let after = made.range((Bound::Excluded(from), Bound::Unbounded));
    let batch = |(revision, ops): (&u64, &Vec<Op>)| {
        let changes: Vec<Op> = within(range, ops).into_iter().cloned().collect();
        (!changes.is_empty()).then_some(Heard::Changes(*revision, changes))
    };
    after.filter_map(batch).collect()
}

fn exact(key: &[u8]) -> KeyRange {
    (Bound::Included(key.to_vec()), Bound::Included(key.to_vec()))
}

fn next(told: &Receiver<Heard>) -> Heard {
    told.recv_timeout(LONG).expect("told in time")
}

struct Listener {
    subscription: Subscription,
    told: Receiver<Heard>,
    range: KeyRange,
    /// It heard everything up to here.
    heard: u64,
}

struct Life {
    rng: fastrand::Rng,
    disk: FaultDisk,
    store: Store,
    /// As it is now: what power loss took back is not in it.
    made: Made,
    lost: Vec<u64>,
    listeners: Vec<Listener>,
    resumed: u64,
    gone: u64,
}

/// Small tables and segments, so that there are many, and a history of some of them.
fn open_on(disk: &FaultDisk) -> Store {
    let mut options = Options { table_bytes_max: 20_000, overlay_bytes_max: 1 << 20, ..options() };
    (options.log.segment_bytes_min, options.log.segment_bytes_max) = (8192, 16_384);
    options.log.history_bytes = 100_000;
    options.log.history_segments_max = 20;
    common::open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens")
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = FaultDisk::new();
        let store = open_on(&disk);
        let rng = fastrand::Rng::with_seed(seed);
        let (made, lost, listeners) = (Made::new(), Vec::new(), Vec::new());
        Self { rng, disk, store, made, lost, listeners, resumed: 0, gone: 0 }
    }

    fn key(&mut self) -> Vec<u8> {
        let len = self.rng.usize(0..4);
        (0..len).map(|_| self.rng.u8(0..6)).collect()
    }

    fn range(&mut self) -> KeyRange {
        let key = self.key();
        let mut bound = || match self.rng.u8(0..3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(vec![self.rng.u8(0..6)]),
            _ => Bound::Excluded(vec![self.rng.u8(0..6), 3]),
        };
        match (bound(), bound()) {
            (low, high) if std::mem::discriminant(&low) == std::mem::discriminant(&high) => exact(&key),
            // a set of bounds that no map takes is tested elsewhere
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high))
                if low >= high =>
            {
                ALL
            }
            range => range,
        }
    }

    fn ops(&mut self) -> Vec<Op> {
        // now and then more than a queue takes
        let len_max = [60, 60, 60, 3000, 300_000][if self.rng.u8(..) < 250 { self.rng.usize(..4) } else { 4 }];
        let count = self.rng.usize(0..8);
        (0..count)
            .map(|_| match self.rng.u8(..100) {
                0..2 => Op::Clear,
                2..20 => Op::Delete { key: self.key() },
                20..30 => Op::PutUntil { key: self.key(), value: vec![1; 5], expires_ms: u64::MAX - 1 },
                _ => Op::Put { key: self.key(), value: vec![self.rng.u8(..); self.rng.usize(..len_max)] },
            })
            .collect()
    }

    fn batch(&mut self) {
        let durability = [None, Some(Durability::None), Some(Durability::Async)][self.rng.usize(..3)];
        let ops = self.ops();
        let batch = Batch { ops: ops.clone(), durability, ..Batch::default() };
        let revision = self.store.write(batch).expect("writes").revision;
        self.made.insert(revision, ops);
    }

    fn turn(&mut self) {
        let tx = self.store.begin_wait(LONG).expect("turn");
        let ops: BTreeMap<_, _> = (0..self.rng.usize(1..5)).map(|_| (self.key(), self.rng.bool())).collect();
        for (key, is_put) in &ops {
            if *is_put { tx.put(key, b"turn") } else { tx.delete(key) }.expect("buffers");
        }
        let op = |(key, is_put)| match is_put {
            true => Op::Put { key, value: b"turn".to_vec() },
            false => Op::Delete { key },
        };
        let revision = tx.commit_wait().expect("commits").revision;
        self.made.insert(revision, ops.into_iter().map(op).collect());
    }

    /// Begin to listen now, or from any revision that there ever was.
    fn listen(&mut self) {
        let newest = self.store.revision().expect("open");
        let (range, from) = (self.range(), self.any_revision());
        let begun = subscribe(&self.store, range.clone(), from);
        let (subscription, told) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                assert_eq!(error.kind(), Kind::HistoryGone, "from={from:?}");
                assert_ne!(from, Some(newest));
                return self.gone += 1;
            }
        };
        let begin = from.unwrap_or(newest);
        assert_eq!(subscription.revision(), begin);
        assert!(!self.lost.contains(&begin), "{begin} was lost");
        self.resumed += u64::from(begin < newest);
        self.listeners.push(Listener { subscription, told, range, heard: begin });
    }

    fn any_revision(&mut self) -> Option<u64> {
        let some = |revisions: Vec<u64>, rng: &mut fastrand::Rng| match revisions.len() {
            0 => Some(0),
            len => Some(revisions[rng.usize(..len)]),
        };
        match self.rng.u8(0..8) {
            0 => None,
            1 => some(self.lost.clone(), &mut self.rng),
            2 => Some(0),
            3 => some(self.made.keys().copied().collect(), &mut self.rng),
            _ => some(self.made.keys().rev().take(60).copied().collect(), &mut self.rng),
        }
    }

    /// Everything that is to be heard was heard, and nothing else.
    fn check(&mut self) {
        let newest = self.made.keys().next_back().copied().unwrap_or(0);
        let mut listeners = std::mem::take(&mut self.listeners);
        listeners.retain_mut(|listener| {
            for wanted in expected(&self.made, &listener.range, listener.heard) {
                match next(&listener.told) {
                    // it was overtaken while it read; a prefix is what it heard
                    Heard::Ended(Kind::HistoryGone) => {
                        self.gone += 1;
                        return false;
                    }
                    told => assert_eq!(told, wanted),
                }
            }
            listener.heard = newest.max(listener.heard);
            true
        });
        self.listeners = listeners;
    }

    fn leave(&mut self) {
        if !self.listeners.is_empty() {
            let listener = self.listeners.swap_remove(self.rng.usize(..self.listeners.len()));
            drop(listener.subscription);
            // what it heard until then is right, and nothing comes behind it
            let all: Vec<_> = listener.told.iter().collect();
            let wanted = expected(&self.made, &listener.range, listener.heard);
            let all = all.strip_suffix(&[Heard::Ended(Kind::HistoryGone)]).unwrap_or(&all);
            assert!(wanted.starts_with(all));
        }
    }

    fn reopen(&mut self) {
        self.check();
        let way = self.rng.u8(0..4);
        match way {
            0 => self.disk = self.disk.kill(),
            1 => self.disk = self.disk.after_crash(CrashMode::Random(self.rng.u64(..))),
            2 => {
                self.store.sync().expect("syncs");
                self.disk = self.disk.after_crash(CrashMode::LoseAll);
            }
            _ => self.store.close(),
        }
        for listener in std::mem::take(&mut self.listeners) {
            if way == 3 {
                match next(&listener.told) {
                    // overtaken while it read past what is not in its range: nothing was wanted, so nobody looked
                    Heard::Ended(Kind::HistoryGone) => self.gone += 1,
                    told => assert_eq!(told, Heard::Ended(Kind::Closed)),
                }
                assert!(listener.told.recv_timeout(LONG) == Err(RecvTimeoutError::Disconnected), "the last word");
            }
        }
        self.store = open_on(&self.disk);
        let newest = self.store.revision().expect("open");
        let lost = self.made.split_off(&(newest + 1));
        assert!(lost.is_empty() || way == 1);
        self.lost.extend(lost.into_keys());
    }

    fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.rng.u8(0..100) {
                0..60 => self.batch(),
                60..70 => self.turn(),
                70..84 => self.listen(),
                84..90 => self.check(),
                90..96 => self.leave(),
                96 => self.store.checkpoint().expect("drains"),
                97 => self.store.sync().expect("syncs"),
                _ => self.reopen(),
            }
        }
        self.check();
    }
}

#[test]
fn a_random_life_is_heard_as_it_was() {
    let seed = seed();
    let (mut resumed, mut gone) = (0, 0);
    for life in 0..count(6, 100) {
        let mut life = Life::new(seed.wrapping_add(life));
        life.live(700);
        (resumed, gone) = (resumed + life.resumed, gone + life.gone);
    }
    assert!(resumed > 50 && gone > 50, "both happen: resumed={resumed} gone={gone}");
}

#[test]
fn beside_eight_writers_everybody_hears_all_of_it_in_order() {
    let disk = FaultDisk::new();
    // all that they write, with all its segments
    let options = Options { table_bytes_max: 100_000, ..options() }.keeping(64 << 20);
    let store = common::open_on(Arc::new(disk.clone()), drained_meanwhile(), options).expect("opens");
    let slow = |to: Sender<Heard>| -> Sink {
        Box::new(move |told| {
            // far slower than the writers
            std::thread::yield_now();
            let wait = channel::<()>();
            let _ = wait.1.recv_timeout(Duration::from_micros(300));
            let _ = to.send(heard(told));
        })
    };
    let (to, told_slowly) = channel();
    let slowly = store.subscribe(ALL, None, slow(to)).expect("subscribes");
    slowly.start();
    let (one, made) = (exact(b"3-7"), Mutex::new(Made::new()));
    let mut all =
        vec![subscribe(&store, ALL, None).expect("begins"), subscribe(&store, one.clone(), None).expect("begins")];
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (store, made) = (store.clone(), &made);
            scope.spawn(move || {
                for n in 0..count(400, 4000) {
                    let durability = [Durability::Sync, Durability::None][(n % 2) as usize];
                    let ops: Vec<_> = (0..1 + n % 3).map(|op| put(format!("{writer}-{}", n + op), 900)).collect();
                    let batch = Batch { ops: ops.clone(), durability: Some(durability), ..Batch::default() };
                    let revision = store.write(batch).expect("writes").revision;
                    made.lock().insert(revision, ops);
                }
            });
        }
        for _ in 0..20 {
            // from somewhere, while they write
            let from = store.revision().expect("open") / 2;
            all.push(subscribe(&store, ALL, Some(from)).expect("resumes"));
        }
    });
    store.sync().expect("syncs");
    let made = made.into_inner();
    for (nth, (subscription, told)) in all.iter().enumerate() {
        let range = if nth == 1 { &one } else { &ALL };
        for wanted in expected(&made, range, subscription.revision()) {
            assert_eq!(next(told), wanted);
        }
        assert!(told.try_recv().is_err());
    }
    for wanted in expected(&made, &ALL, slowly.revision()) {
        assert_eq!(next(&told_slowly), wanted);
    }
}

#[test]
fn a_dropped_subscription_hears_nothing_more() {
    let store = common::open_on(Arc::new(FaultDisk::new()), drained_meanwhile(), options()).expect("opens");
    for _ in 0..50 {
        let calls = Arc::new(AtomicUsize::new(0));
        let is_ended = Arc::new(AtomicBool::new(false));
        let (calls_seen, ended) = (calls.clone(), is_ended.clone());
        let subscription = store
            .subscribe(
                ALL,
                None,
                Box::new(move |_| {
                    assert!(!ended.load(Ordering::SeqCst), "called after it was dropped");
                    calls_seen.fetch_add(1, Ordering::SeqCst);
                }),
            )
            .expect("subscribes");
        subscription.start();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20u8).map(|n| write(&store, vec![put([n], 10)])).max());
            while calls.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            drop(subscription);
            is_ended.store(true, Ordering::SeqCst);
        });
        // its sink went with it
        assert_eq!(Arc::strong_count(&calls), 1);
    }
}

#[test]
fn before_it_is_started_it_hears_nothing_and_then_all() {
    let store = common::open_on(Arc::new(FaultDisk::new()), threads(), options()).expect("opens");
    let (to, told) = channel();
    let subscription = store.subscribe(ALL, None, sink(to)).expect("subscribes");
    // more than a queue takes
    let made: Made = (0..20u8)
        .map(|n| {
            let ops = vec![put([n], 40_000)];
            (write(&store, ops.clone()), ops)
        })
        .collect();
    assert!(told.try_recv().is_err());
    subscription.start();
    subscription.start();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), expected(&made, &ALL, 0));
}

#[test]
fn a_sink_that_panics_ends_and_the_others_go_on() {
    common::quiet_panics();
    let store = common::open_on(Arc::new(FaultDisk::new()), drained_meanwhile(), options()).expect("opens");
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let panics = move |_: Told<'_>| panic!("as told, {} times", called.fetch_add(1, Ordering::SeqCst));
    let broken = store.subscribe(ALL, None, Box::new(panics)).expect("subscribes");
    broken.start();
    let (_good, told) = subscribe(&store, ALL, None).expect("subscribes");
    for n in 0..5 {
        let revision = write(&store, vec![put([n], 1)]);
        assert!(matches!(next(&told), Heard::Changes(found, _) if found == revision));
    }
    drop(broken);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn what_was_not_published_is_not_told() {
    let disk = FaultDisk::new();
    let store = common::open_on(Arc::new(disk.clone()), threads(), options()).expect("opens");
    let (_kept, told) = subscribe(&store, ALL, None).expect("subscribes");
    let seen = write(&store, vec![put("a", 1)]);
    // the write of the log, then its sync
    disk.fail_at(disk.operations() + 2, Fault::Io);
    let failed = store.write(Batch::put("b", "b")).expect_err("the sync failed");
    assert_eq!(failed.kind(), Kind::UnknownResult);
    assert!(matches!(next(&told), Heard::Changes(revision, _) if revision == seen));
    // it is in the file, and yet not seen by anybody: nor by who reads the log
    let (_later, told_later) = subscribe(&store, ALL, Some(0)).expect("the log has it all");
    assert!(matches!(next(&told_later), Heard::Changes(revision, _) if revision == seen));
    store.close();
    assert_eq!(next(&told), Heard::Ended(Kind::Closed));
    assert_eq!(next(&told_later), Heard::Ended(Kind::Closed));
    // opening decides: what came back is told to who goes on from what it saw
    let store = common::open_on(Arc::new(disk.kill()), threads(), options()).expect("opens");
    let (_again, told) = subscribe(&store, ALL, Some(seen)).expect("resumes");
    let is_back = store.has(b"b").expect("reads");
    assert_eq!(told.try_iter().count(), usize::from(is_back));
}

#[test]
fn a_revision_that_power_loss_took_back_is_gone_for_ever() {
    let disk = FaultDisk::new();
    let open = |disk: &FaultDisk| common::open_on(Arc::new(disk.clone()), threads(), options()).expect("opens");
    let store = open(&disk);
    let durable = write(&store, vec![put("a", 1)]);
    let batch = Batch { durability: Some(Durability::None), ..Batch::put("lost", "1") };
    let lost = store.write(batch).expect("writes").revision;
    let disk = disk.after_crash(CrashMode::LoseAll);
    let store = open(&disk);
    assert_eq!(store.revision().expect("open"), durable);
    let gone = |from| subscribe(&store, ALL, Some(from)).expect_err("gone").kind() == Kind::HistoryGone;
    assert!(gone(lost));
    // others take its place in the log
    let later: Vec<u64> = (0..3).map(|n| write(&store, vec![put([n], 1)])).collect();
    assert!(gone(lost));
    let (_resumed, told) = subscribe(&store, ALL, Some(durable)).expect("resumes");
    let revisions: Vec<u64> =
        told.try_iter().map(|heard| if let Heard::Changes(n, _) = heard { n } else { 0 }).collect();
    assert_eq!(revisions, later);
    // and none that never was
    for made_up in [later[2] + 1, later[2] + (1 << 40), u64::MAX, lost + 1] {
        assert!(gone(made_up), "{made_up}");
    }
    store.checkpoint().expect("drains");
    assert!(gone(lost));
}

#[test]
fn where_only_what_came_behind_a_revision_is_kept_its_opening_tells() {
    let disk = FaultDisk::new();
    let open = |disk: &FaultDisk| {
        let mut options = options();
        options.log.history_bytes = 0;
        // one record each
        (options.log.segment_bytes_min, options.log.segment_bytes_max) = (8192, 8192);
        common::open_on(Arc::new(disk.clone()), threads(), options).expect("opens")
    };
    let store = open(&disk);
    write(&store, vec![put("a", 1)]);
    let batch = Batch { durability: Some(Durability::None), ..Batch::put("lost", "1") };
    let lost = store.write(batch).expect("writes").revision;
    let store = open(&disk.after_crash(CrashMode::LoseAll));
    let [instead, kept] = [2, 3].map(|n| write(&store, vec![put([n], 4000)]));
    store.checkpoint().expect("drains");
    assert_eq!((lost & 0xff, instead & 0xff), (2, 2));
    assert_eq!(subscribe(&store, ALL, Some(lost)).expect_err("gone").kind(), Kind::HistoryGone);
    let (_resumed, told) = subscribe(&store, ALL, Some(instead)).expect("resumes");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Heard::Changes(kept, vec![put([3], 4000)])]);
    assert_eq!(subscribe(&store, ALL, Some(0)).expect_err("gone").kind(), Kind::HistoryGone);
}

#[test]
fn what_is_seen_and_not_synced_can_be_resumed_from() {
    let store = common::open_on(Arc::new(FaultDisk::new()), threads(), options()).expect("opens");
    let write = |n: u8| {
        let batch = Batch { durability: Some(Durability::None), ..Batch::put([n], "1") };
        store.write(batch).expect("writes").revision
    };
    let revisions = [1, 2, 3].map(write);
    for (nth, from) in revisions.iter().enumerate() {
        let (_resumed, told) = subscribe(&store, ALL, Some(*from)).expect("resumes");
        assert_eq!(told.try_iter().count(), 2 - nth);
    }
}

#[test]
fn without_a_history_only_the_newest_is_there() {
    let mut options = options();
    options.log.history_bytes = 0;
    (options.log.segment_bytes_min, options.log.segment_bytes_max) = (8192, 8192);
    let store = common::open_on(Arc::new(FaultDisk::new()), threads(), options).expect("opens");
    let old = write(&store, vec![put("a", 1)]);
    for n in 0..20 {
        write(&store, vec![put([n], 1000)]);
    }
    store.checkpoint().expect("drains");
    let newest = store.revision().expect("open");
    assert_eq!(subscribe(&store, ALL, Some(old)).expect_err("gone").kind(), Kind::HistoryGone);
    let (_kept, told) = subscribe(&store, exact(b"a"), Some(newest)).expect("nothing is missing");
    write(&store, vec![put("b", 1)]);
    let wanted = write(&store, vec![put("a", 2), put("b", 2)]);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Heard::Changes(wanted, vec![put("a", 2)])]);
    // long silence in its range is no reason to lose it: what is too long for its queue is in the log
    for n in 0..40 {
        write(&store, vec![put([n], 1000)]);
    }
    store.checkpoint().expect("drains");
    let wanted = write(&store, vec![put("a", 300_000)]);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Heard::Changes(wanted, vec![put("a", 300_000)])]);
}

#[test]
fn as_much_as_the_options_say_can_be_resumed_from_at_any_time() {
    let store = common::open_on(Arc::new(FaultDisk::new()), threads(), options()).expect("opens");
    let mut sizes: Vec<(u64, usize)> = Vec::new();
    for n in 0..count(120, 600) {
        let len = 10_000 * (1 + n as usize % 40);
        sizes.push((write(&store, vec![put(n.to_le_bytes(), len)]), len));
        if n % 3 == 0 {
            store.checkpoint().expect("drains");
        }
        let mut behind = 0;
        let within = sizes.iter().rev().take_while(|(_, len)| {
            behind += len;
            behind < 4 << 20
        });
        let (oldest, _) = *within.last().expect("one");
        let sink: Sink = Box::new(|_| {});
        store.subscribe(ALL, Some(oldest), sink).map(drop).expect("kept");
    }
    let (oldest, _) = sizes[0];
    assert_eq!(subscribe(&store, ALL, Some(oldest)).expect_err("gone").kind(), Kind::HistoryGone);
}

#[test]
fn a_copy_does_not_take_revisions_of_what_it_was_copied_from_for_its_own() {
    let open = |disk: &FaultDisk| common::open_on(Arc::new(disk.clone()), threads(), options()).expect("opens");
    let store = open(&FaultDisk::new());
    let copied = write(&store, vec![put("a", 1)]);
    let (mut stream, disk) = (Vec::new(), FaultDisk::new());
    store.export(&store.snapshot().expect("snapshot"), &mut stream, &Task::quiet()).expect("exports");
    let later = write(&store, vec![put("only there", 1)]);
    Store::import(Arc::new(disk.clone()), &SystemChance, &mut &stream[..], &Task::quiet()).expect("imports");
    let copy = open(&disk);
    assert!(subscribe(&copy, ALL, Some(copied)).is_ok(), "it is as it was then");
    for n in 0..5 {
        write(&copy, vec![put([n], 1)]);
    }
    assert_eq!(subscribe(&copy, ALL, Some(later)).expect_err("gone").kind(), Kind::HistoryGone);
}

#[test]
fn no_key_is_in_a_range_that_is_none() {
    let store = common::open_on(Arc::new(FaultDisk::new()), threads(), options()).expect("opens");
    let none = (Bound::Included(b"b".to_vec()), Bound::Excluded(b"a".to_vec()));
    let (_kept, told) = subscribe(&store, none, None).expect("subscribes");
    write(&store, vec![put("a", 1), Op::Clear, put("b", 1)]);
    assert!(told.try_recv().is_err());
    store.close();
    assert_eq!(next(&told), Heard::Ended(Kind::Closed));
    assert_eq!(subscribe(&store, ALL, None).expect_err("closed").kind(), Kind::Closed);
}
