//! The [`Transport`] over links: authenticated, reconnected by themselves, one to each member.
//!
//! Invariant: on the links of members nobody else is heard by a node that knows who they are; one that does not, as
//! it is new or was away, listens to every member by certificate, because one of those may lead by now. On
//! clients' links, others may ask what [`Node::serve`] lets them.

use crate::network::{Transport, Unreached};
use crate::node::Node;
use crate::rpc::Request;
use crate::types::Member;
use crate::RaftError;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use macula_net::{
    Admit, Caller, Handler, Link, Listener, Net, NetError, NodeName, Peer, Purpose, Reason, Refusal, Reply,
};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;

/// The one kind of request.
const KIND_REQUEST: u8 = 1;
/// For a link to be there that is made for one request.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Links to members, opened when they are known, or with the first call.
pub(crate) struct Links {
    net: Net,
    open: Mutex<BTreeMap<u64, (String, Arc<Link>)>>,
    known: RwLock<Known>,
}

/// Where members are: openraft goes on with what it was told first.
#[derive(Default)]
struct Known {
    /// As of the newest entry.
    members: BTreeMap<u64, Member>,
    /// As told since, by those that are elsewhere now.
    told: BTreeMap<u64, String>,
}

impl Links {
    pub(crate) fn new(net: Net) -> Self {
        Self { net, open: Mutex::default(), known: RwLock::default() }
    }

    /// Where members are from now on. Links to those who left are closed, to the others they are opened: whoever
    /// wants to lead asks all of them, once, and a link that is not there yet would cost a round.
    pub(crate) fn learn(&self, members: &BTreeMap<u64, Member>, own: u64) {
        let mut known = self.known.write();
        let Known { members: before, told } = &mut *known;
        // what the members agreed on since goes before what one of them was told
        told.retain(|number, _| members.contains_key(number) && members.get(number) == before.get(number));
        members.clone_into(before);
        drop(known);
        self.open.lock().retain(|number, _| members.contains_key(number));
        for (number, member) in members.iter().filter(|(number, member)| **number != own && !member.address.is_empty())
        {
            // what is no name is told by the first call
            let _ = self.link(*number, member);
        }
    }

    /// A member says where it is. A lie leads to somebody without its certificate.
    pub(crate) fn tell(&self, name: &str, address: &str) {
        let mut known = self.known.write();
        let Known { members, told } = &mut *known;
        for (number, _) in members.iter().filter(|(_, member)| member.name == name) {
            told.insert(*number, address.to_owned());
        }
    }

    pub(crate) fn reload(&self) {
        if let macula_net::Transport::Tls(identity) = &self.net.transport {
            // said when it is used to open a link
            let _ = identity.reload_if_changed();
        }
    }

    fn address(&self, number: u64, member: &Member) -> String {
        let known = self.known.read();
        let agreed = known.members.get(&number).unwrap_or(member);
        known.told.get(&number).unwrap_or(&agreed.address).clone()
    }

    fn link(&self, number: u64, member: &Member) -> Result<Arc<Link>, NetError> {
        let now = self.address(number, member);
        let mut open = self.open.lock();
        if let Some((address, link)) = open.get_mut(&number) {
            if *address != now {
                link.set_address(now.clone());
                *address = now;
            }
            return Ok(link.clone());
        }
        let name = NodeName::new(member.name.as_bytes())?;
        let link = Arc::new(self.net.link(name, now.clone(), Purpose::Raft));
        open.insert(number, (now, link.clone()));
        Ok(link)
    }

    /// One request of a node that is no member.
    pub(crate) async fn ask_as_client(
        &self,
        member: &Member,
        request: Vec<u8>,
        wait: Duration,
    ) -> Result<Vec<u8>, Unreached> {
        let name = NodeName::new(member.name.as_bytes()).map_err(unreached)?;
        let link = self.net.link(name, member.address.clone(), Purpose::Client);
        link.connected(CONNECT_WAIT).await;
        ask_over(&link, request, wait).await
    }
}

/// One request.
pub(crate) async fn ask_over(link: &Link, request: Vec<u8>, wait: Duration) -> Result<Vec<u8>, Unreached> {
    let answer = link.call(KIND_REQUEST, request, wait).await;
    answer.map(|bytes| bytes.to_vec()).map_err(unreached)
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
            let link = link.map_err(unreached)?;
            ask_over(&link, request, wait).await
        })
    }
}

/// Who answers on links of [`Purpose::Bulk`], once somebody does.
pub(crate) type Bulk = Arc<RwLock<Option<Arc<dyn Handler>>>>;

/// What listens for a node.
struct Door {
    runtime: Handle,
    node: RwLock<Weak<Node>>,
    bulk: Bulk,
    generation: AtomicU64,
}

impl Admit for Door {
    fn admit(&self, peer: &Peer, purpose: Purpose) -> Result<(), Refusal> {
        let Some(node) = self.node.read().upgrade() else {
            return Err(Refusal::new(Reason::Stopping, "the node is not there"));
        };
        let is_member = || node.members().values().any(|member| member.name.as_bytes() == peer.node.as_bytes());
        match purpose == Purpose::Client || !node.knows_members() || is_member() {
            true => Ok(()),
            false => Err(Refusal::new(Reason::NotAdmitted, "no member of the cluster")),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Handler for Door {
    fn handle(&self, caller: &Caller, kind: u8, payload: Bytes, reply: Reply) {
        if caller.purpose == Purpose::Bulk {
            let bulk = self.bulk.read().clone();
            return bulk.map_or((), |bulk| bulk.handle(caller, kind, payload, reply));
        }
        let Some(node) = self.node.read().upgrade().filter(|_| kind == KIND_REQUEST) else { return };
        let (caller, request) = (caller.clone(), Request::decode(&payload));
        let is_append = matches!(request, Ok((_, Request::Append { .. })));
        let mut serving = Box::pin(async move {
            reply.send(node.serve_decoded(Some(&caller), request).await);
        });
        // begun here, appends come to Raft in the order in which they came over the link
        let is_over = is_append && tokio::task::unconstrained(serving.as_mut()).now_or_never().is_some();
        if !is_over {
            self.runtime.spawn(serving);
        }
    }
}

/// A listener, open until dropped.
pub(crate) struct Listening {
    door: Arc<Door>,
    listener: Option<Listener>,
}

impl Listening {
    pub(crate) fn open(net: &Net, address: SocketAddr, bulk: Bulk) -> Result<Self, RaftError> {
        let (runtime, node) = (net.runtime.clone(), RwLock::new(Weak::new()));
        let door = Arc::new(Door { runtime, node, bulk, generation: AtomicU64::new(0) });
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
