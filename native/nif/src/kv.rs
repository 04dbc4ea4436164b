//! The key-value store: reads here, writes on the store's own thread.
//!
//! Keys come as external terms and are turned into ordered bytes here; values are kept as they come.

mod care;
mod copy;
mod range;
mod subscribe;
mod write;

use crate::atoms;
use crate::base::{on_app, AppHandle, OpenApp};
use crate::dir::{DirHandle, OpenDir};
use crate::error::{self, Failure};
use crate::handle::{dispose, Handle};
use crate::options::list;
use crate::runtime::Runtime;
use macula_core::Kind;
use macula_store::kv::{Counted, KeyRange, KvError, Page, PageLimits, Snapshot, Store, Tx, NEVER_MS};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, Monitor, NewBinary, OwnedBinary, Resource, ResourceArc, Term};
use std::sync::Arc;
use write::TxHandle;

/// Values up to this are decoded here; larger ones by the BIF, which yields.
const DECODED_BYTES_MAX: usize = 64 * 1024;
/// Keys and values up to this are looked for by a scheduler itself.
const HOT_BYTES_MAX: usize = 16 * 1024;
/// The first byte of every external term.
const ETF_VERSION: u8 = 131;
/// Keys that a read on a dirty scheduler looks for at most.
const DIRTY_KEYS_MAX: usize = 512;
/// What a read on a dirty scheduler may bring in, bytes. A longer one is `too_large`, and then asked
/// for again from a thread of ours (the NIFs named `_long`).
const DIRTY_BYTES_MAX: usize = 1 << 20;

/// What a store belongs to.
#[derive(Clone)]
enum Home {
    App(OpenApp),
    Dir(Arc<OpenDir>),
}

/// An open store, and what it belongs to.
#[derive(Clone)]
struct Place {
    store: Store,
    home: Home,
}

impl Place {
    /// The store of an app, if it is open (opening takes a thread of ours, `kv_open`), or of a directory.
    fn of(term: Term) -> Result<Self, Failure> {
        if let Ok(app) = term.decode::<ResourceArc<AppHandle>>() {
            let open = app.get()?;
            let store = open.app.kv_if_open().ok_or_else(Failure::not_open)?;
            return Ok(Self { store, home: Home::App(open) });
        }
        match term.decode::<ResourceArc<DirHandle>>() {
            Ok(dir) => {
                let open = dir.get()?;
                Ok(Self { store: open.dir.store().clone(), home: Home::Dir(open) })
            }
            Err(_) => Err(Failure::invalid("expected an app or a store")),
        }
    }

    fn runtime(&self) -> &Runtime {
        match &self.home {
            Home::App(open) => &open.opened.runtime,
            Home::Dir(open) => &open.runtime,
        }
    }

    /// The lane of its long work.
    fn lane(&self) -> String {
        match &self.home {
            Home::App(open) => open.app.name().to_string(),
            Home::Dir(open) => open.dir.path().to_string_lossy().into_owned(),
        }
    }
}

/// A snapshot, ended by its owner's death too; what reads from it meanwhile comes to its end first.
pub struct SnapshotHandle(Handle<(Pinned, Place)>);

#[rustler::resource_impl]
impl Resource for SnapshotHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.release();
    }
}

impl SnapshotHandle {
    fn release(&self) {
        if let Some(pinned) = self.0.take() {
            // ending it may free pages: not on a scheduler thread
            dispose(Box::new(pinned));
        }
    }
}

/// Shared by a handle and who reads from it; the last of them lets go.
#[derive(Clone)]
struct Pinned(Arc<Pin>);

struct Pin(Snapshot);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Pinned {
    fn of(store: &Store) -> Result<Self, KvError> {
        Ok(Self(Arc::new(Pin(store.snapshot()?))))
    }
}

impl std::ops::Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0 .0
    }
}

/// What can be read from.
enum Source {
    Store(Store),
    Snapshot(Pinned),
    Tx(Arc<Tx>),
}

impl Source {
    /// What can be read from, and its store.
    fn of(term: Term) -> Result<(Self, Place), Failure> {
        if let Ok(snapshot) = term.decode::<ResourceArc<SnapshotHandle>>() {
            let (snapshot, place) = snapshot.0.get()?;
            return Ok((Source::Snapshot(snapshot), place));
        }
        if let Ok(tx) = term.decode::<ResourceArc<TxHandle>>() {
            let (tx, place) = tx.get()?;
            return Ok((Source::Tx(tx), place));
        }
        Place::of(term).map(|place| (Source::Store(place.store.clone()), place))
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

    fn expires_ms(&self, key: &[u8]) -> Result<Option<u64>, KvError> {
        match self {
            Source::Store(store) => store.expires_ms(key),
            Source::Snapshot(snapshot) => snapshot.expires_ms(key),
            Source::Tx(tx) => tx.expires_ms(key),
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
            Source::Store(store) => Pinned::of(&store).map(Source::Snapshot),
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

    fn count(&self, range: &KeyRange, entries_max: u64) -> Result<Counted, KvError> {
        match self {
            Source::Store(store) => store.snapshot()?.count(range, entries_max),
            Source::Snapshot(snapshot) => snapshot.count(range, entries_max),
            Source::Tx(tx) => tx.count(range, entries_max),
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

/// memory: the value of a key, if it and its way there are in memory; `cold` when it is for `kv_get`.
#[rustler::nif]
fn kv_get_hot<'a>(env: Env<'a>, source: Term<'a>, key: Binary) -> Term<'a> {
    let read = || -> Result<Option<Term<'a>>, Failure> {
        let (source, _) = Source::of(source)?;
        // what is no term at all is refused at once, however long
        if key.len() > HOT_BYTES_MAX && key.first() == Some(&ETF_VERSION) {
            return Err(KvError::Cold.into());
        }
        let key = macula_term::encode(key.as_slice())?;
        let look = |value: &[u8]| value_term(env, value);
        Ok(match source {
            Source::Store(store) => store.get_hot(&key, HOT_BYTES_MAX, look)?,
            Source::Snapshot(snapshot) => snapshot.get_hot(&key, HOT_BYTES_MAX, look)?,
            // its lock may be held by one who reads
            Source::Tx(_) => return Err(KvError::Cold.into()),
        })
    };
    let found = read();
    // a process that does nothing else would be held for milliseconds by what counts as one reduction
    rustler::schedule::consume_timeslice(env, 3);
    match found {
        Ok(Some(term)) => term,
        Ok(None) => Failure::outcome(Kind::NotFound).encode(env),
        Err(failure) if failure.is(Kind::Busy) || failure.is(Kind::TooLarge) => atoms::cold().encode(env),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: as `kv_get`, of any length, as its bytes; the key is encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_get_long<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, key: Binary) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, macula_term::encode(key.as_slice())?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, place), key)) => place.runtime().io(env, reference, move |reply| {
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
    error::result(env, get_many_dirty(source, keys, |value| value_term(env, value)))
}

/// dirty io: as `kv_get_many`, as the bytes that are stored.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_get_many_raw<'a>(env: Env<'a>, source: Term<'a>, keys: Term<'a>) -> Term<'a> {
    let raw = |value: &[u8]| (atoms::etf(), binary(env, value)).encode(env);
    error::result(env, get_many_dirty(source, keys, raw))
}

fn get_many_dirty<T>(source: Term, keys: Term, look: impl Fn(&[u8]) -> T) -> Result<Vec<Option<T>>, Failure> {
    let (source, _) = Source::of(source)?;
    if keys.list_length().is_ok_and(|len| len > DIRTY_KEYS_MAX) {
        return Err(Failure::outcome(Kind::TooLarge));
    }
    Ok(source.get_many(&encode_keys(keys)?, DIRTY_BYTES_MAX, look)?)
}

/// own thread: as `kv_get_many`, of any length, as their bytes; keys are encoded on a dirty scheduler.
#[rustler::nif(schedule = "DirtyCpu")]
fn kv_get_many_long<'a>(env: Env<'a>, source: Term<'a>, reference: Term<'a>, keys: Term<'a>) -> Term<'a> {
    let asked = || -> Result<_, Failure> { Ok((Source::of(source)?, encode_keys(keys)?)) };
    match asked() {
        Err(failure) => failure.encode(env),
        Ok(((source, place), keys)) => place.runtime().io(env, reference, move |reply| {
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

/// dirty io: how many milliseconds a key stays, or `infinity`; its value is not looked at.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_ttl<'a>(env: Env<'a>, source: Term<'a>, key: Term<'a>) -> Term<'a> {
    let ttl = || -> Result<Term<'a>, Failure> {
        let (source, place) = Source::of(source)?;
        let expires_ms = source.expires_ms(&encode_key(key)?)?;
        let left_ms = expires_ms.map_or(0, |expires_ms| expires_ms.saturating_sub(place.store.now_ms()));
        match left_ms {
            // not there, or not any more
            0 => Err(Failure::outcome(Kind::NotFound)),
            _ if expires_ms == Some(NEVER_MS) => Ok(atoms::infinity().encode(env)),
            left_ms => Ok(left_ms.encode(env)),
        }
    };
    error::result(env, ttl())
}

/// dirty io: pin the present state for the calling process.
#[rustler::nif(schedule = "DirtyIo")]
fn kv_snapshot<'a>(env: Env<'a>, store: Term<'a>) -> Term<'a> {
    let snapshot = Place::of(store).and_then(|place| Ok((Pinned::of(&place.store)?, place)));
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

/// The ordered bytes of a key that came as an external term.
fn encode_key(key: Term) -> Result<Vec<u8>, Failure> {
    let key: Binary = key.decode().map_err(|_| Failure::invalid("expected a key as an external term"))?;
    Ok(macula_term::encode(key.as_slice())?)
}

fn encode_keys(keys: Term) -> Result<Vec<Vec<u8>>, Failure> {
    list(keys)?.into_iter().map(encode_key).collect()
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
