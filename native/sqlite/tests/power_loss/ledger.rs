//! What was asked of a database and how each request ended, and what a database holds.
//!
//! Invariant: each transaction writes rows of two tables and a running total, so that a half of one,
//! or a page of another moment, is seen.

use crate::common::query;
use macula_core::{Cancel, Gate, Kind, Kinded, SystemClock};
use macula_sqlite::{Database, Options, Value};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

/// The tables and the first row; `a` is what requests write, the triggers do the rest.
pub const SCHEMA: &str = "
    CREATE TABLE a(id INTEGER PRIMARY KEY, len INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE TABLE b(a INTEGER NOT NULL, n INTEGER NOT NULL, mark TEXT NOT NULL, PRIMARY KEY(a, n));
    CREATE TABLE totals(n INTEGER NOT NULL, sum INTEGER NOT NULL);
    INSERT INTO totals VALUES (0, 0);
    CREATE TRIGGER pair AFTER INSERT ON a BEGIN
      INSERT INTO b(a, n, mark) VALUES (new.id, 1, 'm' || new.id), (new.id, 2, 'n' || new.len);
      UPDATE totals SET n = n + 1, sum = sum + new.id;
    END;
    CREATE TRIGGER unpair AFTER DELETE ON a BEGIN DELETE FROM b WHERE a = old.id; END";

/// Rows of which nothing may be found.
const HALVES: &str = "
    SELECT 'body', id FROM a WHERE body <> printf('%d:%.*c', id, len, char(97 + id % 26))
    UNION ALL SELECT 'pair', id FROM a WHERE (SELECT group_concat(mark) FROM b WHERE a = a.id) <> 'm' || id || ',n' || len
    UNION ALL SELECT 'missing pair', id FROM a WHERE (SELECT count(*) FROM b WHERE b.a = a.id) <> 2
    UNION ALL SELECT 'orphan', a FROM b WHERE a NOT IN (SELECT id FROM a)";

/// The value of one row of `a`.
pub fn row(id: i64, len: usize) -> String {
    format!("({id}, {len}, printf('%d:%.*c', {id}, {len}, char(97 + {id} % 26)))")
}

/// How a request ended, as its caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Acknowledged,
    Refused,
    Unknown,
}

impl End {
    pub fn of<T, E: Kinded>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Acknowledged,
            Err(error) if error.kind() == Kind::UnknownResult => Self::Unknown,
            Err(_) => Self::Refused,
        }
    }
}

/// One transaction.
#[derive(Debug, Clone)]
pub struct Entry {
    pub ids: Vec<i64>,
    pub deletes: Option<i64>,
    pub changes_schema: bool,
    pub end: End,
    /// Syncs of the log that were complete when it ended.
    pub log_syncs: u64,
}

/// All transactions of a run, in the order of their commits.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
}

/// What a database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub ids: BTreeSet<i64>,
    pub inserted: i64,
    pub sum: i64,
    pub has_index: bool,
}

impl Ledger {
    fn replay(&self, applies: impl Fn(usize, &Entry) -> bool) -> Seen {
        let mut seen = Seen::default();
        for (_, entry) in self.entries.iter().enumerate().filter(|(at, entry)| applies(*at, entry)) {
            seen.ids.extend(&entry.ids);
            seen.inserted += entry.ids.len() as i64;
            seen.sum += entry.ids.iter().sum::<i64>();
            seen.ids.retain(|id| entry.deletes != Some(*id));
            seen.has_index |= entry.changes_schema;
        }
        seen
    }

    /// Rows that are acknowledged and not deleted by anybody.
    pub fn standing(&self) -> BTreeSet<i64> {
        let told = |end| self.entries.iter().filter(move |entry| entry.end == end);
        let mut ids: BTreeSet<i64> = told(End::Acknowledged).flat_map(|entry| entry.ids.clone()).collect();
        for entry in self.entries.iter().filter(|entry| entry.end != End::Refused) {
            ids.retain(|id| entry.deletes != Some(*id));
        }
        ids
    }

    /// Each acknowledged transaction wholly there, none that was refused, unknown ones wholly or not at all.
    pub fn judge(&self, seen: &Seen) -> Result<(), String> {
        let lost: Vec<i64> = self.standing().difference(&seen.ids).copied().collect();
        if !lost.is_empty() {
            return Err(format!("lost acknowledged rows {lost:?}"));
        }
        let applies = |entry: &Entry| match entry.end {
            End::Acknowledged => true,
            End::Refused => false,
            // of one that is there in part the whole is expected, which differs from what is seen
            End::Unknown => entry.ids.iter().any(|id| seen.ids.contains(id)),
        };
        compare(&self.replay(|_, entry| applies(entry)), seen)
    }

    /// A prefix of the commits, with all that ended before the last sync of the log, of which there were
    /// `log_syncs`. Refused ones are no commits. Returns how many acknowledged ones are gone.
    pub fn judge_prefix(&self, seen: &Seen, log_syncs: u64) -> Result<usize, String> {
        let durable = |entry: &Entry| entry.end == End::Acknowledged && entry.log_syncs < log_syncs;
        let floor = self.entries.iter().rposition(durable).map_or(0, |at| at + 1);
        let len = self.entries.len();
        let prefix = |count: usize| self.replay(|at, entry| at < count && entry.end != End::Refused);
        match (floor..=len).rev().find(|count| prefix(*count) == *seen) {
            Some(count) => Ok(self.entries[count..].iter().filter(|entry| entry.end == End::Acknowledged).count()),
            None => Err(format!("no prefix of {floor}..={len} commits, {seen:?}, {:?}", self.entries)),
        }
    }
}

fn compare(expected: &Seen, seen: &Seen) -> Result<(), String> {
    if expected == seen {
        return Ok(());
    }
    let more: Vec<_> = seen.ids.difference(&expected.ids).collect();
    let less: Vec<_> = expected.ids.difference(&seen.ids).collect();
    let rest = |seen: &Seen| (seen.inserted, seen.sum, seen.has_index);
    Err(format!("rows too many {more:?}, missing {less:?}, totals {:?} not {:?}", rest(seen), rest(expected)))
}

impl Seen {
    /// What an open database holds. An error is a half of a transaction.
    pub fn of(db: &Database) -> Result<Self, String> {
        db.check(&Cancel::new()).map_err(|error| format!("check: {error}"))?;
        let tables = query(db, "SELECT name FROM sqlite_schema WHERE name IN ('a', 'b', 'totals', 'pair', 'unpair')");
        match tables.len() {
            0 => return Ok(Self::default()),
            5 => {}
            _ => return Err(format!("half of a schema: {tables:?}")),
        }
        let halves = query(db, HALVES);
        if !halves.is_empty() {
            return Err(format!("half of a transaction: {halves:?}"));
        }
        let integer = |value: &Value| match value {
            Value::Integer(integer) => *integer,
            other => panic!("{other:?}"),
        };
        let totals = query(db, "SELECT n, sum, (SELECT count(*) FROM sqlite_schema WHERE name = 'b_mark') FROM totals");
        let has_index = integer(&totals[0][2]) == 1;
        let altered = query(db, "SELECT count(*) FROM pragma_table_info('b') WHERE name = 'extra'");
        if has_index != (integer(&altered[0][0]) == 1) {
            return Err("half of a change of the schema".to_owned());
        }
        let ids = query(db, "SELECT id FROM a").iter().map(|row| integer(&row[0])).collect();
        Ok(Self { ids, inserted: integer(&totals[0][0]), sum: integer(&totals[0][1]), has_index })
    }

    /// What the database file in a directory holds, once an ordinary database opened it.
    pub fn after_opening(dir: &Path, vfs: &'static CStr) -> Result<Self, String> {
        let (clock, options) = (Arc::new(SystemClock), Options { vfs, ..Options::default() });
        let opened = Database::open(&dir.join("app.db"), Arc::new(Gate::new()), clock, options);
        Self::of(&opened.map_err(|error| format!("open: {error}"))?)
    }
}
