//! SQLite: looking after an app's database.

use crate::atoms;
use crate::base::OpenApp;
use crate::error::{self, Failure};
use crate::options::span;
use crate::runtime::owe;
use crate::sqlite::ConnHandle;
use macula_sqlite::{Held, Holder, Slow, SqliteError, Stats};
use rustler::{Atom, Encoder, Env, LocalPid, ResourceArc, Term};

/// memory: what the database tells of itself; two files are looked at by name.
#[rustler::nif]
fn sqlite_stats<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>) -> Term<'a> {
    error::result(env, conn.get().map(|(database, _)| Told(database.stats())))
}

/// own thread: rewrite the file without what was deleted.
#[rustler::nif]
fn sqlite_vacuum<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>, reference: Term<'a>, timeout_ms: u64) -> Term<'a> {
    let (database, _open) = match conn.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    owe(env, reference, |reply| {
        let cancel = reply.call().cancel_token();
        database.vacuum(span(timeout_ms), cancel, |result| reply.send_done(result))
    })
}

/// own thread: read the whole database and look whether it is sound.
#[rustler::nif]
fn sqlite_check<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>, reference: Term<'a>) -> Term<'a> {
    let (database, OpenApp { app, opened }) = match conn.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    opened.runtime.long(env, reference, &app.name().to_string(), move |reply| {
        let cancel = reply.call().cancel_token();
        reply.send_done::<SqliteError>(database.check(&cancel));
    })
}

struct Told(Stats);

impl Encoder for Told {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let stats = &self.0;
        let held_ms = |held: &Held| held.held.as_millis() as u64;
        let pid = |held: &Held| held.who.as_ref().and_then(|who| who.downcast_ref::<LocalPid>().copied());
        let holder = stats.held.as_ref().map(|held| (name(held.holder), held_ms(held), pid(held)));
        let slow: Vec<Term> = stats.slow.iter().map(|slow| told(env, slow)).collect();
        let pairs = [
            (atoms::holder(), holder.encode(env)),
            (atoms::writes_waiting(), stats.writes_waiting.encode(env)),
            (atoms::reads_waiting(), stats.reads_waiting.encode(env)),
            (atoms::requests(), stats.requests_committed.encode(env)),
            (atoms::commits(), stats.commits.encode(env)),
            (atoms::committed_ns(), (stats.committed.0.as_nanos() as u64).encode(env)),
            (atoms::committed_ns_max(), (stats.committed.1.as_nanos() as u64).encode(env)),
            (atoms::batch_len_max(), stats.batch_len_max.encode(env)),
            (atoms::hot_reads(), stats.hot_reads.0.encode(env)),
            (atoms::hot_reads_declined(), stats.hot_reads.1.encode(env)),
            (atoms::checkpoints(), stats.checkpoints.encode(env)),
            (atoms::log_bytes(), stats.log_bytes.encode(env)),
            (atoms::file_bytes(), stats.file_bytes.encode(env)),
            (atoms::slow(), slow.encode(env)),
        ];
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}

fn told<'a>(env: Env<'a>, slow: &Slow) -> Term<'a> {
    let took_ms = slow.took.as_millis() as u64;
    let pairs = [
        (atoms::sql(), slow.sql.encode(env)),
        (atoms::took_ms(), took_ms.encode(env)),
        (atoms::ended_ms(), slow.ended_ms.encode(env)),
    ];
    Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
}

fn name(holder: Holder) -> Atom {
    match holder {
        Holder::Requests => atoms::requests(),
        Holder::Transaction => atoms::transaction(),
        Holder::Connection => atoms::connection(),
        Holder::Vacuum => atoms::vacuum(),
    }
}

impl ConnHandle {
    fn get(&self) -> Result<(std::sync::Arc<macula_sqlite::Database>, OpenApp), Failure> {
        self.0.get()
    }
}
