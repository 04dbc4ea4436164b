//! The byte ledger of an app: how many bytes each part holds, without walking the tree.
//!
//! Writers add and subtract what they change; a background reconciliation sets what other programs
//! changed. The unit is what `du -sb` counts: apparent sizes of files, directories and symlinks.

use std::sync::atomic::{AtomicI64, Ordering};

/// A part of an app's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `data/kv`
    Kv,
    /// `data/app.db` with its `-wal` and `-shm`
    Sqlite,
    /// `data/files`
    Files,
    /// `uploads`
    Uploads,
    /// `cache`
    Cache,
    /// everything else, the directories of the layout themselves included
    Other,
}

impl Part {
    /// All parts, in the order in which they are shown.
    pub const ALL: [Part; 6] = [Part::Kv, Part::Sqlite, Part::Files, Part::Uploads, Part::Cache, Part::Other];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Part::Kv => "kv",
            Part::Sqlite => "sqlite",
            Part::Files => "files",
            Part::Uploads => "uploads",
            Part::Cache => "cache",
            Part::Other => "other",
        }
    }
}

/// Bytes by part. Shared by the writers of an app.
#[derive(Debug, Default)]
pub struct Ledger([AtomicI64; 6]);

impl Ledger {
    /// All parts empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Record a change of `delta` bytes.
    pub fn add(&self, part: Part, delta: i64) {
        self.0[part as usize].fetch_add(delta, Ordering::AcqRel);
    }

    /// Record what a reconciliation found.
    pub fn set(&self, part: Part, bytes: u64) {
        self.0[part as usize].store(bytes.try_into().unwrap_or(i64::MAX), Ordering::Release);
    }

    /// Bytes of one part.
    pub fn get(&self, part: Part) -> u64 {
        self.0[part as usize].load(Ordering::Acquire).max(0) as u64
    }

    /// Bytes of all parts.
    pub fn total(&self) -> u64 {
        Part::ALL.iter().map(|part| self.get(*part)).sum()
    }
}
