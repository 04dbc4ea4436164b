//! A node with threads of its own, for callers who must not wait: each call ends in one callback.
//!
//! Invariant: an accepted call is answered exactly once, also when its work panics or the engine is closed
//! meanwhile. Callbacks run on our threads.

use crate::calls::{Calls, Ends};
use crate::links::{Bulk, Links, Listening};
use crate::machine::{Command, Event, Response};
use crate::members::{Change, Invitation, NodeStatus};
use crate::node::{Node, Options, Seams};
use crate::propose::Stage;
use crate::query::{Consistency, Found, Query};
use crate::types::{Blob, Member};
use crate::upkeep::{keep, make_checkpoints};
use crate::way::Way;
use crate::{RaftError, Reading};
use macula_core::{Cancel, MemberAt, Members};
use macula_net::{Handler, Net};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The longest row that is read where nobody may wait, bytes.
pub const HOT_BYTES_MAX: usize = 16 << 10;
/// Threads that run Raft, where there are processors for the VM beside them; else one: what two of them do for each
/// other is mostly to wake the other one up (bench/state_cluster.exs on two processors: reads 1.8 times as many a
/// second with one, writes 1.15 times).
const WORKERS: usize = 2;
const PROCESSORS_MIN: usize = 4;
/// How long a node that begins may take to lead itself or to find who does.
const LEADER_WAIT: Duration = Duration::from_secs(10);
/// Who hears what was changed here.
pub type Listener = Box<dyn Fn(&[Event]) + Send + Sync>;

/// How a node is reached by others, and reaches them.
pub struct LinkOptions {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The host at which others find it.
    pub host: String,
    /// And the port; `None`: the one that it listens at.
    pub port: Option<u16>,
    /// Who it is, and how it proves it.
    pub transport: macula_net::Transport,
    /// Limits and times.
    pub options: macula_net::Options,
}

/// A node that runs.
pub struct Engine {
    runtime: Option<Runtime>,
    node: Arc<Node>,
    way: Arc<Way>,
    calls: Calls,
    closing: watch::Sender<bool>,
    bulk: Bulk,
    net: Mutex<Option<Box<Net>>>,
}

impl Engine {
    /// Open a node. It has the links of its seams until it has its own. Blocks: for threads that may wait.
    pub fn open(seams: Seams, options: Options, listener: Listener) -> Result<Self, RaftError> {
        let runtime = threads()?;
        let (closing, closed) = watch::channel(false);
        let way = Arc::new(Way::over(seams.transport));
        let seams = Seams { transport: way.clone(), ..seams };
        let node = runtime.block_on(async {
            let node = Arc::new(Node::open(seams, options, listener).await?);
            // one that is not may go on with what it has
            if node.is_alone() {
                let led = node.wait_for_leader(LEADER_WAIT).await;
                led.map_err(|error| node.damage().unwrap_or(error))?;
            }
            Ok::<_, RaftError>(node)
        })?;
        runtime.spawn(make_checkpoints(node.clone(), closed.clone()));
        runtime.spawn(keep(node.clone(), way.clone(), closed));
        let calls = Calls::default();
        runtime.spawn(calls.deadlines.clone().keep());
        let (bulk, net) = Default::default();
        Ok(Self { runtime: Some(runtime), node, way, calls, closing, bulk, net })
    }

    /// Have links of its own from now on; the address that it listens at. Blocks.
    pub fn listen(&self, links: LinkOptions) -> Result<SocketAddr, RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let net = Net {
            runtime: runtime.handle().clone(),
            clock: self.node.clock.clone(),
            chance: self.node.chance.clone(),
            transport: links.transport,
            options: links.options,
        };
        let _entered = runtime.enter();
        let listening = Listening::open(&net, links.listen, self.bulk.clone())?;
        *self.net.lock() = Some(Box::new(net.clone()));
        let links_own = Arc::new(Links::new(net));
        links_own.learn(&self.node.members(), self.node.number());
        listening.serve(&self.node);
        self.way.take(listening, links_own, &links.host, links.port)
    }

    /// Have this one answer what members ask on links for blocks of files, from now on.
    pub fn serve_bulk(&self, handler: Arc<dyn Handler>) {
        *self.bulk.write() = Some(handler);
    }

    /// What its links are made of, once it listens.
    pub fn net(&self) -> Option<Net> {
        self.net.lock().as_deref().cloned()
    }

    /// Who the members are, for as long as the node is there.
    pub fn members(&self) -> Arc<dyn Members> {
        Arc::new(MembersOf(Arc::downgrade(&self.node), self.node.name.clone()))
    }

    /// Where others find it, `host:port`, once it listens.
    pub fn address(&self) -> Option<String> {
        self.way.address()
    }

    /// A member says where it is.
    pub fn tell(&self, name: &str, address: &str) {
        if let Some(links) = self.way.links() {
            links.tell(name, address);
        }
    }

    /// What this node is and knows.
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Let one node in within this time.
    pub fn invite(
        &self,
        ttl: Duration,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Invitation, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let (node, way) = (self.node.clone(), self.way.clone());
        let work = async move { node.invite(way.address(), ttl).await };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::timeout(), cancel, reply)
    }

    /// Change the members, from any of them. What timed out may have happened.
    pub fn change(
        &self,
        change: Change,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<(), RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let work = async move { node.change(change).await };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::timeout(), cancel, reply)
    }

    /// As a node that joins: ask the members to be let in, and wait until it votes.
    pub fn join(
        &self,
        invitation: Invitation,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<(), RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let (node, way) = (self.node.clone(), self.way.clone());
        let work = async move { node.ask_in(&way, invitation).await };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::timeout(), cancel, reply)
    }

    /// Wait for a leader; its number.
    pub fn wait_for_leader(
        &self,
        deadline: Duration,
        cancel: Cancel,
        reply: impl FnOnce(Result<u64, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let work = async move { node.wait_for_leader(deadline).await };
        self.calls.run(self.runtime.as_ref(), work, Some(deadline), Ends::no_quorum(), cancel, reply)
    }

    /// Have a command applied. [`RaftError::Timeout`] may have happened.
    pub fn propose(
        &self,
        command: Command,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Response, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let stage = Arc::new(Stage::default());
        let asked = self.node.ask(&command, stage.clone(), cancel)?;
        let reply = move |answer: Result<Blob, RaftError>| {
            reply(answer.and_then(|answer| Ok(Response::decode(&answer.0)?)));
        };
        let ending = self.calls.begin(deadline, Ends::of_command(stage), reply)?;
        self.node.post(runtime.handle(), asked, ending);
        Ok(())
    }

    /// Read.
    pub fn query(
        &self,
        query: Query,
        consistency: Consistency,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Found, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let work = async move {
            let rows = node.read(consistency).await?;
            match query.hot(&rows)? {
                Some(found) => Ok(found),
                // pages may come from the disk
                None => blocking(|| query.of(&rows)),
            }
        };
        let over = move || match consistency {
            Consistency::Linearizable | Consistency::Stale(_) => RaftError::NoQuorum,
            Consistency::Local => RaftError::Timeout,
        };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends { over, lost: || RaftError::Closed }, cancel, reply)
    }

    /// Read what this node has, on the caller's thread.
    pub fn query_here(&self, query: &Query) -> Result<Found, RaftError> {
        query.of(&self.node.read_local())
    }

    /// The same from memory, on a thread that must not wait; `None`: by [`Engine::query_here`] only. Of
    /// [`Query::Get`], and of nodes up to [`HOT_BYTES_MAX`]. With `stale`, not older than that.
    pub fn query_hot(&self, query: &Query, stale: Option<Duration>) -> Result<Option<Found>, RaftError> {
        if stale.is_some_and(|age| !self.node.is_fresh(age)) {
            return Ok(None);
        }
        let Some(rows) = self.node.read_now() else { return Ok(None) };
        query.hot(&rows)
    }

    /// Answer another member's request.
    pub fn serve(&self, request: Vec<u8>, reply: impl FnOnce(Vec<u8>) + Send + 'static) -> Result<(), RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let node = self.node.clone();
        runtime.spawn(async move { reply(node.serve(None, &request).await) });
        Ok(())
    }

    /// This incarnation's number.
    pub fn number(&self) -> u64 {
        self.node.number()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.node.is_leader()
    }

    /// Begin a cluster of these, which all wait for it. Blocks.
    pub fn begin(&self, members: BTreeMap<u64, Member>) -> Result<(), RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        runtime.block_on(self.node.begin(members))
    }

    /// The state that this node has, to be read as of now for as long as it is held.
    pub fn view_here(&self) -> Arc<Reading> {
        self.node.read_local()
    }

    /// The same for who must not wait; `None` when it would have to.
    pub fn view_now(&self) -> Option<Arc<Reading>> {
        self.node.read_now()
    }

    /// As [`Engine::view_here`], so fresh.
    pub fn view(
        &self,
        consistency: Consistency,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Arc<Reading>, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let work = async move { node.read(consistency).await };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::no_quorum(), cancel, reply)
    }

    /// Answer what is under way and stop. Blocks.
    pub fn close(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let _ = self.closing.send(true);
        runtime.block_on(async {
            self.way.close().await;
            self.node.close().await;
        });
        // what waited got its answer when Raft stopped; what did not is answered by being dropped
        runtime.shutdown_timeout(Duration::from_secs(5));
        self.node.outbox.clear();
    }
}

impl Engine {
    /// Be gone without a word to anybody, as after SIGKILL: for tests and measurements. What was under way is
    /// answered as lost.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            self.node.outbox.clear();
        }
    }
}

/// The members that a node knows.
struct MembersOf(Weak<Node>, String);

impl Members for MembersOf {
    fn own(&self) -> String {
        self.1.clone()
    }

    fn members(&self) -> Vec<MemberAt> {
        let Some(node) = self.0.upgrade() else { return Vec::new() };
        let member = |member: Member| MemberAt { name: member.name, address: member.address };
        node.members().into_values().map(member).collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// What runs a node, or a client.
pub(crate) fn threads() -> Result<Runtime, RaftError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if processors < PROCESSORS_MIN { 1 } else { WORKERS };
    let built = builder.worker_threads(workers).thread_name("macula-raft").enable_all().build();
    built.map_err(|error| RaftError::Internal(format!("no threads could be started: {error}")))
}

/// Work that may wait for the disk, without holding up what else the thread runs.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // of a simulation, whose disk does not wait
        _ => work(),
    }
}
