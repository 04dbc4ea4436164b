//! Short reads answered on the caller's thread, from memory, by statements that are prepared already.
//!
//! Invariant: nothing here waits: a connection in use, a page that is not in memory, a lock that others
//! hold, or some thousand steps too many are an answer of `None`, and the read goes its ordinary way. A
//! statement comes in when a reader thread has met it twice and found it short; one that turns out long is
//! not tried again.

use crate::connection::{Connection, Role};
use crate::database::Shared;
use crate::sqlite3::{prepare, Code, RawStmt};
use crate::watch::Watch;
use crate::{Cell, Rows, SqliteError, Value};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::time::Duration;

/// Longer SQL, and larger results, are not for a scheduler.
const SQL_LEN_MAX: usize = 4 << 10;
const ROWS_MAX: usize = 64;
const RESULT_BYTES_MAX: u64 = 64 << 10;
/// Texts of which it is known whether they are short.
const KNOWN_MAX: usize = 1024;

/// The hot connections of one database.
pub(crate) struct Hots {
    slots: Vec<Mutex<Option<Slot>>>,
    known: Mutex<HashMap<Box<str>, Known>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    MetOnce,
    Long,
}

struct Slot {
    // before their connection, which must be there when they are finalized
    stmts: HashMap<Box<str>, Kept>,
    connection: Connection,
    uses: u64,
    /// How often it had been used, and when that was looked at first.
    seen: Option<(u64, Duration)>,
}

struct Kept {
    raw: RawStmt,
    columns: Vec<String>,
    /// How often SQLite had prepared it again when the columns were read.
    prepared: i32,
    used: u64,
}

impl Hots {
    /// `count` connections at most; none through the bridge, where the reads are the host's, and wait.
    pub(crate) fn new(count: usize, vfs: &CStr) -> Self {
        let count = if crate::bridge::is_beneath(vfs) { 0 } else { count };
        Self { slots: (0..count).map(|_| Mutex::default()).collect(), known: Mutex::default() }
    }

    /// Answer at once: `row` gets each row; `None` when it could not be, and then what it got is to be
    /// forgotten.
    pub(crate) fn query(
        &self,
        sql: &str,
        params: &[Value],
        mut row: impl FnMut(&mut dyn DoubleEndedIterator<Item = Cell<'_>>),
    ) -> Option<Rows> {
        let mut slot = self.slots.iter().find_map(|slot| slot.try_lock())?;
        let Slot { stmts, connection, uses, .. } = slot.as_mut()?;
        *uses += 1;
        let kept = stmts.get_mut(sql)?;
        kept.used = *uses;
        if kept.raw.param_count() != params.len() {
            return None;
        }
        connection.watch.begin_hot();
        let done = crate::syscalls::without_waiting(|| kept.run(params, &mut row).then_some(())).is_some();
        let was_long = connection.watch.end_hot();
        kept.raw.reset();
        kept.raw.clear();
        if was_long {
            stmts.remove(sql);
            drop(slot);
            self.known.lock().insert(sql.into(), Known::Long);
            return None;
        }
        if kept.raw.prepared_again() != kept.prepared {
            // the schema changed, and with it perhaps what `*` means
            (kept.columns, kept.prepared) = (kept.raw.columns(), kept.raw.prepared_again());
        }
        done.then(|| Rows { columns: kept.columns.clone(), ..Rows::default() })
    }

    /// A reader thread answered `sql` and found it short, or not: after the second time it is prepared in
    /// the hot connections. Opens them; may wait.
    pub(crate) fn learn(&self, shared: &Arc<Shared>, sql: &str, count: usize) {
        if sql.len() > SQL_LEN_MAX || count > ROWS_MAX || self.slots.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        match known.get(sql) {
            None => drop(known.insert(sql.into(), Known::MetOnce)),
            Some(Known::Long) => {}
            Some(Known::MetOnce) => {
                drop(known);
                // without it reads go their ordinary way
                let _ = self.prepare_all(shared, sql);
            }
        }
    }

    fn prepare_all(&self, shared: &Arc<Shared>, sql: &str) -> Result<(), SqliteError> {
        for slot in &self.slots {
            let mut slot = slot.lock();
            let slot = match &mut *slot {
                Some(slot) => slot,
                empty => empty.insert(Slot::open(shared)?),
            };
            slot.keep(sql, shared.options.statement_cache_len);
        }
        Ok(())
    }

    /// Whether some connection is open, or in use.
    pub(crate) fn are_open(&self) -> bool {
        self.slots.iter().any(|slot| slot.try_lock().is_none_or(|slot| slot.is_some()))
    }

    /// Close those that nobody used for `after`; what was learned comes back by being met again.
    pub(crate) fn rest(&self, now: Duration, after: Duration) {
        for slot in &self.slots {
            // in use
            let Some(mut slot) = slot.try_lock() else { continue };
            let Some(open) = slot.as_mut() else { continue };
            match open.seen {
                Some((uses, since)) if uses == open.uses && now.saturating_sub(since) >= after => *slot = None,
                Some((uses, _)) if uses == open.uses => {}
                _ => open.seen = Some((open.uses, now)),
            }
        }
    }

    /// Close the connections.
    pub(crate) fn close(&self) {
        self.slots.iter().for_each(|slot| *slot.lock() = None);
    }
}

impl Slot {
    fn open(shared: &Arc<Shared>) -> Result<Self, SqliteError> {
        crate::database::refuse_in_the_way(&shared.path, shared.options.vfs)?;
        let watch = Watch::new(shared.clock.clone(), shared.closing.clone(), Box::new(|_| {}));
        let connection = Connection::open(&shared.path, Role::Reader, &shared.options, watch)?;
        Ok(Self { stmts: HashMap::new(), connection, uses: 0, seen: None })
    }

    fn keep(&mut self, sql: &str, len_max: usize) {
        if self.stmts.contains_key(sql) {
            return;
        }
        if self.stmts.len() >= len_max.max(1) {
            let oldest = self.stmts.iter().min_by_key(|(_, kept)| kept.used).map(|(sql, _)| sql.clone());
            oldest.and_then(|sql| self.stmts.remove(&sql));
        }
        // SAFETY: used while the slot is locked, and it holds the connection
        let db = unsafe { self.connection.sql.handle() };
        // what is refused here was refused where it came from
        let Ok((Some(raw), used)) = prepare(db, sql.as_bytes(), true) else { return };
        if raw.is_readonly() && sql[used..].trim().is_empty() {
            let columns = raw.columns();
            self.stmts.insert(sql.into(), Kept { raw, columns, prepared: 0, used: self.uses });
        }
    }
}

impl Kept {
    /// Whether all of it was answered.
    fn run(&mut self, params: &[Value], row: &mut impl FnMut(&mut dyn DoubleEndedIterator<Item = Cell<'_>>)) -> bool {
        let bound =
            params.iter().enumerate().all(|(at, value)| !value.is_nan() && self.raw.bind(at + 1, value).is_ok());
        if !bound {
            return false;
        }
        let mut bytes = 0;
        for _ in 0..=ROWS_MAX {
            match self.raw.step() {
                Code::Done => return true,
                Code::Busy | Code::Failed => return false,
                Code::Row => {}
            }
            let width = self.raw.width();
            bytes += (0..width).map(|index| self.raw.cell(index).size()).sum::<u64>();
            if bytes > RESULT_BYTES_MAX {
                return false;
            }
            row(&mut (0..width).map(|index| self.raw.cell(index)));
        }
        false
    }
}
