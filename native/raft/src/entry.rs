//! An entry as bytes, the same in the log and on the wire. Format: docs/formats.md, "Replicated log".
//!
//! Invariant: the shape is ours. openraft's own may change with its version, these bytes may not.

use crate::types::{Blob, Entry, LeaderId, LogId, Member, Proposal, Vote};
use crate::RaftError;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Of the bytes below.
pub(crate) const VERSION: u8 = 1;

/// A [`LogId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) index: u64,
}

/// A [`Vote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) is_committed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    place: Place,
    payload: Payload,
}

#[derive(Debug, Serialize, Deserialize)]
enum Payload {
    Blank,
    Command { time_ms: u64, command: Blob },
    Members(Members),
}

/// A [`Membership`]: the voters of one or, in the middle of a change, two configurations, and who all are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

impl From<&LogId> for Place {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Place> for LogId {
    fn from(place: Place) -> Self {
        let leader_id = LeaderId { term: place.term, node_id: place.node };
        Self { leader_id, index: place.index }
    }
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, is_committed: vote.committed }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Self {
        let leader_id = RaftLeaderId::new(ballot.term, ballot.node);
        Self { leader_id, committed: ballot.is_committed }
    }
}

impl From<&Membership<u64, Member>> for Members {
    fn from(membership: &Membership<u64, Member>) -> Self {
        let nodes = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        Self { voters: membership.get_joint_config().clone(), nodes }
    }
}

impl TryFrom<Members> for Membership<u64, Member> {
    type Error = RaftError;

    fn try_from(members: Members) -> Result<Self, RaftError> {
        let Members { voters, nodes } = members;
        if nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(voters, nodes).map_err(|error| RaftError::corrupt("members", error.to_string()))
    }
}

/// The bytes of an entry, behind [`VERSION`] wherever they are kept.
pub(crate) fn encode(entry: &Entry) -> Result<Vec<u8>, RaftError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(Proposal { time_ms, command }) => {
            Payload::Command { time_ms: *time_ms, command: command.clone() }
        }
        EntryPayload::Membership(membership) => Payload::Members(membership.into()),
    };
    let room = Vec::with_capacity(crate::log::len_of(entry));
    to_bytes_behind(room, &Record { place: (&entry.log_id).into(), payload })
}

/// The entry of such bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, RaftError> {
    let Record { place, payload } = from_bytes("entry", bytes)?;
    let payload = match payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command { time_ms, command } => EntryPayload::Normal(Proposal { time_ms, command }),
        Payload::Members(members) => EntryPayload::Membership(members.try_into()?),
    };
    Ok(Entry::new(place.into(), payload))
}

pub(crate) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, RaftError> {
    to_bytes_behind(Vec::new(), value)
}

/// Behind what is there; who knows about how long it becomes gives the room for it.
pub(crate) fn to_bytes_behind(bytes: Vec<u8>, value: &impl Serialize) -> Result<Vec<u8>, RaftError> {
    postcard::to_extend(value, bytes).map_err(|error| RaftError::Internal(format!("cannot be encoded: {error}")))
}

/// Nothing may be left behind the value.
pub(crate) fn from_bytes<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, RaftError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(RaftError::corrupt(what, format!("{} bytes too many", rest.len()))),
        Err(error) => Err(RaftError::corrupt(what, error.to_string())),
    }
}
