//! Subscriptions: messages to the process that subscribed, sent from threads of the engine's.
//!
//! The handle is the reference in its messages. It is held by what sends them, so that it does not end when
//! its owner forgets the term; it ends with its owner, its store, or by `kv_unsubscribe`.

use super::range::range;
use super::{trusted, Place, Source};
use crate::error::Failure;
use crate::handle::dispose;
use crate::{atoms, stop};
use macula_store::kv::{KeyRange, Op, Subscription, Told};
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use std::ops::Bound;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A subscription, ended by its owner's death too.
pub struct SubscriptionHandle(Mutex<Option<Subscription>>);

impl RefUnwindSafe for SubscriptionHandle {}
impl UnwindSafe for SubscriptionHandle {}

#[rustler::resource_impl]
impl Resource for SubscriptionHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.end_elsewhere();
    }
}

impl SubscriptionHandle {
    /// Ending waits for a message that is being made: not on a scheduler thread.
    fn end_elsewhere(&self) {
        if let Some(subscription) = self.0.lock().take() {
            dispose(Box::new(subscription));
        }
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        self.end_elsewhere();
    }
}

/// own thread: send the calling process every change in a range, from now on or after a revision; answers
/// the subscription and the revision at which it begins. Bounds are encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_subscribe<'a>(
    env: Env<'a>,
    store: Term<'a>,
    reference: Term<'a>,
    min: Term<'a>,
    max: Term<'a>,
    from: Option<u64>,
) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Place::of(store)?, range(min, max)?.unwrap_or_else(nothing))) };
    let (place, range) = match asked() {
        Ok(asked) => asked,
        Err(failure) => return failure.encode(env),
    };
    let (owner, store) = (env.pid(), place.store.clone());
    place.runtime().io(env, reference, move |reply| {
        let (call, handle) = (reply.call().clone(), ResourceArc::new(SubscriptionHandle(Mutex::new(None))));
        let mut sender = Sender { owner, handle: handle.clone(), is_over: false };
        let begun = store.subscribe(range, from, Box::new(move |told| sender.send(told)));
        let begun = begun.map(|subscription| {
            let revision = subscription.revision();
            *handle.0.lock() = Some(subscription);
            // an owner that is gone already cannot be monitored
            if handle.monitor(None, &owner).is_none() {
                drop(handle.0.lock().take());
            }
            (handle.clone(), revision)
        });
        reply.send_result(begun);
        // who gave up gets no message
        if call.is_cancelled() {
            drop(handle.0.lock().take());
        } else if let Some(subscription) = &*handle.0.lock() {
            subscription.start();
        }
    })
}

/// dirty io: end a subscription; waits for a message that is being sent, and none comes after that.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_unsubscribe(subscription: ResourceArc<SubscriptionHandle>) -> Atom {
    let ended = subscription.0.lock().take();
    drop(ended);
    atoms::ok()
}

/// dirty io: the revision of the newest batch in a store, or of a snapshot.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_revision<'a>(env: Env<'a>, source: Term<'a>) -> Term<'a> {
    let revision = || -> Result<u64, Failure> {
        match Source::of(source)?.0 {
            Source::Store(store) => Ok(store.revision()?),
            Source::Snapshot(snapshot) => Ok(snapshot.revision()?),
            Source::Tx(_) => Err(Failure::invalid("expected a store or a snapshot")),
        }
    };
    crate::error::result(env, revision())
}

/// A range without a key.
fn nothing() -> KeyRange {
    (Bound::Excluded(Vec::new()), Bound::Excluded(Vec::new()))
}

/// Who sends.
struct Sender {
    owner: LocalPid,
    handle: ResourceArc<SubscriptionHandle>,
    /// It sent its last word.
    is_over: bool,
}

impl Sender {
    fn send(&mut self, told: Told<'_>) {
        if self.is_over {
            return;
        }
        let mut is_over = false;
        let message = |env| match self.message(env, &told) {
            Ok(message) => message,
            Err(failure) => {
                is_over = true;
                (atoms::cub_db(), &self.handle, (atoms::error(), failure.reason(env))).encode(env)
            }
        };
        stop::unless_stopped(|| {
            // an owner that is gone is told of by its monitor
            let _ = OwnedEnv::new().send_and_clear(&self.owner, message);
        });
        self.is_over = is_over;
    }

    /// `{MaculaStorage.CubDB, ref, revision, changes}` or `{MaculaStorage.CubDB, ref, closed}`.
    fn message<'a>(&self, env: Env<'a>, told: &Told<'_>) -> Result<Term<'a>, Failure> {
        match told {
            Told::Changes { revision, changes } => {
                let changes = changes.iter().map(|op| change(env, op)).collect::<Result<Vec<_>, _>>()?;
                Ok((atoms::cub_db(), &self.handle, *revision, changes).encode(env))
            }
            Told::Ended(macula_store::kv::KvError::Closed) => {
                Ok((atoms::cub_db(), &self.handle, atoms::closed()).encode(env))
            }
            Told::Ended(why) => Err(why.clone().into()),
        }
    }
}

fn change<'a>(env: Env<'a>, op: &Op) -> Result<Term<'a>, Failure> {
    let key_term = |key: &[u8]| trusted(env, &macula_term::decode(key)?);
    Ok(match op {
        Op::Put { key, value } | Op::PutUntil { key, value, .. } => {
            (atoms::put(), key_term(key)?, trusted(env, value)?).encode(env)
        }
        Op::Delete { key } => (atoms::delete(), key_term(key)?).encode(env),
        Op::Expire(expired) => (atoms::expired(), key_term(expired.key())?).encode(env),
        Op::Clear => atoms::clear().encode(env),
    })
}
