//! Replicated files whose requests a process of Elixir carries, by a transport of the application.
//!
//! It is sent `{carry, number, node, request, timeout_ms}` for each, and `{call_back, number}` when nobody waits any
//! more; it says who can be reached, and what was answered. Bytes are copied on threads of the mesh only.

use crate::atoms;
use crate::error::{self, Failure};
use crate::files::{Bytes, Held};
use crate::mesh::{MeshHandle, NodeName, OpenMesh};
use crate::reply::{on_scheduler_thread, Reply};
use crate::stop;
use macula_core::Kind;
use macula_mesh::{Answered, Courier, Mesh, Relay, MESSAGE_LEN_MAX};
use parking_lot::Mutex;
use rustler::{Binary, Encoder, Env, LocalPid, Monitor, NewBinary, Resource, ResourceArc, Term};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Requests of others that are answered at once.
const ANSWERS_MAX: usize = 256;

/// What an open mesh has of it.
#[derive(Default)]
pub struct Carried {
    by: Mutex<Option<(Relay, ResourceArc<Carrying>)>>,
    answers: Arc<AtomicUsize>,
}

/// Who carries, in Elixir's hands: ends with its process.
pub struct Carrying {
    relay: Relay,
    courier: u64,
    pid: LocalPid,
}

#[rustler::resource_impl]
impl Resource for Carrying {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.relay.detach(self.courier);
    }
}

struct Process(LocalPid);

impl Courier for Process {
    fn carry(&self, number: u64, to: &str, request: &[u8], within: Duration) -> bool {
        let timeout_ms = within.as_millis() as u64;
        stop::tell(&self.0, |env| {
            let request: Binary = NewBinary::from_slice(env, request).into();
            (atoms::carry(), number, NodeName(to.to_owned()), request, timeout_ms).encode(env)
        })
    }

    fn call_back(&self, number: u64) {
        stop::tell(&self.0, |env| (atoms::call_back(), number).encode(env));
    }
}

impl Carried {
    /// By the process that calls this NIF, from now on.
    fn by_caller(&self, env: Env, mesh: &Mesh) -> ResourceArc<Carrying> {
        let pid = env.pid();
        let mut by = self.by.lock();
        let relay = match &*by {
            Some((_, carrying)) if carrying.pid == pid => return carrying.clone(),
            Some((relay, _)) => relay.clone(),
            None => {
                let relay = Relay::default();
                mesh.carry(Arc::new(relay.clone()));
                relay
            }
        };
        let courier = relay.attach(Arc::new(Process(pid)));
        let carrying = ResourceArc::new(Carrying { relay: relay.clone(), courier, pid });
        // never of one that is dead: it calls
        let _ = env.monitor(&carrying, &pid);
        *by = Some((relay, carrying.clone()));
        carrying
    }
}

/// memory: have the calling process carry what this node asks of others, instead of links.
#[rustler::nif]
fn mesh_carry<'a>(env: Env<'a>, mesh: ResourceArc<MeshHandle>) -> Term<'a> {
    let carried = mesh.get().and_then(|open| open.with(|mesh| Ok(open.carried.by_caller(env, mesh))));
    error::result(env, carried)
}

/// memory: a member can be reached, or not any more.
#[rustler::nif]
fn mesh_carry_tell<'a>(env: Env<'a>, carrying: ResourceArc<Carrying>, name: &str, is_up: bool) -> Term<'a> {
    carrying.relay.tell(carrying.courier, name, is_up);
    atoms::ok().encode(env)
}

/// memory: what became of a request, `{ok, answer}` or `{error, why}`; whether it was waited for.
#[rustler::nif]
fn mesh_carry_answer<'a>(env: Env<'a>, carrying: ResourceArc<Carrying>, number: u64, answer: Term<'a>) -> Term<'a> {
    match answered(answer) {
        Ok(answer) => carrying.relay.answered(number, answer).encode(env),
        Err(failure) => failure.encode(env),
    }
}

fn answered(answer: Term) -> Result<Answered, Failure> {
    let (tag, told): (rustler::Atom, Term) = answer.decode().map_err(|_| Failure::invalid("expected an answer"))?;
    let told_as = told.decode::<Binary>().map_err(|_| Failure::invalid("expected a binary"))?;
    if tag != atoms::ok() {
        return Ok(Err(String::from_utf8_lossy(&told_as).into_owned()));
    }
    if told_as.len() > MESSAGE_LEN_MAX {
        return Ok(Err(format!("an answer of {} bytes", told_as.len())));
    }
    let held = Held::new(told);
    let copy = move || held.with(|bytes| bytes.to_vec().into()).map_err(|_| "the answer is no binary".to_owned());
    Ok(Ok(Box::new(copy)))
}

/// own thread: answer a request of another member, which came by the application's transport.
#[rustler::nif]
fn mesh_answer<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    from: String,
    request: Binary<'a>,
) -> Term<'a> {
    let open = match mesh.get() {
        Ok(open) if request.len() <= MESSAGE_LEN_MAX => open,
        Ok(_) => return Failure::outcome(Kind::TooLarge).encode(env),
        Err(failure) => return failure.encode(env),
    };
    let place = match Place::take(&open.carried.answers) {
        Some(place) => place,
        None => return Failure::outcome(Kind::Busy).encode(env),
    };
    let (request, of) = (Held::new(request.encode(env)), open.clone());
    crate::runtime::owe(env, reference, |reply| {
        let owed = Owed(Some((reply, place)));
        open.with(|mesh| Ok(mesh.work(move || owed.answer(&of, &from, &request))?))
    })
}

/// One of those that are answered now.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(answers: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(answers.clone());
        (answers.fetch_add(1, Ordering::AcqRel) < ANSWERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A reply that says `closed` when the mesh ends first.
struct Owed(Option<(Reply, Place)>);

impl Owed {
    fn answer(self, open: &OpenMesh, from: &str, request: &Held) {
        let is_awaited = self.0.as_ref().is_some_and(|(reply, _)| !reply.call().is_cancelled());
        let bytes = match request.with(|bytes| bytes.to_vec()) {
            Ok(bytes) if is_awaited => bytes,
            Ok(_) => return,
            Err(failure) => return self.send(Err(failure)),
        };
        // of one that is closed meanwhile the reply is dropped
        let _ = open.with(|mesh| {
            mesh.answer(from, bytes.into(), move |answer| self.send(answer.map_err(Failure::from)));
            Ok(())
        });
    }

    fn send(mut self, result: Result<Vec<u8>, Failure>) {
        if let Some((reply, _place)) = self.0.take() {
            reply.send_result(result.map(Bytes));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let Some((reply, _place)) = self.0.take() else { return };
        // refused, the NIF says so itself
        if !on_scheduler_thread() {
            reply.send_result(Err::<(), _>(Failure::outcome(Kind::Closed)));
        }
    }
}
