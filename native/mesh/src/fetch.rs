//! Brings contents here that this replica shall have: only the blocks that are missing, from several at once.
//!
//! Invariant: a block is written only if it has the hash that the manifest says, and the manifest is the one that
//! the version names; so whoever sends something else costs a transfer nothing but time. What was staged stays, and
//! the next try, of this process or another, goes on from it.

use crate::arriving::Arrived;
use crate::early::EarlySync;
use crate::in_hand::Held;
use crate::peers::{blocking, Came, Peer};
use crate::reading::is_right;
use crate::record::Version;
use crate::row::{aside, Row};
use crate::shared::Shared;
use crate::turn::{open_here, Turn};
use crate::unsynced::SHORT_MAX;
use crate::wanted::Why;
use crate::wire::{Answer, Of, Request, BLOCKS_MAX};
use crate::{Content, ContentId, Manifest, MeshError, Name};
use bytes::Bytes;
use macula_core::{AppFiles, Kind, Kinded, Opened, Staged};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

/// Files that are fetched at once.
const WORKERS: usize = 16;
/// Requests for blocks of one file under way.
const REQUESTS_OF_ONE_MAX: usize = 8;
/// Until what failed is tried again, unless a member comes.
const AGAIN: Duration = Duration::from_secs(3);
/// For how long a member may put one request off before it counts as one that does not have it.
const LATER_MAX: Duration = Duration::from_secs(120);
const LATER_MIN: Duration = Duration::from_millis(20);

/// Fetch what is wanted, for as long as there is a mesh.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let shared = shared.clone();
        workers.spawn(async move {
            loop {
                let (name, why) = shared.fetches.next().await;
                let is_done = matches!(fetch(&shared, &name, why).await, Ok(true));
                shared.fetches.ended(name, is_done);
            }
        });
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        shared.fetches.look();
    }
}

/// Everything of a file that is wanted here; whether it is here now.
async fn fetch(shared: &Arc<Shared>, name: &Name, why: Why) -> Result<bool, MeshError> {
    let (of, at, is_read) = (shared.clone(), name.clone(), shared.fetches.take_read(name));
    let (row, wanted, extra) = blocking(move || {
        let row = of.index.row(&at)?.unwrap_or_default();
        let mut wanted: Vec<Version> = of.wanted(&at, &row).cloned().collect();
        // what a caller read and placement has elsewhere
        let is_extra = |shown: &&Version| !row.has(shown) && wanted.iter().all(|version| version.dot != shown.dot);
        let extra = row.record.winner().filter(|_| is_read).filter(is_extra).cloned();
        let extra_dot = extra.as_ref().map(|version| version.dot);
        wanted.extend(extra);
        // what the name shows goes first
        let shown = row.record.winner().map(|winner| winner.dot);
        wanted.sort_by_key(|version| Some(version.dot) != shown);
        Ok((row, wanted, extra_dot))
    })
    .await?;
    for version in wanted {
        let Some(content) = version.content else { continue };
        let now = shared.clock.monotonic();
        let mut sources = shared.peers.of_all(row.record.holders(version.dot), now);
        if sources.iter().any(|peer| !peer.is_doubted(now)) {
            sources.retain(|peer| !peer.is_doubted(now));
        }
        if sources.is_empty() {
            return Ok(false);
        }
        let is_shown = row.record.winner().map(|winner| winner.dot) == Some(version.dot);
        if is_shown && content.len <= SHORT_MAX as u64 && extra != Some(version.dot) {
            fetch_short(shared, (name, &row), content, why, &sources).await?;
            continue;
        }
        Transfer::new(shared, name, (content, why), sources).run(&row).await?;
    }
    Ok(true)
}

/// A short content, which is not staged: it comes as if its record had brought it along.
async fn fetch_short(
    shared: &Arc<Shared>,
    (name, row): (&Name, &Row),
    content: Content,
    why: Why,
    sources: &[Arc<Peer>],
) -> Result<(), MeshError> {
    for peer in sources {
        let of = Of { key: name.key(), id: content.id };
        let asked = ask_blocks(shared, peer, (of, 0, 1), (content.len, why)).await;
        let Some((bytes, _permit)) = asked else { continue };
        if bytes.len() as u64 == content.len && ContentId::of_block(&bytes) == content.id {
            let (shared, name, record) = (shared.clone(), name.clone(), row.record.clone());
            // nobody but this replica makes news of it
            return blocking(move || shared.merge(&name, &record, Some(&bytes), "").map(drop)).await;
        }
        peer.refuse(shared.clock.monotonic(), &format!("bytes that are not those of {name}"));
    }
    Err(MeshError::Unreachable { path: name.path.clone(), holders: String::new() })
}

/// Ask for so many blocks from one on, of that many bytes, when they may come, as often as a member says "later"; nothing
/// when it does not have them. Others may ask when the permit is dropped.
async fn ask_blocks(
    shared: &Shared,
    peer: &Peer,
    (of, first, count): (Of, u64, u32),
    (len, why): (u64, Why),
) -> Option<(Bytes, OwnedSemaphorePermit)> {
    let (traffic, clock) = (&shared.traffic, &*shared.clock);
    let request = Request::Blocks(of.clone(), first, count);
    let (mut is_booked, mut waited) = (false, Duration::ZERO);
    traffic.pass_moved(clock, why, len).await;
    loop {
        let permit = shared.fetches.requests.clone().acquire_owned().await.ok()?;
        if !is_booked {
            traffic.pass_fetched(clock, len).await;
            is_booked = true;
        }
        let came = match peer.ask_blocks(&request).await {
            Ok(came) => came,
            Err(error) => {
                peer.refuse_by(clock.monotonic(), &error);
                return None;
            }
        };
        match came {
            Came::Bytes(bytes) => return Some((bytes, permit)),
            Came::NotHere => {
                drop(permit);
                if claims(peer, &of).await {
                    peer.refuse(clock.monotonic(), "it lacks a content that it says it has");
                }
                return None;
            }
            Came::Later(wait) if waited < LATER_MAX => {
                drop(permit);
                let wait = wait.clamp(LATER_MIN, LATER_MAX);
                waited += wait;
                tokio::time::sleep(wait).await;
            }
            Came::Later(_) => {
                peer.refuse(clock.monotonic(), "it puts off for minutes what it says it has");
                return None;
            }
        }
    }
}

/// Whether a member that lacks a content says that it has it, and did not merely replace it meanwhile.
async fn claims(peer: &Peer, of: &Of) -> bool {
    let Ok(Answer::Records(records)) = peer.ask(&Request::Records(vec![of.key.clone()])).await else { return false };
    let is_it = |version: &&Version| version.content.is_some_and(|content| content.id == of.id);
    records.iter().flatten().any(|record| {
        let versions = record.versions().iter().filter(is_it);
        versions.flat_map(|version| record.holders(version.dot)).any(|holder| holder == peer.replica())
    })
}

/// Blocks in a row: the first, and how many.
type Run = (usize, usize);

/// One content on its way.
pub(crate) struct Transfer {
    shared: Arc<Shared>,
    name: Name,
    content: Content,
    why: Why,
    /// Those that are asked; who sent something else is no more.
    sources: Mutex<Vec<Arc<Peer>>>,
    _staged: Held,
}

impl Transfer {
    pub fn new(
        shared: &Arc<Shared>,
        name: &Name,
        (content, why): (Content, Why),
        sources: Vec<Arc<Peer>>,
    ) -> Arc<Self> {
        let _staged = shared.in_hand.take(&aside(name, &content.id));
        let (shared, name, sources) = (shared.clone(), name.clone(), Mutex::new(sources));
        Arc::new(Self { shared, name, content, why, sources, _staged })
    }

    async fn run(self: Arc<Self>, row: &Row) -> Result<(), MeshError> {
        let (manifest, staged) = self.clone().bring(row).await?;
        blocking(move || self.end(&manifest, &*staged)).await
    }

    /// The same content that is here and not what it was; whether it was there still to be replaced.
    pub async fn mend(self: Arc<Self>, row: &Row) -> Result<bool, MeshError> {
        let of = self.clone();
        let replaced = match self.clone().bring(row).await {
            Ok((manifest, staged)) => blocking(move || of.replace(&manifest, &*staged)).await,
            Err(error) => Err(error),
        };
        if !matches!(replaced, Ok(true)) {
            // nobody goes on with it
            let _ = blocking(move || Ok(self.shared.files(&self.name.app)?.unstage(&self.staged_name())?)).await;
        }
        replaced
    }

    fn staged_name(&self) -> String {
        aside(&self.name, &self.content.id)
    }

    /// All its blocks, staged.
    async fn bring(self: Arc<Self>, row: &Row) -> Result<(Arc<Manifest>, Arc<dyn Staged>), MeshError> {
        let (manifest, _room) = self.manifest().await?;
        let manifest = Arc::new(manifest);
        let (of, plan, before) = (self.clone(), manifest.clone(), row.clone());
        let (staged, missing) = blocking(move || of.begin(&plan, &before)).await?;
        self.bring_blocks(&manifest, &staged, missing).await?;
        Ok((manifest, staged))
    }

    fn of(&self) -> Of {
        Of { key: self.name.key(), id: self.content.id }
    }

    /// And room for it, until that is dropped: it is as long as its content, and anybody may say how long that is.
    async fn manifest(&self) -> Result<(Manifest, OwnedSemaphorePermit), MeshError> {
        let mib = (crate::id::manifest_len(self.content.len) >> 20) as u32;
        // who waits for room would be a worker less: it is tried again
        let room = self.shared.fetches.manifests.clone().try_acquire_many_owned(mib);
        let room = room.map_err(|_| MeshError::Internal("no room for a manifest now".into()))?;
        while let Some(peer) = self.source(0) {
            match self.shared.manifest_of(&self.name, self.content, &peer).await {
                Ok(manifest) => return Ok((manifest, room)),
                Err(error) => {
                    peer.refuse_by(self.shared.clock.monotonic(), &error);
                    self.drop_source(&peer);
                }
            }
        }
        Err(MeshError::Unreachable { path: self.name.path.clone(), holders: String::new() })
    }

    /// One of those that can be asked, in turn.
    fn source(&self, turn: usize) -> Option<Arc<Peer>> {
        let sources = self.sources.lock();
        (!sources.is_empty()).then(|| sources[turn % sources.len()].clone())
    }

    fn drop_source(&self, peer: &Arc<Peer>) {
        self.sources.lock().retain(|other| !Arc::ptr_eq(other, peer));
    }

    /// What a former try left, and what other contents of this file have in common with it, is taken from there.
    fn begin(&self, manifest: &Manifest, row: &Row) -> Result<(Arc<dyn Staged>, Vec<usize>), MeshError> {
        let files = self.shared.files(&self.name.app)?;
        let arrived = self.arrived(manifest, &*files);
        let staged: Arc<dyn Staged> = Arc::from(files.stage(&self.staged_name())?);
        let mut missing = match arrived {
            Some(arrived) => (0..manifest.blocks().len()).filter(|block| !arrived.has(manifest, *block)).collect(),
            None => missing_of(manifest, &*staged)?,
        };
        let others = row.here.placed.iter().map(|placed| placed.content.id).chain(row.here.kept.iter().copied());
        for id in others {
            let opened = open_here(&*files, &self.name, row, &id)?;
            if let (false, Some(opened), Some(other)) = (missing.is_empty(), opened, self.shared.index.manifest(&id)?) {
                missing = take_from(&*opened, &other, manifest, &*staged, missing)?;
            }
        }
        if let (false, Some(twin)) = (missing.is_empty(), self.shared.index.name_with(&self.content.id)?) {
            // a copy, or the file before it was renamed
            if let Some(opened) = self.shared.open_content(&twin, &self.content.id)? {
                missing = take_from(&*opened, manifest, manifest, &*staged, missing)?;
            }
        }
        Ok((staged, missing))
    }

    /// What came while it was written elsewhere, staged under the name of this transfer.
    fn arrived(&self, manifest: &Manifest, files: &dyn AppFiles) -> Option<Arrived> {
        let arrived = self.shared.arrived(&self.name, manifest)?;
        let restaged = files.restage(&arrived.staged_name, &self.staged_name());
        restaged.is_ok().then_some(arrived)
    }

    async fn bring_blocks(
        self: Arc<Self>,
        manifest: &Arc<Manifest>,
        staged: &Arc<dyn Staged>,
        missing: Vec<usize>,
    ) -> Result<(), MeshError> {
        let mut runs = runs_of(&missing);
        let mut asked: JoinSet<Result<(Run, bool), MeshError>> = JoinSet::new();
        let (mut turn, mut early) = (0, EarlySync::default());
        loop {
            while asked.len() < REQUESTS_OF_ONE_MAX {
                let Some(run) = runs.pop() else { break };
                let Some(peer) = self.source(turn) else {
                    return Err(MeshError::Unreachable { path: self.name.path.clone(), holders: String::new() });
                };
                turn += 1;
                let (transfer, manifest, staged) = (self.clone(), manifest.clone(), staged.clone());
                asked.spawn(async move { Ok((run, transfer.bring_run(&peer, manifest, staged, run).await?)) });
            }
            match asked.join_next().await {
                None => return Ok(()),
                Some(Ok(Ok((run, is_done)))) => match is_done {
                    true => early.wrote(run.1 as u64 * crate::BLOCK_LEN as u64, staged),
                    false => runs.push(run),
                },
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(error)) => return Err(MeshError::Internal(format!("a request ended: {error}"))),
            }
        }
    }

    /// Some blocks in a row from a member; whether it had them. An error is one of this side.
    async fn bring_run(
        &self,
        peer: &Arc<Peer>,
        manifest: Arc<Manifest>,
        staged: Arc<dyn Staged>,
        (first, count): Run,
    ) -> Result<bool, MeshError> {
        let (at, last_len) = manifest.place(first + count - 1);
        let len = at + last_len as u64 - manifest.place(first).0;
        let asked = (self.of(), first as u64, count as u32);
        let Some((bytes, permit)) = ask_blocks(&self.shared, peer, asked, (len, self.why)).await else {
            self.drop_source(peer);
            return Ok(false);
        };
        let is_right = blocking(move || {
            let _permit = permit;
            write_run(&manifest, &*staged, first, count, &bytes)
        })
        .await?;
        if !is_right {
            let why = format!("bytes that are not those of {}", self.name);
            peer.refuse(self.shared.clock.monotonic(), &why);
            self.drop_source(peer);
        }
        Ok(is_right)
    }

    /// All blocks are there.
    fn end(&self, manifest: &Manifest, staged: &dyn Staged) -> Result<(), MeshError> {
        staged.seal(manifest.len(), manifest.whole())?;
        let staged_name = self.staged_name();
        let mut turn = Turn::of(&self.shared, &self.name)?;
        let id = self.content.id;
        let is_left = |turn: &Turn<'_>| {
            turn.row.record.versions().iter().any(|version| version.content.is_some_and(|content| content.id == id))
        };
        let shows =
            |turn: &Turn<'_>| turn.row.record.winner().and_then(|version| version.content).map(|content| content.id);
        if shows(&turn) == Some(id) && !turn.row.has_content(&id) {
            // somebody else may have written to the file here
            turn.adopt()?;
        }
        if !is_left(&turn) || turn.row.has_content(&id) {
            return Ok(turn.files.unstage(&staged_name)?);
        }
        if shows(&turn) == Some(id) {
            let record = turn.row.record.clone();
            return turn.bring(record, Some(staged_name), false);
        }
        turn.files.keep(&staged_name, &staged_name)?;
        turn.row.here.kept.push(id);
        let record = turn.row.record.clone();
        turn.know(record)
    }

    fn replace(&self, manifest: &Manifest, staged: &dyn Staged) -> Result<bool, MeshError> {
        staged.seal(manifest.len(), manifest.whole())?;
        Turn::of(&self.shared, &self.name)?.replace(&self.content.id, &self.staged_name())
    }
}

/// The blocks that are not there, of a content that a former try left.
fn missing_of(manifest: &Manifest, staged: &dyn Staged) -> Result<Vec<usize>, MeshError> {
    let (mut missing, mut bytes) = (Vec::new(), vec![0; crate::BLOCK_LEN]);
    let staged_len = staged.len()?;
    for (block, hash) in manifest.blocks().iter().enumerate() {
        let (offset, len) = manifest.place(block);
        let is_there = offset + len as u64 <= staged_len
            && staged.read_at(&mut bytes[..len], offset)? == len
            && blake3::hash(&bytes[..len]).as_bytes() == hash;
        if !is_there {
            missing.push(block);
        }
    }
    Ok(missing)
}

/// Take the blocks that another content has, too, from there; those that are missing still.
fn take_from(
    opened: &dyn Opened,
    other: &Manifest,
    manifest: &Manifest,
    staged: &dyn Staged,
    missing: Vec<usize>,
) -> Result<Vec<usize>, MeshError> {
    let there: HashMap<_, _> = other.blocks().iter().enumerate().map(|(block, hash)| (*hash, block)).collect();
    let (mut left, mut bytes) = (Vec::new(), vec![0; crate::BLOCK_LEN]);
    for block in missing {
        let hash = manifest.blocks()[block];
        let (offset, len) = manifest.place(block);
        let from = there.get(&hash).map(|block| other.place(*block).0);
        let is_same = match from {
            Some(from) => {
                opened.read_at(&mut bytes[..len], from)? == len && *blake3::hash(&bytes[..len]).as_bytes() == hash
            }
            None => false,
        };
        match is_same {
            true => staged.write_at(&bytes[..len], offset)?,
            false => left.push(block),
        }
    }
    Ok(left)
}

/// Blocks of an answer, if they are what they should be.
fn write_run(
    manifest: &Manifest,
    staged: &dyn Staged,
    first: usize,
    count: usize,
    bytes: &Bytes,
) -> Result<bool, MeshError> {
    if !is_right(manifest, first, first + count - 1, bytes) {
        return Ok(false);
    }
    match staged.write_at(bytes, manifest.place(first).0) {
        // what others sent stays: there may be room later
        Err(error) if error.kind() == Kind::DiskFull => Err(error.into()),
        written => Ok(written.map(|()| true)?),
    }
}

/// Blocks in a row, the last first.
fn runs_of(missing: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for block in missing {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == *block && *count < BLOCKS_MAX as usize => *count += 1,
            _ => runs.push((*block, 1)),
        }
    }
    runs.reverse();
    runs
}
