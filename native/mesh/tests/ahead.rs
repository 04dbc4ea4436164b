//! Contents that travel while they are written.

use crate::common::{cluster, name, settled, until, wait, Node};
use bytes::Bytes;
use macula_core::{Kind, Kinded, Open, RelPath};
use macula_mesh::wire::{answer, Ahead, Answer, Request};
use macula_mesh::{Ack, MeshError, Writing, BLOCK_LEN};
use std::sync::atomic::Ordering;

const MIB: usize = 1 << 20;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn begin(node: &Node, path: &str, content: &[u8]) -> Writing {
    let content = content.to_vec();
    let write = move |writing: &mut Writing| content.chunks(100_000).try_for_each(|bytes| writing.write(bytes));
    node.work(path, move |mesh, name| {
        let mut writing = mesh.writing(name)?;
        write(&mut writing).map(|()| writing)
    })
    .expect("written")
}

fn commit(node: &Node, path: &str, writing: Writing, ack: Ack) {
    let dot = node.work(path, move |_, _| writing.commit()).expect("committed");
    node.acknowledged(path, dot, ack).expect("acknowledged");
}

/// Bytes that are staged.
fn staged(node: &Node) -> u64 {
    let at = RelPath::literal("data/.macula/staged");
    let Ok(entries) = node.disk.list(&at) else { return 0 };
    let len = |entry: &macula_core::Entry| {
        let path = at.join(entry.name.as_encoded_bytes()).expect("a path");
        node.disk.stat(&path).map_or(0, |stat| stat.len)
    };
    entries.iter().map(len).sum()
}

#[test]
fn most_is_there_when_it_is_committed() {
    let (net, nodes) = cluster(&["a", "b"]);
    let content = bytes(8 * MIB + 5, 1);
    let writing = begin(&nodes[0], "f", &content);
    until("pieces came", || staged(&nodes[1]) >= 7 * MIB as u64);
    assert!(nodes[1].tree().is_empty(), "and nothing is visible");
    assert_eq!(nodes[1].read("f").expect_err("not written").kind(), Kind::NotFound);
    let before = net.bytes.load(Ordering::Relaxed);
    commit(&nodes[0], "f", writing, Ack::All);
    let travelled = net.bytes.load(Ordering::Relaxed) - before;
    assert!(travelled < 2 * MIB as u64, "travelled={travelled}");
    settled(&nodes);
    assert_eq!(nodes[1].tree()["f"], content);
    until("nothing is left", || staged(&nodes[1]) == 0);
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let writing = begin(&nodes[0], "f", &bytes(4 * MIB, 2));
    until("pieces came", || staged(&nodes[1]) > 0);
    drop(writing);
    until("nothing is left", || staged(&nodes[1]) == 0 && staged(&nodes[0]) == 0);
    assert!(nodes.iter().all(|node| node.tree().is_empty()));
}

#[test]
fn what_a_killed_member_got_is_swept_and_comes_again() {
    let (net, mut nodes) = cluster(&["a", "b"]);
    let content = bytes(6 * MIB, 3);
    let writing = begin(&nodes[0], "f", &content);
    until("pieces came", || staged(&nodes[1]) >= 5 * MIB as u64);
    let (disk, dir) = nodes.pop().expect("two").leave();
    let dot = nodes[0].work("f", move |_, _| writing.commit()).expect("committed here");
    nodes.push(Node::on(&net, "b", disk, macula_mesh::Options::default()));
    nodes[0].acknowledged("f", dot, Ack::All).expect("it came");
    settled(&nodes);
    assert_eq!(nodes[1].tree()["f"], content);
    until("nothing is left", || staged(&nodes[1]) == 0);
    drop((nodes, dir));
}

fn tell(node: &Node, ahead: Ahead, piece: &[u8]) -> Answer {
    let mut request = Request::Ahead(ahead).encode().expect("encodes").to_vec();
    request.extend_from_slice(piece);
    let reply = |reply: Box<dyn FnOnce(Result<Vec<u8>, MeshError>) + Send>| {
        node.mesh.serve("liar", Bytes::from(request), move |bytes| reply(Ok(bytes)));
    };
    answer(Bytes::from(wait(reply).expect("answered"))).expect("decodes").expect("words")
}

fn piece(token: u64, path: &str, offset: u64) -> Ahead {
    Ahead::Piece { key: name(path).key(), token, offset }
}

/// Whoever sends other bytes, or far too many, costs a transfer nothing and this member little.
#[test]
fn what_a_liar_sent_is_not_taken() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let content = bytes(3 * BLOCK_LEN + 9, 4);
    // one block right, and others wrong
    let mut wrong = content[..3 * BLOCK_LEN].to_vec();
    wrong[BLOCK_LEN + 1] ^= 1;
    assert!(matches!(tell(&nodes[1], piece(1, "f", 0), &wrong), Answer::Took(_)));
    nodes[0].write("f", &content, Ack::All).expect("written");
    settled(&nodes);
    assert_eq!(nodes[1].tree()["f"], content);

    let block = vec![1; BLOCK_LEN];
    assert!(matches!(tell(&nodes[1], piece(2, "g", 5), &block), Answer::Refused(_)), "in the middle of a block");
    assert!(matches!(tell(&nodes[1], piece(2, "g", 0), &[]), Answer::Refused(_)), "empty");
    assert!(matches!(tell(&nodes[1], piece(2, "g", 0), &vec![1; 5 * BLOCK_LEN]), Answer::Refused(_)), "too long");
    assert!(matches!(tell(&nodes[1], piece(2, "g", 0), &block), Answer::Took(_)));
    assert!(matches!(tell(&nodes[1], piece(2, "g", 1 << 40), &block), Answer::NotHere), "far behind");
    assert!(matches!(tell(&nodes[1], piece(2, "h", 0), &block), Answer::NotHere), "another file");
    let mut key = name("g").key();
    key.extend_from_slice(b"/../../x");
    let outside = Ahead::Piece { key, token: 3, offset: 0 };
    assert!(matches!(tell(&nodes[1], outside, &block), Answer::Refused(_)));
    for token in 4..100 {
        tell(&nodes[1], piece(token, "g", 0), &block);
    }
    assert!(staged(&nodes[1]) <= 8 * MIB as u64, "so many at once and no more: each one piece");
    for token in 1..100 {
        assert!(matches!(tell(&nodes[1], Ahead::End { token }, &[]), Answer::Took(_)));
    }
    assert_eq!(staged(&nodes[1]), 0);
    assert_eq!(nodes[1].tree().len(), 1);
}

/// A file that another program puts there meanwhile is a version of its own.
#[test]
fn an_edit_meanwhile_is_kept() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let content = bytes(4 * MIB, 5);
    let writing = begin(&nodes[0], "f", &content);
    until("pieces came", || staged(&nodes[1]) >= 3 * MIB as u64);
    let path = RelPath::literal("data/files/f");
    let file = nodes[1].disk.open(&path, Open::CreateNew).expect("creates");
    file.write_all_at(b"edited", 0).expect("writes");
    commit(&nodes[0], "f", writing, Ack::All);
    settled(&nodes);
    let versions = nodes[0].mesh.versions(&name("f")).expect("known");
    let contents: Vec<_> =
        versions.iter().map(|v| nodes[0].read_version("f", Some(v.dot)).expect("readable")).collect();
    assert!(contents.contains(&content) && contents.contains(&b"edited".to_vec()));
}
