//! What is known of one name: its versions that nothing replaced, what was seen, who has what.
//!
//! A dotted version vector set (Preguiça and others, "Dotted Version Vectors", 2010): each version has a
//! dot, the replica that made it and its stamp there; `seen` has the last dot of each replica. Invariant:
//! records merge in any order, any number of times, to the same one; a version is gone exactly when
//! somebody who had it replaced it, and of those that are left all agree which one the name shows.

use crate::placement::Place;
use crate::{ContentId, Stamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replica, by the number that was drawn when its index was made: who lost it is somebody else.
pub type ReplicaId = u64;

/// Contents that a name does not show, and that stay when it is written, at most: two sides that write one name all the
/// time, and never see what the other wrote in time, leave one for each turn.
pub const LOSERS_MAX: usize = 100;
/// Versions of one name that stand side by side, at most: beyond that a record is refused as malformed.
pub const VERSIONS_MAX: usize = 1_000;
/// Replicas that a record tells of, at most.
pub const REPLICAS_MAX: usize = 1_000;

/// Which version: no two have the same. Ordered by stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// When it was made.
    pub stamp: Stamp,
    /// By whom.
    pub replica: ReplicaId,
}

/// What a version holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its id.
    pub id: ContentId,
    /// Its length in bytes.
    pub len: u64,
}

/// One version of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Which.
    pub dot: Dot,
    /// What it holds; `None`: the name was deleted.
    pub content: Option<Content>,
    /// Versions that its author knew and left standing beside it: the name does not show them.
    pub over: Vec<Dot>,
    /// Where its copies shall lie; `None`: as each member has it for all that is not told.
    pub place: Option<Place>,
}

/// What one replica says that it has, durably, as of a stamp of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// A later claim of the same replica takes its place.
    pub at: Stamp,
    /// Versions, in order: their content, or the knowledge that they deleted the name.
    pub of: Vec<Dot>,
}

/// What is known of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// By dot.
    versions: Vec<Version>,
    seen: BTreeMap<ReplicaId, Stamp>,
    claims: BTreeMap<ReplicaId, Claim>,
}

impl Record {
    /// Versions that nothing replaced, by dot. Several: they were made at once, or one is deleted.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The version of a dot.
    pub fn version(&self, dot: &Dot) -> Option<&Version> {
        self.position(dot).ok().map(|at| &self.versions[at])
    }

    /// The version that the name shows. Of those that no other one was put above: what was written before what was
    /// deleted, so that nothing vanishes that somebody just wrote; then the later.
    pub fn winner(&self) -> Option<&Version> {
        let mut under: Vec<Dot> = self.versions.iter().flat_map(|version| version.over.iter().copied()).collect();
        under.sort_unstable();
        let is_above = |one: &Version| under.binary_search(&one.dot).is_err();
        let rank = |version: &&Version| (is_above(version), version.content.is_some(), version.dot);
        self.versions.iter().max_by_key(rank)
    }

    /// Contents that the name does not show, though nothing replaced them.
    pub fn losers(&self) -> impl Iterator<Item = &Version> {
        let winner = self.winner().map(|winner| winner.dot);
        self.versions.iter().filter(move |version| Some(version.dot) != winner && version.content.is_some())
    }

    /// What it shows.
    pub fn shown(&self) -> Option<Content> {
        self.winner().and_then(|winner| winner.content)
    }

    /// The last dot of each replica that was seen.
    pub fn seen(&self) -> impl Iterator<Item = Dot> + '_ {
        self.seen.iter().map(|(replica, stamp)| Dot { stamp: *stamp, replica: *replica })
    }

    /// Whether all that is left are deletions of which these replicas say that they know.
    pub fn is_known_deleted(&self, replicas: &[ReplicaId]) -> bool {
        let is_known = |dot: Dot| replicas.iter().all(|replica| self.holders(dot).any(|holder| holder == *replica));
        self.versions.iter().all(|version| version.content.is_none() && is_known(version.dot))
    }

    /// Of what `other` tells, know that versions are gone which are not here and `was_seen` before; whether there were
    /// any that nobody knew of as gone.
    pub fn refuse(&mut self, other: &Self, was_seen: impl Fn(&Dot) -> bool) -> bool {
        let dots = other.versions.iter().map(|version| version.dot);
        let gone: Vec<Dot> = dots.filter(|dot| !self.has_seen(dot) && was_seen(dot)).collect();
        for dot in &gone {
            let seen = self.seen.entry(dot.replica).or_default();
            *seen = (*seen).max(dot.stamp);
        }
        !gone.is_empty()
    }

    /// The last dot of a replica that was seen.
    pub fn last_of(&self, replica: ReplicaId) -> Option<Stamp> {
        self.seen.get(&replica).copied()
    }

    /// The last stamp of a replica in it.
    pub fn last_stamp_of(&self, replica: ReplicaId) -> Stamp {
        let claimed = self.claims.get(&replica).map(|claim| claim.at);
        self.last_of(replica).max(claimed).unwrap_or_default()
    }

    /// Bytes that it takes when it is sent, at most.
    pub fn len_max(&self) -> usize {
        let of_versions = self.versions.iter().map(|version| 83 + 20 * version.over.len());
        let of_claims = self.claims.values().map(|claim| 40 + 20 * claim.of.len());
        40 + 20 * self.seen.len() + of_versions.chain(of_claims).sum::<usize>()
    }

    /// Whether it stays sound with what a few writers add.
    pub fn has_room(&self) -> bool {
        self.versions.len() + LOSERS_MAX <= VERSIONS_MAX && self.is_sound()
    }

    /// A version of this name, made here and now: it replaces the one that the name shows. Contents beside it stay, the
    /// latest [`LOSERS_MAX`] of them.
    pub fn write(&mut self, dot: Dot, content: Option<Content>) {
        let winner = self.winner().map(|winner| winner.dot);
        self.versions.retain(|version| Some(version.dot) != winner && version.content.is_some());
        self.versions.drain(..self.versions.len().saturating_sub(LOSERS_MAX));
        let over = self.versions.iter().map(|version| version.dot).collect();
        self.add(Version { dot, content, over, place: None });
    }

    /// A version that was made of `base` by somebody who may not have known the others: it replaces that one only,
    /// and stands beside the rest as if it came from elsewhere.
    pub fn edit(&mut self, dot: Dot, content: Option<Content>, base: Option<Dot>) {
        self.versions.retain(|version| Some(version.dot) != base);
        self.add(Version { dot, content, over: Vec::new(), place: None });
    }

    /// A version, made here and now, that replaces all.
    pub fn resolve(&mut self, dot: Dot, content: Option<Content>) {
        self.versions.clear();
        self.add(Version { dot, content, over: Vec::new(), place: None });
    }

    /// Where the copies of a version shall lie: to be said by its author before anybody else knows of it.
    pub fn put_place(&mut self, dot: &Dot, place: Option<Place>) {
        if let Ok(at) = self.position(dot) {
            self.versions[at].place = place;
        }
    }

    /// What another replica knows; whether that was news.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        let stays = |version: &Version, there: &Self| there.has(&version.dot) || !there.has_seen(&version.dot);
        let mut versions: Vec<Version> =
            before.versions.iter().filter(|version| stays(version, other)).cloned().collect();
        let news = other.versions.iter().filter(|version| !before.has(&version.dot) && stays(version, &before));
        versions.extend(news.cloned());
        versions.sort_by_key(|version| version.dot);
        self.versions = versions;
        for (replica, stamp) in &other.seen {
            let seen = self.seen.entry(*replica).or_default();
            *seen = (*seen).max(*stamp);
        }
        for (replica, claim) in &other.claims {
            let own = self.claims.entry(*replica).or_default();
            if own.at < claim.at {
                own.clone_from(claim);
            }
        }
        self.tidy();
        *self != before
    }

    /// From now on `replica` says that it has these, and nothing else; whether that is another word than before.
    pub fn claim(&mut self, replica: ReplicaId, at: Stamp, mut of: Vec<Dot>) -> bool {
        of.sort_unstable();
        of.dedup();
        of.retain(|dot| self.has(dot));
        if self.claims.get(&replica).map_or(of.is_empty(), |claim| claim.of == of) {
            return false;
        }
        self.claims.insert(replica, Claim { at, of });
        true
    }

    /// Who says that it has a version.
    pub fn holders(&self, dot: Dot) -> impl Iterator<Item = ReplicaId> + '_ {
        self.claims.iter().filter(move |(_, claim)| claim.of.contains(&dot)).map(|(replica, _)| *replica)
    }

    /// The latest stamp in it.
    pub fn last(&self) -> Stamp {
        let claimed = self.claims.values().map(|claim| claim.at);
        self.seen.values().copied().chain(claimed).max().unwrap_or_default()
    }

    /// Whether it is one that these functions could have made: it may come from anybody.
    pub fn is_sound(&self) -> bool {
        let is_small =
            self.versions.len() <= VERSIONS_MAX && self.seen.len() <= REPLICAS_MAX && self.claims.len() <= REPLICAS_MAX;
        let in_order = |dots: &[Dot]| dots.windows(2).all(|two| two[0] < two[1]);
        let is_version = |version: &Version| {
            let len = version.content.map_or(0, |content| content.len);
            self.has_seen(&version.dot) && in_order(&version.over) && len <= crate::id::CONTENT_LEN_MAX
        };
        is_small
            && self.versions.windows(2).all(|two| two[0].dot < two[1].dot)
            && self.versions.iter().all(is_version)
            && self.claims.values().all(|claim| in_order(&claim.of) && claim.of.iter().all(|dot| self.has(dot)))
    }

    fn add(&mut self, version: Version) {
        self.seen.insert(version.dot.replica, version.dot.stamp);
        self.versions.push(version);
        self.versions.sort_by_key(|version| version.dot);
        self.tidy();
    }

    /// Of versions that are gone nothing is said any more. Claims stay when they have become empty: an older one of
    /// the same replica must not come back.
    fn tidy(&mut self) {
        let there: Vec<Dot> = self.versions.iter().map(|version| version.dot).collect();
        let is_there = |dot: &Dot| there.binary_search(dot).is_ok();
        self.versions.iter_mut().for_each(|version| version.over.retain(is_there));
        self.claims.values_mut().for_each(|claim| claim.of.retain(is_there));
    }

    fn position(&self, dot: &Dot) -> Result<usize, usize> {
        self.versions.binary_search_by_key(dot, |version| version.dot)
    }

    fn has(&self, dot: &Dot) -> bool {
        self.position(dot).is_ok()
    }

    /// Whether a version was seen, which may be gone.
    pub fn has_seen(&self, dot: &Dot) -> bool {
        self.seen.get(&dot.replica).is_some_and(|last| *last >= dot.stamp)
    }
}
