//! Files whose bytes are not those that were put there, though nobody touched them: found when they are read, and by
//! reading all once in a while (`rounds.rs`).
//!
//! Invariant: such a file is replaced only by one whose every byte is right: what of it is right still, and the rest
//! from other members, of which each may be rotten elsewhere. Else it stays, and is told. What somebody changed is a
//! version, not rot.

use crate::events::What;
use crate::fetch::Transfer;
use crate::id::Manifest;
use crate::peers::{blocking, Peer};
use crate::reading::is_right;
use crate::row::Row;
use crate::shared::Shared;
use crate::turn::CHUNK;
use crate::wanted::Why;
use crate::{Content, ContentId, MeshError, Name, BLOCK_LEN};
use macula_core::Opened;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks whether a file that somebody mends is mended.
const MENDING_PAUSE: Duration = Duration::from_millis(5);
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

/// A content that is here, in pieces of [`CHUNK`] bytes. A piece is some blocks: the first, and the one behind the last.
pub(crate) struct Pieces {
    opened: Arc<dyn Opened>,
    /// None when what is here has another length, or nobody knows its blocks: then no piece of it is right.
    manifest: Option<Arc<Manifest>>,
}

impl Pieces {
    /// Where the piece ends that begins with this block; none behind the last.
    pub fn end(&self, block: usize) -> Option<usize> {
        let blocks = self.manifest.as_ref()?.blocks().len();
        (block < blocks).then(|| (block + CHUNK / BLOCK_LEN).min(blocks))
    }

    /// Bytes of a piece.
    pub fn len(&self, block: usize, end: usize) -> u64 {
        let Some(manifest) = &self.manifest else { return 0 };
        let (at, len) = manifest.place(end - 1);
        at + len as u64 - manifest.place(block).0
    }

    /// Whether there are any.
    pub fn is_whole(&self) -> bool {
        self.manifest.is_some()
    }

    /// Whether the bytes of a piece are what they shall be.
    pub async fn are_right(&self, block: usize, end: usize) -> Result<bool, MeshError> {
        let Some(manifest) = self.manifest.clone() else { return Ok(false) };
        let (opened, len) = (self.opened.clone(), self.len(block, end) as usize);
        blocking(move || {
            let mut bytes = vec![0; len];
            let read = opened.read_at(&mut bytes, manifest.place(block).0)?;
            Ok(is_right(&manifest, block, end - 1, &bytes[..read]))
        })
        .await
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
        if self.is_right_here(name, content.id).await? {
            return Ok(true);
        }
        self.listeners.tell(name, What::Rotten);
        let (of, at) = (self.clone(), name.clone());
        let row = blocking(move || of.row(&at)).await?;
        let sources = self.others_with(&row, content);
        if sources.is_empty() {
            return Ok(false);
        }
        match Transfer::new(self, name, (content, Why::New), sources).mend(&row).await {
            // nobody who is there has what is missing
            Err(MeshError::Unreachable { .. }) => Ok(false),
            Ok(true) => {
                self.listeners.tell(name, What::Mended);
                Ok(true)
            }
            ended => ended,
        }
    }

    async fn is_right_here(self: &Arc<Self>, name: &Name, id: ContentId) -> Result<bool, MeshError> {
        let Some(pieces) = self.pieces(name, id).await? else { return Ok(false) };
        let mut block = 0;
        while let Some(end) = pieces.end(block) {
            if !pieces.are_right(block, end).await? {
                return Ok(false);
            }
            block = end;
        }
        Ok(pieces.is_whole())
    }

    /// A content that is here, to be read in pieces.
    pub(crate) async fn pieces(self: &Arc<Self>, name: &Name, id: ContentId) -> Result<Option<Pieces>, MeshError> {
        let (of, at) = (self.clone(), name.clone());
        blocking(move || {
            let Some(opened) = of.open_content(&at, &id)? else { return Ok(None) };
            let len = opened.look().len;
            let manifest = match Manifest::of_one(len, &id) {
                Some(manifest) => Some(manifest),
                None => of.index.manifest(&id)?,
            };
            let manifest = manifest.filter(|manifest| manifest.len() == len).map(Arc::new);
            Ok(Some(Pieces { opened: Arc::from(opened), manifest }))
        })
        .await
    }

    /// Members that can be asked and say that they have a content of a file.
    fn others_with(&self, row: &Row, content: Content) -> Vec<Arc<Peer>> {
        let is_it = |version: &&crate::Version| version.content == Some(content);
        let holders = row.record.versions().iter().filter(is_it).flat_map(|version| row.record.holders(version.dot));
        holders.filter(|replica| *replica != self.own()).filter_map(|replica| self.peers.of(replica)).collect()
    }
}
