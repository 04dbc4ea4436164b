//! One app's opened storage: who owns it, where its parts lie, its engines, its usage, its backups.
//!
//! A [`Base`] is a directory of apps; an [`App`] is one that this process owns (an flock says so).
//! Engines are opened on first use, pass one [`macula_core::Gate`] when they commit, and are closed
//! and reopened around a restore.
//!
//! Invariant: no byte of an app is touched by a process that does not hold its owner lock.

mod app;
mod app_files;
mod backup;
mod backup_name;
mod base;
mod copy;
mod dest;
mod directory;
mod engine;
mod error;
mod layout;
mod lock;
mod node_dir;
mod pack;
mod plain;
mod restore;
mod swap;
mod tree;
mod turns;
mod usage;

pub use app::App;
pub use app_files::AppFilesOf;
pub use backup::{BackupInfo, BackupOptions, Format};
pub use backup_name::BackupName;
pub use base::{Base, Options, Seams};
pub use copy::{copy_store, NewDir};
pub use dest::refuse_destination;
pub use directory::Directory;
pub use engine::{Engine, Pinned};
pub use error::StoreError;
pub use layout::Layout;
pub use lock::Owner;
pub use node_dir::NodeDir;
pub use restore::{RestoreInfo, RestoreOptions};
pub use usage::Usage;

/// The key-value engine's own words, for those who may know only the store.
pub mod kv {
    pub use macula_kv::{
        AutoCompact, Batch, Committed, Compacted, Condition, Counted, Durability, KeyRange, KvError, Op, Options, Page,
        PageLimits, Seams, Snapshot, Stats, Store, Subscription, Threads, Told, Tx, Verified, NEVER_MS,
    };
}

/// The file engine's.
pub mod files {
    pub use macula_files::{FileStat, Files, FilesError, Reader, Writer};
}
