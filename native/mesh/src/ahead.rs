//! Sends a content that is being written to those who shall have it, before anybody knows what it will be.
//!
//! Invariant: nothing counts on it, and the writer never waits for it. What does not fit into the few pieces under way,
//! or is refused, or gets lost, is fetched when the version is known; so is nothing that others have from the file's
//! former content.

use crate::id::Hash;
use crate::peers::Peer;
use crate::placement::Place;
use crate::shared::Shared;
use crate::wire::{Ahead, Answer, Request, PIECE_LEN};
use crate::{Name, BLOCK_LEN};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pieces of one content that wait for one member, and that are under way to it.
const WAITING_MAX: usize = 4;
const UNDER_WAY_MAX: usize = 4;

/// The record of a version is not held back longer for what is under way; those blocks then travel twice.
const SETTLE: Duration = Duration::from_millis(200);

/// Dropped when nothing more is sent to a member.
type Done = std::sync::mpsc::Sender<()>;

/// A content on its way to some members.
pub(crate) struct Sending {
    shared: Arc<Shared>,
    key: Vec<u8>,
    token: u64,
    /// Hashes of blocks that the file had before.
    known: HashSet<Hash>,
    peers: Vec<mpsc::Sender<Bytes>>,
    /// It was given up.
    is_over: Arc<AtomicBool>,
    /// Ends when nothing is sent any more.
    done: std::sync::mpsc::Receiver<()>,
    /// A request that is being filled, from `head` on.
    piece: Vec<u8>,
    head: usize,
    /// Where the block begins that is being filled.
    block: u64,
}

impl Sending {
    /// To those who shall have what is written to a file here, and can be asked now. Nothing when there are none.
    pub fn begin(shared: &Arc<Shared>, name: &Name, place: Option<Place>) -> Option<Self> {
        // where nobody runs tasks the content is fetched
        let runtime = Handle::try_current().ok()?;
        let holders = shared.holders_of(name, shared.own(), place);
        let peers: Vec<Arc<Peer>> =
            shared.peers.here().into_iter().filter(|peer| holders.contains(&peer.replica())).collect();
        if peers.is_empty() {
            return None;
        }
        let (token, is_over) = (shared.chance.next_u64(), Arc::new(AtomicBool::new(false)));
        let (tell, done) = std::sync::mpsc::channel();
        let send_to = |peer: Arc<Peer>| {
            let (sender, pieces) = mpsc::channel(WAITING_MAX);
            runtime.spawn(send(peer, pieces, token, is_over.clone(), tell.clone()));
            sender
        };
        let peers = peers.into_iter().map(send_to).collect();
        let (key, known, shared) = (name.key(), known(shared, name), shared.clone());
        Some(Self { shared, key, token, known, peers, is_over, done, piece: Vec::new(), head: 0, block: 0 })
    }

    /// The next bytes, of one block; its hash when they end it.
    pub fn wrote(&mut self, bytes: &[u8], ended: Option<&Hash>) {
        if self.peers.is_empty() {
            return;
        }
        if self.piece.is_empty() {
            let ahead = Ahead::Piece { key: self.key.clone(), token: self.token, offset: self.block };
            let Ok(head) = Request::Ahead(ahead).encode() else { return self.peers.clear() };
            self.piece = Vec::with_capacity(head.len() + PIECE_LEN);
            self.piece.extend_from_slice(&head);
            self.head = self.piece.len();
        }
        self.piece.extend_from_slice(bytes);
        let Some(hash) = ended else { return };
        self.block += BLOCK_LEN as u64;
        if self.known.contains(hash) {
            self.piece.truncate(self.piece.len() - BLOCK_LEN);
            self.send();
        } else if self.piece.len() - self.head == PIECE_LEN {
            self.send();
        }
    }

    /// All of it was written.
    pub fn finish(&mut self) {
        self.send();
        self.peers.clear();
    }

    /// What is under way to others is there, or takes its time. Blocks.
    pub fn settle(&self) {
        let _ = self.done.recv_timeout(SETTLE);
    }

    fn send(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        if piece.len() <= self.head {
            return;
        }
        let (Shared { clock, traffic, .. }, len) = (&*self.shared, (piece.len() - self.head) as u64);
        let piece = Bytes::from(piece);
        // one that has no room for it now gets it later
        self.peers.retain(|peer| match peer.try_reserve() {
            Ok(room) => {
                if traffic.may_send_along(&**clock, len) {
                    room.send(piece.clone());
                }
                true
            }
            Err(mpsc::error::TrySendError::Full(())) => true,
            Err(mpsc::error::TrySendError::Closed(())) => false,
        });
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.peers.is_empty() {
            self.is_over.store(true, Ordering::Release);
        }
    }
}

/// Hashes of the blocks of what a file holds here now: others have them, or will soon.
fn known(shared: &Shared, name: &Name) -> HashSet<Hash> {
    let placed = shared.index.row(name).ok().flatten().and_then(|row| row.here.placed);
    let manifest = placed.and_then(|placed| shared.index.manifest(&placed.content.id).ok().flatten());
    manifest.map_or_else(HashSet::new, |manifest| manifest.blocks().iter().copied().collect())
}

/// The first alone: with it the other one knows of the content.
async fn send(peer: Arc<Peer>, mut pieces: mpsc::Receiver<Bytes>, token: u64, is_over: Arc<AtomicBool>, _done: Done) {
    let mut under_way: JoinSet<bool> = JoinSet::new();
    let mut max = 1;
    loop {
        let is_full = under_way.len() >= max;
        tokio::select! {
            Some(took) = under_way.join_next() => match took {
                Ok(true) => max = UNDER_WAY_MAX,
                _ => return,
            },
            piece = pieces.recv(), if !is_full => match piece {
                Some(piece) => {
                    let peer = peer.clone();
                    under_way.spawn(async move {
                        matches!(peer.ask_encoded(piece).await, Ok(Answer::Took(_)))
                    });
                }
                None => break,
            },
        }
    }
    while under_way.join_next().await.is_some() {}
    if is_over.load(Ordering::Acquire) {
        let _ = peer.ask(&Request::Ahead(Ahead::End { token })).await;
    }
}
