//! Members that do not give what they say they have: they are silent, have something else, or never come to an end. Others
//! are asked, callers do not wait for them, and what this one keeps of theirs is bounded.

use crate::common::{name, until, Network, Node};
use bytes::Bytes;
use macula_mesh::wire::{Answer, Pushed, Reply, Request};
use macula_mesh::{
    Ack, Card, Claim, Class, Content, ContentId, Dot, Hashing, Manifest, MeshError, Options, Record, Stamp, Version,
    BLOCK_LEN,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};

/// The first in order: who goes by the numbers asks it first.
const EVIL: u64 = 1;
/// What else is asked for at once, before the first answer is missed.
const AT_ONCE: usize = 24;

type Says = dyn Fn(&Request) -> Option<Vec<u8>> + Send + Sync;
type Answers = fn(&Request) -> Option<Vec<u8>>;

/// As one that has nothing and wants nothing.
fn polite(request: &Request) -> Vec<u8> {
    let card = || Card { replica: EVIL, name: "evil".into(), zone: String::new(), class: Class::Fast };
    let answer = match request {
        Request::Greet(_) => Answer::Greeted(card()),
        Request::Push(changes) => Answer::Took(vec![None; changes.len()]),
        Request::Compare(_) => Answer::Compared(postcard::from_bytes(&[1, 0]).expect("the same")),
        Request::Records(keys) => Answer::Records(vec![None; keys.len()]),
        _ => Answer::NotHere,
    };
    Reply::Answer(answer).encode()
}

fn join(net: &Network, says: Arc<Says>) {
    let says = move |request: &Bytes| says(&Request::decode(request).expect("a request").0);
    net.join("evil", Arc::new(says));
}

/// What an evil member tells of a file.
fn tell(node: &Node, path: &str, record: Record) -> Answer {
    let pushed = Pushed { key: name(path).key(), record, content: None };
    let (tell, told) = mpsc::channel();
    let request = Request::Push(vec![pushed]).encode().expect("encodes");
    node.mesh.serve("evil", request, move |bytes| drop(tell.send(bytes)));
    let bytes = told.recv_timeout(crate::common::SOON).expect("an answer");
    macula_mesh::wire::answer(Bytes::from(bytes)).expect("ours").expect("words")
}

/// That it has what is known of a file.
fn claim(node: &Node, path: &str) {
    let mut record = node.known(path);
    let of = record.versions().iter().map(|version| version.dot).collect();
    assert!(record.claim(EVIL, Stamp(1 << 40), of));
    tell(node, path, record);
    let dot = node.known(path).winner().expect("one").dot;
    assert!(node.known(path).holders(dot).any(|holder| holder == EVIL));
}

/// A version of its own, which it alone has.
fn made_up(content: Content) -> Record {
    let dot = Dot { stamp: Stamp(7), replica: EVIL };
    let version = Version { dot, content: Some(content), over: Vec::new(), place: None };
    let (seen, claim) = (BTreeMap::from([(EVIL, dot.stamp)]), Claim { at: dot.stamp, of: vec![dot] });
    let bytes = postcard::to_stdvec(&(vec![version], seen, BTreeMap::from([(EVIL, claim)]))).expect("encodes");
    postcard::from_bytes(&bytes).expect("decodes")
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn is_for_content(request: &Request) -> bool {
    matches!(request, Request::Manifest(..) | Request::Blocks(..) | Request::Read(..))
}

fn as_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    Some([&[0], bytes].concat())
}

fn meets_evil(nodes: &[&Node]) {
    until("they meet", || nodes.iter().all(|node| node.mesh.status().peers.contains(&"evil".into())));
}

#[test]
fn who_does_not_give_what_it_claims_is_not_asked_again_and_again() {
    let says: [(&str, Answers); 6] = [
        ("silent", |_| None),
        ("refuses", |_| Some(Reply::Answer(Answer::Refused("closed".into())).encode())),
        ("has other bytes", |_| as_bytes(&[7; 70_000])),
        ("has no end", |_| as_bytes(&vec![7; 5 << 20])),
        ("comes to no end", |_| as_bytes(&[7])),
        ("says no words", |_| Some(vec![1, 99])),
    ];
    for (what, says) in says {
        let (net, asked) = (Arc::<Network>::default(), Arc::<AtomicUsize>::default());
        let first = Node::open(&net, "a", Options::default());
        let of = asked.clone();
        let says = move |request: &Request| match is_for_content(request) {
            true => {
                of.fetch_add(1, Ordering::AcqRel);
                says(request)
            }
            false => Some(polite(request)),
        };
        join(&net, Arc::new(says));
        meets_evil(&[&first]);
        let len = |n: usize| if n.is_multiple_of(30) { 3 * BLOCK_LEN + 5 } else { 100 + n % 2 * 70_000 };
        let paths: Vec<String> = (0..150).map(|n| n.to_string()).collect();
        for (n, path) in paths.iter().enumerate() {
            first.write(path, &bytes(len(n), n as u64), Ack::Local).expect("written");
            claim(&first, path);
        }
        let third = Node::open(&net, "c", Options::default());
        until(&format!("all come, though one {what}"), || third.tree() == first.tree());
        let asked = asked.load(Ordering::Acquire);
        assert!((1..=AT_ONCE + 16).contains(&asked), "one that {what} was asked {asked} times");
        // who is silent may only be slow, who refuses may be closing
        let refused = third.mesh.status().refused;
        let members: Vec<&str> = refused.iter().map(|of| &of.member[..]).collect();
        assert_eq!(
            members,
            if ["silent", "refuses"].contains(&what) { vec![] } else { vec!["evil"] },
            "{what}: {refused:?}"
        );
    }
}

#[test]
fn who_reads_waits_once_for_one_that_is_silent() {
    let (net, asked) = (Arc::<Network>::default(), Arc::<AtomicUsize>::default());
    let alone = || Options { copies: 0, ..Options::default() };
    let (first, reader) = (Node::open(&net, "a", alone()), Node::open(&net, "c", alone()));
    let of = asked.clone();
    let says = move |request: &Request| match is_for_content(request) {
        true => {
            of.fetch_add(1, Ordering::AcqRel);
            None
        }
        false => Some(polite(request)),
    };
    join(&net, Arc::new(says));
    meets_evil(&[&first, &reader]);
    let content = bytes(5 << 20, 1);
    first.write("f", &content, Ack::Local).expect("written");
    until("it is known", || reader.mesh.stat(&name("f")).is_ok());
    claim(&reader, "f");
    assert!(reader.read("f").expect("reads") == content);
    assert_eq!(asked.load(Ordering::Acquire), 1);
    // what nobody else has cannot be had, and who asks is told so
    let lost = Content { id: ContentId::of_block(b"lost"), len: 4 };
    tell(&reader, "lost", made_up(lost));
    assert!(matches!(reader.read("lost"), Err(MeshError::Unreachable { .. })));
    assert_eq!(asked.load(Ordering::Acquire), 2);
}

/// Who lacks what it says it has is told of; who does not say so any more replaced it meanwhile.
#[test]
fn who_lacks_what_it_claims_is_refused() {
    let content = Content { id: ContentId::of_block(b"lost"), len: 4 };
    for still_claims in [true, false] {
        let (net, asked) = (Arc::<Network>::default(), Arc::<AtomicUsize>::default());
        let of = asked.clone();
        let says = move |request: &Request| match request {
            Request::Records(keys) => {
                of.fetch_add(1, Ordering::AcqRel);
                let record = still_claims.then(|| made_up(content));
                Some(Reply::Answer(Answer::Records(vec![record; keys.len()])).encode())
            }
            _ => Some(polite(request)),
        };
        let node = Node::open(&net, "a", Options::default());
        join(&net, Arc::new(says));
        meets_evil(&[&node]);
        tell(&node, "f", made_up(content));
        // tried again after three seconds
        until("it is asked twice", || asked.load(Ordering::Acquire) >= 2);
        let refused = node.mesh.status().refused;
        assert_eq!(refused.len(), usize::from(still_claims), "{refused:?}");
        assert!(refused.iter().all(|of| of.member == "evil" && of.why.contains("lacks")), "{refused:?}");
    }
}

/// What is told of a content is as long as it is told to be.
#[test]
fn manifests_that_cannot_be_are_no_contents() {
    let net = Arc::<Network>::default();
    let mut hashing = Hashing::default();
    hashing.update(&bytes(3 * BLOCK_LEN, 1));
    let real = hashing.finish();
    // as it is addressed, and not as long as it says
    let mut unfit = real.encode();
    unfit[9..17].copy_from_slice(&(10 * BLOCK_LEN as u64).to_le_bytes());
    let mut endless = real.encode();
    endless[9..17].copy_from_slice(&u64::MAX.to_le_bytes());
    let named = |bytes: &[u8]| ContentId { is_manifest: true, hash: *blake3::hash(bytes).as_bytes() };
    let contents = [
        ("fewer blocks", real.id(), 2 * BLOCK_LEN as u64, real.encode()),
        ("more blocks", real.id(), 9 * BLOCK_LEN as u64, real.encode()),
        ("shorter", real.id(), 3 * BLOCK_LEN as u64 - 1, real.encode()),
        ("one block", real.id(), 5, real.encode()),
        ("unfit", named(&unfit), 3 * BLOCK_LEN as u64, unfit.clone()),
        ("unfit too", named(&unfit), 10 * BLOCK_LEN as u64, unfit),
        ("endless", named(&endless), 3 * BLOCK_LEN as u64, endless),
        ("long", real.id(), real.len(), vec![7; 5 << 20]),
        ("none", real.id(), real.len(), Vec::new()),
    ];
    let parts: BTreeMap<Vec<u8>, Vec<u8>> =
        contents.iter().map(|(path, _, _, bytes)| (name(path).key(), bytes.clone())).collect();
    let asked = Arc::new(parking_lot::Mutex::new(BTreeSet::new()));
    let one = name("one block").key();
    let of = asked.clone();
    let says = move |request: &Request| match request {
        Request::Manifest(what, _) => {
            of.lock().insert(what.key.clone());
            as_bytes(&parts[&what.key])
        }
        Request::Blocks(what, ..) => {
            of.lock().insert(if what.key == one { one.clone() } else { b"blocks".to_vec() });
            as_bytes(b"5 its")
        }
        _ => Some(polite(request)),
    };
    let node = Node::open(&net, "a", Options::default());
    join(&net, Arc::new(says));
    meets_evil(&[&node]);
    let longest = Content { id: real.id(), len: 1 << 63 };
    assert!(matches!(tell(&node, "2^63", made_up(longest)), Answer::Refused(_)));
    for (path, id, len, _) in &contents {
        tell(&node, path, made_up(Content { id: *id, len: *len }));
    }
    until("each is asked for", || asked.lock().len() >= contents.len());
    let other = Node::open(&net, "c", Options::default());
    until("they meet", || node.mesh.status().peers.len() == 2);
    node.write("f", b"good", Ack::Others(1)).expect("another has it");
    until("it comes", || other.tree().len() == 1);
    assert_eq!(node.tree().len(), 1);
    assert!(!asked.lock().contains(&b"blocks"[..]), "of one without a manifest");
    assert_eq!(Manifest::decode(&real.encode(), &real.id()).expect("good"), real);
}

/// The longest manifests of many contents would take gigabytes.
#[test]
fn of_the_longest_manifests_two_come_at_once() {
    let net = Arc::<Network>::default();
    let open = Arc::new(parking_lot::Mutex::new((BTreeSet::new(), 0, 0)));
    let of = open.clone();
    let says = move |request: &Request| match request {
        Request::Manifest(what, from) => {
            let (mut open, part) = (of.lock(), 1 << 20);
            open.0.insert(what.key.clone());
            if from >> 20 == 128 {
                open.0.remove(&what.key);
                open.2 += 1;
            }
            open.1 = open.1.max(open.0.len());
            drop(open);
            let len = 17 + 32 * (1u64 << 40).div_ceil(BLOCK_LEN as u64);
            as_bytes(&vec![7; part.min(len - from) as usize])
        }
        _ => Some(polite(request)),
    };
    let node = Node::open(&net, "a", Options::default());
    join(&net, Arc::new(says));
    meets_evil(&[&node]);
    for path in ["1", "2", "3", "4", "5"] {
        let id = ContentId { is_manifest: true, hash: *blake3::hash(path.as_bytes()).as_bytes() };
        tell(&node, path, made_up(Content { id, len: 1 << 40 }));
    }
    until("some came, and were none", || open.lock().2 >= 3);
    assert!(open.lock().1 <= 2, "{} at once", open.lock().1);
}

/// A comparison that always finds one more; a member that hears of nothing, or greets and then says nothing.
#[test]
fn nobody_waits_for_one_with_whom_nothing_comes_to_an_end() {
    let endless: fn(&Request, usize) -> Option<Vec<u8>> = |request, n| match request {
        Request::Compare(_) => {
            let items = (vec![((0_u16, format!("app\0{n:08}").into_bytes()), [7_u8; 16])], true);
            let reply = [&[1, 2][..], &postcard::to_stdvec(&items).expect("encodes")].concat();
            let answer = postcard::from_bytes(&reply).expect("an answer");
            Some(Reply::Answer(Answer::Compared(answer)).encode())
        }
        _ => Some(polite(request)),
    };
    let deaf: fn(&Request, usize) -> Option<Vec<u8>> = |request, _| match request {
        Request::Push(_) => None,
        _ => Some(polite(request)),
    };
    let mute: fn(&Request, usize) -> Option<Vec<u8>> = |request, _| match request {
        Request::Greet(_) => Some(polite(request)),
        _ => None,
    };
    for (says, times) in [(endless, 300), (deaf, 3), (mute, 2)] {
        let (net, asked) = (Arc::<Network>::default(), Arc::<AtomicUsize>::default());
        let nodes = [Node::open(&net, "a", Options::default()), Node::open(&net, "c", Options::default())];
        let of = asked.clone();
        let counted = move |request: &Request| says(request, of.fetch_add(1, Ordering::AcqRel));
        join(&net, Arc::new(counted));
        meets_evil(&[&nodes[0]]);
        let mut n = 0;
        until("it goes on and on", || {
            let content = bytes(if n % 10 == 0 { BLOCK_LEN + 1 } else { 100 }, n);
            let writer = &nodes[n as usize % 2];
            let written = writer.write(&format!("{}", n % 20), &content, Ack::Others(1)).expect("another has it");
            assert!(written.replicas > 0);
            n += 1;
            n > 40 && asked.load(Ordering::Acquire) > times
        });
        until("it comes", || nodes[0].tree() == nodes[1].tree());
    }
}
