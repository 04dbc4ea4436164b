//! Puts load on nodes in this process and prints what came of it, beside what the disk can do.
//!
//! `load NODES CLIENTS SECONDS KIND [AT]`: KIND is `put` (durable, 100 bytes), `get` (linearizable), `local`, or
//! `failover` (SECONDS rounds; one kills the leader), `fill` (SECONDS thousands of keys of 1 KB); AT is the node that the clients ask, 0 leads. Clients are
//! closed loops, driven by one thread.
#![allow(missing_docs, clippy::disallowed_methods, clippy::print_stdout)]

mod failover;
mod figures;
mod fill;
mod site;

use figures::{at, syncs_per_s, Spent};
use macula_core::Cancel;
use macula_raft::machine::{Command, Op, Path};
use macula_raft::{Consistency, Engine, Query};
use site::Site;
use std::sync::mpsc::{channel, Sender};
use std::time::{Duration, Instant};

const KEYS: u32 = 10_000;
const VALUE_LEN: usize = 100;
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
    Local,
}

/// A client is answered, and how well.
type Answered = (usize, bool);

pub fn path(n: u32) -> Path {
    let mut name = vec![131, 109];
    name.extend(8_u32.to_be_bytes());
    name.extend(format!("{n:08}").as_bytes());
    let of = [131, 100, 0, 4, b'l', b'o', b'a', b'd'];
    Path::new(&[&of[..], &name]).expect("a path")
}

pub fn put(n: u32, len: usize) -> Command {
    let mut value = vec![131, 109];
    value.extend((len as u32).to_be_bytes());
    value.extend((0..len).map(|at| (at as u32).wrapping_mul(n | 1) as u8));
    let op = Op::Put { path: path(n), value, ttl_ms: None, lease: None, keep_while: vec![] };
    Command::Txn { conditions: vec![], then: vec![op], otherwise: vec![] }
}

fn ask(engine: &Engine, kind: Kind, client: usize, done: &Sender<Answered>) {
    let (done, n) = (done.clone(), fastrand::u32(0..KEYS));
    let result = match kind {
        Kind::Put => engine.propose(put(n, VALUE_LEN), Some(DEADLINE), Cancel::new(), move |result| {
            let _ = done.send((client, result.is_ok()));
        }),
        Kind::Get | Kind::Local => {
            let consistency = if kind == Kind::Get { Consistency::Linearizable } else { Consistency::Local };
            engine.query(Query::Get(path(n)), consistency, Some(DEADLINE), Cancel::new(), move |result| {
                let _ = done.send((client, result.is_ok()));
            })
        }
    };
    result.expect("taken");
}

struct Ran {
    /// Ascending.
    latencies_us: Vec<u32>,
    failed: u64,
    elapsed: Duration,
    spent: Spent,
}

fn run(engine: &Engine, kind: Kind, clients: usize, span: Duration) -> Ran {
    let (done, answered) = channel();
    let (begun, before) = (Instant::now(), Spent::now());
    let mut since = vec![begun; clients];
    (0..clients).for_each(|client| ask(engine, kind, client, &done));
    let (mut under_way, mut failed, mut latencies_us) = (clients, 0, Vec::new());
    while under_way > 0 {
        let (client, is_ok) = answered.recv().expect("an answer");
        let now = Instant::now();
        latencies_us.push((now - since[client]).as_micros() as u32);
        failed += u64::from(!is_ok);
        if now - begun < span {
            since[client] = now;
            ask(engine, kind, client, &done);
        } else {
            under_way -= 1;
        }
    }
    let (elapsed, after) = (begun.elapsed(), Spent::now());
    latencies_us.sort_unstable();
    let spent = Spent {
        cpu_us: after.cpu_us.saturating_sub(before.cpu_us),
        switches: after.switches.saturating_sub(before.switches),
        rss_kb: after.rss_kb,
    };
    Ran { latencies_us, failed, elapsed, spent }
}

fn report(name: &str, ran: &Ran, syncs: f64) {
    let count = ran.latencies_us.len().max(1) as f64;
    let rate = count / ran.elapsed.as_secs_f64();
    let [p50, p99, p999] = [500, 990, 999].map(|thousandths| at(&ran.latencies_us, thousandths));
    println!(
        "{name}: {rate:.0}/s p50={p50}us p99={p99}us p99.9={p999}us failed={} cpu={:.1}us/op switches={:.2}/op \
         rss={}MB | disk {syncs:.0} syncs/s, rate/syncs={:.2}, p50 in syncs={:.2}",
        ran.failed,
        ran.spent.cpu_us as f64 / count,
        ran.spent.switches as f64 / count,
        ran.spent.rss_kb >> 10,
        rate / syncs,
        f64::from(p50) * syncs / 1e6,
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(default, |text| text.parse().expect("a number"));
    let (nodes, clients, seconds) = (number(0, 1), number(1, 64), number(2, 3));
    let name = args.get(3).map_or("put", String::as_str);
    let kind = match name {
        "put" => Kind::Put,
        "get" => Kind::Get,
        "local" => Kind::Local,
        "fill" => return fill::run(seconds as u32, clients),
        "failover" => return failover::run(nodes, seconds),
        other => panic!("no such kind: {other}"),
    };
    let site = Site::new();
    let (half, record_len) = (Duration::from_millis(500), 256);
    let syncs_before = syncs_per_s(site.base(), record_len, half);
    let engines = site.cluster(nodes);
    let engine = &engines[number(4, 0)];
    // warm: what is read is there, links are up
    run(&engines[0], Kind::Put, clients.clamp(8, 256), Duration::from_millis(700));
    let ran = run(engine, kind, clients, Duration::from_secs(seconds as u64));
    drop(engines);
    let syncs = (syncs_before + syncs_per_s(site.base(), record_len, half)) / 2.0;
    report(&format!("nodes={nodes} clients={clients} {name} at={}", number(4, 0)), &ran, syncs);
}
