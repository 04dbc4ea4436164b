//! Commands for the leader, from a member that is not: those that wait go together.
//!
//! Invariant: a command is sent at most once for each time that its proposer asks, and each has its own outcome.
//! What was sent and not answered is unknown. Nothing waits behind what a former leader does not answer.

use crate::network::{ask, Unreached};
use crate::node::{Node, Stage};
use crate::rpc::{Outcome, Request, Response};
use crate::types::{Blob, Member, Proposal, Types};
use crate::RaftError;
use openraft::errors::ForwardToLeader;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// For the leader to apply commands of ours.
const FORWARD_WAIT: Duration = Duration::from_secs(10);
/// Messages under way: while some are, what comes gathers.
const MESSAGES_MAX: usize = 4;
/// Commands of one message, with the last of which it has as many or more.
const MESSAGE_BYTES: usize = 1 << 20;

/// `None`: it was not done; ask again.
type Answer = Result<Option<Blob>, RaftError>;

/// Who waits for a message to go.
#[derive(Default)]
pub(crate) struct Forwards(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Who leads, as it seems, and how often that changed.
    leader: u64,
    epoch: u64,
    commands: VecDeque<Command>,
    /// Under way since it last changed: what went to a leader that is gone holds up nothing.
    messages: usize,
}

struct Command {
    proposal: Proposal,
    answer: oneshot::Sender<Answer>,
}

/// One of the messages under way, also when it is dropped halfway.
struct Message<'a> {
    forwards: &'a Forwards,
    epoch: u64,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        let mut waiting = self.forwards.0.lock();
        if waiting.epoch == self.epoch {
            waiting.messages -= 1;
        }
    }
}

impl Message<'_> {
    /// What goes together; whoever gave up does not. Nothing: it is over, as of this look.
    fn take(self) -> Option<(Self, Vec<Command>)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut waiting = self.forwards.0.lock();
        while waiting.epoch == self.epoch && bytes < MESSAGE_BYTES {
            let Some(next) = waiting.commands.pop_front() else { break };
            if !next.answer.is_closed() {
                bytes += next.proposal.command.0.len();
                taken.push(next);
            }
        }
        if !taken.is_empty() {
            drop(waiting);
            return Some((self, taken));
        }
        // under the lock: who comes now begins another
        if waiting.epoch == self.epoch {
            waiting.messages -= 1;
        }
        drop(waiting);
        std::mem::forget(self);
        None
    }
}

impl Waiting {
    /// What waited for another leader than this has not gone, and does not go there.
    fn turn_to(&mut self, leader: u64) -> VecDeque<Command> {
        if self.leader == leader {
            return VecDeque::new();
        }
        self.leader = leader;
        self.epoch += 1;
        self.messages = 0;
        std::mem::take(&mut self.commands)
    }
}

impl Node {
    /// Ask who leads. `None`: it was not done; ask again.
    pub(crate) async fn forward(
        self: &Arc<Self>,
        forward: ForwardToLeader<Types>,
        proposal: Proposal,
        stage: &Stage,
    ) -> Answer {
        let Some((leader, member)) = forward.leader_id.zip(forward.leader_node) else { return Ok(None) };
        if leader == self.number() {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        stage.send();
        let (epoch, begins, late) = {
            let mut waiting = self.forwards.0.lock();
            let late = waiting.turn_to(leader);
            waiting.commands.push_back(Command { proposal, answer });
            let begins = waiting.messages < MESSAGES_MAX;
            waiting.messages += usize::from(begins);
            (waiting.epoch, begins, late)
        };
        for command in late {
            let _ = command.answer.send(Ok(None));
        }
        if begins {
            let node = self.clone();
            tokio::spawn(async move { node.send_messages(epoch, leader, member).await });
        }
        let answer = answered.await.unwrap_or(Err(RaftError::Unknown));
        if matches!(answer, Ok(None)) {
            stage.take_back();
        }
        answer
    }

    async fn send_messages(&self, epoch: u64, leader: u64, member: Member) {
        let mut message = Message { forwards: &self.forwards, epoch };
        while let Some((goes_on, commands)) = message.take() {
            message = goes_on;
            let (proposals, answers): (Vec<_>, Vec<_>) =
                commands.into_iter().map(|command| (command.proposal, command.answer)).unzip();
            let request = Request::ProposeMany(proposals);
            let sent = ask(&*self.transport, self.to(leader), &member, &request, FORWARD_WAIT).await;
            for (answer, outcome) in answers.into_iter().zip(outcomes(sent)) {
                // who gave up knows that it may have happened
                let _ = answer.send(outcome);
            }
        }
    }
}

/// Of each command, as many as are asked for.
fn outcomes(sent: Result<Response, Unreached>) -> Box<dyn Iterator<Item = Answer> + Send> {
    let all = |answer: Answer| Box::new(std::iter::repeat(answer)) as Box<dyn Iterator<Item = Answer> + Send>;
    match sent {
        Ok(Response::Each(outcomes)) => Box::new(outcomes.into_iter().map(Outcome::answer)),
        Ok(Response::NotLeader { .. } | Response::WrongNode) | Err(Unreached::NotSent(_)) => all(Ok(None)),
        Ok(Response::NoQuorum) => all(Err(RaftError::NoQuorum)),
        Ok(Response::Failed(reason)) => all(Err(RaftError::Internal(reason))),
        Ok(_) | Err(Unreached::Lost(_)) => all(Err(RaftError::Unknown)),
    }
}
