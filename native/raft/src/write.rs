//! What a leader takes: commands, in their order, each with room on the disk before it is in the log.
//!
//! Invariant: what was taken is answered when it is durable on a majority and applied here; what was not taken never
//! happens.

use crate::node::{stopped, Node};
use crate::propose::Answer;
use crate::types::{Proposal, Types};
use crate::RaftError;
use futures_util::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::{Instant, RaftMetrics};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A leader that heard of no majority for so long takes no more commands.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(1);
/// For a node that failed to say so.
const STOP_WAIT: Duration = Duration::from_secs(1);

impl Node {
    /// What became of each.
    pub(crate) async fn write_many(&self, proposals: Vec<Proposal>) -> Vec<Answer> {
        let count = proposals.len();
        let may_write = if self.has_quorum() { self.check_log() } else { Err(RaftError::NoQuorum) };
        if let Err(error) = may_write {
            return vec![Err(error); count];
        }
        // until they are answered
        let (let_in, refused) = self.state.let_in(&proposals, self.log_bytes);
        let taken =
            proposals.into_iter().zip(&refused).filter_map(|(proposal, refused)| refused.is_none().then_some(proposal));
        let mut answers = self.enter(taken.collect()).await.into_iter();
        drop(let_in);
        let answer = |refused: Option<RaftError>| match refused {
            Some(error) => Err(error),
            None => answers.next().unwrap_or(Err(RaftError::Unknown)),
        };
        refused.into_iter().map(answer).collect()
    }

    async fn enter(&self, proposals: Vec<Proposal>) -> Vec<Answer> {
        let count = proposals.len();
        // when Raft stops it ends early, and openraft's may not be asked again then
        let mut written = match self.raft.client_write_many(proposals).await {
            Ok(written) => written.fuse(),
            // perhaps it was taken
            Err(Fatal::Stopped) => return vec![Err(RaftError::Unknown); count],
            Err(error) => return vec![Err(stopped(error)); count],
        };
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            answers.push(match written.next().await {
                Some(Ok(Ok(written))) => Ok(Some(written.response.0)),
                Some(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Ok(None),
                Some(Ok(Err(_))) => Err(RaftError::Unknown),
                Some(Err(_)) | None => Err(self.lost().await),
            });
        }
        answers
    }

    /// Of a node that stops while it is asked nobody knows; of one that failed, why.
    async fn lost(&self) -> RaftError {
        // the machine failed, and Raft is about to hear of it
        let has_stopped = |metrics: &RaftMetrics<Types>| metrics.running_state.is_err();
        let _ = self.raft.wait(Some(STOP_WAIT)).metrics(has_stopped, "the end").await;
        match &self.raft.metrics().borrow_watched().running_state {
            Ok(()) | Err(Fatal::Stopped) => RaftError::Unknown,
            Err(error) => stopped(error.clone()),
        }
    }

    /// Whether the log has room.
    pub(crate) fn check_log(&self) -> Result<(), RaftError> {
        match self.is_full.load(Ordering::Acquire) {
            true => Err(RaftError::Log(macula_wal::WalError::DiskFull)),
            false => Ok(()),
        }
    }

    fn has_quorum(&self) -> bool {
        self.hears_quorum(&self.raft.metrics().borrow_watched())
    }

    /// A leader that nobody hears would keep what it takes for itself.
    pub(crate) fn hears_quorum(&self, metrics: &RaftMetrics<Types>) -> bool {
        let is_alone = metrics.membership_config.voter_ids().eq([self.number()]);
        is_alone || metrics.last_quorum_acked.as_ref().is_none_or(|acked| acked.elapsed() <= QUORUM_AGE_MAX)
    }
}
