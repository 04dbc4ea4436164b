//! The replicated state: commands and reads by messages, this node's own copy at once.
//!
//! Paths and values come and go in the External Term Format, made and read in Elixir.

mod client;
mod members;
mod terms;
mod watch;

use crate::atoms;
use crate::base::{BaseHandle, Opened};
use crate::error::{self, Failure};
use crate::handle::Handle;
use crate::options::span;
use crate::runtime::owe;
use macula_core::Members;
use macula_raft::{net, Client, ClusterId, Consistency, Engine, Feeds, RaftError};
use parking_lot::RwLock;
use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::sync::Arc;
use std::time::Duration;
use terms::{command_of, query_of, FoundTerm, ResponseTerm};

/// The state that this VM has opened, until its base is closed.
pub struct OpenState {
    open: RwLock<Option<Open>>,
    feeds: Arc<Feeds>,
}

/// What this VM is in the cluster.
enum Open {
    Member(Engine, macula_store::NodeDir),
    /// It has nothing here, and asks members.
    Client(Client),
}

/// The replicated state, in Elixir's hands.
pub type StateHandle = Handle<Arc<OpenState>>;

#[rustler::resource_impl]
impl Resource for StateHandle {}

impl OpenState {
    /// Open it as the node of this name; one that holds nothing waits to be let into the cluster `joins`.
    pub fn open(opened: &Opened, name: &str, joins: Option<ClusterId>) -> Result<Self, Failure> {
        let dir = opened.base.own_state()?;
        let seams = macula_raft::Seams {
            disk: dir.disk(),
            clock: Arc::new(macula_core::SystemClock),
            chance: Arc::new(macula_core::SystemChance),
            transport: Arc::new(macula_raft::Alone),
        };
        let feeds = Arc::new(Feeds::default());
        let told = feeds.clone();
        let options = macula_raft::Options { joins, trim: crate::heap::trim, ..macula_raft::Options::of(name) };
        let engine = Engine::open(seams, options, Box::new(move |events| told.tell(events)))?;
        Ok(Self { open: RwLock::new(Some(Open::Member(engine, dir))), feeds })
    }

    /// Ask members, as one that is none.
    fn ask_as(client: Client) -> Self {
        Self { open: RwLock::new(Some(Open::Client(client))), feeds: Arc::default() }
    }

    /// Who the members are.
    pub fn members(&self) -> Result<Arc<dyn Members>, RaftError> {
        self.with(|engine| Ok(engine.members()))
    }

    /// What links to other members are made of, once it has some.
    pub fn net(&self) -> Result<Option<net::Net>, RaftError> {
        self.with(|engine| Ok(engine.net()))
    }

    /// Have this one answer what members ask on links for blocks of files.
    pub fn serve_bulk(&self, handler: Arc<dyn net::Handler>) -> Result<(), RaftError> {
        self.with(|engine| {
            engine.serve_bulk(handler);
            Ok(())
        })
    }

    /// Stop its threads, then let go of its directory.
    pub fn close(&self) {
        // taken out first: who is on a scheduler thread meanwhile must not wait for the closing
        let taken = self.open.write().take();
        match taken {
            Some(Open::Member(mut engine, dir)) => {
                engine.close();
                drop(engine);
                drop(dir);
            }
            Some(Open::Client(mut client)) => client.close(),
            None => {}
        }
        self.feeds.close();
    }

    fn open_now<T>(&self, act: impl FnOnce(&Open) -> Result<T, RaftError>) -> Result<T, RaftError> {
        self.open.read().as_ref().map_or(Err(RaftError::Closed), act)
    }

    fn with<T>(&self, act: impl FnOnce(&Engine) -> Result<T, RaftError>) -> Result<T, RaftError> {
        self.open_now(|open| act(open.member()?))
    }

    /// The same for who must not wait; `None` while it is being closed.
    fn now<T>(&self, act: impl FnOnce(&Engine) -> Result<Option<T>, RaftError>) -> Result<Option<T>, RaftError> {
        match self.open.try_read().as_deref() {
            Some(Some(Open::Member(engine, _))) => act(engine),
            Some(Some(Open::Client(_))) | None => Ok(None),
            Some(None) => Err(RaftError::Closed),
        }
    }
}

impl Open {
    fn member(&self) -> Result<&Engine, RaftError> {
        match self {
            Self::Member(engine, _) => Ok(engine),
            Self::Client(_) => {
                Err(RaftError::Refused("this node is a client of the cluster (state_members), ask a member".into()))
            }
        }
    }
}

/// own thread: open this node's replicated state; `name` is its Erlang name. A node that holds nothing begins
/// alone, or waits to be let into the cluster `joins`.
#[rustler::nif]
fn state_open<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    name: String,
    joins: Option<Binary<'a>>,
) -> Term<'a> {
    let decoded = || Ok((base.get()?, joins.map(members::cluster_of).transpose()?));
    let (opened, joins) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    let of = opened.clone();
    opened.runtime.io(env, reference, move |reply| {
        let state = of.state(&name, joins);
        reply.send_result(state.map(|state| ResourceArc::new(StateHandle::new(state))));
    })
}

/// own thread: have a command applied. `timeout_ms` 0: without a deadline.
#[rustler::nif]
fn state_command<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    command: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    propose(env, &state, reference, command, timeout_ms)
}

/// own thread: as `state_command`; a large one is copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn state_command_large<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    command: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    propose(env, &state, reference, command, timeout_ms)
}

fn propose<'a>(env: Env<'a>, state: &StateHandle, reference: Term<'a>, command: Term<'a>, timeout_ms: u64) -> Term<'a> {
    let (state, command) = match state.get().and_then(|state| Ok((state, command_of(command)?))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        let answer = move |answer: Result<_, RaftError>| {
            reply.send_result(answer.map(ResponseTerm).map_err(Failure::from));
        };
        state.open_now(|open| match open {
            Open::Member(engine, _) => engine.propose(command, span(timeout_ms), cancel, answer),
            Open::Client(client) => client.propose(command, span(timeout_ms), cancel, answer),
        })
    })
}

/// own thread: read; `linearizable`, `local`, or at most so many milliseconds old.
#[rustler::nif]
fn state_query<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    query: Term<'a>,
    consistency: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let decoded = || Ok((state.get()?, query_of(query)?, consistency_of(consistency)?));
    let (state, query, consistency) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        let answer = move |found: Result<_, RaftError>| {
            reply.send_result(found.map(FoundTerm).map_err(Failure::from));
        };
        state.open_now(|open| match open {
            Open::Member(engine, _) => engine.query(query, consistency, span(timeout_ms), cancel, answer),
            Open::Client(client) => client.query(query, consistency, span(timeout_ms), cancel, answer),
        })
    })
}

/// dirty io: read one node, or figures, of what this node has.
#[rustler::nif(schedule = "DirtyIo")]
fn state_query_here<'a>(env: Env<'a>, state: ResourceArc<StateHandle>, query: Term<'a>) -> Term<'a> {
    let found = state.get().and_then(|state| {
        let query = query_of(query)?;
        Ok(state.with(|engine| engine.query_here(&query))?)
    });
    error::result(env, found.map(FoundTerm))
}

/// memory: read one node of what this node has, if it and its way there are in memory and, with `age_ms`, fresh
/// enough; `cold` when it is for `state_query_here`, or `state_query`.
#[rustler::nif]
fn state_query_hot<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    query: Term<'a>,
    age_ms: Option<u64>,
) -> Term<'a> {
    let found = state.get().and_then(|state| {
        let query = query_of(query)?;
        Ok(state.now(|engine| engine.query_hot(&query, age_ms.map(Duration::from_millis)))?)
    });
    // a process that does nothing else would be held for milliseconds by what counts as one reduction
    rustler::schedule::consume_timeslice(env, 3);
    match found {
        Ok(Some(found)) => error::result(env, Ok::<_, Failure>(FoundTerm(found))),
        Ok(None) => atoms::cold().encode(env),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: close this node's replicated state. Opened again, it goes on.
#[rustler::nif]
fn state_close<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>) -> Term<'a> {
    let opened = match base.get() {
        Ok(opened) => opened,
        Err(failure) => return failure.encode(env),
    };
    let of = opened.clone();
    opened.runtime.io(env, reference, move |reply| {
        of.close_state();
        reply.send_done(Ok::<_, Failure>(()));
    })
}

/// `linearizable`, `local`, or so many milliseconds old.
fn consistency_of(term: Term) -> Result<Consistency, Failure> {
    match (term.decode::<u64>(), term.decode::<Atom>()) {
        (Ok(age_ms), _) => Ok(Consistency::Stale(Duration::from_millis(age_ms))),
        (_, Ok(atom)) if atom == atoms::local() => Ok(Consistency::Local),
        (_, Ok(_)) => Ok(Consistency::Linearizable),
        _ => Err(invalid("consistency")),
    }
}

/// Elixir should have refused it.
fn invalid(what: &'static str) -> Failure {
    Failure::invalid(format!("not a {what} of the replicated state"))
}
