//! What must be true at every step, whatever breaks.
//!
//! A leader speaks for itself only (a term may see several: openraft orders leaders by term and number, and entries
//! bear both); one entry an index, once it is applied anywhere; no life applies backwards; equal prefixes
//! make equal rows, those of the pure machine; what was acknowledged is synced by a majority; a watch gets every
//! event once, in order, over restarts and snapshots.

use super::history::{Done, History, Op};
use super::world::{Life, World};
use crate::entry::{self, Place};
use crate::machine::{self, Event, MemoryTable, Pattern, Stamp, Table, TableError, View, Visit};
use crate::rpc::Request;
use crate::state::Machine;
use crate::types::Entry;
use openraft::storage::RaftStateMachine;
use openraft::EntryPayload;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What the run knows to be decided, and what it has seen.
#[derive(Default)]
pub struct Checks {
    pub history: History,
    leaders: BTreeSet<(u64, u64)>,
    decided: Vec<Decided>,
    /// Since which index who votes.
    voters: BTreeMap<u64, Vec<BTreeSet<u64>>>,
    rows: Rows,
    events: Vec<Event>,
    lives: BTreeMap<u64, Seen>,
    watched: BTreeMap<usize, Watched>,
}

/// An entry that was applied somewhere.
struct Decided {
    place: Place,
    bytes: Vec<u8>,
    /// Of all rows behind it.
    hash: u64,
}

/// Of one life.
#[derive(Default)]
struct Seen {
    applied: Option<u64>,
    compared: u64,
    hashed: Option<u64>,
}

/// What a place's watch was given, over all its lives.
#[derive(Default)]
struct Watched {
    through: u64,
    pending: Vec<(u64, u64, Vec<Event>)>,
}

/// The pure machine's rows and the sum of their hashes.
#[derive(Default)]
struct Rows {
    table: MemoryTable,
    sum: u64,
}

fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    (key, value).hash(&mut hash);
    hash.finish()
}

impl View for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.table.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), TableError> {
        self.table.scan(from, to, reverse, visit)
    }
}

impl Table for Rows {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), TableError> {
        self.remove(key.clone())?;
        self.sum = self.sum.wrapping_add(row_hash(&key, &value));
        self.table.put(key, value)
    }

    fn remove(&mut self, key: Vec<u8>) -> Result<(), TableError> {
        if let Some(before) = self.table.get(&key)? {
            self.sum = self.sum.wrapping_sub(row_hash(&key, &before));
        }
        self.table.remove(key)
    }
}

/// Of all rows that a node has.
fn hash_of(life: &Life) -> Result<u64, String> {
    let mut sum = 0_u64;
    let looked = life.node.read_local().look(|rows| {
        let visit: Visit<'_> = &mut |key, value| {
            sum = sum.wrapping_add(row_hash(key, value));
            ControlFlow::Continue(())
        };
        Ok(rows.scan(&[], &[0xff; 8], false, visit)?)
    });
    looked.map(|()| sum).map_err(|error| error.to_string())
}

impl Checks {
    /// A request leaves a node that lives.
    pub fn see(&mut self, world: &World, from: u64, request: &Request) {
        if let Request::Append { vote, .. } = request {
            if self.leaders.insert((vote.term, vote.node)) {
                world.figures.lock().elections += 1;
            }
            if vote.node != from {
                world.wrong(format!("{from} speaks for {} in term {}", vote.node, vote.term));
            }
        }
    }

    /// Look at all that live. `deep`: at their rows too.
    pub async fn look(world: &Arc<World>, deep: bool) {
        for (at, life) in world.lives() {
            let mut machine = Machine { state: life.node.state.clone(), listener: Box::new(|_| {}) };
            let applied = machine.applied_state().await;
            let checks = &mut *world.checks.lock();
            match applied {
                Ok((Some(applied), _)) => checks.look_at(world, at, &life, Place::from(&applied), deep),
                Ok((None, _)) => {}
                Err(_) if world.places.lock()[at].disk.has_crashed() => {}
                Err(error) => world.wrong(format!("it cannot be read: place={at} {error}")),
            }
        }
    }

    fn look_at(&mut self, world: &World, at: usize, life: &Life, applied: Place, deep: bool) {
        let durable = world.places.lock()[at].durable.clone();
        let given = &durable.lock().given;
        self.learn(world, given, applied);
        let seen = self.lives.entry(life.id).or_default();
        if seen.applied.is_some_and(|before| before > applied.index) {
            world.wrong(format!("applied went back: place={at} from={:?} to={}", seen.applied, applied.index));
        }
        seen.applied = Some(applied.index);
        // other entries may be left beneath a snapshot that took their place
        let is_own = given.get(&applied.index).is_some_and(|entry| Place::from(&entry.log_id) == applied);
        for (index, entry) in given.range(seen.compared..applied.index + 1).filter(|_| is_own) {
            let Some(decided) = self.decided.get(*index as usize) else { break };
            if entry::encode(entry).ok().as_deref() != Some(&decided.bytes) {
                let (is, was) = (Place::from(&entry.log_id), decided.place);
                world.wrong(format!("two entries were applied: place={at} index={index} {is:?} {was:?}"));
            }
        }
        let Some(decided) = self.decided.get(applied.index as usize) else { return };
        seen.compared = applied.index + 1;
        if decided.place != applied {
            world.wrong(format!("another was applied: place={at} {applied:?} decided={:?}", decided.place));
        }
        if deep && seen.hashed != Some(applied.index) {
            seen.hashed = Some(applied.index);
            match hash_of(life) {
                Ok(hash) if hash == decided.hash => {}
                Ok(_) => world.wrong(format!("other rows than the machine's: place={at} index={}", applied.index)),
                Err(_) if world.places.lock()[at].disk.has_crashed() => {}
                Err(error) => world.wrong(format!("rows cannot be read: place={at} {error}")),
            }
        }
        self.settle_watch(world, at);
    }

    /// Take over what a node has applied.
    fn learn(&mut self, world: &World, given: &BTreeMap<u64, Entry>, applied: Place) {
        while let Some(entry) =
            given.get(&(self.decided.len() as u64)).filter(|entry| entry.log_id.index <= applied.index)
        {
            let index = entry.log_id.index;
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(members) => {
                    self.voters.insert(index, members.get_joint_config().clone());
                }
                EntryPayload::Normal(proposal) => {
                    let command = machine::Command::decode(&proposal.command.0).expect("our own");
                    let stamp = Stamp { revision: index, time_ms: proposal.time_ms };
                    let done = machine::apply(&mut self.rows, stamp, &command).expect("memory");
                    self.events.extend(done.events);
                }
            }
            let bytes = entry::encode(entry).expect("our own");
            world.trace(("decided", index, entry.log_id.leader_id.term));
            self.decided.push(Decided { place: (&entry.log_id).into(), bytes, hash: self.rows.sum });
        }
    }

    /// A write was acknowledged: a majority has synced it.
    pub fn acknowledged(&mut self, world: &World, call: usize, op: &Op, done: Done, revision: Option<u64>) {
        let Some(revision) = revision.filter(|_| done.is_done && !matches!(op, Op::Get)) else { return };
        let places = world.places.lock();
        let (mut has_it, mut purged) = (BTreeMap::new(), BTreeSet::new());
        for place in places.iter() {
            for (number, durable) in place.former.iter().chain([&(place.number, place.durable.clone())]) {
                let durable = durable.lock();
                if let Some(synced) = durable.synced.get(&revision).or_else(|| durable.perhaps.get(&revision)) {
                    has_it.insert(*number, *synced);
                }
                if durable.purged >= revision {
                    purged.insert(*number);
                }
            }
        }
        let configs = self.configs(&places, revision);
        let decided = self.decided.get(revision as usize).map(|decided| decided.place);
        let is_held = |number: &u64| {
            purged.contains(number)
                || has_it.get(number).is_some_and(|place| decided.is_none_or(|decided| decided == *place))
        };
        let is_majority = |voters: &BTreeSet<u64>| voters.iter().filter(|n| is_held(n)).count() * 2 > voters.len();
        // who votes may have changed in entries that nobody applied yet
        let is_safe = configs.iter().any(|config| config.iter().all(is_majority));
        if !is_safe {
            world.wrong(format!(
                "acknowledged and not on a majority: call={call} {op:?} revision={revision} synced={has_it:?} \
                 voters={configs:?}"
            ));
        }
    }

    /// At the end: everyone's watch was given all there was.
    pub fn has_all(&self, world: &World) {
        let last = self.events.last().map_or(0, |event| event.revision);
        for (at, watched) in &self.watched {
            let is_member = world.life(*at).is_some();
            if is_member && (watched.through < last || !watched.pending.is_empty()) {
                let (through, pending) = (watched.through, watched.pending.len());
                world.wrong(format!("a watch fell behind: place={at} through={through} pending={pending} last={last}"));
            }
        }
    }

    /// Who may have voted for an entry: as of it, or as of any entry behind it, in the log of whoever led.
    fn configs(&self, places: &[super::world::Place], revision: u64) -> Vec<Vec<BTreeSet<u64>>> {
        let mut configs = Vec::new();
        for place in places {
            let mut voters = self.voters.clone();
            voters.extend(place.durable.lock().voters.iter().map(|(index, config)| (*index, config.clone())));
            let before = voters.range(..=revision).next_back();
            configs.extend(before.into_iter().chain(voters.range(revision + 1..)).map(|(_, config)| config.clone()));
        }
        configs
    }

    /// What a watch was given against what happened.
    fn settle_watch(&mut self, world: &World, at: usize) {
        let Some(watched) = self.watched.get_mut(&at) else { return };
        let known = self.decided.len() as u64;
        let (ready, pending) = std::mem::take(&mut watched.pending).into_iter().partition(|(_, upto, _)| *upto < known);
        watched.pending = pending;
        let ready: Vec<(u64, u64, Vec<Event>)> = ready;
        for (after, upto, events) in ready {
            let first = self.events.partition_point(|event| event.revision <= after);
            let last = self.events.partition_point(|event| event.revision <= upto);
            if self.events[first..last] != events[..] {
                let (wanted, got) = (&self.events[first..last], events.len());
                world.wrong(format!(
                    "a watch missed or invented: place={at} after={after} upto={upto} got={got} wanted={wanted:?}"
                ));
            }
        }
    }
}

/// Read all events that a life has for its place's watch, from where the last life left it.
pub async fn watch(world: Arc<World>, at: usize, life: Arc<Life>) {
    let woken = Arc::new(tokio::sync::Notify::new());
    let waker = woken.clone();
    let after = world.checks.lock().watched.entry(at).or_default().through;
    let pattern = Pattern::under(None).expect("a pattern");
    let id = life.feeds.begin(pattern, after, Box::new(move || waker.notify_one())).expect("begins");
    loop {
        loop {
            let page = life.feeds.next(id, |page| life.node.read_local().look(page));
            if life.is_over.load(std::sync::atomic::Ordering::Relaxed) {
                return;
            }
            match page {
                Ok(page) => {
                    let checks = &mut *world.checks.lock();
                    let watched = checks.watched.entry(at).or_default();
                    world.trace(("watched", at, page.through, page.events.len()));
                    watched.pending.push((watched.through, page.through, page.events));
                    watched.through = page.through;
                    if !page.more {
                        break;
                    }
                }
                Err(_) if world.places.lock()[at].disk.has_crashed() => return,
                Err(error) => return world.wrong(format!("a watch failed: place={at} {error}")),
            }
        }
        tokio::select! {
            biased;
            () = life.end() => return,
            () = woken.notified() => {}
        }
    }
}
