//! A version of a file that is read, here or from whoever has it.
//!
//! Invariant: it stays the version that it was when it was opened, whatever is written meanwhile; and what is read is
//! compared with its hash before anybody sees it, wherever it comes from.

use crate::peers::{blocking, Peer};
use crate::record::{Content, Dot, Version};
use crate::row::Row;
use crate::shared::Shared;
use crate::turn::{open_here, Turn};
use crate::wire::{Of, Request};
use crate::{ContentId, Manifest, MeshError, Name};
use macula_core::Opened;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// How often a file may be replaced while it is being opened.
const CHANGES_MAX: usize = 8;

/// A file that is opened here, if it is here.
pub type Opening = Option<Box<dyn Opened>>;

/// A version that is being read.
pub struct Reading {
    name: Name,
    pub(crate) row: Row,
    /// Which.
    pub version: Version,
    /// What it holds.
    pub content: Content,
    pub(crate) opened: Opening,
    /// The first bytes that come from elsewhere have it fetched.
    is_to_stay: AtomicBool,
}

impl Reading {
    /// Once some of it was read from elsewhere, the whole file is fetched to be kept here, in the background: if this is
    /// the version that the name shows. Nobody hears whether it comes.
    pub fn have_kept(&self) {
        let is_shown = self.row.record.winner().is_some_and(|winner| winner.dot == self.version.dot);
        self.is_to_stay.store(is_shown && self.opened.is_none(), Ordering::Release);
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).field("version", &self.version.dot).finish_non_exhaustive()
    }
}

impl Shared {
    /// What is known of a file now. A change that has begun is waited for, or finished if nobody does.
    pub fn row(&self, name: &Name) -> Result<Row, MeshError> {
        let row = self.index.row(name)?.unwrap_or_default();
        match row.here.pending.is_some() || self.unsynced.is_former(name) {
            true => Ok(Turn::of(self, name)?.row.clone()),
            false => Ok(row),
        }
    }

    /// A content of a file, opened, if it is here. What a row says is here and is not is found out once more.
    pub fn open_content(&self, name: &Name, id: &ContentId) -> Result<Opening, MeshError> {
        let files = self.files(&name.app)?;
        let row = self.row(name)?;
        match open_here(&*files, name, &row, id)? {
            None if row.has_content(id) => {
                let mut turn = Turn::of(self, name)?;
                turn.check()?;
                turn.open(id)
            }
            opened => Ok(opened),
        }
    }

    /// Open a version, or the one that the name shows.
    pub fn reading(&self, name: &Name, chosen: Option<Dot>) -> Result<Reading, MeshError> {
        let mut tries = 0;
        loop {
            let row = self.row(name)?;
            let version = match chosen {
                Some(dot) => row.version(&dot),
                None => row.record.winner().cloned(),
            };
            let version = version.and_then(|version| version.content.map(|content| (version, content)));
            let (version, content) = version.ok_or_else(|| MeshError::NotFound { path: name.path.clone() })?;
            let opened = self.open_content(name, &content.id)?;
            tries += 1;
            // replaced between the two looks
            if opened.is_none() && row.has_content(&content.id) && tries < CHANGES_MAX {
                continue;
            }
            let (name, is_to_stay) = (name.clone(), AtomicBool::new(false));
            return Ok(Reading { name, row, version, content, opened, is_to_stay });
        }
    }

    /// At most `len` bytes of it from an offset; none at its end.
    pub async fn read_part(
        self: &Arc<Self>,
        reading: &Arc<Reading>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, MeshError> {
        let end = reading.content.len.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let (of, at) = (self.clone(), reading.clone());
        let here = blocking(move || of.read_here(&at, (offset, end))).await?;
        if let Some(bytes) = here {
            return Ok(bytes);
        }
        let (of, at) = (self.clone(), reading.clone());
        match self.read_remote(reading, (offset, end)).await {
            Ok(bytes) => {
                if reading.is_to_stay.swap(false, Ordering::AcqRel) {
                    self.fetches.want_read(reading.name.clone());
                }
                if reading.opened.is_some() {
                    drop(tokio::spawn(async move { of.mend_once(&at.name, at.content).await }));
                }
                Ok(bytes)
            }
            // nobody has all of it: of each what is right
            Err(MeshError::Unreachable { path, .. }) if reading.opened.is_some() => {
                match of.mend(&at.name, at.content).await {
                    Ok(true) => self.read_mended(reading, (offset, end)).await,
                    _ => Err(MeshError::Rotten { path }),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn read_mended(self: &Arc<Self>, reading: &Arc<Reading>, part: (u64, u64)) -> Result<Vec<u8>, MeshError> {
        let (of, at) = (self.clone(), reading.clone());
        blocking(move || {
            let Reading { name, row, version, content, .. } = &*at;
            let opened = of.open_content(name, &content.id)?;
            let (name, row, version) = (name.clone(), row.clone(), version.clone());
            let is_to_stay = AtomicBool::new(false);
            let anew = Reading { name, row, version, content: *content, opened, is_to_stay };
            of.read_here(&anew, part)?.ok_or_else(|| MeshError::Rotten { path: at.name.path.clone() })
        })
        .await
    }

    /// From here; nothing when it is not here, or not what it was.
    fn read_here(&self, reading: &Reading, (offset, end): (u64, u64)) -> Result<Option<Vec<u8>>, MeshError> {
        let Some(opened) = &reading.opened else { return Ok(None) };
        let Content { id, len } = reading.content;
        let manifest = match Manifest::of_one(len, &id) {
            Some(manifest) => Some(manifest),
            None => self.index.manifest(&id)?,
        };
        let Some(manifest) = manifest else { return Ok(None) };
        let (first, last) = blocks_of(offset, end);
        let (from, _) = manifest.place(first);
        let (at, len) = manifest.place(last);
        let mut bytes = vec![0; (at + len as u64 - from) as usize];
        if opened.read_at(&mut bytes, from)? != bytes.len() || !is_right(&manifest, first, last, &bytes) {
            return Ok(None);
        }
        bytes.truncate((end - from) as usize);
        bytes.drain(..(offset - from) as usize);
        Ok(Some(bytes))
    }

    async fn read_remote(self: &Arc<Self>, reading: &Reading, part: (u64, u64)) -> Result<Vec<u8>, MeshError> {
        let Reading { name, row, version, content, .. } = reading;
        let now = self.clock.monotonic();
        let mut peers = self.peers.of_all(row.record.holders(version.dot), now);
        peers.sort_by_cached_key(|peer| (peer.is_doubted(now), peer.near.expected(now)));
        for peer in peers {
            match self.read_blocks(name, *content, &peer, part).await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => peer.doubt(self.clock.monotonic()),
                Err(error) => peer.refuse_by(self.clock.monotonic(), &error),
            }
        }
        Err(self.unreachable(name, row, version))
    }

    /// From one peer, block by block; none when it does not have them.
    async fn read_blocks(
        self: &Arc<Self>,
        name: &Name,
        content: Content,
        peer: &Peer,
        (offset, end): (u64, u64),
    ) -> Result<Option<Vec<u8>>, MeshError> {
        let manifest = self.manifest_of(name, content, peer).await?;
        let (first, last) = blocks_of(offset, end);
        let mut bytes = Vec::with_capacity((end - offset) as usize);
        for block in first..=last {
            let of = Of { key: name.key(), id: content.id };
            let asked = self.clock.monotonic();
            let Some(came) = peer.ask_bytes(&Request::Read(of, block as u64, 1)).await? else { return Ok(None) };
            peer.near.answered(asked, self.clock.monotonic());
            let (at, len) = manifest.place(block);
            if !is_right(&manifest, block, block, &came) {
                return Err(MeshError::Malformed(format!("{} has bytes that are not those of {name}", peer.name)));
            }
            let from = offset.saturating_sub(at) as usize;
            let to = (end - at).min(len as u64) as usize;
            bytes.extend_from_slice(&came[from..to]);
        }
        Ok(Some(bytes))
    }
}

/// The first and the last block of some bytes, of which there is one at least.
fn blocks_of(offset: u64, end: u64) -> (usize, usize) {
    let block_len = crate::BLOCK_LEN as u64;
    ((offset / block_len) as usize, ((end - 1) / block_len) as usize)
}

/// Whether bytes are those blocks.
pub(crate) fn is_right(manifest: &Manifest, first: usize, last: usize, bytes: &[u8]) -> bool {
    let mut at = 0;
    for block in first..=last {
        let (_, len) = manifest.place(block);
        match (bytes.get(at..at + len), manifest.blocks().get(block)) {
            (Some(part), Some(hash)) if blake3::hash(part).as_bytes() == hash => at += len,
            _ => return false,
        }
    }
    at == bytes.len()
}
