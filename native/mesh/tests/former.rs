//! Versions that were replaced or deleted are kept where a rule says so: read, and brought back.

use crate::common::{all_meet, name, settled, until, Network, Node};
use macula_core::{AppName, Kind, Kinded, RelPath};
use macula_mesh::{Ack, Class, Dot, Options, Place, Rule};
use std::sync::Arc;

fn options(keep_versions: u8) -> Options {
    let app = Some(AppName::new("app").expect("a name"));
    let place = Place { copies: 1, class: Class::Fast };
    let rule = |prefix: &str, keep_versions| Rule {
        app: app.clone(),
        prefix: Some(RelPath::new(prefix).expect("a path")),
        place,
        keep_versions,
    };
    Options { rules: vec![rule("kept", keep_versions), rule("kept/not", 0)], ..Options::default() }
}

fn two(keep_versions: u8) -> (Arc<Network>, Vec<Node>) {
    let net = Arc::new(Network::default());
    let nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, options(keep_versions))).collect();
    all_meet(&nodes);
    (net, nodes)
}

fn content(n: usize) -> Vec<u8> {
    // short ones and long ones
    format!("{n} ").repeat(if n.is_multiple_of(2) { 10 } else { 200_000 }).into_bytes()
}

fn write(node: &Node, path: &str, n: usize) -> Dot {
    node.write(path, &content(n), Ack::All).expect("written").dot
}

/// Which of the contents are kept as former ones, the last first.
fn former(node: &Node, path: &str) -> Vec<usize> {
    let former = node.mesh.former(&name(path)).expect("known");
    let read = |dot| node.read_version(path, Some(dot)).expect("is here");
    former.iter().map(|of| (0..20).find(|n| read(of.dot) == content(*n)).expect("one of those")).collect()
}

/// Contents that lie beside the files.
fn kept(node: &Node) -> usize {
    use macula_core::AppFiles;
    AppFiles::kept(&node.files).expect("listed").len()
}

#[test]
fn the_last_so_many_are_kept_on_both_sides_and_no_more() {
    let (_net, nodes) = two(3);
    for n in 0..6 {
        write(&nodes[0], "kept/a", n);
        write(&nodes[0], "kept/not/a", n);
        write(&nodes[0], "a", n);
    }
    settled(&nodes);
    for node in &nodes {
        assert_eq!(former(node, "kept/a"), [4, 3, 2], "{}", node.name);
        assert!(former(node, "kept/not/a").is_empty() && former(node, "a").is_empty());
        assert_eq!(node.mesh.versions(&name("kept/a")).expect("known").len(), 1);
        assert_eq!(kept(node), 3);
    }
    // one that comes back is a former one no more
    write(&nodes[0], "kept/a", 3);
    settled(&nodes);
    assert_eq!(former(&nodes[0], "kept/a"), [5, 4, 2]);
    assert_eq!(kept(&nodes[0]), 3);
}

#[test]
fn what_was_deleted_is_brought_back() {
    let (_net, nodes) = two(2);
    let dots: Vec<Dot> = (0..3).map(|n| write(&nodes[0], "kept/a", n)).collect();
    nodes[0].delete("kept/a", Ack::All).expect("deleted");
    settled(&nodes);
    for node in &nodes {
        assert_eq!(node.read("kept/a").map_err(|error| error.kind()), Err(Kind::NotFound));
        assert_eq!(former(node, "kept/a"), [2, 1]);
        assert!(!node.tree().contains_key("kept/a"));
    }
    let gone = nodes[1].mesh.resolve(&name("kept/a"), dots[0]);
    assert_eq!(gone.map_err(|error| error.kind()), Err(Kind::NotFound));
    nodes[1].mesh.resolve(&name("kept/a"), dots[1]).expect("brought back");
    until("the other has it", || nodes[0].read("kept/a").is_ok_and(|read| read == content(1)));
    settled(&nodes);
    assert_eq!(former(&nodes[1], "kept/a"), [2]);
}

#[test]
fn they_outlive_the_process_and_end_with_the_rule() {
    let (net, mut nodes) = two(4);
    for n in 0..4 {
        write(&nodes[0], "kept/a", n);
    }
    settled(&nodes);
    let (disk, _dir) = nodes.remove(0).leave();
    let back = Node::on(&net, "a", disk, options(4));
    assert_eq!(former(&back, "kept/a"), [2, 1, 0]);
    let (disk, _again) = back.leave();
    let fewer = Node::on(&net, "a", disk, options(1));
    until("what is kept no more goes", || fewer.mesh.former(&name("kept/a")).is_ok_and(|former| former.len() == 1));
    assert_eq!(kept(&fewer), 1);
    assert_eq!(former(&fewer, "kept/a"), [2]);
}

/// Both sides of a cut wrote: what is beside what is shown is a conflict, and a former one when that was ended.
#[test]
fn a_version_that_lost_is_a_former_one_when_the_conflict_is_ended() {
    let (net, nodes) = two(3);
    write(&nodes[0], "kept/a", 0);
    net.cut("a", "b");
    nodes[0].write("kept/a", &content(1), Ack::Local).expect("written");
    nodes[1].write("kept/a", &content(2), Ack::Local).expect("written");
    net.heal();
    until("both know of both", || {
        nodes.iter().all(|node| node.mesh.versions(&name("kept/a")).is_ok_and(|versions| versions.len() == 2))
    });
    settled(&nodes);
    nodes.iter().for_each(|node| assert_eq!(former(node, "kept/a"), [0]));
    let shown = nodes[0].mesh.versions(&name("kept/a")).expect("known")[0].dot;
    nodes[0].mesh.resolve(&name("kept/a"), shown).expect("ended");
    settled(&nodes);
    for node in &nodes {
        until("the other is a former one", || node.mesh.former(&name("kept/a")).is_ok_and(|former| former.len() == 2));
        let all = former(node, "kept/a");
        assert!(all.contains(&0) && (all.contains(&1) || all.contains(&2)), "{all:?}");
    }
}

/// What another program wrote over a file is no version of anybody's that could be kept as a former one.
#[test]
fn what_another_program_replaced_is_gone() {
    let (_net, nodes) = two(3);
    write(&nodes[0], "kept/a", 0);
    let disk = nodes[0].disk.subtree(&RelPath::literal("data")).expect("there");
    let file = disk.open(&RelPath::literal("files/kept/a"), macula_core::Open::ReadWrite).expect("opened");
    file.write_all_at(b"theirs", 0).expect("written");
    write(&nodes[0], "kept/a", 2);
    settled(&nodes);
    for of in nodes[0].mesh.former(&name("kept/a")).expect("known") {
        nodes[0].read_version("kept/a", Some(of.dot)).expect("what is told of is there, whole");
    }
    assert_eq!(former(&nodes[1], "kept/a"), [0]);
}
