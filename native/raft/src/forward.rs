//! Commands for the leader, from a member that is not: those that wait go together.
//!
//! Invariant: a command is sent at most once for each time that its proposer asks, and each has its own outcome.
//! What was sent and not answered is unknown.

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
/// Of commands in one message, unless one is longer.
const MESSAGE_BYTES: usize = 1 << 20;

/// `None`: it was not done; ask again.
type Answer = Result<Option<Blob>, RaftError>;

/// Who waits for a message to go.
#[derive(Default)]
pub(crate) struct Forwards(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    messages: usize,
}

struct Command {
    leader: u64,
    member: Member,
    proposal: Proposal,
    answer: oneshot::Sender<Answer>,
}

/// A message under way, also when it is dropped halfway.
struct Message<'a>(&'a Forwards);

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.0 .0.lock().messages -= 1;
    }
}

impl Forwards {
    /// What goes together to one leader; whoever gave up does not. Nothing: the message is over, as of this look.
    fn take(&self, message: Message<'_>) -> Option<(Vec<Command>, u64, Member)> {
        let mut waiting = self.0.lock();
        let mut taken: Vec<Command> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.commands.pop_front() {
            if next.answer.is_closed() {
                continue;
            }
            bytes += next.proposal.command.0.len();
            let fits = taken.first().is_none_or(|first| first.leader == next.leader && bytes <= MESSAGE_BYTES);
            if !fits {
                waiting.commands.push_front(next);
                break;
            }
            taken.push(next);
        }
        std::mem::forget(message);
        match taken.first().map(|first| (first.leader, first.member.clone())) {
            Some((leader, member)) => Some((taken, leader, member)),
            None => {
                waiting.messages -= 1;
                None
            }
        }
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
        let begins = {
            let mut waiting = self.forwards.0.lock();
            waiting.commands.push_back(Command { leader, member, proposal, answer });
            let begins = waiting.messages < MESSAGES_MAX;
            waiting.messages += usize::from(begins);
            begins
        };
        if begins {
            let node = self.clone();
            tokio::spawn(async move { node.send_messages().await });
        }
        let answer = answered.await.unwrap_or(Err(RaftError::Unknown));
        if matches!(answer, Ok(None)) {
            stage.take_back();
        }
        answer
    }

    async fn send_messages(&self) {
        while let Some((commands, leader, member)) = self.forwards.take(Message(&self.forwards)) {
            let message = Message(&self.forwards);
            let (proposals, answers): (Vec<_>, Vec<_>) =
                commands.into_iter().map(|command| (command.proposal, command.answer)).unzip();
            let request = Request::ProposeMany(proposals);
            let sent = ask(&*self.transport, self.to(leader), &member, &request, FORWARD_WAIT).await;
            for (answer, outcome) in answers.into_iter().zip(outcomes(sent)) {
                // who gave up knows that it may have happened
                let _ = answer.send(outcome);
            }
            std::mem::forget(message);
        }
    }
}

/// Of each command, as many as are asked for.
fn outcomes(sent: Result<Response, Unreached>) -> Box<dyn Iterator<Item = Answer> + Send> {
    let all = |answer: Answer| Box::new(std::iter::repeat(answer)) as Box<dyn Iterator<Item = Answer> + Send>;
    match sent {
        Ok(Response::Each(outcomes)) => Box::new(outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Applied(answer) => Ok(Some(answer)),
            Outcome::NotLeader => Ok(None),
            Outcome::NoQuorum => Err(RaftError::NoQuorum),
            Outcome::DiskFull => Err(macula_blocks::BlockError::DiskFull.into()),
            Outcome::Failed(reason) => Err(RaftError::Internal(reason)),
            Outcome::Unknown => Err(RaftError::Unknown),
        })),
        Ok(Response::NotLeader { .. } | Response::WrongNode) | Err(Unreached::NotSent(_)) => all(Ok(None)),
        Ok(Response::NoQuorum) => all(Err(RaftError::NoQuorum)),
        Ok(Response::Failed(reason)) => all(Err(RaftError::Internal(reason))),
        Ok(_) | Err(Unreached::Lost(_)) => all(Err(RaftError::Unknown)),
    }
}
