//! What those hear who listen: each thing once, and how much they missed.

use crate::common::{all_meet, cluster, name, settled, until, Network, Node};
use macula_core::{AppName, RelPath};
use macula_mesh::{Ack, Event, Listening, Options, What, Wish, BLOCK_LEN, UNREAD_MAX};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

const ALL: [bool; 5] = [true; 5];

/// One who listens, what it heard, and how often it was woken.
struct Ear {
    listening: Listening,
    woken: Arc<AtomicUsize>,
    heard: Vec<Event>,
}

impl Ear {
    fn of(node: &Node, prefix: Option<&str>, kinds: [bool; 5]) -> Self {
        let woken = Arc::new(AtomicUsize::new(0));
        let prefix = prefix.map(|prefix| RelPath::new(prefix).expect("a path"));
        let wish = Wish { app: AppName::new("app").expect("a name"), prefix, kinds };
        let of = woken.clone();
        let wake = move || {
            of.fetch_add(1, Ordering::SeqCst);
        };
        Self { listening: node.mesh.listen(wish, wake), woken, heard: Vec::new() }
    }

    /// All that there is now.
    fn hear(&mut self) -> &[Event] {
        loop {
            let told = self.listening.next(7);
            assert_eq!(told.missed, 0);
            self.heard.extend(told.events);
            if !told.more {
                return &self.heard;
            }
        }
    }

    fn of_path(&mut self, path: &str) -> Vec<What> {
        self.hear().iter().filter(|event| event.path.to_string() == path).map(|event| event.what).collect()
    }
}

#[test]
fn changes_and_deletions_from_elsewhere_are_told_once() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let (mut a, mut b) = (Ear::of(&nodes[0], None, ALL), Ear::of(&nodes[1], None, ALL));
    let mut below = Ear::of(&nodes[1], Some("dir"), [false, true, false, false, false]);
    let long = vec![7; 3 * BLOCK_LEN + 1];
    for (path, bytes) in [("short", &b"short"[..]), ("dir/long", &long), ("dirt", b"")] {
        nodes[0].write(path, bytes, Ack::All).expect("written");
    }
    settled(&nodes);
    for path in ["short", "dir/long", "dirt"] {
        let stat = nodes[1].mesh.stat(&name(path)).expect("known");
        let changed = What::Changed { version: stat.version.dot, content: stat.content, is_here: true };
        until(path, || b.of_path(path) == [changed]);
    }
    let gone = nodes[0].delete("dir/long", Ack::All).expect("deleted").dot;
    settled(&nodes);
    until("it is told", || b.of_path("dir/long").last() == Some(&What::Deleted { version: gone }));
    // by the other one
    nodes[1].write("short", b"again", Ack::All).expect("written");
    settled(&nodes);
    until("it is told", || a.of_path("short").len() == 1);
    assert_eq!(b.hear().len(), 4);
    assert_eq!(a.hear().len(), 1);
    assert!(matches!(below.of_path("dir/long")[..], [What::Changed { is_here: true, .. }]));
    assert_eq!(below.hear().len(), 1);
}

#[test]
fn who_has_no_copy_hears_of_it_too() {
    let net = Arc::new(Network::default());
    let options = Options { copies: 0, ..Options::default() };
    let nodes = ["a", "b"].map(|name| Node::open(&net, name, options.clone()));
    all_meet(&nodes);
    let mut b = Ear::of(&nodes[1], None, ALL);
    let written = nodes[0].write("f", b"1", Ack::Local).expect("written");
    let content = nodes[0].content("f").expect("known");
    let changed = What::Changed { version: written.dot, content, is_here: false };
    until("it is told", || b.of_path("f") == [changed]);
    nodes[0].write("other", b"1", Ack::Local).expect("written");
    until("the other is told", || b.of_path("other").len() == 1);
    assert_eq!(b.of_path("f"), [changed]);
}

#[test]
fn each_member_hears_of_a_conflict_once() {
    let (net, nodes) = cluster(&["a", "b"]);
    let mut ears = [Ear::of(&nodes[0], None, ALL), Ear::of(&nodes[1], None, ALL)];
    net.cut("a", "b");
    let first = nodes[0].write("f", b"by a", Ack::Local).expect("written").dot;
    let second = nodes[1].write("f", b"by b", Ack::Local).expect("written").dot;
    net.heal();
    settled(&nodes);
    let (loser, winner) = (first.min(second), first.max(second));
    for ear in &mut ears {
        until("it is told", || ear.of_path("f").contains(&What::Conflict { winner, loser }));
        let conflicts = |ear: &mut Ear| ear.of_path("f").iter().filter(|what| is_conflict(what)).count();
        assert_eq!(conflicts(ear), 1);
    }
    for node in &nodes {
        let page = node.mesh.conflicts(&name("f").app, None, None, 10).expect("lists");
        assert_eq!((page.paths, page.more), (vec![name("f").path], false));
    }
    // above it another one: no other conflict
    nodes[0].write("f", b"next", Ack::All).expect("written");
    settled(&nodes);
    for ear in &mut ears {
        assert_eq!(ear.of_path("f").iter().filter(|what| is_conflict(what)).count(), 1);
    }
}

fn is_conflict(what: &What) -> bool {
    matches!(what, What::Conflict { .. })
}

#[test]
fn rot_is_told_when_it_is_found_and_when_it_is_mended() {
    let (net, nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"right", Ack::All).expect("written");
    settled(&nodes);
    let mut ear = Ear::of(&nodes[1], None, ALL);
    nodes[1].rot("f");
    assert_eq!(nodes[1].scrub().expect("scrubs").mended, 1);
    assert_eq!(ear.of_path("f"), [What::Rotten, What::Mended]);
    net.cut("a", "b");
    until("alone", || nodes[1].mesh.status().peers.is_empty());
    nodes[1].rot("f");
    assert_eq!(nodes[1].scrub().expect("scrubs").rotten, 1);
    assert_eq!(ear.of_path("f"), [What::Rotten, What::Mended, What::Rotten]);
}

#[test]
fn who_does_not_read_is_told_how_much_it_missed_and_nobody_waits() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let deaf = Ear::of(&nodes[1], None, ALL);
    let gone = Ear::of(&nodes[1], None, ALL);
    drop(gone);
    let count = UNREAD_MAX + 50;
    for n in 0..count {
        nodes[0].write(&format!("{n:04}"), b"1", Ack::Local).expect("written");
    }
    settled(&nodes);
    assert_eq!(deaf.woken.load(Ordering::SeqCst), 1);
    let first = deaf.listening.next(UNREAD_MAX - 1);
    assert_eq!((first.events.len(), first.missed, first.more), (UNREAD_MAX - 1, 0, true));
    // what comes now is behind what was missed
    nodes[0].write("late", b"1", Ack::All).expect("written");
    settled(&nodes);
    let rest = deaf.listening.next(UNREAD_MAX);
    assert_eq!((rest.events.len(), rest.missed, rest.more), (1, 51, false));
    nodes[0].write("later", b"1", Ack::All).expect("written");
    until("it is woken again", || deaf.woken.load(Ordering::SeqCst) == 2);
    let last = deaf.listening.next(UNREAD_MAX);
    assert_eq!((last.events.len(), last.missed, last.is_over), (1, 0, false));
    // the last that one hears
    let mut nodes = nodes;
    let mesh = nodes[1].mesh.clone();
    drop(nodes.remove(1).leave());
    Arc::into_inner(mesh).expect("the last").close();
    assert_eq!(deaf.woken.load(Ordering::SeqCst), 3);
    assert!(deaf.listening.next(1).is_over);
}
