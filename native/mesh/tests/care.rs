//! What other programs do to files, what becomes of files when members come and go, and peers that lie.

use crate::common::{all_meet, cluster, name, settled, until, Network, Node};
use macula_core::{AppName, Cancel, Disk, Kind, Kinded, Open, RelPath};
use macula_mesh::{Ack, Options, Scanned, BLOCK_LEN};
use macula_testkit::FaultDisk;
use std::sync::Arc;
use std::time::Duration;

fn app() -> AppName {
    AppName::new("app").expect("a name")
}

/// As any program does, past the mesh.
fn put(node: &Node, path: &str, bytes: &[u8]) {
    let path = RelPath::new(format!("data/files/{path}")).expect("a path");
    let _ = macula_core::create_dir_all(&*node.disk, &path.parent());
    let _ = node.disk.remove_file(&path);
    let file = node.disk.open(&path, Open::CreateNew).expect("creates");
    file.write_all_at(bytes, 0).expect("writes");
}

fn remove(node: &Node, path: &str) {
    node.disk.remove_file(&RelPath::new(format!("data/files/{path}")).expect("a path")).expect("removes");
}

fn scan(node: &Node) -> Scanned {
    node.mesh.scan(&app(), false, &Cancel::new()).expect("scans")
}

#[test]
fn what_other_programs_do_is_replicated_like_a_write() {
    let (_net, nodes) = cluster(&["a", "b"]);
    for n in 0..8 {
        nodes[0].write(&format!("dir/{n}"), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    put(&nodes[1], "dir/new", b"put there");
    put(&nodes[1], "dir/3", b"changed");
    remove(&nodes[1], "dir/5");
    let scanned = scan(&nodes[1]);
    assert_eq!(scanned, Scanned { known: 8, found: 1, changed: 1, deleted: 1, lost: 0 });
    until("it is everywhere", || nodes[0].read("dir/3").ok().as_deref() == Some(b"changed"));
    settled(&nodes);
    assert_eq!(nodes[0].read("dir/new").expect("replicated"), b"put there");
    assert_eq!(nodes[0].read("dir/5").expect_err("deleted").kind(), Kind::NotFound);
    assert_eq!(nodes[0].mesh.versions(&name("dir/3")).expect("known").len(), 1, "it was made of the former one");
    // what an app writes by itself stays its own
    nodes[0].files.write(&name("own").path, b"mine").expect("written");
    assert_eq!(scan(&nodes[0]), Scanned { known: 8, ..Scanned::default() });
    assert_eq!(nodes[1].mesh.stat(&name("own")).expect_err("not told").kind(), Kind::NotFound);
}

/// It carries our digest still, as what an app writes by itself does: its content was deleted, everywhere.
#[test]
fn a_file_that_was_given_another_name_is_replicated_under_it() {
    let (_net, nodes) = cluster(&["a", "b"]);
    for n in 0..8 {
        nodes[0].write(&format!("dir/{n}"), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    let at = |path: &str| RelPath::new(format!("data/files/dir/{path}")).expect("a path");
    nodes[1].disk.rename(&at("5"), &at("0before")).expect("renames");
    nodes[1].disk.rename(&at("6"), &at("behind")).expect("renames");
    assert_eq!(scan(&nodes[1]), Scanned { known: 8, found: 2, deleted: 2, ..Scanned::default() });
    settled(&nodes);
    assert_eq!(nodes[0].read("dir/0before").expect("replicated"), [5; 100]);
    assert_eq!(nodes[0].read("dir/behind").expect("replicated"), [6; 100]);
}

#[test]
fn a_vanished_directory_is_no_deletion_and_comes_back() {
    let (_net, nodes) = cluster(&["a", "b"]);
    for n in 0..20 {
        nodes[0].write(&format!("dir{}/{n}", n % 3), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    let whole = nodes[0].tree();
    macula_core::remove_tree(&*nodes[1].disk, &RelPath::literal("data/files")).expect("removed");
    let scanned = scan(&nodes[1]);
    assert_eq!(scanned, Scanned { known: 20, lost: 20, ..Scanned::default() });
    settled(&nodes);
    assert_eq!(nodes[1].tree(), whole);
    // unless it is said to be one
    for n in 0..20 {
        remove(&nodes[1], &format!("dir{}/{n}", n % 3));
    }
    let scanned = nodes[1].mesh.scan(&app(), true, &Cancel::new()).expect("scans");
    assert_eq!(scanned.deleted, 20);
    until("they are gone", || nodes[0].tree().is_empty());
}

/// Of a directory that vanished most may be there again before anybody looks for the rest: put again by a member that
/// starts, written by the app, copied by an operator. The rest was taken for deleted, everywhere.
#[test]
fn the_rest_of_a_vanished_directory_is_no_deletion() {
    let (_net, nodes) = cluster(&["a", "b"]);
    for n in 0..20 {
        nodes[0].write(&format!("{n}"), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    let whole = nodes[0].tree();
    macula_core::remove_tree(&*nodes[1].disk, &RelPath::literal("data/files")).expect("removed");
    for n in 0..17 {
        put(&nodes[1], &format!("{n}"), &[n; 100]);
    }
    assert_eq!(scan(&nodes[1]), Scanned { known: 20, lost: 3, ..Scanned::default() });
    settled(&nodes);
    assert_eq!(nodes[1].tree(), whole);
    // it is known from then on
    remove(&nodes[1], "3");
    assert_eq!(scan(&nodes[1]), Scanned { known: 20, deleted: 1, ..Scanned::default() });
    until("it is gone", || !nodes[0].tree().contains_key("3"));
}

#[test]
fn a_directory_that_vanished_while_a_member_was_away_is_no_deletion() {
    let net = Arc::new(Network::default());
    let options = || Options { scan_every: Duration::from_millis(1), ..Options::default() };
    let disk = FaultDisk::new();
    let on_disk = |disk: &FaultDisk| Node::on(&net, "b", Arc::new(disk.clone()) as Arc<dyn Disk>, options());
    let mut nodes = vec![Node::open(&net, "a", options()), on_disk(&disk)];
    all_meet(&nodes);
    // two that are staged, and more whose content is in the index when the process dies
    for n in 0..2 {
        nodes[1].write(&format!("long{n}"), &[n; 100_000], Ack::All).expect("written");
    }
    for n in 0..20 {
        nodes[1].write(&format!("{n}"), &[n; 100], Ack::All).expect("written");
    }
    settled(&nodes);
    let whole = nodes[0].tree();
    let killed = disk.kill();
    drop(nodes.pop().map(Node::leave));
    macula_core::remove_tree(&killed, &RelPath::literal("data/files")).expect("removed");
    nodes.push(on_disk(&killed));
    until("all are back", || nodes[1].tree() == whole);
    settled(&nodes);
    assert_eq!(nodes[0].tree(), whole);
}

/// A file that somebody changed while a version from elsewhere was on its way: both are kept.
#[test]
fn an_edit_that_was_not_seen_yet_is_not_overwritten() {
    let (net, nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"before", Ack::All).expect("written");
    settled(&nodes);
    net.cut("a", "b");
    let remote = nodes[0].write("f", b"from a", Ack::Local).expect("written");
    put(&nodes[1], "f", b"edited on b");
    net.heal();
    settled(&nodes);
    for node in &nodes {
        let versions = node.mesh.versions(&name("f")).expect("known");
        let contents: Vec<_> =
            versions.iter().map(|v| node.read_version("f", Some(v.dot)).expect("readable")).collect();
        assert!(contents.contains(&b"edited on b".to_vec()), "{contents:?}");
        assert_eq!(node.read_version("f", Some(remote.dot)).expect("readable"), b"from a");
    }
}

#[test]
fn files_of_a_member_that_stays_away_get_other_copies() {
    let net = Arc::new(Network::default());
    let options = Options { copies: 1, grace: Duration::from_secs(2), ..Options::default() };
    let mut nodes: Vec<Node> = ["a", "b", "c", "d"].iter().map(|n| Node::open(&net, n, options.clone())).collect();
    all_meet(&nodes);
    for n in 0..40 {
        nodes[n % 4].write(&format!("f{n}"), &[n as u8; 300], Ack::Others(1)).expect("written");
    }
    let copies = |nodes: &[Node], path: &str| nodes.iter().filter(|node| node.tree().contains_key(path)).count();
    until("two have each", || (0..40).all(|n| copies(&nodes, &format!("f{n}")) == 2));
    let gone = nodes.pop().expect("four");
    let held = gone.tree().len();
    let (disk, dir) = gone.leave();
    assert!(held > 5);
    until("two have each again", || (0..40).all(|n| copies(&nodes, &format!("f{n}")) >= 2));
    let more: usize = nodes.iter().map(|node| node.tree().len()).sum();
    assert!(more <= 80 + held, "only what it had moved: {more}");
    // back again, it has nothing that others do not know
    nodes.push(Node::on(&net, "d", disk, options));
    all_meet(&nodes);
    until("it is reconciled", || nodes.iter().all(|node| node.mesh.status().untold == 0));
    for n in 0..40 {
        assert_eq!(nodes[3].read(&format!("f{n}")).expect("reads"), vec![n as u8; 300]);
    }
    drop(nodes);
    drop(dir);
}

#[test]
fn rot_is_never_read_and_comes_from_others_again() {
    let (net, nodes) = cluster(&["a", "b"]);
    let content: Vec<u8> = (0..2 * BLOCK_LEN + 5).map(|n| (n % 253) as u8).collect();
    for (path, content) in [("long", &content[..]), ("short", b"short"), ("other", b"other")] {
        nodes[0].write(path, content, Ack::All).expect("written");
    }
    settled(&nodes);
    nodes[1].rot("long");
    nodes[1].rot("short");
    assert_eq!(nodes[1].read("long").expect("from a"), content);
    let scrubbed = nodes[1].scrub().expect("scrubs");
    assert_eq!((scrubbed.mended >= 1, scrubbed.rotten), (true, 0), "{scrubbed:?}");
    until("it is mended", || nodes[1].tree().get("long") == Some(&content));
    until("so is the other", || nodes[1].tree().get("short").is_some_and(|bytes| bytes == b"short"));
    settled(&nodes);
    // where nobody else has it, it stays, and is told
    net.cut("a", "b");
    until("alone", || nodes[1].mesh.status().peers.is_empty());
    let alone = nodes[1].write("alone", b"only here", Ack::Local).expect("written");
    nodes[1].rot("alone");
    assert_eq!(nodes[1].read("alone").expect_err("rotten").kind(), Kind::Corrupt);
    assert_eq!(nodes[1].scrub().expect("scrubs").rotten, 1);
    assert_eq!(nodes[1].mesh.stat(&name("alone")).expect("known").version.dot, alone.dot);
}

#[test]
fn a_copy_moves_no_bytes_and_a_rename_few() {
    let (net, nodes) = cluster(&["a", "b"]);
    let content: Vec<u8> = (0..8 * BLOCK_LEN + 5).map(|n| (n % 253) as u8).collect();
    nodes[0].write("from", &content, Ack::All).expect("written");
    settled(&nodes);
    let before = net.bytes.load(std::sync::atomic::Ordering::Relaxed);
    let dot = nodes[0].mesh.copy(&name("from"), &name("dir/copy")).expect("copied");
    nodes[0].acknowledged("dir/copy", dot, Ack::All).expect("there");
    let (made, gone) = nodes[0].mesh.rename(&name("from"), &name("to")).expect("renamed");
    nodes[0].acknowledged("to", made, Ack::All).expect("there");
    nodes[0].acknowledged("from", gone, Ack::All).expect("gone");
    settled(&nodes);
    let travelled = net.bytes.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(travelled < 64 << 10, "travelled={travelled}");
    let names: Vec<_> = nodes[1].tree().into_keys().collect();
    assert_eq!(names, ["dir/copy", "to"]);
    assert_eq!(nodes[1].read("to").expect("reads"), content);
    assert_eq!(nodes[0].mesh.rename(&name("from"), &name("x")).expect_err("gone").kind(), Kind::NotFound);
}

#[test]
fn who_sends_other_bytes_is_not_believed() {
    let (net, nodes) = cluster(&["a", "b"]);
    let content: Vec<u8> = (0..3 * BLOCK_LEN + 5).map(|n| (n % 251) as u8).collect();
    nodes[0].write("f", &content, Ack::All).expect("written");
    let third = Node::open(&net, "c", Options::default());
    // a says that it has everything and sends blocks of its own making, cut ones, and endless ones
    let lies = std::sync::atomic::AtomicU64::new(0);
    *net.lie.lock() = Some(Box::new(move |from, _request, mut bytes| {
        if from == "a" && bytes.first() == Some(&0) && bytes.len() > 1000 {
            match lies.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
                0 => bytes[500] ^= 1,
                1 => bytes.truncate(900),
                _ => bytes.extend(vec![7; 1 << 20]),
            }
        }
        bytes
    }));
    let mut nodes = nodes;
    nodes.push(third);
    all_meet(&nodes);
    until("c has it from b", || nodes[2].tree().get("f") == Some(&content));
    *net.lie.lock() = Some(Box::new(|_, _, bytes| bytes.iter().rev().copied().collect()));
    // nothing that a peer says is right any more: reads go on, and what comes is refused
    assert_eq!(nodes[2].read("f").expect("here"), content);
    nodes[2].write("g", b"1", Ack::Local).expect("here");
    *net.lie.lock() = None;
    all_meet(&nodes);
    settled(&nodes);
}
