//! Several nodes in one process, over a transport that can be cut: they agree, lose nothing that was acknowledged,
//! and heal.
#![allow(clippy::disallowed_methods)]

mod common;

use common::{binary, change, count, let_in, options, path, propose, propose_within, put, seams, seed};
use futures_util::future::BoxFuture;
use macula_raft::machine::Node as Row;
use macula_raft::{
    Change, ClusterId, Consistency, Engine, Found, Member, Options, Query, RaftError, Seams, Transport, Unreached,
};
use macula_testkit::{CrashMode, FaultDisk};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Of a client that writes while things break.
const PATIENCE: Duration = Duration::from_millis(400);

/// Every node by its number, and which cannot hear which.
#[derive(Default)]
struct Hub {
    nodes: RwLock<HashMap<u64, Arc<Engine>>>,
    cut: Mutex<HashSet<(u64, u64)>>,
}

/// One node's end of it.
struct End {
    hub: Arc<Hub>,
    from: Arc<RwLock<u64>>,
}

impl Transport for End {
    fn call(
        &self,
        to: u64,
        _: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreached>> {
        let (hub, from) = (self.hub.clone(), *self.from.read().expect("a lock"));
        Box::pin(async move {
            let is_cut = |a, b| hub.cut.lock().expect("a lock").contains(&(a, b));
            if is_cut(from, to) {
                return Err(Unreached::NotSent("cut".into()));
            }
            let (answer, answered) = tokio::sync::oneshot::channel();
            {
                let nodes = hub.nodes.read().expect("a lock");
                let node = nodes.get(&to).ok_or_else(|| Unreached::NotSent("nobody there".into()))?;
                let sent = node.serve(request, move |bytes| drop(answer.send(bytes)));
                sent.map_err(|error| Unreached::NotSent(error.to_string()))?;
            }
            let answered = tokio::time::timeout(wait, answered).await;
            if is_cut(to, from) {
                return Err(Unreached::Lost("cut".into()));
            }
            answered
                .map_err(|_| Unreached::Lost("no answer in time".into()))?
                .map_err(|_| Unreached::Lost("it stopped".into()))
        })
    }
}

struct Cluster {
    hub: Arc<Hub>,
    disks: Vec<FaultDisk>,
    numbers: Vec<u64>,
}

fn open(hub: &Arc<Hub>, disk: &FaultDisk) -> Arc<Engine> {
    let from = Arc::new(RwLock::new(0));
    let transport = Arc::new(End { hub: hub.clone(), from: from.clone() });
    let seams = Seams { transport, ..seams(Arc::new(disk.clone())) };
    let engine = Engine::open(seams, Options { joins: Some(CLUSTER), ..options() }, Box::new(|_| {})).expect("opens");
    *from.write().expect("a lock") = engine.number();
    let engine = Arc::new(engine);
    hub.nodes.write().expect("a lock").insert(engine.number(), engine.clone());
    engine
}

fn member(n: usize) -> Member {
    Member { name: format!("n{n}@test"), address: String::new() }
}

impl Cluster {
    fn of(size: usize) -> Self {
        let hub = Arc::new(Hub::default());
        let disks: Vec<_> = (0..size).map(|_| FaultDisk::new()).collect();
        let numbers: Vec<_> = disks.iter().map(|disk| open(&hub, disk).number()).collect();
        let members: BTreeMap<_, _> = numbers.iter().enumerate().map(|(n, number)| (*number, member(n))).collect();
        let cluster = Self { hub, disks, numbers };
        cluster.node(0).begin(members).expect("begins");
        cluster.leader();
        cluster
    }

    fn node(&self, n: usize) -> Arc<Engine> {
        self.hub.nodes.read().expect("a lock")[&self.numbers[n]].clone()
    }

    /// Whom the most recent majority follows, by what it says itself.
    fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let nodes: Vec<_> = (0..self.numbers.len())
                .filter(|n| self.hub.nodes.read().expect("a lock").contains_key(&self.numbers[*n]))
                .collect();
            if let Some(leader) = nodes.into_iter().find(|n| self.node(*n).is_leader()) {
                return leader;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody leads");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn isolate(&self, n: usize, is_cut: bool) {
        let mut cut = self.hub.cut.lock().expect("a lock");
        for other in 0..self.numbers.len() {
            for pair in [(self.numbers[n], self.numbers[other]), (self.numbers[other], self.numbers[n])] {
                if is_cut {
                    cut.insert(pair);
                } else {
                    cut.remove(&pair);
                }
            }
        }
    }

    /// Power loss of one node, and its return.
    fn crash(&mut self, n: usize, mode: CrashMode) {
        let node = self.hub.nodes.write().expect("a lock").remove(&self.numbers[n]).expect("it runs");
        let after = self.disks[n].after_crash(mode);
        self.disks[n] = after;
        drop(node);
        let again = open(&self.hub, &self.disks[n]);
        assert_eq!(again.number(), self.numbers[n], "it is itself");
    }
}

fn get(engine: &Engine, names: &[&str], consistency: Consistency) -> Result<Option<Row>, RaftError> {
    match common::query(engine, Query::Get(path(names)), consistency)? {
        Found::Node(node) => Ok(node),
        found => panic!("{found:?}"),
    }
}

fn value(engine: &Engine, name: &str) -> Option<Vec<u8>> {
    get(engine, &["k", name], Consistency::Linearizable).expect("reads").and_then(|node| node.value)
}

#[test]
fn whoever_is_asked_writes_and_reads_the_same() {
    let cluster = Cluster::of(3);
    for n in 0..30 {
        let (writer, reader) = (cluster.node(n % 3), cluster.node((n + 1) % 3));
        propose(&writer, put(&["k", "one"], &n.to_le_bytes(), None)).expect("applies");
        assert_eq!(value(&reader, "one"), Some(binary(&n.to_le_bytes())), "a read after a write sees it");
    }
}

#[test]
fn a_leader_that_nobody_hears_is_replaced_and_comes_back_as_a_follower() {
    let cluster = Cluster::of(3);
    propose(&cluster.node(0), put(&["k", "a"], b"1", None)).expect("applies");
    let leader = cluster.leader();
    let old = cluster.node(leader);
    cluster.isolate(leader, true);
    let other = cluster.node((leader + 1) % 3);
    // as soon as another leads
    propose(&other, put(&["k", "a"], b"2", None)).expect("applies");
    assert_eq!(value(&other, "a"), Some(binary(b"2")));
    // what the old one has is what it had; it says so of a read that must be the newest, and takes no command for sure
    let stale = get(&old, &["k", "a"], Consistency::Local).expect("reads").expect("is there");
    assert_eq!(stale.value, Some(binary(b"1")));
    assert!(matches!(get(&old, &["k", "a"], Consistency::Linearizable), Err(RaftError::NoQuorum)));
    let refused = propose(&old, put(&["k", "a"], b"3", None));
    assert!(matches!(refused, Err(RaftError::NoQuorum | RaftError::Timeout)), "{refused:?}");
    cluster.isolate(leader, false);
    let begun = Instant::now();
    while !matches!(get(&old, &["k", "a"], Consistency::Linearizable), Ok(Some(node)) if node.value == Some(binary(b"2")))
    {
        assert!(begun.elapsed() < Duration::from_secs(5), "it heals");
    }
    propose(&old, put(&["k", "a"], b"4", None)).expect("applies");
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot_and_a_new_one_joins() {
    let mut cluster = Cluster::of(3);
    let away = (cluster.leader() + 1) % 3;
    cluster.isolate(away, true);
    let leader = cluster.node(cluster.leader());
    for n in 0..120_u32 {
        propose(&leader, put(&["k", &n.to_string()], &n.to_le_bytes(), None)).expect("applies");
    }
    cluster.isolate(away, false);
    assert_eq!(value(&cluster.node(away), "119"), Some(binary(&119_u32.to_le_bytes())));
    let disk = FaultDisk::new();
    let new = open(&cluster.hub, &disk);
    let_in(&leader, &new, "3@test");
    assert_eq!(value(&new, "0"), Some(binary(&0_u32.to_le_bytes())));
    cluster.disks.push(disk);
    cluster.numbers.push(new.number());
    // asked of one that does not lead
    change(&new, Change::Leave { number: cluster.numbers[away] }).expect("leaves");
    propose(&new, put(&["k", "new"], b"x", None)).expect("applies");
}

/// Crashes, and links that are cut, while three clients put: whatever was acknowledged is there at the end, on
/// every node the same.
#[test]
fn nothing_acknowledged_is_lost_whatever_crashes_or_is_cut() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut cluster = Cluster::of(3);
    let (mut acknowledged, mut unknown) = (BTreeMap::new(), 0);
    for round in 0..count(6, 60) {
        for _ in 0..20 {
            let n = random.usize(0..3);
            let name = format!("{}", random.u8(0..20));
            let value = random.u64(..).to_le_bytes();
            match propose_within(&cluster.node(n), put(&["k", &name], &value, None), PATIENCE) {
                Ok(_) => drop(acknowledged.insert(name, value)),
                // it may come to pass even later: nothing is known of this key
                Err(_) => {
                    unknown += 1;
                    acknowledged.remove(&name);
                }
            }
        }
        let victim = random.usize(0..3);
        match random.u8(0..3) {
            // one at a time: two would leave nobody to write to
            0 => {
                (0..3).for_each(|n| cluster.isolate(n, false));
                cluster.isolate(victim, true);
            }
            1 => (0..3).for_each(|n| cluster.isolate(n, false)),
            _ => cluster.crash(victim, [CrashMode::LoseAll, CrashMode::Random(round)][random.usize(0..2)]),
        }
    }
    (0..3).for_each(|n| cluster.isolate(n, false));
    for n in 0..3 {
        for (name, expected) in &acknowledged {
            assert_eq!(value(&cluster.node(n), name), Some(binary(expected)), "node={n} key={name}");
        }
    }
    eprintln!("cluster: acknowledged={} unknown={unknown} lost=0", acknowledged.len());
    assert!(!acknowledged.is_empty());
}
