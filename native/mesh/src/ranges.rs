//! Which keys two indexes differ in: fingerprints of ranges of keys, then of narrower ranges wherever they differ,
//! in the end the rows. After Aljoscha Meyer, "Range-Based Set Reconciliation", SRDS 2023.
//!
//! One side asks and keeps what is open, the other only answers. A round divides a range by up to 256, so there are
//! O(log n); d differences cost O(d log n) fingerprints, and each of those, where its bounds are not those of a leaf, a
//! scan of two leaves. Invariant: what is open are disjoint ranges in the order of keys, and each answer ends or
//! narrows one. Both sets may change meanwhile: keys that neither side changes are found as if nothing did, the others
//! may be found or not.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::mem;
use std::ops::{Bound, ControlFlow};

/// The longest key in bytes: a path, and what an index puts before it.
pub const KEY_BYTES_MAX: usize = 4608;
/// No message is longer, bytes of postcard. Whoever receives one refuses a longer before decoding it.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

// A message is full before what is added last, at most BRANCHES ranges with the longest of bounds. A short one may
// stand for long keys that begin alike. An asker keeps open more answers than are ever nested.
const FULL_BYTES: usize = MESSAGE_BYTES_MAX - 80 * 1024;
const UNFOLDED_FULL_BYTES: usize = 1 << 20;
const OPEN_BYTES_MAX: usize = 32 << 20;
// What a key and a fingerprint add to a message beside the key's bytes, at most, and what either adds to memory.
const CUT_BYTES: usize = 7;
const SUM_BYTES: usize = 28;
const HELD_BYTES: usize = 80;
// Into how many ranges one that differs is divided, and with how few rows on a side it is listed instead. With few
// leaves it is divided between rows, by a scan: between leaves it would be too coarsely.
const BRANCHES: usize = 16;
const ITEMS_MAX: u64 = 32;
const LEAVES_MIN: usize = 8;
// Rows of a leaf when it is made (the last of a scan may have fewer), and before it is split or joined: so far from
// those that many changes come between.
const LEAF_ROWS_MIN: u64 = 64;
const LEAF_ROWS_MAX: u64 = 256;
const LEAF_ROWS_MANY: u64 = 512;
const LEAF_ROWS_FEW: u64 = 32;
// How many differences are handed over at once, about, and how much of our rows is compared at once.
const FOUND_MAX: usize = 1024;
const STRETCH_BYTES: usize = 256 * 1024;

/// A digest of a row, of its key too: equal where both are.
pub type Digest = [u8; 16];
/// Keys from the first, which is empty for the start of all, and before the second unless to the end.
pub type Bounds<'key> = (&'key [u8], Option<&'key [u8]>);
/// Is shown rows, and says whether to go on.
pub type Visit<'visit> = dyn FnMut(&[u8], Digest) -> ControlFlow<()> + 'visit;
/// From where each part of a range begins, and what is in it.
type Parts = Vec<(Vec<u8>, Fingerprint)>;
type Items = Vec<(Vec<u8>, Digest)>;
/// A key or bound by how much it shares with the one before it, and the rest of it.
type Cut = (u16, Vec<u8>);

/// The sum of the digests of rows modulo 2^128, and their number: equal where the rows are. Safe against chance, not
/// against who can choose very many digests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    // not a u128, which would be aligned and encoded longer
    sum: Digest,
    count: u64,
}

impl Fingerprint {
    /// The number of rows.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// With one more row.
    pub fn add(&mut self, digest: &Digest) {
        self.merge(&Self { sum: *digest, count: 1 });
    }

    /// Without a row that was added.
    pub fn remove(&mut self, digest: &Digest) {
        self.sum = u128::from_le_bytes(self.sum).wrapping_sub(u128::from_le_bytes(*digest)).to_le_bytes();
        // fewer than none only when told of a row that was not there
        self.count = self.count.saturating_sub(1);
    }

    /// With the rows of another range.
    pub fn merge(&mut self, other: &Self) {
        self.sum = u128::from_le_bytes(self.sum).wrapping_add(u128::from_le_bytes(other.sum)).to_le_bytes();
        self.count = self.count.saturating_add(other.count);
    }
}

/// A message that no peer of ours sends, or an exchange that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not compare by the rules: {0}")]
pub struct Unruly(&'static str);

/// An ordered set of keys, each with the digest of its row, wherever it is stored. Keys are no longer than
/// [`KEY_BYTES_MAX`]: the other side refuses a message with a longer one.
pub trait Rows {
    /// Why rows cannot be read, or not be compared with a peer's.
    type Error: From<Unruly>;

    /// Show rows in the order of keys until told to break. The bounds are not reversed.
    fn scan(&self, bounds: Bounds<'_>, visit: &mut Visit<'_>) -> Result<(), Self::Error>;
}

/// How much is done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes after which a message gets no more parts; it has at least one, however long. What does not fit
    /// is asked later. What is over 176 KiB is taken for that, so that [`MESSAGE_BYTES_MAX`] holds.
    pub bytes: usize,
    /// Rows visited after which a message gets no more parts.
    pub rows: u64,
    /// Questions after which an asker gives up.
    pub rounds: u32,
}

impl Default for Limits {
    /// A round brings about 8000 rows with short keys that one side lacks, so these rounds do for 500 million.
    fn default() -> Self {
        Self { bytes: FULL_BYTES, rows: 1 << 17, rounds: 1 << 16 }
    }
}

/// What is kept in memory of a set: fingerprints of leaves, each some 125 neighbours, about 1 MB for a million rows.
///
/// The rows given beside it are those it was told of: whoever changes one and tells of it keeps others out meanwhile.
/// Else a fingerprint is wrong, for long if the leaf was built or split in between; then rows are compared in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// By where each begins, shortened; the first begins at the start of all.
    leaves: BTreeMap<Box<[u8]>, Fingerprint>,
}

impl Tree {
    /// Scan the whole set once.
    pub fn build<R: Rows>(rows: &R) -> Result<Self, R::Error> {
        let mut tree = Self { leaves: BTreeMap::from([(Box::default(), Fingerprint::default())]) };
        tree.split(rows, &[])?;
        Ok(tree)
    }

    /// A row was put, changed or removed. Whether its leaf is too large now: [`Tree::split`] it, soon.
    pub fn change(&mut self, key: &[u8], old: Option<Digest>, new: Option<Digest>) -> bool {
        let mut upto = self.leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        let Some((from, leaf)) = upto.next_back() else { return false };
        old.iter().for_each(|old| leaf.remove(old));
        new.iter().for_each(|new| leaf.add(new));
        let changed = *leaf;
        // Joined with the one before, which takes no scan: else a set whose keys move on (by time, say) would leave
        // empty leaves behind for ever. Beside a large one a tiny one stays until it is empty.
        let is_tiny = new.is_none() && changed.count < LEAF_ROWS_FEW;
        let fits = |before: u64| is_tiny && (changed.count == 0 || before + changed.count <= LEAF_ROWS_MAX);
        if let Some((_, before)) = upto.next_back().filter(|(_, before)| fits(before.count)) {
            before.merge(&changed);
            let from = from.clone();
            self.leaves.remove(&from);
        }
        changed.count > LEAF_ROWS_MANY
    }

    /// Scan the leaf of a key and divide it anew.
    pub fn split<R: Rows>(&mut self, rows: &R, key: &[u8]) -> Result<(), R::Error> {
        let Some((from, _)) = self.leaf(key) else { return Ok(()) };
        let after = (Bound::Excluded(from), Bound::Unbounded);
        let to = self.leaves.range::<[u8], _>(after).next().map(|(to, _)| &**to);
        // Leaves begin where the keys say, so that those of two sides have mostly the same bounds: what is asked
        // between those costs no scan.
        let is_mark = |key: &[u8]| blake3::hash(key).as_bytes()[0] < 4;
        let leaves = divide(rows, (from, to), |count, _, key| {
            count >= LEAF_ROWS_MIN && (count >= LEAF_ROWS_MAX || is_mark(key))
        })?;
        self.leaves.extend(leaves.into_iter().map(|(from, sum)| (from.into_boxed_slice(), sum)));
        Ok(())
    }

    fn leaf(&self, key: &[u8]) -> Option<(&[u8], Fingerprint)> {
        let upto = (Bound::Unbounded, Bound::Included(key));
        self.leaves.range::<[u8], _>(upto).next_back().map(|(from, leaf)| (&**from, *leaf))
    }

    /// The leaves and parts of leaves between bounds; a leaf's fingerprint if it is whole.
    fn pieces<'key>(&'key self, (from, to): Bounds<'key>) -> impl Iterator<Item = (Bounds<'key>, Option<Fingerprint>)> {
        let after = self.leaves.range::<[u8], _>((Bound::Excluded(from), Bound::Unbounded));
        let after = after.map(|(from, leaf)| (&**from, *leaf));
        let is_inside = move |begin: &[u8]| to.is_none_or(|to| begin.max(from) < to);
        let mut leaves = self.leaf(from).into_iter().chain(after).take_while(move |leaf| is_inside(leaf.0)).peekable();
        let ends_whole = to.is_none_or(|to| self.leaves.contains_key(to));
        std::iter::from_fn(move || {
            let (begin, leaf) = leaves.next()?;
            let next = leaves.peek().map(|(next, _)| *next);
            let is_whole = begin >= from && (next.is_some() || ends_whole);
            Some(((begin.max(from), next.or(to)), is_whole.then_some(leaf)))
        })
    }

    /// The fingerprint of rows between bounds: whole leaves from memory, at most two by a scan.
    pub fn fingerprint<R: Rows>(&self, rows: &R, bounds: Bounds<'_>) -> Result<Fingerprint, R::Error> {
        self.sum(rows, bounds, &mut 0)
    }

    /// Counts the rows `visited`.
    fn sum<R: Rows>(&self, rows: &R, bounds: Bounds<'_>, visited: &mut u64) -> Result<Fingerprint, R::Error> {
        let mut sum = Fingerprint::default();
        for (piece, whole) in self.pieces(bounds) {
            match whole {
                Some(leaf) => sum.merge(&leaf),
                None => rows.scan(piece, &mut |_, digest| {
                    *visited += 1;
                    sum.add(&digest);
                    ControlFlow::Continue(())
                })?,
            }
        }
        Ok(sum)
    }

    /// Divides `count` rows between bounds into at most [`BRANCHES`]; into one when most went away meanwhile, or when
    /// one leaf has most because nobody split it.
    fn parts<R: Rows>(&self, rows: &R, bounds: Bounds<'_>, count: u64, visited: &mut u64) -> Result<Parts, R::Error> {
        let step = count.div_ceil(BRANCHES as u64).max(ITEMS_MAX / 2);
        let is_due = |count: u64, before: usize| count >= step && before + 1 < BRANCHES;
        if self.pieces(bounds).nth(LEAVES_MIN - 1).is_none() {
            *visited += count;
            return divide(rows, bounds, |count, before, _| is_due(count, before));
        }
        let (mut parts, mut part) = (Vec::new(), (bounds.0.to_vec(), Fingerprint::default()));
        for (piece, _) in self.pieces(bounds) {
            if is_due(part.1.count, parts.len()) {
                parts.push(mem::replace(&mut part, (piece.0.to_vec(), Fingerprint::default())));
            }
            part.1.merge(&self.sum(rows, piece, visited)?);
        }
        parts.push(part);
        Ok(parts)
    }
}

/// Divides rows where it is `due`, told how many the part has, how many parts are before it, and the next key.
fn divide<R: Rows>(rows: &R, bounds: Bounds<'_>, due: impl Fn(u64, usize, &[u8]) -> bool) -> Result<Parts, R::Error> {
    let (mut parts, mut last) = (Vec::new(), Vec::new());
    let mut part = (bounds.0.to_vec(), Fingerprint::default());
    rows.scan(bounds, &mut |key, digest| {
        if due(part.1.count, parts.len(), key) {
            // the shortest bound that keeps the neighbours apart
            let bound = key.get(..=shared(&last, key)).unwrap_or(key);
            parts.push(mem::replace(&mut part, (bound.to_vec(), Fingerprint::default())));
        }
        part.1.add(&digest);
        key.clone_into(&mut last);
        ControlFlow::Continue(())
    })?;
    parts.push(part);
    Ok(parts)
}

/// How many bytes two keys have in common at their start.
fn shared(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// [`Bounds`] that are kept; never empty.
#[derive(Debug)]
struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

impl Range {
    fn bounds(&self) -> Bounds<'_> {
        (&self.from, self.to.as_deref())
    }

    /// The ranges of its parts.
    fn divide(self, parts: Parts) -> impl Iterator<Item = (Self, Fingerprint)> {
        let ends: Vec<_> = parts.iter().skip(1).map(|(from, _)| Some(from.clone())).chain([self.to]).collect();
        parts.into_iter().zip(ends).map(|((from, sum), to)| (Self { from, to }, sum))
    }
}

fn uncut((shared, rest): &Cut, before: &[u8]) -> Result<Vec<u8>, Unruly> {
    let shared = before.get(..usize::from(*shared)).ok_or(Unruly("a key that continues none"))?;
    // the bound behind a key is a byte longer
    let is_short = shared.len() + rest.len() <= KEY_BYTES_MAX + 1;
    is_short.then(|| [shared, rest].concat()).ok_or(Unruly("a key too long"))
}

/// What a message takes: bytes encoded, at most, and with its keys written out; rows visited for it.
#[derive(Debug, Default)]
struct Size {
    encoded: usize,
    unfolded: usize,
    rows: u64,
}

impl Size {
    fn cut(&mut self, before: &[u8], key: &[u8], beside: usize) -> Cut {
        let shared = u16::try_from(shared(before, key)).unwrap_or(u16::MAX);
        let rest = key.get(shared.into()..).unwrap_or_default().to_vec();
        self.encoded += rest.len() + CUT_BYTES + beside;
        self.unfolded += key.len() + HELD_BYTES;
        (shared, rest)
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.encoded >= limits.bytes.min(FULL_BYTES) || self.unfolded >= UNFOLDED_FULL_BYTES
    }
}

/// A range and what the asker has in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    from: Cut,
    to: Option<Cut>,
    sum: Fingerprint,
}

impl Part {
    /// The range; in `end`, where the part before ended, is then where this one does.
    fn range(&self, end: &mut Option<Vec<u8>>) -> Result<Range, Unruly> {
        let before = end.take().ok_or(Unruly("a range after the last"))?;
        let from = uncut(&self.from, &before)?;
        let to = self.to.as_ref().map(|to| uncut(to, &from)).transpose()?;
        if from < before || to.as_ref().is_some_and(|to| *to <= from) {
            return Err(Unruly("ranges out of order"));
        }
        end.clone_from(&to);
        Ok(Range { from, to })
    }
}

/// What an asker sends: disjoint ranges in the order of keys, and what it has in each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    parts: Vec<Part>,
}

/// Keys are folded each after the one before, the first after the start of the range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Reply {
    Same,
    /// At least two parts, of which the first begins where the range does.
    Split(Vec<(Cut, Fingerprint)>),
    /// All rows; all up to the last of these when there are more.
    Items(Vec<(Cut, Digest)>, bool),
}

/// What a [`Question`] is answered with: a reply to each of its parts, or to as many of the first as fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    replies: Vec<Reply>,
}

/// Answer a question about our rows, as much of it as is within the limits. Nothing is kept.
pub fn answer<R: Rows>(rows: &R, tree: &Tree, question: &Question, limits: &Limits) -> Result<Answer, R::Error> {
    let (mut replies, mut size, mut end) = (Vec::new(), Size::default(), Some(Vec::new()));
    for part in &question.parts {
        if !replies.is_empty() && (size.is_full(limits) || size.rows >= limits.rows) {
            break;
        }
        size.encoded += CUT_BYTES;
        let (range, theirs) = (part.range(&mut end)?, part.sum);
        let ours = tree.sum(rows, range.bounds(), &mut size.rows)?;
        let is_long = ours != theirs && ours.count.min(theirs.count) > ITEMS_MAX;
        let parts = if is_long { tree.parts(rows, range.bounds(), ours.count, &mut size.rows)? } else { Vec::new() };
        replies.push(if ours == theirs {
            Reply::Same
        } else if parts.len() > 1 {
            let mut last = range.from;
            let mut cut = |from: Vec<u8>| size.cut(&mem::replace(&mut last, from.clone()), &from, SUM_BYTES);
            Reply::Split(parts.into_iter().map(|(from, sum)| (cut(from), sum)).collect())
        } else {
            list(rows, range, &mut size, limits)?
        });
    }
    Ok(Answer { replies })
}

fn list<R: Rows>(rows: &R, range: Range, size: &mut Size, limits: &Limits) -> Result<Reply, R::Error> {
    let (mut items, mut last, mut more) = (Vec::new(), range.from.clone(), false);
    rows.scan(range.bounds(), &mut |key, digest| {
        more = !items.is_empty() && size.is_full(limits);
        if more {
            return ControlFlow::Break(());
        }
        items.push((size.cut(&last, key, digest.len()), digest));
        key.clone_into(&mut last);
        ControlFlow::Continue(())
    })?;
    Ok(Reply::Items(items, more))
}

/// A key in which two sets differ, and the digests of both rows, of which one may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Vec<u8>,
    /// Our row's.
    pub ours: Option<Digest>,
    /// Their row's.
    pub theirs: Option<Digest>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask the peer, and hand its answer to [`Asker::answered`].
    Ask(Question),
    /// Differences, each key once, in no order; some MB at most.
    Found(Vec<Difference>),
    /// All were found.
    Done,
}

/// A range, and what is known of their side of it: what they told, or all their rows, the last first.
#[derive(Debug)]
enum Open {
    Look(Range, Option<Fingerprint>),
    Compare(Range, Items),
}

impl Open {
    fn bytes(&self) -> usize {
        let (Self::Look(range, _) | Self::Compare(range, _)) = self;
        let items = if let Self::Compare(_, items) = self { &items[..] } else { &[] };
        let keys = [&range.from].into_iter().chain(&range.to).chain(items.iter().map(|(key, _)| key));
        keys.map(|key| key.len() + HELD_BYTES).sum()
    }
}

/// A question that is being put together, where its last range ends, and its length.
#[derive(Debug, Default)]
struct Draft {
    parts: Vec<Part>,
    end: Vec<u8>,
    size: Size,
}

impl Draft {
    fn ask(&mut self, range: Range, sum: Fingerprint) {
        let from = self.size.cut(&self.end, &range.from, SUM_BYTES);
        let to = range.to.as_ref().map(|to| self.size.cut(&range.from, to, 0));
        self.parts.push(Part { from, to, sum });
        // nothing comes after a range without an end
        self.end = range.to.unwrap_or_default();
    }
}

/// The side that asks, about one set of ours and one of a peer's. Takes some MB at most, however much differs.
#[derive(Debug)]
pub struct Asker {
    limits: Limits,
    /// The first in order last.
    open: Vec<Open>,
    draft: Draft,
    found: Vec<Difference>,
    asked: Option<Question>,
    rounds: u32,
    /// How many parts to ask at once: those that are not answered were looked up and sent in vain.
    window: usize,
}

impl Asker {
    /// Begin.
    pub fn new(limits: Limits) -> Self {
        let open = vec![Open::Look(Range { from: Vec::new(), to: None }, None)];
        Self { limits, open, draft: Draft::default(), found: Vec::new(), asked: None, rounds: 0, window: usize::MAX }
    }

    /// Go on. As long as a question is not answered it is that question, which may be asked again.
    pub fn step<R: Rows>(&mut self, rows: &R, tree: &Tree) -> Result<Step, R::Error> {
        if let Some(asked) = &self.asked {
            return Ok(Step::Ask(asked.clone()));
        }
        while self.found.len() < FOUND_MAX && !self.is_full() {
            match self.open.pop() {
                Some(Open::Look(range, theirs)) => self.look(rows, tree, range, theirs)?,
                Some(Open::Compare(range, items)) => self.compare(rows, range, items)?,
                None => break,
            }
        }
        if !self.found.is_empty() {
            return Ok(Step::Found(mem::take(&mut self.found)));
        }
        if self.draft.parts.is_empty() {
            return Ok(Step::Done);
        }
        self.rounds += 1;
        if self.rounds > self.limits.rounds {
            return Err(Unruly("too many questions").into());
        }
        let question = Question { parts: mem::take(&mut self.draft).parts };
        self.asked = Some(question.clone());
        Ok(Step::Ask(question))
    }

    fn is_full(&self) -> bool {
        let Draft { parts, size, .. } = &self.draft;
        !parts.is_empty() && (parts.len() >= self.window || size.rows >= self.limits.rows || size.is_full(&self.limits))
    }

    fn look<R: Rows>(&mut self, rows: &R, tree: &Tree, range: Range, sum: Option<Fingerprint>) -> Result<(), R::Error> {
        let ours = tree.sum(rows, range.bounds(), &mut self.draft.size.rows)?;
        match sum {
            Some(sum) if sum == ours => {}
            Some(sum) if sum.count == 0 => self.open.push(Open::Compare(range, Vec::new())),
            Some(sum) if sum.count.min(ours.count) > ITEMS_MAX => {
                let parts = tree.parts(rows, range.bounds(), ours.count, &mut self.draft.size.rows)?;
                range.divide(parts).for_each(|(range, sum)| self.draft.ask(range, sum));
            }
            _ => self.draft.ask(range, ours),
        }
        Ok(())
    }

    fn compare<R: Rows>(&mut self, rows: &R, range: Range, mut items: Items) -> Result<(), R::Error> {
        let (mut stretch, mut bytes, mut more) = (Vec::new(), 0, false);
        rows.scan(range.bounds(), &mut |key, digest| {
            more = bytes >= STRETCH_BYTES;
            if more {
                return ControlFlow::Break(());
            }
            bytes += key.len() + HELD_BYTES;
            stretch.push((key.to_vec(), digest));
            ControlFlow::Continue(())
        })?;
        let next = stretch.last().filter(|_| more).map(|(last, _)| [last, &[0][..]].concat());
        let missing = |(key, theirs)| Difference { key, ours: None, theirs: Some(theirs) };
        for (key, ours) in stretch {
            self.found.extend(std::iter::from_fn(|| items.pop_if(|(other, _)| *other < key)).map(missing));
            let theirs = items.pop_if(|(other, _)| *other == key).map(|(_, theirs)| theirs);
            if theirs != Some(ours) {
                self.found.push(Difference { key, ours: Some(ours), theirs });
            }
        }
        match next {
            Some(from) => self.open.push(Open::Compare(Range { from, to: range.to }, items)),
            None => self.found.extend(items.into_iter().rev().map(missing)),
        }
        Ok(())
    }

    /// The answer to the question that was asked last.
    pub fn answered(&mut self, answer: Answer) -> Result<(), Unruly> {
        let asked = self.asked.take().ok_or(Unruly("an answer to no question"))?;
        let (count, count_max) = (answer.replies.len(), asked.parts.len());
        if !(1..=count_max).contains(&count) {
            return Err(Unruly("no reply, or more than were asked for"));
        }
        self.window = if count < count_max { count } else { self.window }.saturating_mul(2);
        let (mut replies, mut end, mut open) = (answer.replies.into_iter(), Some(Vec::new()), Vec::new());
        for part in asked.parts {
            resolve(part.range(&mut end)?, replies.next(), &mut open)?;
        }
        self.open.extend(open.into_iter().rev());
        let bytes: usize = self.open.iter().map(Open::bytes).sum();
        (bytes <= OPEN_BYTES_MAX).then_some(()).ok_or(Unruly("too much left open"))
    }
}

/// What a reply leaves open of the range that was asked about.
fn resolve(range: Range, reply: Option<Reply>, open: &mut Vec<Open>) -> Result<(), Unruly> {
    match reply {
        None => open.push(Open::Look(range, None)),
        Some(Reply::Same) => {}
        Some(Reply::Split(cuts)) => {
            let parts = unfold(&range, cuts)?;
            if parts.len() < 2 || parts[0].0 != range.from {
                return Err(Unruly("a range that is not divided"));
            }
            open.extend(range.divide(parts).map(|(range, sum)| Open::Look(range, Some(sum))));
        }
        Some(Reply::Items(cuts, more)) => {
            let mut items = unfold(&range, cuts)?;
            items.reverse();
            // up to the last of the items they are all, whatever comes after it
            let behind = items.first().map(|(last, _)| [last, &[0][..]].concat());
            let end = if more { Some(behind.ok_or(Unruly("more rows after none"))?) } else { None };
            let rest = end.clone().filter(|end| range.to.as_ref().is_none_or(|to| end < to));
            let listed = Range { from: range.from, to: end.or_else(|| range.to.clone()) };
            open.push(Open::Compare(listed, items));
            open.extend(rest.map(|from| Open::Look(Range { from, to: range.to }, None)));
        }
    }
    Ok(())
}

/// Keys written out: they are in the range and in order.
fn unfold<T>(range: &Range, cuts: Vec<(Cut, T)>) -> Result<Vec<(Vec<u8>, T)>, Unruly> {
    let mut keys: Vec<(Vec<u8>, T)> = Vec::with_capacity(cuts.len());
    for (cut, beside) in cuts {
        let key = uncut(&cut, keys.last().map_or(&range.from, |(last, _)| last))?;
        let is_next = keys.last().map_or(key >= range.from, |(last, _)| key > *last);
        if !is_next || range.to.as_ref().is_some_and(|to| key >= *to) {
            return Err(Unruly("keys out of order"));
        }
        keys.push((key, beside));
    }
    Ok(keys)
}
