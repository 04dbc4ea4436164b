//! What is proposed to the log: every change of the replicated state, as data.
//!
//! The order of variants and fields is a format (docs/formats.md); a change of it is a new version.

use super::codec::{self, bytes};
use super::{Condition, MachineError, Path, Pattern};
use serde::{Deserialize, Serialize};

/// The newest version of commands that this code knows.
pub const COMMAND_VERSION: u8 = 1;

const WHAT: &str = "command";

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// When all conditions hold `then`, else `otherwise`; each operation sees those before it. All or
    /// nothing: one that is refused undoes them all.
    Txn {
        /// What must hold.
        conditions: Vec<Guard>,
        /// Done when it does.
        then: Vec<Op>,
        /// Done when it does not.
        otherwise: Vec<Op>,
    },
    /// Makes a lease, whose id is this command's revision.
    LeaseGrant {
        /// How long it lives without being kept alive; none: as long as its parent.
        ttl_ms: Option<u64>,
        /// Whose it is, for people and for whoever looks for its leases.
        #[serde(with = "bytes")]
        owner: Vec<u8>,
        /// The lease that ends it by ending.
        parent: Option<u64>,
    },
    /// Leases begin their time anew.
    LeaseKeepAlive {
        /// Which ones.
        ids: Vec<u64>,
    },
    /// Ends a lease, those under it, and deletes the keys that were put with them.
    LeaseRevoke {
        /// Which one.
        id: u64,
    },
    /// Removes what has expired by the machine's time, at most [`TICK_ENTRIES_MAX`](super::TICK_ENTRIES_MAX) keys and leases.
    Tick,
    /// Puts entries of an export.
    Import {
        /// Which ones.
        entries: Vec<ImportEntry>,
    },
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// The condition holds of the node at the path.
    Node(Path, Condition),
    /// Since this revision nothing that the pattern can match was put, created, deleted or expired; for transactions that
    /// read many. Sound, not exact: it may fail when something near was deleted.
    Unchanged {
        /// What was read.
        pattern: Pattern,
        /// The revision at which it was read.
        since: u64,
    },
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets a node's data and makes the parents that are missing. Time to live, lease and conditions are those
    /// given here, also when there were others.
    Put {
        /// Where.
        path: Path,
        /// The data, in the External Term Format.
        #[serde(with = "bytes")]
        value: Vec<u8>,
        /// It expires this long after the machine's time.
        ttl_ms: Option<u64>,
        /// It ends with this lease.
        lease: Option<u64>,
        /// It is deleted as soon as one of these does not hold. All must hold after this operation.
        keep_while: Vec<(Path, Condition)>,
    },
    /// Deletes a node and everything beneath it.
    Delete {
        /// Which one.
        path: Path,
    },
    /// Sets the data of all nodes that match; their expiry, leases and conditions stay.
    PutMany {
        /// Which ones.
        pattern: Pattern,
        /// The data, in the External Term Format.
        #[serde(with = "bytes")]
        value: Vec<u8>,
    },
    /// Deletes all nodes that match and everything beneath them.
    DeleteMany {
        /// Which ones.
        pattern: Pattern,
    },
    /// Reads a node.
    Get {
        /// Which one.
        path: Path,
    },
    /// Reads the first nodes that match.
    GetMany {
        /// Which ones.
        pattern: Pattern,
        /// How many.
        limit: u64,
    },
}

/// A key of an export. Leases and conditions are not exported: they are of the running cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportEntry {
    /// Where.
    pub path: Path,
    /// The data, in the External Term Format.
    #[serde(with = "bytes")]
    pub value: Vec<u8>,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl Command {
    /// The bytes for the log.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(COMMAND_VERSION, self)
    }

    /// From the log's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MachineError> {
        codec::decode(WHAT, COMMAND_VERSION, bytes)
    }

    /// What [`decode`](Self::decode) would refuse although [`encode`](Self::encode) writes it: conditions that are too deep or
    /// too long. To be asked before a command is proposed.
    pub fn check(&self) -> Result<(), MachineError> {
        let Self::Txn { conditions, then, otherwise } = self else { return Ok(()) };
        for guard in conditions {
            match guard {
                Guard::Node(_, condition) => condition.check()?,
                Guard::Unchanged { pattern, .. } => pattern.check()?,
            }
        }
        for op in then.iter().chain(otherwise) {
            match op {
                Op::Put { keep_while, .. } => keep_while.iter().try_for_each(|(_, condition)| condition.check())?,
                Op::PutMany { pattern, .. } | Op::DeleteMany { pattern } | Op::GetMany { pattern, .. } => {
                    pattern.check()?;
                }
                Op::Delete { .. } | Op::Get { .. } => {}
            }
        }
        Ok(())
    }
}
