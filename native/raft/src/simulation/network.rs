//! The simulated network: what becomes of a request and of its answer follows from the seed.
//!
//! Everything that Raft itself says may be late, lost, doubled or overtaken. A client's command may be late or
//! lost, and is never doubled: links do not send twice, which is their contract.

use super::world::{Life, World};
use crate::rpc::Request;
use crate::{Member, Transport, Unreached};
use futures_util::future::BoxFuture;
use macula_net::{Caller, NodeName, Peer, Purpose, Role};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// As long as a link without a byte from the other side lives: then what waits on it is told that it is lost.
const SILENCE: Duration = Duration::from_millis(4_000);

/// How bad it is; chances in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lost: u32,
    pub doubled: u32,
    pub late: u32,
}

/// All links.
pub struct Network {
    random: fastrand::Rng,
    pub weather: Weather,
    /// From, to.
    pub cut: BTreeSet<(usize, usize)>,
    /// Who lives where.
    pub homes: BTreeMap<u64, usize>,
}

/// What becomes of one request.
struct Fate {
    out: Duration,
    back: Duration,
    is_lost: bool,
    is_answer_lost: bool,
    /// A second one arrives so much later.
    again: Option<Duration>,
    /// A dead link says so at once.
    is_told: bool,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let (weather, cut, homes) = Default::default();
        Self { random: fastrand::Rng::with_seed(seed ^ 0x4e74), weather, cut, homes }
    }

    fn fate(&mut self) -> Fate {
        let (random, weather) = (&mut self.random, self.weather);
        let mut happens = |chance: u32| random.u32(0..1000) < chance;
        let (is_lost, is_answer_lost) = (happens(weather.lost), happens(weather.lost));
        let (is_late, is_back_late) = (happens(weather.late), happens(weather.late));
        let (is_doubled, is_told) = (happens(weather.doubled), happens(500));
        let mut way = |is_late| Duration::from_micros(random.u64(if is_late { 5_000..400_000 } else { 100..2_500 }));
        let (out, back, late) = (way(is_late), way(is_back_late), way(true));
        Fate { out, back, is_lost, is_answer_lost, again: is_doubled.then_some(late), is_told }
    }

    /// Two groups that do not hear each other.
    pub fn split(&mut self, places: usize, is_left: impl Fn(usize) -> bool) {
        for from in 0..places {
            for to in (0..places).filter(|to| is_left(from) != is_left(*to)) {
                self.cut.insert((from, to));
            }
        }
    }
}

/// One life's end of it.
pub struct End {
    pub world: Weak<World>,
    pub at: usize,
    pub is_over: Arc<AtomicBool>,
}

impl Transport for End {
    fn call(
        &self,
        to: u64,
        _: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreached>> {
        let (world, from, is_over) = (self.world.clone(), self.at, self.is_over.clone());
        Box::pin(async move {
            let carried = carry(world, from, is_over, to, request);
            match tokio::time::timeout(wait.min(SILENCE), carried).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Unreached::Lost("no answer in time".into())),
            }
        })
    }
}

/// Nothing comes any more.
async fn silence() -> ! {
    std::future::pending().await
}

async fn carry(
    world: Weak<World>,
    from: usize,
    is_over: Arc<AtomicBool>,
    to: u64,
    request: Vec<u8>,
) -> Result<Vec<u8>, Unreached> {
    let Some(world) = world.upgrade().filter(|_| !is_over.load(Ordering::Relaxed)) else { silence().await };
    let is_cut = |from: usize, to: usize| world.network.lock().cut.contains(&(from, to));
    let (fate, home) = {
        let mut network = world.network.lock();
        (network.fate(), network.homes.get(&to).copied())
    };
    let decoded = Request::decode(&request).map(|(envelope, request)| (envelope.from, request));
    if let Ok((sender, request)) = &decoded {
        world.checks.lock().see(&world, *sender, request);
    }
    let refused = || Err(Unreached::NotSent("nobody there".into()));
    let Some(home) = home else { return refused() };
    if (is_cut(from, home) || world.life(home).is_none()) && fate.is_told {
        return refused();
    }
    tokio::time::sleep(fate.out).await;
    if is_over.load(Ordering::Relaxed) || is_cut(from, home) || fate.is_lost {
        silence().await;
    }
    let Some(life) = world.life(home).filter(|life| life.node.number() == to) else { silence().await };
    let is_command = matches!(decoded, Ok((_, Request::Propose(_) | Request::ProposeMany(_))));
    if let Some(late) = fate.again.filter(|_| !is_command) {
        let (world, request) = (world.clone(), request.clone());
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            if let Some(life) = world.life(home).filter(|life| life.node.number() == to) {
                drop(serve(&world, &life, from, home, &request).await);
            }
        });
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let serving = (world.clone(), life.clone());
    // whoever asked may be gone before it is done
    tokio::spawn(async move {
        let (world, life) = serving;
        drop(answer.send(serve(&world, &life, from, home, &request).await));
    });
    let Ok(bytes) = answered.await else {
        world.wrong(format!("a member panicked: place={home}"));
        silence().await
    };
    if life.is_over.load(Ordering::Relaxed) {
        silence().await;
    }
    tokio::time::sleep(fate.back).await;
    if is_over.load(Ordering::Relaxed) || is_cut(home, from) || fate.is_answer_lost {
        silence().await;
    }
    Ok(bytes)
}

async fn serve(world: &World, life: &Life, from: usize, home: usize, request: &[u8]) -> Vec<u8> {
    let node = NodeName::new(world.member(from).name.as_bytes()).expect("a name");
    let peer = Arc::new(Peer { node, role: Role::Member, cluster: macula_net::ClusterId([0; 16]) });
    let caller = Caller { peer, purpose: Purpose::Raft };
    let mut hash = DefaultHasher::new();
    request.hash(&mut hash);
    world.trace(("arrives", from, home, hash.finish()));
    life.node.serve(Some(&caller), request).await
}
