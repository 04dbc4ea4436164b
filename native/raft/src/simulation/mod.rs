//! The seeded simulation: real nodes, logs, tables and openraft on virtual time, a network and disks that obey
//! a seed, clients whose histories an independent checker reads, and invariants at every step.
//!
//! A seed is a run, to the last message: `MACULA_SEED` replays one, `MACULA_TRACE` prints each step of it.
//! Invariant: nothing here waits for real time, and nothing that is random is not the seed's.
#![allow(clippy::disallowed_methods)]

mod checks;
mod clients;
mod disk;
mod history;
mod network;
mod schedule;
mod tests;
pub(crate) mod watch;
mod world;

use checks::Checks;
use clients::Reads;
use history::Op;
use schedule::Schedule;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use world::{Figures, World};

/// What is run, beside the seed.
#[derive(Debug, Clone, Copy)]
struct Plan {
    reads: Reads,
    /// Disks forget what they were told to sync.
    forgets: bool,
}

const RIGHT: Plan = Plan { reads: Reads::Linearizable, forgets: false };
const KEYS: u8 = 3;
/// For all to write again when nothing is broken any more.
const HEAL: Duration = Duration::from_secs(5);

struct Outcome {
    figures: Figures,
    wrong: Option<String>,
    trace: (u64, u64),
}

/// One run.
fn run(seed: u64, plan: Plan) -> Outcome {
    crate::runtime::seeded(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runs").block_on(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new(seed, if random.u8(0..3) == 0 { 5 } else { 3 });
        story(&world, &mut random, plan).await;
        let (figures, wrong) = (*world.figures.lock(), world.found_wrong());
        Outcome { figures, wrong, trace: world.traced() }
    })
}

async fn story(world: &Arc<World>, random: &mut fastrand::Rng, plan: Plan) {
    begin(world, plan).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = random.u64(3..=5);
    let running: Vec<_> =
        (0..clients).map(|n| tokio::spawn(clients::run(world.clone(), n, KEYS, plan.reads, stop.clone()))).collect();
    let looking = tokio::spawn(look(world.clone(), stop.clone()));
    let keeping = tokio::spawn(keep(world.clone(), stop.clone()));
    let mut schedule = Schedule::new(world);
    schedule.run(Duration::from_millis(random.u64(3_000..7_000))).await;
    if !world.is_wrong.load(Ordering::Relaxed) {
        schedule.heal().await;
        heals(world).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in running {
        client.await.expect("a client");
    }
    looking.await.expect("looks");
    keeping.await.expect("keeps");
    if !world.is_wrong.load(Ordering::Relaxed) {
        agree(world).await;
    }
    let checked = world.checks.lock().history.check();
    if let Err(text) = checked {
        world.wrong(text);
    }
}

async fn begin(world: &Arc<World>, plan: Plan) {
    for at in 0..world.places() {
        world.places.lock()[at].disk.forget_syncs(plan.forgets);
        world.open(at).await;
    }
    let members: BTreeMap<_, _> =
        world.lives().iter().map(|(at, life)| (life.node.number(), world.member(*at))).collect();
    let first = world.life(0).expect("it lives");
    first.node.begin(members).await.expect("begins");
    // before that a crash may take back the beginning, and a wipe of who began it all there is (seed 547915177907)
    let is_durable = |place: &world::Place| !place.durable.lock().synced.is_empty();
    let has_begun = || world.lives().iter().all(|(_, life)| !life.node.members().is_empty());
    while !has_begun() || !world.places.lock().iter().all(is_durable) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn look(world: Arc<World>, stop: Arc<AtomicBool>) {
    let mut turn = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        turn += 1;
        Checks::look(&world, turn.is_multiple_of(20)).await;
    }
}

/// What a node does by itself beside Raft: whoever leads ends what others left halfway.
async fn keep(world: Arc<World>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (_, life) in world.lives().iter().filter(|(_, life)| life.node.is_leader()) {
            // whoever leads next tries again
            let _ = tokio::time::timeout(Duration::from_secs(1), life.node.promote()).await;
        }
    }
}

/// Every member writes again, and no change of the members stays halfway.
async fn heals(world: &Arc<World>) {
    let healed = world.begun.elapsed();
    for (at, life) in world.lives() {
        loop {
            let fresh = world.checks.lock().history.fresh();
            let second = Duration::from_secs(1);
            let wrote = clients::once(world, &life, at, 0, Op::Put(fresh), second, Reads::Linearizable).await;
            if world.begun.elapsed() - healed > HEAL {
                return world.wrong(format!("it does not write after all is well: place={at}"));
            }
            if wrote.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    while world.lives().iter().any(|(_, life)| life.node.is_changing()) {
        if world.begun.elapsed() - healed > 2 * HEAL {
            return world.wrong("a change of the members stays halfway".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All have the same in the end, and tell it.
async fn agree(world: &Arc<World>) {
    for (at, life) in world.lives() {
        for key in 0..KEYS {
            let wait = 2 * HEAL;
            let told = clients::once(world, &life, at, key, Op::Get, wait, Reads::Linearizable).await;
            if told.is_none() {
                return world.wrong(format!("it does not read after all is well: place={at}"));
            }
        }
    }
    // for who watches to read what is there
    tokio::time::sleep(Duration::from_millis(100)).await;
    // twice: what the first place needs to be compared the last one may tell
    Checks::look(world, false).await;
    Checks::look(world, true).await;
    world.checks.lock().has_all(world);
}
