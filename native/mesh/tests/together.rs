//! Writes of short files that come at once are made together: each as if it came alone.

use crate::common::{all_meet, cluster, name, settled, until, Network, Node};
use macula_core::{Kind, Kinded};
use macula_mesh::{Ack, Dot, MeshError, Options};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;

type Answer = Receiver<Result<Dot, MeshError>>;

/// Not waited for.
fn write(node: &Node, path: &str, content: &[u8]) -> Answer {
    let (reply, answer) = channel();
    let told = move |done| drop(reply.send(done));
    node.mesh.write_short((name(path), content.to_vec()), (None, None), || false, told);
    answer
}

fn content(n: usize, round: usize) -> Vec<u8> {
    format!("{n} {round} ").repeat(1 + n * 7 % 900).into_bytes()
}

#[test]
fn names_that_are_written_over_and_over_at_once_show_the_last_everywhere() {
    let seed = fastrand::u64(..);
    eprintln!("seed={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (_net, nodes) = cluster(&["a", "b", "c"]);
    // few names are in the same batch many times, many once
    let paths: Vec<String> = (0..600).map(|n| format!("dir{}/{}", n % 7, if rng.bool() { n } else { n % 9 })).collect();
    let answers: Vec<_> =
        paths.iter().enumerate().map(|(n, path)| (path, n, write(&nodes[n % 2], path, &content(n, 0)))).collect();
    let mut last = BTreeMap::<&str, Vec<(Dot, usize)>>::new();
    for (path, n, answer) in answers {
        let dot = answer.recv().expect("answered").expect("written");
        assert!(answer.recv().is_err(), "once");
        last.entry(path).or_default().push((dot, n));
    }
    all_meet(&nodes);
    settled(&nodes);
    for (path, written) in last {
        for node in &nodes {
            let versions = node.mesh.versions(&name(path)).expect("known");
            // others, which the two made at once, are kept
            assert_eq!(Some(versions[0].dot), written.iter().map(|(dot, _)| *dot).max(), "{path}");
            for version in versions {
                let (_, n) = written.iter().find(|(dot, _)| *dot == version.dot).expect("one of those");
                assert_eq!(node.read_version(path, Some(version.dot)).expect("read"), content(*n, 0), "{path}");
            }
        }
    }
}

#[test]
fn what_waits_when_the_mesh_is_closed_is_answered_once_and_true() {
    for round in 0..20 {
        let net = Arc::new(Network::default());
        let node = Node::open(&net, "a", Options::default());
        let answers: Vec<_> = (0..500).map(|n| write(&node, &format!("{n}"), &content(n, round))).collect();
        // some are done, some not begun
        let _ = answers[(round * 5) % 64].recv();
        let (disk, _dir) = node.leave();
        let back = Node::on(&net, "a", disk, Options::default());
        for (n, answer) in answers.iter().enumerate().filter(|(n, _)| *n != (round * 5) % 64) {
            let there = back.read(&format!("{n}"));
            match answer.recv().expect("answered") {
                Ok(_) => assert_eq!(there.expect("acknowledged"), content(n, round), "{n}"),
                Err(error) if error.kind() == Kind::Closed => assert!(there.is_err(), "{n} was not begun"),
                Err(_) => assert!(there.map_or(true, |there| there == content(n, round)), "{n}"),
            }
            assert!(answer.recv().is_err(), "once");
        }
    }
}

#[test]
fn what_was_cancelled_before_it_began_is_not_done() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let (is_cancelled, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let told = Arc::new(AtomicUsize::new(0));
    for n in 0..100 {
        let (is_cancelled, asked, told) = (is_cancelled.clone(), asked.clone(), told.clone());
        let look = move || {
            asked.fetch_add(1, Ordering::AcqRel);
            n % 2 == 0 && is_cancelled.load(Ordering::Acquire)
        };
        let reply = move |_| _ = told.fetch_add(1, Ordering::AcqRel);
        nodes[0].mesh.write_short((name(&format!("{n}")), content(n, 0)), (None, None), look, reply);
    }
    until("all are answered", || told.load(Ordering::Acquire) == 100);
    for n in 0..100 {
        assert_eq!(nodes[0].read(&format!("{n}")).is_ok(), n % 2 == 1, "{n}");
    }
    assert_eq!(asked.load(Ordering::Acquire), 100);
}

#[test]
fn a_file_that_another_program_put_there_is_replaced_as_by_one_alone() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let theirs = || macula_core::RelPath::literal("files/of-another");
    let file = nodes[0].disk.subtree(&macula_core::RelPath::literal("data")).expect("there");
    let opened = file.open(&theirs(), macula_core::Open::CreateNew).expect("made");
    opened.write_all_at(b"another's", 0).expect("written");
    let answers: Vec<_> = ["of-another", "x", "y"].iter().map(|path| write(&nodes[0], path, b"ours")).collect();
    for answer in answers {
        answer.recv().expect("answered").expect("written");
    }
    settled(&nodes);
    nodes.iter().for_each(|node| assert_eq!(node.read("of-another").expect("read"), b"ours"));
    nodes[0].write("x", b"again", Ack::All).expect("written");
    assert_eq!(nodes[1].read("x").expect("read"), b"again");
}
