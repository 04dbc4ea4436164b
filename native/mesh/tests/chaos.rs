//! Members that write, delete, part, die and lose power by a seed, on disks that forget what was not synced. At the
//! end all are there and reach each other: then they have the same, and nothing that was acknowledged is missing.
//!
//! `MACULA_SEED` runs one again; `MACULA_TORTURE` runs more of them.

use crate::common::{all_meet, name, settled, until, Network, Node};
use fastrand::Rng;
use macula_core::Disk;
use macula_mesh::{Ack, Dot, Options, Record, Version, BLOCK_LEN};
use macula_testkit::{CrashMode, FaultDisk};
use std::collections::BTreeMap;
use std::sync::Arc;

const RUNS: u64 = 12;
const TORTURE_RUNS: u64 = 400;
const NAMES: [&str; 3] = ["a", "b", "c"];
const PATHS: [&str; 4] = ["f", "g", "dir/h", "dir/sub/i"];

/// What was acknowledged: each version's content, nothing for a deletion.
type Acknowledged = BTreeMap<(String, Dot), Option<Vec<u8>>>;

struct World {
    rng: Rng,
    net: Arc<Network>,
    nodes: Vec<Option<Node>>,
    disks: Vec<FaultDisk>,
    acknowledged: Acknowledged,
    written: u64,
}

fn node_on(net: &Arc<Network>, n: usize, disk: &FaultDisk) -> Node {
    Node::on(net, NAMES[n], Arc::new(disk.clone()) as Arc<dyn Disk>, Options::default())
}

impl World {
    fn new(seed: u64) -> Self {
        let net = Arc::new(Network::default());
        let disks: Vec<FaultDisk> = NAMES.iter().map(|_| FaultDisk::new()).collect();
        let nodes = (0..NAMES.len()).map(|n| Some(node_on(&net, n, &disks[n]))).collect();
        Self { rng: Rng::with_seed(seed), net, nodes, disks, acknowledged: Acknowledged::new(), written: 0 }
    }

    fn step(&mut self) {
        let at = self.rng.usize(..NAMES.len());
        match self.rng.u32(..20) {
            0..=8 => self.write(at),
            9..=10 => self.delete(at),
            11..=12 => self.net.cut(NAMES[at], NAMES[(at + 1) % NAMES.len()]),
            13..=14 => self.net.heal(),
            15 => self.die(at, None),
            16 => {
                let mode = match self.rng.u32(..3) {
                    0 => CrashMode::LoseAll,
                    1 => CrashMode::KeepAll,
                    _ => CrashMode::Random(self.rng.u64(..)),
                };
                self.die(at, Some(mode));
            }
            17..=18 => self.come_back(at),
            _ => std::thread::sleep(std::time::Duration::from_millis(self.rng.u64(..60))),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        self.written += 1;
        let len = match self.rng.u32(..10) {
            0 => 2 * BLOCK_LEN + self.rng.usize(..1000),
            1 => 0,
            _ => self.rng.usize(..5_000),
        };
        let mut bytes = self.written.to_le_bytes().to_vec();
        bytes.extend((0..len).map(|_| self.rng.u8(..)));
        bytes
    }

    fn write(&mut self, at: usize) {
        let (path, content) = (PATHS[self.rng.usize(..PATHS.len())], self.content());
        let Some(node) = &self.nodes[at] else { return };
        // durable here once it has its dot, however many others have it
        let dot = node.mesh.write(&name(path), &content).expect("writes");
        self.acknowledged.insert((path.to_owned(), dot), Some(content));
    }

    fn delete(&mut self, at: usize) {
        let path = PATHS[self.rng.usize(..PATHS.len())];
        let Some(node) = &self.nodes[at] else { return };
        if let Ok(dot) = node.mesh.delete(&name(path)) {
            self.acknowledged.insert((path.to_owned(), dot), None);
        }
    }

    /// Its process dies, or its power goes.
    fn die(&mut self, at: usize, power: Option<CrashMode>) {
        let Some(node) = self.nodes[at].take() else { return };
        self.disks[at] = match power {
            None => self.disks[at].kill(),
            Some(mode) => self.disks[at].after_crash(mode),
        };
        // what it still does, it does to a disk that nobody looks at any more
        node.leave();
    }

    fn come_back(&mut self, at: usize) {
        if self.nodes[at].is_none() {
            self.nodes[at] = Some(node_on(&self.net, at, &self.disks[at]));
        }
    }

    fn end(mut self) {
        self.net.heal();
        (0..NAMES.len()).for_each(|at| self.come_back(at));
        let nodes: Vec<Node> = self.nodes.into_iter().flatten().collect();
        all_meet(&nodes);
        until("all know the same", || {
            let records = |node: &Node| PATHS.map(|path| node.known(path));
            let same = records(&nodes[0]);
            nodes.iter().all(|node| records(node) == same)
        });
        settled(&nodes);
        for path in PATHS {
            let record = nodes[0].known(path);
            check_tree(path, &record, &nodes, &self.acknowledged);
            let of_path = self.acknowledged.iter().filter(|((of, _), _)| of == path);
            if record == Record::default() {
                let last = of_path.max_by_key(|((_, dot), _)| *dot);
                assert!(last.is_none_or(|(_, content)| content.is_none()), "{path} was forgotten: {last:?}");
                continue;
            }
            for ((_, dot), content) in of_path {
                check_version(path, *dot, content.as_deref(), &record, &nodes);
            }
        }
    }
}

/// Every member shows what the record says, and nothing else. What was not acknowledged may have come about: wholly.
fn check_tree(path: &str, record: &Record, nodes: &[Node], acknowledged: &Acknowledged) {
    let shown: Option<&Version> = record.winner().filter(|version| version.content.is_some());
    for node in nodes {
        let there = node.tree().remove(path);
        let Some(shown) = shown else {
            assert_eq!(there, None, "{path} on {}", node.name);
            continue;
        };
        match acknowledged.get(&(path.to_owned(), shown.dot)) {
            Some(wanted) => assert_eq!(there, *wanted, "{path} on {}", node.name),
            None => {
                let id = there.as_deref().map(macula_mesh::ContentId::of_block);
                assert_eq!(id, shown.content.map(|content| content.id), "{path} on {}", node.name);
            }
        }
    }
}

/// A version that was acknowledged is readable everywhere, or was replaced by somebody who had it.
fn check_version(path: &str, dot: Dot, content: Option<&[u8]>, record: &Record, nodes: &[Node]) {
    assert!(record.last_of(dot.replica).is_some_and(|last| last >= dot.stamp), "{path} {dot:?} was forgotten");
    let Some(content) = content.filter(|_| record.version(&dot).is_some()) else { return };
    for node in nodes {
        let read = node.read_version(path, Some(dot)).expect("readable");
        assert_eq!(read, content, "{path} {dot:?} on {}", node.name);
    }
}

#[test]
fn members_agree_and_nothing_acknowledged_is_lost() {
    let setting = |name: &str| std::env::var_os(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
    let (first, runs) = match setting("MACULA_SEED") {
        Some(seed) => (seed, 1),
        None if std::env::var_os("MACULA_TORTURE").is_some() => (fastrand::u64(..1 << 40), TORTURE_RUNS),
        None => (fastrand::u64(..1 << 40), RUNS),
    };
    for seed in first..first + runs {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let steps = world.rng.usize(5..60);
            (0..steps).for_each(|_| world.step());
            world.end();
        });
        assert!(run.is_ok(), "MACULA_SEED={seed}");
    }
}

/// The power goes at every operation on a disk, of a write and what follows it: on the writer's side, and on that of
/// the member that gets it.
#[test]
fn power_may_go_at_any_operation() {
    let torture = std::env::var_os("MACULA_TORTURE").is_some();
    for victim in [0, 1] {
        let mut n = 1;
        while run_until(victim, n) {
            n += if torture { 1 } else { 7 };
        }
        assert!(n > 20, "operations={n}");
    }
}

/// Whether the fault came before the end.
fn run_until(victim: usize, n: u64) -> bool {
    let mut world = World::new(n);
    let nodes: Vec<&Node> = world.nodes[..2].iter().flatten().collect();
    nodes[0].write("f", b"first", Ack::Others(1)).expect("written");
    let before = world.disks[victim].operations();
    world.disks[victim].fail_at(before + n, macula_testkit::Fault::Crash);
    let mut acknowledged = Acknowledged::new();
    for (path, content) in [("f", &b"second"[..]), ("g", b"new"), ("f", b"third")] {
        let Ok(dot) = nodes[0].mesh.write(&name(path), content) else { break };
        acknowledged.insert((path.to_owned(), dot), Some(content.to_vec()));
        let wait = std::time::Duration::from_millis(if world.disks[victim].has_crashed() { 1 } else { 300 });
        let _ = crate::common::wait(|reply| {
            nodes[0].mesh.acknowledged(&name(path), dot, Some(Ack::Others(1)), wait, reply)
        });
    }
    if let Ok(dot) = nodes[0].mesh.delete(&name("g")) {
        acknowledged.insert(("g".to_owned(), dot), None);
    }
    let has_crashed = world.disks[victim].has_crashed();
    world.acknowledged = acknowledged;
    world.die(victim, Some(CrashMode::Random(n)));
    world.end();
    has_crashed
}
