//! What is bounded: values, commands, ticks, the history; and what that costs.

use crate::common::{path, pattern, put_with, value, Machine};
use macula_core::{Kind, Kinded};
use macula_raft::machine::{
    apply, history, next_expiry, read, status, Command, Limit, MachineError, MemoryTable, Op, Refusal, Response, Stamp,
    Table, TableError, View, Visit, HISTORY_BYTES_MAX, KEEP_WHILE_MAX, TICK_ENTRIES_MAX, VALUE_BYTES_MAX,
    WRITE_BYTES_MAX,
};
use std::cell::Cell;
use std::ops::ControlFlow;

fn put_bytes(at: &str, len: usize) -> Op {
    Op::Put { path: path(at), value: vec![131; len], ttl_ms: None, lease: None, keep_while: vec![] }
}

fn too_large(what: Limit, len: usize, len_max: usize) -> Response {
    Response::Refused(Refusal::TooLarge { what, len: len as u64, len_max: len_max as u64 })
}

#[test]
fn a_value_too_large_undoes_the_whole_transaction() {
    let mut machine = Machine::default();
    let len = VALUE_BYTES_MAX + 1;
    let refused = machine.txn(vec![put_bytes("a", 3), put_bytes("b", len)]);
    assert_eq!(refused, too_large(Limit::ValueBytes, len, VALUE_BYTES_MAX));
    assert!(!machine.has("a"));
    assert!(machine.events.is_empty());
    let done = machine.txn(vec![put_bytes("a", 3), put_bytes("b", len - 1)]);
    assert!(matches!(done, Response::Txn { succeeded: true, .. }));
    assert_eq!(status(&machine.table).expect("reads").payload_bytes, 3 + len as u64 - 1);
}

#[test]
fn one_command_writes_so_much_and_no_more() {
    let mut machine = Machine::default();
    machine.txn((0..9).map(|n| put_bytes(&format!("a/{n}"), 1)).collect());
    let many = Op::PutMany { pattern: pattern("a/*"), value: vec![131; VALUE_BYTES_MAX] };
    match machine.txn(vec![many]) {
        Response::Refused(Refusal::TooLarge { what: Limit::WriteBytes, len_max, .. }) => {
            assert_eq!(len_max, WRITE_BYTES_MAX as u64);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(status(&machine.table).expect("reads").payload_bytes, 9);
    let kept = (0..=KEEP_WHILE_MAX).map(|_| ("a", macula_raft::machine::Condition::Exists)).collect::<Vec<_>>();
    let refused = machine.txn(vec![put_with("b", None, None, &kept)]);
    assert_eq!(refused, too_large(Limit::KeepWhile, KEEP_WHILE_MAX + 1, KEEP_WHILE_MAX));
}

#[test]
fn a_tick_stops_and_says_that_there_is_more() {
    let mut machine = Machine::default();
    let count = TICK_ENTRIES_MAX as u64 + 10;
    let puts = (0..count).map(|n| put_with(&format!("a/{}/{}", n / 250, n % 250), Some(5), None, &[]));
    machine.txn(puts.collect());
    machine.time_ms = 4;
    assert_eq!(machine.command(&Command::Tick), Response::Ticked { removed: 0, more: false });
    assert_eq!(next_expiry(&machine.table), Ok(Some(5)));
    machine.time_ms = 5;
    // a node above those that went goes with its last child
    let above = TICK_ENTRIES_MAX as u64 / 250;
    let ticked = machine.command(&Command::Tick);
    assert_eq!(ticked, Response::Ticked { removed: TICK_ENTRIES_MAX as u64 + above, more: true });
    assert_eq!(next_expiry(&machine.table), Ok(Some(5)));
    assert_eq!(machine.command(&Command::Tick), Response::Ticked { removed: 10 + 2, more: false });
    assert_eq!(next_expiry(&machine.table), Ok(None));
    assert_eq!(status(&machine.table).expect("reads").nodes, 0);
}

fn told(machine: &Machine, from: u64) -> Result<Vec<u64>, MachineError> {
    let mut told = Vec::new();
    history(&machine.table, from, &mut |event| {
        told.push(event.revision);
        ControlFlow::Continue(())
    })?;
    Ok(told)
}

#[test]
fn history_goes_oldest_first_and_says_where_it_begins() {
    let mut machine = Machine::default();
    for _ in 0..40 {
        machine.txn(vec![put_bytes("a", 1 << 20)]);
        machine.command(&Command::Tick);
        assert!(status(&machine.table).expect("reads").history_bytes <= HISTORY_BYTES_MAX);
    }
    // 15 puts and their paths fit below 16 MiB; every second command has events
    let first = status(&machine.table).expect("reads").history_first;
    assert_eq!(first, 80 - 2 * 15);
    assert_eq!(told(&machine, first), Ok((0..15).map(|n| first + 1 + 2 * n).collect()));
    assert_eq!(told(&machine, first + 5), Ok((2..15).map(|n| first + 1 + 2 * n).collect()));
    assert_eq!(told(&machine, 10_000), Ok(vec![]));
    let gone = told(&machine, first - 1).expect_err("is gone");
    assert_eq!(gone, MachineError::HistoryGone { from: first - 1, first });
    assert_eq!(gone.kind(), Kind::HistoryGone);

    // events that are larger than all of it
    machine.txn((0..3).map(|n| put_bytes(&format!("b/{n}"), 6 << 20)).collect());
    assert_eq!(machine.events.len(), 3);
    let status = status(&machine.table).expect("reads");
    assert_eq!((status.history_bytes, status.history_first), (0, machine.revision + 1));
    assert!(told(&machine, machine.revision).is_err());
    assert_eq!(told(&machine, machine.revision + 1), Ok(vec![]));
}

#[test]
fn a_visitor_of_the_history_may_leave() {
    let mut machine = Machine::default();
    machine.txn(vec![put_bytes("a", 1), put_bytes("b", 1)]);
    machine.txn(vec![put_bytes("c", 1)]);
    let mut seen = 0;
    history(&machine.table, 0, &mut |_| {
        seen += 1;
        ControlFlow::Break(())
    })
    .expect("reads");
    assert_eq!(seen, 1);
}

#[test]
fn pages_end_at_their_limits() {
    let mut machine = Machine::default();
    for n in 0..9 {
        machine.txn(vec![put_bytes(&format!("a/{n}"), VALUE_BYTES_MAX)]);
    }
    let page = read::get_many(&machine.table, &pattern("a/*"), None, 100).expect("reads");
    assert!(page.more);
    assert_eq!(page.nodes.len(), 7, "7 values and 8 paths are below 64 MiB");
    // one transaction reads two such pages, not three
    let read = |machine: &mut Machine, count| {
        machine.txn((0..count).map(|_| Op::GetMany { pattern: pattern("a/*"), limit: 100 }).collect())
    };
    assert!(matches!(read(&mut machine, 2), Response::Txn { .. }));
    let refused = read(&mut machine, 3);
    assert!(matches!(refused, Response::Refused(Refusal::TooLarge { what: Limit::ResultBytes, .. })));

    let after = &page.nodes[6].0;
    let rest = read::get_many(&machine.table, &pattern("a/*"), Some(after), 100).expect("reads");
    assert_eq!((rest.nodes.len(), rest.more), (2, false));
}

/// A table that counts the rows it is asked for.
#[derive(Default)]
struct Counting {
    table: MemoryTable,
    touched: Cell<u64>,
}

impl View for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.touched.set(self.touched.get() + 1);
        self.table.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        self.table.scan(from, to, reverse, &mut |key, row| {
            self.touched.set(self.touched.get() + 1);
            visit(key, row)
        })
    }
}

impl Table for Counting {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableError> {
        self.touched.set(self.touched.get() + 1);
        self.table.put(key, value)
    }

    fn remove(&mut self, key: Vec<u8>) -> Result<(), TableError> {
        self.touched.set(self.touched.get() + 1);
        self.table.remove(key)
    }
}

#[test]
fn a_put_touches_as_few_rows_in_a_large_tree() {
    let mut counting = Counting::default();
    let mut revision = 0;
    let mut touched_by = |counting: &mut Counting, then: Vec<Op>| {
        revision += 1;
        let before = counting.touched.get();
        let command = Command::Txn { conditions: vec![], then, otherwise: vec![] };
        apply(counting, Stamp { revision, time_ms: 0 }, &command).expect("applies");
        counting.touched.get() - before
    };
    let mut costs = Vec::new();
    for n in 0..40 {
        let at = |m: u64| format!("a/{n}/{m}");
        touched_by(&mut counting, (0..250).map(|m| put_bytes(&at(m), 10)).collect());
        let again = touched_by(&mut counting, vec![put_bytes("a/0/7", 12)]);
        let new = touched_by(&mut counting, vec![put_bytes("a/0/new", 12)]);
        let gone = touched_by(&mut counting, vec![Op::Delete { path: path("a/0/new") }]);
        costs.push((again, new, gone));
    }
    assert_eq!(costs[0], costs[39]);
    // read: machine, node. written: machine, node, history
    assert_eq!(costs[0].0, 5);
    assert!(costs[0].1 <= 7 && costs[0].2 <= 8, "{costs:?}");

    // of a pattern only its prefix is read, and of that no subtree where nothing can match
    let before = counting.touched.get();
    assert_eq!(read::count(&counting, &pattern("a/*")), Ok(40));
    assert!(counting.touched.get() - before <= 2 * 40 + 1);
    let before = counting.touched.get();
    assert_eq!(read::count(&counting, &pattern("a/7/*")), Ok(250));
    assert_eq!(counting.touched.get() - before, 251);
    assert_eq!(value("1").len(), 3);
}

#[test]
fn a_command_that_was_applied_is_not_applied_again() {
    let mut table = MemoryTable::default();
    let stamp = |revision| Stamp { revision, time_ms: 0 };
    apply(&mut table, stamp(7), &Command::Tick).expect("applies");
    let before = table.clone();
    for revision in [0, 6, 7] {
        apply(&mut table, stamp(revision), &Command::Tick).expect_err("is refused");
    }
    assert_eq!(table, before);
}
