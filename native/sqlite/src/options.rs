//! The bounds of one database. The defaults suit a small machine that runs many apps.

use crate::SqliteError;
use std::ffi::CStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

type Before = dyn Fn(&Path) -> Result<(), SqliteError> + Send + Sync;

/// Called with the log's path each time before its frames go back into the database file, after which they
/// may be overwritten: also those that a crash left. An error keeps them in the log, and is tried again. The
/// log must not be opened by other means than those of [`crate::guard`].
#[derive(Clone)]
pub struct BeforeCheckpoint(pub Arc<Before>);

impl fmt::Debug for BeforeCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BeforeCheckpoint").finish_non_exhaustive()
    }
}

/// When a commit is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// Before it is acknowledged: an acknowledged write survives power loss.
    #[default]
    Full,
    /// At checkpoints: power loss may lose the last commits, never corrupts.
    Normal,
}

/// Bounds and durability of a [`crate::Database`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether `Ok` means durable.
    pub synchronous: Synchronous,
    /// Reader threads, started when first needed.
    pub reader_count: usize,
    /// Requests that may wait, for the writer and for the readers each; more are answered `Busy`.
    pub queue_len_max: usize,
    /// Independent transactions that share one sync at most.
    pub batch_len_max: usize,
    /// Prepared statements kept per connection.
    pub statement_cache_len: usize,
    /// Page cache per connection, bytes.
    pub cache_bytes: u64,
    /// The write-ahead log is checkpointed when it holds more, bytes.
    pub wal_bytes_max: u64,
    /// A result larger than this is refused as `TooLarge`, bytes.
    pub result_bytes_max: u64,
    /// How long a request without a deadline waits for a lock of another OS process.
    pub busy_timeout: Duration,
    /// An interactive transaction is rolled back when its owner sends nothing for so long.
    pub transaction_idle_max: Duration,
    /// The log is checkpointed and cut when the writer had nothing to do for so long.
    pub checkpoint_after_idle: Duration,
    /// Connections that read are closed, with their caches, when nobody read for so long.
    pub rest_after: Duration,
    /// Sees the log before each checkpoint.
    pub before_checkpoint: Option<BeforeCheckpoint>,
    /// The registered VFS beneath, by name; tests put a failing disk here.
    pub vfs: &'static CStr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            reader_count: 2,
            queue_len_max: 1024,
            batch_len_max: 128,
            statement_cache_len: 64,
            cache_bytes: 2 << 20,
            wal_bytes_max: 4 << 20,
            result_bytes_max: 256 << 20,
            busy_timeout: Duration::from_secs(5),
            transaction_idle_max: Duration::from_secs(5),
            checkpoint_after_idle: Duration::from_secs(1),
            rest_after: Duration::from_secs(30),
            before_checkpoint: None,
            vfs: c"unix",
        }
    }
}
