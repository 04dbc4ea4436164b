//! A commit of a low-level connection to an app's file is treated as one of the app's own: it passes the app's
//! gate, poisons the app's database when nobody can say whether it happened, and is told to the app's subscribers.
//!
//! Invariant: subscribers hear of a commit while the turn is still held, so in the order of commits. Where it
//! is not known which rows were changed (something was undone that the hook for rows does not hear of, or a
//! recorder has that hook), they hear that some were.

use super::blob::RawBlob;
use super::hooks::{Event, RowChange, Wants};
use super::raw::{Code, RawStmt};
use super::{Session, Sqlite3Error};
use crate::database::Shared;
use crate::error::{is_failed_sync, is_undecided};
use crate::feed::{Changes, Wanted};
use crate::rival::LOG_GONE;
use crate::SqliteError;
use parking_lot::Mutex;
use rusqlite::ffi;
use std::sync::Arc;

/// What the transaction under way changed, for the app's subscribers.
#[derive(Default)]
pub(super) struct Collecting {
    collected: Arc<Mutex<Collected>>,
    listener: Option<u64>,
    /// Somebody had subscribed when the turn was taken.
    is_on: bool,
}

#[derive(Default)]
struct Collected {
    changes: Changes,
    is_unsure: bool,
}

impl Collected {
    fn undo(&mut self) {
        self.changes.undo(0);
        self.is_unsure = false;
    }

    fn row(&mut self, row: &RowChange<'_>) {
        if row.database != "main" {
            return;
        }
        let (before, after) = row.rowids;
        let rowid = after.or(before).unwrap_or_default();
        self.changes.push((row.action, row.table, rowid), || row.old.clone(), || row.new.clone());
    }
}

impl Session {
    /// The turn was taken: collect if anybody wants to know.
    pub(super) fn collect(&mut self, app: &Shared) {
        let wanted = app.feed.wanted();
        self.collecting.is_on = wanted != Wanted::Nothing;
        let is_unsure = self.collecting.is_on && !self.listens_to_rows();
        *self.collecting.collected.lock() = Collected { changes: Changes::new(wanted), is_unsure };
        if !self.collecting.is_on {
            self.stop_collecting();
        }
    }

    /// Have the hook for rows tell us; not while a recorder has it.
    fn listens_to_rows(&mut self) -> bool {
        if self.collecting.listener.is_some() {
            return true;
        }
        let collected = self.collecting.collected.clone();
        let listener = move |event: Event<'_>| {
            match event {
                Event::Row(row) => collected.lock().row(row),
                Event::Rollback => collected.lock().undo(),
                Event::Changed(_) | Event::Commit | Event::Log { .. } => {}
            }
            true
        };
        self.collecting.listener = self.listen_as(Wants { rows: true, log: false }, |_| listener).ok();
        self.collecting.listener.is_some()
    }

    /// Somebody else needs the hook, or nobody wants to know any more.
    pub(super) fn stop_collecting(&mut self) {
        if let Some(listener) = self.collecting.listener.take() {
            self.unlisten(listener);
            self.doubt_changes();
        }
    }

    /// What was collected is perhaps not what is going to be committed.
    pub(super) fn doubt_changes(&mut self) {
        self.collecting.collected.lock().is_unsure = true;
    }

    /// Step once, and look after what that committed or undid.
    pub(super) fn step_once(&mut self, raw: &RawStmt) -> Result<Code, Sqlite3Error> {
        if self.turn.is_none() {
            let code = raw.step();
            return if code == Code::Failed { Err(Sqlite3Error::last(raw.db())) } else { Ok(code) };
        }
        // of a statement that was reset with rows left
        self.settle_commit()?;
        let (was_under_way, mark) = (raw.is_under_way(), self.collecting.collected.lock().changes.len());
        let code = raw.step();
        match code {
            Code::Row => {}
            Code::Done => {
                self.settle_commit()?;
                if self.collecting.is_on && raw.is_rollback_to(&self.db) {
                    self.doubt_changes();
                }
            }
            Code::Busy => drop(self.hooks.end_commit()),
            Code::Failed => {
                let error = self.failed(Sqlite3Error::last(raw.db()));
                self.forget_changes(mark, was_under_way);
                // what `OR FAIL` keeps may be committed by that
                self.settle_commit()?;
                return Err(error);
            }
        }
        Ok(code)
    }

    /// Reset: that may commit, and nobody may be there to hear of a failure but the app. Whether it is done.
    pub(super) fn reset(&self, raw: &RawStmt) -> bool {
        let done = raw.reset() == ffi::SQLITE_OK;
        if !done {
            self.failed(Sqlite3Error::last(raw.db()));
        }
        done
    }

    /// Close a blob handle, likewise.
    pub(super) fn drop_blob(&self, blob: RawBlob) -> bool {
        let done = blob.close() == ffi::SQLITE_OK;
        if !done {
            self.failed(Sqlite3Error::last(self.handle()));
        }
        done
    }

    /// A statement failed, which SQLite undid but for what `OR FAIL` keeps.
    fn forget_changes(&mut self, mark: usize, was_under_way: bool) {
        let kept_some = self.db.changes() != 0;
        let mut collected = self.collecting.collected.lock();
        if collected.changes.len() > mark {
            if was_under_way || kept_some {
                collected.is_unsure = true;
            } else {
                collected.changes.undo(mark);
            }
        }
    }

    /// If something was committed since, it is durable: tell of it. [`SqliteError::UnknownResult`] when it went
    /// into a log that nobody will read.
    pub(super) fn settle_commit(&mut self) -> Result<(), Sqlite3Error> {
        if !self.hooks.end_commit() || self.is_writing() {
            return Ok(());
        }
        let Some((turn, app)) = self.turn.as_mut() else { return Ok(()) };
        let was_taken = turn.log.was_taken();
        let collected = std::mem::take(&mut *self.collecting.collected.lock());
        if was_taken {
            app.poison(LOG_GONE.to_owned());
            return Err(SqliteError::log_gone().into());
        }
        let wanted = app.feed.wanted();
        if self.collecting.is_on && !collected.is_unsure {
            collected.changes.tell(&app.feed, &[collected.changes.len()]);
        } else if wanted != Wanted::Nothing {
            app.feed.tell_many();
        }
        // of what comes next in this turn
        *self.collecting.collected.lock() = Collected { changes: Changes::new(wanted), is_unsure: collected.is_unsure };
        Ok(())
    }

    /// Whether a transaction of it has something to commit.
    pub(super) fn is_writing(&self) -> bool {
        // SAFETY: an open handle under its lock
        unsafe { ffi::sqlite3_txn_state(self.handle(), c"main".as_ptr()) == ffi::SQLITE_TXN_WRITE }
    }

    /// A failure on its way to the caller. What the app's own writer would be poisoned by poisons it here, too.
    pub(super) fn failed(&self, error: Sqlite3Error) -> Sqlite3Error {
        let (Sqlite3Error::Sqlite(failure), Some((_, app))) = (&error, &self.turn) else { return error };
        if is_failed_sync(failure.code) {
            app.poison(format!("a sync of a low-level connection failed: {failure}"));
        }
        if !self.hooks.is_committing() || !is_undecided(failure.code) {
            return error;
        }
        app.poison(format!("a commit of a low-level connection failed: {failure}"));
        SqliteError::UnknownResult(failure.clone()).into()
    }
}
