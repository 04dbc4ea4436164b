//! Members that say what cannot be, or what is not so: it is refused, others are not kept from their work by it, nothing
//! is written that nobody wrote, and nobody panics. Blocks that are not what they should be: also in `care.rs`.
//!
//! `MACULA_SEED` runs a seed again; `MACULA_TORTURE` runs more of them.

use crate::common::{all_meet, cluster, cluster_with, comparing, name, settled, until, wait, Network, Node};
use bytes::Bytes;
use fastrand::Rng;
use macula_core::{AppName, RelPath};
use macula_mesh::wire::{answer, Answer, Of, Pushed, Request};
use macula_mesh::{
    Ack, Card, Claim, Class, Content, ContentId, Dot, Name, Options, Record, ReplicaId, Stamp, Version, BLOCK_LEN,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Once};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Panics on threads of a mesh are counted: what runs there ends as an error for who waits.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.contains("macula-mesh")) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(panic);
        }));
    });
}

fn no_panic() {
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "a thread panicked");
}

fn dot(stamp: u64, replica: ReplicaId) -> Dot {
    Dot { stamp: Stamp(stamp), replica }
}

fn version(dot: Dot, content: &[u8]) -> Version {
    let content = Content { id: ContentId::of_block(content), len: content.len() as u64 };
    Version { dot, content: Some(content), over: Vec::new(), place: None }
}

/// As it may come from anybody: whether it can be is not asked here.
fn record(versions: Vec<Version>, seen: &[(ReplicaId, u64)], claims: Vec<(ReplicaId, Claim)>) -> Record {
    let seen: BTreeMap<ReplicaId, Stamp> = seen.iter().map(|(of, stamp)| (*of, Stamp(*stamp))).collect();
    let claims: BTreeMap<ReplicaId, Claim> = claims.into_iter().collect();
    let bytes = postcard::to_stdvec(&(versions, seen, claims)).expect("encodes");
    postcard::from_bytes(&bytes).expect("decodes")
}

fn ask_bytes(node: &Node, request: Bytes) -> Vec<u8> {
    let (answer, answered) = mpsc::channel();
    node.mesh.serve("evil", request, move |bytes| drop(answer.send(bytes)));
    answered.recv_timeout(crate::common::SOON).expect("an answer")
}

fn ask(node: &Node, request: &Request) -> Answer {
    let came = ask_bytes(node, request.encode().expect("encodes"));
    answer(Bytes::from(came)).expect("an answer of ours").unwrap_or(Answer::NotHere)
}

fn push(node: &Node, key: Vec<u8>, record: Record, content: Option<&[u8]>) -> Answer {
    let content = content.map(Bytes::copy_from_slice);
    ask(node, &Request::Push(vec![Pushed { key, record, content }]))
}

fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused(_))
}

/// A stamp that was given to somebody here now.
fn now(node: &Node) -> u64 {
    node.write("now", b"now", Ack::Local).expect("written").dot.stamp.0
}

#[test]
fn nobody_tells_a_replica_what_it_stamped_itself() {
    let (_net, nodes) = cluster(&["a", "b"]);
    let own = nodes[0].mesh.status().replica;
    nodes[0].write("f", b"first", Ack::All).expect("written");
    let lies = [
        record(Vec::new(), &[(own, u64::MAX)], Vec::new()),
        record(Vec::new(), &[], vec![(own, Claim { at: Stamp(u64::MAX), of: Vec::new() })]),
        record(vec![version(dot(u64::MAX - 1, own), b"planted")], &[(own, u64::MAX - 1)], Vec::new()),
    ];
    for lie in lies {
        let _ = push(&nodes[0], name("f").key(), lie, Some(b"planted"));
    }
    // what it writes now would be taken for seen, and dropped, by all
    let written = nodes[0].write("f", b"second", Ack::All).expect("written");
    assert_eq!(written.replicas, 1);
    settled(&nodes);
    for node in &nodes {
        assert_eq!(node.read("f").expect("reads"), b"second");
        assert_eq!(node.mesh.versions(&name("f")).expect("known").len(), 1);
    }
}

#[test]
fn a_clock_at_the_end_of_time_takes_nobody_along() {
    let (_net, nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"mine", Ack::All).expect("written");
    let before = now(&nodes[0]);
    for stamp in [u64::MAX, u64::MAX >> 1, before + (1 << 50)] {
        let lie = record(vec![version(dot(stamp, 7), b"late")], &[(7, stamp)], Vec::new());
        push(&nodes[0], name("f").key(), lie, Some(b"late"));
    }
    let after = now(&nodes[0]);
    assert!(after > before && after - before < 700_000 << 16, "{}", after - before);
    // what was there is a version still, and who chooses ends it
    settled(&nodes);
    let versions = nodes[1].mesh.versions(&name("f")).expect("known");
    let mine = versions.iter().find(|version| version.dot.replica != 7).expect("it is kept").dot;
    assert_eq!(nodes[1].read_version("f", Some(mine)).expect("readable"), b"mine");
    nodes[1].mesh.resolve(&name("f"), mine).expect("resolved");
    settled(&nodes);
    assert_eq!(nodes[0].read("f").expect("reads"), b"mine");
}

/// Two records that can be, and together cannot: nobody takes one of more versions, and of all that goes with it.
#[test]
fn what_two_members_say_together_keeps_nobody_from_the_rest() {
    let (net, nodes) = cluster(&["a", "b"]);
    for replica in [7, 8] {
        let versions = (1..900).map(|stamp| version(dot(stamp * 10, replica), &stamp.to_le_bytes())).collect();
        push(&nodes[0], name("f").key(), record(versions, &[(replica, 9_000)], Vec::new()), None);
    }
    nodes[0].write("g", b"of a", Ack::Others(1)).expect("the other has it");
    net.cut("a", "b");
    until("they part", || nodes.iter().all(|node| node.mesh.status().peers.is_empty()));
    // and many that are too long for one message
    for n in 0..300 {
        let versions = (1..500).map(|stamp| version(dot(stamp * 10, 7), &stamp.to_le_bytes())).collect();
        push(&nodes[0], name(&format!("many/{n}")).key(), record(versions, &[(7, 5_000)], Vec::new()), None);
    }
    nodes[0].write("h", b"of a", Ack::Local).expect("written");
    net.heal();
    all_meet(&nodes);
    until("it comes", || nodes[1].read("h").is_ok());
    nodes[1].write("i", b"of b", Ack::Others(1)).expect("the other has it");
    until("all of them are known", || (0..300).all(|n| nodes[1].mesh.versions(&name(&format!("many/{n}"))).is_ok()));
}

/// An app that another process has, or that is damaged, keeps no other from being replicated.
#[test]
fn an_app_that_cannot_be_opened_keeps_no_other_from_it() {
    let (net, nodes) = cluster_with(&["a", "b"], &comparing());
    let of_locked = |path: &str| Name { app: AppName::new("locked").expect("a name"), path: name(path).path };
    nodes[0].mesh.write(&of_locked("x"), b"1").expect("written");
    until("it comes", || nodes[1].mesh.stat(&of_locked("x")).is_ok_and(|stat| stat.is_here));
    net.cut("a", "b");
    until("they part", || nodes.iter().all(|node| node.mesh.status().peers.is_empty()));
    let write = |node: &Node| node.mesh.write(&of_locked(&node.name), b"2").expect("written");
    let dots: Vec<Dot> = nodes.iter().map(write).collect();
    nodes.iter().for_each(|node| node.is_locked.store(true, Ordering::Release));
    net.heal();
    all_meet(&nodes);
    for node in &nodes {
        node.write(&format!("of {}", node.name), b"1", Ack::Others(1)).expect("the other has it");
    }
    nodes.iter().for_each(|node| node.is_locked.store(false, Ordering::Release));
    for (node, dot) in nodes.iter().zip(dots) {
        let at = of_locked(&node.name);
        wait(|reply| node.mesh.acknowledged(&at, dot, Some(Ack::Others(1)), crate::common::SOON, reply))
            .expect("the other has it");
    }
}

#[test]
fn what_is_no_name_and_what_is_too_much_is_refused() {
    let (_net, nodes) = cluster(&["a"]);
    let node = &nodes[0];
    let good = || record(vec![version(dot(1, 7), b"x")], &[(7, 1)], Vec::new());
    let long = |len: usize| [b"app\0".to_vec(), vec![b'x'; len]].concat();
    let keys: [&[u8]; 14] = [
        b"",
        b"app",
        b"app\0",
        b"\0a",
        b"app\0../x",
        b"app\0/etc/passwd",
        b"app\0a/../../x",
        b"app\0a\0b",
        b"app\0a//b",
        b"app\0.",
        b"../other\0x",
        b"a/b\0x",
        &long(256),
        &[b"app\0".to_vec(), b"a/".repeat(2_048), b"bb".to_vec()].concat(),
    ];
    for key in keys {
        assert!(is_refused(&push(node, key.to_vec(), good(), Some(b"x"))), "{:?}", String::from_utf8_lossy(key));
        let of = Of { key: key.to_vec(), id: ContentId::of_block(b"x") };
        assert!(is_refused(&ask(node, &Request::Blocks(of, 0, 1))));
        let Answer::Records(known) = ask(node, &Request::Records(vec![key.to_vec()])) else { panic!("no records") };
        assert_eq!(known, [None]);
    }
    let of = || Of { key: name("f").key(), id: ContentId::of_block(b"x") };
    for first in [1, u64::MAX, u64::MAX / BLOCK_LEN as u64 + 1] {
        assert!(matches!(ask(node, &Request::Blocks(of(), first, u32::MAX)), Answer::NotHere));
        assert!(matches!(ask(node, &Request::Manifest(of(), first)), Answer::NotHere));
    }
    let card = |name: &str, replica| Card { replica, name: name.into(), zone: String::new(), class: Class::Fast };
    for card in [card("a", 7), card("other", 7), card("evil", node.mesh.status().replica)] {
        assert!(is_refused(&ask(node, &Request::Greet(card))));
    }
    // a request that unfolds to much more than it takes
    for many in [vec![1, 1, 0xff, 0xff, 0x3f], vec![1, 3, 0xff, 0xff, 0x3f]] {
        let long = [many, vec![0; 1 << 20]].concat();
        let came = answer(Bytes::from(ask_bytes(node, Bytes::from(long)))).expect("ours").expect("words");
        assert!(is_refused(&came));
    }
    assert!(is_refused(&answer(Bytes::from(ask_bytes(node, vec![1; 3 << 20].into()))).expect("ours").expect("words")));
    assert!(node.tree().is_empty());
    assert!(node.mesh.list(&name("x").app, None, None, 10).expect("lists").paths.is_empty());
}

/// As it greets when it is asked, with a number that is not its own.
fn greets_with(name: &str, replica: ReplicaId) -> Vec<u8> {
    let card = Card { replica, name: name.into(), zone: String::new(), class: Class::Fast };
    macula_mesh::wire::Reply::Answer(Answer::Greeted(card)).encode()
}

/// Whoever is taken for another is taken for one that has its files: nobody would make a copy more.
#[test]
fn nobody_takes_the_number_of_another_member() {
    let (net, nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"of both", Ack::Others(1)).expect("the other has it");
    let number = nodes[1].mesh.status().replica;
    let asked = Arc::new(AtomicUsize::new(0));
    let of = asked.clone();
    *net.lie.lock() = Some(Box::new(move |from, request, bytes| match (from, request.get(1)) {
        ("evil", Some(0)) => {
            of.fetch_add(1, Ordering::AcqRel);
            greets_with("evil", number)
        }
        _ => bytes,
    }));
    let evil = Node::open(&net, "evil", Options::default());
    let card = Card { replica: number, name: "evil".into(), zone: String::new(), class: Class::Fast };
    assert!(is_refused(&ask(&nodes[0], &Request::Greet(card))));
    until("it tries again and again", || asked.load(Ordering::Acquire) > 4);
    for (node, other) in [(&nodes[0], "b"), (&nodes[1], "a")] {
        let status = node.mesh.status();
        assert_eq!(status.peers, [other]);
        // of b by its name; b's own knows itself
        let [refused] = &status.refused[..] else { panic!("{:?}", status.refused) };
        assert!(refused.member == "evil" && refused.why.contains("greets"), "{refused:?}");
    }
    nodes[0].write("g", b"of both", Ack::Others(1)).expect("the other has it");
    // who says who it is is heard again
    *net.lie.lock() = None;
    let nodes = [nodes, vec![evil]].concat_nodes();
    all_meet(&nodes);
    settled(&nodes);
}

/// A machine that was made anew comes under its name with another number, and one that was renamed with its own.
#[test]
fn a_number_goes_with_its_disk_and_a_name_with_its_machine() {
    let (net, mut nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"of both", Ack::Others(1)).expect("the other has it");
    let number = nodes[1].mesh.status().replica;
    drop(nodes.pop().expect("b").leave());
    nodes.push(Node::open(&net, "b", Options::default()));
    all_meet(&nodes);
    settled(&nodes);
    let anew = nodes[1].mesh.status().replica;
    assert_ne!(anew, number);
    let (disk, _dir) = nodes.pop().expect("b").leave();
    let renamed = Node::on(&net, "c", disk, Options::default());
    assert_eq!(renamed.mesh.status().replica, anew);
    // for as long as the former is a member it is another's
    let greeted = Arc::new(AtomicUsize::new(0));
    let of = greeted.clone();
    *net.lie.lock() = Some(Box::new(move |from, request, bytes| {
        of.fetch_add(usize::from(from == "c" && request.get(1) == Some(&0)), Ordering::AcqRel);
        bytes
    }));
    until("it greets again and again", || greeted.load(Ordering::Acquire) > 2);
    assert!(nodes[0].mesh.status().peers.is_empty());
    net.set_member("b", false);
    nodes.push(renamed);
    all_meet(&nodes);
    settled(&nodes);
}

/// A content that is longer or shorter than its version says is none.
#[test]
fn a_content_of_another_length_is_not_put_in_place() {
    let (_net, nodes) = cluster(&["a"]);
    for (path, len) in [("longer", 3), ("shorter", 30), ("none", 0)] {
        let mut lie = version(dot(1, 7), b"0123456789");
        lie.content.iter_mut().for_each(|content| content.len = len);
        push(&nodes[0], name(path).key(), record(vec![lie], &[(7, 1)], Vec::new()), Some(b"0123456789"));
    }
    assert!(nodes[0].tree().is_empty(), "{:?}", nodes[0].tree());
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(runs: u64, torture: u64) -> std::ops::Range<u64> {
    let first = setting("MACULA_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let runs = if std::env::var_os("MACULA_TORTURE").is_some() { torture } else { runs };
    eprintln!("MACULA_SEED={first}");
    first..first + if setting("MACULA_SEED").is_some() { 1 } else { runs }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u32(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 => bytes.extend((0..rng.usize(..100)).map(|_| rng.u8(..))),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)],
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u32(..8),
            _ => {}
        }
    }
}

#[test]
fn any_bytes_are_answered_and_change_nothing() {
    count_panics();
    let (_net, nodes) = cluster(&["a"]);
    let node = &nodes[0];
    let content: Vec<u8> = (0..2 * BLOCK_LEN + 5).map(|n| (n % 251) as u8).collect();
    node.write("short", b"short", Ack::Local).expect("written");
    node.write("long", &content, Ack::Local).expect("written");
    let known: BTreeSet<Vec<u8>> = [b"short".to_vec(), content, b"pushed".to_vec()].into();
    let id = |path: &str| node.content(path).expect("known").id;
    let of = |path: &str| Of { key: name(path).key(), id: id(path) };
    let pushed = record(vec![version(dot(5, 7), b"pushed")], &[(7, 5)], vec![(7, Claim::default())]);
    let change = Pushed { key: name("p").key(), record: pushed, content: Some(Bytes::from_static(b"pushed")) };
    let card = Card { replica: 9, name: "evil".into(), zone: "z".into(), class: Class::Bulk };
    let whole = postcard::to_stdvec(&Request::Records(Vec::new())).expect("encodes");
    let requests: Vec<Vec<u8>> = [
        Request::Greet(card),
        Request::Push(vec![change.clone(), change]),
        Request::Records(vec![name("short").key(), name("x").key()]),
        Request::Compare(macula_mesh::ranges::Question::default()),
        Request::Manifest(of("long"), 3),
        Request::Blocks(of("long"), 1, 2),
    ]
    .iter()
    .map(|request| request.encode().expect("encodes").to_vec())
    .chain([whole])
    .collect();
    for seed in seeds(4, 400) {
        let mut rng = Rng::with_seed(seed);
        for _ in 0..1_000 {
            let mut bytes = requests[rng.usize(..requests.len())].clone();
            match rng.u32(..4) {
                0 => bytes = [1, rng.u8(..7)].into_iter().chain((0..rng.usize(..300)).map(|_| rng.u8(..))).collect(),
                _ => mutate(&mut rng, &mut bytes),
            }
            let came = ask_bytes(node, Bytes::from(bytes));
            assert!(answer(Bytes::from(came)).is_ok(), "seed={seed}");
        }
        for (path, content) in node.tree() {
            assert!(known.contains(&content), "seed={seed} {path}");
        }
        assert_eq!(node.read("short").expect("here"), b"short", "seed={seed}");
        no_panic();
    }
}

/// A member whose every answer may be another: what it says of blocks is refused, and others are asked.
#[test]
fn any_answer_of_one_keeps_nobody_from_the_others() {
    count_panics();
    for seed in seeds(3, 100) {
        let net = Arc::new(Network::default());
        let nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, Options::default())).collect();
        all_meet(&nodes);
        let rng = parking_lot::Mutex::new(Rng::with_seed(seed));
        let contents: Vec<Vec<u8>> = [10, 70_000, 3 * BLOCK_LEN + 5, 9 * BLOCK_LEN]
            .iter()
            .map(|len| (0..*len).map(|_| rng.lock().u8(..)).collect())
            .collect();
        for (n, content) in contents.iter().enumerate() {
            nodes[0].write(&format!("{n}"), content, Ack::All).expect("written");
        }
        settled(&nodes);
        // of contents a says anything; of what it knows, nothing that can be
        *net.lie.lock() = Some(Box::new(move |from, request, mut bytes| {
            let mut rng = rng.lock();
            let is_of_content = matches!(request.get(1), Some(4 | 5));
            match (from, is_of_content, rng.u32(..8)) {
                ("a", true, 0) => bytes.clear(),
                ("a", true, 1) => bytes.extend(vec![7; 5 << 20]),
                ("a", true, 2) => bytes = vec![0],
                ("a", true, 3) => bytes = vec![1, 4],
                ("a", true, _) => mutate(&mut rng, &mut bytes),
                ("a", false, 0) => bytes.truncate(1),
                _ => {}
            }
            bytes
        }));
        let third = Node::open(&net, "c", Options::default());
        for (n, content) in contents.iter().enumerate() {
            until(&format!("{n} comes from b, seed={seed}"), || third.tree().get(&format!("{n}")) == Some(content));
        }
        *net.lie.lock() = None;
        let nodes = [nodes, vec![third]].concat_nodes();
        all_meet(&nodes);
        settled(&nodes);
        let path = RelPath::new("0").expect("a path");
        assert_eq!(nodes[2].files.read(&path, 1 << 20).expect("reads"), contents[0], "seed={seed}");
        no_panic();
    }
}

trait Nodes {
    fn concat_nodes(self) -> Vec<Node>;
}

impl<const N: usize> Nodes for [Vec<Node>; N] {
    fn concat_nodes(self) -> Vec<Node> {
        self.into_iter().flatten().collect()
    }
}
