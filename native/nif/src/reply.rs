//! The one answer to one call. Invariant: exactly one `{ref, reply}` message per accepted call that
//! was not cancelled, also when the job panics or is dropped unrun.

use crate::call::Call;
use crate::error::Failure;
use crate::{atoms, stop};
use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, ResourceArc, Term};

/// Owed to a caller. Consumed by sending; dropped unsent it sends an internal error, because a
/// caller must never wait for ever.
pub struct Reply {
    to: LocalPid,
    env: Option<OwnedEnv>,
    reference: SavedTerm,
    call: ResourceArc<Call>,
}

/// A term that a reply's environment has, until that is sent. Rustler's own costs two counted references
/// for each row of a result.
pub struct Built {
    term: rustler::sys::ErlNifTerm,
    env: usize,
}

impl Built {
    /// It, inside [`Reply::send`] of the reply that built it; `nil` in another environment.
    pub fn load<'a>(&self, env: Env<'a>) -> Term<'a> {
        if env.as_c_arg() as usize != self.env {
            return atoms::nil().encode(env);
        }
        // SAFETY: the term was made in this very environment, which nothing cleared: it is sent once
        unsafe { Term::new(env, self.term) }
    }
}

impl Reply {
    /// The reply to the calling process under its `reference`.
    pub fn to_caller(env: Env, reference: Term) -> Self {
        let owned = OwnedEnv::new();
        let saved = owned.save(reference);
        Self { to: env.pid(), env: Some(owned), reference: saved, call: Call::of_caller(env) }
    }

    /// The call that waits for it.
    pub fn call(&self) -> &ResourceArc<Call> {
        &self.call
    }

    /// Send it. `encode` runs only when somebody still waits.
    pub fn send(mut self, encode: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.send_once(encode);
    }

    /// `{ok, value}` or the failure.
    pub fn send_result<T: Encoder, E: Into<Failure>>(self, result: Result<T, E>) {
        self.send(|env| crate::error::result(env, result));
    }

    /// `ok` or the failure.
    pub fn send_done<E: Into<Failure>>(self, result: Result<(), E>) {
        self.send(|env| crate::error::done(env, result));
    }

    /// A term in the reply's environment, for [`Reply::send`] to load. Nothing once nobody waits.
    pub fn build(&self, encode: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> Option<Built> {
        let owned = self.env.as_ref().filter(|_| !self.call.is_cancelled())?;
        Some(owned.run(|env| Built { term: encode(env).as_c_arg(), env: env.as_c_arg() as usize }))
    }

    /// A message `{ref, {progress, value}}` on the way; the reply is still owed.
    pub fn send_progress(&self, encode: impl for<'a> Fn(Env<'a>) -> Term<'a>) {
        let Some(owned) = &self.env else { return };
        let send = || {
            // an environment of its own: sending clears it, and the reference must survive
            let reference = owned.run(|env| self.reference.load(env).to_binary());
            let mut message = OwnedEnv::new();
            let _ = message.send_and_clear(&self.to, |env| {
                // SAFETY: our own term, encoded a line above
                let reference = unsafe { env.binary_to_term_trusted(&reference) };
                let reference = reference.map_or_else(|| atoms::nil().encode(env), |(term, _)| term);
                (reference, (atoms::progress(), encode(env)))
            });
        };
        self.call.tell(|| stop::unless_stopped(send));
    }

    fn send_once(&mut self, encode: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        let Some(mut owned) = self.env.take() else { return };
        if !self.call.claim_reply() {
            return;
        }
        self.end_monitor();
        let reference = self.reference.clone();
        stop::unless_stopped(|| {
            let _ = owned.send_and_clear(&self.to, |env| (reference.load(env), encode(env)));
        });
    }

    fn end_monitor(&self) {
        if let Some(monitor) = self.call.take_monitor() {
            if on_scheduler_thread() {
                return; // ends with the resource
            }
            self.call.demonitor(None, &monitor);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.env.is_none() {
            return;
        }
        if on_scheduler_thread() {
            // only a refused submission ends here; its NIF returns the refusal itself
            self.call.claim_reply();
            return;
        }
        self.send_once(|env| Failure::internal("the job ended without an answer (it panicked)").encode(env));
    }
}

/// Whether this is a thread of the VM's, from which no message can be sent.
pub fn on_scheduler_thread() -> bool {
    // SAFETY: no preconditions
    unsafe { rustler::sys::enif_thread_type() > 0 }
}
