//! A life of one database on a disk that forgets: what its callers ask, and what they were told.
//!
//! Invariant: the same seed does the same in the same order, with the writer at rest between two
//! deeds, so that step n of one run is step n of the next, up to the first fault.

use crate::common::low;
use crate::ledger::{row, End, Entry, Ledger, Seen, SCHEMA};
use macula_core::{Cancel, Gate, Kind, Kinded, SystemClock};
use macula_sqlite::sqlite3::{Conn, Sqlite3Error};
use macula_sqlite::{Database, Options, Params, Request, SqliteError, Synchronous, Transaction, Value};
use macula_testkit::{Fault, SqliteDisk};
use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

pub const LOG: &str = "app.db-wal";
const WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Single,
    Batch,
    Commit,
    Rollback,
    Large,
    Delete,
    Schema,
    Reopen,
    Read,
    Pinned,
    Low,
    LowTransaction,
    LowReturning,
}

pub struct Workload {
    pub dir: tempfile::TempDir,
    pub disk: SqliteDisk,
    pub ledger: Ledger,
    /// Kinds of errors that callers were given.
    pub errors: BTreeSet<String>,
    pub db: Option<Database>,
    options: Options,
    deeds: Vec<Deed>,
    chance: fastrand::Rng,
    last_id: i64,
    /// Steps before the database was opened.
    opened_at: u64,
    fails_at: Option<u64>,
}

impl Workload {
    pub fn new(seed: u64, synchronous: Synchronous) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let disk = SqliteDisk::at(dir.path()).unwrap();
        let options = Options {
            synchronous,
            vfs: SqliteDisk::VFS,
            cache_bytes: 32 << 10,
            wal_bytes_max: 48 << 10,
            // by itself only where the test says so
            checkpoint_after_idle: Duration::from_secs(3600),
            transaction_idle_max: WAIT,
            ..Options::default()
        };
        use Deed::*;
        let mut deeds = vec![
            Single,
            Single,
            Single,
            Batch,
            Batch,
            Commit,
            Commit,
            Rollback,
            Large,
            Large,
            Delete,
            Delete,
            Schema,
            Reopen,
            Reopen,
            Read,
            Pinned,
            Low,
            LowTransaction,
            LowTransaction,
            LowReturning,
            LowReturning,
        ];
        chance.shuffle(&mut deeds);
        let (ledger, errors) = (Ledger::default(), BTreeSet::new());
        Self { dir, disk, ledger, errors, db: None, options, deeds, chance, last_id: 1, opened_at: 0, fails_at: None }
    }

    /// Let one step fail, once.
    pub fn fail_at(&mut self, n: u64) {
        self.fails_at = Some(n);
        self.disk.fail_at(n, Fault::Io);
    }

    /// The disk is not full any more.
    pub fn make_room(&mut self) {
        self.disk.heal();
        self.disk.set_capacity(None);
    }

    /// Whether a sync failed since the database was opened: from then on nothing may be written.
    fn must_be_poisoned(&self) -> bool {
        let failed = self.fails_at.filter(|n| (self.opened_at + 1..=self.disk.steps()).contains(n));
        failed.and_then(|n| self.disk.step(n)).is_some_and(|step| step.starts_with("sync"))
    }

    /// Do all of it; `after` looks after each deed and may end it by `false`. A database that is
    /// poisoned or did not open is opened again.
    pub fn run(&mut self, mut after: impl FnMut(&mut Self) -> bool) {
        self.open();
        let schema = Request::execute(format!("{SCHEMA}; INSERT INTO a VALUES {}", row(1, 10)));
        while self.standing_is_empty() && !self.disk.has_crashed() {
            self.ask(schema.clone(), Entry { changes_schema: false, ..entry(vec![1]) });
            self.settle();
            if !after(self) {
                return;
            }
        }
        for deed in self.deeds.clone() {
            if self.disk.has_crashed() {
                return;
            }
            self.act(deed);
            self.settle();
            if !after(self) {
                return;
            }
        }
        self.reopen();
    }

    /// The first transaction is asked for until it is there; one of unknown end is looked for.
    fn standing_is_empty(&mut self) -> bool {
        if self.ledger.entries.last().is_some_and(|entry| entry.end == End::Unknown) {
            if let Some(seen) = self.db.as_ref().and_then(|db| Seen::of(db).ok()) {
                let there = seen.ids.contains(&1);
                self.ledger.entries[0].end = if there { End::Acknowledged } else { End::Refused };
            }
        }
        if self.ledger.entries.last().is_some_and(|entry| entry.end == End::Refused) {
            self.ledger.entries.clear();
        }
        self.ledger.entries.is_empty()
    }

    fn reopen(&mut self) {
        self.db = None;
        self.open();
    }

    /// At the third try at the latest, unless the machine stopped: two faults are planned at most.
    fn open(&mut self) {
        for _ in 0..3 {
            self.opened_at = self.disk.steps();
            let (path, gate) = (self.dir.path().join("app.db"), Arc::new(Gate::new()));
            match Database::open(&path, gate, Arc::new(SystemClock), self.options.clone()) {
                Ok(db) => {
                    self.db = Some(db);
                    let error = self.at_rest();
                    error.iter().for_each(|error| self.note(error));
                    if error.is_none_or(|error| error.kind() != Kind::Poisoned) {
                        return;
                    }
                    self.db = None;
                }
                Err(error) => self.note(&error),
            }
            if self.disk.has_crashed() {
                return;
            }
            // somebody sees to a full disk before it is tried again
            if self.errors.contains("DiskFull") {
                self.make_room();
            }
        }
        panic!("the database does not open: {:?}", self.errors);
    }

    /// Wait until the writer has done all that follows an answer. An error is the database's.
    fn at_rest(&self) -> Option<SqliteError> {
        self.db.as_ref()?.transaction(WAIT, Cancel::new()).err()
    }

    /// Wait until the writer is at rest; open the database again if it must be.
    pub fn settle(&mut self) {
        let error = self.at_rest();
        if let Some(error) = &error {
            self.note(error);
        }
        let poisoned = error.is_some_and(|error| error.kind() == Kind::Poisoned);
        if (poisoned || self.db.is_none()) && !self.disk.has_crashed() {
            self.reopen();
        }
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Single => self.single(),
            Deed::Batch => self.batch(),
            Deed::Commit => self.transaction(true),
            Deed::Rollback => self.transaction(false),
            Deed::Large => {
                let (id, len) = (self.id(), self.chance.usize(60_000..120_000));
                self.ask(insert(id, len), entry(vec![id]));
            }
            Deed::Delete => self.delete(),
            Deed::Schema => {
                let (id, row) = self.new_row();
                let change = "ALTER TABLE b ADD COLUMN extra DEFAULT 7; CREATE INDEX b_mark ON b(mark)";
                let request = Request::execute(format!("{change}; INSERT INTO a VALUES {row}"));
                self.ask(request, Entry { changes_schema: true, ..entry(vec![id]) });
            }
            Deed::Reopen => self.reopen(),
            Deed::Read => self.read(),
            Deed::Pinned => {
                // holds back checkpoints meanwhile
                let pinned = self.db.as_ref().map(Database::pin);
                (0..3).for_each(|_| self.single());
                // not in the middle of the checkpoint that follows the last one
                let _ = self.at_rest();
                drop(pinned);
            }
            Deed::Low => {
                let (id, row) = self.new_row();
                self.low(entry(vec![id]), |conn| low::execute(conn, format!("INSERT INTO a VALUES {row}")));
            }
            Deed::LowTransaction => self.low_transaction(),
            Deed::LowReturning => self.low_returning(),
        }
    }

    /// By a low-level connection of its own, on the same disk.
    fn low(&mut self, asked: Entry, act: impl FnOnce(&Conn) -> Result<(), Sqlite3Error>) {
        if self.db.is_none() {
            return;
        }
        let poisoned = self.must_be_poisoned();
        let path = format!("file:{}?vfs=macula_forgetful", self.dir.path().join("app.db").display());
        let result = low::try_open(path).and_then(|conn| {
            let result = act(&conn);
            low::close(&conn);
            result
        });
        assert!(!poisoned || result.is_err(), "written after a failed sync {:?}", self.fails_at);
        self.record(asked, &result);
    }

    fn low_transaction(&mut self) {
        let (commits, one, two) = (self.chance.u8(0..4) > 0, self.new_row(), self.new_row());
        let end = if commits { "COMMIT" } else { "ROLLBACK" };
        let texts = [
            "BEGIN IMMEDIATE".to_owned(),
            format!("INSERT INTO a VALUES {}; SAVEPOINT s; INSERT INTO a VALUES {}", one.1, two.1),
            format!("DELETE FROM a WHERE id <> 1; ROLLBACK TO s; INSERT INTO a VALUES {}", two.1),
            end.to_owned(),
        ];
        self.low(entry(vec![one.0, two.0]), |conn| texts.into_iter().try_for_each(|sql| low::execute(conn, sql)));
        if let Some(entry) = self.ledger.entries.last_mut().filter(|_| !commits) {
            entry.end = End::Refused;
        }
    }

    /// It is committed by its reset, its release or the end of its connection: nobody is told how that ended,
    /// but that the app's database is poisoned.
    fn low_returning(&mut self) {
        let (way, (id, row)) = (self.chance.u8(0..3), self.new_row());
        self.low(entry(vec![id]), |conn| {
            let sql = format!("INSERT INTO a VALUES {row} RETURNING id");
            let stmt = Arc::new(low::run(conn, move |session| session.prepare(&sql))?);
            low::step(conn, &stmt)?;
            match way {
                0 => stmt.reset(),
                1 => stmt.release(),
                _ => {}
            }
            Ok(())
        });
        if let Some(entry) = self.ledger.entries.last_mut().filter(|entry| entry.end == End::Acknowledged) {
            entry.end = End::Unknown;
        }
    }

    pub fn single(&mut self) {
        let (id, len) = (self.id(), self.length());
        self.ask(insert(id, len), entry(vec![id]));
    }

    /// Reads go on, whatever becomes of writes, unless the machine stopped or the database is poisoned.
    pub fn read(&mut self) {
        let Some(db) = &self.db else { return };
        match db.run(Request::query("SELECT count(*) FROM a")) {
            Ok(_) => {}
            Err(error) => {
                self.note(&error);
                let expected = self.disk.has_crashed() || error.kind() == Kind::Poisoned;
                assert!(expected, "a read failed: {error}");
            }
        }
    }

    fn delete(&mut self) {
        // the first row stays: others collide with it
        let standing: Vec<i64> = self.ledger.standing().into_iter().filter(|id| *id != 1).collect();
        let (Some(target), (id, row)) = (self.chance.choice(&standing).copied(), self.new_row()) else { return };
        let request = Request::execute(format!("DELETE FROM a WHERE id = {target}; INSERT INTO a VALUES {row}"));
        self.ask(request, Entry { deletes: Some(target), ..entry(vec![id]) });
    }

    fn ask(&mut self, request: Request, asked: Entry) {
        let poisoned = self.must_be_poisoned();
        let result = self.db.as_ref().map(|db| db.run(request));
        if let Some(result) = result {
            assert!(!poisoned || result.is_err(), "written after a failed sync {:?}", self.fails_at);
            self.record(asked, &result);
        }
    }

    /// Several that wait together: one commit, of which some members fail.
    fn batch(&mut self) {
        let Some(held) = self.begin() else { return };
        let mut asked = Vec::new();
        for member in 0..self.chance.usize(3..6) {
            let (id, row) = self.new_row();
            // the second row of the odd ones is there already
            let second = if member % 2 == 1 { format!(", {}", row_of_first()) } else { String::new() };
            let (answer, answered) = channel();
            let request = Request::execute(format!("INSERT INTO a VALUES {row}{second}"));
            let reply = move |result| drop(answer.send(result));
            let sent = self.db.as_ref().map(|db| db.submit(request, reply));
            asked.push((id, sent, answered));
        }
        drop(held);
        for (id, sent, answered) in asked {
            let result = match sent {
                Some(Ok(())) => answered.recv().unwrap(),
                Some(Err(error)) => Err(error),
                None => continue,
            };
            self.record(entry(vec![id]), &result);
        }
    }

    fn begin(&mut self) -> Option<Transaction> {
        let begun = self.db.as_ref()?.transaction(WAIT, Cancel::new());
        begun.map_err(|error| self.note(&error)).ok()
    }

    fn transaction(&mut self, commits: bool) {
        let Some(begun) = self.begin() else { return };
        let mut done = Vec::new();
        for len in [self.length(), self.chance.usize(20_000..50_000), self.length()] {
            let id = self.id();
            match begun.run(insert(id, len)) {
                Ok(_) => done.push(id),
                Err(error) => self.record(entry(vec![id]), &Err::<(), _>(error)),
            }
            // a statement that fails leaves the rest alone
            let _ = begun.run(Request::execute(format!("INSERT INTO a VALUES {}", row_of_first())));
        }
        let (answer, answered) = channel();
        let reply = move |result| drop(answer.send(result));
        let sent = if commits { begun.commit(reply) } else { begun.rollback(reply) };
        let result = sent.and_then(|()| answered.recv().unwrap());
        match commits {
            true => self.record(entry(done), &result),
            false => self.ledger.entries.push(Entry { end: End::Refused, ..entry(done) }),
        }
    }

    fn record<T, E: Kinded>(&mut self, asked: Entry, result: &Result<T, E>) {
        if let Err(error) = result {
            self.note(error);
        }
        let log_syncs = self.disk.syncs(LOG);
        self.ledger.entries.push(Entry { end: End::of(result), log_syncs, ..asked });
    }

    fn note(&mut self, error: &impl Kinded) {
        let kind = error.kind();
        assert!(!matches!(kind, Kind::Internal | Kind::Corrupt), "{error:?}");
        self.errors.insert(format!("{kind:?}"));
    }

    fn id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn length(&mut self) -> usize {
        // some rows end in the middle of a page, some need pages of their own
        let most = *self.chance.choice(&[50, 900, 9000]).unwrap_or(&50);
        self.chance.usize(0..most)
    }

    fn new_row(&mut self) -> (i64, String) {
        let (id, len) = (self.id(), self.length());
        (id, row(id, len))
    }
}

fn row_of_first() -> String {
    row(1, 10)
}

fn entry(ids: Vec<i64>) -> Entry {
    Entry { ids, deletes: None, changes_schema: false, end: End::Refused, log_syncs: 0 }
}

fn insert(id: i64, len: usize) -> Request {
    let params = Params::Positional(vec![Value::Integer(id), Value::Integer(len as i64)]);
    Request::execute("INSERT INTO a VALUES (?1, ?2, printf('%d:%.*c', ?1, ?2, char(97 + ?1 % 26)))").params(params)
}
