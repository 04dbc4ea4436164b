//! What is read once in a while by itself: all of it, at its pace, from where a former process was.

use crate::common::{all_meet, name, settled, until, wait, Network, Node};
use macula_core::{Kind, Kinded, Task};
use macula_mesh::{Ack, Options, Scrubbed, BLOCK_LEN};
use std::sync::Arc;
use std::time::Duration;

const NEVER: Duration = Duration::from_secs(3600 * 24);

fn options(every: Duration, rate: u64) -> Options {
    Options { scrub_every: Some(every), scrub_rate: rate, ..Options::default() }
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

#[test]
fn what_rots_is_found_and_mended_by_itself() {
    let net = Arc::new(Network::default());
    let nodes = ["a", "b"].map(|name| Node::open(&net, name, options(Duration::from_millis(1), 1 << 30)));
    all_meet(&nodes);
    let long = content(5 * BLOCK_LEN + 7, 1);
    nodes[0].write("long", &long, Ack::All).expect("written");
    nodes[0].write("short", b"short", Ack::All).expect("written");
    settled(&nodes);
    nodes[1].rot("long");
    nodes[1].rot("short");
    // nobody reads them
    let is = |path: &str, bytes: &[u8]| nodes[1].files.read(&name(path).path, 1 << 30).is_ok_and(|read| read == bytes);
    until("they are mended", || is("long", &long) && is("short", b"short"));
    let right = Scrubbed { files: 2, bytes: long.len() as u64 + 5, ..Scrubbed::default() };
    let last = || nodes[1].mesh.status().rounds.last.unwrap_or_default();
    until("all of it is right", || last().found == right);
    let told = last();
    assert!(told.begun_ms > 0 && told.ended_ms >= told.begun_ms);
}

#[test]
fn nothing_is_read_before_its_time() {
    let net = Arc::new(Network::default());
    let node = Node::open(&net, "a", options(NEVER, 1 << 30));
    node.write("f", b"1", Ack::Local).expect("written");
    until("files were looked at", || node.mesh.status().cared.files == 1);
    let rounds = node.mesh.status().rounds;
    assert_eq!((rounds.present, rounds.last), (None, None));
    assert!(rounds.since_ms > 0);
}

/// Rounds at 1 MiB/s of 40 MiB would take most of a minute: they are cut short twice, in the middle of a long file, and
/// end with all that there is read once.
#[test]
fn a_round_goes_on_where_a_former_process_was() {
    let net = Arc::new(Network::default());
    let node = Node::open(&net, "a", options(NEVER, 1 << 20));
    for (path, len) in [("a", 3 << 20), ("long", 24 << 20), ("z", 100)] {
        node.write(path, &content(len, len as u64), Ack::Local).expect("written");
    }
    let (mut disk, dir) = node.leave();
    let total = (27 << 20) + 100;
    let mut before = 0;
    for rate in [1 << 20, 2 << 20] {
        let node = Node::on(&net, "a", disk, options(Duration::from_millis(1), rate));
        let far = |node: &Node| node.mesh.status().rounds.present.map_or(0, |round| round.found.bytes);
        // what is written down is that of some seconds ago
        let enough = before + (6 * rate);
        until("it is under way", || far(&node) >= enough);
        let rounds = node.mesh.status().rounds;
        assert_eq!(rounds.last, None);
        before = far(&node) - 6 * rate + 1;
        disk = node.leave().0;
    }
    let node = Node::on(&net, "a", disk, options(NEVER, 1 << 30));
    let begun = node.mesh.status().rounds.present.expect("under way");
    assert!(begun.found.bytes > 2 << 20, "{begun:?}");
    until("it ends", || node.mesh.status().rounds.last.is_some());
    let rounds = node.mesh.status().rounds;
    let last = rounds.last.expect("ended");
    assert_eq!(last.found, Scrubbed { files: 3, bytes: total, ..Scrubbed::default() });
    assert_eq!((last.begun_ms, rounds.present), (begun.begun_ms, None));
    drop(node);
    drop(dir);
}

/// It waited for its end, with every call that came meanwhile behind it.
#[test]
fn closing_does_not_wait_for_a_scrub() {
    let net = Arc::new(Network::default());
    let node = Node::open(&net, "a", options(Duration::from_millis(1), 1 << 10));
    for n in 0..50 {
        node.write(&format!("{n}"), &content(60_000, n), Ack::Local).expect("written");
    }
    until("one is under way", || node.mesh.status().rounds.present.is_some());
    let (answer, answered) = std::sync::mpsc::channel();
    node.mesh.scrub(NEVER, Task::quiet(), move |scrubbed| drop(answer.send(scrubbed)));
    until("calls go on", || node.read("7").is_ok());
    let mesh = node.mesh.clone();
    drop(node.leave());
    let mesh = Arc::into_inner(mesh).expect("the last");
    mesh.close();
    let ended = answered.recv().expect("an answer");
    assert_eq!(ended.expect_err("closed").kind(), Kind::Closed);
}

#[test]
fn a_scrub_tells_how_far_it_is_and_is_given_up() {
    let net = Arc::new(Network::default());
    let node = Node::open(&net, "a", options(NEVER, 1 << 30));
    node.write("f", &content(5 << 20, 9), Ack::Local).expect("written");
    until("files were looked at", || node.mesh.status().cared.bytes_here == 5 << 20);
    let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (of, cancel) = (told.clone(), macula_core::Cancel::new());
    let task = Task::new(cancel.clone(), move |progress| of.lock().push(progress));
    let scrubbed = wait(|reply| node.mesh.scrub(Duration::ZERO, task.clone(), reply)).expect("scrubs");
    assert_eq!((scrubbed.files, scrubbed.bytes), (1, 5 << 20));
    let told = told.lock().clone();
    assert!(told.len() >= 5 && told.windows(2).all(|two| two[0].bytes_done <= two[1].bytes_done), "{told:?}");
    assert!(told.iter().all(|progress| progress.bytes_total == 5 << 20));
    cancel.cancel();
    let given_up = wait(|reply| node.mesh.scrub(Duration::ZERO, task, reply));
    assert_eq!(given_up.expect_err("cancelled").kind(), Kind::Cancelled);
    assert!(node.mesh.stat(&name("f")).is_ok());
}
