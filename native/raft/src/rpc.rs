//! What members say to each other, as bytes. Format: docs/formats.md, "Replicated state: messages".
//!
//! Invariant: the shapes are ours, behind a version byte, so that members of two versions of openraft, or of
//! this crate, understand each other or refuse each other by name.

use crate::entry::{self, from_bytes, to_bytes_behind, Ballot, Members, Place};
use crate::machine::{self, Event, Pattern};
use crate::members::Change;
use crate::query::{Consistency, Found, Query};
use crate::types::{Blob, ClusterId, Entry, Proposal, StoredMembership, Types};
use crate::RaftError;
use macula_core::{Kind, Kinded};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

/// Of the bytes below.
const VERSION: u8 = 1;
/// What most messages take beside entries, commands and answers.
const OTHER_BYTES: usize = 128;

/// Asked of a member.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Take entries behind `prev`; none of them: a heartbeat.
    Append { vote: Ballot, prev: Option<Place>, committed: Option<Place>, entries: Vec<Blob> },
    /// Grant leadership; `is_pre`: say whether you would.
    Vote { vote: Ballot, last: Option<Place>, is_transfer: bool, is_pre: bool },
    /// Lead, as soon as you have all this.
    Transfer { from: Ballot, to: u64, last: Option<Place> },
    /// A snapshot begins. Another one that was arriving is over.
    Begin { id: u64 },
    /// Its next piece.
    Piece { id: u64, number: u64, rows: Blob },
    /// It is whole: take it.
    End { id: u64, pieces: u64, vote: Ballot, last: Option<Place>, since: Option<Place>, members: Members },
    /// A client's: have this applied.
    Propose(Proposal),
    /// Up to which entry must a read wait that begins now? You lead, as it seems.
    ReadIndex,
    /// Change the members so: you lead, as it seems.
    Change(Change),
    /// Apply these, in this order: you lead, as it seems.
    ProposeMany(Vec<Proposal>),
    /// A client's: who are you, of which cluster?
    Greet,
    /// A client's: read this.
    Query(Query, Consistency),
    /// A client's: what happened behind a revision and matches? Wait so long for the first of it.
    Watch { pattern: Pattern, after: u64, wait_ms: u64 },
}

/// A member's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// They are durable here.
    Appended,
    /// Up to there.
    AppendedUpto(Option<Place>),
    /// What is here before them is another.
    Conflict,
    /// There is a newer vote here.
    HigherVote(Ballot),
    Voted {
        vote: Ballot,
        last: Option<Place>,
        is_granted: bool,
    },
    /// Of a transfer, a piece, a beginning.
    Done,
    Installed {
        vote: Ballot,
    },
    /// Nobody says it any more; the tags behind it stay.
    Applied(Blob),
    ReadAt(Place),
    /// It was not done, and nothing of it is going to happen.
    NotLeader {
        leader: Option<u64>,
    },
    /// It may have happened.
    Unknown,
    NoQuorum,
    /// Not for who got it, or not from who is wanted: nothing was done.
    WrongNode,
    Failed(String),
    /// It cannot be, and was not done.
    Refused(String),
    /// Of several commands, in their order.
    Each(Vec<Outcome>),
    Here {
        cluster: ClusterId,
        number: u64,
    },
    /// Of a client's command.
    Outcome(Outcome),
    Found(Found),
    /// Whole revisions; `more`: ask on at once.
    Events {
        events: Vec<Event>,
        through: u64,
        more: bool,
    },
    /// Not all that happened since is known any more.
    HistoryGone {
        from: u64,
        first: u64,
    },
}

/// What became of one of several commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Applied(Blob),
    /// It was not done, and nothing of it is going to happen; nor in the next three cases.
    NotLeader,
    NoQuorum,
    DiskFull,
    Failed(String),
    /// It may have happened.
    Unknown,
}

impl Outcome {
    /// `None`: it was not done; ask again.
    pub(crate) fn answer(self) -> Result<Option<Blob>, RaftError> {
        match self {
            Self::Applied(answer) => Ok(Some(answer)),
            Self::NotLeader => Ok(None),
            Self::NoQuorum => Err(RaftError::NoQuorum),
            Self::DiskFull => Err(macula_blocks::BlockError::DiskFull.into()),
            Self::Failed(reason) => Err(RaftError::Internal(reason)),
            Self::Unknown => Err(RaftError::Unknown),
        }
    }

    /// The other way round.
    pub(crate) fn of_answer(answer: Result<Option<Blob>, RaftError>) -> Self {
        answer.transpose().map_or(Self::NotLeader, Self::of)
    }

    /// What a client is told of its command.
    pub(crate) fn of(result: Result<Blob, RaftError>) -> Self {
        match result {
            Ok(answer) => Self::Applied(answer),
            Err(RaftError::NoQuorum) => Self::NoQuorum,
            Err(RaftError::NotLeader(_)) => Self::NotLeader,
            Err(RaftError::Unknown | RaftError::Timeout | RaftError::Stopped(_)) => Self::Unknown,
            Err(error) if error.kind() == Kind::DiskFull => Self::DiskFull,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Of which cluster a request is, from whom, and for whom: a node's successor at the same address is somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) cluster: ClusterId,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// About as long as that.
fn framed(len: usize, value: &impl Serialize) -> Result<Vec<u8>, RaftError> {
    let mut bytes = Vec::with_capacity(len);
    bytes.push(VERSION);
    to_bytes_behind(bytes, value)
}

fn unframed<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, RaftError> {
    match bytes {
        [VERSION, rest @ ..] => from_bytes(what, rest),
        [found, ..] => Err(RaftError::NewerFormat { what, found: (*found).into(), known: VERSION.into() }),
        [] => Err(RaftError::corrupt(what, "empty")),
    }
}

impl Request {
    pub(crate) fn encode(&self, envelope: Envelope) -> Result<Vec<u8>, RaftError> {
        framed(self.len(), &(envelope, self))
    }

    /// About.
    fn len(&self) -> usize {
        let blobs: usize = match self {
            Self::Append { entries, .. } => entries.iter().map(|entry| entry.0.len() + 4).sum(),
            Self::Piece { rows, .. } => rows.0.len(),
            Self::ProposeMany(proposals) => proposals.iter().map(|proposal| proposal.command.0.len() + 16).sum(),
            Self::Propose(proposal) => proposal.command.0.len(),
            _ => 0,
        };
        OTHER_BYTES + blobs
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(Envelope, Self), RaftError> {
        unframed("request of a member", bytes)
    }

    pub(crate) fn append(rpc: &AppendEntriesRequest<Types>) -> Result<Self, RaftError> {
        let entries = rpc.entries.iter().map(|entry| Ok(Blob(entry::encode(entry)?.into())));
        Ok(Self::Append {
            vote: (&rpc.vote).into(),
            prev: rpc.prev_log_id.as_ref().map(Place::from),
            committed: rpc.leader_commit.as_ref().map(Place::from),
            entries: entries.collect::<Result<_, RaftError>>()?,
        })
    }

    pub(crate) fn vote(rpc: &VoteRequest<Types>, is_pre: bool) -> Self {
        let last = rpc.last_log_id.as_ref().map(Place::from);
        Self::Vote { vote: (&rpc.vote).into(), last, is_transfer: rpc.leadership_transfer, is_pre }
    }

    pub(crate) fn transfer(rpc: &TransferLeaderRequest<Types>) -> Self {
        let last = rpc.last_log_id().map(Place::from);
        Self::Transfer { from: rpc.from_leader().into(), to: *rpc.to_node_id(), last }
    }
}

/// openraft's request of ours.
pub(crate) fn append_of(
    vote: Ballot,
    prev: Option<Place>,
    committed: Option<Place>,
    entries: &[Blob],
) -> Result<AppendEntriesRequest<Types>, RaftError> {
    let entries = entries.iter().map(|bytes| entry::decode(&bytes.0)).collect::<Result<Vec<Entry>, _>>()?;
    Ok(AppendEntriesRequest {
        vote: vote.into(),
        prev_log_id: prev.map(Into::into),
        entries,
        leader_commit: committed.map(Into::into),
    })
}

/// The members as of an entry.
pub(crate) fn membership_of(since: Option<Place>, members: Members) -> Result<StoredMembership, RaftError> {
    Ok(StoredMembership::new(since.map(Into::into), members.try_into()?))
}

impl Response {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // only what has no end cannot be encoded
        framed(self.len(), self).unwrap_or_default()
    }

    /// About.
    fn len(&self) -> usize {
        let blob = |outcome: &Outcome| if let Outcome::Applied(answer) = outcome { answer.0.len() + 4 } else { 4 };
        match self {
            Self::Each(outcomes) => OTHER_BYTES + outcomes.iter().map(blob).sum::<usize>(),
            _ => OTHER_BYTES,
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RaftError> {
        unframed("answer of a member", bytes)
    }

    /// Why it is no answer.
    pub(crate) fn refusal(self) -> RaftError {
        match self {
            Self::NoQuorum => RaftError::NoQuorum,
            Self::HistoryGone { from, first } => machine::MachineError::HistoryGone { from, first }.into(),
            Self::Failed(reason) => RaftError::Internal(reason),
            Self::Refused(reason) => RaftError::Refused(reason),
            other => RaftError::Internal(format!("an unexpected answer: {other:?}")),
        }
    }

    /// How a change of the members ended.
    pub(crate) fn changed(result: Result<(), RaftError>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(RaftError::NotLeader(_)) => Self::NotLeader { leader: None },
            Err(RaftError::NoQuorum) => Self::NoQuorum,
            Err(RaftError::Timeout) => Self::Unknown,
            Err(RaftError::Refused(reason)) => Self::Refused(reason),
            // one that was under way when the node stopped: it is asked for again
            Err(error) => Self::Failed(error.to_string()),
        }
    }

    /// What it says to who asked for a change of the members.
    pub(crate) fn of_change(self) -> Result<(), RaftError> {
        match self {
            Self::Done => Ok(()),
            Self::Refused(reason) => Err(RaftError::Refused(reason)),
            Self::NoQuorum => Err(RaftError::NoQuorum),
            Self::Unknown => Err(RaftError::Timeout),
            Self::Failed(reason) => Err(RaftError::Internal(reason)),
            Self::NotLeader { .. } => Err(RaftError::NotLeader(None)),
            Self::WrongNode => Err(RaftError::Refused("it is not of that cluster".into())),
            other => Err(RaftError::Internal(format!("an unexpected answer: {other:?}"))),
        }
    }
}

impl From<AppendEntriesResponse<Types>> for Response {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Appended,
            AppendEntriesResponse::PartialSuccess(upto) => Self::AppendedUpto(upto.as_ref().map(Place::from)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote((&vote).into()),
        }
    }
}

impl From<VoteResponse<Types>> for Response {
    fn from(response: VoteResponse<Types>) -> Self {
        let last = response.last_log_id.as_ref().map(Place::from);
        Self::Voted { vote: (&response.vote).into(), last, is_granted: response.vote_granted }
    }
}
