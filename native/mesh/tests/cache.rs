//! What a caller read from elsewhere is kept here when it says so, and not otherwise.

use crate::common::{all_meet, name, until, wait, Network, Node};
use macula_core::Kinded;
use macula_mesh::{Ack, Dot, MeshError, Options, BLOCK_LEN};
use std::sync::Arc;

/// Three members, of which none has a copy of what another one wrote.
fn nodes() -> (Arc<Network>, Vec<Node>) {
    let net = Arc::new(Network::default());
    let options = || Options { copies: 0, ..Options::default() };
    let nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| Node::open(&net, name, options())).collect();
    all_meet(&nodes);
    (net, nodes)
}

/// The first part of a version, or of what is shown, to be kept.
fn read_to_keep(node: &Node, path: &str, dot: Option<Dot>) -> Result<Vec<u8>, MeshError> {
    let reading = node.mesh.reading(&name(path), dot)?;
    reading.have_kept();
    wait(|reply| node.mesh.read_part(&Arc::new(reading), (0, 1 << 20), reply))
}

fn knows(node: &Node, paths: &[&str]) {
    until("it is known", || paths.iter().all(|path| node.mesh.stat(&name(path)).is_ok()));
}

fn is_quiet(nodes: &[Node]) {
    until("nothing is under way", || {
        nodes.iter().map(|node| node.mesh.status()).all(|status| status.untold == 0 && status.fetching == 0)
    });
}

#[test]
fn what_was_read_is_kept_if_wished_and_follows() {
    let (net, nodes) = nodes();
    let (long, after) = (vec![7; 3 * BLOCK_LEN + 5], vec![8; 2 * BLOCK_LEN]);
    for (path, content) in [("short", &b"1"[..]), ("long", &long), ("other", b"2")] {
        nodes[0].write(path, content, Ack::Local).expect("written");
    }
    for node in &nodes[1..] {
        knows(node, &["short", "long", "other"]);
        assert_eq!(node.read("short").expect("reads"), b"1");
        assert_eq!(node.read("long").expect("reads"), long);
        assert_eq!(node.read("other").expect("reads"), b"2");
    }
    assert_eq!(read_to_keep(&nodes[1], "short", None).expect("reads"), b"1");
    assert_eq!(read_to_keep(&nodes[1], "long", None).expect("reads"), long);
    until("it is kept", || nodes[1].tree().contains_key("short") && nodes[1].tree().get("long") == Some(&long));
    // all hear of that copy
    let has_two = |path| nodes[2].mesh.stat(&name(path)).is_ok_and(|stat| stat.replicas.len() == 2);
    until("it is told", || has_two("short") && has_two("long"));
    is_quiet(&nodes);
    assert!(nodes[1].tree().keys().eq(["long", "short"]), "what was read without the wish is not");
    assert!(nodes[2].tree().is_empty(), "nor by others");

    net.cut("a", "b");
    net.cut("a", "c");
    until("they part", || nodes[0].mesh.status().peers.is_empty());
    assert_eq!(nodes[1].read("long").expect("from here"), long);
    assert_eq!(nodes[2].read("short").expect("from the copy"), b"1");
    assert_eq!(nodes[1].read("other").expect_err("was not kept").kind(), macula_core::Kind::Unreachable);
    net.heal();
    all_meet(&nodes);
    // it follows what is written elsewhere, and goes with the file
    nodes[0].write("long", &after, Ack::Local).expect("written");
    nodes[2].write("short", b"3", Ack::Local).expect("written");
    until("it follows", || nodes[1].tree().get("long") == Some(&after));
    until("it follows", || nodes[1].tree().get("short").is_some_and(|content| content == b"3"));
    nodes[0].delete("long", Ack::Local).expect("deleted");
    until("it is gone", || !nodes[1].tree().contains_key("long"));
}

#[test]
fn a_version_that_is_not_shown_is_not_kept() {
    let (net, nodes) = nodes();
    net.cut("a", "b");
    until("they part", || nodes[0].mesh.status().peers.len() == 1);
    let loser = nodes[0].write("f", b"first", Ack::Local).expect("written").dot;
    nodes[1].write("f", b"later", Ack::Local).expect("written");
    net.heal();
    all_meet(&nodes);
    until("both are known", || nodes[2].mesh.versions(&name("f")).is_ok_and(|versions| versions.len() == 2));
    assert_eq!(read_to_keep(&nodes[2], "f", Some(loser)).expect("reads"), b"first");
    is_quiet(&nodes);
    assert!(nodes[2].tree().is_empty());
    assert_eq!(read_to_keep(&nodes[2], "f", None).expect("reads"), b"later");
    until("what is shown is", || nodes[2].tree().get("f").is_some_and(|content| content == b"later"));
}

/// What cannot be had is given up, and the next reading has it fetched.
#[test]
fn it_is_tried_once_for_each_reading() {
    let (net, nodes) = nodes();
    nodes[0].write("f", b"1", Ack::Local).expect("written");
    knows(&nodes[1], &["f"]);
    // blocks to be kept do not come, what is read does
    const BLOCKS: u8 = 5;
    *net.lie.lock() = Some(Box::new(|_, request, bytes| if request.get(1) == Some(&BLOCKS) { vec![0] } else { bytes }));
    assert_eq!(read_to_keep(&nodes[1], "f", None).expect("reads"), b"1");
    until("it is given up", || nodes[1].mesh.status().fetching == 0);
    *net.lie.lock() = None;
    nodes[0].write("g", b"2", Ack::Local).expect("written");
    knows(&nodes[1], &["g"]);
    is_quiet(&nodes);
    assert!(nodes[1].tree().is_empty());
    until("it is kept", || {
        assert_eq!(read_to_keep(&nodes[1], "f", None).expect("reads"), b"1");
        nodes[1].tree().contains_key("f")
    });
}
