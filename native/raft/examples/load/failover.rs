//! The leader is killed, and somebody counts until the next write is answered.
//!
//! Killed means: its threads are gone from one moment to the next, without a farewell; the others see its
//! sockets close, as after SIGKILL.

use crate::figures::at;
use crate::put;
use crate::site::Site;
use macula_core::Cancel;
use macula_raft::Engine;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn write(engine: &Engine, n: u32) -> bool {
    let (done, answered) = channel();
    let deadline = Some(Duration::from_millis(2000));
    let asked = engine.propose(put(n, 100), deadline, Cancel::new(), move |result| {
        let _ = done.send(result.is_ok());
    });
    asked.is_ok() && answered.recv_timeout(SOON).unwrap_or(false)
}

fn leader(nodes: &[Option<Engine>]) -> usize {
    let begun = Instant::now();
    loop {
        let leads = |node: &Option<Engine>| node.as_ref().is_some_and(Engine::is_leader);
        if let Some(nth) = nodes.iter().position(leads) {
            return nth;
        }
        assert!(begun.elapsed() < SOON, "nobody leads");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(count: usize, rounds: usize) {
    let site = Site::new();
    let mut nodes: Vec<Option<Engine>> = site.cluster(count).into_iter().map(Some).collect();
    let (mut waits_us, mut leads_us) = (Vec::new(), Vec::new());
    for round in 0..rounds as u32 {
        let dead = leader(&nodes);
        let mut victim = nodes[dead].take().expect("runs");
        let address = victim.address().expect("listens");
        let asked = nodes.iter().flatten().next().expect("another");
        assert!(write(asked, round), "before");
        let begun = Instant::now();
        victim.kill();
        leader(&nodes);
        leads_us.push(begun.elapsed().as_micros() as u32);
        while !write(asked, round) {
            assert!(begun.elapsed() < SOON, "no write again");
        }
        waits_us.push(begun.elapsed().as_micros() as u32);
        drop(victim);
        nodes[dead] = Some(site.linked(dead, &address, None));
        settle(&nodes, round);
    }
    waits_us.sort_unstable();
    let [least, median, most] = [0, 500, 1000].map(|thousandths| at(&waits_us, thousandths) / 1000);
    println!("nodes={count} failover: rounds={rounds} least={least}ms median={median}ms worst={most}ms");
    println!("  another led, ms: {:?}", leads_us.iter().map(|wait| wait / 1000).collect::<Vec<_>>());
    println!("  all, ms: {:?}", waits_us.iter().map(|wait| wait / 1000).collect::<Vec<_>>());
}

/// Everybody has caught up and hears everybody again, so that a round does not pay for the one before.
fn settle(nodes: &[Option<Engine>], round: u32) {
    let begun = Instant::now();
    for node in nodes.iter().flatten() {
        while !write(node, round) {
            assert!(begun.elapsed() < SOON, "it does not settle");
        }
    }
    // the longest pause between two tries to connect, and some
    std::thread::sleep(Duration::from_millis(1300));
}
