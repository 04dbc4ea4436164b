//! What a member does for others.
//!
//! Invariant: whatever bytes come, the node goes on; a snapshot takes effect only when all its pieces arrived,
//! in their order, from one sender.

use crate::entry::{Ballot, Members, Place};
use crate::machine::Command;
use crate::members::Change;
use crate::node::{stopped, Node, Stage};
use crate::rpc::{append_of, membership_of, Envelope, Request, Response};
use crate::state::Arrival;
use crate::types::{Proposal, Types, Vote};
use crate::RaftError;
use macula_net::{Caller, Purpose, Role};
use openraft::errors::{LinearizableReadError, RaftError as Refused};
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use std::sync::Arc;

/// A snapshot on its way here.
pub(crate) type Arriving = Mutex<Option<Incoming>>;

pub(crate) struct Incoming {
    id: u64,
    pieces: u64,
    arrival: Arrival,
}

fn is_known(proposal: &Proposal) -> bool {
    Command::decode(&proposal.command.0).is_ok()
}

impl Node {
    /// Answer a request that came over a link, or within this process.
    pub async fn serve(self: &Arc<Self>, caller: Option<&Caller>, request: &[u8]) -> Vec<u8> {
        self.serve_decoded(caller, Request::decode(request)).await
    }

    pub(crate) async fn serve_decoded(
        self: &Arc<Self>,
        caller: Option<&Caller>,
        request: Result<(Envelope, Request), RaftError>,
    ) -> Vec<u8> {
        let answer = match request {
            Ok((envelope, request)) if self.is_right(envelope, caller, &request) => match caller {
                Some(Caller { purpose: Purpose::Client, .. }) => self.answer_client(request).await,
                _ => self.answer(request).await,
            },
            Ok(_) => Ok(Response::WrongNode),
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| Response::Failed(error.to_string())).encode()
    }

    /// For this incarnation and its cluster, and from one that its certificate may be: a member that was wiped is
    /// another one under the same name. Members' business comes over members' links only.
    fn is_right(&self, envelope: Envelope, caller: Option<&Caller>, request: &Request) -> bool {
        let is_for_us = envelope.cluster == self.cluster && envelope.to == self.number;
        is_for_us
            && match caller {
                None => true,
                Some(Caller { peer, purpose: Purpose::Raft }) => {
                    self.may_be(envelope.from, peer.node.as_bytes(), request)
                }
                Some(Caller { peer, purpose: Purpose::Client }) => match request {
                    Request::Change(Change::Join { member, .. }) => {
                        peer.role == Role::Member && member.name.as_bytes() == peer.node.as_bytes()
                    }
                    _ => false,
                },
                Some(Caller { purpose: Purpose::Bulk, .. }) => false,
            }
    }

    /// Of an unknown number: a node that is behind hears of a new member from that one itself, which may lead by now, and
    /// may have the name of a former one (seen by the simulation, seed 82). What only members ask of who leads, which knows all, is not for it.
    fn may_be(&self, number: u64, name: &[u8], request: &Request) -> bool {
        match self.members().get(&number) {
            Some(member) => member.name.as_bytes() == name,
            None => !matches!(
                request,
                Request::Propose(_) | Request::ProposeMany(_) | Request::ReadIndex | Request::Change(_)
            ),
        }
    }

    /// Of one that is no member, or not yet.
    async fn answer_client(self: &Arc<Self>, request: Request) -> Result<Response, RaftError> {
        match request {
            Request::Change(change) => Ok(Response::changed(self.change(change).await)),
            _ => Ok(Response::WrongNode),
        }
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Result<Response, RaftError> {
        match request {
            Request::Append { vote, prev, committed, entries } => {
                let rpc = append_of(vote, prev, committed, &entries)?;
                Ok(self.raft.append_entries(rpc).await.map_err(|error| stopped(error.unwrap_fatal()))?.into())
            }
            Request::Vote { vote, last, is_transfer, is_pre } => {
                let mut rpc = VoteRequest::<Types>::new(vote.into(), last.map(Into::into));
                rpc.leadership_transfer = is_transfer;
                let voted = match is_pre {
                    true => self.raft.pre_vote(rpc).await,
                    false => self.raft.vote(rpc).await,
                };
                Ok(voted.map_err(|error| stopped(error.unwrap_fatal()))?.into())
            }
            Request::Transfer { from, to, last } => {
                let rpc = TransferLeaderRequest::new(Vote::from(from), to, last.map(Into::into));
                match self.raft.handle_transfer_leader(rpc).await.map_err(stopped)? {
                    Ok(()) => Ok(Response::Done),
                    Err(error) => Ok(Response::Failed(error.to_string())),
                }
            }
            Request::Begin { id } => self.begin_arrival(id),
            Request::Piece { id, number, rows } => self.take_piece(id, number, &rows.0),
            Request::End { id, pieces, vote, last, since, members } => {
                self.install(id, pieces, vote, (last, since, members)).await
            }
            // in the log it would stop every member
            Request::Propose(proposal) if !is_known(&proposal) => {
                Ok(Response::Failed("a command that this version does not know".into()))
            }
            Request::Propose(proposal) => match self.write(proposal, &Stage::default()).await {
                Ok(Ok(answer)) => Ok(Response::Applied(answer)),
                Ok(Err(forward)) => Ok(Response::NotLeader { leader: forward.leader_id }),
                Err(RaftError::NoQuorum) => Ok(Response::NoQuorum),
                // of a node that stops while it is asked nobody knows
                Err(_) => Ok(Response::Unknown),
            },
            Request::ReadIndex => self.read_index().await,
            Request::Change(change) => Ok(Response::changed(self.decide(&change).await)),
            Request::ProposeMany(proposals) => Ok(Response::Each(self.write_many(proposals).await)),
        }
    }

    async fn read_index(&self) -> Result<Response, RaftError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _applied)) => Ok(Response::ReadAt(Place::from(read.log_id()))),
            Err(Refused::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Ok(Response::NotLeader { leader: forward.leader_id })
            }
            Err(Refused::APIError(LinearizableReadError::QuorumNotEnough(_))) => Ok(Response::NoQuorum),
            Err(Refused::Fatal(error)) => Err(stopped(error)),
        }
    }

    fn begin_arrival(&self, id: u64) -> Result<Response, RaftError> {
        let mut arriving = self.arriving.lock();
        // the file of the one before goes first
        *arriving = None;
        *arriving = Some(Incoming { id, pieces: 0, arrival: self.state.begin_arrival()? });
        Ok(Response::Done)
    }

    fn take_piece(&self, id: u64, number: u64, rows: &[u8]) -> Result<Response, RaftError> {
        let mut arriving = self.arriving.lock();
        let Some(incoming) = arriving.as_mut().filter(|incoming| incoming.id == id && incoming.pieces == number) else {
            return Ok(Response::Failed(format!("no such piece is expected: id={id} number={number}")));
        };
        crate::engine::blocking(|| incoming.arrival.take(rows))?;
        incoming.pieces += 1;
        Ok(Response::Done)
    }

    async fn install(
        &self,
        id: u64,
        pieces: u64,
        vote: Ballot,
        (last, since, members): (Option<Place>, Option<Place>, Members),
    ) -> Result<Response, RaftError> {
        let incoming = self.arriving.lock().take();
        let Some(incoming) = incoming.filter(|incoming| incoming.id == id && incoming.pieces == pieces) else {
            return Ok(Response::Failed(format!("not all pieces arrived: id={id} pieces={pieces}")));
        };
        let meta = SnapshotMeta { last_log_id: last.map(Into::into), last_membership: membership_of(since, members)? };
        let snapshot = Snapshot { meta, snapshot: incoming.arrival.end()? };
        let taken = self.raft.install_full_snapshot(vote.into(), snapshot).await.map_err(stopped)?;
        Ok(Response::Installed { vote: (&taken.vote).into() })
    }
}
