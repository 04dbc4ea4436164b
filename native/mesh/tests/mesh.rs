//! Members of one process write, read, part and meet again.

use crate::common::{all_meet, cluster, name, settled, until, Node};
use macula_core::{Kind, Kinded};
use macula_mesh::{Ack, Options, BLOCK_LEN};
use std::sync::atomic::Ordering;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

#[test]
fn what_one_writes_the_others_have() {
    let (_net, nodes) = cluster(&["a", "b", "c"]);
    for (path, content) in [("empty", bytes(0, 0)), ("dir/short", bytes(10, 1)), ("long", bytes(3 * BLOCK_LEN + 7, 2))]
    {
        let written = nodes[0].write(path, &content, Ack::All).expect("written");
        assert_eq!(written.replicas, 2);
        for node in &nodes {
            assert_eq!(node.read(path).expect("reads"), content, "{path} on {}", node.name);
        }
    }
    settled(&nodes);
    let stat = nodes[2].mesh.stat(&name("long")).expect("known");
    assert_eq!((stat.content.len, stat.is_here, stat.conflicts), (3 * BLOCK_LEN as u64 + 7, true, 0));
    until("all say so", || nodes[2].mesh.stat(&name("long")).is_ok_and(|stat| stat.replicas.len() == 3));
    let page = nodes[1].mesh.list(&name("x").app, None, None, 2).expect("lists");
    assert_eq!((page.paths.len(), page.more), (2, true));
    nodes[1].delete("dir/short", Ack::All).expect("deleted");
    for node in &nodes {
        assert_eq!(node.read("dir/short").expect_err("gone").kind(), Kind::NotFound);
    }
    settled(&nodes);
    assert_eq!(nodes[0].mesh.delete(&name("dir/short")).expect_err("gone").kind(), Kind::NotFound);
}

#[test]
fn only_what_is_missing_travels() {
    let (net, nodes) = cluster(&["a", "b"]);
    let mut content = bytes(16 << 20, 3);
    nodes[0].write("large", &content, Ack::All).expect("written");
    let before = net.bytes.load(Ordering::Relaxed);
    content[9 << 20..10 << 20].copy_from_slice(&bytes(1 << 20, 4));
    nodes[0].write("large", &content, Ack::All).expect("written");
    let travelled = net.bytes.load(Ordering::Relaxed) - before;
    assert!(travelled < 2 << 20, "travelled={travelled}");
    assert_eq!(nodes[1].files.read(&name("large").path, 1 << 30).expect("reads"), content);
}

#[test]
fn both_sides_of_a_cut_go_on_and_nothing_is_lost() {
    let (net, nodes) = cluster(&["a", "b", "c"]);
    nodes[0].write("f", b"before", Ack::All).expect("written");
    nodes[0].write("gone", b"before", Ack::All).expect("written");
    net.cut("a", "b");
    net.cut("a", "c");
    let one = nodes[0].write("f", b"one", Ack::Local).expect("alone");
    let other = nodes[1].write("f", b"other", Ack::Others(1)).expect("two of three");
    nodes[0].delete("gone", Ack::Local).expect("deleted");
    nodes[1].write("gone", b"anew", Ack::Others(1)).expect("written");
    nodes[2].write("only/there", b"c", Ack::Local).expect("written");
    let late = nodes[0].acknowledged("f", one.dot, Ack::Local).expect("here");
    assert_eq!(late.dot, one.dot);
    net.heal();
    settled(&nodes);
    for node in &nodes {
        let versions = node.mesh.versions(&name("f")).expect("known");
        assert_eq!(versions.len(), 2, "{}", node.name);
        for (dot, content) in [(one.dot, &b"one"[..]), (other.dot, b"other")] {
            assert_eq!(node.read_version("f", Some(dot)).expect("readable"), content);
        }
        assert_eq!(node.read("gone").expect("it was not deleted by who wrote it"), b"anew");
        assert_eq!(node.read("only/there").expect("arrived"), b"c");
    }
    let shown = nodes[0].mesh.versions(&name("f")).expect("known")[0].dot;
    let loser = if shown == one.dot { other.dot } else { one.dot };
    nodes[2].mesh.resolve(&name("f"), loser).expect("resolved");
    let content = nodes[2].read("f").expect("reads");
    settled(&nodes);
    for node in &nodes {
        assert_eq!(node.mesh.versions(&name("f")).expect("known").len(), 1);
        assert_eq!(node.read("f").expect("reads"), content);
    }
}

#[test]
fn who_was_away_gets_what_it_missed() {
    let (net, mut nodes) = cluster(&["a", "b", "c"]);
    nodes[0].write("stays", b"1", Ack::All).expect("written");
    nodes[0].write("goes", b"1", Ack::All).expect("written");
    let c = nodes.pop().expect("three");
    let (disk, dir) = c.leave();
    for n in 0..300 {
        nodes[0].write(&format!("dir{}/file{n}", n % 7), &bytes(100, n), Ack::Others(1)).expect("written");
    }
    nodes[1].delete("goes", Ack::Others(1)).expect("deleted");
    nodes[0].write("large", &bytes(BLOCK_LEN * 2 + 1, 9), Ack::Others(1)).expect("written");
    nodes.push(Node::on(&net, "c", disk, Options::default()));
    all_meet(&nodes);
    settled(&nodes);
    assert_eq!(nodes[2].tree().len(), 302);
    drop(nodes);
    drop(dir);
}

#[test]
fn what_is_not_here_is_read_from_who_has_it() {
    let net = std::sync::Arc::new(crate::common::Network::default());
    let options = Options { copies: 0, ..Options::default() };
    let nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, options.clone())).collect();
    all_meet(&nodes);
    let content = bytes(2 * BLOCK_LEN + 5, 6);
    nodes[0].write("f", &content, Ack::Local).expect("written");
    until("it is known", || nodes[1].mesh.stat(&name("f")).is_ok());
    assert_eq!(nodes[1].read("f").expect("read from a"), content);
    assert!(nodes[1].tree().is_empty(), "and not kept");
    net.cut("a", "b");
    let error = nodes[1].read("f").expect_err("nobody has it");
    assert!(error.to_string().contains("holders=a"), "{error}");
    assert!(nodes[1].write("g", b"1", Ack::Local).is_ok());
}
