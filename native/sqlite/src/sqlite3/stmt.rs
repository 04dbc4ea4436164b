//! A statement in a caller's hands.
//!
//! Invariant: binding and resetting touch no session, so they never wait; both happen at the next step, or
//! as soon as the session is free. Rows that a slow step read ahead are given before the session is asked
//! again, and are forgotten by a reset or a new binding.

use super::raw::RawStmt;
use super::{Conn, Sqlite3Error};
use crate::Value;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// What is known of a statement since it was prepared.
#[derive(Debug, Clone, Default)]
pub struct StmtInfo {
    /// Names of its parameters, prefix included.
    pub param_names: Vec<Option<String>>,
    /// Column names; empty for a statement without a result.
    pub columns: Vec<String>,
    /// It only reads, so that a step that was stopped may begin again.
    pub(super) reads: bool,
}

impl StmtInfo {
    pub(super) fn of(raw: &RawStmt, sql: &str) -> Self {
        let keyword = crate::sql::first_keyword(sql);
        // SQLite calls COMMIT read-only
        let reads = raw.is_readonly() && matches!(keyword.as_deref(), Some("SELECT" | "VALUES" | "WITH"));
        Self { param_names: raw.param_names(), columns: raw.columns(), reads }
    }
}

/// A prepared statement. Dropped, it is finalized as soon as nobody uses its connection.
pub struct Stmt {
    conn: Arc<Conn>,
    id: u64,
    info: StmtInfo,
    pub(super) pending: Mutex<Pending>,
}

/// What is to be done before the next step.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) reset: bool,
    /// Whether what was bound before is forgotten.
    pub(super) clear: bool,
    pub(super) params: Vec<(usize, Value)>,
    pub(super) ahead: VecDeque<Vec<Value>>,
    /// What comes after the rows read ahead, when that is known.
    pub(super) then: Option<Result<super::Step, Sqlite3Error>>,
    /// Of the connection, when rows were read ahead.
    pub(super) interrupts: u64,
    /// How often it was begun anew.
    pub(super) run: u64,
}

impl Pending {
    /// What was read is of no use any more.
    fn begin_anew(&mut self) {
        self.ahead.clear();
        self.then = None;
        self.reset = true;
        self.run += 1;
    }
}

impl fmt::Debug for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stmt").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Stmt {
    pub(super) fn new(conn: Arc<Conn>, id: u64, info: StmtInfo) -> Self {
        Self { conn, id, info, pending: Mutex::default() }
    }

    /// Its connection.
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// What is known of it.
    pub fn info(&self) -> &StmtInfo {
        &self.info
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Bind all parameters anew, in order.
    pub fn bind_all(&self, values: Vec<Value>) {
        let mut pending = self.pending.lock();
        pending.begin_anew();
        pending.clear = true;
        pending.params = values.into_iter().enumerate().map(|(at, value)| (at + 1, value)).collect();
    }

    /// Bind one, counted from 1. Fails when there is none such.
    pub fn bind(&self, index: usize, value: Value) -> Result<(), Sqlite3Error> {
        if index == 0 || index > self.info.param_names.len() {
            return Err(Sqlite3Error::Sqlite(crate::Failure {
                code: ffi::SQLITE_RANGE,
                message: "column index out of range".to_owned(),
                offset: None,
            }));
        }
        let mut pending = self.pending.lock();
        pending.begin_anew();
        pending.params.push((index, value));
        Ok(())
    }

    /// Begin anew at the next step; what is bound stays.
    pub fn reset(&self) {
        self.pending.lock().begin_anew();
        // a read that was left in the middle holds its snapshot until then
        let settled = self.conn.hot(|session| match session.commits_when_released(self.id) {
            true => None,
            false => session.settle(self),
        });
        // a write that was commits, and this may be a scheduler of the VM
        if settled.is_none() && !self.info.reads {
            self.conn.reset_later(self.id);
        }
    }

    /// As [`Stmt::reset`], by who holds the session.
    pub fn reset_in(&self, session: &mut super::Session) {
        self.pending.lock().reset = true;
        // what cannot be settled now is at the next step
        let _ = session.settle(self);
    }

    /// A row that was read ahead, or what comes after those.
    pub fn take_ahead(&self) -> Option<Result<Option<Vec<Value>>, Sqlite3Error>> {
        let mut pending = self.pending.lock();
        if self.conn.interrupts() != pending.interrupts && (pending.then.is_some() || !pending.ahead.is_empty()) {
            drop(pending);
            self.reset();
            return Some(Err(Sqlite3Error::Cancelled));
        }
        if let Some(row) = pending.ahead.pop_front() {
            return Some(Ok(Some(row)));
        }
        match pending.then.take()? {
            Ok(_) => Some(Ok(None)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Finalize it now, or as soon as nobody uses its connection.
    pub fn release(&self) {
        self.conn.release(self.id);
    }
}

impl Drop for Stmt {
    fn drop(&mut self) {
        self.release();
    }
}
