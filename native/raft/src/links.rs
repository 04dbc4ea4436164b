//! The [`Transport`] over links: authenticated, reconnected by themselves, one to each member.
//!
//! Invariant: who is not a member is not heard once this node knows the members; a node that knows none listens
//! to every member of its cluster's certificates, because one of them may invite it.

use crate::network::{Transport, Unreached};
use crate::node::Node;
use crate::types::Member;
use crate::RaftError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use macula_net::{Admit, Handler, Link, Listener, Net, NetError, NodeName, Peer, Purpose, Reason, Refusal, Reply};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// The one kind of request.
const KIND_RAFT: u8 = 1;

/// Links to members, opened when they are known, or with the first call.
pub(crate) struct Links {
    net: Net,
    open: Mutex<BTreeMap<u64, (String, Arc<Link>)>>,
    /// Where members are, as of the newest entry: openraft goes on with what it was told first.
    members: RwLock<BTreeMap<u64, Member>>,
}

impl Links {
    pub(crate) fn new(net: Net) -> Self {
        Self { net, open: Mutex::default(), members: RwLock::default() }
    }

    /// Where members are from now on. Links to those who left are closed, to the others they are opened: whoever
    /// wants to lead asks all of them, once, and a link that is not there yet would cost a round.
    pub(crate) fn learn(&self, members: &BTreeMap<u64, Member>, own: u64) {
        members.clone_into(&mut self.members.write());
        self.open.lock().retain(|number, _| members.contains_key(number));
        for (number, member) in members.iter().filter(|(number, member)| **number != own && !member.address.is_empty())
        {
            // what is no name is told by the first call
            let _ = self.link(*number, member);
        }
    }

    fn link(&self, number: u64, member: &Member) -> Result<Arc<Link>, NetError> {
        let known = self.members.read().get(&number).cloned();
        let member = known.as_ref().unwrap_or(member);
        let mut open = self.open.lock();
        if let Some((address, link)) = open.get_mut(&number) {
            if *address != member.address {
                link.set_address(member.address.clone());
                address.clone_from(&member.address);
            }
            return Ok(link.clone());
        }
        let name = NodeName::new(member.name.as_bytes())?;
        let link = Arc::new(self.net.link(name, member.address.clone(), Purpose::Raft));
        open.insert(number, (member.address.clone(), link.clone()));
        Ok(link)
    }
}

fn unreached(error: NetError) -> Unreached {
    let text = error.to_string();
    match error {
        NetError::Lost(_) | NetError::Timeout { .. } | NetError::Failed(_) => Unreached::Lost(text),
        _ => Unreached::NotSent(text),
    }
}

impl Transport for Links {
    fn call(
        &self,
        to: u64,
        member: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, Unreached>> {
        let link = self.link(to, member);
        Box::pin(async move {
            let answer = link.map_err(unreached)?.call(KIND_RAFT, request, wait).await;
            answer.map(|bytes| bytes.to_vec()).map_err(unreached)
        })
    }
}

/// What listens for a node.
struct Door {
    runtime: Handle,
    node: RwLock<Weak<Node>>,
    generation: AtomicU64,
}

impl Admit for Door {
    fn admit(&self, peer: &Peer, _purpose: Purpose) -> Result<(), Refusal> {
        let Some(node) = self.node.read().upgrade() else {
            return Err(Refusal::new(Reason::Stopping, "the node is not there"));
        };
        let members = node.members();
        match members.is_empty() || members.values().any(|member| member.name.as_bytes() == peer.node.as_bytes()) {
            true => Ok(()),
            false => Err(Refusal::new(Reason::NotAdmitted, "no member of the cluster")),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Handler for Door {
    fn handle(&self, peer: &Arc<Peer>, kind: u8, payload: Bytes, reply: Reply) {
        let Some(node) = self.node.read().upgrade().filter(|_| kind == KIND_RAFT) else { return };
        let peer = peer.clone();
        self.runtime.spawn(async move {
            reply.send(node.serve(Some(peer.node.as_bytes()), &payload).await);
        });
    }
}

/// A listener, open until dropped.
pub(crate) struct Listening {
    door: Arc<Door>,
    listener: Option<Listener>,
}

impl Listening {
    pub(crate) fn open(net: &Net, address: SocketAddr) -> Result<Self, RaftError> {
        let (runtime, node) = (net.runtime.clone(), RwLock::new(Weak::new()));
        let door = Arc::new(Door { runtime, node, generation: AtomicU64::new(0) });
        let listener = net.listen(address, door.clone(), door.clone())?;
        Ok(Self { door, listener: Some(listener) })
    }

    /// Where others find it.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// From now on, for this node.
    pub(crate) fn serve(&self, node: &Arc<Node>) {
        *self.door.node.write() = Arc::downgrade(node);
    }

    /// The members have changed, perhaps.
    pub(crate) fn look_again(&self) {
        self.door.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) async fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.close().await;
        }
    }
}
