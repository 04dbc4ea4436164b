//! Ranges of keys: pages of their entries, and how many there are.

use super::{binary, trusted, Source, DIRTY_BYTES_MAX};
use crate::atoms;
use crate::error::Failure;
use crate::options::list;
use macula_core::Cancel;
use macula_store::kv::{KeyRange, KvError, Page, PageLimits};
use macula_term::Side;
use rustler::{Atom, Binary, Encoder, Env, Term};
use std::cmp::Ordering;
use std::ops::Bound;

/// Bytes of one page.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Entries of a page that is only counted.
const COUNTED_ENTRIES_MAX: u64 = 4096;

/// dirty io: one page of a range, and the key to go on behind; `too_large` when its first entry is
/// for `kv_page_long`.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_page<'a>(
    env: Env<'a>,
    source: Term<'a>,
    min: Term<'a>,
    max: Term<'a>,
    reverse: bool,
    entries_max: usize,
) -> Term<'a> {
    let limits = PageLimits { entries_max, bytes_max: PAGE_BYTES_MAX, value_len_max: DIRTY_BYTES_MAX };
    let read = || -> Result<Page, Failure> {
        let (source, _) = Source::of(source)?;
        match range(min, max)? {
            Some(range) => Ok(source.page(&range, reverse, limits)?),
            None => Ok(Page::default()),
        }
    };
    page_or_failure(env, read())
}

/// own thread: as `kv_page`, with a first entry of any length; bounds are encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_page_long<'a>(
    env: Env<'a>,
    source: Term<'a>,
    reference: Term<'a>,
    min: Term<'a>,
    max: Term<'a>,
    reverse: bool,
) -> Term<'a> {
    let limits = PageLimits { entries_max: 1, bytes_max: PAGE_BYTES_MAX, value_len_max: usize::MAX };
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, range(min, max)?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, place), range)) => place.runtime().io(env, reference, move |reply| {
            let page = range.map_or(Ok(Page::default()), |range| source.page(&range, reverse, limits));
            reply.send(|env| page_or_failure(env, page.map_err(Failure::from)));
        }),
    }
}

fn page_or_failure(env: Env, page: Result<Page, Failure>) -> Term {
    page.and_then(|page| page_terms(env, page)).unwrap_or_else(|failure| failure.encode(env))
}

fn page_terms(env: Env, page: Page) -> Result<Term, Failure> {
    let mut entries = Vec::with_capacity(page.entries.len());
    for (key, value) in &page.entries {
        let key = trusted(env, &macula_term::decode(key)?)?;
        entries.push((key, trusted(env, value)?));
    }
    let next = page.next.map(|key| binary(env, &key));
    Ok((atoms::ok(), entries, next).encode(env))
}

/// own thread: how many entries a range has, at one instant; bounds are encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_count<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, min: Term<'a>, max: Term<'a>) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, range(min, max)?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, place), range)) => place.runtime().io(env, reference, move |reply| {
            let cancel = reply.call().cancel_token();
            let count = range.map_or(Ok(0), |range| count(source, range, &cancel));
            reply.send_result(count);
        }),
    }
}

fn count(source: Source, mut range: KeyRange, cancel: &Cancel) -> Result<u64, KvError> {
    if matches!(range, (Bound::Unbounded, Bound::Unbounded)) {
        return source.len();
    }
    let source = source.pinned()?;
    let mut entries = 0;
    loop {
        let counted = source.count(&range, COUNTED_ENTRIES_MAX)?;
        entries += counted.entries;
        match counted.next {
            None => return Ok(entries),
            Some(_) if cancel.is_cancelled() => return Err(KvError::Cancelled),
            Some(next) => range.0 = Bound::Excluded(next),
        }
    }
}

/// `None` when no key can be in it.
pub fn range(min: Term, max: Term) -> Result<Option<KeyRange>, Failure> {
    let (lower, upper) = (strictest(min, lower, Ord::cmp)?, strictest(max, upper, |a, b| Ord::cmp(b, a))?);
    let range = (lower, upper);
    Ok((!is_empty(&range)).then_some(range))
}

/// One bound, or the one of a list that leaves the least.
fn strictest(
    bound: Term,
    edge: fn(Term) -> Result<Bound<Vec<u8>>, Failure>,
    order: fn(&Vec<u8>, &Vec<u8>) -> Ordering,
) -> Result<Bound<Vec<u8>>, Failure> {
    if !bound.is_list() {
        return edge(bound);
    }
    let mut found = Bound::Unbounded;
    for bound in list(bound)? {
        let bound = edge(bound)?;
        let stricter = match (key_of(&bound), key_of(&found)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(key), Some(before)) => order(key, before).then(is_excluded(&bound).cmp(&is_excluded(&found))).is_gt(),
        };
        if stricter {
            found = bound;
        }
    }
    Ok(found)
}

fn key_of(bound: &Bound<Vec<u8>>) -> Option<&Vec<u8>> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

fn is_excluded(bound: &Bound<Vec<u8>>) -> bool {
    matches!(bound, Bound::Excluded(_))
}

/// `none`, `{incl | excl, term}`, `{exact, term}`, which leaves out what is only equal to it, `{prefix,
/// term, arity | nil}`, or `{raw, key}`, which was already given.
fn lower(bound: Term) -> Result<Bound<Vec<u8>>, Failure> {
    edge(bound, Side::Below, Side::Above, |(low, _)| low, Bound::Included)
}

fn upper(bound: Term) -> Result<Bound<Vec<u8>>, Failure> {
    edge(bound, Side::Above, Side::Below, |(_, high)| high, Bound::Excluded)
}

/// The first key of a range, and the one behind its last.
type Keys = (Vec<u8>, Vec<u8>);

fn edge(
    bound: Term,
    incl: Side,
    excl: Side,
    pick: fn(Keys) -> Vec<u8>,
    wrap: fn(Vec<u8>) -> Bound<Vec<u8>>,
) -> Result<Bound<Vec<u8>>, Failure> {
    if bound.is_atom() {
        return Ok(Bound::Unbounded);
    }
    if let Ok((_prefix, term, arity)) = bound.decode::<(Atom, Binary, Option<u32>)>() {
        return Ok(wrap(pick(macula_term::prefix(term.as_slice(), arity)?)));
    }
    let (kind, term): (Atom, Binary) = bound.decode().map_err(|_| Failure::invalid("not a bound"))?;
    if kind == atoms::raw() {
        return Ok(Bound::Excluded(term.as_slice().to_vec()));
    }
    if kind == atoms::exact() {
        return Ok(Bound::Included(macula_term::encode(term.as_slice())?));
    }
    let side = if kind == atoms::incl() { incl } else { excl };
    Ok(wrap(macula_term::bound(term.as_slice(), side)?))
}

/// Whether no key can be in it: a minimum above the maximum is an empty range, not an error.
fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Included(min), Bound::Included(max)) => min > max,
        (Bound::Included(min), Bound::Excluded(max)) => min >= max,
        (Bound::Excluded(min), Bound::Excluded(max) | Bound::Included(max)) => min >= max,
        _ => false,
    }
}
