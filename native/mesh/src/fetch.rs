//! Brings contents here that this replica shall have: only the blocks that are missing, from several at once.
//!
//! Invariant: a block is written only if it has the hash that the manifest says, and the manifest is the one that
//! the version names; so whoever sends something else costs a transfer nothing but time. What was staged stays, and
//! the next try, of this process or another, goes on from it.

use crate::early::EarlySync;
use crate::in_hand::Held;
use crate::peers::{blocking, Peer};
use crate::reading::is_right;
use crate::record::Version;
use crate::row::{aside, Row};
use crate::shared::Shared;
use crate::turn::{open_here, Turn};
use crate::unsynced::SHORT_MAX;
use crate::wire::{Of, Request, BLOCKS_MAX};
use crate::{Content, ContentId, Manifest, MeshError, Name};
use bytes::Bytes;
use macula_core::{Kind, Kinded, Opened, Staged};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// Files that are fetched at once.
const WORKERS: usize = 16;
/// Requests for blocks under way, of all files: each is of 1 MiB at most.
const REQUESTS_MAX: usize = 24;
/// Of one file.
const REQUESTS_OF_ONE_MAX: usize = 8;
/// Until what failed is tried again, unless a member comes.
const AGAIN: Duration = Duration::from_secs(3);

/// What is to be fetched.
pub(crate) struct Fetches {
    queue: Mutex<Queue>,
    wake: Notify,
    requests: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    wanted: BTreeSet<Name>,
    /// Being fetched; true: wanted again meanwhile.
    under_way: BTreeMap<Name, bool>,
    /// Failed, and waiting.
    later: BTreeSet<Name>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), requests: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }
}

impl Fetches {
    /// Content of a file is wanted here.
    pub fn want(&self, name: Name) {
        let mut queue = self.queue.lock();
        match queue.under_way.get_mut(&name) {
            Some(again) => *again = true,
            None => drop(queue.wanted.insert(name)),
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Somebody came: what failed may be had now.
    pub fn look(&self) {
        let mut queue = self.queue.lock();
        let mut later = std::mem::take(&mut queue.later);
        queue.wanted.append(&mut later);
        drop(queue);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Files of which content is wanted here, whatever is being done for it.
    pub fn waiting(&self) -> usize {
        let queue = self.queue.lock();
        queue.wanted.len() + queue.under_way.len() + queue.later.len()
    }

    /// All of them, if they are no more than that.
    pub fn names(&self, max: usize) -> Option<Vec<Name>> {
        let queue = self.queue.lock();
        let Queue { wanted, under_way, later } = &*queue;
        let is_few = wanted.len() + under_way.len() + later.len() <= max;
        is_few.then(|| wanted.iter().chain(under_way.keys()).chain(later).cloned().collect())
    }

    async fn next(&self) -> Name {
        loop {
            let woken = self.wake.notified();
            {
                let mut queue = self.queue.lock();
                if let Some(name) = queue.wanted.pop_first() {
                    queue.under_way.insert(name.clone(), false);
                    if !queue.wanted.is_empty() {
                        self.wake.notify_one();
                    }
                    return name;
                }
            }
            woken.await;
        }
    }

    fn ended(&self, name: Name, is_done: bool) {
        let mut queue = self.queue.lock();
        let again = queue.under_way.remove(&name).unwrap_or_default();
        if again {
            queue.wanted.insert(name);
            self.wake.notify_one();
        } else if !is_done {
            queue.later.insert(name);
        }
    }
}

/// Fetch what is wanted, for as long as there is a mesh.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let shared = shared.clone();
        workers.spawn(async move {
            loop {
                let name = shared.fetches.next().await;
                let is_done = matches!(fetch(&shared, &name).await, Ok(true));
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
async fn fetch(shared: &Arc<Shared>, name: &Name) -> Result<bool, MeshError> {
    let (of, at) = (shared.clone(), name.clone());
    let (row, wanted) = blocking(move || {
        let row = of.index.row(&at)?.unwrap_or_default();
        let mut wanted: Vec<Version> = of.wanted(&at, &row).cloned().collect();
        // what the name shows goes first
        let shown = row.record.winner().map(|winner| winner.dot);
        wanted.sort_by_key(|version| Some(version.dot) != shown);
        Ok((row, wanted))
    })
    .await?;
    for version in wanted {
        let Some(content) = version.content else { continue };
        let sources: Vec<Arc<Peer>> =
            row.record.holders(version.dot).filter_map(|replica| shared.peers.of(replica)).collect();
        if sources.is_empty() {
            return Ok(false);
        }
        let is_shown = row.record.winner().map(|winner| winner.dot) == Some(version.dot);
        if is_shown && content.len <= SHORT_MAX as u64 {
            fetch_short(shared, name, &row, content, &sources).await?;
            continue;
        }
        Transfer::new(shared, name, content, sources).run(&row).await?;
    }
    Ok(true)
}

/// A short content, which is not staged: it comes as if its record had brought it along.
async fn fetch_short(
    shared: &Arc<Shared>,
    name: &Name,
    row: &Row,
    content: Content,
    sources: &[Arc<Peer>],
) -> Result<(), MeshError> {
    for peer in sources {
        let of = Of { key: name.key(), id: content.id };
        let Ok(Some(bytes)) = peer.ask_bytes(&Request::Blocks(of, 0, 1)).await else { continue };
        if bytes.len() as u64 == content.len && ContentId::of_block(&bytes) == content.id {
            let (shared, name, record) = (shared.clone(), name.clone(), row.record.clone());
            // nobody but this replica makes news of it
            return blocking(move || shared.merge(&name, &record, Some(&bytes), "").map(drop)).await;
        }
    }
    Err(MeshError::Unreachable { path: name.path.clone(), holders: String::new() })
}

/// Blocks in a row: the first, and how many.
type Run = (usize, usize);

/// One content on its way.
pub(crate) struct Transfer {
    shared: Arc<Shared>,
    name: Name,
    content: Content,
    /// Those that are asked; who sent something else is no more.
    sources: Mutex<Vec<Arc<Peer>>>,
    _staged: Held,
}

impl Transfer {
    pub fn new(shared: &Arc<Shared>, name: &Name, content: Content, sources: Vec<Arc<Peer>>) -> Arc<Self> {
        let _staged = shared.in_hand.take(&aside(name, &content.id));
        Arc::new(Self { shared: shared.clone(), name: name.clone(), content, sources: Mutex::new(sources), _staged })
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
        let manifest = Arc::new(self.manifest().await?);
        let (of, plan, before) = (self.clone(), manifest.clone(), row.clone());
        let (staged, missing) = blocking(move || of.begin(&plan, &before)).await?;
        self.bring_blocks(&manifest, &staged, missing).await?;
        Ok((manifest, staged))
    }

    fn of(&self) -> Of {
        Of { key: self.name.key(), id: self.content.id }
    }

    async fn manifest(&self) -> Result<Manifest, MeshError> {
        while let Some(peer) = self.source(0) {
            match self.shared.manifest_of(&self.name, self.content, &peer).await {
                Ok(manifest) => return Ok(manifest),
                Err(_) => self.drop_source(&peer),
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
        let staged: Arc<dyn Staged> = Arc::from(files.stage(&self.staged_name())?);
        let mut missing = Vec::new();
        let mut bytes = vec![0; crate::BLOCK_LEN];
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
        let permit = self.shared.fetches.requests.clone().acquire_owned().await;
        let asked = peer.ask_bytes(&Request::Blocks(self.of(), first as u64, count as u32)).await;
        let Ok(Some(bytes)) = asked else {
            self.drop_source(peer);
            return Ok(false);
        };
        let is_right = blocking(move || {
            let _permit = permit;
            write_run(&manifest, &*staged, first, count, &bytes)
        })
        .await?;
        if !is_right {
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
