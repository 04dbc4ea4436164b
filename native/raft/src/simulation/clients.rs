//! Clients: each asks one thing after the other, of any node, and writes down what it was told.
//!
//! Invariant: what may have happened stays open for ever; what is said not to have happened is held to have not.

use super::history::{Done, Op};
use super::world::{Life, World};
use crate::machine::{self, Node as Row};
use crate::machine::{read, Command, Condition, Guard, OpResult, Path, Response};
use crate::{RaftError, Reading};
use std::sync::Arc;
use std::time::Duration;

/// How reads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Linearizable,
    /// A defect on purpose.
    Local,
}

/// A value of the External Term Format that nobody wrote before.
fn value(number: u64) -> Vec<u8> {
    let mut etf = vec![131, 109, 0, 0, 0, 8];
    etf.extend(number.to_be_bytes());
    etf
}

fn number(row: Option<&Row>) -> Option<u64> {
    let etf = row?.value.as_ref()?;
    Some(u64::from_be_bytes(etf[6..].try_into().expect("a value of ours")))
}

/// The register of that number.
pub fn path(key: u8) -> Path {
    Path::new(&[vec![131, 109, 0, 0, 0, 1, key]]).expect("a path")
}

fn put(key: u8, new: u64) -> machine::Op {
    machine::Op::Put { path: path(key), value: value(new), ttl_ms: None, lease: None, keep_while: vec![] }
}

fn get(key: u8) -> machine::Op {
    machine::Op::Get { path: path(key) }
}

fn command(key: u8, op: &Op) -> Option<Command> {
    let then = |op| vec![op, get(key)];
    Some(match op {
        Op::Get => return None,
        Op::Put(new) => Command::Txn { conditions: vec![], then: then(put(key, *new)), otherwise: vec![] },
        Op::Delete => {
            let then = then(machine::Op::Delete { path: path(key) });
            Command::Txn { conditions: vec![], then, otherwise: vec![] }
        }
        Op::Swap(from, to) => {
            let condition = match from {
                Some(from) => Condition::ValueIs(value(*from)),
                None => Condition::Not(Box::new(Condition::Exists)),
            };
            let conditions = vec![Guard::Node(path(key), condition)];
            Command::Txn { conditions, then: then(put(key, *to)), otherwise: vec![get(key)] }
        }
    })
}

/// What it saw, and the revision of a write that was made.
fn told(response: Response) -> (Done, Option<u64>) {
    let Response::Txn { results, succeeded } = response else { panic!("{response:?}") };
    match &results[..] {
        [OpResult::Put { previous, .. }, OpResult::Got { node }] => {
            (Done { seen: number(previous.as_ref()), is_done: true }, node.as_ref().map(|node| node.modified))
        }
        [OpResult::Deleted { previous, .. }, OpResult::Got { node: None }] => {
            (Done { seen: number(previous.as_ref()), is_done: true }, None)
        }
        [OpResult::Got { node }] if !succeeded => (Done { seen: number(node.as_ref()), is_done: false }, None),
        results => panic!("{results:?}"),
    }
}

/// What became of a call.
enum End {
    Told(Done, Option<u64>),
    Unknown,
    Never,
}

/// As `Engine` does it, with a life that may end meanwhile.
async fn ask(life: &Life, key: u8, op: &Op, deadline: Duration, reads: Reads) -> (End, String) {
    let stage = Arc::default();
    let work = async {
        match command(key, op) {
            None => {
                let rows: Arc<Reading> = match reads {
                    Reads::Linearizable => life.node.read_latest().await?,
                    Reads::Local => life.node.read_local(),
                };
                let row = rows.look(|rows| Ok(read::get(rows, &path(key))?))?;
                Ok((Done { seen: number(row.as_ref()), is_done: true }, None))
            }
            Some(command) => {
                let answer = life.node.propose(&command, &stage).await?;
                Ok(told(Response::decode(&answer.0)?))
            }
        }
    };
    let ended = tokio::select! {
        biased;
        () = life.end() => Err(RaftError::Closed),
        done = tokio::time::timeout(deadline, work) => done.unwrap_or(Err(RaftError::Timeout)),
    };
    match ended {
        Ok((done, revision)) => (End::Told(done, revision), String::new()),
        Err(error) => {
            let may_have = match &error {
                // ours, not the node's
                RaftError::Closed | RaftError::Timeout => stage.give_up(),
                RaftError::Unknown | RaftError::Stopped(_) => true,
                _ => false,
            };
            let is_read = matches!(op, Op::Get);
            (if may_have && !is_read { End::Unknown } else { End::Never }, error.to_string())
        }
    }
}

/// One client, until it is told to stop.
pub async fn run(world: Arc<World>, client: u64, keys: u8, reads: Reads, stop: Arc<std::sync::atomic::AtomicBool>) {
    let mut random = fastrand::Rng::with_seed(world.seed.wrapping_mul(0x1000_0001).wrapping_add(client));
    let mut last: Vec<Option<u64>> = vec![None; usize::from(keys)];
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_micros(random.u64(500..60_000))).await;
        let (at, key) = (random.usize(0..world.places()), random.u8(0..keys));
        let fresh = world.checks.lock().history.fresh();
        let op = match random.u8(0..10) {
            0..=3 => Op::Get,
            4..=6 => Op::Put(fresh),
            7..=8 => Op::Swap(last[usize::from(key)], fresh),
            _ => Op::Delete,
        };
        let deadline = Duration::from_millis(if random.bool() { random.u64(20..200) } else { 1_500 });
        let Some(life) = world.life(at) else { continue };
        if let Some(seen) = once(&world, &life, at, key, op, deadline, reads).await {
            last[usize::from(key)] = seen;
        }
    }
}

/// One call; what stands in the register as far as it tells.
pub async fn once(
    world: &Arc<World>,
    life: &Life,
    at: usize,
    key: u8,
    op: Op,
    deadline: Duration,
    reads: Reads,
) -> Option<Option<u64>> {
    let call = world.checks.lock().history.call(key, op);
    world.trace(("call", call, at, key, op));
    world.figures.lock().operations += 1;
    let (end, why) = ask(life, key, &op, deadline, reads).await;
    let mut checks = world.checks.lock();
    match end {
        End::Told(done, revision) => {
            world.trace(("told", call, done, revision));
            checks.history.returned(call, done);
            checks.acknowledged(world, call, &op, done, revision);
            Some(match op {
                Op::Get => done.seen,
                Op::Put(new) => Some(new),
                Op::Swap(_, to) if done.is_done => Some(to),
                Op::Swap(..) => done.seen,
                Op::Delete => None,
            })
        }
        End::Unknown => {
            world.trace(("unknown", call, why));
            world.figures.lock().unknown += 1;
            None
        }
        End::Never => {
            world.trace(("never", call, why));
            checks.history.never(call);
            None
        }
    }
}
