//! Blocks that come while their content is still being written elsewhere, and nobody knows yet what it will be.
//!
//! Invariant: they are staged and nothing else. When the version comes whose manifest has their hashes they are where its
//! transfer begins; what was never asked for is removed, and costs a member that sends it no more of this one's disk
//! than a few contents at a time.

use crate::early::EarlySync;
use crate::id::Hash;
use crate::in_hand::Held;
use crate::peers::blocking;
use crate::shared::Shared;
use crate::wire::{name_of, Ahead, Answer, Reply};
use crate::{Manifest, MeshError, Name, BLOCK_LEN};
use bytes::Bytes;
use macula_core::Staged;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Contents that come at once, of one member.
const OF_ONE_MAX: usize = 8;
/// Of all.
const ALL_MAX: usize = 32;
/// Without a piece for so long, none will come.
const SILENCE: Duration = Duration::from_secs(30);
/// Pieces may come out of order by so much, bytes.
const GAP_MAX: u64 = 64 << 20;

/// Contents that come.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<BTreeMap<(String, u64), Arc<Arriving>>>);

/// One content.
struct Arriving {
    name: Name,
    held: Arc<Held>,
    staged_name: String,
    staged: Arc<dyn Staged>,
    /// Held while a piece is written: the file system would have them wait for each other anyway, at full speed.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Hashes of the blocks that are there, and their lengths.
    blocks: BTreeMap<usize, (Hash, usize)>,
    end: u64,
    early: EarlySync,
    heard: Duration,
    /// It takes no more.
    is_ended: bool,
}

/// What came of a content, for its transfer.
pub(crate) struct Arrived {
    _held: Arc<Held>,
    pub staged_name: String,
    blocks: BTreeMap<usize, (Hash, usize)>,
}

impl Arrived {
    /// Whether a block of it is there, and right.
    pub fn has(&self, manifest: &Manifest, block: usize) -> bool {
        self.blocks.get(&block) == Some(&(manifest.blocks()[block], manifest.place(block).1))
    }
}

impl Arriving {
    fn right(&self, manifest: &Manifest) -> usize {
        let blocks = &self.state.lock().blocks;
        let is_right = |(block, found): &(&usize, &(Hash, usize))| {
            manifest.blocks().get(**block).is_some_and(|hash| **found == (*hash, manifest.place(**block).1))
        };
        blocks.iter().filter(is_right).count()
    }

    fn take(&self, offset: u64, piece: &Bytes, now: Duration) -> Result<bool, MeshError> {
        let hashes: Vec<_> =
            piece.chunks(BLOCK_LEN).map(|block| (*blake3::hash(block).as_bytes(), block.len())).collect();
        let mut state = self.state.lock();
        if state.is_ended || offset > state.end + GAP_MAX {
            return Ok(false);
        }
        self.staged.write_at(piece, offset)?;
        let first = (offset / BLOCK_LEN as u64) as usize;
        state.blocks.extend(hashes.into_iter().enumerate().map(|(at, found)| (first + at, found)));
        state.end = state.end.max(offset + piece.len() as u64);
        state.heard = now;
        state.early.wrote(piece.len() as u64, &self.staged);
        Ok(true)
    }
}

impl Shared {
    /// A piece of a content came. Answered is whether the next may come.
    pub async fn arrives(self: &Arc<Self>, from: &str, ahead: Ahead, piece: Bytes) -> Result<Reply, MeshError> {
        let (shared, from) = (self.clone(), from.to_owned());
        let is_taken = blocking(move || {
            let Ahead::Piece { key, token, offset } = ahead else {
                let Ahead::End { token } = ahead else { return Ok(false) };
                shared.end_arriving((from, token))?;
                return Ok(true);
            };
            if offset % BLOCK_LEN as u64 != 0 || piece.is_empty() {
                return Err(MeshError::Malformed("a piece that is none of whole blocks".into()));
            }
            if !shared.traffic.may_come_along(&*shared.clock, piece.len() as u64) {
                return Ok(false);
            }
            let arriving = shared.arriving((from, token), &name_of(&key)?)?;
            let now = shared.clock.monotonic();
            arriving.map_or(Ok(false), |arriving| arriving.take(offset, &piece, now))
        });
        match is_taken.await? {
            true => Ok(Reply::Answer(Answer::Took(Vec::new()))),
            false => Ok(Reply::Answer(Answer::NotHere)),
        }
    }

    fn arriving(&self, key: (String, u64), name: &Name) -> Result<Option<Arc<Arriving>>, MeshError> {
        let mut open = self.arrivals.0.lock();
        if let Some(arriving) = open.get(&key) {
            return Ok(Some(arriving.clone()).filter(|arriving| arriving.name == *name));
        }
        let of_one = open.keys().filter(|(from, _)| *from == key.0).count();
        if of_one >= OF_ONE_MAX || open.len() >= ALL_MAX {
            return Ok(None);
        }
        let (held, staged_name, staged) = self.stage_new(&*self.files(&name.app)?)?;
        // blocks that the file had before are left out
        let placed = self.index.row(name)?.and_then(|row| row.here.placed);
        let end = placed.map_or(0, |placed| placed.content.len);
        let state = Mutex::new(State { end, heard: self.clock.monotonic(), ..State::default() });
        let (name, held) = (name.clone(), Arc::new(held));
        let arriving = Arc::new(Arriving { name, held, staged_name, staged, state });
        open.insert(key, arriving.clone());
        Ok(Some(arriving))
    }

    /// What came of a content of a file, if something did. It is the caller's to stage under another name.
    pub fn arrived(&self, name: &Name, manifest: &Manifest) -> Option<Arrived> {
        let mut open = self.arrivals.0.lock();
        let of_name = open.iter().filter(|(_, arriving)| arriving.name == *name);
        let most = of_name.map(|(key, arriving)| (arriving.right(manifest), key.clone())).max()?;
        let arriving = open.remove(&most.1).filter(|_| most.0 > 0)?;
        drop(open);
        let mut state = arriving.state.lock();
        state.is_ended = true;
        let (_held, staged_name) = (arriving.held.clone(), arriving.staged_name.clone());
        Some(Arrived { _held, staged_name, blocks: std::mem::take(&mut state.blocks) })
    }

    fn end_arriving(&self, key: (String, u64)) -> Result<(), MeshError> {
        let Some(arriving) = self.arrivals.0.lock().remove(&key) else { return Ok(()) };
        arriving.state.lock().is_ended = true;
        // what cannot be removed now is swept
        let files = self.opened(&arriving.name.app);
        files.map_or(Ok(()), |files| Ok(files.unstage(&arriving.staged_name)?))
    }

    /// Let go of those of which nothing comes any more.
    pub fn end_silent_arrivals(&self) {
        let now = self.clock.monotonic();
        let is_silent = |arriving: &Arriving| now.saturating_sub(arriving.state.lock().heard) > SILENCE;
        let open: Vec<_> = self.arrivals.0.lock().iter().map(|(key, of)| (key.clone(), of.clone())).collect();
        for (key, _) in open.into_iter().filter(|(_, arriving)| is_silent(arriving)) {
            let _ = self.end_arriving(key);
        }
    }
}
