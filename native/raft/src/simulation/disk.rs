//! Who writes a simulated node's log: a task that takes its time, as a disk does.
//!
//! Invariant: [`Durable`] has what was synced and nothing else; what a place loses of it is a defect.

use super::world::World;
use crate::entry::{self, Ballot, Place};
use crate::log::{Appender, Job, Jobs, LogStore, Opened, ROOM_PAUSE};
use crate::types::Entry;
use openraft::EntryPayload;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a place holds of the log, by index.
#[derive(Default)]
pub struct Durable {
    /// Synced.
    pub synced: BTreeMap<u64, Place>,
    /// Written by who crashed then: it may have told of it before.
    pub perhaps: BTreeMap<u64, Place>,
    /// Given to the log, never let go of by a purge: from this the run learns what was decided.
    pub given: BTreeMap<u64, Entry>,
    /// Up to here a durable snapshot has it.
    pub purged: u64,
    /// By index, from the moment in which the log was given them: they count at once.
    pub voters: BTreeMap<u64, Vec<BTreeSet<u64>>>,
    vote: Option<Ballot>,
}

impl Durable {
    fn learn_members<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        for entry in entries {
            if let EntryPayload::Membership(members) = &entry.payload {
                self.voters.insert(entry.log_id.index, members.get_joint_config().clone());
            }
        }
    }
}

/// Of one life.
pub struct Runner {
    pub world: Weak<World>,
    pub at: usize,
    pub is_over: Arc<AtomicBool>,
    pub durable: Arc<Mutex<Durable>>,
    /// At least, and beyond that at most.
    pub sync_us: (Arc<AtomicU64>, Arc<AtomicU64>),
}

struct Queue {
    jobs: mpsc::UnboundedSender<Job>,
    closing: Arc<AtomicBool>,
    durable: Arc<Mutex<Durable>>,
}

impl Jobs for Queue {
    fn submit(&self, job: Job) {
        if let Taken::Entries(entries) = Taken::of(&job) {
            self.durable.lock().learn_members(entries.iter());
        }
        // of a log that is over
        let _ = self.jobs.send(job);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl Runner {
    pub fn start(self, opened: Opened) -> io::Result<LogStore> {
        self.compare(&opened);
        opened.start_on(|appender| {
            let (jobs, waiting) = mpsc::unbounded_channel();
            let (closing, durable) = (appender.closing.clone(), self.durable.clone());
            tokio::spawn(self.serve(appender, waiting));
            Ok(Arc::new(Queue { jobs, closing, durable }))
        })
    }

    /// What was synced before is there.
    fn compare(&self, opened: &Opened) {
        let Some(world) = self.world.upgrade() else { return };
        let durable = &mut *self.durable.lock();
        let found = opened.tail.vote.as_ref().map(Ballot::from);
        let rank = |vote: Option<Ballot>| vote.map(|vote| (vote.term, vote.node, vote.is_committed));
        if rank(found) < rank(durable.vote) {
            world.wrong(format!("a vote is forgotten: place={} saved={:?} found={found:?}", self.at, durable.vote));
        }
        durable.vote = found;
        durable.perhaps.clear();
        let purged = opened.tail.purged.map(|id| id.index);
        let is_kept = |index: &u64| purged.is_none_or(|purged| *index > purged);
        for (index, place) in durable.synced.iter().filter(|(index, _)| is_kept(index)) {
            let found = opened.tail.entries.get(index).map(|entry| Place::from(&entry.log_id));
            if found != Some(*place) {
                let at = self.at;
                world.wrong(format!("lost from the log: place={at} index={index} synced={place:?} found={found:?}"));
            }
        }
        durable.synced =
            opened.tail.entries.values().map(|entry| (entry.log_id.index, (&entry.log_id).into())).collect();
        durable.given.retain(|index, _| !is_kept(index));
        durable.given.extend(opened.tail.entries.iter().map(|(index, entry)| (*index, entry.clone())));
        durable.purged = purged.unwrap_or(0);
        durable.voters.clear();
        durable.learn_members(opened.tail.entries.values());
    }

    async fn serve(self, mut appender: Appender, mut waiting: mpsc::UnboundedReceiver<Job>) {
        // of a job that waits for room: written, perhaps, and nobody was told (seed 988445158608)
        let mut unsynced = Vec::new();
        while let Some(first) = waiting.recv().await {
            let Some(world) = self.world.upgrade() else { return };
            let (us_min, us_max) = (self.sync_us.0.load(Ordering::Relaxed), self.sync_us.1.load(Ordering::Relaxed));
            let sync_us = us_min + world.random.lock().u64(..=us_max);
            drop(world);
            tokio::time::sleep(Duration::from_micros(sync_us)).await;
            let mut next = Some(first);
            while let Some(first) = next {
                let mut taken = Vec::new();
                let jobs = std::iter::once(first).chain(std::iter::from_fn(|| waiting.try_recv().ok()));
                next = appender.run(jobs.inspect(|job| taken.push(Taken::of(job))));
                if next.is_none() {
                    taken.insert(0, Taken::Entries(std::mem::take(&mut unsynced)));
                    self.note(&appender, taken);
                    break;
                }
                if let Some(Taken::Entries(entries)) = taken.pop() {
                    self.durable.lock().given.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                    unsynced.extend(entries);
                }
                self.note(&appender, taken);
                tokio::time::sleep(ROOM_PAUSE).await;
            }
        }
    }

    fn note(&self, appender: &Appender, taken: Vec<Taken>) {
        let Some(world) = self.world.upgrade() else { return };
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        // then nobody was told of these entries
        let has_crashed = world.places.lock()[self.at].disk.has_crashed();
        let durable = &mut *self.durable.lock();
        if !has_crashed {
            durable.vote = appender.meta.vote;
        }
        world.trace(("synced", self.at, taken.len(), appender.sequences.len()));
        for taken in taken {
            match taken {
                Taken::Entries(entries) => {
                    for entry in entries {
                        let index = entry.log_id.index;
                        if appender.sequences.contains_key(&index) {
                            let written = if has_crashed { &mut durable.perhaps } else { &mut durable.synced };
                            written.insert(index, (&entry.log_id).into());
                        }
                        durable.given.insert(entry.log_id.index, entry);
                    }
                }
                Taken::Truncated(from) => {
                    durable.synced.split_off(&from);
                    durable.given.split_off(&from);
                }
                Taken::Purged(upto) => {
                    durable.purged = upto.index;
                    durable.synced = durable.synced.split_off(&(upto.index + 1));
                    // a snapshot took the place of others
                    if durable.given.get(&upto.index).map(|entry| Place::from(&entry.log_id)) != Some(upto) {
                        durable.given = durable.given.split_off(&(upto.index + 1));
                    }
                }
                Taken::Other => {}
            }
        }
    }
}

/// What a job was about.
enum Taken {
    Entries(Vec<Entry>),
    Truncated(u64),
    Purged(Place),
    Other,
}

impl Taken {
    fn of(job: &Job) -> Self {
        match job {
            Job::Append { entries, .. } => {
                Self::Entries(entries.iter().map(|bytes| entry::decode(bytes).expect("our own")).collect())
            }
            Job::Truncate { from, .. } => Self::Truncated(*from),
            Job::Purge { upto, .. } => Self::Purged(*upto),
            Job::Committed(_) | Job::Meta { .. } => Self::Other,
        }
    }
}
