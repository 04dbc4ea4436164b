//! What a store is asked for beside its entries: syncs, compaction, figures, settings.

use super::Place;
use crate::archive::with_progress;
use crate::atoms;
use crate::error::{self, Failure};
use crate::runtime::owe;
use macula_core::Kind;
use macula_store::kv::{AutoCompact, Durability, Stats};
use rustler::{Atom, Encoder, Env, Term};

/// own thread: make everything durable that was written before.
#[rustler::nif]
fn kv_sync<'a>(env: Env<'a>, store: Term<'a>, reference: Term<'a>) -> Term<'a> {
    match Place::of(store) {
        Ok(place) => owe(env, reference, |reply| place.store.sync_later(Box::new(|synced| reply.send_done(synced)))),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: compact a store, and wait for the end of it; `conflict` when that is done already.
#[rustler::nif]
fn kv_compact<'a>(env: Env<'a>, store: Term<'a>, reference: Term<'a>) -> Term<'a> {
    let place = match Place::of(store) {
        Ok(place) => place,
        Err(failure) => return failure.encode(env),
    };
    let (store, lane) = (place.store.clone(), place.lane());
    place.runtime().long(env, reference, &lane, move |reply| {
        with_progress(reply, |task| store.compact(task).map(Compacted));
    })
}

struct Compacted(macula_store::kv::Compacted);

impl Encoder for Compacted {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let pairs = [(atoms::bytes_before(), self.0.bytes_before), (atoms::bytes_after(), self.0.bytes_after)];
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}

/// memory: begin to compact a store, waiting for nothing; `conflict` when that is done already.
#[rustler::nif]
fn kv_compact_later<'a>(env: Env<'a>, store: Term<'a>) -> Term<'a> {
    let begun = Place::of(store).and_then(|place| match place.store.compact_later() {
        true => Ok(()),
        false => Err(Failure::outcome(Kind::Conflict)),
    });
    error::done(env, begun)
}

/// memory: end a compaction; false when there is none.
#[rustler::nif]
fn kv_halt_compaction<'a>(env: Env<'a>, store: Term<'a>) -> Term<'a> {
    error::result(env, Place::of(store).map(|place| place.store.halt_compaction()))
}

/// memory: whether a compaction runs.
#[rustler::nif]
fn kv_is_compacting<'a>(env: Env<'a>, store: Term<'a>) -> Term<'a> {
    error::result(env, Place::of(store).map(|place| place.store.is_compacting()))
}

/// memory: `default`, `nil` (never) or `{writes, dirt}`: when to compact without being asked.
#[rustler::nif]
fn kv_set_auto_compact<'a>(env: Env<'a>, store: Term<'a>, auto: Term<'a>) -> Term<'a> {
    let set = || -> Result<(), Failure> {
        let auto = match auto.decode::<Option<(u64, f64)>>() {
            Ok(None) => None,
            Ok(Some((writes_min, dirt_min))) => Some(AutoCompact { writes_min, dirt_min }),
            Err(_) if auto.is_atom() => Some(AutoCompact::default()),
            Err(_) => return Err(Failure::invalid("expected {writes, dirt}, default or nil")),
        };
        Place::of(store)?.store.set_auto_compact(auto);
        Ok(())
    };
    error::done(env, set())
}

/// memory: what a write means from now on that does not say.
#[rustler::nif]
fn kv_set_durability<'a>(env: Env<'a>, store: Term<'a>, durability: Atom) -> Term<'a> {
    let set = || -> Result<(), Failure> {
        let place = Place::of(store)?;
        place.store.set_durability(durability_of(durability)?.unwrap_or(Durability::Sync));
        Ok(())
    };
    error::done(env, set())
}

/// `nil` is the store's own.
pub(super) fn durability_of(atom: Atom) -> Result<Option<Durability>, Failure> {
    let known = [
        (atoms::nil(), None),
        (atoms::sync(), Some(Durability::Sync)),
        (atoms::r#async(), Some(Durability::Async)),
        (atoms::none(), Some(Durability::None)),
    ];
    let found = known.into_iter().find(|(name, _)| *name == atom);
    found.map(|(_, durability)| durability).ok_or_else(|| Failure::invalid("expected sync, async or none"))
}

/// memory: figures about a store.
#[rustler::nif]
fn kv_stats<'a>(env: Env<'a>, store: Term<'a>) -> Term<'a> {
    let stats = Place::of(store).and_then(|place| Ok(place.store.stats()?));
    error::result(env, stats.map(Told))
}

struct Told(Stats);

impl Encoder for Told {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let stats = &self.0;
        let pairs = [
            (atoms::revision(), stats.revision.encode(env)),
            (atoms::live_bytes(), stats.live_bytes.encode(env)),
            (atoms::file_bytes(), stats.file_bytes.encode(env)),
            (atoms::log_bytes(), stats.log_bytes.encode(env)),
            (atoms::memory_bytes(), stats.memory_bytes.encode(env)),
            (atoms::cache_bytes(), stats.cache_bytes.encode(env)),
            (atoms::groups(), stats.groups.encode(env)),
            (atoms::batches(), stats.batches.encode(env)),
            (atoms::syncs(), stats.syncs.encode(env)),
            (atoms::synced_ns(), stats.synced_ns.encode(env)),
            (atoms::synced_ns_max(), stats.synced_ns_max.encode(env)),
            (atoms::drains(), stats.drains.encode(env)),
            (atoms::drained_ns_max(), stats.drained_ns_max.encode(env)),
            (atoms::cache_hits(), stats.cache_hits.encode(env)),
            (atoms::cache_misses(), stats.cache_misses.encode(env)),
            (atoms::blocks_read(), stats.blocks_read.encode(env)),
            (atoms::writes_since_compaction(), stats.writes_since_compaction.encode(env)),
            (atoms::dirt_factor(), stats.dirt.encode(env)),
        ];
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}
