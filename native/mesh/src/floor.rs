//! What of each replica was seen here, of all files at once: so that a deletion needs no row for ever.
//!
//! A node-wide causal context (Gonçalves and others, "DottedDB", 2017). Invariant: each version that a replica made up
//! to its stamp here lies in this index, or was replaced or deleted by somebody who had it. So of a name without a row,
//! such a version is one that was deleted, whoever still tells of it; see docs/architecture.md, "Deletions end".

use crate::record::{Dot, Record, ReplicaId, REPLICAS_MAX};
use crate::shared::Shared;
use crate::{MeshError, Name, Stamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The last stamp of each replica up to which all is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor(BTreeMap<ReplicaId, Stamp>);

impl Floor {
    /// Whether a version was seen.
    pub fn has(&self, dot: &Dot) -> bool {
        self.0.get(&dot.replica).is_some_and(|upto| *upto >= dot.stamp)
    }

    /// All of a replica up to there was seen, too; whether that was news. One more replica than can be is not noted.
    pub fn raise(&mut self, replica: ReplicaId, upto: Stamp) -> bool {
        let is_full = self.0.len() >= REPLICAS_MAX;
        match self.0.get_mut(&replica) {
            Some(own) if *own >= upto => false,
            Some(own) => {
                *own = upto;
                true
            }
            None if is_full => false,
            None => self.0.insert(replica, upto).is_none(),
        }
    }

    /// All that another has seen was seen, too: to be said when all that it knew when it said so was merged.
    pub fn merge(&mut self, other: &Self) -> bool {
        other.0.iter().fold(false, |is_news, (replica, upto)| self.raise(*replica, *upto) | is_news)
    }

    /// Without what is said of a replica.
    pub fn without(mut self, replica: ReplicaId) -> Self {
        self.0.remove(&replica);
        self
    }

    /// Of what was made until then only.
    pub fn until(mut self, then: Stamp) -> Self {
        self.0.values_mut().for_each(|upto| *upto = (*upto).min(then));
        self
    }

    /// Whether it is one that may come from another member.
    pub fn is_sound(&self) -> bool {
        self.0.len() <= REPLICAS_MAX
    }
}

/// Stamps of versions that are being made, and are in no row yet.
#[derive(Default)]
pub(crate) struct InMaking(Mutex<BTreeSet<Stamp>>);

/// A version that is being made, until it is dropped: by then a row has it, or nothing ever will.
pub(crate) struct Making<'a> {
    all: &'a InMaking,
    stamp: Stamp,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.stamp);
    }
}

impl Shared {
    /// The dot of a version that is made here and now; to be held until the row is written.
    pub fn make(&self) -> Result<(Dot, Making<'_>), MeshError> {
        let mut making = self.in_making.0.lock();
        let stamp = self.stamp()?;
        making.insert(stamp);
        drop(making);
        Ok((Dot { stamp, replica: self.own() }, Making { all: &self.in_making, stamp }))
    }

    /// All that this replica made up to there is in rows, durably, and nothing up to there will ever be made.
    fn all_made(&self) -> Result<Stamp, MeshError> {
        let making = self.in_making.0.lock();
        let before = making.first().map(|first| Stamp(first.0 - 1));
        let mut upto = self.last_reserved().min(before.unwrap_or(Stamp(u64::MAX)));
        drop(making);
        for name in self.index.pending()? {
            // it becomes known with the file's next turn
            let row = self.index.row(&name)?.unwrap_or_default();
            let seen = row.record.last_of(self.own()).unwrap_or_default();
            let pending = row.here.pending.iter().flat_map(|pending| pending.record.versions());
            let own = pending.map(|version| version.dot).filter(|dot| dot.replica == self.own() && dot.stamp > seen);
            upto = own.map(|dot| Stamp(dot.stamp.0 - 1)).fold(upto, Stamp::min);
        }
        Ok(upto)
    }

    /// What was seen here, and made here.
    pub fn floor(&self) -> Result<Floor, MeshError> {
        let upto = self.all_made()?;
        let mut floor = self.floor.lock();
        if floor.raise(self.own(), upto) {
            // an index that can be written to no more may have rows that only the next process sees
            self.index.put_floor(&floor, macula_kv::Durability::Sync)?;
        }
        Ok(floor.clone())
    }

    /// All that a peer knew when it said so was merged here.
    pub fn raise_floor(&self, theirs: Floor) -> Result<(), MeshError> {
        let mut floor = self.floor.lock();
        let mut raised = floor.clone();
        // what this replica made nobody knows better, and who says that he saw what will be made keeps nobody from it
        if raised.merge(&theirs.without(self.own()).until(Stamp::at(self.clock.wall_ms()))) {
            self.index.put_floor(&raised, macula_kv::Durability::Async)?;
            *floor = raised;
        }
        Ok(())
    }

    /// Know of a name that what was seen and is not there was deleted; whether `other` tells of such a version.
    pub fn refuse_seen(&self, record: &mut Record, other: &Record) -> bool {
        let floor = self.floor.lock();
        record.refuse(other, |dot| dot.replica == self.own() || floor.has(dot))
    }

    /// Whether nothing of a row is needed any more: all members know of the deletion, and nobody's version that it
    /// hides can come back.
    pub fn is_over(&self, record: &Record, members: &[ReplicaId]) -> bool {
        let floor = self.floor.lock();
        let is_seen = |dot: Dot| dot.replica == self.own() || floor.has(&dot);
        record.is_known_deleted(members) && record.seen().all(is_seen)
    }

    /// The replicas of all members; nothing while one is not known.
    pub fn members_replicas(&self) -> Option<Vec<ReplicaId>> {
        let cards = self.cards();
        let of = |name: &str| cards.iter().find(|card| card.name == name).map(|card| card.replica);
        let others = self.members.members().into_iter().map(|member| of(&member.name));
        others.chain([Some(self.own())]).collect()
    }

    /// Whether each member told this process all that it knows.
    pub fn is_told_by_all(&self) -> bool {
        let told_by = self.told_by.lock();
        let is_told = |replica: &ReplicaId| *replica == self.own() || told_by.contains(replica);
        self.members_replicas().is_some_and(|replicas| replicas.iter().all(is_told))
    }

    /// Forget a name of which nothing is left but that it was deleted. It has no turn: its app may be closed.
    pub fn forget(&self, name: &Name, members: &[ReplicaId]) -> Result<(), MeshError> {
        let _alone = self.lock(name);
        let Some(row) = self.index.row(name)? else { return Ok(()) };
        let is_here = row.here.placed.is_some() || row.here.pending.is_some() || !row.here.kept.is_empty();
        if is_here || !self.is_over(&row.record, members) {
            return Ok(());
        }
        let (key, told) = (name.key(), self.digest(name, &row.record));
        self.fingerprints.begin([(&key[..], told)].into_iter());
        let forgotten = self.index.forget(name);
        let now = if forgotten.is_ok() { None } else { told };
        self.fingerprints.end(&self.index, [(&key[..], now)].into_iter())?;
        forgotten
    }
}
