//! Watches against the pure machine: every moment between two threads that matters, one after the other.

use macula_raft::machine::{self, apply, Command, Component, Event, MemoryTable, Op, Part, Path, Pattern, Stamp};
use macula_raft::{FeedPage, Feeds, RaftError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An atom in the External Term Format.
fn atom(name: &str) -> Vec<u8> {
    let mut etf = vec![131, 119, name.len() as u8];
    etf.extend_from_slice(name.as_bytes());
    etf
}

struct Machine {
    table: MemoryTable,
    revision: u64,
    feeds: Feeds,
    wakes: Arc<AtomicUsize>,
}

impl Machine {
    fn new() -> Self {
        Self { table: MemoryTable::default(), revision: 0, feeds: Feeds::default(), wakes: Arc::default() }
    }

    /// What the table has, and the watches do not know yet.
    fn commit(&mut self, name: &str, len: usize) -> Result<Vec<Event>> {
        self.commit_all(&[name], len)
    }

    fn commit_all(&mut self, names: &[&str], len: usize) -> Result<Vec<Event>> {
        self.revision += 1;
        let value = [vec![131, 109], (len as u32).to_be_bytes().to_vec(), vec![b'x'; len]].concat();
        let mut then = Vec::new();
        for name in names {
            let (path, value) = (Path::new(&[atom(name)])?, value.clone());
            then.push(Op::Put { path, value, ttl_ms: None, lease: None, keep_while: Vec::new() });
        }
        let command = Command::Txn { conditions: Vec::new(), then, otherwise: Vec::new() };
        let stamp = Stamp { revision: self.revision, time_ms: 1 };
        Ok(apply(&mut self.table, stamp, &command).map_err(|error| error.0)?.events)
    }

    fn put(&mut self, name: &str, len: usize) -> Result {
        let events = self.commit(name, len)?;
        self.feeds.tell(&events);
        Ok(())
    }

    fn watch(&self, parts: Vec<Part>, after: u64) -> Result<u64> {
        let wakes = self.wakes.clone();
        let wake = move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        };
        Ok(self.feeds.begin(Pattern::new(parts, None)?, after, Box::new(wake))?)
    }

    fn next(&self, id: u64) -> std::result::Result<FeedPage, RaftError> {
        self.feeds.next(id, |page| page(&self.table))
    }

    fn revisions(&self, id: u64) -> Result<Vec<u64>> {
        Ok(self.next(id)?.events.iter().map(|event| event.revision).collect())
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }
}

fn only(name: &str) -> Result<Vec<Part>> {
    Ok(vec![Part::Exact(Component::new(&atom(name))?)])
}

#[test]
fn wakes_once_until_all_is_read_and_only_for_what_matches() -> Result {
    let mut machine = Machine::new();
    machine.put("a", 1)?;
    let watch = machine.watch(only("a")?, 0)?;
    machine.put("a", 1)?;
    assert_eq!(machine.wakes(), 0, "it is awake: it has not read yet");
    assert_eq!(machine.revisions(watch)?, [1, 2]);
    machine.put("b", 1)?;
    assert_eq!(machine.wakes(), 0);
    machine.put("a", 1)?;
    machine.put("a", 1)?;
    assert_eq!(machine.wakes(), 1);
    assert_eq!(machine.revisions(watch)?, [4, 5]);
    machine.feeds.end(watch);
    machine.put("a", 1)?;
    assert_eq!(machine.wakes(), 1);
    assert!(matches!(machine.next(watch), Err(RaftError::Closed)));
    Ok(())
}

#[test]
fn what_is_told_between_a_look_and_the_sleep_is_read() -> Result {
    let mut machine = Machine::new();
    let watch = machine.watch(only("a")?, 0)?;
    let before = machine.table.clone();
    let events = machine.commit("a", 1)?;
    let page = machine.feeds.next(watch, |page| {
        machine.feeds.tell(&events);
        page(&before)
    })?;
    assert!(page.events.is_empty());
    assert!(page.more, "nobody will wake it for what was told while it was awake");
    assert_eq!(machine.revisions(watch)?, [1]);
    Ok(())
}

#[test]
fn what_is_told_after_it_was_read_is_not_read_twice() -> Result {
    let mut machine = Machine::new();
    let watch = machine.watch(only("a")?, 0)?;
    let events = machine.commit("a", 1)?;
    assert_eq!(machine.revisions(watch)?, [1]);
    machine.feeds.tell(&events);
    assert_eq!(machine.wakes(), 0);
    assert_eq!(machine.revisions(watch)?, [0_u64; 0]);
    Ok(())
}

#[test]
fn pages_are_whole_revisions_of_bounded_size() -> Result {
    let mut machine = Machine::new();
    for _ in 0..15 {
        let events = machine.commit_all(&["a", "b", "c"], 300 << 10)?;
        machine.feeds.tell(&events);
    }
    let watch = machine.watch(vec![Part::AnyDepth], 0)?;
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = machine.next(watch)?;
        assert_eq!(page.events.len(), 3, "three of them are more than a page reads, and belong together");
        seen.extend(page.events.iter().map(|event| event.revision));
        assert_eq!(page.through, *seen.last().unwrap_or(&0));
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (1..=15).flat_map(|revision| [revision; 3]).collect::<Vec<u64>>());
    assert_eq!(pages, 15);
    Ok(())
}

#[test]
fn a_sleeper_stays_in_the_history_and_a_sluggard_falls_out_of_it() -> Result {
    let mut machine = Machine::new();
    let (asleep, behind) = (machine.watch(only("a")?, 0)?, machine.watch(only("a")?, 0)?);
    assert_eq!(machine.revisions(asleep)?, [0_u64; 0]);
    for _ in 0..6 {
        machine.put("b", 4 << 20)?;
    }
    machine.put("a", 1)?;
    assert_eq!(machine.revisions(asleep)?, [7]);
    let gone = machine.next(behind);
    let is_gone = matches!(gone, Err(RaftError::Machine(machine::MachineError::HistoryGone { .. })));
    assert!(is_gone, "{gone:?}");
    Ok(())
}

#[test]
fn a_watch_from_a_revision_that_is_not_here_yet_begins_behind_it() -> Result {
    let mut machine = Machine::new();
    machine.put("a", 1)?;
    let watch = machine.watch(only("a")?, 3)?;
    assert_eq!(machine.revisions(watch)?, [0_u64; 0]);
    for _ in 0..4 {
        machine.put("a", 1)?;
    }
    assert_eq!(machine.wakes(), 1);
    assert_eq!(machine.revisions(watch)?, [4, 5]);
    Ok(())
}

#[test]
fn a_snapshot_and_a_close_wake_all() -> Result {
    let mut machine = Machine::new();
    let watch = machine.watch(only("a")?, 0)?;
    machine.next(watch)?;
    let arrived = machine.commit("a", 1)?;
    assert_eq!(arrived.len(), 1);
    machine.feeds.tell(&[]);
    assert_eq!(machine.wakes(), 1);
    assert_eq!(machine.revisions(watch)?, [1]);
    machine.feeds.close();
    assert_eq!(machine.wakes(), 2);
    assert!(machine.watch(only("a")?, 0).is_err());
    Ok(())
}

#[test]
fn patterns_match_paths() -> Result {
    let names = |names: &[&str]| Path::new(&names.iter().map(|name| atom(name)).collect::<Vec<_>>());
    let pattern = Pattern::new([only("a")?, vec![Part::Any(None), Part::AnyDepth], only("z")?].concat(), None)?;
    for (path, matches) in [
        (vec!["a", "b", "z"], true),
        (vec!["a", "b", "c", "d", "z"], true),
        (vec!["a", "z"], false),
        (vec!["a", "b", "z", "c"], false),
        (vec!["b", "b", "z"], false),
        (vec!["a"], false),
    ] {
        assert_eq!(pattern.matches(&names(&path)?), matches, "{path:?}");
    }
    Ok(())
}
