//! The replicated state of a cluster of which this VM is no member: it asks those who are.
//!
//! Commands and reads go by the same NIFs as a member's; what needs a copy of the state is refused.

use super::members::transport;
use super::terms::pattern;
use super::watch::page_term;
use super::{invalid, Open, OpenState, StateHandle};
use crate::base::BaseHandle;
use crate::error::Failure;
use crate::runtime::owe;
use macula_core::{SystemChance, SystemClock};
use macula_raft::net::{self, Role};
use macula_raft::{Client, ClientOptions, ClientSeams, FeedPage, RaftError};
use rustler::{Encoder, Env, ResourceArc, Term};
use std::sync::Arc;
use std::time::Duration;

/// own thread: ask these members from now on, each a name and where it listens, as the client `name` with the
/// certificates of a directory, or without any (`nil`) where they are on loopback addresses.
#[rustler::nif]
fn state_open_client<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    name: String,
    members: Vec<(String, String)>,
    certificates: Option<String>,
) -> Term<'a> {
    let opened = match base.get() {
        Ok(opened) => opened,
        Err(failure) => return Failure::encode(&failure, env),
    };
    let of = opened.clone();
    opened.runtime.io(env, reference, move |reply| {
        let state = of.state_or(|| {
            let transport = transport(&name, certificates.as_deref(), Role::Client)?;
            let seams = ClientSeams { clock: Arc::new(SystemClock), chance: Arc::new(SystemChance) };
            let options = ClientOptions { members, transport, options: net::Options::default() };
            Ok(OpenState::ask_as(Client::open(seams, options)?))
        });
        reply.send_result(state.map(|state| ResourceArc::new(StateHandle::new(state))));
    })
}

/// own thread: as a client, what happened behind a revision and matches; a member waits so long for the first of it.
#[rustler::nif]
fn state_client_watch<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    pattern_term: Term<'a>,
    after: u64,
    wait_ms: u64,
) -> Term<'a> {
    let decoded = || Ok((state.get()?, pattern(pattern_term)?));
    let (state, pattern) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    if pattern.has_conditions() {
        return invalid("pattern without conditions").encode(env);
    }
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        state.open_now(|open| match open {
            Open::Client(client) => client.watch(pattern, after, Duration::from_millis(wait_ms), cancel, move |page| {
                reply.send_result(page.map(PageTerm).map_err(Failure::from));
            }),
            Open::Member(..) => Err(RaftError::Refused("this node is a member".into())),
        })
    })
}

struct PageTerm(FeedPage);

impl Encoder for PageTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        page_term(env, &self.0).encode(env)
    }
}
