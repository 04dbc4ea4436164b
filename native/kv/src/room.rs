//! Room on the disk: what a write may take of it, and what drains keep for themselves.
//!
//! Invariant: a write is refused before log or redb meet a full disk, and what was acknowledged finds
//! its room when it is drained; where there is not much, that is reserved before redb is touched.

use crate::batch::Batch;
use crate::drain;
use crate::engine::Engine;
use crate::shared::Shared;
use crate::view::{Stack, View};
use crate::writer::Group;
use crate::KvError;
use macula_blocks::BlockError;
use std::sync::Arc;

/// What a change of one key may take in redb beside its data: its leaf and the branches above it.
pub(crate) const PAGES_BYTES: u64 = 16_384;
/// For what redb writes of its own.
const OWN_BYTES: u64 = 256 << 10;
/// With so much left on the disk nothing is reserved.
pub(crate) const MUCH_BYTES: u64 = 256 << 20;

/// Pages that a drain of `stack` copies: those that it changes and those above, but none of the file twice.
fn page_bytes(stack: &Stack, file_bytes: u64) -> u64 {
    (stack.len() as u64 * PAGES_BYTES).min(file_bytes)
}

impl Shared {
    /// Refuses what the disk has no room for, before log or redb meet it. What waits in memory will
    /// need room too.
    pub fn that_fit(self: &Arc<Self>, group: Group) -> Group {
        let Ok(space) = self.disk.space() else { return group };
        let mut free = space.free.saturating_sub(self.owed_bytes());
        let (mut fitting, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        for (batch, reply) in group {
            match free.checked_sub(batch.disk_bytes()).filter(|left| *left >= self.left_free(&batch)) {
                Some(left) => {
                    free = left;
                    fitting.push((batch, reply));
                }
                None => refused.push(reply),
            }
        }
        if !refused.is_empty() {
            // what waits in memory takes less room once it is drained
            let _ = self.sync(true);
            drain::ask(self);
        }
        refused.into_iter().for_each(|reply| reply.give(Err(KvError::DiskFull)));
        fitting
    }

    /// Room that a batch leaves free. A part of the reserve is there for what makes room, all of it for
    /// drains; a segment that is not made yet is made out of the rest.
    fn left_free(&self, batch: &Batch) -> u64 {
        let reserve = self.options.reserve_bytes;
        match (batch.only_removes(), self.spares.bytes()) {
            (true, _) => reserve / 2,
            (false, 0) if reserve > 0 => reserve + self.spares.next_bytes(),
            (false, _) => reserve,
        }
    }

    /// Whether so much can be taken from the disk for our own convenience. Unknown: yes.
    pub fn has_room(&self, bytes: u64) -> bool {
        let left = self.options.reserve_bytes.saturating_add(self.owed_bytes());
        self.disk.space().map_or(true, |space| space.free >= left.saturating_add(bytes))
    }

    /// Room that drains of what waits in memory may need.
    fn owed_bytes(&self) -> u64 {
        let (stack, file_bytes) = {
            let state = self.state.read();
            (state.stack.clone(), state.stack.base.blocks().file_bytes())
        };
        stack.bytes() as u64 * 3 + page_bytes(&stack, file_bytes)
    }

    /// Whether redb will meet no full disk. Where there is not much room, what it may need is reserved.
    pub fn has_room_for(&self, frozen: &View, engine: &Engine) -> bool {
        let pages = page_bytes(&frozen.stack, engine.blocks.file_bytes());
        let needed = frozen.stack.bytes() as u64 * 2 + pages + OWN_BYTES;
        match self.disk.space() {
            Ok(space) if space.free > needed * 2 + MUCH_BYTES => true,
            // what else may fail, the drain meets and names
            _ => !matches!(engine.blocks.reserve(needed), Err(BlockError::DiskFull)),
        }
    }
}
