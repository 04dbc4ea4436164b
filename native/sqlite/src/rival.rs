//! Another copy of SQLite in this process that opens our file after we did (an app's own exqlite). When
//! it closes the file, our locks are gone with its own, and it removes the log that we write.
//!
//! Invariant: nothing is written while such a copy is seen, and no commit is acknowledged that went
//! into a log which is no longer the one at its path: that poisons, since only a reopening is sound.

use crate::{guard, SqliteError};
use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks: one costs an `fstat` per descriptor of the process.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While a copy is seen, so that writes come back soon after it is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why nothing is written into a log that nobody will read.
pub(crate) const LOG_GONE: &str = "other code took the write-ahead log away (another copy of SQLite in this process?)";

/// The log that our connections write.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    /// Device and inode, once it is there.
    is: Option<(u64, u64)>,
}

impl Log {
    /// Whether the one that was there first is not there any more. Costs one `lstat`.
    pub(crate) fn was_taken(&mut self) -> bool {
        let found = match std::fs::symlink_metadata(&self.path) {
            Ok(meta) => Some((meta.dev(), meta.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // what cannot be told is not held against the log
            Err(_) => return false,
        };
        if self.is.is_none() {
            self.is = found;
        }
        found != self.is
    }
}

/// What the writer knows of it.
pub(crate) struct Rival {
    path: PathBuf,
    pub(crate) log: Log,
    vfs: &'static CStr,
    looked: Duration,
    seen: bool,
}

impl Rival {
    /// Of a file that was just looked at.
    pub(crate) fn new(path: &Path, vfs: &'static CStr, now: Duration) -> Self {
        let [log, ..] = guard::companions(path);
        Self { path: path.to_owned(), log: Log { path: log, is: None }, vfs, looked: now, seen: false }
    }

    /// [`SqliteError::OpenedByOther`] while it is there.
    pub(crate) fn refusal(&mut self, now: Duration) -> Option<SqliteError> {
        if now.saturating_sub(self.looked) >= if self.seen { LOOK_AGAIN } else { LOOK_EVERY } {
            self.look(now);
        }
        self.seen.then(|| SqliteError::OpenedByOther(self.path.clone()))
    }

    /// Look now.
    pub(crate) fn look(&mut self, now: Duration) {
        self.looked = now;
        // a look fails for want of a descriptor, and without one nobody opens a file either
        self.seen = guard::is_in_the_way(&self.path, self.vfs).unwrap_or(self.seen);
    }
}
