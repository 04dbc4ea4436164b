//! What other programs do to files is found while they do it, where the kernel tells. No scan comes in the way: the one
//! at the beginning is over before, the next is an hour away.

use crate::common::{all_meet, name, settled, until, Network, Node};
use macula_core::{Kind, Kinded, Open, RelPath};
use macula_mesh::{Ack, Options};
use std::sync::Arc;
use std::time::Duration;

fn at(path: &str) -> RelPath {
    RelPath::new(format!("data/files/{path}")).expect("a path")
}

fn put(node: &Node, path: &str, bytes: &[u8]) {
    macula_core::create_dir_all(&*node.disk, &at(path).parent()).expect("a directory");
    node.disk.open(&at(path), Open::CreateNew).expect("creates").write_all_at(bytes, 0).expect("writes");
}

fn remove(node: &Node, path: &str) {
    node.disk.remove_file(&at(path)).expect("removes");
}

/// Two members, a file in a directory on each, both watched.
fn watched() -> Vec<Node> {
    let net = Arc::new(Network::default());
    let options = || Options { watch: true, scan_every: Duration::from_secs(3600), ..Options::default() };
    let nodes = vec![Node::open(&net, "a", options()), Node::open(&net, "b", options())];
    all_meet(&nodes);
    for n in 0..20 {
        nodes[0].write(&format!("dir/{n}"), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    until("both trees are watched", || nodes.iter().all(|node| node.mesh.status().watched.dirs == 2));
    // a file that is found is found by the watch: the scans of the beginning end before that is told
    for node in &nodes {
        put(node, &format!("{}/first", node.name), b"first");
    }
    settled_with(&nodes, 22);
    nodes
}

fn settled_with(nodes: &[Node], files: usize) {
    until("all is everywhere", || nodes.iter().all(|node| node.tree().len() == files));
    settled(nodes);
}

#[test]
fn what_is_put_changed_moved_and_removed_is_replicated_at_once() {
    let nodes = watched();
    put(&nodes[1], "new/deep/er/file", b"put there");
    until("it came", || nodes[0].read("new/deep/er/file").ok().as_deref() == Some(b"put there"));
    let file = nodes[1].disk.open(&at("dir/3"), Open::ReadWrite).expect("opens");
    file.write_all_at(b"changed", 0).expect("writes");
    file.set_len(7).expect("cut");
    drop(file);
    until("it changed", || nodes[0].read("dir/3").ok().as_deref() == Some(b"changed"));
    assert_eq!(nodes[0].mesh.versions(&name("dir/3")).expect("known").len(), 1, "it was made of the former one");
    remove(&nodes[1], "dir/5");
    until("it went", || nodes[0].read("dir/5").is_err_and(|error| error.kind() == Kind::NotFound));
    nodes[1].disk.rename(&at("dir/6"), &at("moved")).expect("renames");
    until("it moved", || nodes[0].read("moved").is_ok_and(|bytes| bytes == [6; 100]));
    until("from there", || nodes[0].read("dir/6").is_err_and(|error| error.kind() == Kind::NotFound));
    settled(&nodes);
}

#[test]
fn a_directory_that_moved_is_watched_where_it_is_now() {
    let nodes = watched();
    put(&nodes[1], "few/file", b"one");
    until("it came", || nodes[0].read("few/file").is_ok());
    nodes[1].disk.rename(&at("few"), &at("dir/few")).expect("renames");
    until("it moved", || nodes[0].read("dir/few/file").is_ok());
    until("from there", || nodes[0].read("few/file").is_err());
    put(&nodes[1], "dir/few/later", b"two");
    until("it is watched there", || nodes[0].read("dir/few/later").is_ok_and(|bytes| bytes == b"two"));
    settled(&nodes);
}

#[test]
fn much_that_went_is_no_deletion() {
    let nodes = watched();
    let whole = nodes[0].tree();
    for n in 0..15 {
        remove(&nodes[1], &format!("dir/{n}"));
    }
    // told behind the others, and believed no earlier
    put(&nodes[1], "last", b"last");
    until("what came later was seen", || nodes[0].read("last").is_ok());
    std::thread::sleep(Duration::from_secs(3));
    let mut kept = nodes[0].tree();
    kept.remove("last");
    assert_eq!(kept, whole);
}

#[test]
fn a_tree_that_was_put_in_the_place_of_another_is_watched_and_what_is_missing_in_it_is_no_deletion() {
    let nodes = watched();
    let whole = nodes[0].tree();
    nodes[1].disk.rename(&RelPath::literal("data/files"), &RelPath::literal("data/former")).expect("renames");
    put(&nodes[1], "new", b"new");
    until("it came", || nodes[0].read("new").is_ok_and(|bytes| bytes == b"new"));
    until("the others came back", || nodes[1].tree().len() == whole.len() + 1);
    let mut kept = nodes[0].tree();
    kept.remove("new");
    assert_eq!(kept, whole);
}
