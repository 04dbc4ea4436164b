//! Fingerprints of all records, for comparisons with peers.
//!
//! Invariant: of a row that is being written they have what was told of it before, until that has ended, whether it is
//! written by then or not. Who makes them scans a state of the index of one moment, and keeps nobody from writing.

use crate::index::{Index, View};
use crate::ranges::{Bounds, Digest, Rows, Tree, Visit};
use crate::record::Record;
use crate::MeshError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// Of all rows of an index; made when they are first looked at.
#[derive(Default)]
pub(crate) struct Fingerprints {
    state: Mutex<State>,
    making: Mutex<()>,
}

#[derive(Default)]
struct State {
    tree: Option<Tree>,
    /// What was told of rows that are being written.
    written: Written,
    /// While a tree is being made: what changed since the moment that it is of.
    changes: Option<Vec<Change>>,
}

type Written = BTreeMap<Vec<u8>, Option<Digest>>;

/// What was told of a row before, and is told now.
struct Change {
    key: Vec<u8>,
    told: Option<Digest>,
    now: Option<Digest>,
}

/// The digests of the records of an index.
pub(crate) struct Digests<'a> {
    view: View,
    written: &'a Written,
}

impl Rows for Digests<'_> {
    type Error = MeshError;

    fn scan(&self, (from, to): Bounds<'_>, visit: &mut Visit<'_>) -> Result<(), MeshError> {
        let range = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let mut written = self.written.range::<[u8], _>(range).peekable();
        let mut goes_on = |key: &[u8], digest: Option<Digest>| {
            digest.is_none_or(|digest| visit(key, digest) == ControlFlow::Continue(()))
        };
        let mut is_over = false;
        self.view.records(range, &mut |key, record| {
            // those that are no rows yet, or any more
            while let Some((other, told)) = written.next_if(|(other, _)| &other[..] < key) {
                is_over |= is_over || !goes_on(other, *told);
            }
            let digest = match written.next_if(|(other, _)| &other[..] == key) {
                Some((_, told)) => *told,
                None => record.map(|record| digest_of(key, record)),
            };
            is_over |= is_over || !goes_on(key, digest);
            !is_over
        })?;
        let _ = is_over || written.all(|(key, told)| goes_on(key, *told));
        Ok(())
    }
}

impl State {
    fn change(&mut self, index: &Index, change: Change) -> Result<(), MeshError> {
        let Self { tree, written, changes } = self;
        if let Some(changes) = changes {
            changes.push(change);
        } else if let Some(tree) = tree {
            if tree.change(&change.key, change.told, change.now) {
                tree.split(&Digests { view: index.view()?, written }, &change.key)?;
            }
        }
        Ok(())
    }
}

impl Fingerprints {
    /// Rows are about to be written, of which that was told before.
    pub fn begin<'a>(&self, rows: impl Iterator<Item = (&'a [u8], Option<Digest>)>) {
        self.state.lock().written.extend(rows.map(|(key, told)| (key.to_vec(), told)));
    }

    /// They were, and that is told now.
    pub fn end<'a>(
        &self,
        index: &Index,
        rows: impl Iterator<Item = (&'a [u8], Option<Digest>)>,
    ) -> Result<(), MeshError> {
        let (mut state, mut ended) = (self.state.lock(), Ok(()));
        for (key, now) in rows {
            let told = state.written.remove(key).unwrap_or_default();
            // one that fails keeps no other from it
            ended = ended.and(state.change(index, Change { key: key.to_vec(), told, now }));
        }
        ended
    }

    /// Look at all of them.
    pub fn with<T>(
        &self,
        index: &Index,
        look: impl FnOnce(&Digests<'_>, &Tree) -> Result<T, MeshError>,
    ) -> Result<T, MeshError> {
        self.make(index)?;
        let state = self.state.lock();
        let State { tree: Some(tree), written, .. } = &*state else {
            return Err(MeshError::Internal("fingerprints that were made are gone".into()));
        };
        look(&Digests { view: index.view()?, written }, tree)
    }

    /// Make them, if they are not there.
    pub fn make(&self, index: &Index) -> Result<(), MeshError> {
        let _alone = self.making.lock();
        let (view, written) = {
            let mut state = self.state.lock();
            if state.tree.is_some() {
                return Ok(());
            }
            state.changes = Some(Vec::new());
            (index.view(), state.written.clone())
        };
        let made = view.and_then(|view| Tree::build(&Digests { view, written: &written }));
        let mut state = self.state.lock();
        let changes = state.changes.take().unwrap_or_default();
        let mut tree = made?;
        // a scan for one of them would find the others, too: first all changes
        let large: Vec<_> = changes.iter().filter(|of| tree.change(&of.key, of.told, of.now)).collect();
        for Change { key, .. } in large {
            tree.split(&Digests { view: index.view()?, written: &state.written }, key)?;
        }
        state.tree = Some(tree);
        Ok(())
    }
}

/// The fingerprint of a record under its key; none of one without versions, as if it were forgotten.
pub(crate) fn digest(key: &[u8], record: &Record) -> Option<Digest> {
    // it is encoded in one way only
    let encoded = || postcard::to_stdvec(record).unwrap_or_default();
    (!record.versions().is_empty()).then(|| digest_of(key, &encoded()))
}

/// The same of a record of some versions, encoded.
fn digest_of(key: &[u8], record: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(record);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Change as Written;
    use crate::row::Row;
    use crate::{Content, ContentId, Dot, Name, Stamp};
    use macula_core::{AppName, Clock, Gate, RealDisk, RelPath, SystemChance, SystemClock};
    use macula_kv::{Durability, Seams, Store, Threads};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;
    use std::time::Duration;

    const WRITERS: u64 = 3;
    const ROWS_OF_ONE: u64 = 2_000;

    fn index(dir: &std::path::Path) -> Index {
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
        let threads = Threads::start(2, 1, clock.clone()).expect("starts");
        let disk = Arc::new(RealDisk::at(dir).expect("opens"));
        let seams = Seams { disk, gate: Arc::new(Gate::new()), clock, chance, threads };
        let store = Store::open(seams, crate::store_options()).expect("opens");
        Index::open(store, &SystemChance).expect("opens").0
    }

    /// As whoever has a file's turn changes it: from what was told of it before to a version of a stamp, or to nothing.
    fn change(index: &Index, all: &Fingerprints, name: &Name, told: &mut Option<Digest>, stamp: Option<u64>) {
        let (key, mut row) = (name.key(), Row::default());
        if let Some(stamp) = stamp {
            let content = Content { id: ContentId::of_block(&stamp.to_le_bytes()), len: 8 };
            row.record.write(Dot { stamp: Stamp(stamp), replica: 1 }, Some(content));
        }
        all.begin([(&key[..], *told)].into_iter());
        let written = Written { name, row: &row, is_wanted: false, placed_before: None, short: None };
        match stamp {
            Some(_) => index.write(&[written], Durability::Async).expect("written"),
            None => index.forget(name).expect("forgotten"),
        }
        *told = digest(&key, &row.record);
        all.end(index, [(&key[..], *told)].into_iter()).expect("ended");
    }

    fn write(index: &Index, all: &Fingerprints, writer: u64, is_over: &AtomicBool) {
        let app = AppName::new("app").expect("a name");
        let name = |n: u64| Name { app: app.clone(), path: RelPath::new(format!("{:04}", n)).expect("a path") };
        let names: Vec<Name> = (0..ROWS_OF_ONE).map(|n| name(n * WRITERS + writer)).collect();
        let (mut told, mut rng) = (vec![None; names.len()], fastrand::Rng::new());
        for (at, name) in names.iter().enumerate() {
            change(index, all, name, &mut told[at], Some(1));
        }
        for stamp in 2.. {
            let at = rng.usize(..names.len());
            change(index, all, &names[at], &mut told[at], rng.bool().then_some(stamp));
            if is_over.load(Ordering::Acquire) {
                return;
            }
        }
    }

    #[test]
    fn those_made_while_all_write_are_those_of_what_was_written() {
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a directory");
            let (index, all, is_over) = (index(dir.path()), Fingerprints::default(), AtomicBool::new(false));
            std::thread::scope(|scope| {
                for writer in 0..WRITERS {
                    let (index, all, is_over) = (&index, &all, &is_over);
                    scope.spawn(move || write(index, all, writer, is_over));
                }
                SystemClock.sleep(Duration::from_millis(100));
                all.make(&index).expect("made");
                SystemClock.sleep(Duration::from_millis(20));
                is_over.store(true, Ordering::Release);
            });
            let none = BTreeMap::new();
            let rows = Digests { view: index.view().expect("a view"), written: &none };
            let fresh = Tree::build(&rows).expect("built");
            let bounds: Vec<String> = (0..=6).map(|n| format!("app\0{:04}", n * 1_000)).collect();
            for pair in bounds.windows(2) {
                let range = (pair[0].as_bytes(), Some(pair[1].as_bytes()));
                let sum = |tree: &Tree| tree.fingerprint(&rows, range).expect("summed");
                let made = all.with(&index, |_, tree| Ok(sum(tree))).expect("there");
                assert_eq!(made, sum(&fresh), "{range:?}");
            }
            index.close();
        }
    }
}
