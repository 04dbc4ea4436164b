//! Two sets compared by messages as they go over the wire, beside a naive comparison: random pairs of sets, sets that
//! change meanwhile, what a million rows cost, and peers that lie.
use macula_mesh::ranges::{
    answer, Answer, Asker, Bounds, Difference, Digest, Fingerprint, Limits, Question, Rows, Step, Tree, Unruly, Visit,
    KEY_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use serde::{de::DeserializeOwned, Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

type Model = BTreeMap<Vec<u8>, Digest>;
/// What both sides have under keys in which they differ.
type Found = BTreeMap<Vec<u8>, (Option<Digest>, Option<Digest>)>;

/// Full counts with MACULA_TORTURE=1, a slice otherwise.
fn count(slice: u64, full: u64) -> u64 {
    match std::env::var("MACULA_TORTURE").is_ok_and(|v| v == "1") {
        true => full,
        false => slice,
    }
}

/// The seed of this run, printed, from MACULA_SEED when given.
fn seed() -> u64 {
    let seed = std::env::var("MACULA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MACULA_SEED={seed}");
    seed
}

struct Stored {
    rows: Model,
    scanned: Cell<u64>,
}

impl Rows for Stored {
    type Error = Unruly;

    fn scan(&self, (from, to): Bounds<'_>, visit: &mut Visit<'_>) -> Result<(), Unruly> {
        assert!(to.is_none_or(|to| from < to), "reversed: {from:?} {to:?}");
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, digest) in self.rows.range::<[u8], _>((Bound::Included(from), to)) {
            self.scanned.set(self.scanned.get() + 1);
            if visit(key, *digest) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

/// A set as a member has it.
struct Set {
    stored: Stored,
    tree: Tree,
}

impl Set {
    fn new(rows: Model) -> Self {
        let stored = Stored { rows, scanned: Cell::new(0) };
        let tree = Tree::build(&stored).expect("reads");
        stored.scanned.set(0);
        Self { stored, tree }
    }

    fn change(&mut self, key: Vec<u8>, new: Option<Digest>) {
        let old = match new {
            Some(new) => self.stored.rows.insert(key.clone(), new),
            None => self.stored.rows.remove(&key),
        };
        if self.tree.change(&key, old, new) {
            self.tree.split(&self.stored, &key).expect("reads");
        }
    }

    fn answer(&self, question: &Question, limits: &Limits) -> Result<Answer, Unruly> {
        answer(&self.stored, &self.tree, question, limits)
    }
}

fn digest(key: &[u8], version: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(&version.to_le_bytes());
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// Over the wire.
fn sent<T: Serialize + DeserializeOwned>(message: &T, bytes: &mut usize) -> T {
    let encoded = postcard::to_stdvec(message).expect("encodes");
    assert!(encoded.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", encoded.len());
    *bytes += encoded.len();
    postcard::from_bytes(&encoded).expect("decodes")
}

#[derive(Debug, Default)]
struct Compared {
    found: Found,
    rounds: u32,
    asked_bytes: usize,
    answered_bytes: usize,
}

impl Compared {
    fn take(&mut self, differences: Vec<Difference>) {
        assert!(!differences.is_empty());
        for Difference { key, ours, theirs } in differences {
            assert_ne!(ours, theirs);
            assert!(self.found.insert(key, (ours, theirs)).is_none(), "told twice");
        }
    }
}

/// Calls `meanwhile` while a question is under way.
fn compared_while(
    (ours, theirs): (&mut Set, &mut Set),
    limits: Limits,
    mut meanwhile: impl FnMut(&mut Set, &mut Set),
) -> Compared {
    let (mut asker, mut compared) = (Asker::new(limits), Compared::default());
    loop {
        match asker.step(&ours.stored, &ours.tree).expect("an orderly peer") {
            Step::Done => return compared,
            Step::Found(differences) => compared.take(differences),
            Step::Ask(question) => {
                let question = sent(&question, &mut compared.asked_bytes);
                meanwhile(ours, theirs);
                let answer = theirs.answer(&question, &limits).expect("an orderly peer");
                asker.answered(sent(&answer, &mut compared.answered_bytes)).expect("an orderly peer");
                compared.rounds += 1;
            }
        }
    }
}

fn compared(ours: &mut Set, theirs: &mut Set, limits: Limits) -> Compared {
    compared_while((ours, theirs), limits, |_, _| ())
}

fn naive(ours: &Model, theirs: &Model) -> Found {
    let keys: BTreeSet<&Vec<u8>> = ours.keys().chain(theirs.keys()).collect();
    let both = keys.into_iter().map(|key| (key.clone(), (ours.get(key).copied(), theirs.get(key).copied())));
    both.filter(|(_, (ours, theirs))| ours != theirs).collect()
}

/// Random sets: names of files, binary keys, keys that are prefixes of others, long keys that begin alike.
struct Given<'rng> {
    rng: &'rng mut fastrand::Rng,
    kind: u8,
}

impl Given<'_> {
    fn key(&mut self) -> Vec<u8> {
        let rng = &mut *self.rng;
        match self.kind {
            0 => format!("app/dir{}/file{:06}.txt", rng.u8(0..20), rng.u32(0..100_000)).into_bytes(),
            1 => (0..rng.usize(0..9)).map(|_| rng.u8(..)).collect(),
            2 => (0..rng.usize(0..14)).map(|_| [0, 1, 255][rng.usize(0..3)]).collect(),
            _ => {
                let mut key = vec![b'x'; rng.usize(KEY_BYTES_MAX - 400..=KEY_BYTES_MAX)];
                let at = rng.usize(0..key.len());
                key[at] = rng.u8(..);
                key
            }
        }
    }

    fn row(&mut self) -> (Vec<u8>, Digest) {
        let (key, version) = (self.key(), self.rng.u64(..));
        (key.clone(), digest(&key, version))
    }

    fn model(&mut self) -> Model {
        let len_max = [2, 40, 300, if self.kind == 3 { 300 } else { 3000 }][self.rng.usize(0..4)];
        (0..self.rng.usize(0..len_max)).map(|_| self.row()).collect()
    }

    /// Another set with some changes.
    fn changed(&mut self, model: &Model) -> Model {
        let mut model = model.clone();
        let changes_max = if self.rng.bool() { model.len() } else { 3 };
        for _ in 0..self.rng.usize(0..=changes_max) {
            let (new, digest) = self.row();
            let old = model.range(new.clone()..).next().map(|(old, _)| old.clone());
            match (self.rng.u8(0..3), old) {
                (0, Some(old)) => drop(model.remove(&old)),
                (1, Some(old)) => drop(model.insert(old, digest)),
                _ => drop(model.insert(new, digest)),
            }
        }
        model
    }

    fn pair(&mut self) -> (Model, Model) {
        let model = self.model();
        match self.rng.u8(0..10) {
            0 => (model.clone(), model),
            1 => (model, Model::new()),
            2 => (model, self.model()),
            _ => (model.clone(), self.changed(&model)),
        }
    }

    fn limits(&mut self) -> Limits {
        let bytes = [0, 300, 5_000, usize::MAX][self.rng.usize(0..4)];
        let rows = [0, 100, u64::MAX][self.rng.usize(0..3)];
        Limits { bytes, rows, rounds: u32::MAX }
    }

    fn bounds(&mut self) -> (Vec<u8>, Option<Vec<u8>>) {
        let (from, to) = (self.key(), self.key());
        (if self.rng.bool() { from } else { vec![] }, self.rng.bool().then_some(to))
    }
}

#[test]
fn what_differs_is_found() {
    let seed = seed();
    for life in 0..count(2000, 100_000) {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(life));
        let kind = rng.u8(0..16) / 5;
        let mut given = Given { rng: &mut rng, kind };
        let ((ours, theirs), limits) = (given.pair(), given.limits());
        let (mut one, mut other) = (Set::new(ours.clone()), Set::new(theirs.clone()));
        let (there, back) = (compared(&mut one, &mut other, limits), compared(&mut other, &mut one, limits));
        let context = format!("seed={seed} life={life} {limits:?}");
        assert!(there.found == naive(&ours, &theirs), "{context}");
        assert!(back.found == naive(&theirs, &ours), "{context}");
        if ours == theirs {
            assert_eq!((there.rounds, back.rounds), (1, 1), "{context}");
            assert!(there.asked_bytes + there.answered_bytes < 40, "{context}: {there:?}");
        }
    }
}

/// Keys that neither side changes are found as if nothing did.
#[test]
fn what_does_not_change_is_found_while_the_rest_does() {
    let seed = seed();
    for life in 0..count(200, 5_000) {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(life));
        let kind = rng.u8(0..3);
        let mut given = Given { rng: &mut rng, kind };
        let ((ours, theirs), limits) = (given.pair(), given.limits());
        let (mut one, mut other) = (Set::new(ours.clone()), Set::new(theirs.clone()));
        let mut changed = BTreeSet::new();
        let found = compared_while((&mut one, &mut other), limits, |one, other| {
            for set in [one, other] {
                for _ in 0..given.rng.usize(0..60) {
                    let near = set.stored.rows.range(given.key()..).next().map(|(key, _)| key.clone());
                    let key = near.filter(|_| given.rng.bool()).unwrap_or_else(|| given.key());
                    let new = given.rng.bool().then(|| digest(&key, given.rng.u64(0..3)));
                    changed.insert(key.clone());
                    set.change(key, new);
                }
            }
        });
        let still = |found: Found| -> Found { found.into_iter().filter(|(key, _)| !changed.contains(key)).collect() };
        assert!(still(found.found) == still(naive(&ours, &theirs)), "seed={seed} life={life} {limits:?}");
    }
}

fn same_fingerprints(set: &Set, given: &mut Given<'_>) {
    let built = Tree::build(&set.stored).expect("reads");
    for round in 0..20 {
        let (from, to) = if round == 0 { (vec![], None) } else { given.bounds() };
        let bounds = (&from[..], to.as_deref());
        let mut expected = Fingerprint::default();
        let inside = set.stored.rows.iter().filter(|(key, _)| **key >= from && to.as_ref().is_none_or(|to| *key < to));
        inside.for_each(|(_, digest)| expected.add(digest));
        for tree in [&set.tree, &built] {
            assert_eq!(tree.fingerprint(&set.stored, bounds).expect("reads"), expected, "{bounds:?}");
        }
    }
}

#[test]
fn a_tree_that_changed_is_as_one_that_was_built() {
    let seed = seed();
    for life in 0..count(20, 1_000) {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(life));
        let kind = rng.u8(0..3);
        let mut given = Given { rng: &mut rng, kind };
        let mut set = Set::new(given.model());
        // now it grows, now it shrinks
        for phase in 0..8 {
            for _ in 0..given.rng.usize(0..2_000) {
                let near = set.stored.rows.range(given.key()..).next().map(|(key, _)| key.clone());
                let (key, version) =
                    (near.filter(|_| phase % 2 == 1).unwrap_or_else(|| given.key()), given.rng.u64(..));
                let is_put = given.rng.u8(0..10) < if phase % 2 == 0 { 9 } else { 1 };
                set.change(key.clone(), is_put.then(|| digest(&key, version)));
            }
            same_fingerprints(&set, &mut given);
        }
    }
}

fn leaves(tree: &Tree) -> usize {
    format!("{tree:?}").matches("count").count()
}

/// Neither growth nor shrinking leaves leaves of other sizes than a new tree has, about; and splits are few.
#[test]
fn leaves_stay_few_and_small() {
    let mut set = Set::new(Model::new());
    let key = |n: u64| n.to_be_bytes().to_vec();
    for n in 0..50_000 {
        set.change(key(n), Some(digest(&key(n), 0)));
        if n >= 5_000 {
            set.change(key(n - 5_000), None);
        }
    }
    assert!((15..100).contains(&leaves(&set.tree)), "{} leaves", leaves(&set.tree));
    assert!(set.stored.scanned.get() < 50_000 * 4, "{} rows scanned by splits", set.stored.scanned.get());
    for n in 45_000..50_000 {
        set.change(key(n), None);
    }
    assert_eq!(leaves(&set.tree), 1);
    // also beside a large leaf, which takes no rows
    for n in (0..600).map(|n| n * 1000).chain(1..=200) {
        set.change(key(n), Some(digest(&key(n), 0)));
    }
    for n in (64..600).rev() {
        set.change(key(n * 1000), None);
    }
    assert_eq!(leaves(&set.tree), 1);
}

fn file(n: usize) -> Vec<u8> {
    format!("app/dir{}/file{n:06}.txt", n / 1000).into_bytes()
}

fn files(numbers: impl Iterator<Item = usize>) -> Model {
    numbers.map(|n| (file(n), digest(&file(n), 0))).collect()
}

fn report(what: &str, compared: &Compared, (one, other): (&Set, &Set)) {
    eprintln!(
        "{what}: {} differences, {} rounds, {} + {} bytes, {} + {} rows scanned",
        compared.found.len(),
        compared.rounds,
        compared.asked_bytes,
        compared.answered_bytes,
        one.stored.scanned.get(),
        other.stored.scanned.get(),
    );
}

#[test]
fn a_hundred_differences_among_a_million() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let ours = files(0..1_000_000);
    let mut theirs = ours.clone();
    let changed: BTreeSet<usize> = std::iter::repeat_with(|| rng.usize(0..1_000_000)).take(100).collect();
    for (n, file) in changed.iter().map(|n| (n, file(*n))) {
        match n % 3 {
            0 => drop(theirs.remove(&file)),
            1 => drop(theirs.insert(file.clone(), digest(&file, 1))),
            _ => drop(theirs.insert([&file[..], b"~"].concat(), digest(&file, 0))),
        }
    }
    let (mut one, mut other) = (Set::new(ours), Set::new(theirs));
    let compared = compared(&mut one, &mut other, Limits::default());
    report("a million files", &compared, (&one, &other));
    assert_eq!(compared.found.len(), changed.len());
    assert!(compared.rounds <= 5);
    assert!(compared.asked_bytes + compared.answered_bytes < 512 * 1024);
    assert!(one.stored.scanned.get() + other.stored.scanned.get() < 150_000);
}

/// Nothing in common: in many messages, each bounded, at a cost that grows with the rows only.
#[test]
fn a_new_member_learns_all_page_by_page() {
    let full = files(0..100_000);
    let halves = [files((0..100_000).step_by(2)), files((1..100_000).step_by(2))];
    let renewed = full.keys().map(|key| (key.clone(), digest(key, 1))).collect();
    let [even, odd] = halves;
    let pairs = [
        ("we have none", Model::new(), full.clone()),
        ("they have none", full.clone(), Model::new()),
        ("none in common", even, odd),
        ("all are others", full, renewed),
    ];
    for (what, ours, theirs) in pairs {
        let (mut one, mut other) = (Set::new(ours.clone()), Set::new(theirs.clone()));
        let compared = compared(&mut one, &mut other, Limits::default());
        report(what, &compared, (&one, &other));
        assert!(compared.found == naive(&ours, &theirs), "{what}");
        let bytes_max = 30 * compared.found.len();
        assert!(compared.asked_bytes + compared.answered_bytes <= bytes_max, "{what}");
        assert!(one.stored.scanned.get() + other.stored.scanned.get() < 2_000_000, "{what}");
    }
}

/// Long names that begin alike are few to a message, and those that end unlike are not sent whole as bounds.
#[test]
fn long_keys_cost_what_they_must() {
    let alike = |n: u16| [&[b'x'; KEY_BYTES_MAX - 2][..], &n.to_be_bytes()].concat();
    let model: Model = (0..9_000).map(|n| (alike(n), digest(&alike(n), 0))).collect();
    let (mut one, mut other) = (Set::new(Model::new()), Set::new(model.clone()));
    let there = compared(&mut one, &mut other, Limits::default());
    report("long names", &there, (&one, &other));
    assert!(there.found == naive(&Model::new(), &model));
    assert!(there.answered_bytes < 30 * model.len());

    let mut rng = fastrand::Rng::with_seed(seed());
    let mut unlike = || (0..1000).map(|_| rng.u8(..)).collect::<Vec<_>>();
    let mut model: Model = std::iter::repeat_with(|| (unlike(), [1; 16])).take(20_000).collect();
    let mut other = Set::new(model.clone());
    model.pop_first();
    let mut one = Set::new(model);
    let there = compared(&mut one, &mut other, Limits::default());
    report("long tails", &there, (&one, &other));
    assert_eq!(there.found.len(), 1);
    assert!(there.asked_bytes + there.answered_bytes < 36_000);
}

// The messages as they are on the wire, so that a peer can lie.

#[derive(Clone, Serialize, Deserialize)]
struct WireCut {
    shared: u16,
    rest: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct WirePart {
    from: WireCut,
    to: Option<WireCut>,
    sum: ([u8; 16], u64),
}

#[derive(Serialize, Deserialize)]
enum WireReply {
    Same,
    Split(Vec<(WireCut, ([u8; 16], u64))>),
    Items(Vec<(WireCut, Digest)>, bool),
}

fn cut(shared: u16, rest: &[u8]) -> WireCut {
    WireCut { shared, rest: rest.to_vec() }
}

fn wired<T: Serialize, U: DeserializeOwned>(message: &T) -> U {
    postcard::from_bytes(&postcard::to_stdvec(message).expect("encodes")).expect("decodes")
}

#[test]
fn questions_out_of_order_are_refused() {
    let set = Set::new(files(0..1000));
    let part = |from: WireCut, to: Option<WireCut>| WirePart { from, to, sum: ([1; 16], u64::MAX) };
    for parts in [
        vec![part(cut(0, b"b"), Some(cut(0, b"a")))],
        vec![part(cut(0, b"b"), Some(cut(0, b"b")))],
        vec![part(cut(0, b""), Some(cut(0, b"")))],
        vec![part(cut(0, b""), None), part(cut(0, b"z"), None)],
        vec![part(cut(0, b"b"), Some(cut(0, b"d"))), part(cut(0, b"c"), None)],
        vec![part(cut(1, b"b"), None)],
        vec![part(cut(0, &[9; KEY_BYTES_MAX + 2]), None)],
    ] {
        let question: Question = wired(&parts);
        assert!(set.answer(&question, &Limits::default()).is_err());
    }
}

type Lie<'lie> = dyn Fn(&WirePart) -> WireReply + 'lie;

/// One answer of lies of one kind.
fn lied_once(asker: &mut Asker, set: &Set, lie: &Lie<'_>) -> Result<bool, Unruly> {
    match asker.step(&set.stored, &set.tree)? {
        Step::Ask(question) => {
            let parts: Vec<WirePart> = wired(&question);
            asker.answered(wired(&parts.iter().map(lie).collect::<Vec<_>>())).map(|()| true)
        }
        Step::Found(_) => Ok(true),
        Step::Done => Ok(false),
    }
}

/// Where a range begins, with more behind.
fn behind(part: &WirePart, rest: &[u8]) -> WireCut {
    cut(part.from.shared + part.from.rest.len() as u16, rest)
}

const MANY: ([u8; 16], u64) = ([1; 16], u64::MAX);

#[test]
fn lies_are_refused() {
    let set = Set::new(files(0..1000));
    let refused = |what: &str, lie: &Lie<'_>| {
        let mut asker = Asker::new(Limits::default());
        assert!(lied_once(&mut asker, &set, lie).is_err(), "{what}");
    };
    refused("not divided", &|part| WireReply::Split(vec![(behind(part, b""), MANY)]));
    refused("divided into nothing", &|_| WireReply::Split(vec![]));
    let late = |part: &WirePart, at: u8| (behind(part, &[at]), MANY);
    refused("not from the start", &|part| WireReply::Split(vec![late(part, 0), late(part, 1)]));
    refused("out of order", &|part| {
        WireReply::Items(vec![(cut(0, b"b"), [1; 16]), (behind(part, b"a"), [1; 16])], false)
    });
    refused("twice", &|part| WireReply::Items(vec![(behind(part, b""), [1; 16]), (cut(0, b""), [2; 16])], false));
    refused("more after none", &|_| WireReply::Items(vec![], true));
    refused("of no key", &|_| WireReply::Items(vec![(cut(5000, b""), [1; 16])], false));
    // few bytes that stand for many long keys
    let long = [(cut(0, &[0; KEY_BYTES_MAX - 2]), [1; 16])];
    let bomb = (0..10_000_u16).map(|n| (cut(KEY_BYTES_MAX as u16 - 2, &n.to_be_bytes()), [1; 16]));
    let bomb: Vec<_> = long.into_iter().chain(bomb).collect();
    refused("too much", &|_| WireReply::Items(bomb.clone(), false));

    let mut asker = Asker::new(Limits::default());
    assert!(asker.answered(wired(&vec![WireReply::Same])).is_err(), "nothing was asked");
    for replies in [0, 2] {
        let mut asker = Asker::new(Limits::default());
        assert!(matches!(asker.step(&set.stored, &set.tree), Ok(Step::Ask(_))));
        let replies: Vec<_> = (0..replies).map(|_| WireReply::Same).collect();
        assert!(asker.answered(wired(&replies)).is_err());
    }
}

#[test]
fn lies_come_to_an_end() {
    let set = Set::new(files(0..1000));
    let ended = |what: &str, lie: &Lie<'_>| {
        let mut asker = Asker::new(Limits { rounds: 100, ..Limits::default() });
        let ended = (0..300).any(|_| !lied_once(&mut asker, &set, lie).is_ok_and(|goes_on| goes_on));
        assert!(ended, "{what}");
    };
    ended("narrower for ever", &|part| WireReply::Split(vec![(behind(part, b""), MANY), (behind(part, b"\0"), MANY)]));
    ended("more for ever", &|part| WireReply::Items(vec![(behind(part, b"\0"), [1; 16])], true));
    // more is said to be where nothing can be
    let mut asker = Asker::new(Limits::default());
    let lie = |part: &WirePart| match &part.to {
        None if part.from.shared == 0 => WireReply::Split(vec![(cut(0, b""), MANY), (cut(0, b"\0\0"), MANY)]),
        Some(to) if to.rest == [0, 0] => WireReply::Items(vec![(cut(0, b"\0"), [1; 16])], true),
        _ => WireReply::Same,
    };
    while lied_once(&mut asker, &set, &lie).expect("in order, though not true") {}
}

fn mangled(rng: &mut fastrand::Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes.extend_from_within(at..),
            _ if at < bytes.len() => bytes[at] = [0, 1, 127, 255, rng.u8(..)][rng.usize(0..5)],
            _ => {}
        }
    }
    bytes
}

/// Messages mangled on their way are refused or answered, never more than that.
#[test]
fn mangled_messages_do_no_harm() {
    let seed = seed();
    let (mut taken, mut refused) = (0, 0);
    for life in 0..count(1_500, 50_000) {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(life));
        let kind = rng.u8(0..3);
        let mut given = Given { rng: &mut rng, kind };
        let (ours, theirs) = given.pair();
        let limits = Limits { rounds: 60, ..given.limits() };
        let (ours, theirs) = (Set::new(ours), Set::new(theirs));
        let mut asker = Asker::new(limits);
        // ends with the rounds at the latest
        while let Ok(step) = asker.step(&ours.stored, &ours.tree) {
            let question = match step {
                Step::Ask(question) => question,
                Step::Found(_) => continue,
                Step::Done => break,
            };
            let encoded = postcard::to_stdvec(&question).expect("encodes");
            if let Ok(mangled) = postcard::from_bytes::<Question>(&mangled(&mut rng, encoded)) {
                let answered = theirs.answer(&mangled, &limits);
                let encoded = answered.ok().map(|answer| postcard::to_stdvec(&answer).expect("encodes"));
                assert!(encoded.is_none_or(|encoded| encoded.len() <= MESSAGE_BYTES_MAX));
            }
            let answer = theirs.answer(&question, &limits).expect("an orderly question");
            let encoded = postcard::to_stdvec(&answer).expect("encodes");
            let answer = postcard::from_bytes(&mangled(&mut rng, encoded)).unwrap_or(answer);
            match asker.answered(answer) {
                Ok(()) => taken += 1,
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
    }
    eprintln!("{taken} mangled answers taken, {refused} refused");
    assert!(taken > 100 && refused > 100);
}
