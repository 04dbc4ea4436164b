//! Threads that read beside the writer, each with a connection of its own, from one queue.
//!
//! Invariant: a reader never holds a snapshot between two requests, so it holds back no checkpoint;
//! what turns out to write is handed on to the writer. A database that nobody reads keeps no connection, and
//! so no cache, for it.

use crate::connection::{Connection, Role};
use crate::database::Shared;
use crate::queue::{Pop, Waiting};
use crate::request::Work;
use crate::statement::{try_read, Tried};
use crate::watch::Watch;
use crate::writer::Job;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// Nothing is to be done any more; the wait only has some end.
const AT_REST: Duration = Duration::from_secs(3600);

/// Serve until the queue is closed.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut connection = None;
    loop {
        let is_at_rest = connection.is_none() && !shared.hots.are_open();
        match shared.reads.pop(if is_at_rest { AT_REST } else { shared.options.rest_after }) {
            Pop::Closed => return,
            Pop::Idle => {
                connection = None;
                shared.hots.rest(shared.clock.monotonic(), shared.options.rest_after);
            }
            Pop::Job(work) => {
                let turn = catch_unwind(AssertUnwindSafe(|| turn(shared, &mut connection, work)));
                if turn.is_err() {
                    // a read changes nothing: only this connection is not to be trusted
                    connection = None;
                }
            }
        }
    }
}

fn turn(shared: &Arc<Shared>, connection: &mut Option<Connection>, work: Work) {
    if let Some(error) = shared.poisoned().or_else(|| shared.closing_error()) {
        return work.answer(error);
    }
    if let Some(error) = work.patience.verdict(shared.clock.monotonic(), "waiting for its turn") {
        return work.answer(error);
    }
    let connection = match connection {
        Some(connection) => connection,
        None => match open(shared) {
            Ok(opened) => connection.insert(opened),
            Err(error) => return work.answer(error),
        },
    };
    connection.watch.begin(work.patience.clone(), shared.options.busy_timeout);
    let begun = shared.clock.monotonic();
    let tried = try_read(connection, &work.request);
    connection.watch.end();
    let took = shared.clock.monotonic().saturating_sub(begun);
    shared.counters.ran(&work.request.sql, took, shared.clock.wall_ms());
    match tried {
        Tried::Done(result) => {
            let short = result.as_ref().ok().map(|rows| (work.request.sql.clone(), rows.count));
            // the answer first: learning may open a connection
            work.reply.send(result);
            if let Some((sql, count)) = short {
                shared.hots.learn(shared, &sql, count);
            }
        }
        Tried::ForWriter => shared.writes.push_accepted(Job::Run(work)),
    }
}

fn open(shared: &Arc<Shared>) -> Result<Connection, crate::SqliteError> {
    crate::database::refuse_in_the_way(&shared.path, shared.options.vfs)?;
    let behind = shared.clone();
    let tick = Box::new(move |now| behind.reads.sweep(now));
    let watch = Watch::new(shared.clock.clone(), shared.closing.clone(), tick);
    Connection::open(&shared.path, Role::Reader, &shared.options, watch)
}
