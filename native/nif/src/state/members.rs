//! The members of the cluster that this node's replicated state is of: who they are, and how that changes.

use super::{invalid, StateHandle};
use crate::atoms;
use crate::base::BaseHandle;
use crate::error::{self, Failure};
use crate::files::Bytes;
use crate::options::span;
use crate::runtime::owe;
use macula_core::{Disk, RealDisk, RelPath, SystemClock};
use macula_raft::net::{self, Identity, NodeName, Peer, Role, Transport};
use macula_raft::{Change, ClusterId, Invitation, LinkOptions, Member, NodeStatus, RaftError, Standing};
use rustler::{Atom, Binary, Encoder, Env, ResourceArc, Term};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// own thread: listen for other members at `address` (`ip:port`), where they find it as `host`; with the
/// certificates of a directory, or without any (`nil`) on a loopback address. Answers where that is.
#[rustler::nif]
fn state_listen<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    at: (String, String, Option<u16>),
    name: String,
    certificates: Option<String>,
) -> Term<'a> {
    let (opened, state) = match base.get().and_then(|opened| Ok((opened, state.get()?))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let (address, host, port) = at;
    opened.runtime.io(env, reference, move |reply| {
        let listen = || -> Result<String, Failure> {
            let transport = transport(&name, certificates.as_deref(), Role::Member)?;
            let listen = address.parse().map_err(|_| Failure::invalid(format!("no address: {address}")))?;
            let links = LinkOptions { listen, host, port, transport, options: net::Options::default() };
            let found = state.with(|engine| {
                engine.listen(links)?;
                Ok(engine.address().unwrap_or_default())
            });
            Ok(found?)
        };
        reply.send_result(listen());
    })
}

/// How the node of that name, in that role, proves who it is.
pub fn transport(name: &str, certificates: Option<&str>, role: Role) -> Result<Transport, Failure> {
    let node = NodeName::new(name.as_bytes()).map_err(RaftError::from)?;
    let Some(dir) = certificates else {
        return Ok(Transport::PlainLoopback(Peer { node, role, cluster: net::ClusterId([0; 16]) }));
    };
    let missing = |error: std::io::Error| {
        Failure::invalid(format!("no certificates in {dir}: {error}"))
            .with_hint("issue them with mix macula.cluster.issue, and set state_certificates")
    };
    // from above: a directory that is renewed is another one
    let path = Path::new(dir);
    let (above, name) = path.parent().zip(path.file_name()).ok_or_else(|| missing(ErrorKind::InvalidInput.into()))?;
    let disk = RealDisk::at(above).map_err(missing)?;
    let name = RelPath::root().join(name.as_bytes()).map_err(|error| missing(std::io::Error::other(error)))?;
    disk.stat(&name).map_err(missing)?;
    let identity = Identity::load(Arc::new(disk), name, Arc::new(SystemClock)).map_err(RaftError::from)?;
    let peer = identity.peer();
    // a client is whoever its certificate says
    if role == Role::Member && (peer.node != node || peer.role != role) {
        let role = if peer.role == Role::Member { "member" } else { "client" };
        let of = format!("the certificate in {dir} is of the {role} {}, this node is {node}", peer.node);
        return Err(Failure::invalid(of).with_hint("issue one for this node as a member"));
    }
    Ok(Transport::Tls(identity))
}

/// memory: this node as it sees itself and the other members.
#[rustler::nif]
fn state_node<'a>(env: Env<'a>, state: ResourceArc<StateHandle>) -> Term<'a> {
    let found = state.get().and_then(|state| Ok(state.with(|engine| Ok((engine.status(), engine.address())))?));
    error::result(env, found.map(NodeTerm))
}

struct NodeTerm((NodeStatus, Option<String>));

impl Encoder for NodeTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let (status, address) = &self.0;
        let members: Vec<_> = status
            .members
            .iter()
            .map(|(number, (member, standing))| {
                let standing = match standing {
                    Standing::Voter => atoms::voter(),
                    Standing::Learner => atoms::learner(),
                };
                (*number, name_of(env, member), member.address.as_str(), standing)
            })
            .collect();
        let log = (status.term, status.last, status.applied, status.checkpoint);
        (status.cluster.to_string(), status.number, status.leader, log, address, members).encode(env)
    }
}

/// An Erlang node's name: so many atoms as there are members. What is none stays text.
fn name_of<'a>(env: Env<'a>, member: &Member) -> Term<'a> {
    Atom::from_str(env, &member.name).map_or_else(|_| member.name.encode(env), |name| name.encode(env))
}

/// own thread: let one node in, once, within a time. Answers its invitation.
#[rustler::nif]
fn state_invite<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    ttl_ms: u64,
    timeout_ms: u64,
) -> Term<'a> {
    let state = match state.get() {
        Ok(state) => state,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        state.with(|engine| {
            engine.invite(Duration::from_millis(ttl_ms), span(timeout_ms), cancel, move |invitation| {
                let bytes = invitation.and_then(|invitation| invitation.encode());
                reply.send_result(bytes.map(Bytes).map_err(Failure::from));
            })
        })
    })
}

/// memory: the cluster of an invitation.
#[rustler::nif]
fn state_invitation<'a>(env: Env<'a>, invitation: Binary<'a>) -> Term<'a> {
    let found = Invitation::decode(invitation.as_slice()).map_err(Failure::from);
    error::result(env, found.map(|invitation| Bytes(invitation.cluster.0.to_vec())))
}

/// own thread: ask the members of an invitation to be let in, and wait until this node votes.
#[rustler::nif]
fn state_join<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    invitation: Binary<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let decoded = || Ok((state.get()?, Invitation::decode(invitation.as_slice())?));
    let (state, invitation) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        state.with(|engine| {
            engine.join(invitation, span(timeout_ms), cancel, move |joined| {
                reply.send_done(joined.map_err(Failure::from));
            })
        })
    })
}

/// own thread: let a member go (`leave`), or have it lead (`lead`).
#[rustler::nif]
fn state_change<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    change: (Atom, u64),
    timeout_ms: u64,
) -> Term<'a> {
    let decoded = || -> Result<_, Failure> {
        let change = match change {
            (what, number) if what == atoms::leave() => Change::Leave { number },
            (what, number) if what == atoms::lead() => Change::Lead { number },
            _ => return Err(invalid("change of the members")),
        };
        Ok((state.get()?, change))
    };
    let (state, change) = match decoded() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        state.with(|engine| {
            engine.change(change, span(timeout_ms), cancel, move |changed| {
                reply.send_done(changed.map_err(Failure::from));
            })
        })
    })
}

/// own thread: wait until somebody leads; whose number.
#[rustler::nif]
fn state_wait_for_leader<'a>(
    env: Env<'a>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let state = match state.get() {
        Ok(state) => state,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        let deadline = Duration::from_millis(timeout_ms);
        state.with(|engine| {
            engine.wait_for_leader(deadline, cancel, move |leader| {
                reply.send_result(leader.map_err(Failure::from));
            })
        })
    })
}

/// memory: where another member is now, as it says.
#[rustler::nif]
fn state_tell(state: ResourceArc<StateHandle>, name: String, address: String) -> Atom {
    if let Ok(state) = state.get() {
        // of one that is being closed nobody needs to know
        let _ = state.now(|engine| {
            engine.tell(&name, &address);
            Ok(Some(()))
        });
    }
    atoms::ok()
}

/// own thread: close this node's replicated state and put it out of the way, kept or removed, so that the next
/// opening begins anew. Answers where it lies, `nil` when nothing was kept.
#[rustler::nif]
fn state_set_aside<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, is_kept: bool) -> Term<'a> {
    let opened = match base.get() {
        Ok(opened) => opened,
        Err(failure) => return failure.encode(env),
    };
    let of = opened.clone();
    opened.runtime.io(env, reference, move |reply| {
        of.close_state();
        let aside = of.base.set_state_aside(is_kept).map_err(Failure::from);
        reply.send_result(aside.map(|path| path.map(|path| path.to_string_lossy().into_owned())));
    })
}

/// The cluster to join, from Elixir.
pub fn cluster_of(bytes: Binary) -> Result<ClusterId, Failure> {
    bytes.as_slice().try_into().map(ClusterId).map_err(|_| invalid("cluster's id"))
}
