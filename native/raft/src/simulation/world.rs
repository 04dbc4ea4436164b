//! The simulated world: places with a disk and a clock each, and the node that lives there, or does not.
//!
//! Invariant: everything runs on one thread on virtual time and draws from the seed, so that a seed is a run. What
//! a life does after its end reaches nobody: its disk is a copy by then, its links are dead.

use super::checks::Checks;
use super::disk::{self, Durable};
use super::network::{End, Network};
use crate::node::{Node, Options, Seams};
use crate::state::Machine;
use crate::{Feeds, Member};
use macula_core::Clock;
use macula_testkit::{CrashMode, FaultDisk, SeededChance};
use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What is counted of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub operations: u64,
    pub unknown: u64,
    pub elections: u64,
    pub crashes: u64,
    pub joins: u64,
}

/// A node from its opening to its end.
pub struct Life {
    pub id: u64,
    pub node: Arc<Node>,
    pub feeds: Arc<Feeds>,
    pub is_over: Arc<AtomicBool>,
    over: Notify,
}

impl Life {
    /// When it is over.
    pub async fn end(&self) {
        let mut over = std::pin::pin!(self.over.notified());
        over.as_mut().enable();
        if !self.is_over.load(Ordering::Relaxed) {
            over.await;
        }
    }
}

/// Where a node lives.
pub struct Place {
    pub name: String,
    pub disk: FaultDisk,
    /// Who lives here, or will again.
    pub number: u64,
    pub life: Option<Arc<Life>>,
    pub wall_ms: Arc<AtomicI64>,
    pub durable: Arc<Mutex<Durable>>,
    /// Who lived here before it was wiped, and what it had: that it synced it was true.
    pub former: Vec<(u64, Arc<Mutex<Durable>>)>,
    /// How long a sync takes here, at least and beyond that at most.
    pub sync_us_min: Arc<AtomicU64>,
    pub sync_us_max: Arc<AtomicU64>,
    pub is_opening: bool,
}

/// Everything.
pub struct World {
    pub begun: Instant,
    pub seed: u64,
    pub places: Mutex<Vec<Place>>,
    pub network: Mutex<Network>,
    pub random: Mutex<fastrand::Rng>,
    pub checks: Mutex<Checks>,
    pub figures: Mutex<Figures>,
    lives: Mutex<u64>,
    trace: Mutex<(u64, DefaultHasher)>,
    wrong: Mutex<Option<String>>,
    pub is_wrong: AtomicBool,
    is_told: bool,
}

/// A node's clock: the run's, and a wall that jumps.
#[derive(Debug)]
struct WallClock {
    begun: Instant,
    wall_ms: Arc<AtomicI64>,
}

impl Clock for WallClock {
    fn wall_ms(&self) -> u64 {
        let now_ms = 1_700_000_000_000 + self.begun.elapsed().as_millis() as i64;
        (now_ms + self.wall_ms.load(Ordering::Relaxed)) as u64
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep(&self, span: Duration) {
        panic!("nothing may hold up the one thread of a simulation: span={span:?}");
    }
}

impl World {
    pub fn new(seed: u64, places: usize) -> Arc<Self> {
        let place = |n| Place {
            name: format!("n{n}@test"),
            disk: FaultDisk::new(),
            number: 0,
            life: None,
            wall_ms: Arc::default(),
            durable: Arc::default(),
            former: Vec::new(),
            sync_us_min: Arc::default(),
            sync_us_max: Arc::new(2_000.into()),
            is_opening: false,
        };
        Arc::new(Self {
            begun: Instant::now(),
            seed,
            places: Mutex::new((0..places).map(place).collect()),
            network: Mutex::new(Network::new(seed)),
            random: Mutex::new(fastrand::Rng::with_seed(seed ^ 0x0071)),
            checks: Mutex::default(),
            figures: Mutex::default(),
            lives: Mutex::default(),
            trace: Mutex::default(),
            wrong: Mutex::default(),
            is_wrong: AtomicBool::new(false),
            is_told: std::env::var_os("MACULA_TRACE").is_some(),
        })
    }

    /// Goes into what two runs of a seed must have in common.
    pub fn trace(&self, what: impl Hash + std::fmt::Debug) {
        let (count, hash) = &mut *self.trace.lock();
        *count += 1;
        let at = self.begun.elapsed();
        (at, &what).hash(hash);
        if self.is_told {
            eprintln!("{at:?} {what:?}");
        }
    }

    /// How many steps there were, and a hash of them.
    pub fn traced(&self) -> (u64, u64) {
        let (count, hash) = &*self.trace.lock();
        (*count, hash.finish())
    }

    /// Something is not as it must be. The first is kept.
    pub fn wrong(&self, what: String) {
        self.wrong.lock().get_or_insert_with(|| format!("at {:?}: {what}", self.begun.elapsed()));
        self.is_wrong.store(true, Ordering::Relaxed);
    }

    pub fn found_wrong(&self) -> Option<String> {
        self.wrong.lock().clone()
    }

    pub fn places(&self) -> usize {
        self.places.lock().len()
    }

    pub fn life(&self, at: usize) -> Option<Arc<Life>> {
        self.places.lock()[at].life.clone()
    }

    pub fn lives(&self) -> Vec<(usize, Arc<Life>)> {
        let places = self.places.lock();
        places.iter().enumerate().filter_map(|(at, place)| Some((at, place.life.clone()?))).collect()
    }

    pub fn member(&self, at: usize) -> Member {
        Member { name: self.places.lock()[at].name.clone(), address: String::new() }
    }

    /// Open what is on the disk of a place; again and again when it crashes meanwhile.
    pub async fn open(self: &Arc<Self>, at: usize) {
        {
            let place = &mut self.places.lock()[at];
            if place.life.is_some() || place.is_opening {
                return;
            }
            place.is_opening = true;
        }
        let mut tries = 0;
        loop {
            let is_over = Arc::new(AtomicBool::new(false));
            match self.try_open(at, is_over.clone()).await {
                Ok(()) => break,
                Err(error) => {
                    is_over.store(true, Ordering::Relaxed);
                    tries += 1;
                    self.trace(("not opened", at, &error));
                    if tries > 20 {
                        self.wrong(format!("it does not open: place={at} {error}"));
                        break;
                    }
                    self.power_off(at, CrashMode::LoseAll);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.places.lock()[at].is_opening = false;
    }

    async fn try_open(self: &Arc<Self>, at: usize, is_over: Arc<AtomicBool>) -> Result<(), String> {
        let id = {
            let mut lives = self.lives.lock();
            *lives += 1;
            *lives
        };
        let (seams, durable, sync_us, was) = {
            let place = &self.places.lock()[at];
            let seams = Seams {
                disk: Arc::new(place.disk.clone()),
                clock: Arc::new(WallClock { begun: self.begun, wall_ms: place.wall_ms.clone() }),
                chance: Arc::new(SeededChance::new(self.seed.wrapping_mul(31).wrapping_add(id))),
                transport: Arc::new(End { world: Arc::downgrade(self), at, is_over: is_over.clone() }),
            };
            let sync_us = (place.sync_us_min.clone(), place.sync_us_max.clone());
            (seams, place.durable.clone(), sync_us, place.number)
        };
        let feeds = Arc::new(Feeds::default());
        let told = feeds.clone();
        let runner = disk::Runner { world: Arc::downgrade(self), at, is_over: is_over.clone(), durable, sync_us };
        let opened =
            Node::open_on(seams, options(at), Box::new(move |events| told.tell(events)), |opened| runner.start(opened));
        let node = Arc::new(opened.await.map_err(|error| error.to_string())?);
        let purged = self.places.lock()[at].durable.lock().purged;
        let mut machine = Machine { state: node.state.clone(), listener: Box::new(|_| {}) };
        let (applied, _) = machine.applied_state().await.map_err(|error| error.to_string())?;
        if applied.map_or(0, |id| id.index) < purged {
            self.wrong(format!("lost from the table: place={at} applied={applied:?} purged={purged}"));
        }
        if was != 0 && was != node.number() {
            self.wrong(format!("it is somebody else after its return: place={at}"));
        }
        let life = Arc::new(Life { id, node, feeds, is_over, over: Notify::new() });
        self.trace(("opened", at, life.node.number()));
        {
            let place = &mut self.places.lock()[at];
            place.number = life.node.number();
            place.life = Some(life.clone());
        }
        self.network.lock().homes.insert(life.node.number(), at);
        tokio::spawn(super::checks::watch(self.clone(), at, life));
        Ok(())
    }

    /// The power goes: what was not synced is lost, or not. Nobody hears of this life any more.
    pub fn crash(self: &Arc<Self>, at: usize, mode: CrashMode) {
        let Some(life) = self.places.lock()[at].life.take() else { return };
        self.trace(("crash", at, format!("{mode:?}")));
        self.figures.lock().crashes += 1;
        life.is_over.store(true, Ordering::Relaxed);
        self.power_off(at, mode);
        life.over.notify_waiters();
        tokio::spawn(async move { life.node.close().await });
    }

    fn power_off(&self, at: usize, mode: CrashMode) {
        let place = &mut self.places.lock()[at];
        place.disk = place.disk.after_crash(mode);
    }

    /// It is told to stop, and does.
    pub async fn stop(self: &Arc<Self>, at: usize) {
        let Some(life) = self.places.lock()[at].life.take() else { return };
        self.trace(("stop", at));
        life.over.notify_waiters();
        life.node.close().await;
        life.is_over.store(true, Ordering::Relaxed);
        life.over.notify_waiters();
        let place = &mut self.places.lock()[at];
        place.disk = place.disk.kill();
        place.disk.set_capacity(None);
    }

    /// The place gets an empty disk.
    pub fn wipe(&self, at: usize) {
        let place = &mut self.places.lock()[at];
        place.disk = FaultDisk::new();
        let number = std::mem::take(&mut place.number);
        let durable = std::mem::take(&mut place.durable);
        place.former.push((number, durable));
    }
}

/// Small, so that short runs meet checkpoints, purges and snapshots.
fn options(at: usize) -> Options {
    let log = macula_wal::Options { segment_bytes_min: 8192, segment_bytes_max: 32_768, ..Default::default() };
    let (checkpoint_entries, kept_entries) = (25, 5);
    Options { log, checkpoint_entries, kept_entries, begins_alone: false, ..Options::of(format!("n{at}@test")) }
}
