//! Who the members are, and how that changes.
//!
//! Invariant: the leader decides, one change at a time, through the log. A node is taken in for an invitation,
//! which is good once, and votes only when it has caught up. Whoever comes back under a member's name with
//! another number is somebody else: its former self goes.

use crate::machine::{self, Command, Response as Answer};
use crate::network::ask;
use crate::node::{stopped, Node, LEADER_PAUSE};
use crate::rpc::{Request, Response};
use crate::types::{ClusterId, Member, Types};
use crate::way::Way;
use crate::{Blob, RaftError};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError as Refused};
use openraft::{ChangeMembers, RaftMetrics};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Tries to change the members, a pause apart.
const CHANGE_TRIES: u32 = 500;
/// For the change before to end.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// For the leader to decide a change that another member asks for.
const CHANGE_WAIT: Duration = Duration::from_secs(20);
/// For another to lead.
const HAND_OVER_WAIT: Duration = Duration::from_secs(5);
/// Entries that a learner may lack when it is given its vote.
const LAG_MAX: u64 = 200;
/// Times that an invited node asks all members, a pause apart.
const JOIN_ROUNDS: u32 = 2;
const JOIN_PAUSE: Duration = Duration::from_millis(500);
/// What an invitation's lease says whose it is, before the hash of its secret.
const OWNER: &[u8] = b"macula_storage invitation ";

/// What an invited node shows. It is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What lets one node in, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Into which cluster.
    pub cluster: ClusterId,
    /// A lease, with which it ends.
    pub id: u64,
    /// Known to nobody else: the cluster keeps its hash.
    pub secret: Secret,
    /// Whom to ask.
    pub members: BTreeMap<u64, Member>,
}

const INVITATION_VERSION: u8 = 1;

impl Invitation {
    /// Its bytes, for a person or a program to carry.
    pub fn encode(&self) -> Result<Vec<u8>, RaftError> {
        let mut bytes = vec![INVITATION_VERSION];
        bytes.extend(crate::entry::to_bytes(self)?);
        Ok(bytes)
    }

    /// From such bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RaftError> {
        const WHAT: &str = "invitation";
        match bytes {
            [INVITATION_VERSION, rest @ ..] => crate::entry::from_bytes(WHAT, rest),
            [found, ..] => {
                let (found, known) = (u32::from(*found), u32::from(INVITATION_VERSION));
                Err(RaftError::NewerFormat { what: WHAT, found, known })
            }
            [] => Err(RaftError::corrupt(WHAT, "empty")),
        }
    }
}

impl Invitation {
    /// What its node asks for.
    pub fn join(&self, number: u64, member: Member) -> Change {
        Change::Join { invitation: self.id, secret: self.secret.clone(), number, member }
    }
}

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Take a node in: a learner until it has caught up.
    Join {
        /// Of its invitation.
        invitation: u64,
        /// Of its invitation.
        secret: Secret,
        /// Its number.
        number: u64,
        /// Who and where it is.
        member: Member,
    },
    /// Let one go.
    Leave {
        /// Which one.
        number: u64,
    },
    /// One is found elsewhere from now on, or has another name.
    Move {
        /// Which one.
        number: u64,
        /// Who and where it is.
        member: Member,
    },
    /// Have one lead.
    Lead {
        /// Which one.
        number: u64,
    },
}

/// What a member is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It votes.
    Voter,
    /// It catches up, or is on its way to a vote or out.
    Learner,
}

/// A node as it sees itself and the others.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub number: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The term that it has seen.
    pub term: u64,
    /// Its last entry.
    pub last: u64,
    /// Its last entry that was applied.
    pub applied: u64,
    /// The last entry of its durable table.
    pub checkpoint: u64,
    /// All that it knows.
    pub members: BTreeMap<u64, (Member, Standing)>,
}

fn owner_of(secret: &Secret) -> Vec<u8> {
    [OWNER, blake3::hash(&secret.0).as_bytes()].concat()
}

impl Node {
    /// Begin a cluster of these. The others wait, with nothing, for what this one tells them.
    pub async fn begin(&self, members: BTreeMap<u64, Member>) -> Result<(), RaftError> {
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(Refused::APIError(InitializeError::NotAllowed(_))) => Err(RaftError::Begun),
            Err(Refused::APIError(error)) => Err(RaftError::Internal(error.to_string())),
            Err(Refused::Fatal(error)) => Err(stopped(error)),
        }
    }

    /// Let one node in within this time.
    pub(crate) async fn invite(
        self: &Arc<Self>,
        address: Option<String>,
        ttl: Duration,
    ) -> Result<Invitation, RaftError> {
        let mut secret = [0; 32];
        for bytes in secret.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.chance.next_u64().to_le_bytes());
        }
        let secret = Secret(secret);
        let ttl_ms = u64::try_from(ttl.as_millis()).ok();
        let grant = Command::LeaseGrant { ttl_ms, owner: owner_of(&secret), parent: None };
        match Answer::decode(&self.propose(&grant, &Arc::default()).await?.0)? {
            Answer::LeaseGranted { id, .. } => {
                // one that has just begun knows itself by now
                let mut members = self.members();
                if let (Some(own), Some(address)) = (members.get_mut(&self.number), address) {
                    // which the members may not have agreed on yet
                    *own = Member { name: self.name.clone(), address };
                }
                Ok(Invitation { cluster: self.cluster, id, secret, members })
            }
            other => Err(RaftError::Refused(format!("no invitation: {other:?}"))),
        }
    }

    /// Have the leader change the members, whoever it is.
    pub async fn change(self: &Arc<Self>, change: Change) -> Result<(), RaftError> {
        loop {
            let metrics = self.raft.metrics().borrow_watched().clone();
            let leader = metrics.current_leader;
            let member = leader.and_then(|leader| self.members().get(&leader).cloned());
            match leader.zip(member) {
                Some((leader, _)) if leader == self.number => match self.decide(&change).await {
                    Err(RaftError::NotLeader(_)) => {}
                    decided => return decided,
                },
                Some((leader, member)) => {
                    let request = Request::Change(change.clone());
                    match ask(&*self.transport, self.to(leader), &member, &request, CHANGE_WAIT).await {
                        Ok(Response::NotLeader { .. } | Response::WrongNode) | Err(_) => {}
                        Ok(answer) => return answer.of_change(),
                    }
                }
                None => {}
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    /// As the leader.
    pub(crate) async fn decide(self: &Arc<Self>, change: &Change) -> Result<(), RaftError> {
        match change {
            Change::Join { invitation, secret, number, member } => {
                self.let_in(*invitation, secret, *number, member).await
            }
            Change::Leave { number } => self.remove(*number).await,
            Change::Move { number, member } => self.moved(*number, member).await,
            Change::Lead { number } if !self.voters().contains(number) => {
                Err(RaftError::Refused("only a member that votes can lead".into()))
            }
            Change::Lead { number } => self.hand_over(*number).await,
        }
    }

    async fn let_in(
        self: &Arc<Self>,
        invitation: u64,
        secret: &Secret,
        number: u64,
        member: &Member,
    ) -> Result<(), RaftError> {
        let members = self.members();
        // asked again, because the answer was lost
        if members.get(&number).is_some_and(|known| known.name == member.name) {
            return Ok(());
        }
        self.redeem(invitation, secret).await?;
        for (former, _) in members.iter().filter(|(_, known)| known.name == member.name) {
            self.remove(*former).await?;
        }
        let _changing = self.one_at_a_time().await?;
        self.retry(|| async { self.raft.add_learner(number, member.clone(), false).await.map(drop) }).await
    }

    /// Use an invitation up.
    async fn redeem(self: &Arc<Self>, id: u64, secret: &Secret) -> Result<(), RaftError> {
        let refused = || RaftError::Refused("the invitation was used, is too old, or is of another cluster".into());
        let lease = self.read_latest().await?.look(|rows| Ok(machine::lease(rows, id)?))?.ok_or_else(refused)?;
        let is_over = lease.expires_ms.is_some_and(|expires_ms| expires_ms <= self.clock.wall_ms());
        if is_over || lease.owner != owner_of(secret) {
            return Err(refused());
        }
        let Blob(answer) = self.propose(&Command::LeaseRevoke { id }, &Arc::default()).await?;
        match Answer::decode(&answer)? {
            Answer::LeaseRevoked { found: true, .. } => Ok(()),
            _ => Err(refused()),
        }
    }

    async fn remove(&self, number: u64) -> Result<(), RaftError> {
        if self.voters().contains(&number) {
            self.change_members(ChangeMembers::RemoveVoters([number].into())).await?;
        }
        match self.members().contains_key(&number) {
            true => self.change_members(ChangeMembers::RemoveNodes([number].into())).await,
            false => Ok(()),
        }
    }

    async fn moved(&self, number: u64, member: &Member) -> Result<(), RaftError> {
        if !self.members().contains_key(&number) {
            return Err(RaftError::Refused("it is no member".into()));
        }
        self.change_members(ChangeMembers::SetNodes([(number, member.clone())].into())).await
    }

    /// As a node that is invited: ask the members, and wait until this one votes.
    pub(crate) async fn ask_in(&self, way: &Way, invitation: Invitation) -> Result<(), RaftError> {
        if invitation.cluster != self.cluster {
            return Err(RaftError::Refused(format!("this node waits for another cluster: {}", self.cluster)));
        }
        let (Some(links), Some(address)) = (way.links(), way.address()) else {
            return Err(RaftError::Refused("this node does not listen".into()));
        };
        let member = Member { name: self.name.clone(), address };
        let request = Request::Change(invitation.join(self.number, member));
        let mut first = None;
        for _ in 0..JOIN_ROUNDS {
            for (number, member) in &invitation.members {
                let bytes = request.encode(self.to(*number))?;
                let asked = links.ask_as_client(member, bytes, CHANGE_WAIT).await;
                let answered = asked.map_err(|error| RaftError::Refused(format!("{}: {error}", member.name)));
                match answered.and_then(|bytes| Response::decode(&bytes)?.of_change()) {
                    Ok(()) => return self.wait_for_vote().await,
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        Err(first.unwrap_or_else(|| RaftError::Refused("the invitation names no member".into())))
    }

    /// Until the members have agreed on it and on nothing else: halfway, those who were there before would be needed
    /// by themselves, and who relies on the new one loses the cluster with one of them.
    async fn wait_for_vote(&self) -> Result<(), RaftError> {
        let votes = |metrics: &RaftMetrics<Types>| {
            let config = &metrics.membership_config;
            votes_fully(metrics, self.number) && !is_joint(metrics) && metrics.last_applied >= *config.log_id()
        };
        let waited = self.raft.wait(None).metrics(votes, "a vote").await;
        waited.map(drop).map_err(|error| RaftError::Stopped(error.to_string()))
    }

    /// As the leader: whether somebody is to catch up, or a change is halfway.
    pub(crate) fn is_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        is_joint(&metrics) || metrics.membership_config.membership().learner_ids().next().is_some()
    }

    /// Have another lead, once it has all that this one has.
    async fn hand_over(&self, number: u64) -> Result<(), RaftError> {
        self.raft.trigger().transfer_leader(number).await.map_err(stopped)?;
        let leads = |metrics: &RaftMetrics<Types>| metrics.current_leader == Some(number);
        let waited = self.raft.wait(Some(HAND_OVER_WAIT)).metrics(leads, "another leader").await;
        waited.map(drop).map_err(|_| RaftError::Timeout)
    }

    /// As the leader: give those a vote that have caught up, and go on with a change that another leader, or one who
    /// gave up, left halfway: nobody else would.
    pub(crate) async fn promote(&self) -> Result<(), RaftError> {
        let _changing = self.one_at_a_time().await?;
        let (caught_up, is_joint): (BTreeSet<u64>, bool) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let Some(replication) = &metrics.replication else { return Ok(()) };
            let last = metrics.last_log_index.unwrap_or_default();
            let has = |number: &u64| replication.get(number).and_then(Option::as_ref).map(|place| place.index);
            let learners = metrics.membership_config.membership().learner_ids();
            let caught_up = learners.filter(|number| has(number).is_some_and(|index| index + LAG_MAX >= last));
            (caught_up.collect(), is_joint(&metrics))
        };
        match caught_up.is_empty() && !is_joint {
            true => Ok(()),
            // of nobody: to what the change that is halfway leads to
            false => self.step(ChangeMembers::AddVoterIds(caught_up)).await,
        }
    }

    async fn change_members(&self, change: ChangeMembers<u64, Member>) -> Result<(), RaftError> {
        let _changing = self.one_at_a_time().await?;
        self.step(change).await
    }

    async fn one_at_a_time(&self) -> Result<MutexGuard<'_, ()>, RaftError> {
        tokio::time::timeout(TURN_WAIT, self.changing.lock()).await.map_err(|_| RaftError::NoQuorum)
    }

    /// One change, with [`Node::changing`] held: in two steps when voters change.
    async fn step(&self, change: ChangeMembers<u64, Member>) -> Result<(), RaftError> {
        self.retry(|| async { self.raft.change_membership(change.clone(), false).await.map(drop) }).await
    }

    /// A leader that has just begun, or that nobody answered for a moment, asks to be asked again.
    async fn retry<F>(&self, mut act: impl FnMut() -> F) -> Result<(), RaftError>
    where
        F: Future<Output = Result<(), Refused<Types, ClientWriteError<Types>>>>,
    {
        for _ in 0..CHANGE_TRIES {
            match act().await {
                Err(Refused::APIError(ClientWriteError::ForwardToLeader(forward)))
                    if forward.leader_id.is_none_or(|leader| leader == self.number) =>
                {
                    tokio::time::sleep(LEADER_PAUSE).await;
                }
                // one at a time, and behind what the leader before left
                Err(Refused::APIError(
                    ClientWriteError::ChangeMembershipError(
                        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                    )
                    | ClientWriteError::PreconditionFailed(_),
                )) => tokio::time::sleep(LEADER_PAUSE).await,
                done => return done.map_err(changed),
            }
        }
        Err(RaftError::NoQuorum)
    }

    /// The members, by number.
    pub fn members(&self) -> BTreeMap<u64, Member> {
        members_of(&self.raft.metrics().borrow_watched())
    }

    /// Who a number is, if it is a member's.
    pub(crate) fn member(&self, number: u64) -> Option<Member> {
        self.raft.metrics().borrow_watched().membership_config.membership().get_node(&number).cloned()
    }

    /// Whether it knows them as they are: it is one, and so is whoever leads.
    pub(crate) fn knows_members(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let is_member = |number: &u64| membership.get_node(number).is_some();
        is_member(&self.number) && metrics.current_leader.as_ref().is_some_and(is_member)
    }

    /// Those that vote.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.raft.voter_ids().collect()
    }

    /// What this node is and knows.
    pub fn status(&self) -> NodeStatus {
        // whoever looks a second time waits behind Raft, which waits for the first look to end
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let standing = |number| match votes_fully(&metrics, number) {
            true => Standing::Voter,
            false => Standing::Learner,
        };
        let members = members_of(&metrics).into_iter().map(|(number, member)| (number, (member, standing(number))));
        NodeStatus {
            cluster: self.cluster,
            number: self.number,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last: metrics.last_log_index.unwrap_or_default(),
            applied: metrics.last_applied.as_ref().map_or(0, |place| place.index),
            checkpoint: metrics.snapshot.as_ref().map_or(0, |place| place.index),
            members: members.collect(),
        }
    }
}

/// Whether a change of the voters is halfway: decisions need a majority of those before and of those behind it.
fn is_joint(metrics: &RaftMetrics<Types>) -> bool {
    metrics.membership_config.membership().get_joint_config().len() > 1
}

/// Whether it votes in all that decides now.
fn votes_fully(metrics: &RaftMetrics<Types>, number: u64) -> bool {
    let configs = metrics.membership_config.membership().get_joint_config();
    // one that was told nothing yet has none
    !configs.is_empty() && configs.iter().all(|voters| voters.contains(&number))
}

fn members_of(metrics: &RaftMetrics<Types>) -> BTreeMap<u64, Member> {
    metrics.membership_config.membership().nodes().map(|(number, member)| (*number, member.clone())).collect()
}

fn changed(error: Refused<Types, ClientWriteError<Types>>) -> RaftError {
    match error {
        Refused::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            RaftError::NotLeader(forward.leader_node.map(|member| member.name))
        }
        Refused::APIError(error) => RaftError::Refused(error.to_string()),
        Refused::Fatal(error) => stopped(error),
    }
}
