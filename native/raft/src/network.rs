//! How openraft reaches other members: over a [`Transport`], which links or a simulation implement.
//!
//! Invariant: what could not be sent for certain is unreachable; whatever else happened, the request may have
//! arrived, and openraft goes on from that.

use crate::entry::Place;
use crate::rpc::{Envelope, Request, Response};
use crate::state::{piece, SnapshotData};
use crate::types::{Blob, LeaderId, Member, Types, Vote};
use crate::RaftError;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Rows of a snapshot in one message, bytes.
const PIECE_BYTES: usize = 1 << 20;
/// For a piece of a snapshot to be taken.
const PIECE_WAIT: Duration = Duration::from_secs(30);
/// And for the whole of it.
const INSTALL_WAIT: Duration = Duration::from_secs(120);
/// Between two tries to reach a member that is away.
const BACKOFF: Duration = Duration::from_millis(200);
/// Appends under way to one member: while one is synced there, the next arrives, and what comes meanwhile gathers.
const APPENDS_MAX: usize = 4;
/// For one of them to be durable there, and more for each MiB of it. As long as a disk may take, not as often as
/// heartbeats go.
const APPEND_WAIT: Duration = Duration::from_millis(250);
const APPEND_WAIT_PER_MIB: Duration = Duration::from_millis(1_000);

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unreached {
    /// It never left.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("no answer: {0}")]
    Lost(String),
}

/// Carries requests to members.
pub trait Transport: Send + Sync + 'static {
    /// Ask a member and wait for its answer at most so long. Requests of one caller that were sent arrive in
    /// their order or not at all.
    fn call(
        &self,
        to: u64,
        member: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreached>>;
}

/// No links: a node that is alone.
pub struct Alone;

impl Transport for Alone {
    fn call(&self, _: u64, _: &Member, _: Vec<u8>, _: Duration) -> BoxFuture<'static, Result<Vec<u8>, Unreached>> {
        Box::pin(async { Err(Unreached::NotSent("this node has no links".into())) })
    }
}

/// Makes a [`Peer`] for each member.
pub(crate) struct Peers {
    pub(crate) transport: Arc<dyn Transport>,
    /// This node, to itself.
    pub(crate) own: Envelope,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer { transport: self.transport.clone(), envelope: Envelope { to: target, ..self.own }, member: node.clone() }
    }
}

/// Another member, as openraft sees it.
pub(crate) struct Peer {
    transport: Arc<dyn Transport>,
    envelope: Envelope,
    member: Member,
}

/// Ask a member, outside of openraft too.
pub(crate) async fn ask(
    transport: &dyn Transport,
    envelope: Envelope,
    member: &Member,
    request: &Request,
    wait: Duration,
) -> Result<Response, Unreached> {
    let defect = |error: RaftError| Unreached::NotSent(error.to_string());
    let request = request.encode(envelope).map_err(defect)?;
    let answer = transport.call(envelope.to, member, request, wait).await?;
    Response::decode(&answer).map_err(|error| Unreached::Lost(error.to_string()))
}

fn rpc_error(error: Unreached) -> RPCError<Types> {
    match error {
        Unreached::NotSent(_) => RPCError::Unreachable(Unreachable::new(&error)),
        Unreached::Lost(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

/// The member said something that does not answer the question; it may be somebody else by now. It is asked again
/// after a pause, as one that is away: asked again at once, it kept the leader so busy that nobody else was heard.
fn unexpected(response: &Response) -> RPCError<Types> {
    let error = io::Error::other(format!("an unexpected answer: {response:?}"));
    RPCError::Unreachable(Unreachable::new(&error))
}

/// The answers to appends, as they come.
type Appending<'s> =
    BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>;

impl Peer {
    async fn append(
        &self,
        rpc: &AppendEntriesRequest<Types>,
        wait: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = Request::append(rpc).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        match self.ask(&request, wait).await? {
            Response::Appended => Ok(AppendEntriesResponse::Success),
            Response::AppendedUpto(upto) => Ok(AppendEntriesResponse::PartialSuccess(upto.map(Into::into))),
            Response::Conflict => Ok(AppendEntriesResponse::Conflict),
            Response::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: &Request, wait: Duration) -> Result<Response, RPCError<Types>> {
        ask(&*self.transport, self.envelope, &self.member, request, wait).await.map_err(rpc_error)
    }

    async fn ask_vote(
        &self,
        rpc: &VoteRequest<Types>,
        is_pre: bool,
        wait: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(&Request::vote(rpc, is_pre), wait).await? {
            Response::Voted { vote, last, is_granted } => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(Into::into), is_granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn send(
        &self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, Member, SnapshotData>,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let SnapshotData::Here(rows) = snapshot.snapshot else {
            let error = io::Error::other("a snapshot that arrived is not sent on");
            return Err(RPCError::Network(NetworkError::new(&error)));
        };
        let last = snapshot.meta.last_log_id.as_ref().map(Place::from);
        // one for each place: who sends it anew begins anew
        let id = last.map_or(0, |last| last.index);
        self.done(Request::Begin { id }).await?;
        // pages may come from the disk
        let read = |behind: &[u8]| crate::engine::blocking(|| piece(&rows, behind, PIECE_BYTES));
        let failed = |error: RaftError| RPCError::Network(NetworkError::new(&error));
        let (mut next, mut number) = (read(&[]).map_err(failed)?, 0);
        while let Some((bytes, until)) = next {
            let mut sending = Box::pin(self.done(Request::Piece { id, number, rows: Blob(bytes.into()) }));
            // it leaves, and while the other side takes it, the one behind it is read
            let sent = sending.as_mut().now_or_never();
            next = read(&until).map_err(failed)?;
            match sent {
                Some(sent) => sent?,
                None => sending.await?,
            }
            number += 1;
        }
        let membership = &snapshot.meta.last_membership;
        let since = membership.log_id().as_ref().map(Place::from);
        let members = membership.membership().into();
        let end = Request::End { id, pieces: number, vote: (&vote).into(), last, since, members };
        match self.ask(&end, INSTALL_WAIT).await? {
            Response::Installed { vote } => Ok(SnapshotResponse::new(vote.into())),
            other => Err(unexpected(&other)),
        }
    }

    async fn done(&self, request: Request) -> Result<(), RPCError<Types>> {
        match self.ask(&request, PIECE_WAIT).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.append(&rpc, option.hard_ttl()).await
    }

    /// Several at once, their answers in the order in which they went. Should one be overtaken on its way, the
    /// member says that it does not fit, and openraft goes back to where it does.
    fn stream_append<'s, S>(&'s mut self, appends: S, _: RPCOption) -> Appending<'s>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let peer: &'s Self = self;
        let answers = appends.map(move |rpc| async move {
            let (prev, last) = (rpc.prev_log_id, rpc.entries.last().map(|entry| entry.log_id));
            let len: usize = rpc.entries.iter().map(crate::log::len_of).sum();
            let wait = APPEND_WAIT + APPEND_WAIT_PER_MIB * (len >> 20) as u32;
            let answer = peer.append(&rpc, wait).await?;
            Ok(answer.into_stream_result(prev, last.or(prev)))
        });
        Box::pin(std::future::ready(Ok(answers.buffered(APPENDS_MAX).boxed())))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, Member, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            // in this order, so that a simulation repeats
            biased;
            sent = self.send(vote, snapshot) => Ok(sent?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(&Request::transfer(&rpc), option.hard_ttl()).await? {
            Response::Done => Ok(Ok(())),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
