//! What this replica knows of every file, in a key-value store of its own.
//!
//! Keys begin with a byte that says what they are of: `f` a file's row, `c` a long content that lies here, `d` a short
//! content whose file is not synced yet, `m` a manifest, `p` a file whose change is pending, `w` a file of which content
//! is wanted here, `r` a replica's card, `v` what was seen of each, `t` the mark of the directory of an app's files, `k` what became of scrubs, `s` this replica itself.
//! Invariant: `c`, `p` and `w` are written in the batch that makes them true or ends it.

use crate::floor::Floor;
use crate::id::Manifest;
use crate::placement::Card;
use crate::rounds::Rounds;
use crate::row::Row;
use crate::tree::TreeMark;
use crate::{ContentId, Dot, MeshError, Name, ReplicaId, Stamp};
use macula_core::{AppName, Chance};
use macula_kv::{Batch, Durability, Op, Options, PageLimits, Snapshot, Store};
use serde::{Deserialize, Serialize};
use std::ops::Bound;

const FILE: u8 = b'f';
const CONTENT: u8 = b'c';
const SHORT: u8 = b'd';
const MANIFEST: u8 = b'm';
const PENDING: u8 = b'p';
const WANTED: u8 = b'w';
const CARD: u8 = b'r';
const TREE: u8 = b't';
const ROUNDS: &[u8] = b"k";
const SEEN: &[u8] = b"v";
const SELF: &[u8] = b"s";
const SELF_VERSION: u8 = 1;
/// Memory of what was written to it and waits to come into its file, bytes; as much again while it does.
const TABLE_BYTES_MAX: usize = 6 << 20;
/// Contents that are forgotten at once.
const FORGOTTEN_MAX: usize = 1_000;
const PAGE: PageLimits = PageLimits { entries_max: 1_000, bytes_max: 1 << 20, value_len_max: usize::MAX };

/// What this replica is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Oneself {
    replica: ReplicaId,
    /// Stamps up to here may have been given.
    stamped: Stamp,
}

/// The index.
#[derive(Debug, Clone)]
pub struct Index {
    store: Store,
    replica: ReplicaId,
}

/// The index at one moment.
pub(crate) struct View(Snapshot);

/// Is shown a key and what belongs to it, and says whether it wants more.
pub(crate) type EachRecord<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> bool + 'a;

/// Is shown a key and its value, and says whether it wants more; an error ends it.
type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, MeshError> + 'a;

/// From a key to a key.
type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One row, to be written.
#[derive(Debug)]
pub struct Change<'a> {
    /// Of which file.
    pub name: &'a Name,
    /// From now on.
    pub row: &'a Row,
    /// Whether content of it is wanted here.
    pub is_wanted: bool,
    /// The content that lay under the name before.
    pub placed_before: Option<ContentId>,
    /// A short content that the index keeps for its file, until that is synced.
    pub short: Option<(Dot, &'a [u8])>,
}

fn key_of(of: u8, key: &[u8]) -> Vec<u8> {
    [&[of], key].concat()
}

/// How its store is to behave. A short content is forgotten soon after it came: where that is in the same table,
/// the store's file sees neither.
pub fn store_options() -> Options {
    Options { table_bytes_max: TABLE_BYTES_MAX, ..Options::default() }
}

impl Index {
    /// The index in a store, which is empty or was one before, and the last stamp that may have been given.
    ///
    /// # Errors
    /// [`MeshError::NewerFormat`]; [`MeshError::Index`].
    pub fn open(store: Store, chance: &dyn Chance) -> Result<(Self, Stamp), MeshError> {
        let oneself = match store.get(SELF)? {
            Some(bytes) => match bytes.split_first() {
                Some((&SELF_VERSION, oneself)) => postcard::from_bytes(oneself)
                    .map_err(|error| MeshError::Malformed(format!("the index's own row: {error}")))?,
                version => return Err(MeshError::NewerFormat(version.map_or(0, |(version, _)| *version))),
            },
            None => {
                let oneself = Oneself { replica: chance.next_u64() | 1, stamped: Stamp::default() };
                store.write(Batch::put(SELF, encode(SELF_VERSION, &oneself)?))?;
                oneself
            }
        };
        Ok((Self { store, replica: oneself.replica }, oneself.stamped))
    }

    /// This replica's number.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Stamps up to here may be given from now on. Durable.
    pub fn reserve(&self, stamped: Stamp) -> Result<(), MeshError> {
        let oneself = encode(SELF_VERSION, &Oneself { replica: self.replica, stamped })?;
        self.store.write(Batch::put(SELF, oneself))?;
        Ok(())
    }

    /// What is known of a file.
    pub fn row(&self, name: &Name) -> Result<Option<Row>, MeshError> {
        self.row_of_key(&name.key())
    }

    /// The same by its key.
    pub fn row_of_key(&self, key: &[u8]) -> Result<Option<Row>, MeshError> {
        let row = self.store.get_with(&key_of(FILE, key), usize::MAX, Row::decode)?;
        row.transpose()
    }

    /// Write rows: durably, or so that they survive the process and are durable soon.
    pub fn write(&self, changes: &[Change<'_>], durability: Durability) -> Result<(), MeshError> {
        let mut ops = Vec::with_capacity(changes.len() * 3);
        for change in changes {
            let key = change.name.key();
            ops.push(Op::Put { key: key_of(FILE, &key), value: change.row.encode()? });
            ops.push(mark(PENDING, &key, change.row.here.pending.is_some()));
            ops.push(mark(WANTED, &key, change.is_wanted));
            if let Some((dot, content)) = change.short {
                ops.push(Op::Put { key: short_key(&key, &dot), value: content.to_vec() });
            }
            let placed = change.row.here.placed.map(|placed| placed.content.id);
            if placed != change.placed_before {
                let mark_of = |id: ContentId, is_set| mark(CONTENT, &[&id.hash[..], &key].concat(), is_set);
                ops.extend(change.placed_before.filter(|id| id.is_manifest).map(|id| mark_of(id, false)));
                ops.extend(placed.filter(|id| id.is_manifest).map(|id| mark_of(id, true)));
            }
        }
        self.store.write(Batch { ops, durability: Some(durability), ..Batch::default() })?;
        Ok(())
    }

    /// A short content that is kept for a file of that version.
    pub fn short(&self, name: &Name, dot: &Dot) -> Result<Option<Vec<u8>>, MeshError> {
        Ok(self.store.get(&short_key(&name.key(), dot))?)
    }

    /// All of them.
    pub fn shorts(&self) -> Result<Vec<(Name, Dot)>, MeshError> {
        let mut found = Vec::new();
        let each = &mut |key: &[u8], _: &[u8]| {
            found.push(name_and_dot(key));
            true
        };
        self.scan(SHORT, (Bound::Unbounded, Bound::Unbounded), each)?;
        found.into_iter().collect()
    }

    /// Their files are durable.
    pub fn forget_short(&self, names: &[(Name, Dot)]) -> Result<(), MeshError> {
        for names in names.chunks(FORGOTTEN_MAX) {
            let ops = names.iter().map(|(name, dot)| Op::Delete { key: short_key(&name.key(), dot) }).collect();
            self.store.write(Batch { ops, durability: Some(Durability::Async), ..Batch::default() })?;
        }
        Ok(())
    }

    /// A file under whose name a long content lies.
    pub fn name_with(&self, id: &ContentId) -> Result<Option<Name>, MeshError> {
        let mut found = None;
        let each = &mut |key: &[u8], _: &[u8]| {
            found = key.strip_prefix(&id.hash).map(Name::of_key);
            false
        };
        self.scan(CONTENT, (Bound::Included(&id.hash), Bound::Unbounded), each)?;
        found.transpose()
    }

    /// The blocks of a content, when they are known.
    pub fn manifest(&self, id: &ContentId) -> Result<Option<Manifest>, MeshError> {
        match self.store.get(&key_of(MANIFEST, &id.hash))? {
            Some(bytes) => Manifest::decode(&bytes, id).map(Some),
            None => Ok(None),
        }
    }

    /// Know them from now on. Durable with the next row.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<(), MeshError> {
        let id = manifest.id();
        if id.is_manifest {
            let mut batch = Batch::put(key_of(MANIFEST, &id.hash), manifest.encode());
            batch.durability = Some(Durability::Async);
            self.store.write(batch)?;
        }
        Ok(())
    }

    /// Who other replicas are.
    pub fn cards(&self) -> Result<Vec<Card>, MeshError> {
        let mut cards = Vec::new();
        let each = &mut |_: &[u8], card: &[u8]| {
            cards.push(decode(SELF_VERSION, card));
            true
        };
        self.scan(CARD, (Bound::Unbounded, Bound::Unbounded), each)?;
        cards.into_iter().collect()
    }

    /// Who a replica is, from now on; a former one of that name is none any more.
    pub fn put_card(&self, card: &Card, former: &[ReplicaId]) -> Result<(), MeshError> {
        let mut batch = Batch::put(key_of(CARD, &card.replica.to_be_bytes()), encode(SELF_VERSION, card)?);
        batch.ops.extend(former.iter().map(|replica| Op::Delete { key: key_of(CARD, &replica.to_be_bytes()) }));
        self.store.write(batch)?;
        Ok(())
    }

    /// The mark of the directory into which files of an app were put.
    pub fn tree(&self, app: &AppName) -> Result<Option<TreeMark>, MeshError> {
        let mark = self.store.get(&key_of(TREE, app.as_str().as_bytes()))?;
        Ok(mark.and_then(|mark| mark.try_into().ok()))
    }

    /// It is this one from now on.
    pub fn put_tree(&self, app: &AppName, mark: &TreeMark) -> Result<(), MeshError> {
        self.store.write(Batch::put(key_of(TREE, app.as_str().as_bytes()), mark.to_vec()))?;
        Ok(())
    }

    /// What became of scrubs.
    pub fn rounds(&self) -> Result<Option<Rounds>, MeshError> {
        self.store.get(ROUNDS)?.map(|bytes| decode(SELF_VERSION, &bytes)).transpose()
    }

    /// It is this from now on; durable soon.
    pub fn put_rounds(&self, rounds: &Rounds) -> Result<(), MeshError> {
        let mut batch = Batch::put(ROUNDS, encode(SELF_VERSION, rounds)?);
        batch.durability = Some(Durability::Async);
        self.store.write(batch)?;
        Ok(())
    }

    /// What was seen of each replica.
    pub fn floor(&self) -> Result<Floor, MeshError> {
        Ok(self.store.get(SEEN)?.map(|bytes| decode(SELF_VERSION, &bytes)).transpose()?.unwrap_or_default())
    }

    /// It is this from now on. Durable not before the rows that were written before it.
    pub fn put_floor(&self, floor: &Floor, durability: Durability) -> Result<(), MeshError> {
        let mut batch = Batch::put(SEEN, encode(SELF_VERSION, floor)?);
        batch.durability = Some(durability);
        self.store.write(batch)?;
        Ok(())
    }

    /// Of a file nothing is known any more. Durable soon.
    pub fn forget(&self, name: &Name) -> Result<(), MeshError> {
        let key = name.key();
        let ops = [FILE, PENDING, WANTED].map(|of| Op::Delete { key: key_of(of, &key) }).into();
        self.store.write(Batch { ops, durability: Some(Durability::Async), ..Batch::default() })?;
        Ok(())
    }

    /// Files whose change is pending.
    pub fn pending(&self) -> Result<Vec<Name>, MeshError> {
        self.marked(PENDING)
    }

    /// Files of which content is wanted here.
    pub fn wanted(&self) -> Result<Vec<Name>, MeshError> {
        self.marked(WANTED)
    }

    fn marked(&self, of: u8) -> Result<Vec<Name>, MeshError> {
        let mut names = Vec::new();
        let each = &mut |key: &[u8], _: &[u8]| {
            names.push(Name::of_key(key));
            true
        };
        self.scan(of, (Bound::Unbounded, Bound::Unbounded), each)?;
        names.into_iter().collect()
    }

    /// Rows whose keys are in a range, in order, while `each` says so.
    pub fn rows(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        each: &mut dyn FnMut(&[u8], Row) -> bool,
    ) -> Result<(), MeshError> {
        self.view()?.scan(FILE, range, &mut |key, row| Ok(each(key, Row::decode(row)?)))
    }

    /// Rows in a range, in order, at most so many.
    pub fn page(&self, range: (Bound<&[u8]>, Bound<&[u8]>), limit: usize) -> Result<Vec<(Name, Row)>, MeshError> {
        let mut rows = Vec::new();
        self.rows(range, &mut |key, row| {
            rows.push(Name::of_key(key).map(|name| (name, row)));
            rows.len() < limit
        })?;
        rows.into_iter().collect()
    }

    /// It as it is now.
    pub fn view(&self) -> Result<View, MeshError> {
        Ok(View(self.store.snapshot()?))
    }

    fn scan(&self, of: u8, range: Range<'_>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), MeshError> {
        self.view()?.scan(of, range, &mut |key, value| Ok(each(key, value)))
    }

    /// Close it; waits for what is under way.
    pub fn close(&self) {
        self.store.close();
    }
}

impl View {
    /// Rows whose keys are in a range, in order, while `each` says so: of each its record, encoded, unless it has no
    /// versions.
    pub fn records(&self, range: Range<'_>, each: &mut EachRecord<'_>) -> Result<(), MeshError> {
        self.scan(FILE, range, &mut |key, row| Ok(each(key, Row::record_of(row)?)))
    }

    fn scan(&self, of: u8, (from, to): Range<'_>, each: &mut Each<'_>) -> Result<(), MeshError> {
        let with = |bound: Bound<&[u8]>, open: Bound<Vec<u8>>| match bound {
            Bound::Included(key) => Bound::Included(key_of(of, key)),
            Bound::Excluded(key) => Bound::Excluded(key_of(of, key)),
            Bound::Unbounded => open,
        };
        let mut from = with(from, Bound::Included(vec![of]));
        let to = with(to, Bound::Excluded(vec![of + 1]));
        loop {
            let page = self.0.page(&(from, to.clone()), false, PAGE)?;
            for (key, value) in &page.entries {
                if !each(&key[1..], value)? {
                    return Ok(());
                }
            }
            match page.next {
                Some(last) => from = Bound::Excluded(last),
                None => return Ok(()),
            }
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn short_key(key: &[u8], dot: &Dot) -> Vec<u8> {
    [&[SHORT], key, &dot.stamp.0.to_be_bytes()[..], &dot.replica.to_be_bytes()].concat()
}

fn name_and_dot(key: &[u8]) -> Result<(Name, Dot), MeshError> {
    let cut = key.split_last_chunk::<8>().and_then(|(rest, replica)| {
        let (key, stamp) = rest.split_last_chunk::<8>()?;
        Some((key, Dot { stamp: Stamp(u64::from_be_bytes(*stamp)), replica: u64::from_be_bytes(*replica) }))
    });
    let (key, dot) = cut.ok_or_else(|| MeshError::Malformed("a key of the index".into()))?;
    Ok((Name::of_key(key)?, dot))
}

fn mark(of: u8, key: &[u8], is_set: bool) -> Op {
    let key = key_of(of, key);
    if is_set {
        Op::Put { key, value: Vec::new() }
    } else {
        Op::Delete { key }
    }
}

fn encode(version: u8, value: &impl Serialize) -> Result<Vec<u8>, MeshError> {
    postcard::to_extend(value, vec![version])
        .map_err(|error| MeshError::Internal(format!("a row of the index: {error}")))
}

fn decode<T: for<'a> Deserialize<'a>>(version: u8, bytes: &[u8]) -> Result<T, MeshError> {
    match bytes.split_first() {
        Some((found, value)) if *found == version => {
            postcard::from_bytes(value).map_err(|error| MeshError::Malformed(format!("a row of the index: {error}")))
        }
        found => Err(MeshError::NewerFormat(found.map_or(0, |(found, _)| *found))),
    }
}
