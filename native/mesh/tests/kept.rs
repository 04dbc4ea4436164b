//! What is kept of conflicts may be the only copy, and outlives the index.

#![allow(clippy::disallowed_methods)]

mod common;

use common::{all_meet, name, settled, until, Network, Node};
use macula_mesh::{Ack, Options, BLOCK_LEN};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn who_lost_its_index_and_is_cut_off_keeps_what_it_kept() {
    let options = || Options { copies: 0, scan_every: Duration::from_millis(200), ..Options::default() };
    let net = Arc::new(Network::default());
    let mut nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, options())).collect();
    all_meet(&nodes);
    net.cut("a", "b");
    let loser = vec![1; 2 * BLOCK_LEN + 5];
    let lost = nodes[0].write("f", &loser, Ack::Local).expect("written").dot;
    std::thread::sleep(Duration::from_millis(2));
    nodes[1].write("f", &[2; 90_000], Ack::Local).expect("written");
    net.heal();
    let kept = |node: &Node| node.files.kept().expect("lists").len();
    until("one is kept", || kept(&nodes[0]) == 1);
    settled(&nodes);
    assert_eq!(kept(&nodes[1]), 0, "there is no other copy");
    net.cut("a", "b");
    let (disk, dir) = nodes.remove(0).leave();
    let dir = dir.expect("a directory");
    drop(disk);
    std::fs::remove_dir_all(dir.path().join("mesh")).expect("removed");
    let disk = macula_core::RealDisk::at(dir.path()).expect("opens");
    nodes.insert(0, Node::on(&net, "a", Arc::new(disk), options()));
    // an app of which nothing is known is not looked at
    nodes[0].write("w", b"w", Ack::Local).expect("written");
    // what was kept is looked at after each look for files
    for path in ["x", "y", "z"] {
        std::fs::write(dir.path().join("data/files").join(path), path).expect("written");
        until("it is found", || nodes[0].mesh.stat(&name(path)).is_ok());
    }
    assert_eq!(kept(&nodes[0]), 1);
    net.heal();
    all_meet(&nodes);
    for node in &nodes {
        until("it can be read", || node.read_version("f", Some(lost)).is_ok_and(|read| read == loser));
    }
    // and goes when nobody needs it
    nodes[1].mesh.resolve(&name("f"), lost).expect("resolved");
    until("nothing is kept", || kept(&nodes[0]) == 0);
}
