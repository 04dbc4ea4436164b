//! A node with threads of its own, for callers who must not wait: each call ends in one callback.
//!
//! Invariant: an accepted call is answered exactly once, also when its work panics or the engine is closed
//! meanwhile. Callbacks run on our threads.

use crate::machine::{self, read, Command, Component, Event, Path, Pattern, Response, View};
use crate::node::{Node, Options, Seams};
use crate::{RaftError, Reading};
use macula_core::Cancel;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Threads that run Raft.
const WORKERS: usize = 2;
/// Calls under way at once; one more is [`RaftError::Busy`].
const CALLS_MAX: usize = 16 << 10;
/// How long a node that begins may take to lead itself or to find who does.
const LEADER_WAIT: Duration = Duration::from_secs(10);
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

/// A node that runs.
pub struct Engine {
    runtime: Option<Runtime>,
    node: Arc<Node>,
    calls: Arc<AtomicUsize>,
    closing: watch::Sender<bool>,
}

impl Engine {
    /// Open a node and wait until it has a leader. Blocks: for threads that may wait.
    pub fn open(seams: Seams, options: Options, listener: Listener) -> Result<Self, RaftError> {
        let threads = |error: io::Error| RaftError::Internal(format!("no threads could be started: {error}"));
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(WORKERS).thread_name("macula-raft").enable_time();
        let runtime = builder.build().map_err(threads)?;
        let (closing, closed) = watch::channel(false);
        let node = runtime.block_on(async {
            let node = Arc::new(Node::open(seams, options, listener).await?);
            node.wait_for_leader(LEADER_WAIT).await?;
            Ok::<_, RaftError>(node)
        })?;
        runtime.spawn(expire(node.clone(), closed));
        Ok(Self { runtime: Some(runtime), node, calls: Arc::default(), closing })
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
        let work = async move {
            let answer = node.propose(&command).await?;
            Ok(Response::decode(&answer.0)?)
        };
        self.run(work, deadline, cancel, reply)
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
                Consistency::Local => node.read_local()?,
            };
            // pages may come from the disk
            tokio::task::block_in_place(|| find(&rows, &query))
        };
        self.run(work, deadline, cancel, reply)
    }

    /// Read what this node has, on the caller's thread.
    pub fn query_here(&self, query: &Query) -> Result<Found, RaftError> {
        find(&self.node.read_local()?, query)
    }

    /// The state that this node has, to be read as of now for as long as it is held.
    pub fn view_here(&self) -> Result<Reading, RaftError> {
        self.node.read_local()
    }

    /// As [`Engine::view_here`], so fresh.
    pub fn view(
        &self,
        consistency: Consistency,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Reading, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let node = self.node.clone();
        let work = async move {
            match consistency {
                Consistency::Linearizable => node.read_latest().await,
                Consistency::Local => node.read_local(),
            }
        };
        self.run(work, deadline, cancel, reply)
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RaftError>> + Send + 'static,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<T, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let Some(runtime) = &self.runtime else { return Err(RaftError::Closed) };
        let call = Call::begin(&self.calls)?;
        let answer = Answering { reply: Some(reply), of: PhantomData };
        runtime.spawn(async move {
            let _call = call;
            if cancel.is_cancelled() {
                return answer.send(Err(RaftError::Cancelled));
            }
            let result = match deadline {
                None => work.await,
                Some(deadline) => tokio::time::timeout(deadline, work).await.unwrap_or(Err(RaftError::Timeout)),
            };
            answer.send(result);
        });
        Ok(())
    }

    /// Answer what is under way and stop. Blocks.
    pub fn close(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let _ = self.closing.send(true);
        runtime.block_on(self.node.close());
        // what waited got its answer when Raft stopped; what did not is answered by being dropped
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
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

/// The one answer; dropped unsent it says that the engine was closed.
struct Answering<T, F: FnOnce(Result<T, RaftError>)> {
    reply: Option<F>,
    of: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, RaftError>)> Answering<T, F> {
    fn send(mut self, result: Result<T, RaftError>) {
        if let Some(reply) = self.reply.take() {
            reply(result);
        }
    }
}

impl<T, F: FnOnce(Result<T, RaftError>)> Drop for Answering<T, F> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(Err(RaftError::Closed));
        }
    }
}

impl Query {
    /// What it finds in a view.
    pub fn of(&self, rows: &Reading) -> Result<Found, RaftError> {
        find(rows, self)
    }
}

fn find(rows: &Reading, query: &Query) -> Result<Found, RaftError> {
    let view: &dyn View = rows;
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

/// While this node leads, end what has expired.
async fn expire(node: Arc<Node>, mut closed: watch::Receiver<bool>) {
    loop {
        let pause = match node.next_expiry() {
            Ok(Some(left)) => left.clamp(TICK_MIN, TICK_MAX),
            Ok(None) | Err(_) => TICK_MAX,
        };
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            _ = closed.changed() => return,
        }
        if node.is_leader() && matches!(node.next_expiry(), Ok(Some(Duration::ZERO))) {
            // who leads next tries again
            let _ = node.propose(&Command::Tick).await;
        }
    }
}
