//! A node with threads of its own, for callers who must not wait: each call ends in one callback.
//!
//! Invariant: an accepted call is answered exactly once, also when its work panics or the engine is closed
//! meanwhile. Callbacks run on our threads.

use crate::links::{Links, Listening};
use crate::machine::{self, read, Command, Component, Event, Path, Pattern, Response, View};
use crate::node::{Node, Options, Seams, Stage};
use crate::types::Member;
use crate::{RaftError, Reading};
use macula_core::Cancel;
use macula_net::Net;
use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The longest row that is read where nobody may wait, bytes.
pub const HOT_BYTES_MAX: usize = 16 << 10;
/// Threads that run Raft.
const WORKERS: usize = 2;
/// Calls under way at once; one more is [`RaftError::Busy`].
const CALLS_MAX: usize = 16 << 10;
/// How long a node that begins may take to lead itself or to find who does.
const LEADER_WAIT: Duration = Duration::from_secs(10);
/// For a change of the members: a node that joins has to catch up first.
const CHANGE_WAIT: Duration = Duration::from_secs(60);
/// Longest between two looks for what has expired.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Shortest, so that many short lives are ended together.
const TICK_MIN: Duration = Duration::from_millis(10);

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Holds every write that was answered anywhere before the read began.
    Linearizable,
    /// What this node has.
    Local,
}

/// What is read.
#[derive(Debug, Clone)]
pub enum Query {
    /// One node.
    Get(Path),
    /// Nodes that match, behind a path, so many.
    GetMany(Pattern, Option<Path>, u64),
    /// How many match.
    Count(Pattern),
    /// Names of children, behind a name, so many.
    List(Option<Path>, Option<Component>, u64),
    /// Events from a revision on, so many.
    History(u64, usize),
    /// Figures.
    Status,
}

/// What was read.
#[derive(Debug, Clone)]
pub enum Found {
    /// Of [`Query::Get`].
    Node(Option<machine::Node>),
    /// Of [`Query::GetMany`].
    Nodes(read::Page),
    /// Of [`Query::Count`].
    Count(u64),
    /// Of [`Query::List`].
    Names(Vec<Component>),
    /// Of [`Query::History`]; whether there are more.
    Events(Vec<Event>, bool),
    /// Of [`Query::Status`].
    Status(machine::Status),
}

/// Who hears what was changed here.
pub type Listener = Box<dyn Fn(&[Event]) + Send + Sync>;

/// How a node is reached by others, and reaches them.
pub struct LinkOptions {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Who it is, and how it proves it.
    pub transport: macula_net::Transport,
    /// Limits and times.
    pub options: macula_net::Options,
}

type Linked = Arc<tokio::sync::Mutex<Option<(Listening, Arc<Links>)>>>;

/// A node that runs.
pub struct Engine {
    runtime: Option<Runtime>,
    node: Arc<Node>,
    listening: Linked,
    address: Option<SocketAddr>,
    calls: Arc<AtomicUsize>,
    closing: watch::Sender<bool>,
}

impl Engine {
    /// Open a node that has no links, or those of its seams. Blocks: for threads that may wait.
    pub fn open(seams: Seams, options: Options, listener: Listener) -> Result<Self, RaftError> {
        let runtime = runtime()?;
        Self::start(runtime, seams, options, listener, None)
    }

    /// Open a node with links of its own. Blocks.
    pub fn open_linked(
        seams: Seams,
        options: Options,
        listener: Listener,
        links: LinkOptions,
    ) -> Result<Self, RaftError> {
        let runtime = runtime()?;
        let net = Net {
            runtime: runtime.handle().clone(),
            clock: seams.clock.clone(),
            chance: seams.chance.clone(),
            transport: links.transport,
            options: links.options,
        };
        let listening = {
            let _entered = runtime.enter();
            Listening::open(&net, links.listen)?
        };
        let links = Arc::new(Links::new(net));
        let seams = Seams { transport: links.clone(), ..seams };
        Self::start(runtime, seams, options, listener, Some((listening, links)))
    }

    fn start(
        runtime: Runtime,
        seams: Seams,
        options: Options,
        listener: Listener,
        linked: Option<(Listening, Arc<Links>)>,
    ) -> Result<Self, RaftError> {
        let (closing, closed) = watch::channel(false);
        let node = runtime.block_on(async {
            let node = Arc::new(Node::open(seams, options, listener).await?);
            // one that is not may go on with what it has
            if node.is_alone() {
                let led = node.wait_for_leader(LEADER_WAIT).await;
                led.map_err(|error| node.damage().unwrap_or(error))?;
            }
            Ok::<_, RaftError>(node)
        })?;
        let address = linked.as_ref().and_then(|(listening, _)| listening.address());
        if let Some((listening, links)) = &linked {
            links.learn(&node.members(), node.number());
            listening.serve(&node);
        }
        let listening = Arc::new(tokio::sync::Mutex::new(linked));
        runtime.spawn(make_checkpoints(node.clone(), closed.clone()));
        runtime.spawn(keep(node.clone(), listening.clone(), closed));
        Ok(Self { runtime: Some(runtime), node, listening, address, calls: Arc::default(), closing })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The members that it knows, by number.
    pub fn members(&self) -> BTreeMap<u64, Member> {
        self.node.members()
    }

    /// Tell the others where a member is; on the leader. Blocks.
    pub fn set_member(&self, number: u64, member: Member) -> Result<(), RaftError> {
        self.wait(self.node.set_member(number, member))
    }

    /// Have a command applied. [`RaftError::Timeout`] may have happened.
    pub fn propose(
        &self,
        command: Command,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Response, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let stage = Arc::new(Stage::default());
        let sending = stage.clone();
        let work = async move {
            let answer = node.propose(&command, &sending).await?;
            Ok(Response::decode(&answer.0)?)
        };
        // it is known at least whether it can have happened: who is told `Closed` asks the next one again
        let lost = stage.clone();
        let ends = Ends {
            over: move || if stage.is_sent() { RaftError::Timeout } else { RaftError::NoQuorum },
            lost: move || if lost.is_sent() { RaftError::Unknown } else { RaftError::Closed },
        };
        self.run(work, deadline, ends, cancel, reply)
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
            let rows = match consistency {
                Consistency::Linearizable => node.read_latest().await?,
                Consistency::Local => node.read_local(),
            };
            match find_hot(&rows, &query)? {
                Some(found) => Ok(found),
                // pages may come from the disk
                None => blocking(|| find(&rows, &query)),
            }
        };
        let over = move || match consistency {
            Consistency::Linearizable => RaftError::NoQuorum,
            Consistency::Local => RaftError::Timeout,
        };
        self.run(work, deadline, Ends { over, lost: || RaftError::Closed }, cancel, reply)
    }

    /// Read what this node has, on the caller's thread.
    pub fn query_here(&self, query: &Query) -> Result<Found, RaftError> {
        find(&self.node.read_local(), query)
    }

    /// The same from memory, on a thread that must not wait; `None`: by [`Engine::query_here`] only. Of
    /// [`Query::Get`], and of nodes up to [`HOT_BYTES_MAX`].
    pub fn query_hot(&self, query: &Query) -> Result<Option<Found>, RaftError> {
        let Some(rows) = self.node.read_now() else { return Ok(None) };
        find_hot(&rows, query)
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

    /// Begin a cluster of these. Blocks.
    pub fn begin(&self, members: BTreeMap<u64, Member>) -> Result<(), RaftError> {
        self.wait(self.node.begin(members))
    }

    /// Take a node in; on the leader. Blocks until it votes.
    pub fn join(&self, number: u64, member: Member) -> Result<(), RaftError> {
        self.wait(self.node.join(number, member))
    }

    /// Let a node go; on the leader. Blocks.
    pub fn remove(&self, number: u64) -> Result<(), RaftError> {
        self.wait(self.node.remove(number))
    }

    /// Have another member lead; on the leader.
    pub fn transfer_leader(&self, to: u64) -> Result<(), RaftError> {
        self.wait(self.node.transfer_leader(to))
    }

    /// Wait for a leader; its number. Blocks.
    pub fn wait_for_leader(&self, wait: Duration) -> Result<u64, RaftError> {
        self.wait(self.node.wait_for_leader(wait))
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, RaftError>>) -> Result<T, RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let in_time = async { tokio::time::timeout(CHANGE_WAIT, work).await };
        runtime.block_on(in_time).unwrap_or(Err(RaftError::Timeout))
    }

    /// The state that this node has, to be read as of now for as long as it is held.
    pub fn view_here(&self) -> Arc<Reading> {
        self.node.read_local()
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
        let work = async move {
            match consistency {
                Consistency::Linearizable => node.read_latest().await,
                Consistency::Local => Ok(node.read_local()),
            }
        };
        let ends = Ends { over: || RaftError::NoQuorum, lost: || RaftError::Closed };
        self.run(work, deadline, ends, cancel, reply)
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RaftError>> + Send + 'static,
        deadline: Option<Duration>,
        ends: Ends<impl FnOnce() -> RaftError + Send + 'static, impl FnOnce() -> RaftError + Send + 'static>,
        cancel: Cancel,
        reply: impl FnOnce(Result<T, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let call = Call::begin(&self.calls)?;
        let Ends { over, lost } = ends;
        let answer = Answering { parts: Some((reply, lost)), of: PhantomData };
        runtime.spawn(async move {
            let _call = call;
            if cancel.is_cancelled() {
                return answer.send(Err(RaftError::Cancelled));
            }
            let result = match deadline {
                None => work.await,
                Some(deadline) => tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(over())),
            };
            answer.send(result);
        });
        Ok(())
    }

    /// Answer what is under way and stop. Blocks.
    pub fn close(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let _ = self.closing.send(true);
        runtime.block_on(async {
            if let Some((mut listening, _links)) = self.listening.lock().await.take() {
                listening.close().await;
            }
            self.node.close().await;
        });
        // what waited got its answer when Raft stopped; what did not is answered by being dropped
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

impl Engine {
    /// Be gone without a word to anybody, as after SIGKILL: for tests and measurements. What was under way is
    /// answered as lost.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

fn runtime() -> Result<Runtime, RaftError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(WORKERS).thread_name("macula-raft").enable_all().build();
    built.map_err(|error| RaftError::Internal(format!("no threads could be started: {error}")))
}

/// One of the calls under way.
struct Call(Arc<AtomicUsize>);

impl Call {
    fn begin(calls: &Arc<AtomicUsize>) -> Result<Self, RaftError> {
        if calls.fetch_add(1, Ordering::AcqRel) >= CALLS_MAX {
            calls.fetch_sub(1, Ordering::AcqRel);
            return Err(RaftError::Busy { len_max: CALLS_MAX });
        }
        Ok(Self(calls.clone()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a call is told that came to no end of its own.
struct Ends<O, L> {
    /// Its deadline passed.
    over: O,
    /// The engine was closed before.
    lost: L,
}

/// The one answer, also when it is dropped unsent.
struct Answering<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> {
    parts: Option<(F, L)>,
    of: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> Answering<T, F, L> {
    fn send(mut self, result: Result<T, RaftError>) {
        if let Some((reply, _)) = self.parts.take() {
            reply(result);
        }
    }
}

impl<T, F: FnOnce(Result<T, RaftError>), L: FnOnce() -> RaftError> Drop for Answering<T, F, L> {
    fn drop(&mut self) {
        if let Some((reply, lost)) = self.parts.take() {
            reply(Err(lost()));
        }
    }
}

/// Work that may wait for the disk, without holding up what else the thread runs.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // of a simulation, whose disk does not wait
        _ => work(),
    }
}

impl Query {
    /// What it finds in a view.
    pub fn of(&self, rows: &Reading) -> Result<Found, RaftError> {
        find(rows, self)
    }
}

fn find(rows: &Reading, query: &Query) -> Result<Found, RaftError> {
    rows.look(|view| find_in(view, query))
}

/// From memory, without waiting; `None`: by [`find`] only.
fn find_hot(rows: &Reading, query: &Query) -> Result<Option<Found>, RaftError> {
    let Query::Get(path) = query else { return Ok(None) };
    rows.look_now(HOT_BYTES_MAX, |rows| Ok(Found::Node(read::get(rows, path)?)))
}

fn find_in(view: &dyn View, query: &Query) -> Result<Found, RaftError> {
    Ok(match query {
        Query::Get(path) => Found::Node(read::get(view, path)?),
        Query::GetMany(pattern, after, limit) => Found::Nodes(read::get_many(view, pattern, after.as_ref(), *limit)?),
        Query::Count(pattern) => Found::Count(read::count(view, pattern)?),
        Query::List(path, after, limit) => Found::Names(read::list(view, path.as_ref(), after.as_ref(), *limit)?),
        Query::History(from, limit) => history(view, *from, *limit)?,
        Query::Status => Found::Status(machine::status(view)?),
    })
}

/// Whole revisions, so that who goes on behind the last one misses nothing.
fn history(view: &dyn View, from: u64, limit: usize) -> Result<Found, RaftError> {
    let (mut events, mut more) = (Vec::<Event>::new(), false);
    machine::history(view, from, &mut |event| {
        if events.len() >= limit && events.last().is_some_and(|last| last.revision < event.revision) {
            more = true;
            return ControlFlow::Break(());
        }
        events.push(event);
        ControlFlow::Continue(())
    })?;
    Ok(Found::Events(events, more))
}

async fn make_checkpoints(node: Arc<Node>, mut closed: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            made = node.checkpoint_when_full() => if made.is_err() { return },
            _ = closed.changed() => return,
        }
    }
}

/// While this node leads, end what has expired; and let its links know who the members are.
async fn keep(node: Arc<Node>, listening: Linked, mut closed: watch::Receiver<bool>) {
    let mut members = node.members();
    loop {
        let pause = match node.next_expiry() {
            Ok(Some(left)) => left.clamp(TICK_MIN, TICK_MAX),
            Ok(None) | Err(_) => TICK_MAX,
        };
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            _ = closed.changed() => return,
        }
        let members_now = node.members();
        if members_now != members {
            members = members_now;
            if let Some((listening, links)) = &*listening.lock().await {
                links.learn(&members, node.number());
                // who left is cut off
                listening.look_again();
            }
        }
        if node.is_leader() && matches!(node.next_expiry(), Ok(Some(Duration::ZERO))) {
            // who leads next tries again
            let _ = node.propose(&Command::Tick, &Stage::default()).await;
        }
    }
}
