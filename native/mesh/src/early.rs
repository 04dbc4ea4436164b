//! Long contents go to the device while they come, so that the sync at their end is short, and what was synced need not
//! come again after a crash.
//!
//! Invariant: nothing counts on these syncs. The content's own at its end is the one that makes it durable, and what
//! fails here fails there.

use macula_core::Staged;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Written between two, bytes.
const EVERY: u64 = 32 << 20;

#[derive(Debug, Default)]
pub(crate) struct EarlySync {
    unsynced: u64,
    is_syncing: Arc<AtomicBool>,
}

impl EarlySync {
    /// So many bytes were written. Begins a sync beside the writing when it is time, one at a time.
    pub fn wrote(&mut self, bytes: u64, staged: &Arc<dyn Staged>) {
        self.unsynced += bytes;
        // where nobody runs tasks, the sync at the end has more to do
        let Ok(runtime) = Handle::try_current() else { return };
        if self.unsynced < EVERY || self.is_syncing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.unsynced = 0;
        let (staged, is_syncing) = (staged.clone(), self.is_syncing.clone());
        runtime.spawn_blocking(move || {
            let _ = staged.sync();
            is_syncing.store(false, Ordering::Release);
        });
    }
}
