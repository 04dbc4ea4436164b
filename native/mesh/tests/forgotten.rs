//! Deletions end when all members know of them, and what they hid does not come back with somebody who was away.

use crate::common::{all_meet, cluster_with, comparing, name, settled, until, Network, Node};
use bytes::Bytes;
use macula_mesh::wire::{Answer, Reply, Request};
use macula_mesh::{Ack, Floor, Options, Record, Stamp};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

fn options() -> Options {
    Options { scan_every: Duration::from_millis(200), ..comparing() }
}

fn is_forgotten(node: &Node, path: &str) -> bool {
    node.mesh.record(&name(path)).expect("reads") == Record::default()
}

#[test]
fn what_a_retired_member_has_still_stays_deleted_and_what_it_wrote_comes() {
    let net = Arc::new(Network::default());
    let mut nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| Node::open(&net, name, options())).collect();
    all_meet(&nodes);
    for path in ["old", "written", "stays"] {
        nodes[0].write(path, path.as_bytes(), Ack::All).expect("written");
    }
    settled(&nodes);
    // it knows nothing of what is deleted now
    net.cut("a", "c");
    net.cut("b", "c");
    nodes[2].write("written", b"meanwhile", Ack::Local).expect("written");
    nodes[2].write("new", b"new", Ack::Local).expect("written");
    for path in ["old", "written"] {
        nodes[0].delete(path, Ack::Others(1)).expect("deleted");
    }
    assert!(nodes[..2].iter().all(|node| !is_forgotten(node, "old")), "as long as a member does not know of it");
    net.set_member("c", false);
    until("two know of it, and nobody else is there", || {
        nodes[..2].iter().all(|node| ["old", "written"].iter().all(|path| is_forgotten(node, path)))
    });
    assert!(nodes[2].tree().contains_key("old"));
    net.set_member("c", true);
    net.heal();
    all_meet(&nodes);
    until("deleted there, too", || !nodes[2].tree().contains_key("old"));
    settled(&nodes);
    for node in &nodes {
        let tree = node.tree();
        let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
        assert_eq!(paths, ["new", "stays", "written"], "{}", node.name);
        assert_eq!(tree["written"], b"meanwhile");
        assert_eq!(node.mesh.versions(&name("written")).expect("known").len(), 1, "{}", node.name);
    }
    until("nothing is left of it", || nodes.iter().all(|node| is_forgotten(node, "old")));
    // nor does it come back with a process
    let (disk, dir) = nodes.remove(0).leave();
    let back = Node::on(&net, "a", disk, options());
    assert!(is_forgotten(&back, "old"));
    nodes.insert(0, back);
    all_meet(&nodes);
    settled(&nodes);
    assert!(nodes.iter().all(|node| !node.tree().contains_key("old")));
    drop((nodes, dir));
}

/// Who wrote it is somebody else now: what the others saw of him is handed on to those who never met him.
#[test]
fn deletions_end_when_their_files_writer_lost_its_index() {
    let net = Arc::new(Network::default());
    let mut nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, options())).collect();
    all_meet(&nodes);
    let made = nodes[0].write("old", b"old", Ack::All).expect("written").dot;
    until("all that it made is seen", || nodes[1].mesh.has_seen_all_to(&made));
    drop(nodes.remove(0).leave());
    nodes.insert(0, Node::open(&net, "a", options()));
    all_meet(&nodes);
    settled(&nodes);
    nodes[0].delete("old", Ack::All).expect("deleted");
    until("nothing is left of it", || nodes.iter().all(|node| is_forgotten(node, "old")));
}

/// What it says while a file is written is believed, as a deletion by it would be.
#[test]
fn who_says_that_it_saw_what_will_be_written_deletes_nothing() {
    let (net, nodes) = cluster_with(&["a", "b", "c"], &comparing());
    let (lies, truths) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (is_over, writer) = (Arc::<AtomicBool>::default(), nodes[2].mesh.status().replica);
    let (lied, told, ends) = (lies.clone(), truths.clone(), is_over.clone());
    *net.lie.lock() = Some(Box::new(move |from, request, answer| {
        let is_seen = matches!(Request::decode(&Bytes::copy_from_slice(request)), Ok((Request::Seen, _)));
        if from != "b" || !is_seen {
            return answer;
        }
        if ends.load(Ordering::Acquire) {
            told.fetch_add(1, Ordering::AcqRel);
            return answer;
        }
        let mut floor = Floor::default();
        floor.raise(writer, Stamp(u64::MAX));
        lied.fetch_add(1, Ordering::AcqRel);
        Reply::Answer(Answer::Seen(floor)).encode()
    }));
    until("it lies to both", || lies.load(Ordering::Acquire) >= 4);
    is_over.store(true, Ordering::Release);
    // who asks again took note of what it was told before
    until("both ask again", || truths.load(Ordering::Acquire) >= 4);
    nodes[2].write("new", b"new", Ack::All).expect("written");
    settled(&nodes);
    assert!(nodes.iter().all(|node| node.read("new").is_ok_and(|read| read == b"new")));
}
