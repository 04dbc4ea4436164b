//! What was applied since the table was last brought up to date: an ordered map of versions in memory.
//!
//! Invariant: only who applies inserts, and only versions newer than any that a reader may see; nothing is removed
//! or changed. A reader sees the versions up to its own.

use crate::machine::Layered;
use crossbeam_skiplist::map::Entry;
use crossbeam_skiplist::SkipMap;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

/// What a row takes beside its key and value, about, bytes.
const ROW_BYTES: usize = 128;

/// Most keys are no longer.
const INLINE_BYTES: usize = 47;

/// A key, where it is compared: on a search through many rows each pointer that is followed is waited for.
enum Key {
    Inline(u8, [u8; INLINE_BYTES]),
    Long(Vec<u8>),
}

impl Key {
    fn new(key: Vec<u8>) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match (u8::try_from(key.len()), inline.get_mut(..key.len())) {
            (Ok(len), Some(start)) => {
                start.copy_from_slice(&key);
                Self::Inline(len, inline)
            }
            _ => Self::Long(key),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(len, inline) => &inline[..usize::from(*len)],
            Self::Long(key) => key,
        }
    }
}

/// One version of a row; the newest comes first.
struct Version {
    key: Key,
    version: u64,
}

/// So that a key is looked for without a copy of it.
trait AsVersion {
    fn parts(&self) -> (&[u8], u64);
}

impl AsVersion for Version {
    fn parts(&self) -> (&[u8], u64) {
        (&self.key, self.version)
    }
}

impl AsVersion for (&[u8], u64) {
    fn parts(&self) -> (&[u8], u64) {
        *self
    }
}

fn order(one: (&[u8], u64), other: (&[u8], u64)) -> Ordering {
    one.0.cmp(other.0).then(other.1.cmp(&one.1))
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.parts(), other.parts())
    }
}

impl PartialEq for dyn AsVersion + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn AsVersion + '_ {}

impl PartialOrd for dyn AsVersion + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn AsVersion + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.parts(), other.parts())
    }
}

impl<'a> Borrow<dyn AsVersion + 'a> for Version {
    fn borrow(&self) -> &(dyn AsVersion + 'a) {
        self
    }
}

/// A removed row is `None`.
pub(super) type Row = Option<Vec<u8>>;

/// One layer of rows.
#[derive(Default)]
pub(super) struct Overlay {
    rows: SkipMap<Version, Row>,
    bytes: AtomicUsize,
}

/// A row as a reader of some version sees it.
pub(super) struct Seen<'rows>(Entry<'rows, Version, Row>);

impl Layered for Seen<'_> {
    fn key(&self) -> &[u8] {
        &self.0.key().key
    }

    fn row(&self) -> Option<&[u8]> {
        self.0.value().as_deref()
    }
}

impl Overlay {
    pub fn insert(&self, key: Vec<u8>, version: u64, row: Row) {
        let len = key.len() + row.as_ref().map_or(0, Vec::len) + ROW_BYTES;
        self.rows.insert(Version { key: Key::new(key), version }, row);
        self.bytes.fetch_add(len, Atomic::Relaxed);
    }

    /// What it holds, all versions.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Atomic::Relaxed)
    }

    /// A row, also one that was removed; `None`: this layer does not know it.
    pub fn get(&self, key: &[u8], version: u64) -> Option<Seen<'_>> {
        let sought = (key, version);
        let found = self.rows.lower_bound::<dyn AsVersion>(Bound::Included(&sought))?;
        (*found.key().key == *key).then_some(Seen(found))
    }

    /// Rows with `from <= key < to`, removed ones too, each once.
    pub fn range<'rows>(
        &'rows self,
        (from, to): (&'rows [u8], &'rows [u8]),
        version: u64,
        reverse: bool,
    ) -> impl Iterator<Item = Seen<'rows>> {
        let mut next = match reverse {
            false => self.rows.lower_bound::<dyn AsVersion>(Bound::Included(&(from, u64::MAX))),
            true => self.rows.upper_bound::<dyn AsVersion>(Bound::Excluded(&(to, u64::MAX))),
        };
        std::iter::from_fn(move || loop {
            let entry = next.take().filter(|entry| (from..to).contains(&&*entry.key().key))?;
            next = self.beside(&entry, reverse);
            match entry.key().version <= version && !reverse {
                true => return Some(Seen(entry)),
                // all of them may be newer
                false => match self.get(&entry.key().key, version) {
                    Some(seen) => return Some(seen),
                    None => continue,
                },
            }
        })
    }

    /// The newest version of the next key, or some version of the one before.
    fn beside<'rows>(
        &'rows self,
        entry: &Entry<'rows, Version, Row>,
        reverse: bool,
    ) -> Option<Entry<'rows, Version, Row>> {
        let key = &*entry.key().key;
        match reverse {
            true => self.rows.upper_bound::<dyn AsVersion>(Bound::Excluded(&(key, u64::MAX))),
            false => match entry.next() {
                // most rows have one version
                Some(next) if *next.key().key == *key => {
                    self.rows.lower_bound::<dyn AsVersion>(Bound::Excluded(&(key, 0_u64)))
                }
                next => next,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Each version sees what was there when it was made, forwards and backwards, in any range.
    #[test]
    fn a_version_sees_what_was_there_when_it_was_made() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let overlay = Overlay::default();
            let mut states = vec![BTreeMap::<Vec<u8>, Row>::new()];
            for version in 1..=12 {
                let mut state = states[states.len() - 1].clone();
                let written: BTreeMap<Vec<u8>, Row> = (0..rng.usize(0..5))
                    .map(|_| {
                        let key = vec![rng.u8(0..3); rng.usize(0..3)];
                        (key, rng.bool().then(|| vec![version as u8]))
                    })
                    .collect();
                for (key, row) in written {
                    overlay.insert(key.clone(), version, row.clone());
                    state.insert(key, row);
                }
                states.push(state);
            }
            for (version, state) in states.iter().enumerate() {
                let (from, to) = (vec![rng.u8(0..3)], vec![rng.u8(0..3), rng.u8(0..3)]);
                let (from, to) = if rng.bool() { (from, to) } else { (vec![], vec![9]) };
                let in_range = |(key, _): &(&Vec<u8>, &Row)| **key >= from && **key < to;
                let wanted: Vec<(Vec<u8>, Row)> =
                    state.iter().filter(in_range).map(|(key, row)| (key.clone(), row.clone())).collect();
                for reverse in [false, true] {
                    let seen = overlay.range((&from, &to), version as u64, reverse);
                    let mut seen: Vec<(Vec<u8>, Row)> =
                        seen.map(|seen| (seen.key().to_vec(), seen.row().map(<[u8]>::to_vec))).collect();
                    if reverse {
                        seen.reverse();
                    }
                    assert_eq!(seen, wanted, "seed={seed} version={version} reverse={reverse}");
                }
                for (key, row) in state {
                    let seen = overlay.get(key, version as u64).expect("is there");
                    assert_eq!(seen.row(), row.as_deref(), "seed={seed} version={version}");
                }
            }
        }
    }
}
