//! An interactive transaction: the caller holds the writer between its statements.
//!
//! Invariant: it ends by commit, rollback, the handle's drop, its deadline, its idle bound, its
//! owner's cancel or the database's close, whichever is first; then the writer is free, the
//! transaction rolled back unless committed, and every later call is told why.

use crate::error::code_of;
use crate::queue::{Pop, Queue, Waiting};
use crate::request::{Patience, Reply, Request, Work};
use crate::sql::may_write;
use crate::statement::run;
use crate::writer::{Begin, Writer};
use crate::{Rows, SqliteError};
use macula_core::{Cancel, Clock};
use rusqlite::ffi;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Statements that one transaction may have waiting: callers send one and await it.
const QUEUE_LEN_MAX: usize = 64;
/// How often a holder's deadline and cancel are looked at.
const TICK: Duration = Duration::from_millis(10);

/// A begun transaction, alone on the writer.
pub struct Transaction {
    session: Arc<Session>,
}

struct Session {
    commands: Queue<Command>,
    patience: Patience,
    /// The handle was dropped with nothing decided.
    gone: Cancel,
    /// A commit or rollback was accepted.
    decided: AtomicBool,
    clock: Arc<dyn Clock>,
}

enum Command {
    Run(Work),
    Commit(Patience, Reply<()>),
    Rollback(Patience, Reply<()>),
}

impl Waiting for Command {
    fn patience(&self) -> &Patience {
        match self {
            Self::Run(work) => &work.patience,
            Self::Commit(patience, _) | Self::Rollback(patience, _) => patience,
        }
    }

    fn answer(self, error: SqliteError) {
        match self {
            Self::Run(work) => work.answer(error),
            Self::Commit(_, reply) | Self::Rollback(_, reply) => reply.send(Err(error)),
        }
    }

    fn forget(self) {
        match self {
            Self::Run(work) => work.forget(),
            Self::Commit(_, reply) | Self::Rollback(_, reply) => reply.forget(),
        }
    }
}

impl Transaction {
    /// Queue a statement; it sees the transaction's own changes. A statement that fails leaves the
    /// transaction open unless SQLite rolled back all of it, which later calls are told.
    pub fn submit(
        &self,
        request: Request,
        reply: impl FnOnce(Result<Rows, SqliteError>) + Send + 'static,
    ) -> Result<(), SqliteError> {
        crate::sql::admit(&request)?;
        let own = Patience::new(&*self.session.clock, request.deadline, request.cancel.clone());
        let patience = own.within(&self.session.patience);
        let reply = Reply::new(Box::new(reply));
        self.session.commands.push(Command::Run(Work { request, patience, reply })).map(|_| ())
    }

    /// Commit. `Ok` means durable; a failed commit is rolled back, [`SqliteError::UnknownResult`] excepted.
    pub fn commit(&self, reply: impl FnOnce(Result<(), SqliteError>) + Send + 'static) -> Result<(), SqliteError> {
        self.finish(|patience| Command::Commit(patience, Reply::new(Box::new(reply))))
    }

    /// Roll back.
    pub fn rollback(&self, reply: impl FnOnce(Result<(), SqliteError>) + Send + 'static) -> Result<(), SqliteError> {
        self.finish(|patience| Command::Rollback(patience, Reply::new(Box::new(reply))))
    }

    /// [`Transaction::submit`], waiting for the answer. For threads that may wait.
    pub fn run(&self, request: Request) -> Result<Rows, SqliteError> {
        crate::database::wait(|reply| self.submit(request, reply))
    }

    fn finish(&self, command: impl FnOnce(Patience) -> Command) -> Result<(), SqliteError> {
        self.session.commands.push(command(self.session.patience.clone()))?;
        self.session.decided.store(true, Ordering::Release);
        self.session.commands.end(SqliteError::Closed("the transaction is over"));
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.session.commands.end(SqliteError::Closed("the transaction was dropped"));
        // a commit on its way happens, whatever becomes of the handle
        if !self.session.decided.load(Ordering::Acquire) {
            self.session.gone.cancel();
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl Writer {
    /// Begin, hand the handle out, and serve it to its end.
    pub(crate) fn transaction(&mut self, begin: Begin) {
        let Begin { patience, reply, who: _ } = begin;
        if let Err(error) = self.begin_one(&patience) {
            return reply.send(Err(error));
        }
        let gone = Cancel::new();
        let session = Arc::new(Session {
            commands: Queue::new(QUEUE_LEN_MAX),
            patience: patience.clone().also(gone.clone()),
            gone,
            decided: AtomicBool::new(false),
            clock: self.shared.clock.clone(),
        });
        reply.send(Ok(Transaction { session: session.clone() }));
        let end = self.serve(&session);
        self.connection.rollback();
        session.commands.close(end);
    }

    /// `BEGIN IMMEDIATE`, waiting while another process holds the lock.
    pub(crate) fn begin_one(&mut self, patience: &Patience) -> Result<(), SqliteError> {
        let since = self.now();
        for tries in 0.. {
            let now = self.now();
            self.shared.sweep(now);
            if let Some(error) = self.shared.closing_error() {
                return Err(error);
            }
            match patience.verdict(now, "waiting for its turn") {
                Some(SqliteError::Timeout(_)) if tries > 0 => return Err(self.locked_by_other(since)),
                Some(error) => return Err(error),
                None => {}
            }
            match self.begin_immediate() {
                Ok(()) => return Ok(()),
                Err(error) if code_of(&error) & 0xff == ffi::SQLITE_BUSY => {
                    self.pause_for_lock(tries, patience.deadline);
                }
                Err(error) => return Err(self.connection.explain(error)),
            }
        }
        Ok(())
    }

    /// Serve one transaction; returns what its later calls are told.
    fn serve(&mut self, session: &Session) -> SqliteError {
        let mut idle_since = self.now();
        loop {
            match session.commands.pop(TICK) {
                Pop::Job(Command::Run(work)) => {
                    let result = self.step(&work);
                    let lost = self.connection.sql.is_autocommit();
                    let cause = result.as_ref().err().map(ToString::to_string);
                    work.reply.send(result);
                    if lost {
                        // its deadline or its owner's end, if that is what stopped it
                        let verdict = session.patience.verdict(self.now(), "the transaction was open");
                        return verdict.unwrap_or_else(|| SqliteError::RolledBack(cause.unwrap_or_default()));
                    }
                    idle_since = self.now();
                }
                Pop::Job(Command::Commit(_, reply)) => {
                    let result = match session.patience.verdict(self.now(), "the transaction was open") {
                        Some(error) => Err(error),
                        None => self.commit(1),
                    };
                    self.connection.rollback();
                    let is_committed = result.is_ok();
                    reply.send(result);
                    if is_committed {
                        self.collector.tell(&self.shared.feed, &[self.collector.mark()]);
                    }
                    return SqliteError::Closed("the transaction is over");
                }
                Pop::Job(Command::Rollback(_, reply)) => {
                    self.connection.rollback();
                    reply.send(Ok(()));
                    return SqliteError::Closed("the transaction is over");
                }
                Pop::Closed => return SqliteError::Closed("the transaction is over"),
                Pop::Idle => {}
            }
            let now = self.now();
            self.shared.sweep(now);
            let verdict = session.patience.verdict(now, "the transaction was open");
            if let Some(error) = self.shared.closing_error().or(verdict) {
                return error;
            }
            if now.saturating_sub(idle_since) >= self.shared.options.transaction_idle_max {
                return SqliteError::Timeout("the transaction was idle");
            }
        }
    }

    /// One request, undone as a whole when it fails: an error means that it changed nothing. SQLite's own
    /// undoing of a statement does not do: it knows nothing of rows that we refuse after they were made,
    /// and keeps what `OR FAIL` and `RAISE(FAIL)` did. A savepoint costs some 4 us of a statement's 16.
    fn step(&self, work: &Work) -> Result<Rows, SqliteError> {
        let connection = &self.connection;
        let undoable = !work.request.also.is_empty() || may_write(&work.request.sql);
        if undoable {
            connection.control("SAVEPOINT macula_step").map_err(|error| connection.explain(error))?;
        }
        connection.watch.begin(work.patience.clone(), self.shared.options.busy_timeout);
        let mark = self.collector.mark();
        let result = run(connection, &work.request);
        if result.is_err() {
            self.collector.undo(mark);
        }
        connection.watch.end();
        if undoable && !connection.sql.is_autocommit() {
            let undone = if result.is_ok() { Ok(()) } else { connection.control("ROLLBACK TO macula_step") };
            let released = undone.and_then(|()| connection.control("RELEASE macula_step"));
            if let Err(error) = released {
                connection.rollback();
                return result.and(Err(connection.explain(error)));
            }
        }
        result
    }
}
