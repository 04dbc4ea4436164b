//! SQLite: messages of committed changes to the process that subscribed, from the thread that writes.
//!
//! The handle is the reference in its messages. It ends with its owner, its database, or by
//! `sqlite_unsubscribe`.

use super::{row, ConnHandle};
use crate::error::Failure;
use crate::handle::dispose;
use crate::{atoms, stop};
use macula_sqlite::sqlite3::Action;
use macula_sqlite::{Database, RowChange, Told, Value};
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};

/// A subscription, ended by its owner's death too.
pub struct FeedHandle(Mutex<Option<Ending>>);

/// How it ends: the database must not be kept open by who listens to it.
struct Ending {
    database: Weak<Database>,
    id: u64,
}

impl RefUnwindSafe for FeedHandle {}
impl UnwindSafe for FeedHandle {}

#[rustler::resource_impl]
impl Resource for FeedHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.end_elsewhere();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(database) = self.database.upgrade() {
            database.unsubscribe(self.id);
        }
    }
}

impl FeedHandle {
    /// Ending waits for a message that is being made: not on a scheduler thread.
    fn end_elsewhere(&self) {
        end_elsewhere(self.0.lock().take());
    }
}

impl Drop for FeedHandle {
    fn drop(&mut self) {
        end_elsewhere(self.0.get_mut().take());
    }
}

fn end_elsewhere(ending: Option<Ending>) {
    if let Some(ending) = ending {
        dispose(Box::new(ending));
    }
}

/// dirty io: send the calling process every committed change of a table, or of all; answers the
/// subscription and the revision after which it begins. May wait for a message that is being made.
#[rustler::nif(schedule = "DirtyIo")]
fn sqlite_subscribe<'a>(env: Env<'a>, conn: ResourceArc<ConnHandle>, table: Option<String>, images: bool) -> Term<'a> {
    let (database, _open) = match conn.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let (owner, handle) = (env.pid(), ResourceArc::new(FeedHandle(Mutex::new(None))));
    let sender = handle.clone();
    let tell = move |told: Told<'_>| {
        let message = |env| message(env, &sender, &told, images);
        // an owner that is gone is told of by its monitor
        stop::unless_stopped(|| {
            let _ = OwnedEnv::new().send_and_clear(&owner, message);
        });
        true
    };
    let begun = database.subscribe(table, images, tell).map_err(Failure::from);
    let begun = begun.map(|(id, revision)| {
        *handle.0.lock() = Some(Ending { database: Arc::downgrade(&database), id });
        // an owner that is gone already cannot be monitored
        if env.monitor(&handle, &owner).is_none() {
            handle.end_elsewhere();
        }
        (handle, revision)
    });
    crate::error::result(env, begun)
}

/// dirty io: end a subscription; waits for a message that is being sent, and none comes after that.
#[rustler::nif(schedule = "DirtyIo")]
fn sqlite_unsubscribe(subscription: ResourceArc<FeedHandle>) -> Atom {
    let ended = subscription.0.lock().take();
    drop(ended);
    atoms::ok()
}

/// `{MaculaStorage.SQLite, ref, revision, changes | many}` or `{MaculaStorage.SQLite, ref, closed}`.
fn message<'a>(env: Env<'a>, handle: &ResourceArc<FeedHandle>, told: &Told<'_>, images: bool) -> Term<'a> {
    match told {
        Told::Changes(revision, changes) => {
            let changes: Vec<Term> = changes.iter().map(|change| changed(env, change, images)).collect();
            (atoms::sqlite_module(), handle, *revision, changes).encode(env)
        }
        Told::Many(revision) => (atoms::sqlite_module(), handle, *revision, atoms::many()).encode(env),
        Told::Closed => (atoms::sqlite_module(), handle, atoms::closed()).encode(env),
    }
}

fn changed<'a>(env: Env<'a>, change: &RowChange, images: bool) -> Term<'a> {
    let action = match change.action {
        Action::Insert => atoms::insert(),
        Action::Update => atoms::update(),
        Action::Delete => atoms::delete(),
    };
    if !images {
        return (action, &change.table, change.rowid).encode(env);
    }
    (action, &change.table, change.rowid, image(env, &change.before), image(env, &change.after)).encode(env)
}

fn image<'a>(env: Env<'a>, values: &Option<Vec<Value>>) -> Term<'a> {
    match values {
        Some(values) => row(env, &mut values.iter().map(Value::as_cell)),
        None => atoms::nil().encode(env),
    }
}
