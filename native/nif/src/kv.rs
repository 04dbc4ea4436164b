//! The key-value store: reads here, writes on the store's own thread.
//!
//! Keys come as external terms and are turned into ordered bytes here; values are kept as they come.

use crate::atoms;
use crate::base::{on_app, AppHandle, Opened};
use crate::error::{self, Failure};
use crate::handle::{dispose, Handle};
use crate::options::list;
use crate::runtime::owe;
use macula_core::Kind;
use macula_store::kv::{Batch, Condition, KeyRange, KvError, Op, Page, PageLimits, Snapshot, Store, Tx};
use macula_term::Side;
use rustler::{
    Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, OwnedBinary, OwnedEnv, Resource, ResourceArc, Term,
};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Values up to this are decoded here; larger ones by the BIF, which yields.
const DECODED_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one page.
const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Keys that a read on a dirty scheduler looks for at most.
const DIRTY_KEYS_MAX: usize = 512;
/// What a read on a dirty scheduler may bring in, bytes. A longer one is `too_large`, and then asked
/// for again from a thread of ours (the NIFs named `_long`).
const DIRTY_BYTES_MAX: usize = 1 << 20;

/// A snapshot, ended by its owner's death too.
pub struct SnapshotHandle(Handle<(Snapshot, Arc<Opened>)>);

#[rustler::resource_impl]
impl Resource for SnapshotHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.release();
    }
}

impl SnapshotHandle {
    fn release(&self) {
        if let Some((snapshot, _)) = self.0.take() {
            // ending it may free pages: not on a scheduler thread
            dispose(Box::new(Released(snapshot)));
        }
    }
}

struct Released(Snapshot);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A transaction, aborted by its owner's death.
pub struct TxHandle(Handle<(Arc<Tx>, Arc<Opened>)>);

#[rustler::resource_impl]
impl Resource for TxHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        if let Some((tx, _)) = self.0.take() {
            dispose(Box::new(Abandoned(tx)));
        }
    }
}

/// A transaction whose owner died: aborted on the closer thread, because that frees what it wrote.
struct Abandoned(Arc<Tx>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What can be read from.
enum Source {
    Store(Store),
    Snapshot(Snapshot),
    Tx(Arc<Tx>),
}

impl Source {
    /// What can be read from, and the threads for a long read.
    fn of(term: Term) -> Result<(Self, Arc<Opened>), Failure> {
        if let Ok(app) = term.decode::<ResourceArc<AppHandle>>() {
            return Ok((Source::Store(store(&app)?), app.get()?.opened));
        }
        if let Ok(snapshot) = term.decode::<ResourceArc<SnapshotHandle>>() {
            let (snapshot, opened) = snapshot.0.get()?;
            return Ok((Source::Snapshot(snapshot), opened));
        }
        match term.decode::<ResourceArc<TxHandle>>() {
            Ok(tx) => tx.0.get().map(|(tx, opened)| (Source::Tx(tx), opened)),
            Err(_) => Err(Failure::invalid("expected an app, a snapshot or a transaction")),
        }
    }

    /// What `look` makes of the value of a key, without a copy where there is none.
    fn get_with<T>(&self, key: &[u8], len_max: usize, look: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, KvError> {
        match self {
            Source::Store(store) => store.get_with(key, len_max, look),
            Source::Snapshot(snapshot) => snapshot.get_with(key, len_max, look),
            Source::Tx(tx) => tx.get_with(key, len_max, look),
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool, KvError> {
        match self {
            Source::Store(store) => store.has(key),
            Source::Snapshot(snapshot) => snapshot.has(key),
            Source::Tx(tx) => tx.has(key),
        }
    }

    /// The values of several keys at one instant, of `bytes_max` bytes together at most.
    fn get_many<T>(
        self,
        keys: &[Vec<u8>],
        bytes_max: usize,
        look: impl Fn(&[u8]) -> T,
    ) -> Result<Vec<Option<T>>, KvError> {
        let source = self.pinned()?;
        let mut left = bytes_max;
        let value = |key: &Vec<u8>| {
            let found = source.get_with(key, left, |value| (look(value), value.len()))?;
            Ok(found.map(|(value, len)| {
                left -= len;
                value
            }))
        };
        keys.iter().map(value).collect()
    }

    /// One instant, for reads that must agree.
    fn pinned(self) -> Result<Self, KvError> {
        match self {
            Source::Store(store) => store.snapshot().map(Source::Snapshot),
            pinned => Ok(pinned),
        }
    }

    fn len(&self) -> Result<u64, KvError> {
        match self {
            Source::Store(store) => store.len(),
            Source::Snapshot(snapshot) => snapshot.len(),
            Source::Tx(tx) => tx.len(),
        }
    }

    fn page(&self, range: &KeyRange, reverse: bool, limits: PageLimits) -> Result<Page, KvError> {
        match self {
            Source::Store(store) => store.snapshot()?.page(range, reverse, limits),
            Source::Snapshot(snapshot) => snapshot.page(range, reverse, limits),
            Source::Tx(tx) => tx.page(range, reverse, limits),
        }
    }
}

/// The store of an app, if it is open; opening takes a thread of ours (`kv_open`).
fn store(app: &ResourceArc<AppHandle>) -> Result<Store, Failure> {
    app.get()?.app.kv_if_open().ok_or_else(Failure::not_open)
}

/// own thread: open the app's store.
#[rustler::nif]
fn kv_open<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>) -> Term<'a> {
    on_app(env, &app, reference, |reply, app| reply.send_done(app.kv().map(|_| ())))
}

/// dirty io: the value of a key; `too_large` when it is for `kv_get_long`.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_get<'a>(env: Env<'a>, source: Term<'a>, key: Binary) -> Term<'a> {
    let read = || -> Result<Option<Term<'a>>, Failure> {
        let (source, _) = Source::of(source)?;
        let key = macula_term::encode(key.as_slice())?;
        Ok(source.get_with(&key, DIRTY_BYTES_MAX, |value| value_term(env, value))?)
    };
    match read() {
        Ok(Some(term)) => term,
        Ok(None) => Failure::outcome(Kind::NotFound).encode(env),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: as `kv_get`, of any length, as its bytes; the key is encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_get_long<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, key: Binary) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, macula_term::encode(key.as_slice())?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, opened), key)) => opened.runtime.io(env, reference, move |reply| {
            let found = source.get_with(&key, usize::MAX, Etf::copy).map_err(Failure::from);
            let found = found.and_then(|found| found.ok_or_else(|| Failure::outcome(Kind::NotFound)));
            reply.send(|env| match found {
                Ok(value) => value.into_term(env),
                Err(failure) => failure.encode(env),
            });
        }),
    }
}

/// dirty io: the values of several keys at one instant, nil where there is none; `too_large` when
/// they are for `kv_get_many_long`.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_get_many<'a>(env: Env<'a>, source: Term<'a>, keys: Term<'a>) -> Term<'a> {
    let read = || -> Result<Vec<Option<Term<'a>>>, Failure> {
        let (source, _) = Source::of(source)?;
        if keys.list_length().is_ok_and(|len| len > DIRTY_KEYS_MAX) {
            return Err(Failure::outcome(Kind::TooLarge));
        }
        Ok(source.get_many(&encode_keys(keys)?, DIRTY_BYTES_MAX, |value| value_term(env, value))?)
    };
    error::result(env, read())
}

/// own thread: as `kv_get_many`, of any length, as their bytes; keys are encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_get_many_long<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, keys: Term<'a>) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, encode_keys(keys)?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, opened), keys)) => opened.runtime.io(env, reference, move |reply| {
            let found = source.get_many(&keys, usize::MAX, Etf::copy);
            reply.send(|env| {
                let terms = |found: Vec<Option<Etf>>| -> Vec<_> {
                    found.into_iter().map(|value| value.map(|value| value.into_term(env))).collect()
                };
                error::result(env, found.map(terms))
            });
        }),
    }
}

/// dirty io: whether a key is there; its value is not looked at.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_has<'a>(env: Env<'a>, source: Term<'a>, key: Term<'a>) -> Term<'a> {
    let has = || -> Result<bool, Failure> { Ok(Source::of(source)?.0.has(&encode_key(key)?)?) };
    error::result(env, has())
}

/// dirty io: how many entries there are.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_len<'a>(env: Env<'a>, source: Term<'a>) -> Term<'a> {
    error::result(env, Source::of(source).and_then(|(source, _)| Ok(source.len()?)))
}

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
        Ok(((source, opened), range)) => opened.runtime.io(env, reference, move |reply| {
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

/// `None` when no key can be in it.
fn range(min: Term, max: Term) -> Result<Option<KeyRange>, Failure> {
    let range = (lower(min)?, upper(max)?);
    Ok((!is_empty(&range)).then_some(range))
}

/// `none`, `{incl | excl, term}` or `{raw, key}`, which was already given.
fn lower(bound: Term) -> Result<Bound<Vec<u8>>, Failure> {
    side(bound, Side::Below, Side::Above, Bound::Included)
}

fn upper(bound: Term) -> Result<Bound<Vec<u8>>, Failure> {
    side(bound, Side::Above, Side::Below, Bound::Excluded)
}

fn side(bound: Term, incl: Side, excl: Side, wrap: fn(Vec<u8>) -> Bound<Vec<u8>>) -> Result<Bound<Vec<u8>>, Failure> {
    if bound.is_atom() {
        return Ok(Bound::Unbounded);
    }
    let (kind, term): (Atom, Binary) = bound.decode().map_err(|_| Failure::invalid("not a bound"))?;
    if kind == atoms::raw() {
        return Ok(Bound::Excluded(term.as_slice().to_vec()));
    }
    let side = if kind == atoms::incl() { incl } else { excl };
    Ok(wrap(macula_term::bound(term.as_slice(), side)?))
}

/// Whether no key can be in it: a minimum above the maximum is an empty range, not an error.
fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Included(min), Bound::Excluded(max) | Bound::Included(max)) => min >= max,
        (Bound::Excluded(min), Bound::Excluded(max) | Bound::Included(max)) => min >= max,
        _ => false,
    }
}

/// own thread: write a batch, all or nothing, if every key of `absent` is absent.
#[rustler::nif]
fn kv_write<'a>(
    env: Env<'a>,
    app: ResourceArc<AppHandle>,
    reference: Term<'a>,
    ops: Term<'a>,
    absent: Term<'a>,
) -> Term<'a> {
    write(env, &app, reference, ops, absent)
}

/// own thread: as `kv_write`; large arguments are copied on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_write_large<'a>(
    env: Env<'a>,
    app: ResourceArc<AppHandle>,
    reference: Term<'a>,
    ops: Term<'a>,
    absent: Term<'a>,
) -> Term<'a> {
    write(env, &app, reference, ops, absent)
}

fn write<'a>(
    env: Env<'a>,
    app: &ResourceArc<AppHandle>,
    reference: Term<'a>,
    ops: Term<'a>,
    absent: Term<'a>,
) -> Term<'a> {
    let prepare = || -> Result<(Store, Batch), Failure> {
        let store = store(app)?;
        let ops = list(ops)?.into_iter().map(decode_op).collect::<Result<_, _>>()?;
        let condition = |key| Ok::<_, Failure>(Condition::Absent(encode_key(key)?));
        let conditions = list(absent)?.into_iter().map(condition).collect::<Result<_, _>>()?;
        Ok((store, Batch { conditions, ops, ..Batch::default() }))
    };
    let (store, mut batch) = match prepare() {
        Ok(prepared) => prepared,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        batch.cancel = Some(reply.call().cancel_token());
        store.submit(batch, Box::new(|result| reply.send_done(result.map(|_| ()))))
    })
}

/// The ordered bytes of a key that came as an external term.
fn encode_key(key: Term) -> Result<Vec<u8>, Failure> {
    let key: Binary = key.decode().map_err(|_| Failure::invalid("expected a key as an external term"))?;
    Ok(macula_term::encode(key.as_slice())?)
}

fn encode_keys(keys: Term) -> Result<Vec<Vec<u8>>, Failure> {
    list(keys)?.into_iter().map(encode_key).collect()
}

/// `{put, key, value}`, `{delete, key}` or `clear`.
fn decode_op(op: Term) -> Result<Op, Failure> {
    if op.is_atom() {
        return Ok(Op::Clear);
    }
    if let Ok((_put, key, value)) = op.decode::<(Atom, Binary, Binary)>() {
        return Ok(Op::Put { key: macula_term::encode(key.as_slice())?, value: value.as_slice().to_vec() });
    }
    match op.decode::<(Atom, Binary)>() {
        Ok((_delete, key)) => Ok(Op::Delete { key: macula_term::encode(key.as_slice())? }),
        Err(_) => Err(Failure::invalid("not a write")),
    }
}

/// dirty io: pin the present state for the calling process.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_snapshot<'a>(env: Env<'a>, app: ResourceArc<AppHandle>) -> Term<'a> {
    let snapshot = store(&app).and_then(|store| Ok((store.snapshot()?, app.get()?.opened)));
    let handle = snapshot.map(|pinned| {
        let handle = ResourceArc::new(SnapshotHandle(Handle::new(pinned)));
        if env.monitor(&handle, &env.pid()).is_none() {
            handle.release();
        }
        handle
    });
    error::result(env, handle)
}

/// memory: end a snapshot.
#[rustler::nif]
fn kv_snapshot_release(snapshot: ResourceArc<SnapshotHandle>) -> Atom {
    snapshot.release();
    atoms::ok()
}

/// own thread: the exclusive turn to write, in the queue's order.
#[rustler::nif]
fn kv_begin<'a>(env: Env<'a>, app: ResourceArc<AppHandle>, reference: Term<'a>, deadline_ms: u64) -> Term<'a> {
    let (store, opened) = match store(&app).and_then(|store| Ok((store, app.get()?.opened))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let owner = env.pid();
    owe(env, reference, |reply| {
        let begun = move |result: Result<Tx, KvError>| {
            let call = reply.call().clone();
            let handle = result.map(|tx| {
                let handle = ResourceArc::new(TxHandle(Handle::new((Arc::new(tx), opened))));
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
    error::done(env, tx.0.get().and_then(|(tx, _)| write_in_tx(&tx, ops)))
}

/// own thread: as `kv_tx_write`, of any length; no scheduler copies it.
#[rustler::nif]
fn kv_tx_write_long<'a>(env: Env<'a>, tx: ResourceArc<TxHandle>, reference: Term<'a>, ops: Term<'a>) -> Term<'a> {
    let (tx, opened) = match tx.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let held = OwnedEnv::new();
    let ops = held.save(ops);
    opened.runtime.io(env, reference, move |reply| {
        reply.send_done(held.run(|env| write_in_tx(&tx, ops.load(env))));
    })
}

fn write_in_tx(tx: &Tx, ops: Term) -> Result<(), Failure> {
    for op in list(ops)? {
        match decode_op(op)? {
            Op::Put { key, value } => tx.put(&key, &value)?,
            Op::PutUntil { key, value, expires_ms } => tx.put_until(&key, &value, expires_ms)?,
            Op::Delete { key } => tx.delete(&key)?,
            Op::Clear => tx.clear()?,
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

/// A value as its term, or as bytes when it is large.
fn value_term<'a>(env: Env<'a>, value: &[u8]) -> Term<'a> {
    if value.len() > DECODED_BYTES_MAX {
        return (atoms::etf(), binary(env, value)).encode(env);
    }
    match trusted(env, value) {
        Ok(term) => (atoms::ok(), term).encode(env),
        Err(failure) => failure.encode(env),
    }
}

/// The bytes of a long value, copied once and not yet a term's.
struct Etf(OwnedBinary);

impl Etf {
    fn copy(value: &[u8]) -> Self {
        let mut bytes = OwnedBinary::new(value.len());
        bytes.as_mut_slice().copy_from_slice(value);
        Self(bytes)
    }

    fn into_term(self, env: Env) -> Term {
        (atoms::etf(), Binary::from_owned(self.0, env)).encode(env)
    }
}

/// A term from our own verified file. The safe decoding would fail on atoms that this VM has not
/// loaded yet, and make the user's data unreadable after a restart.
fn trusted<'a>(env: Env<'a>, etf: &[u8]) -> Result<Term<'a>, Failure> {
    // SAFETY: bytes that `term_to_binary` made, under our own checksum
    let term = unsafe { env.binary_to_term_trusted(etf) };
    term.map(|(term, _)| term).ok_or_else(|| Failure::internal("a stored value is not a term"))
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Binary<'a> {
    NewBinary::from_slice(env, bytes).into()
}
