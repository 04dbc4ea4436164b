//! The drain: brings what lies in memory into redb, in sorted order and with one durable commit, and
//! lets go of the log up to there.
//!
//! Invariant: nobody who writes waits for it. What is drained was durable in the log before; a log
//! record goes only when redb holds it durably.

use crate::engine::{Engine, Failed};
use crate::shared::Shared;
use crate::writer::SEQUENCE_MAX;
use crate::KvError;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// How long after a full disk it is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// Let a thread drain what is frozen. Never waits.
pub(crate) fn ask(shared: &Arc<Shared>) {
    if !shared.is_drain_asked.swap(true, Ordering::AcqRel) {
        let shared = shared.clone();
        let threads = shared.threads.clone();
        threads.drain(move || {
            shared.is_drain_asked.store(false, Ordering::Release);
            let mut engine = shared.engine.lock();
            // what failed was said to readers and writers through the store's state
            let _ = shared.drain(&mut engine);
        });
    }
}

/// Let a thread make room for the log's next segment, if there is none.
pub(crate) fn refill(shared: &Arc<Shared>) {
    if shared.spares.bytes() == 0 && !shared.is_refilling.swap(true, Ordering::AcqRel) {
        let (shared, threads) = (shared.clone(), shared.threads.clone());
        threads.drain(move || {
            // closing waits for this, and whoever opens the store then has its files for itself
            let held_open = shared.closing.try_lock().filter(|is_closed| !**is_closed);
            if held_open.is_some() {
                // without room, the writer says so when it needs it
                let _ = shared.spares.refill();
            }
            drop(held_open);
            shared.is_refilling.store(false, Ordering::Release);
        });
    }
}

impl Shared {
    /// Drain everything that is frozen.
    pub fn drain(self: &Arc<Self>, engine: &mut Engine) -> Result<(), KvError> {
        while let Some(frozen) = self.frozen() {
            self.sound()?;
            let begun = self.clock.monotonic();
            match engine.bring(&frozen).and_then(|()| engine.base().map_err(Failed::Broken)) {
                Ok(base) => self.drained(&frozen, base),
                Err(Failed::Full) => return self.drain_full(engine),
                Err(Failed::Broken(error)) => {
                    self.poison(&error);
                    return Err(error);
                }
            }
            self.is_drain_full.store(false, Ordering::Release);
            let span = (self.clock.monotonic() - begun).as_secs_f64().max(1e-6);
            self.drain_rate.store((frozen.stack.bytes() as f64 / span) as u64, Ordering::Relaxed);
            self.release_log(engine.revision);
        }
        Ok(())
    }

    /// redb met a full disk: nothing is lost, and it is tried again when there may be room.
    fn drain_full(self: &Arc<Self>, engine: &mut Engine) -> Result<(), KvError> {
        self.is_drain_full.store(true, Ordering::Release);
        let revived = engine.revive().and_then(|()| engine.base());
        match revived {
            Ok(base) => self.rebase(base),
            Err(error) => {
                self.poison(&error);
                return Err(error);
            }
        }
        let shared = Arc::downgrade(self);
        self.threads.after(FULL_PAUSE, move || {
            if let Some(shared) = shared.upgrade() {
                ask(&shared);
            }
        });
        Err(KvError::DiskFull)
    }

    /// The log up to `revision` is no longer needed.
    fn release_log(&self, revision: u64) {
        let sequence = revision & SEQUENCE_MAX;
        let released = {
            let mut writer = self.writer.lock();
            let released = writer.log.release_prefix(sequence + 1);
            self.log_bytes.store(writer.log.begun_bytes(), Ordering::Relaxed);
            released
        };
        // what cannot be taken over goes when the log is opened
        let _ = self.spares.recycle(released);
    }
}
