//! Batches and transactions: written on the store's own thread.

use super::care::durability_of;
use super::{encode_key, Place};
use crate::atoms;
use crate::error::{self, Failure};
use crate::handle::{dispose, Handle};
use crate::options::list;
use crate::runtime::owe;
use macula_core::Kind;
use macula_store::kv::{Batch, Condition, KvError, Op, Tx};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use std::sync::Arc;
use std::time::Duration;

/// A transaction, aborted by its owner's death.
pub struct TxHandle(Handle<(Arc<Tx>, Place)>);

#[rustler::resource_impl]
impl Resource for TxHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        if let Some((tx, _)) = self.0.take() {
            dispose(Box::new(Abandoned(tx)));
        }
    }
}

impl TxHandle {
    /// The transaction, and its store.
    pub fn get(&self) -> Result<(Arc<Tx>, Place), Failure> {
        self.0.get()
    }
}

/// A transaction whose owner died: aborted on the closer thread, because that frees what it wrote.
struct Abandoned(Arc<Tx>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// own thread: write a batch, all or nothing, if each of `conditions` holds.
#[rustler::nif]
fn kv_write<'a>(
    env: Env<'a>,
    store: Term<'a>,
    reference: Term<'a>,
    ops: Term<'a>,
    conditions: Term<'a>,
    durability: Atom,
) -> Term<'a> {
    write(env, store, reference, ops, conditions, durability)
}

/// own thread: as `kv_write`; large arguments are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_write_large<'a>(
    env: Env<'a>,
    store: Term<'a>,
    reference: Term<'a>,
    ops: Term<'a>,
    conditions: Term<'a>,
    durability: Atom,
) -> Term<'a> {
    write(env, store, reference, ops, conditions, durability)
}

fn write<'a>(
    env: Env<'a>,
    store: Term<'a>,
    reference: Term<'a>,
    ops: Term<'a>,
    conditions: Term<'a>,
    durability: Atom,
) -> Term<'a> {
    let prepare = || -> Result<(Place, Batch), Failure> {
        let place = Place::of(store)?;
        let ops = decode_ops(ops, &place)?;
        let conditions = list(conditions)?.into_iter().map(decode_condition).collect::<Result<_, _>>()?;
        Ok((place, Batch { conditions, ops, durability: durability_of(durability)?, cancel: None }))
    };
    let (place, mut batch) = match prepare() {
        Ok(prepared) => prepared,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        batch.cancel = Some(reply.call().cancel_token());
        place.store.submit(batch, Box::new(|result| reply.send_done(result.map(|_| ()))))
    })
}

/// `{absent, key}`, or `{is, key, value | nil}` with the value as it is stored.
fn decode_condition(condition: Term) -> Result<Condition, Failure> {
    if let Ok((_is, key, value)) = condition.decode::<(Atom, Term, Option<Binary>)>() {
        let value = value.map(|value| value.as_slice().to_vec());
        return Ok(Condition::Is { key: encode_key(key)?, value });
    }
    match condition.decode::<(Atom, Term)>() {
        Ok((_absent, key)) => Ok(Condition::Absent(encode_key(key)?)),
        Err(_) => Err(Failure::invalid("not a condition")),
    }
}

/// Times to live begin now, all at the same instant.
fn decode_ops(ops: Term, place: &Place) -> Result<Vec<Op>, Failure> {
    let now_ms = place.store.now_ms();
    list(ops)?.into_iter().map(|op| decode_op(op, now_ms)).collect()
}

/// `{put, key, value}`, `{put, key, value, ttl_ms}`, `{delete, key}` or `clear`.
fn decode_op(op: Term, now_ms: u64) -> Result<Op, Failure> {
    if op.is_atom() {
        return Ok(Op::Clear);
    }
    if let Ok((_put, key, value)) = op.decode::<(Atom, Binary, Binary)>() {
        return Ok(Op::Put { key: macula_term::encode(key.as_slice())?, value: value.as_slice().to_vec() });
    }
    if let Ok((_put, key, value, ttl_ms)) = op.decode::<(Atom, Binary, Binary, u64)>() {
        let (key, value) = (macula_term::encode(key.as_slice())?, value.as_slice().to_vec());
        return Ok(Op::PutUntil { key, value, expires_ms: now_ms.saturating_add(ttl_ms) });
    }
    match op.decode::<(Atom, Binary)>() {
        Ok((_delete, key)) => Ok(Op::Delete { key: macula_term::encode(key.as_slice())? }),
        Err(_) => Err(Failure::invalid("not a write")),
    }
}

/// own thread: the exclusive turn to write, in the queue's order.
#[rustler::nif]
fn kv_begin<'a>(env: Env<'a>, store: Term<'a>, reference: Term<'a>, deadline_ms: u64) -> Term<'a> {
    let place = match Place::of(store) {
        Ok(place) => place,
        Err(failure) => return failure.encode(env),
    };
    let (owner, store) = (env.pid(), place.store.clone());
    owe(env, reference, |reply| {
        let begun = move |result: Result<Tx, KvError>| {
            let call = reply.call().clone();
            let handle = result.map(|tx| {
                let handle = ResourceArc::new(TxHandle(Handle::new((Arc::new(tx), place))));
                // an owner that is gone already cannot be monitored
                if handle.monitor(None, &owner).is_none() || call.is_cancelled() {
                    abort(&handle);
                }
                handle
            });
            reply.send_result(handle);
        };
        store.begin(Duration::from_millis(deadline_ms), Box::new(begun))
    })
}

/// dirty io: buffer writes in a transaction; looks up what it replaces.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_tx_write<'a>(env: Env<'a>, tx: ResourceArc<TxHandle>, ops: Term<'a>) -> Term<'a> {
    error::done(env, tx.0.get().and_then(|(tx, place)| write_in_tx(&tx, &place, ops)))
}

/// own thread: as `kv_tx_write`, of any length; no scheduler copies it.
#[rustler::nif]
fn kv_tx_write_long<'a>(env: Env<'a>, tx: ResourceArc<TxHandle>, reference: Term<'a>, ops: Term<'a>) -> Term<'a> {
    let (tx, place) = match tx.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let held = OwnedEnv::new();
    let ops = held.save(ops);
    let within = place.clone();
    place.runtime().io(env, reference, move |reply| {
        reply.send_done(held.run(|env| write_in_tx(&tx, &within, ops.load(env))));
    })
}

fn write_in_tx(tx: &Tx, place: &Place, ops: Term) -> Result<(), Failure> {
    for op in decode_ops(ops, place)? {
        match op {
            Op::Put { key, value } => tx.put(&key, &value)?,
            Op::PutUntil { key, value, expires_ms } => tx.put_until(&key, &value, expires_ms)?,
            Op::Delete { key } => tx.delete(&key)?,
            Op::Clear => tx.clear()?,
            Op::Expire(_) => return Err(Failure::invalid("not a write")),
        }
    }
    Ok(())
}

/// own thread: make a transaction's writes durable; they are gathered on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_tx_commit<'a>(env: Env<'a>, tx: ResourceArc<TxHandle>, reference: Term<'a>) -> Term<'a> {
    let Some((tx, _)) = tx.0.take() else {
        return Failure::outcome(Kind::Closed).encode(env);
    };
    let term = owe(env, reference, |reply| tx.commit(Box::new(|result| reply.send_done(result.map(|_| ())))));
    dispose(Box::new(tx));
    term
}

/// dirty io: forget a transaction's writes; after a commit this changes nothing.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_tx_abort(tx: ResourceArc<TxHandle>) -> Atom {
    abort(&tx);
    atoms::ok()
}

fn abort(tx: &TxHandle) {
    if let Some((tx, _)) = tx.0.take() {
        tx.abort();
        dispose(Box::new(tx));
    }
}
