//! A request, how long it may take, and the one answer it gets.
//!
//! Invariant: a [`Reply`] that was accepted is called exactly once, also when its work panics: one
//! that is dropped unanswered answers a defect.

use crate::{Params, Rows, Sink, SqliteError};
use macula_core::{Cancel, Clock};
use std::any::Any;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// What the SQL of a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One statement with parameters, or several without, all in one transaction.
    Execute,
    /// Exactly one statement.
    Query,
}

/// One unit of work: its writes are one transaction.
#[derive(Clone)]
pub struct Request {
    /// SQL text.
    pub sql: String,
    /// Its parameters.
    pub params: Params,
    /// One statement or several.
    pub mode: Mode,
    /// Time from submission to the end of the work; waiting in the queue counts.
    pub deadline: Option<Duration>,
    /// Stops it, waiting or running.
    pub cancel: Cancel,
    /// Rows returned at most; beyond, [`Rows::more`] is set.
    pub rows_max: usize,
    /// Where the rows go; `None`: into [`Rows::rows`].
    pub sink: Option<Arc<dyn Sink>>,
    /// Statements that follow, in the same transaction; their rows are in [`Rows::also`].
    pub also: Vec<(String, Params)>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("sql", &self.sql).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Request {
    /// [`Mode::Execute`], without parameters, deadline or bound on rows.
    pub fn execute(sql: impl Into<String>) -> Self {
        let (params, cancel) = (Params::None, Cancel::new());
        let (deadline, rows_max, sink, also) = (None, usize::MAX, None, Vec::new());
        Self { sql: sql.into(), params, mode: Mode::Execute, deadline, cancel, rows_max, sink, also }
    }

    /// [`Mode::Query`], likewise.
    pub fn query(sql: impl Into<String>) -> Self {
        Self { mode: Mode::Query, ..Self::execute(sql) }
    }

    /// With these parameters.
    #[must_use]
    pub fn params(self, params: Params) -> Self {
        Self { params, ..self }
    }

    /// With this deadline, from submission.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Stopped by this.
    #[must_use]
    pub fn cancel(self, cancel: Cancel) -> Self {
        Self { cancel, ..self }
    }

    /// Its rows go there.
    #[must_use]
    pub fn sink(self, sink: Arc<dyn Sink>) -> Self {
        Self { sink: Some(sink), ..self }
    }

    /// Followed by these.
    #[must_use]
    pub fn also(self, also: Vec<(String, Params)>) -> Self {
        Self { also, ..self }
    }

    /// At most so many rows.
    #[must_use]
    pub fn rows_max(self, rows_max: usize) -> Self {
        Self { rows_max, ..self }
    }
}

/// What callers know somebody by.
pub type Who = Arc<dyn Any + Send + Sync>;

/// Whose transaction it is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Cancelled when nobody is there any more.
    pub gone: Cancel,
    /// Told in [`crate::Stats`].
    pub who: Option<Who>,
}

impl From<Cancel> for Owner {
    fn from(gone: Cancel) -> Self {
        Self { gone, who: None }
    }
}

/// Until when, and while who waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patience {
    /// Point on the monotonic clock.
    pub(crate) deadline: Option<Duration>,
    cancels: [Option<Cancel>; 3],
}

impl Patience {
    pub(crate) fn new(clock: &dyn Clock, deadline: Option<Duration>, cancel: Cancel) -> Self {
        let deadline = deadline.map(|span| clock.monotonic().saturating_add(span));
        Self { deadline, cancels: [Some(cancel), None, None] }
    }

    /// Of a statement inside a transaction: both must still wait.
    pub(crate) fn within(self, outer: &Patience) -> Self {
        let deadline = match (self.deadline, outer.deadline) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let [own, ..] = self.cancels;
        let [owner, gone, _] = outer.cancels.clone();
        Self { deadline, cancels: [own, owner, gone] }
    }

    /// Over at this point of the monotonic clock, if not before.
    pub(crate) fn until(mut self, deadline: Duration) -> Self {
        self.deadline = Some(self.deadline.map_or(deadline, |own| own.min(deadline)));
        self
    }

    /// Also stopped by `gone`.
    pub(crate) fn also(mut self, gone: Cancel) -> Self {
        self.cancels[1] = Some(gone);
        self
    }

    /// Why to stop now, if so.
    pub(crate) fn verdict(&self, now: Duration, doing: &'static str) -> Option<SqliteError> {
        if self.cancels.iter().flatten().any(Cancel::is_cancelled) {
            return Some(SqliteError::Cancelled);
        }
        self.deadline.is_some_and(|deadline| now >= deadline).then_some(SqliteError::Timeout(doing))
    }
}

type Answer<T> = Box<dyn FnOnce(Result<T, SqliteError>) + Send>;

/// The way back to whoever asked.
pub(crate) struct Reply<T>(Option<Answer<T>>);

impl<T> Reply<T> {
    pub(crate) fn new(answer: Answer<T>) -> Self {
        Self(Some(answer))
    }

    pub(crate) fn send(mut self, result: Result<T, SqliteError>) {
        self.call(result);
    }

    /// The refusal was returned to the caller, who is not to be answered twice.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    fn call(&mut self, result: Result<T, SqliteError>) {
        if let Some(answer) = self.0.take() {
            // the caller's code: its panic must not take our thread
            let _ = catch_unwind(AssertUnwindSafe(|| answer(result)));
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.call(Err(SqliteError::Internal("the work ended without an answer".to_owned())));
    }
}

/// A request on its way.
pub(crate) struct Work {
    pub(crate) request: Request,
    pub(crate) patience: Patience,
    pub(crate) reply: Reply<Rows>,
}

impl crate::queue::Waiting for Work {
    fn patience(&self) -> &Patience {
        &self.patience
    }

    fn answer(self, error: SqliteError) {
        self.reply.send(Err(error));
    }

    fn forget(self) {
        self.reply.forget();
    }
}
