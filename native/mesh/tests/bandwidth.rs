//! What is bounded goes no faster, comes to its end, and keeps nobody waiting who waits for something else.
//!
//! Times are compared with what they must be at least: a slow machine changes nothing about that.

use crate::common::{all_meet, settled, until, Network, Node};
use macula_mesh::{Ack, Options};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn bounded(bandwidth: Option<u64>) -> Options {
    Options { bandwidth, ..Options::default() }
}

/// A member of that bandwidth each.
fn nodes(net: &Arc<Network>, bandwidths: &[Option<u64>]) -> Vec<Node> {
    let names = ["a", "b", "c", "d"].iter().zip(bandwidths);
    let nodes: Vec<Node> = names.map(|(name, bandwidth)| Node::open(net, name, bounded(*bandwidth))).collect();
    all_meet(&nodes);
    nodes
}

#[test]
fn a_member_sends_and_fetches_no_faster_than_it_may() {
    for bandwidths in [[Some(4 << 20), None], [None, Some(4 << 20)]] {
        let net = Arc::new(Network::default());
        let nodes = nodes(&net, &bandwidths);
        let bytes = content(7 * MIB + 5, 1);
        let begun = Instant::now();
        nodes[0].write("large", &bytes, Ack::All).expect("written");
        // a burst of one at once
        assert!(begun.elapsed() >= Duration::from_millis(1_500), "{:?}", begun.elapsed());
        assert_eq!(nodes[1].tree()["large"], bytes);
        let (sent, received) = (nodes[0].mesh.status().sent, nodes[1].mesh.status().received);
        assert!(sent as usize > bytes.len() && (received as usize) > bytes.len(), "sent={sent} received={received}");
        assert!(nodes[1].mesh.status().sent < 1 << 20);
    }
}

/// At a rate of which a whole file takes minutes.
#[test]
fn who_waits_for_short_files_or_reads_is_not_behind_a_long_one() {
    let net = Arc::new(Network::default());
    let nodes = nodes(&net, &[Some(128 << 10), Some(128 << 10)]);
    let long = content(40 * MIB, 2);
    nodes[0].write("long", &long, Ack::Local).expect("written");
    until("it is on its way", || nodes[1].mesh.status().received > 1 << 20);
    for n in 0..30 {
        let bytes = content(1 + n as usize * 8_000, n);
        nodes[0].write(&format!("short/{n}"), &bytes, Ack::All).expect("written");
        assert_eq!(nodes[1].read(&format!("short/{n}")).expect("here"), bytes);
    }
    // from the other, at once
    assert_eq!(nodes[1].read("long").expect("reads"), long);
    let status = nodes[1].mesh.status();
    assert_eq!((status.fetching, status.failed), (1, 0));
    assert!(!nodes[1].tree().contains_key("long"));
}

/// More ask than a member may send in the time that one waits for an answer.
#[test]
fn who_is_put_off_asks_again_and_all_come_through() {
    let net = Arc::new(Network::default());
    let options = |bandwidth| Options { copies: 3, bandwidth, ..Options::default() };
    let bandwidths = [Some(2 << 20), None, None, None];
    let names = ["a", "b", "c", "d"].iter().zip(bandwidths);
    let nodes: Vec<Node> = names.map(|(name, bandwidth)| Node::open(&net, name, options(bandwidth))).collect();
    all_meet(&nodes);
    let bytes = content(6 * MIB, 3);
    nodes[0].write("f", &bytes, Ack::Local).expect("written");
    // only the first has it until somebody has all of it
    until("all have it", || {
        let failed = nodes.iter().map(|node| node.mesh.status().failed).sum::<usize>();
        assert_eq!(failed, 0, "one gave up");
        nodes.iter().all(|node| node.tree().get("f").is_some_and(|read| *read == bytes))
    });
    settled(&nodes);
}

/// What one missed while it was away is bounded too, short as it is.
#[test]
fn what_a_comparison_finds_is_bounded() {
    let net = Arc::new(Network::default());
    let nodes = nodes(&net, &[Some(1 << 20), Some(1 << 20)]);
    net.cut("a", "b");
    until("alone", || nodes.iter().all(|node| node.mesh.status().peers.is_empty()));
    let each = 200_000;
    for n in 0..20 {
        nodes[0].write(&format!("{n}"), &content(each, n), Ack::Local).expect("written");
    }
    net.heal();
    let begun = Instant::now();
    settled(&nodes);
    // one burst of either: that which goes along, and that which is asked for
    let least = Duration::from_secs_f64((20 * each - 2 * MIB) as f64 / MIB as f64);
    assert!(begun.elapsed() >= least, "{:?} of {least:?}", begun.elapsed());
    assert_eq!(nodes[1].tree().len(), 20);
}

#[test]
fn what_moves_because_a_member_goes_is_bounded_and_keeps_no_writer_waiting() {
    let net = Arc::new(Network::default());
    let options = |repair_rate| Options { copies: 1, grace: Duration::from_secs(1), repair_rate, ..Options::default() };
    let mut nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| Node::open(&net, name, options(1 << 20))).collect();
    all_meet(&nodes);
    for n in 0..14 {
        nodes[2].write(&format!("{n}"), &content(MIB, n), Ack::Others(1)).expect("written");
    }
    until("two have each", || nodes.iter().map(|node| node.tree().len()).sum::<usize>() == 28);
    let begun = Instant::now();
    let gone = nodes.pop().expect("three").leave();
    until("some are fetched again", || nodes.iter().any(|node| node.mesh.status().fetching > 0));
    for n in 0..10 {
        nodes[0].write(&format!("new/{n}"), &content(400_000, n), Ack::All).expect("written");
    }
    until("two have each again", || {
        (0..14).all(|n| nodes.iter().all(|node| node.tree().contains_key(&format!("{n}"))))
    });
    // each fetches those that the other had, one of them no fewer than half; a burst at once
    let least = Duration::from_secs(6);
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    drop(gone);
}
