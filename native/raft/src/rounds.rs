//! Reads of the latest state share their questions: who comes while one is under way waits for the next.
//!
//! Invariant: a read is answered by a question that was put after the read began. A question that nobody answers
//! in time is put again, also for those who came meanwhile, so that a member that is gone holds up no read for
//! longer than that.

use crate::network::ask;
use crate::node::{stopped, Node, LEADER_PAUSE};
use crate::query::Consistency;
use crate::rpc::{Request, Response};
use crate::state::Reading;
use crate::types::Types;
use crate::RaftError;
use openraft::errors::{ForwardToLeader, LinearizableReadError, RaftError as Refused};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// For the leader to say up to where a read must wait.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

type Answer = Result<Arc<Reading>, RaftError>;

/// Who waits for the next question.
#[derive(Default)]
pub(crate) struct Rounds {
    waiting: Mutex<Waiting>,
    /// When the newest question was put that was answered, nanoseconds of the monotonic clock; 0: none was.
    asked_ns: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    readers: Vec<oneshot::Sender<Answer>>,
    /// Somebody puts questions, and takes those who wait with the next one.
    is_asked: bool,
}

/// Questions end when they are dropped, also halfway: whoever comes next begins anew.
struct Asking<'a>(&'a Rounds);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.is_asked = false;
        // they are told by that
        waiting.readers.clear();
    }
}

impl Rounds {
    /// What waits now; none of them, and nobody asks any more.
    fn take(&self, batch: &mut Vec<oneshot::Sender<Answer>>) -> bool {
        let mut waiting = self.waiting.lock();
        batch.append(&mut waiting.readers);
        batch.retain(|reader| !reader.is_closed());
        waiting.is_asked = !batch.is_empty();
        waiting.is_asked
    }
}

impl Node {
    /// The state as of some moment after this call.
    pub(crate) async fn read_latest(self: &Arc<Self>) -> Answer {
        let (reader, answer) = oneshot::channel();
        let begins = {
            let mut waiting = self.rounds.waiting.lock();
            waiting.readers.push(reader);
            !std::mem::replace(&mut waiting.is_asked, true)
        };
        if begins {
            let node = self.clone();
            tokio::spawn(async move { node.ask_in_rounds().await });
        }
        answer.await.unwrap_or(Err(RaftError::Closed))
    }

    /// The state, so fresh.
    pub(crate) async fn read(self: &Arc<Self>, consistency: Consistency) -> Answer {
        match consistency {
            Consistency::Linearizable => self.read_latest().await,
            Consistency::Stale(age) if !self.is_fresh(age) => self.read_latest().await,
            Consistency::Stale(_) | Consistency::Local => Ok(self.read_local()),
        }
    }

    /// Whether what this node has holds all that was answered anywhere so long ago: a question that was put since then
    /// was answered.
    pub(crate) fn is_fresh(&self, age: Duration) -> bool {
        let asked_ns = self.rounds.asked_ns.load(Ordering::Acquire);
        let now_ns = self.clock.monotonic().as_nanos();
        asked_ns > 0 && now_ns.saturating_sub(asked_ns.into()) <= age.as_nanos()
    }

    async fn ask_in_rounds(&self) {
        let asking = Asking(&self.rounds);
        let mut batch = Vec::new();
        while self.rounds.take(&mut batch) {
            let asked_ns = self.clock.monotonic().as_nanos();
            let answer = match self.latest_once().await {
                Ok(true) => {
                    self.rounds.asked_ns.fetch_max(u64::try_from(asked_ns).unwrap_or_default(), Ordering::AcqRel);
                    Ok(self.read_local())
                }
                // whom it asks next they all share, also who comes until then
                Ok(false) => {
                    tokio::time::sleep(LEADER_PAUSE).await;
                    continue;
                }
                Err(error) => Err(error),
            };
            for reader in batch.drain(..) {
                // it may have given up
                let _ = reader.send(answer.clone());
            }
        }
        // nobody waits, as of a look under the lock
        std::mem::forget(asking);
    }

    /// Whether this node has all that was answered anywhere before this call; not: ask again.
    async fn latest_once(&self) -> Result<bool, RaftError> {
        let index = match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => return Ok(true),
            Err(Refused::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                self.ask_read_index(forward).await?
            }
            // on a loaded machine as well: who waits no longer is told that there was none
            Err(Refused::APIError(LinearizableReadError::QuorumNotEnough(_))) => return Ok(false),
            Err(Refused::Fatal(error)) => return Err(self.damage().unwrap_or_else(|| stopped(error))),
        };
        let Some(index) = index else { return Ok(false) };
        let applied = self.raft.wait(None).applied_index_at_least(Some(index), "a read").await;
        applied.map_err(|error| RaftError::Stopped(error.to_string()))?;
        Ok(true)
    }

    async fn ask_read_index(&self, forward: ForwardToLeader<Types>) -> Result<Option<u64>, RaftError> {
        let Some((leader, member)) = forward.leader_id.zip(forward.leader_node) else { return Ok(None) };
        if leader == self.number() {
            return Ok(None);
        }
        match ask(&*self.transport, self.to(leader), &member, &Request::ReadIndex, ANSWER_WAIT).await {
            Ok(Response::ReadAt(place)) => Ok(Some(place.index)),
            // reads may be asked again
            Ok(_) | Err(_) => Ok(None),
        }
    }
}
