//! What a member does for others.
//!
//! Invariant: whatever bytes come, the node goes on; a snapshot takes effect only when all its pieces arrived,
//! in their order, from one sender.

use crate::entry::{Ballot, Members, Place};
use crate::feed::{page, FeedPage};
use crate::machine::{Command, MachineError, Pattern, COMMAND_BYTES_MAX};
use crate::members::Change;
use crate::node::{stopped, Node};
use crate::propose::Stage;
use crate::query::{Consistency, Query};
use crate::rpc::{append_of, membership_of, Envelope, Outcome, Request, Response};
use crate::state::Arrival;
use crate::types::{Proposal, Types, Vote};
use crate::RaftError;
use macula_net::{Caller, Peer, Purpose, Role};
use openraft::errors::{LinearizableReadError, RaftError as Refused};
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// A client waits no longer, and is told what is known then.
const CLIENT_WAIT: Duration = Duration::from_secs(10);

/// What fits into one answer to a client; a longer one it would not get, and ask the next member for.
const CLIENT_BYTES_MAX: usize = 15 << 20;

/// A snapshot on its way here.
pub(crate) type Arriving = Mutex<Option<Incoming>>;

pub(crate) struct Incoming {
    id: u64,
    pieces: u64,
    arrival: Arrival,
}

fn is_known(proposal: &Proposal) -> bool {
    proposal.command.0.len() <= COMMAND_BYTES_MAX && Command::decode(&proposal.command.0).is_ok()
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
        let answer = answer.unwrap_or_else(|error| Response::Failed(error.to_string())).encode();
        match caller {
            Some(Caller { purpose: Purpose::Client, .. }) if answer.len() > CLIENT_BYTES_MAX => {
                Response::Refused(format!("the answer is too long for a client: {} bytes", answer.len())).encode()
            }
            _ => answer,
        }
    }

    /// For this incarnation and its cluster, and from one that its certificate may be: a member that was wiped is
    /// another one under the same name. Members' business comes over members' links only.
    fn is_right(&self, envelope: Envelope, caller: Option<&Caller>, request: &Request) -> bool {
        // who asks that does not know it yet
        let is_greeting = matches!(request, Request::Greet);
        let is_for_us = is_greeting || (envelope.cluster == self.cluster && envelope.to == self.number);
        is_for_us
            && match caller {
                None => true,
                Some(Caller { peer, purpose: Purpose::Raft }) => {
                    self.may_be(envelope.from, peer.node.as_bytes(), request)
                }
                Some(Caller { peer, purpose: Purpose::Client }) => self.may_ask(peer, request),
                Some(Caller { purpose: Purpose::Bulk, .. }) => false,
            }
    }

    /// On a client's link: a node that wants in, for itself; a client; or a member, as one. Not a node that is none any
    /// more: its certificate is good, its time is over.
    fn may_ask(&self, peer: &Peer, request: &Request) -> bool {
        match request {
            Request::Change(Change::Join { member, .. }) => {
                peer.role == Role::Member && member.name.as_bytes() == peer.node.as_bytes()
            }
            Request::Greet | Request::Propose(_) | Request::Query(..) | Request::Watch { .. } => {
                let is_member = || self.members().values().any(|member| member.name.as_bytes() == peer.node.as_bytes());
                peer.role == Role::Client || is_member()
            }
            _ => false,
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
            Request::Greet => Ok(Response::Here { cluster: self.cluster, number: self.number }),
            Request::Propose(proposal) => Ok(Response::Outcome(self.propose_for(&proposal).await)),
            Request::Query(query, consistency) => self.query_for(&query, consistency).await,
            Request::Watch { pattern, after, wait_ms } => self.watch_for(&pattern, after, wait_ms).await,
            _ => Ok(Response::WrongNode),
        }
    }

    /// A client's command, stamped here: its clock is no member's.
    async fn propose_for(self: &Arc<Self>, proposal: &Proposal) -> Outcome {
        let Ok(command) = Command::decode(&proposal.command.0) else {
            return Outcome::Failed("a command that this version does not know".into());
        };
        let stage = Arc::<Stage>::default();
        let proposed = tokio::time::timeout(CLIENT_WAIT, self.propose(&command, &stage)).await;
        proposed.map_or_else(|_| if stage.give_up() { Outcome::Unknown } else { Outcome::NoQuorum }, Outcome::of)
    }

    async fn query_for(self: &Arc<Self>, query: &Query, consistency: Consistency) -> Result<Response, RaftError> {
        let Ok(rows) = tokio::time::timeout(CLIENT_WAIT, self.read(consistency)).await else {
            return Ok(Response::NoQuorum);
        };
        let found = match rows {
            Ok(rows) => crate::engine::blocking(|| query.of(&rows)),
            Err(error) => Err(error),
        };
        Ok(match found {
            Ok(found) => Response::Found(found),
            Err(RaftError::NoQuorum) => Response::NoQuorum,
            Err(RaftError::Machine(MachineError::HistoryGone { from, first })) => Response::HistoryGone { from, first },
            Err(error) => Response::Failed(error.to_string()),
        })
    }

    /// Looks at each entry that is applied here until something matches.
    async fn watch_for(&self, pattern: &Pattern, after: u64, wait_ms: u64) -> Result<Response, RaftError> {
        let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms).min(CLIENT_WAIT);
        let mut behind = after;
        loop {
            let next = self.applied() + 1;
            let page = crate::engine::blocking(|| self.read_local().look(|rows| page(rows, pattern, behind)));
            let FeedPage { events, through, more } = match page {
                Ok(page) => page,
                Err(RaftError::Machine(MachineError::HistoryGone { from, first })) => {
                    return Ok(Response::HistoryGone { from, first })
                }
                Err(error) => return Err(error),
            };
            if !events.is_empty() || more || tokio::time::Instant::now() >= until {
                return Ok(Response::Events { events, through, more });
            }
            behind = through;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            // nothing came: the next look says so
            let _ = self.raft.wait(Some(left)).applied_index_at_least(Some(next), "a change").await;
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
            Request::ReadIndex => self.read_index().await,
            Request::Change(change) => Ok(Response::changed(self.decide(&change).await)),
            // those are clients'
            Request::Greet | Request::Propose(_) | Request::Query(..) | Request::Watch { .. } => {
                Ok(Response::WrongNode)
            }
            Request::ProposeMany(proposals) => Ok(Response::Each(self.write_for(proposals).await)),
        }
    }

    /// Another member's commands. One that this version does not know would stop every member, once in the log.
    async fn write_for(&self, proposals: Vec<Proposal>) -> Vec<Outcome> {
        let known: Vec<bool> = proposals.iter().map(is_known).collect();
        let taken = proposals.into_iter().zip(&known).filter_map(|(proposal, known)| known.then_some(proposal));
        let mut answers = self.write_many(taken.collect()).await.into_iter();
        let outcome = |known: bool| match known {
            true => answers.next().map_or(Outcome::Unknown, Outcome::of_answer),
            false => Outcome::Failed("a command that this version does not know".into()),
        };
        known.into_iter().map(outcome).collect()
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
