//! What a command answers, and the events it made.

use super::codec::{self, bytes};
use super::row::NodeRef;
use super::{MachineError, Path};
use macula_core::{Kind, Kinded};
use serde::{Deserialize, Serialize};

/// The newest version of responses that this code knows.
pub const RESPONSE_VERSION: u8 = 1;

const WHAT: &str = "response";

/// A command's answer. The order of variants and fields is a format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Of a transaction.
    Txn {
        /// The conditions held, so `then` was done.
        succeeded: bool,
        /// One for each operation of the branch.
        results: Vec<OpResult>,
    },
    /// Nothing was changed.
    Refused(Refusal),
    /// A lease was made.
    LeaseGranted {
        /// Its id.
        id: u64,
        /// When it ends unless it is kept alive.
        expires_ms: Option<u64>,
    },
    /// Leases were kept alive.
    LeasesKept {
        /// Those that are there no more.
        gone: Vec<u64>,
    },
    /// A lease was ended.
    LeaseRevoked {
        /// It was there.
        found: bool,
        /// Nodes that went with it.
        removed: u64,
    },
    /// What had expired was removed.
    Ticked {
        /// Nodes that went.
        removed: u64,
        /// There is more: tick again.
        more: bool,
    },
    /// Entries were put.
    Imported {
        /// How many.
        entries: u64,
    },
}

/// What one operation gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// Of a put.
    Put {
        /// The new version.
        version: u64,
        /// The revision that created the node.
        created: u64,
        /// The node as it was; none where none was.
        previous: Option<Node>,
    },
    /// Of a delete.
    Deleted {
        /// Nodes that went, those beneath it and parents left empty too.
        removed: u64,
        /// The node as it was; none where none was.
        previous: Option<Node>,
    },
    /// Of a put of many.
    PutMany {
        /// Nodes put.
        count: u64,
    },
    /// Of a delete of many.
    DeletedMany {
        /// Nodes that went, those beneath them and parents left empty too.
        removed: u64,
    },
    /// Of a get.
    Got {
        /// The node, when it is there.
        node: Option<Node>,
    },
    /// Of a get of many.
    GotMany {
        /// Nodes in the order of their paths.
        nodes: Vec<(Path, Node)>,
        /// The limit, or that of bytes, left some out.
        more: bool,
    },
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its data, in the External Term Format; none of a node that is a parent only.
    #[serde(with = "bytes::option")]
    pub value: Option<Vec<u8>>,
    /// How often its data was put since it was created.
    pub version: u64,
    /// The revision that created it.
    pub created: u64,
    /// The revision that last put its data, or else created it.
    pub modified: u64,
    /// The number of its children.
    pub children: u64,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The lease it ends with.
    pub lease: Option<u64>,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// More than the stated limit.
    #[error("larger than allowed: {what:?} len={len} len_max={len_max}")]
    TooLarge {
        /// Of what.
        what: Limit,
        /// How much.
        len: u64,
        /// The limit.
        len_max: u64,
    },
    /// No such lease, or it has ended.
    #[error("no such lease: id={id}")]
    LeaseUnknown {
        /// Its id.
        id: u64,
    },
    /// A lease without a time to live needs a parent that ends it.
    #[error("a lease needs a time to live or a parent")]
    LeaseWithoutEnd,
    /// A condition to keep the node does not hold already.
    #[error("a condition of keep_while does not hold: watched={watched:?}")]
    KeepWhileNotMet {
        /// The path that the condition is about.
        watched: Path,
    },
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Bytes of a value.
    ValueBytes,
    /// Bytes that one command writes.
    WriteBytes,
    /// Conditions that keep one node.
    KeepWhile,
    /// Bytes that one command's results hold.
    ResultBytes,
}

/// What became of a key's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It was put.
    Put,
    /// It was deleted, or a condition to keep it ceased to hold.
    Deleted,
    /// Its time, or its lease's, had come; or that of a node above it.
    Expired,
}

/// A change of a key's data. Nodes without data have no events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The command's.
    pub revision: u64,
    /// Which key.
    pub path: Path,
    /// What became of it.
    pub kind: EventKind,
    /// The new data, of a put.
    #[serde(with = "bytes::option")]
    pub value: Option<Vec<u8>>,
    /// The version: the new one, or the last one.
    pub version: u64,
    /// The revision that created the node.
    pub created: u64,
}

impl Response {
    /// The bytes for a peer.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(RESPONSE_VERSION, self)
    }

    /// From a peer's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MachineError> {
        codec::decode(WHAT, RESPONSE_VERSION, bytes)
    }
}

impl Node {
    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn of(node: &NodeRef<'_>) -> Self {
        Self {
            value: node.payload.map(<[u8]>::to_vec),
            version: node.head.version,
            created: node.head.created,
            modified: node.head.modified,
            children: node.head.children,
            expires_ms: node.head.expires_ms,
            lease: node.head.lease,
        }
    }
}

impl OpResult {
    /// Bytes of the nodes in it, as a page counts them.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { previous: node, .. } | Self::Deleted { previous: node, .. } | Self::Got { node } => {
                node.as_ref().map_or(0, Node::bytes)
            }
            Self::GotMany { nodes, .. } => nodes.iter().map(|(path, node)| path.key().len() + node.bytes()).sum(),
            Self::PutMany { .. } | Self::DeletedMany { .. } => 0,
        }
    }
}

impl Kinded for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::LeaseUnknown { .. } => Kind::NotFound,
            Self::LeaseWithoutEnd => Kind::Invalid,
            Self::KeepWhileNotMet { .. } => Kind::Conflict,
        }
    }
}
