//! Reads all that is here once in a while, and has mended what rotted: by itself at a pace, or because somebody asks.
//!
//! Invariant: between two pieces of a mebibyte nothing is held, no thread and no lock, so that closing does not wait
//! and callers do not either. What goes on by itself is written down every few seconds, with where in which file it
//! is, and goes on from there in the next process; it opens no app that is closed.

use crate::budget::Budget;
use crate::peers::blocking;
use crate::shared::Shared;
use crate::{Content, ContentId, MeshError, Name};
use macula_core::{Progress, Task};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Rows at once, and between two such pages.
const PAGE: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(5);
/// What a file costs at least, bytes: it is looked for, opened, and read from another place of the disk.
const FILE_COST: u64 = 32 << 10;
/// Between two times that is written down how far it is.
const KEPT_EVERY: Duration = Duration::from_secs(5);
/// Between two looks whether it is time, at most; and at least.
const LOOK: Duration = Duration::from_secs(10);
const LOOK_MIN: Duration = Duration::from_millis(5);

/// What reading files found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, files that were rotten, and are right now.
    pub mended: u64,
    /// Files that are rotten, and of which no other member that is there has what is missing.
    pub rotten: u64,
    /// Files that could not be read now: of an app that is closed, for one.
    pub skipped: u64,
}

/// A round through all files that has begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// When, milliseconds since 1970.
    pub begun_ms: u64,
    /// The key of the last file that is done, and of the next one the content and how many blocks of it are.
    pub(crate) after: Vec<u8>,
    pub(crate) within: Option<(ContentId, u64)>,
    /// So far.
    pub found: Scrubbed,
}

/// A round that came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it began, milliseconds since 1970.
    pub begun_ms: u64,
    /// And when it ended.
    pub ended_ms: u64,
    /// In all.
    pub found: Scrubbed,
}

/// What became of rounds that went by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounds {
    /// When the last began, or the index was made: the next is due so long after it.
    pub since_ms: u64,
    /// Under way.
    pub present: Option<Round>,
    /// The last that came to its end.
    pub last: Option<Ended>,
}

/// How a round goes.
struct Way<'a> {
    budget: &'a Budget,
    /// After each file.
    pause: Duration,
    /// It goes by itself: it is shown and written down, and opens nothing.
    is_own: bool,
    kept: Duration,
    task: &'a Task,
    /// About.
    bytes_total: u64,
}

/// Until the mesh is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let Some(every) = shared.options.scrub_every else { return };
    let budget = Budget::new(Some(shared.options.scrub_rate));
    // by either clock: the wall's may be set
    let mut since = shared.clock.monotonic();
    loop {
        if shared.is_round_due(every, since) {
            since = shared.clock.monotonic();
            let _ = shared.round_of_own(&budget).await;
        }
        tokio::time::sleep(every.clamp(LOOK_MIN, LOOK)).await;
    }
}

impl Shared {
    fn is_round_due(&self, every: Duration, since: Duration) -> bool {
        let rounds = self.rounds.lock();
        let passed = Duration::from_millis(self.clock.wall_ms().saturating_sub(rounds.since_ms));
        rounds.present.is_some() || passed >= every || self.clock.monotonic().saturating_sub(since) >= every
    }

    /// Begin a round, or go on with the one that was begun.
    async fn round_of_own(self: &Arc<Self>, budget: &Budget) -> Result<(), MeshError> {
        let mut round = {
            let mut rounds = self.rounds.lock();
            if rounds.present.is_none() {
                rounds.since_ms = self.clock.wall_ms();
                rounds.present = Some(Round { begun_ms: rounds.since_ms, ..Round::default() });
            }
            rounds.present.clone().unwrap_or_default()
        };
        let (task, kept) = (Task::quiet(), self.clock.monotonic());
        let way = Way { budget, pause: Duration::ZERO, is_own: true, kept, task: &task, bytes_total: 0 };
        self.go_round(&mut round, way).await?;
        {
            let mut rounds = self.rounds.lock();
            rounds.present = None;
            let (begun_ms, ended_ms) = (round.begun_ms, self.clock.wall_ms());
            rounds.last = Some(Ended { begun_ms, ended_ms, found: round.found });
        }
        self.keep_rounds().await
    }

    /// Read all files that this replica has, and mend what rotted; with a pause after each.
    pub async fn scrub(self: &Arc<Self>, pause: Duration, task: &Task) -> Result<Scrubbed, MeshError> {
        let (mut round, budget) = (Round::default(), Budget::new(None));
        let bytes_total = self.cared.lock().bytes_here;
        let way = Way { budget: &budget, pause, is_own: false, kept: Duration::ZERO, task, bytes_total };
        self.go_round(&mut round, way).await?;
        Ok(round.found)
    }

    async fn go_round(self: &Arc<Self>, round: &mut Round, mut way: Way<'_>) -> Result<(), MeshError> {
        loop {
            let (of, after) = (self.clone(), round.after.clone());
            let page = blocking(move || of.files_here(&after)).await?;
            for name in page.0 {
                if self.read_file(&name, round, &mut way).await.is_err() {
                    if way.task.cancel.is_cancelled() {
                        return Err(MeshError::Cancelled);
                    }
                    // the next time
                    round.found.skipped += 1;
                }
                (round.after, round.within) = (name.key(), None);
                self.show_round(round, &mut way).await;
                if !way.pause.is_zero() {
                    tokio::time::sleep(way.pause).await;
                }
            }
            match page.1 {
                Some(last) => round.after = last,
                None => return Ok(()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Files of which something is here, of the rows after a key; the last key, unless it was the last of all.
    fn files_here(&self, after: &[u8]) -> Result<(Vec<Name>, Option<Vec<u8>>), MeshError> {
        let rows = self.index.page((Bound::Excluded(after), Bound::Unbounded), PAGE)?;
        let last = rows.last().map(|(name, _)| name.key()).filter(|_| rows.len() == PAGE);
        let here = rows.into_iter().filter(|(_, row)| row.here.placed.is_some() || !row.here.kept.is_empty());
        Ok((here.map(|(name, _)| name).collect(), last))
    }

    async fn read_file(self: &Arc<Self>, name: &Name, round: &mut Round, way: &mut Way<'_>) -> Result<(), MeshError> {
        self.may_open(name, way)?;
        let (of, at) = (self.clone(), name.clone());
        let contents = blocking(move || of.contents_here(&at)).await?;
        for (id, content) in contents {
            let begin = match round.within {
                // done, before the process ended
                Some((within, _)) if id < within => continue,
                Some((within, block)) if id == within => block as usize,
                _ => 0,
            };
            self.read_content(name, (content, begin), round, way).await?;
        }
        Ok(())
    }

    fn may_open(&self, name: &Name, way: &Way<'_>) -> Result<(), MeshError> {
        match way.is_own && self.opened(&name.app).is_none() {
            true => Err(MeshError::Closed),
            false => Ok(()),
        }
    }

    fn contents_here(&self, name: &Name) -> Result<BTreeMap<ContentId, Content>, MeshError> {
        let row = self.index.row(name)?.unwrap_or_default();
        let contents = row.record.versions().iter().filter_map(|version| version.content);
        let here = contents.filter(|content| row.has_content(&content.id));
        Ok(here.map(|content| (content.id, content)).collect())
    }

    async fn read_content(
        self: &Arc<Self>,
        name: &Name,
        (content, mut block): (Content, usize),
        round: &mut Round,
        way: &mut Way<'_>,
    ) -> Result<(), MeshError> {
        way.pass(self, FILE_COST.saturating_sub(content.len)).await?;
        // it may have been closed while this waited
        self.may_open(name, way)?;
        let Some(pieces) = self.pieces(name, content.id).await? else { return Ok(()) };
        round.found.files += u64::from(block == 0);
        let mut is_right = pieces.is_whole();
        while let (true, Some(end)) = (is_right, pieces.end(block)) {
            let len = pieces.len(block, end);
            way.pass(self, len).await?;
            is_right = pieces.are_right(block, end).await?;
            round.found.bytes += len;
            (block, round.within) = (end, Some((content.id, end as u64)));
            if is_right {
                self.show_round(round, way).await;
            }
        }
        if !is_right {
            match self.mend(name, content).await {
                Ok(true) => round.found.mended += 1,
                _ => round.found.rotten += 1,
            }
        }
        Ok(())
    }

    /// How far a round is; written down once in a while.
    async fn show_round(self: &Arc<Self>, round: &Round, way: &mut Way<'_>) {
        let Scrubbed { files, bytes, .. } = round.found;
        way.task.report(Progress { entries_done: files, bytes_done: bytes, bytes_total: way.bytes_total });
        if !way.is_own {
            return;
        }
        self.rounds.lock().present = Some(round.clone());
        let now = self.clock.monotonic();
        if now.saturating_sub(way.kept) >= KEPT_EVERY {
            way.kept = now;
            // else what is done is done again
            let _ = self.keep_rounds().await;
        }
    }

    async fn keep_rounds(self: &Arc<Self>) -> Result<(), MeshError> {
        let of = self.clone();
        blocking(move || {
            let rounds = of.rounds.lock().clone();
            of.index.put_rounds(&rounds)
        })
        .await
    }
}

impl Way<'_> {
    /// Wait until so many bytes may be read.
    async fn pass(&self, shared: &Shared, bytes: u64) -> Result<(), MeshError> {
        if self.task.cancel.is_cancelled() {
            return Err(MeshError::Cancelled);
        }
        self.budget.pass(&*shared.clock, bytes).await;
        Ok(())
    }
}
