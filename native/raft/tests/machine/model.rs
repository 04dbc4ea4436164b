//! Random lives beside the naive model: every answer, every event, every node, and after each command
//! the rows among themselves. A second table gets the commands as bytes and is moved row by row to a
//! new one on the way: it must stay the same to the byte.

use crate::common::{count, seed};
use crate::given::Given;
use crate::naive::{path_of, place, Naive, Place};
use macula_raft::machine::{
    apply, history, next_expiry, read, status, verify, Command, Condition, Event, Guard, MemoryTable, Pattern,
    Response, Stamp, Table,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What a pattern found: where, made when, put when.
type Seen = Vec<(Place, u64, u64)>;

#[derive(Default)]
struct Life {
    table: MemoryTable,
    twin: MemoryTable,
    naive: Naive,
    told: Vec<Event>,
    /// The tree as it was after each revision.
    past: BTreeMap<u64, Naive>,
    tally: Tally,
}

/// How often what is rare came about, so that a generator that lost it is noticed.
#[derive(Debug, Default)]
pub struct Tally {
    pub refused: u64,
    pub expired: u64,
    pub settled: u64,
    pub unchanged: u64,
    pub changed: u64,
    pub changed_in_vain: u64,
    pub moved: u64,
}

fn seen(naive: &Naive, pattern: &Pattern) -> Seen {
    let of = |at: Place| {
        let kept = &naive.nodes[&at];
        (at.clone(), kept.created, kept.modified)
    };
    naive.found(pattern).into_iter().map(of).collect()
}

fn copied(table: &MemoryTable) -> MemoryTable {
    let mut copy = MemoryTable::default();
    // the order in which rows come must not matter
    for (key, value) in table.rows().rev() {
        copy.put(key.to_vec(), value.to_vec()).expect("puts");
    }
    copy
}

impl Life {
    fn step(&mut self, rng: &mut fastrand::Rng) {
        let command = Given { rng, naive: &self.naive }.command();
        let revision = self.naive.revision + 1 + rng.u64(0..2);
        // clocks of different nodes: time may seem to go back
        let time_ms = (self.naive.time_ms + rng.u64(0..40)).saturating_sub(rng.u64(0..20));
        let stamp = Stamp { revision, time_ms };
        let applied = apply(&mut self.table, stamp, &command).expect("applies");

        let sent = Command::decode(&command.encode()).expect("reads what it wrote");
        assert_eq!(sent, command);
        let twin = apply(&mut self.twin, stamp, &sent).expect("applies");
        assert_eq!((&twin, &self.twin), (&applied, &self.table), "another node");
        assert_eq!(Response::decode(&applied.response.encode()).as_ref(), Ok(&applied.response));

        let unchanged = self.unchanged(&command, &applied.response);
        let expected = self.naive.apply(&command, revision, time_ms, unchanged);
        assert_eq!(applied.response, expected, "{command:?}");
        assert_eq!(applied.events, self.naive.events, "{command:?}");
        self.told.extend(applied.events);
        self.count(&command, &expected);
        self.past.insert(revision, self.naive.clone());
        verify(&self.table).unwrap_or_else(|error| panic!("{error} after {command:?}"));
        self.compare();
        if rng.u8(0..50) == 0 {
            self.twin = copied(&self.twin);
            self.tally.moved += 1;
        }
    }

    /// What the machine says of a guard on many, which must never be "unchanged" when something was.
    fn unchanged(&mut self, command: &Command, response: &Response) -> bool {
        let Command::Txn { conditions, .. } = command else { return false };
        let Some(Guard::Unchanged { pattern, since }) = conditions.first() else { return false };
        let Response::Txn { succeeded, .. } = response else {
            // refused, so its operations were tried
            return true;
        };
        let empty = Naive::default();
        let then = self.past.range(..=since).next_back().map_or(&empty, |(_, naive)| naive);
        let same = seen(then, pattern) == seen(&self.naive, pattern);
        assert!(same || !succeeded, "said unchanged: {pattern:?} since {since}");
        if self.told.last().is_none_or(|event| event.revision <= *since) {
            assert!(*succeeded, "nothing at all was changed: {pattern:?} since {since}");
        }
        match (same, succeeded) {
            (_, true) => self.tally.unchanged += 1,
            (false, false) => self.tally.changed += 1,
            (true, false) => self.tally.changed_in_vain += 1,
        }
        *succeeded
    }

    fn count(&mut self, command: &Command, response: &Response) {
        self.tally.refused += u64::from(matches!(response, Response::Refused(_)));
        self.tally.expired += u64::from(matches!(response, Response::Ticked { removed: 1.., .. }));
        let deletes = matches!(command, Command::Tick)
            && self.naive.events.iter().any(|event| event.kind == macula_raft::machine::EventKind::Deleted);
        self.tally.settled += u64::from(deletes);
    }

    fn compare(&self) {
        let everything = Pattern::under(None).expect("a pattern");
        let page = read::get_many(&self.table, &everything, None, u64::MAX).expect("reads");
        assert!(!page.more);
        let nodes: Vec<_> = page.nodes.into_iter().map(|(path, node)| (place(&path), Some(node))).collect();
        let expected: Vec<_> = self.naive.nodes.keys().map(|at| (at.clone(), self.naive.node(at))).collect();
        assert_eq!(nodes, expected);
        assert_eq!(next_expiry(&self.table).expect("reads"), self.naive.next_expiry());
        let status = status(&self.table).expect("reads");
        let payload = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len) as u64;
        assert_eq!(status.payload_bytes, self.naive.nodes.values().map(|kept| payload(&kept.value)).sum::<u64>());
        assert_eq!(status.nodes, self.naive.nodes.len() as u64);
        assert_eq!(status.leases, self.naive.leases.len() as u64);
        assert_eq!((status.revision, status.time_ms), (self.naive.revision, self.naive.time_ms));
        for (id, held) in &self.naive.leases {
            let lease = macula_raft::machine::lease(&self.table, *id).expect("reads").expect("is there");
            assert_eq!((lease.expires_ms, lease.parent), (held.expires_ms, held.parent));
        }
    }

    /// Reads that no command makes, page by page.
    fn read(&self, rng: &mut fastrand::Rng) {
        let mut given = Given { rng, naive: &self.naive };
        let (pattern, path) = (given.pattern(), given.path());
        let found = self.naive.found(&pattern);
        assert_eq!(read::count(&self.table, &pattern).expect("reads"), found.len() as u64);
        let mut paged = Vec::new();
        let mut after = (given.rng.u8(0..3) == 0).then(|| path.clone());
        let limit = given.rng.u64(1..4);
        let expected: Vec<Place> =
            found.into_iter().filter(|at| after.as_ref().is_none_or(|a| *at > place(a))).collect();
        loop {
            let page = read::get_many(&self.table, &pattern, after.as_ref(), limit).expect("reads");
            paged.extend(page.nodes.iter().map(|(path, _)| place(path)));
            after = page.nodes.last().map(|(path, _)| path.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(paged, expected, "{pattern:?}");

        let at = place(&path);
        assert_eq!(read::get(&self.table, &path).expect("reads"), self.naive.node(&at));
        assert_eq!(read::exists(&self.table, &path).expect("reads"), self.naive.holds(&at, &Condition::Exists));
        let children = read::list(&self.table, Some(&path), None, u64::MAX).expect("reads");
        let places = children.iter().map(|name| place(&path.child(name).expect("a path")));
        assert!(places.eq(self.naive.nodes.keys().filter(|p| p.len() == at.len() + 1 && p.starts_with(&at)).cloned()));
        assert_eq!(path_of(&at), path);
    }

    fn ends(&self) {
        let mut told = Vec::new();
        history(&self.table, 1, &mut |event| {
            told.push(event);
            ControlFlow::Continue(())
        })
        .expect("is kept");
        assert_eq!(told, self.told);
    }
}

fn lives(from: u64, lives: u64) -> Tally {
    let mut sum = Tally::default();
    for seed in from..from + lives {
        eprintln!("life {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut life = Life::default();
        for _ in 0..200 {
            life.step(&mut rng);
            if rng.u8(0..4) == 0 {
                life.read(&mut rng);
            }
        }
        life.ends();
        let tally = life.tally;
        sum.refused += tally.refused;
        sum.expired += tally.expired;
        sum.settled += tally.settled;
        sum.unchanged += tally.unchanged;
        sum.changed += tally.changed;
        sum.changed_in_vain += tally.changed_in_vain;
        sum.moved += tally.moved;
    }
    sum
}

/// Two halves, because a machine has two processors.
fn half(which: u64) {
    let each = count(150, 5_000);
    let tally = lives((seed() >> 8).wrapping_add(which * each), each);
    eprintln!("{tally:?}");
    let rare = [tally.refused, tally.expired, tally.settled, tally.unchanged, tally.changed, tally.moved];
    assert!(rare.iter().all(|count| *count > 20), "{tally:?}");
}

#[test]
fn as_the_naive_model_says() {
    half(0);
}

#[test]
fn as_the_naive_model_says_too() {
    half(1);
}
