//! Commands on their way to whoever leads, this node or another: those that wait go together.
//!
//! Invariant: a command is sent at most once for each time that its proposer asks, and each has its own answer.
//! What its proposer gave up before is not sent; what was sent and not answered is unknown. Nothing waits behind
//! what a former leader does not answer.

use crate::calls::Ending;
use crate::machine::Command;
use crate::network::{ask, Unreached};
use crate::node::{stopped, Node, LEADER_PAUSE};
use crate::rpc::{Outcome, Request, Response};
use crate::types::{Blob, Proposal};
use crate::RaftError;
use futures_util::future::BoxFuture;
use macula_core::Cancel;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// For another leader to apply commands of ours.
const FORWARD_WAIT: Duration = Duration::from_secs(10);
/// Batches under way: while some are, what comes gathers. Each is entered, replicated and synced as one, and costs the
/// same, nearly, however much is in it: with four of them, 64 callers got a fifth less done.
const BATCHES_MAX: usize = 2;
/// One that has no answer for so long holds up nothing any more: its answer may have been lost on the way.
const STALL: Duration = Duration::from_millis(300);
/// Commands of one batch, with the last of which it has as many or more.
const BATCH_BYTES: usize = 1 << 20;

/// What became of a command; `None`: it was not done, ask again.
pub(crate) type Answer = Result<Option<Blob>, RaftError>;

/// Whether a command left our hands.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU8);

const HELD: u8 = 0;
const SENT: u8 = 1;
const OVER: u8 = 2;

impl Stage {
    /// It leaves; not so when it was given up.
    pub(crate) fn send(&self) -> bool {
        self.turn(HELD, SENT).is_ok()
    }

    /// It is back, and nothing of it is going to happen.
    pub(crate) fn take_back(&self) {
        let _ = self.turn(SENT, HELD);
    }

    /// Nobody waits for it any more. Whether it may have happened; if not, it never will.
    pub(crate) fn give_up(&self) -> bool {
        self.turn(HELD, OVER) == Err(SENT)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == OVER
    }

    fn turn(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// Commands that wait for a batch to go.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Who leads, as it seems, and how often that changed.
    leader: u64,
    epoch: u64,
    commands: VecDeque<Outgoing>,
    /// Under way since it last changed: what went to a leader that is gone holds up nothing.
    batches: usize,
}

/// A command, and who asked for it.
#[derive(Clone)]
pub(crate) struct Asked {
    proposal: Proposal,
    stage: Arc<Stage>,
    cancel: Cancel,
}

struct Outgoing {
    asked: Asked,
    answer: Box<dyn FnOnce(Answer) + Send>,
}

impl Outgoing {
    /// It leaves, unless nobody waits for it any more.
    fn leaves(&self) -> bool {
        !self.asked.cancel.is_cancelled() && self.asked.stage.send()
    }

    fn answer(self, answer: Answer) {
        if matches!(answer, Ok(None)) {
            self.asked.stage.take_back();
        }
        (self.answer)(answer);
    }
}

/// One of the batches under way, also when it is dropped halfway.
struct Batch<'a> {
    outbox: &'a Outbox,
    epoch: u64,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut waiting = self.outbox.0.lock();
        if waiting.epoch == self.epoch {
            waiting.batches -= 1;
        }
    }
}

impl Batch<'_> {
    /// What goes together; whoever gave up does not. Nothing: it is over, as of this look.
    fn take(self) -> Option<(Self, Vec<Outgoing>)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut waiting = self.outbox.0.lock();
        while waiting.epoch == self.epoch && bytes < BATCH_BYTES {
            let Some(next) = waiting.commands.pop_front() else { break };
            if next.leaves() {
                bytes += next.asked.proposal.command.0.len();
                taken.push(next);
            }
        }
        if !taken.is_empty() {
            drop(waiting);
            return Some((self, taken));
        }
        // under the lock: who comes now begins another
        if waiting.epoch == self.epoch {
            waiting.batches -= 1;
        }
        drop(waiting);
        std::mem::forget(self);
        None
    }
}

impl Outbox {
    /// Have it wait for the next batch; in which epoch, and whether that is to be begun.
    fn put(&self, leader: u64, command: Outgoing) -> (u64, bool) {
        let mut waiting = self.0.lock();
        let late = waiting.turn_to(leader);
        waiting.commands.push_back(command);
        let begins = waiting.batches < BATCHES_MAX;
        waiting.batches += usize::from(begins);
        let epoch = waiting.epoch;
        drop(waiting);
        ask_again(late);
        (epoch, begins)
    }

    /// Whether something waits, and another batch may go.
    fn begin_another(&self, epoch: u64) -> bool {
        let mut waiting = self.0.lock();
        let begins = waiting.epoch == epoch && !waiting.commands.is_empty() && waiting.batches < BATCHES_MAX;
        waiting.batches += usize::from(begins);
        begins
    }

    /// Who leads now.
    fn turn_to(&self, leader: u64) {
        let late = self.0.lock().turn_to(leader);
        ask_again(late);
    }

    /// Drop what waits: no batch goes any more.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut self.0.lock().commands);
        // behind the lock: who asked is told by that
        drop(waiting);
    }
}

/// They were not done.
fn ask_again(commands: VecDeque<Outgoing>) {
    for command in commands {
        command.answer(Ok(None));
    }
}

impl Waiting {
    /// What waited for another leader than this has not gone, and does not go there.
    fn turn_to(&mut self, leader: u64) -> VecDeque<Outgoing> {
        if self.leader == leader {
            return VecDeque::new();
        }
        self.leader = leader;
        self.epoch += 1;
        self.batches = 0;
        std::mem::take(&mut self.commands)
    }
}

impl Node {
    /// Have a command applied. Its answer, encoded. Ends when it is decided; who waits no longer drops it, and
    /// learns from `stage` whether it may have happened.
    pub(crate) async fn propose(self: &Arc<Self>, command: &Command, stage: &Arc<Stage>) -> Result<Blob, RaftError> {
        self.see_through(self.ask(command, stage.clone(), Cancel::new())?).await
    }

    /// A command that may be tried.
    pub(crate) fn ask(&self, command: &Command, stage: Arc<Stage>, cancel: Cancel) -> Result<Asked, RaftError> {
        self.check_log()?;
        Ok(Asked { proposal: Proposal::of(command, &*self.clock)?, stage, cancel })
    }

    /// The same as [`Node::propose`] for who must not wait, and without a task, mostly: a task is woken by each.
    pub(crate) fn post(self: &Arc<Self>, runtime: &Handle, asked: Asked, ending: Ending<Blob>) {
        let Ok(Some(leader)) = self.leader() else { return self.post_slowly(runtime, asked, ending) };
        let (node, on) = (self.clone(), runtime.clone());
        let again = asked.clone();
        let answer = move |answer: Answer| match answer.transpose() {
            Some(answer) => ending.end(answer),
            None => node.post_slowly(&on, again, ending),
        };
        self.put(runtime, leader, Outgoing { asked, answer: Box::new(answer) });
    }

    fn post_slowly(self: &Arc<Self>, runtime: &Handle, asked: Asked, ending: Ending<Blob>) {
        let node = self.clone();
        runtime.spawn(async move { ending.end(node.see_through(asked).await) });
    }

    /// Ask whoever leads until somebody does it.
    async fn see_through(self: &Arc<Self>, asked: Asked) -> Result<Blob, RaftError> {
        while !asked.stage.is_over() {
            if let Some(leader) = self.leader()? {
                let (answer, answered) = oneshot::channel();
                let send = move |result: Answer| drop(answer.send(result));
                self.put(&Handle::current(), leader, Outgoing { asked: asked.clone(), answer: Box::new(send) });
                if let Some(answer) = answered.await.unwrap_or(Err(RaftError::Unknown))? {
                    return Ok(answer);
                }
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
        Err(RaftError::Timeout)
    }

    /// Who leads, as it seems; this node only while a majority hears it.
    fn leader(&self) -> Result<Option<u64>, RaftError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match &metrics.running_state {
            Ok(()) if metrics.current_leader == Some(self.number()) && !self.hears_quorum(&metrics) => {
                Err(RaftError::NoQuorum)
            }
            Ok(()) => Ok(metrics.current_leader),
            Err(error) => Err(self.damage().unwrap_or_else(|| stopped(error.clone()))),
        }
    }

    fn put(self: &Arc<Self>, runtime: &Handle, leader: u64, outgoing: Outgoing) {
        let (epoch, begins) = self.outbox.put(leader, outgoing);
        if begins {
            runtime.spawn(self.clone().send_batches(epoch, leader));
        }
    }

    /// What waits behind batches to a leader that is none any more, and does not answer, goes to the next.
    pub(crate) fn look_who_leads(&self) {
        if let Ok(Some(leader)) = self.leader() {
            self.outbox.turn_to(leader);
        }
    }

    fn send_batches(self: Arc<Self>, epoch: u64, leader: u64) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut batch = Batch { outbox: &self.outbox, epoch };
            while let Some((goes_on, commands)) = batch.take() {
                let proposals = commands.iter().map(|command| command.asked.proposal.clone()).collect();
                let mut sent = pin!(self.send_batch(leader, proposals));
                let mut goes_on = Some(goes_on);
                let answers = match tokio::time::timeout(STALL, sent.as_mut()).await {
                    Ok(answers) => answers,
                    Err(_) => {
                        goes_on = None;
                        if self.outbox.begin_another(epoch) {
                            tokio::spawn(self.clone().send_batches(epoch, leader));
                        }
                        sent.await
                    }
                };
                for (command, answer) in commands.into_iter().zip(answers) {
                    command.answer(answer);
                }
                let Some(goes_on) = goes_on else { return };
                batch = goes_on;
            }
        })
    }

    async fn send_batch(&self, leader: u64, proposals: Vec<Proposal>) -> Vec<Answer> {
        match leader == self.number() {
            true => self.write_many(proposals).await,
            false => self.forward(leader, proposals).await,
        }
    }

    async fn forward(&self, leader: u64, proposals: Vec<Proposal>) -> Vec<Answer> {
        let count = proposals.len();
        let all = |answer: Answer| vec![answer; count];
        let Some(member) = self.member(leader) else { return all(Ok(None)) };
        let request = Request::ProposeMany(proposals);
        match ask(&*self.transport, self.to(leader), &member, &request, FORWARD_WAIT).await {
            Ok(Response::Each(outcomes)) if outcomes.len() == count => {
                outcomes.into_iter().map(Outcome::answer).collect()
            }
            Ok(Response::NotLeader { .. } | Response::WrongNode) | Err(Unreached::NotSent(_)) => all(Ok(None)),
            Ok(Response::NoQuorum) => all(Err(RaftError::NoQuorum)),
            Ok(Response::Failed(reason)) => all(Err(RaftError::Internal(reason))),
            Ok(_) | Err(Unreached::Lost(_)) => all(Err(RaftError::Unknown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A command of so many bytes; what it is answered.
    fn outgoing(len: usize, stage: &Arc<Stage>, cancel: &Cancel) -> (Outgoing, mpsc::Receiver<Answer>) {
        let proposal = Proposal { time_ms: 0, command: Blob(vec![0; len].into()) };
        let (answer, answered) = mpsc::channel();
        let asked = Asked { proposal, stage: stage.clone(), cancel: cancel.clone() };
        (Outgoing { asked, answer: Box::new(move |told| drop(answer.send(told))) }, answered)
    }

    fn put(outbox: &Outbox, leader: u64, len: usize) -> (bool, Arc<Stage>, mpsc::Receiver<Answer>) {
        let stage = Arc::new(Stage::default());
        let (outgoing, answered) = outgoing(len, &stage, &Cancel::new());
        (outbox.put(leader, outgoing).1, stage, answered)
    }

    fn batch(outbox: &Outbox) -> Batch<'_> {
        let epoch = outbox.0.lock().epoch;
        Batch { outbox, epoch }
    }

    #[test]
    fn what_was_given_up_never_leaves_and_what_left_cannot_be_given_up() {
        let stage = Stage::default();
        assert!(stage.send() && stage.give_up(), "it may have happened");
        stage.take_back();
        assert!(!stage.give_up() && !stage.send() && stage.is_over(), "it never will");
    }

    #[test]
    fn two_batches_go_and_the_rest_gathers() {
        let outbox = Outbox::default();
        let begun: Vec<bool> = (0..5).map(|_| put(&outbox, 7, 10).0).collect();
        assert_eq!(begun, [true, true, false, false, false]);
        let (goes_on, taken) = batch(&outbox).take().expect("some wait");
        assert_eq!(taken.len(), 5);
        assert!(!outbox.begin_another(1), "nothing waits");
        // nothing is left: both are over, and the next command begins one
        assert!(goes_on.take().is_none() && batch(&outbox).take().is_none());
        assert!(put(&outbox, 7, 10).0);
    }

    #[test]
    fn a_batch_is_bounded_and_leaves_out_who_gave_up() {
        let outbox = Outbox::default();
        let stages: Vec<_> = (0..4).map(|_| put(&outbox, 7, BATCH_BYTES / 2).1).collect();
        assert!(!stages[0].give_up());
        let (cancel, stage) = (Cancel::new(), Arc::new(Stage::default()));
        outbox.put(7, outgoing(1, &stage, &cancel).0);
        cancel.cancel();
        let (goes_on, first) = batch(&outbox).take().expect("some wait");
        assert_eq!((first.len(), stages.iter().filter(|stage| stage.give_up()).count()), (2, 2));
        let left = goes_on.take().map(|(_, rest)| rest.len());
        assert_eq!(left, None, "one was given up after the batch, the other's caller is dead");
    }

    #[test]
    fn what_waited_for_a_former_leader_is_asked_again() {
        let outbox = Outbox::default();
        let (.., sent) = put(&outbox, 7, 10);
        let (_under_way, commands) = batch(&outbox).take().expect("one waits");
        let (_, held, late) = put(&outbox, 7, 10);
        outbox.turn_to(8);
        assert!(matches!(late.try_recv(), Ok(Ok(None))));
        assert!(!held.give_up(), "it never left");
        assert!(sent.try_recv().is_err(), "of what left its batch tells");
        commands.into_iter().for_each(|command| command.answer(Ok(None)));
        assert!(matches!(sent.try_recv(), Ok(Ok(None))));
        assert!(put(&outbox, 8, 10).0, "batches to the former leader hold up nothing");
    }
}
