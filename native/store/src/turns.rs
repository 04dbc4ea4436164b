//! Long work on an app, one of a kind at a time: an archive, a restore.
//!
//! Invariant: after [`Turns::end`] nothing of the kind runs and nothing will, so that the app can be
//! given to another process.

use crate::StoreError;
use macula_core::{Cancel, Task};
use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;

/// How often a waiting work looks whether it was cancelled.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// The turns of one app.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    archive: Mutex<()>,
    restore: Mutex<()>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    ended: bool,
    works: Vec<Cancel>,
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _turn: MutexGuard<'a, ()>,
}

impl Turns {
    /// The turn to make an archive, or to replace what an archive is made of.
    pub fn archive(&self, task: &Task) -> Result<Turn<'_>, StoreError> {
        self.take(&self.archive, task)
    }

    /// The turn to restore.
    pub fn restore(&self, task: &Task) -> Result<Turn<'_>, StoreError> {
        self.take(&self.restore, task)
    }

    fn take<'a>(&'a self, turn: &'a Mutex<()>, task: &Task) -> Result<Turn<'a>, StoreError> {
        {
            let mut running = self.running.lock();
            if running.ended {
                return Err(StoreError::Closed);
            }
            running.works.retain(|work| !work.is_cancelled());
            running.works.push(task.cancel.clone());
        }
        loop {
            if let Some(guard) = turn.try_lock_for(LOOK) {
                // whoever ended the turns while this one waited has it now
                return match self.running.lock().ended {
                    true => Err(StoreError::Closed),
                    false => Ok(Turn { _turn: guard }),
                };
            }
            if task.cancel.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
        }
    }

    /// Cancel what runs, wait for its end, let nothing begin.
    pub fn end(&self) -> (MutexGuard<'_, ()>, MutexGuard<'_, ()>) {
        let works = {
            let mut running = self.running.lock();
            running.ended = true;
            std::mem::take(&mut running.works)
        };
        works.iter().for_each(Cancel::cancel);
        // a restore takes the archive's turn inside its own
        let restore = self.restore.lock();
        (restore, self.archive.lock())
    }
}
