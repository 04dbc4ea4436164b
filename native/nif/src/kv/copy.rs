//! Long work on a whole store: a copy of it, a check of every block.

use super::{Place, Source};
use crate::archive::with_progress;
use crate::atoms;
use crate::dir::seams;
use crate::error::Failure;
use crate::options::machine_path;
use macula_store::kv::Verified;
use macula_store::{copy_store, NewDir, StoreError};
use rustler::{Binary, Encoder, Env, Term};

/// own thread: copy one instant of a store into a new directory; answers how many entries it has.
#[rustler::nif]
fn kv_back_up<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, path: Binary<'a>) -> Term<'a> {
    let asked = || -> Result<_, Failure> {
        let (source, place) = Source::of(source)?;
        if matches!(source, Source::Tx(_)) {
            return Err(Failure::invalid("expected a store or a snapshot"));
        }
        Ok((source, place, machine_path(&path)?))
    };
    let (source, place, path) = match asked() {
        Ok(asked) => asked,
        Err(failure) => return failure.encode(env),
    };
    let (store, lane) = (place.store.clone(), place.lane());
    place.runtime().long(env, reference, &lane, move |reply| {
        with_progress(reply, |task| match source.pinned().map_err(StoreError::from)? {
            Source::Snapshot(snapshot) => {
                copy_store(&store, &snapshot, &NewDir::at(&path)?, &seams(), task).map(|copied| copied.entries)
            }
            Source::Store(_) | Source::Tx(_) => Err(StoreError::Closed),
        });
    })
}

/// own thread: read every live block of a store and compare it with its checksum.
#[rustler::nif]
fn kv_check<'a>(env: Env<'a>, store: Term<'a>, reference: Term<'a>) -> Term<'a> {
    let place = match Place::of(store) {
        Ok(place) => place,
        Err(failure) => return failure.encode(env),
    };
    let (store, lane) = (place.store.clone(), place.lane());
    place.runtime().long(env, reference, &lane, move |reply| {
        with_progress(reply, |task| store.verify(task).map(Checked));
    })
}

struct Checked(Verified);

impl Encoder for Checked {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Verified { entries, blocks, .. } = self.0;
        let pairs = [(atoms::entries(), entries), (atoms::blocks(), blocks)];
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}
