//! Runs by seed, and proof that they would see: wrong histories, stale reads and forgetful disks are found.

use super::clients::{self, Reads};
use super::history::{Done, History, Op};
use super::schedule::Schedule;
use super::world::{Figures, World};
use super::{agree, begin, run, Outcome, Plan, HEAL, RIGHT};
use macula_testkit::CrashMode;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Seeds of this run: the one that was given, or so many.
fn seeds(slice: u64, all: u64) -> Vec<u64> {
    let count = if std::env::var_os("MACULA_TORTURE").is_some() { all } else { slice };
    let given = std::env::var("MACULA_SEED").ok().and_then(|text| text.parse().ok());
    let first = given.unwrap_or_else(|| fastrand::u64(..) >> 24);
    eprintln!("MACULA_SEED={first}");
    (first..first + if given.is_some() { 1 } else { count }).collect()
}

#[test]
fn nothing_is_lost_and_nothing_is_wrong_whatever_breaks() {
    let (mut sum, mut runs) = (Figures::default(), 0_u64);
    for seed in seeds(60, 5_000) {
        let Outcome { figures, wrong, .. } = run(seed, RIGHT);
        if let Some(wrong) = wrong {
            panic!("MACULA_SEED={seed}: {wrong}");
        }
        runs += 1;
        sum.operations += figures.operations;
        sum.unknown += figures.unknown;
        sum.elections += figures.elections;
        sum.crashes += figures.crashes;
        sum.joins += figures.joins;
    }
    let Figures { operations, unknown, elections, crashes, joins } = sum;
    eprintln!(
        "simulation: runs={runs} operations={operations} unknown={unknown} elections={elections} crashes={crashes} \
         joins={joins} lost=0 wrong=0"
    );
    assert!(operations > 20 * runs && elections >= runs, "clients did something");
}

#[test]
fn a_seed_is_a_run() {
    for seed in seeds(4, 100) {
        let (one, other) = (run(seed, RIGHT), run(seed, RIGHT));
        assert_eq!(one.trace, other.trace, "MACULA_SEED={seed}");
    }
}

/// What the first of these seeds that is found wrong says.
fn found(plan: Plan) -> Option<String> {
    // always the same: whether it is found must not be luck
    (1..=20).find_map(|seed| run(seed, plan).wrong)
}

#[test]
fn stale_reads_are_found() {
    let wrong = found(Plan { reads: Reads::Local, ..RIGHT }).expect("is found");
    assert!(wrong.contains("no order explains"), "{wrong}");
}

#[test]
fn disks_that_forget_what_they_were_told_to_sync_are_found() {
    let wrong = found(Plan { forgets: true, ..RIGHT }).expect("is found");
    assert!(["lost", "forgotten", "somebody else"].iter().any(|word| wrong.contains(word)), "{wrong}");
}

fn history(steps: &[(Op, Option<Done>)]) -> History {
    let mut history = History::default();
    for (op, done) in steps {
        let call = history.call(0, *op);
        if let Some(done) = done {
            history.returned(call, *done);
        }
    }
    history
}

fn saw(seen: Option<u64>) -> Option<Done> {
    Some(Done { seen, is_done: true })
}

#[test]
fn a_history_is_right_or_wrong() {
    let stale = [(Op::Put(1), saw(None)), (Op::Put(2), saw(Some(1))), (Op::Get, saw(Some(1)))];
    assert!(history(&stale).check().is_err(), "an old value was read");
    let lost = [(Op::Put(1), saw(None)), (Op::Get, saw(None))];
    assert!(history(&lost).check().is_err(), "a write is lost");
    let twice = [(Op::Put(1), saw(None)), (Op::Put(2), saw(Some(1))), (Op::Put(3), saw(Some(1)))];
    assert!(history(&twice).check().is_err(), "two replaced the same");
    let open = [(Op::Put(1), None), (Op::Get, saw(None)), (Op::Get, saw(Some(1))), (Op::Get, saw(Some(1)))];
    assert!(history(&open).check().is_ok(), "what nobody knows may happen late");
    let back = [(Op::Put(1), None), (Op::Get, saw(Some(1))), (Op::Get, saw(None))];
    assert!(history(&back).check().is_err(), "and stays");
    let swapped = [(Op::Swap(None, 1), saw(None)), (Op::Swap(Some(1), 2), None), (Op::Get, saw(Some(2)))];
    assert!(history(&swapped).check().is_ok());
    let mut denied = history(&[(Op::Put(1), None), (Op::Get, saw(Some(1)))]);
    denied.never(0);
    assert!(denied.check().is_err(), "what did not happen was read");
}

/// A leader hands entries to the others before they are synced where it is. It lost power in that moment, came back
/// before the others missed it, and openraft let it lead on in the same term: it put other entries in the places of
/// those it had forgotten, with the same ids, so that nobody could tell them apart (first seen with seed
/// 490969526689). It must be elected anew.
#[test]
fn a_leader_that_forgot_what_the_others_have_does_not_lead_on() {
    crate::runtime::seeded(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runs").block_on(async {
        let world = World::new(1, 3);
        begin(&world, RIGHT).await;
        let leads = |world: &Arc<World>| world.lives().into_iter().find(|(_, life)| life.node.is_leader());
        let (at, leader) = leads(&world).expect("one leads");
        clients::once(&world, &leader, at, 0, Op::Put(1), HEAL, Reads::Linearizable).await.expect("is told");
        world.places.lock()[at].sync_us_min.store(1_000_000, Ordering::Relaxed);
        // for what is being synced
        tokio::time::sleep(Duration::from_millis(10)).await;
        let last = |at: usize| world.places.lock()[at].durable.lock().synced.keys().next_back().copied();
        let before = last(at);
        let asked = world.clone();
        let asking =
            tokio::spawn(
                async move { clients::once(&asked, &leader, at, 0, Op::Put(2), HEAL, Reads::Linearizable).await },
            );
        while (0..3).filter(|other| last(*other) > before).count() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(last(at), before, "the leader has not synced what the others have");
        world.crash(at, CrashMode::LoseAll);
        assert_eq!(asking.await.expect("asks"), None, "nobody knows");
        world.places.lock()[at].sync_us_min.store(0, Ordering::Relaxed);
        world.open(at).await;
        for n in 3..6 {
            let life = world.life(at).expect("it lives");
            while clients::once(&world, &life, at, 0, Op::Put(n), HEAL, Reads::Linearizable).await.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Schedule::new(&world).heal().await;
        agree(&world).await;
        assert_eq!(world.found_wrong(), None);
        assert_eq!(world.checks.lock().history.check(), Ok(()));
    });
}
