//! Where a file cannot lie on one member: no room, another kind of thing in its place, a link that leads elsewhere, a
//! name that only others can tell from another. What can be is replicated, what cannot is told, and nothing leads out.

use crate::common::{all_meet, cluster, cluster_with, comparing, name, settled, until, wait, Network, Node};
use macula_core::{create_dir_all, FileKind, Kind, Kinded, Open, RelPath};
use macula_mesh::{Ack, Options, Stat, BLOCK_LEN};
use macula_testkit::{Fault, FaultDisk};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn at(path: &str) -> RelPath {
    RelPath::new(format!("data/files/{path}")).expect("a path")
}

/// Asks for copies, and waits a little.
fn copies(node: &Node, path: &str, content: &[u8], ack: Ack) -> Result<usize, String> {
    let dot = node.mesh.write(&name(path), content).expect("written");
    let short = Duration::from_millis(800);
    let written = wait(|reply| node.mesh.acknowledged(&name(path), dot, Some(ack), short, reply));
    written.map(|written| written.replicas).map_err(|error| error.to_string())
}

#[test]
fn who_has_no_room_is_no_copy_and_gets_it_when_there_is_some() {
    let net = Arc::new(Network::default());
    let disk = FaultDisk::new();
    let mut nodes = vec![Node::open(&net, "a", Options::default())];
    nodes.push(Node::on(&net, "b", Arc::new(disk.clone()), Options::default()));
    all_meet(&nodes);
    let files = [("short", bytes(100, 1)), ("some", bytes(100_000, 2)), ("long", bytes(5 * BLOCK_LEN + 7, 3))];
    nodes[0].write("before", b"1", Ack::All).expect("written");
    disk.fail_at(disk.operations() + 1, Fault::Full);
    for (path, content) in &files {
        let told = copies(&nodes[0], path, content, Ack::Others(1)).expect_err("b has no room");
        assert!(told.contains("0 of 1"), "{told}");
    }
    // what is there already is read, and nothing of the rest is seen
    assert_eq!(nodes[1].read("before").expect("reads"), b"1");
    assert!(nodes[1].tree().keys().eq(["before"]), "{:?}", nodes[1].tree().keys());
    // another one takes it instead
    nodes.push(Node::open(&net, "c", Options::default()));
    until("the writer knows it", || nodes[0].mesh.status().peers.len() == 2);
    let other = copies(&nodes[0], "other", &bytes(100_000, 4), Ack::Others(1));
    assert_eq!(other, Ok(1));
    until("c has them", || files.iter().all(|(path, content)| nodes[2].tree().get(*path) == Some(content)));
    assert!(nodes[1].tree().keys().eq(["before"]));
    disk.heal();
    settled(&nodes);
    for (path, content) in &files {
        assert_eq!(nodes[1].tree().get(*path), Some(content), "{path}");
    }
}

#[test]
fn names_that_look_alike_are_files_of_their_own() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let long = "x".repeat(255);
    let deep = ["d".repeat(200).as_str(); 20].join("/");
    let names =
        ["A", "a", "caf\u{e9}", "cafe\u{301}", " ", "a b", "-rf", "*", "\n", "\u{202e}x", ".hidden", &long, &deep];
    for (n, path) in names.iter().enumerate() {
        let written = nodes[n % 2].write(path, format!("{n}").as_bytes(), Ack::All).expect("written");
        assert_eq!(written.replicas, 1, "{path}");
    }
    let bytes = RelPath::new(b"\xff\xfe").expect("a path");
    let odd = macula_mesh::Name { path: bytes.clone(), ..name("x") };
    nodes[0].mesh.write(&odd, b"odd").expect("written");
    until("it comes", || nodes[1].files.read(&bytes, 10).is_ok());
    settled(&nodes);
    for node in &nodes {
        for (n, path) in names.iter().enumerate() {
            assert_eq!(node.read(path).expect("reads"), format!("{n}").as_bytes(), "{path}");
            assert_eq!(node.tree()[*path], format!("{n}").as_bytes(), "{path}");
        }
        assert_eq!(node.mesh.list(&name("x").app, None, None, 100).expect("lists").paths.len(), names.len() + 1);
    }
}

/// On a real disk: what is planted in the receiver's tree is not followed.
#[test]
fn links_that_were_planted_lead_nowhere() {
    let outside = tempfile::tempdir().expect("tempdir");
    std::fs::write(outside.path().join("secret"), b"secret").expect("written");
    let (_net, nodes) = cluster_with(&["a", "b"], &comparing());
    let long = bytes(2 * BLOCK_LEN + 5, 1);
    nodes[0].write("old/f", b"before", Ack::All).expect("written");
    settled(&nodes);
    let disk = &nodes[1].disk;
    create_dir_all(&**disk, &at("x").parent()).expect("made");
    let secret = outside.path().join("secret");
    for (link, to) in
        [("dir", outside.path()), ("file", &secret), ("gone", Path::new("/nowhere/x")), ("up", Path::new("../../.."))]
    {
        disk.symlink(to, &at(link)).expect("planted");
    }
    // where a file was, too
    disk.remove_file(&at("old/f")).expect("removed");
    disk.symlink(&secret, &at("old/f")).expect("planted");
    let wanted = ["dir/secret", "dir/new", "dir/sub/new", "file", "gone", "up/x", "old/f"];
    for path in wanted {
        nodes[0].write(path, path.as_bytes(), Ack::Local).expect("written");
        nodes[0].write(&format!("{path}.long"), &long, Ack::Local).expect("written");
    }
    // what goes on beside it is there
    nodes[0].write("beside", b"1", Ack::Others(1)).expect("the other has it");
    until("what is in nobody's way comes", || nodes[1].tree().contains_key("old/f.long"));
    for path in wanted {
        // the newer one: who wrote it has the older one of old/f no more
        let is_it = |stat: Stat| stat.content.len == path.len() as u64;
        until("it is known", || nodes[1].mesh.stat(&name(path)).is_ok_and(is_it));
        let read = nodes[1].read(path);
        assert!(read.as_ref().is_ok_and(|read| read == path.as_bytes()), "{path} {read:?}");
    }
    for path in ["dir/secret", "file", "old/f"] {
        nodes[0].delete(path, Ack::Local).expect("deleted");
    }
    until("it is known", || nodes[1].mesh.stat(&name("file")).is_err_and(|error| error.kind() == Kind::NotFound));
    let names: Vec<_> =
        std::fs::read_dir(outside.path()).expect("lists").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(std::fs::read(&secret).expect("there"), b"secret");
    // without the links they are as all others
    for link in ["dir", "file", "gone", "up", "old/f"] {
        if disk.stat(&at(link)).is_ok_and(|stat| stat.kind == FileKind::Symlink) {
            disk.remove_file(&at(link)).expect("removed");
        }
    }
    settled(&nodes);
    assert_eq!(nodes[1].tree()["up/x"], b"up/x");
}

/// One name is a file there and a directory here: each keeps what is its own, and both have both when there is room.
#[test]
fn a_file_and_a_directory_of_one_name() {
    let (net, nodes) = cluster(&["a", "b"]);
    net.cut("a", "b");
    until("they part", || nodes.iter().all(|node| node.mesh.status().peers.is_empty()));
    let long = bytes(2 * BLOCK_LEN + 5, 1);
    nodes[0].write("d", b"file", Ack::Local).expect("written");
    nodes[0].write("e/x", &long, Ack::Local).expect("written");
    nodes[1].write("d/x", &long, Ack::Local).expect("written");
    nodes[1].write("e", b"file", Ack::Local).expect("written");
    net.heal();
    all_meet(&nodes);
    nodes[0].write("beside", b"1", Ack::Others(1)).expect("the other has it");
    nodes[1].write("beside too", b"1", Ack::Others(1)).expect("the other has it");
    for node in &nodes {
        until("all is known", || node.mesh.list(&name("x").app, None, None, 9).is_ok_and(|page| page.paths.len() == 6));
        for (path, content) in [("d", &b"file"[..]), ("e", b"file"), ("d/x", &long), ("e/x", &long)] {
            assert_eq!(node.read(path).expect("from who has it"), content);
        }
    }
    // one of the two is ended: the other comes
    nodes[1].delete("d", Ack::Local).expect("deleted");
    nodes[0].delete("e", Ack::Local).expect("deleted");
    settled(&nodes);
    for node in &nodes {
        assert_eq!((node.tree().get("d/x"), node.tree().get("e/x")), (Some(&long), Some(&long)));
    }
    // and the reverse: what other programs put in the way of one that comes
    let disk = &nodes[1].disk;
    create_dir_all(&**disk, &at("g/sub")).expect("made");
    disk.open(&at("h"), Open::CreateNew).expect("made");
    nodes[0].write("g", b"file", Ack::Local).expect("written");
    nodes[0].write("h/x", b"below", Ack::Local).expect("written");
    nodes[0].write("beside", b"2", Ack::Others(1)).expect("the other has it");
    for (path, content) in [("g", b"file".to_vec()), ("h/x", b"below".to_vec())] {
        until("it is known", || nodes[1].mesh.stat(&name(path)).is_ok());
        assert_eq!(nodes[1].read(path).expect("from who has it"), content);
    }
    disk.remove_dir(&at("g/sub")).expect("removed");
    let _ = disk.remove_dir(&at("g"));
    disk.remove_file(&at("h")).expect("removed");
    settled(&nodes);
    assert_eq!((&nodes[1].tree()["g"][..], &nodes[1].tree()["h/x"][..]), (&b"file"[..], &b"below"[..]));
}
