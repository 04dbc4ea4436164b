//! What goes into the queue and what comes back.

use crate::room::PAGES_BYTES;
use crate::KvError;
use macula_core::Cancel;

/// Longest key, bytes.
pub const KEY_LEN_MAX: usize = 131_072;
/// Longest value, bytes. (redb itself takes 3 GiB.)
pub const VALUE_LEN_MAX: usize = 1 << 30;

/// What must hold just before a batch, else it fails as a whole and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key is not there; else [`KvError::Exists`].
    Absent(Vec<u8>),
    /// The key has exactly this value (`None`: is not there); else [`KvError::Conflict`].
    Is {
        /// The key.
        key: Vec<u8>,
        /// What was read before.
        value: Option<Vec<u8>>,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Set a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Set a key that is gone when its time has come.
    PutUntil {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// Wall clock, milliseconds since 1970.
        expires_ms: u64,
    },
    /// Remove a key; nothing there is fine.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Remove everything.
    Clear,
    /// Remove an entry whose time has come: the store's own, which nobody else can make.
    Expire(Expired),
}

/// An entry whose time has come. One that was written anew meanwhile is another, and stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    pub(crate) key: Vec<u8>,
    pub(crate) expires_ms: u64,
}

impl Expired {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// When it expired, milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }
}

/// What the answer to a write means, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Seen at once. Survives the death of the process, and power loss once something was synced.
    None,
    /// Seen at once, and synced within the store's interval.
    Async,
    /// Synced before anybody sees it.
    Sync,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Checked first, against the state that the changes meet.
    pub conditions: Vec<Condition>,
    /// Applied in order.
    pub ops: Vec<Op>,
    /// `None`: the store's own.
    pub durability: Option<Durability>,
    /// When set before the batch is taken from the queue, it is skipped.
    pub cancel: Option<Cancel>,
}

/// A batch is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Grows with every batch of the store, never reused, with gaps after a crash.
    pub revision: u64,
}

impl Batch {
    /// One key set.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { ops: vec![Op::Put { key: key.into(), value: value.into() }], ..Self::default() }
    }

    /// One key removed.
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Self { ops: vec![Op::Delete { key: key.into() }], ..Self::default() }
    }

    /// Its weight in the queue, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Absent(key) => key.len(),
            Condition::Is { key, value } => key.len() + value.as_ref().map_or(0, Vec::len),
        });
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value } | Op::PutUntil { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } | Op::Expire(Expired { key, .. }) => key.len(),
            Op::Clear => 0,
        });
        64 + conditions.sum::<usize>() + ops.sum::<usize>() + 64 * (self.conditions.len() + self.ops.len())
    }

    /// Room on the disk that it may take, generously: in the log, and in redb, where each change may
    /// rewrite its leaf and the branches above it, beside the pages that the old version keeps.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.bytes() as u64 * 4 + self.ops.len() as u64 * PAGES_BYTES
    }

    /// Whether less is there after it.
    pub(crate) fn only_removes(&self) -> bool {
        self.ops.iter().all(|op| matches!(op, Op::Delete { .. } | Op::Clear))
    }

    pub(crate) fn check_lens(&self) -> Result<(), KvError> {
        for op in &self.ops {
            match op {
                Op::Put { key, value } | Op::PutUntil { key, value, .. } => {
                    check_key(key).and_then(|()| check_value(value))?;
                }
                Op::Delete { key } => check_key(key)?,
                Op::Clear | Op::Expire(_) => {}
            }
        }
        for condition in &self.conditions {
            let (Condition::Absent(key) | Condition::Is { key, .. }) = condition;
            check_key(key)?;
        }
        Ok(())
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), KvError> {
    check_len("key", key.len(), KEY_LEN_MAX)
}

pub(crate) fn check_value(value: &[u8]) -> Result<(), KvError> {
    check_len("value", value.len(), VALUE_LEN_MAX)
}

fn check_len(what: &'static str, len: usize, len_max: usize) -> Result<(), KvError> {
    if len > len_max {
        return Err(KvError::TooLarge { what, len: len as u64, len_max: len_max as u64 });
    }
    Ok(())
}
