//! Files whose bytes are not those that were put there, though nobody touched them: found when they are read, and by
//! reading all once in a while.
//!
//! Invariant: such a file is replaced only by one whose every byte is right: what of it is right still, and the rest
//! from other members, of which each may be rotten elsewhere. Else it stays, and is told. What somebody changed is a
//! version, not rot.

use crate::fetch::Transfer;
use crate::id::Manifest;
use crate::peers::{blocking, Peer};
use crate::reading::is_right;
use crate::row::Row;
use crate::shared::Shared;
use crate::turn::CHUNK;
use crate::{Content, ContentId, MeshError, Name, BLOCK_LEN};
use macula_core::{Cancel, Opened};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Between two looks whether a file that somebody mends is mended.
const MENDING_PAUSE: Duration = Duration::from_millis(5);
/// Rows at once.
const PAGE: usize = 1_000;

/// What reading all files of this replica found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, files that were rotten, and are right now.
    pub mended: u64,
    /// Files that are rotten, and of which no other member that is there has what is missing.
    pub rotten: u64,
}

/// A file that is being mended: by one at a time.
struct Mending<'a>(&'a Shared, &'a Name);

impl<'a> Mending<'a> {
    fn begin(shared: &'a Shared, name: &'a Name) -> Option<Self> {
        shared.mending.lock().insert(name.clone()).then(|| Self(shared, name))
    }
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.0.mending.lock().remove(self.1);
    }
}

impl Shared {
    /// Mend it unless somebody does.
    pub async fn mend_once(self: &Arc<Self>, name: &Name, content: Content) {
        let is_being_mended = self.mending.lock().contains(name);
        if !is_being_mended {
            // what cannot be mended now is found again when it is read
            let _ = self.mend(name, content).await;
        }
    }

    /// Replace a content that is here and not what it was. Whether it is right now.
    pub async fn mend(self: &Arc<Self>, name: &Name, content: Content) -> Result<bool, MeshError> {
        let _alone = loop {
            match Mending::begin(self, name) {
                Some(alone) => break alone,
                None => tokio::time::sleep(MENDING_PAUSE).await,
            }
        };
        let (of, at) = (self.clone(), name.clone());
        let (row, is_right) = blocking(move || {
            let opened = of.open_content(&at, &content.id)?;
            let is_right = opened.map_or(Ok(false), |opened| of.is_right_opened(&*opened, &content.id))?;
            Ok((of.row(&at)?, is_right))
        })
        .await?;
        if is_right {
            return Ok(true);
        }
        let sources = self.others_with(&row, content);
        if sources.is_empty() {
            return Ok(false);
        }
        match Transfer::new(self, name, content, sources).mend(&row).await {
            // nobody who is there has what is missing
            Err(MeshError::Unreachable { .. }) => Ok(false),
            mended => mended,
        }
    }

    /// Members that can be asked and say that they have a content of a file.
    fn others_with(&self, row: &Row, content: Content) -> Vec<Arc<Peer>> {
        let is_it = |version: &&crate::Version| version.content == Some(content);
        let holders = row.record.versions().iter().filter(is_it).flat_map(|version| row.record.holders(version.dot));
        holders.filter(|replica| *replica != self.own()).filter_map(|replica| self.peers.of(replica)).collect()
    }

    /// Read all files that this replica has. Not on a task of `runtime`.
    pub fn scrub(self: &Arc<Self>, runtime: &Handle, cancel: &Cancel, pause: &dyn Fn()) -> Result<Scrubbed, MeshError> {
        let (mut scrubbed, mut after) = (Scrubbed::default(), Vec::new());
        loop {
            let rows = self.index.page((Bound::Excluded(&after[..]), Bound::Unbounded), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(scrubbed) };
            after = last.key();
            for (name, row) in rows {
                if cancel.is_cancelled() {
                    return Err(MeshError::Cancelled);
                }
                if row.here.placed.is_some() || !row.here.kept.is_empty() {
                    // of an app that cannot be opened now, the next time
                    let _ = self.scrub_one(runtime, &name, &mut scrubbed);
                    pause();
                }
            }
        }
    }

    fn scrub_one(self: &Arc<Self>, runtime: &Handle, name: &Name, scrubbed: &mut Scrubbed) -> Result<(), MeshError> {
        let row = self.index.row(name)?.unwrap_or_default();
        let is_here = |content: &Content| row.has_content(&content.id);
        let contents: BTreeMap<ContentId, Content> = (row.record.versions().iter())
            .filter_map(|version| version.content.filter(is_here))
            .map(|content| (content.id, content))
            .collect();
        for (id, content) in contents {
            let Some(opened) = self.open_content(name, &id)? else { continue };
            scrubbed.files += 1;
            scrubbed.bytes += opened.look().len;
            if !self.is_right_opened(&*opened, &id)? {
                match runtime.block_on(self.mend(name, content)) {
                    Ok(true) => scrubbed.mended += 1,
                    _ => scrubbed.rotten += 1,
                }
            }
        }
        Ok(())
    }

    fn is_right_opened(&self, opened: &dyn Opened, id: &ContentId) -> Result<bool, MeshError> {
        let len = opened.look().len;
        let manifest = match Manifest::of_one(len, id) {
            Some(manifest) => Some(manifest),
            None => self.index.manifest(id)?,
        };
        let Some(manifest) = manifest.filter(|manifest| manifest.len() == len) else { return Ok(false) };
        let (mut bytes, mut block) = (vec![0; CHUNK], 0);
        while block < manifest.blocks().len() {
            let last = (block + CHUNK / BLOCK_LEN).min(manifest.blocks().len()) - 1;
            let read = opened.read_at(&mut bytes, manifest.place(block).0)?;
            if !is_right(&manifest, block, last, &bytes[..read]) {
                return Ok(false);
            }
            block = last + 1;
        }
        Ok(true)
    }
}
