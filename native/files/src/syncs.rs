//! Syncs of directories, shared: commits that wait for the same directory are served by one sync.
//!
//! Invariant: who joins returns well only after a sync that began after the join has succeeded, so
//! every name changed before the join is durable. After one sync failed none is tried again: the
//! kernel may take the lost blocks for clean, and a second sync would promise what is not so.

use macula_core::{Disk, RelPath};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Syncs {
    rounds: Mutex<HashMap<RelPath, Arc<Dir>>>,
    poisoned: AtomicBool,
}

#[derive(Debug, Default)]
struct Dir {
    round: Mutex<Round>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Round {
    started: u64,
    succeeded: u64,
    running: bool,
}

impl Syncs {
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Make everything in the tree durable, as it is now or later.
    pub fn sync_tree(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.sync_tree().inspect_err(|_| self.poisoned.store(true, Ordering::Release))
    }

    /// Make the names in `dir` durable, as they are now or later.
    pub fn join(&self, disk: &dyn Disk, dir: &RelPath) -> io::Result<()> {
        let shared = self.rounds.lock().entry(dir.clone()).or_default().clone();
        let result = self.serve(disk, dir, &shared);
        let mut rounds = self.rounds.lock();
        // ours and the map's: nobody else waits here
        if Arc::strong_count(&shared) == 2 {
            rounds.remove(dir);
        }
        result
    }

    fn serve(&self, disk: &dyn Disk, dir: &RelPath, shared: &Dir) -> io::Result<()> {
        let mut round = shared.round.lock();
        let mine = round.started + 1;
        loop {
            if round.succeeded >= mine {
                return Ok(());
            }
            if self.is_poisoned() {
                return Err(io::Error::other("a sync failed"));
            }
            if round.running {
                shared.ended.wait(&mut round);
                continue;
            }
            round.running = true;
            round.started += 1;
            drop(round);
            let result = sync_dir(disk, dir);
            round = shared.round.lock();
            round.running = false;
            match &result {
                Ok(()) => round.succeeded = round.started,
                Err(_) => self.poisoned.store(true, Ordering::Release),
            }
            shared.ended.notify_all();
            result?;
        }
    }
}

fn sync_dir(disk: &dyn Disk, dir: &RelPath) -> io::Result<()> {
    match disk.sync_dir(dir) {
        // the directory is gone, but what was in it may have moved elsewhere meanwhile
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            disk.sync_tree()
        }
        result => result,
    }
}
