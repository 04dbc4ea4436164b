//! What breaks when: drawn from the seed, a few kinds of trouble a run, so that each also comes alone.
//!
//! Invariant: at most one place at a time loses all it has, because two of three that forget are more than any
//! quorum can bear; everything else may come together.

use super::network::Weather;
use super::world::World;
use crate::members::{Change, Standing};
use macula_testkit::{CrashMode, Fault};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Split,
    Isolate,
    OneWay,
    Weather,
    Crash,
    CrashInside,
    CrashMany,
    Restart,
    SlowDisk,
    FullDisk,
    Clock,
    Transfer,
    Wipe,
}

const ALL: [Trouble; 13] = [
    Trouble::Split,
    Trouble::Isolate,
    Trouble::OneWay,
    Trouble::Weather,
    Trouble::Crash,
    Trouble::CrashInside,
    Trouble::CrashMany,
    Trouble::Restart,
    Trouble::SlowDisk,
    Trouble::FullDisk,
    Trouble::Clock,
    Trouble::Transfer,
    Trouble::Wipe,
];

/// The troubles of a run, and what they are at.
pub struct Schedule {
    world: Arc<World>,
    random: fastrand::Rng,
    kinds: Vec<Trouble>,
    /// A place that was wiped is not a member again yet.
    is_wiping: Arc<AtomicBool>,
    /// No more trouble.
    is_over: Arc<AtomicBool>,
}

impl Schedule {
    pub fn new(world: &Arc<World>) -> Self {
        let mut random = fastrand::Rng::with_seed(world.seed ^ 0x5c4e);
        let mut kinds = ALL.to_vec();
        random.shuffle(&mut kinds);
        kinds.truncate(random.usize(2..=6));
        world.trace(("kinds", format!("{kinds:?}")));
        let (is_wiping, is_over) = Default::default();
        Self { world: world.clone(), random, kinds, is_wiping, is_over }
    }

    /// Trouble for so long.
    pub async fn run(&mut self, span: Duration) {
        let until = self.world.begun.elapsed() + span;
        while self.world.begun.elapsed() < until && !self.world.is_wrong.load(Ordering::Relaxed) {
            let trouble = self.kinds[self.random.usize(0..self.kinds.len())];
            self.make(trouble);
            sleep(Duration::from_millis(self.random.u64(20..700))).await;
            if self.random.u8(0..3) == 0 {
                self.calm();
            }
        }
    }

    /// The links are well.
    fn calm(&mut self) {
        self.world.trace("calm");
        let mut network = self.world.network.lock();
        network.cut.clear();
        network.weather = Weather::default();
    }

    /// No trouble any more: everyone is up, every disk has room, every link is well. Whoever was wiped is a
    /// member again.
    pub async fn heal(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.calm();
        for at in 0..self.world.places() {
            let has_crashed = {
                let place = &self.world.places.lock()[at];
                place.disk.heal();
                place.disk.set_capacity(None);
                place.sync_us_max.store(2_000, Ordering::Relaxed);
                place.disk.has_crashed()
            };
            if has_crashed {
                self.world.crash(at, CrashMode::LoseAll);
            }
            self.world.open(at).await;
        }
        self.world.trace("healed");
        for _ in 0..3_000 {
            let is_opening = self.world.places.lock().iter().any(|place| place.is_opening);
            if !is_opening && !self.is_wiping.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.world.wrong("who was wiped is no member again after 30 s without trouble".into());
    }

    fn make(&mut self, trouble: Trouble) {
        let places = self.world.places();
        let at = self.random.usize(0..places);
        self.world.trace((format!("{trouble:?}"), at));
        match trouble {
            Trouble::Split => {
                let left: Vec<bool> = (0..places).map(|_| self.random.bool()).collect();
                self.world.network.lock().split(places, |at| left[at]);
            }
            Trouble::Isolate => {
                let leader = self.leader().unwrap_or(at);
                self.world.network.lock().split(places, |at| at == leader);
            }
            Trouble::OneWay => {
                let to = (at + self.random.usize(1..places)) % places;
                self.world.network.lock().cut.insert((at, to));
            }
            Trouble::Weather => {
                let mut chance = || if self.random.bool() { self.random.u32(0..150) } else { 0 };
                let weather = Weather { lost: chance(), doubled: chance(), late: chance() };
                self.world.network.lock().weather = weather;
            }
            Trouble::Crash => self.crash(at),
            Trouble::CrashInside => self.crash_inside(at),
            Trouble::CrashMany => {
                let several = self.random.usize(2..=places);
                (0..several).for_each(|n| self.crash((at + n) % places));
            }
            Trouble::Restart => self.restart(at),
            Trouble::SlowDisk => {
                let us_max = self.random.u64(10_000..300_000);
                let sync_us_max = self.world.places.lock()[at].sync_us_max.clone();
                sync_us_max.store(us_max, Ordering::Relaxed);
                self.later(100..1_500, move |_| sync_us_max.store(2_000, Ordering::Relaxed));
            }
            Trouble::FullDisk => {
                self.world.places.lock()[at].disk.set_capacity(Some(0));
                self.later(100..1_500, move |world| world.places.lock()[at].disk.set_capacity(None));
            }
            Trouble::Clock => {
                let by_ms = self.random.i64(-100_000..100_000);
                self.world.places.lock()[at].wall_ms.fetch_add(by_ms, Ordering::Relaxed);
            }
            Trouble::Transfer => self.transfer(at),
            Trouble::Wipe => self.wipe(at),
        }
    }

    fn later(&mut self, ms: std::ops::Range<u64>, act: impl FnOnce(Arc<World>) + Send + 'static) {
        let (world, ms) = (self.world.clone(), self.random.u64(ms));
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            act(world);
        });
    }

    fn leader(&self) -> Option<usize> {
        self.world.lives().into_iter().find(|(_, life)| life.node.is_leader()).map(|(at, _)| at)
    }

    fn mode(&mut self) -> CrashMode {
        match self.random.u8(0..4) {
            0 => CrashMode::KeepAll,
            1 | 2 => CrashMode::Random(self.random.u64(..)),
            _ => CrashMode::LoseAll,
        }
    }

    fn crash(&mut self, at: usize) {
        let mode = self.mode();
        self.world.crash(at, mode);
        self.reopen(at);
    }

    fn reopen(&mut self, at: usize) {
        let ms = self.random.u64(5..1_200);
        let world = self.world.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(ms)).await;
            world.open(at).await;
        });
    }

    /// In the middle of what it writes.
    fn crash_inside(&mut self, at: usize) {
        let (mode, ms, nth) = (self.mode(), self.random.u64(5..1_200), self.random.u64(1..60));
        let (world, Some(life)) = (self.world.clone(), self.world.life(at)) else { return };
        let is_over = self.is_over.clone();
        {
            let disk = &world.places.lock()[at].disk;
            disk.fail_at(disk.operations() + nth, Fault::Crash);
        }
        tokio::spawn(async move {
            for _ in 0..400 {
                sleep(Duration::from_millis(1)).await;
                if world.life(at).is_none_or(|now| now.id != life.id) {
                    return;
                }
                if world.places.lock()[at].disk.has_crashed() {
                    break;
                }
            }
            drop(life);
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            world.crash(at, mode);
            sleep(Duration::from_millis(ms)).await;
            world.open(at).await;
        });
    }

    fn restart(&mut self, at: usize) {
        let (world, ms) = (self.world.clone(), self.random.u64(1..300));
        tokio::spawn(async move {
            world.stop(at).await;
            sleep(Duration::from_millis(ms)).await;
            world.open(at).await;
        });
    }

    fn transfer(&mut self, to: usize) {
        let Some(leader) = self.leader().and_then(|at| self.world.life(at)) else { return };
        let to = self.world.places.lock()[to].number;
        tokio::spawn(async move {
            // it says whether it could, which is no matter here
            let _ = leader.node.decide(&Change::Lead { number: to }).await;
        });
    }

    /// A place loses everything and comes back as somebody else.
    fn wipe(&mut self, at: usize) {
        let old = self.world.places.lock()[at].number;
        let Some(_) = self.world.life(at).filter(|_| !self.is_wiping.swap(true, Ordering::Relaxed)) else { return };
        let (world, is_wiping, ms) = (self.world.clone(), self.is_wiping.clone(), self.random.u64(5..800));
        let leaves_first = self.random.bool();
        tokio::spawn(async move {
            if leaves_first {
                removed(&world, old).await;
            }
            world.crash(at, CrashMode::LoseAll);
            world.wipe(at);
            sleep(Duration::from_millis(ms)).await;
            world.open(at).await;
            // which another may be at: then it has no number yet (seed 402868278659)
            while world.places.lock()[at].number == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            joined(&world, at).await;
            if !leaves_first {
                removed(&world, old).await;
            }
            world.figures.lock().joins += 1;
            is_wiping.store(false, Ordering::Relaxed);
        });
    }
}

async fn removed(world: &Arc<World>, number: u64) {
    on_leader(world, move |life| {
        Box::pin(async move { life.node.decide(&Change::Leave { number }).await.map_err(|e| e.to_string()) })
    })
    .await;
}

/// With an invitation each time, as an answer may be lost; then until it has caught up and votes.
async fn joined(world: &Arc<World>, at: usize) {
    let number = world.places.lock()[at].number;
    let member = world.member(at);
    on_leader(world, move |life| {
        let member = member.clone();
        Box::pin(async move {
            let node = &life.node;
            let join = async {
                let invitation = node.invite(None, Duration::from_secs(10)).await?;
                node.decide(&invitation.join(number, member)).await?;
                node.promote().await
            };
            join.await.map_err(|error| error.to_string())?;
            let votes = node.status().members.get(&number).is_some_and(|(_, standing)| *standing == Standing::Voter);
            votes.then_some(()).ok_or_else(|| "it does not vote yet".to_owned())
        })
    })
    .await;
}

type Changing = futures_util::future::BoxFuture<'static, Result<(), String>>;

/// Ask whoever leads until it is done.
async fn on_leader(world: &Arc<World>, act: impl Fn(Arc<super::world::Life>) -> Changing) {
    loop {
        let leader = world.lives().into_iter().find(|(_, life)| life.node.is_leader());
        if let Some((at, life)) = leader {
            let done = tokio::time::timeout(Duration::from_secs(3), act(life)).await;
            world.trace(("members", at, format!("{done:?}")));
            if matches!(done, Ok(Ok(()))) {
                return;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}
