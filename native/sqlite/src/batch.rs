//! Independent transactions that wait together become savepoints of one transaction with one sync.
//!
//! Invariant: nobody is told `Ok` before the commit that holds his work returned, and nobody sees
//! another's failure: a member that fails is rolled back alone, and when its failure took the whole
//! transaction with it (some of SQLite's do), the others run again, each in a transaction of its own.

use crate::error::{classify, code_of, is_undecided};
use crate::request::Work;
use crate::rival::LOG_GONE;
use crate::writer::Writer;
use crate::{Failure, Rows, SqliteError};
use rusqlite::ffi;
use std::time::Duration;

const WAITING: &str = "waiting for its turn";
/// Work on so many members, some ten microseconds each, between two yields of the processor: on two of them the
/// VM's own threads, for file work above all, waited for the end of the batch (bench/sqlite_get.exs: a third
/// more `File.stat` beside 64 writers, who lose a fifth).
const YIELD_EVERY: usize = 4;

fn yield_now_and_then(turns: usize) -> usize {
    if (turns + 1).is_multiple_of(YIELD_EVERY) {
        std::thread::yield_now();
    }
    turns + 1
}

/// How one member of a transaction ended.
enum Member {
    Done(Rows),
    Failed(SqliteError),
    /// It failed and nothing of the transaction is left.
    AllLost(SqliteError),
}

impl Writer {
    /// Run what waits as one transaction.
    pub(crate) fn batch(&mut self, works: Vec<Work>) {
        let mut works = self.begin_for(works);
        match works.len() {
            0 => {}
            1 => self.alone(works.remove(0)),
            _ => self.together(works),
        }
    }

    /// `BEGIN IMMEDIATE`, waiting while another process holds the lock; those whose time is up
    /// meanwhile are answered, the others returned with the lock held.
    fn begin_for(&mut self, mut works: Vec<Work>) -> Vec<Work> {
        let since = self.now();
        for tries in 0.. {
            if tries > 0 {
                // who waits behind them waits for the same lock, and is told so
                self.take_requests(&mut works);
            }
            self.shared.sweep(self.now());
            self.give_up(&mut works, since, tries > 0);
            if works.is_empty() {
                return works;
            }
            match self.begin_immediate() {
                Ok(()) => return works,
                Err(error) if code_of(&error) & 0xff == ffi::SQLITE_BUSY => {
                    self.pause_for_lock(tries, works.iter().filter_map(|work| work.patience.deadline).min());
                }
                Err(error) => {
                    let error = self.connection.explain(error);
                    works.into_iter().for_each(|work| work.reply.send(Err(error.clone())));
                    return Vec::new();
                }
            }
        }
        works
    }

    /// Answer those who wait no longer; without a deadline a foreign lock is waited for until `busy_timeout`.
    fn give_up(&self, works: &mut Vec<Work>, since: Duration, locked: bool) {
        let now = self.now();
        let closing = self.shared.closing_error().or_else(|| self.shared.poisoned());
        let impatient = locked && now.saturating_sub(since) >= self.shared.options.busy_timeout;
        let verdict = |work: &Work| match work.patience.verdict(now, WAITING) {
            None if closing.is_some() => closing.clone(),
            None if impatient && work.patience.deadline.is_none() => Some(SqliteError::Timeout(WAITING)),
            verdict => verdict,
        };
        let mut holder = None;
        for work in std::mem::take(works) {
            match verdict(&work) {
                None => works.push(work),
                Some(SqliteError::Timeout(_)) if locked => {
                    // looked up once: it reads /proc
                    let error = holder.get_or_insert_with(|| self.locked_by_other(since)).clone();
                    work.reply.send(Err(error));
                }
                Some(error) => work.reply.send(Err(error)),
            }
        }
    }

    /// The transaction is begun and holds this work only.
    fn alone(&mut self, work: Work) {
        let result = self.run_in_transaction(&work);
        let result = result.and_then(|rows| self.commit(1).map(|()| rows));
        if result.is_err() {
            self.connection.rollback();
        }
        let is_committed = result.is_ok();
        work.reply.send(result);
        if is_committed {
            self.collector.tell(&self.shared.feed, &[self.collector.mark()]);
        }
    }

    fn run_in_transaction(&self, work: &Work) -> Result<Rows, SqliteError> {
        self.connection.watch.begin(work.patience.clone(), self.shared.options.busy_timeout);
        let begun = self.now();
        let result = crate::statement::run(&self.connection, &work.request);
        self.connection.watch.end();
        let clock = &self.shared.clock;
        self.shared.counters.ran(&work.request.sql, self.now().saturating_sub(begun), clock.wall_ms());
        result
    }

    /// The transaction is begun and holds all of them.
    fn together(&mut self, works: Vec<Work>) {
        let mut done: Vec<(Work, Rows)> = Vec::with_capacity(works.len());
        let mut ends = Vec::with_capacity(works.len());
        let mut waiting = works.into_iter();
        let mut turns = 0;
        while let Some(work) = waiting.next() {
            turns = yield_now_and_then(turns);
            let mark = self.collector.mark();
            match self.member(&work) {
                Member::Done(rows) => {
                    done.push((work, rows));
                    ends.push(self.collector.mark());
                }
                Member::Failed(error) => {
                    self.collector.undo(mark);
                    work.reply.send(Err(error));
                }
                Member::AllLost(error) => {
                    self.connection.rollback();
                    work.reply.send(Err(error));
                    let again = done.into_iter().map(|(work, _)| work).chain(waiting);
                    return again.for_each(|work| self.batch(vec![work]));
                }
            }
        }
        let committed = self.commit(done.len());
        if committed.is_err() {
            self.connection.rollback();
        }
        for (work, rows) in done {
            turns = yield_now_and_then(turns);
            work.reply.send(committed.clone().map(|()| rows));
        }
        if committed.is_ok() {
            self.collector.tell(&self.shared.feed, &ends);
        }
    }

    fn member(&self, work: &Work) -> Member {
        if let Some(error) = work.patience.verdict(self.now(), WAITING) {
            return Member::Failed(error);
        }
        if let Err(error) = self.connection.control("SAVEPOINT macula_member") {
            return Member::AllLost(self.connection.explain(error));
        }
        let mut result = self.run_in_transaction(work);
        if result.is_ok() && self.connection.has_deferred_violation() {
            // a savepoint's release does not look at them: the commit of all would fail
            let message = "FOREIGN KEY constraint failed".to_owned();
            let code = ffi::Error::new(ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
            result = Err(classify(rusqlite::Error::SqliteFailure(code, Some(message))));
        }
        if self.connection.sql.is_autocommit() {
            let lost = || SqliteError::Internal("a statement ended the transaction around it".to_owned());
            return Member::AllLost(result.err().unwrap_or_else(lost));
        }
        let undone = match &result {
            Ok(_) => Ok(()),
            Err(_) => self.connection.control("ROLLBACK TO macula_member"),
        };
        match (undone.and_then(|()| self.connection.control("RELEASE macula_member")), result) {
            (Ok(()), Ok(rows)) => Member::Done(rows),
            (Ok(()), Err(error)) => Member::Failed(error),
            (Err(_), Err(error)) => Member::AllLost(error),
            (Err(error), Ok(_)) => Member::AllLost(self.connection.explain(error)),
        }
    }

    /// `COMMIT` of so many requests under the gate. After an error the caller rolls back what is left; an
    /// error of which nobody can say whether the commit record is on the disk poisons the database.
    pub(crate) fn commit(&mut self, requests: usize) -> Result<(), SqliteError> {
        // also what came up since the transaction began
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let pass = self.shared.gate.pass();
        let begun = self.now();
        let result = self.connection.control("COMMIT");
        drop(pass);
        let Err(error) = result else {
            self.shared.counters.commit(requests, self.now().saturating_sub(begun));
            // before the answers: who got one and asks finds the writer free
            self.shared.counters.let_go();
            self.committed = true;
            self.collector.settle(&self.shared.feed);
            return self.still_there();
        };
        let code = code_of(&error);
        if !is_undecided(code) {
            return Err(self.connection.explain(error));
        }
        let message = error.to_string();
        self.shared.poison(format!("a commit failed: {message}"));
        Err(SqliteError::UnknownResult(Failure { code, message, offset: None }))
    }

    /// Whether what was just committed is in the log that the next opening reads.
    fn still_there(&mut self) -> Result<(), SqliteError> {
        if !self.rival.log.was_taken() {
            return Ok(());
        }
        self.shared.poison(LOG_GONE.to_owned());
        Err(SqliteError::log_gone())
    }
}
