//! Watches and views of the replicated state, read page by page by the process that holds them.
//!
//! A watch sends its process the atom `state_changed` when there is more to read, once until it has read
//! all. It ends with its term, which its process holds and nobody else.

use super::terms::{event, pattern, query_of, FoundTerm};
use super::{consistency_of, invalid, OpenState, StateHandle};
use crate::error::{self, Failure};
use crate::handle::Handle;
use crate::options::span;
use crate::runtime::owe;
use crate::{atoms, stop};
use macula_core::Kind;
use macula_raft::{machine, FeedPage, Feeds, Reading};
use rustler::{Atom, Encoder, Env, OwnedEnv, Resource, ResourceArc, Term};
use std::sync::Arc;

/// A watch, in Elixir's hands.
pub type WatchHandle = Handle<Arc<Watching>>;

/// The state as of one moment, in Elixir's hands.
pub type ViewHandle = Handle<Arc<Viewing>>;

/// A watch of an open state.
pub struct Watching {
    state: Arc<OpenState>,
    feeds: Arc<Feeds>,
    id: u64,
}

/// Refused once the state is closed: its files may be another's then.
pub struct Viewing {
    state: Arc<OpenState>,
    rows: Arc<Reading>,
}

#[rustler::resource_impl]
impl Resource for WatchHandle {}

#[rustler::resource_impl]
impl Resource for ViewHandle {}

impl Drop for Watching {
    fn drop(&mut self) {
        self.feeds.end(self.id);
    }
}

/// dirty io: watch what matches, after a revision or from now on; answers the watch and that revision.
/// Read it at once: it is awake.
#[rustler::nif(schedule = "DirtyIo")]
fn state_watch<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    pattern_term: Term<'a>,
    after: Option<u64>,
) -> Term<'a> {
    let owner = env.pid();
    let begin = || -> Result<_, Failure> {
        let (state, pattern) = (state.get()?, pattern(pattern_term)?);
        if pattern.has_conditions() {
            return Err(invalid("pattern without conditions"));
        }
        let status = state.with(|engine| engine.view_here().look(|rows| Ok(machine::status(rows)?)))?;
        let after = after.unwrap_or(status.revision);
        if after.saturating_add(1) < status.history_first {
            return Err(Failure::outcome(Kind::HistoryGone));
        }
        let wake = move || {
            // an owner that is gone reads no more
            stop::unless_stopped(|| {
                let _ = OwnedEnv::new().send_and_clear(&owner, |env| atoms::state_changed().encode(env));
            });
        };
        let feeds = state.feeds.clone();
        let id = feeds.begin(pattern, after, Box::new(wake))?;
        let watching = Arc::new(Watching { state, feeds, id });
        Ok((ResourceArc::new(WatchHandle::new(watching)), after))
    };
    error::result(env, begin())
}

/// dirty io: `{events, through, more}`, whole revisions; about half a MiB, or one revision.
#[rustler::nif(schedule = "DirtyIo")]
fn state_watch_next<'a>(env: Env<'a>, watch: ResourceArc<WatchHandle>) -> Term<'a> {
    let next = || -> Result<FeedPage, Failure> {
        let watch = watch.get()?;
        let rows = watch.state.with(|engine| Ok(engine.view_here()))?;
        Ok(watch.feeds.next(watch.id, |page| rows.look(page))?)
    };
    error::result(env, next().map(|page| page_term(env, &page)))
}

/// memory: as `state_watch_next`, a few KiB and from memory; `cold` when it is for that one.
#[rustler::nif]
fn state_watch_next_hot<'a>(env: Env<'a>, watch: ResourceArc<WatchHandle>) -> Term<'a> {
    let next = || -> Result<Option<FeedPage>, Failure> {
        let watch = watch.get()?;
        Ok(watch.feeds.next_now(watch.id, || watch.state.now(|engine| Ok(engine.view_now())))?)
    };
    let page = next();
    // some hundred events are tens of microseconds
    rustler::schedule::consume_timeslice(env, 5);
    match page {
        Ok(Some(page)) => error::result(env, Ok::<_, Failure>(page_term(env, &page))),
        Ok(None) => atoms::cold().encode(env),
        Err(failure) => failure.encode(env),
    }
}

pub fn page_term<'a>(env: Env<'a>, page: &FeedPage) -> (Vec<Term<'a>>, u64, bool) {
    let events = page.events.iter().map(|told| event(env, told)).collect();
    (events, page.through, page.more)
}

/// own thread: a view of the state as of now, `linearizable` or `local`. Held, it keeps old pages on the disk.
#[rustler::nif]
fn state_view<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    consistency: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let decoded = || Ok((state.get()?, consistency_of(consistency)?));
    let (state, consistency) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    owe(env, reference, |reply| {
        let (cancel, of) = (reply.call().cancel_token(), state.clone());
        state.with(|engine| {
            engine.view(consistency, span(timeout_ms), cancel, move |rows| {
                let view = rows.map(|rows| ResourceArc::new(ViewHandle::new(Arc::new(Viewing { state: of, rows }))));
                reply.send_result(view.map_err(Failure::from));
            })
        })
    })
}

/// dirty io: read a page of a view.
#[rustler::nif(schedule = "DirtyIo")]
fn state_view_query<'a>(env: Env<'a>, view: ResourceArc<ViewHandle>, query: Term<'a>) -> Term<'a> {
    let found = || -> Result<FoundTerm, Failure> {
        let (view, query) = (view.get()?, query_of(query)?);
        Ok(FoundTerm(view.state.with(|_open| query.of(&view.rows))?))
    };
    error::result(env, found())
}

/// memory: let go of a view.
#[rustler::nif]
fn state_view_release(view: ResourceArc<ViewHandle>) -> Atom {
    if let Some(viewing) = view.take() {
        crate::handle::dispose(Box::new(viewing));
    }
    atoms::ok()
}
